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
bool may_send(const struct connection *conn)
{
    return !(conn->blocked || conn->paused || conn->closed || conn->disconnected);
}

bool congested(const struct connection *conn)
{
    return conn->blocked && conn->out_end - conn->out_start > MAX_WAITING;
}

static void mark_dirty(struct connection *conn)
{
    if (!conn->dirty) {
        conn->dirty = true;
        conn->next_dirty = conn->engine->dirty;
        conn->engine->dirty = conn;
    }
}

static void set_unsent_limit(struct connection *conn, bool fast)
{
    int limit = fast ? FAST_NOTSENT_LOWAT : NOTSENT_LOWAT;

    conn->path_is_fast = fast;
    setsockopt(conn->fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &limit, sizeof limit); /* setsockopt(2) fails on a unix socket */
}

/* Write the batch. Return whether the socket has accepted all of it. */
static bool write_out(struct connection *conn)
{
    while (conn->out_start < conn->out_end) {
        size_t size = conn->out_end - conn->out_start;
        ssize_t sent = send(conn->fd, conn->out + conn->out_start, size, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0 && errno != EAGAIN) {
            connection_break(conn, errno);
            return false;
        }
        if (sent > 0)
            conn->out_start += (size_t)sent;
        if (sent < (ssize_t)size)
            return false;
    }
    conn->out_start = conn->out_end = 0;
    return true;
}

void send_flush(struct connection *conn)
{
    if (conn->closed || conn->blocked || conn->out_start == conn->out_end)
        return;
    if (!write_out(conn) && !conn->closed) {
        conn->blocked = true;
        conn->blocked_at = clock_ns();
    }
    gauge_set(&conn->gauge->held, conn->out_end - conn->out_start);
}

/* Set the batch size and the limit on unsent data in the kernel. Both depend on how long the socket was full. */
static void adapt(struct connection *conn)
{
    uint64_t now = clock_ns(), duration = now - conn->blocked_at;

    if (duration > SLOW_DRAIN)
        conn->slow_until = now + SLOW_PERIOD;
    conn->batch_limit = now < conn->slow_until ? SLOW_BATCH_SIZE : BATCH_SIZE;
    if (duration < FAST_DRAIN && !conn->path_is_fast)
        set_unsent_limit(conn, true);
    else if (duration > NOT_FAST_DRAIN && conn->path_is_fast)
        set_unsent_limit(conn, false);
}

/* Write the waiting bytes after the socket has become writable again. If the socket accepts all of
 * these bytes, let queued channels send. */
void send_drain(struct connection *conn)
{
    if (conn->closed || !conn->blocked)
        return;
    if (write_out(conn)) {
        conn->blocked = false;
        adapt(conn);
        if (conn->out_capacity > BATCH_SIZE) {
            uint8_t *smaller = realloc(conn->out, BATCH_SIZE);

            if (smaller) {
                conn->out = smaller;
                conn->out_capacity = BATCH_SIZE;
            }
        }
        serve_queue(conn);
    }
    gauge_set(&conn->gauge->held, conn->out_end - conn->out_start);
}

/* Return the address of `size` free bytes at the end of the batch; NULL if the batch has no room now.
 *
 * Args: size: the size of encrypted packets, with their length fields and authentication tags. grow: whether to enlarge the
 *   batch if necessary. If no memory is left to enlarge the batch, the connection is closed.
 */
uint8_t *send_reserve(struct connection *conn, size_t size, bool grow)
{
    if (conn->closed)
        return NULL;
    if (conn->out_end - conn->out_start + size > conn->batch_limit)
        send_flush(conn);
    if (conn->closed || (conn->blocked && !grow))
        return NULL;
    if (conn->out_end + size > conn->out_capacity && conn->out_start) {
        memmove(conn->out, conn->out + conn->out_start, conn->out_end - conn->out_start);
        conn->out_end -= conn->out_start;
        conn->out_start = 0;
    }
    if (conn->out_end + size > conn->out_capacity) {
        size_t capacity = conn->out_capacity * 2 + size;
        uint8_t *larger = grow ? realloc(conn->out, capacity) : NULL;

        if (!larger) {
            if (grow)
                connection_break(conn, ENOMEM);
            return NULL;
        }
        conn->out = larger;
        conn->out_capacity = capacity;
    }
    return conn->out + conn->out_end;
}

/* Encrypt the packet at the end of the batch, and add an authentication tag. `length` is the value of the packet's
 * length field. */
static void seal(struct connection *conn, uint32_t length)
{
    uint8_t *packet = conn->out + conn->out_end;

    put_u32(packet, length);
    if (!conn->seal.type->seal(&conn->seal, conn->send_seq, packet, length)) {
        connection_break(conn, EIO);
        return;
    }
    conn->send_seq++;
    conn->out_end += LENGTH_SIZE + length + TAG_SIZE;
    conn->sent_bytes += length;
    mark_dirty(conn);
}

/* Return the number of padding bytes of a packet. `size` is the size of the padding length field and the payload. */
static uint8_t padding_for(const struct connection *conn, size_t size)
{
    uint32_t block = conn->seal.type->block_size, padding = (block - (uint32_t)(size % block)) % block;

    return (uint8_t)(padding < MIN_PADDING ? padding + block : padding);
}

/* Encrypt and send a packet from Python. `packet` consists of packet length, padding length, payload and padding. After
 * KEXINIT, send no channel data until Python sets the new key. */
void send_plain(struct connection *conn, const uint8_t *packet, size_t size)
{
    uint8_t *at;

    if (size < LENGTH_SIZE + 2 || !(at = send_reserve(conn, size + TAG_SIZE, true)))
        return;
    memcpy(at, packet, size);
    if (packet[LENGTH_SIZE + 1] == MSG_KEXINIT) {
        conn->paused = true;
        conn->sent_bytes = conn->received_bytes = 0;
        conn->due_reported = false;
    }
    seal(conn, (uint32_t)(size - LENGTH_SIZE));
    if (packet[LENGTH_SIZE + 1] == MSG_DISCONNECT)
        conn->disconnected = true; /* no packet may follow MSG_DISCONNECT (RFC 4253, section 11.1) */
    if (packet[LENGTH_SIZE + 1] == MSG_NEWKEYS && conn->strict)
        conn->send_seq = 0;
}

static void seal_payload(struct connection *conn, const uint8_t *payload, size_t size)
{
    uint8_t padding = padding_for(conn, size + 1), *at;
    uint32_t length = (uint32_t)(size + 1 + padding);

    at = send_reserve(conn, LENGTH_SIZE + length + TAG_SIZE, true);
    if (!at)
        return;
    at[LENGTH_SIZE] = padding;
    memcpy(at + LENGTH_SIZE + 1, payload, size);
    memcpy(at + LENGTH_SIZE + 1 + size, conn->engine->padding, padding);
    seal(conn, length);
}

/* Send a control packet of the SSH connection protocol (RFC 4254). During a key exchange, keep the packet until the exchange
 * is complete. */
void send_control(struct connection *conn, const uint8_t *payload, size_t size)
{
    uint8_t *at;
    uint16_t stored = (uint16_t)size;

    if (conn->closed || conn->disconnected)
        return;
    if (!conn->paused) {
        seal_payload(conn, payload, size);
        return;
    }
    if (conn->deferred_count == MAX_DEFERRED) {
        connection_violation(conn, false, "the server requests too many replies during a key exchange");
        return;
    }
    at = bytes_extend(&conn->deferred, sizeof stored + size);
    if (!at) {
        connection_break(conn, ENOMEM);
        return;
    }
    memcpy(at, &stored, sizeof stored);
    memcpy(at + sizeof stored, payload, size);
    conn->deferred_count++;
}

/* Send a control packet for one channel.
 *
 * Args: peer: the recipient channel of the packet (RFC 4254). more: a number to append to the packet, or NULL.
 */
void send_short(struct connection *conn, enum message type, uint32_t peer, const uint32_t *more)
{
    uint8_t payload[9] = {(uint8_t)type};

    put_u32(payload + 1, peer);
    if (more)
        put_u32(payload + 5, *more);
    send_control(conn, payload, more ? 9 : 5);
}

/* Return the size of an encrypted packet with MAX_SEND_PACKET bytes of data. */
uint32_t full_packet_size(const struct connection *conn)
{
    uint32_t size = DATA_OVERHEAD + MAX_SEND_PACKET;

    return LENGTH_SIZE + size + padding_for(conn, size) + TAG_SIZE;
}

/* Send channel data that the caller has stored in the batch, DATA_HEADER bytes after the last packet. */
void send_data(struct connection *conn, uint32_t peer, uint32_t size)
{
    uint8_t padding = padding_for(conn, DATA_OVERHEAD + size), *packet = conn->out + conn->out_end;

    packet[4] = padding;
    packet[5] = MSG_CHANNEL_DATA;
    put_u32(packet + 6, peer);
    put_u32(packet + 10, size);
    memcpy(packet + DATA_HEADER + size, conn->engine->padding, padding);
    seal(conn, DATA_OVERHEAD + size + padding);
}

/* Send the control packets that waited for the end of the key exchange, and let the waiting channels send. */
void send_resume(struct connection *conn)
{
    struct bytes deferred = conn->deferred;
    uint16_t size;

    conn->paused = false;
    conn->deferred = (struct bytes){0};
    conn->deferred_count = 0;
    for (size_t at = 0; at < deferred.size && !conn->closed && !conn->disconnected; at += sizeof size + size) {
        memcpy(&size, deferred.data + at, sizeof size);
        seal_payload(conn, deferred.data + at + sizeof size, size);
    }
    bytes_free(&deferred);
    serve_queue(conn);
}
