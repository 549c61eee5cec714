/* Simulates memory allocations, which can fail, and generates the data that the clients and the servers send. */
#include "harness.h"

#include <errno.h>
#include <sanitizer/asan_interface.h>

#define PERIOD 65521u
#define GAP 4096u /* the number of bytes after each mapping; AddressSanitizer reports each access to these bytes */

struct mapping {
    uint8_t data[RECEIVE_SIZE + GAP];
    bool used, poisoned;
    size_t valid; /* the number of bytes that the engine may access without an error of AddressSanitizer */
};

static struct mapping mappings[MAX_CONNECTIONS];

#define LARGE (128u * 1024u)
#define MAX_BLOCKS 8

struct block {
    void *data;
    size_t size;
    bool used;
};

static struct block blocks[MAX_BLOCKS]; /* never freed; AddressSanitizer reports an access to an unused block */

/* Check that the engine has freed all mappings and large blocks of the previous script. Make AddressSanitizer report
 * each access to an unused mapping.
 */
void memory_reset(void)
{
    for (size_t at = 0; at < MAX_CONNECTIONS; at++) {
        CHECK(!mappings[at].used, "a mapping is not freed");
        if (!mappings[at].poisoned)
            ASAN_POISON_MEMORY_REGION(mappings[at].data, sizeof mappings[at].data);
        mappings[at].poisoned = true;
    }
    for (size_t at = 0; at < MAX_BLOCKS; at++)
        CHECK(!blocks[at].used, "a large block is not freed");
}

static bool refuse(void)
{
    if (!faults.in_turn || !fault(&faults.allocation))
        return false;
    faults.memory_failed = faults.injected = true;
    errno = ENOMEM;
    return true;
}

/* Return an unused block of `size` bytes, or allocate a new block. Blocks are reused, because it is slow to get new
 * memory from the kernel.
 */
static void *take_block(size_t size)
{
    for (size_t at = 0; at < MAX_BLOCKS; at++) {
        struct block *b = &blocks[at];

        if (!b->data) {
            *b = (struct block){.data = malloc(size), .size = size};
            CHECK(b->data, "no memory");
        }
        if (b->size == size && !b->used) {
            b->used = true;
            ASAN_UNPOISON_MEMORY_REGION(b->data, size);
            return b->data;
        }
    }
    return malloc(size);
}

static struct block *block_of(const void *data)
{
    for (size_t at = 0; data && at < MAX_BLOCKS; at++)
        if (blocks[at].data == data)
            return &blocks[at];
    return NULL;
}

void *fake_malloc(size_t size)
{
    return refuse() ? NULL : size < LARGE ? malloc(size) : take_block(size);
}

void *fake_calloc(size_t count, size_t size)
{
    if (refuse())
        return NULL;
    return count * size < LARGE ? calloc(count, size) : memset(take_block(count * size), 0, count * size);
}

void *fake_realloc(void *before, size_t size)
{
    struct block *b = block_of(before);
    void *after;

    CHECK(size > 0 && size < 1u << 30, "an allocation of %zu bytes", size);
    if (refuse())
        return NULL;
    if (!b)
        return realloc(before, size);
    after = take_block(size);
    memcpy(after, before, size < b->size ? size : b->size);
    fake_free(before);
    return after;
}

void fake_free(void *data)
{
    struct block *b = block_of(data);

    if (!b) {
        free(data);
        return;
    }
    CHECK(b->used, "memory is freed twice");
    b->used = false;
    ASAN_POISON_MEMORY_REGION(b->data, b->size);
}

void *fake_aligned_alloc(size_t alignment, size_t size)
{
    return refuse() ? NULL : aligned_alloc(alignment, size);
}

static struct mapping *mapping_of(const void *address)
{
    for (size_t at = 0; at < MAX_CONNECTIONS; at++) {
        const uint8_t *data = mappings[at].data, *looked_up = address;

        if (data <= looked_up && looked_up < data + RECEIVE_SIZE)
            return &mappings[at];
    }
    fail(__FILE__, __LINE__, "this address is not mapped");
}

/* Let the engine access only the first `size` bytes of a mapping. */
static void set_valid(struct mapping *m, size_t size)
{
    ASAN_UNPOISON_MEMORY_REGION(m->data, size);
    if (m->valid > size)
        ASAN_POISON_MEMORY_REGION(m->data + size, m->valid - size);
    m->valid = size;
}

void memory_received(const void *end)
{
    struct mapping *m = mapping_of((const uint8_t *)end - 1);

    set_valid(m, (size_t)((const uint8_t *)end - m->data));
}

/* Return a mapping for the bytes that the engine will receive. AddressSanitizer reports an access to bytes that the
 * engine has not received yet.
 */
void *fake_mmap(void *address, size_t size, int protection, int flags, int fd, off_t offset)
{
    (void)protection;
    (void)flags;
    CHECK(!address && size == RECEIVE_SIZE && fd == -1 && offset == 0, "unexpected arguments of mmap");
    if (refuse())
        return MAP_FAILED;
    for (size_t at = 0; at < MAX_CONNECTIONS; at++)
        if (!mappings[at].used) {
            mappings[at].used = true;
            return mappings[at].data;
        }
    fail(__FILE__, __LINE__, "more mappings than connections");
}

int fake_munmap(void *address, size_t size)
{
    struct mapping *m = mapping_of(address);

    CHECK(m->used && address == m->data && size == RECEIVE_SIZE, "this address is not mapped");
    m->used = false;
    set_valid(m, 0);
    return 0;
}

/* The caller may read MAX_PATTERN bytes from the returned address. */
const uint8_t *pattern(uint32_t seed, uint64_t offset)
{
    static uint8_t bytes[PERIOD + MAX_PATTERN];

    if (!bytes[1]) {
        uint32_t state = 1;

        for (size_t at = 0; at < PERIOD; at++) {
            state = state * 1664525u + 1013904223u;
            bytes[at] = (uint8_t)(state >> 24 | 1u);
        }
        for (size_t at = PERIOD; at < sizeof bytes; at++)
            bytes[at] = bytes[at - PERIOD];
    }
    return bytes + (seed * 7919u + offset) % PERIOD;
}
