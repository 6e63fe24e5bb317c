/* The body of a POST, checked as a whole before anything is made of it: strict JSON of bounded depth, valid UTF-8,
 * nothing behind the object, no field twice; a field that holds U+0000 is marked. What is left are the fields with
 * their source text, so that numbers keep every digit and long token lists are read without building a tree.
 *
 * cJSON is given only what stood this check and has no U+0000: it would itself accept broken UTF-8, duplicates and
 * trailing bytes, cut strings at U+0000, and takes 64 bytes per number. */
#ifndef EM_API_BODY_H
#define EM_API_BODY_H

#include <stddef.h>

#include "api/error.h"
#include "engine/base/json.h"

#define EM_BODY_MAX_FIELDS 128 /* fields of the object */
#define EM_BODY_MAX_NAME 64    /* bytes of a field's name */

typedef struct em_field {
    char name[EM_BODY_MAX_NAME + 1];
    em_json_type type;
    const char *text; /* source text of the value; belongs to the body */
    size_t len;
    size_t n_values; /* values in it, itself included */
    bool has_nul;    /* some string in it holds a U+0000 */
} em_field;

typedef struct em_body {
    em_field fields[EM_BODY_MAX_FIELDS];
    int n_fields;
} em_body;

/* Fills body (its former contents are lost, also on failure). The text must outlive it. -EINVAL with err filled. */
int em_body_read(em_body *body, const char *text, size_t len, unsigned max_depth, em_api_error *err);

/* NULL when there is none, or when it is null: both mean the default. */
const em_field *em_body_find(const em_body *body, const char *name);

#endif
