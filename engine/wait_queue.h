/* Sequences that wait to be let in: one line for each priority of each client, in order of arrival. Which line is next
 * is the scheduler's decision. Only the step thread touches it. */
#ifndef EM_ENGINE_WAIT_QUEUE_H
#define EM_ENGINE_WAIT_QUEUE_H

#include "engine/scheduler.h"
#include "engine/sequence.h"

typedef struct em_wait_line {
    em_client *client;
    int32_t priority;
    em_seq *head, *tail; /* in order of arrival */
} em_wait_line;

typedef struct em_wait_queue {
    em_client *clients;
    em_wait_line *lines;  /* [cap_lines]; empty ones are taken out */
    em_sched_head *heads; /* [cap_lines] scratch */
    int32_t n_lines, cap_lines;
    uint64_t n_admitted;
} em_wait_queue;

void em_wait_queue_done(em_wait_queue *wq); /* a zeroed struct is an empty queue */

/* The client with the name of `fresh`: that one, which is taken over then and *fresh is NULL, or one that is known
 * already. It has n sequences more. */
em_client *em_wait_queue_enter(em_wait_queue *wq, em_client **fresh, int32_t n_seqs);
/* One of its sequences has ended. */
void em_wait_queue_leave(em_wait_queue *wq, em_client *client);

/* Puts a sequence in its place by arrival; seq->client is set. -ENOMEM. */
int em_wait_queue_push(em_wait_queue *wq, em_seq *seq);
void em_wait_queue_remove(em_wait_queue *wq, em_seq *seq);
/* Who is to be let in next; NULL: nobody waits. */
em_seq *em_wait_queue_next(em_wait_queue *wq);

#endif
