/* Sends commands to the engine, and checks the engine's records. In the gateway, Python modules such as
 * gateway/relay/native_engine_runner.py do this.
 */
#include "listeners.h"
#include "pairs.h"

#include <errno.h>

#define FULL_WINDOW 1000000u /* the maximum window; small, so that a script reaches it with little data */

static void queue(struct message_header header, const void *payload, const void *more, size_t more_size)
{
    CHECK(queue_command(engine, &header, payload, more, more_size), "the command is not queued");
}

void python_command(enum command command, uint64_t token, int64_t a, int64_t b, int64_t c)
{
    queue((struct message_header){.kind = command, .token = token, .a = a, .b = b, .c = c}, NULL, NULL, 0);
}

void python_payload(enum command command, uint64_t token, const void *payload, size_t size)
{
    queue((struct message_header){.kind = command, .token = token, .payload = (uint32_t)size}, payload, NULL, 0);
}

/* Pass a new SSH connection to the engine. */
void python_connection(int cipher, uint32_t max_packet, uint64_t rekey_bytes)
{
    struct far_connection *conn = &connections[connection_count];
    struct connection_setup setup = {
        .strict = strict, .max_packet_length = max_packet, .rekey_bytes = rekey_bytes, .growth_bytes = CONNECTION_GROWTH,
        .max_window = FULL_WINDOW, .adjust_bytes = 65536,
    };

    conn->token = slot_allocate(engine);
    conn->fd = setup.fd = file_open(FILE_CONNECTION, connection_count++);
    file_of(conn->fd)->room = UNLIMITED;
    peer_init(conn, cipher, max_packet);
    fill_key(&setup.seal, cipher);
    fill_key(&setup.open, cipher);
    python_payload(COMMAND_CONNECTION, conn->token, &setup, sizeof setup);
}

enum tap tap_of(uint8_t choice)
{
    return !(choice & 1) ? TAP_NONE : choice & 2 ? TAP_RPC : TAP_BYTES;
}

/* Open a channel. The server finds the channel by its index, the last four bytes of CHANNEL_OPEN. */
void python_channel(struct far_connection *conn, uint32_t window, enum tap tap, uint8_t type_size)
{
    struct far_channel *c = &channels[channel_count];
    uint8_t payload[sizeof(struct channel_setup) + 4 + 255] = {0}, index[4];
    struct channel_setup setup = {.window = window, .max_packet = 262144, .type_size = 4u + type_size, .tap = tap};

    *c = (struct far_channel){.connection = (int)(conn - connections), .fd = -1, .tap = tap, .receive_window = window};
    c->token = slot_allocate(engine);
    put_u32(index, (uint32_t)channel_count++);
    memcpy(payload, &setup, sizeof setup);
    put_u32(payload + sizeof setup, type_size);
    queue((struct message_header){.kind = COMMAND_CHANNEL, .token = c->token, .a = (int64_t)conn->token,
                                  .payload = (uint32_t)(sizeof setup + setup.type_size + sizeof index)},
          payload, index, sizeof index);
}

/* Let the engine encrypt and send a packet. The payload has `size` bytes, and its first byte is `message`. */
void python_packet(struct far_connection *conn, uint8_t message, size_t size)
{
    static uint8_t packet[65536];
    uint32_t padding = MAX_BLOCK_SIZE - (uint32_t)(size + 1) % MAX_BLOCK_SIZE;

    padding += padding < MIN_PADDING ? MAX_BLOCK_SIZE : 0;
    CHECK(size && size + padding + 5 <= sizeof packet, "a packet of %zu bytes", size);
    memset(packet, 0, size + padding + 5);
    put_u32(packet, (uint32_t)(size + 1 + padding));
    packet[4] = (uint8_t)padding;
    packet[5] = message;
    queue((struct message_header){.kind = COMMAND_SEND, .token = conn->token, .payload = (uint32_t)(size + padding + 5)},
          packet, NULL, 0);
}

void python_key(struct far_connection *conn, enum command command, int cipher)
{
    struct key_setup setup;

    fill_key(&setup, cipher);
    queue((struct message_header){.kind = command, .token = conn->token, .payload = sizeof setup}, &setup, NULL, 0);
}

/* End a key exchange: let the engine send NEWKEYS, and encrypt all later packets with the new key. */
void python_new_seal_key(struct far_connection *conn, int cipher)
{
    conn->open_cipher = cipher;
    python_packet(conn, MSG_NEWKEYS, 1);
    python_key(conn, COMMAND_SEAL_KEY, cipher);
    conn->exchanging = false;
}

static void on_connection_record(struct far_connection *conn, const struct message_header *h, const uint8_t *payload)
{
    CHECK(!conn->final, "record %u after the last one of the connection", h->kind);
    switch (h->kind) {
    case RECORD_PACKET:
        CHECK(!conn->violated && !conn->awaits_key, "a packet after a violation, or without a key");
        CHECK(h->payload && h->payload <= conn->max_packet, "a packet of %u bytes", h->payload);
        conn->unaccepted += h->payload;
        conn->awaits_key = payload[0] >= MIN_PADDING && payload[0] + 1u < h->payload && payload[1] == MSG_NEWKEYS;
        break;
    case RECORD_VIOLATION:
        CHECK(!conn->violated, "a second violation");
        CHECK(conn->illegal || tainted, "a legal server is accused: %.*s", (int)h->payload, (const char *)payload);
        conn->violated = true;
        break;
    case RECORD_LOST:
        conn->final = true;
        conn->fd = -1;
        slot_release(engine, conn->token);
        break;
    default:
        CHECK(h->kind == RECORD_REKEY_DUE, "record %u of a connection", h->kind);
    }
}

static void on_tap(struct far_channel *c, const struct message_header *h, const uint8_t *payload)
{
    uint64_t *offset = h->a ? &c->tapped_down : &c->tapped_up;

    CHECK(c->tap == TAP_BYTES && h->payload, "an unexpected tap");
    CHECK(!exact(c) || memcmp(payload, h->a ? data_down(c, *offset) : data_up(c, *offset), h->payload) == 0,
          "the tap gets wrong bytes");
    *offset += h->payload;
}

static void on_ended(struct far_channel *c, const struct message_header *h)
{
    bool complete = atomic_load(&slot_find(engine, c->token)->eof_delivered);

    CHECK(c->opened, "the end of a channel that is not open");
    CHECK(h->a <= CLOSE_MOVED && (h->c == 0 || h->c == 1) && h->d == 0, "wrong arguments");
    CHECK(!complete || !exact(c) || c->failed || c->delivered == c->sent, "the end was delivered before the data");
    if (h->b >= 0) {
        CHECK(h->b == c->fd && complete && file_of(c->fd)->shut && !file_of(c->fd)->registered, "a wrong descriptor");
        fake_close(c->fd);
    }
}

static void on_channel_record(struct far_channel *c, const struct message_header *h, const uint8_t *payload)
{
    CHECK(!c->final, "record %u after the last one of the channel", h->kind);
    CHECK(c->opened || !c->listener, "record %u of a channel that Python does not know", h->kind);
    switch (h->kind) {
    case RECORD_OPENED:
        CHECK(!c->opened, "a second RECORD_OPENED");
        c->opened = true;
        break;
    case RECORD_TAP:
        on_tap(c, h, payload);
        break;
    case RECORD_RPC:
        rpc_reported(c, h);
        break;
    case RECORD_REFUSED:
        CHECK(!c->opened, "the refusal of an open channel");
        c->final = true;
        break;
    default:
        CHECK(h->kind == RECORD_ENDED, "record %u of a channel", h->kind);
        on_ended(c, h);
        c->final = true;
    }
    if (c->final)
        slot_release(engine, c->token);
}

static void on_record(const struct message_header *h, const uint8_t *payload)
{
    if (h->kind == RECORD_HISTOGRAM) {
        open_times_reported(h, payload);
        return;
    }
    for (int at = 0; at < connection_count; at++)
        if (connections[at].token == h->token) {
            on_connection_record(&connections[at], h, payload);
            return;
        }
    if (listener_record(h) || pair_record(h, payload))
        return;
    for (int at = channel_count; at-- > 0;)
        if (channels[at].token == h->token) {
            on_channel_record(&channels[at], h, payload);
            return;
        }
    CHECK(false, "record %u for no object", h->kind);
}

/* Take and check the engine's records. Return false if the engine has failed. */
bool python_take(void)
{
    struct message_header header;
    int failed;
    struct bytes taken = take_records(engine, &failed);

    CHECK(!failed || (failed == ENOMEM && faults.memory_failed), "the engine has failed: %d", failed);
    if (failed)
        close_reported(&taken);
    for (size_t at = 0; at < taken.size && !failed; at += header.size) {
        memcpy(&header, taken.data + at, sizeof header);
        CHECK(at + header.size <= taken.size && header.size >= sizeof header + header.payload, "a malformed record");
        on_record(&header, taken.data + at + sizeof header);
    }
    fake_free(taken.data);
    return !failed;
}
