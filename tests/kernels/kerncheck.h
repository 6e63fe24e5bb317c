/* What the files of the kernel checker share: random data, guarded memory, comparing. */
#ifndef EM_TESTS_KERNCHECK_H
#define EM_TESTS_KERNCHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/cpu/kernels.h"

/* ---- one run ---- */

typedef struct check {
    const em_kernels *ref;  /* plain C: what is right */
    const em_kernels *tier; /* what is tested; may be the same */
    uint64_t rng;           /* state */
    const char *where;      /* the op under test */
    int n_compared, n_failed;
    char args[256]; /* printed with a failure */
} check;

uint64_t rnd(check *c);
int64_t rnd_below(check *c, int64_t n); /* 0 .. n-1 */
float rnd_float(check *c);              /* -1 .. 1 */

/* Kinds of float data. Every op sees all of them. */
enum { FILL_RANDOM, FILL_WIDE, FILL_ZERO, FILL_DENORMAL, FILL_LARGE, FILL_EQUAL, FILL_ALTERNATE, FILL_SPIKE, N_FILLS };
void fill_floats(check *c, int kind, float *x, int64_t n);

extern const int64_t check_sizes[]; /* 0-terminated: around the vector widths, odd, large */

/* ---- memory that notices: nothing may be read or written behind it (the next page is closed), and a strip of known
 * bytes lies in front of it ---- */

void *guarded_alloc(size_t n_bytes); /* never NULL; the program ends when there is no memory */
bool guarded_intact(const void *p);  /* whether the strip in front is as it was */
void guarded_free(void *p);

/* ---- comparing ---- */

__attribute__((format(printf, 2, 3))) void set_args(check *c, const char *fmt, ...);

/* |got - want| <= tol, or both NaN, or equal. */
void expect_near(check *c, float got, float want, double tol, int64_t idx);
void expect_bytes(check *c, const void *got, const void *want, size_t n_bytes, const char *what);
void expect_true(check *c, bool ok, const char *what);

/* How far a tier may be from the plain C; scale is the sum of the terms' magnitudes, n the number of terms. */
enum check_tol { TOL_SUM, TOL_FMA, TOL_EXP, TOL_EXP_SUM, TOL_SWIGLU };
double tolerance(enum check_tol op, int64_t n, double scale);

/* ---- the checks ---- */

void check_gemm(check *c);
void check_gemm_bits(check *c);
void check_gemm_nan(check *c);
void check_row_f32(check *c);
void check_dot(check *c);
void check_axpy(check *c);
void check_add_rows(check *c);
void check_scale_mul(check *c);
void check_swiglu(check *c);
void check_exp_sum(check *c);
void check_max(check *c);
void check_enc(check *c);
void check_dec(check *c);

/* Times every kernel of the table whose name contains filter, one thread. read_rate: bytes per second. */
void bench_kernels(const em_kernels *k, const char *filter, double read_rate);

#endif
