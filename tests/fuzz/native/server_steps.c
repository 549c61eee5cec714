/* Runs the steps in which the simulated SSH server acts on the whole SSH connection. */
#include "harness.h"

#include <errno.h>

/* Send a message that the engine does not process, but passes to the gateway's Python code. */
static void other(struct far_connection *conn, const struct step *s)
{
    static const uint8_t messages[] = {2, 4, 20, 30, 80, 82, 90, 192};
    uint32_t size = data_size(s->b & 0x7f, conn->max_packet - SLACK);
    uint8_t *at = peer_reserve(conn, 1 + size);

    if (!at)
        return;
    at[0] = messages[s->a % sizeof messages];
    memset(at + 1, 0, size);
    peer_send(conn, 1 + size, s->a >> 6);
}

static void new_keys(struct far_connection *conn, const struct step *s)
{
    uint8_t *at = peer_reserve(conn, 1);

    if (!at || conn->keys_changed)
        return;
    at[0] = MSG_NEWKEYS;
    peer_send(conn, 1, 0);
    conn->keys_changed = true;
    conn->seal_cipher = cipher_of(s->a);
    peer_new_key(conn, conn->seal_cipher);
}

/* Send the bytes that the step contains, either as the payload of an encrypted packet, or unencrypted. */
static void raw(struct far_connection *conn, const struct step *s)
{
    uint8_t *at = peer_reserve(conn, s->a);

    tainted = true;
    if (!at || s->kind == STEP_RAW_STREAM) {
        peer_send_raw(conn, s->bytes, s->a);
        return;
    }
    memcpy(at, s->bytes, s->a);
    peer_send(conn, s->a, s->b);
}

bool server_step(const struct step *s)
{
    struct far_connection *conn = chosen_connection(s);
    struct file *f = file_is_open(conn->fd) ? file_of(conn->fd) : NULL;

    if (server_channel_step(s) || !f)
        return s->kind <= STEP_CONNECTION_END;
    switch (s->kind) {
    case STEP_OTHER:
        other(conn, s);
        return true;
    case STEP_NEW_KEYS:
        new_keys(conn, s);
        return true;
    case STEP_RAW_PACKET:
    case STEP_RAW_STREAM:
        raw(conn, s);
        return true;
    case STEP_CONNECTION_ROOM:
        f->room = s->b & 1 ? UNLIMITED : s->b & 2 ? 0 : f->room % UNLIMITED + size_of(s->a) % UNLIMITED;
        return true;
    case STEP_CONNECTION_END:
        f->ended = true;
        f->dead = s->a & 1;
        f->error = s->a & 2 ? ECONNRESET : 0;
        return true;
    default:
        return false;
    }
}
