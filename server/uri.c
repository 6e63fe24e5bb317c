#include "server/uri.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>
#include <strings.h>

#include "engine/engine.h" /* EM_REQUEST_ID_MAX */

static int hex(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

int em_uri_path(const char *target, char *buf, size_t cap)
{
    if (strncasecmp(target, "http://", 7) == 0) {
        target = strchr(target + 7, '/');
        if (!target)
            target = "/";
    }
    if (*target != '/' && strcmp(target, "*") != 0)
        return -EINVAL;
    size_t n = 0;
    for (const char *p = target; *p; p++) {
        unsigned char c = (unsigned char)*p;
        if (c <= ' ' || c == 0x7f)
            return -EINVAL;
        if (c == '%') {
            int high = hex(p[1]), low = high < 0 ? -1 : hex(p[2]);
            if (low < 0 || high + low == 0)
                return -EINVAL;
            c = (unsigned char)(high << 4 | low);
            p += 2;
        }
        if (n + 1 >= cap)
            return -ENOSPC;
        buf[n++] = (char)c;
    }
    buf[n] = '\0';
    return 0;
}

/* Length of the name in "name:port" or "[address]:port"; 0 when malformed. */
static size_t host_length(const char *host)
{
    const char *end = *host == '[' ? strchr(host, ']') : host + strcspn(host, ":");
    if (!end)
        return 0;
    if (*host == '[')
        end++;
    if (*end && (*end != ':' || end[1 + strspn(end + 1, "0123456789")]))
        return 0;
    return (size_t)(end - host);
}

static bool is_loopback_name(const char *name, size_t len)
{
    char text[64];
    struct in_addr v4;
    struct in6_addr v6;
    if (len >= sizeof(text))
        return false;
    memcpy(text, name, len);
    text[len] = '\0';
    if (strcasecmp(text, "localhost") == 0 || strcasecmp(text, "localhost.") == 0)
        return true;
    if (inet_pton(AF_INET, text, &v4) == 1)
        return ntohl(v4.s_addr) >> 24 == 127;
    if (text[0] != '[')
        return false;
    text[len - 1] = '\0';
    return inet_pton(AF_INET6, text + 1, &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

bool em_host_allowed(const em_config *c, bool loopback, const char *host)
{
    if (!host || (!loopback && c->allowed_host.n == 0))
        return true;
    size_t len = host_length(host);
    if (len == 0)
        return false;
    if (is_loopback_name(host, len))
        return true;
    for (int i = 0; i < c->allowed_host.n; i++)
        if (strlen(c->allowed_host.s[i]) == len && strncasecmp(c->allowed_host.s[i], host, len) == 0)
            return true;
    return false;
}

bool em_request_id_ok(const char *id)
{
    size_t len = strspn(id, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:-");
    return len >= 1 && len <= EM_REQUEST_ID_MAX && id[len] == '\0';
}
