/*
 * A libcuda.so.1 without a GPU: memory is the host's, kernels run in the emulator (emulator.h), which this file is compiled
 * with together with the kernels of one library. As the driver does, it keeps a stack of contexts for each thread, does
 * nothing on a stream before that is waited for, records what is captured into a graph, and after a failing kernel fails
 * every call, as every one of a child of fork. Memory that nobody has written holds NaN. What it is given and cannot be, it says, and aborts. A kernel that is
 * launched to begin early cannot touch what is not constant before it has waited: it would crash.
 *
 * STAND_IN_VERSION: cuDriverGetVersion (12090). STAND_IN_CAPABILITY: 90. STAND_IN_DEVICES: 1. STAND_IN_FAIL: "cuMemAlloc_v2 2
 * 3": from its third call on that function returns 2. STAND_IN_ORDER: of threads, see emulator.h. STAND_IN_LOG: a file that
 * gets a line per call. STAND_IN_IDLE: kernels that it does not know are taken for ones that do nothing for 10 us;
 * STAND_IN_FAILS and STAND_IN_HANGS: but for the one of this name.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define API extern "C" __attribute__((visibility("default"))) int

enum { CONTEXT = 0x51, MOST = 4096, MOST_PARAMETERS = 8, PAGE = 4096, OVERLAP = 6 };

struct operation {
    enum { COPY, KERNEL, EVENT } kind;
    void *to;
    const void *from;
    size_t bytes;
    const emulated::kernel *known;
    void *parameters[MOST_PARAMETERS];
    extent grid, block;
    int early;
};

/* CUlaunchAttribute and CUlaunchConfig. */
struct attribute {
    int id;
    alignas(8) int value[16];
};
struct configuration {
    extent grid, block;
    unsigned shared_bytes;
    void *stream;
    const attribute *attributes;
    unsigned count;
};

struct graph {
    operation operations[256];
    int count;
};

struct stream {
    operation operations[512];
    int count, capturing;
    graph *captured;
};

struct allocation {
    char *begin;
    size_t bytes;
    int pinned;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static allocation allocations[MOST];
static stream default_stream;
static int sticky, retained, modules;
static pid_t process; /* that has called cuInit */
static __thread int depth; /* of the stack of contexts */

static void die(const char *what)
{
    fprintf(stderr, "stand-in for libcuda: %s\n", what);
    abort();
}

static int number(const char *name, int otherwise)
{
    const char *value = getenv(name);
    return value ? atoi(value) : otherwise;
}

/* What a call is to return in place of its work; 0 where it is to do it. */
static int failure(const char *call)
{
    static int calls;
    const char *wish = getenv("STAND_IN_FAIL"), *log = getenv("STAND_IN_LOG");
    if (log) {
        FILE *file = fopen(log, "a");
        fprintf(file, "%s\n", call);
        fclose(file);
    }
    if (process && process != getpid()) return 3; /* not initialised: as in a child of fork */
    if (sticky) return sticky;
    char name[64];
    int result, from;
    if (!wish || sscanf(wish, "%63s %d %d", name, &result, &from) != 3 || strcmp(name, call) != 0) return 0;
    if (++calls < from) return 0;
    if (result == 719) sticky = result;
    return result;
}

static void need_context(const char *call)
{
    if (depth == 0) {
        fprintf(stderr, "%s: ", call);
        die("no context is current");
    }
}

#define ENTER(needs_context) \
    if (int result = failure(__func__)) return result; \
    if (needs_context) need_context(__func__)

static size_t pages(size_t bytes) { return (bytes + PAGE - 1) / PAGE * PAGE; }

static allocation *around(const void *pointer, size_t bytes)
{
    for (allocation &one : allocations)
        if (one.begin && one.begin <= pointer && (const char *)pointer + bytes <= one.begin + one.bytes) return &one;
    return nullptr;
}

static char *allocate(size_t bytes, int pinned)
{
    pthread_mutex_lock(&lock);
    for (allocation &one : allocations)
        if (!one.begin) {
            one = {static_cast<char *>(aligned_alloc(PAGE, pages(bytes))), bytes, pinned};
            memset(one.begin, 0xff, bytes);
            pthread_mutex_unlock(&lock);
            return one.begin;
        }
    die("too many allocations");
    return nullptr;
}

static void give_back(void *pointer, int pinned)
{
    pthread_mutex_lock(&lock);
    allocation *one = around(pointer, 0);
    if (!one || one->begin != pointer || one->pinned != pinned) die("freed what was not allocated");
    free(one->begin);
    one->begin = nullptr;
    pthread_mutex_unlock(&lock);
}

/* Closes or opens the memory that the parameters of the kernel that runs are in, but for the constant ones. */
static const operation *running;

static void close_memory(int closed)
{
    for (int i = 0; i < running->known->parameters; i++) {
        if (!(running->known->not_constant >> i & 1)) continue;
        allocation *one = around(running->parameters[i], 1);
        mprotect(one->begin, pages(one->bytes), closed ? PROT_NONE : PROT_READ | PROT_WRITE);
    }
}

static const emulated::kernel idle = {[](void **) { usleep(10); }, 0, 0}, fails = {[](void **) {}, 0, 0},
                              hangs = {[](void **) { pause(); }, 0, 0};

static int run(const operation &one)
{
    if (one.kind == operation::EVENT) {
        clock_gettime(CLOCK_MONOTONIC, static_cast<timespec *>(one.to));
        return 0;
    }
    if (one.kind == operation::COPY) {
        memcpy(one.to, one.from, one.bytes);
        return 0;
    }
    void *parameters[MOST_PARAMETERS];
    memcpy(parameters, one.parameters, sizeof parameters);
    if (one.known == &fails) return sticky = 700;
    pthread_mutex_lock(&lock); /* the emulator's blocks are the only ones */
    running = &one, emulated::guard = one.early ? close_memory : nullptr;
    int failed = emulated::launch(one.known->call, parameters, one.grid, one.block, number("STAND_IN_ORDER", 0));
    if (one.early) close_memory(0);
    pthread_mutex_unlock(&lock);
    return failed ? sticky = 719 : 0;
}

static stream *stream_of(void *given) { return given ? static_cast<stream *>(given) : &default_stream; }

static void enqueue(void *given, const operation &one)
{
    stream *where = stream_of(given);
    if (where->capturing) {
        if (where->captured->count == 256) die("too large a graph");
        where->captured->operations[where->captured->count++] = one;
        return;
    }
    if (where->count == 512) die("too much on a stream");
    where->operations[where->count++] = one;
}

API cuInit(unsigned) { ENTER(0); process = getpid(); return number("STAND_IN_DEVICES", 1) ? 0 : 100; }
API cuGetExportTable(const void **table, const void *) { *table = nullptr; return 1; } /* NVRTC asks, where it finds a driver */
API cuDriverGetVersion(int *version) { ENTER(0); *version = number("STAND_IN_VERSION", 12090); return 0; }
API cuDeviceGet(int *device, int ordinal) { ENTER(0); *device = ordinal; return ordinal < number("STAND_IN_DEVICES", 1) ? 0 : 101; }

API cuDeviceGetAttribute(int *value, int attribute, int)
{
    ENTER(0);
    int capability = number("STAND_IN_CAPABILITY", 90);
    switch (attribute) {
    case 13: *value = 1000000; return 0; /* kHz */
    case 16: *value = 4; return 0;       /* multiprocessors */
    case 75: *value = capability / 10; return 0;
    case 76: *value = capability % 10; return 0;
    default: die("an attribute that it does not know"); return 1;
    }
}

API cuDeviceGetName(char *name, int length, int) { ENTER(0); snprintf(name, length, "a stand-in"); return 0; }
API cuDevicePrimaryCtxRetain(void **context, int) { ENTER(0); __sync_add_and_fetch(&retained, 1); *context = (void *)CONTEXT; return 0; }
API cuDevicePrimaryCtxRelease_v2(int)
{
    ENTER(0);
    if (__sync_sub_and_fetch(&retained, 1) < 0) die("the primary context is released more often than retained");
    return 0;
}
API cuCtxPushCurrent_v2(void *context) { ENTER(0); if (context != (void *)CONTEXT) return 201; depth++; return 0; }
API cuCtxPopCurrent_v2(void **context) { if (depth == 0) return 201; depth--; *context = (void *)CONTEXT; return 0; }

API cuModuleLoadData(void **module, const void *image)
{
    ENTER(1);
    int is_cubin = memcmp(image, "\x7f" "ELF", 4) == 0, is_ptx = strstr((const char *)image, ".version") != nullptr;
    if (!is_cubin && !is_ptx) return 200;
    *module = malloc(1);
    __sync_add_and_fetch(&modules, 1);
    return 0;
}
API cuModuleUnload(void *module) { ENTER(1); free(module); __sync_sub_and_fetch(&modules, 1); return 0; }

static int is(const char *variable, const char *name)
{
    const char *value = getenv(variable);
    return value && strcmp(value, name) == 0;
}

API cuModuleGetFunction(void **function, void *module, const char *name)
{
    ENTER(1);
    char symbol[512];
    snprintf(symbol, sizeof symbol, "emulated_%s", name);
    *function = module ? dlsym(dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD), symbol) : nullptr;
    if (!*function && getenv("STAND_IN_IDLE"))
        *function = const_cast<emulated::kernel *>(is("STAND_IN_FAILS", name) ? &fails : is("STAND_IN_HANGS", name) ? &hangs : &idle);
    return *function ? 0 : 500;
}

API cuMemAlloc_v2(uint64_t *pointer, size_t bytes) { ENTER(1); *pointer = (uint64_t)allocate(bytes, 0); return bytes ? 0 : 1; }
API cuMemFree_v2(uint64_t pointer) { ENTER(1); give_back((void *)pointer, 0); return 0; }
API cuMemHostAlloc(void **pointer, size_t bytes, unsigned) { ENTER(1); *pointer = allocate(bytes, 1); return 0; }
API cuMemFreeHost(void *pointer) { ENTER(1); give_back(pointer, 1); return 0; }

API cuPointerGetAttribute(void *value, int attribute, uint64_t pointer)
{
    ENTER(1);
    allocation *one = around((void *)pointer, 1);
    if (!one || attribute != 2) return 1;
    *static_cast<unsigned *>(value) = one->pinned ? 1 : 2;
    return 0;
}

API cuMemcpyHtoDAsync_v2(uint64_t there, const void *here, size_t bytes, void *where)
{
    ENTER(1);
    allocation *one = around((void *)there, bytes);
    if (!one || one->pinned) return 1;
    enqueue(where, {operation::COPY, (void *)there, here, bytes, nullptr, {}, {}, {}, 0});
    return 0;
}
API cuMemcpyDtoHAsync_v2(void *here, uint64_t there, size_t bytes, void *where)
{
    ENTER(1);
    allocation *one = around((void *)there, bytes);
    if (!one || one->pinned) return 1;
    enqueue(where, {operation::COPY, here, (void *)there, bytes, nullptr, {}, {}, {}, 0});
    return 0;
}

API cuStreamCreate(void **where, unsigned) { ENTER(1); *where = calloc(1, sizeof(stream)); return 0; }
API cuStreamDestroy_v2(void *where) { ENTER(1); if (static_cast<stream *>(where)->count) die("a stream destroyed before its work is done"); free(where); return 0; }

API cuStreamSynchronize(void *given)
{
    ENTER(1);
    stream *where = stream_of(given);
    if (where->capturing) return 900;
    int result = 0;
    for (int i = 0; i < where->count && result == 0; i++) result = run(where->operations[i]);
    where->count = 0;
    return result;
}

API cuStreamBeginCapture_v2(void *given, int)
{
    ENTER(1);
    stream *where = stream_of(given);
    if (!given || where->capturing) return 900;
    where->capturing = 1;
    where->captured = static_cast<graph *>(calloc(1, sizeof(graph)));
    return 0;
}
API cuStreamEndCapture(void *given, void **captured)
{
    stream *where = stream_of(given);
    where->capturing = 0;
    *captured = where->captured;
    ENTER(1);
    return 0;
}
API cuGraphInstantiateWithFlags(void **made, void *given, unsigned long long)
{
    ENTER(1);
    graph *copy = static_cast<graph *>(malloc(sizeof(graph)));
    *copy = *static_cast<graph *>(given);
    *made = copy;
    return 0;
}
API cuGraphDestroy(void *given) { ENTER(1); free(given); return 0; }
API cuGraphExecDestroy(void *given) { ENTER(1); free(given); return 0; }
API cuGraphLaunch(void *given, void *where)
{
    ENTER(1);
    graph *launched = static_cast<graph *>(given);
    for (int i = 0; i < launched->count; i++) enqueue(where, launched->operations[i]);
    return 0;
}

API cuEventCreate(void **made, unsigned) { ENTER(1); *made = calloc(1, sizeof(timespec)); return 0; }
API cuEventDestroy_v2(void *event) { ENTER(1); free(event); return 0; }
API cuEventRecord(void *event, void *where) { ENTER(1); enqueue(where, {operation::EVENT, event, nullptr, 0, nullptr, {}, {}, {}, 0}); return 0; }
API cuEventElapsedTime(float *milliseconds, void *begin, void *end)
{
    ENTER(1);
    const timespec *one = static_cast<timespec *>(begin), *other = static_cast<timespec *>(end);
    if (!one->tv_sec || !other->tv_sec) return 600;
    *milliseconds = static_cast<float>((other->tv_sec - one->tv_sec) * 1e3 + (other->tv_nsec - one->tv_nsec) / 1e6);
    return 0;
}

static int launch_as(const configuration *given, void *function, void **parameters)
{
    if (!function) return 400;
    const emulated::kernel *known = static_cast<const emulated::kernel *>(function);
    int early = given->count == 1 && given->attributes->id == OVERLAP && given->attributes->value[0];
    if (!early && given->count) die("an attribute of a launch that it does not know");
    operation one = {operation::KERNEL, nullptr, nullptr, 0, known, {}, given->grid, given->block, early};
    for (int i = 0; i < known->parameters; i++) {
        one.parameters[i] = *(void **)parameters[i];
        if (!around(one.parameters[i], 1)) return sticky = 700;
    }
    enqueue(given->stream, one);
    return 0;
}

API cuLaunchKernelEx(const configuration *given, void *function, void **parameters, void **)
{
    ENTER(1);
    return launch_as(given, function, parameters);
}
API cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared_bytes, void *where, void **parameters, void **)
{
    ENTER(1);
    configuration given = {{gx, gy, gz}, {bx, by, bz}, shared_bytes, where, nullptr, 0};
    return launch_as(&given, function, parameters);
}
