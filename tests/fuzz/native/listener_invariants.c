/* Checks the state of the engine's listeners after each iteration of the engine's event loop. */
#include "listeners.h"

#define MAX_PENDING 64u
/* Longer than in pending.c, because the clock advances during an iteration of the event loop. */
#define SLOW_OPEN (SECOND / 2)

static void check_channel(const struct channel *c)
{
    CHECK(c->source.kind == SOURCE_CHANNEL && c->unannounced && c->connection && !c->open && !c->attached && !c->abandoned &&
              !c->ended && !c->queued && c->fd < 0,
          "a channel in a wrong state is pending");
}

static void check_dial(const struct dial *d)
{
    const struct file *f = file_of(d->fd);

    CHECK(d->source.kind == SOURCE_DIAL && f->kind == FILE_DIAL, "a dial that has ended is pending");
    CHECK(d->watched && f->registered && f->mask == EPOLLOUT, "a dial has another registration");
    CHECK(dial_is_connecting(f), "a dial is not handled");
}

static void check_pending(const struct listener *l)
{
    const struct pending *last = NULL;
    uint32_t count = 0;

    for (const struct pending *p = l->first; p; p = p->next) {
        CHECK(p->listener == l && p->previous == last, "the queue of the listener is inconsistent");
        CHECK(file_of(p->fd)->kind == FILE_CLIENT && !file_of(p->fd)->registered, "descriptor %d is not a client",
              p->fd);
        CHECK(!last || last->accepted_at < p->accepted_at, "the clients are in a wrong order");
        if (l->setup->address_size)
            check_dial((const struct dial *)p->owner);
        else
            check_channel((const struct channel *)p->owner);
        last = p;
        count++;
    }
    CHECK(l->last == last && l->pending == count, "%u clients are pending, not %u", count, l->pending);
    CHECK(count <= MAX_PENDING, "%u clients are pending", count);
}

static void check_listener(const struct listener *l)
{
    const struct far_listener *far = NULL;

    for (int at = 0; at < listener_count; at++)
        if (listeners[at].token == l->token)
            far = &listeners[at];
    CHECK(far && l->source.kind == SOURCE_LISTENER && l->gauge->object == l, "a listener that has ended");
    CHECK(l->accepted == far->accepted - far->served.clients && l->accepted == atomic_load(&l->gauge->to_backend),
          "%llu clients are accepted", (unsigned long long)far->accepted);
    CHECK(l->permitted == far->permits || l->stopped, "%llu clients are permitted", (unsigned long long)l->permitted);
    CHECK(!far->accept_failed || l->stopped, "an error of accept4 has no effect");
    CHECK(!far->dial_failed || l->stopped, "an error of a dial has no effect");
    CHECK(!l->stopped || l->pending, "a listener without clients is not freed");
    CHECK(!l->permit_due || (l->accepted == l->permitted && !l->permit_waited), "a listener with permits waits for one");
    CHECK(l->stopped || !l->permit_due || (engine->slow_scan_due && fake_now < l->permit_due + SLOW_OPEN),
          "a listener waits for a permit too long");
    CHECK(l->watched == (!l->stopped && l->pending < MAX_PENDING && !l->permit_due), "the socket is watched: %d", l->watched);
    CHECK(file_is_open(l->fd) == !l->stopped && (l->stopped || file_of(l->fd)->registered == l->watched),
          "the socket has another registration");
    CHECK(l->stopped || !l->pending || engine->slow_scan_due, "no scan for slow replies is due");
    CHECK(l->stopped || !l->pending || fake_now - l->first->accepted_at < SLOW_OPEN, "a slow reply has no effect");
    check_pending(l);
}

void check_listeners(void)
{
    uint32_t dials = 0;

    for (const struct listener *l = engine->listeners; l; l = l->next) {
        CHECK(!l->next || l->next->previous == l, "the list of listeners is inconsistent");
        check_listener(l);
        dials += l->setup->address_size ? l->pending : 0;
    }
    for (int at = 0; at < file_count; at++)
        dials -= files[at].kind == FILE_DIAL;
    CHECK(!dials, "a dialed socket is lost");
    for (const struct channel *c = engine->channels; c; c = c->next)
        CHECK(c->unannounced == (c->pending.listener != NULL) || c->ended, "whether Python knows the channel is wrong");
}
