/* API keys: a file of `name key` lines. The name says whose request it is, for fairness and logs; the key never leaves
 * this file's memory. Used by one thread. */
#ifndef EM_SERVER_KEYS_H
#define EM_SERVER_KEYS_H

#include "engine/base/error.h"

#define EM_KEYS_MAX 4096     /* keys in a file */
#define EM_KEY_MAX_BYTES 255 /* of one key */
#define EM_KEY_NAME_MAX 64   /* of one name: em_request.client */

typedef struct em_keys em_keys;

/* A name may stand on several lines: that is how keys are exchanged without a gap. -EINVAL with a sentence that names the
 * line (never the key), -ENOENT and the like. */
int em_keys_load(const char *path, em_keys **ret_keys, em_error *err);
em_keys *em_keys_free(em_keys *k); /* NULL is fine; returns NULL */
int em_keys_count(const em_keys *k);

/* The name that belongs to the key, NULL: none. How long it takes does not depend on what stands in the key. */
const char *em_keys_find(const em_keys *k, const char *key);

/* The key in an Authorization header's value, NULL: no bearer token there. */
const char *em_keys_bearer(const char *authorization);

#endif
