/* The daemon and its loop. libmicrohttpd's own epoll thread sleeps on ready sockets when exactly 128 of them are ready,
 * so the loop is ours: wait on its epoll descriptor for at most the time it asks for, then let it run. */
#include "server/http.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "server/cors.h"
#include "server/listen.h"

#define TICK_NS 250000000u /* how exactly deadlines and keep-alives are kept */
#define NS_PER_S 1000000000u
#define SPARE_CONNECTIONS 64 /* beyond --max-connections, so that probes are answered when it is full */
#define SPARE_FILES 64       /* the model's, the logs', ours */
#define MHD_LOG_WINDOW_NS (10ull * NS_PER_S)
#define MHD_LOG_BURST 5              /* lines of libmicrohttpd per window */
#define FLUSH_NS (2ull * NS_PER_S)   /* for the last bytes of answers at the end */
#define CANCEL_NS (10ull * NS_PER_S) /* for the engine to end what was cancelled */

/* --- libmicrohttpd's callbacks -------------------------------------------------------------------------------- */

/* It writes a line for every client that leaves in the middle: thousands under load. */
static void mhd_log(void *cls, const char *fmt, va_list ap)
{
    em_http *h = cls;
    char text[300];
    uint64_t now = em_now_ns();
    if (now - h->log_window_ns > MHD_LOG_WINDOW_NS) {
        if (h->n_logged > MHD_LOG_BURST)
            em_log(EM_LOG_DEBUG, NULL, "libmicrohttpd: %d more lines", h->n_logged - MHD_LOG_BURST);
        h->log_window_ns = now;
        h->n_logged = 0;
    }
    if (++h->n_logged > MHD_LOG_BURST)
        return;
    vsnprintf(text, sizeof(text), fmt, ap);
    text[strcspn(text, "\n")] = '\0';
    em_log(EM_LOG_DEBUG, NULL, "libmicrohttpd: %s", text);
}

/* Paths are decoded once, by us: the library would cut them at %00. */
static size_t keep_escapes(void *cls, struct MHD_Connection *conn, char *s)
{
    return strlen(s);
}

/* --- start --------------------------------------------------------------------------------------------------- */

/* As many connections as the process may have files; the limit asked for where that is enough. */
static unsigned connection_limit(const em_config *c)
{
    struct rlimit files;
    rlim_t wanted = (rlim_t)c->max_connections + SPARE_CONNECTIONS;
    if (getrlimit(RLIMIT_NOFILE, &files) != 0)
        return (unsigned)wanted;
    if (files.rlim_cur < wanted + SPARE_FILES) {
        files.rlim_cur = files.rlim_max < wanted + SPARE_FILES ? files.rlim_max : wanted + SPARE_FILES;
        if (setrlimit(RLIMIT_NOFILE, &files) != 0)
            getrlimit(RLIMIT_NOFILE, &files);
    }
    if (files.rlim_cur >= wanted + SPARE_FILES)
        return (unsigned)wanted;
    unsigned possible = files.rlim_cur > SPARE_FILES + 1 ? (unsigned)(files.rlim_cur - SPARE_FILES) : 1;
    em_log(EM_LOG_WARN, NULL, "the process may open %llu files, which is enough for %u connections only",
           (unsigned long long)files.rlim_cur, possible);
    return possible;
}

static int start_daemon(em_http *h, int listen_fd, em_error *err)
{
    const em_config *c = h->config;
    /* Room for a header beyond our limit, so that the refusal is ours and not the library's page. No more than that: the
     * library clears all of it after each request of a connection. */
    size_t memory = (size_t)c->max_header_bytes * 3;
    /* clang-format off */
    h->daemon = MHD_start_daemon(
        MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG, 0, em_peer_accept, h, em_exchange_handle, h,
        MHD_OPTION_EXTERNAL_LOGGER, mhd_log, h, /* first, so that it gets the messages about the others */
        MHD_OPTION_LISTEN_SOCKET, listen_fd,
        MHD_OPTION_NOTIFY_COMPLETED, em_exchange_completed, h,
        MHD_OPTION_NOTIFY_CONNECTION, em_peer_notify, h,
        MHD_OPTION_UNESCAPE_CALLBACK, keep_escapes, NULL,
        MHD_OPTION_CONNECTION_LIMIT, connection_limit(c),
        MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)((c->idle_timeout + NS_PER_S - 1) / NS_PER_S),
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, memory < 32768 ? (size_t)32768 : memory,
        MHD_OPTION_SIGPIPE_HANDLED_BY_APP, 1,
        MHD_OPTION_END);
    /* clang-format on */
    if (!h->daemon) {
        close(listen_fd);
        return em_error_set(err, -EIO, "cannot start the HTTP server; --log-level debug may tell why");
    }
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(h->daemon, MHD_DAEMON_INFO_EPOLL_FD);
    if (!info || info->epoll_fd < 0)
        return em_error_set(err, -EIO, "this libmicrohttpd was built without epoll");
    h->mhd_fd = info->epoll_fd;
    return 0;
}

int em_http_new(const em_config *c, int listen_fd, int signal_fd, em_http **ret_http, em_error *err)
{
    em_http *h = calloc(1, sizeof(*h));
    if (!h) {
        close(listen_fd);
        return em_error_set(err, -ENOMEM, "out of memory");
    }
    h->config = c;
    h->signal_fd = signal_fd;
    h->notify.fd = -1;
    em_http_counts_init(&h->counts);
    pthread_mutex_init(&h->inbox.lock, NULL);
    em_listen_url(listen_fd, h->url, sizeof(h->url), &h->loopback);
    h->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    h->watch_fd = epoll_create1(EPOLL_CLOEXEC);
    int r = h->wake_fd < 0 || h->watch_fd < 0
                ? em_error_set(err, -errno, "cannot make an event queue: %s", strerror(errno))
                : 0;
    if (r == 0)
        r = em_notify_init(&h->notify, err);
    if (r == 0)
        r = em_cors_check(c, err);
    if (r == 0 && *c->api_key_file)
        r = em_keys_load(c->api_key_file, &h->keys, err);
    if (r == 0)
        r = start_daemon(h, listen_fd, err);
    else
        close(listen_fd);
    if (r < 0) {
        em_http_free(h);
        return r;
    }
    *ret_http = h;
    return 0;
}

void em_http_wake(void *http)
{
    const em_http *h = http;
    uint64_t one = 1;
    ssize_t n = write(h->wake_fd, &one, sizeof(one));
    (void)n; /* full means that it is awake already */
}

/* --- draining ------------------------------------------------------------------------------------------------- */

static void finish(em_http *h, int exit_code)
{
    h->done = true;
    h->exit_code = exit_code;
}

/* A file that cannot be read must not lock everybody out. */
static void reload_keys(em_http *h)
{
    em_keys *fresh;
    em_error err = {0};
    if (!*h->config->api_key_file)
        return;
    if (em_keys_load(h->config->api_key_file, &fresh, &err) < 0) {
        em_log(EM_LOG_ERROR, NULL, "the API keys stay as they were: %s", err.text);
        return;
    }
    em_keys_free(h->keys);
    h->keys = fresh;
    em_log(EM_LOG_INFO, NULL, "%d API keys read from %s", em_keys_count(fresh), h->config->api_key_file);
}

static void on_signal(em_http *h)
{
    struct signalfd_siginfo info;
    while (read(h->signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
        if (info.ssi_signo == SIGHUP) {
            reload_keys(h);
            continue;
        }
        if (++h->n_signals > 1) {
            em_log(EM_LOG_ERROR, NULL, "a second signal: aborting with %d requests unfinished", h->n_jobs);
            _exit(1);
        }
        em_log(EM_LOG_INFO, NULL, "draining: %d requests are running", h->n_jobs);
        if (em_service_get_state(h->service) == EM_SERVICE_LOADING)
            finish(h, 0);
        em_service_drain(h->service);
        em_notify_stopping(&h->notify, h->n_jobs, h->config->drain_timeout);
        h->drain_deadline_ns = em_now_ns() + h->config->drain_timeout;
        h->next_tick_ns = 0;
    }
}

static void drain_tick(em_http *h, uint64_t now)
{
    if (h->n_exchanges == 0) {
        finish(h, 0);
    } else if (h->give_up_ns == 0 && now >= h->drain_deadline_ns) {
        for (em_job *job = h->jobs; job; job = job->next)
            em_job_abort(job, 503, "draining", "the server is shutting down and did not wait any longer");
        h->give_up_ns = now + (h->n_jobs ? CANCEL_NS : FLUSH_NS);
    } else if (h->give_up_ns && now >= h->give_up_ns) {
        finish(h, h->n_jobs ? 1 : 0);
    }
}

/* --- the loop ------------------------------------------------------------------------------------------------- */

static void on_loaded(em_http *h)
{
    switch (em_service_get_state(h->service)) {
    case EM_SERVICE_FAILED:
        em_log(EM_LOG_ERROR, NULL, "%s", em_service_error(h->service));
        em_notify_failed(&h->notify, em_service_error(h->service));
        finish(h, 1);
        break;
    case EM_SERVICE_READY:
        /* scripts wait for this line, whatever the log level */
        if (strcmp(h->config->log_level, "debug") == 0 || strcmp(h->config->log_level, "info") == 0)
            em_log(EM_LOG_INFO, NULL, "listening on %s", h->url);
        else
            dprintf(STDERR_FILENO, "listening on %s\n", h->url);
        em_notify_ready(&h->notify, h->url);
        break;
    default: break;
    }
}

static void on_wake(em_http *h)
{
    uint64_t count;
    ssize_t n = read(h->wake_fd, &count, sizeof(count));
    (void)n; /* before the lists are looked at, so that no later news is lost */
    if (em_service_poll(h->service))
        on_loaded(h);
    em_job_take_ready(h);
}

static void on_hangup(em_http *h)
{
    struct epoll_event events[64];
    int n;
    do {
        n = epoll_wait(h->watch_fd, events, 64, 0);
        for (int i = 0; i < n; i++) {
            em_exchange *x = events[i].data.ptr;
            if (x->job)
                em_job_client_gone(x->job);
            else if (x->peer
                         ->deadline_ns) /* the body is not complete: wakes libmicrohttpd, which reads what there is */
                shutdown(x->peer->fd, SHUT_RD);
        }
    } while (n == 64);
}

/* The service manager hears of loading, then that both threads live. */
static void tell_manager(em_http *h, uint64_t now)
{
    char phase[96];
    double fraction;
    em_engine *engine = em_service_engine(h->service);
    if (!em_notify_active(&h->notify))
        return;
    if (em_service_get_state(h->service) == EM_SERVICE_LOADING) {
        em_service_progress(h->service, phase, sizeof(phase), &fraction);
        em_notify_loading(&h->notify, phase, fraction, now);
    }
    em_notify_ping(&h->notify, engine ? em_engine_heartbeat_ns(engine) : 0, now);
}

static void tick(em_http *h, uint64_t now)
{
    if (now < h->next_tick_ns)
        return;
    h->next_tick_ns = now + TICK_NS;
    em_peer_cut_late(h, now);
    em_job_keepalive(h, now);
    em_watchdog_look(h, now);
    tell_manager(h, now);
    if (h->drain_deadline_ns)
        drain_tick(h, now);
}

/* Milliseconds to wait; -1: for ever. */
static int next_timeout(em_http *h, uint64_t now)
{
    unsigned long long mhd_ms;
    int ms = -1;
    if (h->n_peers || h->n_jobs || h->drain_deadline_ns)
        ms = now >= h->next_tick_ns ? 0 : (int)((h->next_tick_ns - now) / 1000000) + 1;
    uint64_t look_ns = em_watchdog_interval_ns(h), tell_ns = em_notify_interval_ns(&h->notify);
    if (tell_ns < look_ns)
        look_ns = tell_ns;
    if (look_ns != UINT64_MAX && (ms < 0 || ms > (int)(look_ns / 1000000)))
        ms = (int)(look_ns / 1000000);
    if (MHD_get_timeout(h->daemon, &mhd_ms) == MHD_YES && (ms < 0 || mhd_ms < (unsigned)ms))
        ms = mhd_ms > 3600000 ? 3600000 : (int)mhd_ms;
    return ms;
}

int em_http_run(em_http *h, em_service *service)
{
    h->service = service;
    struct pollfd fds[] = {{.fd = h->mhd_fd, .events = POLLIN},
                           {.fd = h->wake_fd, .events = POLLIN},
                           {.fd = h->watch_fd, .events = POLLIN},
                           {.fd = h->signal_fd, .events = POLLIN}};
    while (!h->done) {
        int n = poll(fds, 4, next_timeout(h, em_now_ns()));
        if (n > 0 && fds[3].revents)
            on_signal(h);
        if (n > 0 && fds[1].revents)
            on_wake(h);
        if (n > 0 && fds[2].revents)
            on_hangup(h);
        tick(h, em_now_ns());
        MHD_run(h->daemon);
    }
    return h->exit_code;
}

/* --- stop ----------------------------------------------------------------------------------------------------- */

/* The library aborts the process when it is stopped with a suspended connection. */
static void release_suspended(em_http *h)
{
    for (em_job *job = h->jobs; job; job = job->next)
        if (job->exchange->conn)
            em_job_client_gone(job);
    for (int i = 0; i < 1000 && h->n_suspended; i++)
        MHD_run(h->daemon);
    MHD_run(h->daemon); /* a resume takes effect in the run behind it */
}

void em_http_stop(em_http *h)
{
    if (!h->daemon)
        return;
    release_suspended(h);
    MHD_stop_daemon(h->daemon); /* closes the listening socket */
    h->daemon = NULL;
}

em_http *em_http_free(em_http *h)
{
    if (!h)
        return NULL;
    em_http_stop(h);
    em_job_take_ready(h);
    if (h->wake_fd >= 0)
        close(h->wake_fd);
    if (h->watch_fd >= 0)
        close(h->watch_fd);
    pthread_mutex_destroy(&h->inbox.lock);
    em_notify_done(&h->notify);
    em_keys_free(h->keys);
    free(h);
    return NULL;
}
