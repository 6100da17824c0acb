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

/* The kernels for one instruction set, in the order of the driver's enum; `scratch` is bytes per thread. */
struct mnv2c_instruction_set {
    const char *name;
    const struct mnv2c_compiled *kernels;
    size_t scratch;
};

/* A layer as the observer is told of it, but for data and time; `output`: which operand it writes; `interior`: bytes from
 * where that begins to its first element inside the border. */
struct mnv2c_step {
    mnv2c_layer layer;
    int output;
    size_t interior;
};

/* The driver defines these; the best instruction set comes first. */
extern const struct mnv2c_instruction_set mnv2c_instruction_sets[];
extern const int mnv2c_instruction_set_count;
extern const size_t mnv2c_arena_bytes;
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

/* cpu.c: whether this processor, with its system, runs the instruction set of that name. */
int mnv2c_cpu_has(const char *instruction_set);

/* threads.c */
struct mnv2c_pool;

struct mnv2c_job {
    const struct mnv2c_compiled *compiled;
    void *const *operands;
    char *scratch; /* scratch_stride bytes for each thread */
    size_t scratch_stride;
};

int mnv2c_pool_create(int threads, struct mnv2c_pool **pool);
void mnv2c_pool_share(struct mnv2c_pool *pool);   /* one more context uses it */
void mnv2c_pool_release(struct mnv2c_pool *pool); /* one less; the last one ends the threads; null is fine */
int mnv2c_pool_threads(const struct mnv2c_pool *pool);
void mnv2c_pool_enter(struct mnv2c_pool *pool); /* waits for its turn */
void mnv2c_pool_leave(struct mnv2c_pool *pool);
int mnv2c_pool_run(struct mnv2c_pool *pool, const struct mnv2c_job *job); /* only between enter and leave */

#endif
