/* engramd probe [URL]: is a server well? For the health check of a container, where no other client is at hand. */
#include <errno.h>
#include <netdb.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine/base/buf.h"
#include "server/commands.h"

#define TIMEOUT_S 5 /* for all of it, the name's address included */

static const char usage[] =
    "Usage: engramd probe [OPTIONS] [URL]\n"
    "Asks for URL, by default /health of a server on this machine. Exit status 0 when the answer\n"
    "is 2xx, 1 when it is not or does not come within 5 seconds.\n"
    "\n";

typedef struct address {
    char host[256], port[8], path[1024];
    bool brackets; /* an IPv6 address */
} address;

/* http://HOST[:PORT][/PATH] */
static int parse_url(const char *url, address *ret_address, em_error *err)
{
    address a = {.port = "80", .path = "/health"};
    const char *at = strncmp(url, "http://", 7) == 0 ? url + 7 : NULL;
    if (!at)
        return em_error_set(err, -EINVAL, "\"%.200s\" is not a URL like http://127.0.0.1:8080/health", url);
    a.brackets = *at == '[';
    const char *host = at + a.brackets, *end = host + strcspn(host, a.brackets ? "]" : ":/?#");
    size_t len = (size_t)(end - host);
    if (len == 0 || len >= sizeof(a.host) || (a.brackets && *end != ']') || strpbrk(url, "\r\n \t"))
        return em_error_set(err, -EINVAL, "\"%.200s\" names no host", url);
    memcpy(a.host, host, len);
    end += a.brackets;
    if (*end == ':') {
        len = strspn(end + 1, "0123456789");
        long port = len && len < sizeof(a.port) ? strtol(end + 1, NULL, 10) : 0;
        if (port < 1 || port > 65535)
            return em_error_set(err, -EINVAL, "\"%.200s\" has a port outside 1 to 65535", url);
        snprintf(a.port, sizeof(a.port), "%ld", port);
        end += 1 + len;
    }
    len = strcspn(end, "#");
    if (*end && *end != '/' && *end != '?' && *end != '#')
        return em_error_set(err, -EINVAL, "\"%.200s\" is not a URL like http://127.0.0.1:8080/health", url);
    if (len >= sizeof(a.path) - 1)
        return em_error_set(err, -EINVAL, "the path of the URL is longer than %zu bytes", sizeof(a.path) - 2);
    if (len)
        snprintf(a.path, sizeof(a.path), "%s%.*s", *end == '/' ? "" : "/", (int)len, end);
    *ret_address = a;
    return 0;
}

/* The server that the same configuration would start: it listens on all addresses when told so, loopback among them. */
static void configured(const em_config *c, address *ret_address)
{
    const char *host = c->host;
    if (strcmp(host, "0.0.0.0") == 0 || !*host)
        host = "127.0.0.1";
    else if (strcmp(host, "::") == 0)
        host = "::1";
    *ret_address = (address){.path = "/health", .brackets = strchr(host, ':') != NULL};
    snprintf(ret_address->host, sizeof(ret_address->host), "%s", host);
    snprintf(ret_address->port, sizeof(ret_address->port), "%d", (int)c->port);
}

static int connect_to(const address *a, int *ret_fd, em_error *err)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list = NULL;
    int r = getaddrinfo(a->host, a->port, &hints, &list), fd = -1, cause = 0;
    if (r)
        return em_error_set(err, -ENOENT, "%s: %s", a->host, gai_strerror(r));
    for (struct addrinfo *ai = list; ai && fd < 0; ai = ai->ai_next) {
        fd = socket(ai->ai_family, ai->ai_socktype | SOCK_CLOEXEC, ai->ai_protocol);
        if (fd >= 0 && connect(fd, ai->ai_addr, ai->ai_addrlen) == 0)
            break;
        cause = errno;
        if (fd >= 0)
            close(fd);
        fd = -1;
    }
    freeaddrinfo(list);
    if (fd < 0)
        return em_error_set(err, -cause, "cannot connect to %s port %s: %s", a->host, a->port, strerror(cause));
    *ret_fd = fd;
    return 0;
}

static int send_request(int fd, const address *a)
{
    em_buf b = {0};
    em_buf_printf(&b,
                  "GET %s HTTP/1.1\r\nHost: %s%s%s:%s\r\nUser-Agent: engramd-probe/" ENGRAMD_VERSION
                  "\r\nAccept: */*\r\nConnection: close\r\n\r\n",
                  a->path, a->brackets ? "[" : "", a->host, a->brackets ? "]" : "", a->port);
    int r = b.failed ? -ENOMEM : 0;
    for (size_t at = 0; r == 0 && at < b.len;) {
        ssize_t n = send(fd, b.data + at, b.len - at, MSG_NOSIGNAL);
        if (n < 0)
            r = -errno;
        else
            at += (size_t)n;
    }
    em_buf_done(&b);
    return r;
}

/* The status of the answer's first line, HTTP/1.x NNN; negative errno. */
static int read_status(int fd)
{
    char line[16];
    size_t at = 0;
    while (at < 12) {
        ssize_t n = recv(fd, line + at, sizeof(line) - 1 - at, 0);
        if (n < 0)
            return -errno;
        if (n == 0)
            return -EPROTO;
        at += (size_t)n;
    }
    line[at] = '\0';
    if (strncmp(line, "HTTP/1.", 7) != 0 || line[8] != ' ' || strspn(line + 9, "0123456789") < 3)
        return -EPROTO;
    line[12] = '\0';
    return (int)strtol(line + 9, NULL, 10);
}

static int probe(const address *a, em_error *err)
{
    int fd = -1;
    int r = connect_to(a, &fd, err);
    if (r < 0)
        return r;
    r = send_request(fd, a);
    int status = r < 0 ? r : read_status(fd);
    close(fd);
    if (status == -EPROTO)
        return em_error_set(err, status, "%s port %s does not answer in HTTP", a->host, a->port);
    if (status < 0)
        return em_error_set(err, status, "%s port %s: %s", a->host, a->port, strerror(-status));
    if (status < 200 || status > 299)
        return em_error_set(err, -EIO, "%s port %s answers %d to %s", a->host, a->port, status, a->path);
    return 0;
}

/* Nothing of this process is worth saving: the whole command has this long. */
static void on_alarm(int sig)
{
    static const char text[] = "engramd probe: no answer within 5 seconds\n";
    ssize_t told = write(STDERR_FILENO, text, sizeof(text) - 1);
    (void)told;
    _exit(1);
}

int em_cmd_probe(int argc, char **argv, char **env)
{
    em_config *c;
    em_error err = {0};
    address a;
    int code = em_command_begin(EM_COMMAND_PROBE, usage, argc, argv, env, &c);
    if (code >= 0)
        return code;
    code = 0;
    if (!c->argument)
        configured(c, &a);
    else if (parse_url(c->argument, &a, &err) < 0)
        code = em_command_fail("probe", 2, &err);
    if (code == 0) {
        signal(SIGALRM, on_alarm);
        alarm(TIMEOUT_S);
        code = probe(&a, &err) < 0 ? em_command_fail("probe", 1, &err) : 0;
        alarm(0);
    }
    em_config_free(c);
    return code;
}
