/* Receives packets on an SSH connection: decrypts them, and passes each packet to its channel or to Python. */
#include <errno.h>
#include <sys/socket.h>

#include "engine.h"

/* A decrypted packet. `body` is its payload, which begins with the message number (RFC 4253, section 6). */
struct packet {
    const uint8_t *body;
    uint32_t size;
};

static void receive_data(struct connection *conn, struct channel *c, struct packet p, uint32_t header)
{
    uint32_t size = p.size >= header ? get_u32(p.body + header - 4) : 0;

    if (p.size < header || size != p.size - header) {
        connection_violation(conn, false, "Incomplete data packet for channel %u", c->number);
        return;
    }
    c->window_remaining -= size;
    if (c->window_remaining < 0) {
        connection_violation(conn, false, "channel %u: more data than its window allows", c->number);
        return;
    }
    if (header == 9)
        client_add_piece(c, p.body + header, size);
    else /* forwarded channels have no stderr, so the data is dropped */
        channel_consumed(c, size, clock_ns());
}

static void receive_request(struct connection *conn, struct channel *c, struct packet p)
{
    uint32_t name = p.size >= 9 ? get_u32(p.body + 5) : UINT32_MAX;

    if (p.size < 10 || name > p.size - 10)
        connection_violation(conn, false, "Incomplete request for channel %u", c->number);
    else if (p.body[9 + name] && !c->sent_close)
        send_short(conn, MSG_CHANNEL_FAILURE, c->peer, NULL);
}

/* Handle a packet of an open channel. */
static void receive_open(struct connection *conn, struct channel *c, struct packet p)
{
    uint8_t unimplemented[5] = {MSG_UNIMPLEMENTED};

    switch (p.body[0]) {
    case MSG_CHANNEL_DATA:
        receive_data(conn, c, p, 9);
        break;
    case MSG_CHANNEL_EXTENDED_DATA:
        receive_data(conn, c, p, 13);
        break;
    case MSG_CHANNEL_WINDOW_ADJUST:
        if (p.size == 9)
            channel_adjusted(c, get_u32(p.body + 5));
        else
            connection_violation(conn, false, "Incomplete window adjust for channel %u", c->number);
        break;
    case MSG_CHANNEL_EOF:
    case MSG_CHANNEL_CLOSE:
        client_deliver_all(conn->engine);
        if (p.size == 5)
            channel_peer_end(c, p.body[0] == MSG_CHANNEL_CLOSE);
        else
            connection_violation(conn, false, "Incomplete end of channel %u", c->number);
        break;
    case MSG_CHANNEL_REQUEST:
        receive_request(conn, c, p);
        break;
    case MSG_CHANNEL_OPEN_CONFIRMATION:
    case MSG_CHANNEL_OPEN_FAILURE:
        connection_violation(conn, false, "Channel not being opened");
        break;
    default:
        put_u32(unimplemented + 1, conn->recv_seq);
        send_control(conn, unimplemented, sizeof unimplemented);
    }
}

/* Handle the reply to CHANNEL_OPEN. */
static void receive_reply(struct connection *conn, struct channel *c, struct packet p)
{
    uint32_t size = p.size >= 13 ? get_u32(p.body + 9) : UINT32_MAX;

    if (p.body[0] == MSG_CHANNEL_OPEN_CONFIRMATION && p.size >= 17) {
        if (get_u32(p.body + 13) == 0)
            connection_violation(conn, false, "the maximum packet size of a channel is 0");
        else
            channel_confirmed(c, get_u32(p.body + 5), get_u32(p.body + 9), get_u32(p.body + 13));
    } else if (p.body[0] == MSG_CHANNEL_OPEN_FAILURE && size != UINT32_MAX && size <= p.size - 13) {
        uint32_t code = get_u32(p.body + 5);

        channel_free(c);
        channel_refused(c, code, p.body + 13, size);
    } else if (p.body[0] == MSG_CHANNEL_OPEN_CONFIRMATION || p.body[0] == MSG_CHANNEL_OPEN_FAILURE) {
        connection_violation(conn, false, "Incomplete reply for channel %u", c->number);
    } else {
        connection_violation(conn, false, "Channel not open");
    }
}

/* Pass a packet to Python. */
static void receive_other(struct connection *conn, const uint8_t *packet, uint32_t length)
{
    const int64_t arguments[4] = {conn->recv_seq, 0, 0, 0};

    client_deliver_all(conn->engine);
    emit(conn->engine, RECORD_PACKET, conn->token, arguments, packet, length);
    conn->unaccepted += length;
}

/* Handle one decrypted packet. Its `length` bytes consist of padding length, payload and padding. */
static void receive_packet(struct connection *conn, const uint8_t *packet, uint32_t length)
{
    struct packet p = {.body = packet + 1, .size = length - 1 - packet[0]};
    bool formed = packet[0] >= MIN_PADDING && packet[0] + 1u < length;
    struct channel *c = NULL;

    if (formed && p.size >= 5 && p.body[0] > MSG_CHANNEL_OPEN && p.body[0] <= MSG_CHANNEL_LAST)
        c = connection_find_channel(conn, get_u32(p.body + 1));
    if (!c)
        receive_other(conn, packet, length);
    else if (c->open)
        receive_open(conn, c, p);
    else
        receive_reply(conn, c, p);
    conn->recv_seq++;
    if (formed && p.body[0] == MSG_NEWKEYS) {
        conn->await_key = true; /* stop receiving, because Python must first set the key for the next packets */
        if (conn->strict)
            conn->recv_seq = 0;
    }
}

/* Decrypt and handle the complete packets in the receive buffer. */
void receive_packets(struct connection *conn)
{
    while (!(conn->closed || conn->halted || conn->await_key || conn->unaccepted > MAX_UNACCEPTED || congested(conn))) {
        uint8_t *packet = conn->received + conn->start;
        size_t available = conn->end - conn->start;
        uint32_t length;

        if (available < LENGTH_SIZE)
            break;
        if (!conn->open.type->read_length(&conn->open, conn->recv_seq, packet, &length)) {
            connection_break(conn, EIO);
            break;
        }
        if (length > conn->max_packet_length) {
            client_deliver_all(conn->engine);
            connection_violation(conn, false, "Max packet size exceeded: %u bytes", length);
            break;
        }
        if (available < LENGTH_SIZE + (size_t)length + TAG_SIZE)
            break;
        if (length < conn->open.type->block_size || !conn->open.type->open(&conn->open, conn->recv_seq, packet, length)) {
            client_deliver_all(conn->engine);
            connection_violation(conn, true, "MAC verification failed");
            break;
        }
        conn->start += LENGTH_SIZE + length + TAG_SIZE;
        receive_packet(conn, packet + LENGTH_SIZE, length);
    }
    client_deliver_all(conn->engine);
    if (conn->start == conn->end)
        conn->start = conn->end = 0;
    connection_check_rekey(conn);
}

/* Read from the socket of an SSH connection once, and handle the complete packets. */
void receive_from_peer(struct connection *conn)
{
    ssize_t count;

    if (conn->end > RECEIVE_SIZE / 2 && conn->start) {
        memmove(conn->received, conn->received + conn->start, conn->end - conn->start);
        conn->end -= conn->start;
        conn->start = 0;
    }
    if (conn->end == RECEIVE_SIZE)
        return;
    count = recv(conn->fd, conn->received + conn->end, RECEIVE_SIZE - conn->end, MSG_DONTWAIT);
    if (count < 0) {
        if (errno != EAGAIN && errno != EINTR)
            connection_break(conn, errno);
        return;
    }
    if (count == 0) {
        connection_break(conn, 0);
        return;
    }
    gauge_set(&conn->gauge->last_active, clock_ns());
    conn->end += (size_t)count;
    conn->received_bytes += (uint64_t)count;
    gauge_set(&conn->gauge->from_backend, conn->received_bytes);
    receive_packets(conn);
}
