/* Grammars are compiled here: on a thread of their own, since that takes up to a second, and kept for those who ask for
 * the same again.
 *
 * An order is what somebody asked for: it waits, is compiled, and then holds a grammar or a sentence that says why there
 * is none. Equal sources share one order. Orders are counted; one that nobody holds any more is not compiled at all.
 *
 * Threads. Every function may be called by any thread; on_done is called by the compiling thread, without any lock. The
 * one lock is a leaf. The compiler must outlive its orders. */
#ifndef EM_ENGINE_GRAMMAR_COMPILER_H
#define EM_ENGINE_GRAMMAR_COMPILER_H

#include <stdint.h>

#include "engine/grammar/grammar.h"

#define EM_COMPILER_MAX_WAITING 64                       /* orders not compiled yet */
#define EM_COMPILER_MAX_KEPT 128                         /* orders nobody holds, for the next who asks */
#define EM_COMPILER_MAX_KEPT_BYTES (UINT64_C(256) << 20) /* of them together: automata, masks, sources */
#define EM_COMPILER_MAX_MASK_BYTES (UINT64_C(32) << 20)  /* masks of one grammar */

typedef struct em_grammar_compiler em_grammar_compiler;
typedef struct em_grammar_order em_grammar_order;

/* vocab must outlive the compiler. on_done: an order has become ready. -ENOMEM, or what starting a thread gave. */
int em_grammar_compiler_new(const em_grammar_vocab *vocab, void (*on_done)(void *ctx), void *ctx,
                            em_grammar_compiler **ret_compiler);
/* Joins the thread. All orders must have been given back. NULL is fine; returns NULL. */
em_grammar_compiler *em_grammar_compiler_free(em_grammar_compiler *c);

/* The order of a source, which is copied; perhaps ready at once. -EBUSY: too many wait; -ENOMEM. */
int em_grammar_compiler_ask(em_grammar_compiler *c, const em_grammar_source *source, em_grammar_order **ret_order);
em_grammar_order *em_grammar_order_unref(em_grammar_order *o); /* NULL is fine; returns NULL */

bool em_grammar_order_ready(const em_grammar_order *o);
/* Of a ready order; they belong to it. */
em_grammar *em_grammar_order_get(const em_grammar_order *o); /* NULL: it could not be compiled */
const char *em_grammar_order_error(const em_grammar_order *o);
/* Tokens of the shortest answer, its end not counted; UINT32_MAX: the tokens cannot write it, or it is longer than any
 * answer. */
uint32_t em_grammar_order_shortest(const em_grammar_order *o);

/* Since the compiler was made; gauges now. */
typedef struct em_grammar_stats {
    uint64_t asked, found; /* orders; those for which a grammar was there already, or was under way */
    uint64_t compiled, failed;
    uint64_t compile_ns;
    int32_t waiting, kept;
    uint64_t kept_bytes;
} em_grammar_stats;
void em_grammar_compiler_get_stats(em_grammar_compiler *c, em_grammar_stats *ret_stats);

#endif
