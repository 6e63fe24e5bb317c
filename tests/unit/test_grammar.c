/* The languages of constrained decoding: what each grammar takes, what is refused and with which words, and that no source
 * can take more time or memory than its limits give it. */
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <time.h>

#include "engine/base/buf.h"
#include "tests/unit/grammar_cases.h"

static em_grammar *compiled(const grammar_case *c)
{
    em_grammar *g = NULL;
    em_error err = {0};
    int rc = grammar_compile(c, NULL, NULL, &g, &err);
    ck_assert_msg(rc == 0, "%s: %s", c->source, err.text);
    return g;
}

/* Read a byte at a time: does the text belong to the grammar? */
static bool takes(em_grammar *g, const char *text, bool at_once)
{
    em_grammar_state *s;
    ck_assert_int_eq(em_grammar_state_new(g, 0, &s), 0);
    size_t len = strlen(text);
    bool ok = !at_once || !em_grammar_state_accept_bytes(s, text, len);
    for (size_t i = 0; i < len && ok && !at_once; i++)
        ok = !em_grammar_state_accept_bytes(s, text + i, 1);
    ok = ok && em_grammar_state_is_complete(s);
    em_grammar_state_free(s);
    return ok;
}

START_TEST(takes_and_refuses)
{
    const grammar_case *c = &grammar_cases[_i];
    em_grammar *g = compiled(c);
    for (int i = 0; c->yes[i]; i++)
        ck_assert_msg(takes(g, c->yes[i], false) && takes(g, c->yes[i], true), "%s should take %s", c->source,
                      c->yes[i]);
    for (int i = 0; c->no[i]; i++)
        ck_assert_msg(!takes(g, c->no[i], false) && !takes(g, c->no[i], true), "%s should refuse %s", c->source,
                      c->no[i]);
    em_grammar_unref(g);
}
END_TEST

START_TEST(choices)
{
    const char *texts[] = {"yes", "no", "yes, but", "\xc3\xa9"};
    const size_t lens[] = {3, 2, 8, 2};
    em_grammar *g;
    ck_assert_int_eq(em_grammar_compile_choice(texts, lens, 4, NULL, NULL, &g, NULL), 0);
    for (int i = 0; i < 4; i++)
        ck_assert(takes(g, texts[i], false));
    ck_assert(!takes(g, "ye", false) && !takes(g, "yes,", false) && !takes(g, "", false) && !takes(g, "nope", false));
    em_grammar_unref(g);
}
END_TEST

/* --- what is refused ---------------------------------------------------------------------------------------- */

static const struct {
    grammar_kind kind;
    const char *source, *says;
} refused[] = {
    {SCHEMA, "", "not JSON"},
    {SCHEMA, "{\"type\":", "not JSON"},
    {SCHEMA, "\"\xff\"", "UTF-8"},
    {SCHEMA, "3", "must be an object, true or false"},
    {SCHEMA, "false", "No text can satisfy"},
    {SCHEMA, "{\"type\":\"int\"}", "#/type"},
    {SCHEMA, "{\"type\":[\"string\",3]}", "#/type/1"},
    {SCHEMA, "{\"properties\":{\"a\":{\"multipleOf\":2}}}", "#/properties/a/multipleOf"},
    {SCHEMA, "{\"not\":{}}", "#/not"},
    {SCHEMA, "{\"if\":{},\"then\":{}}", "#/if"},
    {SCHEMA, "{\"patternProperties\":{}}", "#/patternProperties"},
    {SCHEMA, "{\"minProperties\":1}", "#/minProperties"},
    {SCHEMA, "{\"propertyNames\":{}}", "#/propertyNames"},
    {SCHEMA, "{\"type\":\"array\",\"uniqueItems\":true}", "#/uniqueItems"},
    {SCHEMA, "{\"type\":\"array\",\"contains\":{}}", "#/contains"},
    {SCHEMA, "{\"dependentRequired\":{}}", "#/dependentRequired"},
    {SCHEMA, "{\"items\":[{}]}", "prefixItems"},
    {SCHEMA, "{\"allOf\":[{},{}]}", "allOf"},
    {SCHEMA, "{\"$ref\":\"#/$defs/x\"}", "leads nowhere"},
    {SCHEMA, "{\"$ref\":\"http://x/y\"}", "not local"},
    {SCHEMA, "{\"$ref\":\"#/a\",\"minLength\":3}", "beside"},
    {SCHEMA, "{\"anyOf\":[{}],\"type\":\"string\"}", "beside"},
    {SCHEMA, "{\"enum\":[1],\"minimum\":0}", "beside"},
    {SCHEMA, "{\"$ref\":\"#\"}", "left recursion"},
    {SCHEMA, "{\"anyOf\":[{\"$ref\":\"#\"},{\"type\":\"null\"}]}", "left recursion"},
    {SCHEMA, "{\"type\":\"object\",\"properties\":{\"a\":{\"$ref\":\"#\"}},\"required\":[\"a\"]}",
     "No text can satisfy"},
    {SCHEMA, "{\"type\":\"object\",\"required\":[\"a\"],\"additionalProperties\":false}", "#/required/0"},
    {SCHEMA, "{\"type\":\"integer\",\"minimum\":3,\"maximum\":2}", "No text can satisfy"},
    {SCHEMA, "{\"type\":\"string\",\"minLength\":3,\"maxLength\":2}", "No text can satisfy"},
    {SCHEMA, "{\"type\":\"string\",\"minLength\":-1}", "whole number"},
    {SCHEMA, "{\"type\":\"string\",\"minLength\":1.5}", "whole number"},
    {SCHEMA, "{\"type\":\"string\",\"minLength\":\"1\"}", "must be a number"},
    {SCHEMA, "{\"exclusiveMinimum\":true}", "must be a number"},
    {SCHEMA, "{\"enum\":[]}", "No text can satisfy"},
    {SCHEMA, "{\"type\":\"string\",\"format\":\"uri\"}", "format"},
    {SCHEMA, "{\"type\":\"string\",\"pattern\":\"(\"}", "( without its )"},
    {SCHEMA, "{\"type\":\"string\",\"pattern\":\"^a$b\"}", "No text can satisfy"},
    {REGEX, "(a", "( without its )"},
    {REGEX, "a)", ") without its ("},
    {REGEX, "[a", "[ without its ]"},
    {REGEX, "[]", "empty set"},
    {REGEX, "[z-a]", "a above b"},
    {REGEX, "[a-\\d]", "ends in a set"},
    {REGEX, "*a", "nothing in front"},
    {REGEX, "a**", "repeat of a repeat"},
    {REGEX, "a*+", "possessive"},
    {REGEX, "a{3,2}", "n above m"},
    {REGEX, "a{x}", "brace"},
    {REGEX, "a{3", "does not end"},
    {REGEX, "}", "brace"},
    {REGEX, "^*", "anchor"},
    {REGEX, "(a)\\1", "back-reference"},
    {REGEX, "a(?=b)", "look-around"},
    {REGEX, "(?<!b)a", "look-around"},
    {REGEX, "(?i)a", "kind that is not supported"},
    {REGEX, "(?<n", "name does not end"},
    {REGEX, "\\bx", "word boundary"},
    {REGEX, "\\p{L}", "Unicode property"},
    {REGEX, "\\q", "\\q"},
    {REGEX, "\\ud800", "number"},
    {REGEX, "\\u{110000}", "number"},
    {REGEX, "\\x4", "number"},
    {REGEX, "a\\", "backslash"},
    {REGEX, "[^\\d\\D]", "holds none"},
    {REGEX, "\xc3", "UTF-8"},
    {EBNF, "", "does not begin with a rule"},
    {EBNF, "a ::= \"x\"", "root"},
    {EBNF, "root ::= x", "uses the rule x"},
    {EBNF, "root ::= \"a\"\nroot ::= \"b\"", "twice"},
    {EBNF, "root ::= \"a", "quote is not closed"},
    {EBNF, "root ::= \"a\n\"", "quote is not closed"},
    {EBNF, "root ::= (\"a\"", "( without its )"},
    {EBNF, "root ::= \"a\" )", "belongs to none"},
    {EBNF, "root ::= \"a\"{}", "empty {}"},
    {EBNF, "root ::= \"a\"{2", "{ without its }"},
    {EBNF, "root ::= \"\\d\"", "set of characters inside"},
    {EBNF, "root ::= &", "no name, text, set or group"},
    {EBNF, "root ::= %", "neither %json nor %until nor %without"},
    {EBNF, "root ::= %json", "without a whole { }"},
    {EBNF, "root ::= %json {\"a\":\"}", "without a whole { }"},
    {EBNF, "root ::= %json {\"multipleOf\":3}", "#/multipleOf"},
    {EBNF, "root ::= %until x", "without a text"},
    {EBNF, "root ::= %until \"\"", "empty text"},
    {EBNF, "root ::= root \"a\" | \"b\"", "left recursion"},
    {EBNF, "root ::= a\na ::= \"\" b\nb ::= c? a \"x\" | \"y\"\nc ::= \"z\"", "left recursion"},
    {EBNF, "root ::= \"a\" root", "No text can satisfy"},
};

START_TEST(refuses_with_a_reason)
{
    grammar_case c = {refused[_i].kind, refused[_i].source, {0}, {0}};
    em_grammar *g = NULL;
    em_error err = {0};
    int rc = grammar_compile(&c, NULL, NULL, &g, &err);
    ck_assert_msg(rc == -EINVAL && !g, "%s should be refused", c.source);
    ck_assert_msg(strstr(err.text, refused[_i].says) != NULL, "%s: %s", c.source, err.text);
    ck_assert_int_eq(err.text[strlen(err.text) - 1], '.');
    ck_assert_int_eq(grammar_compile(&c, NULL, NULL, &g, NULL), -EINVAL);
}
END_TEST

START_TEST(refuses_choices)
{
    const char *texts[] = {"a", ""};
    const size_t lens[] = {1, 0};
    em_grammar *g = NULL;
    em_error err = {0};
    ck_assert_int_eq(em_grammar_compile_choice(texts, lens, 0, NULL, NULL, &g, &err), -EINVAL);
    ck_assert_ptr_nonnull(strstr(err.text, "empty"));
    ck_assert_int_eq(em_grammar_compile_choice(texts, lens, 2, NULL, NULL, &g, &err), -EINVAL);
    ck_assert_ptr_nonnull(strstr(err.text, "Choice 2"));
}
END_TEST

/* --- limits ------------------------------------------------------------------------------------------------- */

/* With a limit of `fits` a source compiles, with one less it does not, and the sentence has that number. */
static void check_limit(grammar_kind kind, const char *source, uint32_t *limit, const em_grammar_limits *lim,
                        uint32_t fits)
{
    grammar_case c = {kind, source, {0}, {0}};
    em_grammar *g = NULL;
    em_error err = {0};
    char number[16];
    *limit = fits;
    ck_assert_msg(!grammar_compile(&c, lim, NULL, &g, &err), "%s within %u: %s", source, fits, err.text);
    g = em_grammar_unref(g);
    *limit = fits - 1;
    snprintf(number, sizeof(number), "%u", fits - 1);
    ck_assert_msg(grammar_compile(&c, lim, NULL, &g, &err) == -E2BIG && !g, "%s should pass %u", source, fits - 1);
    ck_assert_msg(strstr(err.text, number) != NULL, "%s: %s", source, err.text);
}

START_TEST(limits_of_sources)
{
    em_grammar_limits l = em_grammar_default_limits;
    check_limit(SCHEMA, STRING_ONLY, &l.source_bytes, &l, 17);
    check_limit(REGEX, "abc", &l.source_bytes, &l, 3);
    check_limit(EBNF, "root ::= \"a\"", &l.source_bytes, &l, 12);
    l = em_grammar_default_limits;
    check_limit(SCHEMA, "{\"items\":{\"items\":{}}}", &l.nesting, &l, 3);
    check_limit(REGEX, "(((a)))", &l.nesting, &l, 3);
    check_limit(EBNF, "root ::= ((\"a\"))", &l.nesting, &l, 2);
    l = em_grammar_default_limits;
    check_limit(SCHEMA, "{\"enum\":[1,2,3,{\"a\":[]}]}", &l.choices, &l, 4);
    l = em_grammar_default_limits;
    check_limit(REGEX, "a{7}", &l.repeat, &l, 7);
    check_limit(REGEX, "a{1,9}", &l.repeat, &l, 9);
    check_limit(EBNF, "root ::= \"a\"{5,}", &l.repeat, &l, 5);
    check_limit(SCHEMA, "{\"type\":\"array\",\"minItems\":6}", &l.repeat, &l, 6);
    check_limit(SCHEMA, "{\"type\":\"array\",\"maxItems\":6}", &l.repeat, &l, 6);
    check_limit(SCHEMA, "{\"type\":\"string\",\"pattern\":\"a\",\"maxLength\":5}", &l.repeat, &l, 5);
    l = em_grammar_default_limits;
    check_limit(SCHEMA, "{\"type\":\"string\",\"minLength\":20}", &l.string_length, &l, 20);
}
END_TEST

/* Limits whose exact use is nobody's business: a small one refuses, the default does not. */
static void check_small(grammar_kind kind, const char *source, const em_grammar_limits *lim, const char *says)
{
    grammar_case c = {kind, source, {0}, {0}};
    em_grammar *g = NULL;
    em_error err = {0};
    ck_assert_msg(!grammar_compile(&c, NULL, NULL, &g, &err), "%s: %s", source, err.text);
    g = em_grammar_unref(g);
    ck_assert_msg(grammar_compile(&c, lim, NULL, &g, &err) == -E2BIG && !g, "%s should pass a limit", source);
    ck_assert_msg(strstr(err.text, says) != NULL, "%s: %s", source, err.text);
}

START_TEST(limits_of_compiling)
{
    em_grammar_limits l = em_grammar_default_limits;
    l.nodes = 40;
    check_small(SCHEMA,
                "{\"enum\":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31,32,"
                "33,34,35,36,37,38,39,40]}",
                &l, "40 values");
    check_small(SCHEMA, "{\"type\":\"object\"}", &l, "40 expressions");
    l.nodes = 20;
    check_small(
        EBNF,
        "root ::= a b c d e f g h i j k l m n o\na::=\"a\"b::=\"b\"c::=\"c\"d::=\"d\"e::=\"e\"f::=\"f\"g::=\"g\""
        "h::=\"h\"i::=\"i\"j::=\"j\"k::=\"k\"l::=\"l\"m::=\"m\"n::=\"n\"o::=\"o\"",
        &l, "20 expressions");
    l = em_grammar_default_limits;
    l.nfa_states = 100;
    check_small(REGEX, "a{100}", &l, "100 places");
    check_small(SCHEMA, "{\"type\":\"array\",\"minItems\":60}", &l, "100 places");
    l = em_grammar_default_limits;
    l.states = 100;
    check_small(REGEX, "(abc){50}", &l, "100 states");
    check_small(EBNF, "root ::= \"a\" b\nb ::= \"xxxxxxxxxxxxxxxxxxxx\" b{0,200} | \"y\"", &l, "100 states");
    l = em_grammar_default_limits;
    l.steps = 1000;
    check_small(REGEX, "(a|b){200}", &l, "1000 steps");
    check_small(SCHEMA, "{\"type\":\"object\"}", &l, "1000 steps");
    l = em_grammar_default_limits;
    l.stack = 2;
    check_small(
        EBNF,
        "root ::= \"a\" a \"b\"\na ::= \"a\" b \"b\" | \"x\" a\nb ::= \"c\" c \"d\" | \"x\" b\nc ::= \"e\" d \"f\" | "
        "\"x\" c\nd ::= \"g\" | \"x\" d \"x\"",
        &l, "2 rules open");
}
END_TEST

START_TEST(limits_of_choices)
{
    const char *texts[] = {"a", "bc"};
    const size_t lens[] = {1, 2};
    em_grammar_limits l = em_grammar_default_limits;
    em_grammar *g = NULL;
    em_error err = {0};
    l.choices = 1;
    ck_assert_int_eq(em_grammar_compile_choice(texts, lens, 2, &l, NULL, &g, &err), -E2BIG);
    l.choices = 2;
    l.source_bytes = 2;
    ck_assert_int_eq(em_grammar_compile_choice(texts, lens, 2, &l, NULL, &g, &err), -E2BIG);
    ck_assert_ptr_nonnull(strstr(err.text, "2 bytes"));
    l.source_bytes = 3;
    ck_assert_int_eq(em_grammar_compile_choice(texts, lens, 2, &l, NULL, &g, &err), 0);
    em_grammar_unref(g);
}
END_TEST

START_TEST(limit_of_stack)
{
    em_grammar_limits l = em_grammar_default_limits;
    grammar_case c = {SCHEMA, "{}", {0}, {0}};
    em_grammar *g;
    em_grammar_state *s;
    l.stack = 12;
    ck_assert_int_eq(grammar_compile(&c, &l, NULL, &g, NULL), 0);
    ck_assert_int_eq(em_grammar_state_new(g, 0, &s), 0);
    int depth = 0;
    while (depth < 100 && !em_grammar_state_accept_bytes(s, "[", 1))
        depth++;
    ck_assert_int_ge(depth, 10);
    ck_assert_int_le(depth, 14);
    ck_assert_int_eq(em_grammar_state_accept_bytes(s, "[", 1), -EINVAL);
    ck_assert_uint_eq(em_grammar_state_min_bytes(s), (uint32_t)depth); /* and it can be left again */
    while (depth--)
        ck_assert_int_eq(em_grammar_state_accept_bytes(s, "]", 1), 0);
    ck_assert(em_grammar_state_is_final(s));
    em_grammar_state_free(s);
    em_grammar_unref(g);
}
END_TEST

START_TEST(limit_of_readings)
{
    em_grammar_limits l = em_grammar_default_limits;
    grammar_case c = {
        EBNF,
        "root ::= \"x\" (a|b|c|d)\na ::= \"x\" a \"1\" | \"y\"\nb ::= \"x\" b \"2\" | \"y\"\nc ::= \"x\" c \"3\" | "
        "\"y\"\nd ::= \"x\" d \"4\" | \"y\"",
        {0},
        {0}};
    em_grammar *g;
    em_grammar_state *s;
    l.readings = 8;
    ck_assert_int_eq(grammar_compile(&c, &l, NULL, &g, NULL), 0);
    ck_assert_int_eq(em_grammar_state_new(g, 0, &s), 0);
    ck_assert_int_eq(em_grammar_state_accept_bytes(s, "xxy1", 4), 0);
    em_grammar_state_free(s);
    em_grammar_unref(g);
    l.readings = 4;
    ck_assert_int_eq(grammar_compile(&c, &l, NULL, &g, NULL), 0);
    ck_assert_int_eq(em_grammar_state_new(g, 0, &s), 0);
    ck_assert_int_eq(em_grammar_state_accept_bytes(s, "x", 1), -E2BIG);
    em_grammar_state_free(s);
    em_grammar_unref(g);
}
END_TEST

/* --- hostile sources ---------------------------------------------------------------------------------------- */

static void repeat(em_buf *b, const char *s, int n)
{
    while (n-- > 0)
        em_buf_puts(b, s);
}

/* Sources made to cost much. Each is either refused with a sentence or becomes a grammar, soon. */
static void make_hostile(int which, grammar_kind *kind, em_buf *b)
{
    *kind = which < 8 ? REGEX : which < 15 ? SCHEMA : EBNF;
    switch (which) {
    case 0: em_buf_puts(b, "((a{1,4096}){1,4096}){1,4096}"); break;
    case 1: em_buf_puts(b, "(a|b)*a(a|b){200}"); break;
    case 2: em_buf_puts(b, "(.*a.*b.*c.*d.*e.*f.*g.*h.*i.*j.*){3}"); break;
    case 3: repeat(b, "(", 200000); break;
    case 4: repeat(b, "(a?", 90), repeat(b, "){0,50}", 90); break;
    case 5: repeat(b, "[\\w\\W]{0,4096}", 60000); break;
    case 6: repeat(b, "a|", 400000); break;
    case 7: em_buf_puts(b, "(\\w+\\s?)+(\\w*.\\w*){300}[^x]{4000}"); break;
    case 8: repeat(b, "[", 100000); break;
    case 9: repeat(b, "{\"items\":", 99), em_buf_puts(b, "{}"), repeat(b, "}", 99); break;
    case 10: /* each definition uses the next twice */
        em_buf_puts(b, "{\"$ref\":\"#/$defs/0\",\"$defs\":{");
        for (int i = 0; i < 60; i++)
            em_buf_printf(b, "\"%d\":{\"anyOf\":[{\"$ref\":\"#/$defs/%d\"},{\"$ref\":\"#/$defs/%d\"}]},", i, i + 1,
                          i + 1);
        em_buf_puts(b, "\"60\":{\"type\":\"null\"}}}");
        break;
    case 11: /* many optional members, and others */
        em_buf_puts(b, "{\"additionalProperties\":{\"type\":\"null\"},\"properties\":{\"\":{}");
        for (int i = 0; i < 20000; i++)
            em_buf_printf(b, ",\"%d\":{}", i);
        em_buf_puts(b, "}}");
        break;
    case 12: /* alternatives whose members run side by side */
        em_buf_puts(b, "{\"anyOf\":[{}");
        for (int i = 0; i < 60; i++) {
            em_buf_puts(b, ",{\"properties\":{\"k0\":{}");
            for (int k = 1; k < 60; k++)
                em_buf_printf(b, ",\"k%d\":{\"maxLength\":%d}", k, i + k * i % 7);
            em_buf_puts(b, "}}");
        }
        em_buf_puts(b, "]}");
        break;
    case 13: em_buf_puts(b, "{\"type\":\"string\",\"pattern\":\"(a|b)*a(a|b){30}\",\"maxLength\":4000}"); break;
    case 14:
        em_buf_puts(b, "{\"enum\":[0");
        for (int i = 0; i < 15000; i++)
            em_buf_printf(b, ",\"%032d\"", i * 7919);
        em_buf_puts(b, "]}");
        break;
    case 15: /* each rule uses the next twice, none is recursive */
        em_buf_puts(b, "root ::= r0\n");
        for (int i = 0; i < 200; i++)
            em_buf_printf(b, "r%d ::= r%d r%d\n", i, i + 1, i + 1);
        em_buf_puts(b, "r200 ::= \"a\"?\n");
        break;
    case 16: /* a chain of rules that may be empty */
        em_buf_puts(b, "root ::= r0\n");
        for (int i = 0; i < 20000; i++)
            em_buf_printf(b, "r%d ::= r%d?\n", i, i + 1);
        em_buf_puts(b, "r20000 ::= \"a\"\n");
        break;
    case 17: em_buf_puts(b, "root ::= s\ns ::= \"a\" s s | \"a\" s | \"a\""); break;
    case 18: em_buf_puts(b, "root ::= \"x\"{4096}{4096}{4096}"); break;
    default: em_buf_puts(b, "root ::= ((\"a\"*)*)* ((.*)*)* s\ns ::= (. s .)? (s2 .)*\ns2 ::= . s2 | . ."); break;
    }
}

START_TEST(hostile_sources_end_soon)
{
    em_buf source = {0};
    grammar_kind kind;
    make_hostile(_i, &kind, &source);
    ck_assert(!source.failed);
    grammar_case c = {kind, source.data, {0}, {0}};
    em_grammar *g = NULL;
    em_error err = {0};
    clock_t start = clock();
    int rc = grammar_compile(&c, NULL, NULL, &g, &err);
    double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
    printf("hostile %d: %d in %.2f s %s\n", _i, rc, seconds, err.text);
    ck_assert_msg(rc == 0 || ((rc == -E2BIG || rc == -EINVAL) && err.text[0]), "%d: %d", _i, rc);
    ck_assert_msg(seconds < 20, "%d took %.1f s", _i, seconds); /* sanitizers are slow; without them it is below 2 */
    em_grammar_unref(g);
    em_buf_done(&source);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("grammar");
    TCase *tc = tcase_create("grammar");
    tcase_add_loop_test(tc, takes_and_refuses, 0, N_GRAMMAR_CASES);
    tcase_add_test(tc, choices);
    tcase_add_loop_test(tc, refuses_with_a_reason, 0, (int)(sizeof(refused) / sizeof(refused[0])));
    tcase_add_test(tc, refuses_choices);
    tcase_add_test(tc, limits_of_sources);
    tcase_add_test(tc, limits_of_compiling);
    tcase_add_test(tc, limits_of_choices);
    tcase_add_test(tc, limit_of_stack);
    tcase_add_test(tc, limit_of_readings);
    tcase_add_loop_test(tc, hostile_sources_end_soon, 0, 20);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
