/* An engine without a model, for tests of api/: it answers what api/ asks through engine/engine.h. Ids 0..255 are
 * bytes; above them come a few added tokens. */
#ifndef EM_TESTS_FAKE_ENGINE_H
#define EM_TESTS_FAKE_ENGINE_H

#include "engine/engine.h"

enum {
    FAKE_BOS = 256,  /* "<bos>", special */
    FAKE_EOS = 257,  /* "<eos>", special */
    FAKE_SEP = 258,  /* "<sep>", special */
    FAKE_WORD = 259, /* " caf\u00e9", ordinary */
    FAKE_VOCAB = 260,
    /* with an info of FAKE_CHAT_VOCAB ids also the marks of the chat format */
    FAKE_SYSTEM = 260,
    FAKE_USER,
    FAKE_ASSISTANT,
    FAKE_THINK,
    FAKE_THINK_END,
    FAKE_DSML,
    FAKE_CHAT_BOS,
    FAKE_CHAT_EOS, /* special */
    FAKE_CHAT_VOCAB,
};

/* info as em_engine_get_info will tell it; NULL: FAKE_VOCAB ids, 64 positions, BOS added. */
em_engine *fake_engine_new(const em_engine_info *info);
void fake_engine_free(em_engine *e);

/* An event as the engine would send it; free with em_event_free. text may be NULL. Tokens and their alternatives are
 * copied. */
em_event *fake_event(em_event_kind kind, int32_t choice, const char *text, const em_event_token *tokens,
                     int32_t n_tokens, em_finish finish);

#endif
