/*
 * tiny_1.0: the layers in order, each a call of a kernel from libtiny_1_0.a.
 *
 * To build the library anew, here with a sanitizer (src/ gives driver and runtime, the archive kernels and weights):
 *     cc -g -fsanitize=thread -Iinclude src/tiny_1_0.c src/context.c src/bands.c src/threads.c src/cpu.c \
 *         src/image.c YOURS.c lib/libtiny_1_0.a -pthread -lm
 */
#include "runtime.h"

extern const char tiny_1_0_weights[];

enum {
    KERNEL_stem,
    KERNEL_stem_uint8,
    KERNEL_mirror,
    KERNEL_classifier
};

/* Kernels for v4: the function, how many tasks it has, the fewest worth a thread. */
tiny_1_0_kernel tiny_1_0_v4_stem;
tiny_1_0_kernel tiny_1_0_v4_stem_uint8;
tiny_1_0_kernel tiny_1_0_v4_mirror;
tiny_1_0_kernel tiny_1_0_v4_classifier;

static const struct tiny_1_0_compiled v4_kernels[] = {
    [KERNEL_stem] = {tiny_1_0_v4_stem, 40, 1},
    [KERNEL_stem_uint8] = {tiny_1_0_v4_stem_uint8, 40, 1},
    [KERNEL_mirror] = {tiny_1_0_v4_mirror, 40, 10},
    [KERNEL_classifier] = {tiny_1_0_v4_classifier, 7, 7},
};

/* Kernels for v3: the function, how many tasks it has, the fewest worth a thread. */
tiny_1_0_kernel tiny_1_0_v3_stem;
tiny_1_0_kernel tiny_1_0_v3_stem_uint8;
tiny_1_0_kernel tiny_1_0_v3_mirror;
tiny_1_0_kernel tiny_1_0_v3_classifier;

static const struct tiny_1_0_compiled v3_kernels[] = {
    [KERNEL_stem] = {tiny_1_0_v3_stem, 40, 1},
    [KERNEL_stem_uint8] = {tiny_1_0_v3_stem_uint8, 40, 1},
    [KERNEL_mirror] = {tiny_1_0_v3_mirror, 40, 10},
    [KERNEL_classifier] = {tiny_1_0_v3_classifier, 7, 7},
};

/* Kernels for v2: the function, how many tasks it has, the fewest worth a thread. */
tiny_1_0_kernel tiny_1_0_v2_stem;
tiny_1_0_kernel tiny_1_0_v2_stem_uint8;
tiny_1_0_kernel tiny_1_0_v2_mirror;
tiny_1_0_kernel tiny_1_0_v2_classifier;

static const struct tiny_1_0_compiled v2_kernels[] = {
    [KERNEL_stem] = {tiny_1_0_v2_stem, 40, 1},
    [KERNEL_stem_uint8] = {tiny_1_0_v2_stem_uint8, 40, 1},
    [KERNEL_mirror] = {tiny_1_0_v2_mirror, 40, 10},
    [KERNEL_classifier] = {tiny_1_0_v2_classifier, 7, 7},
};

/* Best first; the bytes of scratch that its kernels need per thread; the cores that they are for. */
const struct tiny_1_0_instruction_set tiny_1_0_instruction_sets[] = {
    {"v4", v4_kernels, 72, {0}},
    {"v3", v3_kernels, 72, {0}},
    {"v2", v2_kernels, 72, {0}},
};
const int tiny_1_0_instruction_set_count = 3;
const size_t tiny_1_0_arena_bytes = 6976;
const size_t tiny_1_0_maps_bytes = 0;
const int tiny_1_0_output_count = 2;

/* What an observer is told: name, element, shape, strides, multiply-adds; which operand, and where. */
static const struct tiny_1_0_step steps[] = {
    {{"stem", NULL, "float32", {1, 40, 6, 3}, {1008, 24, 3, 1}, 0, 720}, 3, 108},
    {{"block1.mirror", NULL, "float32", {1, 40, 6, 3}, {720, 18, 3, 1}, 0, 0}, 2, 0},
    {{"classifier", NULL, "float32", {1, 1, 1, 7}, {7, 7, 7, 1}, 0, 0}, 3, 0},
};

/* A layer: its step, kernel and operands (inputs, constants, output). After a failure none runs. */
#define LAYER(step, kernel, ...) \
    if (status == TINY_1_0_OK) \
        status = tiny_1_0_run_layer(context, &steps[step], &kernels[kernel], (void *const[]){__VA_ARGS__})
#define A(offset) ((void *)(arena + (offset))) /* in the arena, in bytes */
#define W(offset) ((void *)(uintptr_t)(tiny_1_0_weights + (offset))) /* in the weights, in bytes; kernels only read them */

int tiny_1_0_layers(tiny_1_0_context *context, const struct tiny_1_0_compiled *kernels, char *arena, void *input, int rgb,
                 void *const *outputs)
{
    int status = TINY_1_0_OK;

    /* stem: scale and bias * / per channel */
    LAYER(0, rgb ? KERNEL_stem_uint8 : KERNEL_stem, input, W(0), W(64), A(0));

    /* block1.mirror: each row and its mirror image */
    LAYER(1, KERNEL_mirror, A(0), A(0), outputs[1]);

    /* classifier: mean, then a matrix */
    LAYER(2, KERNEL_classifier, outputs[1], W(128), W(256), outputs[0]);
    return status;
}

int tiny_1_0_run(tiny_1_0_context *context, const float *input, float *logits, float *map)
{
    void *const outputs[] = {logits, map};
    return tiny_1_0_run_network(context, input, 0, outputs);
}

int tiny_1_0_run_rgb(tiny_1_0_context *context, const uint8_t *rgb, float *logits, float *map)
{
    void *const outputs[] = {logits, map};
    return tiny_1_0_run_network(context, rgb, 1, outputs);
}

int tiny_1_0_run_image(tiny_1_0_context *context, const tiny_1_0_image *images, float *logits, float *map)
{
    void *const outputs[] = {logits, map};
    return tiny_1_0_run_images(context, images, outputs);
}

int tiny_1_0_shape(int tensor, int64_t shape[4])
{
    static const int ranks[] = {4, 2, 4};
    static const int64_t shapes[][4] = {{1, 40, 6, 3}, {1, 7}, {1, 40, 6, 3}};
    if (tensor < 0 || tensor >= 3 || shape == NULL) return 0;
    for (int i = 0; i < ranks[tensor]; i++) shape[i] = shapes[tensor][i];
    return ranks[tensor];
}
