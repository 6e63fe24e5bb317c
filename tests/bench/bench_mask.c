/* What a token mask costs a step: walks through typical schemas with the tokenizer of 129,280 ids. Times are those of the
 * thread itself, so that the worst is that of the work and not of whoever else runs on the machine.
 *
 *   bench_mask TOKENIZER_DIR [--walks N] [--seed N] [--json]
 *
 * Each step computes one mask and accepts one of its tokens at random. Grammars are compiled as a server would, so the
 * first walk of each meets a cold machine but prepared masks; nothing is left out of the figures. Prints, per schema and
 * in all: time to compile, average and worst time of a mask, average time of an accept. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/base/rng.h"
#include "tests/support/grammar_vocab.h"

enum { VOCAB = 129280, WORDS = VOCAB / 64, MAX_TOKENS = 400 };

typedef struct source {
    const char *name, *kind, *text;
} source;

static const source sources[] = {
    {"person", "schema",
     "{\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\"},\"age\":{\"type\":\"integer\",\"minimum\":0,"
     "\"maximum\":150},\"email\":{\"type\":\"string\",\"format\":\"email\"},\"tags\":{\"type\":\"array\",\"items\":"
     "{\"type\":\"string\"}}},\"required\":[\"name\",\"age\"],\"additionalProperties\":false}"},
    {"tool calls", "schema",
     "{\"anyOf\":[{\"type\":\"object\",\"properties\":{\"name\":{\"const\":\"get_weather\"},\"arguments\":{\"type\":"
     "\"object\",\"properties\":{\"city\":{\"type\":\"string\"},\"unit\":{\"enum\":[\"celsius\",\"fahrenheit\"]}},"
     "\"required\":[\"city\"],\"additionalProperties\":false}},\"required\":[\"name\",\"arguments\"],"
     "\"additionalProperties\":false},{\"type\":\"object\",\"properties\":{\"name\":{\"const\":\"search\"},"
     "\"arguments\":"
     "{\"type\":\"object\",\"properties\":{\"query\":{\"type\":\"string\",\"maxLength\":200},\"limit\":{\"type\":"
     "\"integer\"}},\"required\":[\"query\"],\"additionalProperties\":false}},\"required\":[\"name\",\"arguments\"],"
     "\"additionalProperties\":false}]}"},
    {"recursive tree", "schema",
     "{\"$ref\":\"#/$defs/"
     "node\",\"$defs\":{\"node\":{\"type\":\"object\",\"properties\":{\"value\":{\"type\":\"number\"},"
     "\"children\":{\"type\":\"array\",\"items\":{\"$ref\":\"#/$defs/node\"}}},\"required\":[\"value\",\"children\"],"
     "\"additionalProperties\":false}}}"},
    {"open object", "schema",
     "{\"type\":\"object\",\"properties\":{\"id\":{\"type\":\"string\",\"format\":\"uuid\"},\"kind\":{\"enum\":[\"a\","
     "\"b\",\"c\"]}},\"required\":[\"id\"],\"additionalProperties\":{\"type\":[\"string\",\"number\",\"null\"]}}"},
    {"any object", "object", ""},
    {"invoice", "schema",
     "{\"type\":\"object\",\"properties\":{\"number\":{\"type\":\"string\",\"pattern\":\"^INV-[0-9]{6}$\"},\"date\":"
     "{\"type\":\"string\",\"format\":\"date\"},\"lines\":{\"type\":\"array\",\"minItems\":1,\"maxItems\":20,\"items\":"
     "{\"type\":\"object\",\"properties\":{\"text\":{\"type\":\"string\",\"minLength\":1,\"maxLength\":80},"
     "\"quantity\":"
     "{\"type\":\"integer\",\"minimum\":1},\"price\":{\"type\":\"number\",\"exclusiveMinimum\":0,\"maximum\":100000}},"
     "\"required\":[\"text\",\"quantity\",\"price\"],\"additionalProperties\":false}},\"paid\":{\"type\":\"boolean\"}},"
     "\"required\":[\"number\",\"date\",\"lines\",\"paid\"],\"additionalProperties\":false}"},
    {"words regex", "regex", "([A-Z][a-z]{1,15} ){2,6}[0-9]{4}-[0-9]{2}"},
    {"arithmetic", "ebnf", "root ::= sum\nsum ::= term (\" + \" term)*\nterm ::= [0-9]+ | \"(\" sum \")\"\n"},
};

typedef struct figures {
    double mask_s, worst_s, accept_s, compile_s;
    uint64_t steps;
} figures;

static double now_s(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

static void die(const char *what, const char *why)
{
    fprintf(stderr, "bench_mask: %s%s%s\n", what, *why ? ": " : "", why);
    exit(1);
}

static em_grammar *compile(const source *s, const em_grammar_vocab *v)
{
    em_grammar *g = NULL;
    em_error err = {0};
    size_t len = strlen(s->text);
    int rc = *s->kind == 's'   ? em_grammar_compile_json_schema(s->text, len, NULL, v, &g, &err)
             : *s->kind == 'r' ? em_grammar_compile_regex(s->text, len, NULL, v, &g, &err)
             : *s->kind == 'e' ? em_grammar_compile_ebnf(s->text, len, NULL, v, &g, &err)
                               : em_grammar_compile_json_object(NULL, v, &g, &err);
    if (rc)
        die(s->name, err.text);
    return g;
}

static void walk(em_grammar *g, uint64_t seed, uint32_t walk_no, figures *f)
{
    static uint64_t mask[WORDS];
    em_grammar_state *s;
    if (em_grammar_state_new(g, 0, &s))
        die("out of memory", "");
    for (uint32_t i = 0; i < MAX_TOKENS && !em_grammar_state_is_final(s); i++) {
        double t0 = now_s();
        if (em_grammar_state_fill_mask(s, mask))
            die("a mask failed", "");
        double t1 = now_s();
        uint64_t r = em_rng_u64(seed, walk_no, i, 0);
        uint32_t n = grammar_mask_count(mask, WORDS), id = grammar_mask_nth(mask, WORDS, (uint32_t)(r % n));
        double t2 = now_s();
        if (em_grammar_state_accept_token(s, id))
            die("an allowed token was refused", "");
        f->accept_s += now_s() - t2;
        f->mask_s += t1 - t0;
        f->worst_s = t1 - t0 > f->worst_s ? t1 - t0 : f->worst_s;
        f->steps++;
    }
    em_grammar_state_free(s);
}

static void report(const char *name, const figures *f, bool json, bool last)
{
    double n = (double)(f->steps ? f->steps : 1);
    if (json)
        printf("{\"name\": \"%s\", \"steps\": %llu, \"compile_ms\": %.2f, \"mask_us\": %.2f, \"worst_us\": %.1f, "
               "\"accept_us\": %.2f}%s\n",
               name, (unsigned long long)f->steps, f->compile_s * 1e3, f->mask_s / n * 1e6, f->worst_s * 1e6,
               f->accept_s / n * 1e6, last ? "" : ",");
    else
        printf("%-16s %7llu steps  compile %7.2f ms  mask %6.2f us, worst %7.1f us  accept %5.2f us\n", name,
               (unsigned long long)f->steps, f->compile_s * 1e3, f->mask_s / n * 1e6, f->worst_s * 1e6,
               f->accept_s / n * 1e6);
}

static figures run(const source *s, const em_grammar_vocab *v, uint32_t walks, uint64_t seed)
{
    figures f = {0};
    double t0 = now_s();
    em_grammar *g = compile(s, v);
    f.compile_s = now_s() - t0;
    for (uint32_t w = 0; w < walks; w++)
        walk(g, seed, w, &f);
    em_grammar_unref(g);
    return f;
}

int main(int argc, char **argv)
{
    uint32_t walks = 30;
    uint64_t seed = 1;
    bool json = false;
    em_tokenizer *tok;
    em_error err = {0};
    if (argc < 2)
        die("usage: bench_mask TOKENIZER_DIR [--walks N] [--seed N] [--json]", "");
    for (int i = 2; i < argc; i++) {
        if (!strcmp(argv[i], "--json"))
            json = true;
        else if (!strcmp(argv[i], "--walks") && i + 1 < argc)
            walks = (uint32_t)strtoul(argv[++i], NULL, 10);
        else if (!strcmp(argv[i], "--seed") && i + 1 < argc)
            seed = strtoull(argv[++i], NULL, 10);
        else
            die("unknown argument", argv[i]);
    }
    if (em_tokenizer_load(argv[1], &tok, &err))
        die("no tokenizer", err.text);
    double t0 = now_s();
    em_grammar_vocab *v = grammar_vocab_of(tok, VOCAB, 1);
    if (!v)
        die("out of memory", "");
    figures all = {.compile_s = now_s() - t0};
    printf(json ? "{\"seed\": %llu, \"vocab_ms\": %.1f, \"grammars\": [\n" : "seed %llu, vocabulary made in %.1f ms\n",
           (unsigned long long)seed, all.compile_s * 1e3);
    all.compile_s = 0;
    for (size_t i = 0; i < sizeof(sources) / sizeof(sources[0]); i++) {
        figures f = run(&sources[i], v, walks, seed);
        report(sources[i].name, &f, json, false);
        all.steps += f.steps;
        all.mask_s += f.mask_s;
        all.accept_s += f.accept_s;
        all.compile_s += f.compile_s;
        all.worst_s = f.worst_s > all.worst_s ? f.worst_s : all.worst_s;
    }
    report("all", &all, json, true);
    if (json)
        printf("]}\n");
    em_grammar_vocab_free(v);
    em_tokenizer_free(tok);
    return 0;
}
