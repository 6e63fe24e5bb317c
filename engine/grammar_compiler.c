/* Orders stand in two lists: those that wait, in order of arrival, and those that are ready, the latest used first. A
 * ready order that nobody holds stays while there is room. */
#include "engine/grammar_compiler.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "engine/base/clock.h"

#define NICENESS 10 /* compiling yields to the threads of a step */

/* Shortest answers beyond this many tokens are not counted: no context is that long. */
#define MAX_SHORTEST (1u << 20)

struct em_grammar_order {
    em_grammar_compiler *compiler;
    em_grammar_order *prev, *next; /* in its list */
    int32_t n_refs;                /* holders; the compiling thread is one while it works on it */
    em_grammar_source *source;
    uint64_t bytes; /* when it was last measured */

    atomic_bool ready; /* what follows is set before, and then stays */
    em_grammar *grammar;
    em_error err;
    bool transient; /* failed for want of memory: it may go well the next time */
    uint32_t shortest;
};

typedef struct order_list {
    em_grammar_order *head, *tail;
    int32_t n;
} order_list;

struct em_grammar_compiler {
    const em_grammar_vocab *vocab;
    void (*on_done)(void *ctx);
    void *ctx;
    pthread_t thread;

    pthread_mutex_t lock; /* of all that follows, and of each order's list, n_refs and bytes */
    pthread_cond_t changed;
    bool closing;
    order_list waiting, ready;
    em_grammar_order *working; /* on it now, in no list */
    uint64_t ready_bytes;
    em_grammar_stats stats;
};

/* --- lists, under the lock ---------------------------------------------------------------------------------- */

static void list_remove(order_list *l, em_grammar_order *o)
{
    *(o->prev ? &o->prev->next : &l->head) = o->next;
    *(o->next ? &o->next->prev : &l->tail) = o->prev;
    o->prev = o->next = NULL;
    l->n--;
}

static void list_push_front(order_list *l, em_grammar_order *o)
{
    o->next = l->head;
    *(l->head ? &l->head->prev : &l->tail) = o;
    l->head = o;
    l->n++;
}

static void list_push_back(order_list *l, em_grammar_order *o)
{
    o->prev = l->tail;
    *(l->tail ? &l->tail->next : &l->head) = o;
    l->tail = o;
    l->n++;
}

static void order_free(em_grammar_order *o)
{
    em_grammar_unref(o->grammar);
    free(o->source);
    free(o);
}

/* Masks are added to a grammar while it is used. */
static void measure(em_grammar_compiler *c, em_grammar_order *o)
{
    em_grammar_info info = {0};
    if (o->grammar)
        em_grammar_get_info(o->grammar, &info);
    c->ready_bytes -= o->bytes;
    o->bytes = sizeof(*o) + o->source->len + info.table_bytes + info.mask_bytes;
    c->ready_bytes += o->bytes;
}

static bool has_room(const em_grammar_compiler *c)
{
    return c->ready.n <= EM_COMPILER_MAX_KEPT && c->ready_bytes <= EM_COMPILER_MAX_KEPT_BYTES;
}

/* Takes out what nobody holds, the longest unused first; linked by next. */
static em_grammar_order *make_room(em_grammar_compiler *c)
{
    em_grammar_order *out = NULL;
    for (em_grammar_order *o = c->ready.tail, *before; o && !has_room(c); o = before) {
        before = o->prev;
        if (o->n_refs)
            continue;
        list_remove(&c->ready, o);
        c->ready_bytes -= o->bytes;
        o->next = out;
        out = o;
    }
    return out;
}

static em_grammar_order *find(const em_grammar_compiler *c, const em_grammar_source *source)
{
    if (c->working && em_grammar_source_equal(c->working->source, source))
        return c->working;
    for (em_grammar_order *o = c->ready.head; o; o = o->next)
        if (!o->transient && em_grammar_source_equal(o->source, source))
            return o;
    for (em_grammar_order *o = c->waiting.head; o; o = o->next)
        if (em_grammar_source_equal(o->source, source))
            return o;
    return NULL;
}

/* --- the compiling thread ----------------------------------------------------------------------------------- */

/* Tokens of the shortest answer. */
static uint32_t count_shortest(em_grammar *g)
{
    em_grammar_state *s;
    uint32_t n = UINT32_MAX;
    if (em_grammar_state_new(g, 0, &s))
        return n;
    uint32_t n_bytes = em_grammar_state_min_bytes(s), cap = n_bytes < MAX_SHORTEST ? n_bytes : MAX_SHORTEST;
    uint32_t *ids = malloc(((size_t)cap + 1) * sizeof(*ids));
    if (!ids || em_grammar_state_completion(s, ids, cap, &n))
        n = UINT32_MAX;
    free(ids);
    em_grammar_state_free(s);
    return n;
}

static void compile(em_grammar_compiler *c, em_grammar_order *o)
{
    em_grammar_limits limits = em_grammar_default_limits;
    limits.cache_bytes = EM_COMPILER_MAX_MASK_BYTES;
    int rc = em_grammar_compile(o->source, &limits, c->vocab, &o->grammar, &o->err);
    if (rc && !o->err.text[0])
        em_error_set(&o->err, rc, "the grammar could not be compiled: %s.", strerror(-rc));
    o->transient = rc == -ENOMEM;
    o->shortest = rc ? UINT32_MAX : count_shortest(o->grammar);
}

/* Under the lock. */
static void finish(em_grammar_compiler *c, em_grammar_order *o, uint64_t ns)
{
    c->stats.compile_ns += ns;
    c->stats.compiled += o->grammar != NULL;
    c->stats.failed += o->grammar == NULL;
    c->working = NULL;
    list_push_front(&c->ready, o);
    measure(c, o);
    atomic_store_explicit(&o->ready, true, memory_order_release);
    o->n_refs--;
}

/* Under the lock, which is open while things are freed: that may take long, and the step thread must not wait. */
static void give_up_some(em_grammar_compiler *c)
{
    em_grammar_order *out = make_room(c);
    if (!out)
        return;
    pthread_mutex_unlock(&c->lock);
    while (out) {
        em_grammar_order *o = out;
        out = o->next;
        order_free(o);
    }
    pthread_mutex_lock(&c->lock);
}

static void compile_next(em_grammar_compiler *c)
{
    em_grammar_order *o = c->waiting.head;
    list_remove(&c->waiting, o);
    o->n_refs++;
    c->working = o;
    pthread_mutex_unlock(&c->lock);
    uint64_t start_ns = em_now_ns();
    compile(c, o);
    uint64_t ns = em_now_ns() - start_ns;
    pthread_mutex_lock(&c->lock);
    finish(c, o, ns);
    pthread_mutex_unlock(&c->lock);
    c->on_done(c->ctx);
    pthread_mutex_lock(&c->lock);
}

static void *run(void *arg)
{
    em_grammar_compiler *c = arg;
    setpriority(PRIO_PROCESS, (id_t)gettid(), NICENESS); /* of this thread alone; failing is no loss */
    pthread_mutex_lock(&c->lock);
    while (!c->closing) {
        give_up_some(c); /* may open the lock: what waits is looked at afterwards */
        if (c->waiting.head)
            compile_next(c);
        else if (!c->closing)
            pthread_cond_wait(&c->changed, &c->lock);
    }
    pthread_mutex_unlock(&c->lock);
    return NULL;
}

/* --- opening ------------------------------------------------------------------------------------------------ */

/* Signals belong to the threads of the process's owner. */
static int start_thread(em_grammar_compiler *c)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(&c->thread, NULL, run, c);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return -rc;
}

int em_grammar_compiler_new(const em_grammar_vocab *vocab, void (*on_done)(void *ctx), void *ctx,
                            em_grammar_compiler **ret_compiler)
{
    em_grammar_compiler *c = calloc(1, sizeof(*c));
    if (!c)
        return -ENOMEM;
    c->vocab = vocab;
    c->on_done = on_done;
    c->ctx = ctx;
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->changed, NULL);
    int rc = start_thread(c);
    if (rc) {
        pthread_cond_destroy(&c->changed);
        pthread_mutex_destroy(&c->lock);
        free(c);
        return rc;
    }
    *ret_compiler = c;
    return 0;
}

static void free_all(order_list *l)
{
    while (l->head) {
        em_grammar_order *o = l->head;
        list_remove(l, o);
        order_free(o);
    }
}

em_grammar_compiler *em_grammar_compiler_free(em_grammar_compiler *c)
{
    if (!c)
        return NULL;
    pthread_mutex_lock(&c->lock);
    c->closing = true;
    pthread_cond_signal(&c->changed);
    pthread_mutex_unlock(&c->lock);
    pthread_join(c->thread, NULL);
    free_all(&c->waiting);
    free_all(&c->ready);
    pthread_cond_destroy(&c->changed);
    pthread_mutex_destroy(&c->lock);
    free(c);
    return NULL;
}

/* --- orders ------------------------------------------------------------------------------------------------- */

static em_grammar_order *order_new(em_grammar_compiler *c, const em_grammar_source *s)
{
    em_grammar_order *o = calloc(1, sizeof(*o));
    if (!o)
        return NULL;
    o->compiler = c;
    o->source = em_grammar_source_new(s->kind, s->text, s->len, s->after, s->after_len);
    atomic_init(&o->ready, false);
    if (o->source)
        return o;
    free(o);
    return NULL;
}

/* Under the lock: it is used now. */
static void touch(em_grammar_compiler *c, em_grammar_order *o)
{
    c->stats.found++;
    if (!atomic_load_explicit(&o->ready, memory_order_relaxed))
        return;
    list_remove(&c->ready, o);
    list_push_front(&c->ready, o);
}

int em_grammar_compiler_ask(em_grammar_compiler *c, const em_grammar_source *source, em_grammar_order **ret_order)
{
    int rc = 0;
    pthread_mutex_lock(&c->lock);
    c->stats.asked++;
    em_grammar_order *o = find(c, source);
    if (o) {
        touch(c, o);
    } else if (c->waiting.n >= EM_COMPILER_MAX_WAITING) {
        rc = -EBUSY;
    } else if ((o = order_new(c, source))) {
        list_push_back(&c->waiting, o);
        pthread_cond_signal(&c->changed);
    } else {
        rc = -ENOMEM;
    }
    if (!rc) {
        o->n_refs++;
        *ret_order = o;
    }
    pthread_mutex_unlock(&c->lock);
    return rc;
}

em_grammar_order *em_grammar_order_unref(em_grammar_order *o)
{
    if (!o)
        return NULL;
    em_grammar_compiler *c = o->compiler;
    pthread_mutex_lock(&c->lock);
    bool unused = --o->n_refs == 0, ready = atomic_load_explicit(&o->ready, memory_order_relaxed);
    if (ready) {
        measure(c, o);
        if (unused && !has_room(c))
            pthread_cond_signal(&c->changed);
    } else if (unused) {
        list_remove(&c->waiting, o);
        order_free(o);
    }
    pthread_mutex_unlock(&c->lock);
    return NULL;
}

bool em_grammar_order_ready(const em_grammar_order *o)
{
    return atomic_load_explicit(&o->ready, memory_order_acquire);
}

em_grammar *em_grammar_order_get(const em_grammar_order *o)
{
    return o->grammar;
}

const char *em_grammar_order_error(const em_grammar_order *o)
{
    return o->err.text;
}

uint32_t em_grammar_order_shortest(const em_grammar_order *o)
{
    return o->shortest;
}

void em_grammar_compiler_get_stats(em_grammar_compiler *c, em_grammar_stats *ret_stats)
{
    pthread_mutex_lock(&c->lock);
    *ret_stats = c->stats;
    ret_stats->waiting = c->waiting.n + (c->working != NULL);
    ret_stats->kept = c->ready.n;
    ret_stats->kept_bytes = c->ready_bytes;
    pthread_mutex_unlock(&c->lock);
}
