/* The three patterns, and how each is read here:
 *
 *   1. \p{N}{1,3}                      up to three numbers from the left of a run
 *   2. [一-龥぀-ゟ゠-ヿ]+              a run of CJK ideographs and kana
 *   3. the first of these that matches, in this order:
 *      [!-/:-~][A-Za-z]+  (ASCII punctuation in full in the file)      match_ascii_word
 *      [^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+                            match_word
 *       ?[\p{P}\p{S}]+[\r\n]*                                          match_punctuation
 *      \s*[\r\n]+  then  \s+(?!\S)  then  \s+                          match_space
 *
 * The end of a piece that an earlier pattern cut is the end of the text for a later one, look-ahead included. */
#include "engine/pretokenizer.h"

#include "engine/base/utf8.h"
#include "engine/unicode_classes.h"

#include <string.h>

/* One character: where it ends, and what the patterns want to know of it. */
typedef struct character {
    uint32_t cp;
    size_t end;
    em_unicode_class cls;
} character;

bool em_pretokenizer_knows(int i, const char *pattern)
{
    static const char *const spellings[3][2] = {
        {"\\p{N}{1,3}", NULL},
        {"[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+", NULL},
        /* CR and LF inside the second class stand as characters or as escapes. */
        {"[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
         "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
         "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
         "| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},
    };
    for (int k = 0; i >= 0 && i < 3 && k < 2; k++)
        if (spellings[i][k] && strcmp(pattern, spellings[i][k]) == 0)
            return true;
    return false;
}

/* The character at pos < end. Ill-formed bytes count as characters of no class. */
static character char_at(const uint8_t *text, size_t pos, size_t end)
{
    character c = {.cls = EM_UNICODE_OTHER};
    int n = em_utf8_decode(text + pos, end - pos, &c.cp);
    if (n <= 0) {
        c.cp = 0xfffd;
        c.end = n == 0 ? end : pos + (size_t)-n;
        return c;
    }
    c.end = pos + (size_t)n;
    c.cls = em_unicode_classify(c.cp);
    return c;
}

static bool is_ascii_letter(uint8_t b)
{
    return (b >= 'a' && b <= 'z') || (b >= 'A' && b <= 'Z');
}

static bool is_ascii_punctuation(uint8_t b)
{
    return b > ' ' && b < 0x7f && !is_ascii_letter(b) && !(b >= '0' && b <= '9');
}

static bool is_line_end(uint32_t cp)
{
    return cp == '\r' || cp == '\n';
}

static bool is_word(em_unicode_class cls)
{
    return cls == EM_UNICODE_L || cls == EM_UNICODE_M;
}

static bool is_symbol(em_unicode_class cls)
{
    return cls == EM_UNICODE_P || cls == EM_UNICODE_S;
}

static bool is_cjk(uint32_t cp)
{
    return (cp >= 0x4e00 && cp <= 0x9fa5) || (cp >= 0x3040 && cp <= 0x30ff);
}

/* End of the first pattern's piece at pos: one to three numbers, or everything before the next number. */
static size_t cut_numbers(const uint8_t *text, size_t pos, size_t end)
{
    character c = char_at(text, pos, end);
    if (c.cls != EM_UNICODE_N) {
        while (c.end < end) {
            character next = char_at(text, c.end, end);
            if (next.cls == EM_UNICODE_N)
                break;
            c = next;
        }
        return c.end;
    }
    for (int n = 1; n < 3 && c.end < end; n++) {
        character next = char_at(text, c.end, end);
        if (next.cls != EM_UNICODE_N)
            break;
        c = next;
    }
    return c.end;
}

/* End of the second pattern's piece at pos: a run of CJK characters, or of others. */
static size_t cut_cjk(const uint8_t *text, size_t pos, size_t end)
{
    character c = char_at(text, pos, end);
    bool cjk = is_cjk(c.cp);
    while (c.end < end) {
        character next = char_at(text, c.end, end);
        if (is_cjk(next.cp) != cjk)
            break;
        c = next;
    }
    return c.end;
}

/* Each match_x returns the end of its match at pos, 0 for none (a match is never empty and pos >= 0). */

static size_t match_ascii_word(const uint8_t *text, size_t pos, size_t end)
{
    if (!is_ascii_punctuation(text[pos]))
        return 0;
    size_t p = pos + 1;
    while (p < end && is_ascii_letter(text[p]))
        p++;
    return p > pos + 1 ? p : 0;
}

static size_t match_word(const uint8_t *text, size_t pos, size_t end, character first)
{
    bool word = is_word(first.cls);
    if (!word && (is_symbol(first.cls) || is_line_end(first.cp)))
        return 0;
    size_t p = first.end;
    while (p < end) {
        character c = char_at(text, p, end);
        if (!is_word(c.cls))
            break;
        word = true;
        p = c.end;
    }
    return word ? p : 0;
}

static size_t match_punctuation(const uint8_t *text, size_t pos, size_t end, character first)
{
    size_t p = first.cp == ' ' ? first.end : pos, begin = p;
    while (p < end) {
        character c = char_at(text, p, end);
        if (!is_symbol(c.cls))
            break;
        p = c.end;
    }
    if (p == begin)
        return 0;
    while (p < end && is_line_end(text[p]))
        p++;
    return p;
}

/* A run of white space: up to its last line end if it has one; else all of it before the end of the piece; else all
 * but its last character, which belongs to what follows, unless it is the only one. */
static size_t match_space(const uint8_t *text, size_t pos, size_t end, character first)
{
    if (first.cls != EM_UNICODE_SPACE)
        return 0;
    size_t line_end = 0, last = pos;
    character c = first;
    for (;;) {
        if (is_line_end(c.cp))
            line_end = c.end;
        if (c.end == end)
            return line_end ? line_end : end;
        character next = char_at(text, c.end, end);
        if (next.cls != EM_UNICODE_SPACE)
            break;
        last = c.end;
        c = next;
    }
    if (line_end)
        return line_end;
    return last > pos ? last : c.end;
}

static size_t match_at(const uint8_t *text, size_t pos, size_t end, character first)
{
    size_t e = match_ascii_word(text, pos, end);
    if (!e)
        e = match_word(text, pos, end, first);
    if (!e)
        e = match_punctuation(text, pos, end, first);
    if (!e)
        e = match_space(text, pos, end, first);
    return e;
}

/* End of the third pattern's piece at p->pos: a match, or a gap up to where one begins (which is remembered). */
static size_t cut_pattern(em_pretokenizer *p)
{
    size_t end = p->cjk_end;
    if (p->match_end) {
        size_t e = p->match_end;
        p->match_end = 0;
        return e;
    }
    character c = char_at(p->text, p->pos, end);
    size_t e = match_at(p->text, p->pos, end, c);
    if (e)
        return e;
    while (c.end < end) {
        character next = char_at(p->text, c.end, end);
        p->match_end = match_at(p->text, c.end, end, next);
        if (p->match_end)
            break;
        c = next;
    }
    return c.end;
}

void em_pretokenizer_init(em_pretokenizer *p, const char *text, size_t len)
{
    *p = (em_pretokenizer){.text = (const uint8_t *)text, .len = len};
}

bool em_pretokenizer_next(em_pretokenizer *p, size_t *ret_begin, size_t *ret_end)
{
    if (p->pos >= p->len)
        return false;
    if (p->pos == p->num_end)
        p->num_end = cut_numbers(p->text, p->pos, p->len);
    if (p->pos == p->cjk_end)
        p->cjk_end = cut_cjk(p->text, p->pos, p->num_end);
    *ret_begin = p->pos;
    *ret_end = p->pos = cut_pattern(p);
    return true;
}
