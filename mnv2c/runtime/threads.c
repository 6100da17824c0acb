/*
 * A pool of threads that share a layer's tasks. The caller of run is one of them, so a pool of one has no thread at all.
 *
 * The caller publishes a job as one 64-bit ticket: a generation, and the number of tasks that nobody has taken. Whoever
 * lowers that number owns the tasks. A thread that wakes late finds none left and costs nothing: the caller waits for tasks,
 * never for threads. Thread sanitizer understands this; helgrind, which knows mutexes but not C11 atomics, does not.
 */
#define _POSIX_C_SOURCE 200809L /* pthread_sigmask */
#include "runtime.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

/* Looks at the ticket before a thread sleeps: some 0.1 ms, longer than a serial layer takes, shorter than a wait for input. */
enum { SPINS = 4000, LINE = 64 };

struct worker {
    struct mnv2c_pool *pool;
    int index; /* the caller is 0 */
    pthread_t thread;
};

struct mnv2c_pool {
    pthread_mutex_t turn; /* held for a whole run */
    pthread_mutex_t lock; /* around both conditions, and for `references` */
    pthread_cond_t wake;  /* there are tasks, or it is time to end */
    pthread_cond_t done;  /* the last task is done */
    struct worker *workers;
    int threads, started, references, spins;

    /* The job. Written only while no task is left or running, so whoever owns a task reads it unchanged. */
    _Alignas(LINE) _Atomic(const struct mnv2c_job *) job;
    atomic_int sharers; /* how many threads the job is worth */
    atomic_int failed;

    _Alignas(LINE) _Atomic uint64_t ticket; /* generation << 32 | tasks left */
    _Alignas(LINE) atomic_int pending;      /* tasks not yet done */
    atomic_int sleepers;                    /* threads that wait for `wake` */
    atomic_int waiting;                     /* whether the caller waits for `done` */
    atomic_int ending;
};

static void pause_briefly(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static int32_t tasks_left(uint64_t ticket) { return (int32_t)(uint32_t)ticket; }

static int compute(const struct mnv2c_job *job, int thread, int32_t begin, int32_t end)
{
    const struct mnv2c_operands *o = &job->operands;
    float *scratch = (float *)(void *)(job->scratch + (size_t)thread * job->scratch_stride);
    return job->work->kernel(o->input, o->weight, o->bias, o->residual, o->output, scratch, begin, end);
}

/*
 * Takes tasks: large pieces first, for few exchanges and neighbouring memory; small ones last, so that all end together.
 * What is read of the job before the exchange may belong to the next one, but then the exchange fails.
 */
static int32_t take(struct mnv2c_pool *pool, int32_t *left)
{
    uint64_t ticket = atomic_load_explicit(&pool->ticket, memory_order_acquire);
    while (tasks_left(ticket) > 0) {
        int32_t share = tasks_left(ticket) / (2 * atomic_load_explicit(&pool->sharers, memory_order_relaxed));
        int32_t count = share > 1 ? share : 1;
        if (atomic_compare_exchange_weak_explicit(&pool->ticket, &ticket, ticket - (uint64_t)count, memory_order_acq_rel,
                                                  memory_order_acquire)) {
            *left = tasks_left(ticket);
            return count;
        }
    }
    return 0;
}

static void take_part(struct mnv2c_pool *pool, int thread)
{
    int32_t left, count;
    while ((count = take(pool, &left)) > 0) {
        const struct mnv2c_job *job = atomic_load_explicit(&pool->job, memory_order_relaxed);
        int32_t begin = job->work->tasks - left;
        if (compute(job, thread, begin, begin + count) != 0) atomic_store(&pool->failed, 1);
        if (atomic_fetch_sub(&pool->pending, count) == count && atomic_load(&pool->waiting)) {
            pthread_mutex_lock(&pool->lock);
            pthread_cond_signal(&pool->done);
            pthread_mutex_unlock(&pool->lock);
        }
    }
}

static int has_tasks(struct mnv2c_pool *pool) { return tasks_left(atomic_load(&pool->ticket)) > 0; }

/* Spins, then sleeps, until there are tasks; 0 when it is time to end. */
static int wait_for_tasks(struct mnv2c_pool *pool)
{
    for (int i = 0; i < pool->spins && !atomic_load_explicit(&pool->ending, memory_order_relaxed); i++) {
        if (has_tasks(pool)) return 1;
        pause_briefly();
    }
    pthread_mutex_lock(&pool->lock);
    atomic_fetch_add(&pool->sleepers, 1); /* before the last look: the caller looks for sleepers after it publishes */
    while (!has_tasks(pool) && !atomic_load(&pool->ending)) pthread_cond_wait(&pool->wake, &pool->lock);
    atomic_fetch_sub(&pool->sleepers, 1);
    pthread_mutex_unlock(&pool->lock);
    return !atomic_load(&pool->ending);
}

static void *work(void *argument)
{
    const struct worker *self = argument;
    while (wait_for_tasks(self->pool)) take_part(self->pool, self->index);
    return NULL;
}

static void wait_for_done(struct mnv2c_pool *pool)
{
    for (int i = 0; i < pool->spins; i++) {
        if (atomic_load_explicit(&pool->pending, memory_order_acquire) == 0) return;
        pause_briefly();
    }
    pthread_mutex_lock(&pool->lock);
    atomic_store(&pool->waiting, 1); /* before the last look, as above */
    while (atomic_load(&pool->pending) > 0) pthread_cond_wait(&pool->done, &pool->lock);
    atomic_store(&pool->waiting, 0);
    pthread_mutex_unlock(&pool->lock);
}

static void wake_all(struct mnv2c_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
}

int mnv2c_pool_run(struct mnv2c_pool *pool, const struct mnv2c_job *job)
{
    int32_t tasks = job->work->tasks;
    int32_t worth = tasks / (job->work->grain > 0 ? job->work->grain : 1);
    if (worth < 2 || pool->threads < 2) return compute(job, 0, 0, tasks) == 0 ? MNV2C_OK : MNV2C_KERNEL;

    atomic_store_explicit(&pool->job, job, memory_order_relaxed);
    atomic_store_explicit(&pool->sharers, worth < pool->threads ? worth : pool->threads, memory_order_relaxed);
    atomic_store_explicit(&pool->failed, 0, memory_order_relaxed);
    atomic_store_explicit(&pool->pending, tasks, memory_order_relaxed);
    uint64_t generation = (atomic_load(&pool->ticket) >> 32) + 1;
    atomic_store(&pool->ticket, generation << 32 | (uint32_t)tasks);
    if (atomic_load(&pool->sleepers) > 0) wake_all(pool);
    take_part(pool, 0);
    wait_for_done(pool);
    return atomic_load(&pool->failed) ? MNV2C_KERNEL : MNV2C_OK;
}

/* Signals are for the program's own threads. */
static int start_workers(struct mnv2c_pool *pool)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (pool->started = 0; pool->started < pool->threads - 1; pool->started++) {
        struct worker *worker = &pool->workers[pool->started];
        worker->pool = pool;
        worker->index = pool->started + 1;
        if (pthread_create(&worker->thread, NULL, work, worker) != 0) break;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return pool->started == pool->threads - 1 ? MNV2C_OK : MNV2C_THREADS;
}

static void end(struct mnv2c_pool *pool)
{
    atomic_store(&pool->ending, 1);
    wake_all(pool);
    for (int i = 0; i < pool->started; i++) pthread_join(pool->workers[i].thread, NULL);
    pthread_cond_destroy(&pool->done);
    pthread_cond_destroy(&pool->wake);
    pthread_mutex_destroy(&pool->lock);
    pthread_mutex_destroy(&pool->turn);
    free(pool->workers);
    free(pool);
}

int mnv2c_pool_create(int threads, struct mnv2c_pool **result)
{
    struct mnv2c_pool *pool = aligned_alloc(LINE, sizeof *pool);
    struct worker *workers = calloc((size_t)threads, sizeof *workers);
    if (pool == NULL || workers == NULL) {
        free(pool);
        free(workers);
        return MNV2C_MEMORY;
    }
    /* Spinning for a thread that cannot run yet only keeps it from running. */
    int spins = threads <= sysconf(_SC_NPROCESSORS_ONLN) ? SPINS : 0;
    *pool = (struct mnv2c_pool){.workers = workers, .threads = threads, .references = 1, .spins = spins};
    pthread_mutex_init(&pool->turn, NULL); /* on Linux these four cannot fail with default attributes */
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->wake, NULL);
    pthread_cond_init(&pool->done, NULL);
    int status = start_workers(pool);
    if (status != MNV2C_OK) {
        end(pool);
        return status;
    }
    *result = pool;
    return MNV2C_OK;
}

void mnv2c_pool_share(struct mnv2c_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    pool->references++;
    pthread_mutex_unlock(&pool->lock);
}

void mnv2c_pool_release(struct mnv2c_pool *pool)
{
    if (pool == NULL) return;
    pthread_mutex_lock(&pool->lock);
    int references = --pool->references;
    pthread_mutex_unlock(&pool->lock);
    if (references == 0) end(pool);
}

int mnv2c_pool_threads(const struct mnv2c_pool *pool) { return pool->threads; }

void mnv2c_pool_enter(struct mnv2c_pool *pool) { pthread_mutex_lock(&pool->turn); }

void mnv2c_pool_leave(struct mnv2c_pool *pool) { pthread_mutex_unlock(&pool->turn); }
