/* The one signature of every kernel, whatever it computes and in which element types. */
#ifndef MNV2C_KERNEL_H
#define MNV2C_KERNEL_H

#include <stdint.h>

/*
 * Computes the tasks begin <= task < end; tasks are independent of each other. `operands` point to the inputs, the packed
 * constants and the outputs of the layer, in this order; `scratch` is memory of the calling thread. Not 0: it refused.
 */
typedef int32_t mnv2c_kernel(void *const *operands, void *scratch, int32_t begin, int32_t end);

#endif
