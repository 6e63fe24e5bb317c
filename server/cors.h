/* Cross-origin requests of browsers: nothing is allowed that --cors-origin does not name. */
#ifndef EM_SERVER_CORS_H
#define EM_SERVER_CORS_H

#include "server/http.h"

/* Every value of --cors-origin is "*" or an origin as browsers write it. -EINVAL with a sentence. */
int em_cors_check(const em_config *c, em_error *err);

/* The request asks, before another one, whether it may be made from its origin, and it may. Such a request bears no
 * key. */
bool em_cors_is_preflight(const em_exchange *x);

/* The headers that tell a browser what it may do with the answer. */
void em_cors_add_headers(const em_exchange *x, struct MHD_Response *response);

#endif
