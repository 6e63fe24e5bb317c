/* Schemas: references, alternatives, fixed values, and the choice between types. */
#include "engine/grammar/schema.h"

#include <errno.h>
#include <string.h>

#include "engine/grammar/json_rules.h"

#define BIT(k) (1u << (k))

void em_schema_fault(em_schema *s, uint32_t node, const char *fmt)
{
    char path[160];
    em_jtree_path(&s->tree, node, path, sizeof(path));
    em_gr_fail(s->b, -EINVAL, fmt, path);
}

/* The rule of a schema that is called; its body is written later, so references may go round. */
static em_expr call_node(em_schema *s, uint32_t node)
{
    if (!s->rule[node]) {
        char path[160];
        em_jtree_path(&s->tree, node, path, sizeof(path));
        uint32_t rule = em_gr_rule_new(s->b, path, strlen(path));
        if (s->b->rc)
            return EM_EXPR_NEVER;
        s->rule[node] = rule + 1;
        if (em_gr_push(&s->pending, node))
            em_gr_no_memory(s->b);
    }
    return em_ex_call(s->b, s->rule[node] - 1, 0, EM_GR_NO_END);
}

/* Keywords that may not stand beside `k`, found. */
static bool refuse_besides(em_schema *s, const em_keywords *kw, em_keyword k, uint32_t allowed)
{
    em_keyword other = em_keywords_besides(kw, allowed | BIT(k));
    if (other == EM_KW_COUNT)
        return false;
    char path[160];
    em_jtree_path(&s->tree, kw->node, path, sizeof(path));
    em_gr_fail(s->b, -EINVAL, "The schema at %s has \"%s\" beside \"%s\", which is not supported.", path,
               em_keyword_name(other), em_keyword_name(k));
    return true;
}

static em_expr reference(em_schema *s, const em_keywords *kw, bool in_place)
{
    if (refuse_besides(s, kw, EM_KW_REF, 0))
        return EM_EXPR_NEVER;
    uint32_t node = kw->at[EM_KW_REF];
    const char *ref = em_jtree_value(&s->tree, node);
    size_t len = s->tree.nodes[node].value_len;
    if (len == 0 || ref[0] != '#') {
        em_schema_fault(s, node, "The schema's $ref at %s is not local: it must begin with #.");
        return EM_EXPR_NEVER;
    }
    em_gr_step(s->b, s->tree.n / 16);
    uint32_t target = em_jtree_resolve(&s->tree, ref + 1, len - 1);
    if (target == EM_JNODE_NONE) {
        em_schema_fault(s, node, "The schema's $ref at %s leads nowhere.");
        return EM_EXPR_NEVER;
    }
    return em_schema_value(s, target, in_place);
}

/* One value, spelled as shortly as can be; types: those it may have. */
static em_expr literal(em_schema *s, uint32_t node, uint32_t types)
{
    if (++s->b->n_choices > s->b->lim.choices) {
        em_gr_fail(s->b, -E2BIG, "The schema's enums have more than %u entries together.", s->b->lim.choices);
        return EM_EXPR_NEVER;
    }
    if (!(em_type_of(&s->tree, node) & types))
        return EM_EXPR_NEVER;
    em_buf text = {0};
    em_expr x = EM_EXPR_NEVER;
    if (em_jtree_write(&s->tree, node, &text))
        em_gr_no_memory(s->b);
    else
        x = em_ex_text(s->b, text.data, text.len);
    em_buf_done(&text);
    return x;
}

static em_expr fixed_values(em_schema *s, const em_keywords *kw)
{
    bool is_const = kw->given & BIT(EM_KW_CONST);
    if (refuse_besides(s, kw, is_const ? EM_KW_CONST : EM_KW_ENUM, BIT(EM_KW_TYPE)))
        return EM_EXPR_NEVER;
    if (is_const)
        return literal(s, kw->at[EM_KW_CONST], kw->types);
    em_gr_u32s options = {0};
    uint32_t list = kw->at[EM_KW_ENUM];
    for (uint32_t i = s->tree.nodes[list].first; i != EM_JNODE_NONE && !s->b->rc; i = s->tree.nodes[i].next)
        if (em_gr_push(&options, literal(s, i, kw->types)))
            em_gr_no_memory(s->b);
    em_expr x = em_ex_list(s->b, EM_EX_ALT, options.v, options.n);
    free(options.v);
    return x;
}

static em_expr alternatives(em_schema *s, const em_keywords *kw)
{
    em_keyword k = kw->given & BIT(EM_KW_ANY_OF) ? EM_KW_ANY_OF : EM_KW_ONE_OF;
    if (refuse_besides(s, kw, k, 0))
        return EM_EXPR_NEVER;
    em_gr_u32s options = {0};
    for (uint32_t i = s->tree.nodes[kw->at[k]].first; i != EM_JNODE_NONE && !s->b->rc; i = s->tree.nodes[i].next)
        if (em_gr_push(&options, em_schema_value(s, i, true)))
            em_gr_no_memory(s->b);
    em_expr x = em_ex_list(s->b, EM_EX_ALT, options.v, options.n);
    free(options.v);
    return x;
}

static em_expr all_of(em_schema *s, const em_keywords *kw, bool in_place)
{
    uint32_t list = kw->at[EM_KW_ALL_OF];
    if (refuse_besides(s, kw, EM_KW_ALL_OF, 0))
        return EM_EXPR_NEVER;
    if (s->tree.nodes[list].n == 1)
        return em_schema_value(s, s->tree.nodes[list].first, in_place);
    em_schema_fault(s, list, "The schema's \"allOf\" at %s must have exactly one entry: schemas are not merged.");
    return EM_EXPR_NEVER;
}

static em_expr typed(em_schema *s, const em_keywords *kw)
{
    em_gr_build *b = s->b;
    em_expr options[6] = {0};
    size_t n = 0;
    if (kw->types & EM_TYPE_NULL)
        options[n++] = em_ex_text(b, "null", 4);
    if (kw->types & EM_TYPE_BOOLEAN)
        options[n++] = em_jrule_bool(b);
    if (kw->types & (EM_TYPE_NUMBER | EM_TYPE_INTEGER))
        options[n++] = em_schema_number(s, kw, !(kw->types & EM_TYPE_NUMBER));
    if (kw->types & EM_TYPE_STRING)
        options[n++] = em_schema_string(s, kw);
    if (kw->types & EM_TYPE_ARRAY)
        options[n++] = em_schema_array(s, kw);
    if (kw->types & EM_TYPE_OBJECT)
        options[n++] = em_schema_object(s, kw);
    return em_ex_list(b, EM_EX_ALT, options, n);
}

/* Values so short to write, or so widely shared, that a rule around them would only be in the way. */
static bool is_simple(const em_schema *s, const em_keywords *kw)
{
    uint32_t structured = EM_TYPE_ARRAY | EM_TYPE_OBJECT;
    if (kw->given & BIT(EM_KW_ENUM))
        return s->tree.nodes[kw->at[EM_KW_ENUM]].n <= 32;
    if (kw->given & BIT(EM_KW_CONST))
        return true;
    return !(kw->given & ~(BIT(EM_KW_TYPE) | BIT(EM_KW_MIN_LENGTH) | BIT(EM_KW_MAX_LENGTH))) &&
           !(kw->types & structured);
}

static em_expr in_place_value(em_schema *s, const em_keywords *kw)
{
    if (kw->given & (BIT(EM_KW_ENUM) | BIT(EM_KW_CONST)))
        return fixed_values(s, kw);
    if (kw->given & (BIT(EM_KW_ANY_OF) | BIT(EM_KW_ONE_OF)))
        return alternatives(s, kw);
    return typed(s, kw);
}

em_expr em_schema_value(em_schema *s, uint32_t node, bool in_place)
{
    em_json_type type = s->tree.nodes[node].type;
    em_keywords kw;
    if (!em_gr_step(s->b, 4))
        return EM_EXPR_NEVER;
    if (type == EM_JSON_FALSE)
        return EM_EXPR_NEVER;
    if (type == EM_JSON_TRUE)
        return em_jrule_any(s->b);
    if (type != EM_JSON_OBJECT) {
        em_schema_fault(s, node, "The schema at %s must be an object, true or false.");
        return EM_EXPR_NEVER;
    }
    if (s->busy[node])
        return call_node(s, node);
    if (em_keywords_read(s->b, &s->tree, node, &kw))
        return EM_EXPR_NEVER;
    bool passes_on = kw.given & (BIT(EM_KW_REF) | BIT(EM_KW_ALL_OF));
    if (!kw.given)
        return em_jrule_any(s->b);
    if (!passes_on && !in_place && !is_simple(s, &kw))
        return call_node(s, node);
    s->busy[node] = true;
    em_expr x = !passes_on                  ? in_place_value(s, &kw)
                : kw.given & BIT(EM_KW_REF) ? reference(s, &kw, in_place)
                                            : all_of(s, &kw, in_place);
    s->busy[node] = false;
    return x;
}

bool em_schema_count(em_schema *s, const em_keywords *kw, em_keyword k, uint32_t most, bool clamp, uint32_t *ret)
{
    uint32_t node = kw->at[k];
    em_json j;
    int64_t value;
    if (node == EM_JNODE_NONE)
        return true;
    em_json_init(&j, em_jtree_value(&s->tree, node), s->tree.nodes[node].value_len, 0);
    em_json_next(&j);
    int rc = em_json_i64(&j, &value);
    if (rc == -ERANGE && em_jtree_value(&s->tree, node)[0] != '-')
        value = INT64_MAX;
    else if (rc || value < 0)
        em_schema_fault(s, node, "The schema's count at %s must be a whole number, 0 or more.");
    if (s->b->rc)
        return false;
    if (value > most && !clamp) {
        char path[160];
        em_jtree_path(&s->tree, node, path, sizeof(path));
        em_gr_fail(s->b, -E2BIG, "The schema's count at %s is above %u, the most that is supported.", path, most);
        return false;
    }
    *ret = value > most ? most + 1 : (uint32_t)value;
    return true;
}

static void write_bodies(em_schema *s)
{
    while (s->pending.n && !s->b->rc) {
        uint32_t node = s->pending.v[--s->pending.n];
        em_expr body = em_schema_value(s, node, true);
        if (!s->b->rc)
            s->b->rules[s->rule[node] - 1].body = body;
    }
}

em_expr em_schema_expr(em_gr_build *b, const char *text, size_t len)
{
    return em_schema_expr_at(b, text, len, "", 0);
}

em_expr em_schema_expr_at(em_gr_build *b, const char *text, size_t len, const char *pointer, size_t pointer_len)
{
    em_schema s = {.b = b};
    em_expr x = EM_EXPR_NEVER;
    if (em_jtree_init(b, text, len, &s.tree))
        return x;
    s.rule = calloc(s.tree.n, sizeof(*s.rule));
    s.busy = calloc(s.tree.n, sizeof(*s.busy));
    uint32_t node = em_jtree_resolve(&s.tree, pointer, pointer_len);
    if (!s.rule || !s.busy)
        em_gr_no_memory(b);
    else if (node == EM_JNODE_NONE)
        em_gr_fail(b, -EINVAL, "The schema has nothing at #%.*s.", (int)(pointer_len < 160 ? pointer_len : 160),
                   pointer);
    else
        x = node ? em_schema_value(&s, node, false) : call_node(&s, 0);
    write_bodies(&s);
    free(s.rule);
    free(s.busy);
    free(s.pending.v);
    em_jtree_done(&s.tree);
    return b->rc ? EM_EXPR_NEVER : x;
}
