/* Opens and closes SSH channels, and manages their windows (RFC 4254, section 5). */
#include <errno.h>
#include <stdlib.h>

#include "listener.h"

static void report_refused(struct engine *e, uint64_t token, uint32_t code, const uint8_t *text, size_t size)
{
    const int64_t arguments[4] = {code, 0, 0, 0};

    emit(e, RECORD_REFUSED, token, arguments, text, size);
}

static void send_open(struct connection *conn, const struct channel *c, const struct channel_setup *setup, const uint8_t *rest,
                      size_t size)
{
    struct bytes payload = {0};
    uint8_t *at = bytes_extend(&payload, 13 + size);
    size_t type = setup->type_size;

    if (!at) {
        connection_break(conn, ENOMEM);
        return;
    }
    *at++ = MSG_CHANNEL_OPEN;
    memcpy(at, rest, type);
    at += type;
    put_u32(at, c->number);
    put_u32(at + 4, setup->window);
    put_u32(at + 8, setup->max_packet);
    memcpy(at + 12, rest + type, size - type);
    send_control(conn, payload.data, payload.size);
    bytes_free(&payload);
}

/* Send CHANNEL_OPEN for a new channel, and return the channel. Return NULL if the SSH connection is lost or has too many
 * channels, or if memory is exhausted. */
struct channel *channel_open(struct engine *e, struct connection *conn, uint64_t token, const struct channel_setup *setup,
                             const uint8_t *rest, size_t size)
{
    struct gauge *gauge = slot_find(e, token);
    struct channel *c = gauge && conn && !conn->closed ? calloc(1, sizeof *c) : NULL;

    if (c)
        *c = (struct channel){
            .source.kind = SOURCE_CHANNEL, .engine = e, .connection = conn, .token = token, .gauge = gauge, .fd = -1,
            .first_piece = NO_INDEX, .last_piece = NO_INDEX, .window_size = setup->window,
            .window_remaining = setup->window, .next = e->channels, .observer.tap = setup->tap,
            .adjust_threshold = conn->adjust_bytes < setup->window / 4 ? conn->adjust_bytes : setup->window / 4,
        };
    if (!c || !connection_add_channel(conn, c)) {
        free(c);
        return NULL;
    }
    if (e->channels)
        e->channels->previous = c;
    e->channels = c;
    gauge->object = c;
    send_open(conn, c, setup, rest, size);
    return c;
}

/* Send CHANNEL_OPEN for a channel that Python has requested. RECORD_OPENED or RECORD_REFUSED reports the result. */
void channel_create(struct engine *e, struct connection *conn, uint64_t token, const struct channel_setup *setup,
                    const uint8_t *rest, size_t size)
{
    static const char refusal[] = "connection lost";

    if (!channel_open(e, conn, token, setup, rest, size))
        report_refused(e, token, OPEN_CONNECT_FAILED, (const uint8_t *)refusal, sizeof refusal - 1);
}

/* Report to Python that a channel did not open. If a listener's client still waits for the channel, return the client to
 * Python. If Python requested the channel, emit RECORD_REFUSED. */
static void report_unopened(struct channel *c, uint32_t code, const uint8_t *text, size_t size)
{
    if (c->pending.listener)
        pending_failed(&c->pending, c->link_lost);
    if (c->unannounced)
        slot_release(c->engine, c->token);
    else
        report_refused(c->engine, c->token, code, text, size);
}

/* Handle CHANNEL_OPEN_CONFIRMATION. If the channel is no longer needed, close it. */
void channel_confirmed(struct channel *c, uint32_t peer, uint64_t window, uint32_t max_packet)
{
    c->open = true;
    c->peer = peer;
    c->peer_window = window;
    c->peer_max_packet = max_packet < MAX_SEND_PACKET ? max_packet : MAX_SEND_PACKET;
    if (c->abandoned) {
        channel_send_close(c);
        channel_release_gauge(c);
        report_unopened(c, OPEN_CONNECT_FAILED, NULL, 0);
    } else if (c->pending.listener) {
        pending_joined(c);
    } else {
        emit(c->engine, RECORD_OPENED, c->token, NULL, NULL, 0);
    }
}

/* End a channel that did not open. The caller has already freed the channel's number. */
void channel_refused(struct channel *c, uint32_t code, const uint8_t *text, size_t size)
{
    c->ended = true;
    channel_release_gauge(c);
    report_unopened(c, code, text, size);
    channel_release(c);
}

/* Handle CHANNEL_CLOSE if `close` is true; otherwise handle CHANNEL_EOF (RFC 4254, section 5.3). */
void channel_peer_end(struct channel *c, bool close)
{
    /* The server must not send data after EOF. Set the window to 0, so that such data is a protocol violation. */
    c->window_remaining = 0;
    if (close) {
        channel_send_close(c);
        channel_free(c);
    }
    ending_backend(c, close);
    if (c->ended)
        channel_release(c);
}

void channel_adjusted(struct channel *c, uint32_t count)
{
    bool stalled = c->peer_window == 0;

    c->peer_window += count;
    if (stalled)
        client_update_mask(c);
}

/* Send CHANNEL_CLOSE. Further calls have no effect. */
void channel_send_close(struct channel *c)
{
    if (c->open && c->connection && !c->sent_close) {
        c->sent_close = true;
        send_short(c->connection, MSG_CHANNEL_CLOSE, c->peer, NULL);
    }
}

/* Give the growth of the channel's receive window back to `growth_available`, so that the windows of other channels can
 * grow. */
static void release_growth(struct channel *c)
{
    c->engine->growth_available += c->growth;
    if (c->connection)
        c->connection->growth_available += c->growth;
    c->growth = 0;
}

/* Free the channel's number. Call this function when both sides have closed the channel, the server has refused it, or the SSH
 * connection is lost. */
void channel_free(struct channel *c)
{
    struct connection *conn = c->connection;

    if (c->freed)
        return;
    c->freed = true;
    dequeue_channel(c);
    connection_remove_channel(conn, c);
    /* Give the growth of the receive window back to the SSH connection. `release_growth` gives the growth back to the
     * native engine later, after the client has received all bytes or a reset. */
    conn->growth_available += c->growth;
    c->connection = NULL;
}

/* Double the channel's receive window if the server sends at least half a window of data per round trip. Return the
 * growth in bytes. The growth has three limits: `max_window`, `growth_available` of the SSH connection, and
 * `growth_available` of the native engine. */
static uint64_t grow(struct channel *c, uint64_t count, uint64_t now)
{
    struct connection *conn = c->connection;
    uint64_t elapsed = now - c->period_start, growth = c->window_size;
    bool fast;

    c->period_bytes += count;
    if (!conn->round_trip || elapsed < conn->round_trip)
        return 0;
    fast = (double)c->period_bytes * (double)conn->round_trip * 2 >= (double)c->window_size * (double)elapsed;
    c->period_start = now;
    c->period_bytes = 0;
    if (!fast || c->window_size >= conn->max_window)
        return 0;
    if (growth > conn->max_window - c->window_size)
        growth = conn->max_window - c->window_size;
    if (growth > conn->growth_available)
        growth = conn->growth_available;
    if (growth > c->engine->growth_available)
        growth = c->engine->growth_available;
    conn->growth_available -= growth;
    c->engine->growth_available -= growth;
    c->growth += growth;
    c->window_size += growth;
    c->adjust_threshold = conn->adjust_bytes < c->window_size / 4 ? conn->adjust_bytes : c->window_size / 4;
    return growth;
}

/* Count bytes that were delivered to the client or dropped, and send a window adjust when one is due. */
void channel_consumed(struct channel *c, uint64_t count, uint64_t now)
{
    uint32_t grant;

    c->consumed += count;
    if (c->consumed < c->adjust_threshold || c->backend_eof || c->sent_close || !c->connection)
        return;
    grant = (uint32_t)(c->consumed + grow(c, c->consumed, now));
    c->consumed = 0;
    c->window_remaining += grant;
    send_short(c->connection, MSG_CHANNEL_WINDOW_ADJUST, c->peer, &grant);
}

/* Stop using the channel's slot (`struct gauge`). Call this function before you emit the channel's last record, because Python
 * frees the slot when it receives that record. */
void channel_release_gauge(struct channel *c)
{
    release_growth(c);
    if (c->gauge)
        c->gauge->object = NULL;
    c->gauge = NULL;
}

/* Free the channel if two conditions are met: the channel has ended, and `channel_free` has freed the channel's number. */
void channel_release(struct channel *c)
{
    struct engine *e = c->engine;

    if (!c->ended || !c->freed || c->source.kind == SOURCE_FREED)
        return;
    if (c->previous)
        c->previous->next = c->next;
    else
        e->channels = c->next;
    if (c->next)
        c->next->previous = c->previous;
    free_later(e, &c->source);
}
