/* What the machine can do: cpuid, and xgetbv for the registers that the operating system saves. */
#include "engine/cpu/kernels.h"

#if defined(__x86_64__)
#include <cpuid.h>

enum {
    XCR0_AVX = 0x06,    /* xmm, ymm */
    XCR0_AVX512 = 0xE6, /* and mask registers, upper halves, zmm16-31 */
};

static unsigned saved_registers(void)
{
    unsigned lo, hi;
    __asm__("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return lo;
}

unsigned em_cpu_flags(void)
{
    const unsigned want_1c = bit_FMA | bit_OSXSAVE | bit_AVX | bit_F16C;
    const unsigned want_7b = bit_AVX2 | bit_BMI2;
    const unsigned want_512 = bit_AVX512F | bit_AVX512DQ | bit_AVX512BW | bit_AVX512VL;
    unsigned a, b1, b7, c1, c7, d;
    if (!__get_cpuid(1, &a, &b1, &c1, &d) || (c1 & want_1c) != want_1c)
        return 0;
    if (!__get_cpuid_count(7, 0, &a, &b7, &c7, &d) || (b7 & want_7b) != want_7b)
        return 0;
    unsigned saved = saved_registers(), flags = 0;
    if ((saved & XCR0_AVX) == XCR0_AVX)
        flags |= EM_CPU_AVX2;
    if (flags && (b7 & want_512) == want_512 && (saved & XCR0_AVX512) == XCR0_AVX512)
        flags |= EM_CPU_AVX512;
    return flags;
}
#else
unsigned em_cpu_flags(void)
{
    return 0;
}
#endif
