/* Products for tests/kernels/test_instructions.py to count instructions of: TIER DTYPE TOKENS REPEATS. */
#include <stdlib.h>
#include <string.h>

#include "engine/cpu/pack.h"
#include "engine/cpu/kernels.h"

enum { ROWS = 64, COLS = 1024 };

int main(int argc, char **argv)
{
    static const char *const names[] = {"f32", "bf16", "fp8", "fp4"};
    int dtype = EM_DTYPE_F32, tokens, repeats;
    if (argc != 5 || (tokens = atoi(argv[3])) < 1 || (repeats = atoi(argv[4])) < 0)
        return 2;
    while (dtype < EM_DTYPE_FP4 && strcmp(argv[2], names[dtype]) != 0)
        dtype++;
    em_kernels k;
    em_kernels_init(&k, strcmp(argv[1], "avx2") == 0 ? EM_CPU_AVX2 : 0);
    em_matrix w = {.dtype = (em_dtype)dtype,
                   .rows = ROWS,
                   .cols = COLS,
                   .scale_rows = dtype == EM_DTYPE_FP8 ? 32 : 1,
                   .scale_cols = 32,
                   .packed = true};
    size_t bytes = em_packed_bytes(w.dtype, ROWS, COLS, w.scale_rows);
    void *data = aligned_alloc(64, bytes);
    float *x = calloc((size_t)tokens * COLS, sizeof(*x)), *y = calloc((size_t)tokens * ROWS, sizeof(*y));
    if (!data || !x || !y)
        return 1;
    w.data = memset(data, 0x33, bytes);
    for (int i = 0; i < repeats; i++)
        k.gemm[dtype](&w, 0, ROWS, x, COLS, tokens, y, ROWS);
    free(y);
    free(x);
    free(data);
    return 0;
}
