/* What memory this process may use: the machine's, its control groups', its own limits. Any thread. */
#ifndef EM_ENGINE_MACHINE_H
#define EM_ENGINE_MACHINE_H

#include <stdint.h>

#define EM_UNLIMITED UINT64_MAX

/* Where to look; a folder that is not there simply tells nothing. */
typedef struct em_machine_roots {
    const char *proc;    /* "/proc": meminfo, self/cgroup, self/limits, cpuinfo */
    const char *cgroups; /* "/sys/fs/cgroup": version 1 or 2 */
    const char *dev;     /* "/dev": nvidia0, ... */
} em_machine_roots;

typedef struct em_machine {
    uint64_t total, available; /* bytes of memory; 0: unknown. available: without pushing others to swap */
    uint64_t cgroup_limit;     /* tightest memory limit of the groups; EM_UNLIMITED: none */
    uint64_t cgroup_room;      /* what is left below it, pages of files not counted as taken */
    uint64_t memlock;          /* RLIMIT_MEMLOCK, soft; EM_UNLIMITED; 0 when unknown */
    uint64_t address_space;    /* RLIMIT_AS, soft; EM_UNLIMITED when unknown */
    int32_t n_gpus;            /* NVIDIA devices */
    char cpu[96];              /* model name; empty: unknown */
} em_machine;

/* NULL: this machine. */
void em_machine_read(const em_machine_roots *roots, em_machine *ret_machine);

#endif
