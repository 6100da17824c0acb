/* Every way to call the library wrongly gives its status, and the context is null. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tiny_1_0.h"

static float input[TINY_1_0_HEIGHT * TINY_1_0_WIDTH * TINY_1_0_CHANNELS + 1], logits[TINY_1_0_CLASSES + 1];
static uint8_t rgb[TINY_1_0_HEIGHT * TINY_1_0_WIDTH * TINY_1_0_CHANNELS];

static void expect(int line, int wanted, int status)
{
    if (status == wanted) return;
    printf("line %d: %d (%s) in place of %d\n", line, status, tiny_1_0_message(status), wanted);
    exit(1);
}
#define EXPECT(wanted, status) expect(__LINE__, wanted, status)

static int create_with(const tiny_1_0_options *options)
{
    tiny_1_0_context *context = (tiny_1_0_context *)1;
    int status = tiny_1_0_create(options, &context);
    if (status != TINY_1_0_OK && context != NULL) return -1;
    if (status == TINY_1_0_OK) tiny_1_0_destroy(context);
    return status;
}

static int create(size_t size, int threads, const char *instruction_set, tiny_1_0_context *share)
{
    tiny_1_0_options options = {size, threads, instruction_set, share, NULL, 0};
    return create_with(&options);
}

static int create_on(int threads, const int *cpus, int cpu_count, tiny_1_0_context *share)
{
    tiny_1_0_options options = {sizeof options, threads, NULL, share, cpus, cpu_count};
    return create_with(&options);
}

enum { WIDTH = 20, HEIGHT = 10 };
static const uint8_t pixels[WIDTH * HEIGHT * 4];

static tiny_1_0_image image_of(int format)
{
    tiny_1_0_image image = {format, WIDTH, HEIGHT, {pixels, pixels, pixels}, {4 * WIDTH, WIDTH, WIDTH}, 0, 0};
    return image;
}

/* A good image but for one field. */
#define EXPECT_IMAGE(wanted, context, number, field, value) \
    do { \
        tiny_1_0_image image = image_of(number); \
        image.field = value; \
        EXPECT(wanted, tiny_1_0_run_image(context, &image, logits)); \
    } while (0)

static void misuse_images(tiny_1_0_context *context)
{
    for (int format = TINY_1_0_RGB; format <= TINY_1_0_YUV420; format++) {
        EXPECT_IMAGE(TINY_1_0_OK, context, format, fit, TINY_1_0_STRETCH);
        EXPECT_IMAGE(TINY_1_0_ARGUMENT, NULL, format, fit, 0);
        EXPECT_IMAGE(TINY_1_0_ARGUMENT, context, format, planes[0], NULL);
        EXPECT_IMAGE(TINY_1_0_IMAGE_SIZE, context, format, width, 0);
        EXPECT_IMAGE(TINY_1_0_IMAGE_SIZE, context, format, width, -2);
        EXPECT_IMAGE(TINY_1_0_IMAGE_SIZE, context, format, width, TINY_1_0_MAX_SIDE + 2);
        EXPECT_IMAGE(TINY_1_0_IMAGE_SIZE, context, format, height, 0);
        EXPECT_IMAGE(TINY_1_0_IMAGE_SIZE, context, format, height, INT32_MIN);
        EXPECT_IMAGE(TINY_1_0_IMAGE_SIZE, context, format, height, TINY_1_0_MAX_SIDE + 2);
        EXPECT_IMAGE(TINY_1_0_IMAGE_STRIDE, context, format, strides[0], 0);
        EXPECT_IMAGE(TINY_1_0_IMAGE_STRIDE, context, format, strides[0], SIZE_MAX / 2);
        EXPECT_IMAGE(TINY_1_0_IMAGE_STRIDE, context, format, strides[0], (size_t)-4 * WIDTH);
    }
    EXPECT_IMAGE(TINY_1_0_IMAGE_FORMAT, context, 0, fit, 0);
    EXPECT_IMAGE(TINY_1_0_IMAGE_FORMAT, context, -1, fit, 0);
    EXPECT_IMAGE(TINY_1_0_IMAGE_FORMAT, context, TINY_1_0_YUV420 + 1, fit, 0);
    EXPECT_IMAGE(TINY_1_0_IMAGE_FORMAT, context, TINY_1_0_RGB, fit, 2);
    EXPECT_IMAGE(TINY_1_0_IMAGE_FORMAT, context, TINY_1_0_NV12, matrix, 3);
    EXPECT_IMAGE(TINY_1_0_IMAGE_FORMAT, context, TINY_1_0_NV12, matrix, -1);
    EXPECT_IMAGE(TINY_1_0_IMAGE_STRIDE, context, TINY_1_0_RGB, strides[0], 3 * WIDTH - 1);
    EXPECT_IMAGE(TINY_1_0_IMAGE_STRIDE, context, TINY_1_0_BGRX, strides[0], 4 * WIDTH - 1);
    EXPECT_IMAGE(TINY_1_0_IMAGE_STRIDE, context, TINY_1_0_YUYV, strides[0], 2 * WIDTH - 1);
    EXPECT_IMAGE(TINY_1_0_IMAGE_STRIDE, context, TINY_1_0_NV12, strides[1], WIDTH - 1);
    EXPECT_IMAGE(TINY_1_0_IMAGE_STRIDE, context, TINY_1_0_YUV420, strides[2], WIDTH / 2 - 1);
    EXPECT_IMAGE(TINY_1_0_OK, context, TINY_1_0_YUV420, strides[2], WIDTH / 2);
    EXPECT_IMAGE(TINY_1_0_ARGUMENT, context, TINY_1_0_NV12, planes[1], NULL);
    EXPECT_IMAGE(TINY_1_0_OK, context, TINY_1_0_NV12, planes[2], NULL);
    EXPECT_IMAGE(TINY_1_0_ARGUMENT, context, TINY_1_0_YUV420, planes[2], NULL);
    EXPECT_IMAGE(TINY_1_0_OK, context, TINY_1_0_RGB, width, WIDTH - 1);
    EXPECT_IMAGE(TINY_1_0_IMAGE_SIZE, context, TINY_1_0_YUYV, width, WIDTH - 1);
    EXPECT_IMAGE(TINY_1_0_OK, context, TINY_1_0_YUYV, height, HEIGHT - 1);
    EXPECT_IMAGE(TINY_1_0_IMAGE_SIZE, context, TINY_1_0_NV12, width, WIDTH - 1);
    EXPECT_IMAGE(TINY_1_0_IMAGE_SIZE, context, TINY_1_0_NV12, height, HEIGHT - 1);
    tiny_1_0_image image = image_of(TINY_1_0_RGB);
    EXPECT(TINY_1_0_ARGUMENT, tiny_1_0_run_image(context, NULL, logits));
    EXPECT(TINY_1_0_ARGUMENT, tiny_1_0_run_image(context, &image, NULL));
    for (int status = TINY_1_0_IMAGE_FORMAT; status <= TINY_1_0_IMAGE_STRIDE; status++)
        EXPECT(1, strcmp(tiny_1_0_message(status), tiny_1_0_message(-7)) != 0);
}

static void ignore(void *user, const tiny_1_0_layer *layer)
{
    (void)layer;
    ++*(int *)user;
}

static void ask_for_shapes(void)
{
    int64_t shape[4] = {0};
    EXPECT(4, tiny_1_0_shape(0, shape));
    EXPECT(TINY_1_0_HEIGHT, (int)shape[1]);
    EXPECT(TINY_1_0_CHANNELS, (int)shape[3]);
    EXPECT(2, tiny_1_0_shape(1, shape));
    EXPECT(TINY_1_0_CLASSES, (int)shape[1]);
    EXPECT(0, tiny_1_0_shape(2, shape));
    EXPECT(0, tiny_1_0_shape(-1, shape));
    EXPECT(0, tiny_1_0_shape(INT32_MIN, shape));
    EXPECT(0, tiny_1_0_shape(0, NULL));
}

int main(void)
{
    const size_t size = sizeof(tiny_1_0_options);
    tiny_1_0_context *context;
    int seen = 0;
    EXPECT(TINY_1_0_ARGUMENT, tiny_1_0_create(NULL, NULL));
    EXPECT(TINY_1_0_ARGUMENT, create(0, 1, NULL, NULL));
    EXPECT(TINY_1_0_ARGUMENT, create(size + 8, 1, NULL, NULL));
    EXPECT(TINY_1_0_ARGUMENT, create(offsetof(tiny_1_0_options, cpu_count), 1, NULL, NULL));
    EXPECT(TINY_1_0_ARGUMENT, create(size, -1, NULL, NULL));
    EXPECT(TINY_1_0_ARGUMENT, create(size, TINY_1_0_MAX_THREADS + 1, NULL, NULL));
    EXPECT(TINY_1_0_INSTRUCTION_SET, create(size, 1, "", NULL));
    EXPECT(TINY_1_0_INSTRUCTION_SET, create(size, 1, "v4", NULL));
    EXPECT(TINY_1_0_OK, create(size, 0, "v2", NULL));
    EXPECT(TINY_1_0_OK, create(size, 40, NULL, NULL));
    EXPECT(TINY_1_0_INSTRUCTION_SET, create(offsetof(tiny_1_0_options, cpus), 1, "v9", NULL)); /* of an earlier header */

    const int none[] = {-1, 1 << 20}, some[] = {0, -1};
    EXPECT(TINY_1_0_OK, create_on(3, some, 1, NULL));
    EXPECT(TINY_1_0_CPUS, create_on(1, none, 1, NULL));
    EXPECT(TINY_1_0_CPUS, create_on(2, none + 1, 1, NULL));
    EXPECT(TINY_1_0_CPUS, create_on(1, some, 2, NULL));
    EXPECT(TINY_1_0_ARGUMENT, create_on(1, some, 0, NULL));
    EXPECT(TINY_1_0_ARGUMENT, create_on(1, some, -1, NULL));
    EXPECT(TINY_1_0_ARGUMENT, create_on(1, NULL, 1, NULL));

    EXPECT(TINY_1_0_OK, tiny_1_0_create(NULL, &context));
    EXPECT(1, tiny_1_0_threads(context));
    EXPECT(0, strcmp(tiny_1_0_instruction_set(context), "v2"));
    EXPECT(TINY_1_0_ARGUMENT, create(size, 2, NULL, context));
    EXPECT(TINY_1_0_OK, create(size, 1, NULL, context));
    EXPECT(TINY_1_0_ARGUMENT, create_on(1, some, 1, context));
    EXPECT(TINY_1_0_ARGUMENT, tiny_1_0_run(NULL, input, logits));
    EXPECT(TINY_1_0_ARGUMENT, tiny_1_0_run(context, NULL, logits));
    EXPECT(TINY_1_0_ARGUMENT, tiny_1_0_run(context, input, NULL));
    EXPECT(TINY_1_0_ARGUMENT, tiny_1_0_run(context, (const float *)(const void *)((const char *)input + 1), logits));
    EXPECT(TINY_1_0_ARGUMENT, tiny_1_0_run(context, input, (float *)(void *)((char *)logits + 2)));
    EXPECT(TINY_1_0_OK, tiny_1_0_run(context, input + 1, logits + 1));
    EXPECT(TINY_1_0_ARGUMENT, tiny_1_0_run_rgb(context, NULL, logits));
    EXPECT(TINY_1_0_OK, tiny_1_0_run_rgb(context, rgb, logits));
    misuse_images(context);
    EXPECT(TINY_1_0_ARGUMENT, tiny_1_0_observe(NULL, ignore, &seen));
    EXPECT(TINY_1_0_OK, tiny_1_0_observe(context, ignore, &seen));
    EXPECT(TINY_1_0_OK, tiny_1_0_run(context, input, logits));
    EXPECT(TINY_1_0_OK, tiny_1_0_observe(context, NULL, NULL));
    EXPECT(TINY_1_0_OK, tiny_1_0_run(context, input, logits));
    EXPECT(3, seen);
    for (size_t i = 0; i < sizeof input / sizeof *input; i++) input[i] = 1e9f;
    EXPECT(TINY_1_0_KERNEL, tiny_1_0_run(context, input, logits));
    EXPECT(0, tiny_1_0_threads(NULL));
    EXPECT(1, tiny_1_0_instruction_set(NULL) == NULL);
    EXPECT(1, tiny_1_0_message(-7) != NULL);
    ask_for_shapes();
    tiny_1_0_destroy(context);
    tiny_1_0_destroy(NULL);
    printf("every misuse gave its status\n");
    return 0;
}
