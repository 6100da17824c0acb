/* What the parts of a library for NVIDIA GPUs share: the driver (the layers), gpu.c and libcuda.c. Not for its users. */
#ifndef MNV2C_GPU_H
#define MNV2C_GPU_H

/* All is compiled with -fvisibility=hidden but the interface. */
#pragma GCC visibility push(default)
#include "mnv2c.h"
#pragma GCC visibility pop

/* Where a kernel finds an operand: the caller's input, one of the caller's outputs by its number, or bytes from the begin of
 * the arena or of the weights. */
enum mnv2c_space { MNV2C_INPUT, MNV2C_OUTPUT, MNV2C_ARENA, MNV2C_WEIGHTS };

struct mnv2c_operand {
    enum mnv2c_space space;
    size_t offset;
};

enum { MNV2C_MOST_OPERANDS = 8, MNV2C_MOST_OUTPUTS = 64 };

/* How a kernel is launched; `order` says which of a layer's operands each of its parameters is. */
struct mnv2c_compiled {
    const char *symbol;
    unsigned grid[3], block[3];
    int parameters;
    unsigned char order[MNV2C_MOST_OPERANDS];
};

/* A layer: what an observer is told, but for data and time; the kernels for float and for byte input, by number; its operands
 * (inputs, constants, output); which of them it writes, and bytes from there to the first element inside its border. */
struct mnv2c_step {
    mnv2c_layer layer;
    int kernel, kernel_rgb;
    struct mnv2c_operand operands[MNV2C_MOST_OPERANDS];
    int output;
    size_t interior;
};

/* Code for GPUs of compute capability `major`.`minor`, and for later ones of the same `major`; PTX for all later ones. */
struct mnv2c_code {
    const char *name; /* "sm_90", or "ptx" */
    int major, minor, is_ptx;
    const char *data;
    const struct mnv2c_compiled *kernels;
};

/* The driver defines these; the newest architecture comes first, PTX last. */
extern const struct mnv2c_code mnv2c_codes[];
extern const int mnv2c_code_count;
extern const int mnv2c_kernel_count;
extern const struct mnv2c_step mnv2c_steps[];
extern const int mnv2c_step_count;
extern const size_t mnv2c_arena_bytes, mnv2c_weights_bytes;
extern const size_t mnv2c_input_bytes[2]; /* of floats, of bytes */
extern const size_t mnv2c_output_bytes[];
extern const int mnv2c_output_count;
extern const char mnv2c_weights[];

/* gpu.c: runs the network for the driver's mnv2c_run and mnv2c_run_rgb, one pointer for each output. */
int mnv2c_run_network(mnv2c_context *context, const void *input, int rgb, void *const *outputs);

/* gpu.c: the same for mnv2c_run_image. */
int mnv2c_run_images(mnv2c_context *context, const mnv2c_image *images, void *const *outputs);

/* gpu.c: the same for mnv2c_enqueue and mnv2c_enqueue_rgb; input and outputs are on the device. */
int mnv2c_enqueue_network(mnv2c_context *context, const void *input, int rgb, void *const *outputs, void *stream);

#endif
