/* The HTTP side: one libmicrohttpd daemon and one thread that runs it with its own loop.
 *
 * Threads. Everything here belongs to the HTTP thread, but the inbox: the step thread puts events there under its lock
 * and writes `wake_fd` once. Connections are suspended while they wait for the engine, and resumed by this thread only.
 *
 * Lifetimes. A peer lives as long as its connection. An exchange (one request) ends when libmicrohttpd says so and its
 * job, if it has one, has had its last event: whichever comes later frees both. */
#ifndef EM_SERVER_HTTP_H
#define EM_SERVER_HTTP_H

#include <microhttpd.h>
#include <pthread.h>

#include "api/error.h"
#include "api/reply.h"
#include "engine/base/buf.h"
#include "engine/engine.h"
#include "server/config.h"
#include "server/keys.h"
#include "server/metrics.h"
#include "server/notify.h"
#include "server/service.h"
#include "server/watchdog.h"

typedef struct em_http em_http;
typedef struct em_job em_job;
typedef struct em_exchange em_exchange;

/* --- one connection (peer.c) --------------------------------------------------------------------------------- */

/* Open connections of one address. */
#define EM_RANDOM_WORDS 32 /* what getrandom gives without being interrupted: 256 bytes */
#define EM_ADDRESS_BUCKETS 1024
typedef struct em_address {
    struct em_address *next; /* in its bucket */
    uint8_t bytes[16];       /* IPv6, or IPv4 mapped into it; what identifies a client, zeros behind */
    int n;
} em_address;

typedef struct em_peer {
    struct em_peer *prev, *next;
    em_address *address; /* NULL: not an address of the internet */
    int fd;
    uint64_t deadline_ns; /* of the header or the body being received; 0: none */
} em_peer;

/* MHD_OPTION_NOTIFY_CONNECTION */
void em_peer_notify(void *cls, struct MHD_Connection *conn, void **socket_context,
                    enum MHD_ConnectionNotificationCode code);
/* MHD_AcceptPolicyCallback: turns an address away that is far beyond its limit. */
enum MHD_Result em_peer_accept(void *cls, const struct sockaddr *addr, socklen_t len);
bool em_peer_one_too_many(const em_http *h, const em_peer *p); /* its address is beyond the limit */
em_peer *em_peer_of(struct MHD_Connection *conn);
void em_peer_cut_late(em_http *h, uint64_t now); /* those past their deadline */

/* --- one request (exchange.c) -------------------------------------------------------------------------------- */

typedef enum MHD_Result em_route_fn(em_exchange *x);

typedef struct em_route {
    const char *path;
    bool prefix;       /* what follows the path is an argument */
    bool post;         /* POST; otherwise GET and HEAD */
    bool needs_engine; /* 503 while loading and draining */
    bool open;         /* needs no key */
    em_route_fn *handle;
    const em_endpoint *endpoint; /* of em_job_start; NULL: another kind of route */
} em_route;

struct em_exchange {
    em_http *http;
    struct MHD_Connection *conn; /* NULL once libmicrohttpd has let go of the request */
    em_peer *peer;
    uint64_t start_ns;
    char id[EM_REQUEST_ID_MAX + 1];
    char client[EM_KEY_NAME_MAX + 1]; /* name of its key; empty: none was needed */
    char method[16];
    char path[512];        /* decoded; what did not fit is refused */
    const em_route *route; /* NULL: refused before */
    const char *argument;  /* into path: what follows a prefix route */
    em_api_error refusal;  /* status > 0: the answer, once the body has been read and dropped */
    em_buf body;
    uint64_t body_seen; /* bytes, dropped ones included */
    em_job *job;        /* NULL: none */
    int status;         /* answered; 0: nothing yet */
    bool watched;       /* its socket is in watch_fd */
};

/* MHD's access handler and MHD_OPTION_NOTIFY_COMPLETED */
enum MHD_Result em_exchange_handle(void *cls, struct MHD_Connection *conn, const char *url, const char *method,
                                   const char *version, const char *upload_data, size_t *upload_data_size,
                                   void **con_cls);
void em_exchange_completed(void *cls, struct MHD_Connection *conn, void **con_cls, enum MHD_RequestTerminationCode why);
const char *em_exchange_body(const em_exchange *x); /* body.len bytes, never NULL */
void em_exchange_drop_body(em_exchange *x);
void em_exchange_release(em_exchange *x); /* frees when nothing needs it any more, and writes the access line */

/* Tells, once, when the client leaves, which libmicrohttpd does not while a connection is suspended. */
void em_exchange_watch(em_exchange *x);
void em_exchange_unwatch(em_exchange *x);

/* --- answers (reply.c) --------------------------------------------------------------------------------------- */

/* Takes the response over, adds the headers that every answer has, queues it. */
enum MHD_Result em_reply_queue(em_exchange *x, int status, struct MHD_Response *response);
enum MHD_Result em_reply_json(em_exchange *x, int status, em_buf *body);               /* takes the text over */
enum MHD_Result em_reply_text(em_exchange *x, const char *content_type, em_buf *body); /* likewise; 200 */
enum MHD_Result em_reply_error(em_exchange *x, const em_api_error *err);
enum MHD_Result em_reply_oom(em_exchange *x);

/* --- routes (routes.c) --------------------------------------------------------------------------------------- */

/* Finds the route, or fills the refusal (400, 404, 405, 503). */
void em_route_find(em_exchange *x);
/* For counting: the index of the request's route, and the name of an index. */
int em_route_index(const em_exchange *x);
const char *em_route_name(int index);
/* Whether this request may do without a key. */
bool em_route_is_open(const em_exchange *x);
/* Value of the Allow header for a path; NULL: unknown path. */
const char *em_route_allow(const char *path);

/* --- generating (job.c) --------------------------------------------------------------------------------------- */

struct em_job {
    /* under inbox.lock until the event with `last` has been taken */
    em_event *events, **events_tail;
    size_t events_bytes;
    bool overflow; /* the HTTP thread did not keep up; events were dropped */
    bool in_ready;
    em_job *next_ready;

    /* HTTP thread */
    em_job *prev, *next; /* of http->jobs */
    em_job *next_taken;  /* while news are worked off: */
    em_event *taken;
    em_http *http;
    em_exchange *exchange;
    uint64_t engine_id;
    em_call call;
    em_buf out; /* bytes for the client; out_at of them are sent */
    size_t out_at, reply_bytes;
    uint64_t last_write_ns;
    bool suspended;
    bool started;         /* a stream: its status is out */
    bool ready;           /* a status can be told: the engine keeps to the form asked for, or none was */
    bool finished;        /* the event with `last` has come: the step thread knows nothing of this job any more */
    bool cut;             /* end the connection with an error, so that the answer does not look complete */
    em_api_error failure; /* status > 0: the answer instead of the one asked for */
    const char *end;      /* why it ended, for the access line */
    int64_t tokens_seen;  /* generated, as far as events told */
    int64_t prompt_tokens, completion_tokens;
};

em_route_fn em_job_start;                      /* runs the route's endpoint */
enum MHD_Result em_job_answer(em_exchange *x); /* resumed: the whole answer is there, or the client has gone */
void em_job_take_ready(em_http *h);            /* events of the step thread -> bytes */
void em_job_client_gone(em_job *job);
/* Ends a request whose client is still there: an error instead of the rest of the answer. */
void em_job_abort(em_job *job, int status, const char *code, const char *message);
void em_job_keepalive(em_http *h, uint64_t now);
void em_job_free(em_job *job);

/* --- the daemon and its loop (http.c) ------------------------------------------------------------------------ */

typedef struct em_inbox {
    pthread_mutex_t lock;
    em_job *ready; /* jobs with news, latest first */
} em_inbox;

struct em_http {
    const em_config *config;
    em_service *service;
    em_keys *keys; /* NULL: none needed */
    struct MHD_Daemon *daemon;
    int mhd_fd;   /* libmicrohttpd's own epoll set */
    int wake_fd;  /* eventfd: the inbox or the loader has news */
    int watch_fd; /* epoll set of sockets whose requests are in the engine */
    int signal_fd;
    bool loopback; /* bound to a loopback address */
    char url[80];
    em_inbox inbox;
    em_peer *peers;
    int n_peers;
    em_address *addresses[EM_ADDRESS_BUCKETS];
    em_http_counts counts;
    em_watchdog watchdog;
    em_notify notify; /* of the service manager */
    em_job *jobs;
    int n_jobs, n_suspended, n_exchanges;
    size_t body_bytes; /* held by exchanges that receive a body */
    uint64_t next_tick_ns;
    int n_signals;
    uint64_t drain_deadline_ns, give_up_ns;
    bool done;
    int exit_code;
    uint64_t log_window_ns;           /* of libmicrohttpd's messages */
    uint64_t random[EM_RANDOM_WORDS]; /* for request ids: the first n_random are unused */
    int n_random;
    int n_logged;
};

/* listen_fd is taken over. signal_fd: a signalfd of SIGTERM, SIGINT and perhaps SIGHUP, the caller's. */
int em_http_new(const em_config *c, int listen_fd, int signal_fd, em_http **ret_http, em_error *err);
void em_http_wake(void *http); /* any thread */
/* Serves until drained, aborted or the model could not be loaded; returns the exit code. */
int em_http_run(em_http *h, em_service *service);
/* Stops the daemon: no connection is left afterwards. The service must be freed before em_http_free, since its last
 * events go to this struct. */
void em_http_stop(em_http *h);
em_http *em_http_free(em_http *h); /* NULL is fine; returns NULL */

#endif
