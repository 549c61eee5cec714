/* Declares the native engine, an epoll loop that relays the bytes of SSH channels and pairs of sockets
 * (docs/architecture.md).
 *
 * The native engine has its own thread, which never takes Python's GIL. Only this thread calls `engine_turn`, which
 * runs one iteration of the epoll loop. Other threads queue commands, take records, allocate and free slots, and read
 * gauges. Some tests do not start the thread, and call `engine_turn` themselves.
 *
 * Each SSH connection, channel, listener and pair has a slot (`struct gauge`) and a token. The token consists of the
 * slot's number and generation. When the slot is freed, its generation changes, and the token becomes invalid.
 *
 * All times are in nanoseconds of CLOCK_MONOTONIC.
 */
#ifndef GATEWAY_DATAPLANE_ENGINE_H
#define GATEWAY_DATAPLANE_ENGINE_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/uio.h>

#include "bytes.h"
#include "chunks.h"
#include "crypto.h"

#define MAX_SEND_PACKET 32768u /* maximum number of data bytes in a sent packet; OpenSSH accepts no more */
#define DATA_HEADER 14u        /* bytes before the data: packet length, padding length, message number, channel, data length */
#define DATA_OVERHEAD 10u      /* DATA_HEADER without the packet length */
#define MIN_PADDING 4u
#define MAX_PADDING (MAX_BLOCK_SIZE + MIN_PADDING)
#define PACKET_STRIDE (DATA_HEADER + MAX_SEND_PACKET + MAX_PADDING + TAG_SIZE)
#define PACKETS_PER_TURN 4u    /* maximum number of packets that a channel sends at once. If the SSH connection is slow and
                                  other channels wait, the maximum is 1. */
#define BATCH_SIZE ((size_t)8 * PACKET_STRIDE)
#define SLOW_BATCH_SIZE ((size_t)2 * PACKET_STRIDE)
#define RECEIVE_SIZE ((size_t)512 * 1024)
#define MAX_UNACCEPTED ((size_t)256 * 1024) /* receiving pauses while `unaccepted` exceeds this number of bytes */
#define MAX_RECORDS ((size_t)4 * 1024 * 1024) /* if the records exceed this number of bytes, the thread waits for Python */
#define MAX_BOUNDS 32u
#define MAX_PIPES 16u
#define SECOND 1000000000ull
#define NO_INDEX (-1)

enum message {
    MSG_DISCONNECT = 1,
    MSG_UNIMPLEMENTED = 3,
    MSG_KEXINIT = 20,
    MSG_NEWKEYS = 21,
    MSG_CHANNEL_OPEN = 90,
    MSG_CHANNEL_OPEN_CONFIRMATION = 91,
    MSG_CHANNEL_OPEN_FAILURE = 92,
    MSG_CHANNEL_WINDOW_ADJUST = 93,
    MSG_CHANNEL_DATA = 94,
    MSG_CHANNEL_EXTENDED_DATA = 95,
    MSG_CHANNEL_EOF = 96,
    MSG_CHANNEL_CLOSE = 97,
    MSG_CHANNEL_REQUEST = 98,
    MSG_CHANNEL_FAILURE = 100,
    MSG_CHANNEL_LAST = 127,
};

#define OPEN_CONNECT_FAILED 2u /* a reason code of CHANNEL_OPEN_FAILURE (RFC 4254, section 5.1) */

/* Commands, which Python sends to the native engine. Below, a to d are the arguments in `struct message_header`. */
enum command {
    COMMAND_CONNECTION = 1, /* take over an SSH connection; payload: struct connection_setup */
    COMMAND_SEND,     /* encrypt and send a packet; payload: the packet, with its length field */
    COMMAND_SEAL_KEY, /* set the key for sending; payload: struct key_setup */
    COMMAND_OPEN_KEY, /* set the key for receiving; payload: struct key_setup */
    COMMAND_ACCEPTED, /* a: number of bytes in the packets that Python has processed since the last COMMAND_ACCEPTED */
    COMMAND_ROUND_TRIP, /* a: round-trip time of an SSH connection, in nanoseconds */
    COMMAND_CLOSE,    /* close an SSH connection */
    COMMAND_CHANNEL,  /* open a channel; a: token of the SSH connection; payload: struct channel_setup */
    COMMAND_ATTACH,   /* connect a client to a channel; a: the client's socket, b: histogram, c: enum attach_flag */
    COMMAND_UNTAP,    /* end the tap of a channel or pair */
    COMMAND_ABORT,    /* reset a channel or pair; a: enum close_reason */
    COMMAND_CLOSE_HISTOGRAM, /* a: index of the histogram */
    COMMAND_LISTEN,   /* accept clients; payload: struct listener_setup */
    COMMAND_PERMIT,   /* permit a listener to accept more clients; a: number of additional clients */
    COMMAND_UNLISTEN, /* stop accepting clients */
    COMMAND_RECALL,   /* return waiting clients to Python; token: their listener or SSH connection */
    COMMAND_PAIR,     /* relay between two sockets; payload: struct pair_setup */
};

/* Records, which the native engine sends to Python. Below, a to d are the arguments in `struct message_header`. */
enum record {
    RECORD_PACKET = 1, /* a: sequence number; payload: a decrypted packet, without its length field */
    RECORD_VIOLATION,  /* the server broke the SSH protocol; a: 1 if an authentication tag is wrong; payload: error message */
    RECORD_REKEY_DUE,
    RECORD_LOST,       /* a: errno; 0 if Python or the server closed the SSH connection. The connection's last record. */
    RECORD_OPENED,
    RECORD_REFUSED,    /* a: reason code (RFC 4254, section 5.1); payload: error message. The last record of a channel that
                          did not open. */
    RECORD_TAP,        /* a: 1 if the bytes are from the backend; b: when the native engine handled the bytes;
                          payload: the bytes */
    RECORD_ENDED,      /* a: enum close_reason; b: the client's socket, or -1. Python must close this socket after the
                          client has received all data. c: 1 to close the socket with a reset. The channel's last
                          record. */
    RECORD_HISTOGRAM,  /* a: index of the histogram; b: whether the histogram is closed; c: sum of the observations in ns;
                          payload: number of observations in each bucket */
    RECORD_RPC,        /* a: 1 if the message is from the backend; b: when the native engine handled the header of
                          the message; c: XID; d: enum rpc_type, or -1 if the bytes are not ONC RPC */
    RECORD_JOINED,     /* a listener has connected a client to the target; a: token of the new channel or pair; b: token of
                          the SSH connection, or 0 */
    RECORD_SERVED,     /* totals of the short connections (served.c) that ended since the listener's last RECORD_SERVED.
                          No other record reports these connections. a: number of connections; b: number of connections
                          that the client reset; c, d: bytes to and from the backend */
    RECORD_RETURNED,   /* a listener returns a client to Python; a: the client's socket; b: nanoseconds since the native
                          engine accepted the client; c: 1 if the target might already have accepted a connection for
                          the client, or might still accept one */
    RECORD_STOPPED,    /* a listener accepts no more clients. Records of clients that it accepted earlier can follow. */
    RECORD_PAIR_ENDED, /* a: enum close_reason; b: the client's socket, or -1; c: the backend's socket, or -1. Python must
                          reset each socket after its peer has received all data. The pair's last record. */
};

enum close_reason {
    CLOSE_FINISHED, CLOSE_CLIENT_RESET, CLOSE_LINK_LOST, CLOSE_ABORTED, CLOSE_MOVED, CLOSE_BACKEND_RESET
};
enum attach_flag {
    ATTACH_MEASURE = 1,
    ATTACH_UNIX = 2,
    ATTACH_UNIX_BACKEND = 4,
    ATTACH_DEFERRED = 8, /* report the end of the pair with `emit_deferred`; only the native engine sets this flag */
};
/* What the native engine reports to Python about a relay: nothing, all bytes, or the headers of ONC RPC messages. */
enum tap { TAP_NONE, TAP_BYTES, TAP_RPC };
enum rpc_type { RPC_CALL, RPC_REPLY };

struct message_header {
    uint32_t size; /* size of the whole message, in bytes; includes the payload and the padding for alignment */
    uint32_t payload; /* size of the payload, in bytes */
    uint32_t kind;
    uint32_t unused;
    uint64_t token;
    int64_t a, b, c, d;
};

struct key_setup {
    char cipher[32];
    uint32_t key_size, iv_size;
    uint8_t key[64], iv[12];
};

struct connection_setup {
    struct key_setup seal, open;
    int32_t fd;
    uint32_t send_seq, recv_seq;
    uint32_t max_packet_length;
    uint32_t strict;     /* whether NEWKEYS resets the sequence numbers (OpenSSH's PROTOCOL, section 1.10) */
    uint32_t adjust_bytes; /* the native engine sends a window adjust after this number of consumed bytes, or after a
                              quarter of the window if that is less */
    uint64_t rekey_bytes;
    uint64_t growth_bytes; /* maximum total growth of the SSH connection's receive windows, in bytes */
    uint64_t max_window;
};

/* Two parts of CHANNEL_OPEN (RFC 4254, section 5.1) follow this struct: the channel type, and everything after the
 * field `maximum packet size`. */
struct channel_setup {
    uint32_t window;
    uint32_t max_packet;
    uint32_t type_size; /* size of the channel type and its 4-byte length field, in bytes */
    uint32_t tap;       /* a value of enum tap */
};

/* The counters and times of an object, such as a channel. Python can read them at any time. Only the native engine
 * writes them, except `held` of a listener, which Python writes. The struct fills one cache line. */
struct gauge {
    _Atomic uint64_t to_backend, from_backend, responses;
    _Atomic uint64_t last_active; /* of an SSH connection: when data was last received */
    _Atomic uint64_t request_time; /* when the client sent the request that has no response yet; 0: no such request */
    _Atomic uint64_t held;         /* of a channel: number of bytes that wait for the client; of an SSH connection: number
                                      of bytes that wait for the server; of a listener: 1 if Python has stopped it */
    _Atomic uint32_t generation;   /* an odd number if an object uses the slot; an even number if the slot is free */
    union {
        uint32_t next_free; /* if this slot is free: 1 + the number of the next free slot, or 0 if there is none */
        _Atomic uint32_t eof_delivered; /* of a channel: whether the end of the backend's stream was forwarded */
    };
    void *object; /* a struct connection, channel, listener or pair; only the native engine uses this pointer */
};

enum source_kind {
    SOURCE_TIMER, SOURCE_WAKE, SOURCE_CONNECTION, SOURCE_CHANNEL, SOURCE_LISTENER, SOURCE_DIAL, SOURCE_SIDE, SOURCE_FREED
};

/* Identifies the object of an epoll event. It is the first member of struct connection, channel, listener, dial and side. */
struct source {
    enum source_kind kind;
    struct source *next_freed;
};

struct histogram {
    uint64_t counts[MAX_BOUNDS + 1];
    uint64_t sum;
    bool dirty;
    bool deferred; /* whether to report the histogram together with the records of `emit_deferred` */
};

struct piece {
    const uint8_t *data;
    uint32_t size;
    int next;
};

/* The state of the ONC RPC parser for one direction of a channel or pair. */
struct rpc_scanner {
    uint32_t remaining; /* number of bytes that are still missing from the current fragment */
    uint32_t header_size;
    uint8_t header[12];
    bool is_continuation; /* whether the next fragment continues a message */
};

/* What the native engine reports to Python about the bytes of a channel or pair. */
struct observer {
    enum tap tap;
    struct rpc_scanner rpc[2]; /* [0]: bytes from the client, [1]: bytes from the backend */
};

/* The progress of the data that a TCP socket sends. */
struct liveness {
    uint64_t since;      /* when the watch began, or when a scan found neither data in flight nor probes */
    uint64_t checked;    /* when the last scan checked the socket */
    uint8_t retransmits; /* number of retransmissions at the last check that found a new acknowledgment */
    bool watched;        /* whether data may wait in the kernel's send buffer; scans then check the socket */
};

/* A pipe(2) for splice(2), which holds bulk data on its way from one socket to another. */
struct pipe {
    int read_end, write_end; /* -1: not open */
    size_t size;             /* number of bytes in the pipe */
};

struct channel;
struct listener;
struct pair;
struct connection;

/* A client that a listener has accepted, but not connected to its target yet. */
struct pending {
    struct listener *listener; /* NULL: the struct contains no client */
    struct pending *previous, *next;
    struct source *owner; /* the channel or dial that will connect the client to the target */
    uint64_t accepted_at;
    int fd;
};

/* A client that a listener has accepted and connected to its target, but not reported to Python yet. */
struct joined {
    struct listener *listener; /* NULL: Python accepted the client, or already knows the client from a record */
    struct joined *previous, *next;
    uint64_t token, connection; /* token of the channel or pair; token of its SSH connection, or 0 */
    uint64_t at; /* when the client was connected */
};

struct engine {
    int epoll, timer;
    int wake;   /* eventfd, readable when the thread must run commands, or stop */
    int report; /* eventfd, readable when Python must take records */
    pthread_t thread;
    bool has_thread;
    pthread_mutex_t turn; /* locked while the native engine handles events, but not while it waits for events */
    pthread_mutex_t lock; /* protects the fields from here to `first_free` */
    pthread_cond_t taken; /* signaled when Python has taken records, or when the thread must stop */
    struct bytes commands, records;
    bool wake_pending;   /* whether `wake` was written since the native engine last took the commands */
    bool report_pending; /* whether `report` was written since Python last took the records */
    bool records_urgent; /* whether Python must take the records now */
    bool stopping;
    int failed;        /* the error that has ended the thread; 0: none */
    bool records_lost; /* whether records were lost, because memory was exhausted */
    struct gauge **slabs;
    _Atomic uint32_t slab_count;
    uint32_t first_free;
    struct bytes running; /* an empty buffer, which the native engine reuses for new commands */
    struct connection *connections, *dirty, *broken;
    struct channel *channels, *touched;
    struct listener *listeners;
    struct joined *joined_first, *joined_last; /* connected clients that are not reported to Python yet, oldest first */
    struct pair *pairs;
    uint8_t *buffer; /* the shared buffer for the bytes of pairs; NULL before the first pair */
    size_t share;    /* maximum number of bytes to read from a socket of a pair in this loop iteration */
    struct pipe pipes[MAX_PIPES]; /* empty pipes, which are kept for later transfers */
    uint32_t pipe_count;
    bool cannot_splice; /* whether splice(2) is unsupported or forbidden */
    struct source *freed; /* structs to free at the end of this loop iteration; until then, events can refer to them */
    struct piece *pieces;
    int piece_count, piece_capacity;
    struct histogram *histograms;
    uint32_t histogram_count, bound_count;
    uint64_t bounds[MAX_BOUNDS];
    /* when each task is due, and when the timer expires; 0: not scheduled */
    uint64_t histograms_due, liveness_scan_due, slow_scan_due, report_due, timer_set;
    uint64_t growth_available;
    uint64_t growth_reserve; /* part of `growth_available` that is reserved for the channels that are already open */
    uint64_t dead_after; /* how long a remote end may not acknowledge data, in nanoseconds */
    int liveness_part;   /* the part of the descriptors that the last scan of `liveness.c` has checked */
    uint8_t padding[MAX_PADDING];
};

/* An SSH connection after its login. */
struct connection {
    struct source source; /* must be the first member */
    bool closed, disconnected, blocked, paused, dirty, await_key, halted, strict, due_reported, path_is_fast;
    int fd, error;
    uint32_t mask;
    struct engine *engine;
    struct connection *previous, *next, *next_dirty, *next_broken;
    uint64_t token;
    struct gauge *gauge;
    /* the fields for receiving packets */
    uint8_t *received;
    size_t start, end;
    struct cipher open;
    uint32_t recv_seq, max_packet_length;
    uint64_t unaccepted; /* total size of the packets that Python has not processed yet, in bytes */
    /* bytes received and sent since the last key exchange, and the limit for each direction */
    uint64_t received_bytes, sent_bytes, rekey_bytes;
    /* the fields for sending packets */
    uint8_t *out;
    size_t out_start, out_end, out_capacity, batch_limit;
    struct cipher seal;
    uint32_t send_seq;
    uint64_t blocked_at, slow_until;
    struct bytes deferred; /* control packets that wait for the end of a key exchange */
    uint32_t deferred_count;
    struct channel *queue_first, *queue_last; /* channels that wait to send, in order of arrival */
    uint32_t queue_size, round_size;
    /* the channels and their receive windows */
    struct channel **table;
    uint32_t *free_numbers, table_size, free_count, used_count;
    uint64_t growth_available, growth_reserve, max_window, round_trip;
    uint32_t adjust_bytes;
};

/* One SSH channel, and the client that uses it. */
struct channel {
    struct source source; /* must be the first member */
    bool open, abandoned, attached, is_unix, measure, bulk, queued, has_turn, touched;
    bool client_eof, client_broken, client_was_reset;
    bool backend_eof, channel_closed, channel_unwritable, link_lost, eof_delivered, sent_close, freed, ended;
    bool unannounced; /* whether the channel is for a listener's client that is not connected yet */
    int fd; /* the client's socket; -1 before a client is attached */
    uint32_t mask, number, peer, peer_max_packet, until_sample;
    int32_t histogram, first_piece, last_piece;
    struct engine *engine;
    struct connection *connection; /* NULL after `channel_free` */
    struct channel *previous, *next, *next_touched;
    struct channel *queue_previous, *queue_next; /* neighbors in the connection's queue of channels that wait to send */
    struct pending pending; /* the client for which a listener opens the channel */
    struct joined joined;
    uint64_t token;
    struct gauge *gauge;
    uint64_t peer_window;
    int64_t window_remaining;
    uint64_t window_size, growth, consumed, adjust_threshold, period_bytes, period_start;
    uint64_t request_time;
    struct liveness liveness;
    struct chunks held; /* bytes that the client's socket has not accepted yet */
    struct observer observer;
};

uint64_t clock_ns(void);

/* queue.c: manages commands, records and slots. */
bool queue_command(struct engine *, const struct message_header *, const void *payload, const void *more,
                   size_t more_size);
void close_client_of(const struct message_header *record);
void emit(struct engine *, enum record, uint64_t token, const int64_t arguments[4], const void *payload, size_t size);
void emit_deferred(struct engine *, enum record, uint64_t token, const int64_t arguments[4]);
void schedule_report(struct engine *, uint64_t due);
uint64_t slot_allocate(struct engine *);
void slot_release(struct engine *, uint64_t token);
struct bytes take_records(struct engine *, int *failed);
struct gauge *slot_find(struct engine *, uint64_t token);
static inline void gauge_set(_Atomic uint64_t *field, uint64_t value)
{
    atomic_store_explicit(field, value, memory_order_relaxed);
}

/* command.c: runs the commands from Python. */
void run_commands(struct engine *);

/* loop.c: initializes the native engine, and runs its epoll loop. */
bool engine_init(struct engine *, const uint64_t *bounds, uint32_t bound_count);
int engine_turn(struct engine *, int timeout_ms);
void engine_clear(struct engine *);
void close_reported(const struct bytes *records);
void free_later(struct engine *, struct source *);

/* thread.c: starts and stops the native engine's thread, and notifies Python. */
int thread_start(struct engine *);
void thread_stop(struct engine *);
void thread_wake(struct engine *);
void thread_woken(struct engine *);
void thread_report(struct engine *, int error);
void thread_reported(struct engine *);

/* latency.c: measures latencies, and sets the timer. */
bool histogram_ensure(struct engine *, uint32_t index);
void histogram_add(struct engine *, uint32_t index, uint64_t ns);
void histogram_emit(struct engine *, uint32_t index, bool closed);
void histogram_report(struct engine *, uint32_t index, bool later);
void timer_arm(struct engine *);
void timer_expired(struct engine *);

/* liveness.c: breaks the connections to remote ends that no longer acknowledge data. */
void liveness_watch(struct engine *, struct liveness *, bool is_unix);
void liveness_scan(struct engine *, uint64_t now);

/* connection.c: manages SSH connections. */
void connection_create(struct engine *, uint64_t token, const struct connection_setup *);
void connection_break(struct connection *, int error);
void connection_violation(struct connection *, bool bad_tag, const char *format, ...) __attribute__((format(printf, 3, 4)));
void connection_check_rekey(struct connection *);
void connection_free(struct connection *);
void connection_update_mask(struct connection *);
void connection_event(struct connection *, uint32_t events);
bool connection_add_channel(struct connection *, struct channel *);
void connection_remove_channel(struct connection *, struct channel *);
struct channel *connection_find_channel(struct connection *, uint32_t number);

/* receive.c: receives packets on SSH connections. */
void receive_from_peer(struct connection *);
void receive_packets(struct connection *);

/* send.c: sends packets on SSH connections. */
bool may_send(const struct connection *);
bool congested(const struct connection *);
void send_plain(struct connection *, const uint8_t *packet, size_t size);
void send_control(struct connection *, const uint8_t *payload, size_t size);
void send_short(struct connection *, enum message, uint32_t peer, const uint32_t *more);
uint8_t *send_reserve(struct connection *, size_t size, bool grow);
uint32_t full_packet_size(const struct connection *);
void send_data(struct connection *, uint32_t peer, uint32_t size);
void send_flush(struct connection *);
void send_drain(struct connection *);
void send_resume(struct connection *);

/* turns.c: manages the channels that wait to send. */
bool contended(const struct connection *);
void queue_channel(struct channel *);
void dequeue_channel(struct channel *);
void serve_queue(struct connection *);

/* channel.c: opens channels, and handles their packets. */
void channel_create(struct engine *, struct connection *, uint64_t token, const struct channel_setup *, const uint8_t *rest,
                    size_t size);
struct channel *channel_open(struct engine *, struct connection *, uint64_t token, const struct channel_setup *,
                             const uint8_t *rest, size_t size);
void channel_confirmed(struct channel *, uint32_t peer, uint64_t window, uint32_t max_packet);
void channel_refused(struct channel *, uint32_t code, const uint8_t *text, size_t size);
void channel_peer_end(struct channel *, bool close);
void channel_adjusted(struct channel *, uint32_t count);
void channel_send_close(struct channel *);
void channel_free(struct channel *);
void channel_consumed(struct channel *, uint64_t count, uint64_t now);
void channel_release_gauge(struct channel *);
void channel_release(struct channel *);

/* client.c: handles the client's socket, and reads data from the client. */
void client_attach(struct channel *, int fd, int histogram, int64_t flags);
void client_event(struct channel *, uint32_t events);
void client_read(struct channel *);
void client_update_mask(struct channel *);
void client_unwritable(struct channel *, int error);
void client_unregister(struct channel *);

/* rpc.c: reports bytes and ONC RPC messages to Python, for taps. */
void report_tap(struct engine *, uint64_t token, struct observer *, bool from_backend, uint64_t now, const uint8_t *data,
                size_t size);

/* delivery.c: sends data to the client. */
void client_add_piece(struct channel *, const uint8_t *data, uint32_t size);
void client_deliver_all(struct engine *);
void client_flush(struct channel *);

/* ending.c: ends the two directions of a channel, and the whole relay. */
void ending_propagate(struct channel *);
void ending_backend(struct channel *, bool close);
void ending_link_lost(struct channel *);
void ending_abort(struct channel *, enum close_reason);
void ending_finish(struct channel *, enum close_reason);
void reset_fd(int fd, bool is_unix);
void close_gracefully(int fd, bool is_unix);

#endif
