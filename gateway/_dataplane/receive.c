/* Receives packets on an SSH connection: decrypts them, and passes each packet to its channel or to Python. */
#include <errno.h>
#include <sys/socket.h>

#include "engine.h"

/* A decrypted packet. `body` is its payload, which begins with the message number (RFC 4253, section 6). */
struct packet {
    const uint8_t *body;
    uint32_t size;
};

static void receive_data(struct wire *w, struct channel *c, struct packet p, uint32_t header)
{
    uint32_t size = p.size >= header ? get_u32(p.body + header - 4) : 0;

    if (p.size < header || size != p.size - header) {
        wire_violation(w, false, "Incomplete data packet for channel %u", c->number);
        return;
    }
    c->window_remaining -= size;
    if (c->window_remaining < 0) {
        wire_violation(w, false, "channel %u: more data than its window allows", c->number);
        return;
    }
    if (header == 9)
        client_add_piece(c, p.body + header, size);
    else /* forwarded channels have no stderr, so the data is dropped */
        channel_consumed(c, size, clock_ns());
}

static void receive_request(struct wire *w, struct channel *c, struct packet p)
{
    uint32_t name = p.size >= 9 ? get_u32(p.body + 5) : UINT32_MAX;

    if (p.size < 10 || name > p.size - 10)
        wire_violation(w, false, "Incomplete request for channel %u", c->number);
    else if (p.body[9 + name] && !c->sent_close)
        send_short(w, MSG_CHANNEL_FAILURE, c->peer, NULL);
}

/* Handle a packet of an open channel. */
static void receive_open(struct wire *w, struct channel *c, struct packet p)
{
    uint8_t unimplemented[5] = {MSG_UNIMPLEMENTED};

    switch (p.body[0]) {
    case MSG_CHANNEL_DATA:
        receive_data(w, c, p, 9);
        break;
    case MSG_CHANNEL_EXTENDED_DATA:
        receive_data(w, c, p, 13);
        break;
    case MSG_CHANNEL_WINDOW_ADJUST:
        if (p.size == 9)
            channel_adjusted(c, get_u32(p.body + 5));
        else
            wire_violation(w, false, "Incomplete window adjust for channel %u", c->number);
        break;
    case MSG_CHANNEL_EOF:
    case MSG_CHANNEL_CLOSE:
        client_deliver_all(w->engine);
        if (p.size == 5)
            channel_peer_end(c, p.body[0] == MSG_CHANNEL_CLOSE);
        else
            wire_violation(w, false, "Incomplete end of channel %u", c->number);
        break;
    case MSG_CHANNEL_REQUEST:
        receive_request(w, c, p);
        break;
    case MSG_CHANNEL_OPEN_CONFIRMATION:
    case MSG_CHANNEL_OPEN_FAILURE:
        wire_violation(w, false, "Channel not being opened");
        break;
    default:
        put_u32(unimplemented + 1, w->recv_seq);
        send_control(w, unimplemented, sizeof unimplemented);
    }
}

/* Handle the reply to CHANNEL_OPEN. */
static void receive_reply(struct wire *w, struct channel *c, struct packet p)
{
    uint32_t size = p.size >= 13 ? get_u32(p.body + 9) : UINT32_MAX;

    if (p.body[0] == MSG_CHANNEL_OPEN_CONFIRMATION && p.size >= 17) {
        if (get_u32(p.body + 13) == 0)
            wire_violation(w, false, "the maximum packet size of a channel is 0");
        else
            channel_confirmed(c, get_u32(p.body + 5), get_u32(p.body + 9), get_u32(p.body + 13));
    } else if (p.body[0] == MSG_CHANNEL_OPEN_FAILURE && size != UINT32_MAX && size <= p.size - 13) {
        uint32_t code = get_u32(p.body + 5);

        channel_free(c);
        channel_refused(c, code, p.body + 13, size);
    } else if (p.body[0] == MSG_CHANNEL_OPEN_CONFIRMATION || p.body[0] == MSG_CHANNEL_OPEN_FAILURE) {
        wire_violation(w, false, "Incomplete reply for channel %u", c->number);
    } else {
        wire_violation(w, false, "Channel not open");
    }
}

/* Pass a packet to Python. */
static void receive_other(struct wire *w, const uint8_t *packet, uint32_t length)
{
    const int64_t arguments[4] = {w->recv_seq, 0, 0, 0};

    client_deliver_all(w->engine);
    emit(w->engine, RECORD_PACKET, w->token, arguments, packet, length);
    w->unaccepted += length;
}

/* Handle one decrypted packet. Its `length` bytes consist of padding length, payload and padding. */
static void receive_packet(struct wire *w, const uint8_t *packet, uint32_t length)
{
    struct packet p = {.body = packet + 1, .size = length - 1 - packet[0]};
    bool formed = packet[0] >= MIN_PADDING && packet[0] + 1u < length;
    struct channel *c = NULL;

    if (formed && p.size >= 5 && p.body[0] > MSG_CHANNEL_OPEN && p.body[0] <= MSG_CHANNEL_LAST)
        c = wire_find_channel(w, get_u32(p.body + 1));
    if (!c)
        receive_other(w, packet, length);
    else if (c->open)
        receive_open(w, c, p);
    else
        receive_reply(w, c, p);
    w->recv_seq++;
    if (formed && p.body[0] == MSG_NEWKEYS) {
        w->await_key = true; /* stop receiving, because Python must first set the key for the next packets */
        if (w->strict)
            w->recv_seq = 0;
    }
}

/* Decrypt and handle the complete packets in the receive buffer. */
void receive_packets(struct wire *w)
{
    while (!(w->closed || w->halted || w->await_key || w->unaccepted > MAX_UNACCEPTED || congested(w))) {
        uint8_t *packet = w->received + w->start;
        size_t available = w->end - w->start;
        uint32_t length;

        if (available < LENGTH_SIZE)
            break;
        if (!w->open.type->read_length(&w->open, w->recv_seq, packet, &length)) {
            wire_break(w, EIO);
            break;
        }
        if (length > w->max_packet_length) {
            client_deliver_all(w->engine);
            wire_violation(w, false, "Max packet size exceeded: %u bytes", length);
            break;
        }
        if (available < LENGTH_SIZE + (size_t)length + TAG_SIZE)
            break;
        if (length < w->open.type->block_size || !w->open.type->open(&w->open, w->recv_seq, packet, length)) {
            client_deliver_all(w->engine);
            wire_violation(w, true, "MAC verification failed");
            break;
        }
        w->start += LENGTH_SIZE + length + TAG_SIZE;
        receive_packet(w, packet + LENGTH_SIZE, length);
    }
    client_deliver_all(w->engine);
    if (w->start == w->end)
        w->start = w->end = 0;
    wire_check_rekey(w);
}

/* Read from the socket of an SSH connection once, and handle the complete packets. */
void receive_from_peer(struct wire *w)
{
    ssize_t count;

    if (w->end > RECEIVE_SIZE / 2 && w->start) {
        memmove(w->received, w->received + w->start, w->end - w->start);
        w->end -= w->start;
        w->start = 0;
    }
    if (w->end == RECEIVE_SIZE)
        return;
    count = recv(w->fd, w->received + w->end, RECEIVE_SIZE - w->end, MSG_DONTWAIT);
    if (count < 0) {
        if (errno != EAGAIN && errno != EINTR)
            wire_break(w, errno);
        return;
    }
    if (count == 0) {
        wire_break(w, 0);
        return;
    }
    gauge_set(&w->gauge->last_active, clock_ns());
    w->end += (size_t)count;
    w->received_bytes += (uint64_t)count;
    gauge_set(&w->gauge->from_backend, w->received_bytes);
    receive_packets(w);
}
