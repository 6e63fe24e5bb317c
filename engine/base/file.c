#include "engine/base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Opens a regular file for reading. O_NONBLOCK, so that a named pipe cannot hang us before we see that it is one. */
static int open_regular(const char *path, int *ret_fd, size_t *ret_size, em_error *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return em_error_set(err, -errno, "cannot open %s: %m", path);
    struct stat st;
    int r = 0;
    if (fstat(fd, &st) < 0)
        r = em_error_set(err, -errno, "cannot read the size of %s: %m", path);
    else if (S_ISDIR(st.st_mode))
        r = em_error_set(err, -EISDIR, "%s is a folder; a file is expected there", path);
    else if (!S_ISREG(st.st_mode))
        r = em_error_set(err, -EINVAL, "%s is not a regular file", path);
    else if ((uint64_t)st.st_size > SIZE_MAX / 2)
        r = em_error_set(err, -EFBIG, "%s is too large for this machine", path);
    if (r < 0) {
        close(fd);
        return r;
    }
    *ret_fd = fd;
    *ret_size = (size_t)st.st_size;
    return 0;
}

int em_map_open(const char *path, em_map *ret_map, em_error *err)
{
    em_map map = {.fd = -1};
    int r = open_regular(path, &map.fd, &map.size, err);
    if (r < 0)
        return r;
    if (map.size > 0) {
        void *p = mmap(NULL, map.size, PROT_READ, MAP_PRIVATE, map.fd, 0);
        if (p == MAP_FAILED) {
            r = em_error_set(err, -errno, "cannot map %s into memory: %m", path);
            close(map.fd);
            return r;
        }
        map.data = p;
    }
    *ret_map = map;
    return 0;
}

void em_map_done(em_map *map)
{
    if (map->data) {
        munmap((void *)(uintptr_t)map->data, map->size);
        close(map->fd);
    } else if (map->fd > 0) { /* an empty file; 0 is what a zeroed struct holds */
        close(map->fd);
    }
    *map = (em_map){.fd = -1};
}

int em_file_read(const char *path, size_t max_bytes, char **ret_data, size_t *ret_size, em_error *err)
{
    int fd = -1;
    size_t size = 0;
    int r = open_regular(path, &fd, &size, err);
    if (r < 0)
        return r;
    char *data = NULL;
    if (size > max_bytes) {
        r = em_error_set(err, -EFBIG, "%s has %zu bytes; at most %zu are accepted", path, size, max_bytes);
        goto fail;
    }
    data = malloc(size + 1);
    if (!data) {
        r = em_error_set(err, -ENOMEM, "out of memory reading %s", path);
        goto fail;
    }
    size_t have = 0;
    while (have < size) {
        ssize_t n = read(fd, data + have, size - have);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            r = em_error_set(err, -errno, "cannot read %s: %m", path);
            goto fail;
        }
        if (n == 0)
            break; /* somebody shortened it meanwhile: what is there counts */
        have += (size_t)n;
    }
    close(fd);
    data[have] = '\0';
    *ret_data = data;
    *ret_size = have;
    return 0;
fail:
    free(data);
    close(fd);
    return r;
}
