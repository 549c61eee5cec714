/* What the files of the harness share. docs/testing.md describes the harness.
 *
 * The script is an input of the fuzzer. The harness plays the other three sides of the engine: the SSH server, the
 * clients, and Python. Everything is deterministic: there are no threads, no real sockets, and no real clock.
 */
#ifndef GATEWAY_FUZZ_HARNESS_H
#define GATEWAY_FUZZ_HARNESS_H

#include "engine.h"

#define FIRST_FD 1000
#define MAX_FILES 2048
#define MAX_WIRES 2
#define MAX_CHANNELS 192
#define MAX_PACKET 262208u /* of the server, with its overhead */
#define PEER_NUMBER 4096u /* the server's number of channel `n` of the harness is PEER_NUMBER + n */
#define UNLIMITED (1u << 30)

/* Print the reason and abort if `condition` is false. */
#define CHECK(condition, ...) ((condition) ? (void)0 : fail(__FILE__, __LINE__, __VA_ARGS__))
_Noreturn void fail(const char *file, int line, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Bytes of one direction of a relay. The byte at an offset is known, so every byte is compared. */
const uint8_t *pattern(uint32_t seed, uint64_t offset);
#define MAX_PATTERN (512u * 1024u)

/* The next fragment in a stream of ONC RPC messages. A zeroed struct is the start. */
struct rpc_view {
    uint64_t next;  /* its offset */
    bool continues; /* it continues a message */
};

struct rpc_message {
    uint64_t end; /* the offset after the header */
    uint32_t xid, type;
};

/* memory.c */
void memory_reset(void);
void memory_received(const void *end); /* lets the engine access the memory for received bytes up to `end` */

/* files.c */
enum file_kind {
    FILE_CLOSED, FILE_EPOLL, FILE_EVENT, FILE_TIMER, FILE_CLIENT, FILE_WIRE, FILE_LISTENER, FILE_DIAL, FILE_SIDE, FILE_PIPE
};

/* What happens when the engine dials. LOCAL and REFUSED: the second call of connect(2) returns the result. */
enum dial_plan { PLAN_LOCAL, PLAN_WAIT, PLAN_AT_ONCE, PLAN_UNREACHABLE, PLAN_REFUSED, PLAN_SELF, PLANS };

struct file {
    enum file_kind kind;
    int owner; /* the index of the channel, wire or listener, of a dial: of its listener; of a side: twice that of the pair, plus 1 for the backend;
                  of a pipe's end for writing: the other end */
    bool registered;
    uint32_t mask, reported; /* reported: what an edge-triggered registration has reported */
    void *data;
    uint64_t counter; /* of an eventfd; the expiration of a timer; the bytes in a pipe */
    /* sockets */
    bool is_unix, shut, resets; /* shut: after shutdown(2); resets: SO_LINGER makes close(2) send a reset */
    bool ended, closed, dead; /* the other end: has sent FIN; is closed, and resets on data; is closed on both sides */
    int error;                /* SO_ERROR */
    uint64_t available;       /* bytes that can be received; clients that can be accepted */
    uint64_t room;            /* bytes that can be sent */
    enum dial_plan plan;      /* of a dial */
    int options;              /* of a dial: the number of calls of setsockopt */
};

extern struct file files[MAX_FILES];
extern int file_count;
extern uint64_t fake_now;     /* CLOCK_MONOTONIC, in nanoseconds */
extern uint64_t waited_at;    /* when the engine last got all events */
extern uint32_t event_order;  /* the file whose event is reported first */
void files_reset(void);
int file_open(enum file_kind kind, int owner);
struct file *file_of(int fd); /* aborts if it is closed */
bool file_is_open(int fd);
int open_files(void);
uint32_t file_ready(const struct file *);

/* Faults, which the script causes. 0: no fault. Otherwise, the call with this number fails, counted from 1. */
struct faults {
    uint32_t allocation, epoll, interrupt, cipher, accept, pipe, splice, socket;
    bool injected; /* whether a call has failed that can end a connection */
    uint32_t acknowledged; /* milliseconds since the last acknowledgment, for TCP_INFO */
    bool in_turn;       /* allocations fail only in a turn: otherwise, Python gets an exception and retries */
    bool memory_failed; /* whether an allocation has failed */
};
extern struct faults faults;
bool fault(uint32_t *countdown);

/* ciphers.c */
extern const char *const cipher_names[4];
int cipher_of(uint8_t choice);
void fill_key(struct key_setup *, int cipher);

/* A channel, as the server, the client and Python see it. */
struct far_channel {
    int wire, fd; /* fd: -1 before the client is attached or accepted */
    uint64_t token; /* of the client of a listener: 0 before it is pending; Python knows it when `opened` is set */
    /* the client of a listener */
    int listener;     /* the index plus 1; 0: Python attaches the client */
    uint8_t address;  /* see `network_allows` */
    bool withdrawn;   /* accepted when Python had withdrawn the rule */
    uint32_t early_room; /* `room` of its socket when it is accepted */
    uint64_t accepted_at;
    /* Python */
    enum tap tap;
    bool opened, final, untapped;
    bool link_lost; /* aborted because Python closes the connection; without that, the channel may stay open */
    /* the server */
    bool known, confirmed, closed, ended; /* known: CHANNEL_OPEN has arrived. closed, ended: by the server. */
    bool engine_closed, engine_ended;
    uint32_t number, max_packet, unanswered;
    uint64_t receive_window, send_window; /* the server's own window, and that of the engine */
    uint64_t sent, arrived;               /* bytes of the server, and from the client */
    /* the client */
    bool failed; /* it is gone, or a reset was sent */
    enum { NOT_CLOSED, END_OF_STREAM, RESET } ended_by; /* how its socket was closed */
    uint64_t read; /* by the engine, when the socket was closed */
    uint64_t written, delivered, tapped_up, tapped_down;
    struct rpc_view rpc[2]; /* from the client, from the server: the messages after those that were reported */
    bool not_rpc;           /* bytes were reported that are not RPC */
};

struct far_wire {
    int fd;
    uint64_t token;
    /* Python */
    bool final, violated, exchanging, awaits_key;
    bool silent; /* Python sends no packets any more */
    uint64_t unaccepted;
    /* the server */
    struct cipher seal, open;
    uint32_t send_seq, recv_seq, max_packet;
    int open_cipher; /* the cipher that the engine uses after its next NEWKEYS; -1 before Python has sent NEWKEYS */
    bool between_keys, disconnected, keys_changed; /* keys_changed: Python has not answered NEWKEYS yet */
    int seal_cipher;
    bool illegal; /* whether the server has violated the protocol */
    uint8_t *input; /* bytes for the engine */
    size_t input_start, input_end;
    uint8_t *output; /* bytes of the engine that are not a complete packet yet */
    size_t output_size;
};

/* sockets.c: the bytes that a client sends, and those that the server sends. */
const uint8_t *data_up(const struct far_channel *, uint64_t offset);
const uint8_t *data_down(const struct far_channel *, uint64_t offset);
bool socket_failed(struct file *, bool receiving);
void socket_sent(struct file *);
void client_closed(const struct file *);
bool exact(const struct far_channel *); /* whether the server's bytes are known: it has sent nothing illegal */

/* rpc_data.c */
const uint8_t *rpc_pattern(uint32_t seed, uint64_t offset);
bool rpc_next(const uint8_t *stream, struct rpc_view *, struct rpc_message *);
void rpc_reported(struct far_channel *, const struct message_header *record);
void rpc_settled(const struct far_channel *, bool down, uint64_t passed);

extern struct engine *engine;
extern bool engine_runs; /* whether Python has not closed it */
extern struct far_wire wires[MAX_WIRES];
extern struct far_channel channels[MAX_CHANNELS];
extern int wire_count, channel_count;
extern bool tainted; /* whether the script has sent packets that the server of the harness does not understand */
extern bool strict;
extern uint64_t growth_budget;
#define WIRE_GROWTH 700000u
#define SLACK 64u /* bytes of a packet of the server that are not data */

/* peer.c: the SSH server. */
void peer_init(struct far_wire *, int cipher, uint32_t max_packet);
void peer_receive(struct far_wire *, const uint8_t *data, size_t size);
uint8_t *peer_reserve(const struct far_wire *, size_t size); /* the payload of the next packet; NULL: no room */
void peer_send(struct far_wire *, size_t size, uint8_t padding_blocks);
bool peer_send_raw(struct far_wire *, const uint8_t *data, size_t size);
void peer_new_key(struct far_wire *, int cipher);
void peer_forget(struct far_wire *);

/* python.c */
enum tap tap_of(uint8_t choice);
void python_command(enum command, uint64_t token, int64_t a, int64_t b, int64_t c);
void python_payload(enum command, uint64_t token, const void *payload, size_t size);
void python_wire(int cipher, uint32_t max_packet, uint64_t rekey_bytes);
void python_channel(struct far_wire *, uint32_t window, enum tap, uint8_t type_size);
void python_packet(struct far_wire *, uint8_t message, size_t size);
void python_new_seal_key(struct far_wire *, int cipher);
void python_key(struct far_wire *, enum command, int cipher);
bool python_take(void); /* returns false if the engine has failed */

/* invariants.c */
void check_engine(void); /* aborts if an invariant does not hold */

/* The kinds of steps: of the server, of clients, of Python, of the system, about listeners, and about pairs. */
#define STEPS(X) \
    X(CONFIRM) X(REFUSE) X(DATA) X(EXTENDED) X(ADJUST) X(EOF) X(CLOSE) X(REQUEST) X(OTHER) X(NEW_KEYS) X(RAW_PACKET) \
    X(RAW_STREAM) X(WIRE_ROOM) X(WIRE_END) \
    X(ATTACH) X(WRITE) X(END) X(ROOM) \
    X(OPEN) X(ABORT) X(UNTAP) X(CLOSE_HISTOGRAM) X(WIRE) X(PACKET) X(ACCEPT) X(ROUND_TRIP) X(EXCHANGE) X(OPEN_KEY) \
    X(WIRE_CLOSE) \
    X(FAIL) X(CLOCK) X(ORDER) \
    X(LISTEN) X(CONNECT) X(PERMIT) X(UNLISTEN) X(RECALL) \
    X(PAIR) X(SIDE_WRITE) X(SIDE_END) X(SIDE_ROOM) X(PAIR_ABORT) X(PAIR_UNTAP) \
    X(LISTEN_DIAL) X(DIAL)
#define STEP_ENUMERATOR(name) STEP_##name,
enum step_kind { STEPS(STEP_ENUMERATOR) STEP_KINDS };

/* A step of the script. */
struct step {
    uint8_t kind; /* enum step_kind */
    uint8_t which, a, b;
    const uint8_t *bytes; /* `a` bytes of the fuzzer, for STEP_RAW_PACKET and STEP_RAW_STREAM */
};

/* target.c: the format of scripts. */
#define HEAD_SIZE 4u
#define STEP_SIZE 4u /* bytes of a step, without the bytes that follow some steps */
#define MAX_STEPS 160
bool has_bytes(uint8_t kind);
size_t step_size(const uint8_t *step, const uint8_t *end); /* with the bytes that follow */

/* steps.c */
uint32_t size_of(uint8_t choice);
uint32_t data_size(uint8_t choice, uint64_t limit); /* like `size_of`; counts against the script's limit */
void steps_reset(void);
bool run_step(const struct step *);
void describe(const struct step *); /* prints the step */
void turn(void);
struct far_wire *chosen_wire(const struct step *);
struct far_channel *chosen_channel(const struct step *); /* NULL if there is none */

/* Each file runs the steps of one side. A function returns false if the step belongs to another file. */
bool server_step(const struct step *);
bool server_channel_step(const struct step *);
bool client_step(const struct step *);
bool python_step(const struct step *);
void accept_packets(struct far_wire *, uint64_t count);
void give_open_key(struct far_wire *);

/* settle.c */
bool settle(void);

#endif
