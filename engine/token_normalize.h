/* The normaliser chain in front of Engram's token map (spec 5.2): compatibility decomposition, marks removed, lower
 * case, runs of plain white space made one space, white space stripped at both ends. Pure. */
#ifndef EM_ENGINE_TOKEN_NORMALIZE_H
#define EM_ENGINE_TOKEN_NORMALIZE_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/buf.h"

/* Appends the normal form of well-formed UTF-8 to out; it may be empty. -ENOMEM. */
int em_token_normalize(const uint8_t *text, size_t len, em_buf *out);

#endif
