/* What a library for GPUs can do beside run: enqueue on the caller's stream, in the caller's graph; and every misuse of it. */
#include <pthread.h>
#include <string.h>

#include "driver.h"
#include "mnv2_0_35.h"

enum { PIXELS = MNV2_0_35_HEIGHT * MNV2_0_35_WIDTH * MNV2_0_35_CHANNELS, CLASSES = MNV2_0_35_LOGITS_SIZE };

static float image[PIXELS], expected[CLASSES], logits[CLASSES];
static uint8_t rgb[PIXELS];

static void expect_logits(int line)
{
    if (memcmp(logits, expected, sizeof logits) == 0) return;
    printf("line %d: other logits\n", line);
    exit(1);
}

static void *run_often(void *unused)
{
    static int wrong = 1;
    float own[CLASSES];
    mnv2_0_35_context *context;
    (void)unused;
    if (mnv2_0_35_create(NULL, &context) != MNV2_0_35_OK) return &wrong;
    for (int i = 0; i < 3; i++)
        if (mnv2_0_35_run(context, image, own) != MNV2_0_35_OK || memcmp(own, expected, sizeof own) != 0) return &wrong;
    mnv2_0_35_destroy(context);
    return NULL;
}

int main(void)
{
    mnv2_0_35_context *context;
    void *stream, *graph, *executable, *result[2];
    uint64_t input, bytes, output;
    pthread_t threads[2];
    for (int i = 0; i < PIXELS; i++) rgb[i] = (uint8_t)(i * 7), image[i] = (float)(rgb[i] - 127.5) / 127.5f;

    OK(mnv2_0_35_create(NULL, &context));
    OK(mnv2_0_35_run(context, image, expected));
    find_driver();
    OK(make_stream(&stream, 1));
    OK(allocate(&input, sizeof image));
    OK(allocate(&bytes, sizeof rgb));
    OK(allocate(&output, sizeof logits));

    OK(to_device(input, image, sizeof image, stream));
    OK(mnv2_0_35_enqueue(context, (const float *)input, (float *)output, stream));
    OK(to_host(logits, output, sizeof logits, stream));
    OK(wait_for(stream));
    expect_logits(__LINE__);

    OK(mnv2_0_35_run_rgb(context, rgb, expected));
    OK(to_device(bytes, rgb, sizeof rgb, stream));
    OK(mnv2_0_35_enqueue_rgb(context, (const uint8_t *)bytes, (float *)output, stream));
    OK(to_host(logits, output, sizeof logits, stream));
    OK(wait_for(stream));
    expect_logits(__LINE__);

    memset(logits, 0, sizeof logits);
    OK(begin_capture(stream, 1));
    OK(mnv2_0_35_enqueue_rgb(context, (const uint8_t *)bytes, (float *)output, stream));
    OK(to_host(logits, output, sizeof logits, stream));
    OK(end_capture(stream, &graph));
    OK(instantiate(&executable, graph, 0));
    OK(launch_graph(executable, stream));
    OK(wait_for(stream));
    expect_logits(__LINE__);

    EXPECT(MNV2_0_35_ARGUMENT, mnv2_0_35_enqueue(context, NULL, (float *)output, stream));
    EXPECT(MNV2_0_35_ARGUMENT, mnv2_0_35_enqueue(NULL, (const float *)input, (float *)output, stream));
    EXPECT(MNV2_0_35_DEVICE_POINTER, mnv2_0_35_enqueue(context, image, (float *)output, stream));
    EXPECT(MNV2_0_35_DEVICE_POINTER, mnv2_0_35_enqueue(context, (const float *)input, logits, stream));
    OK(pop(&stream));

    OK(mnv2_0_35_run(context, image, expected));
    for (int i = 0; i < 2; i++) OK(pthread_create(&threads[i], NULL, run_often, NULL));
    for (int i = 0; i < 2; i++) pthread_join(threads[i], &result[i]);
    if (result[0] != NULL || result[1] != NULL) return printf("a context in a thread of its own failed\n"), 1;
    mnv2_0_35_destroy(context);
    printf("streams, graphs and threads: all as they should\n");
    return 0;
}
