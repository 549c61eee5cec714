/* Runs the steps of a script that concern the clients of SSH channels. */
#include "harness.h"

#include <errno.h>

/* The maximum number of packets that the engine needs for the data of one step. The engine can need one iteration of
 * its event loop for each packet.
 */
#define MAX_PACKETS 20u

static void attach(struct far_channel *c, const struct step *s)
{
    struct file *f;

    if (!c->opened || c->final || c->fd >= 0)
        return;
    c->fd = file_open(FILE_CLIENT, (int)(c - channels));
    f = file_of(c->fd);
    f->is_unix = s->a & ATTACH_UNIX;
    f->room = size_of(s->b);
    python_command(COMMAND_ATTACH, c->token, c->fd, s->a >> 4, s->a & (ATTACH_MEASURE | ATTACH_UNIX));
}

static void end(struct far_channel *c, struct file *f, uint8_t how)
{
    c->failed |= how % 4 != 0;
    f->ended = true;
    switch (how % 4) {
    case 0:
        break;
    case 1:
        f->dead = true;
        f->error = ECONNRESET;
        break;
    case 2: /* the client closes its socket; over TCP, the engine sees a FIN now, and a reset after its next send */
        f->dead = f->is_unix;
        f->closed = !f->is_unix;
        break;
    default:
        f->dead = true;
        f->error = ETIMEDOUT;
        c->written -= f->available; /* not received */
        f->available = 0;
    }
}

bool client_step(const struct step *s)
{
    struct far_channel *c = chosen_channel(s);
    struct file *f = c && file_is_open(c->fd) && file_of(c->fd)->kind == FILE_CLIENT ? file_of(c->fd) : NULL;
    uint32_t size;

    switch (s->kind) {
    case STEP_ATTACH:
        if (c)
            attach(c, s);
        return true;
    case STEP_WRITE:
        if (!f || f->ended)
            return true;
        size = data_size(s->a, c->max_packet < MAX_PATTERN / MAX_PACKETS ? c->max_packet * MAX_PACKETS : MAX_PATTERN);
        f->available += size;
        c->written += size;
        break;
    case STEP_END:
        if (f && !f->dead)
            end(c, f, s->a);
        break;
    case STEP_ROOM:
        if (f)
            f->room = s->b & 1 ? UNLIMITED : s->b & 2 ? 0 : f->room % UNLIMITED + size_of(s->a) % UNLIMITED;
        break;
    default:
        return false;
    }
    if (f)
        f->reported = 0; /* epoll reports the events again, even to an edge-triggered registration */
    return true;
}
