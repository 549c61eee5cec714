/* Connects a listener's clients to its target without SSH. */
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <unistd.h>

#include "listener.h"
#include "pair.h"

/* Start or continue to connect. Return 0 if connected, EINPROGRESS if not connected yet, or the `errno` of the failure. */
static int advance(const struct dial *d)
{
    const struct listener_setup *setup = d->pending.listener->setup;

    if (connect(d->fd, (const struct sockaddr *)&setup->address, setup->address_size) == 0)
        return 0;
    return errno == EALREADY || errno == EINTR ? EINPROGRESS : errno; /* after EINTR, the kernel continues to connect */
}

static in_port_t port_of(const struct sockaddr_storage *address)
{
    return address->ss_family == AF_INET6 ? ((const struct sockaddr_in6 *)address)->sin6_port
                                          : ((const struct sockaddr_in *)address)->sin_port;
}

/* Return whether a socket is connected to itself. This happens if the target is on this host, no process listens on its
 * port, and the kernel chooses this port as the source port (RFC 9293, section 3.5: simultaneous open). */
static bool is_self_connected(int fd, const struct sockaddr_storage *target)
{
    struct sockaddr_storage local, remote;
    socklen_t local_size = sizeof local, remote_size = sizeof remote;

    memset(&local, 0, sizeof local);
    memset(&remote, 0, sizeof remote);
    if (getsockname(fd, (struct sockaddr *)&local, &local_size) < 0 || port_of(&local) != port_of(target))
        return false;
    return getpeername(fd, (struct sockaddr *)&remote, &remote_size) < 0 || memcmp(&local, &remote, sizeof local) == 0;
}

/* Unregister the socket from epoll now, and free `d` at the end of this loop iteration. */
static void release(struct dial *d)
{
    if (d->watched)
        epoll_ctl(d->engine->epoll, EPOLL_CTL_DEL, d->fd, NULL);
    free_later(d->engine, &d->source);
}

/* Abort a connection attempt, and close the socket. The caller has already removed the client that waited for the
 * connection. */
void dial_close(struct dial *d)
{
    release(d);
    close(d->fd);
}

/* Start to relay between the client and the target. Return false if `slot_allocate` fails. */
static bool join(struct dial *d)
{
    struct engine *e = d->engine;
    const struct listener_setup *rule = d->pending.listener->setup;
    struct pair_setup setup = {.client = d->pending.fd, .backend = d->fd, .histogram = rule->histogram,
                               .flags = ATTACH_MEASURE | ATTACH_DEFERRED, .tap = rule->tap};
    uint64_t token = slot_allocate(e);
    struct pair *p;

    if (!token)
        return false;
    release(d);
    p = pair_create(e, token, &setup, &d->pending);
    pending_remove(&d->pending);
    if (p) /* read now, because the client has often sent its first bytes already */
        side_event(&p->client, EPOLLIN);
    return true;
}

/* Register the socket with epoll, to continue when it is connected or has failed. Return false if `epoll_ctl` fails. */
static bool watch(struct dial *d)
{
    struct epoll_event event = {.events = EPOLLOUT, .data.ptr = &d->source};

    if (!d->watched)
        d->watched = epoll_ctl(d->engine->epoll, EPOLL_CTL_ADD, d->fd, &event) == 0;
    return d->watched;
}

/* Handle `error`, the result of `advance`:
 *
 * - 0: relay between the client and the target.
 * - EINPROGRESS: wait until the socket is connected or has failed.
 * - Any other value: return the client to Python, which handles failures.
 *
 * If the socket is connected to itself, or if relaying or waiting cannot start, also return the client to Python. */
static void proceed(struct dial *d, int error)
{
    bool works;

    if (error == EINPROGRESS)
        works = watch(d);
    else
        works = !error && !is_self_connected(d->fd, &d->pending.listener->setup->address) && join(d);
    if (!works) {
        pending_failed(&d->pending, !error || error == EINPROGRESS);
        dial_close(d);
    }
}

void dial_event(struct dial *d)
{
    proceed(d, advance(d));
}

static void set_options(const struct listener *l, int fd)
{
    const uint8_t *at = l->target;
    struct socket_option option;

    for (uint32_t count = l->setup->option_count; count; count--, at += sizeof option) {
        memcpy(&option, at, sizeof option);
        setsockopt(fd, option.level, option.name, &option.value, sizeof option.value);
    }
}

/* Start to connect a client to the listener's target. Return false if no socket or no memory is available. */
bool dial_start(struct listener *l, int client)
{
    int fd = socket(l->setup->address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), error;
    struct dial *d = fd < 0 ? NULL : calloc(1, sizeof *d);

    if (!d) {
        if (fd >= 0)
            close(fd);
        return false;
    }
    *d = (struct dial){.source.kind = SOURCE_DIAL, .engine = l->engine, .fd = fd};
    set_options(l, fd);
    pending_add(l, &d->pending, &d->source, client);
    error = advance(d);
    /* If the target is on this host, the connection is already established before the second call of `advance`. */
    proceed(d, error == EINPROGRESS ? advance(d) : error);
    return true;
}
