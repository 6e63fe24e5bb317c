#include "engram/reader.h"
#include "engram/memory.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ARENA_BYTES ((size_t)8 << 20) /* per thread, which bounds the reads in flight of wide rows */
#define MAX_SLOTS 256                 /* more does not make a disk faster */
#define MIN_SLOTS 8
#define RADIX_BITS 8
#define RADIX (1 << RADIX_BITS)

static const em_engram_mem plain_memory = {.alloc = NULL};

/* One read in flight. */
struct em_read_slot {
    int32_t job;
    em_wanted wanted;
    em_span span;
    uint32_t have; /* bytes of the span that are there */
};

struct em_read_job {
    em_fetched result;
    int32_t n_pending; /* reads in flight, and 1 while there are more to start */
};

/* --- open and close ------------------------------------------------------------------------------------------ */

static bool alloc_books(em_reader *r, int32_t max_tokens)
{
    size_t n = (size_t)r->n_slots;
    r->arena = em_memory_alloc(&plain_memory, n * r->slot_bytes, EM_PAGES_SMALL);
    r->slot = calloc(n, sizeof *r->slot);
    r->job = calloc(n + 1, sizeof *r->job);
    r->free_slot = calloc(n, sizeof *r->free_slot);
    r->free_job = calloc(n + 1, sizeof *r->free_job);
    r->finished_job = calloc(n + 1, sizeof *r->finished_job);
    r->wanted = calloc(2 * (size_t)max_tokens, sizeof *r->wanted);
    return r->arena && r->slot && r->job && r->free_slot && r->free_job && r->finished_job && r->wanted;
}

int em_reader_open(em_reader *r, em_disk *disk, int32_t max_tokens)
{
    memset(r, 0, sizeof *r);
    r->disk = disk;
    r->ring.fd = -1;
    r->slot_bytes = (em_disk_span_bytes(disk) + 4095) / 4096 * 4096;
    r->n_slots = (int32_t)(ARENA_BYTES / r->slot_bytes);
    r->n_slots = r->n_slots < MIN_SLOTS ? MIN_SLOTS : r->n_slots > MAX_SLOTS ? MAX_SLOTS : r->n_slots;
    if (!disk->ring_allowed)
        r->n_slots = 1;
    if (!alloc_books(r, max_tokens)) {
        em_reader_close(r);
        return -ENOMEM;
    }
    if (disk->ring_allowed)
        em_uring_open(&r->ring, (unsigned)r->n_slots, r->arena, (size_t)r->n_slots * r->slot_bytes);
    while (r->n_free_slots < r->n_slots)
        r->free_slot[r->n_free_slots] = r->n_free_slots, r->n_free_slots++;
    while (r->n_free_jobs < r->n_slots + 1)
        r->free_job[r->n_free_jobs] = r->n_free_jobs, r->n_free_jobs++;
    return 0;
}

void em_reader_close(em_reader *r)
{
    em_uring_close(&r->ring);
    em_memory_free(&plain_memory, r->arena, (size_t)r->n_slots * r->slot_bytes);
    free(r->slot);
    free(r->job);
    free(r->free_slot);
    free(r->free_job);
    free(r->finished_job);
    free(r->wanted);
    memset(r, 0, sizeof *r);
    r->ring.fd = -1;
}

/* --- what a chunk wants: each row once, in the order of the file ----------------------------------------------- */

/* By row id, those of one id in order of place. All ids lie in one bucket, so few digits differ. */
static em_wanted *sort_wanted(em_wanted *from, em_wanted *to, size_t n)
{
    int64_t least = INT64_MAX, most = 0;
    for (size_t i = 0; i < n; i++) {
        least = from[i].row_id < least ? from[i].row_id : least;
        most = from[i].row_id > most ? from[i].row_id : most;
    }
    for (int shift = 0; n > 1 && shift < 63 && (most - least) >> shift; shift += RADIX_BITS) {
        size_t place[RADIX] = {0}, sum = 0;
        for (size_t i = 0; i < n; i++)
            place[(from[i].row_id - least) >> shift & (RADIX - 1)]++;
        for (size_t d = 0; d < RADIX; d++) {
            size_t count = place[d];
            place[d] = sum;
            sum += count;
        }
        for (size_t i = 0; i < n; i++)
            to[place[(from[i].row_id - least) >> shift & (RADIX - 1)]++] = from[i];
        em_wanted *swap = from;
        from = to;
        to = swap;
    }
    return from;
}

/* Fills r->wanted; places of the same row are chained through the part's `same`. */
static void list_wanted(em_reader *r, const em_chunk *chunk)
{
    em_part *part = &chunk->ticket->part[chunk->table_idx];
    int64_t last_id = -1;
    uint32_t last_at = 0;

    for (size_t i = 0; i < chunk->n_rows; i++) {
        size_t at = chunk->first_row + i * chunk->stride;
        r->wanted[i] = (em_wanted){part->row_id[at], (uint32_t)at};
    }
    const em_wanted *sorted = sort_wanted(r->wanted, r->wanted + chunk->n_rows, chunk->n_rows);
    r->n_wanted = r->next_wanted = 0;
    for (size_t i = 0; i < chunk->n_rows; i++) {
        em_wanted w = sorted[i];
        part->same[w.at] = EM_NO_ROW;
        if (w.row_id == last_id)
            part->same[last_at] = w.at;
        else
            r->wanted[r->n_wanted++] = w; /* never ahead of what is still to be looked at */
        last_id = w.row_id;
        last_at = w.at;
    }
}

/* --- rows that have come ------------------------------------------------------------------------------------- */

static em_part *part_of(const em_read_job *job)
{
    return &job->result.chunk.ticket->part[job->result.chunk.table_idx];
}

/* To every place that wants the row; from may be the first of them. */
static void spread(const em_reader *r, const em_read_job *job, const em_wanted *w, const uint8_t *from)
{
    em_part *part = part_of(job);
    for (uint32_t at = w->at; at != EM_NO_ROW; at = part->same[at]) {
        uint8_t *to = part->codes + at * r->disk->row_bytes;
        if (to != from)
            memcpy(to, from, r->disk->row_bytes);
    }
}

/* What a read has brought, to every place that wants it; row NULL: nothing. */
static void settle(const em_reader *r, const em_read_job *job, const em_wanted *w, const uint8_t *row)
{
    em_part *part = part_of(job);
    if (row)
        spread(r, job, w, row);
    for (uint32_t at = w->at; at != EM_NO_ROW; at = part->same[at]) {
        em_part_flag(part, at, EM_ENGRAM_ROW_READ);
        if (!row)
            em_part_lose(part, at);
    }
}

/* Scales are in memory. */
static void copy_scales(const em_reader *r, const em_chunk *chunk)
{
    const em_part *part = &chunk->ticket->part[chunk->table_idx];
    const uint8_t *from = r->disk->table[chunk->table_idx].scales;
    size_t bytes = r->disk->scale_bytes;

    for (size_t i = 0; bytes && i < chunk->n_rows; i++) {
        size_t at = chunk->first_row + i * chunk->stride;
        memcpy(part->scales + at * bytes, from + (size_t)part->row_id[at] * bytes, bytes);
    }
}

static void end_pending(em_reader *r, em_read_job *job)
{
    if (--job->n_pending == 0)
        r->finished_job[r->n_finished++] = (int32_t)(job - r->job);
}

static uint8_t *buffer_of(const em_reader *r, const em_read_slot *slot)
{
    return r->arena + (size_t)(slot - r->slot) * r->slot_bytes;
}

static void finish_read(em_reader *r, em_read_slot *slot, int error)
{
    em_read_job *job = &r->job[slot->job];
    int32_t table_idx = job->result.chunk.table_idx;
    const uint8_t *row = buffer_of(r, slot) + slot->span.row_at;

    em_disk_count_end(r->disk);
    settle(r, job, &slot->wanted, error ? NULL : row);
    if (error) {
        job->result.error = error;
    } else {
        em_row_cache_put(&r->disk->cache, em_disk_key(table_idx, slot->wanted.row_id), row);
    }
    r->free_slot[r->n_free_slots++] = (int32_t)(slot - r->slot);
    end_pending(r, job);
}

/* --- reading ------------------------------------------------------------------------------------------------- */

/* What a read has brought: 0 the row is there, 1 read on, or -EIO. A short read happens, at the end of a file above
 * all. Direct reads can go on at a whole block only; where less than one came, the page cache has the last word. */
static int advance(const em_reader *r, em_read_slot *slot, ssize_t result)
{
    int32_t table_idx = r->job[slot->job].result.chunk.table_idx;
    uint32_t align = r->disk->table[table_idx].align, before = slot->have;
    if (result == -EINTR || result == -EAGAIN)
        return 1;
    if (result <= 0)
        return -EIO;
    slot->have += (uint32_t)result;
    if (slot->have >= slot->span.row_at + r->disk->row_bytes)
        return 0;
    slot->have = slot->have / align * align;
    if (slot->have > before)
        return 1;
    return em_disk_read_row(r->disk, table_idx, slot->wanted.row_id, buffer_of(r, slot) + slot->span.row_at);
}

/* Through the ring: it is in flight when this returns. Without one: it has ended. */
static void start_read(em_reader *r, em_read_slot *slot)
{
    const em_disk_table *table = &r->disk->table[r->job[slot->job].result.chunk.table_idx];
    uint8_t *buffer = buffer_of(r, slot);
    int rc = 1;

    if (r->ring.fd >= 0) {
        em_uring_read(&r->ring, table->fd, buffer + slot->have, slot->span.bytes - slot->have,
                      slot->span.offset + slot->have, (uint64_t)(slot - r->slot));
        return;
    }
    while (rc == 1) {
        ssize_t n = pread(table->fd, buffer + slot->have, slot->span.bytes - slot->have,
                          (off_t)(slot->span.offset + slot->have));
        rc = advance(r, slot, n < 0 ? -errno : n);
    }
    finish_read(r, slot, rc);
}

/* Starts what there are slots for. */
static void start_more(em_reader *r)
{
    em_read_job *job = r->starting;

    while (job && r->n_free_slots && r->next_wanted < r->n_wanted) {
        em_wanted w = r->wanted[r->next_wanted++];
        int32_t table_idx = job->result.chunk.table_idx;
        uint8_t *to = part_of(job)->codes + w.at * r->disk->row_bytes;
        if (em_row_cache_get(&r->disk->cache, em_disk_key(table_idx, w.row_id), to)) {
            job->result.n_cached++;
            spread(r, job, &w, to);
            continue;
        }
        em_read_slot *slot = &r->slot[r->free_slot[--r->n_free_slots]];
        *slot = (em_read_slot){(int32_t)(job - r->job), w, em_disk_span(r->disk, table_idx, w.row_id), 0};
        job->result.read_bytes += slot->span.bytes;
        job->n_pending++;
        em_disk_count_begin(r->disk);
        start_read(r, slot);
    }
    if (job && r->next_wanted == r->n_wanted) {
        r->starting = NULL;
        end_pending(r, job);
    }
}

bool em_reader_has_room(const em_reader *r)
{
    return !r->starting && r->n_free_slots && r->n_free_jobs;
}

void em_reader_begin(em_reader *r, const em_chunk *chunk)
{
    em_read_job *job = &r->job[r->free_job[--r->n_free_jobs]];
    list_wanted(r, chunk);
    *job = (em_read_job){.result = {.chunk = *chunk, .n_unique = r->n_wanted}, .n_pending = 1};
    r->starting = job;
    copy_scales(r, chunk);
    start_more(r);
}

bool em_reader_is_idle(const em_reader *r)
{
    return r->n_free_jobs == r->n_slots + 1;
}

void em_reader_wait(em_reader *r)
{
    uint64_t tag;
    int result;

    if (r->n_free_slots == r->n_slots) /* nothing is out: what is here has ended */
        return;
    if (em_uring_submit(&r->ring, 1))
        usleep(1000); /* the kernel holds our buffers: there is no way but to try again */
    while (em_uring_reap(&r->ring, &tag, &result)) {
        em_read_slot *slot = &r->slot[tag];
        int rc = advance(r, slot, result);
        if (rc == 1)
            start_read(r, slot);
        else
            finish_read(r, slot, rc);
    }
    start_more(r);
}

bool em_reader_next(em_reader *r, em_fetched *ret_fetched)
{
    if (!r->n_finished)
        return false;
    int32_t i = r->finished_job[--r->n_finished];
    *ret_fetched = r->job[i].result;
    r->free_job[r->n_free_jobs++] = i;
    return true;
}
