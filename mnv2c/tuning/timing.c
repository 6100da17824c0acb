/*
 * Times kernels as they run in the network: their weights have been displaced by those of other layers, their input has just
 * been written by the layer before. Linked with the candidates and a table of them (mnv2c/tuning/timing.py) into a library
 * that needs libc alone; a worker process calls it through the C symbol, a board's TVM server through TVM's calling convention.
 */
#define _POSIX_C_SOURCE 200809L /* clock_gettime */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

#include "kernel.h"

#define EXPORTED __attribute__((visibility("default")))
enum { LINE = 64 };

struct candidate {
    mnv2c_kernel *kernel;
    int32_t tasks;
};

extern const struct candidate mnv2c_candidates[];
extern const int mnv2c_candidate_count;
/* The operands in the order of the signature, the inputs first; then scratch, and memory beside them that is larger than the
 * core's own caches. */
extern const size_t mnv2c_block_bytes[];
extern const int mnv2c_block_count, mnv2c_input_count;
extern void *mnv2c_blocks[]; /* made by the first call */

static int find_memory(void)
{
    for (int block = 0; block < mnv2c_block_count; block++) {
        size_t bytes = (mnv2c_block_bytes[block] + LINE) / LINE * LINE;
        float *values = aligned_alloc(LINE, bytes);
        if (values == NULL) return 0;
        for (size_t i = 0; i < bytes / sizeof *values; i++) values[i] = 0.125f;
        mnv2c_blocks[block] = values;
    }
    return 1;
}

static void touch(int block)
{
    volatile char *memory = mnv2c_blocks[block];
    for (size_t i = 0; i < mnv2c_block_bytes[block]; i += LINE) memory[i] = memory[i];
}

static int64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

/* Nanoseconds of one run of all of a candidate's tasks; below 0 where there is no such candidate or no memory. */
EXPORTED int64_t mnv2c_time(int index)
{
    const int elsewhere = mnv2c_block_count - 1, scratch = elsewhere - 1;
    if (index < 0 || index >= mnv2c_candidate_count) return -1;
    if (mnv2c_blocks[elsewhere] == NULL && !find_memory()) return -1;
    const struct candidate *candidate = &mnv2c_candidates[index];
    touch(elsewhere);
    for (int input = 0; input < mnv2c_input_count; input++) touch(input);
    int64_t start = now();
    candidate->kernel(mnv2c_blocks, mnv2c_blocks[scratch], 0, candidate->tasks);
    return now() - start;
}

/* TVMFFIAny and TVMFFISafeCallType of tvm/ffi/c_api.h: what a TVM server finds under this name in a library. */
struct any {
    int32_t type_index;
    uint32_t padding;
    int64_t value;
};
enum { ANY_INT = 1 };

EXPORTED int __tvm_ffi_mnv2c_time(void *self, const struct any *arguments, int32_t count, struct any *result)
{
    (void)self;
    *result = (struct any){ANY_INT, 0, count == 1 ? mnv2c_time((int)arguments[0].value) : -1};
    return 0;
}
