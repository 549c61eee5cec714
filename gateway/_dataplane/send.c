/* Sends packets on an SSH connection: encrypts packets into a buffer (the batch), and writes the batch with one system call.
 *
 * Bytes that the socket does not accept stay in the batch. Until they are sent, the native engine adds no channel data to the
 * batch, only control packets and packets from Python.
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include "engine.h"

/* A connection is slow for SLOW_PERIOD after its socket was full for more than SLOW_DRAIN. A connection becomes fast (above
 * 64 MB/s) when its socket was full for less than FAST_DRAIN. It is no longer fast (below 26 MB/s) when its socket was full for
 * more than NOT_FAST_DRAIN. */
#define SLOW_DRAIN (SECOND / 50)
#define SLOW_PERIOD SECOND
#define FAST_DRAIN (SECOND / 1000)
#define NOT_FAST_DRAIN (SECOND / 100)
#define NOTSENT_LOWAT (128 * 1024)
#define FAST_NOTSENT_LOWAT (4 * NOTSENT_LOWAT) /* for fast connections: saves wakeups, and delays data only by milliseconds */
#define MAX_WAITING ((size_t)1024 * 1024) /* while more bytes wait, stop receiving, because replies would have to wait too */
#define MAX_DEFERRED 16384u

/* Return whether channel data can be sent now. SSH forbids channel data in a key exchange (RFC 4253, section 7.1). */
bool may_send(const struct wire *w)
{
    return !(w->blocked || w->paused || w->closed || w->disconnected);
}

bool congested(const struct wire *w)
{
    return w->blocked && w->out_end - w->out_start > MAX_WAITING;
}

static void mark_dirty(struct wire *w)
{
    if (!w->dirty) {
        w->dirty = true;
        w->next_dirty = w->engine->dirty;
        w->engine->dirty = w;
    }
}

static void set_unsent_limit(struct wire *w, bool fast)
{
    int limit = fast ? FAST_NOTSENT_LOWAT : NOTSENT_LOWAT;

    w->path_is_fast = fast;
    setsockopt(w->fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &limit, sizeof limit); /* setsockopt(2) fails on a unix socket */
}

/* Write the batch. Return whether the socket has accepted all of it. */
static bool write_out(struct wire *w)
{
    while (w->out_start < w->out_end) {
        size_t size = w->out_end - w->out_start;
        ssize_t sent = send(w->fd, w->out + w->out_start, size, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0 && errno != EAGAIN) {
            wire_break(w, errno);
            return false;
        }
        if (sent > 0)
            w->out_start += (size_t)sent;
        if (sent < (ssize_t)size)
            return false;
    }
    w->out_start = w->out_end = 0;
    return true;
}

void send_flush(struct wire *w)
{
    if (w->closed || w->blocked || w->out_start == w->out_end)
        return;
    if (!write_out(w) && !w->closed) {
        w->blocked = true;
        w->blocked_at = clock_ns();
    }
    gauge_set(&w->gauge->held, w->out_end - w->out_start);
}

/* Set the batch size and the limit on unsent data in the kernel. Both depend on how long the socket was full. */
static void adapt(struct wire *w)
{
    uint64_t now = clock_ns(), duration = now - w->blocked_at;

    if (duration > SLOW_DRAIN)
        w->slow_until = now + SLOW_PERIOD;
    w->batch_limit = now < w->slow_until ? SLOW_BATCH_SIZE : BATCH_SIZE;
    if (duration < FAST_DRAIN && !w->path_is_fast)
        set_unsent_limit(w, true);
    else if (duration > NOT_FAST_DRAIN && w->path_is_fast)
        set_unsent_limit(w, false);
}

/* Write the waiting bytes after the socket has become writable again. If the socket accepts all of
 * these bytes, let queued channels send. */
void send_drain(struct wire *w)
{
    if (w->closed || !w->blocked)
        return;
    if (write_out(w)) {
        w->blocked = false;
        adapt(w);
        if (w->out_capacity > BATCH_SIZE) {
            uint8_t *smaller = realloc(w->out, BATCH_SIZE);

            if (smaller) {
                w->out = smaller;
                w->out_capacity = BATCH_SIZE;
            }
        }
        serve_queue(w);
    }
    gauge_set(&w->gauge->held, w->out_end - w->out_start);
}

/* Return the address of `size` free bytes at the end of the batch; NULL if the batch has no room now.
 *
 * Args: size: the size of encrypted packets, with their length fields and authentication tags. grow: whether to enlarge the
 *   batch if necessary. If no memory is left to enlarge the batch, the connection is closed.
 */
uint8_t *send_reserve(struct wire *w, size_t size, bool grow)
{
    if (w->closed)
        return NULL;
    if (w->out_end - w->out_start + size > w->batch_limit)
        send_flush(w);
    if (w->closed || (w->blocked && !grow))
        return NULL;
    if (w->out_end + size > w->out_capacity && w->out_start) {
        memmove(w->out, w->out + w->out_start, w->out_end - w->out_start);
        w->out_end -= w->out_start;
        w->out_start = 0;
    }
    if (w->out_end + size > w->out_capacity) {
        size_t capacity = w->out_capacity * 2 + size;
        uint8_t *larger = grow ? realloc(w->out, capacity) : NULL;

        if (!larger) {
            if (grow)
                wire_break(w, ENOMEM);
            return NULL;
        }
        w->out = larger;
        w->out_capacity = capacity;
    }
    return w->out + w->out_end;
}

/* Encrypt the packet at the end of the batch, and add an authentication tag. `length` is the value of the packet's
 * length field. */
static void seal(struct wire *w, uint32_t length)
{
    uint8_t *packet = w->out + w->out_end;

    put_u32(packet, length);
    if (!w->seal.type->seal(&w->seal, w->send_seq, packet, length)) {
        wire_break(w, EIO);
        return;
    }
    w->send_seq++;
    w->out_end += LENGTH_SIZE + length + TAG_SIZE;
    w->sent_bytes += length;
    mark_dirty(w);
}

/* Return the number of padding bytes of a packet. `size` is the size of the padding length field and the payload. */
static uint8_t padding_for(const struct wire *w, size_t size)
{
    uint32_t block = w->seal.type->block_size, padding = (block - (uint32_t)(size % block)) % block;

    return (uint8_t)(padding < MIN_PADDING ? padding + block : padding);
}

/* Encrypt and send a packet from Python. `packet` consists of packet length, padding length, payload and padding. After
 * KEXINIT, send no channel data until Python sets the new key. */
void send_plain(struct wire *w, const uint8_t *packet, size_t size)
{
    uint8_t *at;

    if (size < LENGTH_SIZE + 2 || !(at = send_reserve(w, size + TAG_SIZE, true)))
        return;
    memcpy(at, packet, size);
    if (packet[LENGTH_SIZE + 1] == MSG_KEXINIT) {
        w->paused = true;
        w->sent_bytes = w->received_bytes = 0;
        w->due_reported = false;
    }
    seal(w, (uint32_t)(size - LENGTH_SIZE));
    if (packet[LENGTH_SIZE + 1] == MSG_DISCONNECT)
        w->disconnected = true; /* no packet may follow MSG_DISCONNECT (RFC 4253, section 11.1) */
    if (packet[LENGTH_SIZE + 1] == MSG_NEWKEYS && w->strict)
        w->send_seq = 0;
}

static void seal_payload(struct wire *w, const uint8_t *payload, size_t size)
{
    uint8_t padding = padding_for(w, size + 1), *at;
    uint32_t length = (uint32_t)(size + 1 + padding);

    at = send_reserve(w, LENGTH_SIZE + length + TAG_SIZE, true);
    if (!at)
        return;
    at[LENGTH_SIZE] = padding;
    memcpy(at + LENGTH_SIZE + 1, payload, size);
    memcpy(at + LENGTH_SIZE + 1 + size, w->engine->padding, padding);
    seal(w, length);
}

/* Send a control packet of the SSH connection protocol (RFC 4254). During a key exchange, keep the packet until the exchange
 * is complete. */
void send_control(struct wire *w, const uint8_t *payload, size_t size)
{
    uint8_t *at;
    uint16_t stored = (uint16_t)size;

    if (w->closed || w->disconnected)
        return;
    if (!w->paused) {
        seal_payload(w, payload, size);
        return;
    }
    if (w->deferred_count == MAX_DEFERRED) {
        wire_violation(w, false, "the server requests too many replies during a key exchange");
        return;
    }
    at = bytes_extend(&w->deferred, sizeof stored + size);
    if (!at) {
        wire_break(w, ENOMEM);
        return;
    }
    memcpy(at, &stored, sizeof stored);
    memcpy(at + sizeof stored, payload, size);
    w->deferred_count++;
}

/* Send a control packet for one channel.
 *
 * Args: peer: the recipient channel of the packet (RFC 4254). more: a number to append to the packet, or NULL.
 */
void send_short(struct wire *w, enum message type, uint32_t peer, const uint32_t *more)
{
    uint8_t payload[9] = {(uint8_t)type};

    put_u32(payload + 1, peer);
    if (more)
        put_u32(payload + 5, *more);
    send_control(w, payload, more ? 9 : 5);
}

/* Return the size of an encrypted packet with MAX_SEND_PACKET bytes of data. */
uint32_t full_packet_size(const struct wire *w)
{
    uint32_t size = DATA_OVERHEAD + MAX_SEND_PACKET;

    return LENGTH_SIZE + size + padding_for(w, size) + TAG_SIZE;
}

/* Send channel data that the caller has stored in the batch, DATA_HEADER bytes after the last packet. */
void send_data(struct wire *w, uint32_t peer, uint32_t size)
{
    uint8_t padding = padding_for(w, DATA_OVERHEAD + size), *packet = w->out + w->out_end;

    packet[4] = padding;
    packet[5] = MSG_CHANNEL_DATA;
    put_u32(packet + 6, peer);
    put_u32(packet + 10, size);
    memcpy(packet + DATA_HEADER + size, w->engine->padding, padding);
    seal(w, DATA_OVERHEAD + size + padding);
}

/* Send the control packets that waited for the end of the key exchange, and let the waiting channels send. */
void send_resume(struct wire *w)
{
    struct bytes deferred = w->deferred;
    uint16_t size;

    w->paused = false;
    w->deferred = (struct bytes){0};
    w->deferred_count = 0;
    for (size_t at = 0; at < deferred.size && !w->closed && !w->disconnected; at += sizeof size + size) {
        memcpy(&size, deferred.data + at, sizeof size);
        seal_payload(w, deferred.data + at + sizeof size, size);
    }
    bytes_free(&deferred);
    serve_queue(w);
}
