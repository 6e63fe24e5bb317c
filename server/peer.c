/* Connections and the deadlines that libmicrohttpd does not keep: its timeout begins anew with every byte, so a client
 * that sends one byte now and then would hold a connection for ever. */
#include <stdlib.h>
#include <sys/socket.h>

#include "engine/base/clock.h"
#include "server/http.h"

static void peer_started(em_http *h, struct MHD_Connection *conn, void **socket_context)
{
    em_peer *p = calloc(1, sizeof(*p));
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(conn, MHD_CONNECTION_INFO_CONNECTION_FD);
    *socket_context = p;
    if (!p)
        return; /* such a connection has no deadline of ours; requests on it are refused */
    p->fd = info ? info->connect_fd : -1;
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
