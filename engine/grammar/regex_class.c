/* \d, \w and \s stand for ASCII in ECMA and for Unicode in Python. A generated text should match under either, so each
 * has two sets: the smallest that both contain, used as it is, and the largest that either contains, which is what
 * \D, \W, \S and [^...] leave out. */
#include "engine/grammar/regex_class.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/utf8.h"

void em_regex_fault(em_regex_text *t, const char *fault)
{
    em_gr_fail(t->b, -EINVAL, "The %.100s %s.", t->what, fault);
}

static const em_char_range digit_small[] = {{'0', '9'}};
static const em_char_range digit_large[] = {{'0', '9'}, {0x80, EM_CHAR_LAST}};
static const em_char_range word_small[] = {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}};
static const em_char_range word_large[] = {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}, {0x80, EM_CHAR_LAST}};
static const em_char_range space_small[] = {{'\t', '\r'}, {' ', ' '}};
static const em_char_range space_large[] = {
    {'\t', '\r'},     {0x1c, ' '},      {0x85, 0x85},     {0xa0, 0xa0},     {0x1680, 0x1680}, {0x2000, 0x200a},
    {0x2028, 0x2029}, {0x202f, 0x202f}, {0x205f, 0x205f}, {0x3000, 0x3000}, {0xfeff, 0xfeff},
};

static const struct known_class {
    char letter;
    uint8_t n_small, n_large;
    const em_char_range *small, *large;
} known_classes[] = {
    {'d', 1, 2, digit_small, digit_large},
    {'w', 4, 5, word_small, word_large},
    {'s', 2, 11, space_small, space_large},
};

static void add_ranges(em_gr_build *b, em_charset *set, const em_char_range *r, uint8_t n, bool negate)
{
    em_charset part = {0};
    for (uint8_t i = 0; i < n; i++)
        em_charset_add(b, &part, r[i].lo, r[i].hi);
    if (negate)
        em_charset_negate(b, &part);
    em_charset_add_set(b, set, &part);
    em_charset_done(&part);
}

static void add_known(em_gr_build *b, const struct known_class *k, bool negate, em_charset *set, em_charset *widest)
{
    if (negate) {
        add_ranges(b, set, k->large, k->n_large, true);
        if (widest)
            add_ranges(b, widest, k->small, k->n_small, true);
        return;
    }
    add_ranges(b, set, k->small, k->n_small, false);
    if (widest)
        add_ranges(b, widest, k->large, k->n_large, false);
}

/* least..most hexadecimal digits at t->p. */
static bool parse_hex(em_regex_text *t, int least, int most, uint32_t *ret)
{
    uint32_t c = 0;
    int n = 0;
    for (; n < most && t->p < t->end && isxdigit((unsigned char)*t->p); n++, t->p++)
        c = c * 16 + (uint32_t)(isdigit((unsigned char)*t->p) ? *t->p - '0' : (*t->p | 32) - 'a' + 10);
    *ret = c;
    return n >= least;
}

/* Behind \x or \u. */
static bool parse_code(em_regex_text *t, char kind, uint32_t *ret)
{
    if (kind == 'u' && t->p < t->end && *t->p == '{') {
        t->p++;
        if (!parse_hex(t, 1, 6, ret) || t->p >= t->end || *t->p++ != '}')
            return false;
    } else if (!parse_hex(t, kind == 'x' ? 2 : 4, kind == 'x' ? 2 : 4, ret)) {
        return false;
    }
    uint32_t low;
    if (*ret >= 0xd800 && *ret <= 0xdbff && t->end - t->p >= 6 && t->p[0] == '\\' && t->p[1] == 'u') {
        t->p += 2;
        if (!parse_hex(t, 4, 4, &low) || low < 0xdc00 || low > 0xdfff)
            return false;
        *ret = 0x10000 + ((*ret - 0xd800) << 10) + (low - 0xdc00);
    }
    return *ret <= EM_CHAR_LAST && !(*ret >= 0xd800 && *ret <= 0xdfff);
}

static em_regex_item refuse_escape(em_regex_text *t, char c)
{
    char fault[80];
    if (c >= '0' && c <= '9')
        em_regex_fault(t, "uses a back-reference, which is not supported");
    else if (c == 'b' || c == 'B')
        em_regex_fault(t, "uses a word boundary, which is not supported");
    else if (c == 'p' || c == 'P')
        em_regex_fault(t, "uses a Unicode property, which is not supported");
    else if (isalpha((unsigned char)c))
        em_regex_fault(t, (snprintf(fault, sizeof(fault), "uses the escape \\%c, which is not supported", c), fault));
    else
        em_regex_fault(t, "has a backslash in front of something that needs none");
    return EM_REGEX_FAULT;
}

em_regex_item em_regex_escape(em_regex_text *t, bool in_class, uint32_t *ret_c, em_charset *set, em_charset *widest)
{
    if (t->end - t->p < 2) {
        em_regex_fault(t, "ends in a backslash");
        return EM_REGEX_FAULT;
    }
    char c = t->p[1];
    t->p += 2;
    for (size_t i = 0; i < sizeof(known_classes) / sizeof(known_classes[0]); i++) {
        if ((c | 32) != known_classes[i].letter || !isalpha((unsigned char)c))
            continue;
        add_known(t->b, &known_classes[i], isupper((unsigned char)c), set, widest);
        return EM_REGEX_SET;
    }
    static const char letters[] = "nrtfv", values[] = "\n\r\t\f\v";
    const char *found = c ? strchr(letters, c) : NULL;
    if (found) {
        *ret_c = (uint32_t)values[found - letters];
    } else if (c == '0' && (t->p >= t->end || !isdigit((unsigned char)*t->p))) {
        *ret_c = 0;
    } else if (c == 'b' && in_class) {
        *ret_c = '\b';
    } else if (c == 'x' || c == 'u') {
        if (!parse_code(t, c, ret_c)) {
            em_regex_fault(t, "has a \\x or \\u without a character's number behind it");
            return EM_REGEX_FAULT;
        }
    } else if (ispunct((unsigned char)c) || c == ' ') {
        *ret_c = (uint8_t)c;
    } else {
        return refuse_escape(t, c);
    }
    return EM_REGEX_CHAR;
}

/* One character or set of a class. */
static em_regex_item class_item(em_regex_text *t, uint32_t *ret_c, em_charset *set, em_charset *widest)
{
    if (*t->p == '\\')
        return em_regex_escape(t, true, ret_c, set, widest);
    t->p += em_utf8_decode((const uint8_t *)t->p, (size_t)(t->end - t->p), ret_c);
    return EM_REGEX_CHAR;
}

/* Behind a character: the end of the range that begins with it, or itself. */
static void class_range(em_regex_text *t, uint32_t c, em_charset *set, em_charset *widest)
{
    uint32_t hi = c;
    if (t->end - t->p >= 2 && t->p[0] == '-' && t->p[1] != ']') {
        t->p++;
        em_charset unused = {0};
        em_regex_item item = class_item(t, &hi, &unused, NULL);
        em_charset_done(&unused);
        if (item == EM_REGEX_SET)
            em_regex_fault(t, "has a range [a-b] that ends in a set");
        else if (item == EM_REGEX_CHAR && hi < c)
            em_regex_fault(t, "has a range [a-b] with a above b");
    }
    em_charset_add(t->b, set, c, hi);
    em_charset_add(t->b, widest, c, hi);
}

int em_regex_class(em_regex_text *t, em_charset *set)
{
    em_charset widest = {0};
    bool negate = t->p < t->end && *t->p == '^';
    t->p += negate;
    if (t->p < t->end && *t->p == ']')
        em_regex_fault(t, "has an empty set []; write \\] for the bracket itself");
    while (!t->b->rc && t->p < t->end && *t->p != ']') {
        uint32_t c;
        if (class_item(t, &c, set, &widest) == EM_REGEX_CHAR)
            class_range(t, c, set, &widest);
    }
    if (!t->b->rc && t->p >= t->end)
        em_regex_fault(t, "has a [ without its ]");
    t->p++;
    if (negate) {
        em_charset_done(set);
        em_charset_negate(t->b, &widest);
        *set = widest;
        return t->b->rc;
    }
    em_charset_done(&widest);
    return t->b->rc;
}
