/* Eight threads, each with a context of its own, and four more: two on one shared pool, two on one context. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tiny_1_0.h"

enum { PIXELS = TINY_1_0_HEIGHT * TINY_1_0_WIDTH * TINY_1_0_CHANNELS, JOBS = 12 };

struct job {
    tiny_1_0_context *context;
    int seed, rounds, failed;
    float input[PIXELS], expected[TINY_1_0_CLASSES];
};

static void check(int status)
{
    if (status == TINY_1_0_OK) return;
    fprintf(stderr, "%s\n", tiny_1_0_message(status));
    exit(1);
}

static tiny_1_0_context *create(int threads, tiny_1_0_context *share)
{
    tiny_1_0_options options = TINY_1_0_OPTIONS_INIT;
    tiny_1_0_context *context;
    options.threads = threads;
    options.share_threads_with = share;
    check(tiny_1_0_create(&options, &context));
    return context;
}

static void *run(void *argument)
{
    struct job *job = argument;
    for (int i = 0; i < job->rounds; i++) {
        float logits[TINY_1_0_CLASSES];
        check(tiny_1_0_run(job->context, job->input, logits));
        if (memcmp(logits, job->expected, sizeof logits) != 0) job->failed = 1;
    }
    return NULL;
}

int main(int argc, char **argv)
{
    static struct job jobs[JOBS];
    pthread_t threads[JOBS];
    int failed = 0, rounds = argc > 1 ? atoi(argv[1]) : 200;
    tiny_1_0_context *owner = create(3, NULL), *sharer = create(0, owner), *common = create(2, NULL);
    tiny_1_0_context *single = create(1, NULL);
    for (int i = 0; i < JOBS; i++) {
        jobs[i].rounds = rounds;
        for (int k = 0; k < PIXELS; k++) jobs[i].input[k] = (float)((k * 31 + i * 17) % 101) / 50 - 1;
        check(tiny_1_0_run(single, jobs[i].input, jobs[i].expected));
        jobs[i].context = i < 8 ? create(1 + i % 3, NULL) : i == 8 ? owner : i == 9 ? sharer : common;
    }
    tiny_1_0_destroy(single);
    for (int i = 0; i < JOBS; i++)
        if (pthread_create(&threads[i], NULL, run, &jobs[i]) != 0) return 1;
    for (int i = 0; i < JOBS; i++) pthread_join(threads[i], NULL);
    for (int i = 0; i < JOBS; i++) failed += jobs[i].failed;
    for (int i = 0; i < 8; i++) tiny_1_0_destroy(jobs[i].context);
    tiny_1_0_destroy(owner); /* the pool lives on in the sharer */
    check(tiny_1_0_run(sharer, jobs[9].input, jobs[9].expected));
    tiny_1_0_destroy(sharer);
    tiny_1_0_destroy(common);
    printf("%d of %d threads got wrong numbers\n", failed, JOBS);
    return failed != 0;
}
