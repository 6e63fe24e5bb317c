/* Streams and events: queues of work, and when it runs. */
#include <stdlib.h>

#include "tests/cuda/runtime/internal.h"
#include "tests/cuda/runtime/launch.h"

typedef enum op_kind { OP_WORK, OP_RECORD, OP_WAIT, OP_GRAPH } op_kind;

typedef struct op {
    struct op *next;
    op_kind kind;
    fake_work work;
    cudaEvent_t event;
    int64_t want; /* of a wait: how often the event must have happened */
    cudaGraphExec_t exec;
} op;

struct CUstream_st {
    cudaStream_t next;
    op *head, **tail;
    struct fake_graph *capture; /* NULL: none */
    cudaStream_t origin;        /* that began the capture */
    fake_nodes last;            /* of the capture */
};

struct CUevent_st {
    int64_t want, done; /* recorded; happened */
    struct fake_graph *capture;
    fake_nodes nodes; /* recorded during that capture */
    cudaStream_t origin;
};

static cudaStream_t streams;

static void need_stream(cudaStream_t s)
{
    for (cudaStream_t at = streams; at; at = at->next)
        if (at == s)
            return;
    fake_abort(s ? "a stream that does not exist" : "the NULL stream, which waits for everything");
}

/* --- running ---------------------------------------------------------------------------------------------------- */

static bool ready(const struct CUstream_st *s)
{
    return s->head && (s->head->kind != OP_WAIT || s->head->event->done >= s->head->want);
}

static void run_head(cudaStream_t s)
{
    op *o = s->head;
    s->head = o->next;
    if (!s->head)
        s->tail = &s->head;
    fake_memory_unprotect(true);
    if (o->kind == OP_WORK) {
        o->work.run(o->work.ctx);
        if (o->work.drop)
            o->work.drop(o->work.ctx);
    } else if (o->kind == OP_RECORD) {
        o->event->done++;
    } else if (o->kind == OP_GRAPH) {
        fake_graph_run(o->exec);
        fake_exec_unref(o->exec);
    }
    fake_memory_unprotect(false);
    free(o);
}

/* The stream in which the event is still to happen. */
static cudaStream_t stream_of(const struct CUevent_st *e)
{
    for (cudaStream_t s = streams; s; s = s->next)
        for (op *o = s->head; o; o = o->next)
            if (o->kind == OP_RECORD && o->event == e)
                return s;
    fake_abort("waits for an event that cannot happen");
}

/* One piece of work that the head of s needs, or the head itself. */
static void advance(cudaStream_t s)
{
    while (!ready(s))
        s = stream_of(s->head->event);
    run_head(s);
}

static void finish(cudaStream_t s)
{
    while (s->head)
        advance(s);
}

void fake_run_all(void)
{
    for (cudaStream_t s = streams; s; s = s->next)
        finish(s);
}

/* The k-th stream that can go on. */
static cudaStream_t ready_stream(uint32_t k)
{
    for (cudaStream_t s = streams; s; s = s->next)
        if (ready(s) && k-- == 0)
            return s;
    return NULL;
}

static uint32_t n_ready(void)
{
    uint32_t n = 0;
    for (cudaStream_t s = streams; s; s = s->next)
        n += ready(s);
    return n;
}

void fake_make_progress(void)
{
    if (fake.order == FAKE_LAZY)
        return;
    uint32_t most = fake.order == FAKE_EAGER ? UINT32_MAX : fake_random(4);
    for (uint32_t i = 0, n; i < most && (n = n_ready()) > 0; i++)
        run_head(ready_stream(fake.order == FAKE_EAGER ? 0 : fake_random(n)));
}

/* --- queueing --------------------------------------------------------------------------------------------------- */

static void push(cudaStream_t s, op o)
{
    op *own = fake_alloc(sizeof(*own));
    *own = o;
    own->next = NULL;
    *s->tail = own;
    s->tail = &own->next;
    fake_make_progress();
}

cudaError_t fake_push_work(cudaStream_t s, fake_work w)
{
    need_stream(s);
    if (s->capture)
        fake_graph_add(s->capture, w, &s->last);
    else
        push(s, (op){.kind = OP_WORK, .work = w});
    return cudaSuccess;
}

void fake_push_graph(cudaStream_t s, cudaGraphExec_t exec)
{
    need_stream(s);
    if (s->capture)
        fake_abort("a graph is launched inside a capture");
    fake_exec_ref(exec);
    push(s, (op){.kind = OP_GRAPH, .exec = exec});
}

static void run_nothing(void *ctx)
{
}

cudaError_t em_fake_launch(cudaStream_t s, void (*run)(void *ctx), void (*drop)(void *ctx), void *ctx)
{
    fake_lock();
    cudaError_t r = fake_enter("a kernel launch", cudaErrorLaunchFailure);
    if (r == cudaSuccess) {
        fake.counts.launches++;
        r = fake_push_work(s, (fake_work){fake.idle ? run_nothing : run, drop, ctx});
    } else if (drop) {
        drop(ctx);
    }
    fake_unlock();
    return r;
}

/* --- streams ---------------------------------------------------------------------------------------------------- */

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *ret, unsigned flags)
{
    fake_lock();
    cudaError_t r = fake_enter("cudaStreamCreateWithFlags", cudaErrorMemoryAllocation);
    if (r == cudaSuccess) {
        cudaStream_t s = fake_alloc(sizeof(*s));
        s->tail = &s->head;
        s->next = streams;
        streams = s;
        fake.live.streams++;
        *ret = s;
    }
    fake_unlock();
    return r;
}

cudaError_t cudaStreamDestroy(cudaStream_t s)
{
    fake_lock();
    need_stream(s);
    finish(s);
    for (cudaStream_t *at = &streams; *at; at = &(*at)->next) {
        if (*at == s) {
            *at = s->next;
            break;
        }
    }
    if (s->capture)
        fake_graph_unref(s->capture);
    fake.live.streams--;
    free(s);
    fake_unlock();
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t s)
{
    fake_lock();
    need_stream(s);
    if (s->capture)
        fake_abort("the host waits inside a capture");
    fake.counts.host_waits++;
    finish(s);
    cudaError_t r = fake_enter("cudaStreamSynchronize", cudaErrorLaunchFailure);
    fake_unlock();
    return r;
}

/* --- events ----------------------------------------------------------------------------------------------------- */

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *ret, unsigned flags)
{
    fake_lock();
    cudaError_t r = fake_enter("cudaEventCreateWithFlags", cudaErrorMemoryAllocation);
    if (r == cudaSuccess) {
        *ret = fake_alloc(sizeof(**ret));
        fake.live.events++;
    }
    fake_unlock();
    return r;
}

cudaError_t cudaEventDestroy(cudaEvent_t e)
{
    fake_lock();
    for (cudaStream_t s = streams; s; s = s->next) /* work that names it must not outlive it here */
        for (op *o = s->head; o; o = o->next)
            if (o->event == e) {
                fake_run_all();
                break;
            }
    fake.live.events--;
    free(e);
    fake_unlock();
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s)
{
    fake_lock();
    need_stream(s);
    cudaError_t r = fake_enter("cudaEventRecord", cudaErrorInvalidResourceHandle);
    if (r == cudaSuccess && s->capture) {
        e->capture = s->capture;
        e->origin = s->origin;
        e->nodes = s->last;
    } else if (r == cudaSuccess) {
        e->capture = NULL;
        e->want++;
        push(s, (op){.kind = OP_RECORD, .event = e});
    }
    fake_unlock();
    return r;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned flags)
{
    fake_lock();
    need_stream(s);
    cudaError_t r = fake_enter("cudaStreamWaitEvent", cudaErrorInvalidResourceHandle);
    if (r == cudaSuccess && e->capture) { /* joins the capture that recorded it */
        if (s->capture && s->capture != e->capture)
            fake_abort("two captures meet in one stream");
        s->capture = e->capture;
        s->origin = e->origin;
        fake_nodes_join(&s->last, &e->nodes);
    } else if (r == cudaSuccess) {
        if (s->capture)
            fake_abort("a capture waits for an event outside of it");
        push(s, (op){.kind = OP_WAIT, .event = e, .want = e->want});
    }
    fake_unlock();
    return r;
}

cudaError_t cudaEventSynchronize(cudaEvent_t e)
{
    fake_lock();
    fake.counts.host_waits++;
    for (int64_t want = e->want; e->done < want;)
        advance(stream_of(e));
    cudaError_t r = fake_enter("cudaEventSynchronize", cudaErrorLaunchFailure);
    fake_unlock();
    return r;
}

cudaError_t cudaEventQuery(cudaEvent_t e)
{
    fake_lock();
    fake_make_progress();
    cudaError_t r = e->done < e->want ? cudaErrorNotReady : cudaSuccess;
    fake_unlock();
    return r;
}

/* --- captures --------------------------------------------------------------------------------------------------- */

cudaError_t cudaStreamBeginCapture(cudaStream_t s, enum cudaStreamCaptureMode mode)
{
    fake_lock();
    need_stream(s);
    cudaError_t r = fake_enter("cudaStreamBeginCapture", cudaErrorInvalidValue);
    if (r == cudaSuccess && s->capture)
        fake_abort("a capture begins inside a capture");
    if (r == cudaSuccess) {
        s->capture = fake_graph_new();
        s->origin = s;
        s->last = (fake_nodes){0};
        fake.counts.captures++;
    }
    fake_unlock();
    return r;
}

/* Other streams leave the capture; false when work of theirs was not joined. */
static bool leave_capture(cudaStream_t origin)
{
    bool joined = true;
    for (cudaStream_t s = streams; s; s = s->next) {
        if (s == origin || s->capture != origin->capture)
            continue;
        joined = joined && fake_graph_covers(origin->capture, &origin->last, &s->last);
        s->capture = NULL;
        s->last = (fake_nodes){0};
    }
    return joined;
}

cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *ret)
{
    fake_lock();
    need_stream(s);
    if (!s->capture || s->origin != s)
        fake_abort("a capture ends that this stream did not begin");
    bool joined = leave_capture(s);
    struct fake_graph *g = s->capture;
    s->capture = NULL;
    cudaError_t r = fake_enter("cudaStreamEndCapture", cudaErrorStreamCaptureInvalidated);
    if (r == cudaSuccess && !joined)
        r = fake_return(cudaErrorStreamCaptureUnjoined);
    *ret = NULL;
    if (r == cudaSuccess)
        *ret = (cudaGraph_t)g;
    else
        fake_graph_unref(g);
    fake_unlock();
    return r;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t s, enum cudaStreamCaptureStatus *ret)
{
    fake_lock();
    *ret = s->capture ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    fake_unlock();
    return cudaSuccess;
}
