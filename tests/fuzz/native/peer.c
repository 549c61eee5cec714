/* Simulates the SSH server, and checks every packet from the engine (RFC 4253, RFC 4254). */
#include "listeners.h"

#define INPUT_SIZE (4u * 1024u * 1024u)
#define OUTPUT_SIZE (4u * 1024u * 1024u)
#define HEADER (LENGTH_SIZE + 1u)
#define LAST_TRANSPORT_MESSAGE 49

/* Set the key with which the server encrypts its packets, or decrypts the engine's packets if `sealing` is false. */
static void set_key(struct cipher *c, bool sealing, int cipher)
{
    struct key_setup setup;

    fill_key(&setup, cipher);
    CHECK(cipher_set(c, cipher_type_named(setup.cipher), sealing, setup.key, setup.key_size, setup.iv, setup.iv_size),
          "the key of the server is not set");
}

void peer_init(struct far_connection *conn, int cipher, uint32_t max_packet)
{
    static uint8_t input[MAX_CONNECTIONS][INPUT_SIZE], output[MAX_CONNECTIONS][OUTPUT_SIZE];

    conn->input = input[conn - connections];
    conn->output = output[conn - connections];
    conn->max_packet = max_packet;
    conn->open_cipher = -1;
    set_key(&conn->seal, true, cipher);
    set_key(&conn->open, false, cipher);
}

void peer_forget(struct far_connection *conn)
{
    cipher_clear(&conn->seal);
    cipher_clear(&conn->open);
}

void peer_new_key(struct far_connection *conn, int cipher)
{
    set_key(&conn->seal, true, cipher);
    if (strict)
        conn->send_seq = 0;
}

uint8_t *peer_reserve(const struct far_connection *conn, size_t size)
{
    if (!file_is_open(conn->fd) || conn->input_end + HEADER + size + MAX_PADDING + 64 + TAG_SIZE > INPUT_SIZE)
        return NULL;
    return conn->input + conn->input_end + HEADER;
}

static void arrived(struct far_connection *conn, size_t size)
{
    conn->input_end += size;
    file_of(conn->fd)->available = conn->input_end - conn->input_start;
}

/* Encrypt and send a packet. The caller has written the payload to the address that `peer_reserve` returned. The
 * packet gets up to three additional blocks of padding. Injected cipher faults are suspended, because they must
 * affect only the engine.
 */
void peer_send(struct far_connection *conn, size_t size, uint8_t padding_blocks)
{
    uint32_t block = conn->seal.type->block_size, suspended = faults.cipher;
    uint32_t padding = block - (uint32_t)(size + 1) % block + (padding_blocks & 3) * block;
    uint8_t *packet = conn->input + conn->input_end;
    uint32_t length;

    padding += padding < MIN_PADDING ? block : 0;
    length = (uint32_t)(size + 1 + padding);
    if (length > conn->max_packet)
        conn->illegal = true;
    put_u32(packet, length);
    packet[LENGTH_SIZE] = (uint8_t)padding;
    memset(packet + HEADER + size, 0, padding);
    faults.cipher = 0;
    CHECK(conn->seal.type->seal(&conn->seal, conn->send_seq, packet, length), "the server's packet is not sealed");
    faults.cipher = suspended;
    conn->send_seq++;
    arrived(conn, LENGTH_SIZE + length + TAG_SIZE);
}

/* Send bytes without encryption. Return false if the server cannot send. */
bool peer_send_raw(struct far_connection *conn, const uint8_t *data, size_t size)
{
    uint8_t *at = peer_reserve(conn, size);

    if (!at)
        return false;
    memcpy(at - HEADER, data, size);
    arrived(conn, size);
    return true;
}

static void on_open(struct far_connection *conn, const uint8_t *payload, size_t size)
{
    uint32_t type = size > 5 ? get_u32(payload + 1) : UINT32_MAX, index;

    CHECK(type < size && size == 5 + type + 16, "a CHANNEL_OPEN of %zu bytes", size);
    index = get_u32(payload + size - 4);
    if (index >= LISTENER_INDEX)
        index = opened_for_client(conn, index, get_u32(payload + 5 + type), get_u32(payload + 9 + type));
    CHECK(index < (uint32_t)channel_count && !channels[index].known, "an unexpected CHANNEL_OPEN");
    channels[index].known = true;
    channels[index].number = get_u32(payload + 5 + type);
    CHECK(get_u32(payload + 9 + type) == channels[index].receive_window, "a wrong window");
    for (int at = 0; at < channel_count; at++) {
        const struct far_channel *c = &channels[at];

        CHECK(at == (int)index || &connections[c->connection] != conn || !c->known || c->number != channels[index].number ||
                  (c->closed && c->engine_closed) || tainted,
              "channel number %u is in use", c->number);
    }
}

static void on_data(struct far_channel *c, const uint8_t *payload, size_t size)
{
    uint32_t count = size >= 9 ? get_u32(payload + 5) : 0;

    CHECK(count && count == size - 9, "malformed data");
    CHECK(count <= c->send_window && count <= c->max_packet, "%u bytes for a window of %llu", count,
          (unsigned long long)c->send_window);
    CHECK(!c->engine_ended, "data after EOF");
    CHECK(c->arrived + count <= c->written && memcmp(payload + 9, data_up(c, c->arrived), count) == 0, "wrong bytes");
    c->send_window -= count;
    c->arrived += count;
}

static void on_channel_message(struct far_connection *conn, const uint8_t *payload, size_t size)
{
    uint32_t index = size >= 5 ? get_u32(payload + 1) - PEER_NUMBER : UINT32_MAX;
    struct far_channel *c = &channels[index < MAX_CHANNELS ? index : 0];

    if (tainted)
        return;
    CHECK(index < (uint32_t)channel_count && &connections[c->connection] == conn && c->confirmed, "an unknown channel");
    CHECK(!c->engine_closed, "message %d after CLOSE", payload[0]);
    switch (payload[0]) {
    case MSG_CHANNEL_DATA:
        on_data(c, payload, size);
        break;
    case MSG_CHANNEL_WINDOW_ADJUST:
        CHECK(size == 9 && get_u32(payload + 5), "an adjust without a size");
        c->receive_window += get_u32(payload + 5);
        CHECK(c->receive_window <= UINT32_MAX, "a window of more than 32 bits");
        break;
    case MSG_CHANNEL_EOF:
        CHECK(size == 5 && !c->engine_ended, "a second EOF");
        CHECK(c->failed || c->arrived == c->written, "the end of the client's stream before its data");
        c->engine_ended = true;
        break;
    case MSG_CHANNEL_CLOSE:
        CHECK(size == 5, "a long CLOSE");
        c->engine_closed = true;
        break;
    case MSG_CHANNEL_FAILURE:
        CHECK(size == 5 && c->unanswered--, "an unexpected answer");
        break;
    default:
        CHECK(false, "message %d", payload[0]);
    }
}

static void on_packet(struct far_connection *conn, const uint8_t *payload, size_t size)
{
    CHECK(!conn->disconnected, "message %d after DISCONNECT", payload[0]);
    CHECK(!conn->between_keys || payload[0] <= LAST_TRANSPORT_MESSAGE, "message %d in a key exchange", payload[0]);
    if (payload[0] == MSG_KEXINIT) {
        conn->between_keys = true;
    } else if (payload[0] == MSG_NEWKEYS) {
        conn->between_keys = false;
        CHECK(conn->open_cipher >= 0, "an unexpected NEWKEYS");
        set_key(&conn->open, false, conn->open_cipher);
        conn->open_cipher = -1;
        conn->recv_seq = strict ? UINT32_MAX : conn->recv_seq; /* the caller adds 1 */
    } else if (payload[0] == MSG_DISCONNECT) {
        conn->disconnected = true;
    } else if (payload[0] == MSG_CHANNEL_OPEN) {
        on_open(conn, payload, size);
    } else if (payload[0] > MSG_CHANNEL_OPEN) {
        on_channel_message(conn, payload, size);
    }
}

/* Decrypt and check the packets that are complete. Injected cipher faults are suspended, because they must affect
 * only the engine.
 */
void peer_receive(struct far_connection *conn, const uint8_t *data, size_t size)
{
    uint32_t suspended = faults.cipher;
    size_t start = 0;

    CHECK(conn->output_size + size <= OUTPUT_SIZE, "%zu bytes of an incomplete packet", conn->output_size);
    memcpy(conn->output + conn->output_size, data, size);
    conn->output_size += size;
    faults.cipher = 0;
    while (conn->output_size - start >= LENGTH_SIZE) {
        uint8_t *packet = conn->output + start;
        uint32_t length = 0, block = conn->open.type->block_size;

        conn->open.type->read_length(&conn->open, conn->recv_seq, packet, &length);
        CHECK(length >= block && length % block == 0 && length < OUTPUT_SIZE / 2, "a packet of %u bytes", length);
        if (conn->output_size - start < LENGTH_SIZE + length + TAG_SIZE)
            break;
        CHECK(conn->open.type->open(&conn->open, conn->recv_seq, packet, length), "a packet with a wrong tag");
        packet += LENGTH_SIZE;
        CHECK(packet[0] >= MIN_PADDING && packet[0] + 1u < length, "a packet with %d bytes of padding", packet[0]);
        on_packet(conn, packet + 1, length - 1 - packet[0]);
        conn->recv_seq++;
        start += LENGTH_SIZE + length + TAG_SIZE;
    }
    faults.cipher = suspended;
    memmove(conn->output, conn->output + start, conn->output_size - start);
    conn->output_size -= start;
}
