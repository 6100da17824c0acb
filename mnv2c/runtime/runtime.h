/* What the parts of the library share: the driver (the layers), context.c, threads.c and cpu.c. Not for its users. */
#ifndef MNV2C_RUNTIME_H
#define MNV2C_RUNTIME_H

/* All is compiled with -fvisibility=hidden but the interface. */
#pragma GCC visibility push(default)
#include "mnv2c.h"
#pragma GCC visibility pop

/* Computes the tasks begin <= task < end of a layer; tasks are independent of each other. Not 0: it refused. */
typedef int32_t mnv2c_kernel(const void *input, const float *weight, const float *bias, const float *residual, float *output,
                             float *scratch, int32_t begin, int32_t end);

/* A kernel and how its tasks may be shared: `grain` is the fewest tasks worth a thread. */
struct mnv2c_work {
    mnv2c_kernel *kernel;
    int32_t tasks;
    int32_t grain;
};

/* The kernels for one instruction set, in the order of the driver's enum; `scratch` is bytes per thread. */
struct mnv2c_level {
    const char *name;
    const struct mnv2c_work *kernels;
    size_t scratch;
};

/* A layer as the observer is told of it, but for data and time; `interior`: floats from its memory to its first element. */
struct mnv2c_record {
    mnv2c_layer layer;
    size_t interior;
};

/* Tensors of one call. */
struct mnv2c_operands {
    const void *input;
    const float *weight;
    const float *bias;
    const float *residual;
    float *output;
};

/* The driver defines these; the best level comes first. */
extern const struct mnv2c_level mnv2c_levels[];
extern const int mnv2c_level_count;
extern const size_t mnv2c_arena_bytes;
int mnv2c_layers(mnv2c_context *context, const struct mnv2c_work *kernels, char *arena, const void *input, int rgb,
                 float *logits);

/* context.c: runs one layer for the driver, and tells the observer. */
int mnv2c_run_layer(mnv2c_context *context, const struct mnv2c_record *record, const struct mnv2c_work *work,
                    struct mnv2c_operands operands);

/* cpu.c: whether this processor, with its system, runs the instruction set of that name. */
int mnv2c_cpu_has(const char *instruction_set);

/* threads.c */
struct mnv2c_pool;

struct mnv2c_job {
    const struct mnv2c_work *work;
    struct mnv2c_operands operands;
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
