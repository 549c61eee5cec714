#include "crypto.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <string.h>

#include "bytes.h"

/* AES-GCM (RFC 5647): the packet length is authenticated but not encrypted. */

static bool gcm_init(struct cipher *c, const uint8_t *key, const uint8_t *iv)
{
    const EVP_CIPHER *algorithm = c->type->key_size == 16 ? EVP_aes_128_gcm() : EVP_aes_256_gcm();

    memcpy(c->iv, iv, sizeof c->iv);
    c->main = EVP_CIPHER_CTX_new();
    return c->main && EVP_CipherInit_ex(c->main, algorithm, NULL, key, NULL, c->sealing);
}

/* Add 1 to the invocation counter (RFC 5647, section 7.1). */
static void gcm_advance(struct cipher *c)
{
    for (size_t at = sizeof c->iv; at-- > 4;)
        if (++c->iv[at])
            break;
}

static bool gcm_seal(struct cipher *c, uint32_t seq, uint8_t *packet, uint32_t length)
{
    int size;
    uint8_t *body = packet + LENGTH_SIZE;

    (void)seq;
    if (!EVP_EncryptInit_ex(c->main, NULL, NULL, NULL, c->iv) ||
        !EVP_EncryptUpdate(c->main, NULL, &size, packet, LENGTH_SIZE) ||
        !EVP_EncryptUpdate(c->main, body, &size, body, (int)length) ||
        !EVP_EncryptFinal_ex(c->main, body + length, &size) ||
        !EVP_CIPHER_CTX_ctrl(c->main, EVP_CTRL_AEAD_GET_TAG, TAG_SIZE, body + length))
        return false;
    gcm_advance(c);
    return true;
}

static bool gcm_read_length(struct cipher *c, uint32_t seq, const uint8_t *packet, uint32_t *length)
{
    (void)c;
    (void)seq;
    *length = get_u32(packet);
    return true;
}

static bool gcm_open(struct cipher *c, uint32_t seq, uint8_t *packet, uint32_t length)
{
    int size;
    uint8_t *body = packet + LENGTH_SIZE;

    (void)seq;
    if (!EVP_DecryptInit_ex(c->main, NULL, NULL, NULL, c->iv) ||
        !EVP_DecryptUpdate(c->main, NULL, &size, packet, LENGTH_SIZE) ||
        !EVP_DecryptUpdate(c->main, body, &size, body, (int)length) ||
        !EVP_CIPHER_CTX_ctrl(c->main, EVP_CTRL_AEAD_SET_TAG, TAG_SIZE, body + length) ||
        EVP_DecryptFinal_ex(c->main, body + length, &size) <= 0)
        return false;
    gcm_advance(c);
    return true;
}

/* ChaCha20-Poly1305 of OpenSSH (PROTOCOL.chacha20poly1305): one key for the packet length, one for the rest. */

#define CHACHA_KEY 32u

static bool chacha_init(struct cipher *c, const uint8_t *key, const uint8_t *iv)
{
    EVP_MAC *poly1305 = EVP_MAC_fetch(NULL, "POLY1305", NULL);

    (void)iv;
    c->mac = poly1305 ? EVP_MAC_CTX_new(poly1305) : NULL;
    EVP_MAC_free(poly1305);
    c->main = EVP_CIPHER_CTX_new();
    c->header = EVP_CIPHER_CTX_new();
    return c->mac && c->main && c->header &&
           EVP_EncryptInit_ex(c->main, EVP_chacha20(), NULL, key, NULL) &&
           EVP_EncryptInit_ex(c->header, EVP_chacha20(), NULL, key + CHACHA_KEY, NULL);
}

/* Encrypt or decrypt `length` bytes with ChaCha20. The initial block counter is `block`. The nonce is the packet's sequence
 * number. */
static bool chacha_crypt(EVP_CIPHER_CTX *ctx, uint32_t seq, uint8_t block, const uint8_t *from, uint8_t *to,
                         uint32_t length)
{
    uint8_t iv[16] = {block};
    int size;

    put_u32(iv + 12, seq);
    return EVP_EncryptInit_ex(ctx, NULL, NULL, NULL, iv) && EVP_EncryptUpdate(ctx, to, &size, from, (int)length);
}

static bool chacha_tag(struct cipher *c, uint32_t seq, const uint8_t *packet, uint32_t length, uint8_t *tag)
{
    static const uint8_t zeros[CHACHA_KEY];
    uint8_t key[CHACHA_KEY];
    size_t size;
    bool done = chacha_crypt(c->main, seq, 0, zeros, key, sizeof key) && EVP_MAC_init(c->mac, key, sizeof key, NULL) &&
                EVP_MAC_update(c->mac, packet, LENGTH_SIZE + length) && EVP_MAC_final(c->mac, tag, &size, TAG_SIZE);

    OPENSSL_cleanse(key, sizeof key);
    return done;
}

static bool chacha_seal(struct cipher *c, uint32_t seq, uint8_t *packet, uint32_t length)
{
    uint8_t *body = packet + LENGTH_SIZE;

    return chacha_crypt(c->header, seq, 0, packet, packet, LENGTH_SIZE) &&
           chacha_crypt(c->main, seq, 1, body, body, length) && chacha_tag(c, seq, packet, length, body + length);
}

static bool chacha_read_length(struct cipher *c, uint32_t seq, const uint8_t *packet, uint32_t *length)
{
    uint8_t clear[LENGTH_SIZE];

    if (!chacha_crypt(c->header, seq, 0, packet, clear, LENGTH_SIZE))
        return false;
    *length = get_u32(clear);
    return true;
}

static bool chacha_open(struct cipher *c, uint32_t seq, uint8_t *packet, uint32_t length)
{
    uint8_t *body = packet + LENGTH_SIZE;
    uint8_t tag[TAG_SIZE];

    if (!chacha_tag(c, seq, packet, length, tag) || CRYPTO_memcmp(tag, body + length, TAG_SIZE) != 0)
        return false;
    put_u32(packet, length);
    return chacha_crypt(c->main, seq, 1, body, body, length);
}

static const struct cipher_type types[] = {
    {"aes128-gcm@openssh.com", 16, 12, 16, gcm_init, gcm_seal, gcm_read_length, gcm_open},
    {"aes256-gcm@openssh.com", 32, 12, 16, gcm_init, gcm_seal, gcm_read_length, gcm_open},
    {"chacha20-poly1305@openssh.com", 64, 0, 8, chacha_init, chacha_seal, chacha_read_length, chacha_open},
};

const struct cipher_type *cipher_type_named(const char *name)
{
    for (size_t at = 0; at < sizeof types / sizeof *types; at++)
        if (strcmp(types[at].name, name) == 0)
            return &types[at];
    return NULL;
}

bool cipher_set(struct cipher *c, const struct cipher_type *type, bool sealing, const uint8_t *key, size_t key_size,
                const uint8_t *iv, size_t iv_size)
{
    cipher_clear(c);
    if (key_size != type->key_size || iv_size != type->iv_size)
        return false;
    c->type = type;
    c->sealing = sealing;
    if (type->init(c, key, iv))
        return true;
    cipher_clear(c);
    return false;
}

void cipher_clear(struct cipher *c)
{
    EVP_CIPHER_CTX_free(c->main);
    EVP_CIPHER_CTX_free(c->header);
    EVP_MAC_CTX_free(c->mac);
    OPENSSL_cleanse(c, sizeof *c);
}
