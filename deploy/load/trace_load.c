/* Open-loop load: requests arrive when a trace says so, whatever the server does, and times count from then.
 *
 *     trace_load [--port P] [--rate R] [--seconds S] [--trace FILE] ...
 *
 * Each request is a streamed completion. Prints one object of JSON; --csv writes a line for every request. Works against any
 * server with OpenAI's /v1/completions: --text sends prompts as text instead of token ids. Exit code 1 when a request failed.
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
#include "trace.h"

#define SECOND UINT64_C(1000000000)
#define MAX_SHOWN 5 /* complaints printed in words */

typedef struct options {
    const char *host, *port, *key, *model, *trace_in, *trace_out, *csv;
    trace_shape shape;
    double speed, timeout, slo_first_ms, slo_token_ms;
    long first_id, n_ids, max_in_flight;
    bool text;
} options;

typedef struct outcome {
    bool sent, answered;
    double first_ms, token_ms, whole_ms; /* token_ms: mean gap behind the first token */
    uint64_t tokens;
} outcome;

typedef struct load {
    options o;
    trace t;
    outcome *outcomes; /* [t.n] */
    client *clients;   /* [o.max_in_flight], the first n_clients of them in use */
    char **texts;      /* [o.max_in_flight]: what each client sends */
    long n_clients, in_flight, most_in_flight, shown;
    int epoll;
    uint64_t start_ns, failed, never_sent;
    size_t next; /* arrival */
    histogram first, gap, token, whole;
} load;

/* --- what is asked ---------------------------------------------------------------------------------------------- */

static const char *const words[] = {"the",  "city",  "of",    "river", "old",  "a",     "king",  "was",
                                    "and",  "found", "in",    "north", "many", "ships", "that",  "came",
                                    "with", "gold",  "stone", "for",   "his",  "house", "near",  "water",
                                    "long", "after", "two",   "years", "they", "built", "again", "there"};

static void put_tokens(const options *o, buffer *b, uint64_t seed, long n)
{
    char piece[32];
    for (long i = 0; i < n; i++) {
        uint64_t v = draw(&seed);
        int len = o->text ? snprintf(piece, sizeof(piece), "%s ", words[v % (sizeof(words) / sizeof(words[0]))])
                          : snprintf(piece, sizeof(piece), "%ld,", o->first_id + (long)(v % (uint64_t)o->n_ids));
        buffer_add(b, piece, (size_t)len);
    }
}

/* Header and body of the request of one arrival; the caller frees it. */
static char *make_request(const load *l, size_t i, size_t *ret_len)
{
    const options *o = &l->o;
    const arrival *a = &l->t.arrivals[i];
    buffer body = {0}, out = {0};
    char piece[1024];
    const char *name = o->model ? o->model : "";
    int len = snprintf(piece, sizeof(piece), "{%s%s%s\"prompt\":%c", *name ? "\"model\":\"" : "", name,
                       *name ? "\"," : "", o->text ? '"' : '[');
    buffer_add(&body, piece, (size_t)len);
    if (a->prefix >= 0)
        put_tokens(o, &body, o->shape.seed * 1000003 + (uint64_t)a->prefix, a->prefix_tokens);
    put_tokens(o, &body, o->shape.seed + 0x100000000u + i, a->prompt_tokens - (a->prefix >= 0 ? a->prefix_tokens : 0));
    body.len--; /* the last comma or blank */
    len = snprintf(piece, sizeof(piece), "%c,\"max_tokens\":%ld,\"temperature\":0,\"ignore_eos\":true,\"stream\":true}",
                   o->text ? '"' : ']', a->max_tokens);
    buffer_add(&body, piece, (size_t)len);
    len = snprintf(piece, sizeof(piece),
                   "POST /v1/completions HTTP/1.1\r\nHost: %s:%s\r\nContent-Type: application/json\r\n%s%s%s"
                   "Content-Length: %zu\r\n\r\n",
                   o->host, o->port, o->key ? "Authorization: Bearer " : "", o->key ? o->key : "", o->key ? "\r\n" : "",
                   body.len);
    buffer_add(&out, piece, (size_t)len);
    buffer_add(&out, body.data, body.len);
    buffer_free(&body);
    *ret_len = out.len;
    return out.data;
}

/* --- one request ------------------------------------------------------------------------------------------------ */

static void complain(load *l, size_t which, const char *why)
{
    if (l->shown++ < MAX_SHOWN)
        fprintf(stderr, "trace_load: request %zu: %s\n", which, why);
}

static void book(load *l, client *c)
{
    outcome *out = &l->outcomes[c->request];
    uint64_t now = client_now_ns();
    out->answered = true;
    out->tokens = c->tokens;
    out->first_ms = (double)(c->first_ns - c->asked_ns) / 1e6;
    out->whole_ms = (double)(now - c->asked_ns) / 1e6;
    out->token_ms = c->tokens > 1 ? (double)(c->last_ns - c->first_ns) / 1e6 / (double)(c->tokens - 1) : 0;
    histogram_add(&l->whole, now - c->asked_ns);
    if (c->tokens > 1)
        histogram_add(&l->token, (c->last_ns - c->first_ns) / (c->tokens - 1));
}

/* Books what has ended; the client is idle afterwards. */
static void settle(load *l, client *c)
{
    if (c->state == CLIENT_DONE && c->tokens > 0) {
        book(l, c);
    } else {
        l->failed++;
        complain(l, c->request, c->state == CLIENT_DONE ? "an answer without a token" : c->error);
    }
    l->in_flight--;
    c->state = CLIENT_IDLE;
}

static bool ended(const client *c)
{
    return c->state == CLIENT_DONE || c->state == CLIENT_FAILED;
}

/* An idle client, one with an open connection first; NULL: as many are at work as may be. */
static client *idle_client(load *l)
{
    client *fresh = NULL;
    for (long i = 0; i < l->n_clients; i++) {
        if (l->clients[i].state != CLIENT_IDLE)
            continue;
        if (l->clients[i].fd >= 0)
            return &l->clients[i];
        fresh = fresh ? fresh : &l->clients[i];
    }
    if (!fresh && l->n_clients < l->o.max_in_flight)
        fresh = &l->clients[l->n_clients++];
    return fresh;
}

static void send_arrival(load *l, size_t i)
{
    client *c = idle_client(l);
    if (!c) {
        l->never_sent++;
        return;
    }
    size_t len;
    char **text = &l->texts[c - l->clients];
    free(*text);
    *text = make_request(l, i, &len);
    c->request = i;
    l->outcomes[i].sent = true;
    if (++l->in_flight > l->most_in_flight)
        l->most_in_flight = l->in_flight;
    client_ask(c, l->o.host, l->o.port, *text, len, l->start_ns + (uint64_t)(l->t.arrivals[i].at_s * 1e9));
    struct epoll_event ev = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = c};
    if (c->fd >= 0)
        epoll_ctl(l->epoll, EPOLL_CTL_ADD, c->fd, &ev); /* EEXIST for a connection that is used again */
    client_on_ready(c);
    if (ended(c))
        settle(l, c);
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

static void fail_silent_clients(load *l)
{
    uint64_t now = client_now_ns();
    for (long i = 0; i < l->n_clients; i++) {
        client *c = &l->clients[i];
        if (c->state == CLIENT_IDLE || (double)(now - c->heard_ns) < l->o.timeout * 1e9)
            continue;
        client_fail(c, "silence longer than the time limit");
        settle(l, c);
    }
}

/* Milliseconds until the next arrival, rounded up so that the wait does not spin. */
static int wait_ms(const load *l, uint64_t now)
{
    if (l->next >= l->t.n)
        return 200;
    double left_ms = l->t.arrivals[l->next].at_s * 1e3 - (double)(now - l->start_ns) / 1e6;
    return left_ms <= 0 ? 0 : left_ms > 200 ? 200 : (int)left_ms + 1;
}

static void run(load *l)
{
    struct epoll_event events[256];
    uint64_t checked = l->start_ns = client_now_ns();
    while (l->next < l->t.n || l->in_flight) {
        uint64_t now = client_now_ns();
        while (l->next < l->t.n && l->t.arrivals[l->next].at_s * 1e9 <= (double)(now - l->start_ns))
            send_arrival(l, l->next++);
        int n = epoll_wait(l->epoll, events, 256, wait_ms(l, client_now_ns()));
        for (int i = 0; i < n; i++)
            on_event(l, events[i].data.ptr);
        if (now - checked > SECOND) {
            fail_silent_clients(l);
            checked = now;
        }
    }
}

/* --- report ----------------------------------------------------------------------------------------------------- */

static bool meets_goals(const load *l, const outcome *o)
{
    return o->answered && (l->o.slo_first_ms <= 0 || o->first_ms <= l->o.slo_first_ms) &&
           (l->o.slo_token_ms <= 0 || o->token_ms <= l->o.slo_token_ms);
}

static void print_times(const char *name, const histogram *h, const char *end)
{
    printf(
        "  \"%s_ms\": {\"mean\": %.3f, \"p50\": %.3f, \"p90\": %.3f, \"p95\": %.3f, \"p99\": %.3f, \"max\": %.3f}%s\n",
        name, histogram_mean_ms(h), histogram_ms(h, 0.5), histogram_ms(h, 0.9), histogram_ms(h, 0.95),
        histogram_ms(h, 0.99), h->max_us / 1e3, end);
}

static void report(const load *l, double seconds)
{
    uint64_t answered = 0, good = 0, tokens = 0, prompt = 0;
    for (size_t i = 0; i < l->t.n; i++) {
        answered += l->outcomes[i].answered;
        good += meets_goals(l, &l->outcomes[i]);
        tokens += l->outcomes[i].tokens;
        prompt += l->outcomes[i].answered ? (uint64_t)l->t.arrivals[i].prompt_tokens : 0;
    }
    double span = l->t.n ? l->t.arrivals[l->t.n - 1].at_s : 0;
    printf("{\"arrivals\": %zu, \"offered_per_s\": %.3f, \"seconds\": %.2f, \"seed\": %" PRIu64
           ", \"answered\": %" PRIu64 ", \"failed\": %" PRIu64 ", \"never_sent\": %" PRIu64
           ", \"most_in_flight\": %ld,\n",
           l->t.n, span > 0 ? (double)l->t.n / span : 0, seconds, l->o.shape.seed, answered, l->failed, l->never_sent,
           l->most_in_flight);
    printf("  \"requests_per_s\": %.3f, \"output_tokens_per_s\": %.1f, \"prompt_tokens_per_s\": %.1f,\n",
           (double)answered / seconds, (double)tokens / seconds, (double)prompt / seconds);
    printf(
        "  \"goal\": {\"first_token_ms\": %g, \"per_token_ms\": %g}, \"goodput_per_s\": %.3f, \"good_share\": %.4f,\n",
        l->o.slo_first_ms, l->o.slo_token_ms, (double)good / seconds, l->t.n ? (double)good / (double)l->t.n : 0);
    print_times("first_token", &l->first, ",");
    print_times("inter_token", &l->gap, ",");
    print_times("per_token", &l->token, ",");
    print_times("whole", &l->whole, "}");
}

static int write_csv(const load *l)
{
    FILE *f = l->o.csv ? fopen(l->o.csv, "we") : NULL;
    if (!l->o.csv)
        return 0;
    bool well = f && fputs("at_s,prompt_tokens,prefix,tokens,answered,first_ms,per_token_ms,whole_ms,good\n", f) >= 0;
    for (size_t i = 0; well && i < l->t.n; i++) {
        const outcome *o = &l->outcomes[i];
        const arrival *a = &l->t.arrivals[i];
        well = fprintf(f, "%.6f,%ld,%ld,%" PRIu64 ",%d,%.3f,%.3f,%.3f,%d\n", a->at_s, a->prompt_tokens, a->prefix,
                       o->tokens, o->answered, o->first_ms, o->token_ms, o->whole_ms, meets_goals(l, o)) > 0;
    }
    if (f && fclose(f) != 0)
        well = false;
    if (!well)
        fprintf(stderr, "%s: %s\n", l->o.csv, strerror(errno));
    return well ? 0 : -1;
}

/* --- command line ----------------------------------------------------------------------------------------------- */

static const struct option long_options[] = {
    {"host", 1, NULL, 'h'},          {"port", 1, NULL, 'p'},          {"key", 1, NULL, 'k'},
    {"model", 1, NULL, 'M'},         {"rate", 1, NULL, 'r'},          {"seconds", 1, NULL, 's'},
    {"prompt-tokens", 1, NULL, 'P'}, {"output-tokens", 1, NULL, 'O'}, {"prefixes", 1, NULL, 'n'},
    {"prefix-tokens", 1, NULL, 'x'}, {"prefix-share", 1, NULL, 'X'},  {"trace", 1, NULL, 'T'},
    {"speed", 1, NULL, 'v'},         {"write-trace", 1, NULL, 'W'},   {"csv", 1, NULL, 'c'},
    {"goal-first-ms", 1, NULL, 'g'}, {"goal-token-ms", 1, NULL, 'G'}, {"text", 0, NULL, 't'},
    {"first-id", 1, NULL, 'f'},      {"ids", 1, NULL, 'i'},           {"timeout", 1, NULL, 'o'},
    {"max-in-flight", 1, NULL, 'm'}, {"seed", 1, NULL, 'S'},          {0}};

static const char usage[] =
    "usage: trace_load [options]\n"
    "  --host H, --port P       the server (127.0.0.1, 8080); --key KEY, --model NAME where it wants them\n"
    "  --rate R, --seconds S    Poisson arrivals: R a second in the mean (4), for S seconds (30)\n"
    "  --prompt-tokens N        mean length of the part of a prompt that is its own (64)\n"
    "  --output-tokens N        mean length of an answer (32); lengths are log-normal, 1/4 to 4 times the mean\n"
    "  --prefixes N             shared beginnings of prompts (4), of --prefix-tokens N (128) each\n"
    "  --prefix-share X         share of the requests that begin with one (0.5)\n"
    "  --trace FILE             arrivals from a file instead; --speed X plays it X times faster\n"
    "  --write-trace FILE       writes the arrivals down, for --trace\n"
    "  --goal-first-ms X        goals: first token within X ms (500), and\n"
    "  --goal-token-ms X        a mean gap between tokens of X ms (50); 0: no such goal\n"
    "  --csv FILE               one line for each request\n"
    "  --text                   prompts are words, for servers that take no token ids\n"
    "  --first-id N, --ids N    ids are drawn from N ids from this one on (300, 5500)\n"
    "  --timeout S              silence after which a request counts as failed (60)\n"
    "  --max-in-flight N        requests at once at most (4096)\n"
    "  --seed N                 what is drawn (1)\n";

static bool set_shape(trace_shape *s, int c)
{
    switch (c) {
    case 'r': s->rate = atof(optarg); break;
    case 's': s->seconds = atof(optarg); break;
    case 'P': s->prompt_tokens = atol(optarg); break;
    case 'O': s->output_tokens = atol(optarg); break;
    case 'n': s->n_prefixes = atol(optarg); break;
    case 'x': s->prefix_tokens = atol(optarg); break;
    case 'X': s->prefix_share = atof(optarg); break;
    case 'S': s->seed = strtoull(optarg, NULL, 10); break;
    default: return false;
    }
    return true;
}

static bool set_option(options *o, int c)
{
    switch (c) {
    case 'h': o->host = optarg; break;
    case 'p': o->port = optarg; break;
    case 'k': o->key = optarg; break;
    case 'M': o->model = optarg; break;
    case 'T': o->trace_in = optarg; break;
    case 'v': o->speed = atof(optarg); break;
    case 'W': o->trace_out = optarg; break;
    case 'c': o->csv = optarg; break;
    case 'g': o->slo_first_ms = atof(optarg); break;
    case 'G': o->slo_token_ms = atof(optarg); break;
    case 't': o->text = true; break;
    case 'f': o->first_id = atol(optarg); break;
    case 'i': o->n_ids = atol(optarg); break;
    case 'o': o->timeout = atof(optarg); break;
    case 'm': o->max_in_flight = atol(optarg); break;
    default: return set_shape(&o->shape, c);
    }
    return true;
}

static bool read_options(int argc, char **argv, options *o)
{
    int c;
    while ((c = getopt_long(argc, argv, "", long_options, NULL)) != -1)
        if (!set_option(o, c))
            return false;
    const trace_shape *s = &o->shape;
    return optind == argc && s->rate > 0 && s->seconds > 0 && s->rate * s->seconds <= 1e7 && s->prompt_tokens > 0 &&
           s->output_tokens > 0 && s->n_prefixes >= 0 && s->prefix_tokens >= 0 && o->speed > 0 && o->timeout > 0 &&
           o->first_id >= 0 && o->n_ids > 0 && o->max_in_flight > 0 && o->max_in_flight <= 100000 &&
           (!o->key || strlen(o->key) < 200) && (!o->model || strlen(o->model) < 200) && strlen(o->host) < 100 &&
           strlen(o->port) < 10;
}

static bool prepare(load *l)
{
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    if (l->o.trace_in) {
        if (trace_read(l->o.trace_in, l->o.speed, &l->t) < 0)
            return false;
    } else {
        trace_draw(&l->o.shape, &l->t);
    }
    if (l->o.trace_out && trace_write(l->o.trace_out, &l->t) < 0)
        return false;
    size_t n = (size_t)l->o.max_in_flight;
    l->epoll = epoll_create1(EPOLL_CLOEXEC);
    l->outcomes = calloc(l->t.n + 1, sizeof(*l->outcomes));
    l->clients = calloc(n, sizeof(*l->clients));
    l->texts = calloc(n, sizeof(*l->texts));
    if (l->epoll < 0 || !l->outcomes || !l->clients || !l->texts) {
        fprintf(stderr, "trace_load: %s\n", strerror(errno));
        return false;
    }
    for (size_t i = 0; i < n; i++)
        l->clients[i] = (client){.fd = -1, .first = &l->first, .gap = &l->gap};
    return true;
}

static void clear(load *l)
{
    for (long i = 0; l->clients && l->texts && i < l->o.max_in_flight; i++) {
        client_free(&l->clients[i]);
        free(l->texts[i]);
    }
    free(l->clients);
    free(l->texts);
    free(l->outcomes);
    trace_free(&l->t);
    if (l->epoll >= 0)
        close(l->epoll);
}

int main(int argc, char **argv)
{
    static load l = {.epoll = -1,
                     .o = {.host = "127.0.0.1",
                           .port = "8080",
                           .shape = {.rate = 4,
                                     .seconds = 30,
                                     .prompt_tokens = 64,
                                     .output_tokens = 32,
                                     .n_prefixes = 4,
                                     .prefix_tokens = 128,
                                     .prefix_share = 0.5,
                                     .seed = 1},
                           .speed = 1,
                           .timeout = 60,
                           .slo_first_ms = 500,
                           .slo_token_ms = 50,
                           .first_id = 300,
                           .n_ids = 5500,
                           .max_in_flight = 4096}};
    if (!read_options(argc, argv, &l.o)) {
        fputs(usage, stderr);
        return 2;
    }
    int code = 1;
    if (prepare(&l)) {
        run(&l);
        report(&l, (double)(client_now_ns() - l.start_ns) / 1e9);
        code = write_csv(&l) == 0 && l.failed == 0 && l.never_sent == 0 && l.t.n > 0 ? 0 : 1;
    }
    clear(&l);
    return code;
}
