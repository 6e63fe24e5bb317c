/* Sets of characters as sorted ranges; a range becomes sequences of byte ranges. */
#include "engine/grammar/charset.h"

#include <string.h>

#include "engine/base/utf8.h"
#include "engine/grammar/dfa.h"

void em_charset_add(em_gr_build *b, em_charset *set, uint32_t lo, uint32_t hi)
{
    if (b->rc || lo > hi)
        return;
    if (set->n >= b->lim.nodes)
        em_gr_fail(b, -E2BIG, "A set of characters has more than %u ranges.", b->lim.nodes);
    else if (em_gr_grow(&set->r, &set->cap, (size_t)set->n + 1, sizeof(*set->r)))
        em_gr_no_memory(b);
    else
        set->r[set->n++] = (em_char_range){lo, hi};
}

void em_charset_add_set(em_gr_build *b, em_charset *set, const em_charset *more)
{
    for (uint32_t i = 0; i < more->n; i++)
        em_charset_add(b, set, more->r[i].lo, more->r[i].hi);
}

static int compare_ranges(const void *x, const void *y)
{
    const em_char_range *a = x, *b = y;
    if (a->lo != b->lo)
        return a->lo < b->lo ? -1 : 1;
    return a->hi < b->hi ? -1 : a->hi > b->hi;
}

/* Sorted, without overlap, neighbours joined. */
static void normalize(em_charset *set)
{
    if (set->n < 2)
        return;
    qsort(set->r, set->n, sizeof(*set->r), compare_ranges);
    uint32_t n = 1;
    for (uint32_t i = 1; i < set->n; i++) {
        em_char_range *last = &set->r[n - 1];
        if (set->r[i].lo > last->hi + 1)
            set->r[n++] = set->r[i];
        else if (set->r[i].hi > last->hi)
            last->hi = set->r[i].hi;
    }
    set->n = n;
}

void em_charset_negate(em_gr_build *b, em_charset *set)
{
    normalize(set);
    em_charset out = {0};
    uint32_t from = 0;
    for (uint32_t i = 0; i < set->n; i++) {
        if (set->r[i].lo > from)
            em_charset_add(b, &out, from, set->r[i].lo - 1);
        from = set->r[i].hi + 1;
    }
    em_charset_add(b, &out, from, EM_CHAR_LAST);
    em_charset_done(set);
    *set = out;
}

void em_charset_done(em_charset *set)
{
    free(set->r);
    *set = (em_charset){0};
}

/* Expressions that are alternatives of each other. */
typedef struct options {
    em_gr_build *b;
    em_gr_u32s x;
} options;

static void add_option(options *o, em_expr x)
{
    if (em_gr_push(&o->x, x))
        em_gr_no_memory(o->b);
}

/* lo and hi have encodings of the same length n and differ, from the byte where they first do, by whole blocks. */
static void add_bytes(options *o, uint32_t lo, uint32_t hi)
{
    uint8_t first[4], last[4];
    int n = em_utf8_encode(lo, first);
    em_utf8_encode(hi, last);
    em_expr seq[4];
    for (int i = 0; i < n; i++)
        seq[i] = em_ex_range(o->b, first[i], last[i]);
    add_option(o, em_ex_list(o->b, EM_EX_SEQ, seq, (size_t)n));
}

/* Cuts a range until the above holds. */
static void add_utf8(options *o, uint32_t lo, uint32_t hi)
{
    static const uint32_t ends[] = {0x7f, 0x7ff, 0xd7ff, 0xdfff, 0xffff};
    for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++) {
        if (lo <= ends[i] && hi > ends[i]) {
            add_utf8(o, lo, ends[i]);
            lo = ends[i] + 1;
        }
    }
    if ((lo >= 0xd800 && hi <= 0xdfff) || o->b->rc)
        return;
    for (int bits = 6; bits <= 18 && hi > 0x7f; bits += 6) {
        uint32_t low = (1u << bits) - 1;
        if ((lo & ~low) == (hi & ~low))
            break;
        if (lo & low) {
            add_utf8(o, lo, lo | low);
            add_utf8(o, (lo | low) + 1, hi);
            return;
        }
        if ((hi & low) != low) {
            add_utf8(o, lo, (hi & ~low) - 1);
            add_utf8(o, hi & ~low, hi);
            return;
        }
    }
    add_bytes(o, lo, hi);
}

/* What a JSON string cannot hold as it is. */
static bool needs_escape(uint32_t c)
{
    return c < 0x20 || c == '"' || c == '\\';
}

static em_expr escaped(em_gr_build *b, uint32_t c)
{
    char text = (char)c;
    em_buf out = {0};
    em_expr x = EM_EXPR_NEVER;
    if (em_buf_json_string(&out, &text, 1))
        em_gr_no_memory(b);
    else
        x = em_ex_text(b, out.data + 1, out.len - 2);
    em_buf_done(&out);
    return x;
}

static void add_json(options *o, uint32_t lo, uint32_t hi)
{
    for (uint32_t c = lo; c <= hi && c <= '\\'; c++)
        if (needs_escape(c))
            add_option(o, escaped(o->b, c));
    static const em_char_range plain[] = {{0x20, '!'}, {'#', '['}, {']', EM_CHAR_LAST}};
    for (size_t i = 0; i < sizeof(plain) / sizeof(plain[0]); i++) {
        uint32_t from = lo > plain[i].lo ? lo : plain[i].lo, to = hi < plain[i].hi ? hi : plain[i].hi;
        if (from <= to)
            add_utf8(o, from, to);
    }
}

static em_expr spell_set(em_gr_build *b, const em_charset *set, bool in_json)
{
    options o = {.b = b};
    for (uint32_t i = 0; i < set->n && em_gr_step(b, 1); i++) {
        if (in_json)
            add_json(&o, set->r[i].lo, set->r[i].hi);
        else
            add_utf8(&o, set->r[i].lo, set->r[i].hi);
    }
    em_expr x = em_ex_list(b, EM_EX_ALT, o.x.v, o.x.n);
    if (o.x.n > 2 && !b->rc) {
        /* one way for each byte, so that a place inside a character is one place and not one for each range */
        em_dfa dfa = {0};
        em_dfa_of_expr(b, x, false, &dfa);
        x = b->rc ? EM_EXPR_NEVER : em_dfa_expr(b, &dfa);
        em_dfa_done(&dfa);
    }
    free(o.x.v);
    return x;
}

em_expr em_charset_expr(em_gr_build *b, em_charset *set, bool in_json)
{
    normalize(set);
    for (uint32_t i = 0; i < b->n_known_sets; i++) {
        em_known_set *k = &b->known_sets[i];
        if (k->n == set->n && k->in_json == in_json && set->n && !memcmp(k->r, set->r, set->n * sizeof(*set->r)))
            return k->expr;
    }
    em_expr x = spell_set(b, set, in_json);
    if (b->n_known_sets == EM_GR_KNOWN_SETS || set->n < 2 || b->rc)
        return x;
    em_char_range *copy = malloc(set->n * sizeof(*copy));
    if (copy) {
        memcpy(copy, set->r, set->n * sizeof(*copy));
        b->known_sets[b->n_known_sets++] = (em_known_set){.r = copy, .n = set->n, .in_json = in_json, .expr = x};
    }
    return x;
}

em_expr em_char_expr(em_gr_build *b, uint32_t c, bool in_json)
{
    uint8_t utf8[4];
    if (in_json && needs_escape(c))
        return escaped(b, c);
    return em_ex_text(b, utf8, (size_t)em_utf8_encode(c, utf8));
}
