/* A stand-in for the CUDA runtime on the CPU: the same symbols, so that the backend's host code runs unchanged.
 *
 * A stream is a queue of work that runs inside later calls of the runtime, in an order that a mode and a seed decide, so
 * a failure replays exactly. Device memory is mapped memory with guard pages, filled with 0xff (NaN) when it is
 * allocated; with `protect` it can only be touched while work of a stream runs, so host code that does dies at once.
 * Strict where the real runtime forgives: the NULL stream, asynchronous copies of pageable memory, copies outside of an
 * allocation, freeing what was not allocated and captures that are not joined abort the program with a sentence.
 *
 * Limits: one device; the memory model is the host's; work runs on the calling thread, so nothing overlaps in time.
 * Thread-safe by one lock; the settings below belong to one test at a time. */
#ifndef EM_TESTS_CUDA_FAKE_H
#define EM_TESTS_CUDA_FAKE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum fake_order {
    FAKE_EAGER,  /* as soon as it may */
    FAKE_LAZY,   /* nothing until the host waits, then only what it waits for */
    FAKE_RANDOM, /* at every call up to three pieces of work that may run, of any stream */
} fake_order;

/* What is on the machine. */
typedef struct fake_device {
    int driver_version;          /* 13000 is CUDA 13.0; 0: no driver */
    int n_devices;               /* 0 or 1 */
    int arch;                    /* 10 * major + minor */
    size_t total, free_at_start; /* bytes of memory */
    size_t pinned_limit;         /* bytes that may be page-locked; 0: no limit */
} fake_device;

/* Back to the start: eager, no faults, a device of 256 MiB. Aborts when something is still allocated. The first call of
 * the runtime reads FAKE_CUDA from the environment instead when nothing was set: words separated by commas: eager, lazy,
 * random=SEED, memory=MIB, arch=N, driver=N, none. */
void fake_reset(void);
void fake_set_order(fake_order order, uint64_t seed);
void fake_set_device(const fake_device *device);
void fake_set_protect(bool on); /* before anything is allocated */

/* Off: launches are counted and dropped, for tests of what the host does around them. */
void fake_set_kernels(bool on);

/* The n-th call from now on (1: the next one) that can fail does, with the error this call would give; 0: none. */
void fake_fail_at(int64_t n);
int64_t fake_calls(void);           /* calls that can fail, since reset */
const char *fake_failed_call(void); /* name of the call that was made to fail; NULL: none yet */

/* What is allocated now. */
typedef struct fake_live {
    int device, pinned, streams, events, graphs;
    size_t device_bytes, pinned_bytes;
} fake_live;
fake_live fake_get_live(void);

/* What has run since reset. */
typedef struct fake_counts {
    int64_t launches, copies, graph_launches, captures, host_waits;
} fake_counts;
fake_counts fake_get_counts(void);

#ifdef __cplusplus
}
#endif
#endif
