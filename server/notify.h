/* Tells the service manager how the process is: systemd's notification protocol, datagrams of NAME=VALUE lines to the
 * socket that NOTIFY_SOCKET names. Without that variable every function here does nothing.
 *
 * The watchdog's ping needs both threads: the HTTP thread sends it, and only when the step thread has moved since the
 * last one. While the model loads there is no step thread, and the HTTP thread's own life is enough. */
#ifndef EM_SERVER_NOTIFY_H
#define EM_SERVER_NOTIFY_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/un.h>

#include "engine/base/error.h"

typedef struct em_notify {
    int fd; /* -1: nobody is to be told */
    struct sockaddr_un address;
    uint32_t address_len;
    uint64_t interval_ns;  /* between pings: half of what the manager waits; 0: it waits for none */
    uint64_t pinged_ns;    /* when the last ping was sent; 0: never */
    uint64_t heartbeat_ns; /* of the step thread, at that ping */
    uint64_t told_ns;      /* when the last progress was sent */
    char status[128];      /* the last one sent */
} em_notify;

/* From NOTIFY_SOCKET (a path, or @ and an abstract name), WATCHDOG_USEC and WATCHDOG_PID. -EINVAL for a socket name that
 * is none, a negative errno when no socket can be made; the struct then is one that tells nobody. */
int em_notify_init(em_notify *n, em_error *err);
void em_notify_done(em_notify *n);
bool em_notify_active(const em_notify *n);

/* How far loading is; at most once a second, and only what is new. fraction: 0 to 1. */
void em_notify_loading(em_notify *n, const char *phase, double fraction, uint64_t now_ns);
void em_notify_ready(em_notify *n, const char *url);
/* The end begins: asks for drain_ns, and some seconds more, before the manager kills. */
void em_notify_stopping(em_notify *n, int n_requests, uint64_t drain_ns);
/* The end begins because of a failure, which the manager shows. */
void em_notify_failed(em_notify *n, const char *why);

/* Sends the ping when it is due. heartbeat_ns: when the step thread last moved; 0: there is none yet. */
void em_notify_ping(em_notify *n, uint64_t heartbeat_ns, uint64_t now_ns);
/* The HTTP thread must come by at least this often; UINT64_MAX: whenever it likes. */
uint64_t em_notify_interval_ns(const em_notify *n);

#endif
