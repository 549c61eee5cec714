/* Simulates system calls for sockets. The script determines which calls fail, and how many bytes a socket accepts. */
#include "pairs.h"

#include <errno.h>
#include <linux/tcp.h>
#include <netinet/in.h>

/* Return the seed for `pattern`: seed_up for the bytes from the client, seed_down for the bytes from the server. */
static uint32_t seed_up(const struct far_channel *c)
{
    return 2 * (uint32_t)(c - channels) + 1;
}

static uint32_t seed_down(const struct far_channel *c)
{
    return 2 * (uint32_t)(c - channels);
}

const uint8_t *data_up(const struct far_channel *c, uint64_t offset)
{
    return c->tap == TAP_RPC ? rpc_pattern(seed_up(c), offset) : pattern(seed_up(c), offset);
}

const uint8_t *data_down(const struct far_channel *c, uint64_t offset)
{
    return c->tap == TAP_RPC ? rpc_pattern(seed_down(c), offset) : pattern(seed_down(c), offset);
}

bool exact(const struct far_channel *c)
{
    return !tainted && !connections[c->connection].illegal;
}

/* Record how the engine closed the socket of a client, and how many bytes the engine had read. */
void client_closed(const struct file *f)
{
    struct far_channel *c = &channels[f->owner];

    c->ended_by = !f->resets && (f->shut || !f->available) ? END_OF_STREAM : RESET;
    c->read = c->written - f->available;
}

static struct file *socket_of(int fd)
{
    struct file *f = file_of(fd);

    CHECK(f->kind == FILE_CLIENT || f->kind == FILE_CONNECTION || f->kind == FILE_SIDE || f->kind == FILE_DIAL,
          "descriptor %d is not a socket", fd);
    return f;
}

/* Return whether a system call fails, and set errno. The data that arrived before a reset can still be received. */
bool socket_failed(struct file *f, bool receiving)
{
    if (fault(&faults.interrupt)) {
        errno = EINTR;
        return true;
    }
    if (receiving && f->available)
        return false;
    if (f->error) {
        errno = f->error;
        f->error = 0;
        return true;
    }
    if (receiving && !f->ended && !f->dead)
        errno = EAGAIN;
    else if (!receiving && (f->shut || f->dead))
        errno = EPIPE;
    else if (!receiving && !f->room)
        errno = EAGAIN;
    else
        return false;
    return true;
}

/* Copy at most `size` of the available bytes to `data`. Return the number of copied bytes. */
static size_t receive(struct file *f, uint8_t *data, size_t size)
{
    size_t count = size < f->available ? size : f->available;

    if (count && f->kind == FILE_CONNECTION) {
        struct far_connection *conn = &connections[f->owner];

        memory_received(data + count);
        memcpy(data, conn->input + conn->input_start, count);
        conn->input_start += count;
        if (conn->input_start == conn->input_end)
            conn->input_start = conn->input_end = 0;
    } else if (count && f->kind == FILE_SIDE) {
        bool is_backend;
        const struct far_pair *p = pair_of(f, &is_backend);

        memcpy(data, pair_data(p, is_backend, p->sides[is_backend].written - f->available), count);
    } else if (count) {
        struct far_channel *c = &channels[f->owner];

        memcpy(data, data_up(c, c->written - f->available), count);
    }
    f->available -= count;
    return count;
}

ssize_t fake_recv(int fd, void *data, size_t size, int flags)
{
    struct iovec part = {.iov_base = data, .iov_len = size};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};

    return fake_recvmsg(fd, &message, flags);
}

ssize_t fake_recvmsg(int fd, struct msghdr *message, int flags)
{
    struct file *f = socket_of(fd);
    size_t total = 0;

    CHECK(flags & MSG_DONTWAIT, "the call would block");
    CHECK(message->msg_iovlen && message->msg_iov[0].iov_len, "nothing to receive into");
    if (socket_failed(f, true))
        return -1;
    for (size_t at = 0; at < message->msg_iovlen; at++)
        total += receive(f, message->msg_iov[at].iov_base, message->msg_iov[at].iov_len);
    return (ssize_t)total;
}

static void deliver(struct file *f, const uint8_t *data, size_t size)
{
    if (f->kind == FILE_CONNECTION) {
        peer_receive(&connections[f->owner], data, size);
    } else if (f->kind == FILE_SIDE) {
        pair_passed(f, data, size);
    } else {
        struct far_channel *c = &channels[f->owner];

        CHECK(!exact(c) || c->delivered + size <= c->sent, "the client gets more than the server has sent");
        CHECK(!exact(c) || memcmp(data, data_down(c, c->delivered), size) == 0, "the client gets wrong bytes");
        c->delivered += size;
    }
}

/* The engine has sent data. If the other end of the connection is closed, simulate that it answers with a reset. */
void socket_sent(struct file *f)
{
    if (f->closed) {
        f->dead = f->ended = true;
        f->error = EPIPE;
    }
}

ssize_t fake_send(int fd, const void *data, size_t size, int flags)
{
    struct iovec part = {.iov_base = (void *)(uintptr_t)data, .iov_len = size};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};

    return fake_sendmsg(fd, &message, flags);
}

ssize_t fake_sendmsg(int fd, const struct msghdr *message, int flags)
{
    struct file *f = socket_of(fd);
    size_t total = 0;

    CHECK(flags & MSG_DONTWAIT && flags & MSG_NOSIGNAL, "the call would block, or raise a signal");
    if (socket_failed(f, false))
        return -1;
    for (size_t at = 0; at < message->msg_iovlen && f->room; at++) {
        const struct iovec *part = &message->msg_iov[at];
        size_t count = part->iov_len < f->room ? part->iov_len : f->room;

        CHECK(part->iov_len, "an empty part");
        deliver(f, part->iov_base, count);
        f->room -= count;
        total += count;
    }
    socket_sent(f);
    return (ssize_t)total;
}

/* Return whether Python can see, in `eof_delivered`, that the engine forwards the end of the server's stream. */
static bool end_is_known(const struct far_channel *c)
{
    struct gauge *gauge = slot_find(engine, c->token);

    return gauge && atomic_load(&gauge->eof_delivered);
}

int fake_shutdown(int fd, int how)
{
    struct file *f = socket_of(fd);

    CHECK(how == SHUT_WR && !f->shut, "a second shutdown");
    CHECK(f->kind == FILE_SIDE || end_is_known(&channels[f->owner]), "Python does not know the end of the stream");
    f->shut = true;
    if (f->kind == FILE_SIDE)
        pair_shut(f);
    return 0;
}

int fake_getsockopt(int fd, int level, int name, void *value, socklen_t *size)
{
    struct file *f = socket_of(fd);

    if (level == SOL_SOCKET && name == SO_ERROR) {
        memcpy(value, &f->error, sizeof f->error);
        f->error = 0;
        return 0;
    }
    CHECK(level == IPPROTO_TCP && name == TCP_INFO && *size >= sizeof(struct tcp_info), "an unexpected option");
    if (f->is_unix) {
        errno = EOPNOTSUPP;
        return -1;
    }
    ((struct tcp_info *)value)->tcpi_last_ack_recv = faults.acknowledged;
    ((struct tcp_info *)value)->tcpi_notsent_bytes = !f->room;
    if (f->kind == FILE_SIDE)
        pair_info(f, value);
    return 0;
}

int fake_setsockopt(int fd, int level, int name, const void *value, socklen_t size)
{
    struct file *f = socket_of(fd);

    CHECK(level == SOL_SOCKET || level == IPPROTO_TCP, "option %d of an unexpected level", name);
    CHECK(value && size, "no value");
    f->options++;
    if (level == SOL_SOCKET && name == SO_LINGER)
        f->resets = ((const struct linger *)value)->l_onoff;
    return 0;
}
