/* libengram: hashed n-gram tables in host memory, rows there before they are asked for.
 *
 * What it does. A table row is addressed by hashing the last 2..max_order token classes (spec of DeepSeek-V4.1,
 * section 5). This library computes the addresses, keeps the tables, and copies the rows of one step's tokens side by
 * side into a staging buffer on a thread of its own: *ask* when the ids are known, *take* when the layer arrives.
 * It knows nothing of tensors, devices or requests, and needs libc and pthread alone.
 *
 * Ownership. em_engram owns its tables (or views the caller's mapping), its staging buffers and its threads. Memory
 * that a device may read comes from the em_engram_mem pair given at open (plain memory when it is NULL). All of it is
 * taken at open: after that nothing is allocated.
 *
 * Threads. open/close: one thread. After open, hashing functions are pure and may be called from any thread.
 * ask/take/release may be called from any thread; one ticket is used by one thread at a time.
 *
 * Errors. 0 or negative errno; where a function takes (err, err_len) it leaves one sentence there. */
#ifndef EM_ENGRAM_H
#define EM_ENGRAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define EM_ENGRAM_MAX_TABLES 16
#define EM_ENGRAM_MAX_ORDER 8
#define EM_ENGRAM_MAX_HEADS 64
#define EM_ENGRAM_DEAD (-1) /* class of a position that takes no part (an image): look-back stops there */

typedef enum em_engram_dtype {
    EM_ENGRAM_FP8,  /* head_dim E4M3 bytes; one UE8M0 byte per row and 32 columns in a separate array */
    EM_ENGRAM_BF16, /* head_dim * 2 bytes, no scales */
    EM_ENGRAM_F32,  /* head_dim * 4 bytes, no scales */
    EM_ENGRAM_INT8, /* head_dim signed bytes; one float32 per row in a separate array */
} em_engram_dtype;

typedef enum em_engram_tier {
    EM_ENGRAM_TIER_AUTO,   /* ram when the table is small (64 MiB in all), else mmap */
    EM_ENGRAM_TIER_RAM,    /* copied once into memory of the library's own, huge pages where there are any */
    EM_ENGRAM_TIER_MMAP,   /* rows read from the caller's mapping (page cache), random-access advice */
    EM_ENGRAM_TIER_SHARED, /* one copy per machine: a file in shared_dir that all processes map, see em_engram_opts */
    EM_ENGRAM_TIER_NVME, /* rows read from their files when they are asked for, scales in memory; see em_engram_opts */
    EM_ENGRAM_TIER_PINNED, /* as ram, and never swapped: the caller's pair gives such memory, without one it is locked */
} em_engram_tier;

/* Memory for tables and staging, e.g. page-locked memory of a device. alloc returns NULL on failure; the memory is
 * aligned to at least 64 bytes. Called from the thread that opens or closes. */
typedef struct em_engram_mem {
    void *(*alloc)(void *ctx, size_t bytes);
    void (*free)(void *ctx, void *p, size_t bytes);
    void *ctx;
} em_engram_mem;

/* One table: rows that lie in a mapping of the caller's, which must live until em_engram_close. With the ram, pinned,
 * shared and nvme tiers it may go when em_engram_open has returned: nothing reads it afterwards. */
typedef struct em_engram_source {
    int32_t layer;         /* backbone layer number: seeds the multipliers */
    int64_t n_rows;        /* at least the sum of the table's primes */
    const uint8_t *codes;  /* [n_rows, row_bytes]; not looked at by the nvme tier */
    const uint8_t *scales; /* [n_rows, head_dim / 32] UE8M0 or [n_rows] float32; NULL unless FP8 or INT8 */
    /* The files that hold the two arrays, and where in them; the library keeps descriptors of its own. 0: not told. The
     * nvme tier reads codes there. A shared copy is found again by its sources' files; without them by a checksum over
     * all rows. */
    int codes_fd, scales_fd;
    uint64_t codes_offset, scales_offset;
} em_engram_source;

/* What the tables are, as data: enough for the released models (one prime_start for all orders, seed 0) and for the
 * program published with the paper (a start for each order). */
typedef struct em_engram_spec {
    int32_t n_tables; /* 1..EM_ENGRAM_MAX_TABLES */
    em_engram_source table[EM_ENGRAM_MAX_TABLES];
    em_engram_dtype dtype;
    int32_t max_order;                            /* n-gram orders 2..max_order, current token included */
    int32_t n_heads;                              /* hash heads per order */
    int32_t head_dim;                             /* columns of a row; a multiple of 32 for FP8 */
    int64_t prime_start;                          /* engram_vocab_size: buckets are the primes from here upward */
    int64_t order_start[EM_ENGRAM_MAX_ORDER - 1]; /* where order 2, 3, ... begins instead; 0: at prime_start */
    uint64_t seed;                                /* of the multipliers; 10007 * layer is added to it */
    int32_t n_classes;                            /* V: compressed vocabulary size */
    int32_t pad_class;                            /* class of the pad token: what look-backs past the start become */
} em_engram_spec;

typedef struct em_engram_opts {
    em_engram_tier tier;
    int32_t max_tokens;  /* most tokens in one ask */
    int32_t max_tickets; /* tickets that can be out at a time; ask fails with -EAGAIN beyond */
    int32_t n_threads;   /* gather threads; 0 means 1. Where the nvme tier must do without io_uring it has 48 or more */
    em_engram_mem mem;   /* alloc NULL: plain memory */
    /* shared tier: an existing folder, best one in memory; NULL: /dev/shm. Open waits while another process fills the
     * copy. The file stays there after close, for the next process; only its owner can use it. */
    const char *shared_dir;
    uint64_t cache_bytes; /* nvme tier: memory for rows that were read lately; 0: none */
    /* Trust nothing: a shared copy is used only when its rows still have the checksum they were written with, and every
     * row that is given out is compared with its source's file, which must be told. Slow; for finding out. */
    bool verify;
    bool prefault; /* mmap tier: read every page once, with several threads, before open returns */
    /* while memory is filled (ram, pinned, shared, nvme's scales) or read ahead (prefault), on the thread that opens; the last call says done == total; may be NULL */
    void (*on_progress)(void *ctx, uint64_t done_bytes, uint64_t total_bytes);
    void *progress_ctx;
} em_engram_opts;

typedef struct em_engram em_engram;
typedef struct em_engram_ticket em_engram_ticket;

/* For plans, before anything is opened. The tier that AUTO stands for with tables of so many bytes; others as they are. */
em_engram_tier em_engram_resolve_tier(em_engram_tier tier, uint64_t table_bytes);
/* Bytes that em_engram_open takes for rows in flight (its sources' pointers are not looked at); 0: more than can be
 * addressed. */
size_t em_engram_staging_bytes(const em_engram_spec *spec, int32_t max_tokens, int32_t max_tickets);

/* --- hashing: pure ------------------------------------------------------------------------------------------ */

/* Buckets and multipliers of one table (spec 5.3, 5.4, appendix B). */
typedef struct em_engram_hash {
    int32_t max_order, n_heads;
    int32_t n_cols; /* (max_order - 1) * n_heads */
    int32_t pad_class;
    int64_t multiplier[EM_ENGRAM_MAX_ORDER];                              /* M_0 belongs to the current token */
    int64_t prime[(EM_ENGRAM_MAX_ORDER - 1) * EM_ENGRAM_MAX_HEADS];       /* column n_heads * (order - 2) + head */
    uint64_t reciprocal[(EM_ENGRAM_MAX_ORDER - 1) * EM_ENGRAM_MAX_HEADS]; /* (2^64 - 1) / prime, for an exact % */
    int64_t offset[(EM_ENGRAM_MAX_ORDER - 1) * EM_ENGRAM_MAX_HEADS];      /* first row of each column's bucket */
    int64_t n_rows;                                                       /* sum of the primes */
} em_engram_hash;

/* Fills hash[0 .. n_tables-1] from the spec's sizes (its sources' pointers are not looked at). -EINVAL with a
 * sentence when a size is out of range or a table has fewer rows than its primes add up to. */
int em_engram_hash_init(const em_engram_spec *spec, em_engram_hash *ret_hash, char *err, size_t err_len);

/* Sticky look-back (spec 5.4): from the classes of a sequence up to and including the current token, newest last
 * (n >= 1; EM_ENGRAM_DEAD for dead positions), the classes c_0 .. c_{max_order-1}, newest first; once a look-back
 * leaves the start or meets a dead position, it and all deeper ones are the pad class. n may exceed max_order. */
void em_engram_suffix(const em_engram_hash *hash, const int32_t *classes, size_t n, int32_t *ret_suffix);

/* Row ids of one token: suffix [max_order] -> row_id [n_cols], in column order. */
void em_engram_row_ids(const em_engram_hash *hash, const int32_t *suffix, int64_t *ret_row_id);

/* --- the service -------------------------------------------------------------------------------------------- */

/* Checks the spec, opens the tier, starts the gather threads. */
int em_engram_open(const em_engram_spec *spec, const em_engram_opts *opts, em_engram **ret_engram, char *err,
                   size_t err_len);
/* NULL is fine; every ticket must be released; joins the threads; returns NULL. */
em_engram *em_engram_close(em_engram *g);

const em_engram_hash *em_engram_table_hash(const em_engram *g, int32_t table_idx);
em_engram_tier em_engram_tier_of(const em_engram *g); /* never AUTO */

/* The whole table as the tier holds it, for a consumer that reads host memory itself; no codes in the nvme tier. */
typedef struct em_engram_table {
    const uint8_t *codes;  /* [n_rows, row_bytes] */
    const uint8_t *scales; /* [n_rows, scale_bytes] or NULL */
    int64_t n_rows;
    size_t row_bytes, scale_bytes; /* of one row */
} em_engram_table;
void em_engram_table_view(const em_engram *g, int32_t table_idx, em_engram_table *ret_table);

/* Copies n rows side by side on the calling thread, without a ticket: codes [n, row_bytes], scales [n, scale_bytes] or
 * NULL as the view says. The ids must be inside the table. 0, or -EIO: the nvme tier could not read a row. */
int em_engram_copy_rows(const em_engram *g, int32_t table_idx, const int64_t *row_id, size_t n, uint8_t *codes,
                        uint8_t *scales);

/* Asks for the rows of n_tokens tokens in all tables: hashes on the calling thread, queues the gather, returns at
 * once (in the ram tier a handful of rows is copied right here: cheaper than waking a thread). suffix: [n_tokens,
 * max_order] as em_engram_suffix gives it, read before the call returns. Tables are gathered in order, so the first
 * Engram layer's rows come first; queued tickets are served in the order they were asked.
 * -EINVAL: n_tokens < 1 or > max_tokens, or a class is not in 0 .. n_classes - 1; -EAGAIN: all tickets are out. */
int em_engram_ask(em_engram *g, const int32_t *suffix, int32_t n_tokens, em_engram_ticket **ret_ticket);

#define EM_ENGRAM_READY 1u
#define EM_ENGRAM_FAILED 2u /* in place, but some tokens' rows are lost: take says why, token_flags whose */

/* Of one token and table. */
#define EM_ENGRAM_ROW_READ 1u /* some row came from its file for this ask; nvme tier only */
#define EM_ENGRAM_ROW_LOST 2u /* some row could not be read, or is not what its file holds: its codes are zeros */

/* The rows of one table, side by side. */
typedef struct em_engram_rows {
    int32_t n_tokens, n_cols;
    const uint8_t *codes;       /* [n_tokens, n_cols, row_bytes]: the input of wkv, still packed */
    const uint8_t *scales;      /* [n_tokens, n_cols, head_dim / 32] UE8M0 or [n_tokens, n_cols] float32, else NULL */
    const int64_t *row_id;      /* [n_tokens, n_cols] */
    const uint32_t *ready;      /* becomes EM_ENGRAM_READY (release order) when codes and scales are in place: a device
                             * stream can wait for this word; it lies in memory of the em_engram_mem pair */
    const uint8_t *token_flags; /* [n_tokens] EM_ENGRAM_ROW_*, to be read once ready is not 0 */
} em_engram_rows;

/* Waits until the rows of one table are there (normally they are) and gives them out; they live until release. A
 * gather that nobody has begun is done by the caller itself instead of waiting, but for reads from a disk. 0; -EINVAL: no
 * such table; -EIO: a row could not be read (nvme tier); -EBADMSG: a row is not what its file holds (opts.verify). After
 * the latter two *ret_rows is filled all the same: the tokens that token_flags does not call lost have their right rows,
 * and so may the ticket's other tables. */
int em_engram_take(em_engram_ticket *t, int32_t table_idx, em_engram_rows *ret_rows);

/* The same without waiting: for a consumer that waits on `ready` itself. */
void em_engram_peek(em_engram_ticket *t, int32_t table_idx, em_engram_rows *ret_rows);

/* Gives the ticket back, also one whose rows nobody took (a cancelled request): what has not begun is dropped. Never
 * waits. NULL is fine; returns NULL. */
em_engram_ticket *em_engram_release(em_engram_ticket *t);

/* Fixed buckets of times: i holds what took up to EM_ENGRAM_BUCKET_NS(i), the last one all that took longer. */
#define EM_ENGRAM_N_BUCKETS 12
#define EM_ENGRAM_BUCKET_NS(i) (UINT64_C(1000) << 2 * (i)) /* 1 us, 4 us, ... 1 s */

/* Each (ticket, table) counts once in one of them, when it is first taken. */
typedef struct em_engram_table_stats {
    int32_t layer;
    uint64_t rows;                             /* asked for */
    uint64_t waits, wait_ns;                   /* takes that found rows missing, and how long they waited in all */
    uint64_t wait_bucket[EM_ENGRAM_N_BUCKETS]; /* of all takes; those that found all in place waited 0 */
    uint64_t lead_ns;                          /* how long rows had been ready, in all */
    uint64_t lead_bucket[EM_ENGRAM_N_BUCKETS]; /* of takes that found all in place */
    uint64_t table_bytes, resident_bytes;
} em_engram_table_stats;

typedef struct em_engram_stats {
    uint64_t tokens, rows, bytes; /* asked for, over all tables */
    uint64_t waits, wait_ns;      /* take calls that found rows missing, and how long they waited */
    uint64_t lead_ns;             /* sum over (ticket, table) of the time rows were ready before they were taken */
    uint64_t failed;              /* (ticket, table)s that ended with an error */
    /* nvme tier. What threads have brought: rows without those wanted twice in a bucket and ask; of them found in the
     * cache, and read; bytes of the blocks read; buckets of asks in which a row could not be read */
    uint64_t rows_unique, rows_cached, rows_read, read_bytes, read_errors;
    uint32_t most_in_flight;            /* reads at a time, ever */
    uint64_t rows_verified, rows_wrong; /* with verify: compared with their file; different, or not to be read there */
    bool io_uring;                      /* false: it is forbidden here, threads read instead */
    uint64_t cache_bytes;               /* of the row cache; part of resident_bytes */
    uint64_t table_bytes, resident_bytes; /* of all tables; resident: in memory of our own, or in the page cache now */
    uint64_t staging_bytes;               /* for rows in flight, taken at open */
    int32_t n_tables;
    em_engram_table_stats table[EM_ENGRAM_MAX_TABLES];
} em_engram_stats;
/* resident_bytes is sampled: may take milliseconds. */
void em_engram_get_stats(em_engram *g, em_engram_stats *ret_stats);

/* --- what a row cache would find: for plans, nothing needs to be open ---------------------------------------- */

/* Rows of so many bytes (codes alone) that the nvme tier's cache keeps in cache_bytes, its books included. */
uint64_t em_engram_cache_rows(size_t row_bytes, uint64_t cache_bytes);

/* The nvme tier's cache of n_rows rows without their bytes: asked for a key it says whether the row would have been
 * there, and otherwise takes it in, as the tier does after reading it. Takes about 40 bytes for each row. -ENOMEM. One
 * thread at a time. */
typedef struct em_engram_cache_model em_engram_cache_model;
int em_engram_cache_model_new(uint64_t n_rows, em_engram_cache_model **ret_model);
em_engram_cache_model *em_engram_cache_model_free(em_engram_cache_model *model); /* NULL is fine; returns NULL */
bool em_engram_cache_model_ask(em_engram_cache_model *model, uint64_t key);

#ifdef __cplusplus
}
#endif
#endif
