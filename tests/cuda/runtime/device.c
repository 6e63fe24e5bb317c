/* The machine, its errors and the settings of a test. */
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/cuda/runtime/internal.h"

#define DEFAULT_DEVICE                                                                                                 \
    ((fake_device){.driver_version = 13000,                                                                            \
                   .n_devices = 1,                                                                                     \
                   .arch = 90,                                                                                         \
                   .total = (size_t)256 << 20,                                                                         \
                   .free_at_start = (size_t)250 << 20})

fake_state fake;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

void fake_abort(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    fputs("stand-in for CUDA: ", stderr);
    vfprintf(stderr, fmt, args);
    fputc('\n', stderr);
    va_end(args);
    abort();
}

uint32_t fake_random(uint32_t n)
{
    fake.rnd = fake.rnd * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(fake.rnd >> 33) % n;
}

void *fake_alloc(size_t bytes)
{
    void *p = calloc(1, bytes);
    if (!p)
        fake_abort("no memory for its own books");
    return p;
}

/* FAKE_CUDA, for programs that know nothing of the stand-in. */
static void configure(void)
{
    char text[256];
    const char *env = getenv("FAKE_CUDA");
    fake.configured = true;
    fake.device = DEFAULT_DEVICE;
    snprintf(text, sizeof(text), "%s", env ? env : "");
    char *save = NULL;
    for (char *word = strtok_r(text, ",", &save); word; word = strtok_r(NULL, ",", &save)) {
        unsigned long long n = strchr(word, '=') ? strtoull(strchr(word, '=') + 1, NULL, 10) : 0;
        if (!strcmp(word, "eager") || !strcmp(word, "lazy")) {
            fake.order = word[0] == 'e' ? FAKE_EAGER : FAKE_LAZY;
        } else if (!strncmp(word, "random=", 7)) {
            fake.order = FAKE_RANDOM;
            fake.rnd = n;
        } else if (!strncmp(word, "memory=", 7)) {
            fake.device.total = fake.device.free_at_start = (size_t)n << 20;
        } else if (!strncmp(word, "arch=", 5)) {
            fake.device.arch = (int)n;
        } else if (!strncmp(word, "driver=", 7)) {
            fake.device.driver_version = (int)n;
        } else if (!strcmp(word, "none")) {
            fake.device.n_devices = 0;
        } else {
            fake_abort("FAKE_CUDA has an unknown word: %s", word);
        }
    }
}

void fake_lock(void)
{
    pthread_mutex_lock(&lock);
    if (!fake.configured)
        configure();
}

void fake_unlock(void)
{
    pthread_mutex_unlock(&lock);
}

cudaError_t fake_return(cudaError_t r)
{
    if (r != cudaSuccess)
        fake.last = r;
    return r;
}

cudaError_t fake_enter(const char *name, cudaError_t when_failing)
{
    fake.calls++;
    if (fake.fail_at == 0 || --fake.fail_at > 0)
        return cudaSuccess;
    fake.failed = name;
    return fake_return(when_failing);
}

/* --- settings --------------------------------------------------------------------------------------------------- */

void fake_reset(void)
{
    fake_lock();
    fake_live l = fake.live;
    if (l.device || l.pinned || l.streams || l.events || l.graphs)
        fake_abort("left behind: %d device and %d pinned blocks, %d streams, %d events, %d graphs", l.device, l.pinned,
                   l.streams, l.events, l.graphs);
    fake = (fake_state){.device = DEFAULT_DEVICE, .configured = true};
    fake_unlock();
}

void fake_set_order(fake_order order, uint64_t seed)
{
    fake_lock();
    fake.order = order;
    fake.rnd = seed;
    fake_unlock();
}

void fake_set_device(const fake_device *device)
{
    fake_lock();
    fake.device = *device;
    fake_unlock();
}

void fake_set_protect(bool on)
{
    fake_lock();
    fake.protect = on;
    fake_unlock();
}

void fake_set_kernels(bool on)
{
    fake_lock();
    fake.idle = !on;
    fake_unlock();
}

void fake_fail_at(int64_t n)
{
    fake_lock();
    fake.fail_at = n;
    fake.failed = NULL;
    fake_unlock();
}

int64_t fake_calls(void)
{
    return fake.calls;
}

const char *fake_failed_call(void)
{
    return fake.failed;
}

fake_live fake_get_live(void)
{
    return fake.live;
}

fake_counts fake_get_counts(void)
{
    return fake.counts;
}

/* --- the runtime's door ----------------------------------------------------------------------------------------- */

cudaError_t cudaDriverGetVersion(int *version)
{
    fake_lock();
    cudaError_t r = fake_enter("cudaDriverGetVersion", cudaErrorInvalidValue);
    if (r == cudaSuccess)
        *version = fake.device.driver_version;
    fake_unlock();
    return r;
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    *version = CUDART_VERSION;
    return cudaSuccess;
}

/* As the real one: no driver, or one that is too old, is an error; no device is another. */
static cudaError_t device_error(void)
{
    if (fake.device.driver_version < CUDART_VERSION / 1000 * 1000)
        return cudaErrorInsufficientDriver;
    return fake.device.n_devices ? cudaSuccess : cudaErrorNoDevice;
}

cudaError_t cudaGetDeviceCount(int *count)
{
    fake_lock();
    cudaError_t r = fake_enter("cudaGetDeviceCount", cudaErrorInitializationError);
    if (r == cudaSuccess)
        r = fake_return(device_error());
    *count = r == cudaSuccess ? fake.device.n_devices : 0;
    fake_unlock();
    return r;
}

cudaError_t cudaSetDevice(int device)
{
    fake_lock();
    cudaError_t r = fake_enter("cudaSetDevice", cudaErrorDevicesUnavailable);
    if (r == cudaSuccess)
        r = fake_return(device < fake.device.n_devices ? cudaSuccess : cudaErrorInvalidDevice);
    fake_unlock();
    return r;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *prop, int device)
{
    fake_lock();
    cudaError_t r = fake_enter("cudaGetDeviceProperties", cudaErrorInvalidValue);
    if (r == cudaSuccess) {
        memset(prop, 0, sizeof(*prop));
        snprintf(prop->name, sizeof(prop->name), "stand-in sm_%d", fake.device.arch);
        prop->major = fake.device.arch / 10;
        prop->minor = fake.device.arch % 10;
        prop->totalGlobalMem = fake.device.total;
        prop->multiProcessorCount = 4;
        prop->canMapHostMemory = 1;
    }
    fake_unlock();
    return r;
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total)
{
    fake_lock();
    cudaError_t r = fake_enter("cudaMemGetInfo", cudaErrorMemoryAllocation);
    if (r == cudaSuccess) {
        size_t used = fake.live.device_bytes;
        *free_bytes = fake.device.free_at_start > used ? fake.device.free_at_start - used : 0;
        *total = fake.device.total;
    }
    fake_unlock();
    return r;
}

cudaError_t cudaGetLastError(void)
{
    fake_lock();
    cudaError_t r = fake.last;
    fake.last = cudaSuccess;
    fake_unlock();
    return r;
}

cudaError_t cudaPeekAtLastError(void)
{
    return fake.last;
}

const char *cudaGetErrorString(cudaError_t error)
{
    switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorInsufficientDriver: return "CUDA driver version is insufficient for CUDA runtime version";
    case cudaErrorNoDevice: return "no CUDA-capable device is detected";
    case cudaErrorLaunchFailure: return "unspecified launch failure";
    case cudaErrorStreamCaptureUnjoined: return "capturing stream has unjoined work";
    default: return "an error that was planted";
    }
}

const char *cudaGetErrorName(cudaError_t error)
{
    return error == cudaErrorMemoryAllocation ? "cudaErrorMemoryAllocation" : "cudaErrorUnknown";
}
