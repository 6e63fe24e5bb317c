#include "server/notify.h"

#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define SECOND UINT64_C(1000000000)
#define SPARE_STOP_NS (15 * SECOND)           /* behind the drain: answers are flushed, the engine is closed */
#define MAX_WATCHDOG_USEC (UINT64_C(1) << 53) /* so that nanoseconds fit, too */

static int set_address(em_notify *n, const char *name, em_error *err)
{
    size_t len = strlen(name);
    if ((name[0] != '/' && name[0] != '@') || len < 2 || len >= sizeof(n->address.sun_path))
        return em_error_set(err, -EINVAL, "NOTIFY_SOCKET: \"%.120s\" is neither a path nor an abstract name", name);
    n->address.sun_family = AF_UNIX;
    memcpy(n->address.sun_path, name, len);
    if (name[0] == '@') /* its length is part of an abstract name, a zero at the end is not */
        n->address.sun_path[0] = '\0';
    n->address_len = (uint32_t)(offsetof(struct sockaddr_un, sun_path) + len + (name[0] == '/'));
    return 0;
}

/* Nanoseconds between pings; 0: none are wanted, or not of this process. */
static uint64_t read_interval(void)
{
    const char *usec = getenv("WATCHDOG_USEC"), *pid = getenv("WATCHDOG_PID");
    char *end;
    if (!usec || !*usec || (pid && *pid && strtoll(pid, NULL, 10) != (long long)getpid()))
        return 0;
    uint64_t v = strtoull(usec, &end, 10);
    return *end || v > MAX_WATCHDOG_USEC ? 0 : v * 1000 / 2;
}

int em_notify_init(em_notify *n, em_error *err)
{
    const char *name = getenv("NOTIFY_SOCKET");
    *n = (em_notify){.fd = -1};
    if (!name || !*name)
        return 0;
    int r = set_address(n, name, err);
    if (r < 0)
        return r;
    n->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (n->fd < 0)
        return em_error_set(err, -errno, "NOTIFY_SOCKET: cannot make a socket: %s", strerror(errno));
    n->interval_ns = read_interval();
    return 0;
}

void em_notify_done(em_notify *n)
{
    if (n->fd >= 0)
        close(n->fd);
    n->fd = -1;
}

bool em_notify_active(const em_notify *n)
{
    return n->fd >= 0;
}

/* A manager that does not listen is none of our troubles: serving goes on. */
static bool tell(em_notify *n, const char *text)
{
    return n->fd >= 0 &&
           sendto(n->fd, text, strlen(text), MSG_NOSIGNAL, (const struct sockaddr *)&n->address, n->address_len) >= 0;
}

/* `what` and a status line of what a caller gives, which must not bring lines of its own. */
static void tell_status(em_notify *n, const char *what, const char *status)
{
    char text[256], line[sizeof(n->status)];
    snprintf(line, sizeof(line), "%s", status);
    for (char *p = line; *p; p++)
        if (*p == '\n' || *p == '\r')
            *p = ' ';
    snprintf(text, sizeof(text), "%sSTATUS=%s", what, line);
    tell(n, text);
    memcpy(n->status, line, sizeof(line));
}

void em_notify_loading(em_notify *n, const char *phase, double fraction, uint64_t now_ns)
{
    char status[sizeof(n->status)];
    if (n->fd < 0 || (n->told_ns && now_ns - n->told_ns < SECOND))
        return;
    snprintf(status, sizeof(status), "Loading: %.90s, %d %%", *phase ? phase : "begins", (int)(fraction * 100));
    if (strcmp(status, n->status) == 0)
        return;
    n->told_ns = now_ns;
    tell_status(n, "", status);
}

void em_notify_ready(em_notify *n, const char *url)
{
    char status[sizeof(n->status)];
    snprintf(status, sizeof(status), "Serving on %s", url);
    tell_status(n, "READY=1\n", status);
}

void em_notify_stopping(em_notify *n, int n_requests, uint64_t drain_ns)
{
    char what[80], status[sizeof(n->status)];
    snprintf(what, sizeof(what), "STOPPING=1\nEXTEND_TIMEOUT_USEC=%" PRIu64 "\n", (drain_ns + SPARE_STOP_NS) / 1000);
    snprintf(status, sizeof(status), "Draining: %d requests are running", n_requests);
    tell_status(n, what, status);
}

void em_notify_failed(em_notify *n, const char *why)
{
    tell_status(n, "STOPPING=1\n", why);
}

void em_notify_ping(em_notify *n, uint64_t heartbeat_ns, uint64_t now_ns)
{
    if (n->fd < 0 || n->interval_ns == 0 || (n->pinged_ns && now_ns - n->pinged_ns < n->interval_ns))
        return;
    if (heartbeat_ns && heartbeat_ns == n->heartbeat_ns)
        return;
    if (!tell(n, "WATCHDOG=1"))
        return; /* the next turn of the loop tries again */
    n->pinged_ns = now_ns;
    n->heartbeat_ns = heartbeat_ns;
}

uint64_t em_notify_interval_ns(const em_notify *n)
{
    if (n->fd < 0)
        return UINT64_MAX;
    /* a quarter more often than pings are due, so that a beat seen a little late does not cost a whole interval */
    uint64_t look = n->interval_ns / 4;
    return look && look < SECOND ? look : SECOND;
}
