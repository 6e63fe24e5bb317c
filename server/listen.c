#include "server/listen.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define BACKLOG 4096 /* the kernel cuts it to net.core.somaxconn */

static int bind_one(const struct addrinfo *a)
{
    int fd = socket(a->ai_family, a->ai_socktype | SOCK_NONBLOCK | SOCK_CLOEXEC, a->ai_protocol);
    if (fd < 0)
        return -errno;
    int one = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)); /* usable at once after a crash */
    if (bind(fd, a->ai_addr, a->ai_addrlen) == 0 && listen(fd, BACKLOG) == 0)
        return fd;
    int r = -errno;
    close(fd);
    return r;
}

/* "[::1]" is how people write it behind http:// */
static void strip_brackets(const char *host, char *buf, size_t cap)
{
    size_t len = strlen(host);
    bool bracketed = len > 2 && host[0] == '[' && host[len - 1] == ']';
    snprintf(buf, cap, "%.*s", (int)(bracketed ? len - 2 : len), bracketed ? host + 1 : host);
}

int em_listen(const char *host, int port, int *ret_fd, em_error *err)
{
    char name[256], service[16];
    strip_brackets(host, name, sizeof(name));
    snprintf(service, sizeof(service), "%d", port);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV}, *list = NULL;
    int r = *name ? getaddrinfo(name, service, &hints, &list) : EAI_NONAME;
    if (r)
        return em_error_set(err, -EINVAL, "--host: \"%s\" is no address of this machine (%s)", host, gai_strerror(r));
    int fd = -EADDRNOTAVAIL;
    /* IPv4 first: "localhost" means 127.0.0.1 to most clients */
    for (int pass = 0; pass < 2 && fd < 0; pass++)
        for (const struct addrinfo *a = list; a && fd < 0; a = a->ai_next)
            if ((a->ai_family == AF_INET) == (pass == 0)) {
                int got = bind_one(a);
                fd = got >= 0 || fd == -EADDRNOTAVAIL ? got : fd; /* the first reason is the one to tell */
            }
    freeaddrinfo(list);
    if (fd == -EADDRINUSE)
        return em_error_set(err, fd, "port %d on %s is in use; stop the other program or choose another --port", port,
                            host);
    if (fd < 0)
        return em_error_set(err, fd, "cannot listen on %s port %d: %s", host, port, strerror(-fd));
    *ret_fd = fd;
    return 0;
}

static bool is_loopback(const struct sockaddr_storage *a)
{
    if (a->ss_family == AF_INET)
        return ntohl(((const struct sockaddr_in *)a)->sin_addr.s_addr) >> 24 == 127;
    return a->ss_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)a)->sin6_addr);
}

void em_listen_url(int fd, char *buf, size_t cap, bool *ret_loopback)
{
    struct sockaddr_storage a = {0};
    socklen_t len = sizeof(a);
    char host[INET6_ADDRSTRLEN] = "?";
    getsockname(fd, (struct sockaddr *)&a, &len);
    if (a.ss_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)&a;
        inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof(host));
        snprintf(buf, cap, "http://[%s]:%d", host, ntohs(in6->sin6_port));
    } else {
        const struct sockaddr_in *in = (const struct sockaddr_in *)&a;
        inet_ntop(AF_INET, &in->sin_addr, host, sizeof(host));
        snprintf(buf, cap, "http://%s:%d", host, ntohs(in->sin_port));
    }
    *ret_loopback = is_loopback(&a);
}
