/* Selection of the k largest scores with one tie rule: the lowest index first. Exact ties are common (the indexer's
 * ReLU makes zeros) and decide what a query attends to, so the rule is part of the model's result (spec 8.3). */
#include "engine/cpu/cpu.h"

#include <float.h>
#include <math.h>
#include <string.h>

/* Bits that order like the floats: larger key, larger score. NaN and -inf are never selected and map to 0. */
static uint32_t score_key(float score)
{
    if (!(score > -INFINITY))
        return 0;
    if (score == 0.0f)
        score = 0.0f; /* -0 ties with +0 */
    uint32_t bits;
    memcpy(&bits, &score, sizeof bits);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

/* The k-th largest key (k <= number of non-zero keys), digit by digit from the top; *ret_above: how many are larger. */
static uint32_t kth_key(const float *score, int64_t n, int64_t k, int64_t *ret_above)
{
    static const int shift[3] = {21, 10, 0}, width[3] = {11, 11, 10};
    uint32_t prefix = 0, prefix_mask = 0;
    int64_t above = 0;
    for (int d = 0; d < 3; d++) {
        uint32_t count[2048] = {0};
        uint32_t digits = 1u << width[d];
        for (int64_t i = 0; i < n; i++) {
            uint32_t key = score_key(score[i]);
            if (key && (key & prefix_mask) == prefix)
                count[key >> shift[d] & (digits - 1)]++;
        }
        uint32_t digit = digits;
        while (digit-- > 0 && above + count[digit] < k)
            above += count[digit];
        prefix |= digit << shift[d];
        prefix_mask |= (digits - 1) << shift[d];
    }
    *ret_above = above;
    return prefix;
}

int32_t em_topk_select(const float *score, int64_t n, int32_t k, int32_t *ret_idx)
{
    int64_t valid = 0;
    for (int64_t i = 0; i < n; i++)
        valid += score[i] > -INFINITY;
    uint32_t threshold = 1; /* every valid key is at least this */
    int64_t ties = valid;   /* how many at the threshold may be taken */
    if (valid > k) {
        int64_t above;
        threshold = kth_key(score, n, k, &above);
        ties = k - above;
    }
    int32_t taken = 0;
    for (int64_t i = 0; i < n; i++) {
        uint32_t key = score_key(score[i]);
        if (key < threshold || !key)
            continue;
        if (valid > k && key == threshold && ties-- <= 0)
            continue;
        ret_idx[taken++] = (int32_t)i;
    }
    return taken;
}

void em_topk_sorted(float *score, int32_t n, int32_t k, int32_t *ret_idx)
{
    for (int32_t i = 0; i < n; i++) /* whatever a broken model computes, k different indices come out */
        score[i] = score[i] > -FLT_MAX ? score[i] : -FLT_MAX;
    for (int32_t r = 0; r < k; r++) {
        float best = -INFINITY;
        for (int32_t i = 0; i < n; i++) {
            if (score[i] > best) {
                best = score[i];
                ret_idx[r] = i;
            }
        }
        score[ret_idx[r]] = -INFINITY;
    }
}
