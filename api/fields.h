/* Which fields an endpoint knows, and what each may be. One table per endpoint is the whole truth: it says which are
 * read, which are accepted without effect, and which are known but not supported (accepted only with the value that
 * changes nothing, since clients send defaults). A field in no table is unknown: 400, unless the server was told to
 * let those pass. null always means "not given". */
#ifndef EM_API_FIELDS_H
#define EM_API_FIELDS_H

#include <stdint.h>

#include "api/body.h"
#include "api/completion_request.h"

/* Stores one value behind `into`, the endpoint's own struct. -EINVAL with err filled. */
typedef int em_field_reader(const em_field *f, const em_api_context *ctx, void *into, em_api_error *err);

typedef enum em_field_use {
    EM_FIELD_BOOL,        /* bool at offset */
    EM_FIELD_INT,         /* int64_t at offset, min..max */
    EM_FIELD_REAL,        /* double at offset, min..max */
    EM_FIELD_READ,        /* through read() */
    EM_FIELD_LATER,       /* const em_field * at offset: the endpoint reads it when all else is known */
    EM_FIELD_NO_EFFECT,   /* checked against `what`, then left aside */
    EM_FIELD_UNSUPPORTED, /* only its neutral value passes */
    EM_FIELD_TABLE,       /* no field: the rows of `table`, for the struct at offset */
} em_field_use;

typedef struct em_field_table {
    const struct em_field_rule *rules;
    size_t n;
} em_field_table;

typedef struct em_field_rule {
    const char *name;
    em_field_use use;
    size_t offset;
    int64_t min, max;
    em_field_reader *read;
    em_json_type what;   /* NO_EFFECT: EM_JSON_STRING, _OBJECT, or _TRUE for a boolean */
    const char *neutral; /* UNSUPPORTED: JSON text of the value that changes nothing; NULL: null alone */
    const em_field_table *table;
    bool nul_ok; /* strings in it may hold U+0000: the endpoint reads them with their lengths */
} em_field_rule;

/* The bodies of POST /v1/completions, /v1/chat/completions, /tokenize with a text, and /detokenize. */
extern const em_field_table em_completion_fields, em_chat_fields, em_tokenize_fields, em_detokenize_fields;

/* Takes every field of the body through its rule. */
int em_fields_apply(const em_body *body, const em_field_table *table, const em_api_context *ctx, void *into,
                    em_api_error *err);

bool em_fields_know(const em_field_table *table, const char *name);

/* One value; `path` names it in errors ("n", "prompt[3]"). The JSON token is the current one of j. */
int em_value_bool(const em_json *j, const char *path, bool *ret, em_api_error *err);
int em_value_int(const em_json *j, const char *path, int64_t min, int64_t max, int64_t *ret, em_api_error *err);
int em_value_real(const em_json *j, const char *path, double min, double max, double *ret, em_api_error *err);
/* malloc'd, NUL-terminated. */
int em_value_string(const em_json *j, const char *path, char **ret_text, size_t *ret_len, em_api_error *err);

/* Starts j at the field's value: its first token is the current one. */
void em_field_open(const em_field *f, em_json *j);

/* `path must be ..., got ...` with code invalid_type. */
int em_value_wrong_type(const em_json *j, const char *path, const char *expected, em_api_error *err);
/* What stands there, for a message: source text of a scalar (shortened), else "a list", "an object". */
const char *em_value_shown(const em_json *j, char buf[64]);

/* The request is well, the server is not. */
int em_api_no_memory(em_api_error *err);

/* A small value as a tree (stop, stream_options, later messages and tools). The body check has refused what cJSON
 * would let pass. Free with cJSON_Delete. */
struct cJSON;
int em_field_tree(const em_field *f, struct cJSON **ret_tree, em_api_error *err);
#define EM_FIELD_MAX_TREE 65536 /* values in one tree: cJSON takes 64 bytes and more for each */

/* The field `model`, for every endpoint that has one: absent, or a name that is served. */
int em_field_read_model(const em_field *f, const em_api_context *ctx, void *into, em_api_error *err);

#endif
