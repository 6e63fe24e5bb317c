#include "server/process_metrics.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "server/prometheus.h"

/* First line of a file of /proc. */
static bool read_line(const char *path, char *buf, int cap)
{
    FILE *f = fopen(path, "re");
    bool ok = f && fgets(buf, cap, f);
    if (f)
        fclose(f);
    return ok;
}

/* Seconds since 1970 of the machine's start. */
static bool boot_time(double *ret_seconds)
{
    char line[256];
    unsigned long long t;
    FILE *f = fopen("/proc/stat", "re");
    bool found = false;
    while (f && !found && fgets(line, sizeof(line), f))
        found = sscanf(line, "btime %llu", &t) == 1;
    if (f)
        fclose(f);
    if (found)
        *ret_seconds = (double)t;
    return found;
}

static int count_files(void)
{
    int n = 0;
    DIR *d = opendir("/proc/self/fd");
    if (!d)
        return -1;
    for (const struct dirent *e = readdir(d); e; e = readdir(d))
        n += e->d_name[0] != '.';
    closedir(d);
    return n - 1; /* the folder itself was open */
}

static void write_stat(em_buf *out)
{
    char line[1024];
    unsigned long long user, system, start, virtual;
    long long pages;
    double boot, hz = (double)sysconf(_SC_CLK_TCK);
    const char *rest = read_line("/proc/self/stat", line, sizeof(line)) ? strrchr(line, ')') : NULL;
    if (!rest ||
        sscanf(rest, ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu %*d %*d %*d %*d %*d %*d %llu %llu %lld",
               &user, &system, &start, &virtual, &pages) != 5)
        return;
    em_prometheus_family(out, "process_cpu_seconds_total", "counter", "User and system time.");
    em_prometheus_real(out, "process_cpu_seconds_total", NULL, (double)(user + system) / hz);
    em_prometheus_family(out, "process_virtual_memory_bytes", "gauge", "Size of the address space.");
    em_prometheus_u64(out, "process_virtual_memory_bytes", NULL, virtual);
    em_prometheus_family(out, "process_resident_memory_bytes", "gauge", "Memory in use, mapped files included.");
    em_prometheus_u64(out, "process_resident_memory_bytes", NULL, (uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE));
    if (!boot_time(&boot))
        return;
    em_prometheus_family(out, "process_start_time_seconds", "gauge", "Start of the process, seconds since 1970.");
    em_prometheus_real(out, "process_start_time_seconds", NULL, boot + (double)start / hz);
}

void em_process_metrics_write(em_buf *out)
{
    struct rlimit files;
    int n = count_files();
    write_stat(out);
    if (n >= 0) {
        em_prometheus_family(out, "process_open_fds", "gauge", "Open files and sockets.");
        em_prometheus_u64(out, "process_open_fds", NULL, (uint64_t)n);
    }
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        em_prometheus_family(out, "process_max_fds", "gauge", "Most files and sockets the process may open.");
        em_prometheus_u64(out, "process_max_fds", NULL, files.rlim_cur);
    }
}
