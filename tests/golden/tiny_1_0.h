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
 * also two at once on one context (they take turns). No function aborts; every failure is a status.
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
    TINY_1_0_CPUS = 14            /* a processor in `cpus` does not exist, or this program may not run on it */
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

/* The name of the instruction set in use, such as "v3", or "a72" for a core's; null for a null context. Not to be freed. */
const char *tiny_1_0_instruction_set(const tiny_1_0_context *context);

/* How many threads a run uses, the caller included; 0 for a null context. */
int tiny_1_0_threads(const tiny_1_0_context *context);

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
