/* The grammar of JSON itself: rules shared by everything that writes JSON. One thread.
 *
 * White space: at most one space or newline after {, [, comma and colon, and before } and ]; none elsewhere. */
#ifndef EM_ENGINE_GRAMMAR_JSON_RULES_H
#define EM_ENGINE_GRAMMAR_JSON_RULES_H

#include "engine/grammar/build.h"

em_expr em_jrule_space(em_gr_build *b); /* one space, one newline, or nothing */

/* A string of need..rem characters (Unicode code points), quotes included, with every escape of JSON. */
em_expr em_jrule_string(em_gr_build *b, uint32_t need, uint32_t rem);

em_expr em_jrule_any(em_gr_build *b);    /* any value */
em_expr em_jrule_object(em_gr_build *b); /* any object */
em_expr em_jrule_array(em_gr_build *b);  /* any array */
em_expr em_jrule_bool(em_gr_build *b);

#define EM_NUMBER_MAX_DIGITS 64 /* of a bound, written without exponent, in front of the point and behind it each */

/* The end of a range; what a schema's minimum and its kin say. */
typedef struct em_decimal {
    bool given, exclusive, negative;
    int n_int, n_frac;                     /* digits in front of the point and behind it; no zeros at either end */
    char digits[2 * EM_NUMBER_MAX_DIGITS]; /* n_int + n_frac of them, '0'..'9'; none: zero */
} em_decimal;

/* From the source text of a JSON number. False: more digits than there is room for. */
bool em_decimal_parse(const char *text, size_t len, em_decimal *ret);
int em_decimal_compare(const em_decimal *x, const em_decimal *y); /* of the numbers: below 0, 0, above 0 */

em_expr em_jrule_free_number(em_gr_build *b, bool integer); /* of any size, in number of digits that readers take */

/* Numbers between two bounds, each of which may not be given. With a bound numbers have no exponent. */
em_expr em_jrule_number(em_gr_build *b, bool integer, const em_decimal *lo, const em_decimal *hi);

em_expr em_jrule_comma(em_gr_build *b); /* a comma and white space */

#endif
