/* engramd engram inspect [MODEL_DIR]: what a model's Engram tables are. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/buf.h"
#include "engine/base/units.h"
#include "engine/engine.h"
#include "server/commands.h"
#include "server/model_dir.h"

static const char usage[] =
    "Usage: engramd engram inspect [OPTIONS] [MODEL_DIR]\n"
    "Says what the model's Engram tables are: layers, n-gram orders, hash heads, rows, buckets, multipliers, bytes, "
    "and\n"
    "which tier --engram-tier auto would take on this machine. Reads headers alone; no row is touched.\n"
    "\n";

/* --- for people ------------------------------------------------------------------------------------------------- */

static void print_layout(const em_inspect *in)
{
    char text[EM_UNITS_TEXT];
    printf("  orders       2 to %d, the current token included\n", in->max_order);
    printf("  hash heads   %d for each order: %d rows for a token and table\n", in->n_heads,
           (in->max_order - 1) * in->n_heads);
    printf("  classes      %d of %d token ids; the pad token %d is class %d\n", in->n_classes, in->n_ids, in->pad_id,
           in->pad_class);
    printf("  a row        %d columns of %s, %zu bytes", in->head_dim, in->dtype, in->row_bytes);
    if (in->scale_dtype)
        printf(", and %zu bytes of %s scales", in->scale_bytes, in->scale_dtype);
    printf("\n  buckets      primes from %" PRId64 " upward\n", in->prime_start);
    printf("  tables       %d, %s in all\n", in->n_tables, em_bytes_text(in->table_bytes, text));
}

static void print_table(const em_inspect *in, const em_inspect_table *t)
{
    char text[EM_UNITS_TEXT];
    const em_engram_hash *h = &t->hash;
    printf("\nlayer %d: %" PRId64 " rows, %s", t->layer, t->n_rows, em_bytes_text(t->bytes, text));
    if (t->n_rows > h->n_rows)
        printf("; the last %" PRId64 " are never addressed", t->n_rows - h->n_rows);
    printf("\n  multipliers ");
    for (int32_t i = 0; i < h->max_order; i++)
        printf(" %" PRId64, h->multiplier[i]);
    printf("\n");
    for (int32_t order = 2; order <= in->max_order; order++) {
        printf("  order %d      ", order);
        for (int32_t i = 0; i < in->n_heads; i++)
            printf("%s%" PRId64, i ? " " : "", h->prime[(order - 2) * in->n_heads + i]);
        printf("\n");
    }
}

static void print_tiers(const em_inspect *in)
{
    char own[EM_UNITS_TEXT], cached[EM_UNITS_TEXT];
    printf("\n--engram-tier auto is %s here: %s.\n", in->auto_tier, in->why);
    for (int32_t i = 0; i < in->n_tiers; i++) {
        const em_inspect_tier *t = &in->tier[i];
        printf("  %-8s serving takes %10s of memory", t->name, em_bytes_text(t->own, own));
        if (t->cached)
            printf(", reads rows of %s in files", em_bytes_text(t->cached, cached));
        printf(": %s\n", t->fits ? "fits" : "DOES NOT FIT");
    }
}

static void print_all(const em_inspect *in, const char *model_dir)
{
    printf("%s\n", model_dir);
    if (in->n_tables == 0) {
        printf("  no Engram layers\n");
        return;
    }
    print_layout(in);
    for (int32_t i = 0; i < in->n_tables; i++)
        print_table(in, &in->table[i]);
    print_tiers(in);
}

/* --- for scripts ------------------------------------------------------------------------------------------------ */

static void put_numbers(em_buf *b, const char *name, const int64_t *v, int32_t n)
{
    em_buf_printf(b, ",\"%s\":[", name);
    for (int32_t i = 0; i < n; i++)
        em_buf_printf(b, "%s%" PRId64, i ? "," : "", v[i]);
    em_buf_puts(b, "]");
}

static void put_layout(em_buf *b, const em_inspect *in)
{
    em_buf_puts(b, ",\"orders\":[");
    for (int32_t order = 2; order <= in->max_order; order++)
        em_buf_printf(b, "%s%d", order > 2 ? "," : "", order);
    em_buf_printf(b, "],\"heads\":%d,\"token_ids\":%d,\"classes\":%d,\"pad_token\":%d,\"pad_class\":%d,\"columns\":%d,",
                  in->n_heads, in->n_ids, in->n_classes, in->pad_id, in->pad_class, in->head_dim);
    em_buf_json_member(b, "dtype", in->dtype);
    em_buf_puts(b, ",\"scale_dtype\":");
    if (in->scale_dtype)
        em_buf_json_string(b, in->scale_dtype, strlen(in->scale_dtype));
    else
        em_buf_puts(b, "null");
    em_buf_printf(b, ",\"row_bytes\":%zu,\"scale_bytes\":%zu,\"prime_start\":%" PRId64 ",\"table_bytes\":%" PRIu64,
                  in->row_bytes, in->scale_bytes, in->prime_start, in->table_bytes);
}

static void put_tables(em_buf *b, const em_inspect *in)
{
    em_buf_puts(b, ",\"tables\":[");
    for (int32_t i = 0; i < in->n_tables; i++) {
        const em_inspect_table *t = &in->table[i];
        em_buf_printf(b, "%s{\"layer\":%d,\"rows\":%" PRId64 ",\"addressed_rows\":%" PRId64 ",\"bytes\":%" PRIu64,
                      i ? "," : "", t->layer, t->n_rows, t->hash.n_rows, t->bytes);
        put_numbers(b, "multipliers", t->hash.multiplier, t->hash.max_order);
        put_numbers(b, "primes", t->hash.prime, t->hash.n_cols);
        put_numbers(b, "first_rows", t->hash.offset, t->hash.n_cols);
        em_buf_puts(b, "}");
    }
    em_buf_puts(b, "]");
}

static void put_tiers(em_buf *b, const em_inspect *in)
{
    em_buf_puts(b, ",");
    em_buf_json_member(b, "auto_tier", in->auto_tier);
    em_buf_puts(b, ",");
    em_buf_json_member(b, "auto_why", in->why);
    em_buf_puts(b, ",\"tiers\":[");
    for (int32_t i = 0; i < in->n_tiers; i++) {
        const em_inspect_tier *t = &in->tier[i];
        em_buf_puts(b, i ? ",{" : "{");
        em_buf_json_member(b, "tier", t->name);
        em_buf_printf(
            b, ",\"memory_bytes\":%" PRIu64 ",\"locked_bytes\":%" PRIu64 ",\"cached_bytes\":%" PRIu64 ",\"fits\":%s}",
            t->own, t->locked, t->cached, t->fits ? "true" : "false");
    }
    em_buf_puts(b, "]");
}

static int print_json(const em_inspect *in, const char *model_dir, em_error *err)
{
    em_buf b = {0};
    em_buf_puts(&b, "{");
    em_buf_json_member(&b, "model", model_dir);
    if (in->n_tables) {
        put_layout(&b, in);
        put_tables(&b, in);
        put_tiers(&b, in);
    } else {
        em_buf_puts(&b, ",\"tables\":[]");
    }
    em_buf_puts(&b, "}");
    return em_command_print_json(&b, err);
}

static int inspect(const em_config *c, em_error *err)
{
    char *model_dir = NULL;
    em_engine_opts opts;
    em_inspect *in = calloc(1, sizeof(*in));
    int r = in ? em_model_dir_find(c->argument ? c->argument : c->model, &model_dir, err)
               : em_error_set(err, -ENOMEM, "out of memory");
    if (r == 0) {
        em_config_engine_opts(c, model_dir, &opts);
        r = em_engine_inspect(&opts, NULL, in, err);
    }
    if (r == 0 && c->json)
        r = print_json(in, model_dir, err);
    else if (r == 0)
        print_all(in, model_dir);
    if (r == 0)
        r = em_command_flush("what was found", err);
    free(model_dir);
    free(in);
    return r;
}

int em_cmd_engram_inspect(int argc, char **argv, char **env)
{
    em_config *c;
    em_error err = {0};
    int code = em_command_begin(EM_COMMAND_ENGRAM_INSPECT, usage, argc, argv, env, &c);
    if (code >= 0)
        return code;
    code = inspect(c, &err) < 0 ? em_command_fail("engram inspect", 1, &err) : 0;
    em_config_free(c);
    return code;
}
