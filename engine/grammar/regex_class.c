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
/* The decimal digits of Unicode 17. */
static const em_char_range digit_large[] = {
    {'0', '9'},         {0x660, 0x669},     {0x6f0, 0x6f9},     {0x7c0, 0x7c9},     {0x966, 0x96f},
    {0x9e6, 0x9ef},     {0xa66, 0xa6f},     {0xae6, 0xaef},     {0xb66, 0xb6f},     {0xbe6, 0xbef},
    {0xc66, 0xc6f},     {0xce6, 0xcef},     {0xd66, 0xd6f},     {0xde6, 0xdef},     {0xe50, 0xe59},
    {0xed0, 0xed9},     {0xf20, 0xf29},     {0x1040, 0x1049},   {0x1090, 0x1099},   {0x17e0, 0x17e9},
    {0x1810, 0x1819},   {0x1946, 0x194f},   {0x19d0, 0x19d9},   {0x1a80, 0x1a89},   {0x1a90, 0x1a99},
    {0x1b50, 0x1b59},   {0x1bb0, 0x1bb9},   {0x1c40, 0x1c49},   {0x1c50, 0x1c59},   {0xa620, 0xa629},
    {0xa8d0, 0xa8d9},   {0xa900, 0xa909},   {0xa9d0, 0xa9d9},   {0xa9f0, 0xa9f9},   {0xaa50, 0xaa59},
    {0xabf0, 0xabf9},   {0xff10, 0xff19},   {0x104a0, 0x104a9}, {0x10d30, 0x10d39}, {0x10d40, 0x10d49},
    {0x11066, 0x1106f}, {0x110f0, 0x110f9}, {0x11136, 0x1113f}, {0x111d0, 0x111d9}, {0x112f0, 0x112f9},
    {0x11450, 0x11459}, {0x114d0, 0x114d9}, {0x11650, 0x11659}, {0x116c0, 0x116c9}, {0x116d0, 0x116e3},
    {0x11730, 0x11739}, {0x118e0, 0x118e9}, {0x11950, 0x11959}, {0x11bf0, 0x11bf9}, {0x11c50, 0x11c59},
    {0x11d50, 0x11d59}, {0x11da0, 0x11da9}, {0x11de0, 0x11de9}, {0x11f50, 0x11f59}, {0x16a60, 0x16a69},
    {0x16ac0, 0x16ac9}, {0x16b50, 0x16b59}, {0x1ccf0, 0x1ccf9}, {0x1d7ce, 0x1d7ff}, {0x1e140, 0x1e149},
    {0x1e2f0, 0x1e2f9}, {0x1e4f0, 0x1e4f9}, {0x1e5f1, 0x1e5fa}, {0x1e950, 0x1e959}, {0x1fbf0, 0x1fbf9},
};
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
    {'d', 1, sizeof(digit_large) / sizeof(digit_large[0]), digit_small, digit_large},
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
