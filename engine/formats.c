#include "engine/formats.h"

#include <math.h>
#include <string.h>

static uint32_t bits_of(float v)
{
    uint32_t u;
    memcpy(&u, &v, sizeof(u));
    return u;
}

static float float_of(uint32_t u)
{
    float v;
    memcpy(&v, &u, sizeof(v));
    return v;
}

float em_bf16_to_f32(uint16_t v)
{
    return float_of((uint32_t)v << 16);
}

uint16_t em_f32_to_bf16(float v)
{
    uint32_t u = bits_of(v);
    if ((u & 0x7FFFFFFFu) > 0x7F800000u)
        return (uint16_t)(u >> 16 | 0x40); /* quiet, so that cutting the mantissa cannot make it an infinity */
    return (uint16_t)((u + 0x7FFF + (u >> 16 & 1)) >> 16);
}

float em_e4m3_to_f32(uint8_t code)
{
    uint32_t sign = (uint32_t)(code & 0x80) << 24;
    uint32_t mag = code & 0x7F;
    if (mag == 0x7F)
        return float_of(sign | 0x7FC00000u);
    /* The same exponent and mantissa fields under float32's bias: too small by 2^120, for subnormals too. */
    return float_of(sign | bits_of(float_of(mag << 20) * 0x1p120f));
}

uint8_t em_f32_to_e4m3(float v)
{
    uint32_t u = bits_of(v);
    uint8_t sign = (uint8_t)(u >> 24 & 0x80);
    float a = float_of(u & 0x7FFFFFFFu);
    if (isnan(v))
        return 0x7F;
    if (a >= 448.0f)
        return sign | 0x7E;
    if (a < 0x1p-6f) /* subnormal step 2^-9: adding 2^14 leaves it in the last place, rounded to even */
        return (uint8_t)(sign | (bits_of(a + 0x1p14f) & 0xF));
    uint32_t r = bits_of(a);
    r += 0x7FFFF + (r >> 20 & 1);
    return (uint8_t)(sign | ((r >> 20) - (120u << 3)));
}

static const float e2m1_value[8] = {0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f};

float em_e2m1_to_f32(uint8_t code)
{
    float v = e2m1_value[code & 7];
    return code & 8 ? -v : v;
}

uint8_t em_f32_to_e2m1(float v)
{
    uint8_t sign = (uint8_t)(bits_of(v) >> 28 & 8);
    float a = fabsf(v);
    /* Halfway points go to the even code; NaN, which the format lacks, fails every comparison and becomes 0. */
    return (uint8_t)(sign |
                     ((a > 0.25f) + (a >= 0.75f) + (a > 1.25f) + (a >= 1.75f) + (a > 2.5f) + (a >= 3.5f) + (a > 5.0f)));
}

float em_e8m0_to_f32(uint8_t code)
{
    if (code == 0)
        return float_of(0x00400000u);
    if (code == 255)
        return float_of(0x7FC00000u);
    return float_of((uint32_t)code << 23);
}

int em_pow2ceil_exp(float t)
{
    uint32_t u = bits_of(t);
    return (int)(u >> 23 & 0xFF) - 127 + ((u & 0x7FFFFFu) != 0);
}
