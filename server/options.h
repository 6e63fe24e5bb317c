/* The table of options: names, kinds, ranges, defaults and help, and how text becomes a value. Pure. */
#ifndef EM_SERVER_OPTIONS_H
#define EM_SERVER_OPTIONS_H

#include "server/config.h"

typedef enum em_option_kind {
    EM_OPTION_INT,     /* int64_t */
    EM_OPTION_BYTES,   /* int64_t; 512M, 2G, 4096 */
    EM_OPTION_SECONDS, /* uint64_t nanoseconds; "1.5" */
    EM_OPTION_REAL,    /* double */
    EM_OPTION_BOOL,    /* bool; the flag may stand without a value */
    EM_OPTION_TEXT,    /* char * */
    EM_OPTION_CHOICE,  /* char *, one of `choices` */
    EM_OPTION_LIST,    /* em_strings; commas or repetition */
} em_option_kind;

typedef struct em_option {
    const char *name; /* the long flag, and the name in a file; ENGRAMD_NAME in the environment */
    em_option_kind kind;
    unsigned commands;   /* em_command bits */
    size_t offset;       /* of the field in em_config */
    int64_t min, max;    /* numbers, seconds and bytes */
    const char *choices; /* "auto|cpu" */
    const char *dflt;    /* as a user would write it; NULL: empty or zero */
    const char *value;   /* what --help calls the value */
    const char *help;
} em_option;

extern const em_option em_options[];
extern const int em_n_options;

const em_option *em_option_find(const char *name, size_t len); /* NULL: unknown */

/* Sets the field from text. `where` begins the sentence: "--port", "ENGRAMD_PORT", "engramd.conf:3: port". A list grows;
 * clear it first when a stronger source speaks. -EINVAL, -ENOMEM. */
int em_option_set(em_config *c, const em_option *o, const char *text, const char *where, em_error *err);
void em_option_clear(em_config *c, const em_option *o);

/* The value as text, cut to cap. */
void em_option_print(const em_config *c, const em_option *o, char *buf, size_t cap);

#endif
