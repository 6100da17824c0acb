/*
 * Blocks in bands (section 5.1 of the MobileNetV2 paper): the expansion, or the stem, the depthwise convolution and the projection
 * run one after the other for a few rows at a time. What is between them lies in the thread's scratch and never exists whole.
 *
 * A task is a band. The depthwise convolution reads a ring of rows: row r of its input lies at r modulo the ring's rows, as many
 * as a band reads. So the rows that two bands share are where the next one looks for them, and only the others are expanded,
 * unless the band before was another thread's. The kernels are those of whole maps, whose tasks are bands in equal runs, the
 * expansion's rows; a pointer to what is in scratch is moved back by all that lies before this band in the whole map.
 */
#include "runtime.h"

#include <stdatomic.h>
#include <string.h>

enum { MOST_OPERANDS = 5, RING = 64 /* bytes from the start of a thread's scratch, where its progress is noted */ };

/* The band that follows a thread's last one, or -1 where there was none; the first row that its ring lacks then. */
struct progress {
    int32_t next, row;
};

/* A band of an image: its number among all images' bands, and the first row of the depthwise convolution's input that it reads. */
struct band {
    int32_t task, image, first;
};

static void *moved_back(char *place, int32_t count, size_t bytes) { return (void *)((uintptr_t)place - (size_t)count * bytes); }

/* The part of so many equal parts of a layer's tasks, with `read` and `written` for its first and last operand where they are
 * not null. */
static int32_t compute(const struct mnv2c_bands *bands, int layer, void *read, void *written, char *scratch, int32_t part,
                       int32_t parts)
{
    const struct mnv2c_compiled *compiled = bands->kernels[layer];
    int output = bands->steps[layer].output;
    int32_t tasks = compiled->tasks / parts;
    void *operands[MOST_OPERANDS];
    for (int i = 0; i <= output; i++) operands[i] = bands->operands[layer][i];
    if (read != NULL) operands[0] = read;
    if (written != NULL) operands[output] = written;
    return compiled->kernel(operands, scratch + bands->chain->scratch, part * tasks, (part + 1) * tasks);
}

/* One row of the depthwise convolution's input, into its place in the ring. */
static int32_t expand(const struct mnv2c_bands *bands, char *scratch, int32_t image, int32_t row)
{
    const struct mnv2c_chain *chain = bands->chain;
    char *place = scratch + RING + (size_t)(row % chain->window) * chain->pitch;
    int32_t inside = row - chain->top, number = image * chain->height + inside;
    if (inside < 0 || inside >= chain->height) {
        memset(place, 0, chain->pitch);
        return 0;
    }
    void *written = moved_back(place + chain->left, number, chain->inside);
    return compute(bands, 0, NULL, written, scratch, number, chain->images * chain->height);
}

/* For an observer: what the band adds to the maps between the layers. */
static void keep(const struct mnv2c_bands *bands, int layer, const char *scratch, const struct band *band)
{
    const struct mnv2c_chain *chain = bands->chain;
    char *map = mnv2c_bands_map(bands, layer);
    if (layer > 0 || chain->layers == 2) {
        memcpy(map + (size_t)band->task * chain->band, scratch + chain->filtered, chain->band);
        return;
    }
    int is_last = (band->task + 1) % chain->bands == 0;
    int32_t end = band->first + (is_last ? chain->window : chain->step); /* the other rows are the next band's */
    for (int32_t row = band->first; row < end; row++)
        memcpy(map + ((size_t)band->image * (size_t)chain->rows + (size_t)row) * chain->pitch,
               scratch + RING + (size_t)(row % chain->window) * chain->pitch, chain->pitch);
}

/* Notes for an observer how long a layer took, and what it wrote. */
static void note(struct mnv2c_bands *bands, int layer, const char *scratch, const struct band *band, uint64_t *since)
{
    if (bands->maps == NULL) return;
    atomic_fetch_add_explicit(&bands->nanoseconds[layer], mnv2c_now() - *since, memory_order_relaxed);
    if (layer < bands->chain->layers - 1) keep(bands, layer, scratch, band);
    *since = mnv2c_now();
}

static int32_t compute_band(struct mnv2c_bands *bands, char *scratch, const struct band *band, int32_t *row)
{
    const struct mnv2c_chain *chain = bands->chain;
    int depthwise = chain->layers - 2, project = chain->layers - 1;
    int32_t tasks = chain->images * chain->bands;
    uint64_t since = bands->maps == NULL ? 0 : mnv2c_now();
    void *read = NULL, *filtered = moved_back(scratch + chain->filtered, band->task, chain->band);
    if (depthwise > 0) {
        for (; *row < band->first + chain->window; ++*row)
            if (expand(bands, scratch, band->image, *row) != 0) return 1;
        note(bands, 0, scratch, band, &since);
        read = moved_back(scratch + RING, band->image, (size_t)chain->window * chain->pitch);
    }
    if (compute(bands, depthwise, read, filtered, scratch, band->task, tasks) != 0) return 1;
    note(bands, depthwise, scratch, band, &since);
    if (compute(bands, project, filtered, NULL, scratch, band->task, tasks) != 0) return 1;
    note(bands, project, scratch, band, &since);
    return 0;
}

/* As a kernel: its one operand is what runs. */
static int32_t compute_bands(void *const *operands, void *memory, int32_t begin, int32_t end)
{
    struct mnv2c_bands *bands = operands[0];
    const struct mnv2c_chain *chain = bands->chain;
    char *scratch = memory;
    struct progress *progress = memory;
    if (progress->next < 0) memset(scratch + RING, 0, chain->filtered - RING); /* the zeros left and right stay */
    for (int32_t task = begin; task < end; task++) {
        struct band band = {task, task / chain->bands, task % chain->bands * chain->step};
        int goes_on = task == progress->next && band.first > 0;
        int32_t row = goes_on ? progress->row : band.first;
        if (compute_band(bands, scratch, &band, &row) != 0) return 1;
        *progress = (struct progress){task + 1, row};
    }
    return 0;
}

int mnv2c_bands_run(struct mnv2c_bands *bands, struct mnv2c_pool *pool, char *scratch, size_t scratch_stride)
{
    const struct mnv2c_chain *chain = bands->chain;
    struct mnv2c_compiled compiled = {compute_bands, chain->images * chain->bands, chain->grain};
    struct mnv2c_job job = {&compiled, (void *const[]){bands}, scratch, scratch_stride};
    for (int thread = 0; thread < mnv2c_pool_threads(pool); thread++)
        *(struct progress *)(scratch + (size_t)thread * scratch_stride) = (struct progress){-1, 0};
    return mnv2c_pool_run(pool, &job);
}

char *mnv2c_bands_map(const struct mnv2c_bands *bands, int layer)
{
    const struct mnv2c_chain *chain = bands->chain;
    return bands->maps + (layer == 0 ? 0 : (size_t)chain->images * (size_t)chain->rows * chain->pitch);
}
