#include "api/fields.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int em_api_no_memory(em_api_error *err)
{
    return em_api_error_set(err, 503, "out_of_memory", NULL, "The server is out of memory; try again later");
}

void em_field_open(const em_field *f, em_json *j)
{
    em_json_init(j, f->text, f->len, 0);
    em_json_next(j);
}

/* --- one value ---------------------------------------------------------------------------------------------- */

const char *em_value_shown(const em_json *j, char buf[64])
{
    const int most = 40; /* bytes of source text; em_api_error_set mends a cut character */
    int n = j->raw_len < (size_t)most ? (int)j->raw_len : most;
    const char *dots = j->raw_len > (size_t)most ? "..." : "";
    switch (j->type) {
    case EM_JSON_STRING:
        while (n > 0 && (size_t)n < j->raw_len && ((unsigned char)j->raw[n] & 0xc0) == 0x80)
            n--; /* not in the middle of a character */
        snprintf(buf, 64, "\"%.*s%s\"", n, j->raw, dots);
        return buf;
    case EM_JSON_NUMBER: snprintf(buf, 64, "%.*s%s", n, j->raw, dots); return buf;
    case EM_JSON_OBJECT: return "an object";
    case EM_JSON_ARRAY: return "a list";
    case EM_JSON_TRUE: return "true";
    case EM_JSON_FALSE: return "false";
    case EM_JSON_NULL: return "null";
    default: return "nothing";
    }
}

int em_value_wrong_type(const em_json *j, const char *path, const char *expected, em_api_error *err)
{
    char shown[64];
    return em_api_error_set(err, 400, "invalid_type", path, "%s must be %s, got %s", path, expected,
                            em_value_shown(j, shown));
}

int em_value_bool(const em_json *j, const char *path, bool *ret, em_api_error *err)
{
    if (j->type != EM_JSON_TRUE && j->type != EM_JSON_FALSE)
        return em_value_wrong_type(j, path, "true or false", err);
    *ret = j->type == EM_JSON_TRUE;
    return 0;
}

int em_value_int(const em_json *j, const char *path, int64_t min, int64_t max, int64_t *ret, em_api_error *err)
{
    int64_t v = 0;
    int r = em_json_i64(j, &v);
    if (r == -EINVAL)
        return em_value_wrong_type(j, path, "an integer", err);
    if (r || v < min || v > max) {
        char shown[64];
        return em_api_error_set(err, 400, "out_of_range", path, "%s must be between %lld and %lld, got %s", path,
                                (long long)min, (long long)max, em_value_shown(j, shown));
    }
    *ret = v;
    return 0;
}

int em_value_real(const em_json *j, const char *path, double min, double max, double *ret, em_api_error *err)
{
    double v = 0;
    int r = em_json_f64(j, &v);
    if (r == -EINVAL)
        return em_value_wrong_type(j, path, "a number", err);
    if (r == -ENOMEM)
        return em_api_no_memory(err);
    if (r || !(v >= min && v <= max)) {
        char shown[64];
        return em_api_error_set(err, 400, "out_of_range", path, "%s must be between %g and %g, got %s", path, min, max,
                                em_value_shown(j, shown));
    }
    *ret = v;
    return 0;
}

int em_value_string(const em_json *j, const char *path, char **ret_text, size_t *ret_len, em_api_error *err)
{
    if (j->type != EM_JSON_STRING)
        return em_value_wrong_type(j, path, "a string", err);
    char *s = malloc(j->raw_len + 1); /* escapes only shrink */
    if (!s)
        return em_api_no_memory(err);
    size_t len = 0;
    if (em_json_string(j, s, j->raw_len + 1, &len)) {
        free(s);
        return em_api_error_set(err, 400, "invalid_value", path, "%s is not a valid string", path);
    }
    *ret_text = s;
    if (ret_len)
        *ret_len = len;
    return 0;
}

int em_field_tree(const em_field *f, cJSON **ret_tree, em_api_error *err)
{
    if (f->n_values > EM_FIELD_MAX_TREE)
        return em_api_error_set(err, 400, "out_of_range", f->name, "%s holds %zu values; at most %d are allowed",
                                f->name, f->n_values, EM_FIELD_MAX_TREE);
    cJSON *tree = cJSON_ParseWithLength(f->text, f->len);
    if (!tree)
        return em_api_no_memory(err); /* the text is valid: nothing else can fail */
    *ret_tree = tree;
    return 0;
}

/* --- fields ------------------------------------------------------------------------------------------------- */

int em_field_read_model(const em_field *f, const em_api_context *ctx, void *into, em_api_error *err)
{
    em_json j;
    em_field_open(f, &j);
    if (j.type != EM_JSON_STRING)
        return em_value_wrong_type(&j, f->name, "a string", err);
    for (int i = 0; i < ctx->n_model_names; i++)
        if (em_json_is(&j, ctx->model_names[i]))
            return 0;
    char shown[64];
    return em_api_error_set(err, 404, "model_not_found", f->name, "The model %s is not served here; this server has %s",
                            em_value_shown(&j, shown), ctx->n_model_names ? ctx->model_names[0] : "none");
}

static int check_no_effect(const em_field_rule *rule, const em_json *j, em_api_error *err)
{
    if (rule->what == EM_JSON_TRUE)
        return em_value_bool(j, rule->name, &(bool){false}, err);
    if (j->type == rule->what)
        return 0;
    return em_value_wrong_type(j, rule->name, rule->what == EM_JSON_OBJECT ? "an object" : "a string", err);
}

/* Two JSON texts say the same: equal scalars (1 and 1.0), equal strings, or both empty brackets of one kind. */
static bool same_value(const em_field *f, const char *neutral)
{
    em_json a, b;
    em_field_open(f, &a);
    em_json_init(&b, neutral, strlen(neutral), 0);
    em_json_next(&b);
    if (a.type != b.type)
        return false;
    if (a.type == EM_JSON_NUMBER) {
        double x, y;
        return !em_json_f64(&a, &x) && !em_json_f64(&b, &y) && x == y;
    }
    if (a.type == EM_JSON_OBJECT || a.type == EM_JSON_ARRAY)
        return f->n_values == 1;
    return a.type != EM_JSON_STRING || (a.raw_len == b.raw_len && !memcmp(a.raw, b.raw, a.raw_len));
}

static int check_unsupported(const em_field_rule *rule, const em_field *f, em_api_error *err)
{
    if (rule->neutral && same_value(f, rule->neutral))
        return 0;
    if (rule->neutral)
        return em_api_error_set(err, 400, "unsupported_parameter", f->name,
                                "%s is not supported by this server: leave it out (or send its default, %s)", f->name,
                                rule->neutral);
    return em_api_error_set(err, 400, "unsupported_parameter", f->name,
                            "%s is not supported by this server: leave it out", f->name);
}

static int apply_rule(const em_field_rule *rule, const em_field *f, const em_api_context *ctx, void *into,
                      em_api_error *err)
{
    void *at = (char *)into + rule->offset;
    em_json j;
    em_field_open(f, &j);
    switch (rule->use) {
    case EM_FIELD_BOOL: return em_value_bool(&j, f->name, at, err);
    case EM_FIELD_INT: return em_value_int(&j, f->name, rule->min, rule->max, at, err);
    case EM_FIELD_REAL: return em_value_real(&j, f->name, (double)rule->min, (double)rule->max, at, err);
    case EM_FIELD_READ: return rule->read(f, ctx, into, err);
    case EM_FIELD_LATER: *(const em_field **)at = f; return 0;
    case EM_FIELD_NO_EFFECT: return check_no_effect(rule, &j, err);
    case EM_FIELD_UNSUPPORTED:
    case EM_FIELD_TABLE: break;
    }
    return check_unsupported(rule, f, err);
}

/* base grows by the offsets of the tables that the rule was found in. */
static const em_field_rule *find_rule(const char *name, const em_field_rule *rules, size_t n_rules, size_t *base)
{
    for (size_t i = 0; i < n_rules; i++) {
        if (rules[i].use != EM_FIELD_TABLE) {
            if (!strcmp(rules[i].name, name))
                return &rules[i];
            continue;
        }
        size_t inner_base = *base + rules[i].offset;
        const em_field_rule *inner = find_rule(name, rules[i].table->rules, rules[i].table->n, &inner_base);
        if (inner) {
            *base = inner_base;
            return inner;
        }
    }
    return NULL;
}

bool em_fields_know(const em_field_table *table, const char *name)
{
    return find_rule(name, table->rules, table->n, &(size_t){0}) != NULL;
}

static int apply_field(const em_field *f, const em_field_rule *rules, size_t n_rules, const em_api_context *ctx,
                       void *into, em_api_error *err)
{
    size_t base = 0;
    const em_field_rule *rule = find_rule(f->name, rules, n_rules, &base);
    if (f->has_nul && !(rule && rule->nul_ok))
        return em_api_error_set(err, 400, "invalid_value", f->name,
                                "%s holds a NUL character (\\u0000), which it may not contain", f->name);
    if (rule)
        return f->type == EM_JSON_NULL ? 0 : apply_rule(rule, f, ctx, (char *)into + base, err);
    if (ctx->ignore_unknown_fields)
        return 0;
    return em_api_error_set(err, 400, "unknown_parameter", f->name, "Unknown parameter '%s'", f->name);
}

int em_fields_apply(const em_body *body, const em_field_table *table, const em_api_context *ctx, void *into,
                    em_api_error *err)
{
    int r = 0;
    for (int i = 0; i < body->n_fields && !r; i++)
        r = apply_field(&body->fields[i], table->rules, table->n, ctx, into, err);
    return r;
}
