/* Look-up tables that tiers share. */
#include <math.h>

#include "engine/cpu/tiers.h"

/* 2^(b - 127), built from b's bits; the ends are the subnormal 2^-127 and NaN. */
#define BIT(b, i, v) ((b) >> (i)&1 ? (v) : 1.0)
#define SCALE(b)                                                                                                       \
    ((b) == 255 ? NAN                                                                                                  \
                : (float)(0x1p-127 * BIT(b, 0, 0x1p1) * BIT(b, 1, 0x1p2) * BIT(b, 2, 0x1p4) * BIT(b, 3, 0x1p8) *       \
                          BIT(b, 4, 0x1p16) * BIT(b, 5, 0x1p32) * BIT(b, 6, 0x1p64) * BIT(b, 7, 0x1p128)))
#define SCALE4(b) SCALE(b), SCALE((b) + 1), SCALE((b) + 2), SCALE((b) + 3)
#define SCALE16(b) SCALE4(b), SCALE4((b) + 4), SCALE4((b) + 8), SCALE4((b) + 12)
#define SCALE64(b) SCALE16(b), SCALE16((b) + 16), SCALE16((b) + 32), SCALE16((b) + 48)

const float em_e8m0_table[256] = {SCALE64(0), SCALE64(64), SCALE64(128), SCALE64(192)};

/* Exponent field 0: subnormal, step 2^-9. */
#define E4M3_MAG(b)                                                                                                    \
    (((b) >> 3 & 15) == 0                                                                                              \
         ? ((b)&7) * 0x1p-9                                                                                            \
         : (8 + ((b)&7)) * 0x1p-10 * BIT(b, 3, 0x1p1) * BIT(b, 4, 0x1p2) * BIT(b, 5, 0x1p4) * BIT(b, 6, 0x1p8))
#define E4M3(b) (((b)&127) == 127 ? NAN : (float)((b)&128 ? -E4M3_MAG(b) : E4M3_MAG(b)))
#define E4M3_4(b) E4M3(b), E4M3((b) + 1), E4M3((b) + 2), E4M3((b) + 3)
#define E4M3_16(b) E4M3_4(b), E4M3_4((b) + 4), E4M3_4((b) + 8), E4M3_4((b) + 12)
#define E4M3_64(b) E4M3_16(b), E4M3_16((b) + 16), E4M3_16((b) + 32), E4M3_16((b) + 48)

const float em_e4m3_table[256] = {E4M3_64(0), E4M3_64(64), E4M3_64(128), E4M3_64(192)};

/* The 16 products of a scale. */
#define E2M1_MAG(s) (s) * 0.0f, (s)*0.5f, (s), (s)*1.5f, (s)*2.0f, (s)*3.0f, (s)*4.0f, (s)*6.0f
#define E2M1(b)                                                                                                        \
    {                                                                                                                  \
        E2M1_MAG(SCALE(b)), E2M1_MAG(-SCALE(b))                                                                        \
    }
#define E2M1_4(b) E2M1(b), E2M1((b) + 1), E2M1((b) + 2), E2M1((b) + 3)
#define E2M1_16(b) E2M1_4(b), E2M1_4((b) + 4), E2M1_4((b) + 8), E2M1_4((b) + 12)
#define E2M1_64(b) E2M1_16(b), E2M1_16((b) + 16), E2M1_16((b) + 32), E2M1_16((b) + 48)

const _Alignas(64) float em_e2m1_scaled[256][16] = {E2M1_64(0), E2M1_64(64), E2M1_64(128), E2M1_64(192)};
