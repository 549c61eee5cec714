/* Ends the two directions of a channel, independently of each other (RFC 4254, section 5.3), and ends the whole relay.
 *
 * The client receives either every byte that the backend sent before the end of its stream, or a reset. The same applies to
 * the backend, except that SSH cannot forward a reset: the native engine closes the channel instead.
 */
#include <sys/socket.h>
#include <unistd.h>

#include "listener.h"

static void set_linger(int fd, bool reset)
{
    const struct linger option = {.l_onoff = reset, .l_linger = 0};

    setsockopt(fd, SOL_SOCKET, SO_LINGER, &option, sizeof option);
}

/* Close a socket. Reset a TCP socket, so that the remote end gets an error instead of an end of stream. */
void reset_fd(int fd, bool is_unix)
{
    if (!is_unix)
        set_linger(fd, true);
    close(fd);
}

/* Close a socket normally: the kernel delivers the data in the send buffer, and then the end of the stream. */
void close_gracefully(int fd, bool is_unix)
{
    if (!is_unix)
        set_linger(fd, false);
    close(fd);
}

/* Forward the end of the backend's stream to the client when no more bytes wait for the client. If both directions have ended,
 * end the relay. */
void ending_propagate(struct channel *c)
{
    if (!c->attached || c->ended)
        return;
    if (c->held.size) {
        client_update_mask(c);
        return;
    }
    if (c->backend_eof && !c->eof_delivered) {
        c->eof_delivered = true;
        /* Set `eof_delivered` first, so that it is already set when the client receives the end of the stream. */
        atomic_store(&c->gauge->eof_delivered, 1);
        /* If both directions have ended and the link works, `ending_finish` closes the socket below. */
        if (!c->client_eof || c->link_lost) {
            liveness_watch(c->engine, &c->liveness, c->is_unix);
            shutdown(c->fd, SHUT_WR);
        }
    }
    if (c->link_lost) {
        ending_finish(c, CLOSE_LINK_LOST);
    } else if (c->channel_closed) {
        ending_finish(c, CLOSE_FINISHED);
    } else if (c->backend_eof && c->client_eof) {
        channel_send_close(c);
        ending_finish(c, CLOSE_FINISHED);
    } else {
        client_update_mask(c);
    }
}

/* Handle the end of the backend's stream. If `close` is true, the server has also closed the channel. */
void ending_backend(struct channel *c, bool close)
{
    c->backend_eof = true;
    if (close) {
        c->channel_closed = c->channel_unwritable = true;
        dequeue_channel(c);
    }
    ending_propagate(c);
}

/* Handle the loss of the SSH connection: reset the client. If the backend's stream had already ended, first deliver the rest
 * of the stream to the client. */
void ending_link_lost(struct channel *c)
{
    if (c->channel_closed) /* the channel no longer needs the SSH connection */
        return;
    c->link_lost = c->channel_unwritable = true;
    dequeue_channel(c);
    if (c->ended)
        channel_release(c);
    else if (c->attached && c->backend_eof && !c->client_broken)
        ending_propagate(c);
    else if (c->attached)
        ending_finish(c, CLOSE_LINK_LOST);
}

/* Reset the client, and close the channel. If the link was lost after the end of the backend's stream, first deliver the
 * rest of the stream to the client. */
void ending_abort(struct channel *c, enum close_reason reason)
{
    if (c->ended)
        return;
    if (!c->open) { /* CHANNEL_OPEN has no reply yet: close the channel when it opens */
        c->abandoned = c->ended = true;
        return;
    }
    if (reason == CLOSE_LINK_LOST && c->backend_eof) {
        ending_link_lost(c);
        return;
    }
    channel_send_close(c);
    ending_finish(c, reason);
}

/* End the relay, and close the client's socket. If the client must receive the whole response first, pass the socket to
 * Python, which closes it later. */
void ending_finish(struct channel *c, enum close_reason reason)
{
    int64_t arguments[4] = {reason, -1, c->link_lost, 0};
    bool served;

    if (c->ended)
        return;
    c->ended = true;
    dequeue_channel(c);
    if (c->attached) {
        client_unregister(c);
        if (!c->eof_delivered || (reason != CLOSE_FINISHED && reason != CLOSE_LINK_LOST)) {
            reset_fd(c->fd, c->is_unix);
        } else if (c->client_eof && !c->link_lost) {
            close_gracefully(c->fd, c->is_unix);
        } else {
            arguments[1] = c->fd;
        }
        c->fd = -1;
    }
    chunks_free(&c->held);
    gauge_set(&c->gauge->held, 0);
    served = joined_end(c->engine, &c->joined, reason, arguments[1] >= 0, c->gauge);
    if (c->attached && c->measure)
        histogram_report(c->engine, (uint32_t)c->histogram, served);
    channel_release_gauge(c);
    if (served)
        slot_release(c->engine, c->token);
    else
        emit(c->engine, RECORD_ENDED, c->token, arguments, NULL, 0);
    channel_release(c);
}
