/* Captured work: nodes with the nodes they depend on. */
#include <stdlib.h>

#include "tests/cuda/runtime/internal.h"

typedef struct node {
    fake_work work;
    fake_nodes after;
} node;

struct fake_graph {
    int refs; /* the graph's handle, the capture's stream, and each exec */
    node *node;
    int n, cap;
};

struct CUgraphExec_st {
    int refs;
    struct fake_graph *graph;
};

struct fake_graph *fake_graph_new(void)
{
    struct fake_graph *g = fake_alloc(sizeof(*g));
    g->refs = 1;
    fake.live.graphs++;
    return g;
}

void fake_graph_unref(struct fake_graph *g)
{
    if (--g->refs)
        return;
    for (int i = 0; i < g->n; i++)
        if (g->node[i].work.drop)
            g->node[i].work.drop(g->node[i].work.ctx);
    free(g->node);
    free(g);
    fake.live.graphs--;
}

void fake_graph_add(struct fake_graph *g, fake_work w, fake_nodes *last)
{
    if (g->n == g->cap) {
        g->cap = g->cap ? 2 * g->cap : 64;
        g->node = realloc(g->node, (size_t)g->cap * sizeof(*g->node));
        if (!g->node)
            fake_abort("no memory for its own books");
    }
    g->node[g->n] = (node){w, *last};
    *last = (fake_nodes){1, {g->n++}};
}

void fake_nodes_join(fake_nodes *to, const fake_nodes *more)
{
    for (int i = 0; i < more->n; i++) {
        bool there = false;
        for (int j = 0; j < to->n; j++)
            there = there || to->id[j] == more->id[i];
        if (there)
            continue;
        if (to->n == (int)(sizeof(to->id) / sizeof(*to->id)))
            fake_abort("one node of a graph waits for more than 8 others");
        to->id[to->n++] = more->id[i];
    }
}

/* Marks all that the nodes depend on, themselves included. */
static void mark(const struct fake_graph *g, const fake_nodes *from, bool *seen)
{
    for (int i = 0; i < from->n; i++) {
        if (seen[from->id[i]])
            continue;
        seen[from->id[i]] = true;
        mark(g, &g->node[from->id[i]].after, seen);
    }
}

bool fake_graph_covers(const struct fake_graph *g, const fake_nodes *tip, const fake_nodes *other)
{
    bool *seen = fake_alloc((size_t)g->n + 1), all = true;
    mark(g, tip, seen);
    for (int i = 0; i < other->n; i++)
        all = all && seen[other->id[i]];
    free(seen);
    return all;
}

static bool can_run(const node *n, const bool *done)
{
    for (int i = 0; i < n->after.n; i++)
        if (!done[n->after.id[i]])
            return false;
    return true;
}

/* In the order of the capture, or backwards, or any that the edges allow. */
void fake_graph_run(cudaGraphExec_t exec)
{
    const struct fake_graph *g = exec->graph;
    bool *done = fake_alloc((size_t)g->n + 1);
    fake.counts.graph_launches++;
    for (int ran = 0; ran < g->n; ran++) {
        int n = 0, pick = -1;
        for (int i = 0; i < g->n; i++) {
            if (done[i] || !can_run(&g->node[i], done))
                continue;
            n++;
            if (n == 1 || fake.order == FAKE_LAZY || (fake.order == FAKE_RANDOM && fake_random((uint32_t)n) == 0))
                pick = i;
            if (fake.order == FAKE_EAGER)
                break;
        }
        g->node[pick].work.run(g->node[pick].work.ctx);
        done[pick] = true;
    }
    free(done);
}

/* --- the runtime's door ----------------------------------------------------------------------------------------- */

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *ret, cudaGraph_t graph, unsigned long long flags)
{
    fake_lock();
    cudaError_t r = fake_enter("cudaGraphInstantiate", cudaErrorMemoryAllocation);
    if (r == cudaSuccess) {
        cudaGraphExec_t exec = fake_alloc(sizeof(*exec));
        exec->refs = 1;
        exec->graph = (struct fake_graph *)graph;
        exec->graph->refs++;
        fake.live.graphs++;
        *ret = exec;
    }
    fake_unlock();
    return r;
}

void fake_exec_ref(cudaGraphExec_t exec)
{
    exec->refs++;
}

void fake_exec_unref(cudaGraphExec_t exec)
{
    if (--exec->refs)
        return;
    fake_graph_unref(exec->graph);
    fake.live.graphs--;
    free(exec);
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t s)
{
    fake_lock();
    cudaError_t r = fake_enter("cudaGraphLaunch", cudaErrorLaunchFailure);
    if (r == cudaSuccess)
        fake_push_graph(s, exec);
    fake_unlock();
    return r;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    fake_lock();
    fake_exec_unref(exec);
    fake_unlock();
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    fake_lock();
    fake_graph_unref((struct fake_graph *)graph);
    fake_unlock();
    return cudaSuccess;
}
