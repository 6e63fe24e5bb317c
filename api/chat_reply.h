/* em_event -> the JSON of /v1/chat/completions, whole or streamed. One thread at a time. */
#ifndef EM_API_CHAT_REPLY_H
#define EM_API_CHAT_REPLY_H

#include "api/chat_request.h"
#include "api/reply.h"

typedef struct em_chat_reply em_chat_reply;

/* c must outlive the reply. id: "chatcmpl-..."; created: Unix seconds. -ENOMEM. */
int em_chat_reply_new(const em_chat *c, const char *id, int64_t created, em_chat_reply **ret_reply);
em_chat_reply *em_chat_reply_free(em_chat_reply *r);

/* As the functions of em_endpoint (api/reply.h). Stop strings are found here: 1 when they have ended every choice. */
int em_chat_reply_add(em_chat_reply *r, const em_event *ev);
int em_chat_reply_json(em_chat_reply *r, em_buf *out, em_api_error *err);
int em_chat_reply_stream(em_chat_reply *r, const em_event *ev, em_buf *out);

extern const em_endpoint em_chat_endpoint; /* POST /v1/chat/completions */

#endif
