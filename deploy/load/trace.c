#include "trace.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "draw.h"

#define HEADER "at_s,prompt_tokens,max_tokens,prefix,prefix_tokens"
#define MAX_TOKENS 10000000

static void add(trace *t, const arrival *a)
{
    if ((t->n & (t->n - 1)) == 0) { /* full at every power of two */
        arrival *grown = realloc(t->arrivals, (t->n ? 2 * t->n : 1) * sizeof(*grown));
        if (!grown) {
            fprintf(stderr, "out of memory\n");
            exit(1);
        }
        t->arrivals = grown;
    }
    t->arrivals[t->n++] = *a;
}

/* Log-normal around the mean, as lengths of real prompts and answers are: many short, few long. */
static long draw_length(uint64_t *rng, long mean)
{
    double u = draw_unit(rng), v = draw_unit(rng);
    double normal = sqrt(-2 * log(1 - u)) * cos(2 * M_PI * v);
    double sigma = 0.6, x = (double)mean * exp(sigma * normal - sigma * sigma / 2);
    double low = (double)mean / 4, high = (double)mean * 4;
    x = x < low ? low : x > high ? high : x;
    return x < 1 ? 1 : (long)x;
}

void trace_draw(const trace_shape *shape, trace *ret_trace)
{
    trace t = {0};
    uint64_t rng = shape->seed;
    for (double at = draw_exponential(&rng, 1 / shape->rate); at < shape->seconds;
         at += draw_exponential(&rng, 1 / shape->rate)) {
        arrival a = {.at_s = at, .prefix = -1};
        a.prompt_tokens = draw_length(&rng, shape->prompt_tokens);
        a.max_tokens = draw_length(&rng, shape->output_tokens);
        if (draw_unit(&rng) < shape->prefix_share && shape->n_prefixes > 0) {
            a.prefix = (long)(draw(&rng) % (uint64_t)shape->n_prefixes);
            a.prefix_tokens = shape->prefix_tokens;
            a.prompt_tokens += a.prefix_tokens;
        }
        add(&t, &a);
    }
    *ret_trace = t;
}

static int bad_line(const char *path, size_t line, trace *t)
{
    fprintf(stderr, "%s:%zu: not a line " HEADER " with rising times\n", path, line);
    trace_free(t);
    return -1;
}

int trace_read(const char *path, double speed, trace *ret_trace)
{
    trace t = {0};
    char line[256];
    double last = 0;
    FILE *f = fopen(path, "re");
    if (!f) {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
        return -1;
    }
    int r = 0;
    for (size_t n = 1; r == 0 && fgets(line, sizeof(line), f); n++) {
        arrival a;
        char more;
        if (n == 1 && strcmp(line, HEADER "\n") == 0)
            continue;
        int read = sscanf(line, "%lf,%ld,%ld,%ld,%ld %c", &a.at_s, &a.prompt_tokens, &a.max_tokens, &a.prefix,
                          &a.prefix_tokens, &more);
        if (read != 5 || !isfinite(a.at_s) || a.at_s < last || a.prompt_tokens < 1 || a.prompt_tokens > MAX_TOKENS ||
            a.max_tokens < 1 || a.max_tokens > MAX_TOKENS || a.prefix < -1 || a.prefix_tokens < 0 ||
            a.prefix_tokens > a.prompt_tokens) {
            r = bad_line(path, n, &t);
            break;
        }
        last = a.at_s;
        a.at_s /= speed;
        add(&t, &a);
    }
    fclose(f);
    if (r == 0)
        *ret_trace = t;
    return r;
}

int trace_write(const char *path, const trace *t)
{
    FILE *f = fopen(path, "we");
    bool well = f && fputs(HEADER "\n", f) >= 0;
    for (size_t i = 0; well && i < t->n; i++) {
        const arrival *a = &t->arrivals[i];
        well = fprintf(f, "%.6f,%ld,%ld,%ld,%ld\n", a->at_s, a->prompt_tokens, a->max_tokens, a->prefix,
                       a->prefix_tokens) > 0;
    }
    if (f && fclose(f) != 0)
        well = false;
    if (!well)
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
    return well ? 0 : -1;
}

void trace_free(trace *t)
{
    free(t->arrivals);
    *t = (trace){0};
}
