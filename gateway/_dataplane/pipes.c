/* Manages the pipes that bulk transfers use with splice(2). A `struct side` has a pipe only while the pipe contains data.
 * Up to MAX_PIPES empty pipes are kept for later transfers. When no pair (see pair.h) is left, these pipes are closed. */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "pair.h"

#define PIPE_SIZE (1024 * 1024)
#define MIN_PIPE_SIZE (256 * 1024) /* with a pipe below this size, splice(2) is slower than copying */

static void close_pipe(struct pipe *p)
{
    if (p->read_end >= 0) {
        close(p->read_end);
        close(p->write_end);
    }
    *p = (struct pipe){.read_end = -1, .write_end = -1};
}

/* Reuse a kept pipe, or create a pipe. Return false if no descriptors are left, or if the pipe is too small (pipe(7)). */
bool pipe_take(struct engine *e, struct pipe *p)
{
    int ends[2];

    if (e->pipe_count) {
        *p = e->pipes[--e->pipe_count];
        return true;
    }
    if (pipe2(ends, O_NONBLOCK | O_CLOEXEC) < 0)
        return false;
    *p = (struct pipe){.read_end = ends[0], .write_end = ends[1]};
    if (fcntl(ends[1], F_SETPIPE_SZ, PIPE_SIZE) < MIN_PIPE_SIZE) {
        close_pipe(p);
        return false;
    }
    return true;
}

/* Keep a pipe for later transfers if the pipe is empty, and if fewer than MAX_PIPES pipes are kept. Otherwise, close it. */
void pipe_release(struct engine *e, struct pipe *p)
{
    if (p->read_end >= 0 && !p->size && e->pipe_count < MAX_PIPES) {
        e->pipes[e->pipe_count++] = *p;
        *p = (struct pipe){.read_end = -1, .write_end = -1};
    } else {
        close_pipe(p);
    }
}

void pipes_close(struct engine *e)
{
    while (e->pipe_count)
        close_pipe(&e->pipes[--e->pipe_count]);
}
