#include "engram/verify.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define PIECE_BYTES 4096 /* read and compared at a time, on the stack of a gather thread */

static int open_own(int caller_fd, int *ret_fd)
{
    int fd = caller_fd > 0 ? fcntl(caller_fd, F_DUPFD_CLOEXEC, 3) : -1;
    if (fd < 0)
        return caller_fd > 0 ? -errno : -EINVAL;
    *ret_fd = fd;
    return 0;
}

int em_verify_open(em_verify *v, const em_engram_spec *spec, const em_engram_opts *opts, char *err, size_t err_len)
{
    memset(v, 0, sizeof *v);
    if (!opts->verify)
        return 0;
    v->row_bytes = em_engram_row_bytes(spec);
    v->scale_bytes = em_engram_scale_bytes(spec);
    for (int32_t t = 0; t < spec->n_tables; t++) {
        const em_engram_source *source = &spec->table[t];
        v->table[t] = (em_verify_table){-1, -1, source->codes_offset, source->scales_offset};
        v->n_tables = t + 1;
        int rc = open_own(source->codes_fd, &v->table[t].codes_fd);
        if (!rc && v->scale_bytes)
            rc = open_own(source->scales_fd, &v->table[t].scales_fd);
        if (rc) {
            em_verify_close(v);
            return em_engram_fail(err, err_len, rc,
                                  "Engram: rows cannot be verified without the file of the table of layer %d",
                                  source->layer);
        }
    }
    return 0;
}

void em_verify_close(em_verify *v)
{
    for (int32_t t = 0; t < v->n_tables; t++) {
        if (v->table[t].codes_fd >= 0)
            close(v->table[t].codes_fd);
        if (v->table[t].scales_fd >= 0)
            close(v->table[t].scales_fd);
    }
    memset(v, 0, sizeof *v);
}

static int compare(int fd, uint64_t offset, const uint8_t *p, size_t bytes)
{
    uint8_t piece[PIECE_BYTES];
    for (size_t done = 0; done < bytes;) {
        size_t want = bytes - done < sizeof piece ? bytes - done : sizeof piece;
        ssize_t n = pread(fd, piece, want, (off_t)(offset + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return -EIO;
        if (memcmp(piece, p + done, (size_t)n))
            return -EBADMSG;
        done += (size_t)n;
    }
    return 0;
}

static int compare_row(const em_verify *v, const em_verify_table *table, const em_part *part, size_t at)
{
    uint64_t row = (uint64_t)part->row_id[at];
    int rc = compare(table->codes_fd, table->codes_offset + row * v->row_bytes, part->codes + at * v->row_bytes,
                     v->row_bytes);
    if (rc || !v->scale_bytes)
        return rc;
    return compare(table->scales_fd, table->scales_offset + row * v->scale_bytes, part->scales + at * v->scale_bytes,
                   v->scale_bytes);
}

int em_verify_chunk(em_verify *v, const em_chunk *chunk)
{
    em_part *part = &chunk->ticket->part[chunk->table_idx];
    uint64_t n_wrong = 0;
    int rc = 0;

    if (!v->n_tables)
        return 0;
    for (size_t i = 0; i < chunk->n_rows; i++) {
        size_t at = chunk->first_row + i * chunk->stride;
        int r = compare_row(v, &v->table[chunk->table_idx], part, at);
        if (r) {
            rc = r;
            n_wrong++;
            em_part_lose(part, at);
        }
    }
    __atomic_fetch_add(&v->n_compared, chunk->n_rows, __ATOMIC_RELAXED);
    __atomic_fetch_add(&v->n_wrong, n_wrong, __ATOMIC_RELAXED);
    return rc;
}
