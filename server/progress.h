/* A bar on a terminal while something long runs; nothing at all when stderr is a pipe or a file. One thread. */
#ifndef EM_SERVER_PROGRESS_H
#define EM_SERVER_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

typedef struct em_progress {
    bool on;
    uint64_t shown_ns; /* when the bar was last drawn */
    char phase[64];
} em_progress;

void em_progress_begin(em_progress *p);
/* ctx: an em_progress; the shape of every on_progress of the engine. fraction: 0 .. 1. */
void em_progress_show(void *ctx, const char *phase, double fraction);
/* Takes the bar away. */
void em_progress_end(em_progress *p);

#endif
