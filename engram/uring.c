#include "engram/uring.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* Completions have room for every read that can be out, so none is ever lost or held back. */
static int map_rings(em_uring *ring, const struct io_uring_params *p)
{
    size_t sq_bytes = p->sq_off.array + p->sq_entries * sizeof(unsigned);
    size_t cq_bytes = p->cq_off.cqes + p->cq_entries * sizeof(struct io_uring_cqe);

    ring->rings_bytes = sq_bytes > cq_bytes ? sq_bytes : cq_bytes;
    ring->rings =
        mmap(NULL, ring->rings_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring->fd, IORING_OFF_SQ_RING);
    if (ring->rings == MAP_FAILED)
        return -errno;
    ring->sqes_bytes = p->sq_entries * sizeof(struct io_uring_sqe);
    ring->sqes =
        mmap(NULL, ring->sqes_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring->fd, IORING_OFF_SQES);
    if (ring->sqes == MAP_FAILED) {
        int rc = -errno;
        munmap(ring->rings, ring->rings_bytes);
        return rc;
    }
    ring->sq_tail = (unsigned *)(ring->rings + p->sq_off.tail);
    ring->sq_mask = (unsigned *)(ring->rings + p->sq_off.ring_mask);
    ring->sq_array = (unsigned *)(ring->rings + p->sq_off.array);
    ring->cq_head = (unsigned *)(ring->rings + p->cq_off.head);
    ring->cq_tail = (unsigned *)(ring->rings + p->cq_off.tail);
    ring->cq_mask = (unsigned *)(ring->rings + p->cq_off.ring_mask);
    ring->cqes = (struct io_uring_cqe *)(ring->rings + p->cq_off.cqes);
    return 0;
}

int em_uring_open(em_uring *ring, unsigned depth, void *arena, size_t arena_bytes)
{
    struct io_uring_params params = {.flags = 0};
    struct iovec span = {arena, arena_bytes};

    memset(ring, 0, sizeof *ring);
    ring->fd = (int)syscall(__NR_io_uring_setup, depth, &params);
    if (ring->fd < 0)
        return -errno;
    /* from Linux 5.4 on; before that this tier reads with threads */
    int rc = params.features & IORING_FEAT_SINGLE_MMAP ? map_rings(ring, &params) : -ENOSYS;
    if (rc) {
        close(ring->fd);
        ring->fd = -1;
        return rc;
    }
    /* saves pinning pages at each read; the limit on locked memory may forbid it */
    ring->buffers_registered = syscall(__NR_io_uring_register, ring->fd, IORING_REGISTER_BUFFERS, &span, 1) == 0;
    return 0;
}

void em_uring_close(em_uring *ring)
{
    if (ring->fd < 0)
        return;
    munmap(ring->sqes, ring->sqes_bytes);
    munmap(ring->rings, ring->rings_bytes);
    close(ring->fd);
    ring->fd = -1;
}

void em_uring_read(em_uring *ring, int fd, void *to, unsigned bytes, uint64_t offset, uint64_t tag)
{
    unsigned tail = *ring->sq_tail, slot = tail & *ring->sq_mask;
    ring->sqes[slot] = (struct io_uring_sqe){.opcode = ring->buffers_registered ? IORING_OP_READ_FIXED : IORING_OP_READ,
                                             .fd = fd,
                                             .off = offset,
                                             .addr = (uintptr_t)to,
                                             .len = bytes,
                                             .user_data = tag};
    ring->sq_array[slot] = slot;
    __atomic_store_n(ring->sq_tail, tail + 1, __ATOMIC_RELEASE);
    ring->n_queued++;
}

int em_uring_submit(em_uring *ring, unsigned n_wait)
{
    for (;;) {
        long n = syscall(__NR_io_uring_enter, ring->fd, ring->n_queued, n_wait, n_wait ? IORING_ENTER_GETEVENTS : 0,
                         NULL, 0);
        if (n >= 0) {
            ring->n_queued -= (unsigned)n;
            if (!ring->n_queued)
                return 0;
        } else if (errno != EINTR && errno != EAGAIN && errno != EBUSY) {
            return -errno;
        } else if (errno != EINTR) {
            usleep(100); /* the kernel is short of memory for requests */
        }
    }
}

bool em_uring_reap(em_uring *ring, uint64_t *ret_tag, int *ret_result)
{
    unsigned head = *ring->cq_head;
    if (head == __atomic_load_n(ring->cq_tail, __ATOMIC_ACQUIRE))
        return false;
    const struct io_uring_cqe *cqe = &ring->cqes[head & *ring->cq_mask];
    *ret_tag = cqe->user_data;
    *ret_result = cqe->res;
    __atomic_store_n(ring->cq_head, head + 1, __ATOMIC_RELEASE);
    return true;
}
