/* Finding the control groups of this process: Linux, versions 1 and 2. Any thread. */
#ifndef EM_BASE_CGROUP_H
#define EM_BASE_CGROUP_H

/* One group's folder; version is 1 or 2. */
typedef void (*em_cgroup_fn)(void *ctx, const char *dir, int version);

/* Calls fn for every group that controls `controller` ("cpu", "memory") in cgroup_file (as /proc/self/cgroup), from the
 * process's own up to the mount point below mount_dir (as /sys/fs/cgroup). Folders that cannot be seen from inside a
 * container are given, too: fn reads what is there. */
void em_cgroup_walk(const char *cgroup_file, const char *mount_dir, const char *controller, em_cgroup_fn fn, void *ctx);

#endif
