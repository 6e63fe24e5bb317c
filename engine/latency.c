/* From moments to histograms. */
#include "engine/latency.h"

void em_latencies_init(em_latencies *l, int32_t max_len)
{
    em_histogram_init(&l->first_token, EM_HISTOGRAM_FIRST_TOKEN, 0);
    em_histogram_init(&l->inter_token, EM_HISTOGRAM_INTER_TOKEN, 0);
    em_histogram *const of_requests[] = {&l->e2e, &l->queue, &l->inference, &l->prefill, &l->decode};
    for (size_t i = 0; i < sizeof(of_requests) / sizeof(of_requests[0]); i++)
        em_histogram_init(of_requests[i], EM_HISTOGRAM_REQUEST, 0);
    em_histogram_init(&l->time_per_token, EM_HISTOGRAM_INTER_TOKEN, 0);
    em_histogram_init(&l->step_tokens, EM_HISTOGRAM_ITERATION, 0);
    em_histogram_init(&l->schedule, EM_HISTOGRAM_SCHEDULE, 0);
    em_histogram_init(&l->prompt_len, EM_HISTOGRAM_LENGTH, max_len);
    em_histogram_init(&l->generation_len, EM_HISTOGRAM_LENGTH, max_len);
}

static void add_span(em_histogram *h, uint64_t from_ns, uint64_t to_ns)
{
    em_histogram_add(h, (double)(to_ns - from_ns) * 1e-9);
}

void em_latencies_token(em_latencies *l, em_moments *m, uint64_t now_ns)
{
    if (!m->first_token_ns) {
        m->first_token_ns = now_ns;
        add_span(&l->first_token, m->arrival_ns, now_ns);
    } else {
        add_span(&l->inter_token, m->last_token_ns, now_ns);
    }
    m->last_token_ns = now_ns;
}

void em_latencies_end(em_latencies *l, const em_moments *m, uint64_t now_ns, int32_t n_prompt, int32_t n_generated)
{
    add_span(&l->e2e, m->arrival_ns, now_ns);
    em_histogram_add(&l->prompt_len, n_prompt);
    em_histogram_add(&l->generation_len, n_generated);
    if (!m->started_ns)
        return;
    add_span(&l->queue, m->arrival_ns, m->started_ns);
    add_span(&l->inference, m->started_ns, now_ns);
    if (!m->first_token_ns)
        return;
    add_span(&l->prefill, m->started_ns, m->first_token_ns);
    add_span(&l->decode, m->first_token_ns, now_ns);
    if (n_generated > 1)
        em_histogram_add(&l->time_per_token,
                         (double)(m->last_token_ns - m->first_token_ns) * 1e-9 / (double)(n_generated - 1));
}
