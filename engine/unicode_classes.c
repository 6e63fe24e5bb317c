/* Runs of equal class, found through an index of 256-code-point blocks: most blocks are inside one run. */
#include "engine/unicode_classes.h"

#include "engine/unicode_classes_table.h"

#include <stddef.h>

#define N_RUNS (sizeof class_run / sizeof *class_run)
#define N_BLOCKS (sizeof class_block / sizeof *class_block - 1)

em_unicode_class em_unicode_classify(uint32_t cp)
{
    size_t block = cp >> 8;
    size_t lo, hi; /* the run is one of lo .. hi */
    if (block < N_BLOCKS) {
        lo = class_block[block];
        hi = class_block[block + 1];
    } else {
        lo = class_block[N_BLOCKS - 1];
        hi = N_RUNS - 1;
    }
    while (lo < hi) {
        size_t mid = (lo + hi + 1) / 2;
        if (class_run[mid] >> 4 <= cp)
            lo = mid;
        else
            hi = mid - 1;
    }
    return (em_unicode_class)(class_run[lo] & 15);
}
