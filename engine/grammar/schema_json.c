/* em_json events -> a tree in one array, in the order of the text. */
#include "engine/grammar/schema_json.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/utf8.h"

typedef struct reader {
    em_gr_build *b;
    em_jtree *t;
    em_json j;
    uint32_t open[EM_JSON_MAX_DEPTH + 1]; /* nodes whose end has not come */
    uint32_t last[EM_JSON_MAX_DEPTH + 1]; /* their last child */
    uint32_t depth;
    uint32_t key, key_len; /* read, and waiting for its value */
} reader;

/* Unescapes the current string behind the texts that are there. */
static bool keep_string(reader *r, uint32_t *ret_at, uint32_t *ret_len)
{
    em_buf *text = &r->t->text;
    size_t at = text->len, len;
    char *room = malloc(r->j.raw_len + 1);
    bool ok = room && !em_json_string(&r->j, room, r->j.raw_len + 1, &len) && !em_buf_append(text, room, len);
    free(room);
    if (!ok) {
        em_gr_no_memory(r->b);
        return false;
    }
    *ret_at = (uint32_t)at;
    *ret_len = (uint32_t)len;
    return true;
}

static void link_node(reader *r, uint32_t node)
{
    em_jnode *nodes = r->t->nodes;
    if (!r->depth)
        return;
    uint32_t parent = r->open[r->depth - 1], before = r->last[r->depth - 1];
    nodes[node].parent = parent;
    nodes[parent].n++;
    if (before == EM_JNODE_NONE)
        nodes[parent].first = node;
    else
        nodes[before].next = node;
    r->last[r->depth - 1] = node;
}

static void add_value(reader *r, em_json_type type)
{
    em_jtree *t = r->t;
    if (t->n >= r->b->lim.nodes) {
        em_gr_fail(r->b, -E2BIG, "The schema has more than %u values.", r->b->lim.nodes);
        return;
    }
    if (em_gr_grow(&t->nodes, &t->cap, (size_t)t->n + 1, sizeof(*t->nodes))) {
        em_gr_no_memory(r->b);
        return;
    }
    em_jnode node = {.type = type,
                     .parent = EM_JNODE_NONE,
                     .first = EM_JNODE_NONE,
                     .next = EM_JNODE_NONE,
                     .key = r->key,
                     .key_len = r->key_len};
    r->key = r->key_len = 0;
    if (type == EM_JSON_STRING && !keep_string(r, &node.value, &node.value_len))
        return;
    if (type == EM_JSON_NUMBER) {
        node.value = (uint32_t)t->text.len;
        node.value_len = (uint32_t)r->j.raw_len;
        if (em_buf_append(&t->text, r->j.raw, r->j.raw_len)) {
            em_gr_no_memory(r->b);
            return;
        }
    }
    t->nodes[t->n] = node;
    link_node(r, t->n);
    if (type == EM_JSON_OBJECT || type == EM_JSON_ARRAY) {
        r->open[r->depth] = t->n;
        r->last[r->depth++] = EM_JNODE_NONE;
    }
    t->n++;
}

static void read_all(reader *r)
{
    em_json_type type = EM_JSON_ERROR;
    while (!r->b->rc && (type = em_json_next(&r->j)) > EM_JSON_END) {
        if (type == EM_JSON_KEY)
            keep_string(r, &r->key, &r->key_len);
        else if (type == EM_JSON_OBJECT_END || type == EM_JSON_ARRAY_END)
            r->depth--;
        else
            add_value(r, type);
    }
    if (r->b->rc || type == EM_JSON_END)
        return;
    if (r->j.depth == r->j.max_depth && r->j.p < r->j.end && (*r->j.p == '[' || *r->j.p == '{'))
        em_gr_fail(r->b, -E2BIG, "The schema has more than %u brackets open at a time.", r->b->lim.nesting);
    else
        em_gr_fail(r->b, -EINVAL, "The schema is not JSON: %s at byte %zu.", em_json_error(&r->j),
                   em_json_offset(&r->j));
}

int em_jtree_init(em_gr_build *b, const char *text, size_t len, em_jtree *ret_tree)
{
    em_jtree t = {0};
    reader r = {.b = b, .t = &t};
    if (!em_gr_check_source(b, "schema", text, len))
        return b->rc;
    em_json_init(&r.j, text, len, b->lim.nesting);
    if (em_buf_append(&t.text, "", 0) || em_gr_grow(&t.nodes, &t.cap, 1, sizeof(*t.nodes)))
        em_gr_no_memory(b);
    read_all(&r);
    if (b->rc)
        em_jtree_done(&t);
    else
        *ret_tree = t;
    return b->rc;
}

void em_jtree_done(em_jtree *t)
{
    free(t->nodes);
    em_buf_done(&t->text);
    *t = (em_jtree){0};
}

const char *em_jtree_key(const em_jtree *t, uint32_t node)
{
    return t->text.data + t->nodes[node].key;
}

const char *em_jtree_value(const em_jtree *t, uint32_t node)
{
    return t->text.data + t->nodes[node].value;
}

uint32_t em_jtree_member(const em_jtree *t, uint32_t object, const char *key, size_t len)
{
    uint32_t found = EM_JNODE_NONE;
    if (t->nodes[object].type != EM_JSON_OBJECT)
        return found;
    for (uint32_t i = t->nodes[object].first; i != EM_JNODE_NONE; i = t->nodes[i].next)
        if (t->nodes[i].key_len == len && !memcmp(em_jtree_key(t, i), key, len))
            found = i;
    return found;
}

bool em_jtree_is(const em_jtree *t, uint32_t node, const char *string)
{
    size_t len = strlen(string);
    return t->nodes[node].type == EM_JSON_STRING && t->nodes[node].value_len == len &&
           !memcmp(em_jtree_value(t, node), string, len);
}

static uint32_t element(const em_jtree *t, uint32_t array, const char *text, size_t len)
{
    uint64_t idx = 0;
    for (size_t i = 0; i < len; i++) {
        if (!isdigit((unsigned char)text[i]) || idx > UINT32_MAX)
            return EM_JNODE_NONE;
        idx = idx * 10 + (uint64_t)(text[i] - '0');
    }
    uint32_t node = len ? t->nodes[array].first : EM_JNODE_NONE;
    while (node != EM_JNODE_NONE && idx--)
        node = t->nodes[node].next;
    return node;
}

static int hex(char c)
{
    return isdigit((unsigned char)c) ? c - '0' : isxdigit((unsigned char)c) ? (c | 32) - 'a' + 10 : -1;
}

/* One step of a pointer without its escapes: %41 of URIs, then ~0 and ~1. Returns its length. */
static size_t unescape_step(const char *s, size_t len, char *out)
{
    size_t n = 0, m = 0;
    for (size_t i = 0; i < len; i++) {
        if (s[i] == '%' && i + 2 < len && hex(s[i + 1]) >= 0 && hex(s[i + 2]) >= 0) {
            out[n++] = (char)(hex(s[i + 1]) * 16 + hex(s[i + 2]));
            i += 2;
        } else {
            out[n++] = s[i];
        }
    }
    for (size_t i = 0; i < n; i++) {
        bool tilde = out[i] == '~' && i + 1 < n && (out[i + 1] == '0' || out[i + 1] == '1');
        out[m++] = tilde ? (out[i + 1] == '0' ? '~' : '/') : out[i];
        i += tilde;
    }
    return m;
}

uint32_t em_jtree_resolve(const em_jtree *t, const char *pointer, size_t len)
{
    uint32_t node = 0;
    const char *p = pointer, *end = pointer + len;
    while (p < end && node != EM_JNODE_NONE) {
        if (*p++ != '/')
            return EM_JNODE_NONE;
        const char *stop = memchr(p, '/', (size_t)(end - p));
        if (!stop)
            stop = end;
        char step[512];
        if (stop - p >= (ptrdiff_t)sizeof(step))
            return EM_JNODE_NONE;
        size_t n = unescape_step(p, (size_t)(stop - p), step);
        node = t->nodes[node].type == EM_JSON_ARRAY ? element(t, node, step, n) : em_jtree_member(t, node, step, n);
        p = stop;
    }
    return node;
}

enum { MAX_NAMED_INDEX = 1000 }; /* further ones are not counted, which would take time for nothing */

static uint32_t index_in(const em_jtree *t, uint32_t array, uint32_t node)
{
    uint32_t idx = 0;
    for (uint32_t i = t->nodes[array].first; i != node && idx < MAX_NAMED_INDEX; i = t->nodes[i].next)
        idx++;
    return idx;
}

void em_jtree_path(const em_jtree *t, uint32_t node, char *buf, size_t cap)
{
    uint32_t chain[EM_JSON_MAX_DEPTH + 1];
    int n = 0;
    for (uint32_t i = node; t->nodes[i].parent != EM_JNODE_NONE && n <= EM_JSON_MAX_DEPTH; i = t->nodes[i].parent)
        chain[n++] = i;
    size_t at = (size_t)snprintf(buf, cap, "#");
    while (n-- > 0 && at + 1 < cap) {
        uint32_t parent = t->nodes[chain[n]].parent;
        int wrote =
            t->nodes[parent].type == EM_JSON_ARRAY
                ? snprintf(buf + at, cap - at, "/%u", index_in(t, parent, chain[n]))
                : snprintf(buf + at, cap - at, "/%.*s", (int)t->nodes[chain[n]].key_len, em_jtree_key(t, chain[n]));
        at += wrote > 0 ? (size_t)wrote : 0;
    }
    for (char *c = buf; *c; c++)
        *c = (unsigned char)*c < 0x20 ? '?' : *c;
    for (size_t len = strlen(buf); !em_utf8_valid(buf, len); len--) /* the cut may have hit a character */
        buf[len - 1] = '\0';
}

static void write_scalar(const em_jtree *t, uint32_t node, em_buf *out)
{
    switch (t->nodes[node].type) {
    case EM_JSON_STRING: em_buf_json_string(out, em_jtree_value(t, node), t->nodes[node].value_len); break;
    case EM_JSON_NUMBER: em_buf_append(out, em_jtree_value(t, node), t->nodes[node].value_len); break;
    case EM_JSON_TRUE: em_buf_puts(out, "true"); break;
    case EM_JSON_FALSE: em_buf_puts(out, "false"); break;
    default: em_buf_puts(out, "null"); break;
    }
}

/* Recursion goes as deep as the text is nested, which the reader has bounded. */
int em_jtree_write(const em_jtree *t, uint32_t node, em_buf *out)
{
    bool object = t->nodes[node].type == EM_JSON_OBJECT;
    if (!object && t->nodes[node].type != EM_JSON_ARRAY) {
        write_scalar(t, node, out);
        return out->failed ? -ENOMEM : 0;
    }
    em_buf_puts(out, object ? "{" : "[");
    for (uint32_t i = t->nodes[node].first; i != EM_JNODE_NONE; i = t->nodes[i].next) {
        if (i != t->nodes[node].first)
            em_buf_puts(out, ",");
        if (object) {
            em_buf_json_string(out, em_jtree_key(t, i), t->nodes[i].key_len);
            em_buf_puts(out, ":");
        }
        em_jtree_write(t, i, out);
    }
    em_buf_puts(out, object ? "}" : "]");
    return out->failed ? -ENOMEM : 0;
}
