/*
 * Adds 16 x 8 products of 8 values of k to the sums of a warp: kernels/cuda/mma.py says which of them a lane holds. `low` and
 * `high` are its two rows, two values of k each; `weight` those of its column, rounded already. PTX has the tf32 of a lane at
 * k and k + 4, so that which of the two comes first is the same for rows and columns.
 */
__device__ __forceinline__ void mma(float *sums, const float *low, const float *high, const float *weight)
{
    mma_tf32(sums, tf32(low[0]), tf32(high[0]), tf32(low[1]), tf32(high[1]), __float_as_uint(weight[0]),
             __float_as_uint(weight[1]));
}

__device__ __forceinline__ void mma(float *sums, const half *low, const half *high, const half *weight)
{
    mma_fp16(sums, *(const unsigned *)low, *(const unsigned *)high, *(const unsigned *)weight);
}
