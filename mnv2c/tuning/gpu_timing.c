/*
 * Times kernels on a GPU as they run in the network: the weights of all other layers have passed through its L2 since a
 * kernel ran last, its input has just been written.
 *
 *     gpu_timing                      prints the GPU: compute capability, multiprocessors, kHz, driver version, name
 *     gpu_timing CUBIN LIST ROUNDS    prints the number of a kernel each time before it runs, then, for each kernel, a line of
 *                                     "times" and nanoseconds, one for each round; the kernels of a round take turns
 *
 * LIST begins with the number of operands, that of inputs among them, and the bytes of each: inputs, constants, the output.
 * A line per kernel follows: its name, grid and block (six numbers), the number of parameters, and which operand each is. Needs
 * libc and the NVIDIA driver. A failing call is told on stderr, in one line, and ends it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_OPERANDS = 8, MOST_KERNELS = 1024, NAME = 256, MULTIPROCESSORS = 16, CLOCK = 13, MAJOR = 75, MINOR = 76 };
enum { OTHER_WEIGHTS = 14 << 20 }; /* bytes: those of 1.0 */

static int (*init)(unsigned), (*driver_version)(int *), (*device_name)(char *, int, int), (*attribute)(int *, int, int);
static int (*retain)(void **, int), (*push)(void *), (*load)(void **, const void *), (*find)(void **, void *, const char *);
static int (*allocate)(uint64_t *, size_t), (*allocate_here)(void **, size_t, unsigned);
static int (*copy)(uint64_t, const void *, size_t, void *), (*synchronize)(void *);
static int (*make_event)(void **, unsigned), (*record)(void *, void *), (*elapsed)(float *, void *, void *);
static int (*launch)(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **, void **);

static const struct {
    void *pointer;
    const char *name;
} calls[] = {
    {&init, "cuInit"}, {&driver_version, "cuDriverGetVersion"}, {&device_name, "cuDeviceGetName"},
    {&attribute, "cuDeviceGetAttribute"}, {&retain, "cuDevicePrimaryCtxRetain"}, {&push, "cuCtxPushCurrent_v2"},
    {&load, "cuModuleLoadData"}, {&find, "cuModuleGetFunction"}, {&allocate, "cuMemAlloc_v2"},
    {&allocate_here, "cuMemHostAlloc"}, {&copy, "cuMemcpyHtoDAsync_v2"}, {&synchronize, "cuStreamSynchronize"},
    {&make_event, "cuEventCreate"}, {&record, "cuEventRecord"}, {&elapsed, "cuEventElapsedTime"}, {&launch, "cuLaunchKernel"},
};

struct kernel {
    char name[NAME];
    void *function;
    unsigned extents[6];
    int parameters, order[MOST_OPERANDS];
    float *times;
};

static struct kernel kernels[MOST_KERNELS];
static uint64_t operands[MOST_OPERANDS], other_weights;
static size_t bytes[MOST_OPERANDS];
static int operand_count, input_count, kernel_count;
static void *source; /* as large as the largest of them, in pinned memory */
static void *events[2];

static void end(const char *what)
{
    fprintf(stderr, "%s\n", what);
    exit(1);
}

static void check(const char *call, int result)
{
    if (result == 0) return;
    fprintf(stderr, "%s failed with CUresult %d\n", call, result);
    exit(1);
}
#define OK(call) check(#call, call)

static void find_driver(void)
{
    void *driver = dlopen("libcuda.so.1", RTLD_NOW), *primary;
    if (driver == NULL) end("no NVIDIA driver: libcuda.so.1 cannot be loaded");
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
        if ((*(void **)calls[i].pointer = dlsym(driver, calls[i].name)) == NULL) end("the NVIDIA driver is too old");
    OK(init(0));
    OK(retain(&primary, 0));
    OK(push(primary));
}

static int describe(void)
{
    static const int attributes[] = {MAJOR, MINOR, MULTIPROCESSORS, CLOCK};
    char name[NAME];
    int values[4], version;
    for (int i = 0; i < 4; i++) OK(attribute(&values[i], attributes[i], 0));
    OK(driver_version(&version));
    OK(device_name(name, sizeof name, 0));
    printf("%d%d %d %d %d %s\n", values[0], values[1], values[2], values[3], version, name);
    return 0;
}

static char *content(const char *path)
{
    FILE *file = fopen(path, "rb");
    long size = file != NULL && fseek(file, 0, SEEK_END) == 0 ? ftell(file) : -1;
    char *text = size < 0 ? NULL : malloc((size_t)size + 1);
    if (text == NULL) end("the kernels cannot be read");
    rewind(file);
    if (fread(text, 1, (size_t)size, file) != (size_t)size) end("the kernels cannot be read");
    text[size] = 0;
    fclose(file);
    return text;
}

static void read_list(const char *path)
{
    FILE *list = fopen(path, "r");
    if (list == NULL || fscanf(list, "%d %d", &operand_count, &input_count) != 2) end("the list cannot be read");
    if (operand_count < 1 || operand_count > MOST_OPERANDS || input_count > operand_count) end("the list is damaged");
    for (int i = 0; i < operand_count; i++)
        if (fscanf(list, "%zu", &bytes[i]) != 1 || bytes[i] == 0) end("the list is damaged");
    for (; kernel_count < MOST_KERNELS; kernel_count++) {
        struct kernel *one = &kernels[kernel_count];
        if (fscanf(list, "%255s", one->name) != 1) break;
        for (int i = 0; i < 6; i++)
            if (fscanf(list, "%u", &one->extents[i]) != 1) end("the list is damaged");
        if (fscanf(list, "%d", &one->parameters) != 1 || one->parameters > MOST_OPERANDS) end("the list is damaged");
        for (int i = 0; i < one->parameters; i++)
            if (fscanf(list, "%d", &one->order[i]) != 1 || one->order[i] < 0 || one->order[i] >= operand_count)
                end("the list is damaged");
    }
    fclose(list);
}

static void find_memory(void)
{
    size_t most = OTHER_WEIGHTS;
    for (int i = 0; i < operand_count; i++) most = bytes[i] > most ? bytes[i] : most;
    OK(allocate_here(&source, most, 0));
    for (size_t i = 0; i < most / sizeof(float); i++) ((float *)source)[i] = 0.125f;
    OK(allocate(&other_weights, OTHER_WEIGHTS));
    for (int i = 0; i < operand_count; i++) {
        OK(allocate(&operands[i], bytes[i]));
        OK(copy(operands[i], source, bytes[i], NULL));
    }
    for (int i = 0; i < 2; i++) OK(make_event(&events[i], 0));
    OK(synchronize(NULL));
}

static float time_once(int number)
{
    const struct kernel *one = &kernels[number];
    void *parameters[MOST_OPERANDS];
    const unsigned *at = one->extents;
    float milliseconds;
    printf("%d\n", number);
    fflush(stdout);
    for (int i = 0; i < one->parameters; i++) parameters[i] = &operands[one->order[i]];
    OK(copy(other_weights, source, OTHER_WEIGHTS, NULL));
    for (int i = 0; i < input_count; i++) OK(copy(operands[i], source, bytes[i], NULL));
    OK(record(events[0], NULL));
    OK(launch(one->function, at[0], at[1], at[2], at[3], at[4], at[5], 0, NULL, parameters, NULL));
    OK(record(events[1], NULL));
    OK(synchronize(NULL));
    OK(elapsed(&milliseconds, events[0], events[1]));
    return milliseconds;
}

int main(int count, char **arguments)
{
    void *module;
    int rounds = count == 4 ? atoi(arguments[3]) : 0;
    if (count != 1 && rounds < 1) end("usage: gpu_timing [CUBIN LIST ROUNDS]");
    find_driver();
    if (count == 1) return describe();
    read_list(arguments[2]);
    OK(load(&module, content(arguments[1])));
    find_memory();
    for (int i = 0; i < kernel_count; i++) {
        if ((kernels[i].times = calloc((size_t)rounds, sizeof(float))) == NULL) end("out of memory");
        OK(find(&kernels[i].function, module, kernels[i].name));
        time_once(i);
    }
    for (int round = 0; round < rounds; round++)
        for (int i = 0; i < kernel_count; i++) kernels[i].times[round] = time_once(i);
    for (int i = 0; i < kernel_count; i++) {
        printf("times");
        for (int round = 0; round < rounds; round++) printf(" %.0f", (double)kernels[i].times[round] * 1e6);
        printf("\n");
    }
    return 0;
}
