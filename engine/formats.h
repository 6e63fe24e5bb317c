/* The small number formats, one value at a time: exact definitions that everything else is tested against (spec
 * section 3). Pure; any thread. */
#ifndef EM_ENGINE_FORMATS_H
#define EM_ENGINE_FORMATS_H

#include <stdint.h>

float em_bf16_to_f32(uint16_t v);
uint16_t em_f32_to_bf16(float v); /* round to nearest even; NaN stays NaN */

float em_e4m3_to_f32(uint8_t code); /* 0x7F, 0xFF: NaN */
uint8_t em_f32_to_e4m3(float v);    /* nearest even, saturating at +-448; NaN gives 0x7F */

float em_e2m1_to_f32(uint8_t code); /* low four bits */
uint8_t em_f32_to_e2m1(float v); /* spec 3.5: nearest, ties to the even code; |v| > 6 saturates; the sign bit is kept */

float em_e8m0_to_f32(uint8_t code); /* 2^(code - 127); 0 is the subnormal 2^-127; 255 is NaN */

/* Spec 3.2: the exponent e with 2^e = t rounded up to a power of two, for positive finite t. */
int em_pow2ceil_exp(float t);

#endif
