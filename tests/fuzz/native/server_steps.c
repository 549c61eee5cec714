/* Runs the steps in which the simulated SSH server acts on the whole SSH connection. */
#include "harness.h"

#include <errno.h>

/* Send a message that the engine does not process, but passes to the gateway's Python code. */
static void other(struct far_wire *w, const struct step *s)
{
    static const uint8_t messages[] = {2, 4, 20, 30, 80, 82, 90, 192};
    uint32_t size = data_size(s->b & 0x7f, w->max_packet - SLACK);
    uint8_t *at = peer_reserve(w, 1 + size);

    if (!at)
        return;
    at[0] = messages[s->a % sizeof messages];
    memset(at + 1, 0, size);
    peer_send(w, 1 + size, s->a >> 6);
}

static void new_keys(struct far_wire *w, const struct step *s)
{
    uint8_t *at = peer_reserve(w, 1);

    if (!at || w->keys_changed)
        return;
    at[0] = MSG_NEWKEYS;
    peer_send(w, 1, 0);
    w->keys_changed = true;
    w->seal_cipher = cipher_of(s->a);
    peer_new_key(w, w->seal_cipher);
}

/* Send the bytes that the step contains, either as the payload of an encrypted packet, or unencrypted. */
static void raw(struct far_wire *w, const struct step *s)
{
    uint8_t *at = peer_reserve(w, s->a);

    tainted = true;
    if (!at || s->kind == STEP_RAW_STREAM) {
        peer_send_raw(w, s->bytes, s->a);
        return;
    }
    memcpy(at, s->bytes, s->a);
    peer_send(w, s->a, s->b);
}

bool server_step(const struct step *s)
{
    struct far_wire *w = chosen_wire(s);
    struct file *f = file_is_open(w->fd) ? file_of(w->fd) : NULL;

    if (server_channel_step(s) || !f)
        return s->kind <= STEP_WIRE_END;
    switch (s->kind) {
    case STEP_OTHER:
        other(w, s);
        return true;
    case STEP_NEW_KEYS:
        new_keys(w, s);
        return true;
    case STEP_RAW_PACKET:
    case STEP_RAW_STREAM:
        raw(w, s);
        return true;
    case STEP_WIRE_ROOM:
        f->room = s->b & 1 ? UNLIMITED : s->b & 2 ? 0 : f->room % UNLIMITED + size_of(s->a) % UNLIMITED;
        return true;
    case STEP_WIRE_END:
        f->ended = true;
        f->dead = s->a & 1;
        f->error = s->a & 2 ? ECONNRESET : 0;
        return true;
    default:
        return false;
    }
}
