/* engramd bench [MODEL_DIR]: what a model does on this machine, beside what its memory can do. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/buf.h"
#include "engine/base/units.h"
#include "engine/engine.h"
#include "server/commands.h"
#include "server/model_dir.h"
#include "server/progress.h"

static const char usage[] = "Usage: engramd bench [OPTIONS] [MODEL_DIR]\n"
                            "Measures prefill and decode rates, and between the steps how fast all threads read "
                            "memory: what a decode step could\n"
                            "reach at best. Nothing else should run on the machine meanwhile.\n"
                            "\n";

static int parse_sizes(const em_strings *list, const char *flag, int32_t *ret_v, int32_t *ret_n, em_error *err)
{
    if (list->n > EM_BENCH_MAX_SIZES)
        return em_error_set(err, -EINVAL, "--%s: more than %d values", flag, EM_BENCH_MAX_SIZES);
    for (int i = 0; i < list->n; i++) {
        char *end;
        errno = 0;
        long v = strtol(list->s[i], &end, 10);
        if (*end || errno || v < 1 || v > EM_BENCH_MAX_TOKENS)
            return em_error_set(err, -EINVAL, "--%s: \"%s\" is not a number from 1 to %d", flag, list->s[i],
                                EM_BENCH_MAX_TOKENS);
        ret_v[i] = (int32_t)v;
    }
    *ret_n = list->n;
    return 0;
}

static int make_opts(const em_config *c, em_bench_opts *ret_opts, em_error *err)
{
    em_bench_opts o = {.point_ns = c->seconds, .read_bytes = (uint64_t)c->read_bytes};
    int r = parse_sizes(&c->batch, "batch", o.batch, &o.n_batches, err);
    if (r == 0)
        r = parse_sizes(&c->context, "context", o.context, &o.n_contexts, err);
    if (r == 0)
        r = parse_sizes(&c->prompt_tokens, "prompt-tokens", o.prompt, &o.n_prompts, err);
    if (r == 0)
        *ret_opts = o;
    return r;
}

/* --- for scripts ------------------------------------------------------------------------------------------------- */

static void put_decode(em_buf *b, const em_bench_result *r)
{
    em_buf_puts(b, ",\"decode\":[");
    for (int32_t i = 0; i < r->n_decode; i++) {
        const em_bench_decode *d = &r->decode[i];
        em_buf_printf(
            b,
            "%s{\"batch\":%d,\"context\":%d,\"tok_s\":%.6g,\"bytes_per_token\":%.0f,\"fraction_of_read\":%.4g,"
            "\"engram_fraction\":%.4g,\"ms\":{\"engram\":%.4g,\"attention\":%.4g,\"moe\":%.4g,\"dense\":%.4g,"
            "\"head\":%.4g,\"other\":%.4g}}",
            i ? "," : "", d->batch, d->context, d->tok_s, d->bytes_per_token, d->fraction_of_read, d->engram_fraction,
            d->ms.engram, d->ms.attention, d->ms.moe, d->ms.dense, d->ms.head, d->ms.other);
    }
    em_buf_puts(b, "],\"prefill\":[");
    for (int32_t i = 0; i < r->n_prefill; i++)
        em_buf_printf(b, "%s{\"tokens\":%d,\"tok_s\":%.6g}", i ? "," : "", r->prefill[i].tokens, r->prefill[i].tok_s);
    em_buf_puts(b, "]");
}

static int print_json(const em_bench_result *r, em_error *err)
{
    em_buf b = {0};
    em_buf_puts(&b, "{\"machine\":{\"cpu\":");
    em_buf_json_string(&b, r->cpu, strlen(r->cpu));
    em_buf_printf(&b, ",\"cores\":%d,\"device\":", r->cores);
    em_buf_json_string(&b, r->device, strlen(r->device));
    em_buf_printf(&b, "},\"read_gbps\":%.4g,\"math\":", r->read_gbps);
    em_buf_json_string(&b, r->math, strlen(r->math));
    put_decode(&b, r);
    if (r->has_engram)
        em_buf_printf(&b,
                      ",\"engram\":{\"rows\":%" PRId64 ",\"gather_rows_s_per_core\":%.4g,\"wait_us_p50\":%.4g,"
                      "\"wait_us_p99\":%.4g}",
                      r->engram_rows, r->gather_rows_s_per_core, r->wait_us_p50, r->wait_us_p99);
    if (r->has_server)
        em_buf_printf(&b, ",\"server\":{\"schedule_us_p50\":%.4g,\"schedule_us_p99\":%.4g}", r->schedule_us_p50,
                      r->schedule_us_p99);
    em_buf_puts(&b, "}");
    return em_command_print_json(&b, err);
}

/* --- for people -------------------------------------------------------------------------------------------------- */

static void print_decode(const em_bench_result *r)
{
    char bytes[EM_UNITS_TEXT];
    if (r->n_decode == 0)
        return;
    printf("\n%-8s %8s %10s %12s %8s   %s\n", "decode", "", "", "weights", "of read", "milliseconds of a step");
    printf("%8s %8s %10s %12s %8s   %8s %9s %8s %8s %8s %8s\n", "batch", "context", "tok/s", "per token", "rate",
           "engram", "attention", "moe", "dense", "head", "other");
    for (int32_t i = 0; i < r->n_decode; i++) {
        const em_bench_decode *d = &r->decode[i];
        printf("%8d %8d %10.1f %12s %6.1f %%   %8.3f %9.3f %8.3f %8.3f %8.3f %8.3f\n", d->batch, d->context, d->tok_s,
               em_bytes_text((uint64_t)d->bytes_per_token, bytes), 100 * d->fraction_of_read, d->ms.engram,
               d->ms.attention, d->ms.moe, d->ms.dense, d->ms.head, d->ms.other);
    }
}

static void print_table(const em_bench_result *r)
{
    printf("%s, %d threads, %s, math %s\nread rate %.1f GB/s\n", *r->cpu ? r->cpu : "unknown CPU", r->cores, r->device,
           r->math, r->read_gbps);
    for (int32_t i = 0; i < r->n_prefill; i++)
        printf("%s%8d tokens %10.1f tok/s\n", i ? "" : "\nprefill\n", r->prefill[i].tokens, r->prefill[i].tok_s);
    print_decode(r);
    if (r->has_engram)
        printf("\nEngram: %" PRId64
               " rows; one core gathers %.2f million rows/s; a step waits %.1f us (median), %.1f us "
               "(99 %%)\n",
               r->engram_rows, r->gather_rows_s_per_core / 1e6, r->wait_us_p50, r->wait_us_p99);
    if (r->has_server)
        printf("Planning a step: %.1f us (median), %.1f us (99 %%)\n", r->schedule_us_p50, r->schedule_us_p99);
    if (r->n_skipped)
        printf("%d figures left out: longer than the model, or more than the memory holds.\n", r->n_skipped);
}

/* --- the command ------------------------------------------------------------------------------------------------- */

static int bench(const em_config *c, em_bench_opts *o, em_error *err)
{
    char *model_dir = NULL;
    em_engine_opts engine;
    em_progress progress;
    em_bench_result *result = calloc(1, sizeof(*result));
    int r = result ? em_model_dir_find(c->argument ? c->argument : c->model, &model_dir, err)
                   : em_error_set(err, -ENOMEM, "out of memory");
    em_progress_begin(&progress);
    if (r == 0) {
        em_config_engine_opts(c, model_dir, &engine);
        engine.on_progress = o->on_progress = em_progress_show;
        engine.progress_ctx = o->progress_ctx = &progress;
        o->engine = &engine;
        r = em_engine_bench(o, result, err);
    }
    em_progress_end(&progress);
    if (r == 0 && c->json)
        r = print_json(result, err);
    else if (r == 0)
        print_table(result);
    if (r == 0)
        r = em_command_flush("the figures", err);
    free(model_dir);
    free(result);
    return r;
}

int em_cmd_bench(int argc, char **argv, char **env)
{
    em_config *c;
    em_error err = {0};
    em_bench_opts o;
    int code = em_command_begin(EM_COMMAND_BENCH, usage, argc, argv, env, &c);
    if (code >= 0)
        return code;
    if (make_opts(c, &o, &err) < 0)
        code = em_command_fail("bench", 2, &err);
    else
        code = bench(c, &o, &err) < 0 ? em_command_fail("bench", 1, &err) : 0;
    em_config_free(c);
    return code;
}
