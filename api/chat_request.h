/* Body of POST /v1/chat/completions -> em_request, and how to read and write the answer. Pure on memory; any thread. */
#ifndef EM_API_CHAT_REQUEST_H
#define EM_API_CHAT_REQUEST_H

#include "api/chat_parse.h"
#include "api/chat_read.h"
#include "api/completion_request.h"

typedef struct em_chat {
    em_request *req;         /* taken by the server at submit (set to NULL then); has no stops: those are ours */
    const em_engine *engine; /* from the context: bytes of tokens */
    char fingerprint[16];    /* system_fingerprint */
    const char *model;       /* as answered; from the context */
    bool stream, include_usage, continuous_usage, return_token_ids, tokens_as_ids, engram;
    em_time_limit limit;
    int32_t logprobs; /* -1: null in the answer; else alternatives per token */
    int32_t n;
    em_prompt prompt; /* a copy kept for the reply */
    em_chat_mode mode;
    em_stop *stops; /* [n_stops] owned; they match content only, so the parser seeks them */
    int32_t n_stops;
    em_constraint rule; /* what the answer must look like; its text is owned */
} em_chat;

/* -EINVAL with err filled: malformed JSON, a wrong type, out of range, unknown field or model, prompt too long. */
int em_chat_parse(const char *body, size_t len, const em_api_context *ctx, em_chat **ret_chat, em_api_error *err);
em_chat *em_chat_free(em_chat *c); /* NULL is fine; returns NULL */

/* Binds the request to what the answer must look like, where it asks for a form: gives it the grammar's source, which
 * the engine compiles, and tells the parser. -EINVAL with err filled: it cannot be kept to. */
int em_chat_bind(em_chat *c, em_api_error *err);

/* The prompt of a chat body as text with its marks, and as ids, for /tokenize: fields that do not touch it are passed
 * over. prompt: zero-initialised, em_chat_prompt_done frees. -EINVAL with err filled. */
int em_chat_read_prompt(const em_body *body, const em_api_context *ctx, em_chat_prompt *prompt, em_api_error *err);
int em_chat_tokenize(const em_body *body, const em_api_context *ctx, em_ids *ids, em_api_error *err);

#endif
