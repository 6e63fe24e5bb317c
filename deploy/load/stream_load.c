/* Many clients that stream completions at once, every answer compared with the answer to the same request alone.
 *
 *     stream_load [--host H] [--port P] [--clients N] [--seconds S] [--rate R] ...
 *
 * Closed loop (default): each client asks again as soon as its answer is complete. Open loop (--rate): requests fall due at
 * random times with that mean rate whatever the server does, and times count from the moment a request was due, so that a
 * slow server cannot hide its queue. Prints one object of JSON on standard output; exit code 1 when anything went wrong.
 * docs/LOAD_TESTING.md says how to read it. */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <unistd.h>

#include "client.h"
#include "draw.h"

#define SECOND UINT64_C(1000000000)
#define MAX_SHOWN 5 /* complaints printed in words */

typedef struct options {
    const char *host, *port, *key;
    long clients, requests, prompt_tokens, max_tokens, first_id, n_ids, pid;
    double seconds, rate, timeout, max_growth_mib;
    uint64_t seed;
    bool verify, reconnect;
} options;

typedef struct request {
    char *text; /* header and body */
    size_t len;
    buffer expected; /* its answer alone */
    uint64_t tokens;
} request;

typedef struct load {
    options o;
    request *requests; /* [o.requests] */
    client *clients;   /* [o.clients] */
    int epoll;
    uint64_t rng;
    uint64_t end_ns, due_ns; /* end of asking; when the next request falls due (open loop) */
    uint64_t asked, answered, errors, wrong, late, tokens;
    uint64_t *backlog; /* due times that found no idle client, oldest first */
    size_t n_backlog, cap_backlog;
    long in_flight, most_in_flight, shown;
    double rss_start, rss_settled, rss_end; /* MiB of the server; settled: when every pool should have its size */
    histogram first, gap, whole;
} load;

static void complain(load *l, const char *what, size_t which, const char *why)
{
    if (l->shown++ < MAX_SHOWN)
        fprintf(stderr, "stream_load: request %zu: %s: %s\n", which, what, why);
}

/* --- what is asked ---------------------------------------------------------------------------------------------- */

/* Every second one greedy, the others seeded; lengths spread evenly from one token to the longest. */
static void make_request(load *l, size_t i)
{
    const options *o = &l->o;
    buffer body = {0}, text = {0};
    char piece[512];
    long n = 1 + (long)i * (o->prompt_tokens - 1) / (o->requests > 1 ? o->requests - 1 : 1);
    buffer_add(&body, "{\"prompt\":[", 11);
    for (long t = 0; t < n; t++) {
        int len = snprintf(piece, sizeof(piece), "%s%ld", t ? "," : "",
                           o->first_id + (long)(draw(&l->rng) % (uint64_t)o->n_ids));
        buffer_add(&body, piece, (size_t)len);
    }
    int len = snprintf(piece, sizeof(piece),
                       "],\"max_tokens\":%ld,\"temperature\":%d,\"seed\":%zu,\"ignore_eos\":true,\"stream\":true,"
                       "\"return_token_ids\":true}",
                       o->max_tokens, (int)(i % 2), i);
    buffer_add(&body, piece, (size_t)len);
    len = snprintf(piece, sizeof(piece),
                   "POST /v1/completions HTTP/1.1\r\nHost: %s:%s\r\nContent-Type: application/json\r\n"
                   "%s%s%s%sContent-Length: %zu\r\n\r\n",
                   o->host, o->port, o->key ? "Authorization: Bearer " : "", o->key ? o->key : "", o->key ? "\r\n" : "",
                   o->reconnect ? "Connection: close\r\n" : "", body.len);
    buffer_add(&text, piece, (size_t)len);
    buffer_add(&text, body.data, body.len);
    buffer_free(&body);
    l->requests[i].text = text.data;
    l->requests[i].len = text.len;
}

/* --- one client's turn ------------------------------------------------------------------------------------------ */

static void watch(load *l, client *c)
{
    struct epoll_event ev = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = c};
    if (c->fd >= 0)
        epoll_ctl(l->epoll, EPOLL_CTL_ADD, c->fd, &ev); /* EEXIST for a connection that is used again */
}

static void ask(load *l, client *c, size_t which, uint64_t due_ns)
{
    c->request = which;
    l->asked++;
    if (++l->in_flight > l->most_in_flight)
        l->most_in_flight = l->in_flight;
    client_ask(c, l->o.host, l->o.port, l->requests[which].text, l->requests[which].len, due_ns);
    watch(l, c);
    client_on_ready(c);
}

static void check_answer(load *l, client *c)
{
    request *r = &l->requests[c->request];
    if (!l->o.verify ||
        (r->expected.len == c->answer.len && memcmp(r->expected.data, c->answer.data, c->answer.len) == 0))
        return;
    l->wrong++;
    size_t at = 0;
    while (at < r->expected.len && at < c->answer.len && r->expected.data[at] == c->answer.data[at])
        at++;
    char why[256];
    snprintf(why, sizeof(why), "byte %zu of %zu (alone %zu) differs", at, c->answer.len, r->expected.len);
    complain(l, "a wrong answer", c->request, why);
}

/* Books what has ended; the client is idle afterwards. */
static void settle(load *l, client *c)
{
    if (c->state == CLIENT_FAILED) {
        l->errors++;
        complain(l, "failed", c->request, c->error);
    } else {
        l->answered++;
        l->tokens += c->tokens;
        histogram_add(&l->whole, client_now_ns() - c->asked_ns);
        check_answer(l, c);
    }
    if (l->o.reconnect && c->fd >= 0) {
        close(c->fd);
        c->fd = -1;
    }
    l->in_flight--;
    c->state = CLIENT_IDLE;
}

static bool ended(const client *c)
{
    return c->state == CLIENT_DONE || c->state == CLIENT_FAILED;
}

/* The next thing for an idle client: in the open loop only what is due. */
static void give_work(load *l, client *c)
{
    uint64_t now = client_now_ns();
    while (c->state == CLIENT_IDLE && now < l->end_ns) {
        uint64_t due = now;
        if (l->o.rate > 0) {
            if (l->n_backlog == 0)
                return;
            due = l->backlog[0];
            memmove(l->backlog, l->backlog + 1, --l->n_backlog * sizeof(*l->backlog));
        }
        ask(l, c, (size_t)(draw(&l->rng) % (uint64_t)l->o.requests), due);
        if (ended(c))
            settle(l, c);
        if (l->errors > 1000)
            l->end_ns = 0; /* nothing good comes of it any more */
    }
}

static void on_event(load *l, client *c)
{
    if (c->state == CLIENT_IDLE) { /* the server closes a connection that nobody uses */
        if (c->fd >= 0)
            close(c->fd);
        c->fd = -1;
        return;
    }
    client_on_ready(c);
    if (ended(c))
        settle(l, c);
}

/* --- the loop --------------------------------------------------------------------------------------------------- */

static void requests_fall_due(load *l, uint64_t now)
{
    while (l->o.rate > 0 && l->due_ns <= now && l->due_ns < l->end_ns) {
        if (l->n_backlog == l->cap_backlog) {
            l->cap_backlog = l->cap_backlog ? 2 * l->cap_backlog : 1024;
            l->backlog = realloc(l->backlog, l->cap_backlog * sizeof(*l->backlog));
            if (!l->backlog) {
                fprintf(stderr, "stream_load: out of memory\n");
                exit(1);
            }
        }
        l->backlog[l->n_backlog++] = l->due_ns;
        l->due_ns += (uint64_t)(draw_exponential(&l->rng, 1 / l->o.rate) * 1e9);
    }
}

static void fail_silent_clients(load *l)
{
    uint64_t now = client_now_ns(); /* not before any client's heard_ns */
    for (long i = 0; i < l->o.clients; i++) {
        client *c = &l->clients[i];
        if (c->state == CLIENT_IDLE || (double)(now - c->heard_ns) < l->o.timeout * 1e9)
            continue;
        client_fail(c, "silence longer than the time limit");
        settle(l, c);
    }
}

static int wait_ms(const load *l, uint64_t now)
{
    if (l->o.rate <= 0 || l->due_ns >= l->end_ns || l->due_ns > now + SECOND / 5)
        return 200;
    return l->due_ns <= now ? 0 : (int)((l->due_ns - now) / 1000000);
}

static double rss_mib(long pid)
{
    char path[64], line[256];
    double kib = 0;
    snprintf(path, sizeof(path), "/proc/%ld/status", pid);
    FILE *f = pid > 0 ? fopen(path, "re") : NULL;
    while (f && fgets(line, sizeof(line), f))
        if (sscanf(line, "VmRSS: %lf", &kib) == 1)
            break;
    if (f)
        fclose(f);
    return kib / 1024;
}

/* Until the time is over and what is in flight has ended. */
static void run(load *l)
{
    struct epoll_event events[256];
    uint64_t start = client_now_ns(), checked = start, settled = start + (uint64_t)(l->o.seconds / 4 * 1e9);
    l->end_ns = start + (uint64_t)(l->o.seconds * 1e9);
    l->due_ns = start;
    for (;;) {
        uint64_t now = client_now_ns();
        requests_fall_due(l, now);
        for (long i = 0; i < l->o.clients; i++)
            if (l->clients[i].state == CLIENT_IDLE && (l->o.rate <= 0 || l->n_backlog))
                give_work(l, &l->clients[i]);
        if (now >= l->end_ns && l->in_flight == 0)
            break;
        int n = epoll_wait(l->epoll, events, 256, wait_ms(l, now));
        for (int i = 0; i < n; i++)
            on_event(l, events[i].data.ptr);
        if (l->rss_settled == 0 && now >= settled && l->answered >= (uint64_t)(l->o.rate > 0 ? 1 : l->o.clients))
            l->rss_settled = rss_mib(l->o.pid);
        if (now - checked > SECOND) {
            fail_silent_clients(l);
            checked = now;
        }
    }
    l->late = l->n_backlog;
}

/* Each request once, alone. False when one of them fails. */
static bool run_alone(load *l)
{
    client *c = &l->clients[0];
    for (long i = 0; i < l->o.requests; i++) {
        ask(l, c, (size_t)i, client_now_ns());
        while (!ended(c)) {
            struct epoll_event ev;
            int n = epoll_wait(l->epoll, &ev, 1, (int)(l->o.timeout * 1e3));
            if (n == 0)
                client_fail(c, "silence longer than the time limit");
            else if (n > 0)
                client_on_ready(c);
        }
        if (c->state == CLIENT_FAILED) {
            complain(l, "alone", (size_t)i, c->error);
            return false;
        }
        l->requests[i].expected = c->answer;
        l->requests[i].tokens = c->tokens;
        c->answer = (buffer){0};
        l->in_flight--;
        c->state = CLIENT_IDLE;
        if (l->o.reconnect) {
            close(c->fd);
            c->fd = -1;
        }
    }
    l->asked = 0;
    return true;
}

/* --- report ----------------------------------------------------------------------------------------------------- */

static void print_times(const char *name, const histogram *h)
{
    printf(
        "  \"%s_ms\": {\"mean\": %.3f, \"p50\": %.3f, \"p90\": %.3f, \"p99\": %.3f, \"p999\": %.3f, \"max\": %.3f},\n",
        name, histogram_mean_ms(h), histogram_ms(h, 0.5), histogram_ms(h, 0.9), histogram_ms(h, 0.99),
        histogram_ms(h, 0.999), h->max_us / 1e3);
}

static void report(const load *l, double seconds)
{
    printf("{\"clients\": %ld, \"rate\": %g, \"seconds\": %.2f, \"seed\": %" PRIu64 ", \"most_in_flight\": %ld,\n",
           l->o.clients, l->o.rate, seconds, l->o.seed, l->most_in_flight);
    printf("  \"asked\": %" PRIu64 ", \"answered\": %" PRIu64 ", \"errors\": %" PRIu64 ", \"wrong\": %" PRIu64
           ", \"never_sent\": %" PRIu64 ", \"verified\": %s,\n",
           l->asked, l->answered, l->errors, l->wrong, l->late, l->o.verify ? "true" : "false");
    printf("  \"tokens\": %" PRIu64 ", \"tokens_per_s\": %.1f, \"requests_per_s\": %.1f,\n", l->tokens,
           (double)l->tokens / seconds, (double)l->answered / seconds);
    print_times("first_token", &l->first);
    print_times("inter_token", &l->gap);
    print_times("whole", &l->whole);
    printf("  \"rss_mib\": {\"start\": %.2f, \"settled\": %.2f, \"end\": %.2f}}\n", l->rss_start, l->rss_settled,
           l->rss_end);
}

static int measure(load *l)
{
    for (long i = 0; i < l->o.clients; i++) {
        l->clients[i].first = &l->first;
        l->clients[i].gap = &l->gap;
    }
    uint64_t start = client_now_ns();
    l->rss_start = rss_mib(l->o.pid);
    run(l);
    l->rss_end = rss_mib(l->o.pid);
    report(l, (double)(client_now_ns() - start) / 1e9);
    double growth = l->rss_end - l->rss_settled;
    bool grew = l->o.max_growth_mib > 0 && (l->rss_settled == 0 || growth > l->o.max_growth_mib);
    if (grew && l->rss_settled == 0)
        fprintf(stderr, "stream_load: too short a run to tell growth: each client needs at least one answer\n");
    else if (grew)
        fprintf(stderr, "stream_load: the server grew by %.2f MiB after the first answers\n", growth);
    return l->errors || l->wrong || l->answered == 0 || grew ? 1 : 0;
}

/* --- command line ----------------------------------------------------------------------------------------------- */

static const struct option long_options[] = {
    {"host", 1, NULL, 'h'},          {"port", 1, NULL, 'p'},           {"clients", 1, NULL, 'c'},
    {"seconds", 1, NULL, 's'},       {"rate", 1, NULL, 'r'},           {"requests", 1, NULL, 'n'},
    {"prompt-tokens", 1, NULL, 'P'}, {"max-tokens", 1, NULL, 'm'},     {"first-id", 1, NULL, 'f'},
    {"ids", 1, NULL, 'i'},           {"timeout", 1, NULL, 't'},        {"seed", 1, NULL, 'S'},
    {"pid", 1, NULL, 'q'},           {"max-growth-mib", 1, NULL, 'g'}, {"key", 1, NULL, 'k'},
    {"no-verify", 0, NULL, 'v'},     {"reconnect", 0, NULL, 'x'},      {0}};

static const char usage[] =
    "usage: stream_load [options]\n"
    "  --host H, --port P       the server (127.0.0.1, 8080)\n"
    "  --clients N              clients at once (512)\n"
    "  --seconds S              how long they ask (20)\n"
    "  --rate R                 open loop: requests per second in the mean; 0: closed loop (0)\n"
    "  --requests N             different requests (64)\n"
    "  --prompt-tokens N        longest prompt (48)\n"
    "  --max-tokens N           length of each answer (16)\n"
    "  --first-id N, --ids N    prompts are drawn from N ids from this one on (300, 5500)\n"
    "  --timeout S              silence after which a request counts as failed (60)\n"
    "  --seed N                 what is drawn (1)\n"
    "  --pid N                  the server's process: its resident memory is reported\n"
    "  --max-growth-mib X       how much it may grow after the first quarter and answers\n"
    "  --key KEY                API key\n"
    "  --no-verify              do not compare the answers\n"
    "  --reconnect              a connection of its own for every request\n";

static bool set_option(options *o, int c)
{
    switch (c) {
    case 'h': o->host = optarg; break;
    case 'p': o->port = optarg; break;
    case 'k': o->key = optarg; break;
    case 'c': o->clients = atol(optarg); break;
    case 's': o->seconds = atof(optarg); break;
    case 'r': o->rate = atof(optarg); break;
    case 'n': o->requests = atol(optarg); break;
    case 'P': o->prompt_tokens = atol(optarg); break;
    case 'm': o->max_tokens = atol(optarg); break;
    case 'f': o->first_id = atol(optarg); break;
    case 'i': o->n_ids = atol(optarg); break;
    case 't': o->timeout = atof(optarg); break;
    case 'S': o->seed = strtoull(optarg, NULL, 10); break;
    case 'q': o->pid = atol(optarg); break;
    case 'g': o->max_growth_mib = atof(optarg); break;
    case 'v': o->verify = false; break;
    case 'x': o->reconnect = true; break;
    default: return false;
    }
    return true;
}

static bool read_options(int argc, char **argv, options *o)
{
    int c;
    while ((c = getopt_long(argc, argv, "", long_options, NULL)) != -1)
        if (!set_option(o, c))
            return false;
    return optind == argc && o->clients > 0 && o->clients <= 100000 && o->requests > 0 && o->prompt_tokens > 0 &&
           o->max_tokens > 0 && o->n_ids > 0 && o->first_id >= 0 && o->seconds > 0 && o->rate >= 0 && o->timeout > 0 &&
           (!o->key || strlen(o->key) < 200) && strlen(o->host) < 100 && strlen(o->port) < 10;
}

static bool prepare(load *l)
{
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    l->rng = l->o.seed;
    l->epoll = epoll_create1(EPOLL_CLOEXEC);
    l->requests = calloc((size_t)l->o.requests, sizeof(*l->requests));
    l->clients = calloc((size_t)l->o.clients, sizeof(*l->clients));
    if (l->epoll < 0 || !l->requests || !l->clients) {
        fprintf(stderr, "stream_load: %s\n", strerror(errno));
        return false;
    }
    for (long i = 0; i < l->o.clients; i++)
        l->clients[i].fd = -1;
    for (long i = 0; i < l->o.requests; i++)
        make_request(l, (size_t)i);
    return true;
}

static void clear(load *l)
{
    for (long i = 0; l->clients && i < l->o.clients; i++)
        client_free(&l->clients[i]);
    for (long i = 0; l->requests && i < l->o.requests; i++) {
        free(l->requests[i].text);
        buffer_free(&l->requests[i].expected);
    }
    free(l->clients);
    free(l->requests);
    free(l->backlog);
    if (l->epoll >= 0)
        close(l->epoll);
}

int main(int argc, char **argv)
{
    static load l = {.o = {.host = "127.0.0.1",
                           .port = "8080",
                           .clients = 512,
                           .seconds = 20,
                           .requests = 64,
                           .prompt_tokens = 48,
                           .max_tokens = 16,
                           .first_id = 300,
                           .n_ids = 5500,
                           .timeout = 60,
                           .seed = 1,
                           .verify = true}};
    if (!read_options(argc, argv, &l.o)) {
        fputs(usage, stderr);
        return 2;
    }
    int rc = prepare(&l) && (!l.o.verify || run_alone(&l)) ? measure(&l) : 1;
    clear(&l);
    return rc;
}
