/* The AVX-512 tier's table. */
#include "engine/cpu/avx512.h"

void em_kernels_init_avx512(em_kernels *k)
{
    k->name = "avx512";
    em_avx512_gemm_init(k);
    em_avx512_strips_init(k);
    em_avx512_vec_init(k);
    em_avx512_codes_init(k);
}
