/* Preloaded into the program under test: reads of *.safetensors files go wrong as FAULTS_CONTROL says. io_uring, which no
 * library call goes through, is forbidden, so that threads read. For systems on which no FUSE file system can be mounted. */
#include <dlfcn.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

#include "tests/faults/faults.h"

ssize_t pread64(int fd, void *to, size_t bytes, off_t offset);

static char control[512];

__attribute__((constructor)) static void begin(void)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_io_uring_setup, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
    const char *path = getenv("FAULTS_CONTROL");
    snprintf(control, sizeof control, "%s", path ? path : "");
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
        abort();
}

static int is_checkpoint(int fd)
{
    static const char suffix[] = ".safetensors";
    char link[40], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    size_t want = sizeof suffix - 1;
    return n > (ssize_t)want && memcmp(path + n - want, suffix, want) == 0;
}

ssize_t pread64(int fd, void *to, size_t bytes, off_t offset)
{
    ssize_t (*real)(int, void *, size_t, off_t);
    *(void **)&real = dlsym(RTLD_NEXT, "pread64"); /* a function's address in a data pointer: POSIX's own way */
    if (is_checkpoint(fd)) {
        faults f;
        faults_read(control, &f);
        long n = faults_apply(&f, (uint64_t)offset, bytes);
        if (n <= 0) {
            errno = (int)-n;
            return n ? -1 : 0;
        }
        bytes = (size_t)n;
    }
    return real(fd, to, bytes, offset);
}
