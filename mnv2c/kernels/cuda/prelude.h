/*
 * What every kernel may use: types that TVM writes and that CUDA has in its headers alone; instructions of tensor cores; and
 * dependent launch. What a program does not use is not in its code.
 */
typedef unsigned char uchar;

struct half {
    unsigned short bits;
    half() = default;
    __device__ __forceinline__ explicit half(float x) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x)); }
    __device__ __forceinline__ explicit operator float() const
    {
        float x;
        asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
        return x;
    }
};
struct __align__(4) half2 { half x, y; };
struct __align__(8) half4 { half x, y, z, w; };
#define __float2half_rn(x) half(x)

/* The nearest value of 11 bits; and the products of a warp by its lanes' registers, as PTX numbers them: see products.h. */
__device__ __forceinline__ unsigned tf32(float x)
{
    unsigned rounded;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(x));
    return rounded;
}

__device__ __forceinline__ void mma_tf32(float *sums, unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0, unsigned b1)
{
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

__device__ __forceinline__ void mma_fp16(float *sums, unsigned a0, unsigned a1, unsigned b0)
{
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
                 : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
                 : "r"(a0), "r"(a1), "r"(b0));
}

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define ALLOW_NEXT() asm volatile("griddepcontrol.launch_dependents;")
#define WAIT() asm volatile("griddepcontrol.wait;" ::: "memory")
/* Inlined, it made a kernel spill on sm_100. */
__device__ __noinline__ void fetch(const void *data, unsigned bytes)
{
    unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    unsigned thread = (block * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    unsigned threads = gridDim.x * gridDim.y * gridDim.z * blockDim.x * blockDim.y;
    for (unsigned line = thread; line < (bytes + 127) / 128; line += threads)
        asm volatile("prefetch.L2 [%0];" :: "l"((const char *)data + line * 128));
}
#define FETCH(data, bytes) fetch(data, bytes)
#else
#define ALLOW_NEXT()
#define WAIT()
#define FETCH(data, bytes)
#endif
