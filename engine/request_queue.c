/* The one lock between submitters and the step thread. */
#include "engine/request_queue.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "engine/base/clock.h"

#define MAX_WAIT_S 3600 /* the longest estimate */
#define N_BUCKETS 1024  /* ids are consecutive, so their low bits spread them evenly */

struct em_request_queue {
    pthread_mutex_t lock;
    pthread_cond_t changed; /* something for the step thread came */
    int32_t max_waiting, n_seats;

    em_live *head, *tail; /* arrivals the step thread has not seen */
    int32_t n_arrived;    /* their choices */
    int32_t n_waiting;    /* requests with a choice not let in yet, arrivals included */
    bool cancels, compiled, draining, closing;

    uint64_t next_id;
    em_live *bucket[N_BUCKETS]; /* accepted requests that have not ended, by id */
    em_engine_stats stats;
};

int em_request_queue_new(int32_t max_waiting, int32_t n_seats, em_request_queue **ret_queue)
{
    em_request_queue *q = calloc(1, sizeof(*q));
    if (!q)
        return -ENOMEM;
    q->max_waiting = max_waiting;
    q->n_seats = n_seats;
    q->next_id = 1;
    q->stats.heartbeat_ns = em_now_ns();
    pthread_condattr_t attr;
    int rc = pthread_condattr_init(&attr);
    if (rc)
        goto fail;
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC); /* waits must not follow clock steps */
    rc = pthread_cond_init(&q->changed, &attr);
    pthread_condattr_destroy(&attr);
    if (rc)
        goto fail;
    rc = pthread_mutex_init(&q->lock, NULL);
    if (rc) {
        pthread_cond_destroy(&q->changed);
        goto fail;
    }
    *ret_queue = q;
    return 0;
fail:
    free(q);
    return -rc;
}

em_request_queue *em_request_queue_free(em_request_queue *q)
{
    if (!q)
        return NULL;
    pthread_cond_destroy(&q->changed);
    pthread_mutex_destroy(&q->lock);
    free(q);
    return NULL;
}

/* --- any thread --------------------------------------------------------------------------------------------- */

int em_request_queue_push(em_request_queue *q, em_live *live, uint64_t *ret_id)
{
    int rc = 0;
    pthread_mutex_lock(&q->lock);
    int32_t free_seats = q->n_seats > q->stats.running ? q->n_seats - q->stats.running : 0;
    if (q->draining || q->closing) {
        rc = -ESHUTDOWN;
    } else if (q->n_waiting >= (int64_t)q->max_waiting + free_seats) {
        rc = -EBUSY;
    } else {
        live->id = q->next_id++;
        *ret_id = live->id; /* inside the lock: the sink may hear of it before this function returns */
        em_live **bucket = &q->bucket[live->id % N_BUCKETS];
        live->bucket_next = *bucket;
        *bucket = live;
        live->next = NULL;
        if (q->tail)
            q->tail->next = live;
        else
            q->head = live;
        q->tail = live;
        q->n_arrived += live->n_seqs;
        q->n_waiting++;
        pthread_cond_signal(&q->changed);
    }
    pthread_mutex_unlock(&q->lock);
    return rc;
}

/* Under the lock. NULL: none such, or it has ended. */
static em_live *find_live(em_request_queue *q, uint64_t id)
{
    em_live *live = q->bucket[id % N_BUCKETS];
    while (live && live->id != id)
        live = live->bucket_next;
    return live;
}

/* Under the lock. */
static void raise_flag(em_request_queue *q, atomic_bool *flag)
{
    atomic_store_explicit(flag, true, memory_order_relaxed);
    q->cancels = true;
    pthread_cond_signal(&q->changed);
}

void em_request_queue_cancel(em_request_queue *q, uint64_t id)
{
    pthread_mutex_lock(&q->lock);
    em_live *live = find_live(q, id);
    if (live)
        raise_flag(q, &live->cancelled);
    pthread_mutex_unlock(&q->lock);
}

void em_request_queue_stop_choice(em_request_queue *q, uint64_t id, int32_t choice)
{
    pthread_mutex_lock(&q->lock);
    em_live *live = find_live(q, id);
    if (live && choice >= 0 && choice < live->n_seqs) {
        atomic_store_explicit(&live->seqs[choice].stopped, true, memory_order_relaxed);
        raise_flag(q, &live->stops);
    }
    pthread_mutex_unlock(&q->lock);
}

void em_request_queue_compiled(em_request_queue *q)
{
    pthread_mutex_lock(&q->lock);
    q->compiled = true;
    pthread_cond_signal(&q->changed);
    pthread_mutex_unlock(&q->lock);
}

int32_t em_request_queue_wait_s(em_request_queue *q)
{
    pthread_mutex_lock(&q->lock);
    double n_waiting = q->n_waiting, rate = q->stats.tokens_per_s, tokens_each = 0;
    const em_latencies *l = &q->stats.latencies;
    uint64_t n_ended = em_histogram_total(&l->prompt_len);
    if (n_ended)
        tokens_each = (l->prompt_len.sum + l->generation_len.sum) / (double)n_ended;
    pthread_mutex_unlock(&q->lock);
    double wait_s = rate > 0 ? n_waiting * tokens_each / rate : 0;
    return wait_s < 1 ? 1 : wait_s > MAX_WAIT_S ? MAX_WAIT_S : (int32_t)(wait_s + 0.5);
}

void em_request_queue_drain(em_request_queue *q)
{
    pthread_mutex_lock(&q->lock);
    q->draining = true;
    pthread_mutex_unlock(&q->lock);
}

void em_request_queue_close(em_request_queue *q)
{
    pthread_mutex_lock(&q->lock);
    q->closing = true;
    pthread_cond_signal(&q->changed);
    pthread_mutex_unlock(&q->lock);
}

void em_request_queue_get_stats(em_request_queue *q, em_engine_stats *ret_stats)
{
    pthread_mutex_lock(&q->lock);
    *ret_stats = q->stats;
    ret_stats->waiting += q->n_arrived;
    pthread_mutex_unlock(&q->lock);
}

/* --- step thread -------------------------------------------------------------------------------------------- */

static bool has_news(const em_request_queue *q)
{
    return q->head || q->cancels || q->compiled || q->closing;
}

void em_request_queue_take(em_request_queue *q, uint64_t wait_ns, em_news *ret_news)
{
    uint64_t until_ns = em_now_ns() + wait_ns;
    struct timespec until = {.tv_sec = (time_t)(until_ns / 1000000000), .tv_nsec = (long)(until_ns % 1000000000)};
    pthread_mutex_lock(&q->lock);
    while (wait_ns && !has_news(q)) {
        if (pthread_cond_timedwait(&q->changed, &q->lock, &until) == ETIMEDOUT)
            break;
    }
    *ret_news = (em_news){.arrived = q->head, .compiled = q->compiled, .cancels = q->cancels, .closing = q->closing};
    /* their choices stay visible as waiting until the step thread publishes its own count */
    q->stats.waiting += q->n_arrived;
    q->n_arrived = 0;
    q->head = q->tail = NULL;
    q->cancels = q->compiled = false;
    q->stats.heartbeat_ns = em_now_ns();
    pthread_mutex_unlock(&q->lock);
}

void em_request_queue_retire(em_request_queue *q, em_live *live)
{
    pthread_mutex_lock(&q->lock);
    em_live **at = &q->bucket[live->id % N_BUCKETS];
    while (*at != live)
        at = &(*at)->bucket_next;
    *at = live->bucket_next;
    pthread_mutex_unlock(&q->lock);
}

void em_request_queue_publish(em_request_queue *q, const em_engine_stats *stats, int32_t n_left)
{
    pthread_mutex_lock(&q->lock);
    q->n_waiting -= n_left;
    q->stats = *stats;
    q->stats.heartbeat_ns = em_now_ns();
    pthread_mutex_unlock(&q->lock);
}
