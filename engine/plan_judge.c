/* Does the plan fit the machine, and if not: which flags would make it fit, found by counting again with them. */
#include "engine/plan_count.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/units.h"

/* --- checks ----------------------------------------------------------------------------------------------------- */

static void check(em_memory_plan *p, const char *name, uint64_t need, uint64_t limit, bool known)
{
    p->check[p->n_checks++] = (em_plan_check){
        .name = name, .need = need, .limit = known ? limit : 0, .known = known, .good = !known || need <= limit};
}

static void run_checks(em_memory_plan *p)
{
    const em_machine *m = &p->machine;
    uint64_t need = p->own + p->mapped;
    p->n_checks = 0;
    check(p, "cgroup", need, m->cgroup_room, m->cgroup_limit != EM_UNLIMITED);
    check(p, "free_memory", need, m->available, m->available != 0);
    /* a GPU's driver locks pages on its own account, under limits that nobody can read before */
    check(p, "locked_memory", p->locked, m->memlock, m->memlock != 0 && !p->device);
    check(p, "address_space", need + p->cached, m->address_space, m->address_space != EM_UNLIMITED);
    if (p->device)
        check(p, "device_memory", p->device, p->device_free, true);
    p->fits = true;
    for (int32_t i = 0; i < p->n_checks; i++)
        p->fits = p->fits && p->check[i].good;
}

/* --- what to change --------------------------------------------------------------------------------------------- */

typedef struct remedy {
    em_plan_input in; /* with what was changed so far */
    em_memory_plan plan;
    uint64_t room;    /* bytes to stay below: a little less than there are, since others take and give all the time */
    bool counts_rows; /* rows that stay in files count, too: it is address space that is short */
    char flags[256];
} remedy;

static uint64_t need_of(const remedy *r)
{
    return r->plan.own + r->plan.mapped + (r->counts_rows ? r->plan.cached : 0);
}

/* Counts again. False when these settings are none. */
static bool recount(remedy *r, const em_plan_input *in)
{
    em_memory_plan plan;
    if (em_plan_count(in, &plan, NULL) < 0)
        return false;
    r->in = *in;
    r->plan = plan;
    return true;
}

__attribute__((format(printf, 2, 3))) static void say(remedy *r, const char *fmt, ...)
{
    size_t at = strlen(r->flags);
    va_list args;
    if (at)
        at += (size_t)snprintf(r->flags + at, sizeof(r->flags) - at, " ");
    va_start(args, fmt);
    if (at < sizeof(r->flags))
        vsnprintf(r->flags + at, sizeof(r->flags) - at, fmt, args);
    va_end(args);
}

/* The tables stay in their files. */
static void try_tier(remedy *r)
{
    em_plan_input in = r->in;
    uint64_t before = need_of(r);
    in.opts.engram_tier = EM_ENGRAM_TIER_MMAP;
    if (in.cfg->n_engram_layers && recount(r, &in) && need_of(r) < before)
        say(r, "--engram-tier mmap");
}

/* As many KV blocks as there is room for, but enough for one sequence. */
static void try_kv(remedy *r)
{
    em_plan_input in = r->in;
    int64_t block = em_cpu_state_bytes(in.cfg, r->plan.block_tokens).block;
    int64_t least = ((int64_t)r->plan.max_len + r->plan.block_tokens - 1) / r->plan.block_tokens;
    uint64_t excess = need_of(r) - r->room;
    int64_t fewer = (int64_t)((excess + (uint64_t)block - 1) / (uint64_t)block);
    int64_t blocks = r->plan.n_blocks > fewer ? r->plan.n_blocks - fewer : 0;
    blocks = blocks < least ? least : blocks;
    if (blocks >= r->plan.n_blocks)
        return;
    in.opts.kv_cache_bytes = blocks * block;
    if (recount(r, &in))
        say(r, "--kv-cache-bytes %lld", (long long)in.opts.kv_cache_bytes);
}

/* Halves *value down to `least` until it fits. */
static void try_halving(remedy *r, size_t offset, int32_t least, const char *flag)
{
    em_plan_input in = r->in;
    int32_t *value = (int32_t *)(void *)((char *)&in.opts + offset), before = *value;
    while (need_of(r) > r->room && *value / 2 >= least) {
        *value /= 2;
        if (in.opts.max_seqs > in.opts.max_batch_tokens)
            in.opts.max_seqs = in.opts.max_batch_tokens;
        if (!recount(r, &in))
            return;
    }
    if (*value != before)
        say(r, "%s %d", flag, *value);
}

/* The fewest changes: fewer KV blocks alone if that is enough. */
static void find_remedy(remedy *r)
{
    remedy kv = *r;
    try_kv(&kv);
    if (need_of(&kv) <= r->room) {
        *r = kv;
        return;
    }
    try_tier(r);
    if (need_of(r) > r->room)
        try_kv(r);
    if (need_of(r) > r->room)
        try_halving(r, offsetof(em_model_opts, max_batch_tokens), 64, "--max-num-batched-tokens");
    if (need_of(r) > r->room)
        try_halving(r, offsetof(em_model_opts, max_seqs), 1, "--max-num-seqs");
}

/* The tightest limit that does not hold, in words for a sentence. */
static uint64_t room_of(const em_memory_plan *p, const char **ret_of, bool *ret_address_space)
{
    uint64_t room = EM_UNLIMITED;
    for (int32_t i = 0; i < p->n_checks; i++) {
        const em_plan_check *c = &p->check[i];
        if (c->good || c->limit >= room || strcmp(c->name, "locked_memory") == 0 ||
            strcmp(c->name, "device_memory") == 0)
            continue;
        room = c->limit;
        *ret_address_space = strcmp(c->name, "address_space") == 0;
        *ret_of = strcmp(c->name, "cgroup") == 0 ? "are left in its control group"
                  : *ret_address_space           ? "of address space are allowed (ulimit -v)"
                                                 : "are free on this machine";
    }
    return room;
}

static void advise(const em_plan_input *in, em_memory_plan *p)
{
    const char *of = NULL;
    char need[EM_UNITS_TEXT], room[EM_UNITS_TEXT], least[EM_UNITS_TEXT];
    remedy r = {.in = *in, .plan = *p};
    uint64_t limit = room_of(p, &of, &r.counts_rows);
    r.room = limit - limit / 32;
    if (!of) {
        snprintf(p->advice, sizeof(p->advice),
                 "it locks %s, but this process may lock %s: raise the limit (ulimit -l, LimitMEMLOCK=), or choose a "
                 "tier that is not locked.",
                 em_bytes_text(p->locked, need), em_bytes_text(p->machine.memlock, room));
        return;
    }
    em_bytes_text(need_of(&r), need);
    em_bytes_text(limit, room);
    find_remedy(&r);
    em_bytes_text(need_of(&r), least);
    if (need_of(&r) <= limit)
        snprintf(p->advice, sizeof(p->advice), "it needs %s, but only %s %s: it would fit with %s.", need, room, of,
                 r.flags);
    else if (r.flags[0])
        snprintf(p->advice, sizeof(p->advice),
                 "it needs %s, but only %s %s, and even with %s it would need %s: give it more memory, or take a "
                 "smaller model.",
                 need, room, of, r.flags, least);
    else
        snprintf(p->advice, sizeof(p->advice),
                 "it needs %s, but only %s %s, and no setting makes it smaller: give it more memory, or take a smaller "
                 "model.",
                 need, room, of);
}

void em_plan_judge(const em_plan_input *in, const em_machine *machine, em_memory_plan *plan)
{
    plan->machine = *machine;
    run_checks(plan);
    plan->advice[0] = '\0';
    if (!plan->fits)
        advise(in, plan);
}
