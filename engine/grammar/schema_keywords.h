/* Keywords of JSON Schema: which are understood, which say nothing about values, which are refused. */
#ifndef EM_ENGINE_GRAMMAR_SCHEMA_KEYWORDS_H
#define EM_ENGINE_GRAMMAR_SCHEMA_KEYWORDS_H

#include "engine/grammar/schema_json.h"

typedef enum em_keyword {
    EM_KW_TYPE,
    EM_KW_ENUM,
    EM_KW_CONST,
    EM_KW_REF,
    EM_KW_ANY_OF,
    EM_KW_ONE_OF,
    EM_KW_ALL_OF,
    EM_KW_PROPERTIES,
    EM_KW_REQUIRED,
    EM_KW_ADDITIONAL,
    EM_KW_ITEMS,
    EM_KW_PREFIX_ITEMS,
    EM_KW_MIN_ITEMS,
    EM_KW_MAX_ITEMS,
    EM_KW_MIN_LENGTH,
    EM_KW_MAX_LENGTH,
    EM_KW_PATTERN,
    EM_KW_FORMAT,
    EM_KW_MINIMUM,
    EM_KW_MAXIMUM,
    EM_KW_EXCLUSIVE_MINIMUM,
    EM_KW_EXCLUSIVE_MAXIMUM,
    EM_KW_COUNT,
} em_keyword;

typedef enum em_type_bit {
    EM_TYPE_NULL = 1,
    EM_TYPE_BOOLEAN = 2,
    EM_TYPE_INTEGER = 4,
    EM_TYPE_NUMBER = 8,
    EM_TYPE_STRING = 16,
    EM_TYPE_ARRAY = 32,
    EM_TYPE_OBJECT = 64,
    EM_TYPE_ALL = 1 + 2 + 8 + 16 + 32 + 64,
} em_type_bit;

/* One schema, taken apart. */
typedef struct em_keywords {
    uint32_t node;            /* the schema */
    uint32_t at[EM_KW_COUNT]; /* values; EM_JNODE_NONE: not given */
    uint32_t types;           /* em_type_bit: from `type`, else from what the other keywords are about, else all */
    uint32_t given;           /* bit k: keyword k is there */
} em_keywords;

/* 0 or the build's fault: an unknown keyword, or a value of the wrong kind. node is an object. */
int em_keywords_read(em_gr_build *b, const em_jtree *t, uint32_t node, em_keywords *ret_kw);

const char *em_keyword_name(em_keyword k);

/* The first keyword that stands besides those of `allowed` (bits); EM_KW_COUNT: none does. */
em_keyword em_keywords_besides(const em_keywords *kw, uint32_t allowed);

/* The type of a value, as the bit that `type` would have to contain. 1.0 is an integer too: both bits. */
uint32_t em_type_of(const em_jtree *t, uint32_t node);

/* The regular expression of a `format`; NULL: not supported. */
const char *em_format_pattern(const char *name, size_t len);

#endif
