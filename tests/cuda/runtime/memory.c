/* Device and page-locked memory, and who may touch it when. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "tests/cuda/runtime/internal.h"

#define PAGE ((size_t)4096)
#define ALIGN ((size_t)256)

/* One allocation; device ones end where a guard page begins. */
typedef struct block {
    struct block *next;
    uint8_t *p;
    size_t bytes;
    uint8_t *map; /* device: the whole mapping */
    size_t map_bytes;
    bool registered; /* pinned: the caller's own memory */
} block;

static block *device_blocks, *pinned_blocks;

static size_t round_up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

static block *find(block *list, const void *p, size_t bytes)
{
    for (block *b = list; b; b = b->next)
        if ((const uint8_t *)p >= b->p && (const uint8_t *)p + bytes <= b->p + b->bytes)
            return b;
    return NULL;
}

/* The block that begins at p, out of the list. */
static block *take(block **list, const void *p)
{
    for (block **at = list; *at; at = &(*at)->next) {
        if ((*at)->p == p) {
            block *b = *at;
            *at = b->next;
            return b;
        }
    }
    return NULL;
}

void fake_memory_unprotect(bool open)
{
    if (!fake.protect)
        return;
    for (block *b = device_blocks; b; b = b->next)
        mprotect(b->map, b->map_bytes - PAGE, open ? PROT_READ | PROT_WRITE : PROT_NONE);
}

/* --- device ----------------------------------------------------------------------------------------------------- */

static cudaError_t device_alloc(void **ret, size_t bytes)
{
    if (fake.live.device_bytes + bytes > fake.device.free_at_start)
        return cudaErrorMemoryAllocation;
    block *b = fake_alloc(sizeof(*b));
    b->map_bytes = round_up(bytes, PAGE) + PAGE;
    b->map = mmap(NULL, b->map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (b->map == MAP_FAILED)
        fake_abort("no address space for %zu bytes", bytes);
    b->p = b->map + (b->map_bytes - PAGE - round_up(bytes, ALIGN));
    b->bytes = bytes;
    memset(b->map, 0xff, b->map_bytes - PAGE);
    mprotect(b->map + b->map_bytes - PAGE, PAGE, PROT_NONE);
    b->next = device_blocks;
    device_blocks = b;
    fake.live.device++;
    fake.live.device_bytes += bytes;
    fake_memory_unprotect(false);
    *ret = b->p;
    return cudaSuccess;
}

cudaError_t cudaMalloc(void **ret, size_t bytes)
{
    fake_lock();
    cudaError_t r = fake_enter("cudaMalloc", cudaErrorMemoryAllocation);
    if (r == cudaSuccess)
        r = fake_return(bytes ? device_alloc(ret, bytes) : cudaErrorInvalidValue);
    fake_unlock();
    return r;
}

cudaError_t cudaFree(void *p)
{
    if (!p)
        return cudaSuccess;
    fake_lock();
    fake_run_all();
    block *b = take(&device_blocks, p);
    if (!b)
        fake_abort("cudaFree of what cudaMalloc did not give");
    munmap(b->map, b->map_bytes);
    fake.live.device--;
    fake.live.device_bytes -= b->bytes;
    free(b);
    fake_unlock();
    return cudaSuccess;
}

/* --- page-locked ------------------------------------------------------------------------------------------------ */

static cudaError_t pin(void *p, size_t bytes, bool registered)
{
    if (fake.device.pinned_limit && fake.live.pinned_bytes + bytes > fake.device.pinned_limit)
        return cudaErrorMemoryAllocation;
    block *b = fake_alloc(sizeof(*b));
    *b = (block){.next = pinned_blocks, .p = p, .bytes = bytes, .registered = registered};
    pinned_blocks = b;
    fake.live.pinned++;
    fake.live.pinned_bytes += bytes;
    return cudaSuccess;
}

cudaError_t cudaHostAlloc(void **ret, size_t bytes, unsigned flags)
{
    fake_lock();
    cudaError_t r = fake_enter("cudaHostAlloc", cudaErrorMemoryAllocation);
    void *p = NULL;
    if (r == cudaSuccess && !bytes)
        r = fake_return(cudaErrorInvalidValue);
    if (r == cudaSuccess && posix_memalign(&p, PAGE, bytes) != 0)
        r = fake_return(cudaErrorMemoryAllocation);
    if (r == cudaSuccess && (r = fake_return(pin(p, bytes, false))) != cudaSuccess) {
        free(p);
    } else if (r == cudaSuccess) {
        memset(p, 0xff, bytes);
        *ret = p;
    }
    fake_unlock();
    return r;
}

static block *unpin(void *p, bool registered, const char *name)
{
    fake_run_all();
    block *b = take(&pinned_blocks, p);
    if (!b || b->registered != registered)
        fake_abort("%s of what is not page-locked that way", name);
    fake.live.pinned--;
    fake.live.pinned_bytes -= b->bytes;
    return b;
}

cudaError_t cudaFreeHost(void *p)
{
    if (!p)
        return cudaSuccess;
    fake_lock();
    free(unpin(p, false, "cudaFreeHost"));
    free(p);
    fake_unlock();
    return cudaSuccess;
}

cudaError_t cudaHostRegister(void *p, size_t bytes, unsigned flags)
{
    fake_lock();
    cudaError_t r = fake_enter("cudaHostRegister", cudaErrorMemoryAllocation);
    if (r == cudaSuccess)
        r = fake_return(pin(p, bytes, true));
    fake_unlock();
    return r;
}

cudaError_t cudaHostUnregister(void *p)
{
    fake_lock();
    free(unpin(p, true, "cudaHostUnregister"));
    fake_unlock();
    return cudaSuccess;
}

cudaError_t cudaHostGetDevicePointer(void **ret, void *p, unsigned flags)
{
    fake_lock();
    cudaError_t r = fake_enter("cudaHostGetDevicePointer", cudaErrorInvalidValue);
    if (r == cudaSuccess && !find(pinned_blocks, p, 1))
        r = fake_return(cudaErrorInvalidValue);
    if (r == cudaSuccess)
        *ret = p;
    fake_unlock();
    return r;
}

/* --- copies ----------------------------------------------------------------------------------------------------- */

typedef struct copy {
    void *to;
    const void *from; /* NULL: set to `value` */
    size_t bytes;
    int value;
} copy;

static void run_copy(void *ctx)
{
    const copy *c = ctx;
    fake.counts.copies++;
    if (c->from)
        memcpy(c->to, c->from, c->bytes);
    else
        memset(c->to, c->value, c->bytes);
}

static void check_end(const char *what, bool device, const void *p, size_t bytes)
{
    if (!find(device ? device_blocks : pinned_blocks, p, bytes))
        fake_abort("asynchronous copy: %s is not %zu bytes inside of one %s block", what, bytes,
                   device ? "device" : "page-locked");
}

static cudaError_t push_copy(cudaStream_t s, const copy *c)
{
    copy *own = fake_alloc(sizeof(*own));
    *own = *c;
    return fake_push_work(s, (fake_work){run_copy, free, own});
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind, cudaStream_t s)
{
    fake_lock();
    cudaError_t r = fake_enter("cudaMemcpyAsync", cudaErrorInvalidValue);
    if (r == cudaSuccess && bytes) {
        if (kind == cudaMemcpyDefault)
            fake_abort("asynchronous copy: the direction must be said");
        check_end("the target", kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice, to, bytes);
        check_end("the source", kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice, from, bytes);
        r = push_copy(s, &(copy){to, from, bytes, 0});
    }
    fake_unlock();
    return r;
}

cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t s)
{
    fake_lock();
    cudaError_t r = fake_enter("cudaMemsetAsync", cudaErrorInvalidValue);
    if (r == cudaSuccess && bytes) {
        check_end("the target", true, to, bytes);
        r = push_copy(s, &(copy){to, NULL, bytes, value});
    }
    fake_unlock();
    return r;
}

/* Waits for everything, as the real one nearly does; what is pageable may take part. */
cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind)
{
    fake_lock();
    cudaError_t r = fake_enter("cudaMemcpy", cudaErrorInvalidValue);
    fake_run_all();
    if (r == cudaSuccess && bytes) {
        if (kind != cudaMemcpyDeviceToHost)
            check_end("the target", true, to, bytes);
        if (kind != cudaMemcpyHostToDevice)
            check_end("the source", true, from, bytes);
        fake_memory_unprotect(true);
        memcpy(to, from, bytes);
        fake_memory_unprotect(false);
    }
    fake_unlock();
    return r;
}

typedef struct rows_copy {
    uint8_t *to;
    const uint8_t *from;
    size_t to_pitch, from_pitch, width, height;
} rows_copy;

static void run_rows(void *ctx)
{
    const rows_copy *c = ctx;
    fake.counts.copies++;
    for (size_t i = 0; i < c->height; i++)
        memcpy(c->to + i * c->to_pitch, c->from + i * c->from_pitch, c->width);
}

cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width,
                              size_t height, enum cudaMemcpyKind kind, cudaStream_t s)
{
    fake_lock();
    cudaError_t r = fake_enter("cudaMemcpy2DAsync", cudaErrorInvalidValue);
    if (r == cudaSuccess && (width > to_pitch || width > from_pitch))
        r = fake_return(cudaErrorInvalidPitchValue);
    if (r == cudaSuccess && width && height) {
        check_end("the target", kind != cudaMemcpyDeviceToHost, to, (height - 1) * to_pitch + width);
        check_end("the source", kind != cudaMemcpyHostToDevice, from, (height - 1) * from_pitch + width);
        rows_copy *own = fake_alloc(sizeof(*own));
        *own = (rows_copy){to, from, to_pitch, from_pitch, width, height};
        r = fake_push_work(s, (fake_work){run_rows, free, own});
    }
    fake_unlock();
    return r;
}
