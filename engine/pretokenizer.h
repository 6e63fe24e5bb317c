/* The pre-tokenizer of the DeepSeek family: three patterns in sequence, each cutting the pieces that the one before
 * left into matches and the gaps between them (spec 7.4). Scanned by hand in one pass of linear time over Unicode 16
 * classes (engine/unicode_classes.h). A scanner belongs to one thread; the text must stay alive. */
#ifndef EM_ENGINE_PRETOKENIZER_H
#define EM_ENGINE_PRETOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct em_pretokenizer {
    const uint8_t *text;
    size_t len;
    size_t pos;       /* the next piece begins here */
    size_t num_end;   /* end of the piece that the first pattern cut (a run of 1-3 numbers, or a gap) */
    size_t cjk_end;   /* end of the piece that the second pattern cut inside it */
    size_t match_end; /* a match of the third pattern at pos, found while ending a gap; 0: not known */
} em_pretokenizer;

void em_pretokenizer_init(em_pretokenizer *p, const char *text, size_t len);

/* The next piece, [*ret_begin, *ret_end) in bytes of the text; false: no more. Pieces are never empty, follow each
 * other without gaps, and hold whole characters if the text is well-formed (ill-formed text is cut somewhere). */
bool em_pretokenizer_next(em_pretokenizer *p, size_t *ret_begin, size_t *ret_end);

/* Whether pattern number i (0..2) as tokenizer.json spells it is the one this scanner implements. */
bool em_pretokenizer_knows(int i, const char *pattern);

#endif
