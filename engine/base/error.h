/* One sentence for the user, made where the fault is known, carried up unchanged.
 *
 * Convention of the whole program: a function that can fail returns 0 or a negative errno; if it takes an
 * em_error it also leaves a sentence there that names the thing and says what to do. `ret_` parameters come
 * last and are untouched on failure. err may be NULL. Safe from any thread: an em_error belongs to one caller. */
#ifndef EM_BASE_ERROR_H
#define EM_BASE_ERROR_H

typedef struct em_error {
    char text[512]; /* NUL-terminated UTF-8, no newline; empty after success */
} em_error;

/* Formats the sentence into err (if given) and returns `code` (a negative errno), so that a caller can write
 * `return em_error_set(err, -EINVAL, "...")`. Longer text is cut at a character boundary. */
__attribute__((format(printf, 3, 4))) int em_error_set(em_error *err, int code, const char *fmt, ...);

#endif
