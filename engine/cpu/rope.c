/* Rotary embedding (spec 4.5): interleaved pairs on the trailing channels; YaRN for layers with compression. Angles are
 * float32 products of position and frequency, as the reference computes them: a double would drift from it at long
 * positions. */
#include "engine/cpu/cpu.h"

#include <math.h>

void em_rope_table(const float *freq, int32_t n_pairs, int64_t pos, float *ret_cos, float *ret_sin)
{
    for (int32_t i = 0; i < n_pairs; i++) {
        float angle = (float)pos * freq[i];
        ret_cos[i] = cosf(angle);
        ret_sin[i] = sinf(angle);
    }
}

void em_rope_apply(float *v, const float *cos, const float *sin, int32_t n_pairs, bool inverse)
{
    float sign = inverse ? -1.0f : 1.0f;
    for (int64_t i = 0; i < n_pairs; i++) {
        float a = v[2 * i], b = v[2 * i + 1], s = sign * sin[i];
        v[2 * i] = a * cos[i] - b * s;
        v[2 * i + 1] = a * s + b * cos[i];
    }
}

static void table_item(void *ctx, int64_t token, int worker)
{
    em_cpu *c = ctx;
    int32_t pairs = c->cfg->rope_dim / 2;
    em_rope_table(c->freq_main, pairs, c->pos[token], c->cos_main + token * pairs, c->sin_main + token * pairs);
    em_rope_table(c->freq_comp, pairs, c->pos[token], c->cos_comp + token * pairs, c->sin_comp + token * pairs);
}

void em_cpu_rope_begin(em_cpu *c)
{
    em_cpu_each_token(c, table_item);
}
