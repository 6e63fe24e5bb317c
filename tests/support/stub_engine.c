/* An engine without a model, to test server/ against: it implements engine/engine.h with behaviour that a test chooses.
 *
 * The model folder is a script: "stub:load_ms=500,step_us=1000,fail_load=1". The answer to a prompt is its ids again and
 * again, as text "t300 ". The first id of a prompt may ask for something special, see PROMPT_*. Each request that ends
 * writes a line to stderr: "stub: end ID finish=2 tokens=8 step=17", each that is taken "stub: begin ID", before it
 * "stub: request ID client=C priority=P salt=S" where it has one of these. */
#include "engine/engine.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "engine/base/clock.h"

#define VOCAB 6144
#define PROMPT_STALL 6000  /* no token ever */
#define PROMPT_FAIL 6001   /* an error after three tokens */
#define PROMPT_FREEZE 6002 /* the step thread sleeps */
#define PROMPT_BURST 6003  /* a thousand tokens at once */

typedef struct live {
    struct live *next;
    uint64_t id;
    em_request *req;
    em_sink sink;
    bool cancelled, running;
    int32_t n_choices, made; /* tokens per choice so far */
    int32_t n_stopped;       /* choices nobody wants more of; it ends when there are no others */
} live;

struct em_engine {
    pthread_mutex_t lock;
    pthread_t thread;
    bool closing, draining;
    live *head;
    uint64_t next_id;
    int32_t max_seqs, max_queue, max_len;
    long step_us, freeze_ms;
    em_engine_stats stats;
};

static long script_value(const char *script, const char *name, long dflt)
{
    const char *at = strstr(script, name);
    return at && at[strlen(name)] == '=' ? strtol(at + strlen(name) + 1, NULL, 10) : dflt;
}

static void sleep_us(long us)
{
    struct timespec ts = {.tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000};
    nanosleep(&ts, NULL);
}

/* --- events -------------------------------------------------------------------------------------------------- */

static void send(live *l, int32_t choice, int32_t n, em_finish finish, bool last)
{
    const em_prompt *p = &l->req->prompts[choice / l->req->n];
    em_event *ev = calloc(1, sizeof(*ev) + (size_t)n * (sizeof(em_event_token) + 16) + 1);
    em_event_token *tokens = (em_event_token *)(ev + 1);
    char *text = (char *)(tokens + n), *out = text;
    for (int32_t i = 0; i < n; i++) {
        int32_t id = p->ids[(l->made + i) % p->n_ids];
        tokens[i] = (em_event_token){.id = id, .visible = true, .has_logprob = l->req->logprobs >= 0, .logprob = -0.5f};
        out += sprintf(out, "t%d ", id);
    }
    *ev = (em_event){.kind = EM_EVENT_TEXT,
                     .choice = choice,
                     .text = text,
                     .text_len = (size_t)(out - text),
                     .tokens = tokens,
                     .n_tokens = n,
                     .finish = finish,
                     .last = last,
                     .prompt_tokens = p->n_ids,
                     .completion_tokens = l->made + n,
                     .error = finish == EM_FINISH_ERROR ? "the stub failed" : NULL};
    l->sink.on_event(l->sink.ctx, ev);
}

void em_event_free(em_event *ev)
{
    free(ev);
}

em_request *em_request_free(em_request *r)
{
    if (!r)
        return NULL;
    for (int32_t i = 0; r->prompts && i < r->n_prompts; i++)
        free(r->prompts[i].ids);
    for (int32_t i = 0; r->stops && i < r->n_stops; i++)
        free(r->stops[i].text);
    free(r->prompts);
    free(r->stops);
    free(r->cache_salt);
    free(r->logits.bias);
    free(r->stop_ids);
    free(r->grammar);
    free(r);
    return NULL;
}

/* --- one step ------------------------------------------------------------------------------------------------- */

static bool end(em_engine *e, live *l, em_finish finish, int32_t n_more)
{
    for (int32_t c = 0; c < l->n_choices; c++)
        send(l, c, n_more, finish, c == l->n_choices - 1);
    pthread_mutex_lock(&e->lock);
    uint64_t *n = finish == EM_FINISH_CANCEL  ? &e->stats.requests_cancelled
                  : finish == EM_FINISH_ERROR ? &e->stats.requests_failed
                                              : &e->stats.requests_ok;
    ++*n;
    uint64_t step = e->stats.steps;
    pthread_mutex_unlock(&e->lock);
    dprintf(STDERR_FILENO, "stub: end %s finish=%d tokens=%d step=%" PRIu64 "\n", l->req->id, (int)finish,
            l->made + n_more, step);
    return true;
}

/* True when the request has ended. */
static bool advance(em_engine *e, live *l, bool cancelled)
{
    int32_t kind = l->req->prompts[0].ids[0], left = l->req->max_tokens - l->made;
    if (cancelled)
        return end(e, l, EM_FINISH_CANCEL, 0);
    if (l->req->deadline_ns && em_now_ns() > l->req->deadline_ns)
        return end(e, l, EM_FINISH_TIMEOUT, 0);
    if (kind == PROMPT_STALL)
        return false;
    if (kind == PROMPT_FAIL && l->made == 3)
        return end(e, l, EM_FINISH_ERROR, 0);
    if (kind == PROMPT_FREEZE && l->made == 1)
        sleep_us(e->freeze_ms * 1000);
    int32_t n = kind == PROMPT_BURST ? 1000 : 1;
    if (left <= n)
        return end(e, l, EM_FINISH_LENGTH, left);
    for (int32_t c = 0; c < l->n_choices; c++)
        send(l, c, n, EM_FINISH_NONE, false);
    l->made += n;
    if (l->sink.on_step_end)
        l->sink.on_step_end(l->sink.ctx);
    return false;
}

static int32_t count(const em_engine *e, bool running)
{
    int32_t n = 0;
    for (const live *l = e->head; l; l = l->next)
        if (l->running == running)
            n++;
    return n;
}

static void admit(em_engine *e)
{
    int32_t running = count(e, true);
    for (live *l = e->head; l; l = l->next)
        if (!l->running && running < e->max_seqs) {
            l->running = true;
            running++;
        }
}

/* Submit adds at the end of the list, only this thread removes; `next` is read under the lock. */
static void step(em_engine *e)
{
    pthread_mutex_lock(&e->lock);
    admit(e);
    e->stats.steps++;
    e->stats.heartbeat_ns = em_now_ns();
    for (live **at = &e->head; *at;) {
        live *l = *at;
        bool cancelled = l->cancelled || e->closing, stopped = l->n_stopped == l->n_choices, ended = false;
        if (l->running || cancelled) {
            pthread_mutex_unlock(&e->lock);
            ended = stopped && !cancelled ? end(e, l, EM_FINISH_STOP, 0) : advance(e, l, cancelled);
            pthread_mutex_lock(&e->lock);
        }
        if (!ended) {
            at = &l->next;
            continue;
        }
        *at = l->next;
        em_request_free(l->req);
        free(l);
    }
    pthread_mutex_unlock(&e->lock);
}

static void *run(void *arg)
{
    em_engine *e = arg;
    for (bool closing = false; !closing;) {
        pthread_mutex_lock(&e->lock);
        closing = e->closing;
        pthread_mutex_unlock(&e->lock);
        step(e);
        sleep_us(e->step_us);
    }
    return NULL;
}

/* --- the door ------------------------------------------------------------------------------------------------- */

static int load(const em_engine_opts *opts, em_error *err)
{
    long ms = script_value(opts->model_dir, "load_ms", 0);
    for (long i = 0; i < 10; i++) {
        if (opts->on_progress)
            opts->on_progress(opts->progress_ctx, i < 5 ? "weights" : "tables", (double)i / 10);
        sleep_us(ms * 100);
    }
    if (script_value(opts->model_dir, "fail_load", 0))
        return em_error_set(err, -EINVAL, "the stub was told not to load.");
    return 0;
}

int em_engine_open(const em_engine_opts *opts, em_engine **ret_engine, em_error *err)
{
    int r = load(opts, err);
    em_engine *e = r < 0 ? NULL : calloc(1, sizeof(*e));
    if (!e)
        return r < 0 ? r : -ENOMEM;
    pthread_mutex_init(&e->lock, NULL);
    e->max_seqs = opts->max_seqs;
    e->max_queue = opts->max_queue;
    e->max_len = opts->max_len ? opts->max_len : 1 << 20;
    e->step_us = script_value(opts->model_dir, "step_us", 1000);
    e->freeze_ms = script_value(opts->model_dir, "freeze_ms", 3000);
    e->stats.heartbeat_ns = em_now_ns();
    if (pthread_create(&e->thread, NULL, run, e)) {
        free(e);
        return -EAGAIN;
    }
    *ret_engine = e;
    return 0;
}

em_engine *em_engine_close(em_engine *e)
{
    if (!e)
        return NULL;
    pthread_mutex_lock(&e->lock);
    e->closing = true;
    pthread_mutex_unlock(&e->lock);
    pthread_join(e->thread, NULL);
    pthread_mutex_destroy(&e->lock);
    free(e);
    return NULL;
}

void em_engine_get_info(const em_engine *e, em_engine_info *ret_info)
{
    *ret_info = (em_engine_info){.vocab_size = VOCAB,
                                 .max_len = e->max_len,
                                 .bos_id = 0,
                                 .eos_id = 1,
                                 .has_tokenizer = true,
                                 .add_bos = true,
                                 .backend = "stub",
                                 .n_threads = 1,
                                 .max_seqs = e->max_seqs,
                                 .max_batch_tokens = 512,
                                 .engram_tier = "none"};
}

int em_engine_tokenize(const em_engine *e, const char *text, size_t len, bool special, size_t max_ids, em_ids *ids)
{
    for (size_t i = 0; i < len; i++) { /* bytes are the ids from 2 on */
        if (max_ids && i >= max_ids)
            return -E2BIG;
        if (em_ids_push(ids, 2 + (uint8_t)text[i]) < 0)
            return -ENOMEM;
    }
    return 0;
}

const uint8_t *em_engine_token_bytes(const em_engine *e, int32_t id, size_t *ret_len)
{
    static __thread char text[16];
    *ret_len = (size_t)snprintf(text, sizeof(text), "t%d ", id);
    return (const uint8_t *)text;
}

bool em_engine_token_is_special(const em_engine *e, int32_t id)
{
    return id < 2;
}

int em_engine_engram_text(const em_engine *e, int32_t id, em_buf *out)
{
    return em_buf_printf(out, "t%d", id);
}

static void tell_begin(const em_request *r)
{
    if (r->client[0] || r->priority || r->cache_salt_len)
        dprintf(STDERR_FILENO, "stub: request %s client=%s priority=%d salt=%.*s\n", r->id, r->client, (int)r->priority,
                (int)r->cache_salt_len, r->cache_salt ? r->cache_salt : "");
    dprintf(STDERR_FILENO, "stub: begin %s\n", r->id);
}

int em_engine_submit(em_engine *e, em_request *r, em_sink sink, uint64_t *ret_id, em_error *err)
{
    live *l = calloc(1, sizeof(*l));
    if (!l)
        return -ENOMEM;
    *l = (live){.req = r, .sink = sink, .n_choices = r->n_prompts * r->n};
    pthread_mutex_lock(&e->lock);
    int result = e->draining || e->closing ? -ESHUTDOWN : count(e, false) >= e->max_queue ? -EBUSY : 0;
    live **tail = &e->head;
    while (*tail)
        tail = &(*tail)->next;
    if (result == 0) {
        tell_begin(r);
        l->id = *ret_id = ++e->next_id;
        *tail = l;
    }
    pthread_mutex_unlock(&e->lock);
    if (result < 0)
        free(l);
    return result;
}

void em_engine_cancel(em_engine *e, uint64_t id)
{
    pthread_mutex_lock(&e->lock);
    for (live *l = e->head; l; l = l->next)
        if (l->id == id)
            l->cancelled = true;
    pthread_mutex_unlock(&e->lock);
}

/* Each choice is stopped once at most. */
void em_engine_stop_choice(em_engine *e, uint64_t id, int32_t choice)
{
    (void)choice;
    pthread_mutex_lock(&e->lock);
    for (live *l = e->head; l; l = l->next)
        l->n_stopped += l->id == id;
    pthread_mutex_unlock(&e->lock);
}

/* Each request takes a second. */
int32_t em_engine_retry_after_s(em_engine *e)
{
    pthread_mutex_lock(&e->lock);
    int32_t waiting = count(e, false);
    pthread_mutex_unlock(&e->lock);
    return 1 + waiting;
}

void em_engine_drain(em_engine *e)
{
    pthread_mutex_lock(&e->lock);
    e->draining = true;
    pthread_mutex_unlock(&e->lock);
}

uint64_t em_engine_heartbeat_ns(em_engine *e)
{
    pthread_mutex_lock(&e->lock);
    uint64_t t = e->stats.heartbeat_ns;
    pthread_mutex_unlock(&e->lock);
    return t;
}

void em_engine_get_engram_stats(em_engine *e, em_engram_stats *ret_stats)
{
    *ret_stats = (em_engram_stats){0};
}

void em_engine_get_stats(em_engine *e, em_engine_stats *ret_stats)
{
    pthread_mutex_lock(&e->lock);
    *ret_stats = e->stats;
    ret_stats->running = count(e, true);
    ret_stats->waiting = count(e, false);
    pthread_mutex_unlock(&e->lock);
}
