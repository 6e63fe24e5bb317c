/* The cache quantisers: every tier gives the bits of the plain C. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/formats.h"
#include "tests/kernels/kerncheck.h"

typedef struct quantiser {
    const char *name;
    int block, codes_per_byte;
    void (*enc[2])(const float *x, int64_t n, uint8_t *codes, uint8_t *scales); /* plain C, tier */
    void (*dec[2])(const uint8_t *codes, const uint8_t *scales, int64_t n, float *y);
} quantiser;

enum { N_QUANTISERS = 3 };

static void quantisers(const check *c, quantiser q[N_QUANTISERS])
{
    const em_kernels *r = c->ref, *t = c->tier;
    q[0] = (quantiser){"e4m3_b32", 32, 1, {r->enc_e4m3_b32, t->enc_e4m3_b32}, {r->dec_e4m3_b32, t->dec_e4m3_b32}};
    q[1] = (quantiser){"e2m1_b32", 32, 2, {r->enc_e2m1_b32, t->enc_e2m1_b32}, {r->dec_e2m1_b32, t->dec_e2m1_b32}};
    q[2] = (quantiser){"e2m1_b16", 16, 2, {r->enc_e2m1_b16, t->enc_e2m1_b16}, {r->dec_e2m1_b16, t->dec_e2m1_b16}};
}

/* Values on and next to every rounding boundary: code values and their midpoints, a step of float32 to either side,
 * times a power of two; the largest one pins the scale. */
static void fill_boundaries(check *c, float *x, int64_t n, bool e4m3)
{
    float top = ldexpf(1.0f, (int)rnd_below(c, 60) - 30);
    for (int64_t i = 0; i < n; i++) {
        int code = (int)rnd_below(c, e4m3 ? 126 : 7);
        float a = e4m3 ? em_e4m3_to_f32((uint8_t)code) : em_e2m1_to_f32((uint8_t)code);
        float b = e4m3 ? em_e4m3_to_f32((uint8_t)(code + 1)) : em_e2m1_to_f32((uint8_t)(code + 1));
        float v = rnd(c) & 1 ? a : (a + b) / 2;
        int side = (int)rnd_below(c, 3) - 1;
        v = side ? nextafterf(v, side * INFINITY) : v;
        x[i] = (rnd(c) & 1 ? -v : v) * top;
    }
    for (int64_t i = 0; i < n; i += 16)
        x[i + rnd_below(c, 16)] = (e4m3 ? 448.0f : 6.0f) * top;
}

static void enc_once(check *c, const quantiser *q, const float *x, int64_t n)
{
    size_t n_codes = (size_t)(n / q->codes_per_byte), n_scales = (size_t)(n / q->block);
    uint8_t *codes[2], *scales[2];
    float *y = guarded_alloc((size_t)n * sizeof(float));
    for (int i = 0; i < 2; i++) {
        codes[i] = guarded_alloc(n_codes);
        scales[i] = guarded_alloc(n_scales);
        q->enc[i](x, n, codes[i], scales[i]);
        expect_true(c, guarded_intact(codes[i]) && guarded_intact(scales[i]), "written in front of the output");
    }
    expect_bytes(c, codes[1], codes[0], n_codes, "codes");
    expect_bytes(c, scales[1], scales[0], n_scales, "scales");
    /* what was stored lies on the grid: storing it again changes nothing */
    q->dec[1](codes[1], scales[1], n, y);
    q->enc[1](y, n, codes[1], scales[1]);
    float *again = guarded_alloc((size_t)n * sizeof(float));
    q->dec[1](codes[1], scales[1], n, again);
    expect_bytes(c, again, y, (size_t)n * sizeof(float), "quantised again");
    guarded_free(again);
    guarded_free(y);
    for (int i = 0; i < 2; i++) {
        guarded_free(codes[i]);
        guarded_free(scales[i]);
    }
}

/* What is not finite: the same scales, and NaN in the same places. */
static void enc_special(check *c, const quantiser *q)
{
    for (int i = 0; i < 64; i++) {
        float x[128], y[2][128];
        uint8_t codes[128], scales[2][8];
        fill_floats(c, FILL_RANDOM, x, 128);
        int64_t at = rnd_below(c, 128);
        x[at] = i % 3 == 0 ? NAN : i % 3 == 1 ? INFINITY : -INFINITY;
        set_args(c, "%s with %g at %lld", q->name, (double)x[at], (long long)at);
        for (int j = 0; j < 2; j++) {
            q->enc[j](x, 128, codes, scales[j]);
            q->dec[j](codes, scales[j], 128, y[j]);
        }
        expect_bytes(c, scales[1], scales[0], (size_t)(128 / q->block), "scales");
        for (int k = 0; k < 128; k++)
            expect_near(c, y[1][k], y[0][k], 0, k);
    }
}

void check_enc(check *c)
{
    quantiser q[N_QUANTISERS];
    quantisers(c, q);
    for (int i = 0; i < N_QUANTISERS; i++)
        for (int64_t n = q[i].block; n <= 1024; n = n < 128 ? n + q[i].block : n * 2)
            for (int fill = 0; fill < N_FILLS + 4; fill++) {
                float *x = guarded_alloc((size_t)n * sizeof(float));
                if (fill >= N_FILLS)
                    fill_boundaries(c, x, n, i == 0);
                else
                    fill_floats(c, fill, x, n);
                set_args(c, "%s n %lld fill %d", q[i].name, (long long)n, fill);
                enc_once(c, &q[i], x, n);
                guarded_free(x);
            }
    for (int i = 0; i < N_QUANTISERS; i++)
        enc_special(c, &q[i]);
}

/* All codes under all scales, NaN among them. */
void check_dec(check *c)
{
    quantiser q[N_QUANTISERS];
    quantisers(c, q);
    for (int i = 0; i < N_QUANTISERS; i++)
        for (int scale = 0; scale < 256; scale++) {
            int64_t n = q[i].block * (1 + rnd_below(c, 9));
            size_t n_codes = (size_t)(n / q[i].codes_per_byte), n_scales = (size_t)(n / q[i].block);
            uint8_t *codes = guarded_alloc(n_codes), *scales = guarded_alloc(n_scales);
            float *want = guarded_alloc((size_t)n * sizeof(float)), *got = guarded_alloc((size_t)n * sizeof(float));
            for (size_t j = 0; j < n_codes; j++)
                codes[j] = (uint8_t)rnd(c);
            for (size_t j = 0; j < n_scales; j++)
                scales[j] = j ? (uint8_t)rnd(c) : (uint8_t)scale;
            set_args(c, "%s n %lld first scale %d", q[i].name, (long long)n, scale);
            q[i].dec[0](codes, scales, n, want);
            q[i].dec[1](codes, scales, n, got);
            for (int64_t j = 0; j < n; j++) {
                expect_near(c, got[j], want[j], 0, j);
                expect_true(c, isnan(want[j]) || !signbit(got[j]) == !signbit(want[j]), "sign");
            }
            expect_true(c, guarded_intact(got), "written in front of the output");
            guarded_free(got);
            guarded_free(want);
            guarded_free(scales);
            guarded_free(codes);
        }
}
