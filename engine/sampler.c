/* Logits -> token in time linear in the vocabulary, nothing sorted but the few alternatives a client asks for.
 *
 * A filter (top_k, top_p) keeps the tokens above a threshold and the first few of those equal to it. The threshold is
 * found by radix selection over order-preserving integer keys of the logits: three passes of 11, 11 and 10 bits, each
 * a histogram of counts (top_k) or of probability mass (top_p). The draw then walks the kept tokens in order of ids. */
#include "engine/sampler.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/rng.h"

#define N_BINS 2048

struct em_sampler {
    int32_t vocab_size;
    uint32_t *key;       /* [vocab_size] */
    double *weight;      /* [vocab_size] exp((logit - max) / temperature); 0: filtered out */
    double mass[N_BINS]; /* histogram: tokens (as doubles, exact) or weights */
};

/* Keeps keys above `key`, and of those equal to it the n_equal lowest ids. */
typedef struct cut {
    uint32_t key;
    int32_t n_equal;
} cut;

int em_sampler_new(int32_t vocab_size, em_sampler **ret_sampler)
{
    if (vocab_size < 1)
        return -EINVAL;
    em_sampler *s = calloc(1, sizeof(*s));
    if (!s)
        return -ENOMEM;
    s->vocab_size = vocab_size;
    s->key = malloc((size_t)vocab_size * sizeof(*s->key));
    s->weight = malloc((size_t)vocab_size * sizeof(*s->weight));
    if (!s->key || !s->weight) {
        em_sampler_free(s);
        return -ENOMEM;
    }
    *ret_sampler = s;
    return 0;
}

em_sampler *em_sampler_free(em_sampler *s)
{
    if (!s)
        return NULL;
    free(s->key);
    free(s->weight);
    free(s);
    return NULL;
}

/* Integers in the order of the floats; -inf, +inf and the two kinds of NaN lie at the ends. Adding zero turns -0 into
 * +0: equal logits have equal keys. */
static inline int32_t order_key(float logit)
{
    logit += 0.0f;
    int32_t bits;
    memcpy(&bits, &logit, sizeof(bits));
    return bits ^ ((bits >> 31) & INT32_MAX);
}

#define KEY_POS_INF INT32_C(0x7f800000)
#define KEY_NEG_INF (INT32_C(-0x7f800000) - 1)

/* Lowest id of the largest logit. -EDOM: these are no logits one could draw from. Integers, because the compiler may
 * reorder their maximum and so use vectors. */
static int find_max(const float *logits, int32_t n, int32_t *ret_id)
{
    int32_t high = INT32_MIN, low = INT32_MAX;
    for (int32_t i = 0; i < n; i++) {
        int32_t key = order_key(logits[i]);
        high = key > high ? key : high;
        low = key < low ? key : low;
    }
    if (high >= KEY_POS_INF || high <= KEY_NEG_INF || low < KEY_NEG_INF)
        return -EDOM;
    int32_t id = 0;
    while (order_key(logits[id]) != high)
        id++;
    *ret_id = id;
    return 0;
}

static void make_keys(em_sampler *s, const float *logits)
{
    for (int32_t i = 0; i < s->vocab_size; i++)
        s->key[i] = (uint32_t)order_key(logits[i]) ^ UINT32_C(0x80000000);
}

/* The bin, from the top, where the running sum reaches `target`; *above grows by the bins before it. When rounding
 * keeps the sum just below the target, the last bin that holds anything. */
static uint32_t find_bin(const double *mass, double target, double *above)
{
    double sum = *above;
    uint32_t bin = 0;
    for (uint32_t b = N_BINS; b-- > 0;) {
        if (mass[b] <= 0)
            continue;
        bin = b;
        *above = sum;
        sum += mass[b];
        if (sum >= target)
            break;
    }
    return bin;
}

/* The shortest run of tokens, best first, whose weights add up to target > 0; weight NULL: every token weighs 1. */
static cut find_cut(em_sampler *s, const double *weight, double target)
{
    static const struct {
        unsigned shift, n_bits;
    } digit[] = {{21, 11}, {10, 11}, {0, 10}};
    uint32_t prefix = 0, prefix_mask = 0;
    double above = 0; /* weight of keys that are larger than every key with this prefix */
    for (unsigned d = 0; d < 3; d++) {
        uint32_t digit_mask = (UINT32_C(1) << digit[d].n_bits) - 1;
        memset(s->mass, 0, sizeof(s->mass));
        for (int32_t i = 0; i < s->vocab_size; i++) {
            if ((s->key[i] & prefix_mask) == prefix)
                s->mass[s->key[i] >> digit[d].shift & digit_mask] += weight ? weight[i] : 1;
        }
        prefix |= find_bin(s->mass, target, &above) << digit[d].shift;
        prefix_mask |= digit_mask << digit[d].shift;
    }
    cut c = {.key = prefix};
    for (int32_t i = 0; i < s->vocab_size && (above < target || !c.n_equal); i++) {
        if (s->key[i] != prefix || (weight && weight[i] <= 0))
            continue;
        above += weight ? weight[i] : 1;
        c.n_equal++;
    }
    return c;
}

/* Whether token i passes; *n_equal counts down over a walk in order of ids. */
static inline bool keep(uint32_t key, const cut *c, int32_t *n_equal)
{
    return key > c->key || (key == c->key && (*n_equal)-- > 0);
}

/* Weights of the top_k tokens, or of all when top_k is off; returns their sum. */
static double weigh(em_sampler *s, const float *logits, double max, double temperature, int32_t top_k)
{
    bool all = top_k < 1 || top_k >= s->vocab_size;
    cut c = {0};
    if (!all)
        c = find_cut(s, NULL, top_k);
    int32_t n_equal = c.n_equal;
    double sum = 0;
    for (int32_t i = 0; i < s->vocab_size; i++) {
        bool kept = all || keep(s->key[i], &c, &n_equal);
        s->weight[i] = kept ? exp(((double)logits[i] - max) / temperature) : 0;
        sum += s->weight[i];
    }
    return sum;
}

/* Drops tokens less probable than min_p times the best one, whose weight is 1; returns the sum of what is left. */
static double keep_min_p(em_sampler *s, double min_p)
{
    double left = 0;
    for (int32_t i = 0; i < s->vocab_size; i++) {
        if (s->weight[i] < min_p)
            s->weight[i] = 0;
        left += s->weight[i];
    }
    return left;
}

/* Drops what lies outside the most probable top_p; returns the sum of what is left. */
static double keep_top_p(em_sampler *s, double sum, double top_p)
{
    cut c = find_cut(s, s->weight, top_p * sum);
    int32_t n_equal = c.n_equal;
    double left = 0;
    for (int32_t i = 0; i < s->vocab_size; i++) {
        if (!keep(s->key[i], &c, &n_equal))
            s->weight[i] = 0;
        left += s->weight[i];
    }
    return left;
}

static int32_t draw(const em_sampler *s, double sum, double uniform)
{
    double target = uniform * sum, below = 0;
    int32_t last = 0;
    for (int32_t i = 0; i < s->vocab_size; i++) {
        if (s->weight[i] <= 0)
            continue;
        below += s->weight[i];
        last = i;
        if (below > target)
            break;
    }
    return last; /* rounding may lift the target to the whole sum: then the last token there is */
}

int em_sampler_pick(em_sampler *s, const float *logits, const em_sampling *how, uint32_t choice, uint64_t position,
                    int32_t *ret_id)
{
    int32_t max_id;
    int rc = find_max(logits, s->vocab_size, &max_id);
    if (rc)
        return rc;
    if (how->temperature <= 0 || how->top_p <= 0 || how->top_k == 1) {
        *ret_id = max_id;
        return 0;
    }
    bool filtered = how->top_p < 1 || (how->top_k > 0 && how->top_k < s->vocab_size);
    if (filtered)
        make_keys(s, logits);
    double sum = weigh(s, logits, logits[max_id], how->temperature, how->top_k);
    if (how->min_p > 0)
        sum = keep_min_p(s, how->min_p);
    if (how->top_p < 1)
        sum = keep_top_p(s, sum, how->top_p);
    *ret_id = draw(s, sum, em_rng_uniform(how->seed, choice, position, 0));
    return 0;
}

/* Better first: larger logit, then lower id. */
static bool better(const float *logits, int32_t a, int32_t b)
{
    return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
}

/* The n best ids in order; n is small, so insertion does. */
static void find_best(em_sampler *s, const float *logits, int32_t n, int32_t *ret_ids)
{
    make_keys(s, logits);
    cut c = find_cut(s, NULL, n);
    int32_t n_equal = c.n_equal, n_found = 0;
    for (int32_t i = 0; i < s->vocab_size && n_found < n; i++) {
        if (!keep(s->key[i], &c, &n_equal))
            continue;
        int32_t at = n_found++;
        for (; at > 0 && better(logits, i, ret_ids[at - 1]); at--)
            ret_ids[at] = ret_ids[at - 1];
        ret_ids[at] = i;
    }
}

int em_sampler_logprobs(em_sampler *s, const float *logits, int32_t id, int32_t n, float *ret_logprob,
                        em_top_logprob *ret_top)
{
    if (id < 0 || id >= s->vocab_size || n < 0 || n > EM_MAX_LOGPROBS)
        return -EINVAL;
    int32_t max_id;
    int rc = find_max(logits, s->vocab_size, &max_id);
    if (rc)
        return rc;
    double max = logits[max_id], sum = 0;
    for (int32_t i = 0; i < s->vocab_size; i++)
        sum += exp(logits[i] - max);
    double log_sum = max + log(sum);
    n = n < s->vocab_size ? n : s->vocab_size;
    int32_t best[EM_MAX_LOGPROBS];
    if (n)
        find_best(s, logits, n, best);
    for (int32_t i = 0; i < n; i++)
        ret_top[i] = (em_top_logprob){.id = best[i], .logprob = (float)(logits[best[i]] - log_sum)};
    *ret_logprob = (float)(logits[id] - log_sum);
    return 0;
}
