/* The chain must give the classes that models were trained with, so each step follows the tables of the library that
 * made them (Hugging Face tokenizers 0.23): decompositions and marks of Unicode 9, lower case of Unicode 17. The
 * platform's utf8proc knows Unicode 15, and the tables below say where that is too new or too old.
 *
 * NFKC and then NFD is NFKD: composition is undone by the decomposition after it. The order of marks does not matter,
 * because they go: a mark that stays (newer than Unicode 9) has no combining class in those tables. */
#include "engine/token_normalize.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <utf8proc.h>

#include "engine/base/utf8.h"
#include "engine/unicode_classes.h"

#define MAX_DECOMPOSED 32 /* code points; U+FDFA has the most, 18 */

typedef struct cp_range {
    uint32_t first, last;
} cp_range;

/* Code points of \p{M} in these ranges became marks after Unicode 9. */
static const cp_range newer_marks[] = {
    {0x7fd, 0x7fd},     {0x897, 0x8d3},     {0x9fe, 0x9fe},     {0xafa, 0xaff},     {0xb55, 0xb55},
    {0xc04, 0xc3c},     {0xcf3, 0xd00},     {0xd3b, 0xd3c},     {0xd81, 0xd81},     {0xeba, 0xeba},
    {0xece, 0xece},     {0x1715, 0x1715},   {0x180f, 0x180f},   {0x1abf, 0x1ace},   {0x1cf7, 0x1cf7},
    {0x1df6, 0x1dfa},   {0xa82c, 0xa82c},   {0xa8ff, 0xa8ff},   {0x10d24, 0x10f85}, {0x11070, 0x11074},
    {0x110c2, 0x110c2}, {0x11145, 0x11146}, {0x111c9, 0x111c9}, {0x111ce, 0x111cf}, {0x11241, 0x11241},
    {0x1133b, 0x1133b}, {0x113b8, 0x113e2}, {0x1145e, 0x1145e}, {0x1182c, 0x11a99}, {0x11d31, 0x1612f},
    {0x16f4f, 0x16f4f}, {0x16f7f, 0x16f87}, {0x16fe4, 0x16ff1}, {0x1cf00, 0x1cf46}, {0x1e08f, 0x1e5ef},
};

/* Marks of Unicode 9 that became letters later. */
static const cp_range former_marks[] = {{0x1cf2, 0x1cf3}};

/* Decompositions that came after Unicode 9, up to 17: a later utf8proc may know more than that of today. */
static const cp_range newer_decompositions[] = {
    {0x32ff, 0x32ff},   {0xa7f1, 0xa7f4},   {0xab69, 0xab69},   {0x105c9, 0x105c9}, {0x105e4, 0x105e4},
    {0x10781, 0x107ba}, {0x11383, 0x11391}, {0x113c5, 0x113c8}, {0x11938, 0x11938}, {0x16121, 0x16128},
    {0x16d68, 0x16d6a}, {0x1ccd6, 0x1ccf9}, {0x1e030, 0x1e06d}, {0x1f16c, 0x1f16c}, {0x1fbf0, 0x1fbf9},
};

/* Lower case that came after Unicode 15: every code point of the range moves by delta. */
static const struct {
    uint32_t first, last;
    int32_t delta;
} newer_lower[] = {
    {0x1c89, 0x1c89, 1},      {0xa7cb, 0xa7cb, 0x264 - 0xa7cb},
    {0xa7cc, 0xa7cc, 1},      {0xa7ce, 0xa7ce, 1},
    {0xa7d2, 0xa7d2, 1},      {0xa7d4, 0xa7d4, 1},
    {0xa7da, 0xa7da, 1},      {0xa7dc, 0xa7dc, 0x19b - 0xa7dc},
    {0x10d50, 0x10d65, 0x20}, {0x16ea0, 0x16eb8, 0x1b},
};

static bool in_ranges(const cp_range *ranges, size_t n, uint32_t cp)
{
    for (size_t i = 0; i < n && ranges[i].first <= cp; i++)
        if (cp <= ranges[i].last)
            return true;
    return false;
}

#define IN_RANGES(table, cp) in_ranges(table, sizeof(table) / sizeof *(table), cp)

static bool is_mark(uint32_t cp)
{
    if (em_unicode_classify(cp) == EM_UNICODE_M)
        return !IN_RANGES(newer_marks, cp);
    return IN_RANGES(former_marks, cp);
}

static uint32_t lower(uint32_t cp)
{
    for (size_t i = 0; i < sizeof newer_lower / sizeof *newer_lower && newer_lower[i].first <= cp; i++)
        if (cp <= newer_lower[i].last)
            return (uint32_t)((int32_t)cp + newer_lower[i].delta);
    /* Full mappings equal the simple ones but for U+0130, which was decomposed. */
    return (uint32_t)utf8proc_tolower((utf8proc_int32_t)cp);
}

/* The full compatibility decomposition of cp; returns the count. */
static int decompose(uint32_t cp, utf8proc_int32_t out[MAX_DECOMPOSED])
{
    int boundary = 0;
    if (!IN_RANGES(newer_decompositions, cp)) {
        utf8proc_ssize_t n = utf8proc_decompose_char((utf8proc_int32_t)cp, out, MAX_DECOMPOSED,
                                                     UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT, &boundary);
        if (n > 0 && n <= MAX_DECOMPOSED)
            return (int)n;
    }
    out[0] = (utf8proc_int32_t)cp;
    return 1;
}

static bool is_plain_space(uint32_t cp)
{
    return cp == ' ' || cp == '\t' || cp == '\r' || cp == '\n';
}

/* Steps 1 to 5 of the chain. */
static int append_folded(const uint8_t *text, size_t len, em_buf *out)
{
    bool after_space = false;
    for (size_t i = 0; i < len;) {
        uint32_t cp;
        int k = em_utf8_decode(text + i, len - i, &cp);
        i += k > 0 ? (size_t)k : 1;
        utf8proc_int32_t parts[MAX_DECOMPOSED];
        int n = decompose(cp, parts);
        for (int p = 0; p < n; p++) {
            if (is_mark((uint32_t)parts[p]))
                continue;
            uint32_t c = lower((uint32_t)parts[p]);
            bool space = is_plain_space(c);
            uint8_t bytes[4] = {' '};
            size_t n_bytes = space ? 1 : (size_t)em_utf8_encode(c, bytes);
            if (!(space && after_space) && em_buf_append(out, bytes, n_bytes) < 0)
                return -ENOMEM;
            after_space = space;
        }
    }
    return 0;
}

/* Bytes of white space at the beginning (forward) or end of s; s is well-formed. */
static size_t space_bytes(const uint8_t *s, size_t len, bool forward)
{
    size_t done = 0;
    while (done < len) {
        size_t at = forward ? done : len - done - 1;
        while (!forward && at > 0 && (s[at] & 0xc0) == 0x80)
            at--;
        uint32_t cp;
        int n = em_utf8_decode(s + at, len - at, &cp);
        if (n <= 0 || em_unicode_classify(cp) != EM_UNICODE_SPACE)
            break;
        done += (size_t)n;
    }
    return done;
}

/* The trainer kept the lone space through the stripping as this private-use character, and turned every one back. */
#define KEPT_SPACE "\xee\x80\x80" /* U+E000 */

static int append_with_spaces(const char *s, size_t len, em_buf *out)
{
    while (len > 0) {
        const char *at = memmem(s, len, KEPT_SPACE, 3);
        size_t n = at ? (size_t)(at - s) : len;
        if (em_buf_append(out, s, n) < 0 || (at && em_buf_append(out, " ", 1) < 0))
            return -ENOMEM;
        s += n + (at ? 3 : 0);
        len -= n + (at ? 3 : 0);
    }
    return 0;
}

int em_token_normalize(const uint8_t *text, size_t len, em_buf *out)
{
    em_buf folded = {0};
    int r = append_folded(text, len, &folded);
    const uint8_t *s = (const uint8_t *)folded.data;
    size_t n = folded.len;
    if (r == 0 && n == 1 && s[0] == ' ') {
        r = em_buf_append(out, " ", 1);
    } else if (r == 0 && n > 0) {
        size_t head = space_bytes(s, n, true);
        size_t tail = space_bytes(s + head, n - head, false);
        r = append_with_spaces((const char *)s + head, n - head - tail, out);
    }
    em_buf_done(&folded);
    return r;
}
