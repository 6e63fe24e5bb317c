/* Byte-level BPE of the DeepSeek family, read from tokenizer.json (spec 7.4, 13.7-13.8).
 *
 * Only the pre-tokenizer of that family is accepted (three Split patterns, then ByteLevel); a file with other patterns,
 * a normalizer, a post-processor that adds tokens or another model type is refused by name. Read-only after load;
 * every function but load and free may be called by any thread at the same time. */
#ifndef EM_ENGINE_TOKENIZER_H
#define EM_ENGINE_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/error.h"

#define EM_TOKENIZER_MAX_FILE (256u << 20)

typedef struct em_tokenizer em_tokenizer;

/* Reads DIR/tokenizer.json, and DIR/tokenizer_config.json where there is one (only add_bos_token and bos_token count).
 * -ENOENT when there is no tokenizer.json: a model without Engram can be served with token ids alone. */
int em_tokenizer_load(const char *dir, em_tokenizer **ret_tok, em_error *err);
/* The pure part: texts of the two files; config_json may be NULL. name is used in sentences. */
int em_tokenizer_parse(const char *json, size_t len, const char *config_json, size_t config_len, const char *name,
                       em_tokenizer **ret_tok, em_error *err);
em_tokenizer *em_tokenizer_free(em_tokenizer *tok); /* NULL is fine; returns NULL */

int32_t em_tokenizer_size(const em_tokenizer *tok); /* ids 0 .. size-1, added tokens included */
bool em_tokenizer_add_bos(const em_tokenizer *tok); /* tokenizer_config.json: add_bos_token */
int32_t em_tokenizer_bos(const em_tokenizer *tok);  /* id of bos_token in tokenizer_config.json; -1: none */

/* Growing list of ids; em_ids_done frees. */
typedef struct em_ids {
    int32_t *id;
    size_t n, cap;
} em_ids;
int em_ids_push(em_ids *ids, int32_t id); /* -ENOMEM */
void em_ids_done(em_ids *ids);

/* Appends the ids of valid UTF-8 text. special: spellings of added tokens become their ids (leftmost, longest); else
 * they are ordinary text. No BOS is added. Linear time in the length of the text, whatever it is.
 * max_ids: stop with -E2BIG once more than this many ids were appended (0: no limit). -ENOMEM. */
int em_tokenizer_encode(const em_tokenizer *tok, const char *text, size_t len, bool special, size_t max_ids,
                        em_ids *ids);

/* Where text can be cut so that the ids of both parts are the ids of the whole, whatever is behind its end: the last
 * such place; 0: none. */
size_t em_tokenizer_cut(const em_tokenizer *tok, const char *text, size_t len);

/* Bytes of one id: of ordinary tokens through the byte alphabet (they may be a fragment of a character), of added
 * tokens their spelling. Owned by the tokenizer. 0 <= id < size. An id the file leaves out has length 0. */
const uint8_t *em_tokenizer_bytes(const em_tokenizer *tok, int32_t id, size_t *ret_len);

/* The id of an added token by its exact spelling; -1: none. */
int32_t em_tokenizer_special(const em_tokenizer *tok, const char *spelling);
bool em_tokenizer_is_added(const em_tokenizer *tok, int32_t id);
bool em_tokenizer_is_special(const em_tokenizer *tok, int32_t id); /* an added token with "special": true */

/* The vocabulary string of an id (byte-alphabet form, as in the file), for the token map. Owned by the tokenizer. */
const char *em_tokenizer_raw(const em_tokenizer *tok, int32_t id, size_t *ret_len);

#endif
