/* From tokenizer.json and tokenizer_config.json to the tables of em_tokenizer. Vocabulary first, then the merges that
 * refer to it, then the added tokens that stand beside it, whatever their order in the file. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/file.h"
#include "engine/base/utf8.h"
#include "engine/tokenizer_impl.h"

#define MAX_CONFIG_FILE (1u << 20)

/* One load under way. */
typedef struct loader {
    em_tokenizer *tok;
    const em_tokenizer_file *file;
    em_error *err;
    em_string_map vocab;    /* raw string -> id */
    int16_t byte_of[0x144]; /* the byte alphabet: code point -> byte, -1: not in it */
    char *text;             /* one merge, unescaped */
    size_t text_cap;
} loader;

/* Where to cut a name from the file in a sentence. */
static int shown(size_t len)
{
    return len > 100 ? 100 : (int)len;
}

/* --- the byte alphabet -------------------------------------------------------------------------------------- */

/* Bytes that print stand for themselves; the others, in order, for U+0100 and on (as GPT-2 chose). */
static void init_alphabet(int16_t byte_of[0x144])
{
    for (int i = 0; i < 0x144; i++)
        byte_of[i] = -1;
    int next = 0x100;
    for (int b = 0; b < 256; b++) {
        bool prints = (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
        byte_of[prints ? b : next++] = (int16_t)b;
    }
}

/* The bytes that raw stands for, into out (raw_len bytes suffice); -1: some character is not of the alphabet. */
static int64_t alphabet_bytes(const loader *l, const char *raw, size_t raw_len, uint8_t *out)
{
    size_t n = 0;
    for (size_t i = 0; i < raw_len;) {
        uint32_t cp;
        int k = em_utf8_decode((const uint8_t *)raw + i, raw_len - i, &cp);
        if (k <= 0 || cp >= 0x144 || l->byte_of[cp] < 0)
            return -1;
        out[n++] = (uint8_t)l->byte_of[cp];
        i += (size_t)k;
    }
    return (int64_t)n;
}

/* --- tokens ------------------------------------------------------------------------------------------------- */

/* The string that j stands on, unescaped into the arena (which has room for all of the file). */
static const char *keep_string(em_tokenizer *tok, const em_json *j, size_t *ret_len)
{
    char *at = tok->arena + tok->arena_len;
    if (em_json_string(j, at, tok->arena_cap - tok->arena_len, ret_len) < 0)
        return NULL;
    tok->arena_len += *ret_len + 1;
    return at;
}

/* Room for ids 0 .. id. */
static int reserve_id(em_tokenizer *tok, int32_t id)
{
    if (id < tok->n_tokens)
        return 0;
    if (id >= tok->cap_tokens) {
        int32_t cap = tok->cap_tokens ? tok->cap_tokens : 1024;
        while (cap <= id)
            cap *= 2;
        em_token *tokens = realloc(tok->tokens, (size_t)cap * sizeof *tokens);
        if (!tokens)
            return -ENOMEM;
        memset(tokens + tok->cap_tokens, 0, (size_t)(cap - tok->cap_tokens) * sizeof *tokens);
        tok->tokens = tokens;
        tok->cap_tokens = cap;
    }
    tok->n_tokens = id + 1;
    return 0;
}

static int out_of_memory(loader *l)
{
    return em_error_set(l->err, -ENOMEM, "%s: out of memory while reading the tokenizer", l->file->name);
}

/* An id of the file, range-checked. */
static int read_id(loader *l, const em_json *j, const char *raw, size_t raw_len, int32_t *ret_id)
{
    int64_t id;
    int r = em_json_i64(j, &id);
    if (r < 0 || id < 0 || id >= EM_TOKENIZER_MAX_IDS)
        return em_error_set(l->err, -EINVAL, "%s: token \"%.*s\" needs an id from 0 to %d", l->file->name,
                            shown(raw_len), raw, EM_TOKENIZER_MAX_IDS - 1);
    *ret_id = (int32_t)id;
    return 0;
}

static int id_taken(loader *l, int32_t id, const char *raw, size_t raw_len)
{
    const em_token *t = &l->tok->tokens[id];
    return em_error_set(l->err, -EINVAL, "%s: tokens \"%.*s\" and \"%.*s\" both have id %d", l->file->name,
                        shown(t->raw_len), t->raw, shown(raw_len), raw, id);
}

/* One member of model.vocab; j stands on its key. */
static int read_vocab_entry(loader *l, em_json *j)
{
    em_tokenizer *tok = l->tok;
    size_t len;
    const char *raw = keep_string(tok, j, &len);
    if (!raw)
        return out_of_memory(l);
    em_json_next(j);
    int32_t id;
    int r = read_id(l, j, raw, len, &id);
    if (r < 0)
        return r;
    if (reserve_id(tok, id) < 0)
        return out_of_memory(l);
    if (tok->tokens[id].raw)
        return id_taken(l, id, raw, len);
    int32_t old = em_string_map_add(&l->vocab, raw, len, id);
    if (old == -ENOMEM)
        return out_of_memory(l);
    if (old != id)
        return em_error_set(l->err, -EINVAL, "%s: model.vocab has \"%.*s\" twice", l->file->name, shown(len), raw);
    uint8_t *bytes = (uint8_t *)tok->arena + tok->arena_len;
    int64_t n = alphabet_bytes(l, raw, len, bytes);
    if (n >= 0)
        tok->arena_len += (size_t)n;
    em_token token = {.raw = raw,
                      .raw_len = (uint32_t)len,
                      .bytes = n < 0 ? (const uint8_t *)raw : bytes,
                      .n_bytes = n < 0 ? (uint32_t)len : (uint32_t)n};
    if (token.n_bytes > tok->longest)
        tok->longest = token.n_bytes;
    tok->tokens[id] = token;
    return 0;
}

static int read_vocab(loader *l)
{
    em_json j = l->file->vocab;
    while (em_json_next(&j) == EM_JSON_KEY) {
        int r = read_vocab_entry(l, &j);
        if (r < 0)
            return r;
    }
    return 0;
}

/* Every byte needs a token of its own, or some text would have no ids. */
static int find_byte_tokens(loader *l)
{
    for (uint32_t cp = 0; cp < 0x144; cp++) {
        if (l->byte_of[cp] < 0)
            continue;
        uint8_t spelling[4];
        int n = em_utf8_encode(cp, spelling);
        int32_t id = em_string_map_get(&l->vocab, (const char *)spelling, (size_t)n);
        if (id < 0)
            return em_error_set(l->err, -EINVAL, "%s: model.vocab has no token \"%.*s\" for byte 0x%02X", l->file->name,
                                n, (const char *)spelling, (unsigned)l->byte_of[cp]);
        l->tok->bpe.byte_id[l->byte_of[cp]] = id;
    }
    return 0;
}

/* --- merges ------------------------------------------------------------------------------------------------- */

static int bad_merge(loader *l, uint32_t rank, const char *why)
{
    return em_error_set(l->err, -EINVAL, "%s: model.merges[%u] %s", l->file->name, rank, why);
}

static int reserve_text(loader *l, size_t len)
{
    if (len <= l->text_cap)
        return 0;
    char *text = realloc(l->text, len * 2);
    if (!text)
        return -ENOMEM;
    l->text = text;
    l->text_cap = len * 2;
    return 0;
}

/* Reads "left right" or ["left", "right"] into l->text without what stands between them. */
static int read_pair(loader *l, em_json *j, uint32_t rank, size_t *ret_left, size_t *ret_len)
{
    if (j->type == EM_JSON_STRING) {
        size_t len;
        if (reserve_text(l, j->raw_len + 1) < 0)
            return out_of_memory(l);
        em_json_string(j, l->text, l->text_cap, &len);
        char *space = memchr(l->text, ' ', len);
        if (!space || memchr(space + 1, ' ', (size_t)(l->text + len - space) - 1))
            return bad_merge(l, rank, "must be two tokens with one space between them");
        *ret_left = (size_t)(space - l->text);
        *ret_len = len - 1;
        memmove(space, space + 1, len - *ret_left - 1);
        return 0;
    }
    if (j->type != EM_JSON_ARRAY)
        return bad_merge(l, rank, "must be a string or a list of two strings");
    size_t at = 0, ends[2] = {0};
    int n = 0;
    for (; em_tokenizer_next_element(j); n++) {
        size_t len;
        if (n == 2 || j->type != EM_JSON_STRING)
            return bad_merge(l, rank, "must be a string or a list of two strings");
        if (reserve_text(l, at + j->raw_len + 1) < 0)
            return out_of_memory(l);
        em_json_string(j, l->text + at, l->text_cap - at, &len);
        ends[n] = at += len;
    }
    if (n != 2)
        return bad_merge(l, rank, "must be a string or a list of two strings");
    *ret_left = ends[0];
    *ret_len = ends[1];
    return 0;
}

static int read_merge(loader *l, em_json *j, uint32_t rank)
{
    size_t left_len = 0, len = 0;
    int r = read_pair(l, j, rank, &left_len, &len);
    if (r < 0)
        return r;
    int32_t left = em_string_map_get(&l->vocab, l->text, left_len);
    int32_t right = em_string_map_get(&l->vocab, l->text + left_len, len - left_len);
    int32_t merged = em_string_map_get(&l->vocab, l->text, len);
    if (left < 0 || right < 0)
        return bad_merge(l, rank,
                         left < 0 ? "begins with a token that model.vocab lacks"
                                  : "ends with a token that model.vocab lacks");
    if (merged < 0)
        return bad_merge(l, rank, "makes a token that model.vocab lacks");
    if (left_len == 0 || left_len == len)
        return bad_merge(l, rank, "has an empty side");
    if (em_bpe_add(&l->tok->bpe, left, right, merged) == -EEXIST)
        return bad_merge(l, rank, "repeats an earlier one");
    return 0;
}

static size_t count_elements(em_json list)
{
    size_t n = 0;
    while (em_tokenizer_next_element(&list)) {
        n++;
        em_json_skip(&list);
    }
    return n;
}

static int read_merges(loader *l)
{
    em_json j = l->file->merges;
    size_t n = count_elements(j);
    if (em_bpe_init(&l->tok->bpe, n) < 0)
        return out_of_memory(l);
    for (uint32_t rank = 0; em_tokenizer_next_element(&j); rank++) {
        int r = read_merge(l, &j, rank);
        if (r < 0)
            return r;
    }
    return find_byte_tokens(l);
}

/* --- added tokens ------------------------------------------------------------------------------------------- */

/* A flag of an added token: absent means false. */
static int read_flag(loader *l, const em_json *j, const char *spelling, size_t len, const char *flag, bool *ret)
{
    if (j->type != EM_JSON_TRUE && j->type != EM_JSON_FALSE && j->type != EM_JSON_END)
        return em_error_set(l->err, -EINVAL, "%s: added token \"%.*s\": %s must be true or false", l->file->name,
                            shown(len), spelling, flag);
    *ret = j->type == EM_JSON_TRUE;
    return 0;
}

static int read_flags(loader *l, const em_json *found, const char *spelling, size_t len, em_token *ret)
{
    static const char *const flags[] = {"special", "normalized", "lstrip", "rstrip", "single_word"};
    bool value[5] = {false};
    for (int i = 0; i < 5; i++) {
        int r = read_flag(l, &found[i], spelling, len, flags[i], &value[i]);
        if (r < 0)
            return r;
        if (i >= 2 && value[i])
            return em_error_set(l->err, -ENOTSUP, "%s: added token \"%.*s\" has %s, which is not supported",
                                l->file->name, shown(len), spelling, flags[i]);
    }
    ret->special = value[0];
    ret->normalized = value[1];
    return 0;
}

/* Puts the added token at its id. It may be in model.vocab too, under the same id. */
static int place_added(loader *l, const em_token *token, int32_t id)
{
    em_tokenizer *tok = l->tok;
    int32_t in_vocab = em_string_map_get(&l->vocab, token->raw, token->raw_len);
    if (in_vocab >= 0 && in_vocab != id)
        return em_error_set(l->err, -EINVAL, "%s: \"%.*s\" has id %d in model.vocab and %d in added_tokens",
                            l->file->name, shown(token->raw_len), token->raw, in_vocab, id);
    if (reserve_id(tok, id) < 0)
        return out_of_memory(l);
    int32_t old = em_string_map_add(&tok->added, token->raw, token->raw_len, id);
    if (old == -ENOMEM)
        return out_of_memory(l);
    if (old != id || tok->tokens[id].added)
        return em_error_set(l->err, -EINVAL, "%s: added_tokens has \"%.*s\" or its id %d twice", l->file->name,
                            shown(token->raw_len), token->raw, id);
    if (tok->tokens[id].raw && in_vocab < 0)
        return id_taken(l, id, token->raw, token->raw_len);
    tok->tokens[id] = *token;
    return 0;
}

static int read_added_token(loader *l, em_json *j)
{
    enum { FLAGS, CONTENT = 5, ID, N };
    static const char *const names[N] = {"special", "normalized", "lstrip", "rstrip", "single_word", "content", "id"};
    em_json found[N];
    int r = em_tokenizer_members(j, names, found, N, "an added token", l->file->name, l->err);
    if (r < 0)
        return r;
    size_t len;
    const char *spelling = keep_string(l->tok, &found[CONTENT], &len);
    if (!spelling || len == 0)
        return em_error_set(l->err, -EINVAL, "%s: an added token needs a content that is not empty", l->file->name);
    em_token token = {.raw = spelling,
                      .raw_len = (uint32_t)len,
                      .bytes = (const uint8_t *)spelling,
                      .n_bytes = (uint32_t)len,
                      .added = true};
    int32_t id;
    r = read_id(l, &found[ID], spelling, len, &id);
    if (r == 0)
        r = read_flags(l, &found[FLAGS], spelling, len, &token);
    return r < 0 ? r : place_added(l, &token, id);
}

/* The automaton of one kind of added tokens, spelled backwards. */
static int build_spellings(loader *l, bool normalized)
{
    em_tokenizer *tok = l->tok;
    size_t n = 0, n_bytes = 0;
    for (int32_t id = 0; id < tok->n_tokens; id++)
        if (tok->tokens[id].added && tok->tokens[id].normalized == normalized) {
            n++;
            n_bytes += tok->tokens[id].n_bytes;
        }
    em_ac_pattern *patterns = malloc((n + 1) * sizeof *patterns);
    uint8_t *bytes = malloc(n_bytes + 1), *at = bytes;
    int r = patterns && bytes ? 0 : -ENOMEM;
    n = 0;
    for (int32_t id = 0; r == 0 && id < tok->n_tokens; id++) {
        const em_token *t = &tok->tokens[id];
        if (!t->added || t->normalized != normalized)
            continue;
        patterns[n++] = (em_ac_pattern){.bytes = at, .len = t->n_bytes, .id = id};
        for (uint32_t i = 0; i < t->n_bytes; i++)
            *at++ = t->bytes[t->n_bytes - 1 - i];
    }
    if (r == 0)
        r = em_ac_init(&tok->spellings[normalized], patterns, n);
    free(bytes);
    free(patterns);
    if (r == -E2BIG)
        return em_error_set(l->err, r, "%s: added tokens of more than %u MiB are not supported", l->file->name,
                            EM_AC_MAX_BYTES >> 20);
    return r < 0 ? out_of_memory(l) : 0;
}

static int read_added_tokens(loader *l)
{
    em_json j = l->file->added_tokens;
    if (j.type == EM_JSON_ARRAY) {
        while (em_tokenizer_next_element(&j)) {
            em_json element = j;
            int r = read_added_token(l, &element);
            if (r < 0)
                return r;
            em_json_skip(&j);
        }
    }
    int r = build_spellings(l, false);
    return r < 0 ? r : build_spellings(l, true);
}

/* --- tokenizer_config.json ---------------------------------------------------------------------------------- */

#define CONFIG_NAME "tokenizer_config.json"

/* The id of bos_token, which is null, a string, or an added token with content. */
static int read_bos(loader *l, const em_json *j, int32_t *ret_id)
{
    static const char *const names[] = {"content"};
    em_json at = *j, content = *j;
    if (j->type == EM_JSON_OBJECT) {
        int r = em_tokenizer_members(&at, names, &content, 1, "bos_token", CONFIG_NAME, l->err);
        if (r < 0)
            return r;
    } else if (j->type == EM_JSON_END || j->type == EM_JSON_NULL) {
        *ret_id = -1;
        return 0;
    }
    if (content.type != EM_JSON_STRING)
        return em_error_set(l->err, -EINVAL, CONFIG_NAME ": bos_token must be a string or an object with content");
    if (reserve_text(l, content.raw_len + 1) < 0)
        return out_of_memory(l);
    size_t len;
    em_json_string(&content, l->text, l->text_cap, &len);
    int32_t id = em_string_map_get(&l->tok->added, l->text, len);
    *ret_id = id >= 0 ? id : em_string_map_get(&l->vocab, l->text, len);
    return 0;
}

static int read_config(loader *l, const char *json, size_t len)
{
    static const char *const names[] = {"add_bos_token", "bos_token"};
    em_json j, found[2];
    em_json_init(&j, json, len, 0);
    if (em_json_next(&j) != EM_JSON_ERROR) {
        int r = em_tokenizer_members(&j, names, found, 2, "the file", CONFIG_NAME, l->err);
        if (r < 0)
            return r;
    }
    if (j.type == EM_JSON_ERROR || em_json_next(&j) != EM_JSON_END)
        return em_error_set(l->err, -EINVAL, CONFIG_NAME " is not valid JSON: %s at byte %zu", em_json_error(&j),
                            em_json_offset(&j));
    em_json_type add = found[0].type;
    if (add != EM_JSON_TRUE && add != EM_JSON_FALSE && add != EM_JSON_NULL && add != EM_JSON_END)
        return em_error_set(l->err, -EINVAL, CONFIG_NAME ": add_bos_token must be true or false");
    l->tok->add_bos = add == EM_JSON_TRUE;
    int r = read_bos(l, &found[1], &l->tok->bos_id);
    if (r == 0 && l->tok->add_bos && l->tok->bos_id < 0)
        return em_error_set(l->err, -EINVAL, CONFIG_NAME ": add_bos_token is true, but bos_token is no token of %s",
                            l->file->name);
    return r;
}

/* --- the whole ---------------------------------------------------------------------------------------------- */

/* Fills l->tok; len is the file's length. */
static int load_all(loader *l, size_t len, const char *config_json, size_t config_len)
{
    em_tokenizer *tok = l->tok;
    tok->bos_id = -1;
    /* Unescaped strings are no longer than in the file, and each one's NUL has the room of a quote; twice, since the
     * bytes of a token are no longer than its string. Pages that nothing is written to cost nothing. */
    tok->arena_cap = 2 * len + 2;
    tok->arena = malloc(tok->arena_cap);
    if (!tok->arena || em_string_map_init(&l->vocab, len / 32) < 0 || em_string_map_init(&tok->added, 64) < 0)
        return out_of_memory(l);
    init_alphabet(l->byte_of);
    int r = read_vocab(l);
    if (r == 0)
        r = read_merges(l);
    if (r == 0)
        r = read_added_tokens(l);
    if (r == 0 && config_json)
        r = read_config(l, config_json, config_len);
    return r;
}

int em_tokenizer_parse(const char *json, size_t len, const char *config_json, size_t config_len, const char *name,
                       em_tokenizer **ret_tok, em_error *err)
{
    if (len > EM_TOKENIZER_MAX_FILE)
        return em_error_set(err, -EFBIG, "%s is larger than %u MiB", name, EM_TOKENIZER_MAX_FILE >> 20);
    em_tokenizer_file file;
    int r = em_tokenizer_check_file(json, len, name, &file, err);
    if (r < 0)
        return r;
    loader l = {.tok = calloc(1, sizeof *l.tok), .file = &file, .err = err};
    r = l.tok ? load_all(&l, len, config_json, config_len) : out_of_memory(&l);
    em_string_map_done(&l.vocab);
    free(l.text);
    if (r < 0)
        em_tokenizer_free(l.tok);
    else
        *ret_tok = l.tok;
    return r;
}

/* dir/file as a new string; NULL: out of memory. */
static char *join_path(const char *dir, const char *file)
{
    char *path;
    return asprintf(&path, "%s/%s", dir, file) < 0 ? NULL : path;
}

/* Reads dir/tokenizer_config.json if there is one; *ret_json NULL: none. */
static int load_config(const char *dir, char **ret_json, size_t *ret_len, em_error *err)
{
    char *path = join_path(dir, CONFIG_NAME);
    if (!path)
        return em_error_set(err, -ENOMEM, "out of memory while reading %s", dir);
    em_error why = {0};
    int r = em_file_read(path, MAX_CONFIG_FILE, ret_json, ret_len, &why);
    free(path);
    if (r == -ENOENT)
        return 0;
    return r < 0 ? em_error_set(err, r, "%s", why.text) : 0;
}

int em_tokenizer_load(const char *dir, em_tokenizer **ret_tok, em_error *err)
{
    char *json = NULL, *config = NULL;
    size_t len = 0, config_len = 0;
    char *path = join_path(dir, "tokenizer.json");
    if (!path)
        return em_error_set(err, -ENOMEM, "out of memory while reading %s", dir);
    int r = em_file_read(path, EM_TOKENIZER_MAX_FILE, &json, &len, err);
    if (r == 0)
        r = load_config(dir, &config, &config_len, err);
    if (r == 0)
        r = em_tokenizer_parse(json, len, config, config_len, path, ret_tok, err);
    free(config);
    free(json);
    free(path);
    return r;
}
