/* Who is live, waiting, running; endings and events. */
#include "engine/roster.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"
#include "engine/event.h"
#include "engine/request.h"

static const char no_memory[] = "the server is out of memory: try again later.";

int em_roster_init(em_roster *ro, em_model *model, const em_seq_rules *rules, int32_t max_seqs, bool share)
{
    *ro = (em_roster){.rules = *rules, .max_seqs = max_seqs, .next_deadline_ns = UINT64_MAX};
    em_latencies_init(&ro->latencies, rules->max_len);
    ro->running = calloc((size_t)max_seqs, sizeof(*ro->running));
    return ro->running ? em_seq_store_init(&ro->store, model, max_seqs, share) : -ENOMEM;
}

void em_roster_done(em_roster *ro)
{
    em_seq_store_done(&ro->store);
    em_wait_queue_done(&ro->wait);
    free(ro->running);
    ro->running = NULL;
}

/* --- lists -------------------------------------------------------------------------------------------------- */

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

static void unpark_siblings(em_roster *ro, const em_seq *seq);

/* Takes a finished sequence out of its list and returns what it held. */
static void leave(em_roster *ro, em_seq *seq, em_finish finish)
{
    em_live *live = seq->live;
    if (seq->state == EM_SEQ_WAITING) {
        if (seq->queued)
            em_wait_queue_remove(&ro->wait, seq);
        seq->parked = false;
        ro->n_waiting--;
        count_left(ro, live);
    } else {
        running_remove(ro, seq);
    }
    em_seq_store_close(&ro->store, seq);
    em_seq_done(seq);
    em_wait_queue_leave(&ro->wait, seq->client);
    ro->finished[finish]++;
    em_latencies_end(&ro->latencies, &seq->moments, em_now_ns(), seq->prompt->n_ids, seq->n_ids - seq->prompt->n_ids);
    live->any_failed |= finish == EM_FINISH_ERROR || finish == EM_FINISH_TIMEOUT;
    live->any_cancelled |= finish == EM_FINISH_CANCEL;
    if (--live->n_open == 0)
        count_end(ro, live);
    else
        unpark_siblings(ro, seq); /* its prompt will not be computed for them */
}

/* The event of last resort, made at submit: no memory for a proper one. */
static em_event *take_spare(em_seq *seq)
{
    em_event *ev = seq->spare;
    seq->spare = NULL;
    ev->finish = EM_FINISH_ERROR;
    ev->error = no_memory;
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

static void tell_with(em_roster *ro, em_seq *seq, const char *error, bool refused)
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
        draft.refused = refused;
        push_draft(ro, seq, &draft);
    }
}

static void tell(em_roster *ro, em_seq *seq, const char *error)
{
    tell_with(ro, seq, error, false);
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

static void queue_up(em_roster *ro, em_seq *seq)
{
    if (em_wait_queue_push(&ro->wait, seq))
        em_roster_fail(ro, seq, no_memory);
}

/* The choice that computes the prompt for its siblings. */
static em_seq *leader_of(const em_seq *seq)
{
    em_live *live = seq->live;
    return &live->seqs[seq->choice - seq->choice % live->request->n];
}

/* Siblings of a leader stand on their own from now on. */
static void unpark_siblings(em_roster *ro, const em_seq *seq)
{
    if (leader_of(seq) != seq)
        return;
    for (int32_t i = 1; i < seq->live->request->n; i++) {
        em_seq *sibling = leader_of(seq) + i;
        if (sibling->parked) {
            sibling->parked = false;
            queue_up(ro, sibling);
        }
    }
}

/* A sequence with nothing to compute: it tells its prompt, if asked to, and ends. */
static void run_empty(em_roster *ro, em_seq *seq)
{
    if (em_seq_start(seq, &ro->rules)) {
        em_roster_fail(ro, seq, no_memory);
        return;
    }
    em_seq_end(seq, EM_FINISH_LENGTH);
    em_roster_tell(ro, seq);
}

static void accept_seq(em_roster *ro, em_seq *seq)
{
    if (em_seq_goal(seq) == 0)
        run_empty(ro, seq);
    else if (leader_of(seq) != seq && em_seq_store_shares(&ro->store, seq) && leader_of(seq)->state != EM_SEQ_FINISHED)
        seq->parked = true;
    else
        queue_up(ro, seq);
}

/* Ends all choices of a request that cannot be kept to. */
static void refuse(em_roster *ro, em_live *live, const char *error)
{
    for (int32_t i = 0; i < live->n_seqs; i++) {
        if (live->seqs[i].state == EM_SEQ_FINISHED)
            continue;
        em_seq_end(&live->seqs[i], EM_FINISH_ERROR);
        tell_with(ro, &live->seqs[i], error, true);
    }
}

/* Is there a grammar, and room for the shortest answer? Else err says what to do. */
static bool can_keep_to(const em_live *live, em_error *err)
{
    uint32_t shortest = em_grammar_order_shortest(live->order);
    if (!em_grammar_order_get(live->order)) {
        em_error_set(err, -EINVAL, "%s", em_grammar_order_error(live->order));
        return false;
    }
    for (int32_t i = 0; i < live->n_seqs; i++) {
        const em_seq *seq = &live->seqs[i];
        if (shortest <= (uint32_t)seq->max_new)
            continue;
        if (shortest == UINT32_MAX)
            em_error_set(err, -EINVAL, "the shortest answer of this form cannot be written with the model's tokens.");
        else
            em_error_set(err, -EINVAL,
                         "the shortest answer of this form has %u tokens, but there is room for %d behind the prompt: "
                         "raise max_tokens, or shorten the prompt.",
                         shortest, seq->max_new);
        return false;
    }
    return true;
}

/* Its grammar is ready. Should there be no memory for the event, the first piece of text says as much. */
static void begin_kept(em_roster *ro, em_live *live)
{
    em_error err;
    if (!can_keep_to(live, &err)) {
        refuse(ro, live, err.text);
        return;
    }
    em_event *ev = em_event_new(&(em_event){.kind = EM_EVENT_READY});
    if (ev)
        output_push(ro, live, ev);
    for (int32_t i = 0; i < live->n_seqs; i++)
        if (live->seqs[i].state != EM_SEQ_FINISHED)
            accept_seq(ro, &live->seqs[i]);
}

int32_t em_roster_take_compiled(em_roster *ro)
{
    int32_t n = 0;
    for (em_live *live = ro->lives; live; live = live->next_live) {
        if (!live->compiling || !em_grammar_order_ready(live->order))
            continue;
        live->compiling = false;
        if (live->n_open)
            begin_kept(ro, live);
        n++;
    }
    return n;
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
    em_client *client = em_wait_queue_enter(&ro->wait, &live->fresh_client, live->n_seqs);
    ro->n_waiting += live->n_seqs;
    for (int32_t i = 0; i < live->n_seqs; i++) {
        live->seqs[i].serial = ro->next_serial++;
        live->seqs[i].client = client;
    }
    live->compiling = live->order && !em_grammar_order_ready(live->order);
    if (live->order && !live->compiling)
        begin_kept(ro, live);
    for (int32_t i = 0; i < live->n_seqs && !live->order; i++)
        accept_seq(ro, &live->seqs[i]);
}

em_seq *em_roster_next(em_roster *ro, int32_t *ret_n_blocks)
{
    em_seq *seq = em_wait_queue_next(&ro->wait);
    if (!seq)
        return NULL;
    int32_t n_positions = em_request_positions(seq->live->request, seq->prompt->n_ids, ro->rules.max_len);
    *ret_n_blocks = em_seq_store_need(&ro->store, seq, n_positions);
    return seq;
}

/* From waiting to running; it has its slot and blocks. */
static void start_running(em_roster *ro, em_seq *seq)
{
    if (seq->queued)
        em_wait_queue_remove(&ro->wait, seq);
    seq->parked = false;
    ro->n_waiting--;
    count_left(ro, seq->live);
    seq->state = EM_SEQ_RUNNING;
    ro->running[ro->n_running++] = seq;
    if (!seq->moments.started_ns)
        seq->moments.started_ns = em_now_ns();
}

bool em_roster_admit(em_roster *ro, em_seq *seq)
{
    int rc = em_seq_store_open(&ro->store, seq);
    if (!rc)
        rc = em_seq_start(seq, &ro->rules);
    if (rc) {
        em_roster_fail(ro, seq, no_memory);
        return false;
    }
    if (!seq->charged) /* what is computed twice is not the client's fault */
        seq->client->served += (uint64_t)(em_seq_goal(seq) - seq->pos);
    seq->charged = true;
    ro->wait.n_admitted++;
    start_running(ro, seq);
    return true;
}

void em_roster_put_back(em_roster *ro, em_seq *seq)
{
    running_remove(ro, seq);
    em_seq_store_close(&ro->store, seq);
    seq->state = EM_SEQ_WAITING;
    ro->n_waiting++;
    ro->n_put_back++;
    if (seq->live->n_waiting++ == 0)
        ro->n_left--;
    queue_up(ro, seq);
}

em_seq *em_roster_fork(em_roster *ro, em_seq *seq)
{
    if (leader_of(seq) != seq)
        return NULL;
    for (int32_t i = 1; i < seq->live->request->n; i++) {
        em_seq *sibling = seq + i;
        if (!sibling->parked)
            continue;
        int rc = em_seq_store_fork(&ro->store, seq, sibling);
        if (rc == -EAGAIN)
            break;
        if (!rc)
            rc = em_seq_start(sibling, &ro->rules);
        if (rc) {
            em_roster_fail(ro, sibling, no_memory);
            continue;
        }
        sibling->charged = true;
        start_running(ro, sibling);
        return sibling;
    }
    unpark_siblings(ro, seq);
    return NULL;
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

/* Choices whose receiver has found their end. */
static int32_t end_stopped(em_roster *ro, em_live *live)
{
    int32_t n = 0;
    if (!atomic_exchange_explicit(&live->stops, false, memory_order_relaxed))
        return 0;
    for (int32_t i = 0; i < live->n_seqs; i++) {
        em_seq *seq = &live->seqs[i];
        if (seq->state == EM_SEQ_FINISHED || !atomic_load_explicit(&seq->stopped, memory_order_relaxed))
            continue;
        em_seq_end(seq, EM_FINISH_STOP);
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
        n += end_stopped(ro, live);
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
