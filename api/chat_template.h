/* A conversation as the text that a model was trained on, and its ids. The family is recognised by its special tokens:
 * with them it is the DeepSeek-V4.1 format; without them a plain transcript ("User: ...", one empty line between
 * messages, "Assistant:" at the end), behind a BOS where the tokenizer adds one.
 *
 * Only what the template itself writes becomes special tokens. Text of the caller stays text, whatever it spells.
 * Pure; any thread. */
#ifndef EM_API_CHAT_TEMPLATE_H
#define EM_API_CHAT_TEMPLATE_H

#include "api/chat_dialog.h"
#include "engine/engine.h"

typedef enum em_mark {
    EM_MARK_BOS,
    EM_MARK_EOS,
    EM_MARK_SYSTEM,
    EM_MARK_USER,
    EM_MARK_ASSISTANT,
    EM_MARK_REMINDER,
    EM_MARK_THINK,
    EM_MARK_THINK_END,
    EM_MARK_DSML,
    EM_N_MARKS,
} em_mark;

extern const char *const em_mark_spelling[EM_N_MARKS];

typedef struct em_chat_template {
    bool native;              /* false: the plain transcript */
    int32_t id[EM_N_MARKS];   /* -1: the model has none */
    bool can_think, can_call; /* think marks; tool markup */
} em_chat_template;

void em_chat_template_find(const em_engine *engine, em_chat_template *ret_template);

typedef struct em_chat_place {
    size_t at; /* byte of the prompt's text where the mark's spelling begins */
    em_mark mark;
} em_chat_place;

/* A prompt as text, with the places where it means a special token. Zero-initialise. */
typedef struct em_chat_prompt {
    em_buf text;
    em_chat_place *places; /* [n_places] ascending */
    size_t n_places, cap_places;
} em_chat_prompt;

/* -ENOMEM. */
int em_chat_render(const em_dialog *d, const em_chat_template *t, em_chat_prompt *prompt);
void em_chat_prompt_done(em_chat_prompt *p);

/* -ENOTSUP without a tokenizer, -E2BIG more than max_ids, -ENOMEM. */
int em_chat_prompt_ids(const em_chat_prompt *p, const em_chat_template *t, const em_engine *engine, size_t max_ids,
                       em_ids *ids);

#endif
