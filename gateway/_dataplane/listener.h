/* Clients that the engine accepts without Python. */
#ifndef GATEWAY_DATAPLANE_LISTENER_H
#define GATEWAY_DATAPLANE_LISTENER_H

#include <sys/socket.h>

#include "engine.h"

/* A network that clients are allowed to connect from. */
struct network {
    uint8_t size;   /* of the address, in bytes: 4 or 16 */
    uint8_t prefix; /* in bits */
    uint8_t address[16];
};

/* An option of a dialed socket, for setsockopt(2). */
struct socket_option {
    int32_t level, name, value;
};

/* The rule of a listener. After this struct follow the tokens of the wires and the networks. Then, if the clients are
 * joined to channels, follow the channel type, and the bytes after the maximum packet size in CHANNEL_OPEN (RFC 4254,
 * section 5.1); otherwise, the options of the dialed sockets. */
struct listener_setup {
    uint64_t permits; /* clients to accept until more are permitted */
    int32_t fd;       /* a listening TCP socket, non-blocking */
    uint32_t histogram; /* of response latencies */
    uint32_t open_histogram; /* of the times from accepting to joining a client */
    uint32_t min_window, window; /* initial receive window: `window` while the budgets for growth are large */
    uint32_t max_packet;
    uint32_t full_load; /* of a wire, in channels: the wire counts the channels that are opened beyond it */
    uint32_t min_responses; /* a client that got fewer responses is reported even if it ends soon */
    uint32_t wire_count, network_count; /* without networks, every address is allowed */
    uint32_t type_size, rest_size;
    uint32_t tap; /* see struct channel_setup */
    uint32_t option_count;
    socklen_t address_size; /* 0: the clients are joined to channels */
    struct sockaddr_storage address;
};

/* A listening socket and its rule. Python withdraws the rule by setting `held` of the gauge, then COMMAND_UNLISTEN.
 * `to_backend` of the gauge is `accepted`, `responses` is `unreported`. */
struct listener {
    struct source source; /* must be first */
    bool watched, stopped;
    int fd;
    uint32_t next_wire, pending;
    uint64_t permitted, token;
    uint64_t accepted; /* clients that have used a permit. A client that RECORD_SERVED reports gives its permit back. */
    uint64_t unreported; /* joined clients that Python does not know yet */
    uint64_t served, served_resets, served_to_backend, served_from_backend; /* since the last RECORD_SERVED */
    struct engine *engine;
    struct gauge *gauge;
    struct listener *previous, *next;
    struct pending *first, *last; /* oldest first */
    struct listener_setup *setup;
    const uint8_t *networks, *target; /* in the memory of `setup`; target: what follows the networks */
};

/* A connection to the target of a listener that is not established yet. */
struct dial {
    struct source source; /* must be first */
    struct pending pending;
    struct engine *engine;
    int fd;
    bool watched;
};

/* listener.c */
void listener_create(struct engine *, uint64_t token, const struct listener_setup *, size_t size);
void listener_stop(struct listener *);
void listener_permit(struct listener *, uint64_t count);
void listener_event(struct listener *);

/* pending.c: clients that are not joined yet. */
void pending_add(struct listener *, struct pending *, struct source *owner, int fd);
int pending_remove(struct pending *);
void pending_joined(struct channel *);
void pending_failed(struct pending *);
void pending_recall(struct engine *, const struct source *of);
void pending_stop_slow(struct engine *, uint64_t now);
void listener_watch(struct listener *);
void listener_free(struct listener *);
void report_returned(const struct listener *, int fd, uint64_t waited, bool abandoned);

/* served.c: joined clients, and those that have ended before Python knew them. */
void joined_add(struct joined *, struct listener *, uint64_t token, uint64_t wire, uint64_t accepted_at);
bool joined_end(struct engine *, struct joined *, enum close_reason, bool lingers, const struct gauge *);
void joined_report(struct engine *, uint64_t now);
void joined_report_all(struct listener *);
void joined_report_lost(struct engine *, uint64_t wire);

/* dial.c */
bool dial_start(struct listener *, int client);
void dial_event(struct dial *);
void dial_close(struct dial *);

#endif
