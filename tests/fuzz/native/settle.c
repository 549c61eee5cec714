/* Runs after the last step of a script: checks that the engine sends all remaining data and becomes idle. */
#include "listeners.h"
#include "pairs.h"

#define MAX_TURNS 5000
#define SLAB_SLOTS 256u

static bool idle(void)
{
    if (engine->report_due)
        return false;
    for (int at = 0; at < file_count; at++) {
        const struct file *f = &files[at];
        uint32_t ready = f->kind == FILE_CLOSED || !f->registered ? 0 : file_ready(f) & (f->mask | EPOLLERR | EPOLLHUP);

        if (ready && (!(f->mask & EPOLLET) || ready & ~f->reported))
            return false;
    }
    return true;
}

/* Return whether an SSH connection waits until Python sets a key or accepts packets. */
static bool waits_for_python(void)
{
    for (int at = 0; at < connection_count; at++)
        if (!connections[at].final && !connections[at].silent && (connections[at].awaits_key || connections[at].unaccepted))
            return true;
    return false;
}

/* Let the engine continue: make sockets writable, complete connections and key exchanges, and accept packets. */
static void unblock(void)
{
    for (int at = 0; at < file_count; at++)
        if (files[at].kind == FILE_CLIENT || files[at].kind == FILE_CONNECTION || files[at].kind == FILE_SIDE)
            files[at].room = UNLIMITED;
    for (int at = 0; at < file_count; at++)
        if (dial_is_connecting(&files[at]))
            dial_ends(&files[at], 0);
    listeners_unblock();
    if (engine->report_due > fake_now)
        fake_now = engine->report_due;
    for (int at = 0; at < connection_count; at++) {
        struct far_connection *conn = &connections[at];

        if (conn->final || conn->silent)
            continue;
        if (conn->exchanging)
            python_new_seal_key(conn, 0);
        if (conn->awaits_key)
            give_open_key(conn);
        if (conn->unaccepted)
            accept_packets(conn, conn->unaccepted);
    }
}

static void check_settled_connection(const struct far_connection *conn)
{
    const struct connection *real = slot_find(engine, conn->token)->object;

    CHECK(real && !real->blocked && real->out_start == real->out_end, "bytes are not sent");
    CHECK(!real->queue_first, "channels wait");
    CHECK(conn->violated || conn->silent || (conn->input_start == conn->input_end && real->start == real->end), "bytes wait");
    CHECK(conn->output_size == 0, "a packet is not complete");
}

static void check_settled_channel(const struct far_channel *c)
{
    const struct file *f = file_is_open(c->fd) ? file_of(c->fd) : NULL;

    CHECK(c->engine_closed || !c->unanswered, "%u requests have no answer", c->unanswered);
    CHECK(c->engine_closed || c->link_lost || !(c->closed || c->final), "the engine has not closed the channel");
    if (c->final || !f || c->failed)
        return;
    CHECK(!c->closed, "the channel has not ended");
    CHECK(c->delivered == c->sent, "%llu of %llu bytes are delivered", (unsigned long long)c->delivered,
          (unsigned long long)c->sent);
    CHECK(f->shut == c->ended, "the end of the server's stream is not delivered");
    rpc_settled(c, true, c->sent);
    rpc_settled(c, false, c->written - f->available);
    CHECK(!f->available || !c->send_window || !c->max_packet, "%llu bytes of the client wait",
          (unsigned long long)f->available);
    CHECK(c->engine_ended == (f->ended && !f->available && c->send_window),
          "the end of the client's stream is not delivered");
}

/* Check that a slot (struct gauge) is free if its object has ended. */
static void check_slots(void)
{
    for (uint32_t at = 0; at < engine->slab_count * SLAB_SLOTS; at++) {
        struct gauge *slot = engine->slabs[at / SLAB_SLOTS] + at % SLAB_SLOTS;

        CHECK(!(atomic_load(&slot->generation) & 1) || slot->object, "slot %u is not free", at);
    }
}

/* Run the engine until it is idle, and check the final state of each object. Return false if the engine failed. */
bool settle(void)
{
    int turns = 0;

    faults = (struct faults){.memory_failed = faults.memory_failed, .injected = faults.injected};
    do {
        CHECK(turns++ < MAX_TURNS, "the engine does not become idle");
        unblock();
        turn();
        if (!python_take())
            return false;
    } while (waits_for_python() || !idle());
    check_settled_listeners();
    check_settled_joined();
    check_settled_pairs();
    check_slots();
    if (tainted)
        return true;
    for (int at = 0; at < connection_count; at++)
        if (!connections[at].final && !connections[at].silent)
            check_settled_connection(&connections[at]);
    for (int at = 0; at < channel_count; at++) {
        const struct far_channel *c = &channels[at];
        const struct far_connection *conn = &connections[c->connection];

        if (c->confirmed && !conn->final && !conn->illegal && !conn->silent)
            check_settled_channel(c);
    }
    return true;
}
