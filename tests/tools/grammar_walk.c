/* Random walks through grammars, for scripts that judge what comes out.
 *
 *   grammar_walk TOKENIZER_DIR|bytes [--tokens N] [--seed N]
 *
 * Reads a line of JSON for each grammar from standard input: {"kind": "schema", "regex", "ebnf" or "object", "source":
 * TEXT, "walks": N}. Writes a line for each: {"error": SENTENCE}, or {"texts": [...], "forced": [...], "costly": N}: the
 * texts, of each whether its end had to be forced to keep within the tokens, and how many had to be ended because a mask
 * passed its limit. Every token is drawn evenly from those allowed; of
 * every budget grammar.h's rule is kept, so every walk must end complete. Exits with 1 when one does not. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/buf.h"
#include "engine/base/json.h"
#include "engine/base/rng.h"
#include "tests/support/grammar_vocab.h"

typedef struct rig {
    em_tokenizer *tok;
    em_grammar_vocab *vocab;
    uint32_t n_words, end, max_tokens;
    uint64_t seed, *mask;
    uint32_t *forced_ids; /* [max_tokens] */
    uint32_t walk_no;
    uint32_t n_costly; /* walks of this grammar that met a mask beyond its limit */
} rig;

static void die(const char *what, const char *why)
{
    fprintf(stderr, "grammar_walk: %s%s%s\n", what, *why ? ": " : "", why);
    exit(1);
}

static void must(bool ok, const char *what)
{
    if (!ok)
        die(what, "");
}

static void append_token(const rig *r, uint32_t id, em_buf *text)
{
    size_t len = 1;
    uint8_t byte = (uint8_t)id;
    const uint8_t *bytes = r->tok ? em_tokenizer_bytes(r->tok, (int32_t)id, &len) : &byte;
    must(!em_buf_append(text, bytes, len), "out of memory");
}

/* The completion takes the place of what was drawn. */
static void force_end(const rig *r, em_grammar_state *s, uint32_t budget, em_buf *text)
{
    uint32_t n = 0;
    must(!em_grammar_state_completion(s, r->forced_ids, budget, &n), "there was room for a completion, and then not");
    for (uint32_t i = 0; i < n; i++) {
        must(!em_grammar_state_accept_token(s, r->forced_ids[i]), "a completion was refused");
        append_token(r, r->forced_ids[i], text);
    }
    must(em_grammar_state_is_complete(s), "a completion does not complete");
}

static bool fits(const rig *r, em_grammar_state *s, uint32_t budget)
{
    uint32_t n;
    return em_grammar_state_min_bytes(s) <= budget || !em_grammar_state_completion(s, r->forced_ids, budget, &n);
}

/* One walk; returns whether its end was forced. */
static bool walk(rig *r, em_grammar *g, em_buf *text)
{
    em_grammar_state *s;
    bool forced = false;
    must(!em_grammar_state_new(g, 1, &s), "out of memory");
    must(fits(r, s, r->max_tokens), "the shortest text takes more tokens than there are");
    for (uint32_t left = r->max_tokens; left && !forced; left--) {
        int rc = em_grammar_state_fill_mask(s, r->mask);
        if (rc == -E2BIG) { /* too ambiguous from here on; the way out that the header promises is still there */
            force_end(r, s, left, text);
            forced = true;
            r->n_costly++;
            break;
        }
        must(!rc, "a mask failed");
        uint32_t n = grammar_mask_count(r->mask, r->n_words);
        must(n > 0, "a mask is empty");
        uint64_t draw = em_rng_u64(r->seed, r->walk_no, left, 0);
        uint32_t id = grammar_mask_nth(r->mask, r->n_words, (uint32_t)(draw % n));
        if (em_grammar_state_is_complete(s) && (draw >> 32) % 4 == 0) /* ends come more often than one in n */
            id = r->end;
        must(!em_grammar_state_accept_token(s, id), "an allowed token was refused");
        if (id == r->end)
            break;
        if (!fits(r, s, left - 1)) {
            must(!em_grammar_state_rollback(s, 1), "no way back");
            force_end(r, s, left, text);
            forced = true;
        } else {
            append_token(r, id, text);
        }
    }
    must(em_grammar_state_is_complete(s), "a walk ends before its text is complete");
    em_grammar_state_free(s);
    r->walk_no++;
    return forced;
}

typedef struct order {
    char kind[16];
    char *source;
    size_t source_len;
    int64_t walks;
} order;

static void read_order(const char *line, size_t len, order *ret)
{
    em_json j;
    em_json_init(&j, line, len, 0);
    *ret = (order){.walks = 1};
    must(em_json_next(&j) == EM_JSON_OBJECT, "a line is no object");
    while (em_json_next(&j) == EM_JSON_KEY) {
        bool kind = em_json_is(&j, "kind"), source = em_json_is(&j, "source");
        em_json_type type = em_json_next(&j);
        if (kind) {
            must(!em_json_string(&j, ret->kind, sizeof(ret->kind), NULL), "a kind is too long");
        } else if (source) {
            ret->source = malloc(j.raw_len + 1);
            must(ret->source && !em_json_string(&j, ret->source, j.raw_len + 1, &ret->source_len), "out of memory");
        } else {
            must(type == EM_JSON_NUMBER && !em_json_i64(&j, &ret->walks), "walks must be a number");
        }
    }
    must(ret->source && *ret->kind, "a line lacks kind or source");
}

static int compile(const rig *r, const order *o, em_grammar **ret_g, em_error *err)
{
    if (!strcmp(o->kind, "schema"))
        return em_grammar_compile_json_schema(o->source, o->source_len, NULL, r->vocab, ret_g, err);
    if (!strcmp(o->kind, "regex"))
        return em_grammar_compile_regex(o->source, o->source_len, NULL, r->vocab, ret_g, err);
    if (!strcmp(o->kind, "ebnf"))
        return em_grammar_compile_ebnf(o->source, o->source_len, NULL, r->vocab, ret_g, err);
    must(!strcmp(o->kind, "object"), "an unknown kind");
    return em_grammar_compile_json_object(NULL, r->vocab, ret_g, err);
}

static void serve(rig *r, const char *line, size_t len)
{
    order o;
    em_error err = {0};
    em_grammar *g;
    em_buf out = {0}, text = {0}, flags = {0};
    read_order(line, len, &o);
    if (compile(r, &o, &g, &err)) {
        em_buf_puts(&out, "{\"error\": ");
        em_buf_json_string(&out, err.text, strlen(err.text));
    } else {
        em_buf_puts(&out, "{\"texts\": [");
        r->n_costly = 0;
        for (int64_t i = 0; i < o.walks; i++) {
            em_buf_clear(&text);
            em_buf_puts(&flags, i ? ", " : "");
            em_buf_puts(&flags, walk(r, g, &text) ? "true" : "false");
            em_buf_puts(&out, i ? ", " : "");
            em_buf_json_string(&out, text.data ? text.data : "", text.len);
        }
        em_buf_puts(&out, "], \"forced\": [");
        em_buf_append(&out, flags.data, flags.len);
        em_buf_printf(&out, "], \"costly\": %u", r->n_costly);
        em_grammar_unref(g);
    }
    em_buf_puts(&out, "}");
    must(!out.failed && puts(out.data) >= 0 && !fflush(stdout), "the output failed");
    em_buf_done(&out);
    em_buf_done(&text);
    em_buf_done(&flags);
    free(o.source);
}

static void open_vocab(rig *r, const char *where)
{
    em_error err = {0};
    if (!strcmp(where, "bytes")) {
        r->vocab = grammar_vocab_bytes();
        r->end = 256;
    } else if (em_tokenizer_load(where, &r->tok, &err)) {
        die("no tokenizer", err.text);
    } else {
        r->end = 0; /* the first id of the family is a control token, no text */
        r->vocab = grammar_vocab_of(r->tok, (uint32_t)em_tokenizer_size(r->tok), r->end);
    }
    must(r->vocab != NULL, "out of memory");
    r->n_words = (em_grammar_vocab_size(r->vocab) + 63) / 64;
    r->mask = calloc(r->n_words, sizeof(*r->mask));
    r->forced_ids = calloc((size_t)r->max_tokens + 1, sizeof(*r->forced_ids));
    must(r->mask && r->forced_ids, "out of memory");
}

int main(int argc, char **argv)
{
    rig r = {.max_tokens = 512, .seed = 1};
    if (argc < 2)
        die("usage: grammar_walk TOKENIZER_DIR|bytes [--tokens N] [--seed N]", "");
    for (int i = 2; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--tokens"))
            r.max_tokens = (uint32_t)strtoul(argv[i + 1], NULL, 10);
        else if (!strcmp(argv[i], "--seed"))
            r.seed = strtoull(argv[i + 1], NULL, 10);
        else
            die("unknown argument", argv[i]);
    }
    open_vocab(&r, argv[1]);
    char *line = NULL;
    size_t cap = 0;
    for (ssize_t len; (len = getline(&line, &cap, stdin)) > 0;)
        serve(&r, line, (size_t)len - (line[len - 1] == '\n'));
    free(line);
    free(r.mask);
    free(r.forced_ids);
    em_grammar_vocab_free(r.vocab);
    em_tokenizer_free(r.tok);
    return 0;
}
