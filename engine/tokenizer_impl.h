/* What the files of the tokenizer share; no one else includes it. */
#ifndef EM_ENGINE_TOKENIZER_IMPL_H
#define EM_ENGINE_TOKENIZER_IMPL_H

#include "engine/aho_corasick.h"
#include "engine/base/json.h"
#include "engine/bpe.h"
#include "engine/string_map.h"
#include "engine/tokenizer.h"

#define EM_TOKENIZER_MAX_IDS (1 << 20) /* far above any vocabulary; bounds what a hostile file can make us allocate */

typedef struct em_token {
    const char *raw;      /* as in the file; NULL: the file leaves this id out */
    const uint8_t *bytes; /* what it stands for */
    uint32_t raw_len, n_bytes;
    bool added;
    bool special;
    bool normalized; /* added tokens: searched after the others, in what they left */
} em_token;

struct em_tokenizer {
    em_token *tokens; /* [n_tokens], room for cap_tokens */
    int32_t n_tokens;
    int32_t cap_tokens;
    char *arena; /* the strings that tokens point into */
    size_t arena_len, arena_cap;
    em_bpe bpe;
    uint32_t longest;    /* most bytes an ordinary token has */
    em_string_map added; /* spelling -> id */
    em_ac spellings[2];  /* the added tokens spelled backwards: those not normalized, the normalized ones */
    int32_t bos_id;      /* -1: none */
    bool add_bos;
};

/* What is left to read of a file that was found to be of this family. */
typedef struct em_tokenizer_file {
    const char *name;                    /* for sentences */
    em_json vocab, merges, added_tokens; /* readers that stand on these values */
} em_tokenizer_file;

/* Finds the members names[0 .. n) of the object that j stands on; j ends on the object's end. found[i] stands on the
 * value; its type is EM_JSON_END when the member is not there. */
int em_tokenizer_members(em_json *j, const char *const *names, em_json *found, int n, const char *what,
                         const char *file, em_error *err);

/* The next element of the array that list reads; false at its end. */
bool em_tokenizer_next_element(em_json *list);

/* Checks the whole file's grammar, and that it describes a tokenizer of this family. The readers in ret_file point
 * into json. */
int em_tokenizer_check_file(const char *json, size_t len, const char *name, em_tokenizer_file *ret_file, em_error *err);

#endif
