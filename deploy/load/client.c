#include "client.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CHUNK_MAX (16u << 20) /* a chunk larger than this is no event of ours */

uint64_t client_now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* --- buffers ---------------------------------------------------------------------------------------------------- */

void buffer_add(buffer *b, const void *data, size_t len)
{
    if (b->len + len > b->cap) {
        size_t cap = b->cap ? b->cap : 4096;
        while (cap < b->len + len)
            cap *= 2;
        char *grown = realloc(b->data, cap);
        if (!grown) {
            fprintf(stderr, "out of memory\n");
            exit(1);
        }
        b->data = grown;
        b->cap = cap;
    }
    memcpy(b->data + b->len, data, len);
    b->len += len;
}

void buffer_drop_front(buffer *b, size_t len)
{
    memmove(b->data, b->data + len, b->len - len);
    b->len -= len;
}

void buffer_free(buffer *b)
{
    free(b->data);
    *b = (buffer){0};
}

/* --- connection ------------------------------------------------------------------------------------------------- */

void client_fail(client *c, const char *why)
{
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
    c->state = CLIENT_FAILED;
    snprintf(c->error, sizeof(c->error), "%s", why);
}

void client_free(client *c)
{
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
    buffer_free(&c->in);
    buffer_free(&c->body);
    buffer_free(&c->answer);
}

static int open_socket(const char *host, const char *port)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found = NULL;
    if (getaddrinfo(host, port, &hints, &found) != 0)
        return -1;
    int fd = socket(found->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;
    if (fd >= 0 && connect(fd, found->ai_addr, found->ai_addrlen) < 0 && errno != EINPROGRESS) {
        close(fd);
        fd = -1;
    }
    if (fd >= 0)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    freeaddrinfo(found);
    return fd;
}

void client_ask(client *c, const char *host, const char *port, const char *out, size_t out_len, uint64_t due_ns)
{
    if (c->fd < 0 && (c->fd = open_socket(host, port)) < 0) {
        client_fail(c, "no connection");
        return;
    }
    c->out = out;
    c->out_len = out_len;
    c->out_at = 0;
    c->in.len = c->body.len = c->answer.len = 0;
    c->chunk_left = 0;
    c->in_chunk = c->last_chunk = c->saw_end = false;
    c->asked_ns = due_ns;
    c->first_ns = c->last_ns = 0;
    c->heard_ns = client_now_ns();
    c->tokens = 0;
    c->state = CLIENT_SENDING;
}

static void send_more(client *c)
{
    while (c->out_at < c->out_len) {
        ssize_t n = send(c->fd, c->out + c->out_at, c->out_len - c->out_at, MSG_NOSIGNAL);
        if (n < 0 && (errno == EAGAIN || errno == ENOTCONN))
            return;
        if (n < 0) {
            client_fail(c, strerror(errno));
            return;
        }
        c->out_at += (size_t)n;
    }
    c->heard_ns = client_now_ns();
    c->state = CLIENT_HEAD;
}

/* --- the answer ------------------------------------------------------------------------------------------------- */

/* An event without a choice is the usage, or an error. */
static void take_event(client *c, const char *text, size_t len, uint64_t now)
{
    static const char done[] = "data: [DONE]", key[] = "\"choices\":";
    if (len == 0 || text[0] == ':')
        return;
    if (len == sizeof(done) - 1 && memcmp(text, done, len) == 0) {
        c->saw_end = true;
        return;
    }
    const char *at = memmem(text, len, key, sizeof(key) - 1);
    if (!at || memcmp(text, "data: {", 7) != 0) {
        char why[160];
        snprintf(why, sizeof(why), "instead of an event: %.*s", (int)(len < 120 ? len : 120), text);
        client_fail(c, why);
        return;
    }
    buffer_add(&c->answer, at, len - (size_t)(at - text));
    buffer_add(&c->answer, "\n", 1);
    histogram *h = c->last_ns ? c->gap : c->first;
    if (h)
        histogram_add(h, now - (c->last_ns ? c->last_ns : c->asked_ns));
    if (!c->first_ns)
        c->first_ns = now;
    c->last_ns = now;
    c->tokens++;
}

/* The empty line behind an event, with line ends of either kind; NULL: it has not come. */
static char *event_end(char *data, size_t len, size_t *ret_gap)
{
    for (char *at = data; (at = memchr(at, '\n', len - (size_t)(at - data))) != NULL; at++) {
        size_t left = len - (size_t)(at - data);
        size_t gap = left > 1 && at[1] == '\n' ? 2 : left > 2 && at[1] == '\r' && at[2] == '\n' ? 3 : 0;
        if (!gap)
            continue;
        *ret_gap = gap;
        return at;
    }
    return NULL;
}

static void cut_events(client *c, uint64_t now)
{
    size_t at = 0, gap;
    while (c->state == CLIENT_STREAM && at < c->body.len) {
        char *data = c->body.data + at, *end = event_end(data, c->body.len - at, &gap);
        if (!end)
            break;
        size_t len = (size_t)(end - data);
        at += len + gap;
        take_event(c, data, len && data[len - 1] == '\r' ? len - 1 : len, now);
    }
    buffer_drop_front(&c->body, at);
}

/* The line with a chunk's size. False: more bytes are needed, or it failed. */
static bool begin_chunk(client *c)
{
    char *end = memmem(c->in.data, c->in.len, "\r\n", 2);
    if (!end)
        return false;
    char *stop;
    unsigned long size = strtoul(c->in.data, &stop, 16);
    if (stop == c->in.data || size > CHUNK_MAX) {
        client_fail(c, "a chunk without a size");
        return false;
    }
    buffer_drop_front(&c->in, (size_t)(end - c->in.data) + 2);
    c->chunk_left = size;
    c->in_chunk = true;
    c->last_chunk = size == 0;
    return true;
}

static void end_answer(client *c)
{
    if (!c->saw_end)
        client_fail(c, "a stream that ends without [DONE]");
    else if (c->body.len || c->in.len)
        client_fail(c, "bytes behind the end of a stream");
    else
        c->state = CLIENT_DONE;
}

static void take_chunks(client *c, uint64_t now)
{
    while (c->state == CLIENT_STREAM && c->in.len) {
        if (!c->in_chunk && !begin_chunk(c))
            return;
        size_t n = c->in.len < c->chunk_left ? c->in.len : c->chunk_left;
        buffer_add(&c->body, c->in.data, n);
        buffer_drop_front(&c->in, n);
        c->chunk_left -= n;
        cut_events(c, now);
        if (c->state != CLIENT_STREAM || c->chunk_left || c->in.len < 2)
            return; /* the line end behind the payload is still to come */
        buffer_drop_front(&c->in, 2);
        c->in_chunk = false;
        if (c->last_chunk)
            end_answer(c);
    }
}

static void take_head(client *c)
{
    char *end = memmem(c->in.data, c->in.len, "\r\n\r\n", 4);
    if (!end)
        return;
    *end = '\0';
    if (strncmp(c->in.data, "HTTP/1.1 200", 12) != 0) {
        char why[160];
        snprintf(why, sizeof(why), "%.40s", c->in.data);
        client_fail(c, why);
        return;
    }
    if (!strcasestr(c->in.data, "transfer-encoding: chunked")) {
        client_fail(c, "no chunked answer");
        return;
    }
    buffer_drop_front(&c->in, (size_t)(end - c->in.data) + 4);
    c->state = CLIENT_STREAM;
}

static void receive(client *c)
{
    char piece[65536];
    for (;;) {
        ssize_t n = recv(c->fd, piece, sizeof(piece), 0);
        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0) {
            client_fail(c, n < 0 ? strerror(errno) : "closed before the end of the answer");
            return;
        }
        uint64_t now = client_now_ns();
        c->heard_ns = now;
        buffer_add(&c->in, piece, (size_t)n);
        if (c->state == CLIENT_HEAD)
            take_head(c);
        if (c->state == CLIENT_STREAM)
            take_chunks(c, now);
        if (c->state != CLIENT_HEAD && c->state != CLIENT_STREAM)
            return;
    }
}

void client_on_ready(client *c)
{
    if (c->state == CLIENT_SENDING)
        send_more(c);
    if (c->state == CLIENT_HEAD || c->state == CLIENT_STREAM)
        receive(c);
}
