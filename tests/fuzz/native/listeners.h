/* The listeners of the harness, and the clients that connect to them. */
#ifndef GATEWAY_FUZZ_LISTENERS_H
#define GATEWAY_FUZZ_LISTENERS_H

#include "harness.h"
#include "listener.h"

#define MAX_LISTENERS 3
#define TARGET_PORT 5432
#define DIAL_OPTIONS 2 /* the number of options of a dialed socket */
/* A CHANNEL_OPEN for a client of a listener ends with this number plus the listener's index. Each other CHANNEL_OPEN
 * ends with the channel's index.
 */
#define LISTENER_INDEX 0x10000u

#define OPEN_HISTOGRAM 16u /* the number of a listener's histogram is OPEN_HISTOGRAM plus the listener's index */

/* The totals that RECORD_SERVED reports. */
struct far_sum {
    uint64_t clients, resets, up, down;
};

/* A listener from the view of Python and the clients. */
struct far_listener {
    int fd;
    uint64_t token, permits, accepted, joined, returned;
    /* served: totals of clients that ended without a separate record. reported: the totals that Python received. */
    struct far_sum served, reported;
    /* open_time: the nanoseconds from accepting to joining, of all joined clients. observed, observed_time: the number
     * of clients, and their nanoseconds, in the histogram's records.
     */
    uint64_t open_time, observed, observed_time;
    uint64_t closed_at;
    uint8_t networks; /* the set of permitted networks, see `network_allows` */
    enum tap tap;
    uint32_t min_responses;
    bool dials, dials_six; /* dials: connects to a target, instead of opening channels; dials_six: over IPv6 */
    enum dial_plan plan;   /* for the next dials */
    uint32_t dial_room;    /* `room` of the dialed sockets */
    bool dial_failed;
    bool withdrawn, unlisten_sent; /* withdrawn: see `withdraw`; unlisten_sent: Python has sent COMMAND_UNLISTEN */
    bool withdraws;                /* Python will run `withdraw` while the engine accepts the next client */
    bool recalled, accept_failed, stopped, final;
    uint32_t min_window, window;
};

extern struct far_listener listeners[MAX_LISTENERS];
extern int listener_count;

/* listeners.c */
void listeners_reset(void);
void listeners_unblock(void); /* sends COMMAND_UNLISTEN for the withdrawn listeners */
void check_settled_listeners(void);
struct far_channel *accepted_client(void); /* returns the client that was accepted last */
uint32_t opened_for_client(const struct far_wire *, uint32_t index, uint32_t number, uint32_t window);
bool listener_record(const struct message_header *); /* returns false if the record is not of a listener */

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
