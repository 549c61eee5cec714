/* Checks how the engine reports clients to Python after a listener has connected them to their target ("joined"). The
 * engine must report each client once: in a separate record, or, for short connections, in a record with the totals
 * of several clients.
 */
#include "listeners.h"
#include "pairs.h"

#define SOON (SECOND / 20) /* the same value as in served.c */

/* A client that the engine has connected to its target, at the time `at`. */
struct far_joined {
    struct far_listener *listener;
    struct far_channel *channel; /* or NULL */
    struct far_pair *pair;       /* or NULL */
    uint64_t token, at;
    bool reported, ended, served;
};

static struct far_joined clients[MAX_CHANNELS];
static int client_count;

void __real_joined_add(struct joined *, struct listener *, uint64_t token, uint64_t connection, uint64_t accepted_at);
void __wrap_joined_add(struct joined *, struct listener *, uint64_t token, uint64_t connection, uint64_t accepted_at);
bool __real_joined_end(struct engine *, struct joined *, enum close_reason, bool lingers, const struct gauge *);
bool __wrap_joined_end(struct engine *, struct joined *, enum close_reason, bool lingers, const struct gauge *);

void joined_reset(void)
{
    memset(clients, 0, sizeof clients);
    client_count = 0;
}

static struct far_joined *find(uint64_t token)
{
    for (int at = 0; at < client_count; at++)
        if (clients[at].token == token)
            return &clients[at];
    return NULL;
}

/* The linker option `--wrap` makes the engine call this function instead of joined_add. */
void __wrap_joined_add(struct joined *j, struct listener *l, uint64_t token, uint64_t connection, uint64_t accepted_at)
{
    struct far_joined *client = &clients[client_count++];
    uint64_t accepted = 0;

    CHECK(client_count <= MAX_CHANNELS && !find(token), "a client is joined twice");
    *client = (struct far_joined){.token = token};
    for (int at = 0; at < pair_count && !connection; at++)
        if (pairs[at].token == token && pairs[at].listener) {
            client->pair = &pairs[at];
            client->listener = &listeners[pairs[at].listener - 1];
            accepted = pairs[at].accepted_at;
        }
    for (int at = 0; at < channel_count && connection; at++)
        if (channels[at].token == token && channels[at].listener) {
            client->channel = &channels[at];
            client->listener = &listeners[channels[at].listener - 1];
            accepted = channels[at].accepted_at;
        }
    CHECK(client->listener && client->listener->token == l->token, "a client of another listener is joined");
    CHECK(accepted_at == accepted, "a wrong time of acceptance");
    __real_joined_add(j, l, token, connection, accepted_at);
    CHECK((j->listener == NULL) == (l->stopped || l->setup->tap), "whether a client is reported at once is wrong");
    client->at = j->at;
    client->listener->open_time += j->at - accepted_at;
}

/* Check that a client has received all data or a reset. The engine reports this client only as part of totals. */
static void check_served_channel(const struct far_channel *c, enum close_reason reason, const struct gauge *gauge)
{
    uint64_t up = atomic_load(&gauge->to_backend), down = atomic_load(&gauge->from_backend);

    CHECK(!file_is_open(c->fd), "the client's socket is not closed");
    CHECK(up == c->read && (down == c->delivered || (c->failed && down <= c->delivered)),
          "the bytes of a client are counted wrong");
    if (reason == CLOSE_CLIENT_RESET) {
        CHECK(c->failed || faults.injected, "a client is reset without a reason");
        CHECK(c->ended_by != END_OF_STREAM || !exact(c) || c->delivered == c->sent, "an incomplete stream is ended");
        return;
    }
    CHECK(c->ended_by == END_OF_STREAM, "a client whose stream is complete is reset");
    CHECK(!exact(c) || (c->ended && c->delivered == c->sent), "the end was delivered before the data");
    CHECK(c->failed || c->read == c->written, "bytes of the client are not read");
}

static void check_served_pair(const struct far_pair *p, enum close_reason reason, const struct gauge *gauge)
{
    uint64_t counted[2] = {atomic_load(&gauge->to_backend), atomic_load(&gauge->from_backend)};
    bool failed = p->sides[0].failed || p->sides[1].failed;

    CHECK(!file_is_open(p->sides[0].fd) && !file_is_open(p->sides[1].fd), "a socket is not closed");
    CHECK(reason == CLOSE_FINISHED || p->sides[0].failed || faults.injected, "a client is reset without a reason");
    for (int at = 0; at < 2; at++)
        CHECK(counted[at] == p->sides[at].passed ||
                  (failed && counted[at] > p->sides[at].passed && counted[at] <= p->sides[at].written),
              "the bytes of a client are counted wrong");
}

/* The linker option `--wrap` makes the engine call this function instead of joined_end. */
bool __wrap_joined_end(struct engine *e, struct joined *j, enum close_reason reason, bool lingers,
                       const struct gauge *gauge)
{
    bool unreported = j->listener != NULL, soon = reason == CLOSE_FINISHED || reason == CLOSE_CLIENT_RESET, served;
    struct far_joined *client = unreported ? find(j->token) : NULL;

    CHECK(!unreported || (client && !client->ended && !client->reported), "a client ends twice");
    served = __real_joined_end(e, j, reason, lingers, gauge);
    soon = soon && client && atomic_load(&gauge->responses) >= client->listener->min_responses;
    CHECK(served == (unreported && soon && !lingers), "whether the end of a client is reported is wrong");
    CHECK(!j->listener, "a client that has ended is still to be reported");
    if (client)
        client->ended = true;
    if (!served)
        return false;
    client->served = true;
    client->listener->served.clients++;
    client->listener->served.resets += reason == CLOSE_CLIENT_RESET;
    client->listener->served.up += atomic_load(&gauge->to_backend);
    client->listener->served.down += atomic_load(&gauge->from_backend);
    if (client->pair) {
        check_served_pair(client->pair, reason, gauge);
        client->pair->final = true;
    } else {
        check_served_channel(client->channel, reason, gauge);
        client->channel->final = true;
    }
    return true;
}

/* Handle RECORD_JOINED. */
void client_reported(const struct far_listener *l, const struct message_header *h)
{
    struct far_joined *client = find((uint64_t)h->a);
    bool lost = client && client->channel && !file_is_open(connections[client->channel->connection].fd);

    CHECK(client && client->listener == l && !client->served && !client->reported, "a wrong client is reported");
    CHECK(!h->c && !h->d, "wrong arguments");
    CHECK(l->tap || client->ended || lost || !file_is_open(l->fd) || fake_now >= client->at + SOON,
          "an early report");
    CHECK(!l->stopped || client->at > l->closed_at, "a client is reported after the listener has stopped");
    client->reported = true;
}

/* Handle RECORD_SERVED. */
void served_reported(struct far_listener *l, const struct message_header *h)
{
    CHECK(!l->stopped && h->a > 0 && h->b >= 0 && h->c >= 0 && h->d >= 0, "a wrong sum of clients");
    l->reported.clients += (uint64_t)h->a;
    l->reported.resets += (uint64_t)h->b;
    l->reported.up += (uint64_t)h->c;
    l->reported.down += (uint64_t)h->d;
}

/* Return whether the reported totals include all clients that have ended without a separate record. */
bool served_is_reported(const struct far_listener *l)
{
    return memcmp(&l->served, &l->reported, sizeof l->served) == 0;
}

/* Handle RECORD_HISTOGRAM. */
void open_times_reported(const struct message_header *h, const uint8_t *payload)
{
    int64_t index = h->a - OPEN_HISTOGRAM;
    struct far_listener *l = index >= 0 && index < listener_count ? &listeners[index] : NULL;
    uint64_t count;

    CHECK(h->payload == (engine->bound_count + 1) * sizeof count, "a histogram of %u bytes", h->payload);
    if (!l)
        return;
    for (size_t at = 0; at < h->payload; at += sizeof count) {
        memcpy(&count, payload + at, sizeof count);
        l->observed += count;
    }
    l->observed_time += (uint64_t)h->c;
}

/* Check that the engine has reported each client once, and has measured once how long each client waited for its
 * target. Call this function after Python has taken all records.
 */
void check_settled_joined(void)
{
    CHECK(!engine->joined_first, "clients are not reported");
    for (int at = 0; at < listener_count; at++) {
        const struct far_listener *l = &listeners[at];
        const struct histogram *h = OPEN_HISTOGRAM + (uint32_t)at < engine->histogram_count
                                        ? &engine->histograms[OPEN_HISTOGRAM + at] : NULL;
        uint64_t observed = l->observed;

        for (uint32_t bucket = 0; h && bucket <= engine->bound_count; bucket++)
            observed += h->counts[bucket];
        CHECK(observed == l->joined + l->reported.clients, "%llu clients are observed", (unsigned long long)observed);
        CHECK(l->observed_time + (h ? h->sum : 0) == l->open_time, "wrong times until clients are joined");
        CHECK(served_is_reported(l), "a wrong sum of clients");
    }
    for (int at = 0; at < client_count; at++)
        CHECK(clients[at].reported != clients[at].served, "a client is not reported");
}

/* Check the engine's list of the clients that the engine has not reported to Python yet. */
void check_joined(void)
{
    const struct joined *last = NULL;

    for (const struct joined *j = engine->joined_first; j; j = j->next) {
        const struct far_joined *client = find(j->token);
        const struct gauge *gauge = slot_find(engine, j->token);

        CHECK(j->previous == last && (!last || last->at <= j->at), "the list of clients is inconsistent");
        CHECK(client && !client->ended && !client->reported && client->at == j->at, "a client in a wrong state");
        CHECK(gauge && gauge->object && j == (client->pair ? &((const struct pair *)gauge->object)->joined
                                                           : &((const struct channel *)gauge->object)->joined),
              "a client that has ended");
        CHECK(!j->listener->stopped && !j->listener->setup->tap && j->listener->token == client->listener->token,
              "a client of a wrong listener");
        CHECK(j->at + SOON > waited_at, "a client is not reported");
        last = j;
    }
    CHECK(engine->joined_last == last, "the list of clients is inconsistent");
    CHECK(!engine->joined_first || (engine->report_due && engine->report_due <= engine->joined_first->at + SOON),
          "no report is due");
    for (const struct listener *l = engine->listeners; l; l = l->next) {
        uint64_t count = 0;

        for (const struct joined *j = engine->joined_first; j; j = j->next)
            count += j->listener == l;
        CHECK(l->unreported == count && atomic_load(&l->gauge->responses) == count, "%llu clients are not reported",
              (unsigned long long)count);
        CHECK(!l->served || (engine->report_due && !l->stopped), "no report of a sum is due");
    }
}
