/* Which instruction sets this processor has, of those that libraries are built for, and which of them is the best on it. */
#define _GNU_SOURCE /* sched_getaffinity */
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
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/auxv.h>

static int has(unsigned long bits) { return (getauxval(AT_HWCAP) & bits) == bits; }

int mnv2c_cpu_has(const char *instruction_set)
{
#if defined(__aarch64__)
    const unsigned long fp = 1 << 0, asimd = 1 << 1, crc32 = 1 << 7, atomics = 1 << 8, fphp = 1 << 9, asimdhp = 1 << 10,
                        asimdrdm = 1 << 12, lrcpc = 1 << 15, asimddp = 1 << 20;
    const unsigned long armv8 = fp | asimd;
    const unsigned long armv82 = armv8 | crc32 | atomics | fphp | asimdhp | asimdrdm | lrcpc | asimddp;
    if (strcmp(instruction_set, "a53") == 0) return has(armv8);
    if (strcmp(instruction_set, "a72") == 0) return has(armv8);
    if (strcmp(instruction_set, "a76") == 0) return has(armv82);
    if (strcmp(instruction_set, "n1") == 0) return has(armv82);
#else
    const unsigned long neon = 1 << 12, vfpv4 = 1 << 16;
    if (strcmp(instruction_set, "armv7") == 0) return has(neon | vfpv4);
#endif
    return 0;
}
#endif

static int is_for(const struct mnv2c_instruction_set *set, uint32_t core)
{
    for (int i = 0; i < MNV2C_PARTS && set->parts[i] != 0; i++)
        if (set->parts[i] == core) return 1;
    return 0;
}

/* The number of the one scheduled for a core, else, also where the core is not known (0), of the first, which is the best, that
 * it runs; the count of them where it runs none. */
static int best_on(uint32_t core)
{
    int first = mnv2c_instruction_set_count;
    for (int i = 0; i < mnv2c_instruction_set_count; i++) {
        if (!mnv2c_cpu_has(mnv2c_instruction_sets[i].name)) continue;
        if (is_for(&mnv2c_instruction_sets[i], core)) return i;
        if (i < first) first = i;
    }
    return first;
}

#if defined(__aarch64__)
static uint32_t core_of(unsigned long midr) { return (uint32_t)(midr >> 24 & 0xff) << 12 | (uint32_t)(midr >> 4 & 0xfff); }

/* Where Linux says that it lets programs ask: of the core that this thread is on just now. */
static uint32_t core_here(void)
{
    const unsigned long cpuid = 1 << 11;
    unsigned long midr = 0;
    if (has(cpuid)) __asm__ volatile("mrs %0, midr_el1" : "=r"(midr));
    return core_of(midr);
}

/* As the system's files say, which tell of each; not in an emulator, or in a sandbox. */
static uint32_t core_of_cpu(int cpu)
{
    char path[80], text[32] = "";
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/regs/identification/midr_el1", cpu);
    FILE *file = fopen(path, "re");
    if (file == NULL) return core_here();
    if (fgets(text, sizeof text, file) == NULL) text[0] = 0;
    fclose(file);
    return core_of(strtoul(text, NULL, 16));
}

/*
 * Of several kinds of cores the biggest counts, whose kernels stand first: that is where the system puts a thread that is busy,
 * and where threads that share tasks do most of them.
 */
static int best_of(const int *cpus, int cpu_count)
{
    cpu_set_t allowed;
    int best = mnv2c_instruction_set_count;
    CPU_ZERO(&allowed);
    for (int i = 0; i < cpu_count; i++) CPU_SET(cpus[i], &allowed);
    if (cpu_count == 0) sched_getaffinity(0, sizeof allowed, &allowed); /* where there are more than fit, the set stays empty */
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        int number = CPU_ISSET(cpu, &allowed) ? best_on(core_of_cpu(cpu)) : best;
        if (number < best) best = number;
    }
    return best < mnv2c_instruction_set_count ? best : best_on(core_here());
}
#else
static int best_of(const int *cpus, int cpu_count)
{
    (void)cpus, (void)cpu_count;
    return best_on(0);
}
#endif

const struct mnv2c_instruction_set *mnv2c_cpu_best(const int *cpus, int cpu_count)
{
    int best = best_of(cpus, cpu_count);
    return best < mnv2c_instruction_set_count ? &mnv2c_instruction_sets[best] : NULL;
}
