/* Declares the ciphers of SSH packets. Each cipher is an entry of a table, so that other code does not depend on the
 * algorithm. */
#ifndef GATEWAY_DATAPLANE_CRYPTO_H
#define GATEWAY_DATAPLANE_CRYPTO_H

#include <openssl/evp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TAG_SIZE 16u
#define LENGTH_SIZE 4u
#define MAX_BLOCK_SIZE 16u

struct cipher;

/* One cipher algorithm. `packet` points to an SSH packet (RFC 4253, section 6): the packet length (4 bytes), `length`
 * more bytes, and the authentication tag. */
struct cipher_type {
    const char *name;
    size_t key_size;
    size_t iv_size;
    uint32_t block_size;
    bool (*init)(struct cipher *, const uint8_t *key, const uint8_t *iv);
    bool (*seal)(struct cipher *, uint32_t seq, uint8_t *packet, uint32_t length);
    bool (*read_length)(struct cipher *, uint32_t seq, const uint8_t *packet, uint32_t *length);
    bool (*open)(struct cipher *, uint32_t seq, uint8_t *packet, uint32_t length);
};

/* The cipher and key of one direction of an SSH connection. A zeroed struct has no key. */
struct cipher {
    const struct cipher_type *type;
    EVP_CIPHER_CTX *main;
    EVP_CIPHER_CTX *header; /* ChaCha20: encrypts the packet length */
    EVP_MAC_CTX *mac;       /* ChaCha20: computes the authentication tag (Poly1305) */
    bool sealing;
    uint8_t iv[12];         /* AES-GCM: the nonce of the next packet */
};

/* Return the algorithm with this name (RFC 5647; OpenSSH's PROTOCOL.chacha20poly1305), or NULL. */
const struct cipher_type *cipher_type_named(const char *name);

/* Replace the key. Return false if the size of the key or the IV is wrong, or memory is exhausted; the cipher then has no
 * key. */
bool cipher_set(struct cipher *, const struct cipher_type *, bool sealing, const uint8_t *key, size_t key_size,
                const uint8_t *iv, size_t iv_size);

/* Free the key, and overwrite its memory. */
void cipher_clear(struct cipher *);

#endif
