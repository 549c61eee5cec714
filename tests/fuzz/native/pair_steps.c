/* Runs the steps of a script that concern pairs. */
#include "pairs.h"

#include <errno.h>

static void set_room(struct file *f, const struct step *s)
{
    f->room = s->b & 1 ? UNLIMITED : s->b & 2 ? 0 : f->room % UNLIMITED + size_of(s->a) % UNLIMITED;
}

/* Pass two sockets to the engine as a pair. */
static void open_pair(const struct step *s)
{
    struct far_pair *p = &pairs[pair_count];
    struct pair_setup setup = {.histogram = s->a >> 5, .flags = s->a & 7, .tap = tap_of(s->a >> 3)};

    if (pair_count == MAX_PAIRS)
        return;
    *p = (struct far_pair){.token = slot_allocate(engine), .tap = setup.tap};
    for (int side = 0; side < 2; side++) {
        struct file *f;

        p->sides[side].fd = file_open(FILE_SIDE, 2 * pair_count + side);
        f = file_of(p->sides[side].fd);
        f->is_unix = setup.flags & (side ? ATTACH_UNIX_BACKEND : ATTACH_UNIX);
        f->room = size_of(side ? s->b >> 3 : s->b << 2);
    }
    pair_count++;
    setup.client = p->sides[0].fd;
    setup.backend = p->sides[1].fd;
    python_payload(COMMAND_PAIR, p->token, &setup, sizeof setup);
}

static void end(struct far_side *s, struct file *f, uint8_t how)
{
    switch (how % 4) {
    case 0:
        s->fin = true;
        break;
    case 1:
        f->dead = true;
        f->error = ECONNRESET;
        s->failed = true;
        break;
    case 2: /* this end closes its socket; over TCP, the engine sees a FIN now, and a reset after its next send */
        s->fin = s->failed = true;
        f->dead = f->is_unix;
        f->closed = !f->is_unix;
        break;
    default:
        f->dead = s->failed = true;
        f->error = ETIMEDOUT;
        s->written -= f->available; /* not received */
        f->available = 0;
    }
    f->ended = true;
}

static void side_step(struct far_side *s, const struct step *step)
{
    struct file *f = file_of(s->fd);
    uint32_t size;

    if (step->kind == STEP_SIDE_WRITE && !f->ended) {
        size = data_size(step->a, MAX_PATTERN);
        f->available += size;
        s->written += size;
    } else if (step->kind == STEP_SIDE_END && !f->ended) {
        end(s, f, step->a);
    } else if (step->kind == STEP_SIDE_ROOM) {
        set_room(f, step);
    }
    f->reported = 0; /* epoll reports the events again, even to an edge-triggered registration */
}

static void command(struct far_pair *p, const struct step *s)
{
    bool aborts = s->kind == STEP_PAIR_ABORT;

    p->aborted |= aborts;
    p->untapped |= !aborts;
    python_command(aborts ? COMMAND_ABORT : COMMAND_UNTAP, p->token, s->a % (CLOSE_BACKEND_RESET + 1), 0, 0);
}

bool pair_step(const struct step *s)
{
    struct far_pair *p = pair_count ? &pairs[(s->which & 0x1f) % pair_count] : NULL;

    if (s->kind < STEP_PAIR || s->kind > STEP_PAIR_UNTAP)
        return false;
    if (s->kind == STEP_PAIR) {
        open_pair(s);
    } else if (!p || p->final) {
        return true;
    } else if (s->kind == STEP_PAIR_ABORT || s->kind == STEP_PAIR_UNTAP) {
        if (!p->listener || p->announced)
            command(p, s);
    } else if (file_is_open(p->sides[s->which >> 5 & 1].fd)) {
        side_step(&p->sides[s->which >> 5 & 1], s);
    }
    return true;
}
