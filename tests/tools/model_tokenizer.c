/* tokenizer.json of the DeepSeek structure: 3 special tokens, the byte alphabet, merges, 6 added tokens. */
#include <stdlib.h>
#include <string.h>

#include "engine/base/utf8.h"
#include "tests/tools/model_writer.h"

/* A token as its byte-alphabet string. */
typedef struct piece {
    char text[48];
    uint8_t len;
} piece;

#define MAX_PIECE 24 /* bytes of text a merge may reach; two of them fit a piece */

static const char *const specials[] = {"<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"};
static const char *const added[] = {"<｜System｜>", "<｜User｜>", "<｜Assistant｜>", "<think>", "</think>", "｜DSML｜"};

/* The i-th character of the byte alphabet, in the order of its code points: bytes that print stand for themselves, the
 * others follow from U+0100 on. */
static uint32_t alphabet(int i)
{
    static const int range[][2] = {{'!', '~'}, {0xa1, 0xac}, {0xae, 0xff}};
    for (int k = 0; k < 3; k++) {
        int n = range[k][1] - range[k][0] + 1;
        if (i < n)
            return (uint32_t)(range[k][0] + i);
        i -= n;
    }
    return 0x100u + (uint32_t)i;
}

static bool taken(const piece *p, const int32_t *table, uint32_t mask, const char *text, size_t len, uint32_t *ret_at)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < len; i++)
        h = (h ^ (uint8_t)text[i]) * 0x100000001b3u;
    uint32_t at = (uint32_t)(h ^ h >> 32) & mask;
    for (; table[at] >= 0; at = (at + 1) & mask)
        if (p[table[at]].len == len && memcmp(p[table[at]].text, text, len) == 0)
            return true;
    *ret_at = at;
    return false;
}

/* Where merges start: letters of both cases (so that classes of the token map have several members), the space, and
 * some bytes of two-byte characters. */
static int32_t draw_atom(model_rng *r, const piece *p)
{
    static const char often[] = "eeetttaaoonniisshrrdlucmfwygpbvkETAOINSH";
    uint64_t v = model_rng_next(r);
    if (v % 16 == 0)
        return 3 + (int32_t)(v / 16 % 256);
    char c = often[v / 16 % (sizeof(often) - 1)];
    if (v % 16 < 4) { /* the space: U+0120 */
        for (int32_t i = 3; i < 259; i++)
            if (memcmp(p[i].text, "\xc4\xa0", 3) == 0)
                return i;
    }
    return 3 + (c - '!');
}

/* Fills p[259 .. 259 + n_merges) with new strings, each the join of two earlier ones. Returns how many there are. */
static int32_t draw_merges(model_rng *r, piece *p, int32_t n_merges, int32_t (*pair)[2], int32_t *table, uint32_t mask)
{
    int32_t n = 259;
    for (int64_t tries = 0; n < 259 + n_merges && tries < 200 * (int64_t)n_merges + 1000; tries++) {
        bool grow = n > 259 && model_rng_next(r) % 3;
        int32_t a = grow ? 259 + model_rng_range(r, 0, n - 260) : draw_atom(r, p), b = draw_atom(r, p);
        if (n > 700 && model_rng_next(r) % 4 == 0)
            b = 259 + model_rng_range(r, 0, n - 260);
        piece join = {.len = (uint8_t)(p[a].len + p[b].len)};
        if (join.len > MAX_PIECE || memcmp(p[b].text, "\xc4\xa0", 2) == 0)
            continue; /* words begin with their space */
        memcpy(join.text, p[a].text, p[a].len);
        memcpy(join.text + p[a].len, p[b].text, p[b].len);
        uint32_t at;
        if (taken(p, table, mask, join.text, join.len, &at))
            continue;
        table[at] = n;
        pair[n - 259][0] = a;
        pair[n - 259][1] = b;
        p[n++] = join;
    }
    return n;
}

static void put_added(em_buf *out, int32_t id, const char *content, bool special, bool last)
{
    em_buf_printf(out,
                  "{\"id\": %d, \"content\": \"%s\", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, "
                  "\"normalized\": %s, "
                  "\"special\": %s}%s",
                  id, content, special ? "false" : "true", special ? "true" : "false", last ? "" : ",\n");
}

static void put_frame(em_buf *out)
{
    em_buf_puts(
        out, "\"normalizer\": {\"type\": \"Sequence\", \"normalizers\": []},\n"
             "\"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [\n"
             "{\"type\": \"Split\", \"pattern\": {\"Regex\": \"\\\\p{N}{1,3}\"}, \"behavior\": \"Isolated\", "
             "\"invert\": false},\n"
             "{\"type\": \"Split\", \"pattern\": {\"Regex\": \"[一-龥\\u3040-ゟ゠-ヿ]+\"}, \"behavior\": \"Isolated\", "
             "\"invert\": false},\n"
             "{\"type\": \"Split\", \"pattern\": {\"Regex\": "
             "\"[!\\\"#$%&'()*+,\\\\-./:;<=>?@\\\\[\\\\\\\\\\\\]^_`{|}~][A-Za-z]+|"
             "[^\\r\\n\\\\p{L}\\\\p{P}\\\\p{S}]?[\\\\p{L}\\\\p{M}]+| "
             "?[\\\\p{P}\\\\p{S}]+[\\r\\n]*|\\\\s*[\\r\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"}, "
             "\"behavior\": \"Isolated\", \"invert\": false},\n"
             "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, \"use_regex\": false}]},\n"
             "\"post_processor\": {\"type\": \"ByteLevel\", \"add_prefix_space\": true, \"trim_offsets\": false, "
             "\"use_regex\": true},\n"
             "\"decoder\": {\"type\": \"ByteLevel\", \"add_prefix_space\": true, \"trim_offsets\": true, "
             "\"use_regex\": true},\n");
}

static void put_model(em_buf *out, const piece *p, int32_t n, int32_t (*pair)[2])
{
    em_buf_puts(
        out,
        "\"model\": {\"type\": \"BPE\", \"dropout\": null, \"unk_token\": null, \"continuing_subword_prefix\": null, "
        "\"end_of_word_suffix\": null, \"fuse_unk\": false, \"byte_fallback\": false, \"vocab\": {");
    for (int32_t i = 0; i < n; i++) {
        em_buf_puts(out, i ? ",\n" : "\n");
        em_buf_json_string(out, i < 3 ? specials[i] : p[i].text, i < 3 ? strlen(specials[i]) : p[i].len);
        em_buf_printf(out, ": %d", i);
    }
    em_buf_puts(out, "},\n\"merges\": [");
    for (int32_t i = 0; i < n - 259; i++) {
        char text[sizeof(piece) * 2];
        size_t a = p[pair[i][0]].len, b = p[pair[i][1]].len;
        memcpy(text, p[pair[i][0]].text, a);
        text[a] = ' ';
        memcpy(text + a + 1, p[pair[i][1]].text, b);
        em_buf_puts(out, i ? ",\n" : "\n");
        em_buf_json_string(out, text, a + 1 + b);
    }
    em_buf_puts(out, "]}}\n");
}

void model_tokenizer_json(int32_t n_ids, uint64_t seed, em_buf *out)
{
    int32_t n_merges = n_ids - MODEL_MIN_TOKENIZER;
    uint32_t mask = 1;
    while (mask < 4 * (uint32_t)n_ids)
        mask *= 2;
    mask--;
    piece *p = calloc((size_t)n_ids, sizeof(*p));
    int32_t(*pair)[2] = calloc((size_t)n_ids, sizeof(*pair)), *table = malloc(((size_t)mask + 1) * sizeof(*table));
    if (p && pair && table) {
        memset(table, 0xff, ((size_t)mask + 1) * sizeof(*table));
        for (int i = 0; i < 256; i++)
            p[3 + i].len = (uint8_t)em_utf8_encode(alphabet(i), (uint8_t *)p[3 + i].text);
        model_rng r = model_rng_init(seed, "tokenizer");
        int32_t n = draw_merges(&r, p, n_merges, pair, table, mask);
        em_buf_puts(out, "{\"version\": \"1.0\", \"truncation\": null, \"padding\": null, \"added_tokens\": [\n");
        for (int32_t i = 0; i < 3; i++)
            put_added(out, i, specials[i], true, false);
        for (int32_t i = 0; i < 6; i++)
            put_added(out, n + i, added[i], false, i == 5);
        em_buf_puts(out, "],\n");
        put_frame(out);
        put_model(out, p, n, pair);
    } else {
        out->failed = true;
    }
    free(p);
    free(pair);
    free(table);
}

void model_tokenizer_config_json(bool add_bos, em_buf *out)
{
    em_buf_printf(out,
                  "{\"add_bos_token\": %s, \"add_eos_token\": false,\n"
                  "\"bos_token\": {\"__type\": \"AddedToken\", \"content\": \"%s\", \"lstrip\": false, \"normalized\": "
                  "true, \"rstrip\": false, "
                  "\"single_word\": false},\n"
                  "\"eos_token\": {\"__type\": \"AddedToken\", \"content\": \"%s\", \"lstrip\": false, \"normalized\": "
                  "true, \"rstrip\": false, "
                  "\"single_word\": false},\n"
                  "\"clean_up_tokenization_spaces\": false, \"tokenizer_class\": \"PreTrainedTokenizerFast\"}\n",
                  add_bos ? "true" : "false", specials[0], specials[1]);
}
