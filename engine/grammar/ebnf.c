/* A recursive-descent parser of rules. A rule ends where the next one's "name ::=" begins, so line ends mean nothing. */
#include "engine/grammar/ebnf.h"

#include <ctype.h>
#include <string.h>

#include "engine/base/utf8.h"
#include "engine/grammar/dfa.h"
#include "engine/grammar/regex_class.h"
#include "engine/grammar/schema.h"

typedef enum definition { USED, DEFINED, FOREIGN } definition; /* FOREIGN: made for a %json */

typedef struct use {
    uint32_t by, of; /* rule numbers */
} use;

typedef struct ebnf {
    em_regex_text t;
    uint32_t depth;
    uint32_t rule; /* being read */
    bool begun;    /* a rule was read */
    em_gr_index names;
    uint8_t *defined; /* by rule number */
    uint32_t cap_defined;
    use *uses;
    uint32_t n_uses, cap_uses;
} ebnf;

typedef struct name {
    const char *s;
    size_t len;
} name;

static em_expr parse_alternatives(ebnf *e);

/* --- words -------------------------------------------------------------------------------------------------- */

static void skip_space(ebnf *e)
{
    for (; e->t.p < e->t.end; e->t.p++) {
        if (*e->t.p == '#')
            while (e->t.p + 1 < e->t.end && *e->t.p != '\n')
                e->t.p++;
        else if (!memchr(" \t\r\n", *e->t.p, 4))
            return;
    }
}

static bool skip(ebnf *e, char c)
{
    skip_space(e);
    if (e->t.p >= e->t.end || *e->t.p != c)
        return false;
    e->t.p++;
    return true;
}

static bool is_name_byte(char c, bool first)
{
    return isalpha((unsigned char)c) || c == '_' || (!first && (isdigit((unsigned char)c) || c == '-'));
}

/* The name at the place of reading; len 0: none. Does not move on. */
static name peek_name(ebnf *e)
{
    skip_space(e);
    const char *p = e->t.p;
    while (p < e->t.end && is_name_byte(*p, p == e->t.p))
        p++;
    return (name){e->t.p, (size_t)(p - e->t.p)};
}

/* Is "::=" behind the name? Then a rule begins. */
static bool begins_rule(ebnf *e, name n)
{
    const char *p = e->t.p;
    e->t.p = n.s + n.len;
    skip_space(e);
    bool yes = n.len && e->t.end - e->t.p >= 3 && !memcmp(e->t.p, "::=", 3);
    e->t.p = p;
    return yes;
}

static bool name_equal(const void *ctx, uint32_t element, const void *key)
{
    em_gr_build *b = ((const ebnf *)ctx)->t.b;
    const name *k = key;
    b->steps++; /* names that were made to collide take time, which is limited */
    return strlen(b->rules[element].name) == k->len && !memcmp(b->rules[element].name, k->s, k->len);
}

static uint64_t name_hash_of(const char *s, size_t len)
{
    uint64_t h = len;
    for (size_t i = 0; i < len; i++)
        h = em_gr_mix(h, (uint8_t)s[i]);
    return h;
}

static uint64_t name_hash(const void *ctx, uint32_t element)
{
    const char *s = ((const ebnf *)ctx)->t.b->rules[element].name;
    return name_hash_of(s, strlen(s));
}

/* The rule of a name, new or known; UINT32_MAX on a fault. */
static uint32_t rule_of(ebnf *e, name n)
{
    em_gr_build *b = e->t.b;
    uint64_t hash = name_hash_of(n.s, n.len);
    uint32_t rule = em_gr_index_find(&e->names, hash, e, name_equal, &n);
    if (rule != UINT32_MAX || !em_gr_step(b, 1))
        return rule;
    rule = em_gr_rule_new(b, n.s, n.len);
    if (b->rc)
        return UINT32_MAX;
    if (em_gr_grow(&e->defined, &e->cap_defined, (size_t)rule + 1, sizeof(*e->defined)) ||
        em_gr_index_add(&e->names, hash, rule, e, name_hash)) {
        em_gr_no_memory(b);
        return UINT32_MAX;
    }
    e->defined[rule] = USED;
    return rule;
}

/* --- expressions -------------------------------------------------------------------------------------------- */

static em_expr parse_reference(ebnf *e, name n)
{
    uint32_t rule = rule_of(e, n);
    e->t.p += n.len;
    if (e->t.b->rc)
        return EM_EXPR_NEVER;
    if (em_gr_grow(&e->uses, &e->cap_uses, (size_t)e->n_uses + 1, sizeof(*e->uses)))
        em_gr_no_memory(e->t.b);
    else
        e->uses[e->n_uses++] = (use){e->rule, rule};
    return em_ex_call(e->t.b, rule, 0, EM_GR_NO_END);
}

/* The rest of a text in quotes, unescaped; its escapes are those of regular expressions that stand for one character. */
static void read_text(ebnf *e, char quote, em_buf *text)
{
    while (!e->t.b->rc && e->t.p < e->t.end && *e->t.p != quote && *e->t.p != '\n') {
        uint8_t utf8[4];
        uint32_t c;
        if (*e->t.p != '\\') {
            em_buf_append(text, e->t.p++, 1);
            continue;
        }
        em_charset set = {0};
        em_regex_item item = em_regex_escape(&e->t, true, &c, &set, NULL);
        em_charset_done(&set);
        if (item == EM_REGEX_SET)
            em_regex_fault(&e->t, "has a set of characters inside a text in quotes");
        else if (item == EM_REGEX_CHAR)
            em_buf_append(text, utf8, (size_t)em_utf8_encode(c, utf8));
    }
    if (text->failed)
        em_gr_no_memory(e->t.b);
    if (!e->t.b->rc && (e->t.p >= e->t.end || *e->t.p != quote))
        em_regex_fault(&e->t, "has a text whose quote is not closed on its line");
    e->t.p++;
}

static em_expr parse_text(ebnf *e, char quote)
{
    em_buf text = {0};
    read_text(e, quote, &text);
    em_expr x = e->t.b->rc ? EM_EXPR_NEVER : em_ex_text(e->t.b, text.data, text.len);
    em_buf_done(&text);
    return x;
}

static em_expr parse_set(ebnf *e, bool any)
{
    em_charset set = {0};
    if (any)
        em_charset_add(e->t.b, &set, 0, EM_CHAR_LAST);
    else
        em_regex_class(&e->t, &set);
    em_expr x = e->t.b->rc ? EM_EXPR_NEVER : em_charset_expr(e->t.b, &set, false);
    em_charset_done(&set);
    return x;
}

static em_expr parse_group(ebnf *e)
{
    if (++e->depth > e->t.b->lim.nesting) {
        em_gr_fail(e->t.b, -E2BIG, "The grammar has more than %u groups open at a time.", e->t.b->lim.nesting);
        return EM_EXPR_NEVER;
    }
    em_expr x = parse_alternatives(e);
    if (!e->t.b->rc && !skip(e, ')'))
        em_regex_fault(&e->t, "has a ( without its )");
    e->depth--;
    return x;
}

/* --- %json, %until, %without ---------------------------------------------------------------------------------- */

/* The bytes of the JSON object or array at p: up to where its brackets are closed; 0: they are not. */
static size_t json_length(const char *p, const char *end)
{
    size_t open = 0;
    bool quoted = false;
    for (const char *c = p; c < end; c++) {
        if (quoted && *c == '\\') {
            c++;
        } else if (quoted) {
            quoted = *c != '"';
        } else if (*c == '"') {
            quoted = true;
        } else if (*c == '{' || *c == '[') {
            open++;
        } else if ((*c == '}' || *c == ']') && --open == 0) {
            return (size_t)(c + 1 - p);
        }
    }
    return 0;
}

/* Rules that other languages have made are not this text's to define. */
static void adopt_rules(ebnf *e, uint32_t from)
{
    if (e->t.b->rc)
        return;
    if (em_gr_grow(&e->defined, &e->cap_defined, e->t.b->n_rules, sizeof(*e->defined))) {
        em_gr_no_memory(e->t.b);
        return;
    }
    for (uint32_t r = from; r < e->t.b->n_rules; r++)
        e->defined[r] = FOREIGN;
}

/* Perhaps a pointer in quotes, then the schema. */
static em_expr parse_json(ebnf *e)
{
    em_buf pointer = {0};
    em_expr x = EM_EXPR_NEVER;
    skip_space(e);
    char quote = e->t.p < e->t.end ? *e->t.p : 0;
    if (quote == '"' || quote == '\'') {
        e->t.p++;
        read_text(e, quote, &pointer);
        skip_space(e);
    }
    const char *schema = e->t.p;
    size_t len = !e->t.b->rc && schema < e->t.end && *schema == '{' ? json_length(schema, e->t.end) : 0;
    if (len) {
        uint32_t first = e->t.b->n_rules;
        e->t.p += len;
        x = em_schema_expr_at(e->t.b, schema, len, pointer.data ? pointer.data : "", pointer.len);
        adopt_rules(e, first);
    } else {
        em_regex_fault(&e->t, "has a %json without a whole { } behind it");
    }
    em_buf_done(&pointer);
    return x;
}

static em_expr any_text(em_gr_build *b, uint32_t min)
{
    em_charset all = {0};
    em_charset_add(b, &all, 0, EM_CHAR_LAST);
    em_expr any = em_charset_expr(b, &all, false);
    em_charset_done(&all);
    return em_ex_repeat(b, any, min, EM_EX_ENDLESS);
}

/* What x matches and y does not. */
static em_expr and_not(em_gr_build *b, em_expr x, em_expr y)
{
    em_dfa in = {0}, out = {0}, both = {0};
    em_expr made = EM_EXPR_NEVER;
    if (!em_dfa_of_expr(b, x, false, &in) && !em_dfa_of_expr(b, y, false, &out) &&
        !em_dfa_combine(b, &in, &out, EM_DFA_AND_NOT, &both))
        made = em_dfa_expr(b, &both);
    em_dfa_done(&in);
    em_dfa_done(&out);
    em_dfa_done(&both);
    return made;
}

em_expr em_ebnf_until(em_gr_build *b, em_expr stop)
{
    em_expr before = em_ex_seq2(b, any_text(b, 0), stop);
    return and_not(b, before, em_ex_seq2(b, before, any_text(b, 1)));
}

em_expr em_ebnf_without(em_gr_build *b, em_expr stop)
{
    em_expr before = em_ex_seq2(b, any_text(b, 0), stop);
    return and_not(b, any_text(b, 0), em_ex_seq2(b, before, any_text(b, 0)));
}

static em_expr parse_mark(ebnf *e, em_expr (*make)(em_gr_build *b, em_expr stop))
{
    skip_space(e);
    char quote = e->t.p < e->t.end ? *e->t.p : 0;
    if (quote != '"' && quote != '\'') {
        em_regex_fault(&e->t, "has an %until or %without without a text in quotes behind it");
        return EM_EXPR_NEVER;
    }
    e->t.p++;
    em_expr stop = parse_text(e, quote);
    if (!e->t.b->rc && stop == EM_EXPR_EMPTY)
        em_regex_fault(&e->t, "has an %until or %without with an empty text");
    return e->t.b->rc ? EM_EXPR_NEVER : make(e->t.b, stop);
}

/* Behind the %. */
static em_expr parse_special(ebnf *e)
{
    name n = peek_name(e);
    e->t.p = n.s + n.len;
    if (n.len == 4 && !memcmp(n.s, "json", 4))
        return parse_json(e);
    if (n.len == 5 && !memcmp(n.s, "until", 5))
        return parse_mark(e, em_ebnf_until);
    if (n.len == 7 && !memcmp(n.s, "without", 7))
        return parse_mark(e, em_ebnf_without);
    em_regex_fault(&e->t, "has a % that begins neither %json nor %until nor %without");
    return EM_EXPR_NEVER;
}

/* What an item begins with; false: no item is here. */
static bool parse_atom(ebnf *e, em_expr *ret_x)
{
    name n = peek_name(e);
    if (n.len && begins_rule(e, n))
        return false;
    if (n.len) {
        *ret_x = parse_reference(e, n);
        return true;
    }
    if (e->t.p >= e->t.end || *e->t.p == '|' || *e->t.p == ')')
        return false;
    char c = *e->t.p++;
    switch (c) {
    case '"':
    case '\'': *ret_x = parse_text(e, c); return true;
    case '[': *ret_x = parse_set(e, false); return true;
    case '.': *ret_x = parse_set(e, true); return true;
    case '(': *ret_x = parse_group(e); return true;
    case '%': *ret_x = parse_special(e); return true;
    default: break;
    }
    em_regex_fault(&e->t, "has something that is no name, text, set or group");
    return false;
}

static uint32_t parse_count(ebnf *e)
{
    skip_space(e);
    uint64_t n = 0;
    for (; e->t.p < e->t.end && isdigit((unsigned char)*e->t.p); e->t.p++)
        n = n < UINT32_MAX ? n * 10 + (uint64_t)(*e->t.p - '0') : n;
    return n < EM_EX_ENDLESS ? (uint32_t)n : EM_EX_ENDLESS - 1;
}

/* Behind a brace: {n}, {n,}, {n,m} or {,m}. */
static void parse_braces(ebnf *e, uint32_t *min, uint32_t *max)
{
    uint32_t limit = e->t.b->lim.repeat;
    const char *from = e->t.p;
    *min = *max = parse_count(e);
    if (skip(e, ',')) {
        skip_space(e);
        bool most = e->t.p < e->t.end && isdigit((unsigned char)*e->t.p);
        *max = most ? parse_count(e) : EM_EX_ENDLESS;
    } else if (e->t.p == from) {
        em_regex_fault(&e->t, "has an empty {}");
    }
    if (!skip(e, '}'))
        em_regex_fault(&e->t, "has a { without its }");
    else if (*min > limit || (*max != EM_EX_ENDLESS && *max > limit))
        em_gr_fail(e->t.b, -E2BIG, "The grammar repeats something more than %u times.", limit);
    else if (*min > *max)
        em_regex_fault(&e->t, "has a repeat {n,m} with n above m");
}

static em_expr parse_repeats(ebnf *e, em_expr x)
{
    while (!e->t.b->rc) {
        uint32_t min = 0, max = EM_EX_ENDLESS;
        if (skip(e, '+'))
            min = 1;
        else if (skip(e, '?'))
            max = 1;
        else if (skip(e, '{'))
            parse_braces(e, &min, &max);
        else if (!skip(e, '*'))
            break;
        x = em_ex_repeat(e->t.b, x, min, max);
    }
    return x;
}

static em_expr parse_sequence(ebnf *e)
{
    em_gr_u32s items = {0};
    em_expr x;
    while (!e->t.b->rc && parse_atom(e, &x))
        if (em_gr_push(&items, parse_repeats(e, x)))
            em_gr_no_memory(e->t.b);
    x = em_ex_list(e->t.b, EM_EX_SEQ, items.v, items.n);
    free(items.v);
    return x;
}

static em_expr parse_alternatives(ebnf *e)
{
    em_gr_u32s options = {0};
    do {
        if (em_gr_push(&options, parse_sequence(e)))
            em_gr_no_memory(e->t.b);
    } while (!e->t.b->rc && skip(e, '|'));
    em_expr x = em_ex_list(e->t.b, EM_EX_ALT, options.v, options.n);
    free(options.v);
    return x;
}

/* --- rules -------------------------------------------------------------------------------------------------- */

static void parse_rule(ebnf *e)
{
    em_gr_build *b = e->t.b;
    name n = peek_name(e);
    if (!begins_rule(e, n)) {
        em_regex_fault(&e->t, e->begun ? "has something behind a rule that belongs to none"
                                       : "does not begin with a rule (name ::= ...)");
        return;
    }
    e->begun = true;
    e->rule = rule_of(e, n);
    if (b->rc)
        return;
    if (e->defined[e->rule])
        em_gr_fail(b, -EINVAL, "The grammar defines the rule %.100s twice.", b->rules[e->rule].name);
    e->defined[e->rule] = DEFINED;
    e->t.p = n.s + n.len;
    skip_space(e);
    e->t.p += 3;
    em_expr body = parse_alternatives(e);
    if (!b->rc)
        b->rules[e->rule].body = body;
    skip_space(e);
}

/* Rules that lead into no cycle may stand in place of their names: leaves first, then those that use only such. */
static void find_in_place(ebnf *e)
{
    em_gr_build *b = e->t.b;
    uint32_t *waits = calloc((size_t)b->n_rules + 1, sizeof(*waits)); /* uses of rules not known to be free of cycles */
    uint32_t *at = calloc((size_t)b->n_rules + 2, sizeof(*at)), *by = malloc(((size_t)e->n_uses + 1) * sizeof(*by));
    em_gr_u32s ready = {0};
    bool ok = waits && at && by;
    for (uint32_t i = 0; ok && i < e->n_uses; i++) {
        waits[e->uses[i].by]++;
        at[e->uses[i].of + 2]++;
    }
    for (uint32_t r = 0; ok && r < b->n_rules; r++)
        at[r + 2] += at[r + 1];
    for (uint32_t i = 0; ok && i < e->n_uses; i++)
        by[at[e->uses[i].of + 1]++] = e->uses[i].by;
    for (uint32_t r = 1; ok && r < b->n_rules; r++)
        ok = waits[r] || e->defined[r] == FOREIGN || !em_gr_push(&ready, r);
    while (ok && ready.n) {
        uint32_t r = ready.v[--ready.n];
        b->rules[r].in_place = true;
        for (uint32_t i = at[r]; ok && i < at[r + 1]; i++)
            ok = --waits[by[i]] || !em_gr_push(&ready, by[i]);
    }
    if (!ok)
        em_gr_no_memory(b);
    free(waits);
    free(at);
    free(by);
    free(ready.v);
}

static void check_rules(ebnf *e)
{
    em_gr_build *b = e->t.b;
    for (uint32_t r = 1; r < b->n_rules && !b->rc; r++)
        if (e->defined[r] == USED)
            em_gr_fail(b, -EINVAL, "The grammar uses the rule %.100s and does not define it.", b->rules[r].name);
}

int em_ebnf_compile(em_gr_build *b, const char *text, size_t len)
{
    ebnf e = {.t = {.b = b, .what = "grammar", .p = text, .end = text + len}};
    if (!em_gr_check_source(b, "grammar", text, len))
        return b->rc;
    em_gr_rule_new(b, NULL, 0);
    static const char root[] = "root";
    uint32_t rule = b->rc ? 0 : rule_of(&e, (name){root, sizeof(root) - 1});
    em_expr whole = b->rc ? EM_EXPR_NEVER : em_ex_call(b, rule, 0, EM_GR_NO_END);
    if (!b->rc)
        b->rules[0].body = whole;
    skip_space(&e);
    do {
        if (!b->rc)
            parse_rule(&e);
    } while (!b->rc && e.t.p < e.t.end);
    check_rules(&e);
    if (!b->rc)
        find_in_place(&e);
    free(e.names.slot);
    free(e.defined);
    free(e.uses);
    return b->rc;
}
