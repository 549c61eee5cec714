/* Declarations for all files of the harness, which fuzzes the native engine. docs/testing.md describes the harness.
 *
 * An input of the fuzzer is a script. The harness runs the script, and simulates what communicates with the engine:
 * the SSH server, the clients, and the gateway's Python code ("Python"). Everything is deterministic: there are no
 * threads, no real sockets, and no real clock.
 */
#ifndef GATEWAY_FUZZ_HARNESS_H
#define GATEWAY_FUZZ_HARNESS_H

#include "engine.h"

#define FIRST_FD 1000
#define MAX_FILES 2048
#define MAX_WIRES 2
#define MAX_CHANNELS 192
#define MAX_PACKET 262208u /* maximum length of a server's packet: 262144 bytes of data, plus headers and padding */
#define PEER_NUMBER 4096u /* the server's number of `channels[n]` is PEER_NUMBER + n */
#define UNLIMITED (1u << 30)

/* Print the reason and abort if `condition` is false. */
#define CHECK(condition, ...) ((condition) ? (void)0 : fail(__FILE__, __LINE__, __VA_ARGS__))
_Noreturn void fail(const char *file, int line, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* The bytes of one direction of a relay. They depend only on seed and offset, so the harness can check each byte. */
const uint8_t *pattern(uint32_t seed, uint64_t offset);
#define MAX_PATTERN (512u * 1024u)

/* A position in a stream of ONC RPC messages. A zeroed struct is the start of the stream. */
struct rpc_view {
    uint64_t next;  /* the offset of the next fragment */
    bool continues; /* whether the next fragment continues a message */
};

struct rpc_message {
    uint64_t end; /* the offset of the first byte after the message's header */
    uint32_t xid, type;
};

/* memory.c */
void memory_reset(void);
void memory_received(const void *end); /* lets the engine access received bytes up to `end` */

/* files.c */
enum file_kind {
    FILE_CLOSED, FILE_EPOLL, FILE_EVENT, FILE_TIMER, FILE_CLIENT, FILE_WIRE, FILE_LISTENER, FILE_DIAL, FILE_SIDE, FILE_PIPE
};

/* What happens when the engine dials. With PLAN_LOCAL, PLAN_REFUSED and PLAN_SELF, the first connect(2) returns
 * EINPROGRESS or EINTR, and the second connect(2) returns the result.
 */
enum dial_plan { PLAN_LOCAL, PLAN_WAIT, PLAN_AT_ONCE, PLAN_UNREACHABLE, PLAN_REFUSED, PLAN_SELF, PLANS };

struct file {
    enum file_kind kind;
    /* For a client, wire or listener: the index of the channel, wire or listener. For a dial: the listener's index.
     * For a side of a pair: twice the index of the pair, plus 1 for the backend's side. For the write end of a pipe:
     * the descriptor of the read end.
     */
    int owner;
    bool registered;
    uint32_t mask, reported; /* reported: the events at the last epoll_wait */
    void *data;
    uint64_t counter; /* an eventfd's counter, a timer's expiration, a pipe's bytes, or a dial's state */
    /* sockets */
    bool is_unix, shut, resets; /* shut: after shutdown(2); resets: close(2) sends a reset, because of SO_LINGER */
    /* ended: the other end has sent FIN. closed: the other end is closed, and answers data with a reset. dead: the
     * connection is closed in both directions.
     */
    bool ended, closed, dead;
    int error;                /* SO_ERROR */
    uint64_t available;       /* the bytes that can be received, or the clients that can be accepted */
    uint64_t room;            /* bytes that can be sent */
    enum dial_plan plan;      /* of a dial */
    int options;              /* the number of calls of setsockopt */
};

extern struct file files[MAX_FILES];
extern int file_count;
extern uint64_t fake_now;     /* CLOCK_MONOTONIC, in nanoseconds */
extern uint64_t waited_at;    /* when epoll_wait last returned all pending events */
extern uint32_t event_order;  /* the index of the file whose events are reported first */
void files_reset(void);
int file_open(enum file_kind kind, int owner);
struct file *file_of(int fd); /* aborts if `fd` is closed */
bool file_is_open(int fd);
int open_files(void);
uint32_t file_ready(const struct file *);

/* The faults that the script causes. If a number N is not 0, the Nth of the next calls fails. */
struct faults {
    uint32_t allocation, epoll, interrupt, cipher, accept, pipe, splice, socket;
    bool injected; /* whether a failed call can have ended a connection */
    uint32_t acknowledged; /* milliseconds since the last acknowledgment, for TCP_INFO */
    bool in_turn; /* allocations fail only in a turn; outside of a turn, Python would get an exception and retry */
    bool memory_failed; /* whether an allocation has failed */
};
extern struct faults faults;
bool fault(uint32_t *countdown);

/* ciphers.c */
extern const char *const cipher_names[4];
int cipher_of(uint8_t choice);
void fill_key(struct key_setup *, int cipher);

/* A channel from the view of the server, the client and Python. */
struct far_channel {
    int wire, fd; /* fd: the client's socket; -1 before the client is attached or accepted */
    uint64_t token; /* for a listener's client: 0 until pending_add; Python knows the token if `opened` is set */
    /* only for a listener's client */
    int listener;     /* the listener's index plus 1; 0: Python attaches the client, without a listener */
    uint8_t address;  /* see `network_allows` */
    bool withdrawn;   /* Python ran `withdraw` while the engine accepted the client */
    uint32_t early_room; /* the initial `room` of the client's socket */
    uint64_t accepted_at;
    /* Python */
    enum tap tap;
    bool opened, final, untapped;
    bool link_lost; /* Python aborted the channel with CLOSE_LINK_LOST, so the engine may leave the channel open */
    /* the server */
    bool known, confirmed, closed, ended; /* known: CHANNEL_OPEN arrived; closed, ended: by the server */
    bool engine_closed, engine_ended;
    uint32_t number, max_packet, unanswered;
    uint64_t receive_window, send_window; /* the bytes that the server may send; the bytes that the engine may send */
    uint64_t sent, arrived; /* the bytes that the server has sent; the client's bytes that the server has received */
    /* the client */
    bool failed; /* the connection is closed, reset or timed out, or the engine returned the client to Python */
    enum { NOT_CLOSED, END_OF_STREAM, RESET } ended_by; /* how the engine closed the client's socket */
    uint64_t read; /* the client's bytes that the engine had read when it closed the socket */
    uint64_t written, delivered, tapped_up, tapped_down;
    struct rpc_view rpc[2]; /* from the client, from the server: positions after the reported messages */
    bool not_rpc;           /* the engine reported that the bytes are not RPC */
};

struct far_wire {
    int fd;
    uint64_t token;
    /* Python */
    bool final, violated, exchanging, awaits_key;
    bool silent; /* Python sends no more packets */
    uint64_t unaccepted;
    /* the server */
    struct cipher seal, open;
    uint32_t send_seq, recv_seq, max_packet;
    int open_cipher; /* the engine's cipher after the NEWKEYS that Python has sent; -1: no NEWKEYS is on the way */
    bool between_keys, disconnected, keys_changed; /* keys_changed: Python must handle the server's NEWKEYS */
    int seal_cipher;
    bool illegal; /* whether the server has violated the protocol */
    uint8_t *input; /* bytes from the server to the engine */
    size_t input_start, input_end;
    uint8_t *output; /* bytes from the engine: a packet that is not complete yet */
    size_t output_size;
};

/* sockets.c: `data_up` returns the bytes that a client sends, and `data_down` those that the server sends. */
const uint8_t *data_up(const struct far_channel *, uint64_t offset);
const uint8_t *data_down(const struct far_channel *, uint64_t offset);
bool socket_failed(struct file *, bool receiving);
void socket_sent(struct file *);
void client_closed(const struct file *);
bool exact(const struct far_channel *); /* whether the server has sent no illegal packets, so its data is known */

/* rpc_data.c */
const uint8_t *rpc_pattern(uint32_t seed, uint64_t offset);
bool rpc_next(const uint8_t *stream, struct rpc_view *, struct rpc_message *);
void rpc_reported(struct far_channel *, const struct message_header *record);
void rpc_settled(const struct far_channel *, bool down, uint64_t passed);

extern struct engine *engine;
extern bool engine_runs; /* false after Python has closed the engine */
extern struct far_wire wires[MAX_WIRES];
extern struct far_channel channels[MAX_CHANNELS];
extern int wire_count, channel_count;
extern bool tainted; /* whether the script has sent raw bytes, whose effect the harness does not know */
extern bool strict;
extern uint64_t growth_budget;
#define WIRE_GROWTH 700000u
#define SLACK 64u /* the bytes in a packet that the server leaves for headers and padding */

/* peer.c: the SSH server. */
void peer_init(struct far_wire *, int cipher, uint32_t max_packet);
void peer_receive(struct far_wire *, const uint8_t *data, size_t size);
uint8_t *peer_reserve(const struct far_wire *, size_t size); /* where to write the payload; NULL: no room */
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

/* The kinds of steps: actions of the SSH server, the clients, Python and the simulated kernel, and actions that
 * concern listeners and pairs.
 */
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
    const uint8_t *bytes; /* `a` bytes to send, for STEP_RAW_PACKET and STEP_RAW_STREAM */
};

/* target.c: the format of scripts. */
#define HEAD_SIZE 4u
#define STEP_SIZE 4u /* the size of a step, without the additional bytes of some steps */
#define MAX_STEPS 160
bool has_bytes(uint8_t kind);
size_t step_size(const uint8_t *step, const uint8_t *end); /* includes the additional bytes */

/* steps.c */
uint32_t size_of(uint8_t choice);
uint32_t data_size(uint8_t choice, uint64_t limit); /* like `size_of`, but at most `limit`, and within MAX_TOTAL */
void steps_reset(void);
bool run_step(const struct step *);
void describe(const struct step *); /* prints the step */
void turn(void);
struct far_wire *chosen_wire(const struct step *);
struct far_channel *chosen_channel(const struct step *); /* NULL if there is no channel */

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
