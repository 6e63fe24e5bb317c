/* Text to ids, and what one id stands for. Encoding a text: cut out the spellings of added tokens, cut the rest by the
 * patterns of the pre-tokenizer, merge the bytes of each piece. All memory of a call is its own. */
#include "engine/tokenizer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/pretokenizer.h"
#include "engine/tokenizer_impl.h"

/* A spelling of an added token in the text. */
typedef struct occurrence {
    size_t begin;
    uint32_t len;
    int32_t id;
} occurrence;

/* Spellings found in one piece, last first; kept from piece to piece. */
typedef struct occurrence_list {
    occurrence *items;
    size_t n, cap;
} occurrence_list;

/* One call of em_tokenizer_encode. */
typedef struct encoder {
    const em_tokenizer *tok;
    em_ids *ids;
    size_t max_n; /* of ids->n */
    em_bpe_scratch scratch;
    occurrence_list found[2]; /* by kind of added tokens */
} encoder;

em_tokenizer *em_tokenizer_free(em_tokenizer *tok)
{
    if (!tok)
        return NULL;
    em_ac_done(&tok->spellings[0]);
    em_ac_done(&tok->spellings[1]);
    em_string_map_done(&tok->added);
    em_bpe_done(&tok->bpe);
    free(tok->arena);
    free(tok->tokens);
    free(tok);
    return NULL;
}

int32_t em_tokenizer_size(const em_tokenizer *tok)
{
    return tok->n_tokens;
}

bool em_tokenizer_add_bos(const em_tokenizer *tok)
{
    return tok->add_bos;
}

int32_t em_tokenizer_bos(const em_tokenizer *tok)
{
    return tok->bos_id;
}

const uint8_t *em_tokenizer_bytes(const em_tokenizer *tok, int32_t id, size_t *ret_len)
{
    const em_token *t = &tok->tokens[id];
    *ret_len = t->n_bytes;
    return t->bytes ? t->bytes : (const uint8_t *)"";
}

const char *em_tokenizer_raw(const em_tokenizer *tok, int32_t id, size_t *ret_len)
{
    const em_token *t = &tok->tokens[id];
    *ret_len = t->raw_len;
    return t->raw ? t->raw : "";
}

int32_t em_tokenizer_special(const em_tokenizer *tok, const char *spelling)
{
    return em_string_map_get(&tok->added, spelling, strlen(spelling));
}

bool em_tokenizer_is_added(const em_tokenizer *tok, int32_t id)
{
    return tok->tokens[id].added;
}

bool em_tokenizer_is_special(const em_tokenizer *tok, int32_t id)
{
    return tok->tokens[id].special;
}

int em_ids_push(em_ids *ids, int32_t id)
{
    if (ids->n == ids->cap) {
        size_t cap = ids->cap ? ids->cap * 2 : 64;
        int32_t *grown = cap > SIZE_MAX / sizeof *grown ? NULL : realloc(ids->id, cap * sizeof *grown);
        if (!grown)
            return -ENOMEM;
        ids->id = grown;
        ids->cap = cap;
    }
    ids->id[ids->n++] = id;
    return 0;
}

void em_ids_done(em_ids *ids)
{
    free(ids->id);
    *ids = (em_ids){0};
}

static int push_id(encoder *e, int32_t id)
{
    return e->ids->n >= e->max_n ? -E2BIG : em_ids_push(e->ids, id);
}

/* One piece of the pre-tokenizer. */
static int encode_piece(encoder *e, const uint8_t *bytes, size_t len)
{
    /* Hopeless pieces are not merged first: this bounds time and memory of a call by max_ids, too. */
    if (len / e->tok->longest > e->max_n - e->ids->n)
        return -E2BIG;
    int r = em_bpe_merge(&e->tok->bpe, &e->scratch, bytes, len);
    for (uint32_t at = 0; r == 0 && at != EM_BPE_NONE; at = e->scratch.symbols[at].next)
        r = push_id(e, e->scratch.symbols[at].id);
    return r;
}

static int encode_ordinary(encoder *e, const char *text, size_t len)
{
    em_pretokenizer p;
    size_t begin, end;
    em_pretokenizer_init(&p, text, len);
    while (em_pretokenizer_next(&p, &begin, &end)) {
        int r = encode_piece(e, (const uint8_t *)text + begin, end - begin);
        if (r < 0)
            return r;
    }
    return 0;
}

static int add_occurrence(occurrence_list *list, occurrence s)
{
    if (list->n == list->cap) {
        size_t cap = list->cap ? list->cap * 2 : 64;
        occurrence *grown = realloc(list->items, cap * sizeof *grown);
        if (!grown)
            return -ENOMEM;
        list->items = grown;
        list->cap = cap;
    }
    list->items[list->n++] = s;
    return 0;
}

/* The longest added token at each place of the text where one begins. The automaton holds the spellings backwards and
 * reads the text backwards, so the longest match that ends in its direction is the longest that begins in ours; one
 * pass settles every place, however the spellings overlap. */
static int find_spellings(const em_ac *ac, const char *text, size_t len, occurrence_list *found)
{
    uint32_t state = EM_AC_ROOT;
    found->n = 0;
    for (size_t i = len; i-- > 0;) {
        state = em_ac_step(ac, state, (uint8_t)text[i]);
        const em_ac_node *node = em_ac_state(ac, state);
        if (node->match_len == 0)
            continue;
        int r = add_occurrence(found, (occurrence){.begin = i, .len = node->match_len, .id = node->match_id});
        if (r < 0)
            return r;
    }
    return 0;
}

/* Text in which the added tokens of kinds kind, kind + 1, .. count (2: none). Those that are not normalized are found
 * first; the others in what lies between them. */
static int encode_text(encoder *e, const char *text, size_t len, int kind)
{
    if (kind == 2)
        return encode_ordinary(e, text, len);
    const em_ac *ac = &e->tok->spellings[kind];
    if (!ac->nodes)
        return encode_text(e, text, len, kind + 1);
    occurrence_list *found = &e->found[kind];
    int r = find_spellings(ac, text, len, found);
    size_t at = 0;
    for (size_t i = found->n; r == 0 && i-- > 0;) {
        occurrence s = found->items[i];
        if (s.begin < at)
            continue; /* inside the one before */
        r = encode_text(e, text + at, s.begin - at, kind + 1);
        if (r == 0)
            r = push_id(e, s.id);
        at = s.begin + s.len;
    }
    return r < 0 ? r : encode_text(e, text + at, len - at, kind + 1);
}

int em_tokenizer_encode(const em_tokenizer *tok, const char *text, size_t len, bool special, size_t max_ids,
                        em_ids *ids)
{
    size_t before = ids->n;
    encoder e = {.tok = tok, .ids = ids, .max_n = SIZE_MAX};
    if (max_ids > 0 && max_ids < SIZE_MAX - before)
        e.max_n = before + max_ids;
    int r = encode_text(&e, text, len, special ? 0 : 2);
    em_bpe_scratch_done(&e.scratch);
    free(e.found[0].items);
    free(e.found[1].items);
    if (r < 0)
        ids->n = before;
    return r;
}
