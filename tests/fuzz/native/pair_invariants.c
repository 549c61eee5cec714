/* Checks the state of the engine's pairs after each iteration of the engine's event loop. */
#include "pairs.h"

static void check_side(const struct side *s)
{
    const struct file *f = file_of(s->fd);
    uint32_t wanted = (s->eof || side_waits(s) ? 0 : EPOLLIN) | (side_waits(s->other) ? EPOLLOUT : 0);

    if (!wanted && !s->is_unix)
        wanted = EPOLLHUP | EPOLLERR | (s->other->shut ? (uint32_t)EPOLLET : 0);
    CHECK(s->mask == wanted, "a side waits for %x, not for %x", s->mask, wanted);
    CHECK(f->registered == (wanted != 0) && (!wanted || f->mask == wanted), "a side has another registration");
    CHECK(!s->held.size || !s->pipe.size, "bytes wait in two places");
    CHECK((s->held.size == 0) == (s->held.first == NULL), "the number of held bytes is wrong");
    CHECK((s->pipe.size > 0) == (s->pipe.read_end >= 0), "a pipe without data");
    CHECK(!s->pipe.size || file_of(s->pipe.read_end)->counter == s->pipe.size, "the pipe has other bytes");
    CHECK(!s->eof || (s->shut && !side_waits(s)), "the end of the stream is not passed on");
    CHECK(!s->discarding || (s->shut && !side_waits(s)), "bytes wait for a socket that accepts none");
    check_watched(&s->liveness, s->is_unix);
}

void check_pairs(void)
{
    int pipes = 2 * (int)engine->pipe_count, opened = 0;

    for (const struct pair *p = engine->pairs; p; p = p->next) {
        CHECK(!p->next || p->next->previous == p, "the list of pairs is inconsistent");
        CHECK(!p->ended && p->gauge->object == p, "a pair that has ended");
        CHECK(!(p->client.shut && p->backend.shut), "a pair whose ends have finished");
        check_side(&p->client);
        check_side(&p->backend);
        pipes += 2 * ((p->client.pipe.size > 0) + (p->backend.pipe.size > 0));
    }
    CHECK(engine->pairs || !engine->pipe_count, "pipes are kept without pairs");
    for (int at = 0; at < file_count; at++)
        opened += files[at].kind == FILE_PIPE;
    CHECK(opened == pipes, "%d ends of pipes are open, not %d", opened, pipes);
}
