/* Grammars with texts that they take and texts that they do not, for the tests of constrained decoding. */
#ifndef EM_TESTS_GRAMMAR_CASES_H
#define EM_TESTS_GRAMMAR_CASES_H

#include <stdlib.h>
#include <string.h>

#include "engine/grammar/grammar.h"

typedef enum grammar_kind { SCHEMA, REGEX, EBNF, OBJECT } grammar_kind;

typedef struct grammar_case {
    grammar_kind kind;
    const char *source;
    const char *yes[12]; /* NULL-terminated */
    const char *no[12];
} grammar_case;

#define STRING_ONLY "{\"type\":\"string\"}"
#define TREE                                                                                                           \
    "{\"$ref\":\"#/$defs/t\",\"$defs\":{\"t\":{\"anyOf\":[{\"type\":\"null\"},{\"type\":\"object\",\"properties\":"    \
    "{\"v\":{\"type\":\"integer\"},\"l\":{\"$ref\":\"#/$defs/t\"},\"r\":{\"$ref\":\"#/$defs/t\"}},\"required\":"       \
    "[\"v\",\"l\"],\"additionalProperties\":false}]}}}"
#define SHAPES                                                                                                         \
    "{\"oneOf\":[{\"type\":\"object\",\"properties\":{\"kind\":{\"const\":\"circle\"},\"r\":{\"type\":\"number\"}},"   \
    "\"required\":[\"kind\",\"r\"],\"additionalProperties\":false},{\"type\":\"object\",\"properties\":{\"kind\":"     \
    "{\"const\":\"square\"},\"side\":{\"type\":\"integer\"}},\"required\":[\"kind\",\"side\"],"                        \
    "\"additionalProperties\":false},{\"type\":\"array\",\"items\":{\"type\":\"boolean\"}}]}"

static const grammar_case grammar_cases[] = {
    /* scalars */
    {SCHEMA, "{\"type\":\"null\"}", {"null"}, {"", "nul", "nulll", " null", "null ", "\"null\""}},
    {SCHEMA, "{\"type\":\"boolean\"}", {"true", "false"}, {"t", "True", "0"}},
    {SCHEMA,
     STRING_ONLY,
     {"\"\"", "\"a\"", "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "\"\\u0000\\uD7ff\"", "\"\\ud83D\\uDe00\"",
      "\"\xf0\x9f\x98\x80\"", "\"\x7f\"", "\"\xe2\x80\xa8\"", "\"\\ue000\""},
     {"\"", "\"\n\"", "\"\x1f\"", "\"\\x\"", "\"\\ud800\"", "\"\\udc00\"", "\"\\ud800\\u0041\"", "\"\xc0\x80\"",
      "\"\xed\xa0\x80\"", "\"\xf4\x90\x80\x80\"", "\"\\u00g0\""}},
    {SCHEMA,
     "{\"type\":\"string\",\"minLength\":2,\"maxLength\":3}",
     {"\"ab\"", "\"abc\"", "\"\xf0\x9f\x98\x80\xf0\x9f\x98\x80\"", "\"\\ud83d\\ude00\\u0041\\n\""},
     {"\"\"", "\"a\"", "\"abcd\"", "\"\\n\"", "\"\xc3\xa9\""}},
    {SCHEMA, "{\"type\":\"string\",\"maxLength\":0}", {"\"\""}, {"\"a\"", "\"\\n\""}},
    {SCHEMA, "{\"type\":[\"string\",\"null\"],\"maxLength\":1}", {"null", "\"a\"", "\"\""}, {"\"ab\"", "1"}},
    {SCHEMA,
     "{\"type\":\"integer\"}",
     {"0", "-1", "12345678901234567890"},
     {"-0", "00", "01", "1.0", "1e2", "+1", "-"}},
    {SCHEMA,
     "{\"type\":\"number\"}",
     {"0", "-0", "-0.5", "1e5", "1E+05", "2.50", "1e-1"},
     {".5", "1.", "01", "1e", "1e+"}},
    /* bounds */
    {SCHEMA,
     "{\"type\":\"integer\",\"minimum\":-5,\"maximum\":120}",
     {"-5", "-1", "0", "9", "10", "99", "100", "119", "120"},
     {"-6", "-10", "121", "130", "200", "1000", "-0", "00", "01", "-"}},
    {SCHEMA,
     "{\"type\":\"integer\",\"exclusiveMinimum\":9,\"exclusiveMaximum\":1.2e1}",
     {"10", "11"},
     {"9", "12", "1", "101"}},
    {SCHEMA,
     "{\"type\":\"integer\",\"minimum\":-9223372036854775808,\"maximum\":9223372036854775807}",
     {"-9223372036854775808", "9223372036854775807", "0", "-1", "9223372036854775799"},
     {"9223372036854775808", "-9223372036854775809", "10000000000000000000"}},
    {SCHEMA, "{\"type\":\"integer\",\"minimum\":1.5,\"maximum\":3.99}", {"2", "3"}, {"1", "4", "2.0"}},
    {SCHEMA, "{\"type\":\"integer\",\"maximum\":-3}", {"-3", "-4", "-30", "-100"}, {"-2", "-1", "0", "3"}},
    {SCHEMA,
     "{\"type\":\"number\",\"minimum\":0,\"exclusiveMaximum\":1}",
     {"0", "0.0", "0.5", "0.999"},
     {"1", "1.0", "-0", "-0.0", "0.", "1e-1"}},
    {SCHEMA,
     "{\"type\":\"number\",\"exclusiveMinimum\":-1.25,\"maximum\":2.5e0}",
     {"-1.2", "-1.24999", "-1", "-0.5", "0", "2.5", "2.50", "2.4999"},
     {"-1.25", "-1.250", "-1.3", "2.51", "2.501", "3", "-2", "-0"}},
    {SCHEMA,
     "{\"type\":\"number\",\"exclusiveMinimum\":0.3}",
     {"0.31", "0.300000000000001", "1", "30"},
     {"0.3", "0.30", "0.2", "0", "-1"}},
    {SCHEMA,
     "{\"type\":\"number\",\"minimum\":100,\"maximum\":100}",
     {"100", "100.0", "100.000"},
     {"100.1", "99.9", "1e2"}},
    {SCHEMA, "{\"minimum\":3,\"exclusiveMinimum\":3,\"maximum\":5,\"type\":\"integer\"}", {"4", "5"}, {"3", "6"}},
    /* fixed values */
    {SCHEMA,
     "{\"enum\":[\"a\",\"ab\",1,1.50,null,[1,{\"x\":\"\\u00e9\\n\"}]]}",
     {"\"a\"", "\"ab\"", "1", "1.50", "null", "[1,{\"x\":\"\xc3\xa9\\n\"}]"},
     {"\"\"", "\"abc\"", "1.5", "[1, {\"x\":\"\xc3\xa9\\n\"}]", "2"}},
    {SCHEMA, "{\"type\":\"integer\",\"enum\":[1,2.0,2.5,\"x\"]}", {"1", "2.0"}, {"2.5", "\"x\"", "2"}},
    {SCHEMA, "{\"const\":{\"a\":[]}}", {"{\"a\":[]}"}, {"{\"a\": []}", "{}"}},
    /* patterns */
    {SCHEMA,
     "{\"type\":\"string\",\"pattern\":\"b\"}",
     {"\"b\"", "\"abc\"", "\"\\n\\\"b\"",
      "\"\xc3\xa9"
      "b\""},
     {"\"\"", "\"a\"", "\"\\u0062\""}},
    {SCHEMA,
     "{\"type\":\"string\",\"pattern\":\"^a|b$\"}",
     {"\"a\"", "\"ax\"", "\"xb\"", "\"b\""},
     {"\"xa\"", "\"bx\""}},
    {SCHEMA,
     "{\"type\":\"string\",\"pattern\":\"^[\\\"\\\\\\\\\\n]{2}$\"}",
     {"\"\\\"\\\\\"", "\"\\n\\n\""},
     {"\"\\\"\"", "\"aa\""}},
    {SCHEMA,
     "{\"type\":\"string\",\"pattern\":\"^(ab)*$\",\"minLength\":3,\"maxLength\":7}",
     {"\"abab\"", "\"ababab\""},
     {"\"\"", "\"ab\"", "\"abababab\"", "\"aba\""}},
    {SCHEMA,
     "{\"type\":\"string\",\"format\":\"date\"}",
     {"\"2024-12-31\"", "\"1999-02-28\""},
     {"\"2024-13-01\"", "\"2024-02-30\"", "\"24-01-01\"", "\"2024-04-31\""}},
    {SCHEMA,
     "{\"type\":\"string\",\"format\":\"uuid\"}",
     {"\"123e4567-e89b-12d3-a456-426614174000\""},
     {"\"123e4567\""}},
    /* arrays */
    {SCHEMA,
     "{\"type\":\"array\",\"items\":{\"type\":\"integer\"}}",
     {"[]", "[ ]", "[1]", "[ 1,\n2, 3\n]", "[1,2]"},
     {"[,]", "[1,]", "[  ]", "[1 ,2]", "[\"\"]", "[1", "[1]]"}},
    {SCHEMA,
     "{\"type\":\"array\",\"items\":{\"type\":\"null\"},\"minItems\":1,\"maxItems\":3}",
     {"[null]", "[null,null,null]"},
     {"[]", "[null,null,null,null]"}},
    {SCHEMA,
     "{\"type\":\"array\",\"items\":{\"type\":\"null\"},\"minItems\":2}",
     {"[null,null]", "[null,null,null,null]"},
     {"[]", "[null]"}},
    {SCHEMA, "{\"type\":\"array\",\"maxItems\":0}", {"[]", "[\n]"}, {"[1]"}},
    {SCHEMA,
     "{\"prefixItems\":[{\"type\":\"null\"},{\"type\":\"boolean\"}],\"items\":{\"type\":\"integer\"}}",
     {"[]", "[null]", "[null,true]", "[null,true,1,2]"},
     {"[true]", "[null,1]", "[null,true,null]"}},
    {SCHEMA,
     "{\"type\":\"array\",\"prefixItems\":[{\"type\":\"null\"}],\"items\":false}",
     {"[]", "[null]"},
     {"[null,null]"}},
    /* objects */
    {SCHEMA,
     "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"null\"},\"b\":{\"type\":\"null\"},\"c\":{\"type\":"
     "\"null\"}},"
     "\"required\":[\"b\"]}",
     {"{\"b\":null}", "{ \"a\": null, \"b\": null,\n\"c\":null\n}", "{\"b\":null,\"c\":null}"},
     {"{}", "{\"a\":null}", "{\"b\":null,\"a\":null}", "{\"b\":null,\"d\":null}", "{\"b\":null,}", "{\"b\" :null}",
      "{\"\\u0062\":null}"}},
    {SCHEMA,
     "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"null\"},\"ab\":{\"type\":\"null\"}},"
     "\"additionalProperties\":{\"type\":\"integer\"}}",
     {"{}", "{\"a\":null}", "{\"\":1}", "{\"abc\":1,\"b\":2}", "{\"a\":null,\"ab\":null,\"x\\n\xc3\xa9\":1}",
      "{\"aa\":1}"},
     {"{\"a\":1}", "{\"ab\":1}", "{\"x\":null}", "{\"b\":1,\"a\":null}", "{\"\\u0061\":1}"}},
    {SCHEMA,
     "{\"type\":\"object\",\"properties\":{\"\xc3\xa9\\\"\":{\"type\":\"null\"}},\"required\":[\"\\u00e9\\\"\"]}",
     {"{\"\xc3\xa9\\\"\":null}"},
     {"{}", "{\"\\u00e9\\\"\":null}"}},
    {SCHEMA,
     "{\"type\":\"object\",\"required\":[\"x\",\"y\"]}",
     {"{\"x\":1,\"y\":[{}]}", "{\"x\":1,\"y\":2,\"z\":3}"},
     {"{}", "{\"y\":1,\"x\":2}", "{\"x\":1}"}},
    {SCHEMA, "{\"type\":\"object\",\"properties\":{\"a\":false,\"b\":true}}", {"{}", "{\"b\":[1]}"}, {"{\"a\":1}"}},
    {SCHEMA, "{\"type\":\"object\",\"properties\":{}}", {"{}", "{ }", "{\n}"}, {"{\"a\":1}"}},
    {SCHEMA,
     "{\"type\":\"object\",\"additionalProperties\":{\"type\":\"boolean\"}}",
     {"{}", "{\"a\":true,\"\\u0061\":false}"},
     {"{\"a\":1}"}},
    /* putting together */
    {SCHEMA, "{}", {"1", "{\"a\":[null,true,{\"b\":\"c\"}]}", "\"\"", "[[[]]]"}, {"", "[", "{\"a\"}", "tru"}},
    {SCHEMA, "true", {"[]", "{}", "-1.5e3"}, {"[1 2]"}},
    {SCHEMA, "{\"title\":\"T\",\"description\":\"d\",\"default\":3,\"type\":\"integer\"}", {"3"}, {"\"3\""}},
    {SCHEMA,
     "{\"anyOf\":[{\"type\":\"integer\"},{\"type\":\"array\",\"items\":{\"$ref\":\"#\"}}]}",
     {"1", "[]", "[1,[2,[]]]"},
     {"[[}", "\"\""}},
    {SCHEMA, TREE, {"null", "{\"v\":1,\"l\":{\"v\":2,\"l\":null},\"r\":null}"}, {"{\"v\":1}", "{\"v\":1,\"l\":1}"}},
    {SCHEMA,
     SHAPES,
     {"{\"kind\":\"circle\",\"r\":0.5}", "{\"kind\":\"square\",\"side\":2}", "[true, false]"},
     {"{\"kind\":\"circle\",\"side\":2}", "{\"kind\":\"c\"}", "{\"r\":1}"}},
    {SCHEMA, "{\"allOf\":[{\"$ref\":\"#/$defs/a~1b%20c\"}],\"$defs\":{\"a/b c\":{\"const\":1}}}", {"1"}, {"2"}},
    {OBJECT, "", {"{}", "{\"a\": {\"b\": [1, \"x\"]}}"}, {"[]", "1", "{\"a\":}", "{\"a\":1}}"}},
    /* regular expressions */
    {REGEX, "a(b|c)*d{2,3}", {"add", "abcbddd"}, {"ad", "adddd", "xadd", "addx"}},
    {REGEX, "^(?:foo|ba[rz])$|x?", {"foo", "bar", "baz", "x", ""}, {"fo", "xx", "foox"}},
    {REGEX, "\\d+\\.\\d{1,2}", {"1.5", "12.34"}, {"1.", ".5", "1.345", "\xd9\xa3.1"}},
    {REGEX, "[^a-c\\d]\\w\\S", {"xx!", "\xc3\xa9_x"}, {"axx", "1xx", "x\xc3\xa9x", "xx "}},
    {REGEX, ".{2}", {"ab", "\xe7\x8c\xab\xf0\x9f\x98\x80"}, {"a", "a\n", "abc"}},
    {REGEX,
     "\\u00e9\\x41\\u{1F600}\\ud83d\\ude00\\t",
     {"\xc3\xa9"
      "A\xf0\x9f\x98\x80\xf0\x9f\x98\x80\t"},
     {"e"}},
    {REGEX, "(a*)*(a|aa)+?", {"a", "aaaa"}, {"", "b"}},
    {REGEX, "(a|b)*a(a|b){12}", {"abbbbbbbbbbbb", "bbabababababababa"}, {"a", "bbbbbbbbbbbbb"}},
    /* merged, two million states: it forks instead */
    {REGEX,
     "(a|b)*a(a|b){20}",
     {"abbbbbbbbbbbbbbbbbbbb", "bbababababababababababababa"},
     {"a", "bbbbbbbbbbbbbbbbbbbbb"}},
    {REGEX, "(x+x+)+y", {"xxy", "xxxxxxxxxxxxxxxxxxxxxxxxxxxxy"}, {"xy", "xxxxxxxxxxxxxxxxxxxxxxxxxxxxx"}},
    {REGEX, "(?P<y>\\d{4})-(?<m>[01]\\d)", {"2024-12"}, {"2024-22", "202-12"}},
    {REGEX, "[\\w.-]+@([a-z]+\\.)+[a-z]{2,}", {"a.b-c@x.yz", "q@a.b.cc"}, {"@a.bb", "a@b", "a@b.c"}},
    /* EBNF */
    {EBNF,
     "root ::= sum # a comment\nsum ::= term ((\"+\" | '-') term)*\nterm ::= [0-9]+ | \"(\" sum \")\"\n",
     {"1", "1+2", "(1-(22))+3"},
     {"", "+", "(1", "1)"}},
    {EBNF, "root ::= \"a\" root \"b\" | \"\"", {"", "ab", "aaabbb"}, {"a", "aab", "ba"}},
    {EBNF,
     "root ::= pal\npal ::= \"a\" pal \"a\" | \"b\" pal \"b\" | \"c\"",
     {"c", "abcba", "bacab"},
     {"ab", "abcab", "aca "}},
    {EBNF,
     "root ::= (item \"\\n\"){2,3}\nitem ::= \"- \" [^\\n]+",
     {"- a\n- b\n", "- a\n- b\n- \xc3\xa9\n"},
     {"- a\n", "- \n- b\n"}},
    {EBNF,
     "root ::= a b? c\na ::= \"x\"?\nb ::= \"x\" b | \"y\"\nc ::= \"\" | \"z\"",
     {"", "x", "xy", "xxy", "xz", "y", "xxxyz"},
     {"xx", "zz", "yx"}},
    {EBNF,
     "root ::= \"\\u00e9\\x41\\\"\" . end\nend ::= '\\n'{0,2}",
     {"\xc3\xa9"
      "A\"x",
      "\xc3\xa9"
      "A\"\n\n\n"},
     {"\xc3\xa9"
      "A\"",
      "x"}},
    {EBNF,
     "root ::= \"<\" name \">\" %until \"</p>\" tail?\nname ::= [a-z]+\ntail ::= %json {\"enum\":[1,\"}\\\"\"]}",
     {"<a></p>", "<a>x<</p>1", "<b></</p>\"}\\\"\"", "<c>\xc3\xa9\n</p>"},
     {"<a>", "<a></p></p>", "<a></p>2", "<a>\xc3</p>"}},
    {EBNF,
     "root ::= %until 'aba' | \"(\" %json {\"type\":\"array\",\"items\":{\"$ref\":\"#\"}} \")\"",
     {"aba", "aaba", "xyaba", "([[],[[]]])"},
     {"ababa", "ab", "([)", "(1)"}},
};

#define N_GRAMMAR_CASES ((int)(sizeof(grammar_cases) / sizeof(grammar_cases[0])))

static inline int grammar_compile(const grammar_case *c, const em_grammar_limits *limits, const em_grammar_vocab *vocab,
                                  em_grammar **ret_g, em_error *err)
{
    size_t len = strlen(c->source);
    switch (c->kind) {
    case SCHEMA: return em_grammar_compile_json_schema(c->source, len, limits, vocab, ret_g, err);
    case REGEX: return em_grammar_compile_regex(c->source, len, limits, vocab, ret_g, err);
    case EBNF: return em_grammar_compile_ebnf(c->source, len, limits, vocab, ret_g, err);
    case OBJECT: break;
    }
    return em_grammar_compile_json_object(limits, vocab, ret_g, err);
}

#endif
