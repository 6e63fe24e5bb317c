#include "engram/shared.h"
#include "engram/checksum.h"
#include "engram/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define DEFAULT_DIR "/dev/shm"
#define MAGIC "engram\0\1" /* the last byte is the layout's version */
#define MAGIC_BYTES 8
#define ARRAY_ALIGN ((size_t)16384)  /* of the header and of each array */
#define FILE_ALIGN ((size_t)2 << 20) /* hugetlbfs has whole pages only */
#define MAX_TRIES 20                 /* a copy that is made may be removed before it is mapped, but not for ever */
#define NO_COPY 1                    /* instead of an error: there is none that can be used */
#define MAX_SAMPLES 1024             /* rows of a source that are compared with a copy that was found */

/* Where an array comes from. All zero when the caller told no file. */
typedef struct em_origin {
    uint64_t device, inode, file_bytes, mtime_s, mtime_ns, offset;
} em_origin;

/* What a copy is a copy of. Compared byte by byte: no padding, what is not used is 0. Array 2 * t are the codes of
 * table t, 2 * t + 1 its scales. */
typedef struct em_identity {
    uint64_t n_tables, row_bytes, scale_bytes;
    uint64_t n_rows[EM_ENGRAM_MAX_TABLES];
    em_origin origin[EM_FILL_MAX_ARRAYS];
    uint64_t source_checksum[EM_FILL_MAX_ARRAYS]; /* of arrays without an origin */
} em_identity;

typedef struct em_header {
    char magic[MAGIC_BYTES];
    em_identity identity;
    uint64_t checksum[EM_FILL_MAX_ARRAYS]; /* of what was written */
    uint64_t header_checksum;              /* of all before it */
} em_header;

_Static_assert(sizeof(em_header) <= ARRAY_ALIGN, "the header lies before the first array");

/* One open, handed down. */
typedef struct em_opening {
    const em_engram_spec *spec;
    const em_engram_opts *opts;
    em_engram_table *view;
    em_identity identity;
    size_t offset[EM_FILL_MAX_ARRAYS]; /* of each array in the file */
    size_t bytes;                      /* of the file */
    char path[PATH_MAX];
    char partial_path[PATH_MAX];
    char *err;
    size_t err_len;
} em_opening;

static int fail(const em_opening *o, int code, const char *what)
{
    return em_engram_fail(o->err, o->err_len, code, "Engram: cannot %s the shared copy %s: %s", what, o->path,
                          strerror(-code));
}

static const uint8_t *source_of(const em_opening *o, int array)
{
    const em_engram_source *source = &o->spec->table[array / 2];
    return array & 1 ? source->scales : source->codes;
}

static size_t row_bytes_of(const em_opening *o, int array)
{
    return array & 1 ? o->identity.scale_bytes : o->identity.row_bytes;
}

static size_t bytes_of(const em_opening *o, int array)
{
    return o->identity.n_rows[array / 2] * row_bytes_of(o, array);
}

/* --- which copy ---------------------------------------------------------------------------------------------- */

static int find_origin(int fd, uint64_t offset, em_origin *ret_origin)
{
    struct stat st;
    if (fd <= 0)
        return 0;
    if (fstat(fd, &st))
        return -errno;
    *ret_origin = (em_origin){
        st.st_dev, st.st_ino, (uint64_t)st.st_size, (uint64_t)st.st_mtim.tv_sec, (uint64_t)st.st_mtim.tv_nsec, offset};
    return 0;
}

/* Sums over a whole array, for those that no file stands for. */
static void sum_sources(em_opening *o)
{
    em_fill fill = {.want_checksum = true};
    em_engram_opts quiet = {.on_progress = NULL};
    int array_of[EM_FILL_MAX_ARRAYS];

    for (int i = 0; i < 2 * o->spec->n_tables; i++)
        if (!o->identity.origin[i].inode && bytes_of(o, i)) {
            array_of[fill.n_arrays] = i;
            em_fill_add(&fill, source_of(o, i), NULL, bytes_of(o, i));
        }
    if (fill.n_arrays)
        em_fill_run(&fill, &quiet);
    for (int i = 0; i < fill.n_arrays; i++)
        o->identity.source_checksum[array_of[i]] = fill.checksum[i];
}

static int identify(em_opening *o)
{
    const em_engram_spec *spec = o->spec;
    int rc = 0;

    o->identity.n_tables = (uint64_t)spec->n_tables;
    o->identity.row_bytes = em_engram_row_bytes(spec);
    o->identity.scale_bytes = em_engram_scale_bytes(spec);
    for (int t = 0; !rc && t < spec->n_tables; t++) {
        const em_engram_source *source = &spec->table[t];
        o->identity.n_rows[t] = (uint64_t)source->n_rows;
        rc = find_origin(source->codes_fd, source->codes_offset, &o->identity.origin[2 * (size_t)t]);
        if (!rc && o->identity.scale_bytes)
            rc = find_origin(source->scales_fd, source->scales_offset, &o->identity.origin[2 * (size_t)t + 1]);
    }
    if (rc)
        return em_engram_fail(o->err, o->err_len, rc, "Engram: cannot look at the tables' file: %s", strerror(-rc));
    sum_sources(o);
    return 0;
}

static size_t round_up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

static int lay_out(em_opening *o)
{
    const char *dir = o->opts->shared_dir ? o->opts->shared_dir : DEFAULT_DIR;
    uint64_t name = em_checksum(&o->identity, sizeof o->identity, 0);
    size_t end = ARRAY_ALIGN;

    for (int i = 0; i < 2 * o->spec->n_tables; i++) { /* the sum of all is known to fit */
        o->offset[i] = end;
        end = round_up(end + bytes_of(o, i), ARRAY_ALIGN);
    }
    o->bytes = round_up(end, FILE_ALIGN);
    int n = snprintf(o->path, sizeof o->path, "%s/engram-%016llx.table", dir, (unsigned long long)name);
    if (n < 0 || (size_t)n + sizeof ".partial" > sizeof o->path)
        return em_engram_fail(o->err, o->err_len, -ENAMETOOLONG,
                              "Engram: the name of the folder for shared copies is "
                              "too long");
    memcpy(o->partial_path, o->path, (size_t)n);
    memcpy(o->partial_path + n, ".partial", sizeof ".partial");
    return 0;
}

/* --- a copy that is there ------------------------------------------------------------------------------------ */

/* Rows here and there against the source: a file that was rewritten in place may keep its size and date. */
static bool samples_agree(const em_opening *o, const uint8_t *map)
{
    for (int i = 0; i < 2 * o->spec->n_tables; i++) {
        size_t row = row_bytes_of(o, i), n_rows = o->identity.n_rows[i / 2], stride = n_rows / MAX_SAMPLES + 1;
        for (size_t at = 0; row && at < n_rows; at += stride)
            if (memcmp(map + o->offset[i] + at * row, source_of(o, i) + at * row, row))
                return false;
    }
    return true;
}

static bool checksums_agree(const em_opening *o, const uint8_t *map)
{
    const em_header *header = (const em_header *)map;
    em_fill fill = {.want_checksum = true};
    em_engram_opts quiet = {.on_progress = NULL};

    for (int i = 0; i < 2 * o->spec->n_tables; i++)
        em_fill_add(&fill, map + o->offset[i], NULL, bytes_of(o, i));
    em_fill_run(&fill, &quiet);
    return !memcmp(fill.checksum, header->checksum, sizeof header->checksum);
}

static bool copy_is_sound(const em_opening *o, const uint8_t *map)
{
    const em_header *header = (const em_header *)map;
    return !memcmp(header->magic, MAGIC, MAGIC_BYTES) &&
           header->header_checksum == em_checksum(header, offsetof(em_header, header_checksum), 0) &&
           !memcmp(&header->identity, &o->identity, sizeof o->identity) && samples_agree(o, map) &&
           (!o->opts->verify || checksums_agree(o, map));
}

/* Is this ours alone to write? Else anybody could put rows there. */
static int check_owner(const em_opening *o, const struct stat *st)
{
    if (S_ISREG(st->st_mode) && st->st_uid == geteuid() && !(st->st_mode & (S_IWGRP | S_IWOTH)))
        return 0;
    return em_engram_fail(o->err, o->err_len, -EPERM,
                          "Engram: %s does not belong to this user alone; remove it or use another folder", o->path);
}

/* 0, NO_COPY or what went wrong. */
static int attach(const em_opening *o, em_shared *shared)
{
    struct stat st;
    int rc = 0, fd = open(o->path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? NO_COPY : fail(o, -errno, "open");
    if (fstat(fd, &st))
        rc = fail(o, -errno, "look at");
    else
        rc = check_owner(o, &st);
    if (!rc && (uint64_t)st.st_size != o->bytes)
        rc = NO_COPY;
    uint8_t *map = rc ? MAP_FAILED : mmap(NULL, o->bytes, PROT_READ, MAP_SHARED, fd, 0);
    if (!rc && map == MAP_FAILED)
        rc = fail(o, -errno, "map");
    close(fd);
    if (rc)
        return rc;
    if (!copy_is_sound(o, map)) {
        munmap(map, o->bytes);
        return NO_COPY;
    }
    *shared = (em_shared){map, o->bytes};
    return 0;
}

/* --- making one ---------------------------------------------------------------------------------------------- */

/* Opens the unfinished copy and locks it: what is still there of a maker that was killed, or a new one. The lock goes
 * with the descriptor, so it ends with its process. When it comes the file may have been finished or removed. */
static int lock_partial(const em_opening *o, int *ret_fd)
{
    struct stat st, named;
    for (;;) {
        int fd = open(o->partial_path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, S_IRUSR | S_IWUSR);
        if (fd < 0)
            return fail(o, -errno, "create");
        int rc;
        while ((rc = flock(fd, LOCK_EX)) && errno == EINTR)
            ;
        if (rc || fstat(fd, &st)) {
            rc = fail(o, -errno, "lock");
            close(fd);
            return rc;
        }
        rc = check_owner(o, &st);
        if (rc) {
            close(fd);
            return rc;
        }
        if (!lstat(o->partial_path, &named) && named.st_ino == st.st_ino && named.st_dev == st.st_dev) {
            *ret_fd = fd;
            return 0;
        }
        close(fd);
    }
}

/* All of the room first: a file system that is full later would kill us while we write. */
static int reserve(const em_opening *o, int fd)
{
    int rc = ftruncate(fd, 0) || ftruncate(fd, (off_t)o->bytes) ? errno : 0;
    while (!rc && (rc = posix_fallocate(fd, 0, (off_t)o->bytes)) == EINTR)
        rc = 0;
    if (rc == ENOSPC || rc == ENOMEM || rc == EFBIG)
        return em_engram_fail(o->err, o->err_len, -rc,
                              "Engram: no room for a shared copy of %zu bytes at %s; make room or use another folder",
                              o->bytes, o->path);
    return rc ? fail(o, -rc, "reserve room for") : 0;
}

static void write_copy(const em_opening *o, uint8_t *map)
{
    em_fill fill = {.want_checksum = true};
    em_header *header = (em_header *)map;

    em_memory_advise(map, o->bytes, MADV_HUGEPAGE);
    for (int i = 0; i < 2 * o->spec->n_tables; i++)
        em_fill_add(&fill, source_of(o, i), map + o->offset[i], bytes_of(o, i));
    em_fill_run(&fill, o->opts);
    memcpy(header->magic, MAGIC, MAGIC_BYTES);
    header->identity = o->identity;
    memcpy(header->checksum, fill.checksum, sizeof header->checksum);
    header->header_checksum = em_checksum(header, offsetof(em_header, header_checksum), 0);
}

/* With the lock held, which the descriptor carries: fills the file and gives it its name. Should that name by then be
 * another maker's, who began when somebody had removed ours, then a copy appears whose header is still empty: nobody
 * takes it before it is complete. */
static int make_copy(const em_opening *o, int fd)
{
    int rc = reserve(o, fd);
    if (rc)
        goto fail_unlink;
    uint8_t *map = mmap(NULL, o->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) {
        rc = fail(o, -errno, "map");
        goto fail_unlink;
    }
    write_copy(o, map);
    munmap(map, o->bytes);
    if (fsync(fd) && errno != EINVAL) /* in memory there is nothing to do */
        rc = fail(o, -errno, "write");
    else if (rename(o->partial_path, o->path))
        rc = errno == ENOENT ? NO_COPY : fail(o, -errno, "name"); /* somebody has removed it */
    if (!rc)
        return 0;
fail_unlink:
    unlink(o->partial_path);
    return rc;
}

static int attach_or_make(const em_opening *o, em_shared *shared)
{
    int fd, rc = attach(o, shared);
    if (rc != NO_COPY)
        return rc;
    rc = lock_partial(o, &fd);
    if (rc)
        return rc;
    rc = attach(o, shared); /* somebody may have made it while we waited; then the partial one is ours and empty */
    if (!rc)
        unlink(o->partial_path);
    if (rc == NO_COPY && !(rc = make_copy(o, fd)))
        rc = attach(o, shared);
    close(fd);
    return rc;
}

int em_shared_open(em_shared *shared, const em_engram_spec *spec, const em_engram_opts *opts, em_engram_table *view,
                   char *err, size_t err_len)
{
    em_opening *o = calloc(1, sizeof *o);
    if (!o)
        return em_engram_fail(err, err_len, -ENOMEM, "Engram: out of memory");
    o->spec = spec;
    o->opts = opts;
    o->err = err;
    o->err_len = err_len;

    int rc = identify(o);
    if (!rc)
        rc = lay_out(o);
    if (!rc)
        rc = NO_COPY;
    for (int i = 0; rc == NO_COPY && i < MAX_TRIES; i++)
        rc = attach_or_make(o, shared);
    if (rc == NO_COPY)
        rc = fail(o, -ESTALE, "keep");
    for (int32_t t = 0; !rc && t < spec->n_tables; t++) {
        view[t].codes = shared->map + o->offset[2 * (size_t)t];
        view[t].scales = view[t].scale_bytes ? shared->map + o->offset[2 * (size_t)t + 1] : NULL;
    }
    if (!rc)
        em_memory_advise(shared->map, shared->bytes, MADV_RANDOM);
    free(o);
    return rc;
}

void em_shared_close(em_shared *shared)
{
    if (shared->map)
        munmap(shared->map, shared->bytes);
    *shared = (em_shared){NULL, 0};
}
