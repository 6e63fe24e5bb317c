/* JSON's own rules. Each is made once for a build, when it is first wanted. */
#include "engine/grammar/json_rules.h"

#include <string.h>

#include "engine/grammar/charset.h"

/* More digits than these are never written; they would only overflow in whoever reads them. */
enum {
    MAX_INTEGER_DIGITS = 32,
    MAX_INT_DIGITS = 20,
    MAX_FRAC_DIGITS = 20,
    MAX_EXPONENT_DIGITS = 2,
};

static em_expr text(em_gr_build *b, const char *s)
{
    return em_ex_text(b, s, strlen(s));
}

em_expr em_jrule_space(em_gr_build *b)
{
    return em_ex_list(b, EM_EX_ALT, (em_expr[3]){text(b, " "), text(b, "\n"), EM_EXPR_EMPTY}, 3);
}

em_expr em_jrule_comma(em_gr_build *b)
{
    return em_ex_seq2(b, text(b, ","), em_jrule_space(b));
}

em_expr em_jrule_bool(em_gr_build *b)
{
    return em_ex_alt2(b, text(b, "true"), text(b, "false"));
}

/* --- strings ------------------------------------------------------------------------------------------------ */

static em_expr byte_of(em_gr_build *b, const char *pairs)
{
    em_gr_u32s x = {0};
    for (const char *p = pairs; *p; p += 2)
        if (em_gr_push(&x, em_ex_range(b, (uint8_t)p[0], (uint8_t)p[1])))
            em_gr_no_memory(b);
    em_expr out = em_ex_list(b, EM_EX_ALT, x.v, x.n);
    free(x.v);
    return out;
}

/* Behind "\u": a character of its own, or both halves of a pair. */
static em_expr unicode_escape(em_gr_build *b)
{
    em_expr hex = byte_of(b, "09afAF");
    em_expr plain = em_ex_list(b, EM_EX_SEQ, (em_expr[4]){byte_of(b, "09acACeEfFeefEFF"), hex, hex, hex}, 4);
    em_expr d = byte_of(b, "ddDD");
    em_expr below = em_ex_list(b, EM_EX_SEQ, (em_expr[4]){d, byte_of(b, "07"), hex, hex}, 4);
    em_expr high = em_ex_list(b, EM_EX_SEQ, (em_expr[4]){d, byte_of(b, "89abAB"), hex, hex}, 4);
    em_expr low = em_ex_list(b, EM_EX_SEQ, (em_expr[4]){d, byte_of(b, "cfCF"), hex, hex}, 4);
    em_expr pair = em_ex_list(b, EM_EX_SEQ, (em_expr[3]){high, text(b, "\\u"), low}, 3);
    return em_ex_list(b, EM_EX_ALT, (em_expr[3]){plain, below, pair}, 3);
}

/* One character inside a string, in any of its spellings. */
static em_expr string_character(em_gr_build *b)
{
    em_charset plain = {0};
    em_charset_add(b, &plain, ' ', '!');
    em_charset_add(b, &plain, '#', '[');
    em_charset_add(b, &plain, ']', EM_CHAR_LAST);
    em_expr raw = em_charset_expr(b, &plain, false);
    em_charset_done(&plain);
    em_expr shorts = byte_of(b, "\"\"\\\\//bbffnnrrtt");
    em_expr longs = em_ex_seq2(b, text(b, "u"), unicode_escape(b));
    return em_ex_alt2(b, raw, em_ex_seq2(b, text(b, "\\"), em_ex_alt2(b, shorts, longs)));
}

em_expr em_jrule_string(em_gr_build *b, uint32_t need, uint32_t rem)
{
    if (b->string_rule == UINT32_MAX) {
        uint32_t rule = em_gr_rule_new(b, NULL, 0);
        em_expr inside = em_ex_repeat(b, string_character(b), 0, EM_EX_ENDLESS);
        em_expr body = em_ex_list(b, EM_EX_SEQ, (em_expr[3]){text(b, "\""), inside, text(b, "\"")}, 3);
        if (b->rc)
            return EM_EXPR_NEVER;
        b->rules[rule].body = body;
        b->string_rule = rule;
    }
    return em_ex_call(b, b->string_rule, need, rem);
}

/* --- numbers without bounds --------------------------------------------------------------------------------- */

static em_expr digits(em_gr_build *b, uint32_t min, uint32_t max)
{
    return em_ex_repeat(b, em_ex_range(b, '0', '9'), min, max);
}

static em_expr whole_part(em_gr_build *b, uint32_t max)
{
    return em_ex_seq2(b, em_ex_range(b, '1', '9'), digits(b, 0, max - 1));
}

/* No "-0": it is the same integer as 0, spelled so that some readers make a float of it. */
static em_expr free_integer(em_gr_build *b)
{
    em_expr minus = em_ex_repeat(b, text(b, "-"), 0, 1);
    return em_ex_alt2(b, text(b, "0"), em_ex_seq2(b, minus, whole_part(b, MAX_INTEGER_DIGITS)));
}

static em_expr free_number(em_gr_build *b)
{
    em_expr fraction = em_ex_seq2(b, text(b, "."), digits(b, 1, MAX_FRAC_DIGITS));
    em_expr exponent = em_ex_list(
        b, EM_EX_SEQ,
        (em_expr[3]){byte_of(b, "eeEE"), em_ex_repeat(b, byte_of(b, "++--"), 0, 1), digits(b, 1, MAX_EXPONENT_DIGITS)},
        3);
    em_expr parts[4] = {em_ex_repeat(b, text(b, "-"), 0, 1), em_ex_alt2(b, text(b, "0"), whole_part(b, MAX_INT_DIGITS)),
                        em_ex_repeat(b, fraction, 0, 1), em_ex_repeat(b, exponent, 0, 1)};
    return em_ex_list(b, EM_EX_SEQ, parts, 4);
}

em_expr em_jrule_free_number(em_gr_build *b, bool integer)
{
    uint32_t *known = integer ? &b->integer_rule : &b->number_rule;
    if (*known == UINT32_MAX) {
        uint32_t rule = em_gr_rule_new(b, NULL, 0);
        em_expr body = integer ? free_integer(b) : free_number(b);
        if (b->rc)
            return EM_EXPR_NEVER;
        b->rules[rule].body = body;
        *known = rule;
    }
    return em_ex_call(b, *known, 0, EM_GR_NO_END);
}

/* --- any value ---------------------------------------------------------------------------------------------- */

/* open space (item (comma item)* space)? close; between open and close there is one white space at most. */
static em_expr enclosed(em_gr_build *b, const char *open, em_expr item, const char *close)
{
    em_expr more = em_ex_repeat(b, em_ex_seq2(b, em_jrule_comma(b), item), 0, EM_EX_ENDLESS);
    em_expr items = em_ex_list(b, EM_EX_SEQ, (em_expr[3]){item, more, em_jrule_space(b)}, 3);
    em_expr parts[4] = {text(b, open), em_jrule_space(b), em_ex_repeat(b, items, 0, 1), text(b, close)};
    return em_ex_list(b, EM_EX_SEQ, parts, 4);
}

em_expr em_jrule_object(em_gr_build *b)
{
    em_expr value = em_jrule_any(b);
    em_expr member[4] = {em_jrule_string(b, 0, EM_GR_NO_END), text(b, ":"), em_jrule_space(b), value};
    return enclosed(b, "{", em_ex_list(b, EM_EX_SEQ, member, 4), "}");
}

em_expr em_jrule_array(em_gr_build *b)
{
    return enclosed(b, "[", em_jrule_any(b), "]");
}

em_expr em_jrule_any(em_gr_build *b)
{
    if (b->any_rule == UINT32_MAX) {
        b->any_rule = em_gr_rule_new(b, NULL, 0); /* known before its body, which calls it */
        if (b->rc)
            return EM_EXPR_NEVER;
        em_expr options[6] = {em_jrule_string(b, 0, EM_GR_NO_END),
                              em_jrule_free_number(b, false),
                              em_jrule_bool(b),
                              text(b, "null"),
                              em_jrule_object(b),
                              em_jrule_array(b)};
        em_expr body = em_ex_list(b, EM_EX_ALT, options, 6);
        if (b->rc)
            return EM_EXPR_NEVER;
        b->rules[b->any_rule].body = body;
    }
    return em_ex_call(b, b->any_rule, 0, EM_GR_NO_END);
}
