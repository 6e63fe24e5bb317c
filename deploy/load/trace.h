/* A trace: which requests come when. Drawn from a few numbers or read from a file, so that two servers, or two days, can be
 * given the same load. */
#ifndef ENGRAMD_LOAD_TRACE_H
#define ENGRAMD_LOAD_TRACE_H

#include <stddef.h>
#include <stdint.h>

typedef struct arrival {
    double at_s;                    /* from the start */
    long prompt_tokens, max_tokens; /* prompt_tokens holds the prefix, too */
    long prefix;                    /* which of the shared beginnings; -1: none */
    long prefix_tokens;             /* its length */
} arrival;

typedef struct trace {
    arrival *arrivals; /* in the order of at_s */
    size_t n;
} trace;

typedef struct trace_shape {
    double rate, seconds;              /* Poisson arrivals: in the mean, for so long */
    long prompt_tokens, output_tokens; /* means; each length is drawn between a quarter and four times of its mean */
    long n_prefixes, prefix_tokens;    /* shared beginnings, as long as that, besides prompt_tokens */
    double prefix_share;               /* of the requests that begin with one */
    uint64_t seed;
} trace_shape;

/* Both end the program when memory is out. */
void trace_draw(const trace_shape *shape, trace *ret_trace);
/* Lines `at_s,prompt_tokens,max_tokens,prefix,prefix_tokens` behind a header. Times are divided by `speed`. 0, or -1 with a
 * sentence on standard error. */
int trace_read(const char *path, double speed, trace *ret_trace);
int trace_write(const char *path, const trace *t);
void trace_free(trace *t);

#endif
