/* One streaming client: a connection that asks, reads events and times them, without blocking and without threads.
 *
 * The caller waits for the socket (epoll) and calls client_on_ready. What an answer consists of, from `"choices":` to the end
 * of each event, is collected in `answer`, so that two runs of one request can be compared byte by byte. */
#ifndef ENGRAMD_LOAD_CLIENT_H
#define ENGRAMD_LOAD_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "histogram.h"

typedef struct buffer {
    char *data;
    size_t len, cap;
} buffer;

void buffer_add(buffer *b, const void *data, size_t len); /* ends the program when memory is out */
void buffer_drop_front(buffer *b, size_t len);
void buffer_free(buffer *b);

typedef enum client_state {
    CLIENT_IDLE,
    CLIENT_SENDING,
    CLIENT_HEAD,   /* waiting for the end of the answer's header */
    CLIENT_STREAM, /* events come */
    CLIENT_DONE,   /* the answer is complete */
    CLIENT_FAILED, /* error says why; the connection is closed */
} client_state;

typedef struct client {
    int fd; /* -1: not connected */
    client_state state;
    char error[160];
    size_t request;  /* index of what it asks, for the caller */
    const char *out; /* request bytes, of the caller */
    size_t out_len, out_at;
    buffer in;              /* received, not yet understood */
    buffer body;            /* payload of chunks, not yet cut into events */
    buffer answer;          /* what must be equal in every run */
    size_t chunk_left;      /* payload of the current chunk that is still to come */
    bool in_chunk;          /* its size line has been read */
    bool last_chunk;        /* and was 0 */
    bool saw_end;           /* data: [DONE] */
    uint64_t asked_ns;      /* when the request was due */
    uint64_t first_ns;      /* the first event, 0 before it */
    uint64_t last_ns;       /* the last event, 0 before the first */
    uint64_t heard_ns;      /* the last byte of any kind, or the sending */
    uint64_t tokens;        /* events with a choice */
    histogram *first, *gap; /* where times go; NULL: nowhere */
} client;

/* Connects (again) where needed and begins to send. state is CLIENT_FAILED when that is not possible. */
void client_ask(client *c, const char *host, const char *port, const char *out, size_t out_len, uint64_t due_ns);
/* The socket can be read or written. */
void client_on_ready(client *c);
void client_fail(client *c, const char *why);
void client_free(client *c);
uint64_t client_now_ns(void);

#endif
