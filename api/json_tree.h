/* JSON as a tree that keeps what cJSON drops: the order of keys, the source text of numbers, U+0000 in strings. For
 * conversations, tools and schemas, which are written back into a prompt as Python's json.dumps would write them.
 *
 * Nodes and strings live in one arena and end with it. Of equal keys in an object the last value counts, in the place
 * of the first. A number beyond the range of a double is refused: it could not be written back. */
#ifndef EM_API_JSON_TREE_H
#define EM_API_JSON_TREE_H

#include "engine/base/buf.h"
#include "engine/base/json.h"

/* Memory that is freed at once. Zero-initialise. */
typedef struct em_arena {
    struct em_arena_block *blocks;
    size_t left; /* bytes free at the end of the newest block */
} em_arena;

void *em_arena_alloc(em_arena *a, size_t bytes); /* zeroed, aligned for anything; NULL: out of memory */
void em_arena_done(em_arena *a);

typedef struct em_node {
    em_json_type type; /* OBJECT, ARRAY, STRING, NUMBER, TRUE, FALSE, NULL */
    const char *key;   /* [key_len] of a member: unescaped, NUL-terminated */
    size_t key_len;
    const char *text; /* [len] STRING: unescaped, NUL-terminated. NUMBER: source text */
    size_t len;
    struct em_node *child; /* first of an OBJECT or ARRAY */
    struct em_node *next;
} em_node;

/* One strict JSON text. values_left goes down by the values in it. -EINVAL malformed or too deep, -ERANGE a number too
 * large for a double, -E2BIG more values than were left, -ENOMEM. */
int em_tree_parse(em_arena *a, const char *text, size_t len, unsigned max_depth, size_t *values_left,
                  em_node **ret_root);

/* The member of an object; NULL when n is NULL or no object, there is none, or it is null. */
const em_node *em_node_member(const em_node *n, const char *key);
bool em_node_is(const em_node *n, const char *text); /* a string that equals text */
size_t em_node_count(const em_node *n);              /* children */

/* New nodes, for completing a schema. NULL: out of memory. */
em_node *em_node_new(em_arena *a, em_json_type type);
void em_node_append(em_node *parent, em_node *child);

typedef enum em_json_style {
    EM_JSON_COMPACT, /* {"a":1,"b":[2]} */
    EM_JSON_SPACED,  /* {"a": 1, "b": [2]}: Python's json.dumps(..., ensure_ascii=False) */
} em_json_style;

void em_node_write(const em_node *n, em_json_style style, em_buf *out);

/* A JSON number as Python writes what it reads: integers of 64 bits (signed or unsigned) digit by digit, everything
 * else as the shortest double (1.0, 1e-07, 1e+22, -0.0). raw is a valid JSON number in the range of a double. */
void em_python_number(const char *raw, size_t len, em_buf *out);

#endif
