/* Executes the commands from Python, in order. */
#include <errno.h>
#include <openssl/crypto.h>
#include <unistd.h>

#include "listener.h"
#include "pair.h"

static void change_key(struct connection *conn, enum command command, const struct key_setup *setup)
{
    bool sealing = command == COMMAND_SEAL_KEY;
    const struct cipher_type *type = cipher_type_named(setup->cipher);

    if (!type || !cipher_set(sealing ? &conn->seal : &conn->open, type, sealing, setup->key, setup->key_size, setup->iv,
                             setup->iv_size)) {
        connection_break(conn, ENOMEM);
    } else if (sealing) {
        send_resume(conn);
    } else {
        conn->await_key = false;
        receive_packets(conn);
    }
}

static void command_connection(struct connection *conn, const struct message_header *header, const uint8_t *payload)
{
    if (conn->closed)
        return;
    switch (header->kind) {
    case COMMAND_SEND:
        send_plain(conn, payload, header->payload);
        break;
    case COMMAND_SEAL_KEY:
    case COMMAND_OPEN_KEY:
        change_key(conn, header->kind, (const struct key_setup *)(const void *)payload);
        break;
    case COMMAND_ACCEPTED:
        conn->unaccepted -= (uint64_t)header->a < conn->unaccepted ? (uint64_t)header->a : conn->unaccepted;
        receive_packets(conn);
        break;
    case COMMAND_ROUND_TRIP:
        conn->round_trip = (uint64_t)header->a;
        break;
    default:
        send_flush(conn);
        connection_break(conn, 0);
    }
    connection_update_mask(conn);
}

static void command_channel(struct channel *c, const struct message_header *header)
{
    switch (header->kind) {
    case COMMAND_ATTACH:
        client_attach(c, (int)header->a, (int)header->b, header->c);
        break;
    case COMMAND_UNTAP:
        c->observer.tap = TAP_NONE;
        c->measure = true;
        break;
    default:
        ending_abort(c, (enum close_reason)header->a);
    }
}

static void command_pair(struct pair *p, const struct message_header *header)
{
    if (header->kind == COMMAND_UNTAP) {
        p->observer.tap = TAP_NONE;
        p->measure = true;
    } else if (header->kind == COMMAND_ABORT) {
        pair_abort(p, (enum close_reason)header->a);
    }
}

static void command_listener(struct listener *l, const struct message_header *header)
{
    if (header->kind == COMMAND_PERMIT)
        listener_permit(l, (uint64_t)header->a);
    else
        listener_stop(l);
}

static void run_command(struct engine *e, const struct message_header *header, const uint8_t *payload)
{
    struct gauge *gauge = slot_find(e, header->token);
    void *object = gauge ? gauge->object : NULL;

    switch (header->kind) {
    case COMMAND_CONNECTION:
        connection_create(e, header->token, (const void *)payload);
        break;
    case COMMAND_CHANNEL: { /* `header->a` is the token that identifies the SSH connection */
        const struct channel_setup *setup = (const void *)payload;
        struct gauge *of = slot_find(e, (uint64_t)header->a);

        channel_create(e, of ? of->object : NULL, header->token, setup, payload + sizeof *setup,
                       header->payload - sizeof *setup);
        break;
    }
    case COMMAND_CLOSE_HISTOGRAM:
        histogram_emit(e, (uint32_t)header->a, true);
        break;
    case COMMAND_PAIR:
        pair_create(e, header->token, (const void *)payload, NULL);
        break;
    case COMMAND_LISTEN:
        listener_create(e, header->token, (const void *)payload, header->payload);
        break;
    case COMMAND_PERMIT:
    case COMMAND_UNLISTEN:
        if (object)
            command_listener(object, header);
        break;
    case COMMAND_RECALL:
        if (object)
            pending_recall(e, object);
        break;
    case COMMAND_ATTACH:
    case COMMAND_UNTAP:
    case COMMAND_ABORT:
        if (object && ((struct source *)object)->kind == SOURCE_SIDE)
            command_pair(object, header);
        else if (object)
            command_channel(object, header);
        else if (header->kind == COMMAND_ATTACH) /* the channel ended before this command ran */
            reset_fd((int)header->a, (header->c & ATTACH_UNIX) != 0);
        break;
    default:
        if (object)
            command_connection(object, header, payload);
    }
}

void run_commands(struct engine *e)
{
    struct message_header header;

    pthread_mutex_lock(&e->lock);
    struct bytes taken = e->commands;

    e->commands = e->running;
    e->commands.size = 0;
    e->wake_pending = false;
    pthread_mutex_unlock(&e->lock);
    for (size_t at = 0; at < taken.size; at += header.size) {
        memcpy(&header, taken.data + at, sizeof header);
        run_command(e, &header, taken.data + at + sizeof header);
    }
    OPENSSL_cleanse(taken.data, taken.size); /* erase the commands: they can contain encryption keys */
    taken.size = 0;
    e->running = taken;
}
