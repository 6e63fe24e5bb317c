/* Parts of masks: made, kept, put together. */
#include "engine/grammar/masks.h"

#include <string.h>

/* More ids than these are kept as bits. */
#define MAX_LISTED 4000u
#define PREPARE_STEPS UINT64_C(12000000)

static bool key_equal(const void *ctx, uint32_t element, const void *key)
{
    return !memcmp(&((const em_masks *)ctx)->parts[element].key, key, sizeof(em_mask_key));
}

static uint64_t key_hash_of(const em_mask_key *k)
{
    uint64_t h = em_gr_mix(em_gr_mix(0, k->above), k->state);
    return em_gr_mix(em_gr_mix(em_gr_mix(h, k->need), k->rem), k->slack);
}

static uint64_t key_hash(const void *ctx, uint32_t element)
{
    return key_hash_of(&((const em_masks *)ctx)->parts[element].key);
}

int em_masks_init(em_masks *m, const em_automaton *a, const em_grammar_vocab *vocab, const em_grammar_limits *lim)
{
    *m = (em_masks){.a = a, .vocab = vocab, .max_bytes = lim->cache_bytes, .max_steps = lim->mask_steps};
    return em_walker_init(&m->walker, a, vocab);
}

static void forget(em_masks *m)
{
    for (uint32_t i = 0; i < m->n; i++) {
        free(m->parts[i].ids);
        free(m->parts[i].words);
        free(m->parts[i].exits);
    }
    m->n = 0;
    m->bytes = 0;
    m->index.n = 0;
    if (m->index.cap)
        memset(m->index.slot, 0, m->index.cap * sizeof(*m->index.slot));
}

void em_masks_done(em_masks *m)
{
    forget(m);
    free(m->parts);
    free(m->index.slot);
    em_walker_done(&m->walker);
    *m = (em_masks){0};
}

/* --- making a part ------------------------------------------------------------------------------------------ */

/* How many plain characters are taken from a reading, whichever they are. */
static uint32_t plain_prefix(const em_automaton *a, const em_mask_key *k, uint32_t *reach)
{
    uint32_t state = k->state, n = 0, most = EM_VOCAB_PLAIN_CHARS;
    if (a->flags[state] & EM_AU_CHARACTER)
        return k->rem < most ? k->rem : most;
    while (n < most && (state = a->plain[state]) != EM_AU_NONE && a->height[state] <= k->slack) {
        *reach = a->height[state] > *reach ? a->height[state] : *reach;
        n++;
    }
    return n;
}

/* Is there nothing more to find among the plain tokens, given that those of so many characters are allowed? */
static bool plain_is_all(const em_automaton *a, const em_mask_key *k, uint32_t plain)
{
    return plain == EM_VOCAB_PLAIN_CHARS || ((a->flags[k->state] & EM_AU_CHARACTER) && plain == k->rem);
}

static int walk_first(em_masks *m, const em_mask_key *k, em_mask_part *part, em_walk *walk)
{
    const em_grammar_vocab *v = m->vocab;
    uint32_t start;
    int rc = em_walker_set(&m->walker, (em_reading){k->state, 0, k->need, k->rem}, false, &start);
    part->plain = plain_prefix(m->a, k, &walk->reach);
    if (!rc && !plain_is_all(m->a, k, part->plain))
        rc = em_walker_walk(&m->walker, 0, v->n_plain, 0, start, walk);
    /* the walk may have made the walker forget */
    if (!rc)
        rc = em_walker_set(&m->walker, (em_reading){k->state, 0, k->need, k->rem}, false, &start);
    return rc ? rc : em_walker_walk(&m->walker, v->n_plain, v->n_nodes, 0, start, walk);
}

/* Goes on behind the exits of the part above, in the state that is returned to. */
static int walk_next(em_masks *m, const em_mask_key *k, em_walk *walk)
{
    const em_grammar_vocab *v = m->vocab;
    const em_mask_part *above = &m->parts[k->above];
    int rc = 0;
    for (uint32_t i = 0; i < above->n_exits && !rc; i++) {
        uint32_t node = above->exits[i], start;
        rc = em_walker_set(&m->walker, (em_reading){k->state, 0, 0, EM_GR_NO_END}, true, &start);
        if (rc)
            break;
        const em_reading_set *set = &m->walker.sets[start];
        walk->reach = set->reach > walk->reach ? set->reach : walk->reach;
        if (set->ends)
            rc = em_gr_push(&walk->exits, node);
        if (!rc)
            rc = em_walker_walk(&m->walker, node + 1, v->end[node], v->depth[node] + 1u, start, walk);
    }
    return rc;
}

static int compare_u32(const void *x, const void *y)
{
    uint32_t a = *(const uint32_t *)x, b = *(const uint32_t *)y;
    return a < b ? -1 : a > b;
}

/* The exits of a part in the order of the trie, none twice: ways that met ended at the same node. */
static void tidy_exits(em_walk *walk)
{
    uint32_t n = 0;
    if (walk->exits.n > 1)
        qsort(walk->exits.v, walk->exits.n, sizeof(uint32_t), compare_u32);
    for (uint32_t i = 0; i < walk->exits.n; i++)
        if (!n || walk->exits.v[i] != walk->exits.v[n - 1])
            walk->exits.v[n++] = walk->exits.v[i];
    walk->exits.n = n;
}

/* Moves what the walk found into the part; *ret_bytes: what it takes. */
static int keep(em_masks *m, em_walk *walk, em_mask_part *part, uint64_t *ret_bytes)
{
    uint64_t bytes = sizeof(*part) + walk->exits.n * (uint64_t)sizeof(uint32_t);
    tidy_exits(walk);
    part->n_ids = walk->ids.n;
    part->n_exits = walk->exits.n;
    part->reach = walk->reach;
    if (walk->ids.n > MAX_LISTED) {
        part->words = calloc(m->vocab->n_words, sizeof(*part->words));
        if (!part->words)
            return -ENOMEM;
        for (uint32_t i = 0; i < walk->ids.n; i++)
            part->words[walk->ids.v[i] / 64] |= UINT64_C(1) << (walk->ids.v[i] % 64);
        bytes += m->vocab->n_words * (uint64_t)sizeof(uint64_t);
    } else if (walk->ids.n) {
        part->ids = malloc(walk->ids.n * sizeof(*part->ids));
        if (!part->ids)
            return -ENOMEM;
        memcpy(part->ids, walk->ids.v, walk->ids.n * sizeof(*part->ids));
        bytes += walk->ids.n * (uint64_t)sizeof(uint32_t);
    }
    if (walk->exits.n) {
        part->exits = malloc(walk->exits.n * sizeof(*part->exits));
        if (!part->exits)
            return -ENOMEM;
        memcpy(part->exits, walk->exits.v, walk->exits.n * sizeof(*part->exits));
    }
    *ret_bytes = bytes;
    return 0;
}

static int add_part(em_masks *m, const em_mask_key *key, em_walk *walk, em_mask_part *part)
{
    uint64_t bytes = 0;
    int rc = em_walker_begin(&m->walker, key->slack);
    if (!rc)
        rc = key->above == UINT32_MAX ? walk_first(m, key, part, walk) : walk_next(m, key, walk);
    if (!rc)
        rc = keep(m, walk, part, &bytes);
    if (!rc)
        rc = em_gr_grow(&m->parts, &m->cap, (size_t)m->n + 1, sizeof(*m->parts));
    if (rc)
        return rc;
    m->parts[m->n] = *part;
    rc = em_gr_index_add(&m->index, key_hash_of(key), m->n, m, key_hash);
    if (rc)
        return rc;
    m->bytes += bytes;
    m->n++;
    return 0;
}

/* The part of a key, kept or made. *steps (may be NULL) grows by what making it took. */
static int part_of(em_masks *m, const em_mask_key *key, uint64_t *steps, uint32_t *ret_part)
{
    uint32_t found = em_gr_index_find(&m->index, key_hash_of(key), m, key_equal, key);
    if (found != UINT32_MAX) {
        *ret_part = found;
        return 0;
    }
    em_walk walk = {.max_steps = m->max_steps};
    em_mask_part part = {.key = *key};
    int rc = add_part(m, key, &walk, &part);
    free(walk.ids.v);
    free(walk.exits.v);
    if (steps)
        *steps += walk.steps;
    if (rc) {
        free(part.ids);
        free(part.words);
        free(part.exits);
        return rc;
    }
    *ret_part = m->n - 1;
    return 0;
}

/* --- putting together --------------------------------------------------------------------------------------- */

static void add_part_to(const em_masks *m, const em_mask_part *p, uint64_t *mask)
{
    const uint64_t *plain = p->plain ? em_vocab_plain_mask(m->vocab, p->plain) : NULL;
    for (uint32_t i = 0; plain && i < m->vocab->n_words; i++)
        mask[i] |= plain[i];
    for (uint32_t i = 0; p->words && i < m->vocab->n_words; i++)
        mask[i] |= p->words[i];
    for (uint32_t i = 0; p->ids && i < p->n_ids; i++)
        mask[p->ids[i] / 64] |= UINT64_C(1) << (p->ids[i] % 64);
}

/* A token takes away no more characters than these; beyond, counts are alike. */
static uint32_t most_characters(const em_masks *m)
{
    return m->vocab->max_bytes > EM_VOCAB_PLAIN_CHARS ? m->vocab->max_bytes : EM_VOCAB_PLAIN_CHARS;
}

static em_mask_key first_key(const em_masks *m, em_reading r)
{
    uint32_t most = most_characters(m);
    return (em_mask_key){.above = UINT32_MAX,
                         .state = r.state,
                         .need = r.need < most ? r.need : most,
                         .rem = r.rem < most ? r.rem : EM_GR_NO_END,
                         .slack = EM_READINGS_NO_LIMIT};
}

/* The part of a key at a depth of the stack: where its tokens might go too deep, one of those that do not. */
static int part_at(em_masks *m, em_mask_key key, uint32_t depth, uint32_t *ret_part)
{
    uint32_t part = 0;
    int rc = part_of(m, &key, NULL, &part);
    if (!rc && key.slack == EM_READINGS_NO_LIMIT && depth + m->parts[part].reach > m->a->max_stack) {
        key.slack = m->a->max_stack - depth;
        rc = part_of(m, &key, NULL, &part);
    }
    if (!rc)
        *ret_part = part;
    return rc;
}

int em_masks_add(em_masks *m, const em_stacks *stacks, em_reading r, uint64_t *mask)
{
    if (!em_reading_goes_on(m->a, r))
        return 0;
    if (m->bytes > m->max_bytes)
        forget(m);
    uint32_t part, frame = r.stack;
    int rc = part_at(m, first_key(m, r), stacks->frames[frame].depth, &part);
    while (!rc) {
        add_part_to(m, &m->parts[part], mask);
        if (!m->parts[part].n_exits || !frame)
            break;
        em_frame f = stacks->frames[frame];
        em_mask_key key = {.above = part, .state = f.ret, .rem = EM_GR_NO_END, .slack = EM_READINGS_NO_LIMIT};
        frame = f.below;
        rc = part_at(m, key, stacks->frames[frame].depth, &part);
    }
    return rc;
}

/* --- in advance --------------------------------------------------------------------------------------------- */

typedef struct preparation {
    em_masks *m;
    uint64_t steps;
    em_gr_u32s *returns; /* [n_rules] states that calls of a rule return to */
} preparation;

static bool enough(const preparation *p)
{
    return p->steps > PREPARE_STEPS || p->m->bytes > p->m->max_bytes / 2;
}

/* The first part of a state, and the second for every place it may return to. */
static int prepare_state(preparation *p, uint32_t state, uint32_t need, uint32_t rem)
{
    uint32_t part, next;
    em_mask_key key = first_key(p->m, (em_reading){state, 0, need, rem});
    int rc = part_of(p->m, &key, &p->steps, &part);
    const em_gr_u32s *rets = &p->returns[p->m->a->rule_of[state]];
    for (uint32_t i = 0; !rc && i < rets->n && p->m->parts[part].n_exits && !enough(p); i++) {
        key = (em_mask_key){.above = part, .state = rets->v[i], .rem = EM_GR_NO_END, .slack = EM_READINGS_NO_LIMIT};
        rc = part_of(p->m, &key, &p->steps, &next);
        p->steps += 100;
    }
    p->steps += 100;
    return rc;
}

/* Strings near the end of their length, for every length that the grammar has. */
static int prepare_counts(preparation *p)
{
    const em_automaton *a = p->m->a;
    int rc = 0;
    uint32_t most_rem = 0, most_need = 0, most = most_characters(p->m), state = EM_AU_NONE;
    for (uint32_t i = 0; i < a->n_callees; i++) {
        uint32_t rem = a->callees[i].rem == EM_GR_NO_END ? 0 : a->callees[i].rem, need = a->callees[i].need;
        most_rem = rem > most_rem ? rem : most_rem;
        most_need = need > most_need ? need : most_need;
    }
    for (uint32_t s = 0; s < a->n && (most_rem || most_need); s++)
        if (a->flags[s] & EM_AU_CHARACTER)
            state = s;
    for (uint32_t r = 0; state != EM_AU_NONE && r <= most_rem && r < most && !rc && !enough(p); r++)
        rc = prepare_state(p, state, 0, r);
    for (uint32_t n = 1; state != EM_AU_NONE && n <= most_need && n < most && !rc && !enough(p); n++)
        rc = prepare_state(p, state, n, EM_GR_NO_END);
    return rc;
}

static uint32_t rule_called(const em_automaton *a, uint32_t call)
{
    return a->rule_of[a->callees[a->calls[call].callee].start];
}

static int collect_returns(preparation *p)
{
    const em_automaton *a = p->m->a;
    int rc = 0;
    for (uint32_t i = 0; i < a->call_at[a->n] && !rc; i++)
        if (a->calls[i].callee != EM_DFA_FORK && !(a->flags[a->calls[i].ret] & EM_AU_TAIL))
            rc = em_gr_push(&p->returns[rule_called(a, i)], a->calls[i].ret);
    for (uint32_t r = 0; r < a->n_rules && !rc; r++) {
        em_gr_u32s *rets = &p->returns[r];
        uint32_t n = 0;
        if (rets->n > 1)
            qsort(rets->v, rets->n, sizeof(uint32_t), compare_u32);
        for (uint32_t i = 0; i < rets->n; i++)
            if (!n || rets->v[i] != rets->v[n - 1])
                rets->v[n++] = rets->v[i];
        rets->n = n;
    }
    return rc;
}

int em_masks_prepare(em_masks *m)
{
    const em_automaton *a = m->a;
    preparation p = {.m = m, .returns = calloc((size_t)a->n_rules + 1, sizeof(*p.returns))};
    int rc = p.returns ? collect_returns(&p) : -ENOMEM;
    for (uint32_t s = 0; s < a->n && !rc && !enough(&p); s++)
        if (a->range_at[s] < a->range_at[s + 1] && a->cost[s] != EM_AU_NONE)
            rc = prepare_state(&p, s, 0, EM_GR_NO_END);
    if (!rc)
        rc = prepare_counts(&p);
    for (uint32_t r = 0; p.returns && r < a->n_rules; r++)
        free(p.returns[r].v);
    free(p.returns);
    return rc ? rc : em_walker_trim(&m->walker);
}
