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

static double smaller_quota(double a, double b)
{
    if (a <= 0)
        return b;
    return b > 0 && b < a ? b : a;
}

/* Walks from base/group up to base. A group that cannot be seen from inside a container simply gives nothing. */
static double quota_of_group(const char *base, const char *group, double (*quota)(const char *dir))
{
    char dir[PATH_MAX];
    size_t base_len = strlen(base);
    if (snprintf(dir, sizeof(dir), "%s%s", base, group) >= (int)sizeof(dir))
        return 0;
    double least = 0;
    for (;;) {
        least = smaller_quota(least, quota(dir));
        char *slash = strrchr(dir, '/');
        if (!slash || (size_t)(slash - dir) < base_len)
            return least;
        *slash = 0;
    }
}

/* Whether the comma-separated list holds "cpu". */
static bool names_cpu(const char *list)
{
    for (const char *p = list; *p;) {
        size_t n = strcspn(p, ",");
        if (n == 3 && memcmp(p, "cpu", 3) == 0)
            return true;
        p += n + (p[n] == ',');
    }
    return false;
}

/* One line "ID:CONTROLLERS:/GROUP"; the controllers are empty in version 2. */
static double quota_of_line(char *line, const char *mount_dir)
{
    char *controllers = strchr(line, ':');
    char *group = controllers ? strchr(controllers + 1, ':') : NULL;
    if (!group)
        return 0;
    *group++ = 0;
    controllers++;
    group[strcspn(group, "\n")] = 0;
    if (!*controllers)
        return quota_of_group(mount_dir, group, quota_v2);
    if (!names_cpu(controllers))
        return 0;
    char base[PATH_MAX];
    if (snprintf(base, sizeof(base), "%s/%s", mount_dir, controllers) >= (int)sizeof(base))
        return 0;
    double quota = quota_of_group(base, group, quota_v1);
    if (quota > 0 || snprintf(base, sizeof(base), "%s/cpu", mount_dir) >= (int)sizeof(base))
        return quota;
    return quota_of_group(base, group, quota_v1); /* mounted under the controller's own name */
}

double em_cgroup_cpus(const char *cgroup_file, const char *mount_dir)
{
    FILE *f = fopen(cgroup_file, "re");
    if (!f)
        return 0;
    char *line = NULL;
    size_t cap = 0;
    double least = 0;
    while (getline(&line, &cap, f) > 0)
        least = smaller_quota(least, quota_of_line(line, mount_dir));
    free(line);
    fclose(f);
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
