/* Reading whole files and mapping them, with sentences that name the file. Any thread. */
#ifndef EM_BASE_FILE_H
#define EM_BASE_FILE_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/error.h"

/* A read-only mapping. Owned by whoever opened it; em_map_done unmaps and is fine with a zeroed struct. */
typedef struct em_map {
    const uint8_t *data; /* NULL when size is 0 */
    size_t size;         /* bytes */
    int fd;              /* open for reading, so that an Engram tier can read rows itself; -1 when closed */
} em_map;

/* Maps a regular file. -ENOENT, -EACCES, -EISDIR, ... with a sentence naming path. */
int em_map_open(const char *path, em_map *ret_map, em_error *err);
void em_map_done(em_map *map);

/* Reads a regular file of at most max_bytes into malloc'd memory with a NUL behind it (not counted in ret_size).
 * -EFBIG when larger. Caller frees. */
int em_file_read(const char *path, size_t max_bytes, char **ret_data, size_t *ret_size, em_error *err);

#endif
