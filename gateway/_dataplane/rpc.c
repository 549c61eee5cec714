/* Reports the bytes of a channel or pair to Python, for a tap. For NFS, reports only the headers of the ONC RPC messages
 * (RFC 5531, sections 8 and 11). Python measures latencies from these headers.
 */
#include "engine.h"

#define LAST_FRAGMENT 0x80000000u
#define FRAGMENT_HEADER 4u /* size of a record mark (RFC 5531, section 11), in bytes */
#define FIRST_HEADER 12u   /* total size of a record mark, an XID and a message type, in bytes */
#define MAX_FRAGMENT (64u * 1024u * 1024u)

/* Handle a complete header of a fragment. Return false if the bytes are not ONC RPC. */
static bool on_header(struct engine *e, uint64_t token, struct rpc_scanner *s, bool from_backend, uint64_t now)
{
    uint32_t mark = get_u32(s->header), length = mark & ~LAST_FRAGMENT, rest = s->header_size - FRAGMENT_HEADER;

    if (length < rest || length - rest > MAX_FRAGMENT)
        return false;
    if (!s->is_continuation) {
        const int64_t arguments[4] = {from_backend, (int64_t)now, get_u32(s->header + 4), get_u32(s->header + 8)};

        if (arguments[3] != RPC_CALL && arguments[3] != RPC_REPLY)
            return false;
        emit(e, RECORD_RPC, token, arguments, NULL, 0);
    }
    s->remaining = length - rest;
    s->header_size = 0;
    s->is_continuation = !(mark & LAST_FRAGMENT);
    return true;
}

/* Report the ONC RPC messages that begin in `data`, which contains the next bytes of one direction. If the bytes are not ONC
 * RPC, emit a record with the message type -1, and report no more messages of the channel or pair. */
static void scan(struct engine *e, uint64_t token, struct observer *o, bool from_backend, uint64_t now, const uint8_t *data,
                 size_t size)
{
    struct rpc_scanner *s = &o->rpc[from_backend];
    const int64_t not_rpc[4] = {from_backend, (int64_t)now, 0, -1};

    while (size > 0) {
        uint32_t missing = (s->is_continuation ? FRAGMENT_HEADER : FIRST_HEADER) - s->header_size;
        size_t step = s->remaining ? s->remaining : missing;

        if (step > size)
            step = size;
        if (s->remaining) {
            s->remaining -= (uint32_t)step;
        } else {
            memcpy(s->header + s->header_size, data, step);
            s->header_size += (uint32_t)step;
            if (step == missing && !on_header(e, token, s, from_backend, now)) {
                o->tap = TAP_NONE;
                emit(e, RECORD_RPC, token, not_rpc, NULL, 0);
                return;
            }
        }
        data += step;
        size -= step;
    }
}

void report_tap(struct engine *e, uint64_t token, struct observer *o, bool from_backend, uint64_t now, const uint8_t *data,
                size_t size)
{
    const int64_t arguments[4] = {from_backend, (int64_t)now, 0, 0};

    if (o->tap == TAP_RPC)
        scan(e, token, o, from_backend, now, data, size);
    else
        emit(e, RECORD_TAP, token, arguments, data, size);
}
