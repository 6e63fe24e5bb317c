#include "server/progress.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/clock.h"

#define WIDTH 30
#define INTERVAL_NS 100000000 /* more often is only flicker */

void em_progress_begin(em_progress *p)
{
    *p = (em_progress){.on = isatty(STDERR_FILENO) == 1};
}

void em_progress_show(void *ctx, const char *phase, double fraction)
{
    static const char full[WIDTH + 1] = "##############################",
                                   none[WIDTH + 1] = "..............................";
    em_progress *p = ctx;
    uint64_t now = em_now_ns();
    bool same = strncmp(p->phase, phase, sizeof(p->phase) - 1) == 0;
    if (!p->on || (same && now - p->shown_ns < INTERVAL_NS))
        return;
    fraction = fraction > 0 ? fraction < 1 ? fraction : 1 : 0;
    int n = (int)(fraction * WIDTH);
    snprintf(p->phase, sizeof(p->phase), "%s", phase);
    p->shown_ns = now;
    fprintf(stderr, "\r\033[K[%.*s%.*s] %3.0f %% %s", n, full, WIDTH - n, none, fraction * 100, p->phase);
}

void em_progress_end(em_progress *p)
{
    if (p->on && p->shown_ns)
        fprintf(stderr, "\r\033[K");
    p->shown_ns = 0;
}
