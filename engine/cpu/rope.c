/* Rotary embedding (spec 4.5): interleaved pairs on the trailing channels; YaRN for layers with compression. Angles are
 * float32 products of position and frequency, as the reference computes them: a double would drift from it at long
 * positions. */
#include "engine/cpu/cpu.h"

#include <math.h>

/* YaRN's correction: the channel pair that turns n times within the original length. */
static float yarn_corner(float n, int32_t rope_dim, float base, int32_t original_len)
{
    return (float)rope_dim * logf((float)original_len / (n * 2.0f * (float)M_PI)) / (2.0f * logf(base));
}

void em_rope_frequencies(const em_model_config *cfg, float *main, float *comp)
{
    int32_t pairs = cfg->rope_dim / 2;
    for (int32_t i = 0; i < pairs; i++) {
        float exponent = (float)(2 * i) / (float)cfg->rope_dim;
        main[i] = 1.0f / powf(cfg->rope_theta, exponent);
        comp[i] = 1.0f / powf(cfg->compress_rope_theta, exponent);
    }
    if (!cfg->yarn)
        return;
    float low =
        floorf(yarn_corner(cfg->yarn_beta_fast, cfg->rope_dim, cfg->compress_rope_theta, cfg->yarn_original_len));
    float high =
        ceilf(yarn_corner(cfg->yarn_beta_slow, cfg->rope_dim, cfg->compress_rope_theta, cfg->yarn_original_len));
    low = low > 0.0f ? low : 0.0f;
    high = high < (float)(cfg->rope_dim - 1) ? high : (float)(cfg->rope_dim - 1);
    float span = high - low > 0.001f ? high - low : 0.001f;
    for (int32_t i = 0; i < pairs; i++) {
        float ramp = ((float)i - low) / span;
        ramp = ramp < 0.0f ? 0.0f : ramp > 1.0f ? 1.0f : ramp;
        comp[i] = comp[i] / cfg->yarn_factor * ramp + comp[i] * (1.0f - ramp);
    }
}

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
