/* Lines of waiting sequences, and the clients they belong to. */
#include "engine/wait_queue.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_LINES 8

void em_wait_queue_done(em_wait_queue *wq)
{
    while (wq->clients) {
        em_client *c = wq->clients;
        wq->clients = c->next;
        free(c);
    }
    free(wq->lines);
    free(wq->heads);
    *wq = (em_wait_queue){0};
}

/* --- clients ------------------------------------------------------------------------------------------------ */

static uint64_t least_served(const em_wait_queue *wq)
{
    uint64_t least = wq->clients ? UINT64_MAX : 0;
    for (const em_client *c = wq->clients; c; c = c->next)
        least = c->served < least ? c->served : least;
    return least;
}

em_client *em_wait_queue_enter(em_wait_queue *wq, em_client **fresh, int32_t n_seqs)
{
    em_client *c = wq->clients;
    while (c && strcmp(c->name, (*fresh)->name) != 0)
        c = c->next;
    if (!c) {
        c = *fresh;
        *fresh = NULL;
        c->served = least_served(wq);
        c->next = wq->clients;
        wq->clients = c;
    }
    c->n_seqs += n_seqs;
    return c;
}

void em_wait_queue_leave(em_wait_queue *wq, em_client *client)
{
    if (--client->n_seqs)
        return;
    em_client **at = &wq->clients;
    while (*at != client)
        at = &(*at)->next;
    *at = client->next;
    free(client);
}

/* --- lines -------------------------------------------------------------------------------------------------- */

static em_wait_line *find_line(em_wait_queue *wq, const em_seq *seq)
{
    for (int32_t i = 0; i < wq->n_lines; i++) {
        if (wq->lines[i].client == seq->client && wq->lines[i].priority == seq->live->request->priority)
            return &wq->lines[i];
    }
    return NULL;
}

static int grow_lines(em_wait_queue *wq)
{
    if (wq->n_lines < wq->cap_lines)
        return 0;
    int32_t cap = wq->cap_lines ? 2 * wq->cap_lines : FIRST_LINES;
    em_wait_line *lines = realloc(wq->lines, (size_t)cap * sizeof(*lines));
    if (!lines)
        return -ENOMEM;
    wq->lines = lines;
    em_sched_head *heads = realloc(wq->heads, (size_t)cap * sizeof(*heads));
    if (!heads)
        return -ENOMEM;
    wq->heads = heads;
    wq->cap_lines = cap;
    return 0;
}

int em_wait_queue_push(em_wait_queue *wq, em_seq *seq)
{
    em_wait_line *line = find_line(wq, seq);
    if (!line) {
        int rc = grow_lines(wq);
        if (rc)
            return rc;
        line = &wq->lines[wq->n_lines++];
        *line = (em_wait_line){.client = seq->client, .priority = seq->live->request->priority};
    }
    em_seq *before = line->tail; /* whoever comes back goes in front of those that came later */
    while (before && before->serial > seq->serial)
        before = before->prev;
    seq->prev = before;
    seq->next = before ? before->next : line->head;
    *(before ? &before->next : &line->head) = seq;
    *(seq->next ? &seq->next->prev : &line->tail) = seq;
    seq->queued = true;
    return 0;
}

void em_wait_queue_remove(em_wait_queue *wq, em_seq *seq)
{
    em_wait_line *line = find_line(wq, seq);
    *(seq->prev ? &seq->prev->next : &line->head) = seq->next;
    *(seq->next ? &seq->next->prev : &line->tail) = seq->prev;
    seq->queued = false;
    if (!line->head)
        *line = wq->lines[--wq->n_lines];
}

em_seq *em_wait_queue_next(em_wait_queue *wq)
{
    for (int32_t i = 0; i < wq->n_lines; i++) {
        const em_wait_line *line = &wq->lines[i];
        wq->heads[i] = (em_sched_head){
            .priority = line->priority,
            .served = line->client->served,
            .serial = line->head->serial,
        };
    }
    int32_t i = em_scheduler_next(wq->heads, wq->n_lines, wq->n_admitted);
    return i < 0 ? NULL : wq->lines[i].head;
}
