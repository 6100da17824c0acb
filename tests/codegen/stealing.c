/*
 * The pool of threads by itself, with kernels that watch it: jobs of one task and of many, whose tasks take very unequal times,
 * shared by fewer threads than there are and by all. In each job one task waits until all others are done, so that the rest of
 * its share must be stolen. Each task runs once, what it wrote is seen by whoever runs it next, and no two threads share scratch.
 *
 * The counters are relaxed: nothing here orders the threads but the pool, so that thread sanitizer finds what it forgets.
 */
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "runtime.h"

enum { MOST_TASKS = 1000, MOST_THREADS = 8, STRIDE = 64, DEADLINE = 300 /* seconds: a job that is never done */ };

static int runs[MOST_TASKS]; /* how often each task ran, ever; not atomic */
static atomic_int done;      /* tasks of this job */
static int tasks, slow, refused, wrong;

static void more(atomic_int *counter, int by) { atomic_fetch_add_explicit(counter, by, memory_order_relaxed); }

static int32_t watch(void *const *operands, void *scratch, int32_t begin, int32_t end)
{
    int *mine = scratch, status = 0;
    if (operands != (void *const *)runs || begin < 0 || begin >= end || end > tasks) exit(2);
    for (int32_t task = begin; task < end; task++) {
        for (volatile int work = task % 13 == 0 ? 5000 : 0; work > 0; work--) {}
        *mine = task;
        runs[task]++;
        if (*mine != task) exit(3);
        status |= task == refused;
    }
    if (begin <= slow && slow < end)
        while (atomic_load_explicit(&done, memory_order_relaxed) < tasks - (end - begin)) sched_yield();
    more(&done, end - begin);
    return status;
}

static void check(const char *what, int found, int expected)
{
    if (found == expected) return;
    fprintf(stderr, "%d tasks, %d waits: %s %d in place of %d\n", tasks, slow, what, found, expected);
    wrong = 1;
}

static void run(struct mnv2c_pool *pool, char *scratch, int grain)
{
    struct mnv2c_compiled compiled = {watch, tasks, grain};
    struct mnv2c_job job = {&compiled, (void *const *)runs, scratch, STRIDE};
    int before[MOST_TASKS];
    for (int task = 0; task < tasks; task++) before[task] = runs[task];
    atomic_store_explicit(&done, 0, memory_order_relaxed);
    mnv2c_pool_enter(pool);
    int status = mnv2c_pool_run(pool, &job);
    mnv2c_pool_leave(pool);
    check("status", status, 0 <= refused && refused < tasks ? MNV2C_KERNEL : MNV2C_OK);
    check("tasks done", atomic_load_explicit(&done, memory_order_relaxed), tasks);
    for (int task = 0; task < tasks; task++) check("times that a task ran", runs[task] - before[task], 1);
}

int main(int argc, char **argv)
{
    static const int sizes[] = {1, 2, 3, 4, 5, 7, 8, 9, 64, 65, MOST_TASKS}, grains[] = {1, 2, 3, 50};
    static _Alignas(STRIDE) char scratch[MOST_THREADS * STRIDE];
    int rounds = argc > 1 ? atoi(argv[1]) : 1;
    unsigned draw = 1;
    alarm(DEADLINE);
    for (int threads = 1; threads <= MOST_THREADS; threads += threads < 4 ? 1 : 4) {
        struct mnv2c_pool *pool;
        if (mnv2c_pool_create(threads, NULL, 0, &pool) != MNV2C_OK) return 4;
        for (int round = 0; round < rounds; round++)
            for (size_t size = 0; size < sizeof sizes / sizeof *sizes; size++)
                for (size_t grain = 0; grain < sizeof grains / sizeof *grains; grain++) {
                    draw = draw * 1664525 + 1013904223;
                    tasks = sizes[size];
                    slow = (int)(draw >> 8) % tasks;
                    refused = round % 8 == 7 ? (int)(draw >> 12) % tasks : -1;
                    run(pool, scratch, grains[grain]);
                }
        mnv2c_pool_release(pool);
    }
    printf("%s\n", wrong ? "wrong" : "each task ran once");
    return wrong;
}
