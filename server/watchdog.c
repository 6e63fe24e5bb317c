#include "server/watchdog.h"

#include <inttypes.h>
#include <unistd.h>

#include "engine/base/log.h"
#include "server/http.h"

#define MAX_INTERVAL_NS 1000000000u
#define DUMP_SECONDS 10 /* a dump that hangs itself (a lock, a full pipe) is ended by the kernel */
#define MAX_DUMPED_JOBS 1000

/* Ids and numbers only: what clients wrote stays out of logs. */
static void dump(em_http *h, uint64_t now)
{
    em_engine_stats s = {0};
    em_engram_stats engram = {0};
    em_log(EM_LOG_ERROR, NULL,
           "watchdog: the step thread has not moved for %.1f s (--watchdog-timeout %g): ending the process",
           (double)h->watchdog.stalled_ns / 1e9, (double)h->config->watchdog_timeout / 1e9);
    int n = 0;
    for (const em_job *job = h->jobs; job && n < MAX_DUMPED_JOBS; job = job->next, n++)
        em_log(EM_LOG_ERROR, job->exchange->id,
               "watchdog: engine id %" PRIu64 ", %.1f s old, %s, %" PRId64 " tokens so far%s%s%s", job->engine_id,
               (double)(now - job->exchange->start_ns) / 1e9, job->tokens_seen ? "generating" : "no token yet",
               job->tokens_seen, job->call.stream ? ", streamed" : "", job->end ? ", ending: " : "",
               job->end ? job->end : "");
    em_log(EM_LOG_ERROR, NULL, "watchdog: %d requests, %d connections, %s", h->n_jobs, h->n_peers,
           h->drain_deadline_ns ? "draining" : "serving");
    /* last, since it takes the engine's locks */
    em_engine_get_stats(em_service_engine(h->service), &s);
    em_engine_get_engram_stats(em_service_engine(h->service), &engram);
    em_log(EM_LOG_ERROR, NULL,
           "watchdog: %" PRIu64 " steps, %" PRIu64 " prompt tokens, %" PRIu64 " generated, %d running, %d waiting, "
           "%d of %d KV blocks free, %" PRIu64 " waits for rows",
           s.steps, s.prompt_tokens, s.generation_tokens, (int)s.running, (int)s.waiting, (int)s.kv_blocks_free,
           (int)s.kv_blocks, engram.waits);
}

uint64_t em_watchdog_interval_ns(const em_http *h)
{
    uint64_t quarter = h->config->watchdog_timeout / 4;
    if (quarter == 0 || !em_service_engine(h->service))
        return UINT64_MAX;
    return quarter < MAX_INTERVAL_NS ? quarter : MAX_INTERVAL_NS;
}

void em_watchdog_look(em_http *h, uint64_t now)
{
    em_watchdog *w = &h->watchdog;
    if (em_watchdog_interval_ns(h) == UINT64_MAX)
        return;
    uint64_t beat = em_engine_heartbeat_ns(em_service_engine(h->service));
    if (beat != w->heartbeat_ns || !w->looked_ns) {
        w->stalled_ns = 0;
    } else {
        /* A process that was stopped, or a machine that slept, has a step thread that could not move either: so much
         * time at once does not count. */
        uint64_t passed = now - w->looked_ns, most = h->config->watchdog_timeout / 2;
        w->stalled_ns += passed < most ? passed : most;
    }
    w->heartbeat_ns = beat;
    w->looked_ns = now;
    if (w->stalled_ns < h->config->watchdog_timeout)
        return;
    alarm(DUMP_SECONDS);
    dump(h, now);
    _exit(EM_WATCHDOG_EXIT_CODE);
}
