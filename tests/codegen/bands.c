/*
 * bands.c by itself, with kernels whose results are known: blocks with and without an expansion, both strides, bands of one row
 * and of more, two images, as many threads as may be; and with an observer, who is shown the maps in between.
 *
 * Some bands are slow, so that others are stolen: then the rows they share with the band before must be expanded again. The scratch
 * is as large as its sizes say, and full of what was there before.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "runtime.h"

enum { IMAGES = 2, HEIGHT = 28, WIDTH = 5, LEFT = 1, RIGHT = 2, PITCH = LEFT + WIDTH + RIGHT, TOP = 1, ROWS = TOP + HEIGHT + 1, WIDE = 3 };
enum { RING = 64, KERNEL = 64, MOST_THREADS = 8 };

static int run, stride, rows, out_height, ring_rows, wrong;

uint64_t mnv2c_now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static int expanded(int image, int row, int column) { return ((run * IMAGES + image) * HEIGHT + row) * WIDTH + column + 1; }

static int padded(int image, int row, int column)
{
    int inside = row >= TOP && row < TOP + HEIGHT && column >= LEFT && column < LEFT + WIDTH;
    return inside ? expanded(image, row - TOP, column - LEFT) : 0;
}

static int filtered(int image, int row, int column)
{
    int sum = 0;
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < PITCH; j++) sum += (i + 1) * (column + 1) * padded(image, row * stride + i, j);
    return sum;
}

/* Two tasks a row. */
static int32_t expand(void *const *operands, void *scratch, int32_t begin, int32_t end)
{
    memset(scratch, 1, KERNEL);
    for (int task = begin; task < end; task++) {
        int row = task / 2, half = WIDTH / 2;
        for (int x = task % 2 ? half : 0; x < (task % 2 ? WIDTH : half); x++)
            ((int *)operands[1])[row * WIDTH + x] = expanded(row / HEIGHT, row % HEIGHT, x) + *(const int *)operands[0];
    }
    return 0;
}

/* A task a row. */
static int32_t depthwise(void *const *operands, void *scratch, int32_t begin, int32_t end)
{
    memset(scratch, 2, KERNEL);
    for (int task = begin; task < end; task++) {
        int image = task / out_height, row = task % out_height;
        const int *input = (const int *)operands[0] + image * ring_rows * PITCH;
        for (int x = 0; x < WIDE; x++) {
            int sum = 0;
            for (int i = 0; i < 3; i++)
                for (int j = 0; j < PITCH; j++) sum += (i + 1) * (x + 1) * input[(row * stride + i) % ring_rows * PITCH + j];
            ((int *)operands[1])[task * WIDE + x] = sum;
        }
        for (volatile int work = task % 5 == 0 ? 20000 : 0; work > 0; work--) {}
    }
    return 0;
}

/* A task a row, and a residual. */
static int32_t project(void *const *operands, void *scratch, int32_t begin, int32_t end)
{
    memset(scratch, 3, KERNEL);
    for (int i = begin * WIDE; i < end * WIDE; i++)
        ((int *)operands[2])[i] = ((const int *)operands[0])[i] + ((const int *)operands[1])[i];
    return 0;
}

static void check(const char *what, int is_right)
{
    if (is_right) return;
    fprintf(stderr, "stride %d, bands of %d, run %d: %s\n", stride, rows, run, what);
    wrong = 1;
}

static size_t aligned(size_t bytes) { return (bytes + 63) / 64 * 64; }

static void run_block(struct mnv2c_pool *pool, int layers, int observed)
{
    static int map[IMAGES][ROWS][PITCH], residual[IMAGES * HEIGHT * WIDE], output[IMAGES * HEIGHT * WIDE];
    out_height = (ROWS - 3) / stride + 1;
    int window = (rows - 1) * stride + 3, zero = 0, bands_each = out_height / rows;
    ring_rows = layers == 3 ? window : ROWS;
    size_t band = (size_t)(rows * WIDE) * sizeof(int), pitch = PITCH * sizeof(int);
    size_t ring = layers == 3 ? RING + aligned((size_t)window * pitch) : RING, kernels_at = ring + aligned(band);
    struct mnv2c_chain chain = {layers, IMAGES, bands_each, 1, rows * stride, window, TOP, HEIGHT, ROWS, LEFT * sizeof(int),
                                WIDTH * sizeof(int), pitch, band, ring, kernels_at};
    struct mnv2c_compiled compiled[] = {
        {expand, IMAGES * HEIGHT * 2, 1}, {depthwise, IMAGES * out_height, 1}, {project, IMAGES * out_height, 1}};
    const struct mnv2c_compiled *kernels[] = {&compiled[0], &compiled[1], &compiled[2]};
    struct mnv2c_step steps[3] = {{.output = 1}, {.output = 1}, {.output = 2}};
    void *const *operands[] = {(void *const[]){&zero, NULL}, (void *const[]){layers == 3 ? NULL : map, NULL},
                               (void *const[]){NULL, residual, output}};
    int skipped = 3 - layers, threads = mnv2c_pool_threads(pool);
    size_t map_bytes = layers == 3 ? sizeof map : 0, stride_bytes = kernels_at + KERNEL;
    char *scratch = aligned_alloc(64, (size_t)threads * stride_bytes);
    char *maps = observed ? malloc(map_bytes + (size_t)(IMAGES * out_height * WIDE) * sizeof(int)) : NULL;
    if (scratch == NULL || (observed && maps == NULL)) exit(2);
    memset(scratch, 0x55, (size_t)threads * stride_bytes);
    if (observed) memset(maps, 0, map_bytes);
    for (int image = 0; image < IMAGES; image++)
        for (int row = 0; row < ROWS; row++)
            for (int x = 0; x < PITCH; x++) map[image][row][x] = padded(image, row, x);
    for (int i = 0; i < IMAGES * HEIGHT * WIDE; i++) residual[i] = i * 7, output[i] = -1;

    struct mnv2c_bands bands = {&chain, steps + skipped, kernels + skipped, operands + skipped, maps, {0}};
    if (layers == 2) chain.rows = 0, chain.pitch = 0; /* as the driver has it: there is no map in between */
    mnv2c_pool_enter(pool);
    check("status", mnv2c_bands_run(&bands, pool, scratch, stride_bytes) == MNV2C_OK);
    mnv2c_pool_leave(pool);

    for (int i = 0; i < IMAGES * out_height * WIDE; i++) {
        int row = i / WIDE, value = filtered(row / out_height, row % out_height, i % WIDE);
        check("an output", output[i] == value + residual[i]);
        if (observed) check("a map of the depthwise convolution", ((int *)mnv2c_bands_map(&bands, layers - 2))[i] == value);
    }
    if (observed && layers == 3) check("a map of the expansion", memcmp(mnv2c_bands_map(&bands, 0), map, sizeof map) == 0);
    if (observed) check("a time", bands.nanoseconds[0] > 0 && bands.nanoseconds[layers - 1] > 0);
    free(maps);
    free(scratch);
}

int main(int argc, char **argv)
{
    int rounds = argc > 1 ? atoi(argv[1]) : 1;
    static const int threads[] = {1, 2, MOST_THREADS}, heights[] = {1, 2, 7, 14};
    for (int i = 0; i < 3; i++) {
        struct mnv2c_pool *pool;
        if (mnv2c_pool_create(threads[i], NULL, 0, &pool) != MNV2C_OK) return 2;
        for (run = 0; run < rounds; run++)
            for (stride = 1; stride <= 2; stride++)
                for (int j = 0; j < 4; j++) {
                    rows = heights[j];
                    for (int kind = 0; kind < 4; kind++) run_block(pool, 2 + kind % 2, kind / 2);
                }
        mnv2c_pool_release(pool);
    }
    if (!wrong) printf("every band is right\n");
    return wrong;
}
