/* Defines the function that libFuzzer calls with each input. The input is a script: first four bytes with settings,
 * then the steps. Each step has four bytes, and some steps have additional bytes.
 */
#include "listeners.h"
#include "pairs.h"

struct engine *engine;
bool engine_runs;
struct far_connection connections[MAX_CONNECTIONS];
struct far_channel channels[MAX_CHANNELS];
int connection_count, channel_count;
bool tainted, strict;
uint64_t growth_budget;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
const char *__asan_default_options(void); /* AddressSanitizer calls it */

const char *__asan_default_options(void)
{
    return "quarantine_size_mb=16:malloc_context_size=6";
}

bool has_bytes(uint8_t kind)
{
    kind %= STEP_KINDS;
    return kind == STEP_RAW_PACKET || kind == STEP_RAW_STREAM;
}

size_t step_size(const uint8_t *step, const uint8_t *end)
{
    size_t rest = (size_t)(end - step) - STEP_SIZE;

    return STEP_SIZE + (!has_bytes(step[0]) ? 0 : step[2] < rest ? step[2] : rest);
}

static void start(const uint8_t *head)
{
    static const uint64_t bounds[] = {1000, 1000000, SECOND};

    memory_reset();
    files_reset();
    steps_reset();
    listeners_reset();
    joined_reset();
    pairs_reset();
    engine_runs = true;
    memset(connections, 0, sizeof connections);
    connection_count = channel_count = 0;
    tainted = false;
    strict = head[0] & 16;
    growth_budget = (uint64_t)size_of(head[1]) * 16;
    engine = calloc(1, sizeof *engine);
    CHECK(engine, "no memory");
    engine->growth_available = growth_budget;
    engine->growth_reserve = growth_budget / 2;
    engine->dead_after = 60 * SECOND;
    CHECK(engine_init(engine, bounds, sizeof bounds / sizeof *bounds), "the engine does not start");
    python_connection(cipher_of(head[0]), head[0] & 32 ? MAX_PACKET : 35000, (uint64_t)1 << head[2] % 40);
    file_of(connections[0].fd)->room = size_of(head[3]);
}

static void stop(void)
{
    engine_runs = false;
    engine_clear(engine);
    free(engine);
    CHECK(open_files() == 0, "%d descriptors are not closed", open_files());
    for (int at = 0; at < connection_count; at++)
        peer_forget(&connections[at]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *end = data + size;
    bool works = true, closed_early, described = getenv("FUZZ_DESCRIBE") != NULL;

    if (size < HEAD_SIZE)
        return 0;
    start(data);
    closed_early = data[0] & 64; /* do not wait until the engine is idle */
    data += HEAD_SIZE;
    for (int steps = 0; works && steps < MAX_STEPS && end - data >= (ptrdiff_t)STEP_SIZE; steps++) {
        size_t whole = step_size(data, end);
        struct step s = {.kind = data[0] % STEP_KINDS, .which = data[1], .a = data[2], .b = data[3]};

        if (has_bytes(s.kind)) {
            s.bytes = data + STEP_SIZE;
            s.a = (uint8_t)(whole - STEP_SIZE);
        }
        data += whole;
        if (described)
            describe(&s);
        works = run_step(&s);
    }
    if (works && !closed_early)
        settle();
    stop();
    return 0;
}
