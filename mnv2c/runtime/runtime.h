/* What the parts of the library share: the driver (the layers), context.c, threads.c and cpu.c. Not for its users. */
#ifndef MNV2C_RUNTIME_H
#define MNV2C_RUNTIME_H

/* All is compiled with -fvisibility=hidden but the interface. */
#pragma GCC visibility push(default)
#include "mnv2c.h"
#pragma GCC visibility pop

#include "kernel.h"

/* A kernel and how its tasks may be shared: `grain` is the fewest tasks worth a thread. */
struct mnv2c_compiled {
    mnv2c_kernel *kernel;
    int32_t tasks;
    int32_t grain;
};

enum { MNV2C_PARTS = 8 };

/* The kernels for one instruction set, in the order of the driver's enum; `scratch` is bytes per thread. `parts` are the cores
 * that they are scheduled for, each implementer << 12 | part as in Arm's MIDR_EL1; zeros end them. */
struct mnv2c_instruction_set {
    const char *name;
    const struct mnv2c_compiled *kernels;
    size_t scratch;
    uint32_t parts[MNV2C_PARTS];
};

/* A layer as the observer is told of it, but for data and time; `output`: which operand it writes; `interior`: bytes from
 * where that begins to its first element inside the border. */
struct mnv2c_step {
    mnv2c_layer layer;
    int output;
    size_t interior;
};

/* How a block runs band by band (bands.c): numbers of bands and rows; sizes and places in a thread's scratch, in bytes. */
struct mnv2c_chain {
    int layers;                 /* 3, or 2 where the depthwise convolution, the last but one, reads a map that exists */
    int32_t images, bands;      /* bands of each image */
    int32_t grain;              /* the fewest bands worth a thread */
    int32_t step, window;       /* rows that the depthwise convolution goes on by from band to band; that it reads of each */
    int32_t top, height, rows;  /* of that map: the zeros above, the expansion, with the zeros below in all */
    size_t left, inside, pitch; /* of its rows: the zeros at the left, the expansion, with the zeros at the right in all */
    size_t band;                /* what the depthwise convolution writes of a band */
    size_t filtered, scratch;   /* where: that; what the kernels need */
};

/* One run of it: an array of operands for each layer; whole `maps` between them for an observer, and the time of each, of all
 * threads together. */
struct mnv2c_bands {
    const struct mnv2c_chain *chain;
    const struct mnv2c_step *steps;
    const struct mnv2c_compiled *const *kernels;
    void *const *const *operands;
    char *maps;
    _Atomic uint64_t nanoseconds[3];
};

/* The driver defines these; the best instruction set comes first. */
extern const struct mnv2c_instruction_set mnv2c_instruction_sets[];
extern const int mnv2c_instruction_set_count;
extern const size_t mnv2c_arena_bytes;
extern const size_t mnv2c_maps_bytes; /* what an observer is shown of blocks in bands */
extern const int mnv2c_output_count;
int mnv2c_layers(mnv2c_context *context, const struct mnv2c_compiled *kernels, char *arena, void *input, int rgb,
                 void *const *outputs);

/* context.c: runs the network for the driver's mnv2c_run and mnv2c_run_rgb, one pointer for each output. */
int mnv2c_run_network(mnv2c_context *context, const void *input, int rgb, void *const *outputs);

/* context.c: the same for mnv2c_run_image. */
int mnv2c_run_images(mnv2c_context *context, const mnv2c_image *images, void *const *outputs);

/* context.c: runs one layer for the driver, and tells the observer. */
int mnv2c_run_layer(mnv2c_context *context, const struct mnv2c_step *step, const struct mnv2c_compiled *compiled,
                    void *const *operands);

/* context.c: runs the layers of a block in bands for the driver, and tells the observer of each. */
int mnv2c_run_bands(mnv2c_context *context, const struct mnv2c_step *steps, const struct mnv2c_chain *chain,
                    const struct mnv2c_compiled *const *kernels, void *const *const *operands);

/* context.c: by the wall clock, in nanoseconds. */
uint64_t mnv2c_now(void);

/* cpu.c: whether this processor, with its system, runs the instruction set of that name. */
int mnv2c_cpu_has(const char *instruction_set);

/* cpu.c: which of the driver's to use on the processors `cpus`, on all that this thread may run on where those are null; null
 * where this machine runs none. */
const struct mnv2c_instruction_set *mnv2c_cpu_best(const int *cpus, int cpu_count);

/* threads.c */
struct mnv2c_pool;

struct mnv2c_job {
    const struct mnv2c_compiled *compiled;
    void *const *operands;
    char *scratch; /* scratch_stride bytes for each thread */
    size_t scratch_stride;
};

/* `cpus`: as in the options. */
int mnv2c_pool_create(int threads, const int *cpus, int cpu_count, struct mnv2c_pool **pool);
void mnv2c_pool_share(struct mnv2c_pool *pool);   /* one more context uses it */
void mnv2c_pool_release(struct mnv2c_pool *pool); /* one less; the last one ends the threads; null is fine */
int mnv2c_pool_threads(const struct mnv2c_pool *pool);
int mnv2c_pool_is_lost(const struct mnv2c_pool *pool); /* its threads are another process's: we are a child of fork */
void mnv2c_pool_enter(struct mnv2c_pool *pool); /* waits for its turn */
void mnv2c_pool_leave(struct mnv2c_pool *pool);
int mnv2c_pool_run(struct mnv2c_pool *pool, const struct mnv2c_job *job); /* only between enter and leave */

/* bands.c */
int mnv2c_bands_run(struct mnv2c_bands *bands, struct mnv2c_pool *pool, char *scratch, size_t scratch_stride);
char *mnv2c_bands_map(const struct mnv2c_bands *bands, int layer); /* in `maps`, of a layer that is not the last */

#endif
