/* CPU time this process may use, from the control groups of Linux (versions 1 and 2). */
#ifndef EM_CPU_CPU_COUNT_H
#define EM_CPU_CPU_COUNT_H

/* CPUs' worth of time that the groups named in cgroup_file (as /proc/self/cgroup) grant: the smallest quota of the
 * group and its parents below mount_dir (as /sys/fs/cgroup). 0: no quota, or none that could be read. */
double em_cgroup_cpus(const char *cgroup_file, const char *mount_dir);

#endif
