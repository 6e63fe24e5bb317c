/* The walk over a trie, and the table of sets behind it. */
#include "engine/grammar/walker.h"

#include <string.h>

enum {
    MAX_SETS = 8192,             /* remembered from one walk to the next */
    MAX_SETS_ON_THE_WAY = 16384, /* in one walk; then all but those on the path are forgotten */
    ROW = 256,
    COST_OF_READING = 32, /* steps */
};

static bool set_equal(const void *ctx, uint32_t element, const void *key)
{
    const em_walker *w = ctx;
    const em_readings *k = key;
    const em_reading_set *s = &w->sets[element];
    return s->n == k->n && (!s->n || !memcmp(w->pool + s->at, k->v, k->n * sizeof(*k->v)));
}

static uint64_t hash_of(const em_reading *v, uint32_t n)
{
    uint64_t h = n;
    for (uint32_t i = 0; i < n; i++)
        h = em_gr_mix(em_gr_mix(h, v[i].state | (uint64_t)v[i].stack << 32), v[i].need | (uint64_t)v[i].rem << 32);
    return h;
}

static uint64_t set_hash(const void *ctx, uint32_t element)
{
    const em_walker *w = ctx;
    return hash_of(w->pool + w->sets[element].at, w->sets[element].n);
}

static void describe(const em_walker *w, const em_reading *v, uint32_t n, em_reading_set *s)
{
    const em_automaton *a = w->a;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t depth = w->stacks.frames[v[i].stack].depth + a->height[v[i].state];
        s->reach = depth > s->reach ? depth : s->reach;
        s->ends |= !v[i].stack && em_reading_ends(a, v[i]);
        s->goes_on |= em_reading_goes_on(a, v[i]);
        s->takes_plain |= a->plain[v[i].state] == v[i].state && v[i].rem >= EM_VOCAB_PLAIN_CHARS;
    }
}

/* The number of a set, new or known. */
static int set_number(em_walker *w, const em_readings *set, uint32_t *ret_set)
{
    uint64_t hash = hash_of(set->v, set->n);
    uint32_t found = em_gr_index_find(&w->index, hash, w, set_equal, set);
    if (found != UINT32_MAX) {
        *ret_set = found;
        return 0;
    }
    if (em_gr_grow(&w->sets, &w->cap_sets, (size_t)w->n_sets + 1, sizeof(*w->sets)) ||
        em_gr_grow(&w->rows, &w->cap_rows, (size_t)w->n_sets + 1, ROW * sizeof(*w->rows)) ||
        em_gr_grow(&w->pool, &w->cap_pool, (size_t)w->n_pool + set->n, sizeof(*w->pool)))
        return -ENOMEM;
    em_reading_set s = {.at = w->n_pool, .n = set->n};
    describe(w, set->v, set->n, &s);
    if (set->n)
        memcpy(w->pool + w->n_pool, set->v, set->n * sizeof(*set->v));
    w->n_pool += set->n;
    w->sets[w->n_sets] = s;
    memset(w->rows + (size_t)w->n_sets * ROW, 0xff, ROW * sizeof(*w->rows));
    if (em_gr_index_add(&w->index, hash, w->n_sets, w, set_hash))
        return -ENOMEM;
    *ret_set = w->n_sets++;
    return 0;
}

static int forget(em_walker *w)
{
    uint32_t empty;
    w->n_sets = w->n_pool = 0;
    w->index.n = 0;
    if (w->index.cap)
        memset(w->index.slot, 0, w->index.cap * sizeof(*w->index.slot));
    em_stacks_clear(&w->stacks);
    w->scratch.n = 0;
    return set_number(w, &w->scratch, &empty);
}

int em_walker_init(em_walker *w, const em_automaton *a, const em_grammar_vocab *vocab)
{
    *w = (em_walker){.a = a, .vocab = vocab, .max_depth = EM_READINGS_NO_LIMIT};
    int rc = em_stacks_init(&w->stacks, a);
    if (!rc)
        rc = forget(w);
    if (rc)
        em_walker_done(w);
    return rc;
}

void em_walker_done(em_walker *w)
{
    em_stacks_done(&w->stacks);
    free(w->pool);
    free(w->sets);
    free(w->rows);
    free(w->index.slot);
    free(w->scratch.v);
    *w = (em_walker){0};
}

int em_walker_begin(em_walker *w, uint32_t max_depth)
{
    w->n_walks++;
    if (w->n_sets <= MAX_SETS && w->max_depth == max_depth)
        return 0;
    w->max_depth = max_depth;
    return forget(w);
}

int em_walker_trim(em_walker *w)
{
    const em_automaton *a = w->a;
    const em_grammar_vocab *vocab = w->vocab;
    em_walker_done(w);
    return em_walker_init(w, a, vocab);
}

int em_walker_set(em_walker *w, em_reading r, bool closed, uint32_t *ret_set)
{
    em_readings one = {.v = &r, .n = 1};
    if (!closed)
        return set_number(w, &one, ret_set);
    w->scratch.n = 0;
    int rc = em_readings_add(&w->scratch, &w->stacks, r, w->max_depth);
    return rc ? rc : set_number(w, &w->scratch, ret_set);
}

/* The set after a byte that is not in the table yet. */
static int new_step(em_walker *w, uint32_t set, uint8_t byte, uint32_t *ret_set)
{
    uint32_t n = w->sets[set].n;
    int rc = em_readings_step(&w->stacks, w->pool + w->sets[set].at, n, byte, w->max_depth, &w->scratch);
    if (!rc)
        rc = set_number(w, &w->scratch, ret_set);
    if (!rc)
        w->rows[(size_t)set * ROW + byte] = *ret_set;
    return rc;
}

/* Copies set `number` of another walker, stacks and all. */
static int import_set(em_walker *w, const em_walker *from, uint32_t number, uint32_t *ret_set)
{
    const em_reading_set *s = &from->sets[number];
    int rc = 0;
    w->scratch.n = 0;
    if (em_gr_grow(&w->scratch.v, &w->scratch.cap, s->n, sizeof(em_reading)))
        return -ENOMEM;
    for (uint32_t i = 0; i < s->n && !rc; i++) {
        em_reading r = from->pool[s->at + i];
        rc = em_stacks_import(&w->stacks, &from->stacks, r.stack, &r.stack);
        w->scratch.v[w->scratch.n++] = r;
    }
    return rc ? rc : set_number(w, &w->scratch, ret_set);
}

/* In the middle of a walk: forgets all sets but those of path[from..to]. */
static int forget_but(em_walker *w, uint32_t *path, uint32_t from, uint32_t to)
{
    em_walker fresh;
    int rc = em_walker_init(&fresh, w->a, w->vocab);
    if (rc)
        return rc;
    fresh.max_depth = w->max_depth;
    for (uint32_t i = from; i <= to && !rc; i++)
        rc = import_set(&fresh, w, path[i], &path[i]);
    em_walker old = rc ? fresh : *w;
    if (!rc)
        *w = fresh;
    em_walker_done(&old);
    return rc;
}

static int add_ids(em_walk *out, const em_grammar_vocab *v, uint32_t from, uint32_t to)
{
    if (em_gr_grow(&out->ids.v, &out->ids.cap, (size_t)out->ids.n + (to - from), sizeof(uint32_t)))
        return -ENOMEM;
    memcpy(out->ids.v + out->ids.n, v->order + from, (size_t)(to - from) * sizeof(uint32_t));
    out->ids.n += to - from;
    return 0;
}

/* Node i led to `set`: notes what that means. *ret_next: the node to look at next. */
static int arrive(const em_walker *w, uint32_t i, const em_reading_set *set, em_walk *out, uint32_t *ret_next)
{
    const em_grammar_vocab *v = w->vocab;
    out->reach = set->reach > out->reach ? set->reach : out->reach;
    bool group = set->takes_plain && i < v->n_plain && v->whole[i];
    uint32_t last = group ? v->rank[v->end[i]] : v->rank[i + 1];
    *ret_next = group || !set->goes_on ? v->end[i] : i + 1;
    if (set->ends && !group && v->end[i] > i + 1) {
        int rc = em_gr_push(&out->exits, i);
        if (rc)
            return rc;
    }
    return last > v->rank[i] ? add_ids(out, v, v->rank[i], last) : 0;
}

int em_walker_walk(em_walker *w, uint32_t from, uint32_t to, uint32_t depth, uint32_t start, em_walk *out)
{
    const em_grammar_vocab *v = w->vocab;
    uint32_t path[EM_GRAMMAR_MAX_TOKEN_BYTES + 1];
    int rc = 0;
    path[depth] = start;
    for (uint32_t i = from, next; i < to && !rc; i = next) {
        uint32_t at = path[v->depth[i]], set = w->rows[(size_t)at * ROW + v->byte[i]];
        if (++out->steps > out->max_steps)
            return -E2BIG;
        if (set == UINT32_MAX) {
            if (w->n_sets >= MAX_SETS_ON_THE_WAY)
                rc = forget_but(w, path, depth, v->depth[i]);
            if (!rc)
                rc = new_step(w, path[v->depth[i]], v->byte[i], &set);
            if (rc)
                break;
        }
        if (!set) {
            next = v->end[i];
            continue;
        }
        path[v->depth[i] + 1] = set;
        if (w->sets[set].walk != w->n_walks) {
            w->sets[set].walk = w->n_walks;
            out->steps += COST_OF_READING * (uint64_t)w->sets[set].n;
        }
        rc = arrive(w, i, &w->sets[set], out, &next);
    }
    return rc;
}
