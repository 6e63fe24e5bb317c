/* Ends the process when a step takes too long: a hung step never answers anybody, while a restarted server does. Part of
 * the HTTP loop. */
#ifndef EM_SERVER_WATCHDOG_H
#define EM_SERVER_WATCHDOG_H

#include <stdint.h>

#define EM_WATCHDOG_EXIT_CODE 3

struct em_http;

typedef struct em_watchdog {
    uint64_t heartbeat_ns; /* as last seen */
    uint64_t looked_ns;    /* when that was; 0: never */
    uint64_t stalled_ns;   /* how long it has not moved */
} em_watchdog;

/* Looks at the step thread; writes the state to stderr and ends the process when it is too late. */
void em_watchdog_look(struct em_http *h, uint64_t now);
/* The next look must not come later than this; UINT64_MAX: no need to look. */
uint64_t em_watchdog_interval_ns(const struct em_http *h);

#endif
