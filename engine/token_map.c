/* Each id gets a key: the normal form of its text, or its raw string where there is no such text. Ids with equal keys
 * share a class; classes are numbered by first appearance. Raw strings and texts share one dictionary, as in training,
 * so a lone byte may fall into the class of a text. */
#include "engine/token_map.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/buf.h"
#include "engine/base/utf8.h"
#include "engine/string_map.h"
#include "engine/token_normalize.h"

#define BLOCK_BYTES ((size_t)1 << 18)

/* Keys live in blocks that never move, since the dictionary points into them. */
typedef struct key_block {
    struct key_block *next;
    char bytes[];
} key_block;

typedef struct builder {
    const em_tokenizer *tok;
    em_string_map classes; /* key -> class */
    key_block *blocks;     /* the newest first */
    size_t room;           /* free bytes at block_at */
    char *block_at;
    em_buf key; /* of the current id */
    int32_t n_classes;
} builder;

/* A copy of the current key that lives as long as the builder; NULL: out of memory. */
static const char *keep_key(builder *b)
{
    if (b->key.len > b->room) {
        size_t size = b->key.len > BLOCK_BYTES ? b->key.len : BLOCK_BYTES;
        key_block *block = malloc(sizeof *block + size);
        if (!block)
            return NULL;
        block->next = b->blocks;
        b->blocks = block;
        b->block_at = block->bytes;
        b->room = size;
    }
    char *copy = b->block_at;
    if (b->key.len > 0)
        memcpy(copy, b->key.data, b->key.len);
    b->block_at += b->key.len;
    b->room -= b->key.len;
    return copy;
}

/* Is there a U+FFFD in the text of these bytes, written there or for an ill-formed part? */
static bool has_replacement(const uint8_t *bytes, size_t len)
{
    return !em_utf8_valid((const char *)bytes, len) || memmem(bytes, len, EM_UTF8_REPLACEMENT, 3);
}

int em_token_map_key(const em_tokenizer *tok, int32_t id, em_buf *out)
{
    size_t len, raw_len, before = out->len;
    const uint8_t *bytes = em_tokenizer_bytes(tok, id, &len);
    if (has_replacement(bytes, len)) {
        const char *raw = em_tokenizer_raw(tok, id, &raw_len);
        return em_buf_append(out, raw, raw_len);
    }
    int r = em_token_normalize(bytes, len, out);
    if (r == 0 && out->len == before)
        r = em_buf_append(out, bytes, len);
    return r;
}

static int class_of_id(builder *b, int32_t id, int32_t *ret_class)
{
    em_buf_clear(&b->key);
    if (em_token_map_key(b->tok, id, &b->key) < 0)
        return -ENOMEM;
    const char *key = b->key.data ? b->key.data : "";
    int32_t cls = em_string_map_get(&b->classes, key, b->key.len);
    if (cls < 0) {
        const char *kept = keep_key(b);
        cls = kept ? em_string_map_add(&b->classes, kept, b->key.len, b->n_classes) : -ENOMEM;
        if (cls < 0)
            return -ENOMEM;
        b->n_classes++;
    }
    *ret_class = cls;
    return 0;
}

static void builder_done(builder *b)
{
    while (b->blocks) {
        key_block *next = b->blocks->next;
        free(b->blocks);
        b->blocks = next;
    }
    em_string_map_done(&b->classes);
    em_buf_done(&b->key);
}

int em_token_map_build(const em_tokenizer *tok, em_token_map *ret_map, em_error *err)
{
    em_token_map map = {.n_ids = em_tokenizer_size(tok)};
    builder b = {.tok = tok};
    int r = em_string_map_init(&b.classes, (size_t)map.n_ids);
    map.class_of = r == 0 ? malloc((size_t)map.n_ids * sizeof *map.class_of) : NULL;
    if (!map.class_of)
        r = -ENOMEM;
    for (int32_t id = 0; r == 0 && id < map.n_ids; id++)
        r = class_of_id(&b, id, &map.class_of[id]);
    map.n_classes = b.n_classes;
    builder_done(&b);
    if (r < 0) {
        free(map.class_of);
        return em_error_set(err, r, "out of memory while building Engram's token map of %d ids", map.n_ids);
    }
    *ret_map = map;
    return 0;
}

void em_token_map_done(em_token_map *map)
{
    free(map->class_of);
    *map = (em_token_map){0};
}
