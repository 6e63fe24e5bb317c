#include "engine/machine.h"

#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/cgroup.h"

#define NO_LIMIT_V1 (UINT64_C(1) << 60) /* version 1 writes a page short of INT64_MAX where there is no limit */

static FILE *open_in(const char *dir, const char *name)
{
    char path[PATH_MAX];
    if (snprintf(path, sizeof(path), "%s/%s", dir, name) >= (int)sizeof(path))
        return NULL;
    return fopen(path, "re");
}

/* The first number behind `key` at the start of a line, in a file of such lines. */
static bool read_field(const char *dir, const char *name, const char *key, uint64_t *ret_value)
{
    FILE *f = open_in(dir, name);
    char line[256];
    size_t len = strlen(key);
    bool found = false;
    while (f && !found && fgets(line, sizeof(line), f)) {
        char *end, *at = line + len;
        if (strncmp(line, key, len) != 0)
            continue;
        at += strspn(at, " \t:");
        errno = 0;
        unsigned long long v = strtoull(at, &end, 10);
        found = end != at && errno == 0 && *at != '-';
        if (found)
            *ret_value = v;
        else if (strncmp(at, "unlimited", 9) == 0 || strncmp(at, "max", 3) == 0) {
            *ret_value = EM_UNLIMITED;
            found = true;
        }
    }
    if (f)
        fclose(f);
    return found;
}

/* --- control groups -------------------------------------------------------------------------------------------- */

static void shrink_to(em_machine *m, uint64_t limit, uint64_t used)
{
    uint64_t room = limit > used ? limit - used : 0;
    if (limit < m->cgroup_limit)
        m->cgroup_limit = limit;
    if (room < m->cgroup_room)
        m->cgroup_room = room;
}

/* What the group uses beyond pages of files, which make room when asked. */
static uint64_t used_bytes(const char *dir, const char *current, const char *active, const char *inactive)
{
    uint64_t all = 0, files = 0, n;
    read_field(dir, current, "", &all);
    if (read_field(dir, "memory.stat", active, &n))
        files += n;
    if (read_field(dir, "memory.stat", inactive, &n))
        files += n;
    return all > files ? all - files : 0;
}

static void read_group(void *ctx, const char *dir, int version)
{
    em_machine *m = ctx;
    uint64_t limit;
    if (version == 1) {
        if (read_field(dir, "memory.limit_in_bytes", "", &limit) && limit < NO_LIMIT_V1)
            shrink_to(m, limit, used_bytes(dir, "memory.usage_in_bytes", "total_active_file ", "total_inactive_file "));
        return;
    }
    /* above `high` the kernel slows a group down until it is no use any more: as good as a limit */
    static const char *const files[] = {"memory.max", "memory.high"};
    for (int i = 0; i < 2; i++)
        if (read_field(dir, files[i], "", &limit) && limit != EM_UNLIMITED)
            shrink_to(m, limit, used_bytes(dir, "memory.current", "active_file ", "inactive_file "));
}

/* --- the rest --------------------------------------------------------------------------------------------------- */

static void read_memory(const char *proc, em_machine *m)
{
    uint64_t kib = 0;
    if (read_field(proc, "meminfo", "MemTotal:", &kib) && kib <= UINT64_MAX / 1024)
        m->total = kib * 1024;
    if (read_field(proc, "meminfo", "MemAvailable:", &kib) && kib <= UINT64_MAX / 1024)
        m->available = kib * 1024;
}

static void read_limits(const char *proc, em_machine *m)
{
    read_field(proc, "self/limits", "Max locked memory", &m->memlock);
    read_field(proc, "self/limits", "Max address space", &m->address_space);
}

static int32_t count_gpus(const char *dev)
{
    int32_t n = 0;
    for (; n < 64; n++) {
        char path[PATH_MAX];
        if (snprintf(path, sizeof(path), "%s/nvidia%d", dev, n) >= (int)sizeof(path) || access(path, F_OK) != 0)
            break;
    }
    return n;
}

static void read_cpu(const char *proc, em_machine *m)
{
    FILE *f = open_in(proc, "cpuinfo");
    char line[256];
    while (f && !m->cpu[0] && fgets(line, sizeof(line), f)) {
        char *colon = strchr(line, ':');
        if (!colon || strncmp(line, "model name", 10) != 0)
            continue;
        colon += 1 + strspn(colon + 1, " \t");
        colon[strcspn(colon, "\n")] = '\0';
        snprintf(m->cpu, sizeof(m->cpu), "%.*s", (int)sizeof(m->cpu) - 1, colon);
    }
    if (f)
        fclose(f);
}

void em_machine_read(const em_machine_roots *roots, em_machine *ret_machine)
{
    static const em_machine_roots here = {"/proc", "/sys/fs/cgroup", "/dev"};
    if (!roots)
        roots = &here;
    em_machine m = {.cgroup_limit = EM_UNLIMITED, .cgroup_room = EM_UNLIMITED, .address_space = EM_UNLIMITED};
    char cgroup_file[PATH_MAX];
    read_memory(roots->proc, &m);
    read_limits(roots->proc, &m);
    read_cpu(roots->proc, &m);
    m.n_gpus = count_gpus(roots->dev);
    if (snprintf(cgroup_file, sizeof(cgroup_file), "%s/self/cgroup", roots->proc) < (int)sizeof(cgroup_file))
        em_cgroup_walk(cgroup_file, roots->cgroups, "memory", read_group, &m);
    *ret_machine = m;
}
