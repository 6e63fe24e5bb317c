/* engramd engram trace [MODEL_DIR] FILE: which rows a text touches. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/buf.h"
#include "engine/base/units.h"
#include "engine/engine.h"
#include "server/commands.h"
#include "server/engram_plot.h"
#include "server/model_dir.h"
#include "server/progress.h"
#include "server/text_file.h"

static const char usage[] =
    "Usage: engramd engram trace [OPTIONS] [MODEL_DIR] FILE\n"
    "Says which rows of the model's Engram tables the text of FILE (-: standard input) touches when its tokens come "
    "one\n"
    "after another, how many of them differ, and what share of the asks a row cache of the nvme tier would find at\n"
    "several sizes. No row is read. Long texts are traced through a sample of the rows; memory stays below 250 MB.\n"
    "\n";

/* --- for people ------------------------------------------------------------------------------------------------- */

static void print_orders(const em_trace_result *res)
{
    printf("\n%5s %16s %16s %8s\n", "order", "asked", "different", "again");
    for (int32_t i = 0; i < res->n_orders; i++) {
        const em_trace_order *o = &res->order[i];
        printf("%5d %16" PRIu64 " %16" PRIu64 " %6.1f %%\n", o->order, o->asked, o->unique,
               100 * (1 - (double)o->unique / (double)o->asked));
    }
}

static void print_points(const em_trace_result *res)
{
    char text[EM_UNITS_TEXT];
    printf("\n%12s %14s %10s %10s\n", "row cache", "rows", "finds", "LRU would");
    for (int32_t i = 0; i < res->n_points; i++) {
        const em_trace_point *p = &res->point[i];
        printf("%12s %14" PRIu64, em_bytes_text(p->bytes, text), p->rows);
        if (p->known)
            printf(" %8.1f %% %8.1f %%", 100 * p->cache, 100 * p->lru);
        else
            printf(" %10s %10s", "?", "?");
        printf("%s\n", p->configured ? "   --engram-cache-bytes" : "");
    }
}

static void print_all(const em_trace_result *res, const char *name)
{
    printf("%s: %" PRIu64 " tokens, %d rows for each (%d tables, orders 2 to %d, %d heads)\n", name, res->tokens,
           res->rows_per_token, res->n_tables, res->max_order, res->n_heads);
    printf("%" PRIu64 " rows asked, %" PRIu64 " different\n", res->rows, res->unique);
    if (res->one_in > 1)
        printf("Estimated from the asks of one row in %u.\n", res->one_in);
    print_orders(res);
    print_points(res);
}

/* --- for scripts ------------------------------------------------------------------------------------------------ */

static void put_points(em_buf *b, const em_trace_result *res)
{
    em_buf_puts(b, ",\"caches\":[");
    for (int32_t i = 0; i < res->n_points; i++) {
        const em_trace_point *p = &res->point[i];
        em_buf_printf(b, "%s{\"bytes\":%" PRIu64 ",\"rows\":%" PRIu64, i ? "," : "", p->bytes, p->rows);
        if (p->known)
            em_buf_printf(b, ",\"hit_rate\":%.6g,\"lru_hit_rate\":%.6g", p->cache, p->lru);
        else
            em_buf_puts(b, ",\"hit_rate\":null,\"lru_hit_rate\":null");
        em_buf_printf(b, ",\"configured\":%s}", p->configured ? "true" : "false");
    }
    em_buf_puts(b, "]");
}

static int print_json(const em_trace_result *res, const char *name, em_error *err)
{
    em_buf b = {0};
    em_buf_puts(&b, "{\"file\":");
    em_buf_json_string(&b, name, strlen(name));
    em_buf_printf(&b,
                  ",\"tokens\":%" PRIu64
                  ",\"tables\":%d,\"heads\":%d,\"rows_per_token\":%d,\"row_bytes\":%zu,\"rows\":%" PRIu64
                  ",\"unique_rows\":%" PRIu64 ",\"sampled_one_in\":%u,\"orders\":[",
                  res->tokens, res->n_tables, res->n_heads, res->rows_per_token, res->row_bytes, res->rows, res->unique,
                  res->one_in);
    for (int32_t i = 0; i < res->n_orders; i++)
        em_buf_printf(&b, "%s{\"order\":%d,\"rows\":%" PRIu64 ",\"unique_rows\":%" PRIu64 "}", i ? "," : "",
                      res->order[i].order, res->order[i].asked, res->order[i].unique);
    em_buf_puts(&b, "]");
    put_points(&b, res);
    em_buf_puts(&b, "}");
    return em_command_print_json(&b, err);
}

static int write_plot(const em_trace_result *res, const char *name, const char *path, em_error *err)
{
    em_buf out = {0};
    em_engram_plot(res, name, &out);
    FILE *f = out.failed ? NULL : fopen(path, "we");
    int r = f ? 0 : out.failed ? -ENOMEM : -errno;
    if (f && fwrite(out.data, 1, out.len, f) != out.len)
        r = -errno;
    if (f && fclose(f) != 0 && r == 0)
        r = -errno;
    em_buf_done(&out);
    return r < 0 ? em_error_set(err, r, "cannot write %s: %s", path, strerror(-r)) : 0;
}

/* --- the command ------------------------------------------------------------------------------------------------- */

static size_t cut(const void *trace, const char *text, size_t len)
{
    return em_trace_cut(trace, text, len);
}

static int read_all(em_text_file *file, em_trace *t, em_progress *progress, em_error *err)
{
    int r = 0;
    while (r == 0 && !file->at_end) {
        const char *text;
        size_t len;
        r = em_text_file_next(file, cut, t, &text, &len, err);
        if (r == 0)
            r = em_trace_add(t, text, len, err);
        em_progress_show(progress, file->name, em_text_file_done(file));
    }
    return r;
}

static int trace_file(const em_config *c, em_text_file *file, em_progress *progress, em_trace_result *ret_result,
                      em_error *err)
{
    char *model_dir = NULL;
    em_trace *t = NULL;
    int r = em_model_dir_find(c->second_argument ? c->argument : c->model, &model_dir, err);
    em_trace_opts opts = {.model_dir = model_dir, .cache_bytes = (uint64_t)c->engram_cache_bytes};
    if (r == 0)
        r = em_trace_open(&opts, &t, err);
    if (r == 0)
        r = read_all(file, t, progress, err);
    if (r == 0)
        r = em_trace_finish(t, em_progress_show, progress, ret_result, err);
    if (r == 0 && ret_result->tokens == 0)
        r = em_error_set(err, -EINVAL, "%s holds no token: there is nothing to trace", file->name);
    em_trace_close(t);
    free(model_dir);
    return r;
}

static int trace(const em_config *c, em_error *err)
{
    em_text_file file = {0};
    em_progress progress;
    em_trace_result res;
    em_progress_begin(&progress);
    int r = em_text_file_open(&file, c->second_argument ? c->second_argument : c->argument, err);
    if (r == 0)
        r = trace_file(c, &file, &progress, &res, err);
    em_progress_end(&progress);
    if (r == 0 && *c->svg)
        r = write_plot(&res, file.name, c->svg, err);
    if (r == 0 && c->json)
        r = print_json(&res, file.name, err);
    else if (r == 0)
        print_all(&res, file.name);
    if (r == 0)
        r = em_command_flush("what was found", err);
    em_text_file_close(&file);
    return r;
}

int em_cmd_engram_trace(int argc, char **argv, char **env)
{
    em_config *c;
    em_error err = {0};
    int code = em_command_begin(EM_COMMAND_ENGRAM_TRACE, usage, argc, argv, env, &c);
    if (code >= 0)
        return code;
    if (!c->argument) {
        em_error_set(&err, -EINVAL, "a FILE is missing; - reads standard input");
        code = em_command_fail("engram trace", 2, &err);
    } else {
        code = trace(c, &err) < 0 ? em_command_fail("engram trace", 1, &err) : 0;
    }
    em_config_free(c);
    return code;
}
