/* When things happened to a choice, and their way into the histograms. */
#ifndef EM_ENGINE_LATENCY_H
#define EM_ENGINE_LATENCY_H

#include "engine/engine.h"

/* Moments of one choice, em_now_ns(); 0: not yet. */
typedef struct em_moments {
    uint64_t arrival_ns;
    uint64_t started_ns; /* the first step it took part in began to be planned */
    uint64_t first_token_ns;
    uint64_t last_token_ns;
} em_moments;

void em_latencies_init(em_latencies *l, int32_t max_len);
/* A token was drawn for a choice. */
void em_latencies_token(em_latencies *l, em_moments *m, uint64_t now_ns);
/* A choice has ended; what it never reached is not counted. */
void em_latencies_end(em_latencies *l, const em_moments *m, uint64_t now_ns, int32_t n_prompt, int32_t n_generated);

#endif
