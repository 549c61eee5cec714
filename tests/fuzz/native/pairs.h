/* The pairs of the harness: a client's socket and a backend's socket, between which the engine relays. */
#ifndef GATEWAY_FUZZ_PAIRS_H
#define GATEWAY_FUZZ_PAIRS_H

#include "harness.h"
#include "pair.h"

#define MAX_PAIRS (MAX_STEPS + MAX_CHANNELS)

/* One end, and the direction from it to the other end. */
struct far_side {
    int fd; /* of the engine's socket */
    bool fin;    /* the peer has ended its stream, and the FIN has arrived before any reset */
    bool failed; /* the peer has reset or closed the connection, so data for it can be lost */
    uint64_t written, tapped;
    uint64_t passed; /* bytes that the other socket has accepted */
};

struct far_pair {
    uint64_t token;
    enum tap tap;
    bool final, untapped, aborted;
    int listener;   /* that has created it: the index plus 1; 0: Python */
    bool announced; /* to Python, by a listener */
    uint64_t accepted_at;
    struct far_side sides[2]; /* of the client, of the backend */
};

extern struct far_pair pairs[MAX_PAIRS];
extern int pair_count;

/* pairs.c */
void pairs_reset(void);
struct far_pair *pair_of(const struct file *, bool *is_backend);
const uint8_t *pair_data(const struct far_pair *, bool from_backend, uint64_t offset);
bool pair_record(const struct message_header *, const uint8_t *payload); /* false if the record is of another object */
void pair_passed(const struct file *to, const uint8_t *data, size_t size);
void pair_shut(const struct file *to);
void pair_closed(const struct file *);
struct tcp_info;
void pair_info(const struct file *, struct tcp_info *);
void check_settled_pairs(void);

/* pair_steps.c */
bool pair_step(const struct step *);

/* pair_invariants.c */
void check_pairs(void);

#endif
