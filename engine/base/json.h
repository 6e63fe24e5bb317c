/* A bounded pull reader for JSON: files (config, tokenizer, safetensors headers), token arrays, and wherever the
 * source text of a number counts. It allocates nothing, copies nothing, and is strict (RFC 8259): no trailing
 * commas, no bare words, no raw control characters in strings, valid UTF-8 everywhere, no lone surrogates,
 * nothing but white space after the value. A byte-order mark is an error.
 *
 * Use: em_json_init, then em_json_next until EM_JSON_END or EM_JSON_ERROR. The reader does the grammar: keys and
 * values alternate, brackets match, so a caller only looks at what it wants and skips the rest.
 * A reader belongs to one thread; the text must stay alive and unchanged while it is used. */
#ifndef EM_BASE_JSON_H
#define EM_BASE_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum em_json_type {
    EM_JSON_ERROR = -1, /* malformed; see em_json_error; every later call returns it again */
    EM_JSON_END = 0,    /* the one top-level value is complete and nothing follows */
    EM_JSON_OBJECT,     /* { */
    EM_JSON_OBJECT_END, /* } */
    EM_JSON_ARRAY,      /* [ */
    EM_JSON_ARRAY_END,  /* ] */
    EM_JSON_KEY,        /* a member's name; the next call gives its value */
    EM_JSON_STRING,
    EM_JSON_NUMBER,
    EM_JSON_TRUE,
    EM_JSON_FALSE,
    EM_JSON_NULL,
} em_json_type;

#define EM_JSON_MAX_DEPTH 128 /* hard limit of nesting; em_json_init may set a lower one */

typedef struct em_json {
    const char *start, *p, *end; /* text, read position, one past the text */
    em_json_type type;           /* of the current token */
    const char *raw;             /* current KEY or STRING: between the quotes, escapes kept; NUMBER: its source text */
    size_t raw_len;              /* bytes */
    bool escaped;                /* the string has at least one backslash */
    bool has_nul;                /* the string contains \u0000 */
    unsigned depth, max_depth;   /* open brackets now, and allowed */
    uint8_t kind[EM_JSON_MAX_DEPTH]; /* '{' or '[' of every open bracket */
    uint8_t expect;                  /* internal: what may come next */
    const char *error;               /* static text, NULL while well */
} em_json;

/* max_depth: 1..EM_JSON_MAX_DEPTH brackets open at a time; 0 means EM_JSON_MAX_DEPTH. */
void em_json_init(em_json *j, const char *text, size_t len, unsigned max_depth);

em_json_type em_json_next(em_json *j);

/* After KEY: skips the whole value. After OBJECT or ARRAY: skips to and including its end. After a scalar: nothing.
 * Returns 0 or -EINVAL (malformed). */
int em_json_skip(em_json *j);

/* Current KEY or STRING equals s (after unescaping)? */
bool em_json_is(const em_json *j, const char *s);

/* Unescapes the current KEY or STRING into buf (NUL-terminated; cap counts the NUL). ret_len may be NULL.
 * -ENOSPC when it does not fit; raw_len + 1 bytes always suffice. */
int em_json_string(const em_json *j, char *buf, size_t cap, size_t *ret_len);

/* Current NUMBER as an integer: 2, -3, also 2.0 and 2e3 when exactly integral. -EINVAL: not a number or has a
 * fraction; -ERANGE: outside int64. */
int em_json_i64(const em_json *j, int64_t *ret);

/* Current NUMBER as a double (correctly rounded, independent of the locale). -ERANGE when it overflows. */
int em_json_f64(const em_json *j, double *ret);

/* What is wrong, as static text without position ("expected a value"), and where (byte offset). */
const char *em_json_error(const em_json *j);
size_t em_json_offset(const em_json *j);

#endif
