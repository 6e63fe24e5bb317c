/* fault_fs FOLDER CONTROL MOUNTPOINT [FUSE options]: shows a folder's files, to be read, as a disk that goes wrong as the file
 * CONTROL says. Reads of *.safetensors files do; reads that go through the page cache come in the kernel's own pieces. */
#define FUSE_USE_VERSION 31
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/faults/faults.h"

static char folder[PATH_MAX], control[PATH_MAX];

static int real_path(const char *path, char *ret, size_t cap)
{
    return snprintf(ret, cap, "%s%s", folder, path) < (int)cap ? 0 : -ENAMETOOLONG;
}

static int is_checkpoint(const char *path)
{
    static const char suffix[] = ".safetensors";
    size_t n = strlen(path), want = sizeof suffix - 1;
    return n > want && strcmp(path + n - want, suffix) == 0;
}

static int fs_getattr(const char *path, struct stat *st, struct fuse_file_info *fi)
{
    char real[PATH_MAX];
    faults f;
    int rc = real_path(path, real, sizeof real);
    (void)fi;
    if (rc || stat(real, st))
        return rc ? rc : -errno;
    faults_read(control, &f);
    if (is_checkpoint(path) && (uint64_t)st->st_size > f.cut)
        st->st_size = (off_t)f.cut;
    return 0;
}

static int fs_readdir(const char *path, void *buf, fuse_fill_dir_t fill, off_t offset, struct fuse_file_info *fi,
                      enum fuse_readdir_flags flags)
{
    char real[PATH_MAX];
    int rc = real_path(path, real, sizeof real);
    DIR *dir = rc ? NULL : opendir(real);
    (void)offset, (void)fi, (void)flags;
    if (!dir)
        return rc ? rc : -errno;
    for (struct dirent *entry; (entry = readdir(dir));)
        fill(buf, entry->d_name, NULL, 0, 0);
    closedir(dir);
    return 0;
}

static int fs_open(const char *path, struct fuse_file_info *fi)
{
    char real[PATH_MAX];
    int rc = real_path(path, real, sizeof real);
    if (rc || (fi->flags & O_ACCMODE) != O_RDONLY)
        return rc ? rc : -EROFS;
    int fd = open(real, O_RDONLY | O_CLOEXEC); /* O_DIRECT is between the reader and us */
    if (fd < 0)
        return -errno;
    fi->fh = (uint64_t)fd;
    return 0;
}

static int fs_read(const char *path, char *buf, size_t bytes, off_t offset, struct fuse_file_info *fi)
{
    if (is_checkpoint(path)) {
        faults f;
        faults_read(control, &f);
        long n = faults_apply(&f, (uint64_t)offset, bytes);
        if (n <= 0)
            return (int)n;
        bytes = (size_t)n;
    }
    ssize_t n = pread((int)fi->fh, buf, bytes, offset);
    return n < 0 ? -errno : (int)n;
}

static int fs_release(const char *path, struct fuse_file_info *fi)
{
    (void)path;
    close((int)fi->fh);
    return 0;
}

static void *fs_init(struct fuse_conn_info *conn, struct fuse_config *cfg)
{
    (void)conn;
    cfg->kernel_cache = 1;
    cfg->attr_timeout = 0; /* sizes change */
    return NULL;
}

static const struct fuse_operations operations = {.init = fs_init,
                                                  .getattr = fs_getattr,
                                                  .readdir = fs_readdir,
                                                  .open = fs_open,
                                                  .read = fs_read,
                                                  .release = fs_release};

int main(int argc, char **argv)
{
    if (argc < 4 || !realpath(argv[1], folder)) {
        fprintf(stderr, "usage: fault_fs FOLDER CONTROL MOUNTPOINT [FUSE options]\n");
        return 2;
    }
    if (snprintf(control, sizeof control, "%s", argv[2]) >= (int)sizeof control)
        return 2;
    argv[2] = argv[0];
    return fuse_main(argc - 2, argv + 2, &operations, NULL);
}
