/* Runs the steps in which the simulated SSH server sends a message about a channel. If the highest bit of a step's
 * parameter `b` is set, the message is allowed to violate the SSH protocol.
 */
#include "harness.h"

#define ILLEGAL 0x80u
#define MAX_DATA 262144u
#define MANY_REQUESTS 50u

static void send_numbers(struct far_connection *conn, uint8_t message, const uint32_t *numbers, size_t count)
{
    uint8_t *at = peer_reserve(conn, 1 + 4 * count);

    if (!at)
        return;
    at[0] = message;
    for (size_t each = 0; each < count; each++)
        put_u32(at + 1 + 4 * each, numbers[each]);
    peer_send(conn, 1 + 4 * count, 0);
}

static void confirm(struct far_connection *conn, struct far_channel *c, const struct step *s)
{
    uint32_t window = size_of(s->a), max_packet = size_of(s->b);
    const uint32_t numbers[] = {c->number, PEER_NUMBER + (uint32_t)(c - channels), window, max_packet};

    if (c->confirmed || !max_packet)
        conn->illegal = true;
    if (!c->confirmed) {
        c->confirmed = true;
        c->send_window = window;
        c->max_packet = max_packet;
    }
    send_numbers(conn, MSG_CHANNEL_OPEN_CONFIRMATION, numbers, 4);
}

static void refuse(struct far_connection *conn, struct far_channel *c, const struct step *s)
{
    uint32_t text = data_size(s->a, 1000);
    uint8_t *at = peer_reserve(conn, 17 + text);

    if (!at)
        return;
    if (c->confirmed)
        conn->illegal = true;
    else
        c->closed = c->engine_closed = true;
    at[0] = MSG_CHANNEL_OPEN_FAILURE;
    put_u32(at + 1, c->number);
    put_u32(at + 5, s->b);
    put_u32(at + 9, text);
    memset(at + 13, 't', text + 4); /* includes the length of the language tag, which the engine ignores */
    peer_send(conn, 17 + text, s->b);
}

/* Send data to a channel. Unless `b` contains ILLEGAL, the data does not exceed the channel's receive window. */
static void send_data_to(struct far_connection *conn, struct far_channel *c, const struct step *s, bool extended)
{
    bool illegal = s->b & ILLEGAL;
    uint64_t limit = conn->max_packet - SLACK < MAX_DATA ? conn->max_packet - SLACK : MAX_DATA;
    uint32_t size, header = extended ? 13 : 9;
    uint8_t *at;

    if (!illegal && limit > c->receive_window)
        limit = c->receive_window;
    if (!illegal && (c->ended || !c->confirmed))
        return;
    size = data_size(s->a, limit);
    at = peer_reserve(conn, header + size);
    if (!at)
        return;
    if (size > c->receive_window || !c->confirmed || (size && c->ended))
        conn->illegal = true;
    at[0] = extended ? MSG_CHANNEL_EXTENDED_DATA : MSG_CHANNEL_DATA;
    put_u32(at + 1, c->number);
    put_u32(at + 5, extended ? 1 : size);
    put_u32(at + header - 4, size);
    memcpy(at + header, data_down(c, c->sent), size);
    c->receive_window -= size < c->receive_window ? size : c->receive_window;
    if (!extended && !conn->illegal)
        c->sent += size;
    peer_send(conn, header + size, s->b);
}

static void request(struct far_connection *conn, struct far_channel *c, const struct step *s)
{
    uint32_t name = data_size(s->a, 100);
    uint32_t times = s->b % 8 == 5 ? MANY_REQUESTS : 1;

    if (!c->confirmed)
        conn->illegal = true;
    for (; times; times--) {
        uint8_t *packet = peer_reserve(conn, 10 + name);

        if (!packet)
            return;
        packet[0] = MSG_CHANNEL_REQUEST;
        put_u32(packet + 1, c->number);
        put_u32(packet + 5, s->b & ILLEGAL ? name + 1 : name);
        memset(packet + 9, 'n', name);
        packet[9 + name] = s->b & 1;
        conn->illegal |= (s->b & ILLEGAL) != 0;
        c->unanswered += s->b & 1;
        peer_send(conn, 10 + name, 0);
    }
}

static void end(struct far_connection *conn, struct far_channel *c, const struct step *s, uint8_t message)
{
    conn->illegal |= !c->confirmed || (c->ended && message == MSG_CHANNEL_EOF);
    c->ended = true;
    c->closed |= message == MSG_CHANNEL_CLOSE;
    if (s->b & ILLEGAL) { /* append 4 bytes, which the protocol does not allow */
        conn->illegal = true;
        send_numbers(conn, message, (const uint32_t[]){c->number, 0}, 2);
    } else {
        send_numbers(conn, message, &c->number, 1);
    }
}

static void adjust(struct far_connection *conn, struct far_channel *c, const struct step *s)
{
    uint32_t count = size_of(s->a);

    conn->illegal |= !c->confirmed || (s->b & ILLEGAL);
    c->send_window += count;
    send_numbers(conn, MSG_CHANNEL_WINDOW_ADJUST, (const uint32_t[]){c->number, count}, s->b & ILLEGAL ? 1 : 2);
}

/* Send the message of a step that concerns a channel. If the channel is unknown or closed, the step has no effect. */
bool server_channel_step(const struct step *s)
{
    struct far_channel *c = chosen_channel(s);
    struct far_connection *conn = c ? &connections[c->connection] : NULL;
    bool usable = c && c->known && !c->closed && (c->confirmed || s->b & ILLEGAL);

    switch (s->kind) {
    case STEP_CONFIRM:
    case STEP_REFUSE:
        if (!c || !c->known || c->closed || (c->confirmed && !(s->b & ILLEGAL)))
            return true;
        (s->kind == STEP_CONFIRM ? confirm : refuse)(conn, c, s);
        return true;
    case STEP_DATA:
    case STEP_EXTENDED:
        if (usable)
            send_data_to(conn, c, s, s->kind == STEP_EXTENDED);
        return true;
    case STEP_ADJUST:
        if (usable)
            adjust(conn, c, s);
        return true;
    case STEP_EOF:
    case STEP_CLOSE:
        if (usable && (s->kind == STEP_CLOSE || !c->ended || s->b & ILLEGAL))
            end(conn, c, s, s->kind == STEP_EOF ? MSG_CHANNEL_EOF : MSG_CHANNEL_CLOSE);
        return true;
    case STEP_REQUEST:
        if (usable)
            request(conn, c, s);
        return true;
    default:
        return false;
    }
}
