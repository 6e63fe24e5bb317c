/* engramd plan [MODEL_DIR]: what serving would take, before anything is taken. */
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
    "Usage: engramd plan [OPTIONS] [MODEL_DIR]\n"
    "Says what serving the model with these options would take of this machine's memory, and whether it fits, before\n"
    "anything is taken. Exit status 1 when it does not fit.\n"
    "\n";

static const char *place_name(em_plan_place place)
{
    switch (place) {
    case EM_PLACE_OWN: return "memory";
    case EM_PLACE_MAPPED: return "mapped";
    case EM_PLACE_CACHED: return "cached";
    case EM_PLACE_LOCKED: return "locked";
    case EM_PLACE_DEVICE: return "device";
    }
    return "";
}

static const char *gpu_text(const em_memory_plan *p, char *text, size_t cap)
{
    if (p->device)
        snprintf(text, cap, "%s computes", p->device_name);
    else if (p->backend_why[0])
        snprintf(text, cap, "not used: %s", p->backend_why);
    else
        snprintf(text, cap, "%d on this machine; this plan is for the CPU", p->machine.n_gpus);
    return text;
}

/* --- for people ------------------------------------------------------------------------------------------------- */

static void print_check(const em_plan_check *c)
{
    static const char *const names[][2] = {{"cgroup", "control group"},
                                           {"free_memory", "free memory"},
                                           {"locked_memory", "locked memory"},
                                           {"address_space", "address space"},
                                           {"device_memory", "GPU memory"}};
    char need[EM_UNITS_TEXT], limit[EM_UNITS_TEXT];
    const char *name = c->name;
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
        if (strcmp(c->name, names[i][0]) == 0)
            name = names[i][1];
    em_bytes_text(c->need, need);
    if (!c->known || c->limit == EM_UNLIMITED)
        printf("  %-16s %10s of no limit%s\n", name, need, c->known ? "" : " that could be read");
    else
        printf("  %-16s %10s of %-10s %s\n", name, need, em_bytes_text(c->limit, limit),
               c->good ? "fits" : "DOES NOT FIT");
}

static void print_table(const em_memory_plan *p, const char *model_dir)
{
    char text[EM_UNITS_TEXT], gpu[320];
    printf("%s\n%d threads, %d sequences of up to %d tokens, %d tokens in a step, %d KV blocks of %d tokens\n\n",
           model_dir, p->n_threads, p->max_seqs, p->max_len, p->max_batch_tokens, p->n_blocks, p->block_tokens);
    for (int32_t i = 0; i < p->n_items; i++) {
        const em_plan_item *it = &p->item[i];
        printf("  %-16s %10s  %-7s %s%s\n", it->name, em_bytes_text(it->bytes, text), place_name(it->place), it->what,
               it->estimated ? " (estimated)" : "");
    }
    printf("\n  %-16s %10s  the process's own\n", "memory", em_bytes_text(p->own, text));
    printf("  %-16s %10s  pages of files that every step reads\n", "mapped", em_bytes_text(p->mapped, text));
    if (p->device)
        printf("  %-16s %10s  one arena in the GPU's memory\n", "device", em_bytes_text(p->device, text));
    if (p->cached)
        printf("  %-16s %10s  pages of files read here and there; not counted below\n", "cached",
               em_bytes_text(p->cached, text));
    printf("\n");
    for (int32_t i = 0; i < p->n_checks; i++)
        print_check(&p->check[i]);
    printf("  %-16s %s\n\n%s\n", "GPU", gpu_text(p, gpu, sizeof(gpu)), p->fits ? "It fits." : "It does not fit.");
}

/* --- for scripts ------------------------------------------------------------------------------------------------ */

static void put_items(em_buf *b, const em_memory_plan *p)
{
    em_buf_puts(b, "\"items\":[");
    for (int32_t i = 0; i < p->n_items; i++) {
        const em_plan_item *it = &p->item[i];
        em_buf_puts(b, i ? ",{" : "{");
        em_buf_json_member(b, "name", it->name);
        em_buf_printf(b, ",\"bytes\":%" PRIu64 ",", it->bytes);
        em_buf_json_member(b, "place", place_name(it->place));
        em_buf_printf(b, ",\"estimated\":%s}", it->estimated ? "true" : "false");
    }
    em_buf_printf(b,
                  "],\"memory_bytes\":%" PRIu64 ",\"mapped_bytes\":%" PRIu64 ",\"cached_bytes\":%" PRIu64
                  ",\"locked_bytes\":%" PRIu64 ",\"device_bytes\":%" PRIu64,
                  p->own, p->mapped, p->cached, p->locked, p->device);
}

static void put_checks(em_buf *b, const em_memory_plan *p)
{
    em_buf_puts(b, "\"checks\":[");
    for (int32_t i = 0; i < p->n_checks; i++) {
        const em_plan_check *c = &p->check[i];
        em_buf_puts(b, i ? ",{" : "{");
        em_buf_json_member(b, "name", c->name);
        em_buf_printf(b, ",\"need_bytes\":%" PRIu64, c->need);
        if (c->known && c->limit != EM_UNLIMITED)
            em_buf_printf(b, ",\"limit_bytes\":%" PRIu64, c->limit);
        else
            em_buf_puts(b, ",\"limit_bytes\":null");
        em_buf_printf(b, ",\"fits\":%s}", c->good ? "true" : "false");
    }
    em_buf_puts(b, "]");
}

static int print_json(const em_memory_plan *p, const char *model_dir, em_error *err)
{
    em_buf b = {0};
    em_buf_puts(&b, "{");
    em_buf_json_member(&b, "model", model_dir);
    em_buf_printf(&b,
                  ",\"threads\":%d,\"max_model_len\":%d,\"max_num_seqs\":%d,\"max_num_batched_tokens\":%d,"
                  "\"snapshots\":%d,\"kv_block_tokens\":%d,\"kv_blocks\":%d,",
                  p->n_threads, p->max_len, p->max_seqs, p->max_batch_tokens, p->n_snapshots, p->block_tokens,
                  p->n_blocks);
    em_buf_json_member(&b, "engram_tier", p->engram_tier);
    em_buf_puts(&b, ",");
    em_buf_json_member(&b, "backend", p->backend);
    em_buf_puts(&b, ",");
    em_buf_json_member(&b, "device", p->device_name);
    em_buf_puts(&b, ",");
    em_buf_json_member(&b, "no_gpu_because", p->backend_why);
    em_buf_puts(&b, ",");
    put_items(&b, p);
    em_buf_puts(&b, ",");
    put_checks(&b, p);
    em_buf_printf(&b, ",\"gpus\":%d,\"fits\":%s,", p->machine.n_gpus, p->fits ? "true" : "false");
    em_buf_json_member(&b, "advice", p->advice);
    em_buf_puts(&b, "}");
    return em_command_print_json(&b, err);
}

static int plan(const em_config *c, em_error *err)
{
    char *model_dir = NULL;
    em_engine_opts opts;
    em_memory_plan *p = calloc(1, sizeof(*p));
    int r = p ? em_model_dir_find(c->argument ? c->argument : c->model, &model_dir, err)
              : em_error_set(err, -ENOMEM, "out of memory");
    if (r == 0) {
        em_config_engine_opts(c, model_dir, &opts);
        r = em_engine_plan(&opts, NULL, p, err);
    }
    if (r == 0 && c->json)
        r = print_json(p, model_dir, err);
    else if (r == 0)
        print_table(p, model_dir);
    if (r == 0)
        r = em_command_flush("the plan", err);
    if (r == 0 && !p->fits)
        r = em_error_set(err, -ENOMEM, "%s", p->advice);
    free(model_dir);
    free(p);
    return r;
}

int em_cmd_plan(int argc, char **argv, char **env)
{
    em_config *c;
    em_error err = {0};
    int code = em_command_begin(EM_COMMAND_PLAN, usage, argc, argv, env, &c);
    if (code >= 0)
        return code;
    code = plan(c, &err) < 0 ? em_command_fail("plan", 1, &err) : 0;
    em_config_free(c);
    return code;
}
