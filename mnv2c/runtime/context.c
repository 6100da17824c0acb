/* Contexts: options checked, memory and threads found, runs one at a time. */
#define _POSIX_C_SOURCE 200809L /* clock_gettime */
#include "runtime.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "image.h"

enum { ALIGNMENT = 64 }; /* of the arena and of each thread's scratch: a cache line, and the widest vector */

struct mnv2c_context {
    const struct mnv2c_instruction_set *instruction_set;
    struct mnv2c_pool *pool;
    char *arena;
    char *scratch;
    size_t scratch_stride;
    char *maps; /* where there is an observer, and something to show it that does not exist otherwise */
    struct mnv2c_fitting *fitting;
    pthread_mutex_t lock; /* a run, or a change of observer */
    mnv2c_observer *observer;
    void *user;
};

const char *mnv2c_message(int status)
{
    switch (status) {
    case MNV2C_OK: return "ok";
    case MNV2C_ARGUMENT: return "invalid argument: a null pointer, a value out of range or an unaligned float buffer";
    case MNV2C_MEMORY: return "out of memory";
    case MNV2C_THREADS: return "the system would not start the threads";
    case MNV2C_CPU: return "this processor lacks the instruction set";
    case MNV2C_INSTRUCTION_SET: return "the library was not built for this instruction set";
    case MNV2C_KERNEL: return "a kernel refused to run: the library is damaged";
    case MNV2C_FORKED: return "the context's threads belong to the process that forked this one: create another";
    case MNV2C_CPUS: return "a processor in cpus does not exist, or this program may not run on it";
    default: break;
    }
    const char *message = mnv2c_image_message(status);
    return message != NULL ? message : "unknown status";
}

/* What `given` sets, and the defaults for what it does not: null, or that of a program from before there was `cpus`. */
static int read_options(const mnv2c_options *given, mnv2c_options *options)
{
    *options = (mnv2c_options)MNV2C_OPTIONS_INIT;
    if (given == NULL) return 1;
    if (given->size != sizeof *given && given->size != offsetof(mnv2c_options, cpus)) return 0;
    memcpy(options, given, given->size);
    return 1;
}

static int options_are_valid(const mnv2c_options *options)
{
    if (options->threads < 0 || options->threads > MNV2C_MAX_THREADS) return 0;
    if (options->cpus == NULL ? options->cpu_count != 0 : options->cpu_count < 1) return 0;
    if (options->share_threads_with == NULL) return 1;
    if (options->cpus != NULL) return 0;
    return options->threads == 0 || options->threads == mnv2c_threads(options->share_threads_with);
}

static int choose_instruction_set(const mnv2c_options *options, const struct mnv2c_instruction_set **chosen)
{
    if (options->instruction_set == NULL) {
        *chosen = mnv2c_cpu_best(options->cpus, options->cpu_count);
        return *chosen != NULL ? MNV2C_OK : MNV2C_CPU;
    }
    for (int i = 0; i < mnv2c_instruction_set_count; i++) {
        *chosen = &mnv2c_instruction_sets[i];
        if (strcmp(options->instruction_set, (*chosen)->name) != 0) continue;
        return mnv2c_cpu_has((*chosen)->name) ? MNV2C_OK : MNV2C_CPU;
    }
    return MNV2C_INSTRUCTION_SET;
}

static int find_threads(const mnv2c_options *options, struct mnv2c_pool **pool)
{
    if (options->share_threads_with != NULL) {
        if (mnv2c_pool_is_lost(options->share_threads_with->pool)) return MNV2C_FORKED;
        *pool = options->share_threads_with->pool;
        mnv2c_pool_share(*pool);
        return MNV2C_OK;
    }
    return mnv2c_pool_create(options->threads == 0 ? 1 : options->threads, options->cpus, options->cpu_count, pool);
}

static size_t round_up(size_t bytes) { return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

/* Arena and scratch in one block. The arena starts as zeros, and its pages are there before the first run. */
static int find_memory(mnv2c_context *context)
{
    size_t arena = round_up(mnv2c_arena_bytes);
    context->scratch_stride = round_up(context->instruction_set->scratch);
    size_t bytes = arena + context->scratch_stride * (size_t)mnv2c_pool_threads(context->pool);
    context->arena = aligned_alloc(ALIGNMENT, bytes > 0 ? bytes : ALIGNMENT);
    if (context->arena == NULL) return MNV2C_MEMORY;
    memset(context->arena, 0, bytes);
    context->scratch = context->arena + arena;
    return MNV2C_OK;
}

int mnv2c_create(const mnv2c_options *given, mnv2c_context **context)
{
    mnv2c_options options;
    if (context == NULL) return MNV2C_ARGUMENT;
    *context = NULL;
    if (!read_options(given, &options) || !options_are_valid(&options)) return MNV2C_ARGUMENT;

    const struct mnv2c_instruction_set *chosen;
    int status = choose_instruction_set(&options, &chosen);
    if (status != MNV2C_OK) return status;
    mnv2c_context *made = calloc(1, sizeof *made);
    if (made == NULL) return MNV2C_MEMORY;
    made->instruction_set = chosen;
    status = find_threads(&options, &made->pool);
    if (status == MNV2C_OK) status = find_memory(made);
    if (status == MNV2C_OK && pthread_mutex_init(&made->lock, NULL) != 0) status = MNV2C_MEMORY;
    if (status == MNV2C_OK) {
        *context = made;
        return MNV2C_OK;
    }
    mnv2c_pool_release(made->pool);
    free(made->arena);
    free(made);
    return status;
}

void mnv2c_destroy(mnv2c_context *context)
{
    if (context == NULL) return;
    if (!mnv2c_pool_is_lost(context->pool)) pthread_mutex_destroy(&context->lock);
    mnv2c_pool_release(context->pool);
    free(context->maps);
    free(context->arena);
    free(context->fitting);
    free(context);
}

uint64_t mnv2c_now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static void tell(const mnv2c_context *context, const struct mnv2c_step *step, const void *data, uint64_t nanoseconds)
{
    mnv2c_layer layer = step->layer;
    layer.nanoseconds = nanoseconds;
    layer.data = (const char *)data + step->interior;
    context->observer(context->user, &layer);
}

int mnv2c_run_layer(mnv2c_context *context, const struct mnv2c_step *step, const struct mnv2c_compiled *compiled,
                    void *const *operands)
{
    struct mnv2c_job job = {compiled, operands, context->scratch, context->scratch_stride};
    if (context->observer == NULL) return mnv2c_pool_run(context->pool, &job);
    uint64_t start = mnv2c_now();
    int status = mnv2c_pool_run(context->pool, &job);
    tell(context, step, operands[step->output], mnv2c_now() - start);
    return status;
}

/* elapsed * part / all, without arithmetic that 32-bit processors leave to a library. */
static uint64_t share_of(uint64_t elapsed, uint64_t part, uint64_t all)
{
    int shift = 0;
    while ((elapsed | all) >> shift > UINT32_MAX) shift++;
    double share = (double)(uint32_t)(part >> shift) / (double)(uint32_t)(all >> shift);
    return (uint64_t)(uint32_t)((double)(uint32_t)(elapsed >> shift) * share) << shift;
}

int mnv2c_run_bands(mnv2c_context *context, const struct mnv2c_step *steps, const struct mnv2c_chain *chain,
                    const struct mnv2c_compiled *const *kernels, void *const *const *operands)
{
    struct mnv2c_bands bands = {chain, steps, kernels, operands, context->maps, {0}};
    uint64_t start = context->observer == NULL ? 0 : mnv2c_now();
    int status = mnv2c_bands_run(&bands, context->pool, context->scratch, context->scratch_stride);
    if (context->observer == NULL) return status;
    uint64_t elapsed = mnv2c_now() - start, all = 1;
    for (int i = 0; i < chain->layers; i++) all += bands.nanoseconds[i];
    for (int i = 0; i < chain->layers; i++) {
        int is_last = i == chain->layers - 1;
        const void *data = is_last ? operands[i][steps[i].output] : mnv2c_bands_map(&bands, i);
        tell(context, &steps[i], data, share_of(elapsed, bands.nanoseconds[i], all));
    }
    return status;
}

static int is_float_buffer(const void *buffer) { return buffer != NULL && (uintptr_t)buffer % _Alignof(float) == 0; }

static int are_arguments(const mnv2c_context *context, const void *input, int rgb, void *const *outputs)
{
    if (context == NULL || input == NULL || (!rgb && !is_float_buffer(input))) return 0;
    for (int i = 0; i < mnv2c_output_count; i++)
        if (!is_float_buffer(outputs[i])) return 0;
    return 1;
}

static int run_locked(mnv2c_context *context, const void *input, int rgb, void *const *outputs)
{
    mnv2c_pool_enter(context->pool);
    void *image = (void *)(uintptr_t)input; /* kernels only read it */
    int status = mnv2c_layers(context, context->instruction_set->kernels, context->arena, image, rgb, outputs);
    mnv2c_pool_leave(context->pool);
    return status;
}

int mnv2c_run_network(mnv2c_context *context, const void *input, int rgb, void *const *outputs)
{
    if (!are_arguments(context, input, rgb, outputs)) return MNV2C_ARGUMENT;
    if (mnv2c_pool_is_lost(context->pool)) return MNV2C_FORKED;
    pthread_mutex_lock(&context->lock);
    int status = run_locked(context, input, rgb, outputs);
    pthread_mutex_unlock(&context->lock);
    return status;
}

int mnv2c_run_images(mnv2c_context *context, const mnv2c_image *images, void *const *outputs)
{
    const uint8_t *rgb;
    if (!are_arguments(context, images, 1, outputs)) return MNV2C_ARGUMENT;
    if (mnv2c_pool_is_lost(context->pool)) return MNV2C_FORKED;
    pthread_mutex_lock(&context->lock);
    int status = mnv2c_fit_images(&context->fitting, images, &rgb);
    if (status == MNV2C_OK) status = run_locked(context, rgb, 1, outputs);
    pthread_mutex_unlock(&context->lock);
    return status;
}

/* What lies between the layers of a block in bands exists only for an observer. */
static int find_maps(mnv2c_context *context, int wanted)
{
    if (mnv2c_maps_bytes == 0 || wanted == (context->maps != NULL)) return MNV2C_OK;
    if (!wanted) {
        free(context->maps);
        context->maps = NULL;
        return MNV2C_OK;
    }
    context->maps = malloc(mnv2c_maps_bytes);
    if (context->maps == NULL) return MNV2C_MEMORY;
    memset(context->maps, 0, mnv2c_maps_bytes); /* its pages are there before anything is timed */
    return MNV2C_OK;
}

int mnv2c_observe(mnv2c_context *context, mnv2c_observer *observer, void *user)
{
    if (context == NULL) return MNV2C_ARGUMENT;
    if (mnv2c_pool_is_lost(context->pool)) return MNV2C_FORKED;
    pthread_mutex_lock(&context->lock);
    int status = find_maps(context, observer != NULL);
    if (status == MNV2C_OK) {
        context->observer = observer;
        context->user = user;
    }
    pthread_mutex_unlock(&context->lock);
    return status;
}

const char *mnv2c_instruction_set(const mnv2c_context *context) { return context == NULL ? NULL : context->instruction_set->name; }

int mnv2c_threads(const mnv2c_context *context) { return context == NULL ? 0 : mnv2c_pool_threads(context->pool); }
