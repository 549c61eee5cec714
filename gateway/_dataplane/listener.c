/* Accepts the clients of listeners. If the rule from Python allows a client, opens a channel for the client, or dials
 * the target. Otherwise, returns the client to Python. */
#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "listener.h"

#define ACCEPTS_PER_TURN 64u
#define PERMIT_WAIT (SECOND / 50) /* maximum time to wait for a permit to accept clients; see `wait_for_permit` */
#define OVERFLOW_PERIOD SECOND
#define MAX_PENDING 64u /* maximum number of a listener's clients that wait for the target; others wait in the kernel */

/* Start to accept clients. Emit RECORD_STOPPED when the listener stops, or now if it cannot start. */
void listener_create(struct engine *e, uint64_t token, const struct listener_setup *setup, size_t size)
{
    struct gauge *gauge = slot_find(e, token);
    struct listener *l = gauge ? calloc(1, sizeof *l) : NULL;
    struct listener_setup *copy = l ? malloc(size) : NULL;

    if (!copy || !histogram_ensure(e, setup->open_histogram)) {
        free(copy);
        free(l);
        close(setup->fd);
        emit(e, RECORD_STOPPED, token, NULL, NULL, 0);
        return;
    }
    memcpy(copy, setup, size);
    *l = (struct listener){
        .source.kind = SOURCE_LISTENER, .fd = setup->fd, .permitted = setup->permits, .token = token, .engine = e,
        .gauge = gauge, .next = e->listeners, .setup = copy,
        .networks = (const uint8_t *)(copy + 1) + setup->connection_count * sizeof(uint64_t),
    };
    l->target = l->networks + setup->network_count * sizeof(struct network);
    if (e->listeners)
        e->listeners->previous = l;
    e->listeners = l;
    gauge->object = l;
    listener_watch(l);
}

/* Register the listening socket with epoll while the listener can accept clients: it has not stopped, does not wait
 * for a permit, and has fewer than MAX_PENDING waiting clients. Otherwise, unregister the socket. With
 * EPOLLEXCLUSIVE, a new client does not wake all native engines that share the socket. */
void listener_watch(struct listener *l)
{
    bool wanted = !l->stopped && l->pending < MAX_PENDING && !l->permit_due;
    struct epoll_event event = {.events = EPOLLIN | EPOLLEXCLUSIVE, .data.ptr = &l->source};

    if (wanted == l->watched)
        return;
    l->watched = wanted;
    if (epoll_ctl(l->engine->epoll, wanted ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, l->fd, &event) < 0 && wanted) {
        l->watched = false;
        listener_stop(l);
    }
}

/* Accept no more clients. The native engine still connects the accepted clients to the target. */
void listener_stop(struct listener *l)
{
    if (l->stopped)
        return;
    l->stopped = true;
    listener_watch(l);
    close(l->fd);
    joined_report_all(l);
    if (!l->pending)
        listener_free(l);
    emit(l->engine, RECORD_STOPPED, l->token, NULL, NULL, 0);
}

/* Free a listener that has stopped and has no waiting clients. Its memory stays valid until the end of this loop iteration. */
void listener_free(struct listener *l)
{
    if (l->previous)
        l->previous->next = l->next;
    else
        l->engine->listeners = l->next;
    if (l->next)
        l->next->previous = l->previous;
    l->gauge->object = NULL;
    free(l->setup);
    l->setup = NULL;
    free_later(l->engine, &l->source);
}

/* Accept clients again, because a permit is available: Python has added one, or a client has given its permit back. */
void listener_permit_returned(struct listener *l)
{
    l->permit_due = 0;
    l->permit_waited = false;
    listener_watch(l);
}

void listener_permit(struct listener *l, uint64_t count)
{
    l->permitted += count;
    listener_permit_returned(l);
}

/* Wait for a permit for at most PERMIT_WAIT. Meanwhile, other native engines that share the socket can accept
 * clients. If the previous wait ended without a permit, do not wait again, but stop the listener. Python then accepts
 * the clients. */
static void wait_for_permit(struct listener *l)
{
    if (l->permit_waited) {
        listener_stop(l);
        return;
    }
    l->permit_due = clock_ns() + PERMIT_WAIT;
    schedule_slow_scan(l->engine, l->permit_due);
    listener_watch(l);
}

static bool withdrawn(const struct listener *l)
{
    return atomic_load(&l->gauge->held) != 0;
}

static bool contains(const struct network *n, const uint8_t *address, size_t size)
{
    uint8_t whole = n->prefix / 8, rest = n->prefix % 8;

    if (n->size != size || whole > size || memcmp(n->address, address, whole) != 0)
        return false;
    return whole == size || (n->address[whole] ^ address[whole]) >> (8 - rest) == 0;
}

static bool allowed(const struct listener *l, const struct sockaddr_storage *from)
{
    const struct sockaddr_in6 *six = (const void *)from;
    const struct sockaddr_in *four = (const void *)from;
    bool is_six = from->ss_family == AF_INET6;
    const void *address = is_six ? (const void *)&six->sin6_addr : &four->sin_addr;
    struct network each;

    /* A socket for both IP versions, such as one that systemd has bound, reports IPv4-mapped IPv6 addresses. */
    if (is_six && IN6_IS_ADDR_V4MAPPED(&six->sin6_addr)) {
        is_six = false;
        address = &six->sin6_addr.s6_addr[12];
    }

    for (uint32_t at = 0; at < l->setup->network_count; at++) {
        memcpy(&each, l->networks + at * sizeof each, sizeof each);
        if (contains(&each, address, is_six ? 16 : 4))
            return true;
    }
    return !l->setup->network_count;
}

static uint32_t load_of(const struct connection *conn)
{
    return conn->used_count - conn->free_count;
}

/* Return the SSH connection with the fewest channels. Choose round-robin among connections with equally few channels. Return
 * NULL if no connection can open channels. */
static struct connection *choose_connection(struct listener *l)
{
    const uint64_t *tokens = (const void *)(l->setup + 1);
    uint32_t count = l->setup->connection_count, first = l->next_connection++;
    struct connection *best = NULL;

    for (uint32_t at = 0; at < count; at++) {
        struct gauge *gauge = slot_find(l->engine, tokens[(first + at) % count]);
        struct connection *conn = gauge ? gauge->object : NULL;

        if (conn && !conn->closed && !conn->halted && !conn->disconnected && (!best || load_of(conn) < load_of(best)))
            best = conn;
    }
    return best;
}

/* Count a new channel. At the end of each period of about one second, increment `overflow_periods` if more than three
 * quarters of the period's channels were opened on full SSH connections.
 *
 * To ignore short bursts of clients, skip each period that lasted two seconds or longer because no client arrived,
 * and each period with too few channels to fill one SSH connection.
 *
 * Args: overflow: whether the SSH connection was already full before this channel.
 */
static void count_opened(struct listener *l, bool overflow)
{
    uint64_t now = clock_ns(), age = now - l->period_start;

    l->opened++;
    l->overflow += overflow;
    if (age < OVERFLOW_PERIOD)
        return;
    if (age < 2 * OVERFLOW_PERIOD && l->opened > l->setup->full_load && 4 * l->overflow > 3 * l->opened)
        gauge_set(&l->gauge->from_backend, ++l->overflow_periods);
    l->period_start = now;
    l->opened = l->overflow = 0;
}

/* Start to open a channel for a client. Return false if no SSH connection, token or memory is available. */
static bool open_channel(struct listener *l, int fd)
{
    struct engine *e = l->engine;
    struct connection *conn = choose_connection(l);
    uint64_t token = conn ? slot_allocate(e) : 0, extra = l->setup->window - l->setup->min_window;
    struct channel_setup setup = {.max_packet = l->setup->max_packet,
                                   .type_size = l->setup->type_size, .tap = l->setup->tap};
    struct channel *c;

    if (!token)
        return false;
    if (conn->growth_available < conn->growth_reserve + extra || e->growth_available < e->growth_reserve + extra)
        extra = 0;
    setup.window = l->setup->min_window + (uint32_t)extra;
    c = channel_open(e, conn, token, &setup, l->target, l->setup->type_size + l->setup->rest_size);
    if (!c) {
        slot_release(e, token);
        return false;
    }
    count_opened(l, load_of(conn) > l->setup->full_load);
    conn->growth_available -= extra;
    e->growth_available -= extra;
    c->growth = extra;
    c->unannounced = true;
    pending_add(l, &c->pending, &c->source, fd);
    return true;
}

static void take_client(struct listener *l, int fd, const struct sockaddr_storage *from)
{
    bool permitted;

    /* Write the number of accepted clients first, and then read `held` (in `withdrawn`). Python writes `held` first,
     * and then reads the number. Therefore, Python counts this client, or `withdrawn` returns true, or both. */
    atomic_store(&l->gauge->to_backend, ++l->accepted);
    permitted = !withdrawn(l) && allowed(l, from);
    if (permitted && (l->setup->address_size ? dial_start(l, fd) : open_channel(l, fd)))
        return;
    if (permitted)
        listener_stop(l);
    report_returned(l, fd, 0, false);
}

/* Accept the clients that wait in the kernel. If no permit is left, wait for one (see `wait_for_permit`). If accept4(2) fails
 * unexpectedly, stop the listener: Python then accepts the next clients. */
void listener_event(struct listener *l)
{
    struct sockaddr_storage from;

    memset(&from, 0, sizeof from);
    if (l->accepted == l->permitted)
        wait_for_permit(l);
    for (uint32_t at = 0; at < ACCEPTS_PER_TURN && l->watched && l->accepted < l->permitted && !withdrawn(l); at++) {
        socklen_t size = sizeof from;
        int fd = accept4(l->fd, (struct sockaddr *)&from, &size, SOCK_NONBLOCK | SOCK_CLOEXEC);

        if (fd >= 0)
            take_client(l, fd, &from);
        else if (errno == EAGAIN || errno == ECONNABORTED || errno == EINTR)
            break;
        else
            listener_stop(l);
    }
}
