/* Measures the machine, not a network: multiply-adds that do not wait for each other, as many as hide the latency.
 *
 * LANES: floats in a vector register of the instruction set. CHAINS: independent accumulators; two units of latency 4 to 5
 * need 10, and 12 fit into 16 registers beside the two constants. */
#ifndef LANES
#define LANES 8
#endif

typedef float vector __attribute__((vector_size(LANES * 4)));

enum { CHAINS = 12 };

/* 2 * CHAINS * LANES * steps floating point operations; the result keeps the compiler from dropping them. */
__attribute__((visibility("default"))) float mnv2c_peak(long steps, float factor, float summand)
{
    const vector m = factor - (vector){0}, c = summand - (vector){0};
    vector a0 = m, a1 = c, a2 = m + c, a3 = m - c, a4 = m * c, a5 = c - m;
    vector b0 = -m, b1 = -c, b2 = -m - c, b3 = c + c, b4 = -m * c, b5 = m + m;
    for (long i = 0; i < steps; i++) {
        a0 = a0 * m + c, a1 = a1 * m + c, a2 = a2 * m + c, a3 = a3 * m + c, a4 = a4 * m + c, a5 = a5 * m + c;
        b0 = b0 * m + c, b1 = b1 * m + c, b2 = b2 * m + c, b3 = b3 * m + c, b4 = b4 * m + c, b5 = b5 * m + c;
        /* Opaque to the optimiser: it must not fold two chains, or two steps, into one. */
        __asm__ volatile("" : "+x"(a0), "+x"(a1), "+x"(a2), "+x"(a3), "+x"(a4), "+x"(a5));
        __asm__ volatile("" : "+x"(b0), "+x"(b1), "+x"(b2), "+x"(b3), "+x"(b4), "+x"(b5));
    }
    const vector sum = a0 + a1 + a2 + a3 + a4 + a5 + b0 + b1 + b2 + b3 + b4 + b5;
    return sum[0];
}
