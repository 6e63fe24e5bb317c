/* UTF-8 as Unicode chapter 3 defines it. Pure functions. */
#ifndef EM_BASE_UTF8_H
#define EM_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define EM_UTF8_REPLACEMENT "\xef\xbf\xbd" /* U+FFFD */

/* Decodes the character at s (n > 0 bytes left). Returns its length 1..4 and sets *ret_cp. When ill-formed returns
 * -k: the k >= 1 bytes of the maximal ill-formed part (best practice of chapter 3), *ret_cp = 0xFFFD. When the bytes
 * are a proper beginning that the end of input cuts, returns 0. */
int em_utf8_decode(const uint8_t *s, size_t n, uint32_t *ret_cp);

/* Writes cp as 1..4 bytes; returns the count. cp must be a scalar value. */
int em_utf8_encode(uint32_t cp, uint8_t out[4]);

/* Whole text well-formed? */
bool em_utf8_valid(const char *s, size_t n);

/* Number of characters of well-formed text. */
size_t em_utf8_count(const char *s, size_t n);

#endif
