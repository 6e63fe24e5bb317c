/* What a disk shall do wrong now, as a test has written it into a file that is read anew before each read. Lines:
 *
 *     eio BEGIN END      reads that touch these bytes fail
 *     cut BYTES          the file ends there
 *     stall MS           no read ends before the monotonic clock says so many milliseconds
 *     log PATH           append "OFFSET BYTES" of each read there
 *
 * Any thread. */
#ifndef EM_TESTS_FAULTS_H
#define EM_TESTS_FAULTS_H

#include <stddef.h>
#include <stdint.h>

#define FAULTS_MAX_RANGES 16

typedef struct faults {
    struct {
        uint64_t begin, end;
    } eio[FAULTS_MAX_RANGES];
    int n_eio;
    uint64_t cut;  /* UINT64_MAX: nowhere */
    long stall_ms; /* 0: not at all */
    char log[512];
} faults;

/* A control file that is not there says that all is well. */
void faults_read(const char *control, faults *ret);

/* To be called before a read: logs, waits, and says how many of the bytes may come; -EIO. */
long faults_apply(const faults *f, uint64_t offset, size_t bytes);

#endif
