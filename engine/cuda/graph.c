/* Decode steps as CUDA graphs: one for each bucket of sequences and of positions. */
#include "engine/cuda/cuda.h"

static uint32_t fetched_mask(const em_cuda *c)
{
    uint32_t mask = 0;
    for (int32_t i = 0; i < c->cfg->n_engram_layers; i++)
        mask |= (uint32_t)(c->rows[i].codes != NULL) << i;
    return mask;
}

static void forget(em_cuda_graph *g)
{
    if (g->exec)
        cudaGraphExecDestroy(g->exec);
    *g = (em_cuda_graph){.exec = NULL};
}

static em_cuda_graph *find(em_cuda *c, int32_t runs, int32_t reach, uint32_t mask)
{
    for (int i = 0; i < EM_CUDA_MAX_GRAPHS; i++) {
        em_cuda_graph *g = &c->graph[i];
        if (g->exec && g->runs == runs && g->reach == reach && g->fetched == mask)
            return g;
    }
    return NULL;
}

/* A free place, or that of the graph which was not used for longest. */
static em_cuda_graph *make_room(em_cuda *c)
{
    em_cuda_graph *oldest = &c->graph[0];
    for (int i = 0; i < EM_CUDA_MAX_GRAPHS; i++) {
        if (!c->graph[i].exec)
            return &c->graph[i];
        if (c->graph[i].used < oldest->used)
            oldest = &c->graph[i];
    }
    forget(oldest);
    return oldest;
}

void em_cuda_graph_begin(em_cuda *c, int32_t runs, int32_t reach)
{
    uint32_t mask = fetched_mask(c);
    c->current = find(c, runs, reach, mask);
    c->mode = c->current ? EM_CUDA_REPLAY : EM_CUDA_RECORD;
    if (!c->current) {
        c->current = make_room(c);
        *c->current = (em_cuda_graph){.runs = runs, .reach = reach, .fetched = mask};
        c->capturing = em_cuda_ok(c, cudaStreamBeginCapture(c->stream, cudaStreamCaptureModeThreadLocal),
                                  "beginning to record a graph");
    }
    c->current->used = c->n_steps;
}

static void end_recording(em_cuda *c)
{
    cudaGraph_t graph = NULL;
    c->capturing = false;
    if (!em_cuda_ok(c, cudaStreamEndCapture(c->stream, &graph), "recording a graph"))
        return;
    em_cuda_ok(c, cudaGraphInstantiate(&c->current->exec, graph, 0), "making a graph");
    cudaGraphDestroy(graph);
}

void em_cuda_graph_launch(em_cuda *c)
{
    if (c->capturing)
        end_recording(c);
    if (c->status == 0)
        em_cuda_ok(c, cudaGraphLaunch(c->current->exec, c->stream), "launching a graph");
}

void em_cuda_graph_abandon(em_cuda *c)
{
    cudaGraph_t graph = NULL;
    if (c->capturing && cudaStreamEndCapture(c->stream, &graph) == cudaSuccess && graph)
        cudaGraphDestroy(graph);
    c->capturing = false;
    c->mode = EM_CUDA_PLAIN;
}

void em_cuda_graphs_done(em_cuda *c)
{
    for (int i = 0; i < EM_CUDA_MAX_GRAPHS; i++)
        forget(&c->graph[i]);
}
