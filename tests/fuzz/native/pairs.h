/* Declarations of the simulated pairs. A pair is two sockets, of a client and a backend, between which the engine
 * copies bytes.
 */
#ifndef GATEWAY_FUZZ_PAIRS_H
#define GATEWAY_FUZZ_PAIRS_H

#include "harness.h"
#include "pair.h"

#define MAX_PAIRS (MAX_STEPS + MAX_CHANNELS)

/* One end of a pair, and the bytes that this end sends to the other end. */
struct far_side {
    int fd;   /* the engine's socket for this end */
    bool fin; /* whether this end has sent a FIN, without an earlier reset */
    /* Whether this end's connection is reset, closed or timed out. Data for this end can then be lost. */
    bool failed;
    uint64_t written, tapped;
    uint64_t passed; /* the number of this end's bytes that the engine has sent to the other end */
};

struct far_pair {
    uint64_t token;
    enum tap tap;
    bool final, untapped, aborted;
    int listener;   /* the index of the listener that created the pair, plus 1; or 0 if Python created the pair */
    bool announced; /* whether the engine has reported a listener's pair to Python */
    uint64_t accepted_at;
    struct far_side sides[2]; /* the client's end, and the backend's end */
};

extern struct far_pair pairs[MAX_PAIRS];
extern int pair_count;

/* pairs.c */
void pairs_reset(void);
struct far_pair *pair_of(const struct file *, bool *is_backend);
const uint8_t *pair_data(const struct far_pair *, bool from_backend, uint64_t offset);
bool pair_record(const struct message_header *, const uint8_t *payload); /* returns false for other records */
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
