/* Which instruction sets this processor has, of those that libraries are built for. */
#include "runtime.h"

#include <string.h>

#if defined(__x86_64__)
/* https://gitlab.com/x86-psABIs/x86-64-ABI, "Micro-Architecture Levels". */
#include <cpuid.h>

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

#else
/* Linux says: Documentation/arch/arm64/elf_hwcaps.rst. The bits are part of its interface, but older headers lack some. */
#include <sys/auxv.h>

static int has(unsigned long bits) { return (getauxval(AT_HWCAP) & bits) == bits; }

int mnv2c_cpu_has(const char *instruction_set)
{
#if defined(__aarch64__)
    const unsigned long fp = 1 << 0, asimd = 1 << 1, crc32 = 1 << 7, atomics = 1 << 8, fphp = 1 << 9, asimdhp = 1 << 10,
                        asimdrdm = 1 << 12, lrcpc = 1 << 15, asimddp = 1 << 20;
    const unsigned long armv8 = fp | asimd;
    if (strcmp(instruction_set, "armv8") == 0) return has(armv8);
    if (strcmp(instruction_set, "armv82") == 0)
        return has(armv8 | crc32 | atomics | fphp | asimdhp | asimdrdm | lrcpc | asimddp);
#else
    const unsigned long neon = 1 << 12, vfpv4 = 1 << 16;
    if (strcmp(instruction_set, "armv7") == 0) return has(neon | vfpv4);
#endif
    return 0;
}
#endif
