/* Declarations of the simulated listeners and their clients. */
#ifndef GATEWAY_FUZZ_LISTENERS_H
#define GATEWAY_FUZZ_LISTENERS_H

#include "harness.h"
#include "listener.h"

#define MAX_LISTENERS 3
#define TARGET_PORT 5432
#define DIAL_OPTIONS 2 /* the number of options that the engine sets on a socket before it connects to a target */
/* The last four bytes of CHANNEL_OPEN are a number. For a client of a listener, this number is LISTENER_INDEX plus
 * the listener's index. Otherwise, this number is the channel's index.
 */
#define LISTENER_INDEX 0x10000u

#define OPEN_HISTOGRAM 16u /* the number of the first listener's histogram; the second listener has the next number */

/* Totals of ended clients, as in RECORD_SERVED. */
struct far_sum {
    uint64_t clients, resets, up, down;
};

/* What the harness knows about one listener. */
struct far_listener {
    int fd;
    uint64_t token, permits, accepted, joined, returned;
    /* served: the totals of the clients that ended without a separate record. reported: the totals that Python has
     * received.
     */
    struct far_sum served, reported;
    /* open_time: the sum of the times, in nanoseconds, that the clients waited for their target. observed,
     * observed_time: the number of clients and the sum of their times in the histogram records that Python has
     * received.
     */
    uint64_t open_time, observed, observed_time;
    uint64_t closed_at;
    uint8_t networks; /* the number of the set of permitted networks (see `network_allows`) */
    enum tap tap;
    uint32_t min_responses;
    /* dials: whether the engine connects to the target directly, instead of opening SSH channels. dials_six: whether
     * the target has an IPv6 address.
     */
    bool dials, dials_six;
    enum dial_plan plan; /* the result of the next connections to the target */
    uint32_t dial_room;  /* the `room` of the backend's socket when a pair is created */
    bool dial_failed;
    /* withdrawn: whether `withdraw` was called. unlisten_sent: whether Python has sent COMMAND_UNLISTEN. */
    bool withdrawn, unlisten_sent;
    bool withdraws; /* whether `withdraw` is called while the engine accepts the next client */
    bool recalled, accept_failed, stopped, final;
    uint32_t min_window, window;
};

extern struct far_listener listeners[MAX_LISTENERS];
extern int listener_count;

/* listeners.c */
void listeners_reset(void);
/* Set `dial_room` to UNLIMITED, and send COMMAND_UNLISTEN for each listener for which `withdraw` was called. */
void listeners_unblock(void);
void check_settled_listeners(void);
struct far_channel *accepted_client(void); /* returns the client that the engine accepted last */
uint32_t opened_for_client(const struct far_connection *, uint32_t index, uint32_t number, uint32_t window);
bool listener_record(const struct message_header *); /* returns false if the record does not belong to a listener */

/* dials.c */
socklen_t dial_target(const struct far_listener *, struct sockaddr_storage *to);
void dial_ends(struct file *, int error);
bool dial_is_connecting(const struct file *);
bool dial_joined(int listener, const struct message_header *);

/* joined.c */
void joined_reset(void);
void client_reported(const struct far_listener *, const struct message_header *);
void served_reported(struct far_listener *, const struct message_header *);
bool served_is_reported(const struct far_listener *);
void open_times_reported(const struct message_header *, const uint8_t *payload);
void check_settled_joined(void);
void check_joined(void);

/* listener_steps.c */
bool network_allows(uint8_t set, uint8_t address);
void withdraw(struct far_listener *);
bool listener_step(const struct step *);

/* listener_invariants.c */
void check_listeners(void);

#endif
