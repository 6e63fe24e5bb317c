/* An engine over the stub model, and requests for it. */
#ifndef EM_TESTS_LOOP_RIG_H
#define EM_TESTS_LOOP_RIG_H

#include <pthread.h>

#include "engine/engine.h"
#include "tests/support/collector.h"
#include "tests/support/stub_model.h"

/* A greedy request for one prompt, a copy of ids; change the fields before it is submitted. */
em_request *rig_request(const int32_t *ids, int32_t n_ids, int32_t max_tokens);
void rig_add_stop(em_request *r, const char *text);

/* Submits; the test fails when the engine refuses. */
uint64_t rig_submit(em_engine *e, em_request *r, collector *c);
/* Submits one request, waits for its end, gives its collector. */
collector *rig_run(em_engine *e, em_request *r);

/* Opens an engine over the stub; the test fails when that fails. */
em_engine *rig_open(const stub_model *stub, int32_t max_seqs, int32_t max_batch_tokens, int32_t max_queue);
em_engine *rig_open_with(const stub_model *stub, em_engine_opts opts); /* the folder is filled in */

/* Pseudo-random logits of the whole sequence so far: any mix-up of tokens changes them. */
void rig_hash_logits(void *ctx, const int32_t *tokens, int32_t n, float *row);

/* A gate before each step: closed, the step thread waits in front of the forward pass. */
typedef struct rig_gate {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int64_t allowed; /* steps that may still pass */
    int64_t arrived; /* steps that came to the gate */
    int fail;        /* error of the next step; then 0 again */
} rig_gate;

void rig_gate_init(rig_gate *g);
void rig_gate_done(rig_gate *g);
void rig_gate_allow(rig_gate *g, int64_t n_steps);
/* Waits until the n-th step since init stands at the gate or has passed it. */
void rig_gate_wait(rig_gate *g, int64_t n);
int rig_gate_pass(void *gate, const em_batch *batch); /* on_forward */

/* Waits until nothing runs or waits any more; the test fails after 10 s. */
void rig_wait_idle(em_engine *e);

#endif
