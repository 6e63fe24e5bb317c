/* What the keywords of one type say: strings, numbers, arrays, objects. */
#include <string.h>

#include "engine/grammar/charset.h"
#include "engine/grammar/dfa.h"
#include "engine/grammar/json_rules.h"
#include "engine/grammar/regex.h"
#include "engine/grammar/schema.h"

static em_expr text(em_gr_build *b, const char *s)
{
    return em_ex_text(b, s, strlen(s));
}

/* --- strings ------------------------------------------------------------------------------------------------ */

/* Any character as it stands in a JSON string, in its one shortest spelling. */
static em_expr any_character(em_gr_build *b)
{
    em_charset all = {0};
    em_charset_add(b, &all, 0, EM_CHAR_LAST);
    em_expr x = em_charset_expr(b, &all, true);
    em_charset_done(&all);
    return x;
}

static em_expr quoted(em_gr_build *b, const em_dfa *content)
{
    return em_ex_list(b, EM_EX_SEQ, (em_expr[3]){text(b, "\""), em_dfa_expr(b, content), text(b, "\"")}, 3);
}

/* *content becomes what it was and matches x too. alone: nothing else will be said about it. */
static void narrow(em_gr_build *b, em_dfa *content, em_expr x, bool alone)
{
    em_dfa more = {0}, both = {0};
    if (em_dfa_of_expr(b, x, alone, &more))
        return;
    if (!content->n) {
        *content = more;
        return;
    }
    if (!em_dfa_combine(b, content, &more, EM_DFA_AND, &both)) {
        em_dfa_done(content);
        *content = both;
    }
    em_dfa_done(&more);
}

/* A string whose spelling an automaton follows: pattern, format, and the length beside them. */
static em_expr spelled_string(em_schema *s, const em_keywords *kw)
{
    em_gr_build *b = s->b;
    em_dfa content = {0};
    uint32_t pattern = kw->at[EM_KW_PATTERN], format = kw->at[EM_KW_FORMAT], min = 0, max = EM_EX_ENDLESS;
    bool lengths = kw->given & (1u << EM_KW_MIN_LENGTH | 1u << EM_KW_MAX_LENGTH);
    if (pattern != EM_JNODE_NONE)
        narrow(b, &content,
               em_regex_expr(b, "pattern", em_jtree_value(&s->tree, pattern), s->tree.nodes[pattern].value_len,
                             EM_REGEX_IN_JSON),
               !lengths && format == EM_JNODE_NONE);
    if (format != EM_JNODE_NONE && !b->rc) {
        const char *known = em_format_pattern(em_jtree_value(&s->tree, format), s->tree.nodes[format].value_len);
        if (!known)
            em_schema_fault(s, format,
                            "The format at %s is not supported; docs/structured_output.md lists those that are.");
        else
            narrow(b, &content, em_regex_expr(b, "format", known, strlen(known), EM_REGEX_IN_JSON), false);
    }
    if (lengths && em_schema_count(s, kw, EM_KW_MIN_LENGTH, b->lim.repeat, false, &min) &&
        em_schema_count(s, kw, EM_KW_MAX_LENGTH, b->lim.repeat, false, &max))
        narrow(b, &content, min > max ? EM_EXPR_NEVER : em_ex_repeat(b, any_character(b), min, max), false);
    em_expr x = b->rc ? EM_EXPR_NEVER : quoted(b, &content);
    em_dfa_done(&content);
    return x;
}

em_expr em_schema_string(em_schema *s, const em_keywords *kw)
{
    if (kw->given & (1u << EM_KW_PATTERN | 1u << EM_KW_FORMAT))
        return spelled_string(s, kw);
    uint32_t min = 0, max = EM_GR_NO_END, most = s->b->lim.string_length;
    if (!em_schema_count(s, kw, EM_KW_MIN_LENGTH, most, false, &min) ||
        !em_schema_count(s, kw, EM_KW_MAX_LENGTH, most, true, &max))
        return EM_EXPR_NEVER;
    if (max > most)
        max = EM_GR_NO_END;
    return min > max ? EM_EXPR_NEVER : em_jrule_string(s->b, min, max);
}

/* --- numbers ------------------------------------------------------------------------------------------------ */

/* The narrower of what is known and what a keyword says. upper: of upper bounds. */
static void read_bound(em_schema *s, const em_keywords *kw, em_keyword k, bool upper, em_decimal *bound)
{
    uint32_t node = kw->at[k];
    em_decimal d;
    if (node == EM_JNODE_NONE)
        return;
    if (!em_decimal_parse(em_jtree_value(&s->tree, node), s->tree.nodes[node].value_len, &d)) {
        char path[160];
        em_jtree_path(&s->tree, node, path, sizeof(path));
        em_gr_fail(s->b, -E2BIG, "The bound at %s has more than %d digits on one side of its point.", path,
                   EM_NUMBER_MAX_DIGITS);
        return;
    }
    d.exclusive = k == EM_KW_EXCLUSIVE_MINIMUM || k == EM_KW_EXCLUSIVE_MAXIMUM;
    int order = bound->given ? em_decimal_compare(&d, bound) : 0;
    bool narrower = upper ? order < 0 : order > 0;
    if (!bound->given || narrower || (order == 0 && d.exclusive))
        *bound = d;
}

em_expr em_schema_number(em_schema *s, const em_keywords *kw, bool integer)
{
    em_decimal lo = {0}, hi = {0};
    read_bound(s, kw, EM_KW_MINIMUM, false, &lo);
    read_bound(s, kw, EM_KW_EXCLUSIVE_MINIMUM, false, &lo);
    read_bound(s, kw, EM_KW_MAXIMUM, true, &hi);
    read_bound(s, kw, EM_KW_EXCLUSIVE_MAXIMUM, true, &hi);
    return s->b->rc ? EM_EXPR_NEVER : em_jrule_number(s->b, integer, &lo, &hi);
}

/* --- arrays ------------------------------------------------------------------------------------------------- */

typedef struct array_shape {
    uint32_t n_prefix, rest; /* node of `items`; EM_JNODE_NONE: any value */
    uint32_t min, max;       /* EM_EX_ENDLESS: no most */
} array_shape;

static bool read_array(em_schema *s, const em_keywords *kw, array_shape *a)
{
    uint32_t prefix = kw->at[EM_KW_PREFIX_ITEMS], limit = s->b->lim.repeat;
    *a = (array_shape){.rest = kw->at[EM_KW_ITEMS], .max = EM_EX_ENDLESS};
    a->n_prefix = prefix == EM_JNODE_NONE ? 0 : s->tree.nodes[prefix].n;
    if (!em_schema_count(s, kw, EM_KW_MIN_ITEMS, limit, false, &a->min) ||
        !em_schema_count(s, kw, EM_KW_MAX_ITEMS, limit, false, &a->max))
        return false;
    if (a->rest != EM_JNODE_NONE && s->tree.nodes[a->rest].type == EM_JSON_FALSE && a->max > a->n_prefix)
        a->max = a->n_prefix;
    return a->min <= a->max;
}

/* "[" space, elements, space "]"; a state of the graph for every number of elements that matters. */
em_expr em_schema_array(em_schema *s, const em_keywords *kw)
{
    em_gr_build *b = s->b;
    array_shape a;
    if (!read_array(s, kw, &a))
        return EM_EXPR_NEVER;
    em_expr rest = a.rest == EM_JNODE_NONE ? em_jrule_any(b) : em_schema_value(s, a.rest, false);
    em_expr close = em_ex_seq2(b, em_jrule_space(b), text(b, "]")), comma = em_jrule_comma(b);
    uint32_t counted = a.max != EM_EX_ENDLESS ? a.max : a.n_prefix > a.min ? a.n_prefix : a.min;
    em_graph g = {0};
    uint32_t start = em_graph_state(&g), end = em_graph_state(&g), at = em_graph_state(&g);
    em_graph_edge_add(b, &g, start, at, em_ex_seq2(b, text(b, "["), em_jrule_space(b)));
    if (a.min == 0)
        em_graph_edge_add(b, &g, at, end, text(b, "]"));
    uint32_t item = a.n_prefix ? s->tree.nodes[kw->at[EM_KW_PREFIX_ITEMS]].first : EM_JNODE_NONE;
    for (uint32_t i = 0; i < counted && em_gr_step(b, 1); i++) {
        em_expr x = item == EM_JNODE_NONE ? rest : em_schema_value(s, item, false);
        item = item == EM_JNODE_NONE ? item : s->tree.nodes[item].next;
        uint32_t next = em_graph_state(&g);
        em_graph_edge_add(b, &g, at, next, i ? em_ex_seq2(b, comma, x) : x);
        if (i + 1 >= a.min)
            em_graph_edge_add(b, &g, next, end, close);
        at = next;
    }
    if (a.max == EM_EX_ENDLESS) {
        uint32_t more = counted ? at : em_graph_state(&g);
        if (!counted)
            em_graph_edge_add(b, &g, at, more, rest);
        em_graph_edge_add(b, &g, more, more, em_ex_seq2(b, comma, rest));
        em_graph_edge_add(b, &g, more, end, close);
    }
    return em_graph_expr(b, &g, end);
}

/* --- objects ------------------------------------------------------------------------------------------------ */

typedef struct object_shape {
    em_schema *s;
    em_graph g;
    uint32_t properties, required; /* nodes, EM_JNODE_NONE: not given */
    uint32_t none, some;           /* places: no member written yet, at least one */
    em_gr_u32s keys;               /* contents of the keys so far, as expressions */
} object_shape;

static bool is_required(const object_shape *o, const char *key, size_t len)
{
    const em_jtree *t = &o->s->tree;
    if (o->required == EM_JNODE_NONE)
        return false;
    for (uint32_t i = t->nodes[o->required].first; i != EM_JNODE_NONE && em_gr_step(o->s->b, 1); i = t->nodes[i].next)
        if (t->nodes[i].type == EM_JSON_STRING && t->nodes[i].value_len == len &&
            !memcmp(em_jtree_value(t, i), key, len))
            return true;
    return false;
}

static em_expr member(em_gr_build *b, em_expr key, em_expr value)
{
    return em_ex_list(b, EM_EX_SEQ, (em_expr[4]){key, text(b, ":"), em_jrule_space(b), value}, 4);
}

/* The next member of the order; an optional one may be passed over. */
static void add_member(object_shape *o, const char *key, size_t len, em_expr value, bool required)
{
    em_gr_build *b = o->s->b;
    em_expr name = em_ex_json_string(b, key, len), x = member(b, name, value);
    uint32_t none = em_graph_state(&o->g), some = em_graph_state(&o->g);
    em_graph_edge_add(b, &o->g, o->none, some, x);
    em_graph_edge_add(b, &o->g, o->some, some, em_ex_seq2(b, em_jrule_comma(b), x));
    if (!required) {
        em_graph_edge_add(b, &o->g, o->none, none, EM_EXPR_EMPTY);
        em_graph_edge_add(b, &o->g, o->some, some, EM_EXPR_EMPTY);
    }
    if (em_gr_push(&o->keys, name))
        em_gr_no_memory(b);
    o->none = none;
    o->some = some;
}

/* Any key but those of the named members. */
static em_expr other_key(object_shape *o)
{
    em_gr_build *b = o->s->b;
    if (!o->keys.n)
        return em_jrule_string(b, 0, EM_GR_NO_END);
    em_expr any = em_ex_repeat(b, any_character(b), 0, EM_EX_ENDLESS);
    em_expr all = em_ex_list(b, EM_EX_SEQ, (em_expr[3]){text(b, "\""), any, text(b, "\"")}, 3), x = EM_EXPR_NEVER;
    em_dfa strings = {0}, named = {0}, others = {0};
    if (!em_dfa_of_expr(b, all, false, &strings) &&
        !em_dfa_of_expr(b, em_ex_list(b, EM_EX_ALT, o->keys.v, o->keys.n), false, &named) &&
        !em_dfa_combine(b, &strings, &named, EM_DFA_AND_NOT, &others))
        x = em_dfa_expr(b, &others);
    em_dfa_done(&strings);
    em_dfa_done(&named);
    em_dfa_done(&others);
    return x;
}

/* Members that have no name in the schema, behind all that have. */
static void add_others(object_shape *o, em_expr value)
{
    em_gr_build *b = o->s->b;
    if (value == EM_EXPR_NEVER || b->rc)
        return;
    em_expr x = member(b, other_key(o), value);
    em_graph_edge_add(b, &o->g, o->none, o->some, x);
    em_graph_edge_add(b, &o->g, o->some, o->some, em_ex_seq2(b, em_jrule_comma(b), x));
}

/* Names of `required` that `properties` does not have take the schema of the additional ones. */
static void add_required(object_shape *o, em_expr others)
{
    const em_jtree *t = &o->s->tree;
    if (o->required == EM_JNODE_NONE)
        return;
    for (uint32_t i = t->nodes[o->required].first; i != EM_JNODE_NONE && !o->s->b->rc; i = t->nodes[i].next) {
        const char *key = em_jtree_value(t, i);
        size_t len = t->nodes[i].value_len;
        if (t->nodes[i].type != EM_JSON_STRING) {
            em_schema_fault(o->s, i, "The schema's required name at %s must be a string.");
            return;
        }
        em_gr_step(o->s->b, o->properties != EM_JNODE_NONE ? t->nodes[o->properties].n / 4 : 0);
        bool named = o->properties != EM_JNODE_NONE && em_jtree_member(t, o->properties, key, len) != EM_JNODE_NONE;
        for (uint32_t j = t->nodes[o->required].first; j != i && !named && em_gr_step(o->s->b, 1); j = t->nodes[j].next)
            named = t->nodes[j].value_len == len && !memcmp(em_jtree_value(t, j), key, len);
        if (named)
            continue;
        if (others == EM_EXPR_NEVER) {
            em_schema_fault(o->s, i,
                            "The property required at %s is not among the properties, and no others are allowed.");
            return;
        }
        add_member(o, key, len, others, true);
    }
}

em_expr em_schema_object(em_schema *s, const em_keywords *kw)
{
    em_gr_build *b = s->b;
    object_shape o = {.s = s, .properties = kw->at[EM_KW_PROPERTIES], .required = kw->at[EM_KW_REQUIRED]};
    uint32_t start = em_graph_state(&o.g), end = em_graph_state(&o.g), additional = kw->at[EM_KW_ADDITIONAL];
    o.none = em_graph_state(&o.g);
    o.some = em_graph_state(&o.g);
    em_graph_edge_add(b, &o.g, start, o.none, em_ex_seq2(b, text(b, "{"), em_jrule_space(b)));
    uint32_t i = o.properties == EM_JNODE_NONE ? EM_JNODE_NONE : s->tree.nodes[o.properties].first;
    for (; i != EM_JNODE_NONE && !b->rc; i = s->tree.nodes[i].next) {
        const char *key = em_jtree_key(&s->tree, i);
        size_t len = s->tree.nodes[i].key_len;
        em_gr_step(b, s->tree.nodes[o.properties].n / 4);
        if (em_jtree_member(&s->tree, o.properties, key, len) == i) /* of twins the last one counts */
            add_member(&o, key, len, em_schema_value(s, i, false), is_required(&o, key, len));
    }
    em_expr others = EM_EXPR_NEVER;
    if (additional != EM_JNODE_NONE)
        others = em_schema_value(s, additional, false);
    else if (o.properties == EM_JNODE_NONE)
        others = em_jrule_any(b);
    add_required(&o, others);
    add_others(&o, others);
    em_graph_edge_add(b, &o.g, o.none, end, text(b, "}"));
    em_graph_edge_add(b, &o.g, o.some, end, em_ex_seq2(b, em_jrule_space(b), text(b, "}")));
    free(o.keys.v);
    return em_graph_expr(b, &o.g, end);
}
