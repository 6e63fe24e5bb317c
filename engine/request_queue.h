/* Between the threads that submit and the step thread: arrivals, cancels, drain, close, statistics. All locking of the
 * step thread's side lives in request_queue.c.
 *
 * Lock order. There is one lock, the queue's; it is a leaf: nothing is called while it is held but memory-free list
 * work, and no sink, model or library function. A caller may therefore hold locks of its own (a stream's, say) while
 * it calls any function here. */
#ifndef EM_ENGINE_REQUEST_QUEUE_H
#define EM_ENGINE_REQUEST_QUEUE_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/engine.h"
#include "engine/sequence.h"

typedef struct em_request_queue em_request_queue;

/* Requests wait at most max_waiting at a time, not counting as many as there are free seats: those go into the next
 * step. -ENOMEM, -EAGAIN. */
int em_request_queue_new(int32_t max_waiting, int32_t n_seats, em_request_queue **ret_queue);
em_request_queue *em_request_queue_free(em_request_queue *q); /* NULL is fine; returns NULL */

/* --- any thread --------------------------------------------------------------------------------------------- */

/* Hands a request over and gives it its id. -EBUSY: too many wait; -ESHUTDOWN: draining or closing. */
int em_request_queue_push(em_request_queue *q, em_live *live, uint64_t *ret_id);
void em_request_queue_cancel(em_request_queue *q, uint64_t id);
void em_request_queue_stop_choice(em_request_queue *q, uint64_t id, int32_t choice);
/* A grammar that a request waits for may be ready. */
void em_request_queue_compiled(em_request_queue *q);
/* Seconds, at least 1, until what waits now is served at the recent rate. */
int32_t em_request_queue_wait_s(em_request_queue *q);
void em_request_queue_drain(em_request_queue *q);
void em_request_queue_close(em_request_queue *q);
/* Everything but the Engram counters. */
void em_request_queue_get_stats(em_request_queue *q, em_engine_stats *ret_stats);

/* --- step thread -------------------------------------------------------------------------------------------- */

typedef struct em_news {
    em_live *arrived; /* in order of arrival, linked by next */
    bool compiled;    /* some grammar has become ready since the last call */
    bool cancels;     /* some request's `cancelled` or `stops` was set since the last call */
    bool closing;     /* everything is to end now */
} em_news;

/* Takes what came; when nothing did, waits up to wait_ns. Counts as a heartbeat. */
void em_request_queue_take(em_request_queue *q, uint64_t wait_ns, em_news *ret_news);

/* Forgets a finished request: cancelling its id is a no-op from now on. */
void em_request_queue_retire(em_request_queue *q, em_live *live);

/* Publishes counters and gauges, and beats the heart. stats->running counts taken seats; n_left: requests that have
 * no waiting choice any more since the last call, and so make room in the queue. */
void em_request_queue_publish(em_request_queue *q, const em_engine_stats *stats, int32_t n_left);

#endif
