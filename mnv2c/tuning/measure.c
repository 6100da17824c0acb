/*
 * Times a kernel as it runs in the network: its weights have been displaced by those of other layers, its input has just been
 * written by the layer before. Compiled for the machine that measures, linked with the candidates.
 */
#define _POSIX_C_SOURCE 200809L /* clock_gettime */
#include <stddef.h>
#include <stdint.h>
#include <time.h>

enum { LINE = 64 };

typedef int32_t kernel_function(const void *input, const float *weight, const float *bias, const float *residual,
                                float *output, float *scratch, int32_t begin, int32_t end);

struct measured {
    kernel_function *kernel;
    int32_t tasks;
    char *input, *output, *scratch; /* scratch: aligned, as long as the kernel needs */
    const char *weight, *bias, *residual;
    size_t input_bytes;
    char *elsewhere; /* memory beside the kernel's, larger than the core's own caches */
    size_t elsewhere_bytes;
};

static void touch(volatile char *memory, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += LINE) memory[i] = memory[i];
}

static uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

/* Nanoseconds of one run of all tasks. */
__attribute__((visibility("default"))) uint64_t mnv2c_measure(const struct measured *m)
{
    touch(m->elsewhere, m->elsewhere_bytes);
    touch(m->input, m->input_bytes);
    uint64_t start = now();
    m->kernel(m->input, (const float *)m->weight, (const float *)m->bias, (const float *)m->residual, (float *)m->output,
              (float *)m->scratch, 0, m->tasks);
    return now() - start;
}
