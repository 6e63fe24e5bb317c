/* The step thread's work: news, plan, rows, layers, tokens, events, until the queue closes. */
#ifndef EM_ENGINE_STEP_H
#define EM_ENGINE_STEP_H

#include "engine/model.h"
#include "engine/request_queue.h"

typedef struct em_stepper em_stepper;

/* The model and the queue must outlive the stepper. max_seqs is at most the model's max_batch_tokens, so that every
 * running sequence has room in every step. share: prompts may share computed state. -ENOMEM. */
int em_stepper_new(em_model *model, em_request_queue *queue, const em_seq_rules *rules, int32_t max_seqs, bool share,
                   em_stepper **ret_stepper);
em_stepper *em_stepper_free(em_stepper *s); /* NULL is fine; returns NULL */

/* The body of the step thread: returns after em_request_queue_close, when every request has had its last event. */
void em_stepper_run(em_stepper *s);

#endif
