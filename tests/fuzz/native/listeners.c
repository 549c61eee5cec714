/* Simulates listening sockets, and checks the engine's records about listeners. The engine must connect each accepted
 * client to its target once, or return the client to Python once.
 */
#include "listeners.h"

#include <errno.h>
#include <netinet/in.h>

struct far_listener listeners[MAX_LISTENERS];
int listener_count;
static struct far_channel *last_accepted;

void __real_pending_add(struct listener *, struct pending *, struct source *, int fd);
void __wrap_pending_add(struct listener *, struct pending *, struct source *, int fd);

void listeners_reset(void)
{
    memset(listeners, 0, sizeof listeners);
    listener_count = 0;
    last_accepted = NULL;
}

void listeners_unblock(void)
{
    for (int at = 0; at < listener_count; at++) {
        struct far_listener *l = &listeners[at];

        l->dial_room = UNLIMITED;
        if (l->withdrawn && !l->unlisten_sent && !l->final) {
            l->unlisten_sent = true;
            python_command(COMMAND_UNLISTEN, l->token, 0, 0, 0);
        }
    }
}

static socklen_t put_address(struct sockaddr *to, uint8_t address)
{
    struct sockaddr_in four = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(address ? 0x0ac80001 : 0x0a000005)};
    struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_addr.s6_addr = {0xfd, address == 3 ? 0x80 : 0, 0, 5}};

    if (address < 2)
        memcpy(to, &four, sizeof four);
    else
        memcpy(to, &six, sizeof six);
    return address < 2 ? sizeof four : sizeof six;
}

/* Return the client that has waited longest in the queue of a listening socket. `listener` is its index. */
static struct far_channel *next_client(int listener)
{
    for (int at = 0; at < channel_count; at++)
        if (channels[at].listener == listener + 1 && channels[at].fd < 0)
            return &channels[at];
    fail(__FILE__, __LINE__, "no client waits");
}

int fake_accept4(int fd, struct sockaddr *address, socklen_t *size, int flags)
{
    struct file *f = file_of(fd), *client;
    struct far_listener *l = &listeners[f->owner];
    struct far_channel *c;

    CHECK(f->kind == FILE_LISTENER && flags == (SOCK_NONBLOCK | SOCK_CLOEXEC), "an unexpected accept4");
    CHECK(*size >= sizeof(struct sockaddr_in6), "no room for the address");
    CHECK(l->accepted - l->served.clients < l->permits, "more than %llu clients are accepted",
          (unsigned long long)l->permits);
    CHECK(!l->withdrawn, "a client is accepted after the rule was withdrawn");
    errno = fault(&faults.interrupt) ? EINTR : fault(&faults.accept) ? EMFILE : !f->available ? EAGAIN : 0;
    l->accept_failed |= errno == EMFILE;
    if (errno)
        return -1;
    f->available--;
    c = last_accepted = next_client(f->owner);
    l->accepted++;
    c->fd = file_open(FILE_CLIENT, (int)(c - channels));
    client = file_of(c->fd);
    client->available = c->written;
    client->room = c->early_room;
    *size = put_address(address, c->address);
    if (l->withdraws) {
        withdraw(l);
        c->withdrawn = true;
    }
    return c->fd;
}

/* Check the channel that the engine opens for an accepted client, and store the channel's number and token. */
static void client_opens(struct far_channel *c, const struct far_listener *l, const struct channel *opened)
{
    const struct connection *conn = opened->connection;

    CHECK(network_allows(l->networks, c->address), "a client with a forbidden address gets a channel");
    CHECK(!c->withdrawn, "a client gets a channel after the rule was withdrawn");
    for (int at = 0; at < connection_count; at++)
        if (connections[at].token == conn->token)
            c->connection = at;
    CHECK(!c->known || c->number == opened->number, "the channel has another number");
    CHECK(!conn->halted && !conn->disconnected, "the server does not answer any more");
    CHECK(opened->window_size == l->min_window ||
              (conn->growth_available >= CONNECTION_GROWTH / 2 && engine->growth_available >= growth_budget / 2),
          "a large window, although the budget is small");
    c->number = opened->number;
    c->token = opened->token;
    c->receive_window = (uint64_t)opened->window_size;
}

/* The linker option `--wrap` makes the engine call this function instead of pending_add. */
void __wrap_pending_add(struct listener *of, struct pending *pending, struct source *owner, int fd)
{
    struct far_channel *c = last_accepted;
    const struct far_listener *l = &listeners[c->listener - 1];

    CHECK(c->fd == fd && of->token == l->token && !c->token, "another client is pending");
    CHECK(l->dials == (owner->kind == SOURCE_DIAL), "a dial instead of a channel, or a channel instead of a dial");
    if (!l->dials)
        client_opens(c, l, (const struct channel *)owner);
    __real_pending_add(of, pending, owner, fd);
    c->accepted_at = pending->accepted_at;
}

struct far_channel *accepted_client(void)
{
    return last_accepted;
}

/* Return the index in `channels` of the client for which the engine has sent CHANNEL_OPEN. */
uint32_t opened_for_client(const struct far_connection *conn, uint32_t index, uint32_t number, uint32_t window)
{
    const struct far_listener *l = &listeners[index - LISTENER_INDEX];
    struct far_channel *c = last_accepted;

    CHECK(index - LISTENER_INDEX < (uint32_t)listener_count, "an unexpected CHANNEL_OPEN");
    CHECK(window == l->min_window || window == l->window, "a window of %u bytes", window);
    for (int at = 0; at < channel_count; at++)
        if (channels[at].listener == l - listeners + 1 && channels[at].token && !channels[at].known &&
            &connections[channels[at].connection] == conn && channels[at].number == number)
            return (uint32_t)at;
    /* The engine can send CHANNEL_OPEN before it calls pending_add. The client then has no token yet. */
    CHECK(c && c->listener == l - listeners + 1 && !c->token && !c->known, "an unexpected CHANNEL_OPEN");
    c->connection = (int)(conn - connections);
    c->number = number;
    c->receive_window = window;
    return (uint32_t)(c - channels);
}

static void on_joined(struct far_listener *l, const struct message_header *h)
{
    client_reported(l, h);
    if (dial_joined((int)(l - listeners), h)) {
        l->joined++;
        return;
    }
    for (int at = 0; at < channel_count; at++) {
        struct far_channel *c = &channels[at];

        if (c->token != (uint64_t)h->a || c->listener != l - listeners + 1)
            continue;
        CHECK(!c->opened && !c->final && connections[c->connection].token == (uint64_t)h->b, "a wrong client");
        CHECK(!connections[c->connection].final, "a client of a connection whose loss was reported before");
        c->opened = true;
        l->joined++;
        return;
    }
    CHECK(false, "a client of no channel");
}

static void on_returned(struct far_listener *l, const struct message_header *h)
{
    const struct file *f = file_of((int)h->a);
    struct far_channel *c = &channels[f->owner];

    CHECK(f->kind == FILE_CLIENT && c->fd == h->a && c->listener == l - listeners + 1, "not a client of the listener");
    CHECK(!c->opened && !c->final && h->b >= 0, "a client that Python already has");
    CHECK(!f->registered && !f->shut && !c->delivered && (f->dead || f->available == c->written),
          "the client was used");
    CHECK(!network_allows(l->networks, c->address) || l->stopped || l->recalled || l->withdrawn,
          "a client is returned without a reason");
    CHECK(!h->c || (h->c == 1 && network_allows(l->networks, c->address)), "a refused client has no dial");
    c->final = c->failed = true;
    l->returned++;
    fake_close(c->fd);
}

bool listener_record(const struct message_header *h)
{
    struct far_listener *l = NULL;

    for (int at = 0; at < listener_count; at++)
        if (listeners[at].token == h->token)
            l = &listeners[at];
    if (!l)
        return false;
    CHECK(!l->final, "record %u after the last one of the listener", h->kind);
    if (h->kind == RECORD_JOINED) {
        on_joined(l, h);
    } else if (h->kind == RECORD_RETURNED) {
        on_returned(l, h);
    } else if (h->kind == RECORD_SERVED) {
        served_reported(l, h);
    } else {
        CHECK(h->kind == RECORD_STOPPED && !l->stopped, "record %u of a listener", h->kind);
        CHECK(served_is_reported(l), "a sum of clients is not reported before the listener stops");
        l->stopped = true;
    }
    CHECK(l->joined + l->returned + l->reported.clients <= l->accepted, "more clients than were accepted");
    l->final = l->stopped && l->joined + l->returned + l->reported.clients == l->accepted;
    if (l->final) {
        CHECK(!slot_find(engine, l->token)->object, "the listener still exists");
        slot_release(engine, l->token);
    }
    return true;
}

/* Check that no accepted client is lost. Call this function after Python has taken all records. */
void check_settled_listeners(void)
{
    for (int at = 0; at < listener_count; at++) {
        struct far_listener *l = &listeners[at];
        struct gauge *gauge = l->final ? NULL : slot_find(engine, l->token);
        const struct listener *real = gauge ? gauge->object : NULL;
        uint64_t pending = l->accepted - l->joined - l->returned - l->reported.clients;

        CHECK((real ? real->pending : 0) == pending, "%llu clients are lost", (unsigned long long)pending);
        CHECK(l->final || real, "the end of a listener is not reported");
        CHECK(!real || !l->unlisten_sent || l->stopped, "the listener has not stopped");
    }
}
