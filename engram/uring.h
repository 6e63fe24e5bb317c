/* Reads through io_uring by its system calls alone. One thread uses a ring. */
#ifndef EM_ENGRAM_URING_H
#define EM_ENGRAM_URING_H

#include <linux/io_uring.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct em_uring {
    int fd; /* -1: not open */
    bool buffers_registered;
    unsigned n_queued; /* reads that the kernel has not been told of */
    /* rings, shared with the kernel */
    uint8_t *rings;
    size_t rings_bytes;
    unsigned *sq_tail, *sq_mask, *sq_array;
    unsigned *cq_head, *cq_tail, *cq_mask;
    struct io_uring_cqe *cqes;
    struct io_uring_sqe *sqes;
    size_t sqes_bytes;
} em_uring;

/* A ring for up to `depth` reads at a time into the memory at arena. -errno where the system has none or forbids it. */
int em_uring_open(em_uring *ring, unsigned depth, void *arena, size_t arena_bytes);
void em_uring_close(em_uring *ring);

/* Queues one read; the caller keeps count of the depth. */
void em_uring_read(em_uring *ring, int fd, void *to, unsigned bytes, uint64_t offset, uint64_t tag);

/* Tells the kernel of all that is queued and waits until at least n_wait reads have ended. 0 or -errno. */
int em_uring_submit(em_uring *ring, unsigned n_wait);

/* One read that has ended: its tag, and bytes or -errno. False when there is none at the moment. */
bool em_uring_reap(em_uring *ring, uint64_t *ret_tag, int *ret_result);

#endif
