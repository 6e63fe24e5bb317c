/* A text file taken in pieces that can be tokenised one by one, whatever its length. One thread. */
#ifndef EM_SERVER_TEXT_FILE_H
#define EM_SERVER_TEXT_FILE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "engine/base/buf.h"
#include "engine/base/error.h"

#define EM_TEXT_MAX_UNCUT_BYTES (256u << 20) /* of a text without a place to cut it */

typedef struct em_text_file {
    const char *name; /* for sentences */
    FILE *file;
    uint64_t size, taken; /* bytes of the file (0: unknown), those read */
    bool at_end;          /* the last piece has been given */
    em_buf text;          /* read, not given yet */
    size_t given;         /* bytes of text that the last piece was */
} em_text_file;

/* name "-": standard input. Zero-initialise before. -errno with a sentence. */
int em_text_file_open(em_text_file *f, const char *name, em_error *err);
void em_text_file_close(em_text_file *f);

/* How many of the first bytes may be tokenised on their own; 0: none, or no place to cut. */
typedef size_t (*em_text_cut)(const void *ctx, const char *text, size_t len);

/* The next piece, valid UTF-8, which lives until the next call; empty when more has to be read first, and perhaps at the end.
 * -EIO, -EINVAL (no UTF-8), -E2BIG (no place to cut). */
int em_text_file_next(em_text_file *f, em_text_cut cut, const void *ctx, const char **ret_text, size_t *ret_len,
                      em_error *err);

double em_text_file_done(const em_text_file *f); /* 0 .. 1; 0 when the size is unknown */

#endif
