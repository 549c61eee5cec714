/* The listeners of the harness, and the clients that connect to them. */
#ifndef GATEWAY_FUZZ_LISTENERS_H
#define GATEWAY_FUZZ_LISTENERS_H

#include "harness.h"
#include "listener.h"

#define MAX_LISTENERS 3
#define TARGET_PORT 5432
#define DIAL_OPTIONS 2 /* options of dialed sockets */
#define LISTENER_INDEX 0x10000u /* follows CHANNEL_OPEN instead of the index of a channel; plus the listener's index */

#define OPEN_HISTOGRAM 16u /* plus the listener's index */

/* What RECORD_SERVED reports. */
struct far_sum {
    uint64_t clients, resets, up, down;
};

/* A listener, as Python and the clients see it. */
struct far_listener {
    int fd;
    uint64_t token, permits, accepted, joined, returned;
    struct far_sum served, reported; /* clients that have ended without another record; those that Python knows */
    uint64_t open_time, observed, observed_time; /* in nanoseconds; the last two: in the records of the histogram */
    uint64_t closed_at;
    uint8_t networks; /* the index of a set of networks */
    enum tap tap;
    uint32_t min_responses;
    bool dials, dials_six; /* whether it connects to a target, with an IPv6 address, instead of opening channels */
    enum dial_plan plan;   /* of the next dials */
    uint32_t dial_room;    /* `room` of their sockets */
    bool dial_failed;
    bool withdrawn, unlisten_sent; /* by Python; `withdrawn`: before the command */
    bool withdraws;                /* Python withdraws the rule while the engine accepts the next client */
    bool recalled, accept_failed, stopped, final;
    uint32_t min_window, window;
};

extern struct far_listener listeners[MAX_LISTENERS];
extern int listener_count;

/* listeners.c */
void listeners_reset(void);
void listeners_unblock(void); /* completes what Python has begun */
void check_settled_listeners(void);
struct far_channel *accepted_client(void); /* the last one */
uint32_t opened_for_client(const struct far_wire *, uint32_t index, uint32_t number, uint32_t window);
bool listener_record(const struct message_header *); /* returns false if the record is of another object */

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
