/* The text of a schema as a tree that can be walked in any order, for $ref. One thread. */
#ifndef EM_ENGINE_GRAMMAR_SCHEMA_JSON_H
#define EM_ENGINE_GRAMMAR_SCHEMA_JSON_H

#include "engine/base/json.h"
#include "engine/grammar/build.h"

#define EM_JNODE_NONE UINT32_MAX

typedef struct em_jnode {
    em_json_type type;         /* OBJECT, ARRAY, STRING, NUMBER, TRUE, FALSE, NULL */
    uint32_t parent;           /* EM_JNODE_NONE: the root */
    uint32_t first, next;      /* first child, next sibling; EM_JNODE_NONE: none */
    uint32_t n;                /* children */
    uint32_t key, key_len;     /* of a member, unescaped: bytes in text */
    uint32_t value, value_len; /* STRING, unescaped; NUMBER, as written: bytes in text */
} em_jnode;

typedef struct em_jtree {
    em_jnode *nodes; /* [n]; 0 is the root */
    uint32_t n, cap;
    em_buf text;
} em_jtree;

/* 0 or the build's fault. */
int em_jtree_init(em_gr_build *b, const char *text, size_t len, em_jtree *ret_tree);
void em_jtree_done(em_jtree *t); /* a zeroed one is fine */

const char *em_jtree_key(const em_jtree *t, uint32_t node);
const char *em_jtree_value(const em_jtree *t, uint32_t node);
uint32_t em_jtree_member(const em_jtree *t, uint32_t object, const char *key, size_t len); /* the last one counts */
bool em_jtree_is(const em_jtree *t, uint32_t node, const char *string);

/* What a JSON pointer ("/a/0", perhaps percent-encoded as in a URI fragment) names; EM_JNODE_NONE: nothing. */
uint32_t em_jtree_resolve(const em_jtree *t, const char *pointer, size_t len);

/* Where a node is, as a JSON pointer with # in front; cut to fit. */
void em_jtree_path(const em_jtree *t, uint32_t node, char *buf, size_t cap);

/* Shortest text of a value. */
int em_jtree_write(const em_jtree *t, uint32_t node, em_buf *out);

#endif
