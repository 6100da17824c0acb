/*
 * The whole interface of this library: one network, its weights inside.
 *
 *     tiny_1_0_context *context;
 *     int status = tiny_1_0_create(NULL, &context);
 *     if (status == TINY_1_0_OK) status = tiny_1_0_run_rgb(context, pixels, logits);
 *     if (status != TINY_1_0_OK) fprintf(stderr, "%s\n", tiny_1_0_message(status));
 *     tiny_1_0_destroy(context);
 *
 * There is no global state. Any number of contexts may exist and run at once; each function may be called from any thread,
 * also two at once on one context (they take turns). No function aborts; every failure is a status. A child of fork may
 * destroy its parent's contexts; on a CPU it may also run those of one thread, and create others for itself.
 *
 * NaN and infinite floats in the input are no error, and what comes of them means nothing, be it finite or not: a ReLU6 makes
 * numbers of NaN, but on 32-bit Arm, where it keeps them. Later runs are as ever.
 */
#ifndef TINY_1_0_H
#define TINY_1_0_H

#include <stddef.h>
#include <stdint.h>

/* tiny_1.0: instruction sets "v4", "v3", "v2". */
#define TINY_1_0_BATCH 1
#define TINY_1_0_HEIGHT 40
#define TINY_1_0_WIDTH 6
#define TINY_1_0_CHANNELS 3
#define TINY_1_0_CLASSES 7
#define TINY_1_0_LOGITS_SIZE 7 /* floats: 1 x 7 */
#define TINY_1_0_MAP_SIZE 720 /* floats: 1 x 40 x 6 x 3 */

#ifdef __cplusplus
extern "C" {
#endif

/* What every function that can fail returns. */
enum {
    TINY_1_0_OK = 0,
    TINY_1_0_ARGUMENT = 1,        /* a null pointer, a value out of range, a float buffer that is not aligned as floats are */
    TINY_1_0_MEMORY = 2,          /* out of memory */
    TINY_1_0_THREADS = 3,         /* the system would not start the threads */
    TINY_1_0_CPU = 4,             /* this processor lacks the instruction set asked for, or all that the library has */
    TINY_1_0_INSTRUCTION_SET = 5, /* the library was not built for the instruction set asked for */
    TINY_1_0_KERNEL = 6,          /* a kernel refused to run: the library is damaged */
    TINY_1_0_CPUS = 14,           /* a processor in `cpus` does not exist, or this program may not run on it */
    TINY_1_0_IMAGE_FORMAT = 15,   /* an image's format, fit or matrix is none of those below */
    TINY_1_0_IMAGE_SIZE = 16,     /* its width or height is out of range, or odd in a format where two pixels share colour */
    TINY_1_0_IMAGE_STRIDE = 17,   /* a stride of it is shorter than a row, or too long */
    TINY_1_0_FORKED = 18          /* the context is of the process that forked this one, and has threads there */
};

/* One line of English for a status. Never null; not to be freed. */
const char *tiny_1_0_message(int status);

/* The network ready to run: working memory and threads. */
typedef struct tiny_1_0_context tiny_1_0_context;

/* How to run. Start from TINY_1_0_OPTIONS_INIT, which holds the defaults, and set what should differ. */
typedef struct {
    /* sizeof(tiny_1_0_options): tells the library which fields the program knows. */
    size_t size;
    /* Threads that share the work, the caller included: 1 to TINY_1_0_MAX_THREADS, or 0 for the default. The default is 1, or
     * the number of the other context where share_threads_with is set; then any other number is an error. */
    int threads;
    /* The name of the instruction set to use; null for the best that the processor and the library both have. Where the
     * library has kernels for several cores, those for this one. */
    const char *instruction_set;
    /* Use the threads of this context in place of new ones; null for threads of its own. Contexts that share threads take
     * turns, one run at a time. They may be destroyed in any order. */
    tiny_1_0_context *share_threads_with;
    /* Numbers of processors, as Linux counts them from 0, that the threads stay on: thread i on cpus[i % cpu_count]. Thread 0
     * is the caller of run, which the library leaves as it is: pin it to cpus[0] yourself. Null: the system decides. The
     * instruction set is chosen for these processors. Must be null where share_threads_with is set. Read by create alone, and
     * not on a GPU. */
    const int *cpus;
    int cpu_count;
} tiny_1_0_options;

#define TINY_1_0_MAX_THREADS 256
#define TINY_1_0_OPTIONS_INIT {sizeof(tiny_1_0_options), 0, NULL, NULL, NULL, 0}

/* Makes a context; null options are the defaults. On failure *context is null. */
int tiny_1_0_create(const tiny_1_0_options *options, tiny_1_0_context **context);

/* Frees a context that no thread is using any more; null is fine. */
void tiny_1_0_destroy(tiny_1_0_context *context);

/*
 * Runs the network on TINY_1_0_BATCH normalised images: TINY_1_0_HEIGHT rows of TINY_1_0_WIDTH pixels of TINY_1_0_CHANNELS floats,
 * x = (pixel - mean) / scale as the network was trained. Writes each output, TINY_1_0_..._SIZE floats as its constant above
 * says; logits come before any softmax. Buffers must not overlap.
 */
int tiny_1_0_run(tiny_1_0_context *context, const float *input, float *logits, float *map);

/* The same from raw bytes, 0 to 255, of the same layout (R, G, B, R, G, B, ...): the library normalises them itself. */
int tiny_1_0_run_rgb(tiny_1_0_context *context, const uint8_t *rgb, float *logits, float *map);

/* The formats of images, by their bytes in memory; what V4L2 and DRM, whose names libcamera takes, call them. */
enum {
    TINY_1_0_RGB = 1,    /* R G B; V4L2 RGB24, DRM BGR888 */
    TINY_1_0_BGR = 2,    /* B G R, as in OpenCV; V4L2 BGR24, DRM RGB888 */
    TINY_1_0_RGBX = 3,   /* R G B and a byte that is not read; V4L2 RGBX32 or RGBA32, DRM XBGR8888 or ABGR8888 */
    TINY_1_0_BGRX = 4,   /* B G R and a byte that is not read; V4L2 XBGR32 or ABGR32, DRM XRGB8888 or ARGB8888 */
    TINY_1_0_YUYV = 5,   /* Y U Y V: two pixels of a row share U and V */
    TINY_1_0_NV12 = 6,   /* a plane of Y, a plane of U V: four pixels, two of each row, share U and V */
    TINY_1_0_YUV420 = 7  /* a plane of Y, one of U, one of V: four pixels share U and V */
};

/* How an image of another size than the network's comes to it, always by an antialiased bilinear filter (Pillow's). */
enum {
    TINY_1_0_CROP = 0,   /* the largest part in the middle that has the network's shape, and of that the middle 87.5 % */
    TINY_1_0_STRETCH = 1 /* all of it */
};

/*
 * How Y, U and V become R, G and B, which are rounded and kept within 0 to 255; u is U - 128, v is V - 128. They are what
 * libcamera calls Smpte170m, which cameras deliver by themselves, Sycc, which is JPEG's, and Rec709.
 *
 *     TINY_1_0_BT601       R = y + 1.596 v    G = y - 0.392 u - 0.813 v    B = y + 2.017 u    y = 1.164 (Y - 16)
 *     TINY_1_0_BT601_FULL  R = y + 1.402 v    G = y - 0.344 u - 0.714 v    B = y + 1.772 u    y = Y
 *     TINY_1_0_BT709       R = y + 1.793 v    G = y - 0.213 u - 0.533 v    B = y + 2.112 u    y = 1.164 (Y - 16)
 */
enum { TINY_1_0_BT601 = 0, TINY_1_0_BT601_FULL = 1, TINY_1_0_BT709 = 2 };

#define TINY_1_0_MAX_SIDE 16384

/* An image as a camera delivers it; 0 where nothing else is wanted. */
typedef struct {
    int format;               /* TINY_1_0_RGB and so on, never 0 */
    int width, height;        /* in pixels, 1 to TINY_1_0_MAX_SIDE; even where pixels share U and V */
    const uint8_t *planes[3]; /* where each plane of the format begins; in a buffer of V4L2 they follow each other: the
                               * second at planes[0] + strides[0] * height */
    size_t strides[3];        /* bytes from the beginning of a row to that of the next, in each plane */
    int fit;                  /* TINY_1_0_CROP or TINY_1_0_STRETCH */
    int matrix;               /* TINY_1_0_BT601 and so on, where there are Y, U and V */
} tiny_1_0_image;

/*
 * The same from TINY_1_0_BATCH images (a pointer to the one where that is 1), each of its own size and format: converts and
 * scales them in the calling thread, then does as tiny_1_0_run_rgb. The context's first such run allocates the memory for it.
 */
int tiny_1_0_run_image(tiny_1_0_context *context, const tiny_1_0_image *images, float *logits, float *map);

/* The name of the instruction set in use, such as "v3", or "a72" for a core's; null for a null context. Not to be freed. */
const char *tiny_1_0_instruction_set(const tiny_1_0_context *context);

/* How many threads a run uses, the caller included; 0 for a null context. */
int tiny_1_0_threads(const tiny_1_0_context *context);

/*
 * The shape of what a run reads and writes, for programs that learn at run time what the constants above say: tensor 0 is the
 * input, 1 and on are the outputs in their order. Fills `shape` (batch, height, width, channels; batch, classes) and returns how
 * many extents it has; 0 where there is no such tensor, and for a null pointer.
 */
int tiny_1_0_shape(int tensor, int64_t shape[4]);

/* What an observer is told about a layer that has just run. All of it is valid until the observer returns. */
typedef struct {
    const char *name;     /* as in the model's table, such as "block3.expand" */
    const void *data;     /* the first element of what the layer computed */
    const char *element;  /* the type of its elements: "float32", on a GPU also "float16" */
    int64_t shape[4];     /* batch, height, width, channels; height and width are 1 where a layer has none */
    int64_t strides[4];   /* the distance between neighbours along each, in elements: a tensor may lie inside a border */
    uint64_t nanoseconds; /* time of this layer: by the wall clock, or on the GPU */
    uint64_t macs;        /* multiply-accumulates in it */
} tiny_1_0_layer;

typedef void tiny_1_0_observer(void *user, const tiny_1_0_layer *layer);

/*
 * From the next run on, calls `observer` after each layer, in the thread that called run; null ends that. It must not call
 * this library's functions on the same context. Without an observer nothing is timed. TINY_1_0_MEMORY where there is none for
 * maps that exist for an observer alone.
 */
int tiny_1_0_observe(tiny_1_0_context *context, tiny_1_0_observer *observer, void *user);

#ifdef __cplusplus
}
#endif

#endif
