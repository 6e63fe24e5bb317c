/* The step loop. One pass: take new and cancelled requests; plan the batch; ask for its Engram rows; run the layers;
 * draw tokens; plan the next batch and ask for its rows at once; hand out events.
 *
 * The batch of the next step is prepared before events are handed out and before news are taken, so that its rows are
 * gathered meanwhile. When news change the plan, the prepared batch and its ticket are thrown away. */
#include "engine/step.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"
#include "engine/request.h"
#include "engine/roster.h"
#include "engine/sampler.h"
#include "engine/plan_count.h"
#include "engine/scheduler.h"

#define IDLE_WAIT_NS 500000000 /* the heart beats at least this often */
#define RATE_MEMORY_S 2.0

/* A run of the prepared batch. Sequences are compared by serial: an address may come back with another request. */
typedef struct prepared_run {
    em_seq *seq;
    uint64_t serial;
    int32_t pos, n_tokens, n_logits;
} prepared_run;

struct em_stepper {
    em_model *model;
    em_request_queue *queue;
    em_roster roster;
    em_sampler *sampler;
    em_logit_editor *editor;
    float *logits;  /* [max_logits, vocab_size] */
    uint64_t *mask; /* [(vocab_size + 63) / 64] what a grammar allows next */
    int32_t max_logits;
    em_batch_save *saves; /* [max_saves] of one step, run by run */
    int32_t max_saves;

    /* the plan, made anew for every step */
    em_sched_seq *sched;    /* [max_seqs] */
    em_plan plan;           /* with room for max_seqs sequences */
    em_seq **put_back;      /* [max_seqs] */
    prepared_run *next_run; /* [max_seqs] */

    /* the prepared batch: of the next step, during a step of this one; n_seqs 0: none */
    em_batch batch;           /* with room for max_seqs */
    prepared_run *run;        /* [max_seqs] */
    em_engram_ticket *ticket; /* of its rows; NULL: not asked for */

    /* what the step after the prepared one will compute, if nobody comes or goes; while a step runs, and only then */
    em_batch_seq *ahead_seqs; /* [max_seqs] */
    prepared_run *ahead_run;  /* [max_seqs] */
    int32_t n_ahead;          /* runs; 0: not known */
    em_engram_ticket *ahead;  /* of their rows */

    uint64_t now_ns; /* when the logits of this step were there */
    em_engine_stats stats;
};

/* --- opening ------------------------------------------------------------------------------------------------ */

int em_stepper_new(em_model *model, em_request_queue *queue, const em_seq_rules *rules, int32_t max_seqs, bool share,
                   em_stepper **ret_stepper)
{
    em_stepper *s = calloc(1, sizeof(*s));
    if (!s)
        return -ENOMEM;
    s->model = model;
    s->queue = queue;
    s->max_logits = em_model_logits_rows(em_model_get_config(model), max_seqs, em_model_max_batch_tokens(model));
    size_t n = (size_t)max_seqs;
    /* a run has no more boundaries than blocks, and one for the block it completes */
    s->max_saves = em_model_max_batch_tokens(model) / em_kv_cache_block_tokens(em_model_kv_cache(model)) + max_seqs;
    s->saves = calloc((size_t)s->max_saves, sizeof(*s->saves));
    s->logits = malloc((size_t)s->max_logits * (size_t)rules->vocab_size * sizeof(*s->logits));
    s->mask = calloc(((size_t)rules->vocab_size + 63) / 64, sizeof(*s->mask));
    s->sched = calloc(n, sizeof(*s->sched));
    s->plan.runs = calloc(n, sizeof(*s->plan.runs));
    s->plan.put_back = calloc(n, sizeof(*s->plan.put_back));
    s->plan.order = calloc(n, sizeof(*s->plan.order));
    s->put_back = calloc(n, sizeof(*s->put_back));
    s->next_run = calloc(n, sizeof(*s->next_run));
    s->batch.seqs = calloc(n, sizeof(*s->batch.seqs));
    s->run = calloc(n, sizeof(*s->run));
    s->ahead_seqs = calloc(n, sizeof(*s->ahead_seqs));
    s->ahead_run = calloc(n, sizeof(*s->ahead_run));
    if (!s->saves || !s->logits || !s->mask || !s->sched || !s->plan.runs || !s->plan.put_back || !s->plan.order ||
        !s->put_back || !s->next_run || !s->batch.seqs || !s->run || !s->ahead_seqs || !s->ahead_run ||
        em_roster_init(&s->roster, model, rules, max_seqs, share) || em_sampler_new(rules->vocab_size, &s->sampler) ||
        em_logit_editor_new(rules->vocab_size, &s->editor)) {
        em_stepper_free(s);
        return -ENOMEM;
    }
    *ret_stepper = s;
    return 0;
}

em_stepper *em_stepper_free(em_stepper *s)
{
    if (!s)
        return NULL;
    em_engram_release(s->ticket);
    em_engram_release(s->ahead);
    free(s->ahead_seqs);
    free(s->ahead_run);
    em_roster_done(&s->roster);
    em_sampler_free(s->sampler);
    em_logit_editor_free(s->editor);
    free(s->logits);
    free(s->saves);
    free(s->mask);
    free(s->sched);
    free(s->plan.runs);
    free(s->plan.put_back);
    free(s->plan.order);
    free(s->put_back);
    free(s->next_run);
    free(s->batch.seqs);
    free(s->run);
    free(s);
    return NULL;
}

/* --- planning ----------------------------------------------------------------------------------------------- */

/* Blocks that running sequences take before their next positions, and that they may want soon: one each. */
static void count_growth(const em_stepper *s, int32_t *ret_now, int32_t *ret_soon)
{
    const em_roster *ro = &s->roster;
    *ret_now = *ret_soon = 0;
    for (int32_t i = 0; i < ro->n_running; i++) {
        const em_seq *seq = ro->running[i];
        int32_t n_positions = em_request_positions(seq->live->request, seq->prompt->n_ids, ro->rules.max_len);
        *ret_now += em_kv_cache_blocks_for(ro->store.kv, seq->pos + 1) > seq->kv.n_blocks;
        *ret_soon += em_kv_cache_blocks_for(ro->store.kv, n_positions) > seq->kv.n_blocks;
    }
}

/* Lets in whoever fits beside the growth of those that run: else they would soon be put back. False: memory ran out. */
static bool admit_seqs(em_stepper *s, int32_t growth)
{
    em_roster *ro = &s->roster;
    while (em_kv_cache_free_slots(ro->store.kv)) {
        int32_t n_blocks;
        em_seq *seq = em_roster_next(ro, &n_blocks);
        if (!seq || (int64_t)n_blocks + growth > em_kv_cache_free_blocks(ro->store.kv))
            return true;
        if (!em_roster_admit(ro, seq))
            return false;
    }
    return true;
}

/* Blocks nobody shares with it. */
static int32_t count_own_blocks(const em_stepper *s, const em_seq *seq)
{
    int32_t n = 0;
    for (int32_t i = 0; i < seq->kv.n_blocks; i++)
        n += em_kv_cache_refs(s->roster.store.kv, seq->kv.block_table[i]) == 1;
    return n;
}

/* What the scheduler sees. short_of_blocks: some may have to be put back. */
static void describe_seqs(em_stepper *s, bool short_of_blocks)
{
    const em_roster *ro = &s->roster;
    for (int32_t i = 0; i < ro->n_running; i++) {
        const em_seq *seq = ro->running[i];
        s->sched[i] = (em_sched_seq){
            .rank = {.priority = seq->live->request->priority, .served = seq->client->served, .serial = seq->serial},
            .draws = em_seq_draws(seq),
            .scores = em_seq_scores(seq),
            .pos = seq->pos,
            .goal = em_seq_goal(seq),
            .stop = em_seq_store_stop(&ro->store, seq),
            .n_blocks = em_kv_cache_blocks_for(ro->store.kv, seq->pos + 1) > seq->kv.n_blocks,
            .n_freed = short_of_blocks ? count_own_blocks(s, seq) : 0,
        };
    }
}

/* The plan's runs as the next batch, with blocks for their positions. False: memory ran out for one. */
static bool take_runs(em_stepper *s)
{
    em_roster *ro = &s->roster;
    for (int32_t i = 0; i < s->plan.n_put_back; i++)
        s->put_back[i] = ro->running[s->plan.put_back[i]];
    for (int32_t i = 0; i < s->plan.n_runs; i++) {
        em_seq *seq = ro->running[s->plan.runs[i].seq_idx];
        s->next_run[i] = (prepared_run){
            .seq = seq,
            .serial = seq->serial,
            .pos = seq->pos,
            .n_tokens = s->plan.runs[i].n_tokens,
            .n_logits = s->plan.runs[i].n_logits,
        };
    }
    for (int32_t i = 0; i < s->plan.n_put_back; i++)
        em_roster_put_back(ro, s->put_back[i]);
    for (int32_t i = 0; i < s->plan.n_runs; i++) {
        em_seq *seq = s->next_run[i].seq;
        if (em_seq_kv_reserve(ro->store.kv, &seq->kv, s->next_run[i].pos + s->next_run[i].n_tokens)) {
            em_roster_fail(ro, seq, "the server is out of memory: try again later.");
            return false;
        }
    }
    return true;
}

/* Lets in whom there is room for, or puts back who must make room, and plans the next step. False: memory ran out for
 * somebody, who has ended; all is to be planned again. */
static bool plan_step(em_stepper *s)
{
    em_kv_cache *kv = s->roster.store.kv;
    int32_t now, soon;
    count_growth(s, &now, &soon);
    bool short_of_blocks = now > em_kv_cache_free_blocks(kv);
    if (!short_of_blocks && !admit_seqs(s, soon))
        return false;
    describe_seqs(s, short_of_blocks);
    em_sched_budget budget = {
        .n_tokens = em_model_max_batch_tokens(s->model),
        .n_logits = s->max_logits,
        .free_blocks = em_kv_cache_free_blocks(kv),
    };
    em_scheduler_plan(s->sched, s->roster.n_running, &budget, &s->plan);
    return take_runs(s);
}

static bool same_runs(const prepared_run *a, const prepared_run *b, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        if (a[i].serial != b[i].serial || a[i].pos != b[i].pos || a[i].n_tokens != b[i].n_tokens ||
            a[i].n_logits != b[i].n_logits)
            return false;
    }
    return true;
}

/* The plan as a batch. */
static void build_batch(em_stepper *s)
{
    prepared_run *free_runs = s->run;
    s->run = s->next_run;
    s->next_run = free_runs;
    s->batch.n_seqs = s->plan.n_runs;
    s->batch.n_tokens = s->plan.n_tokens;
    s->batch.n_logits = s->plan.n_logits;
    for (int32_t i = 0; i < s->batch.n_seqs; i++) {
        const prepared_run *run = &s->run[i];
        s->batch.seqs[i] = (em_batch_seq){
            .kv = &run->seq->kv,
            .tokens = run->seq->ids,
            .pos = run->pos,
            .n_tokens = run->n_tokens,
            .n_logits = run->n_logits,
        };
        em_seq_insight_of(run->seq, run->pos, run->n_tokens, &s->batch.seqs[i].n_insight, &s->batch.seqs[i].insight);
    }
}

static void publish(em_stepper *s)
{
    em_roster *ro = &s->roster;
    s->stats.running = ro->n_running;
    s->stats.waiting = ro->n_waiting;
    s->stats.requests_ok = ro->n_ok;
    s->stats.requests_cancelled = ro->n_cancelled;
    s->stats.requests_failed = ro->n_failed;
    s->stats.kv_blocks = em_kv_cache_blocks(ro->store.kv);
    s->stats.kv_blocks_free = em_kv_cache_free_blocks(ro->store.kv);
    s->stats.kv_blocks_cached = em_kv_cache_idle_blocks(ro->store.kv);
    s->stats.preemptions = ro->n_put_back;
    s->stats.prefix_queries = ro->store.prefix_queries;
    s->stats.prefix_hits = ro->store.prefix_hits;
    memcpy(s->stats.finished, ro->finished, sizeof(s->stats.finished));
    s->stats.latencies = ro->latencies;
    em_request_queue_publish(s->queue, &s->stats, ro->n_left);
    ro->n_left = 0;
}

/* All positions of the prepared step are moved on by its runs, or back. */
static void move_on(em_stepper *s, int32_t sign)
{
    for (int32_t i = 0; i < s->batch.n_seqs; i++)
        s->run[i].seq->pos += sign * s->run[i].n_tokens;
}

/* A step that only brings prompts nearer to their ends draws no token, so that what comes after it is known. */
static bool draws_nothing(const em_stepper *s)
{
    for (int32_t i = 0; i < s->batch.n_seqs; i++) {
        if (s->run[i].pos + s->run[i].n_tokens >= em_seq_goal(s->run[i].seq))
            return false;
    }
    return s->batch.n_seqs > 0;
}

/* Asks for the rows of the step after the prepared one, before that one runs: they have a whole step's time to come. */
static void ask_ahead(em_stepper *s)
{
    em_kv_cache *kv = s->roster.store.kv;
    if (!em_model_engram(s->model) || !draws_nothing(s))
        return;
    em_sched_budget budget = {
        .n_tokens = em_model_max_batch_tokens(s->model),
        .n_logits = s->max_logits,
        .free_blocks = em_kv_cache_free_blocks(kv),
    };
    move_on(s, 1);
    describe_seqs(s, false);
    em_scheduler_plan(s->sched, s->roster.n_running, &budget, &s->plan);
    for (int32_t i = 0; i < s->plan.n_runs; i++) {
        em_seq *seq = s->roster.running[s->plan.runs[i].seq_idx];
        int32_t n_tokens = s->plan.runs[i].n_tokens;
        s->ahead_run[i] = (prepared_run){seq, seq->serial, seq->pos, n_tokens, s->plan.runs[i].n_logits};
        s->ahead_seqs[i] = (em_batch_seq){.tokens = seq->ids, .pos = seq->pos, .n_tokens = n_tokens};
    }
    move_on(s, -1);
    em_batch batch = {.seqs = s->ahead_seqs, .n_seqs = s->plan.n_runs, .n_tokens = s->plan.n_tokens};
    if (batch.n_seqs && !em_model_ask(s->model, &batch, &s->ahead))
        s->n_ahead = batch.n_seqs;
}

/* The rows asked for ahead become those of the prepared step, or are given back: somebody came or went. */
static void take_ahead(em_stepper *s)
{
    if (s->n_ahead && s->n_ahead == s->batch.n_seqs && same_runs(s->run, s->ahead_run, s->n_ahead)) {
        s->ticket = s->ahead;
        s->ahead = NULL;
    }
    s->ahead = em_engram_release(s->ahead);
    s->n_ahead = 0;
}

/* Prepares the next step: its batch, with the rows asked for. What is prepared already stays when the plan is the
 * same. */
static void schedule(em_stepper *s)
{
    uint64_t start_ns = em_now_ns();
    while (!plan_step(s))
        ;
    bool same = s->batch.n_seqs == s->plan.n_runs && same_runs(s->run, s->next_run, s->plan.n_runs);
    if (!same) {
        s->ticket = em_engram_release(s->ticket);
        build_batch(s);
        take_ahead(s);
    }
    em_histogram_add(&s->roster.latencies.schedule, (double)(em_now_ns() - start_ns) * 1e-9);
    /* failure is no loss: the forward pass then asks for itself, and reports */
    if (!same && !s->ticket && s->batch.n_seqs && em_model_ask(s->model, &s->batch, &s->ticket))
        s->ticket = NULL;
    publish(s);
}

/* --- one step ----------------------------------------------------------------------------------------------- */

static int score(em_stepper *s, em_seq *seq, const float *logits, int32_t p)
{
    em_top_logprob top[EM_MAX_LOGPROBS];
    int32_t n_top = seq->live->request->logprobs;
    float logprob;
    int rc = em_sampler_logprobs(s->sampler, logits, seq->prompt->ids[p], n_top, &logprob, top);
    if (rc)
        return rc;
    n_top = n_top < s->roster.rules.vocab_size ? n_top : s->roster.rules.vocab_size;
    em_seq_put_score(seq, p, logprob, top, n_top);
    return 0;
}

/* Tokens that may not come now; banned has room for EM_MAX_STOP_TOKEN_IDS + 1. An EOS that counts for nothing would
 * end the text of a grammar, so there it may not come while anything else can. */
static em_logit_bans list_bans(const em_stepper *s, const em_seq *seq, int32_t *banned)
{
    const em_request *r = seq->live->request;
    em_logit_bans bans = {.id = banned};
    bool early = seq->n_ids - seq->prompt->n_ids < r->min_tokens;
    for (int32_t i = 0; early && i < r->n_stop_ids; i++)
        banned[bans.n_id++] = r->stop_ids[i];
    if (r->ignore_eos ? seq->guide != NULL : early)
        banned[bans.n_id++] = s->roster.rules.eos_id;
    return bans;
}

/* From the logits as the request wants them; mostly they are left as they are. */
static int pick(em_stepper *s, const em_seq *seq, const float *logits, const em_logit_bans *bans, int32_t *ret_id)
{
    const em_request *r = seq->live->request;
    if (!em_logits_untouched(&r->logits, bans))
        logits = em_logits_edit(s->editor, logits, &r->logits, bans, seq->ids, seq->prompt->n_ids, seq->n_ids);
    return em_sampler_pick(s->sampler, logits, &r->sampling, (uint32_t)seq->choice, (uint64_t)seq->n_ids, ret_id);
}

/* Likewise, kept to the grammar. */
static int pick_guided(em_stepper *s, em_seq *seq, const float *logits, em_logit_bans *bans, em_guide_next *ret_next,
                       int32_t *ret_id)
{
    int32_t left = seq->max_new - (seq->n_ids - seq->prompt->n_ids);
    bans->mask = s->mask;
    int rc = em_guide_next_token(seq->guide, s->mask, bans, left, ret_next, ret_id);
    if (!rc && *ret_next == EM_GUIDE_DRAW)
        rc = pick(s, seq, logits, bans, ret_id);
    if (!rc && *ret_next != EM_GUIDE_OVER)
        rc = em_guide_take(seq->guide, left, ret_id, ret_next);
    return rc;
}

static int draw(em_stepper *s, em_seq *seq, const float *logits)
{
    const em_request *r = seq->live->request;
    int32_t banned[EM_MAX_STOP_TOKEN_IDS + 1];
    em_logit_bans bans = list_bans(s, seq, banned);
    em_guide_next next = EM_GUIDE_DRAW;
    em_draw d = {0};
    int rc = seq->guide ? pick_guided(s, seq, logits, &bans, &next, &d.id) : pick(s, seq, logits, &bans, &d.id);
    if (!rc && next == EM_GUIDE_OVER)
        return em_seq_end(seq, EM_FINISH_STOP);
    if (!rc && r->logprobs >= 0) {
        rc = em_sampler_logprobs(s->sampler, logits, d.id, r->logprobs, &d.logprob, d.top);
        d.has_logprob = true;
        d.n_top = r->logprobs < s->roster.rules.vocab_size ? r->logprobs : s->roster.rules.vocab_size;
    }
    if (!rc)
        rc = em_seq_push(seq, &d, &s->roster.rules);
    if (rc)
        return rc;
    s->stats.generation_tokens++;
    seq->client->served++;
    em_latencies_token(&s->roster.latencies, &seq->moments, s->now_ns);
    return 0;
}

static void fail_seq(em_stepper *s, em_seq *seq, int32_t pos, int rc)
{
    em_error err;
    if (rc == -EDOM)
        em_error_set(&err, rc,
                     "the model's output behind token %d is not a number: the checkpoint or the machine is faulty.",
                     pos);
    else if (rc == -E2BIG)
        em_error_set(&err, rc, "the form asked for is too ambiguous to be kept to behind token %d: simplify it.", pos);
    else if (rc == -ENOSPC)
        em_error_set(
            &err, rc,
            "behind token %d no token is left that keeps to the form asked for: lower min_tokens, or leave out "
            "stop_token_ids.",
            pos);
    else
        em_error_set(&err, rc, "the server is out of memory: try again later.");
    em_roster_fail(&s->roster, seq, err.text);
}

/* Prompt tokens count once, when they are there for the first time, computed or not. */
static void count_prompt(em_stepper *s, em_seq *seq)
{
    int32_t there = seq->pos < seq->prompt->n_ids ? seq->pos : seq->prompt->n_ids;
    if (there <= seq->n_counted)
        return;
    s->stats.prompt_tokens += (uint64_t)(there - seq->n_counted);
    seq->n_counted = there;
}

/* The other choices of a prompt that was just computed draw from the same logits. */
static void fork_siblings(em_stepper *s, em_seq *seq, const float *logits)
{
    em_seq *sibling;
    while ((sibling = em_roster_fork(&s->roster, seq))) {
        count_prompt(s, sibling);
        int rc = draw(s, sibling, logits);
        if (rc)
            fail_seq(s, sibling, sibling->pos - 1, rc);
        else
            em_roster_tell(&s->roster, sibling);
    }
}

/* The token behind position pos. What is known up to there is told first where Engram is asked about: all of it is
 * computed now, and will not be when the new token is there. */
static int draw_next(em_stepper *s, em_seq *seq, int32_t pos, const float *logits)
{
    if (seq->live->request->engram)
        em_roster_tell(&s->roster, seq);
    if (pos + 1 == seq->prompt->n_ids)
        fork_siblings(s, seq, logits);
    return seq->state == EM_SEQ_FINISHED ? 0 : draw(s, seq, logits); /* finished: no memory to tell */
}

/* What the step means for one sequence; logits are those of its last n_logits positions. */
static void read_logits(em_stepper *s, const prepared_run *run, const em_batch_seq *done, const float *logits)
{
    em_seq *seq = run->seq;
    int32_t n_prompt = seq->prompt->n_ids;
    seq->pos = run->pos + run->n_tokens;
    count_prompt(s, seq);
    em_seq_store_advance(&s->roster.store, seq, done->saves, done->n_saves);
    for (int32_t pos = seq->pos - run->n_logits; pos < seq->pos; pos++) {
        int rc = 0;
        if (pos + 1 < n_prompt)
            rc = score(s, seq, logits, pos + 1);
        else if (em_seq_draws(seq))
            rc = draw_next(s, seq, pos, logits);
        if (rc)
            fail_seq(s, seq, pos, rc);
        if (rc || seq->state == EM_SEQ_FINISHED)
            return;
        logits += s->roster.rules.vocab_size;
    }
    if (!seq->max_new && seq->pos == em_seq_goal(seq))
        em_seq_end(seq, EM_FINISH_LENGTH);
    em_roster_tell(&s->roster, seq);
}

/* Only now, since what is prepared may still be thrown away. */
static void plan_saves(em_stepper *s)
{
    int32_t n = 0;
    for (int32_t i = 0; i < s->batch.n_seqs; i++) {
        em_batch_seq *q = &s->batch.seqs[i];
        q->saves = s->saves + n;
        q->n_saves =
            em_seq_store_plan_saves(&s->roster.store, s->run[i].seq, q->n_tokens, s->saves + n, s->max_saves - n);
        n += q->n_saves;
    }
}

/* The step went well for all others. */
static void fail_run(em_stepper *s, em_seq *seq, const em_batch_seq *run)
{
    em_error err;
    if (run->error == -EBADMSG)
        em_error_set(&err, run->error,
                     "a row of the Engram table of layer %d is not what its file holds: the memory or the disk is "
                     "faulty, or the file was changed.",
                     run->error_layer);
    else
        em_error_set(&err, run->error,
                     "a row of the Engram table of layer %d could not be read: the disk or the file is faulty.",
                     run->error_layer);
    em_roster_fail(&s->roster, seq, err.text);
}

static void run_batch(em_stepper *s)
{
    em_error err = {.text = ""};
    plan_saves(s);
    int rc = em_model_forward(s->model, &s->batch, s->ticket, s->logits, &err);
    s->ticket = NULL; /* the forward pass has released it */
    if (rc && !err.text[0])
        em_error_set(&err, rc, "the step failed: %s.", strerror(-rc));
    const float *logits = s->logits;
    s->now_ns = em_now_ns();
    em_histogram_add(&s->roster.latencies.step_tokens, s->batch.n_tokens);
    for (int32_t i = 0; i < s->batch.n_seqs; i++) {
        const prepared_run *run = &s->run[i];
        const em_batch_seq *done = &s->batch.seqs[i];
        if (rc || done->error)
            em_seq_store_drop_saves(&s->roster.store, done->saves, done->n_saves);
        if (rc)
            em_roster_fail(&s->roster, run->seq, err.text); /* its state is in doubt; others go on */
        else if (done->error)
            fail_run(s, run->seq, done);
        else
            read_logits(s, run, done, logits);
        logits += (int64_t)run->n_logits * s->roster.rules.vocab_size;
    }
    s->batch.n_seqs = 0;
}

/* Waits for news while there is nothing to do. False: no more steps, everything has ended. */
static bool take_news(em_stepper *s)
{
    em_news news;
    em_request_queue_take(s->queue, s->batch.n_seqs ? 0 : IDLE_WAIT_NS, &news);
    bool changed = news.arrived;
    while (news.arrived) {
        em_live *live = news.arrived;
        news.arrived = live->next;
        em_roster_accept(&s->roster, live);
    }
    if (news.compiled)
        changed |= em_roster_take_compiled(&s->roster) > 0;
    changed |= em_roster_end_due(&s->roster, news.cancels, em_now_ns()) > 0;
    if (news.closing)
        em_roster_end_all(&s->roster);
    if (changed || news.closing)
        schedule(s);
    return !news.closing;
}

/* A mean that forgets: what lies RATE_MEMORY_S of work back counts little. */
static void note_rate(em_stepper *s, int32_t n_tokens, double seconds)
{
    double share = seconds / (seconds + RATE_MEMORY_S), rate = n_tokens / (seconds > 1e-9 ? seconds : 1e-9);
    s->stats.tokens_per_s += s->stats.tokens_per_s > 0 ? share * (rate - s->stats.tokens_per_s) : rate;
}

static void run_step(em_stepper *s)
{
    uint64_t start_ns = em_now_ns();
    int32_t n_tokens = s->batch.n_tokens;
    ask_ahead(s);
    run_batch(s);
    uint64_t step_ns = em_now_ns() - start_ns;
    s->stats.steps++;
    s->stats.step_ns += step_ns;
    note_rate(s, n_tokens, (double)step_ns * 1e-9);
    schedule(s);
    take_ahead(s); /* where there is no next step */
}

void em_stepper_run(em_stepper *s)
{
    bool open = true;
    publish(s); /* sizes and empty histograms, before any step */
    while (open) {
        open = take_news(s);
        em_roster_deliver(&s->roster, s->queue); /* who was cancelled need not wait for the next step */
        if (s->batch.n_seqs) {
            run_step(s);
            em_roster_deliver(&s->roster, s->queue);
        }
    }
}
