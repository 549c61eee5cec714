/* Declarations of the harness: the simulated environment in which the fuzzer runs the native engine. docs/testing.md
 * describes the fuzzer.
 *
 * An input of the fuzzer is a script, which consists of steps. The harness runs the steps, and simulates everything
 * with which the engine communicates: the SSH server ("peer"), the clients, and the gateway's Python code ("Python").
 * A "connection" is an SSH connection. A "turn" is one iteration of the engine's event loop. A script has the same effect
 * in each run, because the harness uses no threads, no real sockets and no real clock.
 */
#ifndef GATEWAY_FUZZ_HARNESS_H
#define GATEWAY_FUZZ_HARNESS_H

#include "engine.h"

#define FIRST_FD 1000
#define MAX_FILES 2048
#define MAX_CONNECTIONS 2
#define MAX_CHANNELS 192
#define MAX_PACKET 262208u /* maximum length of a packet from the server: 262144 bytes of data, headers and padding */
#define PEER_NUMBER 4096u /* the server identifies `channels[n]` by the channel number PEER_NUMBER + n */
#define UNLIMITED (1u << 30)

/* Print the reason and abort if `condition` is false. */
#define CHECK(condition, ...) ((condition) ? (void)0 : fail(__FILE__, __LINE__, __VA_ARGS__))
_Noreturn void fail(const char *file, int line, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Return the simulated data that starts at `offset` in one direction of a connection. The data depends only on the
 * seed of the direction and on the offset, so the harness can check each byte.
 */
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
void memory_received(const void *end); /* lets the engine access the receive buffer up to `end` */

/* files.c */
enum file_kind {
    FILE_CLOSED, FILE_EPOLL, FILE_EVENT, FILE_TIMER, FILE_CLIENT, FILE_CONNECTION, FILE_LISTENER, FILE_DIAL, FILE_SIDE, FILE_PIPE
};

/* What happens when the engine connects to a target. With PLAN_LOCAL, PLAN_REFUSED and PLAN_SELF, the first
 * connect(2) fails with EINPROGRESS or EINTR, and the second connect(2) returns the result. With PLAN_SELF, the
 * socket is connected to itself.
 */
enum dial_plan { PLAN_LOCAL, PLAN_WAIT, PLAN_AT_ONCE, PLAN_UNREACHABLE, PLAN_REFUSED, PLAN_SELF, PLANS };

struct file {
    enum file_kind kind;
    /* Identifies the object to which the file belongs. For a client, an SSH connection or a listener: its index in
     * `channels`, `connections` or `listeners`. For a socket that connects to a target: the index of the listener. For a
     * socket of a pair: twice the index of the pair, plus 1 for the backend's socket. For the write end of a pipe:
     * the file descriptor of the read end.
     */
    int owner;
    bool registered;
    uint32_t mask, reported; /* reported: the events that were ready at the last epoll_wait */
    void *data;
    /* Depends on the kind of the file: the counter of an eventfd, the expiration time of a timer, the number of bytes
     * in a pipe, or the state of a connection attempt (enum dial_state).
     */
    uint64_t counter;
    /* sockets */
    bool is_unix, shut, resets; /* shut: shutdown(2) was called; resets: close(2) will send a reset */
    /* ended: the other end of the connection has sent a FIN. closed: the other end has closed its socket, and answers
     * data with a reset. dead: the connection is closed in both directions.
     */
    bool ended, closed, dead;
    int error;                /* SO_ERROR */
    uint64_t available;       /* the number of bytes that can be received, or of clients that can be accepted */
    uint64_t room;            /* the number of bytes that can be sent */
    enum dial_plan plan;      /* of a dial */
    int options;              /* the number of calls of setsockopt */
};

extern struct file files[MAX_FILES];
extern int file_count;
extern uint64_t fake_now;     /* CLOCK_MONOTONIC, in nanoseconds */
extern uint64_t waited_at;    /* the time of the last epoll_wait that returned all pending events */
extern uint32_t event_order;  /* the index of the file whose events are reported first */
void files_reset(void);
int file_open(enum file_kind kind, int owner);
struct file *file_of(int fd); /* aborts if `fd` is closed */
bool file_is_open(int fd);
int open_files(void);
uint32_t file_ready(const struct file *);

/* The faults that the script injects. While one of the counters in the first line has a value N above 0, the Nth call
 * from now on fails.
 */
struct faults {
    uint32_t allocation, epoll, interrupt, cipher, accept, pipe, splice, socket;
    bool injected; /* whether an injected fault can have ended a connection */
    uint32_t acknowledged; /* milliseconds since the last TCP acknowledgment (tcpi_last_ack_recv) */
    /* Whether an iteration of the engine's event loop runs. Allocations fail only during an iteration, because at
     * other times, Python would get an exception and retry.
     */
    bool in_turn;
    bool memory_failed; /* whether an allocation has failed */
};
extern struct faults faults;
bool fault(uint32_t *countdown);

/* ciphers.c */
extern const char *const cipher_names[4];
int cipher_of(uint8_t choice);
void fill_key(struct key_setup *, int cipher);

/* What the harness knows about one client and its SSH channel. */
struct far_channel {
    int connection, fd; /* fd: the client's socket, or -1 before the engine gets this socket */
    uint64_t token; /* for a client of a listener: 0 until the engine calls pending_add */
    /* only for clients of a listener */
    int listener;     /* the index of the listener plus 1, or 0 if Python attaches the client without a listener */
    uint8_t address;  /* see `network_allows` */
    bool withdrawn;   /* whether `withdraw` ran while the engine accepted the client */
    uint32_t early_room; /* the initial `room` of the client's socket */
    uint64_t accepted_at;
    /* Python */
    enum tap tap;
    bool opened, final, untapped;
    /* Whether Python aborted the channel with CLOSE_LINK_LOST. The engine then need not send CHANNEL_CLOSE. */
    bool link_lost;
    /* the server */
    /* known: the server has received CHANNEL_OPEN. closed: the server has closed or refused the channel. ended: the
     * server sends no more data.
     */
    bool known, confirmed, closed, ended;
    bool engine_closed, engine_ended;
    uint32_t number, max_packet, unanswered;
    /* The number of bytes that the server may still send, and the number of bytes that the engine may still send. */
    uint64_t receive_window, send_window;
    /* The number of bytes that the server has sent, and the number of bytes that the server has received. */
    uint64_t sent, arrived;
    /* the client */
    /* Whether the client's connection is reset, timed out or closed by the client, or the engine returned the client
     * to Python.
     */
    bool failed;
    enum { NOT_CLOSED, END_OF_STREAM, RESET } ended_by; /* how the engine closed the client's socket */
    uint64_t read; /* the number of the client's bytes that the engine read before it closed the socket */
    uint64_t written, delivered, tapped_up, tapped_down;
    /* The positions after the last reported message: in the data from the client, and in the data from the server. */
    struct rpc_view rpc[2];
    bool not_rpc; /* whether the engine reported that the bytes are not RPC */
};

struct far_connection {
    int fd;
    uint64_t token;
    /* Python */
    bool final, violated, exchanging, awaits_key;
    bool silent; /* whether Python sends no more packets */
    uint64_t unaccepted;
    /* the server */
    struct cipher seal, open;
    uint32_t send_seq, recv_seq, max_packet;
    /* The engine's next cipher, while the NEWKEYS from Python has not arrived at the server. Otherwise, -1. */
    int open_cipher;
    /* keys_changed: whether the server has sent NEWKEYS, and Python has not handled this NEWKEYS yet. */
    bool between_keys, disconnected, keys_changed;
    int seal_cipher;
    bool illegal; /* whether the server has violated the protocol */
    uint8_t *input; /* the buffer for bytes from the server to the engine */
    size_t input_start, input_end;
    uint8_t *output; /* the buffer for an incomplete packet from the engine */
    size_t output_size;
};

/* sockets.c */
/* Return the data, from `offset`, that the client (`data_up`) or the server (`data_down`) of a channel sends. */
const uint8_t *data_up(const struct far_channel *, uint64_t offset);
const uint8_t *data_down(const struct far_channel *, uint64_t offset);
bool socket_failed(struct file *, bool receiving);
void socket_sent(struct file *);
void client_closed(const struct file *);
/* Return whether the harness knows which data the channel must transfer. After raw bytes or illegal packets from the
 * server, the harness does not know the data.
 */
bool exact(const struct far_channel *);

/* rpc_data.c */
const uint8_t *rpc_pattern(uint32_t seed, uint64_t offset);
bool rpc_next(const uint8_t *stream, struct rpc_view *, struct rpc_message *);
void rpc_reported(struct far_channel *, const struct message_header *record);
void rpc_settled(const struct far_channel *, bool down, uint64_t passed);

extern struct engine *engine;
extern bool engine_runs; /* false once Python closes the engine */
extern struct far_connection connections[MAX_CONNECTIONS];
extern struct far_channel channels[MAX_CHANNELS];
extern int connection_count, channel_count;
extern bool tainted; /* whether the server has sent raw bytes; the harness cannot predict their effect */
extern bool strict;
extern uint64_t growth_budget;
#define CONNECTION_GROWTH 700000u
#define SLACK 64u /* the number of bytes that the server reserves in each packet for headers and padding */

/* peer.c simulates the SSH server. */
void peer_init(struct far_connection *, int cipher, uint32_t max_packet);
void peer_receive(struct far_connection *, const uint8_t *data, size_t size);
/* Return the address to which the caller writes the payload of a packet, or NULL if the server cannot send. */
uint8_t *peer_reserve(const struct far_connection *, size_t size);
void peer_send(struct far_connection *, size_t size, uint8_t padding_blocks);
bool peer_send_raw(struct far_connection *, const uint8_t *data, size_t size);
void peer_new_key(struct far_connection *, int cipher);
void peer_forget(struct far_connection *);

/* python.c */
enum tap tap_of(uint8_t choice);
void python_command(enum command, uint64_t token, int64_t a, int64_t b, int64_t c);
void python_payload(enum command, uint64_t token, const void *payload, size_t size);
void python_connection(int cipher, uint32_t max_packet, uint64_t rekey_bytes);
void python_channel(struct far_connection *, uint32_t window, enum tap, uint8_t type_size);
void python_packet(struct far_connection *, uint8_t message, size_t size);
void python_new_seal_key(struct far_connection *, int cipher);
void python_key(struct far_connection *, enum command, int cipher);
bool python_take(void); /* returns false if the engine has failed */

/* invariants.c */
void check_engine(void); /* aborts if an invariant does not hold */
void check_watched(const struct liveness *, bool is_unix);

/* The kinds of steps. Each step is an action of the SSH server, a client, Python or the simulated kernel. */
#define STEPS(X) \
    X(CONFIRM) X(REFUSE) X(DATA) X(EXTENDED) X(ADJUST) X(EOF) X(CLOSE) X(REQUEST) X(OTHER) X(NEW_KEYS) X(RAW_PACKET) \
    X(RAW_STREAM) X(CONNECTION_ROOM) X(CONNECTION_END) \
    X(ATTACH) X(WRITE) X(END) X(ROOM) \
    X(OPEN) X(ABORT) X(UNTAP) X(CLOSE_HISTOGRAM) X(CONNECTION) X(PACKET) X(ACCEPT) X(ROUND_TRIP) X(EXCHANGE) X(OPEN_KEY) \
    X(CONNECTION_CLOSE) \
    X(FAIL) X(CLOCK) X(ORDER) \
    X(LISTEN) X(CONNECT) X(PERMIT) X(UNLISTEN) X(RECALL) \
    X(PAIR) X(SIDE_WRITE) X(SIDE_END) X(SIDE_ROOM) X(PAIR_ABORT) X(PAIR_UNTAP) \
    X(LISTEN_DIAL) X(DIAL)
#define STEP_ENUMERATOR(name) STEP_##name,
enum step_kind { STEPS(STEP_ENUMERATOR) STEP_KINDS };

struct step {
    uint8_t kind; /* enum step_kind */
    uint8_t which, a, b;
    const uint8_t *bytes; /* the bytes to send, for STEP_RAW_PACKET and STEP_RAW_STREAM; `a` is their number */
};

/* target.c parses scripts. */
#define HEAD_SIZE 4u
#define STEP_SIZE 4u /* the size of a step in bytes; some steps have additional bytes (see `has_bytes`) */
#define MAX_STEPS 160
bool has_bytes(uint8_t kind);
size_t step_size(const uint8_t *step, const uint8_t *end); /* returns the size including the additional bytes */

/* steps.c */
uint32_t size_of(uint8_t choice);
/* Like `size_of`, but with at most `limit` bytes, and at most MAX_TOTAL bytes in all calls of one script. */
uint32_t data_size(uint8_t choice, uint64_t limit);
void steps_reset(void);
bool run_step(const struct step *);
void describe(const struct step *); /* prints the step */
void turn(void);
struct far_connection *chosen_connection(const struct step *);
struct far_channel *chosen_channel(const struct step *); /* returns NULL if there is no channel */

/* Each of the functions NAME_step runs certain kinds of steps, and returns false for the other kinds. */
bool server_step(const struct step *);
bool server_channel_step(const struct step *);
bool client_step(const struct step *);
bool python_step(const struct step *);
void accept_packets(struct far_connection *, uint64_t count);
void give_open_key(struct far_connection *);

/* settle.c */
bool settle(void);

#endif
