/* Inside of the stand-in: what its files share. Everything here is called with the lock held. */
#ifndef EM_TESTS_CUDA_INTERNAL_H
#define EM_TESTS_CUDA_INTERNAL_H

#include <cuda_runtime_api.h>

#include "tests/cuda/runtime/fake.h"

typedef struct fake_work {
    void (*run)(void *ctx);
    void (*drop)(void *ctx); /* may be NULL */
    void *ctx;
} fake_work;

typedef struct fake_state {
    fake_order order;
    uint64_t rnd;
    fake_device device;
    bool protect, configured, idle; /* idle: kernels do not run */
    int64_t calls, fail_at;
    const char *failed;
    cudaError_t last; /* cudaGetLastError */
    fake_live live;
    fake_counts counts;
} fake_state;
extern fake_state fake;

void fake_lock(void);
void fake_unlock(void);
__attribute__((noreturn, format(printf, 1, 2))) void fake_abort(const char *fmt, ...);
uint32_t fake_random(uint32_t n); /* 0 .. n - 1 */
void *fake_alloc(size_t bytes);   /* zeroed, of the stand-in's own */

/* Counts a call that can fail: the error that it must return, or cudaSuccess. */
cudaError_t fake_enter(const char *name, cudaError_t when_failing);
cudaError_t fake_return(cudaError_t r); /* remembers it for cudaGetLastError */

/* memory.c */
void fake_memory_unprotect(bool open); /* device memory may be touched, or not */

/* stream.c */
void fake_run_all(void);
void fake_push_graph(cudaStream_t s, cudaGraphExec_t exec);
cudaError_t fake_push_work(cudaStream_t s, fake_work w);
void fake_make_progress(void); /* what the order allows at every call */

/* graph.c */
struct fake_graph;
typedef struct fake_nodes { /* nodes that later work depends on */
    int n;
    int id[8];
} fake_nodes;
void fake_graph_add(struct fake_graph *g, fake_work w, fake_nodes *last); /* takes w; last becomes the new node */
void fake_nodes_join(fake_nodes *to, const fake_nodes *more);
struct fake_graph *fake_graph_new(void);
bool fake_graph_covers(const struct fake_graph *g, const fake_nodes *tip, const fake_nodes *other);
void fake_graph_run(cudaGraphExec_t exec);
void fake_exec_unref(cudaGraphExec_t exec);
void fake_exec_ref(cudaGraphExec_t exec);
void fake_graph_unref(struct fake_graph *g);

#endif
