#include "engine/rope_frequencies.h"

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
