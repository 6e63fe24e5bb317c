/* Compiling, and the life of a grammar. */
#include "engine/grammar/grammar_impl.h"

#include <errno.h>
#include <string.h>

#include "engine/base/json.h"
#include "engine/grammar/ebnf.h"
#include "engine/grammar/json_rules.h"
#include "engine/grammar/regex.h"
#include "engine/grammar/schema.h"

static em_grammar *destroy(em_grammar *g)
{
    em_masks_done(&g->masks);
    em_automaton_done(&g->a);
    pthread_mutex_destroy(&g->lock);
    free(g);
    return NULL;
}

static int prepare_masks(em_grammar *g, em_gr_build *b)
{
    int rc = em_masks_init(&g->masks, &g->a, g->vocab, &b->lim);
    if (!rc)
        rc = em_masks_prepare(&g->masks);
    if (rc == -E2BIG)
        return em_gr_fail(
            b, rc,
            "The grammar is too ambiguous: it can be read in more than %u ways at a time, or a mask takes "
            "more than %llu steps.",
            b->lim.readings, (unsigned long long)b->lim.mask_steps);
    return rc ? em_gr_no_memory(b) : 0;
}

/* From the rules of a build to a grammar; ends the build. */
static int finish(em_gr_build *b, const em_grammar_vocab *vocab, em_grammar **ret_grammar)
{
    em_grammar *g = NULL;
    if (!b->rc && !(g = calloc(1, sizeof(*g))))
        em_gr_no_memory(b);
    if (g) {
        g->refs = 1;
        g->vocab = vocab;
        pthread_mutex_init(&g->lock, NULL);
        if (!em_automaton_init(b, &g->a) && vocab)
            prepare_masks(g, b);
    }
    int rc = b->rc;
    em_gr_build_done(b);
    if (rc)
        return g ? (destroy(g), rc) : rc;
    *ret_grammar = g;
    return 0;
}

/* Rule 0 with this body. */
static void set_root(em_gr_build *b, em_expr body)
{
    if (!b->rc)
        b->rules[0].body = body;
}

int em_grammar_compile_json_schema(const char *schema, size_t len, const em_grammar_limits *limits,
                                   const em_grammar_vocab *vocab, em_grammar **ret_grammar, em_error *err)
{
    em_gr_build b;
    em_gr_build_init(&b, limits, err);
    if (!b.rc)
        em_schema_expr(&b, schema, len); /* its rule is the first, so the root */
    return finish(&b, vocab, ret_grammar);
}

int em_grammar_compile_json_object(const em_grammar_limits *limits, const em_grammar_vocab *vocab,
                                   em_grammar **ret_grammar, em_error *err)
{
    em_gr_build b;
    em_gr_build_init(&b, limits, err);
    em_gr_rule_new(&b, NULL, 0);
    set_root(&b, em_jrule_object(&b));
    return finish(&b, vocab, ret_grammar);
}

int em_grammar_compile_regex(const char *regex, size_t len, const em_grammar_limits *limits,
                             const em_grammar_vocab *vocab, em_grammar **ret_grammar, em_error *err)
{
    em_gr_build b;
    em_gr_build_init(&b, limits, err);
    em_gr_rule_new(&b, NULL, 0);
    if (!b.rc && em_gr_check_source(&b, "regex", regex, len))
        set_root(&b, em_regex_expr(&b, "regex", regex, len, EM_REGEX_WHOLE));
    return finish(&b, vocab, ret_grammar);
}

static em_expr choice_expr(em_gr_build *b, const char *const *choices, const size_t *lens, size_t n)
{
    em_gr_u32s options = {0};
    size_t total = 0;
    if (n < 1)
        em_gr_fail(b, -EINVAL, "The list of choices is empty.");
    if (n > b->lim.choices)
        em_gr_fail(b, -E2BIG, "There are %zu choices; at most %u are allowed.", n, b->lim.choices);
    for (size_t i = 0; i < n && !b->rc; i++) {
        if (lens[i] == 0)
            em_gr_fail(b, -EINVAL, "Choice %zu is empty.", i + 1);
        total += lens[i];
        if (lens[i] > b->lim.source_bytes || total > b->lim.source_bytes)
            em_gr_fail(b, -E2BIG, "The choices have more than %u bytes together.", b->lim.source_bytes);
        else if (em_gr_check_source(b, "choice", choices[i], lens[i]) &&
                 em_gr_push(&options, em_ex_text(b, choices[i], lens[i])))
            em_gr_no_memory(b);
    }
    em_expr x = em_ex_list(b, EM_EX_ALT, options.v, options.n);
    free(options.v);
    return x;
}

int em_grammar_compile_choice(const char *const *choices, const size_t *lens, size_t n, const em_grammar_limits *limits,
                              const em_grammar_vocab *vocab, em_grammar **ret_grammar, em_error *err)
{
    em_gr_build b;
    em_gr_build_init(&b, limits, err);
    em_gr_rule_new(&b, NULL, 0);
    if (!b.rc)
        set_root(&b, choice_expr(&b, choices, lens, n));
    return finish(&b, vocab, ret_grammar);
}

int em_grammar_compile_ebnf(const char *text, size_t len, const em_grammar_limits *limits,
                            const em_grammar_vocab *vocab, em_grammar **ret_grammar, em_error *err)
{
    em_gr_build b;
    em_gr_build_init(&b, limits, err);
    if (!b.rc)
        em_ebnf_compile(&b, text, len);
    return finish(&b, vocab, ret_grammar);
}

/* --- from a source ------------------------------------------------------------------------------------------ */

static em_expr regex_expr(em_gr_build *b, const char *regex, size_t len)
{
    uint32_t rule = em_gr_rule_new(b, NULL, 0); /* of its own: ^ and $ are its ends */
    em_expr body = EM_EXPR_NEVER;
    if (!b->rc && em_gr_check_source(b, "regex", regex, len))
        body = em_regex_expr(b, "regex", regex, len, EM_REGEX_WHOLE);
    if (b->rc)
        return EM_EXPR_NEVER;
    b->rules[rule].body = body;
    return em_ex_call(b, rule, 0, EM_GR_NO_END);
}

/* The strings of a JSON list: bytes one behind the other, and the length of each. Unescaped they only get shorter. */
static int read_list(const char *text, size_t len, char *bytes, size_t cap, em_gr_u32s *lens)
{
    em_json j;
    em_json_init(&j, text, len, 1);
    if (em_json_next(&j) != EM_JSON_ARRAY)
        return -EINVAL;
    while (em_json_next(&j) == EM_JSON_STRING) {
        size_t n;
        int rc = em_json_string(&j, bytes, cap, &n);
        if (!rc)
            rc = em_gr_push(lens, (uint32_t)n);
        if (rc)
            return rc;
        bytes += n;
        cap -= n;
    }
    return j.type == EM_JSON_ARRAY_END && em_json_next(&j) == EM_JSON_END ? 0 : -EINVAL;
}

static em_expr list_expr(em_gr_build *b, const char *text, size_t len)
{
    em_gr_u32s lens = {0};
    em_expr x = EM_EXPR_NEVER;
    if (!em_gr_check_source(b, "list of choices", text, len))
        return x;
    char *bytes = malloc(len + 1);
    int rc = bytes ? read_list(text, len, bytes, len + 1, &lens) : -ENOMEM;
    const char **at = calloc((size_t)lens.n + 1, sizeof(*at));
    size_t *sizes = calloc((size_t)lens.n + 1, sizeof(*sizes)), from = 0;
    for (uint32_t i = 0; at && sizes && i < lens.n; from += lens.v[i++]) {
        at[i] = bytes + from;
        sizes[i] = lens.v[i];
    }
    if (rc == -ENOMEM || !at || !sizes)
        em_gr_no_memory(b);
    else if (rc)
        em_gr_fail(b, -EINVAL, "The list of choices is not a JSON list of strings.");
    else
        x = choice_expr(b, at, sizes, lens.n);
    free(lens.v);
    free(bytes);
    free(at);
    free(sizes);
    return x;
}

static em_expr source_expr(em_gr_build *b, const em_grammar_source *s)
{
    switch (s->kind) {
    case EM_GRAMMAR_JSON_SCHEMA: return em_schema_expr(b, s->text, s->len);
    case EM_GRAMMAR_JSON_OBJECT: return em_jrule_object(b);
    case EM_GRAMMAR_REGEX: return regex_expr(b, s->text, s->len);
    case EM_GRAMMAR_CHOICE: return list_expr(b, s->text, s->len);
    case EM_GRAMMAR_EBNF: break;
    }
    return b->rules[0].body; /* em_ebnf_compile has made it */
}

int em_grammar_compile(const em_grammar_source *source, const em_grammar_limits *limits, const em_grammar_vocab *vocab,
                       em_grammar **ret_grammar, em_error *err)
{
    em_gr_build b;
    em_gr_build_init(&b, limits, err);
    if (source->kind == EM_GRAMMAR_EBNF)
        em_ebnf_compile(&b, source->text, source->len);
    else
        em_gr_rule_new(&b, NULL, 0);
    em_expr x = b.rc ? EM_EXPR_NEVER : source_expr(&b, source);
    if (source->after_len && em_gr_check_source(&b, "mark", source->after, source->after_len))
        x = em_ex_seq2(&b, em_ebnf_until(&b, em_ex_text(&b, source->after, source->after_len)), x);
    set_root(&b, x);
    return finish(&b, vocab, ret_grammar);
}

em_grammar *em_grammar_ref(em_grammar *g)
{
    atomic_fetch_add_explicit(&g->refs, 1, memory_order_relaxed);
    return g;
}

em_grammar *em_grammar_unref(em_grammar *g)
{
    if (g && atomic_fetch_sub_explicit(&g->refs, 1, memory_order_acq_rel) == 1)
        destroy(g);
    return NULL;
}

const em_grammar_vocab *em_grammar_get_vocab(const em_grammar *g)
{
    return g->vocab;
}

void em_grammar_get_info(em_grammar *g, em_grammar_info *ret_info)
{
    pthread_mutex_lock(&g->lock);
    *ret_info = (em_grammar_info){
        .n_states = g->a.n,
        .n_rules = g->a.n_rules,
        .n_masks = g->masks.n,
        .mask_bytes = g->masks.bytes,
        .table_bytes = em_automaton_bytes(&g->a),
    };
    pthread_mutex_unlock(&g->lock);
}
