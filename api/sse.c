#include "api/sse.h"

void em_sse_begin(em_buf *out)
{
    em_buf_append(out, "data: ", 6);
}

void em_sse_end(em_buf *out)
{
    em_buf_append(out, "\n\n", 2);
}

void em_sse_error(em_buf *out, const em_api_error *err)
{
    em_sse_begin(out);
    em_api_error_json(err, out);
    em_sse_end(out);
}

void em_sse_done(em_buf *out)
{
    em_buf_append(out, "data: [DONE]\n\n", 14);
}
