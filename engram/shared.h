/* One copy of the tables per machine: a file in a folder of memory (tmpfs, hugetlbfs) or of a disk, that any number of
 * processes map read-only.
 *
 * The file's name is made of what the tables are and where they come from, so another model, or the same one written
 * anew, gets a file of its own. The first process fills it under another name while it holds a lock that ends with it,
 * and renames it when all is there: nobody ever sees a part of one, and a maker that is killed leaves nothing but a
 * name that the next one removes. The file stays when all processes have gone, for the next start; removing it by hand
 * is safe at any time. */
#ifndef EM_ENGRAM_SHARED_H
#define EM_ENGRAM_SHARED_H

#include "engram/fill.h"

typedef struct em_shared {
    uint8_t *map; /* NULL: not open */
    size_t bytes;
} em_shared;

/* view: the caller's arrays in, those of the shared copy out. -errno with a sentence; then there is nothing to close. */
int em_shared_open(em_shared *shared, const em_engram_spec *spec, const em_engram_opts *opts, em_engram_table *view,
                   char *err, size_t err_len);
void em_shared_close(em_shared *shared);

#endif
