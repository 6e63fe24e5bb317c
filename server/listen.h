/* The listening socket, bound before the model is loaded so that a port in use is known at once. */
#ifndef EM_SERVER_LISTEN_H
#define EM_SERVER_LISTEN_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/base/error.h"

/* host: an IPv4 or IPv6 address (brackets allowed) or a name; port 0: the kernel picks. The descriptor is the
 * caller's. A sentence on failure, such as that the port is in use. */
int em_listen(const char *host, int port, int *ret_fd, em_error *err);

/* "http://127.0.0.1:8080" of a bound socket, and whether only this machine can reach it. */
void em_listen_url(int fd, char *buf, size_t cap, bool *ret_loopback);

#endif
