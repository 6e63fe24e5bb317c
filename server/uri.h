/* Request targets, Host headers and request ids: everything short that a client writes outside the body. Pure. */
#ifndef EM_SERVER_URI_H
#define EM_SERVER_URI_H

#include <stdbool.h>
#include <stddef.h>

#include "server/config.h"

/* Percent-decodes the path of a target once into buf (NUL-terminated); "http://host/path" loses its front. The result
 * begins with '/' or is "*". -EINVAL: malformed escape, %00, a blank, no leading slash; -ENOSPC: does not fit. */
int em_uri_path(const char *target, char *buf, size_t cap);

/* May a request with this Host header be answered? "name", "name:port", "[::1]:port"; NULL: none was sent, which no
 * browser does. Guards against DNS rebinding: a page of evil.example that points its name at 127.0.0.1. */
bool em_host_allowed(const em_config *c, bool loopback, const char *host);

/* A client's id is taken when it is 1 to 64 of [A-Za-z0-9._:-], since it goes into logs and headers. */
bool em_request_id_ok(const char *id);

#endif
