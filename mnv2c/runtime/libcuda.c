/* Finds the CUDA driver at run time, and puts its failures into words. */
#define _GNU_SOURCE /* RTLD_NODELETE */
#include "libcuda.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "gpu.h"

enum { OLDEST_DRIVER = 12000 }; /* as cuDriverGetVersion has it: 12.0, driver 525, which cubins of CUDA 12 ask for */

static struct mnv2c_cuda cuda;
static int loaded; /* a status */
static pid_t process; /* that began with the driver */
static pthread_once_t once = PTHREAD_ONCE_INIT;

static const char *const names[] = {
#define NAME(name, symbol, parameters) symbol,
    MNV2C_CUDA_CALLS(NAME)
#undef NAME
};

static int find_calls(void *library)
{
#define FIND(name, symbol, parameters) \
    *(void **)&cuda.name = dlsym(library, symbol); \
    if (cuda.name == NULL) return MNV2C_DRIVER_TOO_OLD;
    MNV2C_CUDA_CALLS(FIND)
#undef FIND
    return MNV2C_OK;
}

static void load(void)
{
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NODELETE);
    if (library == NULL) {
        loaded = MNV2C_NO_DRIVER;
        return;
    }
    loaded = find_calls(library);
    process = getpid();
    if (loaded == MNV2C_OK) loaded = mnv2c_cuda_status(MNV2C_CUDA_Init, cuda.Init(0));
    if (loaded == MNV2C_OK) loaded = mnv2c_cuda_status(MNV2C_CUDA_DriverGetVersion, cuda.DriverGetVersion(&cuda.version));
    if (loaded == MNV2C_OK && cuda.version < OLDEST_DRIVER) loaded = MNV2C_DRIVER_TOO_OLD;
}

const struct mnv2c_cuda *mnv2c_cuda_load(int *status)
{
    pthread_once(&once, load);
    *status = loaded == MNV2C_OK && mnv2c_cuda_is_parents() ? MNV2C_FORKED : loaded;
    return *status == MNV2C_OK ? &cuda : NULL;
}

int mnv2c_cuda_is_parents(void) { return process != 0 && process != getpid(); }

static int is_lost(CUresult result)
{
    return result == 700 || result == 702 || result == 709 || result == 710 || (result >= 714 && result <= 721);
}

int mnv2c_cuda_status(enum mnv2c_cuda_call call, CUresult result)
{
    if (result == CUDA_SUCCESS) return MNV2C_OK;
    if (result == CUDA_ERROR_OUT_OF_MEMORY) return MNV2C_GPU_MEMORY;
    if (result == 100 || result == 101) return MNV2C_NO_GPU; /* no device, invalid device */
    if (is_lost(result)) return MNV2C_CONTEXT_LOST;
    return MNV2C_CUDA + (int)call * MNV2C_CUDA_RESULTS + result;
}

/* The words for a call that failed: each thread's last, as a message is not to be freed. */
const char *mnv2c_cuda_message(int status)
{
    static _Thread_local char text[96];
    int call = (status - MNV2C_CUDA) / MNV2C_CUDA_RESULTS, result = (status - MNV2C_CUDA) % MNV2C_CUDA_RESULTS;
    if (status < MNV2C_CUDA || call >= MNV2C_CUDA_CALL_COUNT) return "unknown status";
    snprintf(text, sizeof text, "%s failed with CUresult %d", names[call], result);
    return text;
}
