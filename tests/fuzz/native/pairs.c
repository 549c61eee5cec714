/* Simulates the sockets and pipes of pairs, and checks the engine's records about pairs. Each end of a pair must
 * receive all data and then a FIN, or a reset.
 */
#include "pairs.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/tcp.h>
#include <stdarg.h>
#include <sys/ioctl.h>

#define FULL_PIPE (256u * 1024u) /* the capacity of each pipe: the minimum that the engine accepts */
#define FIRST_SEED 4096u         /* the first seed for the data of pairs (see `pattern`); channels use lower seeds */

struct far_pair pairs[MAX_PAIRS];
int pair_count;

void pairs_reset(void)
{
    memset(pairs, 0, sizeof pairs);
    pair_count = 0;
}

struct far_pair *pair_of(const struct file *f, bool *is_backend)
{
    *is_backend = f->owner & 1;
    return &pairs[f->owner / 2];
}

const uint8_t *pair_data(const struct far_pair *p, bool from_backend, uint64_t offset)
{
    return pattern(FIRST_SEED + 2 * (uint32_t)(p - pairs) + from_backend, offset);
}

/* Return whether the engine may reset a connection of a pair: an end has failed, Python has aborted the pair or
 * closed the engine, or a fault was injected.
 */
static bool may_reset(const struct far_pair *p)
{
    return p->aborted || p->sides[0].failed || p->sides[1].failed || faults.injected || !engine_runs;
}

/* Check that the bytes for one end of a pair are the bytes that the other end has sent. If `data` is NULL, check only
 * their number.
 */
void pair_passed(const struct file *to, const uint8_t *data, size_t size)
{
    bool is_backend;
    struct far_pair *p = pair_of(to, &is_backend);
    struct far_side *from = &p->sides[!is_backend];

    CHECK(from->passed + size <= from->written, "an end gets more than the other one has sent");
    CHECK(!data || memcmp(data, pair_data(p, !is_backend, from->passed), size) == 0, "an end gets wrong bytes");
    from->passed += size;
}

void pair_shut(const struct file *to)
{
    bool is_backend;
    const struct far_pair *p = pair_of(to, &is_backend);
    const struct far_side *from = &p->sides[!is_backend];

    CHECK(from->fin, "a reset is passed on as an end of stream");
    CHECK(from->passed == from->written, "the end of the stream is passed on before the data");
}

/* Check that the engine resets an incomplete TCP stream unless the receiver has failed, and that each reset has a
 * reason (see `may_reset`).
 */
void pair_closed(const struct file *f)
{
    bool is_backend;
    const struct far_pair *p = pair_of(f, &is_backend);
    const struct far_side *s = &p->sides[is_backend], *from = &p->sides[!is_backend];
    bool complete = from->fin && from->passed == from->written;

    CHECK(!f->registered, "a closed socket is still registered");
    if (!f->resets && (f->shut || (complete && !f->available))) { /* if bytes are unread, close(2) sends a reset */
        CHECK(s->failed || f->is_unix || s->passed == s->written, "an end whose data was lost gets no reset");
        return;
    }
    CHECK(may_reset(p), "a connection is reset without a reason");
    CHECK(s->failed || f->is_unix || f->resets, "an incomplete stream is closed like a complete one");
}

int fake_pipe2(int ends[2], int flags)
{
    CHECK(flags == (O_NONBLOCK | O_CLOEXEC), "unexpected flags of pipe2");
    if (fault(&faults.pipe)) {
        errno = EMFILE;
        return -1;
    }
    ends[0] = file_open(FILE_PIPE, 0);
    ends[1] = file_open(FILE_PIPE, ends[0]);
    return 0;
}

int fake_fcntl(int fd, int command, ...)
{
    CHECK(file_of(fd)->kind == FILE_PIPE && command == F_SETPIPE_SZ, "an unexpected fcntl");
    if (fault(&faults.pipe)) {
        errno = EPERM;
        return -1;
    }
    return (int)FULL_PIPE;
}

int fake_ioctl(int fd, unsigned long request, int *value)
{
    CHECK(request == FIONREAD && file_of(fd)->kind == FILE_SIDE, "an unexpected ioctl");
    *value = (int)file_of(fd)->available;
    return 0;
}

/* Fill the fields of TCP_INFO by which the engine distinguishes a FIN from a reset. */
void pair_info(const struct file *f, struct tcp_info *info)
{
    bool is_backend;
    const struct far_pair *p = pair_of(f, &is_backend);
    const struct far_side *s = &p->sides[is_backend];

    info->tcpi_state = f->dead || f->error ? 7 : s->fin ? 8 : 1; /* TCP_CLOSE, TCP_CLOSE_WAIT or TCP_ESTABLISHED */
    info->tcpi_bytes_received = s->written + s->fin;
}

static ssize_t splice_in(struct file *f, struct file *pipe, size_t size)
{
    size_t count;

    CHECK(!pipe->counter, "the pipe is not empty");
    if (fault(&faults.splice)) {
        errno = ENOSYS;
        return -1;
    }
    if (socket_failed(f, true))
        return -1;
    count = size < f->available ? size : f->available;
    count = count < FULL_PIPE ? count : FULL_PIPE;
    pipe->counter = count;
    f->available -= count;
    return (ssize_t)count;
}

/* Simulate splice(2) from a pipe to a socket. If the other end has reset the TCP connection, Linux can accept a part
 * of the bytes, and then no longer reports the error. A unix socket keeps its error until the next read, because
 * unix_stream_sendmsg does not read sk_err.
 */
static ssize_t splice_out(struct file *pipe, struct file *f, size_t size)
{
    bool drops_error = f->error && f->dead && !f->shut && !f->is_unix;
    size_t count;

    CHECK(size == pipe->counter && size, "%zu of %llu bytes of the pipe", size, (unsigned long long)pipe->counter);
    if (drops_error)
        f->error = 0;
    else if (socket_failed(f, false))
        return -1;
    count = drops_error ? (size + 1) / 2 : size < f->room ? size : f->room;
    pair_passed(f, NULL, count);
    pipe->counter -= count;
    f->room -= drops_error ? 0 : count;
    socket_sent(f);
    return (ssize_t)count;
}

ssize_t fake_splice(int in, void *in_offset, int out, void *out_offset, size_t size, unsigned flags)
{
    struct file *from = file_of(in), *to = file_of(out);

    CHECK(!in_offset && !out_offset && flags == (SPLICE_F_MOVE | SPLICE_F_NONBLOCK), "unexpected arguments of splice");
    if (from->kind == FILE_SIDE) {
        CHECK(to->kind == FILE_PIPE && to->owner >= FIRST_FD, "not the end for writing");
        return splice_in(from, file_of(to->owner), size);
    }
    CHECK(from->kind == FILE_PIPE && !from->owner && to->kind == FILE_SIDE, "not the end for reading");
    return splice_out(from, to, size);
}

static void on_tap(struct far_pair *p, const struct message_header *h, const uint8_t *payload)
{
    struct far_side *from = &p->sides[h->a != 0];

    CHECK(p->tap == TAP_BYTES && h->payload, "an unexpected tap");
    CHECK(memcmp(payload, pair_data(p, h->a != 0, from->tapped), h->payload) == 0, "the tap gets wrong bytes");
    from->tapped += h->payload;
}

static void on_ended(struct far_pair *p, const struct message_header *h)
{
    const int64_t lingering[2] = {h->b, h->c};

    CHECK(h->a >= 0 && h->a <= CLOSE_BACKEND_RESET, "a wrong reason");
    CHECK(h->a == CLOSE_FINISHED || may_reset(p), "a pair fails without a reason");
    for (int at = 0; at < 2; at++) {
        if (lingering[at] < 0)
            continue;
        CHECK(lingering[at] == p->sides[at].fd && file_of(p->sides[at].fd)->shut, "a wrong descriptor");
        file_of(p->sides[at].fd)->resets = true; /* Python resets the connection after this end gets all data */
        fake_close(p->sides[at].fd);
    }
    CHECK(!file_is_open(p->sides[0].fd) && !file_is_open(p->sides[1].fd), "a socket is not closed");
    p->final = true;
    slot_release(engine, p->token);
}

bool pair_record(const struct message_header *h, const uint8_t *payload)
{
    for (int at = 0; at < pair_count; at++) {
        struct far_pair *p = &pairs[at];

        if (p->token != h->token)
            continue;
        CHECK(!p->final, "record %u after the last one of the pair", h->kind);
        CHECK(p->announced || !p->listener, "record %u of a pair that Python does not know", h->kind);
        if (h->kind == RECORD_TAP) {
            on_tap(p, h, payload);
        } else if (h->kind == RECORD_RPC) {
            CHECK(p->tap == TAP_RPC && h->d == -1, "a message in bytes that are not RPC");
        } else {
            CHECK(h->kind == RECORD_PAIR_ENDED, "record %u of a pair", h->kind);
            on_ended(p, h);
        }
        return true;
    }
    return false;
}

/* Check that the engine has passed on all data of each pair. At this time, all sockets must accept data. */
void check_settled_pairs(void)
{
    for (int at = 0; at < pair_count; at++) {
        const struct far_pair *p = &pairs[at];

        if (p->final)
            continue;
        CHECK(!p->aborted, "an aborted pair has not ended");
        CHECK(!(p->sides[0].fin && p->sides[1].fin), "a pair whose ends have finished has not ended");
        for (int side = 0; side < 2; side++) {
            const struct far_side *s = &p->sides[side];
            const struct file *f = file_of(s->fd), *to = file_of(p->sides[!side].fd);

            if (p->sides[0].failed || p->sides[1].failed)
                continue;
            CHECK(!f->available && s->passed == s->written, "bytes wait");
            CHECK(to->shut == s->fin, "the end of a stream is not passed on");
            CHECK(p->tap != TAP_BYTES || p->untapped || s->tapped == s->written, "the tap does not get all bytes");
        }
    }
}
