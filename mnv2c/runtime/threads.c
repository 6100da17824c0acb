/*
 * A pool of threads that share a layer's tasks. The caller of run is one of them, so a pool of one has no thread at all.
 *
 * The caller cuts a job's tasks into one contiguous share for each thread, so that a thread finds what it wrote for the layer
 * before in its own caches, and publishes the job by a new generation. Each thread takes pieces from the front of its share;
 * one that has nothing left takes them from the ends of the others' shares. Whoever lowers a share by a compare-and-exchange
 * owns the piece. A thread that wakes late finds nothing and costs nothing: the caller waits for tasks, never for threads.
 * Thread sanitizer understands this; helgrind, which knows mutexes but not C11 atomics, does not.
 */
#define _GNU_SOURCE /* pthread_setaffinity_np */
#include "runtime.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

/* Looks at the generation before a thread sleeps: some 0.1 ms, longer than a serial layer takes, shorter than a wait for input.
 * Arm's yield takes a cycle or two, x86's pause 40 to 140. */
#if defined(__x86_64__)
enum { SPINS = 4000 };
#else
enum { SPINS = 16000 };
#endif

enum { LINE = 64 };

/* The smallest piece that a thread takes is this part of a job's grain: some 0.5 us of work for each exchange. */
enum { PIECES = 4 };

/* Tasks that nobody has taken yet: the first of them << 32 | the end. */
struct share {
    _Alignas(LINE) _Atomic uint64_t tasks;
};

struct worker {
    struct mnv2c_pool *pool;
    int index; /* the caller is 0 */
    pthread_t thread;
};

struct mnv2c_pool {
    pthread_mutex_t turn; /* held for a whole run */
    pthread_mutex_t lock; /* around both conditions, and for `references` */
    pthread_cond_t wake;  /* there is a job, or it is time to end */
    pthread_cond_t done;  /* the last task is done */
    struct worker *workers;
    struct share *shares; /* one for each thread */
    int threads, started, references, spins;
    pid_t process; /* that the threads belong to: a child of fork has none of them */

    /* The job. Written only while no task is left or running, so whoever owns a task reads it unchanged. */
    _Alignas(LINE) _Atomic(const struct mnv2c_job *) job;
    atomic_int sharers; /* how many threads the job is worth: they have the first shares */
    atomic_int least;   /* tasks that are worth taking at once */
    atomic_int failed;

    _Alignas(LINE) _Atomic uint32_t generation; /* another one for each job */
    _Alignas(LINE) atomic_int pending;          /* tasks not yet done */
    atomic_int sleepers;                        /* threads that wait for `wake` */
    atomic_int waiting;                         /* whether the caller waits for `done` */
    atomic_int ending;
};

static void pause_briefly(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#else
    __asm__ volatile("yield");
#endif
}

static uint64_t tasks_from(int32_t begin, int32_t end) { return (uint64_t)(uint32_t)begin << 32 | (uint32_t)end; }

static int32_t begin_of(uint64_t tasks) { return (int32_t)(tasks >> 32); }

static int32_t end_of(uint64_t tasks) { return (int32_t)(uint32_t)tasks; }

static int compute(const struct mnv2c_job *job, int thread, int32_t begin, int32_t end)
{
    return job->compiled->kernel(job->operands, job->scratch + (size_t)thread * job->scratch_stride, begin, end);
}

/*
 * Takes half of what is left of a share, or `least` tasks where that is more: large pieces first, for few calls; small ones
 * last, so that all end together. Its owner takes the front, others the end.
 *
 * A share read before the exchange may since have become another job's; where the exchange succeeds nevertheless, the tasks
 * taken are that job's, for the job itself is read afterwards.
 */
static int take(struct share *share, int is_owner, int32_t least, uint64_t *taken)
{
    uint64_t tasks = atomic_load_explicit(&share->tasks, memory_order_acquire);
    while (begin_of(tasks) < end_of(tasks)) {
        int32_t begin = begin_of(tasks), end = end_of(tasks), left = end - begin, count = (left + 1) / 2;
        if (count < least) count = least < left ? least : left;
        uint64_t front = tasks_from(begin, begin + count), back = tasks_from(begin + count, end);
        if (!is_owner) front = tasks_from(begin, end - count), back = tasks_from(end - count, end);
        if (atomic_compare_exchange_weak_explicit(&share->tasks, &tasks, is_owner ? back : front, memory_order_acq_rel,
                                                  memory_order_acquire)) {
            *taken = is_owner ? front : back;
            return 1;
        }
    }
    return 0;
}

/* A piece of the thread's own share, else of the next one that has any. */
static int find_tasks(struct mnv2c_pool *pool, int thread, uint64_t *taken)
{
    int sharers = atomic_load_explicit(&pool->sharers, memory_order_relaxed);
    int32_t least = atomic_load_explicit(&pool->least, memory_order_relaxed);
    for (int i = 0; i < sharers && thread < sharers; i++) {
        int owner = (thread + i) % sharers;
        if (take(&pool->shares[owner], owner == thread, least, taken)) return 1;
    }
    return 0;
}

static void take_part(struct mnv2c_pool *pool, int thread)
{
    uint64_t taken;
    while (find_tasks(pool, thread, &taken)) {
        const struct mnv2c_job *job = atomic_load_explicit(&pool->job, memory_order_relaxed);
        int32_t begin = begin_of(taken), end = end_of(taken);
        if (compute(job, thread, begin, end) != 0) atomic_store(&pool->failed, 1);
        if (atomic_fetch_sub(&pool->pending, end - begin) == end - begin && atomic_load(&pool->waiting)) {
            pthread_mutex_lock(&pool->lock);
            pthread_cond_signal(&pool->done);
            pthread_mutex_unlock(&pool->lock);
        }
    }
}

/* Spins, then sleeps, until there is another job than the one `seen`; 0 when it is time to end. */
static int wait_for_job(struct mnv2c_pool *pool, uint32_t *seen)
{
    uint32_t last = *seen;
    for (int i = 0; i < pool->spins && !atomic_load_explicit(&pool->ending, memory_order_relaxed); i++) {
        *seen = atomic_load_explicit(&pool->generation, memory_order_acquire);
        if (*seen != last) return 1;
        pause_briefly();
    }
    pthread_mutex_lock(&pool->lock);
    atomic_fetch_add(&pool->sleepers, 1); /* before the last look: the caller looks for sleepers after it publishes */
    while ((*seen = atomic_load(&pool->generation)) == last && !atomic_load(&pool->ending))
        pthread_cond_wait(&pool->wake, &pool->lock);
    atomic_fetch_sub(&pool->sleepers, 1);
    pthread_mutex_unlock(&pool->lock);
    return !atomic_load(&pool->ending);
}

static void *serve(void *argument)
{
    const struct worker *self = argument;
    uint32_t seen = 0; /* the pool's first job is generation 1 */
    while (wait_for_job(self->pool, &seen)) take_part(self->pool, self->index);
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

static void publish(struct mnv2c_pool *pool, const struct mnv2c_job *job, int sharers)
{
    int32_t tasks = job->compiled->tasks, least = job->compiled->grain / PIECES;
    atomic_store_explicit(&pool->job, job, memory_order_relaxed);
    atomic_store_explicit(&pool->sharers, sharers, memory_order_relaxed);
    atomic_store_explicit(&pool->least, least > 1 ? least : 1, memory_order_relaxed);
    atomic_store_explicit(&pool->failed, 0, memory_order_relaxed);
    atomic_store_explicit(&pool->pending, tasks, memory_order_relaxed);
    for (int32_t i = 0, begin = 0; i < sharers; i++) {
        int32_t end = begin + tasks / sharers + (i < tasks % sharers);
        atomic_store_explicit(&pool->shares[i].tasks, tasks_from(begin, end), memory_order_release);
        begin = end;
    }
    atomic_fetch_add(&pool->generation, 1);
    if (atomic_load(&pool->sleepers) > 0) wake_all(pool);
}

int mnv2c_pool_run(struct mnv2c_pool *pool, const struct mnv2c_job *job)
{
    int32_t tasks = job->compiled->tasks;
    int32_t worth = tasks / (job->compiled->grain > 0 ? job->compiled->grain : 1);
    if (worth < 2 || pool->threads < 2) return compute(job, 0, 0, tasks) == 0 ? MNV2C_OK : MNV2C_KERNEL;
    publish(pool, job, worth < pool->threads ? worth : pool->threads);
    take_part(pool, 0);
    wait_for_done(pool);
    return atomic_load(&pool->failed) ? MNV2C_KERNEL : MNV2C_OK;
}

/* Signals are for the program's own threads. */
static int start(pthread_t *thread, void *(*function)(void *), void *argument)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(thread, NULL, function, argument);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error;
}

/* Not 0: the system does not let it run there. */
static int pin(pthread_t thread, int cpu)
{
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one); /* leaves it empty, which the system refuses, where there is no such number */
    return pthread_setaffinity_np(thread, sizeof one, &one);
}

struct cpus {
    const int *numbers;
    int count;
};

/* Null where a thread may run on all of them: tried by one that ends, for the caller of create stays where it is. */
static void *try_cpus(void *argument)
{
    const struct cpus *cpus = argument;
    for (int i = 0; i < cpus->count; i++)
        if (pin(pthread_self(), cpus->numbers[i]) != 0) return argument;
    return NULL;
}

static int check_cpus(struct cpus cpus)
{
    pthread_t trial;
    void *refused;
    if (start(&trial, try_cpus, &cpus) != 0) return MNV2C_THREADS;
    pthread_join(trial, &refused);
    return refused == NULL ? MNV2C_OK : MNV2C_CPUS;
}

static int start_workers(struct mnv2c_pool *pool, struct cpus cpus)
{
    for (pool->started = 0; pool->started < pool->threads - 1; pool->started++) {
        struct worker *worker = &pool->workers[pool->started];
        worker->pool = pool;
        worker->index = pool->started + 1;
        if (start(&worker->thread, serve, worker) != 0) break;
        if (cpus.count > 0) pin(worker->thread, cpus.numbers[worker->index % cpus.count]);
    }
    return pool->started == pool->threads - 1 ? MNV2C_OK : MNV2C_THREADS;
}

/* After fork there is nobody to wait for, and a lock may be held by a thread that is not there. */
static void end(struct mnv2c_pool *pool)
{
    if (!mnv2c_pool_is_lost(pool)) {
        atomic_store(&pool->ending, 1);
        wake_all(pool);
        for (int i = 0; i < pool->started; i++) pthread_join(pool->workers[i].thread, NULL);
        pthread_cond_destroy(&pool->done);
        pthread_cond_destroy(&pool->wake);
        pthread_mutex_destroy(&pool->lock);
        pthread_mutex_destroy(&pool->turn);
    }
    free(pool->shares);
    free(pool->workers);
    free(pool);
}

static int can_run_at_once(int threads, struct cpus cpus)
{
    return threads <= sysconf(_SC_NPROCESSORS_ONLN) && (cpus.count == 0 || threads <= cpus.count);
}

int mnv2c_pool_create(int threads, const int *numbers, int cpu_count, struct mnv2c_pool **result)
{
    struct cpus cpus = {numbers, cpu_count};
    int status = cpu_count > 0 ? check_cpus(cpus) : MNV2C_OK;
    if (status != MNV2C_OK) return status;
    struct mnv2c_pool *pool = aligned_alloc(LINE, sizeof *pool);
    struct worker *workers = calloc((size_t)threads, sizeof *workers);
    struct share *shares = aligned_alloc(LINE, (size_t)threads * sizeof *shares);
    if (pool == NULL || workers == NULL || shares == NULL) {
        free(pool);
        free(workers);
        free(shares);
        return MNV2C_MEMORY;
    }
    for (int i = 0; i < threads; i++) atomic_init(&shares[i].tasks, 0);
    /* Spinning for a thread that cannot run yet only keeps it from running. */
    int spins = can_run_at_once(threads, cpus) ? SPINS : 0;
    *pool = (struct mnv2c_pool){.workers = workers, .shares = shares, .threads = threads, .references = 1, .spins = spins};
    pool->process = getpid();
    pthread_mutex_init(&pool->turn, NULL); /* on Linux these four cannot fail with default attributes */
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->wake, NULL);
    pthread_cond_init(&pool->done, NULL);
    status = start_workers(pool, cpus);
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
    int is_lost = mnv2c_pool_is_lost(pool);
    if (!is_lost) pthread_mutex_lock(&pool->lock);
    int references = --pool->references;
    if (!is_lost) pthread_mutex_unlock(&pool->lock);
    if (references == 0) end(pool);
}

int mnv2c_pool_threads(const struct mnv2c_pool *pool) { return pool->threads; }

int mnv2c_pool_is_lost(const struct mnv2c_pool *pool) { return pool->threads > 1 && pool->process != getpid(); }

void mnv2c_pool_enter(struct mnv2c_pool *pool) { pthread_mutex_lock(&pool->turn); }

void mnv2c_pool_leave(struct mnv2c_pool *pool) { pthread_mutex_unlock(&pool->turn); }
