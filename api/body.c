#include "api/body.h"

#include <errno.h>
#include <string.h>

static int malformed(const em_json *j, const em_field *f, em_api_error *err)
{
    const char *why = em_json_error(j);
    return em_api_error_set(err, 400, "invalid_json", f ? f->name : NULL,
                            "The request body is not valid JSON: %s at byte %zu%s%s", why ? why : "malformed",
                            em_json_offset(j), f ? ", in " : "", f ? f->name : "");
}

/* j stands at a KEY. */
static int read_name(const em_json *j, const em_body *body, em_field *f, em_api_error *err)
{
    if (j->has_nul)
        return em_api_error_set(err, 400, "invalid_value", NULL,
                                "A field's name holds a NUL character (\\u0000), which no name may contain");
    if (em_json_string(j, f->name, sizeof f->name, NULL)) {
        int shown = j->raw_len < EM_BODY_MAX_NAME ? (int)j->raw_len : EM_BODY_MAX_NAME;
        return em_api_error_set(err, 400, "unknown_parameter", NULL,
                                "Unknown parameter '%.*s...': its name is longer than %d bytes", shown, j->raw,
                                EM_BODY_MAX_NAME);
    }
    for (int i = 0; i < body->n_fields; i++)
        if (!strcmp(body->fields[i].name, f->name))
            return em_api_error_set(err, 400, "duplicate_parameter", f->name, "%s is given twice; send it once",
                                    f->name);
    return 0;
}

/* Where the value begins whose first token is the current one. */
static const char *start_of(const em_json *j)
{
    switch (j->type) {
    case EM_JSON_STRING: return j->raw - 1;
    case EM_JSON_NUMBER: return j->raw;
    case EM_JSON_FALSE: return j->p - 5;
    case EM_JSON_TRUE:
    case EM_JSON_NULL: return j->p - 4;
    default: return j->p - 1; /* a bracket */
    }
}

/* j stands before the value; afterwards behind it. Looks at every token, so that all of the value is checked. */
static int read_value(em_json *j, em_field *f, em_api_error *err)
{
    unsigned outer = j->depth;
    const char *start = NULL;
    do {
        em_json_type t = em_json_next(j);
        if (t == EM_JSON_ERROR || t == EM_JSON_END)
            return malformed(j, f, err);
        if ((t == EM_JSON_STRING || t == EM_JSON_KEY) && j->has_nul)
            f->has_nul = true;
        if (!start) {
            f->type = t;
            start = start_of(j);
        }
        if (t != EM_JSON_KEY && t != EM_JSON_OBJECT_END && t != EM_JSON_ARRAY_END)
            f->n_values++;
    } while (j->depth > outer);
    f->text = start;
    f->len = (size_t)(j->p - start);
    return 0;
}

static int read_field(em_json *j, em_body *body, em_api_error *err)
{
    if (body->n_fields == EM_BODY_MAX_FIELDS)
        return em_api_error_set(err, 400, "invalid_value", NULL, "The request has more than %d fields",
                                EM_BODY_MAX_FIELDS);
    em_field *f = &body->fields[body->n_fields];
    memset(f, 0, sizeof *f);
    int r = read_name(j, body, f, err);
    if (!r)
        r = read_value(j, f, err);
    if (!r)
        body->n_fields++;
    return r;
}

static bool is_blank(const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (!strchr(" \t\r\n", text[i]) || !text[i])
            return false;
    return true;
}

int em_body_read(em_body *body, const char *text, size_t len, unsigned max_depth, em_api_error *err)
{
    body->n_fields = 0;
    if (is_blank(text, len))
        return em_api_error_set(err, 400, "invalid_json", NULL, "The request body is empty; send a JSON object");
    em_json j;
    em_json_init(&j, text, len, max_depth);
    em_json_type t = em_json_next(&j);
    if (t == EM_JSON_ERROR)
        return malformed(&j, NULL, err);
    if (t != EM_JSON_OBJECT)
        return em_api_error_set(err, 400, "invalid_json", NULL, "The request body must be a JSON object");
    while ((t = em_json_next(&j)) == EM_JSON_KEY) {
        int r = read_field(&j, body, err);
        if (r)
            return r;
    }
    if (t != EM_JSON_OBJECT_END || em_json_next(&j) != EM_JSON_END)
        return malformed(&j, NULL, err);
    return 0;
}

const em_field *em_body_find(const em_body *body, const char *name)
{
    for (int i = 0; i < body->n_fields; i++)
        if (!strcmp(body->fields[i].name, name))
            return body->fields[i].type == EM_JSON_NULL ? NULL : &body->fields[i];
    return NULL;
}
