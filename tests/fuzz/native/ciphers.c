/* The ciphers of the simulated SSH connections: the engine's ciphers with fixed keys, and `identity`, which does not
 * encrypt.
 *
 * `identity` rejects only packets whose authentication tag starts with 0xff. The engine therefore accepts most of the
 * random packets that the fuzzer generates.
 */
#include "harness.h"

const char *const cipher_names[4] = {
    "identity", "aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "chacha20-poly1305@openssh.com",
};

static bool init(struct cipher *c, const uint8_t *key, const uint8_t *iv)
{
    (void)c;
    (void)key;
    (void)iv;
    return true;
}

static bool seal(struct cipher *c, uint32_t seq, uint8_t *packet, uint32_t length)
{
    (void)c;
    (void)seq;
    memset(packet + LENGTH_SIZE + length, 0, TAG_SIZE);
    return !fault(&faults.cipher);
}

static bool read_length(struct cipher *c, uint32_t seq, const uint8_t *packet, uint32_t *length)
{
    (void)c;
    (void)seq;
    *length = get_u32(packet);
    return !fault(&faults.cipher);
}

static bool open_packet(struct cipher *c, uint32_t seq, uint8_t *packet, uint32_t length)
{
    (void)c;
    (void)seq;
    return packet[LENGTH_SIZE + length] != 0xff;
}

static const struct cipher_type identity = {"identity", 0, 0, 8, init, seal, read_length, open_packet};

/* The linker option `--wrap` makes the engine call this function instead of `cipher_type_named` in crypto.c. */
const struct cipher_type *__wrap_cipher_type_named(const char *name);
const struct cipher_type *__real_cipher_type_named(const char *name);

const struct cipher_type *__wrap_cipher_type_named(const char *name)
{
    return strcmp(name, identity.name) == 0 ? &identity : __real_cipher_type_named(name);
}

/* Return the index in `cipher_names` for a random byte. Most bytes select `identity`, because this cipher is the
 * fastest.
 */
int cipher_of(uint8_t choice)
{
    return choice % 16 < 13 ? 0 : choice % 16 - 12;
}

void fill_key(struct key_setup *setup, int cipher)
{
    const struct cipher_type *type = cipher_type_named(cipher_names[cipher]);

    *setup = (struct key_setup){.key_size = (uint32_t)type->key_size, .iv_size = (uint32_t)type->iv_size};
    strncpy(setup->cipher, type->name, sizeof setup->cipher - 1);
    memset(setup->key, 'k', sizeof setup->key);
    memset(setup->iv, 'i', sizeof setup->iv);
}
