/* Contexts on an NVIDIA GPU: code and weights once on the device, memory and a graph of launches for each context. */
#include "gpu.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "image.h"
#include "libcuda.h"

enum { ALIGNMENT = 256 }; /* of every tensor that is given to a kernel first: as cuMemAlloc aligns */
enum { DEPENDENT_LAUNCH = 9, DRIVER_OF_DEPENDENT_GRAPHS = 12030 }; /* compute capability, cuDriverGetVersion */

/* Calls the driver where nothing has failed yet. */
#define TRY(status, cuda, call, ...) \
    do { \
        if ((status) == MNV2C_OK) (status) = mnv2c_cuda_status(MNV2C_CUDA_##call, (cuda)->call(__VA_ARGS__)); \
    } while (0)

/* What all contexts share: the primary context of the device, which is also that of PyTorch and of the CUDA runtime. */
struct device {
    CUdevice number;
    CUcontext primary;
    CUmodule module;
    CUfunction *functions;
    CUdeviceptr weights;
    const struct mnv2c_code *code;
    int contexts;
};

static struct device shared;
static pthread_mutex_t shared_lock = PTHREAD_MUTEX_INITIALIZER;

struct mnv2c_context {
    const struct mnv2c_cuda *cuda;
    CUdeviceptr memory, input, arena; /* one block: input, outputs, arena */
    CUdeviceptr *outputs;
    char *staging; /* pinned: the input, then the outputs */
    struct mnv2c_fitting *fitting;
    CUstream stream;
    CUgraphExec graphs[2]; /* of float and of byte input */
    CUevent events[2]; /* before and after a layer */
    int lost;
    pthread_mutex_t lock; /* a run, or a change of observer */
    mnv2c_observer *observer;
    void *user;
};

const char *mnv2c_message(int status)
{
    switch (status) {
    case MNV2C_OK: return "ok";
    case MNV2C_ARGUMENT: return "invalid argument: a null pointer, a value out of range or an unaligned float buffer";
    case MNV2C_MEMORY: return "out of memory";
    case MNV2C_INSTRUCTION_SET: return "the library was not built for this instruction set";
    case MNV2C_NO_DRIVER: return "no NVIDIA driver: libcuda.so.1 cannot be loaded";
    case MNV2C_DRIVER_TOO_OLD: return "the NVIDIA driver is too old: CUDA 12 needs 525 or newer";
    case MNV2C_NO_GPU: return "no NVIDIA GPU";
    case MNV2C_ARCHITECTURE: return "the library has no code for this GPU";
    case MNV2C_GPU_MEMORY: return "out of GPU memory";
    case MNV2C_CONTEXT_LOST: return "the CUDA context is lost: a kernel failed, here or elsewhere in this program";
    case MNV2C_DEVICE_POINTER: return "not a device pointer";
    case MNV2C_FORKED: return "the process that forked this one has the CUDA driver: fork before the first context is created";
    default: break;
    }
    const char *message = mnv2c_image_message(status);
    return message != NULL ? message : mnv2c_cuda_message(status);
}

static size_t round_up(size_t bytes) { return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

/* The code for this GPU: of its own generation, the newest that it runs, else PTX. */
static int choose_code(const struct mnv2c_cuda *cuda, struct device *device, const char *name)
{
    int major = 0, minor = 0, status = MNV2C_OK;
    TRY(status, cuda, DeviceGetAttribute, &major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device->number);
    TRY(status, cuda, DeviceGetAttribute, &minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device->number);
    if (status != MNV2C_OK) return status;
    int known = name == NULL;
    for (int i = 0; i < mnv2c_code_count; i++) {
        const struct mnv2c_code *code = &mnv2c_codes[i];
        if (name != NULL && strcmp(name, code->name) != 0) continue;
        known = 1;
        int is_older = code->major < major || (code->major == major && code->minor <= minor);
        if (!is_older || (!code->is_ptx && code->major != major)) continue;
        device->code = code;
        return MNV2C_OK;
    }
    return known ? MNV2C_ARCHITECTURE : MNV2C_INSTRUCTION_SET;
}

static void unload(const struct mnv2c_cuda *cuda, struct device *device)
{
    if (device->weights != 0) cuda->MemFree(device->weights);
    if (device->module != NULL) cuda->ModuleUnload(device->module);
    free(device->functions);
}

/* Code and weights; the device's context is current. */
static int load(const struct mnv2c_cuda *cuda, struct device *device)
{
    int status = MNV2C_OK;
    device->functions = calloc((size_t)mnv2c_kernel_count, sizeof *device->functions);
    if (device->functions == NULL) return MNV2C_MEMORY;
    TRY(status, cuda, ModuleLoad, &device->module, device->code->data);
    for (int i = 0; i < mnv2c_kernel_count; i++)
        TRY(status, cuda, ModuleGetFunction, &device->functions[i], device->module, device->code->kernels[i].symbol);
    TRY(status, cuda, MemAlloc, &device->weights, mnv2c_weights_bytes);
    TRY(status, cuda, CopyToDevice, device->weights, mnv2c_weights, mnv2c_weights_bytes, NULL);
    TRY(status, cuda, StreamSynchronize, NULL);
    if (status != MNV2C_OK) unload(cuda, device);
    return status;
}

/* One more context uses the device; its context is current afterwards. */
static int share(const struct mnv2c_cuda *cuda, const char *name)
{
    pthread_mutex_lock(&shared_lock);
    int status = MNV2C_OK;
    if (shared.contexts == 0) {
        memset(&shared, 0, sizeof shared);
        TRY(status, cuda, DeviceGet, &shared.number, 0);
        if (status == MNV2C_OK) status = choose_code(cuda, &shared, name);
        TRY(status, cuda, PrimaryCtxRetain, &shared.primary, shared.number);
        int retained = status == MNV2C_OK;
        TRY(status, cuda, CtxPush, shared.primary);
        int pushed = status == MNV2C_OK;
        if (status == MNV2C_OK) status = load(cuda, &shared);
        if (status != MNV2C_OK && pushed) cuda->CtxPop(&(CUcontext){NULL});
        if (status != MNV2C_OK && retained) cuda->PrimaryCtxRelease(shared.number);
    } else {
        if (name != NULL && strcmp(name, shared.code->name) != 0) status = MNV2C_INSTRUCTION_SET;
        TRY(status, cuda, CtxPush, shared.primary);
    }
    if (status == MNV2C_OK) shared.contexts++;
    pthread_mutex_unlock(&shared_lock);
    return status;
}

/* One less; the device's context is current, and no longer afterwards. */
static void release(const struct mnv2c_cuda *cuda)
{
    pthread_mutex_lock(&shared_lock);
    int last = --shared.contexts == 0;
    if (last) unload(cuda, &shared);
    cuda->CtxPop(&(CUcontext){NULL});
    if (last) cuda->PrimaryCtxRelease(shared.number);
    pthread_mutex_unlock(&shared_lock);
}

/* Input, outputs and arena on the device; the same but for the arena in pinned memory here. */
static int find_memory(mnv2c_context *context)
{
    const struct mnv2c_cuda *cuda = context->cuda;
    size_t input = round_up(mnv2c_input_bytes[0]), outputs = 0;
    context->outputs = calloc((size_t)mnv2c_output_count, sizeof *context->outputs);
    if (context->outputs == NULL) return MNV2C_MEMORY;
    for (int i = 0; i < mnv2c_output_count; i++) outputs += round_up(mnv2c_output_bytes[i]);
    int status = MNV2C_OK;
    void *staging = NULL;
    TRY(status, cuda, MemAlloc, &context->memory, input + outputs + round_up(mnv2c_arena_bytes));
    TRY(status, cuda, MemHostAlloc, &staging, input + outputs, 0);
    context->staging = staging;
    context->input = context->memory;
    CUdeviceptr place = context->input + input;
    for (int i = 0; i < mnv2c_output_count; i++) {
        context->outputs[i] = place;
        place += round_up(mnv2c_output_bytes[i]);
    }
    context->arena = place;
    return status;
}

static CUdeviceptr address(const mnv2c_context *context, const struct mnv2c_operand *operand, CUdeviceptr input,
                           const CUdeviceptr *outputs)
{
    switch (operand->space) {
    case MNV2C_INPUT: return input;
    case MNV2C_OUTPUT: return outputs[operand->offset];
    case MNV2C_ARENA: return context->arena + operand->offset;
    default: return shared.weights + operand->offset;
    }
}

/* Whether the kernels wait for the ones before them by themselves, so that they may begin early. */
static int may_overlap(const mnv2c_context *context)
{
    const struct mnv2c_code *code = shared.code;
    return !code->is_ptx && code->major >= DEPENDENT_LAUNCH && context->cuda->version >= DRIVER_OF_DEPENDENT_GRAPHS;
}

/* `early`: before the kernel ahead of it on the stream, which is one of ours, has ended. */
static int launch(mnv2c_context *context, const struct mnv2c_step *step, int rgb, CUdeviceptr input,
                  const CUdeviceptr *outputs, CUstream stream, int early)
{
    int number = rgb ? step->kernel_rgb : step->kernel;
    const struct mnv2c_compiled *kernel = &shared.code->kernels[number];
    CUdeviceptr values[MNV2C_MOST_OPERANDS];
    void *parameters[MNV2C_MOST_OPERANDS];
    for (int i = 0; i < kernel->parameters; i++) {
        values[i] = address(context, &step->operands[kernel->order[i]], input, outputs);
        parameters[i] = &values[i];
    }
    int status = MNV2C_OK;
    CUlaunchAttribute overlap = {.id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION};
    overlap.value.programmaticStreamSerializationAllowed = 1;
    const unsigned *grid = kernel->grid, *block = kernel->block;
    CUlaunchConfig config = {grid[0], grid[1], grid[2], block[0], block[1], block[2], 0, stream, &overlap, early ? 1 : 0};
    TRY(status, context->cuda, LaunchKernelEx, &config, shared.functions[number], parameters, NULL);
    return status;
}

static int launch_all(mnv2c_context *context, int rgb, CUdeviceptr input, const CUdeviceptr *outputs, CUstream stream)
{
    int status = MNV2C_OK, early = may_overlap(context);
    for (int i = 0; i < mnv2c_step_count && status == MNV2C_OK; i++)
        status = launch(context, &mnv2c_steps[i], rgb, input, outputs, stream, i > 0 && early);
    return status;
}

static int copy_in(mnv2c_context *context, int rgb)
{
    int status = MNV2C_OK;
    TRY(status, context->cuda, CopyToDevice, context->input, context->staging, mnv2c_input_bytes[rgb], context->stream);
    return status;
}

static int copy_out(mnv2c_context *context)
{
    int status = MNV2C_OK;
    char *place = context->staging + round_up(mnv2c_input_bytes[0]);
    for (int i = 0; i < mnv2c_output_count; i++) {
        TRY(status, context->cuda, CopyToHost, place, context->outputs[i], mnv2c_output_bytes[i], context->stream);
        place += round_up(mnv2c_output_bytes[i]);
    }
    return status;
}

/* Copies and launches of a whole run, as one graph: a launch of it costs the CPU what one kernel's would. */
static int make_graph(mnv2c_context *context, int rgb)
{
    const struct mnv2c_cuda *cuda = context->cuda;
    CUgraph graph = NULL;
    int status = MNV2C_OK;
    TRY(status, cuda, StreamBeginCapture, context->stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
    if (status != MNV2C_OK) return status;
    status = copy_in(context, rgb);
    if (status == MNV2C_OK) status = launch_all(context, rgb, context->input, context->outputs, context->stream);
    if (status == MNV2C_OK) status = copy_out(context);
    CUresult ended = cuda->StreamEndCapture(context->stream, &graph);
    if (status == MNV2C_OK) status = mnv2c_cuda_status(MNV2C_CUDA_StreamEndCapture, ended);
    TRY(status, cuda, GraphInstantiate, &context->graphs[rgb], graph, 0);
    if (graph != NULL) cuda->GraphDestroy(graph);
    return status;
}

static void free_own(mnv2c_context *context)
{
    free(context->outputs);
    free(context->fitting);
    free(context);
}

static void free_all(mnv2c_context *context)
{
    const struct mnv2c_cuda *cuda = context->cuda;
    for (int rgb = 0; rgb < 2; rgb++)
        if (context->graphs[rgb] != NULL) cuda->GraphExecDestroy(context->graphs[rgb]);
    for (int i = 0; i < 2; i++)
        if (context->events[i] != NULL) cuda->EventDestroy(context->events[i]);
    if (context->stream != NULL) cuda->StreamDestroy(context->stream);
    if (context->staging != NULL) cuda->MemFreeHost(context->staging);
    if (context->memory != 0) cuda->MemFree(context->memory);
    release(cuda);
    free_own(context);
}

int mnv2c_create(const mnv2c_options *options, mnv2c_context **context)
{
    static const mnv2c_options defaults = MNV2C_OPTIONS_INIT;
    if (context == NULL) return MNV2C_ARGUMENT;
    *context = NULL;
    if (options == NULL) options = &defaults;
    if (options->size != sizeof *options && options->size != offsetof(mnv2c_options, cpus)) return MNV2C_ARGUMENT;
    if (options->threads < 0 || options->threads > 1) return MNV2C_ARGUMENT;
    int status;
    const struct mnv2c_cuda *cuda = mnv2c_cuda_load(&status);
    if (cuda == NULL) return status;
    mnv2c_context *made = calloc(1, sizeof *made);
    if (made == NULL) return MNV2C_MEMORY;
    made->cuda = cuda;
    status = share(cuda, options->instruction_set);
    if (status != MNV2C_OK) {
        free(made);
        return status;
    }
    TRY(status, cuda, StreamCreate, &made->stream, CU_STREAM_NON_BLOCKING);
    for (int i = 0; i < 2; i++) TRY(status, cuda, EventCreate, &made->events[i], 0);
    if (status == MNV2C_OK) status = find_memory(made);
    for (int rgb = 0; rgb < 2 && status == MNV2C_OK; rgb++) status = make_graph(made, rgb);
    if (status == MNV2C_OK && pthread_mutex_init(&made->lock, NULL) != 0) status = MNV2C_MEMORY;
    if (status != MNV2C_OK) {
        free_all(made);
        return status;
    }
    cuda->CtxPop(&(CUcontext){NULL});
    *context = made;
    return MNV2C_OK;
}

void mnv2c_destroy(mnv2c_context *context)
{
    if (context == NULL) return;
    if (mnv2c_cuda_is_parents()) { /* what the driver has is not ours, and a lock may be held by a thread that is not here */
        free_own(context);
        return;
    }
    pthread_mutex_destroy(&context->lock);
    context->cuda->CtxPush(shared.primary);
    free_all(context);
}

/* Runs one layer to its end, and shows the observer a copy of what it wrote. */
static int observe_layer(mnv2c_context *context, const struct mnv2c_step *step, int rgb)
{
    const struct mnv2c_cuda *cuda = context->cuda;
    mnv2c_layer layer = step->layer;
    float milliseconds = 0;
    int status = MNV2C_OK;
    TRY(status, cuda, EventRecord, context->events[0], context->stream);
    if (status == MNV2C_OK) status = launch(context, step, rgb, context->input, context->outputs, context->stream, 0);
    TRY(status, cuda, EventRecord, context->events[1], context->stream);
    TRY(status, cuda, StreamSynchronize, context->stream);
    TRY(status, cuda, EventElapsedTime, &milliseconds, context->events[0], context->events[1]);
    layer.nanoseconds = (uint64_t)((double)milliseconds * 1e6);
    if (status != MNV2C_OK) return status;
    size_t bytes = (size_t)layer.strides[0] * (size_t)layer.shape[0] * (strcmp(layer.element, "float16") ? sizeof(float) : 2);
    char *copy = malloc(bytes);
    if (copy == NULL) return MNV2C_MEMORY;
    CUdeviceptr data = address(context, &step->operands[step->output], context->input, context->outputs);
    TRY(status, cuda, CopyToHost, copy, data, bytes, context->stream);
    TRY(status, cuda, StreamSynchronize, context->stream);
    layer.data = copy + step->interior;
    if (status == MNV2C_OK) context->observer(context->user, &layer);
    free(copy);
    return status;
}

static int run_observed(mnv2c_context *context, int rgb)
{
    int status = copy_in(context, rgb);
    for (int i = 0; i < mnv2c_step_count && status == MNV2C_OK; i++) status = observe_layer(context, &mnv2c_steps[i], rgb);
    if (status == MNV2C_OK) status = copy_out(context);
    return status;
}

static int run_current(mnv2c_context *context, const void *input, int rgb, void *const *outputs)
{
    memcpy(context->staging, input, mnv2c_input_bytes[rgb]);
    int status = MNV2C_OK;
    if (context->observer != NULL) status = run_observed(context, rgb);
    else TRY(status, context->cuda, GraphLaunch, context->graphs[rgb], context->stream);
    TRY(status, context->cuda, StreamSynchronize, context->stream);
    const char *place = context->staging + round_up(mnv2c_input_bytes[0]);
    for (int i = 0; i < mnv2c_output_count && status == MNV2C_OK; i++) {
        memcpy(outputs[i], place, mnv2c_output_bytes[i]);
        place += round_up(mnv2c_output_bytes[i]);
    }
    return status;
}

static int is_float_buffer(const void *buffer) { return buffer != NULL && (uintptr_t)buffer % _Alignof(float) == 0; }

static int are_arguments(const mnv2c_context *context, const void *input, int rgb, void *const *outputs)
{
    if (context == NULL || input == NULL || (!rgb && !is_float_buffer(input))) return 0;
    for (int i = 0; i < mnv2c_output_count; i++)
        if (!is_float_buffer(outputs[i])) return 0;
    return 1;
}

static int run_locked(mnv2c_context *context, const void *input, int rgb, void *const *outputs)
{
    int status = context->lost ? MNV2C_CONTEXT_LOST : MNV2C_OK;
    TRY(status, context->cuda, CtxPush, shared.primary);
    if (status == MNV2C_OK) {
        status = run_current(context, input, rgb, outputs);
        context->cuda->CtxPop(&(CUcontext){NULL});
    }
    context->lost = status == MNV2C_CONTEXT_LOST;
    return status;
}

int mnv2c_run_network(mnv2c_context *context, const void *input, int rgb, void *const *outputs)
{
    if (!are_arguments(context, input, rgb, outputs)) return MNV2C_ARGUMENT;
    if (mnv2c_cuda_is_parents()) return MNV2C_FORKED;
    pthread_mutex_lock(&context->lock);
    int status = run_locked(context, input, rgb, outputs);
    pthread_mutex_unlock(&context->lock);
    return status;
}

int mnv2c_run_images(mnv2c_context *context, const mnv2c_image *images, void *const *outputs)
{
    const uint8_t *rgb;
    if (!are_arguments(context, images, 1, outputs)) return MNV2C_ARGUMENT;
    if (mnv2c_cuda_is_parents()) return MNV2C_FORKED;
    pthread_mutex_lock(&context->lock);
    int status = mnv2c_fit_images(&context->fitting, images, &rgb);
    if (status == MNV2C_OK) status = run_locked(context, rgb, 1, outputs);
    pthread_mutex_unlock(&context->lock);
    return status;
}

static int is_on_device(const struct mnv2c_cuda *cuda, CUdeviceptr pointer)
{
    unsigned type = 0;
    return cuda->PointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, pointer) == CUDA_SUCCESS &&
           type == CU_MEMORYTYPE_DEVICE;
}

static int enqueue_current(mnv2c_context *context, const void *input, int rgb, void *const *outputs, CUstream stream)
{
    CUdeviceptr places[MNV2C_MOST_OUTPUTS];
    if (!is_on_device(context->cuda, (CUdeviceptr)(uintptr_t)input)) return MNV2C_DEVICE_POINTER;
    for (int i = 0; i < mnv2c_output_count; i++) {
        places[i] = (CUdeviceptr)(uintptr_t)outputs[i];
        if (!is_on_device(context->cuda, places[i])) return MNV2C_DEVICE_POINTER;
    }
    return launch_all(context, rgb, (CUdeviceptr)(uintptr_t)input, places, stream);
}

int mnv2c_enqueue_network(mnv2c_context *context, const void *input, int rgb, void *const *outputs, void *stream)
{
    if (!are_arguments(context, input, rgb, outputs)) return MNV2C_ARGUMENT;
    if (mnv2c_cuda_is_parents()) return MNV2C_FORKED;
    pthread_mutex_lock(&context->lock);
    int status = context->lost ? MNV2C_CONTEXT_LOST : MNV2C_OK;
    TRY(status, context->cuda, CtxPush, shared.primary);
    if (status == MNV2C_OK) {
        status = enqueue_current(context, input, rgb, outputs, stream);
        context->cuda->CtxPop(&(CUcontext){NULL});
    }
    context->lost = status == MNV2C_CONTEXT_LOST;
    pthread_mutex_unlock(&context->lock);
    return status;
}

int mnv2c_observe(mnv2c_context *context, mnv2c_observer *observer, void *user)
{
    if (context == NULL) return MNV2C_ARGUMENT;
    if (mnv2c_cuda_is_parents()) return MNV2C_FORKED;
    pthread_mutex_lock(&context->lock);
    context->observer = observer;
    context->user = user;
    pthread_mutex_unlock(&context->lock);
    return MNV2C_OK;
}

const char *mnv2c_instruction_set(const mnv2c_context *context) { return context == NULL ? NULL : shared.code->name; }

int mnv2c_threads(const mnv2c_context *context) { return context == NULL ? 0 : 1; }
