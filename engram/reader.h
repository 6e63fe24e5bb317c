/* One gather thread of the nvme tier: takes chunks, has their rows in flight all at once, gives the chunks back as they
 * become complete. A chunk is one column of an ask: the rows of a bucket, in which the same row may be wanted by many
 * tokens. They are sorted and each is read once. Used by one thread. */
#ifndef EM_ENGRAM_READER_H
#define EM_ENGRAM_READER_H

#include "engram/disk.h"
#include "engram/staging.h"
#include "engram/uring.h"

/* A chunk that has ended, and what it took. */
typedef struct em_fetched {
    em_chunk chunk;
    int error; /* 0, or -EIO: some row could not be read */
    uint64_t n_unique, n_cached, read_bytes;
} em_fetched;

typedef struct em_read_slot em_read_slot;
typedef struct em_read_job em_read_job;

/* A row that a chunk wants, and the first place it goes to. */
typedef struct em_wanted {
    int64_t row_id;
    uint32_t at; /* row of the part */
} em_wanted;

typedef struct em_reader {
    em_disk *disk;
    em_uring ring;  /* fd -1: reads are done one after another, on this thread */
    uint8_t *arena; /* [n_slots, slot_bytes] */
    size_t slot_bytes;
    int32_t n_slots;
    em_read_slot *slot;
    em_read_job *job;                             /* [n_slots + 1] */
    int32_t *free_slot, *free_job, *finished_job; /* stacks */
    int32_t n_free_slots, n_free_jobs, n_finished;
    /* the chunk whose reads are being started */
    em_read_job *starting; /* NULL: none */
    em_wanted *wanted;     /* [2 * max_tokens]: sorted, and room to sort */
    size_t n_wanted, next_wanted;
} em_reader;

/* 0 or -ENOMEM; then there is nothing to close. */
int em_reader_open(em_reader *reader, em_disk *disk, int32_t max_tokens);
void em_reader_close(em_reader *reader);

bool em_reader_has_room(const em_reader *reader); /* for one more chunk */
void em_reader_begin(em_reader *reader, const em_chunk *chunk);
bool em_reader_is_idle(const em_reader *reader);                 /* no chunk is here */
void em_reader_wait(em_reader *reader);                          /* until at least one read has ended, if any is out */
bool em_reader_next(em_reader *reader, em_fetched *ret_fetched); /* a chunk that has ended; false: none at the moment */

#endif
