/* Declares pairs. A pair consists of a client's socket and a backend's socket, between which the native engine relays
 * bytes. */
#ifndef GATEWAY_DATAPLANE_PAIR_H
#define GATEWAY_DATAPLANE_PAIR_H

#include "engine.h"

#define PAIR_BUFFER ((size_t)128 * 1024)

struct pair_setup {
    int32_t client, backend; /* the descriptors of the two sockets */
    uint32_t histogram;
    uint32_t flags; /* bitwise OR of enum attach_flag values */
    uint32_t tap;   /* a value of enum tap */
};

/* One socket of a pair, and the state of the direction that reads from this socket and writes to the other one. */
struct side {
    struct source source; /* must be the first member, because the native engine casts `struct source *` to `struct side *` */
    struct pair *pair;
    struct side *other;
    int fd;
    uint32_t mask;
    bool is_unix;
    bool eof;        /* the end of the stream from this socket was read */
    bool shut;       /* the other socket is shut down for writing, or writes to it fail */
    bool discarding; /* writes to the other socket fail, so the native engine drops the bytes from this socket */
    bool tracks_fin; /* whether `fin_baseline` is set */
    int bulk_reads;  /* number of consecutive bulk reads (side.c); set to -NO_PIPE_FOR if no pipe can be used */
    uint64_t read;   /* number of bytes read, including dropped bytes */
    uint64_t fin_baseline;
    struct liveness liveness;
    struct chunks held; /* bytes that were read, and that the other socket has not accepted yet */
    struct pipe pipe;
};

struct pair {
    struct side client; /* must be the first member, because the native engine frees the pair through the client's `source` */
    struct side backend;
    struct engine *engine;
    struct pair *previous, *next;
    uint64_t token;
    struct joined joined;
    struct gauge *gauge;
    uint64_t request_time;
    uint32_t histogram;
    bool measure, deferred, ended; /* deferred: whether the end of the pair can be reported later, with other records */
    enum close_reason reason; /* the reason to report when both directions have ended */
    struct observer observer;
};

static inline bool side_waits(const struct side *s)
{
    return s->held.size > 0 || s->pipe.size > 0;
}

/* pair.c: creates and ends pairs. */
struct pair *pair_create(struct engine *, uint64_t token, const struct pair_setup *, const struct pending *);
void pair_abort(struct pair *, enum close_reason);
void pair_update(struct pair *);

/* side.c: copies the bytes of one direction. */
void side_event(struct side *, uint32_t events);
void side_drop(struct side *); /* frees the bytes that wait for the other socket */

/* fin.c: detects whether a FIN has arrived. */
bool fin_track(struct side *);
bool fin_missing(const struct side *);

/* pipes.c: manages the pipes for splice(2). */
bool pipe_take(struct engine *, struct pipe *);
void pipe_release(struct engine *, struct pipe *);
void pipes_close(struct engine *);

#endif
