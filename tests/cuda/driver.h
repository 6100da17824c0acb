/* The CUDA driver, as a program finds it that has one: from libcuda.so.1, without NVIDIA's headers. */
#pragma once
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

static int (*init)(unsigned), (*push)(void *), (*pop)(void **), (*retain)(void **, int), (*device_name)(char *, int, int);
static int (*driver_version)(int *);
static int (*load_module)(void **, const void *), (*find_kernel)(void **, void *, const char *);
static int (*allocate)(uint64_t *, size_t), (*release)(uint64_t);
static int (*to_device)(uint64_t, const void *, size_t, void *), (*to_host)(void *, uint64_t, size_t, void *);
static int (*make_stream)(void **, unsigned), (*wait_for)(void *), (*begin_capture)(void *, int), (*end_capture)(void *, void **);
static int (*instantiate)(void **, void *, unsigned long long), (*launch_graph)(void *, void *);
static int (*make_event)(void **, unsigned), (*record)(void *, void *), (*elapsed)(float *, void *, void *);
static int (*launch_kernel)(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **, void **);

static inline void expect(const char *file, int line, int wanted, int status)
{
    if (status == wanted) return;
    printf("%s, line %d: %d in place of %d\n", file, line, status, wanted);
    exit(1);
}
#define EXPECT(wanted, status) expect(__FILE__, __LINE__, wanted, status)
#define OK(status) EXPECT(0, status)

/* The primary context of the first GPU is current afterwards. */
static inline void find_driver(void)
{
    void *driver = dlopen("libcuda.so.1", RTLD_NOW), *primary;
    if (driver == NULL) {
        printf("no NVIDIA driver: libcuda.so.1 cannot be loaded\n");
        exit(1);
    }
#define FIND(pointer, name) if ((*(void **)&pointer = dlsym(driver, name)) == NULL) printf("no %s\n", name), exit(1)
    FIND(init, "cuInit");
    FIND(driver_version, "cuDriverGetVersion");
    FIND(device_name, "cuDeviceGetName");
    FIND(push, "cuCtxPushCurrent_v2");
    FIND(pop, "cuCtxPopCurrent_v2");
    FIND(retain, "cuDevicePrimaryCtxRetain");
    FIND(load_module, "cuModuleLoadData");
    FIND(find_kernel, "cuModuleGetFunction");
    FIND(allocate, "cuMemAlloc_v2");
    FIND(release, "cuMemFree_v2");
    FIND(to_device, "cuMemcpyHtoDAsync_v2");
    FIND(to_host, "cuMemcpyDtoHAsync_v2");
    FIND(make_stream, "cuStreamCreate");
    FIND(wait_for, "cuStreamSynchronize");
    FIND(begin_capture, "cuStreamBeginCapture_v2");
    FIND(end_capture, "cuStreamEndCapture");
    FIND(instantiate, "cuGraphInstantiateWithFlags");
    FIND(launch_graph, "cuGraphLaunch");
    FIND(make_event, "cuEventCreate");
    FIND(record, "cuEventRecord");
    FIND(elapsed, "cuEventElapsedTime");
    FIND(launch_kernel, "cuLaunchKernel");
#undef FIND
    OK(init(0));
    OK(retain(&primary, 0));
    OK(push(primary));
}

/* A whole file, with a zero behind it. */
static inline char *content(const char *path, size_t *bytes)
{
    FILE *file = fopen(path, "rb");
    if (file == NULL || fseek(file, 0, SEEK_END) != 0) perror(path), exit(1);
    *bytes = (size_t)ftell(file);
    char *text = malloc(*bytes + 1);
    rewind(file);
    if (text == NULL || fread(text, 1, *bytes, file) != *bytes) perror(path), exit(1);
    text[*bytes] = 0;
    fclose(file);
    return text;
}
