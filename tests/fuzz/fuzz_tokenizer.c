/* Input: the text of a tokenizer.json, a NUL byte, then a text. A file that is accepted encodes the text; a small
 * fixed tokenizer does in any case. Nothing may be lost on the way to ids and back, and the class map and the
 * detokeniser must cope with whatever the tokens are. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/detok.h"
#include "engine/token_map.h"
#include "engine/tokenizer.h"
#include "tests/support/tiny_tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool truth)
{
    if (!truth)
        abort();
}

static em_tokenizer *fixed_tokenizer(void)
{
    static em_tokenizer *tok;
    if (tok)
        return tok;
    em_buf json = {0};
    tiny_write(&(tiny_tokenizer){.vocab = ",\"ab\":256,\"Ġa\":257,\"abab\":258,\"ĠĠ\":259,\"ä¸\":260,\"ä¸Ģ\":261",
                                 .merges = "\"a b\",\"Ġ a\",\"ab ab\",\"Ġ Ġ\",\"ä ¸\",\"ä¸ Ģ\"",
                                 .added = "{\"id\":300,\"content\":\"<a>\"},{\"id\":301,\"content\":\"a><\"},"
                                          "{\"id\":302,\"content\":\"<a\",\"normalized\":true}"},
               &json);
    require(em_tokenizer_parse(json.data, json.len, NULL, 0, "fixed", &tok, NULL) == 0);
    em_buf_done(&json);
    return tok;
}

/* The ids' bytes, one after the other, are the text; on the way they pass a detokeniser with stop strings. */
static void check_round_trip(const em_tokenizer *tok, const uint8_t *text, size_t len, bool special)
{
    static char stops[2][4] = {"ab", "\n\n"};
    em_stop list[2] = {{stops[0], 2}, {stops[1], 2}};
    em_ids ids = {0};
    em_detok *d = NULL;
    size_t at = 0, n;
    require(em_tokenizer_encode(tok, (const char *)text, len, special, 0, &ids) == 0);
    require(em_detok_new(list, 2, &d) == 0);
    for (size_t i = 0; i < ids.n; i++) {
        const uint8_t *bytes = em_tokenizer_bytes(tok, ids.id[i], &n);
        require(n <= len - at && memcmp(bytes, text + at, n) == 0);
        at += n;
        require(em_detok_push(d, bytes, n) >= 0);
        const char *piece = em_detok_take(d, &n);
        require(em_utf8_valid(piece, n));
    }
    require(at == len);
    require(em_detok_finish(d) >= 0);
    em_detok_free(d);
    em_ids_done(&ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *nul = size ? memchr(data, 0, size) : NULL;
    size_t json_len = nul ? (size_t)(nul - data) : size;
    const uint8_t *text = nul ? nul + 1 : data + size;
    size_t len = size - (size_t)(text - data);
    em_tokenizer *tok = NULL;
    em_error err = {0};
    check_round_trip(fixed_tokenizer(), text, len, true);
    check_round_trip(fixed_tokenizer(), text, len, false);
    int r = em_tokenizer_parse((const char *)data, json_len, NULL, 0, "tokenizer.json", &tok, &err);
    require(r == 0 || (r < 0 && err.text[0]));
    if (r == 0) {
        em_token_map map = {0};
        check_round_trip(tok, text, len, true);
        require(em_token_map_build(tok, &map, &err) == 0 && map.n_classes <= map.n_ids);
        em_token_map_done(&map);
    }
    em_tokenizer_free(tok);
    return 0;
}
