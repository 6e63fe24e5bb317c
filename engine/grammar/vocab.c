/* Tokens sorted by their bytes become a preorder of the trie: each shares with the one before what they have in common. */
#include "engine/grammar/vocab.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/utf8.h"

/* Characters of a plain token; 0: it is none. */
static uint32_t plain_chars(const uint8_t *s, uint32_t n)
{
    uint32_t chars = 0, cp;
    for (uint32_t i = 0; i < n; chars++) {
        int len = em_utf8_decode(s + i, n - i, &cp);
        if (len <= 0 || cp < 0x20 || cp == '"' || cp == '\\' || cp == 0x2028 || cp == 0x2029)
            return 0;
        i += (uint32_t)len;
    }
    return chars <= EM_VOCAB_PLAIN_CHARS ? chars : 0;
}

typedef struct sorter {
    const em_grammar_vocab *v;
    const uint8_t *chars; /* [n] plain_chars */
} sorter;

static int compare_tokens(const void *x, const void *y, void *ctx)
{
    const sorter *s = ctx;
    uint32_t a = *(const uint32_t *)x, b = *(const uint32_t *)y;
    bool rest_a = !s->chars[a], rest_b = !s->chars[b];
    if (rest_a != rest_b)
        return rest_a - rest_b;
    uint32_t na = s->v->byte_at[a + 1] - s->v->byte_at[a], nb = s->v->byte_at[b + 1] - s->v->byte_at[b];
    int c = memcmp(s->v->bytes + s->v->byte_at[a], s->v->bytes + s->v->byte_at[b], na < nb ? na : nb);
    if (c)
        return c;
    if (na != nb)
        return na < nb ? -1 : 1;
    return a < b ? -1 : a > b;
}

static int copy_tokens(em_grammar_vocab *v, const em_grammar_token *tokens)
{
    uint64_t total = 0;
    for (uint32_t i = 0; i < v->n; i++) {
        bool text = tokens[i].kind == EM_GRAMMAR_TOKEN_TEXT && tokens[i].bytes && tokens[i].n_bytes >= 1 &&
                    tokens[i].n_bytes <= EM_GRAMMAR_MAX_TOKEN_BYTES;
        bool end = tokens[i].kind == EM_GRAMMAR_TOKEN_END;
        v->kind[i] = text ? EM_GRAMMAR_TOKEN_TEXT : end ? EM_GRAMMAR_TOKEN_END : EM_GRAMMAR_TOKEN_NEVER;
        v->n_ends += end;
        v->byte_at[i] = (uint32_t)total;
        total += text ? tokens[i].n_bytes : 0;
        if (text && tokens[i].n_bytes > v->max_bytes)
            v->max_bytes = tokens[i].n_bytes;
    }
    v->byte_at[v->n] = (uint32_t)total;
    v->bytes = malloc(total + 1);
    v->ends = malloc(((size_t)v->n_ends + 1) * sizeof(*v->ends));
    if (total > UINT32_MAX / 2 || !v->bytes || !v->ends)
        return -ENOMEM;
    for (uint32_t i = 0, n_ends = 0; i < v->n; i++) {
        if (v->kind[i] == EM_GRAMMAR_TOKEN_TEXT)
            memcpy(v->bytes + v->byte_at[i], tokens[i].bytes, tokens[i].n_bytes);
        else if (v->kind[i] == EM_GRAMMAR_TOKEN_END)
            v->ends[n_ends++] = i;
    }
    return 0;
}

/* A trie as it grows: `open` has the nodes from the root to the last one. */
typedef struct planter {
    em_grammar_vocab *v;
    uint32_t open[EM_GRAMMAR_MAX_TOKEN_BYTES];
    uint32_t n_open;
} planter;

static void close_to(planter *p, uint32_t depth)
{
    while (p->n_open > depth)
        p->v->end[p->open[--p->n_open]] = p->v->n_nodes;
}

static void plant(planter *p, uint32_t rank, uint32_t id, bool plain)
{
    em_grammar_vocab *v = p->v;
    const uint8_t *s = v->bytes + v->byte_at[id];
    uint32_t n = v->byte_at[id + 1] - v->byte_at[id], same = 0;
    while (same < p->n_open && same < n && v->byte[p->open[same]] == s[same])
        same++;
    close_to(p, same);
    for (uint32_t i = same; i < n; i++) {
        uint32_t node = v->n_nodes++;
        v->byte[node] = s[i];
        v->depth[node] = (uint8_t)i;
        v->rank[node] = rank;
        v->whole[node] = plain && (i + 1 == n || (s[i + 1] & 0xc0) != 0x80);
        p->open[p->n_open++] = node;
    }
    v->order[rank] = id;
}

/* ids: the text tokens, sorted. */
static void plant_all(em_grammar_vocab *v, const uint32_t *ids, uint32_t n, const uint8_t *chars)
{
    planter p = {.v = v};
    bool plain = true;
    for (uint32_t i = 0; i < n; i++) {
        if (plain && !chars[ids[i]]) {
            close_to(&p, 0);
            v->n_plain = v->n_nodes;
            plain = false;
        }
        plant(&p, i, ids[i], plain);
    }
    close_to(&p, 0);
    if (plain)
        v->n_plain = v->n_nodes;
    v->rank[v->n_nodes] = n;
    for (uint32_t i = 0; i < n; i++)
        if (chars[ids[i]])
            v->plain_masks[(size_t)chars[ids[i]] * v->n_words + ids[i] / 64] |= UINT64_C(1) << (ids[i] % 64);
    for (size_t w = v->n_words; w < (size_t)v->n_words * (EM_VOCAB_PLAIN_CHARS + 1); w++)
        v->plain_masks[w] |= v->plain_masks[w - v->n_words];
}

static int alloc_nodes(em_grammar_vocab *v, uint32_t n_tokens)
{
    size_t most = (size_t)v->byte_at[v->n] + 1; /* a node for each byte at most */
    v->byte = malloc(most);
    v->depth = malloc(most);
    v->end = malloc(most * sizeof(*v->end));
    v->rank = malloc((most + 1) * sizeof(*v->rank));
    v->whole = malloc(most * sizeof(*v->whole));
    v->order = malloc(((size_t)n_tokens + 1) * sizeof(*v->order));
    v->plain_masks = calloc((size_t)v->n_words * (EM_VOCAB_PLAIN_CHARS + 1), sizeof(*v->plain_masks));
    return v->byte && v->depth && v->end && v->rank && v->whole && v->order && v->plain_masks ? 0 : -ENOMEM;
}

/* What was allocated for a node per byte shrinks to the nodes there are. */
static void shrink(void *array, size_t bytes)
{
    void *p = realloc(*(void **)array, bytes);
    if (p)
        *(void **)array = p;
}

static int build_tries(em_grammar_vocab *v)
{
    uint8_t *chars = calloc(v->n, 1);
    uint32_t *ids = malloc((size_t)v->n * sizeof(*ids)), n = 0;
    int rc = chars && ids ? 0 : -ENOMEM;
    for (uint32_t i = 0; i < v->n && !rc; i++) {
        if (v->kind[i] != EM_GRAMMAR_TOKEN_TEXT)
            continue;
        chars[i] = (uint8_t)plain_chars(v->bytes + v->byte_at[i], v->byte_at[i + 1] - v->byte_at[i]);
        ids[n++] = i;
    }
    if (!rc)
        rc = alloc_nodes(v, n);
    if (!rc) {
        sorter s = {v, chars};
        qsort_r(ids, n, sizeof(*ids), compare_tokens, &s);
        plant_all(v, ids, n, chars);
        shrink(&v->byte, (size_t)v->n_nodes + 1);
        shrink(&v->depth, (size_t)v->n_nodes + 1);
        shrink(&v->whole, (size_t)v->n_nodes + 1);
        shrink(&v->end, ((size_t)v->n_nodes + 1) * sizeof(*v->end));
        shrink(&v->rank, ((size_t)v->n_nodes + 1) * sizeof(*v->rank));
    }
    free(chars);
    free(ids);
    return rc;
}

static bool has_all_bytes(const em_grammar_vocab *v)
{
    bool has[256] = {false};
    uint32_t n = 0;
    for (uint32_t id = 0; id < v->n; id++) {
        if (v->kind[id] != EM_GRAMMAR_TOKEN_TEXT || v->byte_at[id + 1] - v->byte_at[id] != 1)
            continue;
        uint8_t byte = v->bytes[v->byte_at[id]];
        n += !has[byte];
        has[byte] = true;
    }
    return n == 256;
}

int em_grammar_vocab_new(const em_grammar_token *tokens, uint32_t n, em_grammar_vocab **ret_vocab)
{
    if (n < 1 || n > EM_GRAMMAR_MAX_VOCAB)
        return -EINVAL;
    em_grammar_vocab *v = calloc(1, sizeof(*v));
    if (!v)
        return -ENOMEM;
    v->n = n;
    v->n_words = (n + 63) / 64;
    v->max_bytes = 1;
    v->kind = malloc(n);
    v->byte_at = malloc(((size_t)n + 1) * sizeof(*v->byte_at));
    int rc = v->kind && v->byte_at ? copy_tokens(v, tokens) : -ENOMEM;
    if (!rc)
        rc = build_tries(v);
    if (rc) {
        em_grammar_vocab_free(v);
        return rc;
    }
    v->has_bytes = has_all_bytes(v);
    *ret_vocab = v;
    return 0;
}

em_grammar_vocab *em_grammar_vocab_free(em_grammar_vocab *v)
{
    if (!v)
        return NULL;
    free(v->byte);
    free(v->depth);
    free(v->end);
    free(v->rank);
    free(v->whole);
    free(v->order);
    free(v->plain_masks);
    free(v->ends);
    free(v->kind);
    free(v->bytes);
    free(v->byte_at);
    free(v);
    return NULL;
}

bool em_grammar_vocab_has_bytes(const em_grammar_vocab *v)
{
    return v->has_bytes;
}

uint32_t em_grammar_vocab_size(const em_grammar_vocab *v)
{
    return v->n;
}
