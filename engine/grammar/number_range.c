/* Numbers between bounds, as automata over their digits. The digits are compared with a bound's from the left; the
 * comparison of whole parts holds only if they have the same length, which is known at their end. Exact for any number
 * of digits, since nothing is ever converted. */
#include "engine/grammar/json_rules.h"

#include <string.h>

enum {
    MAX_WHOLE = 20,     /* digits in front of the point when no bound says more */
    DOUBLE_DIGITS = 15, /* decimal numbers of so many digits stay apart, and in order, as doubles */
};

/* --- decimals ----------------------------------------------------------------------------------------------- */

bool em_decimal_parse(const char *text, size_t len, em_decimal *ret)
{
    em_decimal d = {.given = true};
    size_t i = 0, from, n = 0;
    int64_t point = -1, exponent = 0;
    char digits[256];
    d.negative = len && text[0] == '-';
    for (i = d.negative; i < len && text[i] != 'e' && text[i] != 'E'; i++) {
        if (text[i] == '.') {
            point = (int64_t)n;
            continue;
        }
        if (n == sizeof(digits))
            return false;
        digits[n++] = text[i];
    }
    if (point < 0)
        point = (int64_t)n;
    bool minus = i + 1 < len && text[i + 1] == '-';
    for (i += 1 + (i + 1 < len && (minus || text[i + 1] == '+')); i < len; i++)
        exponent = exponent < 100000 ? exponent * 10 + (text[i] - '0') : exponent;
    point += minus ? -exponent : exponent;
    for (from = 0; from < n && digits[from] == '0'; from++)
        point--;
    while (n > from && digits[n - 1] == '0')
        n--;
    n -= from;
    if (n == 0) {
        d.negative = false;
        *ret = d;
        return true;
    }
    int64_t n_int = point > 0 ? point : 0, n_frac = (int64_t)n > point ? (int64_t)n - point : 0;
    if (n_int > EM_NUMBER_MAX_DIGITS || n_frac > EM_NUMBER_MAX_DIGITS)
        return false;
    memset(d.digits, '0', sizeof(d.digits));
    memcpy(d.digits + (point < 0 ? -point : 0), digits + from, n);
    d.n_int = (int)n_int;
    d.n_frac = (int)n_frac;
    *ret = d;
    return true;
}

static int compare_size(const em_decimal *x, const em_decimal *y)
{
    if (x->n_int != y->n_int)
        return x->n_int < y->n_int ? -1 : 1;
    int n = x->n_int + (x->n_frac < y->n_frac ? x->n_frac : y->n_frac), c = memcmp(x->digits, y->digits, (size_t)n);
    return c ? c : x->n_frac - y->n_frac;
}

int em_decimal_compare(const em_decimal *x, const em_decimal *y)
{
    if (x->negative != y->negative)
        return x->negative ? -1 : 1;
    return x->negative ? compare_size(y, x) : compare_size(x, y);
}

/* --- sizes between bounds ----------------------------------------------------------------------------------- */

typedef enum order { BELOW, SAME, ABOVE } order;
typedef enum phase { WHOLE, ZERO, POINT, FRACTION, N_PHASES } phase; /* ZERO: the whole part is 0; POINT: just read */

typedef struct place {
    phase phase;
    int n;        /* digits read in this phase */
    order lo, hi; /* what was read against the same digits of the bound */
} place;

enum { MAX_PLACE = EM_NUMBER_MAX_DIGITS + MAX_WHOLE + 2 };

typedef struct sizes {
    em_gr_build *b;
    em_graph g;
    const em_decimal *lo, *hi; /* not negative */
    bool integer;
    int max_whole, max_frac;
    uint32_t end;
    uint32_t known[N_PHASES][MAX_PLACE][3][3]; /* state + 1 */
    place *pending;
    uint32_t n_pending, cap_pending;
} sizes;

static uint32_t state_of(sizes *s, place p)
{
    uint32_t *known = &s->known[p.phase][p.n][p.lo][p.hi];
    if (*known)
        return *known - 1;
    *known = em_graph_state(&s->g) + 1;
    if (em_gr_grow(&s->pending, &s->cap_pending, (size_t)s->n_pending + 1, sizeof(p)))
        em_gr_no_memory(s->b);
    else
        s->pending[s->n_pending++] = p;
    return *known - 1;
}

/* Order after one more digit that stands against digit `i` of the bound (zeros follow its last one). */
static order compare_digit(order now, const em_decimal *d, int i, char digit)
{
    char other = i < d->n_int + d->n_frac ? d->digits[i] : '0';
    if (now != SAME || digit == other)
        return now;
    return digit < other ? BELOW : ABOVE;
}

/* Order of the whole parts, once the whole part is known to have n digits. */
static order compare_length(order now, const em_decimal *d, int n)
{
    if (n != d->n_int)
        return n < d->n_int ? BELOW : ABOVE;
    return now;
}

/* The order if the number ends with n digits behind the point. */
static order at_end(order now, const em_decimal *d, int n)
{
    return now == SAME && n < d->n_frac ? BELOW : now;
}

static bool in_range(const sizes *s, order lo, order hi, int n_frac)
{
    lo = at_end(lo, s->lo, n_frac);
    hi = at_end(hi, s->hi, n_frac);
    if (s->lo->given && (lo == BELOW || (lo == SAME && s->lo->exclusive)))
        return false;
    return !(s->hi->given && (hi == ABOVE || (hi == SAME && s->hi->exclusive)));
}

static void add_digit(sizes *s, uint32_t from, place to, char digit)
{
    em_graph_edge_add(s->b, &s->g, from, state_of(s, to), em_ex_range(s->b, (uint8_t)digit, (uint8_t)digit));
}

/* The whole part may end at this place: the number with it, or a point follows. */
static void end_whole(sizes *s, uint32_t from, place p)
{
    int n = p.phase == ZERO ? 0 : p.n;
    order lo = compare_length(p.lo, s->lo, n), hi = compare_length(p.hi, s->hi, n);
    if (in_range(s, lo, hi, 0))
        em_graph_edge_add(s->b, &s->g, from, s->end, EM_EXPR_EMPTY);
    if (!s->integer)
        add_digit(s, from, (place){POINT, 0, lo, hi}, '.');
}

static void expand(sizes *s, place p)
{
    uint32_t from = s->known[p.phase][p.n][p.lo][p.hi] - 1;
    bool whole = p.phase == WHOLE;
    if (p.phase == ZERO || (whole && p.n > 0))
        end_whole(s, from, p);
    if (p.phase == FRACTION && in_range(s, p.lo, p.hi, p.n))
        em_graph_edge_add(s->b, &s->g, from, s->end, EM_EXPR_EMPTY);
    if (p.phase == ZERO || p.n >= (whole ? s->max_whole : s->max_frac))
        return;
    for (char c = '0'; c <= '9'; c++) {
        if (whole && p.n == 0 && c == '0') {
            add_digit(s, from, (place){ZERO, 0, SAME, SAME}, c);
            continue;
        }
        int lo_at = whole ? p.n : s->lo->n_int + p.n, hi_at = whole ? p.n : s->hi->n_int + p.n;
        place to = {whole ? WHOLE : FRACTION, p.n + 1, compare_digit(p.lo, s->lo, lo_at, c),
                    compare_digit(p.hi, s->hi, hi_at, c)};
        add_digit(s, from, to, c);
    }
}

static int max_int(int x, int y)
{
    return x > y ? x : y;
}

/* Numbers without sign, from lo to hi. */
static em_expr sizes_expr(em_gr_build *b, bool integer, const em_decimal *lo, const em_decimal *hi)
{
    sizes *s = calloc(1, sizeof(*s));
    if (!s) {
        em_gr_no_memory(b);
        return EM_EXPR_NEVER;
    }
    s->b = b;
    s->lo = lo;
    s->hi = hi;
    s->integer = integer;
    int whole = max_int(lo->n_int, hi->n_int), frac = max_int(lo->n_frac, hi->n_frac);
    s->max_whole = hi->given ? hi->n_int : max_int(lo->n_int + 1, MAX_WHOLE);
    if (s->max_whole == 0)
        s->max_whole = 1; /* the zero in front of the point */
    s->max_frac = max_int(max_int(frac, DOUBLE_DIGITS - whole), 1);
    s->known[WHOLE][0][SAME][SAME] = em_graph_state(&s->g) + 1; /* the graph's start is its first state */
    s->end = em_graph_state(&s->g);
    expand(s, (place){WHOLE, 0, SAME, SAME});
    while (s->n_pending && em_gr_step(b, 12))
        expand(s, s->pending[--s->n_pending]);
    em_expr x = em_graph_expr(b, &s->g, s->end);
    free(s->pending);
    free(s);
    return x;
}

/* --- with signs --------------------------------------------------------------------------------------------- */

em_expr em_jrule_number(em_gr_build *b, bool integer, const em_decimal *lo, const em_decimal *hi)
{
    if (!lo->given && !hi->given)
        return em_jrule_free_number(b, integer);
    em_expr parts[2] = {EM_EXPR_NEVER, EM_EXPR_NEVER};
    em_decimal zero = {.given = true};
    if (!hi->given || !hi->negative)
        parts[0] = sizes_expr(b, integer, lo->given && !lo->negative ? lo : &zero, hi);
    if (!lo->given || lo->negative) {
        /* -hi to -lo; zero is written without a sign only */
        em_decimal from = {.given = true, .exclusive = true}, to = *lo;
        if (hi->given && hi->negative)
            from = *hi;
        from.negative = to.negative = false;
        parts[1] = em_ex_seq2(b, em_ex_text(b, "-", 1), sizes_expr(b, integer, &from, &to));
    }
    return em_ex_list(b, EM_EX_ALT, parts, 2);
}
