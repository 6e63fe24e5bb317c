/* A recursive-descent parser: alternatives, pieces, atoms. What cannot be matched in linear time by an automaton
 * (back-references, look-around) is refused by name. */
#include "engine/grammar/regex.h"

#include <string.h>

#include "engine/base/utf8.h"
#include "engine/grammar/charset.h"
#include "engine/grammar/regex_class.h"

typedef struct parser {
    em_regex_text t;
    bool in_json;
    uint32_t depth;
} parser;

static em_expr parse_alternatives(parser *p);

static bool at(const parser *p, char c)
{
    return p->t.p < p->t.end && *p->t.p == c;
}

static bool skip(parser *p, char c)
{
    if (!at(p, c))
        return false;
    p->t.p++;
    return true;
}

static em_expr set_expr(parser *p, em_charset *set)
{
    em_expr x = em_charset_expr(p->t.b, set, p->in_json);
    if (!p->t.b->rc && x == EM_EXPR_NEVER)
        em_regex_fault(&p->t, "has a set of characters that holds none");
    em_charset_done(set);
    return x;
}

static em_expr parse_dot(parser *p)
{
    /* the line ends of ECMA; Python's is a subset */
    em_charset set = {0};
    em_charset_add(p->t.b, &set, '\n', '\n');
    em_charset_add(p->t.b, &set, '\r', '\r');
    em_charset_add(p->t.b, &set, 0x2028, 0x2029);
    em_charset_negate(p->t.b, &set);
    return set_expr(p, &set);
}

/* Behind "(?": sets whether it is a group after all. */
static bool parse_group_kind(parser *p)
{
    if (skip(p, ':'))
        return true;
    const char *name = p->t.p;
    skip(p, 'P');
    if (!skip(p, '<') || at(p, '=') || at(p, '!')) {
        p->t.p = name;
        bool around = at(p, '=') || at(p, '!') || at(p, '<');
        em_regex_fault(&p->t, around ? "uses look-around, which is not supported"
                                     : "uses a group of a kind that is not supported after (?");
        return false;
    }
    while (p->t.p < p->t.end && *p->t.p != '>')
        p->t.p++;
    if (!skip(p, '>'))
        em_regex_fault(&p->t, "has a group whose name does not end");
    return !p->t.b->rc;
}

static em_expr parse_group(parser *p)
{
    if (++p->depth > p->t.b->lim.nesting) {
        em_gr_fail(p->t.b, -E2BIG, "The %s has more than %u groups open at a time.", p->t.what, p->t.b->lim.nesting);
        return EM_EXPR_NEVER;
    }
    if (skip(p, '?') && !parse_group_kind(p))
        return EM_EXPR_NEVER;
    em_expr x = parse_alternatives(p);
    if (!p->t.b->rc && !skip(p, ')'))
        em_regex_fault(&p->t, "has a ( without its )");
    p->depth--;
    return x;
}

static em_expr parse_class(parser *p)
{
    em_charset set = {0};
    if (em_regex_class(&p->t, &set)) {
        em_charset_done(&set);
        return EM_EXPR_NEVER;
    }
    return set_expr(p, &set);
}

static em_expr parse_escape(parser *p)
{
    em_charset set = {0};
    uint32_t c;
    switch (em_regex_escape(&p->t, false, &c, &set, NULL)) {
    case EM_REGEX_CHAR: return em_char_expr(p->t.b, c, p->in_json);
    case EM_REGEX_SET: return set_expr(p, &set);
    case EM_REGEX_FAULT: break;
    }
    em_charset_done(&set);
    return EM_EXPR_NEVER;
}

/* *ret_anchor: what was read takes no repeat. */
static em_expr parse_atom(parser *p, bool *ret_anchor)
{
    *ret_anchor = false;
    char c = *p->t.p;
    switch (c) {
    case '(': p->t.p++; return parse_group(p);
    case '[': p->t.p++; return parse_class(p);
    case '\\': return parse_escape(p);
    case '.': p->t.p++; return parse_dot(p);
    case '^':
    case '$':
        p->t.p++;
        *ret_anchor = true;
        return em_ex_anchor(p->t.b, c == '^' ? EM_EX_BEGIN : EM_EX_END);
    case '*':
    case '+':
    case '?': em_regex_fault(&p->t, "has a repeat with nothing in front of it"); return EM_EXPR_NEVER;
    case '{':
    case '}': em_regex_fault(&p->t, "has a brace that is no repeat; write \\{ or \\}"); return EM_EXPR_NEVER;
    default: break;
    }
    uint32_t cp;
    p->t.p += em_utf8_decode((const uint8_t *)p->t.p, (size_t)(p->t.end - p->t.p), &cp);
    return em_char_expr(p->t.b, cp, p->in_json);
}

/* A number of a repeat; false: none is there. Larger ones than any limit stay large. */
static bool parse_count(parser *p, uint32_t *ret)
{
    const char *from = p->t.p;
    uint64_t n = 0;
    for (; p->t.p < p->t.end && *p->t.p >= '0' && *p->t.p <= '9'; p->t.p++)
        n = n < UINT32_MAX ? n * 10 + (uint64_t)(*p->t.p - '0') : n;
    *ret = n < EM_EX_ENDLESS ? (uint32_t)n : EM_EX_ENDLESS - 1;
    return p->t.p > from;
}

static void parse_braces(parser *p, uint32_t *min, uint32_t *max)
{
    uint32_t limit = p->t.b->lim.repeat;
    if (!parse_count(p, min)) {
        em_regex_fault(&p->t, "has a brace that is no repeat; write \\{, or {n}, {n,} or {n,m}");
        return;
    }
    *max = *min;
    if (skip(p, ',') && !parse_count(p, max))
        *max = EM_EX_ENDLESS;
    if (!skip(p, '}'))
        em_regex_fault(&p->t, "has a repeat that does not end; write {n}, {n,} or {n,m}");
    else if (*min > limit || (*max != EM_EX_ENDLESS && *max > limit))
        em_gr_fail(p->t.b, -E2BIG, "The %s repeats something more than %u times.", p->t.what, limit);
    else if (*min > *max)
        em_regex_fault(&p->t, "has a repeat {n,m} with n above m");
}

/* The repeat behind an atom, if there is one. */
static em_expr parse_repeat(parser *p, em_expr x, bool anchor)
{
    uint32_t min = 0, max = EM_EX_ENDLESS;
    if (skip(p, '*')) {
    } else if (skip(p, '+')) {
        min = 1;
    } else if (skip(p, '?')) {
        max = 1;
    } else if (skip(p, '{')) {
        parse_braces(p, &min, &max);
    } else {
        return x;
    }
    if (anchor)
        em_regex_fault(&p->t, "repeats an anchor");
    skip(p, '?'); /* lazy: the same texts match */
    if (at(p, '*') || at(p, '+') || at(p, '?') || at(p, '{'))
        em_regex_fault(&p->t, at(p, '+') ? "uses a possessive repeat, which is not supported"
                                         : "has a repeat of a repeat; put the inner one into a group");
    return em_ex_repeat(p->t.b, x, min, max);
}

static em_expr parse_pieces(parser *p)
{
    em_gr_u32s pieces = {0};
    while (!p->t.b->rc && p->t.p < p->t.end && *p->t.p != '|' && *p->t.p != ')') {
        bool anchor;
        em_expr x = parse_atom(p, &anchor);
        if (!p->t.b->rc)
            x = parse_repeat(p, x, anchor);
        if (em_gr_push(&pieces, x))
            em_gr_no_memory(p->t.b);
    }
    em_expr x = em_ex_list(p->t.b, EM_EX_SEQ, pieces.v, pieces.n);
    free(pieces.v);
    return x;
}

static em_expr parse_alternatives(parser *p)
{
    em_gr_u32s options = {0};
    do {
        if (em_gr_push(&options, parse_pieces(p)))
            em_gr_no_memory(p->t.b);
    } while (!p->t.b->rc && skip(p, '|'));
    em_expr x = em_ex_list(p->t.b, EM_EX_ALT, options.v, options.n);
    free(options.v);
    return x;
}

em_expr em_regex_expr(em_gr_build *b, const char *what, const char *text, size_t len, em_regex_use use)
{
    parser p = {.t = {.b = b, .what = what, .p = text, .end = text + len}, .in_json = use == EM_REGEX_IN_JSON};
    em_expr x = parse_alternatives(&p);
    if (!b->rc && p.t.p < p.t.end)
        em_regex_fault(&p.t, "has a ) without its (");
    if (use == EM_REGEX_WHOLE)
        return x;
    em_charset all = {0};
    em_charset_add(b, &all, 0, EM_CHAR_LAST);
    em_expr anything = em_ex_repeat(b, em_charset_expr(b, &all, true), 0, EM_EX_ENDLESS);
    em_charset_done(&all);
    return em_ex_list(b, EM_EX_SEQ, (em_expr[3]){anything, x, anything}, 3);
}
