/* The module's door: is there a device, opening and closing the backend. */
#include "engine/cuda/cuda.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/rope_frequencies.h"

bool em_cuda_ok(em_cuda *c, int code, const char *what)
{
    if (code == cudaSuccess)
        return true;
    if (c->status == 0)
        c->status = em_error_set(&c->fault, -EIO, "the GPU failed at %s: %s (CUDA error %d)", what,
                                 cudaGetErrorString((cudaError_t)code), code);
    return false;
}

/* --- the device ------------------------------------------------------------------------------------------------- */

static int why_no_device(cudaError_t r, int driver, em_error *err)
{
    cudaGetLastError();
    if (driver == 0)
        return em_error_set(err, -ENODEV, "no NVIDIA driver is installed");
    if (r == cudaErrorInsufficientDriver)
        return em_error_set(err, -ENODEV, "the NVIDIA driver is too old: it knows CUDA %d.%d, this program needs %d.0",
                            driver / 1000, driver % 1000 / 10, CUDART_VERSION / 1000);
    if (r == cudaErrorNoDevice || r == cudaSuccess)
        return em_error_set(err, -ENODEV, "no NVIDIA GPU is there");
    return em_error_set(err, -ENODEV, "the GPU cannot be used: %s", cudaGetErrorString(r));
}

static int em_cuda_probe(em_device_info *ret_info, em_error *err)
{
    int n = 0, driver = 0;
    struct cudaDeviceProp prop;
    size_t free_bytes = 0, total = 0;
    cudaError_t r = cudaDriverGetVersion(&driver);
    if (r == cudaSuccess)
        r = cudaGetDeviceCount(&n);
    if (r != cudaSuccess || n == 0)
        return why_no_device(r, driver, err);
    if ((r = cudaSetDevice(0)) != cudaSuccess || (r = cudaGetDeviceProperties(&prop, 0)) != cudaSuccess ||
        (r = cudaMemGetInfo(&free_bytes, &total)) != cudaSuccess)
        return why_no_device(r, driver, err);
    em_device_info info = {.arch = 10 * prop.major + prop.minor, .total = total, .free_bytes = free_bytes};
    snprintf(info.name, sizeof(info.name), "%.*s", (int)sizeof(info.name) - 1, prop.name);
    if (info.arch < EM_CUDA_MIN_ARCH)
        return em_error_set(err, -ENODEV, "%s has compute capability %d.%d; %d.%d or newer is needed", info.name,
                            prop.major, prop.minor, EM_CUDA_MIN_ARCH / 10, EM_CUDA_MIN_ARCH % 10);
    *ret_info = info;
    return 0;
}

/* --- opening ---------------------------------------------------------------------------------------------------- */

static int open_streams(em_cuda *c, em_error *err)
{
    bool ok = em_cuda_ok(c, cudaStreamCreateWithFlags(&c->stream, cudaStreamNonBlocking), "making a stream") &&
              em_cuda_ok(c, cudaStreamCreateWithFlags(&c->side, cudaStreamNonBlocking), "making a stream") &&
              em_cuda_ok(c, cudaEventCreateWithFlags(&c->fork, cudaEventDisableTiming), "making an event");
    for (int32_t i = 0; ok && i < c->cfg->n_engram_layers; i++)
        ok = em_cuda_ok(c, cudaEventCreateWithFlags(&c->rows[i].ready, cudaEventDisableTiming), "making an event");
    return ok ? 0 : em_error_set(err, c->status, "%s", c->fault.text);
}

static void describe_state(em_cuda *c, uint8_t *at)
{
    const em_state_layout *l = &c->layout;
    c->state = (em_cuda_state){.slots = at,
                               .blocks = at + c->plan.slots,
                               .slot_bytes = (int64_t)l->slot_bytes,
                               .block_bytes = (int64_t)l->block_bytes,
                               .window = l->window,
                               .block_tokens = l->block_tokens,
                               .head_dim = c->cfg->head_dim,
                               .index_head_dim = c->cfg->index_head_dim,
                               .window_row = (int32_t)l->window_row,
                               .comp_row = (int32_t)l->comp_row,
                               .key_row = (int32_t)l->key_row,
                               .pack_window = l->pack_window,
                               .pack_comp = l->pack_comp,
                               .pack_key = l->pack_key};
}

/* State is zeroed as the CPU's is; the rotary frequencies and counters begin. */
static int fill(em_cuda *c, em_error *err)
{
    size_t pairs = (size_t)c->cfg->rope_dim / 2, bytes = pairs * sizeof(float);
    float *freq = (float *)(void *)c->host_step; /* not in use yet */
    em_rope_frequencies(c->cfg, freq, freq + pairs);
    bool ok = em_cuda_ok(c, cudaMemcpyAsync(c->freq_main, freq, bytes, cudaMemcpyHostToDevice, c->stream),
                         "sending frequencies") &&
              em_cuda_ok(c, cudaMemcpyAsync(c->freq_comp, freq + pairs, bytes, cudaMemcpyHostToDevice, c->stream),
                         "sending frequencies") &&
              em_cuda_ok(c, cudaMemsetAsync(c->experts_read, 0, sizeof(uint64_t), c->stream), "clearing counters") &&
              em_cuda_ok(c, cudaMemsetAsync(c->state.slots, 0, c->plan.slots + c->plan.kv_blocks, c->stream),
                         "clearing the state of sequences") &&
              em_cuda_ok(c, cudaStreamSynchronize(c->stream), "clearing the state of sequences");
    return ok ? 0 : em_error_set(err, c->status, "%s", c->fault.text);
}

static int open_all(em_cuda *c, const em_weights *w, const em_device_opts *opts, em_error *err)
{
    size_t activations = em_cuda_activation_bytes(c), state = c->plan.slots + c->plan.kv_blocks;
    size_t weights = c->plan.weights + c->plan.experts;
    int r = open_streams(c, err);
    if (r < 0)
        return r;
    activations = activations > c->plan.activations ? activations : c->plan.activations;
    c->arena_bytes = activations + state + weights;
    if (!em_cuda_ok(c, cudaMalloc((void **)&c->arena, c->arena_bytes), "taking the memory that was planned"))
        return em_error_set(err, -ENOMEM, "%s: somebody else took memory of the GPU meanwhile; try again",
                            c->fault.text);
    em_cuda_place(c, c->arena);
    describe_state(c, c->arena + activations);
    if ((r = em_cuda_place_host(c, err)) < 0)
        return r;
    memset(c->host_step, 0, c->step_bytes);
    r = em_cuda_upload(c, w, c->arena + activations + state, weights, opts, err);
    return r < 0 ? r : fill(c, err);
}

static void em_cuda_close(em_backend *be)
{
    em_cuda *c = (em_cuda *)be;
    if (c->capturing)
        em_cuda_graph_abandon(c);
    if (c->side)
        cudaStreamSynchronize(c->side);
    if (c->stream)
        cudaStreamSynchronize(c->stream);
    em_cuda_graphs_done(c);
    em_cuda_weights_done(c);
    while (c->pinned)
        em_cuda_unpin(c, c->pinned->p);
    for (int32_t i = 0; i < c->cfg->n_engram_layers; i++)
        if (c->rows[i].ready)
            cudaEventDestroy(c->rows[i].ready);
    if (c->fork)
        cudaEventDestroy(c->fork);
    if (c->side)
        cudaStreamDestroy(c->side);
    if (c->stream)
        cudaStreamDestroy(c->stream);
    cudaFree(c->arena);
    free(c);
}

static int em_cuda_open(const em_model_config *cfg, const em_weights *w, const em_backend_shape *shape,
                        const em_device_opts *opts, em_backend **ret_backend, em_error *err)
{
    em_device_info info;
    int r = em_cuda_probe(&info, err);
    if (r < 0)
        return r;
    em_cuda *c = calloc(1, sizeof(*c));
    if (!c)
        return em_error_set(err, -ENOMEM, "not enough memory for the CUDA backend");
    c->cfg = cfg;
    c->shape = *shape;
    c->plan = opts->plan;
    for (int32_t i = 0; i < cfg->n_engram_layers; i++)
        c->weights.engram[i].dtype = w->engram[i].dtype;
    em_state_layout_init(&c->layout, cfg, shape->block_tokens);
    snprintf(c->name, sizeof(c->name), "cuda/sm_%d", info.arch);
    r = open_all(c, w, opts, err);
    if (r < 0) {
        em_cuda_close(&c->base);
        return r;
    }
    c->base = (em_backend){.name = c->name,
                           .mem = em_cuda_engram_mem(c),
                           .table = em_cuda_table,
                           .begin = em_cuda_begin,
                           .expect = em_cuda_expect,
                           .embed = em_cuda_embed_stage,
                           .engram = em_cuda_engram,
                           .hc_pre = em_cuda_hc_pre_stage,
                           .attention = em_cuda_attention,
                           .moe = em_cuda_moe,
                           .hc_post = em_cuda_hc_post_stage,
                           .head = em_cuda_finish,
                           .copy_slot = em_cuda_copy_slot,
                           .copy_block = em_cuda_copy_block,
                           .close = em_cuda_close};
    *ret_backend = &c->base;
    return 0;
}

static const em_backend_module module = {
    .version = ENGRAMD_VERSION, .name = "cuda", .probe = em_cuda_probe, .plan = em_cuda_plan, .open = em_cuda_open};

__attribute__((visibility("default"))) const em_backend_module *em_backend_module_1(void)
{
    static em_backend_module told;
    told = module;
    told.layout = em_backend_module_layout();
    return &told;
}
