/* What a model writes in a chat -> reasoning, content and tool calls, piece by piece as it comes.
 *
 * The result does not depend on how the text is cut, and nothing is held back longer than needed: text that may be the
 * beginning of a mark or of a stop string, and newlines in front of what may be the end of reasoning or a block of
 * calls (they belong to the template). Markup is known in the spelling of V4.1 and of V4.
 *
 * Stop strings are sought in content alone. The first to be complete ends the answer before its beginning. Text behind
 * a block of calls is dropped. */
#ifndef EM_API_CHAT_PARSE_H
#define EM_API_CHAT_PARSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/engine.h" /* em_stop */

typedef enum em_chat_stage {
    EM_STAGE_REASONING,              /* the prompt ended with <think> */
    EM_STAGE_REASONING_CONTINUATION, /* it ended inside the reasoning: newlines in front are kept */
    EM_STAGE_CONTENT,
    EM_STAGE_CONTENT_CONTINUATION,
} em_chat_stage;

typedef struct em_chat_mode {
    em_chat_stage stage;
    bool tool_calls;  /* call markup is parsed; else it is content */
    bool in_calls;    /* the prompt opened the block of calls */
    bool single_call; /* calls after the first are dropped */
    bool bound;       /* the decoder keeps the answer to a form: without calls, content is given as it stands; in calls,
                       * JSON values may spell marks in their strings */
    bool json_output; /* content is JSON, bare or in a code fence: text around it becomes one blank */
} em_chat_mode;

typedef enum em_chat_part {
    EM_PART_REASONING,
    EM_PART_CONTENT,
    EM_PART_CALL_NAME,      /* a new call, with its whole name */
    EM_PART_CALL_ARGUMENTS, /* the next piece of its arguments */
} em_chat_part;

typedef struct em_chat_sink {
    void (*put)(void *ctx, em_chat_part part, int32_t call, const char *text, size_t len); /* text: complete UTF-8 */
    void *ctx;
} em_chat_sink;

/* What the parsers of one request share. */
typedef struct em_chat_rules em_chat_rules;
/* stops are copied; none is empty. -ENOMEM. */
int em_chat_rules_new(const em_chat_mode *mode, const em_stop *stops, int32_t n_stops, em_chat_rules **ret_rules);
em_chat_rules *em_chat_rules_free(em_chat_rules *r); /* NULL is fine; returns NULL */

typedef struct em_chat_parser em_chat_parser;
int em_chat_parser_new(const em_chat_rules *rules, em_chat_sink sink, em_chat_parser **ret_parser); /* -ENOMEM */
em_chat_parser *em_chat_parser_free(em_chat_parser *p); /* NULL is fine; returns NULL */

/* Complete UTF-8. Returns 1 when a stop string has ended the answer (what comes later is ignored), else 0; -ENOMEM. */
int em_chat_parser_push(em_chat_parser *p, const char *text, size_t len);
/* No more text: what is held is given out. -ENOMEM. */
int em_chat_parser_finish(em_chat_parser *p);

typedef struct em_chat_position {
    int64_t chars;   /* of the model's text, so far */
    int64_t settled; /* of them, those that no stop string can take back */
    int64_t cut;     /* where a stop string began; INT64_MAX: none has come */
    int64_t
        reasoning_end; /* where the reasoning ended, its end mark included; INT64_MAX: it has not; 0: there was none */
    int32_t n_calls;   /* begun */
} em_chat_position;
void em_chat_parser_where(const em_chat_parser *p, em_chat_position *ret_position);

#endif
