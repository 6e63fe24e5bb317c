/* Who is live, waiting, running; endings and events. */
#include "engine/roster.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/event.h"
#include "engine/request.h"

int em_roster_init(em_roster *ro, em_kv_cache *kv, const em_seq_rules *rules, int32_t max_seqs)
{
    *ro = (em_roster){.kv = kv, .rules = *rules, .max_seqs = max_seqs, .next_deadline_ns = UINT64_MAX};
    ro->running = calloc((size_t)max_seqs, sizeof(*ro->running));
    return ro->running ? 0 : -ENOMEM;
}

void em_roster_done(em_roster *ro)
{
    free(ro->running);
    ro->running = NULL;
}

/* --- lists -------------------------------------------------------------------------------------------------- */

static void wait_push(em_roster *ro, em_seq *seq)
{
    seq->prev = ro->wait_tail;
    seq->next = NULL;
    if (ro->wait_tail)
        ro->wait_tail->next = seq;
    else
        ro->wait_head = seq;
    ro->wait_tail = seq;
    ro->n_waiting++;
}

static void wait_remove(em_roster *ro, em_seq *seq)
{
    if (seq->prev)
        seq->prev->next = seq->next;
    else
        ro->wait_head = seq->next;
    if (seq->next)
        seq->next->prev = seq->prev;
    else
        ro->wait_tail = seq->prev;
    ro->n_waiting--;
}

static void running_remove(em_roster *ro, const em_seq *seq)
{
    int32_t i = 0;
    while (ro->running[i] != seq)
        i++;
    ro->n_running--;
    memmove(ro->running + i, ro->running + i + 1, (size_t)(ro->n_running - i) * sizeof(*ro->running));
}

static void live_remove(em_roster *ro, em_live *live)
{
    if (live->prev_live)
        live->prev_live->next_live = live->next_live;
    else
        ro->lives = live->next_live;
    if (live->next_live)
        live->next_live->prev_live = live->prev_live;
}

/* One choice fewer of the request waits. */
static void count_left(em_roster *ro, em_live *live)
{
    if (--live->n_waiting == 0)
        ro->n_left++;
}

/* --- events ------------------------------------------------------------------------------------------------- */

static void output_push(em_roster *ro, em_live *live, em_event *ev)
{
    if (!live->out_head) {
        live->next_output = NULL;
        if (ro->out_tail)
            ro->out_tail->next_output = live;
        else
            ro->out_head = live;
        ro->out_tail = live;
        live->out_head = ev;
    } else {
        live->out_tail->next = ev;
    }
    live->out_tail = ev;
}

/* Counts how the request ended, once all its choices have. */
static void count_end(em_roster *ro, const em_live *live)
{
    if (live->any_failed)
        ro->n_failed++;
    else if (live->any_cancelled)
        ro->n_cancelled++;
    else
        ro->n_ok++;
}

/* Takes a finished sequence out of its list and returns what it held. */
static void leave(em_roster *ro, em_seq *seq, em_finish finish)
{
    em_live *live = seq->live;
    if (seq->state == EM_SEQ_WAITING) {
        wait_remove(ro, seq);
        count_left(ro, live);
    } else {
        running_remove(ro, seq);
    }
    em_seq_kv_close(ro->kv, &seq->kv);
    em_seq_done(seq);
    live->any_failed |= finish == EM_FINISH_ERROR || finish == EM_FINISH_TIMEOUT;
    live->any_cancelled |= finish == EM_FINISH_CANCEL;
    if (--live->n_open == 0)
        count_end(ro, live);
}

/* The event of last resort, made at submit: no memory for a proper one. */
static em_event *take_spare(em_seq *seq)
{
    em_event *ev = seq->spare;
    seq->spare = NULL;
    ev->finish = EM_FINISH_ERROR;
    ev->error = "the server is out of memory: try again later.";
    ev->prompt_tokens = seq->prompt->n_ids;
    ev->completion_tokens = seq->n_ids - seq->prompt->n_ids;
    return ev;
}

/* The final event of a sequence, or a copy of what it has to tell. */
static void push_draft(em_roster *ro, em_seq *seq, em_event *draft)
{
    bool final = draft->finish != EM_FINISH_NONE;
    draft->last = final && seq->live->n_open == 1;
    em_event *ev = em_event_new(draft);
    if (!ev) {
        ev = take_spare(seq);
        ev->last = seq->live->n_open == 1;
        final = true;
    }
    output_push(ro, seq->live, ev);
    if (final)
        leave(ro, seq, ev->finish);
}

static void tell(em_roster *ro, em_seq *seq, const char *error)
{
    em_event draft;
    if (em_seq_scored(seq)) {
        em_seq_score_draft(seq, &draft);
        push_draft(ro, seq, &draft);
        em_seq_drop_scores(seq);
        if (seq->state == EM_SEQ_FINISHED)
            return; /* there was no memory for it */
    }
    if (em_seq_text_draft(seq, &draft)) {
        draft.error = error;
        push_draft(ro, seq, &draft);
    }
}

void em_roster_tell(em_roster *ro, em_seq *seq)
{
    tell(ro, seq, NULL);
}

void em_roster_fail(em_roster *ro, em_seq *seq, const char *error)
{
    em_seq_drop_scores(seq); /* perhaps not complete */
    em_seq_end(seq, EM_FINISH_ERROR);
    tell(ro, seq, error);
}

/* The sink is not called after the event with `last`: then the request may be gone on the other side. */
static void deliver_one(em_live *live)
{
    bool last = false;
    while (live->out_head) {
        em_event *ev = live->out_head;
        live->out_head = ev->next;
        ev->next = NULL;
        last = ev->last;
        live->sink.on_event(live->sink.ctx, ev);
    }
    live->out_tail = NULL;
    if (!last && live->sink.on_step_end)
        live->sink.on_step_end(live->sink.ctx);
}

void em_roster_deliver(em_roster *ro, em_request_queue *queue)
{
    while (ro->out_head) {
        em_live *live = ro->out_head;
        ro->out_head = live->next_output;
        deliver_one(live);
        if (!live->n_open) {
            em_request_queue_retire(queue, live);
            live_remove(ro, live);
            em_live_free(live);
        }
    }
    ro->out_tail = NULL;
}

/* --- coming and going --------------------------------------------------------------------------------------- */

/* A sequence with nothing to compute: it tells its prompt, if asked to, and ends. */
static void run_empty(em_roster *ro, em_seq *seq)
{
    wait_push(ro, seq);
    if (em_seq_start(seq, &ro->rules)) {
        em_roster_fail(ro, seq, "the server is out of memory: try again later.");
        return;
    }
    em_seq_end(seq, EM_FINISH_LENGTH);
    em_roster_tell(ro, seq);
}

void em_roster_accept(em_roster *ro, em_live *live)
{
    live->prev_live = NULL;
    live->next_live = ro->lives;
    if (ro->lives)
        ro->lives->prev_live = live;
    ro->lives = live;
    uint64_t deadline_ns = live->request->deadline_ns;
    if (deadline_ns && deadline_ns < ro->next_deadline_ns)
        ro->next_deadline_ns = deadline_ns;
    for (int32_t i = 0; i < live->n_seqs; i++) {
        em_seq *seq = &live->seqs[i];
        seq->serial = ro->next_serial++;
        if (em_seq_goal(seq) > 0)
            wait_push(ro, seq);
        else
            run_empty(ro, seq);
    }
}

bool em_roster_admit(em_roster *ro)
{
    em_seq *seq = ro->wait_head;
    int32_t n_positions = em_request_positions(seq->live->request, seq->prompt->n_ids, ro->rules.max_len);
    int rc = em_seq_kv_open(ro->kv, &seq->kv);
    if (!rc)
        rc = em_seq_kv_reserve(ro->kv, &seq->kv, n_positions);
    if (!rc)
        rc = em_seq_start(seq, &ro->rules);
    if (rc) {
        em_roster_fail(ro, seq, "the server is out of memory: try again later.");
        return false;
    }
    wait_remove(ro, seq);
    count_left(ro, seq->live);
    seq->state = EM_SEQ_RUNNING;
    ro->running[ro->n_running++] = seq;
    return true;
}

static int32_t end_live(em_roster *ro, em_live *live, em_finish finish)
{
    int32_t n = 0;
    for (int32_t i = 0; i < live->n_seqs; i++) {
        em_seq *seq = &live->seqs[i];
        if (seq->state == EM_SEQ_FINISHED)
            continue;
        em_seq_end(seq, finish);
        em_roster_tell(ro, seq);
        n++;
    }
    return n;
}

int32_t em_roster_end_due(em_roster *ro, bool look_at_flags, uint64_t now_ns)
{
    if (!look_at_flags && now_ns < ro->next_deadline_ns)
        return 0;
    int32_t n = 0;
    ro->next_deadline_ns = UINT64_MAX;
    for (em_live *live = ro->lives; live; live = live->next_live) {
        uint64_t deadline_ns = live->request->deadline_ns;
        if (atomic_load_explicit(&live->cancelled, memory_order_relaxed))
            n += end_live(ro, live, EM_FINISH_CANCEL);
        else if (deadline_ns && deadline_ns <= now_ns)
            n += end_live(ro, live, EM_FINISH_TIMEOUT);
        else if (deadline_ns && deadline_ns < ro->next_deadline_ns)
            ro->next_deadline_ns = deadline_ns;
    }
    return n;
}

void em_roster_end_all(em_roster *ro)
{
    for (em_live *live = ro->lives; live; live = live->next_live)
        end_live(ro, live, EM_FINISH_CANCEL);
}
