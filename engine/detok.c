/* Three stages, one byte at a time: bytes become characters, characters run through the automaton of the stop strings,
 * and text is released up to where the longest possible beginning of a stop string starts. Cuts between tokens are
 * never looked at, so they cannot matter. */
#include "engine/detok.h"

#include <errno.h>
#include <stdlib.h>

#include "engine/aho_corasick.h"
#include "engine/base/buf.h"
#include "engine/base/utf8.h"

struct em_detok {
    uint8_t partial[4]; /* the beginning of a character */
    size_t n_partial;
    em_ac stops;
    uint32_t state;     /* of stops, behind all of text */
    em_buf text;        /* taken, released and held text, in this order */
    size_t taken;       /* bytes of text given out */
    size_t released;    /* bytes of text that may be given out */
    size_t match_begin; /* in text: where the earliest complete stop string begins; NO_MATCH: none yet */
    int64_t chars;      /* characters that ever were in text */
    int64_t released_chars;
    bool stopped; /* a stop string matched; text ends before it */
    bool finished;
};

#define NO_MATCH SIZE_MAX

static int add_stops(em_detok *d, const em_stop *stops, int32_t n_stops)
{
    em_ac_pattern *patterns = malloc(((size_t)n_stops + 1) * sizeof *patterns);
    if (!patterns)
        return -ENOMEM;
    int r = 0;
    for (int32_t i = 0; r == 0 && i < n_stops; i++) {
        if (stops[i].len == 0 || stops[i].len > EM_AC_MAX_BYTES || !em_utf8_valid(stops[i].text, stops[i].len))
            r = -EINVAL;
        else
            patterns[i] =
                (em_ac_pattern){.bytes = (const uint8_t *)stops[i].text, .len = (uint32_t)stops[i].len, .id = i};
    }
    if (r == 0)
        r = em_ac_init(&d->stops, patterns, (size_t)n_stops);
    free(patterns);
    return r;
}

int em_detok_new(const em_stop *stops, int32_t n_stops, em_detok **ret_detok)
{
    em_detok *d = calloc(1, sizeof *d);
    if (!d)
        return -ENOMEM;
    d->match_begin = NO_MATCH;
    int r = add_stops(d, stops, n_stops > 0 ? n_stops : 0);
    if (r < 0)
        em_detok_free(d);
    else
        *ret_detok = d;
    return r;
}

em_detok *em_detok_free(em_detok *d)
{
    if (d) {
        em_ac_done(&d->stops);
        em_buf_done(&d->text);
        free(d);
    }
    return NULL;
}

/* Bytes of text before any stop string that may still complete. */
static size_t settled_bytes(const em_detok *d, size_t n_read)
{
    return d->stops.nodes ? n_read - em_ac_state(&d->stops, d->state)->depth : n_read;
}

static void release_up_to(em_detok *d, size_t end)
{
    if (end == d->released)
        return;
    d->released_chars += (int64_t)em_utf8_count(d->text.data + d->released, end - d->released);
    d->released = end;
}

/* The earliest stop string is known: text ends before it. */
static void stop_here(em_detok *d)
{
    size_t cut = d->match_begin; /* never before released: the beginnings of all stop strings are held */
    d->chars -= (int64_t)em_utf8_count(d->text.data + cut, d->text.len - cut);
    d->text.len = cut;
    release_up_to(d, cut);
    d->stopped = true;
}

/* Runs the automaton over text from byte `from` on, until a stop string is settled: complete, and none that began
 * earlier can complete any more. */
static void search_stops(em_detok *d, size_t from)
{
    for (size_t i = from; i < d->text.len; i++) {
        d->state = em_ac_step(&d->stops, d->state, (uint8_t)d->text.data[i]);
        uint32_t match_len = em_ac_state(&d->stops, d->state)->match_len;
        if (match_len > 0 && i + 1 - match_len < d->match_begin)
            d->match_begin = i + 1 - match_len;
        if (d->match_begin != NO_MATCH && settled_bytes(d, i + 1) >= d->match_begin) {
            stop_here(d);
            return;
        }
    }
}

static int add_char(em_detok *d, const void *bytes, size_t len)
{
    size_t from = d->text.len;
    if (em_buf_append(&d->text, bytes, len) < 0)
        return -ENOMEM;
    d->chars++;
    if (d->stops.nodes)
        search_stops(d, from);
    return 0;
}

/* ED A0..BF begin an encoded surrogate: no character, but widely used decoders judge it by all three bytes, and the
 * pieces of a stream are compared with theirs. The text is the same either way. */
static bool is_surrogate_beginning(const uint8_t *p, size_t n)
{
    return n == 2 && p[0] == 0xed && p[1] >= 0xa0 && p[1] <= 0xbf;
}

/* Moves what partial settles into text: a character, U+FFFD for a part that cannot become one, or nothing yet.
 * last: no more bytes will come. */
static int drain_partial(em_detok *d, bool last)
{
    while (d->n_partial > 0 && !d->stopped) {
        uint32_t cp;
        int n = em_utf8_decode(d->partial, d->n_partial, &cp);
        if (!last && (n == 0 || is_surrogate_beginning(d->partial, d->n_partial)))
            return 0;
        size_t used = n > 0 ? (size_t)n : n < 0 ? (size_t)-n : d->n_partial;
        int r = n > 0 ? add_char(d, d->partial, used) : add_char(d, EM_UTF8_REPLACEMENT, 3);
        if (r < 0)
            return r;
        d->n_partial -= used;
        for (size_t i = 0; i < d->n_partial; i++)
            d->partial[i] = d->partial[used + i];
    }
    return 0;
}

/* Drops taken text once it is the larger part, so that moving the rest costs no more than was taken. */
static void drop_taken(em_detok *d)
{
    if (d->taken <= d->text.len - d->taken)
        return;
    em_buf_consume(&d->text, d->taken);
    d->released -= d->taken;
    if (d->match_begin != NO_MATCH)
        d->match_begin -= d->taken;
    d->taken = 0;
}

int em_detok_push(em_detok *d, const uint8_t *bytes, size_t len)
{
    if (d->stopped || d->finished)
        return d->stopped;
    drop_taken(d);
    for (size_t i = 0; i < len && !d->stopped; i++) {
        d->partial[d->n_partial++] = bytes[i];
        int r = drain_partial(d, false);
        if (r < 0)
            return r;
    }
    if (!d->stopped)
        release_up_to(d, settled_bytes(d, d->text.len));
    return d->stopped;
}

int em_detok_finish(em_detok *d)
{
    if (d->stopped || d->finished)
        return d->stopped;
    drop_taken(d);
    int r = drain_partial(d, true);
    if (r < 0)
        return r;
    d->finished = true;
    if (d->match_begin != NO_MATCH && !d->stopped)
        stop_here(d);
    if (!d->stopped)
        release_up_to(d, d->text.len);
    return d->stopped;
}

const char *em_detok_take(em_detok *d, size_t *ret_len)
{
    size_t from = d->taken;
    *ret_len = d->released - from;
    d->taken = d->released;
    return *ret_len > 0 ? d->text.data + from : "";
}

int64_t em_detok_chars(const em_detok *d)
{
    return d->chars;
}

int64_t em_detok_released(const em_detok *d)
{
    return d->released_chars;
}
