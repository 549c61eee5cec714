/* Runs the steps of a script that simulate the gateway's Python code. In the gateway, gateway/ssh/native_transport.py
 * and native_channel.py use the engine in the same way.
 */
#include "listeners.h"

static bool channel_step(const struct step *s)
{
    struct far_channel *c = chosen_channel(s);
    uint32_t window = size_of(s->b);

    switch (s->kind) {
    case STEP_OPEN:
        if (channel_count < MAX_CHANNELS && !chosen_connection(s)->final)
            python_channel(chosen_connection(s), window < 4 ? 4 : window, tap_of(s->a), s->a >> 1);
        return true;
    case STEP_ABORT:
        if (!c || c->final || (c->listener && !c->opened))
            return true;
        c->link_lost |= s->a % (CLOSE_MOVED + 1) == CLOSE_LINK_LOST;
        python_command(COMMAND_ABORT, c->token, s->a % (CLOSE_MOVED + 1), 0, 0);
        return true;
    case STEP_UNTAP:
        if (c && !c->final && (!c->listener || c->opened))
            python_command(COMMAND_UNTAP, c->token, 0, 0, 0);
        if (c)
            c->untapped = true;
        return true;
    case STEP_CLOSE_HISTOGRAM:
        python_command(COMMAND_CLOSE_HISTOGRAM, 0, s->a >> 4 | (s->b & OPEN_HISTOGRAM), 0, 0);
        return true;
    default:
        return false;
    }
}

/* Let Python send a packet. During a key exchange, Python sends only messages 1 to 49 (RFC 4253, section 7.1). */
static void packet(struct far_connection *conn, const struct step *s)
{
    static const uint8_t messages[] = {2, 30, 80, MSG_DISCONNECT};
    uint8_t message = messages[s->a % sizeof messages];

    if (conn->exchanging && message == 80)
        return;
    conn->silent = message == MSG_DISCONNECT;
    for (int times = conn->silent ? 0 : s->a >> 4; times >= 0; times--)
        python_packet(conn, message, 1 + data_size(s->b, 40000));
}

void accept_packets(struct far_connection *conn, uint64_t count)
{
    count = count < conn->unaccepted ? count : conn->unaccepted;
    conn->unaccepted -= count;
    python_command(COMMAND_ACCEPTED, conn->token, (int64_t)count, 0, 0);
}

void give_open_key(struct far_connection *conn)
{
    python_key(conn, COMMAND_OPEN_KEY, conn->seal_cipher);
    conn->awaits_key = conn->keys_changed = false;
}

bool python_step(const struct step *s)
{
    struct far_connection *conn = chosen_connection(s);

    if (channel_step(s))
        return true;
    if (s->kind == STEP_CONNECTION && connection_count < MAX_CONNECTIONS)
        python_connection(cipher_of(s->b), MAX_PACKET, (uint64_t)1 << (s->b >> 2) % 40);
    if (conn->final || conn->silent)
        return s->kind >= STEP_CONNECTION && s->kind <= STEP_CONNECTION_CLOSE;
    switch (s->kind) {
    case STEP_PACKET:
        packet(conn, s);
        return true;
    case STEP_ACCEPT:
        accept_packets(conn, size_of(s->a));
        return true;
    case STEP_ROUND_TRIP:
        python_command(COMMAND_ROUND_TRIP, conn->token, (int64_t)size_of(s->a) * 1000, 0, 0);
        return true;
    case STEP_EXCHANGE:
        if (conn->exchanging) {
            python_new_seal_key(conn, cipher_of(s->a));
        } else if (conn->open_cipher < 0) { /* the server has received the previous NEWKEYS */
            python_packet(conn, MSG_KEXINIT, 1 + s->b);
            conn->exchanging = true;
        }
        return true;
    case STEP_OPEN_KEY:
        if (conn->awaits_key)
            give_open_key(conn);
        return true;
    case STEP_CONNECTION_CLOSE:
        python_command(COMMAND_CLOSE, conn->token, 0, 0, 0);
        conn->silent = true;
        return true;
    default:
        return false;
    }
}
