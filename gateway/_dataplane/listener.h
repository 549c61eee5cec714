/* Declares the types and functions for clients that the native engine accepts without Python. */
#ifndef GATEWAY_DATAPLANE_LISTENER_H
#define GATEWAY_DATAPLANE_LISTENER_H

#include <sys/socket.h>

#include "engine.h"

/* A network that clients are allowed to connect from. */
struct network {
    uint8_t size;   /* size of the address in bytes: 4 or 16 */
    uint8_t prefix; /* length of the prefix, in bits */
    uint8_t address[16];
};

/* A socket option (setsockopt(2)) that the native engine sets on each socket that it connects to a target. */
struct socket_option {
    int32_t level, name, value;
};

/* The rule of a listener. These parts follow the struct in memory:
 * - `connection_count` tokens of SSH connections
 * - `network_count` networks
 * - if the native engine opens channels: two parts of CHANNEL_OPEN (RFC 4254, section 5.1), namely the channel type,
 *   and everything after the field `maximum packet size`
 * - if the native engine dials the target: `option_count` socket options */
struct listener_setup {
    uint64_t permits; /* number of clients to accept until Python permits more */
    int32_t fd;       /* a listening TCP socket, non-blocking */
    uint32_t histogram; /* index of the histogram of response latencies */
    uint32_t open_histogram; /* index of the histogram of connect times; each time starts when the client is accepted */
    uint32_t min_window, window; /* initial receive window: `window` if `growth_available` suffices, else `min_window` */
    uint32_t max_packet;
    uint32_t full_load; /* number of channels at which an SSH connection counts as full */
    uint32_t connection_count, network_count; /* if `network_count` is 0, clients from every address are allowed */
    uint32_t type_size, rest_size;
    uint32_t tap; /* a value of enum tap */
    uint32_t min_responses; /* clients that receive fewer responses than this are reported to Python individually */
    uint32_t option_count;
    socklen_t address_size; /* 0: the native engine opens channels instead of dialing an address */
    struct sockaddr_storage address;
};

/* A listening socket and its rule. The fields of the listener's gauge have special meanings:
 * - `held`: whether Python has withdrawn the rule. Python sets this field, and then queues COMMAND_UNLISTEN.
 * - `to_backend`: the value of `accepted`
 * - `from_backend`: the value of `overflow_periods`
 * - `responses`: the value of `unreported` */
struct listener {
    struct source source; /* must be the first member: `struct source *` is cast to `struct listener *` */
    bool watched, stopped;
    int fd;
    uint32_t next_connection, pending;
    uint64_t permitted, token;
    uint64_t accepted; /* number of accepted clients, except those that `served` has counted; at most `permitted` */
    uint64_t permit_due; /* end of the wait for a permit, in monotonic nanoseconds; 0: the listener does not wait */
    bool permit_waited;  /* whether the most recent wait ended without a permit */
    uint64_t period_start;     /* when the last channel of the previous period was opened */
    uint64_t opened, overflow; /* number of channels opened since `period_start`: in total, and on full SSH connections */
    uint64_t overflow_periods; /* number of periods in which most new channels were opened on full SSH
                                  connections; see `count_opened` */
    uint64_t unreported; /* number of clients that are connected to the target, but not reported to Python yet */
    uint64_t served, served_resets, served_to_backend, served_from_backend; /* totals of the short connections since the
                                                                               last RECORD_SERVED; see served.c */
    struct engine *engine;
    struct gauge *gauge;
    struct listener *previous, *next;
    struct pending *first, *last; /* clients that are not connected to the target yet, oldest first */
    struct listener_setup *setup;
    const uint8_t *networks, *target; /* pointers into `setup`; `target` is the data after the networks */
};

/* An attempt to connect to a listener's target over TCP, and the client that waits for this connection. */
struct dial {
    struct source source; /* must be the first member: `struct source *` is cast to `struct dial *` */
    struct pending pending;
    struct engine *engine;
    int fd;
    bool watched;
};

/* listener.c: accepts clients. */
void listener_create(struct engine *, uint64_t token, const struct listener_setup *, size_t size);
void listener_stop(struct listener *);
void listener_permit(struct listener *, uint64_t count);
void listener_permit_returned(struct listener *);
void listener_watch(struct listener *);
void listener_event(struct listener *);

/* pending.c: manages the clients that are not connected to their target yet. */
void pending_add(struct listener *, struct pending *, struct source *owner, int fd);
int pending_remove(struct pending *);
void pending_joined(struct channel *);
void pending_failed(struct pending *, bool abandoned);
void pending_recall(struct engine *, const struct source *of);
void pending_stop_slow(struct engine *, uint64_t now);
void schedule_slow_scan(struct engine *, uint64_t due);
void listener_free(struct listener *);
void report_returned(const struct listener *, int fd, uint64_t waited, bool abandoned);

/* served.c: manages the clients that are connected to their target, but not reported to Python yet. */
void joined_add(struct joined *, struct listener *, uint64_t token, uint64_t connection, uint64_t accepted_at);
bool joined_end(struct engine *, struct joined *, enum close_reason, bool lingers, const struct gauge *);
void joined_report(struct engine *, uint64_t now);
void joined_report_all(struct listener *);
void joined_report_lost(struct engine *, uint64_t connection);

/* dial.c: connects to targets without SSH. */
bool dial_start(struct listener *, int client);
void dial_event(struct dial *);
void dial_close(struct dial *);

#endif
