/* The engine: one epoll loop, in its own thread, that moves the bytes of SSH channels and of pairs of sockets.
 * docs/architecture.md describes it.
 *
 * Only the engine's thread calls `engine_turn`, and it never takes the GIL. Other threads only append commands, take
 * records, and read gauges. Without a thread, tests call `engine_turn` themselves.
 * Objects are named by tokens: the number of a slot, and a generation that detects stale tokens.
 * All times are of CLOCK_MONOTONIC, in nanoseconds.
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

#define MAX_SEND_PACKET 32768u /* data bytes per sent packet: the maximum that OpenSSH accepts */
#define DATA_HEADER 14u        /* packet length, padding length, message number, channel, data length */
#define DATA_OVERHEAD 10u      /* DATA_HEADER without the packet length */
#define MIN_PADDING 4u
#define MAX_PADDING (MAX_BLOCK_SIZE + MIN_PADDING)
#define PACKET_STRIDE (DATA_HEADER + MAX_SEND_PACKET + MAX_PADDING + TAG_SIZE)
#define PACKETS_PER_TURN 4u    /* packets that one channel sends in a turn, unless the path is slow and others wait */
#define BATCH_SIZE ((size_t)8 * PACKET_STRIDE)
#define SLOW_BATCH_SIZE ((size_t)2 * PACKET_STRIDE)
#define RECEIVE_SIZE ((size_t)512 * 1024)
#define MAX_UNACCEPTED ((size_t)256 * 1024) /* receiving stops while Python has more bytes of packets to process */
#define MAX_RECORDS ((size_t)4 * 1024 * 1024) /* the thread waits while Python has more bytes of records to take */
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

/* Commands, from Python to the engine. `struct message_header` lists their arguments. */
enum command {
    COMMAND_WIRE = 1, /* payload: struct wire_setup */
    COMMAND_SEND,     /* payload: a packet in plain text, with its length */
    COMMAND_SEAL_KEY, /* payload: struct key_setup */
    COMMAND_OPEN_KEY, /* payload: struct key_setup */
    COMMAND_ACCEPTED, /* a: bytes of packets that Python has processed */
    COMMAND_ROUND_TRIP, /* a: nanoseconds */
    COMMAND_CLOSE,    /* of a wire */
    COMMAND_CHANNEL,  /* a: token of the wire; payload: struct channel_setup */
    COMMAND_ATTACH,   /* a: descriptor, b: histogram, c: enum attach_flag */
    COMMAND_UNTAP,
    COMMAND_ABORT,    /* a: enum close_reason */
    COMMAND_CLOSE_HISTOGRAM, /* a: histogram */
    COMMAND_LISTEN,   /* payload: struct listener_setup */
    COMMAND_PERMIT,   /* of a listener; a: further clients to accept */
    COMMAND_UNLISTEN, /* accept no more clients */
    COMMAND_RECALL,   /* of a listener or wire: return the clients that are not joined */
    COMMAND_PAIR,     /* payload: struct pair_setup */
};

/* Records, from the engine to Python. */
enum record {
    RECORD_PACKET = 1, /* a: sequence number; payload: a packet in plain text, without its length */
    RECORD_VIOLATION,  /* a: 1 if the authentication tag is wrong; payload: text */
    RECORD_REKEY_DUE,
    RECORD_LOST,       /* a: errno, or 0 at the end of the stream. The last record of a wire. */
    RECORD_OPENED,
    RECORD_REFUSED,    /* a: reason code; payload: text. The last record of a channel that did not open. */
    RECORD_TAP,        /* a: 1 if the bytes are from the backend; b: time; payload: the bytes */
    RECORD_ENDED,      /* a: enum close_reason; b: descriptor of a client that must linger, or -1; c: whether to reset
                          it. The last record of a channel. */
    RECORD_HISTOGRAM,  /* a: histogram; b: whether it is closed; c: sum in ns; payload: the counts */
    RECORD_RPC,        /* a: 1 if the bytes are from the backend; b: time; c: XID; d: enum rpc_type, or -1: not RPC */
    RECORD_JOINED,     /* of a listener; a: token of the new channel or pair, whose client is joined; b: token of the
                          wire, or 0; c: time */
    RECORD_SERVED,     /* of a listener; a: clients that were joined and have ended, each without another record; b: how
                          many of them were reset; c, d: bytes to and from the backend */
    RECORD_RETURNED,   /* of a listener; a: descriptor of a client that Python now owns; b: nanoseconds since the client
                          was accepted; c: whether the target may still accept a connection for the client */
    RECORD_STOPPED,    /* a listener accepts no more clients. Records of pending clients can follow. */
    RECORD_PAIR_ENDED, /* a: enum close_reason; b, c: descriptors of a client and a backend that must linger and then be
                          reset, or -1. The last record of a pair. */
};

enum close_reason {
    CLOSE_FINISHED, CLOSE_CLIENT_RESET, CLOSE_LINK_LOST, CLOSE_ABORTED, CLOSE_MOVED, CLOSE_BACKEND_RESET
};
enum attach_flag {
    ATTACH_MEASURE = 1,
    ATTACH_UNIX = 2,
    ATTACH_UNIX_BACKEND = 4,
    ATTACH_DEFERRED = 8, /* of a pair: emit_deferred reports its end; Python does not use this flag */
};
enum tap { TAP_NONE, TAP_BYTES, TAP_RPC }; /* which bytes or messages to report to Python, from the first byte on */
enum rpc_type { RPC_CALL, RPC_REPLY };

struct message_header {
    uint32_t size; /* with the payload and its alignment */
    uint32_t payload;
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

struct wire_setup {
    struct key_setup seal, open;
    int32_t fd;
    uint32_t send_seq, recv_seq;
    uint32_t max_packet_length;
    uint32_t strict;     /* whether NEWKEYS resets the sequence numbers (OpenSSH's PROTOCOL, section 1.10) */
    uint32_t adjust_bytes; /* consumed bytes before a window adjust */
    uint64_t rekey_bytes;
    uint64_t growth_bytes; /* budget for the growth of all windows of the connection */
    uint64_t max_window;
};

struct channel_setup {
    uint32_t window;
    uint32_t max_packet;
    uint32_t type_size; /* size of the first part after this struct: CHANNEL_OPEN up to the channel number. The second
                           part is the rest of CHANNEL_OPEN after the maximum packet size (RFC 4254, section 5.1) */
    uint32_t tap;       /* enum tap */
};

/* The counters and times of an object. Python reads them at any time; only the engine writes them. One cache line. */
struct gauge {
    _Atomic uint64_t to_backend, from_backend, responses;
    _Atomic uint64_t last_active; /* of a wire: when data was last received */
    _Atomic uint64_t request_time; /* 0: no request waits for a response */
    _Atomic uint64_t held;         /* bytes that wait: for the client of a channel, for the peer of a wire */
    _Atomic uint32_t generation;   /* even while the slot is free */
    union {
        uint32_t next_free; /* of a free slot */
        _Atomic uint32_t eof_delivered; /* of a channel: whether its client got the end of the backend's stream */
    };
    void *object; /* a struct wire, channel, listener or pair; only the engine uses it */
};

enum source_kind {
    SOURCE_TIMER, SOURCE_WAKE, SOURCE_WIRE, SOURCE_CHANNEL, SOURCE_LISTENER, SOURCE_DIAL, SOURCE_SIDE, SOURCE_FREED
};

/* The object of an epoll event. It is the first member of a wire, a channel, a listener, a dial and a side of a pair. */
struct source {
    enum source_kind kind;
    struct source *next_freed;
};

struct histogram {
    uint64_t counts[MAX_BOUNDS + 1];
    uint64_t sum;
    bool dirty;
    bool deferred; /* a channel or pair whose end is deferred has used it */
};

struct piece {
    const uint8_t *data;
    uint32_t size;
    int next;
};

/* The ONC RPC messages in one direction of a channel or pair. */
struct rpc_scanner {
    uint32_t remaining; /* bytes of the fragment that have not arrived */
    uint32_t header_size;
    uint8_t header[12];
    bool is_continuation; /* whether the next fragment continues a message */
};

/* Which bytes or messages of a channel or pair are reported to Python. */
struct observer {
    enum tap tap;
    struct rpc_scanner rpc[2]; /* from the client, from the backend */
};

/* Whether and since when a socket accepts no more data. A zeroed struct is a socket that accepts data. */
struct stall {
    uint64_t since; /* 0: the socket accepts data, or is a unix socket */
    bool suspended; /* whether its TCP_USER_TIMEOUT is disabled */
};

/* Holds bulk data between two sockets. */
struct pipe {
    int read_end, write_end; /* -1: not open */
    size_t size;             /* bytes in the pipe */
};

struct channel;
struct listener;
struct pair;
struct wire;

/* A client of a listener that is not joined to its target yet. */
struct pending {
    struct listener *listener; /* NULL: no client waits */
    struct pending *previous, *next;
    struct source *owner; /* the channel or dial to which the client will be joined */
    uint64_t accepted_at;
    int fd;
};

/* A client of a listener that is joined to its target, and that Python does not know yet. */
struct joined {
    struct listener *listener; /* NULL: Python knows the client, or it was not accepted by a listener */
    struct joined *previous, *next;
    uint64_t token, wire; /* of the channel or pair, and of its wire or 0 */
    uint64_t at;
};

struct engine {
    int epoll, timer;
    int wake;   /* eventfd: the thread must run commands, or stop */
    int report; /* eventfd: Python must take records */
    pthread_t thread;
    bool has_thread;
    pthread_mutex_t turn; /* held while events are handled, not while the thread waits for them */
    pthread_mutex_t lock; /* protects the fields up to `first_free` */
    pthread_cond_t taken; /* Python has taken records, or the thread must stop */
    struct bytes commands, records;
    bool wake_pending, report_pending; /* whether the eventfd was written, but not handled yet */
    bool records_urgent; /* whether Python must take the records now */
    bool stopping;
    int failed;        /* the error that has ended the thread; 0: none */
    bool records_lost; /* memory was exhausted */
    struct gauge **slabs;
    _Atomic uint32_t slab_count;
    uint32_t first_free;
    struct bytes running; /* commands that are being executed */
    struct wire *wires, *dirty, *broken;
    struct channel *channels, *touched;
    struct listener *listeners;
    struct joined *joined_first, *joined_last; /* in order of time */
    struct pair *pairs;
    uint8_t *buffer; /* for the bytes of pairs; NULL before the first pair */
    size_t share;    /* bytes that a pair may read in this turn */
    struct pipe pipes[MAX_PIPES]; /* empty pipes, which pairs use again */
    uint32_t pipe_count;
    bool cannot_splice; /* whether the kernel does not support splice(2) between these sockets */
    struct source *freed; /* objects to free at the end of the turn: events can still refer to them */
    struct piece *pieces;
    int piece_count, piece_capacity;
    struct histogram *histograms;
    uint32_t histogram_count, bound_count;
    uint64_t bounds[MAX_BOUNDS];
    bool histograms_dirty;
    uint64_t histograms_due, stall_scan_due, slow_scan_due, report_due, timer_set; /* 0: not scheduled */
    uint64_t growth_available;
    uint64_t growth_reserve; /* bytes of the budget that the initial windows of accepted clients must not use */
    uint32_t user_timeout; /* TCP_USER_TIMEOUT of clients, in milliseconds */
    uint8_t padding[MAX_PADDING];
};

/* One SSH connection after its login. */
struct wire {
    struct source source; /* must be first */
    bool closed, disconnected, blocked, paused, dirty, await_key, halted, strict, due_reported, path_is_fast;
    int fd, error;
    uint32_t mask;
    struct engine *engine;
    struct wire *previous, *next, *next_dirty, *next_broken;
    uint64_t token;
    struct gauge *gauge;
    /* receiving */
    uint8_t *received;
    size_t start, end;
    struct cipher open;
    uint32_t recv_seq, max_packet_length;
    uint64_t unaccepted; /* bytes of packets that Python has not processed */
    uint64_t received_bytes, sent_bytes, rekey_bytes; /* since the last key exchange */
    /* sending */
    uint8_t *out;
    size_t out_start, out_end, out_capacity, batch_limit;
    struct cipher seal;
    uint32_t send_seq;
    uint64_t blocked_at, slow_until;
    struct bytes deferred; /* control packets that wait for the end of a key exchange */
    uint32_t deferred_count;
    struct channel *queue_first, *queue_last; /* channels that wait to send, in order of arrival */
    uint32_t queue_size, round_size;
    /* channels */
    struct channel **table;
    uint32_t *free_numbers, table_size, free_count, used_count;
    uint64_t growth_available, growth_reserve, max_window, round_trip;
    uint64_t overflow; /* channels of listeners that were opened beyond `full_load`; `to_backend` of the gauge */
    uint32_t adjust_bytes;
};

/* One channel, and the client that is joined to it. */
struct channel {
    struct source source; /* must be first */
    bool open, abandoned, attached, is_unix, measure, bulk, queued, has_turn, touched;
    bool client_eof, client_broken, client_was_reset;
    bool backend_eof, channel_closed, channel_unwritable, link_lost, eof_delivered, sent_close, freed, ended;
    bool unannounced; /* whether the engine has allocated the token, and the client of a listener is not joined yet */
    int fd; /* the client; -1 before it is attached */
    uint32_t mask, number, peer, peer_max_packet, until_sample;
    int32_t histogram, first_piece, last_piece;
    struct engine *engine;
    struct wire *wire; /* NULL after the channel is freed */
    struct channel *previous, *next, *next_touched;
    struct channel *queue_previous, *queue_next; /* in the queue of the wire */
    struct pending pending; /* the client of a listener that waits for the channel to open */
    struct joined joined;
    uint64_t token;
    struct gauge *gauge;
    uint64_t peer_window;
    int64_t window_remaining;
    uint64_t window_size, growth, consumed, adjust_threshold, period_bytes, period_start;
    uint64_t request_time;
    struct stall stall;
    struct chunks held; /* bytes that the client's socket has not accepted */
    struct observer observer;
};

uint64_t clock_ns(void);

/* queue.c: commands, records, slots. */
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

/* command.c */
void run_commands(struct engine *);

/* loop.c */
bool engine_init(struct engine *, const uint64_t *bounds, uint32_t bound_count);
int engine_turn(struct engine *, int timeout_ms);
void engine_clear(struct engine *);
void close_reported(const struct bytes *records);
void free_later(struct engine *, struct source *);

/* thread.c */
int thread_start(struct engine *);
void thread_stop(struct engine *);
void thread_wake(struct engine *);
void thread_woken(struct engine *);
void thread_report(struct engine *, int error);
void thread_reported(struct engine *);

/* latency.c: histograms, TCP_USER_TIMEOUT of stalled clients, and the timer. */
bool histogram_ensure(struct engine *, uint32_t index);
void histogram_add(struct engine *, uint32_t index, uint64_t ns);
void histogram_emit(struct engine *, uint32_t index, bool closed);
void histogram_report(struct engine *, uint32_t index, bool later);
void stall_set(struct engine *, struct stall *, int fd, bool stalled);
void set_user_timeout(int fd, uint32_t milliseconds);
void timer_arm(struct engine *);
void timer_expired(struct engine *);

/* wire.c */
void wire_create(struct engine *, uint64_t token, const struct wire_setup *);
void wire_break(struct wire *, int error);
void wire_violation(struct wire *, bool bad_tag, const char *format, ...) __attribute__((format(printf, 3, 4)));
void wire_close(struct wire *);
void wire_check_rekey(struct wire *);
void wire_free(struct wire *);
void wire_update_mask(struct wire *);
void wire_event(struct wire *, uint32_t events);
bool wire_add_channel(struct wire *, struct channel *);
void wire_remove_channel(struct wire *, struct channel *);
struct channel *wire_find_channel(struct wire *, uint32_t number);

/* receive.c */
void receive_from_peer(struct wire *);
void receive_packets(struct wire *);

/* send.c */
bool may_send(const struct wire *);
bool congested(const struct wire *);
void send_plain(struct wire *, const uint8_t *packet, size_t size);
void send_control(struct wire *, const uint8_t *payload, size_t size);
void send_short(struct wire *, enum message, uint32_t peer, const uint32_t *more);
uint8_t *send_reserve(struct wire *, size_t size, bool grow);
uint32_t full_packet_size(const struct wire *);
void send_data(struct wire *, uint32_t peer, uint32_t size);
void send_flush(struct wire *);
void send_drain(struct wire *);
void send_resume(struct wire *);

/* turns.c: channels that wait to send. */
bool contended(const struct wire *);
void queue_channel(struct channel *);
void dequeue_channel(struct channel *);
void serve_queue(struct wire *);

/* channel.c: opening, the channel's packets. */
void channel_create(struct engine *, struct wire *, uint64_t token, const struct channel_setup *, const uint8_t *rest,
                    size_t size);
struct channel *channel_open(struct engine *, struct wire *, uint64_t token, const struct channel_setup *,
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

/* client.c: the client's socket, and data from the client. */
void client_attach(struct channel *, int fd, int histogram, int64_t flags);
void client_event(struct channel *, uint32_t events);
void client_read(struct channel *);
void client_update_mask(struct channel *);
void client_unwritable(struct channel *, int error);
void client_unregister(struct channel *);

/* rpc.c */
void report_tap(struct engine *, uint64_t token, struct observer *, bool from_backend, uint64_t now, const uint8_t *data,
                size_t size);

/* delivery.c: data for the client. */
void client_add_piece(struct channel *, const uint8_t *data, uint32_t size);
void client_deliver_all(struct engine *);
void client_flush(struct channel *);

/* ending.c: the ends of the two directions, and of the relay. */
void ending_propagate(struct channel *);
void ending_backend(struct channel *, bool close);
void ending_link_lost(struct channel *);
void ending_abort(struct channel *, enum close_reason);
void ending_finish(struct channel *, enum close_reason);
void reset_fd(int fd, bool is_unix);
void close_gracefully(int fd, bool is_unix);

#endif
