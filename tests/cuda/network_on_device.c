/*
 * Runs a library on a GPU, compares its logits, and times it: network_on_device LIBRARY IDENTIFIER
 * BATCH PIXELS CLASSES IMAGES LOGITS ROUNDS.
 *
 * IMAGES are raw RGB of PIXELS bytes, one after the other, LOGITS the expected floats of each, CLASSES of them; the last batch
 * is filled up with the first images. Times, of ROUNDS runs after as many untimed ones, in us: from host memory to host
 * memory (wall), enqueued on a stream (events), and the same captured into a graph of the caller's.
 */
#define _POSIX_C_SOURCE 200809L /* clock_gettime */
#include <math.h>
#include <string.h>
#include <time.h>

#include "driver.h"

static int (*create)(const void *, void **), (*run_rgb)(void *, const uint8_t *, float *);
static int (*enqueue_rgb)(void *, const uint8_t *, float *, void *);
static const char *(*message)(int), *(*instruction_set)(const void *);

static void *find(void *library, const char *identifier, const char *function)
{
    char symbol[256];
    snprintf(symbol, sizeof symbol, "%s_%s", identifier, function);
    void *found = dlsym(library, symbol);
    if (found == NULL) printf("no %s in the library\n", symbol), exit(1);
    return found;
}

static void check(int status)
{
    if (status != 0) printf("%s\n", message(status)), exit(1);
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e6 + (double)time.tv_nsec / 1e3;
}

static int ascending(const void *one, const void *other)
{
    double difference = *(const double *)one - *(const double *)other;
    return (difference > 0) - (difference < 0);
}

static void tell(const char *what, double *times, int rounds)
{
    qsort(times, (size_t)rounds, sizeof *times, ascending);
    printf("  %s: minimum %.1f us, median %.1f us of %d\n", what, times[0], times[rounds / 2], rounds);
}

static size_t best(const float *logits, size_t classes)
{
    size_t found = 0;
    for (size_t i = 1; i < classes; i++)
        if (logits[i] > logits[found]) found = i;
    return found;
}

/* Compares every image's logits; returns whether all are right: none off by more than `allowed`, nor another best class but
 * for a tie. */
static int is_right(void *context, const char *name, size_t batch, size_t pixels, size_t classes, char **files, float allowed)
{
    size_t bytes, logits_bytes, same = 0;
    char *images = content(files[0], &bytes);
    const float *expected = (const float *)content(files[1], &logits_bytes);
    size_t known = bytes / pixels;
    char *input = malloc(batch * pixels);
    float *logits = malloc(batch * classes * sizeof *logits), worst = 0;
    EXPECT(1, known > 0 && logits_bytes == known * classes * sizeof *logits);
    for (size_t first = 0; first < known; first += batch) {
        for (size_t i = 0; i < batch; i++) memcpy(input + i * pixels, images + (first + i) % known * pixels, pixels);
        check(run_rgb(context, (const uint8_t *)input, logits));
        for (size_t i = 0; i < batch && first + i < known; i++) {
            const float *mine = logits + i * classes, *theirs = expected + (first + i) * classes;
            for (size_t j = 0; j < classes; j++)
                if (!(fabsf(mine[j] - theirs[j]) <= worst)) worst = fabsf(mine[j] - theirs[j]);
            same += theirs[best(theirs, classes)] - theirs[best(mine, classes)] <= allowed;
        }
    }
    printf("%s, batch %zu, %s: %zu images, largest error %.2g, same best class %zu\n", name, batch, instruction_set(context),
           known, worst, same);
    return worst <= allowed && same == known;
}

/* One run, enqueued or as a graph, between events. */
static double between_events(void *context, uint64_t input, uint64_t logits, void *stream, void *graph, void *const *events)
{
    float milliseconds;
    OK(record(events[0], stream));
    if (graph != NULL) OK(launch_graph(graph, stream));
    else check(enqueue_rgb(context, (const uint8_t *)(uintptr_t)input, (float *)(uintptr_t)logits, stream));
    OK(record(events[1], stream));
    OK(wait_for(stream));
    OK(elapsed(&milliseconds, events[0], events[1]));
    return milliseconds * 1e3;
}

static void time_all(void *context, size_t pixels, size_t logits_bytes, int rounds)
{
    uint64_t input, logits;
    void *stream, *events[2], *graph, *executable;
    uint8_t *image = calloc(1, pixels);
    float *back = malloc(logits_bytes);
    double *times = malloc((size_t)rounds * sizeof *times);
    OK(make_stream(&stream, 1));
    OK(make_event(&events[0], 0));
    OK(make_event(&events[1], 0));
    OK(allocate(&input, pixels));
    OK(allocate(&logits, logits_bytes));
    OK(to_device(input, image, pixels, stream));
    OK(wait_for(stream));
    OK(begin_capture(stream, 1));
    check(enqueue_rgb(context, (const uint8_t *)(uintptr_t)input, (float *)(uintptr_t)logits, stream));
    OK(end_capture(stream, &graph));
    OK(instantiate(&executable, graph, 0));
    for (int i = -rounds; i < rounds; i++) {
        double start = now();
        check(run_rgb(context, image, back));
        if (i >= 0) times[i] = now() - start;
    }
    tell("from host to host, wall", times, rounds);
    for (int i = -rounds; i < rounds; i++) {
        double time = between_events(context, input, logits, stream, NULL, events);
        if (i >= 0) times[i] = time;
    }
    tell("enqueued, events", times, rounds);
    for (int i = -rounds; i < rounds; i++) {
        double time = between_events(context, input, logits, stream, executable, events);
        if (i >= 0) times[i] = time;
    }
    tell("in a graph of the caller's, events", times, rounds);
}

int main(int count, char **arguments)
{
    if (count != 10) {
        fprintf(stderr, "usage: %s LIBRARY IDENTIFIER BATCH PIXELS CLASSES IMAGES LOGITS ALLOWED ROUNDS\n", arguments[0]);
        return 2;
    }
    find_driver();
    const char *identifier = arguments[2];
    size_t batch = (size_t)atoi(arguments[3]), pixels = (size_t)atoi(arguments[4]), classes = (size_t)atoi(arguments[5]);
    void *library = dlopen(arguments[1], RTLD_NOW), *context;
    if (library == NULL) return printf("%s\n", dlerror()), 1;
    *(void **)&create = find(library, identifier, "create");
    *(void **)&run_rgb = find(library, identifier, "run_rgb");
    *(void **)&enqueue_rgb = find(library, identifier, "enqueue_rgb");
    *(void **)&message = find(library, identifier, "message");
    *(void **)&instruction_set = find(library, identifier, "instruction_set");
    check(create(NULL, &context));
    int right = is_right(context, identifier, batch, pixels, classes, arguments + 6, strtof(arguments[8], NULL));
    time_all(context, batch * pixels, batch * classes * sizeof(float), atoi(arguments[9]));
    return !right;
}
