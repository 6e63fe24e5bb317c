/* What the files of this folder share beyond the door. */
#ifndef EM_ENGRAM_INTERNAL_H
#define EM_ENGRAM_INTERNAL_H

#include "engram/engram.h"

#define EM_ENGRAM_MAX_COLS ((EM_ENGRAM_MAX_ORDER - 1) * EM_ENGRAM_MAX_HEADS)
#define EM_ENGRAM_MAX_HEAD_DIM 65536
#define EM_ENGRAM_MAX_ASK_TOKENS (1 << 20)
#define EM_ENGRAM_MAX_TICKETS 4096
#define EM_ENGRAM_MAX_THREADS 64
#define EM_ENGRAM_SCALE_COLS 32 /* columns that share one UE8M0 byte of an FP8 row */

/* Leaves a sentence in err (cut at err_len; err may be NULL when err_len is 0) and returns the code. */
__attribute__((format(printf, 4, 5))) int em_engram_fail(char *err, size_t err_len, int code, const char *fmt, ...);

static inline size_t em_engram_row_bytes(const em_engram_spec *spec)
{
    static const size_t element_bytes[] = {
        [EM_ENGRAM_FP8] = 1, [EM_ENGRAM_BF16] = 2, [EM_ENGRAM_F32] = 4, [EM_ENGRAM_INT8] = 1};
    return (size_t)spec->head_dim * element_bytes[spec->dtype];
}

static inline size_t em_engram_scale_bytes(const em_engram_spec *spec)
{
    return spec->dtype == EM_ENGRAM_FP8    ? (size_t)spec->head_dim / EM_ENGRAM_SCALE_COLS
           : spec->dtype == EM_ENGRAM_INT8 ? sizeof(float)
                                           : 0;
}

#endif
