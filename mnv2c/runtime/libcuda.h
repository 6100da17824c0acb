/* The CUDA driver API, as far as the library uses it: found at run time, so that the library links and loads anywhere. */
#ifndef MNV2C_LIBCUDA_H
#define MNV2C_LIBCUDA_H

#include <stddef.h>
#include <stdint.h>

typedef int CUresult;
typedef int CUdevice;
typedef uint64_t CUdeviceptr;
typedef struct CUctx_st *CUcontext;
typedef struct CUmod_st *CUmodule;
typedef struct CUfunc_st *CUfunction;
typedef struct CUstream_st *CUstream;
typedef struct CUevent_st *CUevent;
typedef struct CUgraph_st *CUgraph;
typedef struct CUgraphExec_st *CUgraphExec;

typedef struct {
    int id;
    int reserved;
    union {
        char reserved[64];
        int programmaticStreamSerializationAllowed;
        void *aligned; /* as the largest member is */
    } value;
} CUlaunchAttribute;

typedef struct {
    unsigned gridDimX, gridDimY, gridDimZ, blockDimX, blockDimY, blockDimZ, sharedMemBytes;
    CUstream hStream;
    CUlaunchAttribute *attrs;
    unsigned numAttrs;
} CUlaunchConfig;

enum {
    CUDA_SUCCESS = 0,
    CUDA_ERROR_OUT_OF_MEMORY = 2,
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75,
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76,
    CU_POINTER_ATTRIBUTE_MEMORY_TYPE = 2,
    CU_MEMORYTYPE_DEVICE = 2,
    CU_STREAM_NON_BLOCKING = 1,
    CU_STREAM_CAPTURE_MODE_THREAD_LOCAL = 1,
    CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION = 6
};

/* X(name here, symbol there, parameters): cuda.h's own declarations; every one of them returns a CUresult. */
#define MNV2C_CUDA_CALLS(X) \
    X(Init, "cuInit", (unsigned flags)) \
    X(DriverGetVersion, "cuDriverGetVersion", (int *version)) \
    X(DeviceGet, "cuDeviceGet", (CUdevice *device, int ordinal)) \
    X(DeviceGetAttribute, "cuDeviceGetAttribute", (int *value, int attribute, CUdevice device)) \
    X(PrimaryCtxRetain, "cuDevicePrimaryCtxRetain", (CUcontext *context, CUdevice device)) \
    X(PrimaryCtxRelease, "cuDevicePrimaryCtxRelease_v2", (CUdevice device)) \
    X(CtxPush, "cuCtxPushCurrent_v2", (CUcontext context)) \
    X(CtxPop, "cuCtxPopCurrent_v2", (CUcontext *context)) \
    X(ModuleLoad, "cuModuleLoadData", (CUmodule *module, const void *image)) \
    X(ModuleUnload, "cuModuleUnload", (CUmodule module)) \
    X(ModuleGetFunction, "cuModuleGetFunction", (CUfunction *function, CUmodule module, const char *name)) \
    X(MemAlloc, "cuMemAlloc_v2", (CUdeviceptr *pointer, size_t bytes)) \
    X(MemFree, "cuMemFree_v2", (CUdeviceptr pointer)) \
    X(MemHostAlloc, "cuMemHostAlloc", (void **pointer, size_t bytes, unsigned flags)) \
    X(MemFreeHost, "cuMemFreeHost", (void *pointer)) \
    X(CopyToDevice, "cuMemcpyHtoDAsync_v2", (CUdeviceptr there, const void *here, size_t bytes, CUstream stream)) \
    X(CopyToHost, "cuMemcpyDtoHAsync_v2", (void *here, CUdeviceptr there, size_t bytes, CUstream stream)) \
    X(PointerGetAttribute, "cuPointerGetAttribute", (void *value, int attribute, CUdeviceptr pointer)) \
    X(StreamCreate, "cuStreamCreate", (CUstream *stream, unsigned flags)) \
    X(StreamDestroy, "cuStreamDestroy_v2", (CUstream stream)) \
    X(StreamSynchronize, "cuStreamSynchronize", (CUstream stream)) \
    X(EventCreate, "cuEventCreate", (CUevent *event, unsigned flags)) \
    X(EventDestroy, "cuEventDestroy_v2", (CUevent event)) \
    X(EventRecord, "cuEventRecord", (CUevent event, CUstream stream)) \
    X(EventElapsedTime, "cuEventElapsedTime", (float *milliseconds, CUevent begin, CUevent end)) \
    X(StreamBeginCapture, "cuStreamBeginCapture_v2", (CUstream stream, int mode)) \
    X(StreamEndCapture, "cuStreamEndCapture", (CUstream stream, CUgraph *graph)) \
    X(GraphInstantiate, "cuGraphInstantiateWithFlags", (CUgraphExec *graph_exec, CUgraph graph, unsigned long long flags)) \
    X(GraphDestroy, "cuGraphDestroy", (CUgraph graph)) \
    X(GraphExecDestroy, "cuGraphExecDestroy", (CUgraphExec graph_exec)) \
    X(GraphLaunch, "cuGraphLaunch", (CUgraphExec graph_exec, CUstream stream)) \
    X(LaunchKernelEx, "cuLaunchKernelEx", (const CUlaunchConfig *config, CUfunction function, void **parameters, void **extra))

/* The number of each call: what a status has it failed in. */
enum mnv2c_cuda_call {
#define NUMBER(name, symbol, parameters) MNV2C_CUDA_##name,
    MNV2C_CUDA_CALLS(NUMBER)
#undef NUMBER
    MNV2C_CUDA_CALL_COUNT
};

struct mnv2c_cuda {
#define MEMBER(name, symbol, parameters) CUresult (*name) parameters;
    MNV2C_CUDA_CALLS(MEMBER)
#undef MEMBER
    int version; /* as cuDriverGetVersion has it */
};

/* The driver, loaded and initialised once for each context; null and a status where there is none, or one too old, or where
 * this is a child of fork and its parent has it. */
const struct mnv2c_cuda *mnv2c_cuda_load(int *status);

/* Whether this is a child of fork whose parent has the driver: every call of it would fail here. */
int mnv2c_cuda_is_parents(void);

/* A status for a result of a call that failed, and the words for it; MNV2C_OK for CUDA_SUCCESS. */
int mnv2c_cuda_status(enum mnv2c_cuda_call call, CUresult result);
const char *mnv2c_cuda_message(int status);

#endif
