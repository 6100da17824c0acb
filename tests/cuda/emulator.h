/*
 * Runs CUDA C on one thread of a CPU: each thread of a block is a fiber of its own, and a barrier switches to the next.
 *
 * Blocks come one after the other, the threads of a block in an order that the caller chooses, each running until it
 * reaches a barrier, or a product of its warp on tensor cores, or ends. Shared memory holds NaN when a block begins, so that
 * what is read before it is written shows; with a barrier taken out, some thread reads or overwrites too early in one order
 * or another. x86-64 and C headers alone.
 */
#pragma once
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned char uchar;
struct extent { unsigned x, y, z; };
typedef _Float16 half;
#define __float2half_rn(x) static_cast<half>(x)
struct alignas(4) half2 { half x, y; };
struct alignas(8) half4 { half x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static inline float min(float a, float b) { return fminf(a, b); }
static inline float max(float a, float b) { return fmaxf(a, b); }
static inline int min(int a, int b) { return a < b ? a : b; }
static inline int max(int a, int b) { return a > b ? a : b; }

#define __global__
#define __launch_bounds__(...)
#define __restrict__ __restrict
#define __shared__ static __attribute__((section("emulated_shared")))
#define __syncthreads() emulated::barrier()
#define threadIdx emulated::thread
#define blockIdx emulated::block
#define WAIT() emulated::wait()
#define ALLOW_NEXT()
#define FETCH(data, bytes)

/* Saves what the C calling convention keeps over a call, changes stacks, and goes on where the other one stood. */
extern "C" void emulated_switch(void **save, void *load);
asm(".text\n"
    "emulated_switch:\n"
    "    push %rbx\n    push %rbp\n    push %r12\n    push %r13\n    push %r14\n    push %r15\n"
    "    mov %rsp, (%rdi)\n"
    "    mov %rsi, %rsp\n"
    "    pop %r15\n    pop %r14\n    pop %r13\n    pop %r12\n    pop %rbp\n    pop %rbx\n"
    "    ret\n");

/* The bounds of shared memory, by the linker. */
extern "C" char __start_emulated_shared[] __attribute__((weak)), __stop_emulated_shared[] __attribute__((weak));

namespace emulated {

/* A kernel by name: its function, with the parameters in an array; a bit for each of them that is not constant. */
struct kernel {
    void (*call)(void **parameters);
    int parameters;
    unsigned not_constant;
};

enum { STACK = 64 * 1024, MOST_THREADS = 1024 };
enum { WARP = 32 };
enum state { RUNS, WAITS, MEETS, ENDED };

struct fiber {
    void *stack_pointer;
    char *stack;
    state where;
    int waited;
};

static extent thread, block;
static fiber fibers[MOST_THREADS];
static unsigned order[MOST_THREADS], current;
static void *scheduler;
static void (*body)(void **arguments);
static void **body_arguments;

static void leave(state where)
{
    fibers[current].where = where;
    emulated_switch(&fibers[current].stack_pointer, scheduler);
}

static void barrier() { leave(WAITS); }

/* Until all threads of the warp have come here: the last one lets the others go on. */
static void meet()
{
    unsigned first = current / WARP * WARP, others = 0;
    for (unsigned i = first; i < first + WARP; i++) others += fibers[i].where == MEETS;
    if (others < WARP - 1) {
        leave(MEETS);
        return;
    }
    for (unsigned i = first; i < first + WARP; i++) fibers[i].where = RUNS;
}

/* What each lane brings to the product of its warp: registers, as PTX's tables for mma.m16n8k8 number them. */
static unsigned brought[MOST_THREADS][6];

static void multiply(float *sums, unsigned first, float (*rows)(unsigned, unsigned, unsigned),
                     float (*columns)(unsigned, unsigned, unsigned))
{
    unsigned lane = current % WARP;
    float added[4] = {};
    meet();
    for (unsigned sum = 0; sum < 4; sum++)
        for (unsigned k = 0; k < 8; k++)
            added[sum] += rows(first, lane / 4 + sum / 2 * 8, k) * columns(first, lane % 4 * 2 + sum % 2, k);
    meet(); /* before what others read changes */
    for (unsigned sum = 0; sum < 4; sum++) sums[sum] += added[sum];
}

static float of_tf32(unsigned bits)
{
    float x;
    bits &= ~((1u << 13) - 1); /* the hardware does not read them */
    memcpy(&x, &bits, 4);
    return x;
}

static float of_fp16(unsigned bits, unsigned which)
{
    half x;
    uint16_t word = static_cast<uint16_t>(bits >> 16 * which);
    memcpy(&x, &word, 2);
    return static_cast<float>(x);
}

/* Where there is a `guard`, it is given 1 while a thread runs that has not waited for the kernel before its own; in the first
 * block alone, as it costs time. */
static void (*guard)(int closed);

static void wait()
{
    fibers[current].waited = 1;
    if (guard) guard(0);
}

static void begin()
{
    body(body_arguments);
    leave(ENDED);
    abort();
}

/* Ascending, descending, or shuffled by a seed. */
static void choose_order(unsigned threads, unsigned seed)
{
    for (unsigned i = 0; i < threads; i++) order[i] = seed == 1 ? threads - 1 - i : i;
    uint32_t random = seed;
    for (unsigned i = threads - 1; seed > 1 && i > 0; i--) {
        random = random * 1664525u + 1013904223u;
        unsigned other = (random >> 8) % (i + 1), kept = order[i];
        order[i] = order[other], order[other] = kept;
    }
}

/* 0, or 1 where threads wait for others that never come. */
static int run_block(extent size, unsigned threads)
{
    if (__start_emulated_shared) memset(__start_emulated_shared, 0xff, __stop_emulated_shared - __start_emulated_shared);
    for (unsigned i = 0; i < threads; i++) {
        if (!fibers[i].stack) fibers[i].stack = static_cast<char *>(aligned_alloc(64, STACK));
        void **top = reinterpret_cast<void **>(fibers[i].stack + STACK);
        *--top = nullptr; /* so that the stack is aligned as after a call */
        *--top = reinterpret_cast<void *>(begin);
        for (int saved = 0; saved < 6; saved++) *--top = nullptr;
        fibers[i] = {top, fibers[i].stack, RUNS, 0};
    }
    for (;;) {
        unsigned counts[ENDED + 1] = {};
        for (unsigned i = 0; i < threads; i++) {
            current = order[i];
            if (fibers[current].where == RUNS) {
                thread = {current % size.x, current / size.x % size.y, current / size.x / size.y};
                if (guard) guard(!fibers[current].waited);
                emulated_switch(&scheduler, fibers[current].stack_pointer);
            }
        }
        for (unsigned i = 0; i < threads; i++) counts[fibers[i].where]++;
        if (counts[ENDED] == threads) return 0;
        if (counts[WAITS] == threads)
            for (unsigned i = 0; i < threads; i++) fibers[i].where = RUNS;
        else if (!counts[RUNS]) return 1;
    }
}

static int launch(void (*kernel)(void **), void **arguments, extent grid, extent size, unsigned seed)
{
    unsigned threads = size.x * size.y * size.z;
    if (threads == 0 || threads > MOST_THREADS) return 1;
    body = kernel, body_arguments = arguments;
    choose_order(threads, seed);
    for (block.z = 0; block.z < grid.z; block.z++)
        for (block.y = 0; block.y < grid.y; block.y++)
            for (block.x = 0; block.x < grid.x; block.x++) {
                if (run_block(size, threads)) return 1;
                if (guard) guard(0);
                guard = nullptr;
            }
    return 0;
}

} /* namespace emulated */

static inline unsigned __float_as_uint(float x)
{
    unsigned bits;
    memcpy(&bits, &x, 4);
    return bits;
}

static inline unsigned tf32(float x) { return (__float_as_uint(x) + (1u << 12)) & ~((1u << 13) - 1); }

static void mma_tf32(float *sums, unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0, unsigned b1)
{
    using namespace emulated;
    unsigned mine[] = {a0, a1, a2, a3, b0, b1}, first = current / WARP * WARP;
    memcpy(brought[current], mine, sizeof mine);
    auto rows = [](unsigned warp, unsigned row, unsigned k) {
        return of_tf32(brought[warp + row % 8 * 4 + k % 4][row / 8 + k / 4 * 2]);
    };
    auto columns = [](unsigned warp, unsigned column, unsigned k) {
        return of_tf32(brought[warp + column * 4 + k % 4][4 + k / 4]);
    };
    multiply(sums, first, rows, columns);
}

static void mma_fp16(float *sums, unsigned a0, unsigned a1, unsigned b0)
{
    using namespace emulated;
    unsigned mine[] = {a0, a1, b0}, first = current / WARP * WARP;
    memcpy(brought[current], mine, sizeof mine);
    auto rows = [](unsigned warp, unsigned row, unsigned k) {
        return of_fp16(brought[warp + row % 8 * 4 + k / 2][row / 8], k % 2);
    };
    auto columns = [](unsigned warp, unsigned column, unsigned k) {
        return of_fp16(brought[warp + column * 4 + k / 2][2], k % 2);
    };
    multiply(sums, first, rows, columns);
}

#define __device__
#define __forceinline__ static inline
#include "products.h"
