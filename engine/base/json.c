/* The pull reader: a pushdown automaton over the text. `expect` holds what the grammar allows next, `kind` the open
 * brackets. */
#include "engine/base/json.h"

#include <errno.h>
#include <string.h>

#include "engine/base/utf8.h"

enum expect {
    EXPECT_VALUE,        /* top level, or after a comma in an array */
    EXPECT_VALUE_OR_END, /* right after [ */
    EXPECT_KEY_OR_END,   /* right after { */
    EXPECT_KEY,          /* after a comma in an object */
    EXPECT_COLON,        /* after a key: the colon, then a value */
    EXPECT_COMMA_OR_END, /* after a value inside brackets */
    EXPECT_NOTHING,      /* after the top-level value */
};

void em_json_init(em_json *j, const char *text, size_t len, unsigned max_depth)
{
    if (max_depth == 0 || max_depth > EM_JSON_MAX_DEPTH)
        max_depth = EM_JSON_MAX_DEPTH;
    *j = (em_json){.start = text, .p = text, .end = text + len, .max_depth = max_depth, .expect = EXPECT_VALUE};
}

static em_json_type fail(em_json *j, const char *what)
{
    j->error = what;
    return j->type = EM_JSON_ERROR;
}

static void skip_space(em_json *j)
{
    while (j->p < j->end && (*j->p == ' ' || *j->p == '\n' || *j->p == '\r' || *j->p == '\t'))
        j->p++;
}

/* A value is complete: what may follow depends on where it stood. */
static em_json_type value_done(em_json *j, em_json_type type)
{
    j->expect = j->depth ? EXPECT_COMMA_OR_END : EXPECT_NOTHING;
    return j->type = type;
}

static em_json_type open_bracket(em_json *j, uint8_t kind)
{
    if (j->depth == j->max_depth)
        return fail(j, "nested too deeply");
    j->kind[j->depth++] = kind;
    j->p++;
    j->expect = kind == '{' ? EXPECT_KEY_OR_END : EXPECT_VALUE_OR_END;
    return j->type = kind == '{' ? EM_JSON_OBJECT : EM_JSON_ARRAY;
}

static em_json_type close_bracket(em_json *j)
{
    uint8_t kind = j->kind[--j->depth];
    j->p++;
    return value_done(j, kind == '{' ? EM_JSON_OBJECT_END : EM_JSON_ARRAY_END);
}

/* Four hex digits at p, or -1. */
static int hex4(const char *p, const char *end)
{
    if (end - p < 4)
        return -1;
    int v = 0;
    for (int i = 0; i < 4; i++) {
        char c = p[i];
        int d = c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
        if (d < 0)
            return -1;
        v = v * 16 + d;
    }
    return v;
}

/* Reads the escape at p (the backslash). Returns its length in the text and the code point, or 0 when malformed. */
static size_t read_escape(const char *p, const char *end, uint32_t *ret_cp)
{
    static const char plain[] = "\"\\/bfnrt", meaning[] = "\"\\/\b\f\n\r\t";
    if (end - p < 2)
        return 0;
    if (p[1] != 'u') {
        const char *at = p[1] ? strchr(plain, p[1]) : NULL;
        if (!at)
            return 0;
        *ret_cp = (uint8_t)meaning[at - plain];
        return 2;
    }
    int hi = hex4(p + 2, end);
    if (hi < 0 || (hi >= 0xdc00 && hi <= 0xdfff))
        return 0;
    if (hi < 0xd800 || hi > 0xdbff) {
        *ret_cp = (uint32_t)hi;
        return 6;
    }
    int lo = end - p >= 12 && p[6] == '\\' && p[7] == 'u' ? hex4(p + 8, end) : -1;
    if (lo < 0xdc00 || lo > 0xdfff)
        return 0; /* half a surrogate pair is no character */
    *ret_cp = 0x10000u + (((uint32_t)hi - 0xd800u) << 10) + ((uint32_t)lo - 0xdc00u);
    return 12;
}

/* Checks the string that starts at j->p (a quote) and leaves raw around its inside. */
static bool scan_string(em_json *j)
{
    const char *p = j->p + 1;
    j->escaped = j->has_nul = false;
    for (;;) {
        while (p < j->end && (uint8_t)*p >= 0x20 && (uint8_t)*p < 0x80 && *p != '"' && *p != '\\')
            p++;
        uint32_t cp;
        if (p == j->end) {
            j->p = p;
            j->error = "a string has no end";
        } else if (*p == '"') {
            j->raw = j->p + 1;
            j->raw_len = (size_t)(p - j->raw);
            j->p = p + 1;
            return true;
        } else if (*p == '\\') {
            size_t n = read_escape(p, j->end, &cp);
            j->p = n ? j->p : p;
            j->error = n ? NULL : "a bad escape in a string";
            j->escaped = true;
            j->has_nul |= n && cp == 0;
            p += n;
        } else if ((uint8_t)*p < 0x20) {
            j->p = p;
            j->error = "a raw control character in a string";
        } else {
            int n = em_utf8_decode((const uint8_t *)p, (size_t)(j->end - p), &cp);
            j->p = n > 0 ? j->p : p;
            j->error = n > 0 ? NULL : "ill-formed UTF-8 in a string";
            p += n > 0 ? n : 0;
        }
        if (j->error)
            return false;
    }
}

static const char *skip_digits(const char *p, const char *end)
{
    while (p < end && *p >= '0' && *p <= '9')
        p++;
    return p;
}

static em_json_type scan_number(em_json *j)
{
    const char *p = j->p, *end = j->end;
    if (*p == '-')
        p++;
    const char *digits = p;
    p = skip_digits(p, end);
    if (p == digits)
        return fail(j, "a malformed number");
    if (*digits == '0' && p - digits > 1)
        return fail(j, "a number with a leading zero");
    if (p < end && *p == '.') {
        digits = ++p;
        p = skip_digits(p, end);
        if (p == digits)
            return fail(j, "a number without digits after its point");
    }
    if (p < end && (*p == 'e' || *p == 'E')) {
        p++;
        if (p < end && (*p == '+' || *p == '-'))
            p++;
        digits = p;
        p = skip_digits(p, end);
        if (p == digits)
            return fail(j, "a number without digits in its exponent");
    }
    j->raw = j->p;
    j->raw_len = (size_t)(p - j->p);
    j->p = p;
    return value_done(j, EM_JSON_NUMBER);
}

static em_json_type scan_word(em_json *j, const char *word, size_t len, em_json_type type)
{
    if ((size_t)(j->end - j->p) < len || memcmp(j->p, word, len) != 0)
        return fail(j, "expected a value");
    j->p += len;
    return value_done(j, type);
}

static em_json_type scan_value(em_json *j)
{
    switch (*j->p) {
    case '{':
    case '[': return open_bracket(j, (uint8_t)*j->p);
    case '"': return scan_string(j) ? value_done(j, EM_JSON_STRING) : fail(j, j->error);
    case 't': return scan_word(j, "true", 4, EM_JSON_TRUE);
    case 'f': return scan_word(j, "false", 5, EM_JSON_FALSE);
    case 'n': return scan_word(j, "null", 4, EM_JSON_NULL);
    case '-':
    case '0' ... '9': return scan_number(j);
    default: return fail(j, "expected a value");
    }
}

static em_json_type scan_key(em_json *j)
{
    if (*j->p != '"')
        return fail(j, "expected a member name in quotes");
    if (!scan_string(j))
        return fail(j, j->error);
    j->expect = EXPECT_COLON;
    return j->type = EM_JSON_KEY;
}

/* After a value inside brackets: a comma and the next member or element, or the end. */
static em_json_type scan_after_value(em_json *j)
{
    bool in_object = j->kind[j->depth - 1] == '{';
    if (*j->p == (in_object ? '}' : ']'))
        return close_bracket(j);
    if (*j->p != ',')
        return fail(j, in_object ? "expected a comma or }" : "expected a comma or ]");
    j->p++;
    skip_space(j);
    if (j->p == j->end)
        return fail(j, "the text ends too early");
    return in_object ? scan_key(j) : scan_value(j);
}

em_json_type em_json_next(em_json *j)
{
    if (j->type == EM_JSON_ERROR)
        return EM_JSON_ERROR;
    skip_space(j);
    if (j->expect == EXPECT_NOTHING)
        return j->p == j->end ? (j->type = EM_JSON_END) : fail(j, "something follows the value");
    if (j->p == j->end)
        return fail(j, j->p == j->start ? "the text is empty" : "the text ends too early");
    switch ((enum expect)j->expect) {
    case EXPECT_VALUE_OR_END: return *j->p == ']' ? close_bracket(j) : scan_value(j);
    case EXPECT_KEY_OR_END: return *j->p == '}' ? close_bracket(j) : scan_key(j);
    case EXPECT_KEY: return scan_key(j);
    case EXPECT_COLON:
        if (*j->p != ':')
            return fail(j, "expected a colon");
        j->p++;
        skip_space(j);
        return j->p == j->end ? fail(j, "the text ends too early") : scan_value(j);
    case EXPECT_COMMA_OR_END: return scan_after_value(j);
    case EXPECT_VALUE:
    case EXPECT_NOTHING: break;
    }
    return scan_value(j);
}

int em_json_skip(em_json *j)
{
    if (j->type == EM_JSON_KEY)
        em_json_next(j);
    if (j->type == EM_JSON_OBJECT || j->type == EM_JSON_ARRAY) {
        unsigned outside = j->depth - 1;
        while (j->depth > outside)
            if (em_json_next(j) == EM_JSON_ERROR)
                return -EINVAL;
    }
    return j->type == EM_JSON_ERROR ? -EINVAL : 0;
}

/* The next character of a checked string, as UTF-8 bytes; advances *p. */
static int next_char(const char **p, const char *end, uint8_t out[4])
{
    if (**p != '\\') {
        out[0] = (uint8_t) * (*p)++;
        return 1;
    }
    uint32_t cp = 0;
    *p += read_escape(*p, end, &cp);
    return em_utf8_encode(cp, out);
}

bool em_json_is(const em_json *j, const char *s)
{
    if (j->type != EM_JSON_KEY && j->type != EM_JSON_STRING)
        return false;
    size_t len = strlen(s);
    if (!j->escaped)
        return len == j->raw_len && memcmp(s, j->raw, len) == 0;
    const char *p = j->raw, *end = j->raw + j->raw_len;
    size_t at = 0;
    while (p < end) {
        uint8_t c[4];
        size_t n = (size_t)next_char(&p, end, c);
        if (n > len - at || memcmp(s + at, c, n) != 0)
            return false;
        at += n;
    }
    return at == len;
}

int em_json_string(const em_json *j, char *buf, size_t cap, size_t *ret_len)
{
    if (j->type != EM_JSON_KEY && j->type != EM_JSON_STRING)
        return -EINVAL;
    const char *p = j->raw, *end = j->raw + j->raw_len;
    size_t at = 0;
    if (!j->escaped) {
        if (j->raw_len >= cap)
            return -ENOSPC;
        memcpy(buf, p, j->raw_len);
        at = j->raw_len;
        p = end;
    }
    while (p < end) {
        uint8_t c[4];
        size_t n = (size_t)next_char(&p, end, c);
        if (at + n >= cap)
            return -ENOSPC;
        memcpy(buf + at, c, n);
        at += n;
    }
    buf[at] = '\0';
    if (ret_len)
        *ret_len = at;
    return 0;
}

const char *em_json_error(const em_json *j)
{
    return j->error ? j->error : "no error";
}

size_t em_json_offset(const em_json *j)
{
    return (size_t)(j->p - j->start);
}
