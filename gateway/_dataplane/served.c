/* Manages the clients that a listener has accepted and connected to the target.
 *
 * If the connection of a client is short, the native engine does not report this client to Python individually. Instead, each
 * listener counts the short connections and sums up their bytes, and the native engine reports these sums with RECORD_SERVED.
 * Almost no Python code therefore runs for a short connection.
 */
#include "listener.h"

#define SOON (SECOND / 20) /* a client that stays connected for longer than this time is reported to Python individually */

static void count_unreported(struct listener *l, int change)
{
    l->unreported += (uint64_t)change;
    gauge_set(&l->gauge->responses, l->unreported);
}

static void remove_joined(struct engine *e, struct joined *j)
{
    count_unreported(j->listener, -1);
    if (j->previous)
        j->previous->next = j->next;
    else
        e->joined_first = j->next;
    if (j->next)
        j->next->previous = j->previous;
    else
        e->joined_last = j->previous;
    j->listener = NULL;
}

/* Report a connected client to Python. If the client has no tap, use a deferred record, which saves wakeups. */
static void report_joined(const struct listener *l, const struct joined *j)
{
    const int64_t arguments[4] = {(int64_t)j->token, (int64_t)j->connection, 0, 0};

    if (l->setup->tap)
        emit(l->engine, RECORD_JOINED, l->token, arguments, NULL, 0);
    else
        emit_deferred(l->engine, RECORD_JOINED, l->token, arguments);
}

static void report_client(struct engine *e, struct joined *j)
{
    const struct listener *l = j->listener;

    remove_joined(e, j);
    report_joined(l, j);
}

/* If a listener has served short connections, emit RECORD_SERVED with their sums, and reset the sums. */
static void report_served(struct listener *l)
{
    const int64_t arguments[4] = {(int64_t)l->served, (int64_t)l->served_resets, (int64_t)l->served_to_backend,
                                  (int64_t)l->served_from_backend};

    if (l->served)
        emit_deferred(l->engine, RECORD_SERVED, l->token, arguments);
    l->served = l->served_resets = l->served_to_backend = l->served_from_backend = 0;
}

/* Record that a client of a listener is now connected to the listener's target.
 *
 * Args: token: the token of the channel or pair; connection: the token of its SSH connection, or 0.
 */
void joined_add(struct joined *j, struct listener *l, uint64_t token, uint64_t connection, uint64_t accepted_at)
{
    struct engine *e = l->engine;

    *j = (struct joined){.token = token, .connection = connection, .at = clock_ns(), .previous = e->joined_last};
    histogram_add(e, l->setup->open_histogram, j->at - accepted_at);
    if (l->stopped || l->setup->tap) {
        report_joined(l, j);
        return;
    }
    j->listener = l;
    count_unreported(l, 1);
    if (e->joined_last)
        e->joined_last->next = j;
    else
        e->joined_first = j;
    e->joined_last = j;
    schedule_report(e, j->at + SOON);
}

/* Handle the end of a client's connection. Return whether the connection was added to the sums of its listener.
 *
 * If the client was already reported to Python, do nothing. If the client was not reported, but Python must handle the end of
 * its connection, report the client. In both cases, the caller must then report the end of the connection to Python.
 *
 * Args: lingers: whether Python gets a socket that it must close later. gauge: the counters of the channel or pair.
 */
bool joined_end(struct engine *e, struct joined *j, enum close_reason reason, bool lingers, const struct gauge *gauge)
{
    struct listener *l = j->listener;

    if (!l)
        return false;
    if (lingers || (reason != CLOSE_FINISHED && reason != CLOSE_CLIENT_RESET) ||
        atomic_load_explicit(&gauge->responses, memory_order_relaxed) < l->setup->min_responses) {
        report_client(e, j);
        return false;
    }
    remove_joined(e, j);
    /* Add the client to the sums of the listener. `joined_add` has already scheduled the report of these sums. */
    l->served++;
    l->served_resets += reason == CLOSE_CLIENT_RESET;
    l->served_to_backend += atomic_load_explicit(&gauge->to_backend, memory_order_relaxed);
    l->served_from_backend += atomic_load_explicit(&gauge->from_backend, memory_order_relaxed);
    atomic_store(&l->gauge->to_backend, --l->accepted);
    listener_permit_returned(l);
    return true;
}

/* Report to Python the clients that have been connected for at least SOON nanoseconds, and the sums of all listeners. */
void joined_report(struct engine *e, uint64_t now)
{
    struct joined *next;

    for (struct joined *j = e->joined_first; j && j->at + SOON <= now; j = next) {
        next = j->next;
        report_client(e, j);
    }
    for (struct listener *l = e->listeners; l; l = l->next)
        report_served(l);
    e->report_due = e->joined_first ? e->joined_first->at + SOON : 0;
}

/* Report to Python all unreported clients of a listener or an SSH connection. Must be called before RECORD_STOPPED or
 * RECORD_LOST is emitted.
 *
 * Args: of: the listener, or NULL; connection: the token of the SSH connection if `of` is NULL.
 */
static void report_clients(struct engine *e, const struct listener *of, uint64_t connection)
{
    struct joined *next;

    for (struct joined *j = e->joined_first; j; j = next) {
        next = j->next;
        if (of ? j->listener == of : j->connection == connection)
            report_client(e, j);
    }
}

/* Report a stopped listener's sums and unreported clients to Python. */
void joined_report_all(struct listener *l)
{
    report_served(l);
    report_clients(l->engine, l, 0);
}

/* Report the unreported clients of a lost SSH connection to Python. The backend has already ended its stream to these clients,
 * and the native engine still sends them the last bytes. */
void joined_report_lost(struct engine *e, uint64_t connection)
{
    report_clients(e, NULL, connection);
}
