/* Framing of server-sent events: "data: {json}\n\n". Failures stay in em_buf.failed. */
#ifndef EM_API_SSE_H
#define EM_API_SSE_H

#include "api/error.h"

void em_sse_begin(em_buf *out);                          /* "data: "; the caller writes JSON without raw newlines */
void em_sse_end(em_buf *out);                            /* the empty line */
void em_sse_error(em_buf *out, const em_api_error *err); /* nested form: SDKs throw it as an exception */
void em_sse_done(em_buf *out);                           /* "data: [DONE]" */

#endif
