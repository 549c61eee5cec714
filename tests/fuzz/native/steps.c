/* Runs a step of a script, and then one iteration of the engine's event loop. */
#include "listeners.h"
#include "pairs.h"

#include <stdio.h>

#define HOLD 0x80u      /* run the next step before the next iteration of the event loop */
#define KEEP 0x40u      /* do not read the engine's records for Python after this step */
#define MAX_TOTAL (1280u * 1024u)

static uint32_t total; /* the total length of the data in this script; at most MAX_TOTAL, so that no script is slow */

uint32_t size_of(uint8_t choice)
{
    static const uint32_t sizes[] = {
        0, 1, 2, 3, 4, 7, 8, 15, 16, 17, 31, 64, 100, 255, 256, 1000, 1024, 4096, 8192, 16384, 32767, 32768, 32769,
        40000, 65535, 65536, 100000, 131072, 200000, 262100, 524288, UINT32_MAX,
    };

    return sizes[choice % (sizeof sizes / sizeof *sizes)];
}

uint32_t data_size(uint8_t choice, uint64_t limit)
{
    uint32_t size = size_of(choice);

    if (size > limit)
        size = (uint32_t)limit;
    if (size > MAX_TOTAL - total)
        size = MAX_TOTAL - total;
    total += size;
    return size;
}

void steps_reset(void)
{
    total = 0;
}

struct far_connection *chosen_connection(const struct step *s)
{
    return &connections[s->which % connection_count];
}

struct far_channel *chosen_channel(const struct step *s)
{
    return channel_count ? &channels[(s->which & 0x3f) % channel_count] : NULL;
}

/* Run one iteration of the engine's event loop, and check the state of the engine. */
void turn(void)
{
    int error;

    faults.in_turn = true;
    error = engine_turn(engine, 0);
    faults.in_turn = false;
    CHECK(error == 0, "the turn fails: %d", error);
    check_engine();
}

static bool fault_step(const struct step *s)
{
    switch (s->kind) {
    case STEP_FAIL:
        switch (s->a % 8) {
        case 0:
            faults.allocation = s->b + 1u;
            break;
        case 1:
            faults.epoll = s->b % 8 + 1u;
            break;
        case 2:
            faults.interrupt = s->b % 8 + 1u;
            break;
        case 3:
            faults.cipher = s->b % 16 + 1u;
            break;
        case 4:
            faults.accept = s->b % 4 + 1u;
            break;
        case 5:
            faults.pipe = s->b % 4 + 1u;
            break;
        case 6:
            faults.splice = s->b % 4 + 1u;
            break;
        default:
            faults.socket = s->b % 4 + 1u;
        }
        return true;
    case STEP_CLOCK:
        fake_now += (uint64_t)size_of(s->a) * 1000000;
        faults.acknowledged = size_of(s->b);
        return true;
    case STEP_ORDER:
        event_order = s->a;
        return true;
    default:
        return false;
    }
}

void describe(const struct step *s)
{
#define STEP_NAME(name) #name,
    static const char *const names[] = {STEPS(STEP_NAME)};

    fprintf(stderr, "%s %d: %d (%u), %d (%u)%s\n", names[s->kind], s->which & 0x3f, s->a, size_of(s->a), s->b,
            size_of(s->b), s->which & HOLD ? ", no turn" : s->which & KEEP ? ", records are not taken" : "");
}

/* Run a step. Then run one iteration of the engine's event loop, unless the step has the flag HOLD. Return false if
 * the engine has failed.
 */
bool run_step(const struct step *s)
{
    if (!server_step(s) && !client_step(s) && !listener_step(s) && !pair_step(s) &&
        !python_step(s))
        fault_step(s);
    if (s->which & HOLD)
        return true;
    turn();
    return s->which & KEEP || python_take();
}
