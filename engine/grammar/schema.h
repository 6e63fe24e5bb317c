/* JSON Schema -> expressions. docs/structured_output.md has the subset. One thread. */
#ifndef EM_ENGINE_GRAMMAR_SCHEMA_H
#define EM_ENGINE_GRAMMAR_SCHEMA_H

#include "engine/grammar/schema_keywords.h"

/* A schema while it is compiled. */
typedef struct em_schema {
    em_gr_build *b;
    em_jtree tree;
    uint32_t *rule;     /* [tree.n] rule of a node that is called, + 1; 0: none */
    bool *busy;         /* [tree.n] being written in place now */
    em_gr_u32s pending; /* nodes whose rule has no body yet */
} em_schema;

/* The values that a schema allows, as a call of a rule; when it is the build's first rule, the whole text is one. */
em_expr em_schema_expr(em_gr_build *b, const char *text, size_t len);
/* Likewise of the schema inside it that a pointer ("/properties/a") leads to. */
em_expr em_schema_expr_at(em_gr_build *b, const char *text, size_t len, const char *pointer, size_t pointer_len);

/* The values that the schema at `node` allows. in_place: written out here, so that alternatives share their beginnings;
 * else anything but a simple value is a rule of its own. */
em_expr em_schema_value(em_schema *s, uint32_t node, bool in_place);

em_expr em_schema_object(em_schema *s, const em_keywords *kw);
em_expr em_schema_array(em_schema *s, const em_keywords *kw);
em_expr em_schema_string(em_schema *s, const em_keywords *kw);
em_expr em_schema_number(em_schema *s, const em_keywords *kw, bool integer);

/* A fault about the schema at a node: fmt has one %s for its path. */
void em_schema_fault(em_schema *s, uint32_t node, const char *fmt);

/* The count a keyword gives: 0 .. most; *ret stays when the keyword is not there. Above `most`: -E2BIG as a fault of
 * the named limit, or, clamp set, most + 1. False on a fault. */
bool em_schema_count(em_schema *s, const em_keywords *kw, em_keyword k, uint32_t most, bool clamp, uint32_t *ret);

#endif
