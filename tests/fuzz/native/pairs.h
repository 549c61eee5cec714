/* Pairs: a pair is a client's socket and a backend's socket, between which the engine relays. */
#ifndef GATEWAY_FUZZ_PAIRS_H
#define GATEWAY_FUZZ_PAIRS_H

#include "harness.h"
#include "pair.h"

#define MAX_PAIRS (MAX_STEPS + MAX_CHANNELS)

/* One end of a pair, and the direction from this end to the other end. */
struct far_side {
    int fd; /* the engine's socket */
    bool fin;    /* this end has sent a FIN, and no reset before the FIN */
    bool failed; /* the connection is reset, closed or timed out, so data for this end can be lost */
    uint64_t written, tapped;
    uint64_t passed; /* the bytes from this end that the other socket has accepted */
};

struct far_pair {
    uint64_t token;
    enum tap tap;
    bool final, untapped, aborted;
    int listener;   /* the index of the listener that created the pair, plus 1; 0: Python created the pair */
    bool announced; /* whether the engine has reported the listener's pair to Python */
    uint64_t accepted_at;
    struct far_side sides[2]; /* the client's, the backend's */
};

extern struct far_pair pairs[MAX_PAIRS];
extern int pair_count;

/* pairs.c */
void pairs_reset(void);
struct far_pair *pair_of(const struct file *, bool *is_backend);
const uint8_t *pair_data(const struct far_pair *, bool from_backend, uint64_t offset);
bool pair_record(const struct message_header *, const uint8_t *payload); /* false: not of a pair */
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
