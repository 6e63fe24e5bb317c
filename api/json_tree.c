#include "api/json_tree.h"

#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK_BYTES 16384 /* of an arena, at least */
#define FEW_MEMBERS 16    /* up to here equal keys are sought pair by pair */

/* --- arena -------------------------------------------------------------------------------------------------- */

typedef struct em_arena_block {
    struct em_arena_block *next;
    size_t bytes; /* behind this header */
    max_align_t data[];
} em_arena_block;

void *em_arena_alloc(em_arena *a, size_t bytes)
{
    const size_t unit = _Alignof(max_align_t);
    if (bytes > SIZE_MAX / 2)
        return NULL;
    bytes = (bytes + unit - 1) / unit * unit;
    if (bytes > a->left) {
        size_t cap = bytes > BLOCK_BYTES ? bytes : BLOCK_BYTES;
        em_arena_block *b = calloc(1, sizeof *b + cap);
        if (!b)
            return NULL;
        *b = (em_arena_block){.next = a->blocks, .bytes = cap};
        a->blocks = b;
        a->left = cap;
    }
    char *at = (char *)a->blocks->data + a->blocks->bytes - a->left;
    a->left -= bytes;
    return at;
}

void em_arena_done(em_arena *a)
{
    for (em_arena_block *b = a->blocks, *next; b; b = next) {
        next = b->next;
        free(b);
    }
    *a = (em_arena){0};
}

/* --- reading ------------------------------------------------------------------------------------------------ */

typedef struct reader {
    em_arena *arena;
    em_json json;
    size_t *values_left;
} reader;

/* The current KEY or STRING, unescaped. */
static int take_string(reader *r, const char **ret_text, size_t *ret_len)
{
    char *s = em_arena_alloc(r->arena, r->json.raw_len + 1);
    if (!s)
        return -ENOMEM;
    if (em_json_string(&r->json, s, r->json.raw_len + 1, ret_len))
        return -EINVAL;
    *ret_text = s;
    return 0;
}

static int take_number(reader *r, em_node *n)
{
    double v;
    int e = em_json_f64(&r->json, &v);
    if (e)
        return e;
    n->text = r->json.raw;
    n->len = r->json.raw_len;
    return 0;
}

static bool same_key(const em_node *a, const em_node *b)
{
    return a->key_len == b->key_len && !memcmp(a->key, b->key, a->key_len);
}

/* The later member gives its value to the earlier one and leaves. prev is the one before `later`. */
static void replace(em_node *earlier, em_node *prev, const em_node *later)
{
    earlier->type = later->type;
    earlier->text = later->text;
    earlier->len = later->len;
    earlier->child = later->child;
    prev->next = later->next;
}

static uint64_t hash_key(const em_node *n)
{
    uint64_t h = UINT64_C(14695981039346656037);
    for (size_t i = 0; i < n->key_len; i++)
        h = (h ^ (uint8_t)n->key[i]) * UINT64_C(1099511628211);
    return h ^ h >> 29;
}

static em_node *find_earlier(em_node *first, const em_node *later)
{
    for (em_node *m = first; m != later; m = m->next)
        if (same_key(m, later))
            return m;
    return NULL;
}

static int merge_many(em_node *object, size_t n_members)
{
    size_t cap = 64;
    while (cap < n_members * 2)
        cap *= 2;
    em_node **slots = calloc(cap, sizeof *slots);
    if (!slots)
        return -ENOMEM;
    em_node *prev = NULL;
    for (em_node *m = object->child, *next; m; m = next) {
        next = m->next;
        size_t i = hash_key(m) & (cap - 1);
        while (slots[i] && !same_key(slots[i], m))
            i = (i + 1) & (cap - 1);
        if (slots[i]) {
            replace(slots[i], prev, m);
        } else {
            slots[i] = m;
            prev = m;
        }
    }
    free(slots);
    return 0;
}

static int merge_equal_keys(em_node *object, size_t n_members)
{
    if (n_members > FEW_MEMBERS)
        return merge_many(object, n_members);
    em_node *prev = NULL;
    for (em_node *m = object->child; m; m = m->next) {
        em_node *earlier = find_earlier(object->child, m);
        if (earlier)
            replace(earlier, prev, m);
        else
            prev = m;
    }
    return 0;
}

static int read_value(reader *r, em_node *n);

/* Children up to the closing bracket, which becomes the current token. */
static int read_children(reader *r, em_node *parent)
{
    em_json_type end = parent->type == EM_JSON_OBJECT ? EM_JSON_OBJECT_END : EM_JSON_ARRAY_END;
    em_node **tail = &parent->child;
    size_t n = 0;
    for (em_json_type t; (t = em_json_next(&r->json)) != end; n++) {
        em_node *child = em_node_new(r->arena, EM_JSON_NULL);
        if (!child)
            return -ENOMEM;
        int e = 0;
        if (t == EM_JSON_KEY) {
            e = take_string(r, &child->key, &child->key_len);
            em_json_next(&r->json);
        }
        if (!e)
            e = read_value(r, child);
        if (e)
            return e;
        *tail = child;
        tail = &child->next;
    }
    return end == EM_JSON_OBJECT_END ? merge_equal_keys(parent, n) : 0;
}

/* The current token begins the value. Depth is bounded by the reader of tokens. */
static int read_value(reader *r, em_node *n)
{
    if (!*r->values_left)
        return -E2BIG;
    --*r->values_left;
    n->type = r->json.type;
    switch (n->type) {
    case EM_JSON_OBJECT:
    case EM_JSON_ARRAY: return read_children(r, n);
    case EM_JSON_STRING: return take_string(r, &n->text, &n->len);
    case EM_JSON_NUMBER: return take_number(r, n);
    case EM_JSON_TRUE:
    case EM_JSON_FALSE:
    case EM_JSON_NULL: return 0;
    default: return -EINVAL;
    }
}

int em_tree_parse(em_arena *a, const char *text, size_t len, unsigned max_depth, size_t *values_left,
                  em_node **ret_root)
{
    reader r = {.arena = a, .values_left = values_left};
    em_node *root = em_node_new(a, EM_JSON_NULL);
    if (!root)
        return -ENOMEM;
    em_json_init(&r.json, text, len, max_depth);
    em_json_next(&r.json);
    int e = read_value(&r, root);
    if (!e && em_json_next(&r.json) != EM_JSON_END)
        e = -EINVAL;
    if (!e)
        *ret_root = root;
    return e;
}

/* --- nodes -------------------------------------------------------------------------------------------------- */

em_node *em_node_new(em_arena *a, em_json_type type)
{
    em_node *n = em_arena_alloc(a, sizeof *n);
    if (n)
        n->type = type;
    return n;
}

void em_node_append(em_node *parent, em_node *child)
{
    em_node **tail = &parent->child;
    while (*tail)
        tail = &(*tail)->next;
    *tail = child;
}

const em_node *em_node_member(const em_node *n, const char *key)
{
    if (!n || n->type != EM_JSON_OBJECT)
        return NULL;
    size_t len = strlen(key);
    for (const em_node *m = n->child; m; m = m->next)
        if (m->key_len == len && !memcmp(m->key, key, len))
            return m->type == EM_JSON_NULL ? NULL : m;
    return NULL;
}

bool em_node_is(const em_node *n, const char *text)
{
    return n && n->type == EM_JSON_STRING && n->len == strlen(text) && !memcmp(n->text, text, n->len);
}

size_t em_node_count(const em_node *n)
{
    size_t count = 0;
    for (const em_node *m = n->child; m; m = m->next)
        count++;
    return count;
}

/* --- writing ------------------------------------------------------------------------------------------------ */

static void write_children(const em_node *n, em_json_style style, em_buf *out)
{
    bool object = n->type == EM_JSON_OBJECT, spaced = style == EM_JSON_SPACED;
    em_buf_puts(out, object ? "{" : "[");
    for (const em_node *m = n->child; m; m = m->next) {
        if (m != n->child)
            em_buf_puts(out, spaced ? ", " : ",");
        if (object) {
            em_buf_json_string(out, m->key, m->key_len);
            em_buf_puts(out, spaced ? ": " : ":");
        }
        em_node_write(m, style, out);
    }
    em_buf_puts(out, object ? "}" : "]");
}

void em_node_write(const em_node *n, em_json_style style, em_buf *out)
{
    switch (n->type) {
    case EM_JSON_OBJECT:
    case EM_JSON_ARRAY: write_children(n, style, out); break;
    case EM_JSON_STRING: em_buf_json_string(out, n->text, n->len); break;
    case EM_JSON_NUMBER: em_python_number(n->text, n->len, out); break;
    case EM_JSON_TRUE: em_buf_puts(out, "true"); break;
    case EM_JSON_FALSE: em_buf_puts(out, "false"); break;
    default: em_buf_puts(out, "null"); break;
    }
}

/* --- numbers ------------------------------------------------------------------------------------------------ */

/* An integer literal, -0 excepted, that fits 64 bits, signed or unsigned. */
static bool fits_64_bits(const char *raw, size_t len)
{
    bool negative = *raw == '-';
    uint64_t v = 0, most = negative ? UINT64_C(1) << 63 : UINT64_MAX;
    for (size_t i = negative; i < len; i++) {
        if (raw[i] < '0' || raw[i] > '9')
            return false;
        uint64_t digit = (uint64_t)(raw[i] - '0');
        if (v > (most - digit) / 10)
            return false;
        v = v * 10 + digit;
    }
    return !negative || v > 0;
}

typedef struct digits {
    char d[20]; /* significant decimal digits */
    int n;
    int exp10; /* the value is d[0].d[1]d[2]... times 10^exp10 */
} digits;

static digits round_to(double v, int n)
{
    char s[40];
    digits g = {.n = 0};
    snprintf(s, sizeof s, "%.*e", n - 1, v);
    const char *e = strchr(s, 'e');
    for (const char *p = s; p < e; p++)
        if (*p >= '0' && *p <= '9') /* not the decimal point, whatever the locale's is */
            g.d[g.n++] = *p;
    g.exp10 = atoi(e + 1);
    return g;
}

static void increment(digits *g)
{
    int i = g->n - 1;
    while (i >= 0 && g->d[i] == '9')
        g->d[i--] = '0';
    if (i >= 0) {
        g->d[i]++;
        return;
    }
    g->d[0] = '1';
    g->exp10++;
}

static bool reads_back(const digits *g, double v)
{
    char s[40];
    snprintf(s, sizeof s, "%.*se%d", g->n, g->d, g->exp10 - g->n + 1);
    return strtod(s, NULL) == v;
}

/* The fewest digits that read back as v (finite, not negative). At a power of two the doubles below lie closer than
 * those above: there the next decimal above can read back where the nearest one, below, does not. */
static digits shortest_digits(double v)
{
    for (int n = 1; n < 17; n++) {
        digits g = round_to(v, n);
        if (reads_back(&g, v))
            return g;
        increment(&g);
        if (reads_back(&g, v))
            return g;
    }
    return round_to(v, 17); /* 17 always suffice for a double */
}

/* Python's float.__repr__: positional from 1e-4 to below 1e16, else with an exponent of two digits or more. */
static void write_double(double v, em_buf *out)
{
    if (signbit(v))
        em_buf_puts(out, "-");
    digits g = shortest_digits(fabs(v));
    if (g.exp10 < -4 || g.exp10 >= 16) {
        em_buf_printf(out, "%c%s%.*se%c%02d", g.d[0], g.n > 1 ? "." : "", g.n - 1, g.d + 1, g.exp10 < 0 ? '-' : '+',
                      abs(g.exp10));
    } else if (g.exp10 < 0) {
        em_buf_printf(out, "0.%.*s%.*s", -g.exp10 - 1, "000", g.n, g.d);
    } else {
        int whole = g.exp10 + 1, have = g.n < whole ? g.n : whole;
        em_buf_printf(out, "%.*s%.*s.%.*s", have, g.d, whole - have, "000000000000000", g.n - have, g.d + have);
        if (g.n <= whole)
            em_buf_puts(out, "0");
    }
}

void em_python_number(const char *raw, size_t len, em_buf *out)
{
    if (fits_64_bits(raw, len)) {
        em_buf_append(out, raw, len);
        return;
    }
    em_json j;
    double v = 0;
    em_json_init(&j, raw, len, 0);
    em_json_next(&j);
    if (em_json_f64(&j, &v))
        out->failed = true;
    else
        write_double(v, out);
}
