/*
 * Times kernels as they run in the network: shared by the library's own pool of threads, their weights in memory, since those
 * of all layers are more than a core's share of the caches, their input just written by the layer before. Linked with the
 * candidates, a table of them (mnv2c/tuning/timing.py) and runtime/threads.c into a library that needs libc alone; a worker
 * process calls it through the C symbol, a board's TVM server through TVM's calling convention.
 */
#define _POSIX_C_SOURCE 200809L /* clock_gettime */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

#include "runtime.h"

#define EXPORTED __attribute__((visibility("default")))
enum { LINE = 64, PARTS = 256 };

extern const struct mnv2c_compiled mnv2c_candidates[];
extern const int mnv2c_candidate_count;
/* The operands in the order of the signature: inputs, constants, the output; then, for one thread, scratch, and memory that
 * is larger than a core's own caches. */
extern const size_t mnv2c_block_bytes[];
extern const int mnv2c_block_count, mnv2c_input_count;
extern void *mnv2c_blocks[];

struct memory {
    char *begin;
    size_t bytes;
};

static struct mnv2c_pool *pool; /* of `pool_threads`, and the blocks for as many */
static int pool_threads;

static size_t bytes_of(int block, int threads)
{
    size_t bytes = (mnv2c_block_bytes[block] + LINE) / LINE * LINE;
    return block < mnv2c_block_count - 2 ? bytes : bytes * (size_t)threads;
}

static int find_memory(int threads)
{
    for (int block = 0; block < mnv2c_block_count; block++) {
        size_t bytes = bytes_of(block, threads);
        free(mnv2c_blocks[block]);
        float *values = mnv2c_blocks[block] = aligned_alloc(LINE, bytes);
        if (values == NULL) return 0;
        for (size_t i = 0; i < bytes / sizeof *values; i++) values[i] = 0.125f;
    }
    return 1;
}

static int have_threads(int threads)
{
    if (threads == pool_threads) return 1;
    mnv2c_pool_release(pool);
    pool = NULL, pool_threads = 0;
    if (mnv2c_pool_create(threads, NULL, 0, &pool) != MNV2C_OK || !find_memory(threads)) return 0;
    pool_threads = threads;
    return 1;
}

/* A kernel that writes part `task` of PARTS of a memory, so that each thread has its share in its caches. */
static int32_t touch_parts(void *const *operands, void *scratch, int32_t begin, int32_t end)
{
    const struct memory *memory = operands[0];
    (void)scratch;
    volatile char *bytes = memory->begin;
    size_t lines = memory->bytes / LINE;
    for (size_t i = lines * (size_t)begin / PARTS; i < lines * (size_t)end / PARTS; i++) bytes[i * LINE] = bytes[i * LINE];
    return 0;
}

static int touch(int block)
{
    static const struct mnv2c_compiled kernel = {touch_parts, PARTS, 1};
    struct memory memory = {mnv2c_blocks[block], bytes_of(block, pool_threads)};
    void *operands[] = {&memory};
    struct mnv2c_job job = {&kernel, operands, NULL, 0};
    return mnv2c_pool_run(pool, &job);
}

/* Drops a block from every cache, the shared one too, where a program may do that. */
static void flush(int block)
{
#if defined(__x86_64__)
    const char *bytes = mnv2c_blocks[block];
    for (size_t i = 0; i < bytes_of(block, pool_threads); i += LINE) __builtin_ia32_clflush(bytes + i);
    __builtin_ia32_mfence();
#else
    (void)block;
#endif
}

static int64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static int64_t time_job(const struct mnv2c_job *job)
{
    int status = touch(mnv2c_block_count - 1);
    for (int weights = mnv2c_input_count; weights < mnv2c_block_count - 3; weights++) flush(weights);
    for (int input = 0; input < mnv2c_input_count; input++) status |= touch(input);
    int64_t start = now();
    status |= mnv2c_pool_run(pool, job);
    return status == MNV2C_OK ? now() - start : -1;
}

/* Nanoseconds of one run of all of a candidate's tasks; below 0 where there is no such candidate, no memory or no threads. */
EXPORTED int64_t mnv2c_time(int index, int threads)
{
    if (index < 0 || index >= mnv2c_candidate_count || threads < 1 || !have_threads(threads)) return -1;
    const int scratch = mnv2c_block_count - 2;
    struct mnv2c_job job = {&mnv2c_candidates[index], mnv2c_blocks, mnv2c_blocks[scratch], bytes_of(scratch, 1)};
    mnv2c_pool_enter(pool);
    int64_t nanoseconds = time_job(&job);
    mnv2c_pool_leave(pool);
    return nanoseconds;
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
    *result = (struct any){ANY_INT, 0, count == 2 ? mnv2c_time((int)arguments[0].value, (int)arguments[1].value) : -1};
    return 0;
}
