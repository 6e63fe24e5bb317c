/* How many threads are worth using: the scheduler's affinity mask bounded by the control group's quota. */
#include "engine/cpu/cpu_count.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/cgroup.h"
#include "engine/cpu/thread_pool.h"

enum { MAX_CPUS = 1 << 16 };

static bool read_line(const char *path, char *buf, int cap)
{
    FILE *f = fopen(path, "re");
    if (!f)
        return false;
    bool ok = fgets(buf, cap, f) != NULL;
    fclose(f);
    return ok;
}

/* Version 2: "QUOTA PERIOD" or "max PERIOD" in cpu.max. */
static double quota_v2(const char *dir)
{
    char path[PATH_MAX], line[128];
    long long quota, period;
    if (snprintf(path, sizeof(path), "%s/cpu.max", dir) >= (int)sizeof(path) || !read_line(path, line, sizeof(line)))
        return 0;
    if (sscanf(line, "%lld %lld", &quota, &period) != 2 || quota <= 0 || period <= 0)
        return 0;
    return (double)quota / (double)period;
}

/* Version 1: two files; quota -1 is none. */
static double quota_v1(const char *dir)
{
    char path[PATH_MAX], line[128];
    if (snprintf(path, sizeof(path), "%s/cpu.cfs_quota_us", dir) >= (int)sizeof(path) ||
        !read_line(path, line, sizeof(line)))
        return 0;
    long long quota = strtoll(line, NULL, 10);
    if (snprintf(path, sizeof(path), "%s/cpu.cfs_period_us", dir) >= (int)sizeof(path) ||
        !read_line(path, line, sizeof(line)))
        return 0;
    long long period = strtoll(line, NULL, 10);
    return quota > 0 && period > 0 ? (double)quota / (double)period : 0;
}

static void least_quota(void *ctx, const char *dir, int version)
{
    double *least = ctx, quota = version == 2 ? quota_v2(dir) : quota_v1(dir);
    if (quota > 0 && (*least <= 0 || quota < *least))
        *least = quota;
}

double em_cgroup_cpus(const char *cgroup_file, const char *mount_dir)
{
    double least = 0;
    em_cgroup_walk(cgroup_file, mount_dir, "cpu", least_quota, &least);
    return least;
}

/* CPUs in this process's mask. The kernel refuses a set smaller than its own, so the set grows until it fits. */
static int affinity_count(void)
{
    for (int cap = 1024; cap <= MAX_CPUS; cap *= 2) {
        cpu_set_t *set = CPU_ALLOC((size_t)cap);
        if (!set)
            return 1;
        size_t size = CPU_ALLOC_SIZE((size_t)cap);
        int n = sched_getaffinity(0, size, set) == 0 ? CPU_COUNT_S(size, set) : -errno;
        CPU_FREE(set);
        if (n > 0)
            return n;
        if (n != -EINVAL)
            return 1;
    }
    return 1;
}

int em_cpu_count(void)
{
    int n = affinity_count();
    double quota = em_cgroup_cpus("/proc/self/cgroup", "/sys/fs/cgroup");
    if (quota > 0 && ceil(quota) < n)
        n = (int)ceil(quota);
    return n < 1 ? 1 : n;
}
