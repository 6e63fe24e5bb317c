/* What /metrics tells. The engine counts what it does; here stand the counts that only the HTTP side knows, and the
 * names of all. docs/METRICS.md describes each. HTTP thread only. */
#ifndef EM_SERVER_METRICS_H
#define EM_SERVER_METRICS_H

#include <stdint.h>

#include "engine/base/buf.h"
#include "engine/engine.h"

#define EM_METRICS_METHODS 5   /* GET, HEAD, POST, OPTIONS, other */
#define EM_METRICS_HANDLERS 32 /* routes, and one for what is none */

typedef struct em_http_counts {
    uint64_t requests[EM_METRICS_HANDLERS][EM_METRICS_METHODS][5]; /* last: 1xx to 5xx */
    uint64_t refused_busy;                                         /* 429: the queue was full */
    uint64_t clients_left;                                         /* before their answer was complete */
    em_histogram params_n, params_max_tokens;                      /* of submitted requests */
} em_http_counts;

void em_http_counts_init(em_http_counts *c);
/* A request has been answered; handler: index of its route, EM_METRICS_HANDLERS - 1 for none. */
void em_http_counts_answer(em_http_counts *c, int handler, const char *method, int status);

struct em_http;
/* The whole text, of this moment. */
void em_metrics_write(struct em_http *h, em_buf *out);

#endif
