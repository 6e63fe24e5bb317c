/* What the server's own tables say of its API, as JSON, for the test that holds docs/openapi.yaml against them:
 *
 *     {"routes": [{"path": ..., "allow": ...}], "bodies": {PATH: [{"name": ..., "use": ..., "min": ..., "max": ...,
 *      "neutral": ...}]}} */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "api/fields.h"
#include "engine/base/buf.h"
#include "server/http.h"

static const struct {
    const char *path;
    const em_field_table *table;
} bodies[] = {
    {"/v1/completions", &em_completion_fields},
    {"/v1/chat/completions", &em_chat_fields},
    {"/tokenize", &em_tokenize_fields},
    {"/detokenize", &em_detokenize_fields},
};

static const char *const uses[] = {
    [EM_FIELD_BOOL] = "bool",   [EM_FIELD_INT] = "int",
    [EM_FIELD_REAL] = "real",   [EM_FIELD_READ] = "read",
    [EM_FIELD_LATER] = "read",  [EM_FIELD_NO_EFFECT] = "no_effect",
    [EM_FIELD_TABLE] = "table", [EM_FIELD_UNSUPPORTED] = "unsupported",
};

static void put_rule(em_buf *out, const em_field_rule *r)
{
    em_buf_printf(out, "{\"name\":\"%s\",\"use\":\"%s\"", r->name, uses[r->use]);
    if (r->use == EM_FIELD_INT || r->use == EM_FIELD_REAL)
        em_buf_printf(out, ",\"min\":%" PRId64 ",\"max\":%" PRId64, r->min, r->max);
    if (r->use == EM_FIELD_UNSUPPORTED)
        em_buf_printf(out, ",\"neutral\":%s", r->neutral ? r->neutral : "null");
    em_buf_puts(out, "}");
}

static void put_table(em_buf *out, const em_field_table *table)
{
    for (size_t i = 0; i < table->n; i++) {
        if (i)
            em_buf_puts(out, ",");
        if (table->rules[i].use == EM_FIELD_TABLE)
            put_table(out, table->rules[i].table);
        else
            put_rule(out, &table->rules[i]);
    }
}

int main(void)
{
    em_buf out = {0};
    em_buf_puts(&out, "{\"routes\":[");
    for (int i = 0; strcmp(em_route_name(i), "none"); i++) {
        char path[64]; /* one that begins with the name is looked up with something behind it */
        size_t len = strlen(em_route_name(i));
        bool is_prefix = len > 1 && em_route_name(i)[len - 1] == '/';
        snprintf(path, sizeof(path), "%s%s", em_route_name(i), is_prefix ? "x" : "");
        em_buf_printf(&out, "%s{\"path\":\"%s\",\"allow\":\"%s\"}", i ? "," : "", em_route_name(i),
                      em_route_allow(path));
    }
    em_buf_puts(&out, "],\"bodies\":{");
    for (size_t i = 0; i < sizeof(bodies) / sizeof(bodies[0]); i++) {
        em_buf_printf(&out, "%s\"%s\":[", i ? "," : "", bodies[i].path);
        put_table(&out, bodies[i].table);
        em_buf_puts(&out, "]");
    }
    em_buf_puts(&out, "}}");
    int failed = out.failed || puts(out.data) < 0;
    em_buf_done(&out);
    return failed;
}
