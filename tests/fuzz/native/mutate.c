/* Mutates scripts: inserts, removes, repeats or changes steps. About a third of the mutations come from libFuzzer's
 * own mutator, which does not know where a step starts.
 */
#include "harness.h"

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t capacity);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t capacity, unsigned seed);

static uint32_t state;

static uint32_t random_below(uint32_t limit)
{
    state = state * 1664525u + 1013904223u;
    return (state >> 8) % limit;
}

/* Write the offset of each step, and of the end of the last step, to `starts`. Return the number of steps. */
static uint32_t find_steps(const uint8_t *data, size_t size, size_t starts[MAX_STEPS + 1])
{
    uint32_t count = 0;
    size_t at = HEAD_SIZE;

    for (; count < MAX_STEPS && size - at >= STEP_SIZE; count++) {
        starts[count] = at;
        at += step_size(data + at, data + size);
    }
    starts[count] = at;
    return count;
}

/* Move the bytes at `at + before` to `at + after`. Return the new size, or `size` if `capacity` is too small. */
static size_t resize(uint8_t *data, size_t size, size_t capacity, size_t at, size_t before, size_t after)
{
    if (size - before + after > capacity)
        return size;
    memmove(data + at + after, data + at + before, size - at - before);
    return size - before + after;
}

static void make_step(uint8_t *at)
{
    at[0] = (uint8_t)random_below(STEP_KINDS);
    at[1] = (uint8_t)(random_below(4) ? random_below(4) : random_below(256));
    at[2] = (uint8_t)random_below(256);
    at[3] = (uint8_t)random_below(256);
    if (has_bytes(at[0]))
        at[2] = 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t capacity, unsigned seed)
{
    size_t starts[MAX_STEPS + 1], first, last, to, changed;
    uint32_t count;
    uint8_t copy[1024];

    state = seed;
    if (size < HEAD_SIZE || random_below(3) == 0)
        return LLVMFuzzerMutate(data, size, capacity);
    count = find_steps(data, size, starts);
    to = starts[random_below(count + 1)];
    if (!count || random_below(4) == 0) { /* insert a new step */
        changed = resize(data, size, capacity, to, 0, STEP_SIZE);
        if (changed != size)
            make_step(data + to);
        return changed;
    }
    first = random_below(count);
    last = first + 1 + random_below(count - (uint32_t)first < 6 ? count - (uint32_t)first : 6);
    last = last > count ? count : last;
    switch (random_below(3)) {
    case 0: /* remove steps */
        return resize(data, size, capacity, starts[first], starts[last] - starts[first], 0);
    case 1: /* repeat steps elsewhere */
        changed = starts[last] - starts[first];
        if (changed > sizeof copy || size + changed > capacity)
            return size;
        memcpy(copy, data + starts[first], changed);
        size = resize(data, size, capacity, to, 0, changed);
        memcpy(data + to, copy, changed);
        return size;
    default: /* change one byte of a step */
        data[starts[first] + random_below(STEP_SIZE)] = (uint8_t)random_below(256);
        return size;
    }
}
