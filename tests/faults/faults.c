#include "tests/faults/faults.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static void read_line(const char *line, faults *f)
{
    uint64_t begin, end;
    if (sscanf(line, "eio %" SCNu64 " %" SCNu64, &begin, &end) == 2 && f->n_eio < FAULTS_MAX_RANGES) {
        f->eio[f->n_eio].begin = begin;
        f->eio[f->n_eio++].end = end;
    }
    sscanf(line, "cut %" SCNu64, &f->cut);
    sscanf(line, "stall %ld", &f->stall_ms);
    sscanf(line, "log %511s", f->log);
}

void faults_read(const char *control, faults *ret)
{
    char line[600];
    *ret = (faults){.cut = UINT64_MAX};
    FILE *file = fopen(control, "re");
    if (!file)
        return;
    while (fgets(line, sizeof line, file))
        read_line(line, ret);
    fclose(file);
}

static void write_log(const char *path, uint64_t offset, size_t bytes)
{
    char line[64];
    int n = snprintf(line, sizeof line, "%" PRIu64 " %zu\n", offset, bytes);
    int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || write(fd, line, (size_t)n) != n) /* whole lines, whoever else writes */
        fprintf(stderr, "cannot write %s\n", path);
    if (fd >= 0)
        close(fd);
}

long faults_apply(const faults *f, uint64_t offset, size_t bytes)
{
    uint64_t end = offset + bytes;
    if (f->log[0])
        write_log(f->log, offset, bytes);
    if (f->stall_ms)
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME,
                        &(struct timespec){f->stall_ms / 1000, f->stall_ms % 1000 * 1000000}, NULL);
    for (int i = 0; i < f->n_eio; i++)
        if (offset < f->eio[i].end && f->eio[i].begin < end)
            return -EIO;
    if (offset >= f->cut)
        return 0;
    return (long)(end < f->cut ? bytes : f->cut - offset);
}
