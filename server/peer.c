/* Connections and the deadlines that libmicrohttpd does not keep: its timeout begins anew with every byte, so a client
 * that sends one byte now and then would hold a connection for ever. */
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "engine/base/clock.h"
#include "server/http.h"

/* --- connections by address ------------------------------------------------------------------------------------ */

#define SPARE_PER_ADDRESS 16 /* connections beyond the limit that get an answer instead of a closed door */

/* An IPv6 client owns a whole /64 network, so that is what counts. False: another kind of address. */
static bool address_bytes(const struct sockaddr *addr, uint8_t bytes[16])
{
    memset(bytes, 0, 16);
    if (addr && addr->sa_family == AF_INET) {
        memcpy(bytes + 12, &((const struct sockaddr_in *)addr)->sin_addr, 4);
        bytes[10] = bytes[11] = 0xff;
        return true;
    }
    if (!addr || addr->sa_family != AF_INET6)
        return false;
    const struct in6_addr *v6 = &((const struct sockaddr_in6 *)addr)->sin6_addr;
    memcpy(bytes, v6, IN6_IS_ADDR_V4MAPPED(v6) ? 16 : 8);
    return true;
}

static em_address **find_address(em_http *h, const uint8_t bytes[16])
{
    uint32_t hash = 2166136261u; /* FNV-1a; a chain is no longer than there are connections */
    for (int i = 0; i < 16; i++)
        hash = (hash ^ bytes[i]) * 16777619u;
    em_address **at = &h->addresses[hash % EM_ADDRESS_BUCKETS];
    while (*at && memcmp((*at)->bytes, bytes, 16) != 0)
        at = &(*at)->next;
    return at;
}

enum MHD_Result em_peer_accept(void *cls, const struct sockaddr *addr, socklen_t len)
{
    em_http *h = cls;
    uint8_t bytes[16];
    int64_t limit = h->config->max_connections_per_address;
    if (limit == 0 || !address_bytes(addr, bytes))
        return MHD_YES;
    const em_address *a = *find_address(h, bytes);
    return a && a->n >= limit + SPARE_PER_ADDRESS ? MHD_NO : MHD_YES;
}

bool em_peer_one_too_many(const em_http *h, const em_peer *p)
{
    int64_t limit = h->config->max_connections_per_address;
    return limit && p->address && p->address->n > limit;
}

static em_address *address_enter(em_http *h, const struct sockaddr *addr)
{
    uint8_t bytes[16];
    if (!address_bytes(addr, bytes))
        return NULL;
    em_address **at = find_address(h, bytes);
    if (!*at) {
        *at = calloc(1, sizeof(**at));
        if (!*at)
            return NULL;
        memcpy((*at)->bytes, bytes, 16);
    }
    (*at)->n++;
    return *at;
}

static void address_leave(em_http *h, em_address *a)
{
    if (!a || --a->n)
        return;
    *find_address(h, a->bytes) = a->next;
    free(a);
}

/* --- connections ---------------------------------------------------------------------------------------------- */

static void peer_started(em_http *h, struct MHD_Connection *conn, void **socket_context)
{
    em_peer *p = calloc(1, sizeof(*p));
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(conn, MHD_CONNECTION_INFO_CONNECTION_FD);
    *socket_context = p;
    if (!p)
        return; /* such a connection has no deadline of ours; requests on it are refused */
    p->fd = info ? info->connect_fd : -1;
    info = MHD_get_connection_info(conn, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    p->address = address_enter(h, info ? info->client_addr : NULL);
    p->deadline_ns = em_now_ns() + h->config->header_timeout;
    p->next = h->peers;
    if (p->next)
        p->next->prev = p;
    h->peers = p;
    h->n_peers++;
}

static void peer_closed(em_http *h, em_peer *p)
{
    if (!p)
        return;
    if (p->prev)
        p->prev->next = p->next;
    else
        h->peers = p->next;
    if (p->next)
        p->next->prev = p->prev;
    h->n_peers--;
    address_leave(h, p->address);
    free(p);
}

void em_peer_notify(void *cls, struct MHD_Connection *conn, void **socket_context,
                    enum MHD_ConnectionNotificationCode code)
{
    em_http *h = cls;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        peer_started(h, conn, socket_context);
    } else {
        peer_closed(h, *socket_context);
        *socket_context = NULL;
    }
}

em_peer *em_peer_of(struct MHD_Connection *conn)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(conn, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    return info ? info->socket_context : NULL;
}

void em_peer_cut_late(em_http *h, uint64_t now)
{
    for (em_peer *p = h->peers; p; p = p->next)
        if (p->deadline_ns && now >= p->deadline_ns) {
            p->deadline_ns = 0;
            shutdown(p->fd, SHUT_RDWR); /* libmicrohttpd reads the end of the stream and closes */
        }
}
