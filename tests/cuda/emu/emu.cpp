/* Fibers, barriers, warp operations and shared memory of the CUDA emulator. One OS thread, one block at a time. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "tests/cuda/emu/emu.h"
#include "tests/cuda/emu/fiber.h"

/* Declared in tests/cuda/runtime/launch.h in the runtime's own types, which programs without the runtime do not have. */
extern "C" __attribute__((weak)) int em_fake_launch(void *stream, void (*run)(void *ctx), void (*drop)(void *ctx),
                                                    void *ctx);

enum {
    MAX_THREADS = 1024,
    MAX_WARPS = MAX_THREADS / 32,
    MAX_COLLECTIVES = 8,      /* masks of one warp in use at a time */
    MAX_SHARED = 48 * 1024,   /* bytes that every architecture gives without being asked */
    MAX_ARRAYS = 16,          /* shared arrays of one kernel */
    INVALID_CONFIGURATION = 9 /* cudaErrorInvalidConfiguration */
};

enum state { RUN, BAR, WARP, DEAD };

struct cuda_thread : emu_thread {
    emu_fiber fiber;
    state st;
    emu_place at;
};

/* Warp operation of one mask: lanes write to slot[gen & 1]. Two are enough: nobody can write for gen + 2 before all
 * have written for gen + 1, and so have read gen. */
struct collective {
    unsigned mask, arrived, gen;
    emu_place at;
    unsigned char slot[2][32][EMU_SLOT];
};

/* A launch. */
struct launch {
    void (*call)(void (*kernel)(), const void *args);
    void (*kernel)();
    const char *name;
    dim3 grid;
    unsigned block;
    unsigned long shared;
    unsigned char *args;
};

struct shared_array {
    const void *token;
    void *mem;
};

emu_thread *emu_cur;
dim3 emu_grid_dim, emu_block_dim;

static cuda_thread threads[MAX_THREADS];
static emu_fiber host_fiber;
static const launch *grid;
static unsigned n_threads, n_alive;
static unsigned queue[MAX_THREADS], queue_head, queue_n; /* ready threads, each at most once */
static unsigned bar_arrived;
static emu_place bar_at;
static collective collectives[MAX_WARPS][MAX_COLLECTIVES];
static shared_array arrays[MAX_ARRAYS];
static unsigned n_arrays;
static unsigned long shared_bytes;
static void *dynamic_shared;

static emu_order order = EMU_ASC;
static uint64_t rng = 1;
static uint64_t grids_run;

static uint64_t rnd()
{
    rng ^= rng << 13;
    rng ^= rng >> 7;
    rng ^= rng << 17;
    return rng;
}

void emu_set_order(emu_order o, uint64_t seed)
{
    order = o;
    rng = seed * 0x9E3779B97F4A7C15u + 1;
}

void emu_fail(emu_place at, const char *what)
{
    fprintf(stderr, "cuda emulator: %s:%d: %s", at.file, at.line, what);
    if (emu_cur)
        fprintf(stderr, "; kernel %s, block (%u,%u,%u), thread %u", grid->name, emu_cur->block.x, emu_cur->block.y,
                emu_cur->block.z, emu_cur->thread.x);
    fprintf(stderr, "\n");
    abort();
}

/* ---- who runs ---- */

static void push(unsigned i)
{
    queue[(queue_head + queue_n++) % MAX_THREADS] = i;
}

static unsigned pop()
{
    unsigned last = (queue_head + --queue_n) % MAX_THREADS, i = last;
    if (order == EMU_ASC) {
        i = queue_head;
        queue_head = (queue_head + 1) % MAX_THREADS;
        return queue[i];
    }
    if (order == EMU_RAND)
        i = (queue_head + (unsigned)(rnd() % (queue_n + 1))) % MAX_THREADS;
    unsigned chosen = queue[i];
    queue[i] = queue[last];
    return chosen;
}

[[noreturn]] static void deadlock()
{
    fprintf(stderr, "cuda emulator: deadlock in kernel %s; waiting:\n", grid->name);
    for (unsigned i = 0, shown = 0; i < n_threads && shown < 8; i++) {
        if (threads[i].st == DEAD)
            continue;
        fprintf(stderr, "  thread %u at %s:%d (%s)\n", i, threads[i].at.file, threads[i].at.line,
                threads[i].st == BAR ? "barrier" : "warp");
        shown++;
    }
    abort();
}

/* Gives the processor to the next ready thread, or to the host when the block is done. */
static void yield(emu_fiber *from)
{
    if (queue_n == 0 && n_alive > 0)
        deadlock();
    if (queue_n == 0) {
        emu_cur = NULL;
        emu_fiber_switch(from, &host_fiber);
        return;
    }
    cuda_thread *next = &threads[pop()];
    emu_cur = next;
    if (&next->fiber != from)
        emu_fiber_switch(from, &next->fiber);
}

static cuda_thread *current()
{
    return static_cast<cuda_thread *>(emu_cur);
}

static void wait_as(state st, emu_place at)
{
    cuda_thread *t = current();
    t->st = st;
    t->at = at;
    yield(&t->fiber);
}

void emu_maybe_switch(void)
{
    if (order != EMU_RAND || (rnd() & 7))
        return;
    cuda_thread *t = current();
    push(t->thread.x);
    yield(&t->fiber);
}

static void wake(cuda_thread *t)
{
    t->st = RUN;
    push(t->thread.x);
}

/* ---- barriers and warps ---- */

void emu_barrier(emu_place at)
{
    if (n_alive != n_threads)
        emu_fail(at, "__syncthreads after a thread of the block has returned");
    if (bar_arrived == 0)
        bar_at = at;
    else if (bar_at.line != at.line || strcmp(bar_at.file, at.file) != 0)
        emu_fail(at, "divergent __syncthreads: others of the block wait at another one");
    if (++bar_arrived < n_threads) {
        wait_as(BAR, at);
        return;
    }
    bar_arrived = 0;
    cuda_thread *t = current();
    for (unsigned i = 0; i < n_threads; i++)
        wake(&threads[i]);
    yield(&t->fiber);
}

static collective *collective_of(const cuda_thread *t, unsigned mask, emu_place at)
{
    collective *list = collectives[t->warp], *unused = NULL;
    for (int i = 0; i < MAX_COLLECTIVES; i++) {
        collective *c = &list[i];
        if (c->mask != mask && c->arrived && (c->mask & mask))
            emu_fail(at, "a warp operation while lanes of its mask are in another one");
        if (c->mask == mask)
            unused = c;
        else if (!unused && c->mask == 0)
            unused = c;
    }
    if (!unused)
        emu_fail(at, "too many different warp masks");
    unused->mask = mask;
    return unused;
}

static void check_lanes(const cuda_thread *t, unsigned mask, emu_place at)
{
    if (!(mask >> t->lane & 1))
        emu_fail(at, "a lane takes part in a warp operation whose mask leaves it out");
    for (unsigned i = 0; i < 32; i++)
        if (mask >> i & 1 && threads[t->warp * 32 + i].st == DEAD)
            emu_fail(at, "a warp operation waits for a lane that has returned");
}

const unsigned char (*emu_exchange(unsigned mask, const void *value, unsigned size, emu_place at))[EMU_SLOT]
{
    cuda_thread *t = current();
    collective *c = collective_of(t, mask, at);
    if (c->arrived == 0) {
        check_lanes(t, mask, at);
        c->at = at;
    } else if (c->at.line != at.line || strcmp(c->at.file, at.file) != 0) {
        emu_fail(at, "lanes of one warp are in different warp operations");
    }
    if (!(mask >> t->lane & 1))
        emu_fail(at, "a lane takes part in a warp operation whose mask leaves it out");
    unsigned g = c->gen & 1;
    memcpy(c->slot[g][t->lane], value, size);
    c->arrived |= 1u << t->lane;
    if (c->arrived != mask) {
        wait_as(WARP, at);
        return c->slot[g];
    }
    c->arrived = 0;
    c->gen++;
    for (unsigned i = 0; i < 32; i++)
        if (mask >> i & 1 && i != t->lane)
            wake(&threads[t->warp * 32 + i]);
    return c->slot[g];
}

/* ---- shared memory ---- */

static void *shared_alloc(unsigned long size, emu_place at)
{
    shared_bytes += size;
    if (shared_bytes > MAX_SHARED)
        emu_fail(at, "more than 48 KiB of shared memory");
    void *p = malloc(size ? size : 1);
    if (!p)
        emu_fail(at, "no memory");
    memset(p, 0xff, size);
    return p;
}

void *emu_shared(const void *token, unsigned long size, emu_place at)
{
    for (unsigned i = 0; i < n_arrays; i++)
        if (arrays[i].token == token)
            return arrays[i].mem;
    if (n_arrays == MAX_ARRAYS)
        emu_fail(at, "too many shared arrays");
    arrays[n_arrays] = {token, shared_alloc(size, at)};
    return arrays[n_arrays++].mem;
}

void *emu_dynamic_shared(void)
{
    if (!dynamic_shared)
        dynamic_shared = shared_alloc(grid->shared, EMU_HERE);
    return dynamic_shared;
}

static void shared_release()
{
    for (unsigned i = 0; i < n_arrays; i++)
        free(arrays[i].mem);
    free(dynamic_shared);
    dynamic_shared = NULL;
    n_arrays = 0;
    shared_bytes = 0;
}

/* ---- blocks and grids ---- */

static void thread_end(cuda_thread *t)
{
    emu_place end = {grid->name, 0};
    if (bar_arrived)
        emu_fail(bar_at, "a thread returned while others of its block wait at this barrier");
    for (int i = 0; i < MAX_COLLECTIVES; i++)
        if (collectives[t->warp][i].arrived && collectives[t->warp][i].mask >> t->lane & 1)
            emu_fail(collectives[t->warp][i].at, "a lane returned while others of its warp wait for it here");
    t->st = DEAD;
    t->at = end;
    n_alive--;
}

static void fiber_main()
{
    for (;;) {
        cuda_thread *t = current();
        grid->call(grid->kernel, grid->args);
        thread_end(t);
        yield(&t->fiber);
    }
}

static void run_block(dim3 block)
{
    n_alive = n_threads;
    bar_arrived = 0;
    queue_head = queue_n = 0;
    memset(collectives, 0, sizeof(collectives[0]) * (n_threads / 32));
    for (unsigned i = 0; i < n_threads; i++) {
        cuda_thread *t = &threads[i];
        if (!t->fiber.made)
            emu_fiber_make(&t->fiber, i, fiber_main);
        t->thread = dim3(i, 0, 0);
        t->block = block;
        t->lane = i % 32;
        t->warp = i / 32;
        wake(t);
    }
    yield(&host_fiber);
    shared_release();
}

/* A permutation of n without a table: steps by a number that has no factor in common with n. */
static uint64_t coprime_step(uint64_t n)
{
    for (;;) {
        uint64_t step = rnd() % n + 1, a = n, b = step;
        while (b) {
            uint64_t r = a % b;
            a = b;
            b = r;
        }
        if (a == 1)
            return step;
    }
}

static void run_grid(void *ctx)
{
    launch *g = (launch *)ctx;
    uint64_t n = (uint64_t)g->grid.x * g->grid.y * g->grid.z, first = 0, step = 1;
    grid = g;
    emu_grid_dim = g->grid;
    emu_block_dim = dim3(g->block);
    n_threads = g->block;
    if (order == EMU_DESC) {
        first = n - 1;
        step = n > 1 ? n - 1 : 1;
    } else if (order == EMU_RAND) {
        first = rnd() % n;
        step = coprime_step(n);
    }
    for (uint64_t i = 0, b = first; i < n; i++, b = (b + step) % n)
        run_block(dim3((unsigned)(b % g->grid.x), (unsigned)(b / g->grid.x % g->grid.y),
                       (unsigned)(b / g->grid.x / g->grid.y)));
    grids_run++;
}

static void drop_grid(void *ctx)
{
    launch *g = (launch *)ctx;
    free(g->args);
    free(g);
}

uint64_t emu_grids_run(void)
{
    return grids_run;
}

static bool valid(dim3 g, unsigned block)
{
    return g.x >= 1 && g.y >= 1 && g.z >= 1 && g.x <= 0x7fffffff && g.y <= 65535 && g.z <= 65535 && block >= 1 &&
           block <= MAX_THREADS;
}

int emu_launch(void (*call)(void (*kernel)(), const void *args), void (*kernel)(), const char *name, dim3 dim,
               unsigned block, unsigned long shared, void *stream, const void *args, unsigned long args_size)
{
    if (!valid(dim, block) || shared > MAX_SHARED)
        return INVALID_CONFIGURATION;
    if (block % 32)
        emu_fail({name, 0}, "a block that is not whole warps");
    launch *g = (launch *)malloc(sizeof *g);
    unsigned char *copy = (unsigned char *)malloc(args_size);
    if (!g || !copy)
        emu_fail({name, 0}, "no memory");
    memcpy(copy, args, args_size);
    *g = {call, kernel, name, dim, block, shared, copy};
    if (em_fake_launch)
        return em_fake_launch(stream, run_grid, drop_grid, g);
    run_grid(g);
    drop_grid(g);
    return 0;
}
