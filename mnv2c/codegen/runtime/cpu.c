/* Which x86-64 level this processor has: https://gitlab.com/x86-psABIs/x86-64-ABI, "Micro-Architecture Levels". */
#include "runtime.h"

#include <cpuid.h>
#include <string.h>

struct registers {
    unsigned a, b, c, d;
};

static struct registers cpuid(unsigned leaf)
{
    struct registers r = {0, 0, 0, 0};
    __get_cpuid_count(leaf, 0, &r.a, &r.b, &r.c, &r.d); /* leaves zeros where the processor has no such leaf */
    return r;
}

static int has(unsigned word, unsigned bits) { return (word & bits) == bits; }

/* The vector registers that the system saves when it switches threads; the processor alone is not enough. */
static unsigned saved_state(void)
{
    unsigned low, high;
    if (!has(cpuid(1).c, bit_OSXSAVE)) return 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

static int has_v2(void)
{
    return has(cpuid(1).c, bit_SSE3 | bit_SSSE3 | bit_SSE4_1 | bit_SSE4_2 | bit_POPCNT | bit_CMPXCHG16B) &&
           has(cpuid(0x80000001).c, bit_LAHF_LM);
}

static int has_v3(void)
{
    const unsigned xmm_ymm = 0x06;
    return has_v2() && has(saved_state(), xmm_ymm) && has(cpuid(1).c, bit_AVX | bit_FMA | bit_F16C | bit_MOVBE) &&
           has(cpuid(7).b, bit_AVX2 | bit_BMI | bit_BMI2) && has(cpuid(0x80000001).c, bit_ABM);
}

static int has_v4(void)
{
    const unsigned xmm_ymm_zmm = 0xe6;
    return has_v3() && has(saved_state(), xmm_ymm_zmm) &&
           has(cpuid(7).b, bit_AVX512F | bit_AVX512BW | bit_AVX512CD | bit_AVX512DQ | bit_AVX512VL);
}

int mnv2c_cpu_has(const char *instruction_set)
{
    if (strcmp(instruction_set, "v2") == 0) return has_v2();
    if (strcmp(instruction_set, "v3") == 0) return has_v3();
    if (strcmp(instruction_set, "v4") == 0) return has_v4();
    return 0;
}
