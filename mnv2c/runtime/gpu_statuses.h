    /* Of a library for NVIDIA GPUs, where MNV2C_FORKED is for every context in a child of fork, new ones too, once its parent
     * has created one: the CUDA driver is then the parent's. */
    , MNV2C_NO_DRIVER = 7,     /* libcuda.so.1 cannot be loaded */
    MNV2C_DRIVER_TOO_OLD = 8,  /* older than 525 */
    MNV2C_NO_GPU = 9,
    MNV2C_ARCHITECTURE = 10,   /* the library has no code for this GPU */
    MNV2C_GPU_MEMORY = 11,     /* out of GPU memory */
    MNV2C_CONTEXT_LOST = 12,   /* a kernel failed, here or elsewhere in this program: every run from now on fails */
    MNV2C_DEVICE_POINTER = 13, /* what was given as a device pointer is none */
    MNV2C_CUDA = 1 << 20,      /* another call of the CUDA driver failed: MNV2C_CUDA + call * MNV2C_CUDA_RESULTS + CUresult */
    MNV2C_CUDA_RESULTS = 1 << 12
