/* Generates ONC RPC messages (RFC 5531, sections 8 and 11) for channels with the tap TAP_RPC, and checks the messages
 * that the tap reports.
 *
 * The tap parses data that arrives in parts. The parser in this file is simpler, because it has all data at once.
 */
#include "harness.h"

#define PERIOD 65521u
#define VARIANTS 4u
#define LAST_FRAGMENT 0x80000000u
#define MAX_FRAGMENT (64u * 1024u * 1024u)
#define LONGEST 20000u /* maximum length of a fragment, in bytes */

static uint8_t streams[VARIANTS][PERIOD + MAX_PATTERN];

static uint32_t random_below(uint32_t limit)
{
    static uint32_t state;

    state = state * 1664525u + 1013904223u;
    return (state >> 8) % limit;
}

/* Fill a stream with complete fragments. Each fragment can be empty, except the first fragment of a message. */
static void write_stream(uint8_t *stream, bool fragmented)
{
    bool continues = false;

    for (uint32_t at = 0; at < PERIOD;) {
        uint32_t rest = PERIOD - at - 4, least = continues ? 0 : 8, size;
        bool last = rest <= LONGEST || !fragmented || random_below(3) == 0;

        size = rest <= LONGEST ? rest : least + random_below(random_below(8) ? 200 : LONGEST - 100);
        put_u32(stream + at, size | (last ? LAST_FRAGMENT : 0));
        memset(stream + at + 4, (int)size, size);
        if (!continues) {
            put_u32(stream + at + 4, random_below(UINT32_MAX));
            put_u32(stream + at + 8, random_below(2));
        }
        continues = !last;
        at += 4 + size;
    }
}

/* After about 20 KB, make a header invalid: the type of a message if `type` is true, or the size of a fragment. */
static void corrupt(uint8_t *stream, bool type)
{
    struct rpc_view view = {0};
    struct rpc_message message;

    while (view.next < 20000)
        (void)rpc_next(stream, &view, &message);
    put_u32(stream + view.next + (type ? 8 : 0), type ? 2 : MAX_FRAGMENT + 9);
}

const uint8_t *rpc_pattern(uint32_t seed, uint64_t offset)
{
    if (!streams[0][3]) {
        for (uint32_t at = 0; at < VARIANTS; at++) {
            write_stream(streams[at], at & 1);
            if (at & 2)
                corrupt(streams[at], at & 1);
            for (size_t to = PERIOD; to < sizeof streams[at]; to++)
                streams[at][to] = streams[at][to - PERIOD];
        }
    }
    return streams[seed / 2 % VARIANTS] + offset % PERIOD;
}

/* Find the next message in a stream. Return false if the bytes are not RPC. `message->end` is set in both cases. */
bool rpc_next(const uint8_t *stream, struct rpc_view *view, struct rpc_message *message)
{
    for (;;) {
        uint64_t at = view->next;
        const uint8_t *header = stream + at % PERIOD;
        uint32_t mark = get_u32(header), size = mark & ~LAST_FRAGMENT;
        bool continues = view->continues;

        message->end = at + (continues ? 4 : 12);
        if (continues ? size > MAX_FRAGMENT : size < 8 || size - 8 > MAX_FRAGMENT)
            return false;
        view->next = at + 4 + size;
        view->continues = !(mark & LAST_FRAGMENT);
        if (continues)
            continue;
        message->xid = get_u32(header + 4);
        message->type = get_u32(header + 8);
        return message->type <= 1;
    }
}

/* Check that the reported message is the next message of its direction. */
void rpc_reported(struct far_channel *c, const struct message_header *h)
{
    bool down = h->a, valid;
    struct rpc_message message;

    CHECK(c->tap == TAP_RPC && h->a >= 0 && h->a <= 1 && h->b > 0 && !h->payload, "an unexpected RPC record");
    CHECK(!c->not_rpc, "an RPC record after bytes that are not RPC");
    c->not_rpc = h->d < 0;
    if (!exact(c))
        return;
    valid = rpc_next(down ? data_down(c, 0) : data_up(c, 0), &c->rpc[down], &message);
    CHECK(message.end <= (down ? c->sent : c->written), "a message that has not arrived");
    CHECK(valid == !c->not_rpc, "bytes that are%s RPC are reported", valid ? "" : " not");
    CHECK(!valid || (message.xid == h->c && message.type == h->d), "a message has a wrong header");
}

/* Check that the engine has reported every message header in the first `passed` bytes of a direction. */
void rpc_settled(const struct far_channel *c, bool down, uint64_t passed)
{
    struct rpc_view view = c->rpc[down];
    struct rpc_message message;

    if (c->tap != TAP_RPC || c->not_rpc || c->untapped || !exact(c))
        return;
    (void)rpc_next(down ? data_down(c, 0) : data_up(c, 0), &view, &message);
    CHECK(message.end > passed, "the message at %llu is not reported", (unsigned long long)message.end);
}
