/* Manages an SSH connection: its setup, socket events, channel numbers, and closing. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <unistd.h>

#include "listener.h"

#define MAX_CHANNELS (1u << 20)

static bool set_key(struct cipher *c, bool sealing, const struct key_setup *setup)
{
    const struct cipher_type *type = cipher_type_named(setup->cipher);

    return type && cipher_set(c, type, sealing, setup->key, setup->key_size, setup->iv, setup->iv_size);
}

/* Take over an SSH connection after its login. A failure is reported as RECORD_LOST. */
void connection_create(struct engine *e, uint64_t token, const struct connection_setup *setup)
{
    struct gauge *gauge = slot_find(e, token);
    struct connection *conn = gauge ? calloc(1, sizeof *conn) : NULL;
    const int64_t no_memory[4] = {ENOMEM, 0, 0, 0};

    if (!conn) {
        close(setup->fd);
        emit(e, RECORD_LOST, token, no_memory, NULL, 0);
        return;
    }
    *conn = (struct connection){
        .source.kind = SOURCE_CONNECTION, .engine = e, .token = token, .gauge = gauge, .fd = setup->fd,
        .strict = setup->strict != 0, .recv_seq = setup->recv_seq, .send_seq = setup->send_seq,
        .max_packet_length = setup->max_packet_length, .rekey_bytes = setup->rekey_bytes,
        .growth_available = setup->growth_bytes, .growth_reserve = setup->growth_bytes / 2, .max_window = setup->max_window,
        .adjust_bytes = setup->adjust_bytes, .batch_limit = BATCH_SIZE, .out_capacity = BATCH_SIZE,
        .next = e->connections,
    };
    if (e->connections)
        e->connections->previous = conn;
    e->connections = conn;
    gauge->object = conn;
    gauge_set(&gauge->last_active, clock_ns());
    conn->received = mmap(NULL, RECEIVE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (conn->received == MAP_FAILED)
        conn->received = NULL;
    conn->out = malloc(BATCH_SIZE);
    if (conn->received && conn->out && set_key(&conn->seal, true, &setup->seal) && set_key(&conn->open, false, &setup->open))
        connection_update_mask(conn);
    else
        connection_break(conn, ENOMEM);
}

/* Mark an SSH connection as closed. The loop frees the connection at the end of the iteration. Until then, the callers of this
 * function can still access it. */
void connection_break(struct connection *conn, int error)
{
    if (conn->closed)
        return;
    conn->closed = true;
    conn->error = error;
    conn->next_broken = conn->engine->broken;
    conn->engine->broken = conn;
}

/* Report that the server has broken the SSH protocol, and stop receiving. Python then sends MSG_DISCONNECT, and closes the
 * connection. */
void connection_violation(struct connection *conn, bool bad_tag, const char *format, ...)
{
    char text[160];
    const int64_t arguments[4] = {bad_tag, 0, 0, 0};
    va_list values;
    int size;

    if (conn->halted || conn->closed)
        return;
    conn->halted = true;
    va_start(values, format);
    size = vsnprintf(text, sizeof text, format, values);
    va_end(values);
    emit(conn->engine, RECORD_VIOLATION, conn->token, arguments, text, size < (int)sizeof text ? (size_t)size : sizeof text);
}

/* If `rekey_bytes` bytes were sent or received with the current keys, report once that a key exchange is due. */
void connection_check_rekey(struct connection *conn)
{
    bool due = conn->received_bytes >= conn->rekey_bytes || conn->sent_bytes >= conn->rekey_bytes;

    if (due && !conn->due_reported && !conn->paused) {
        conn->due_reported = true;
        emit(conn->engine, RECORD_REKEY_DUE, conn->token, NULL, NULL, 0);
    }
}

/* Close an SSH connection, end its channels, and emit RECORD_LOST. Called by the loop, or when the engine is closed. */
void connection_free(struct connection *conn)
{
    struct engine *e = conn->engine;
    const int64_t arguments[4] = {conn->error, 0, 0, 0};

    conn->closed = true;
    if (conn->mask)
        epoll_ctl(e->epoll, EPOLL_CTL_DEL, conn->fd, NULL);
    close(conn->fd);
    for (uint32_t at = 0; at < conn->used_count; at++) {
        struct channel *c = conn->table[at];

        if (!c)
            continue;
        channel_free(c);
        if (c->open) {
            ending_link_lost(c);
        } else {
            c->link_lost = true;
            channel_refused(c, OPEN_CONNECT_FAILED, (const uint8_t *)"connection lost", 15);
        }
    }
    if (conn->previous)
        conn->previous->next = conn->next;
    else
        e->connections = conn->next;
    if (conn->next)
        conn->next->previous = conn->previous;
    cipher_clear(&conn->seal);
    cipher_clear(&conn->open);
    if (conn->received)
        munmap(conn->received, RECEIVE_SIZE);
    free(conn->out);
    free(conn->table);
    free(conn->free_numbers);
    bytes_free(&conn->deferred);
    conn->gauge->object = NULL;
    joined_report_lost(e, conn->token);
    emit(e, RECORD_LOST, conn->token, arguments, NULL, 0);
    free_later(e, &conn->source);
}

/* Set the events that epoll reports for the socket. If the mask is empty, unregister the socket, because epoll reports
 * hang-ups even for an empty mask. */
void connection_update_mask(struct connection *conn)
{
    bool paused = conn->await_key || conn->halted || conn->unaccepted > MAX_UNACCEPTED || congested(conn) ||
                  conn->end - conn->start == RECEIVE_SIZE;
    uint32_t mask = (paused ? 0 : EPOLLIN) | (conn->blocked ? EPOLLOUT : 0);
    struct epoll_event event = {.events = mask, .data.ptr = &conn->source};

    if (mask == conn->mask || conn->closed)
        return;
    int operation = !mask ? EPOLL_CTL_DEL : conn->mask ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
    if (epoll_ctl(conn->engine->epoll, operation, conn->fd, &event) < 0)
        connection_break(conn, errno);
    else
        conn->mask = mask;
}

void connection_event(struct connection *conn, uint32_t events)
{
    if (conn->closed)
        return;
    if (events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) {
        send_drain(conn);
        receive_packets(conn); /* handle the packets that stayed in the receive buffer while `congested` was true */
    }
    if (events & ~(uint32_t)EPOLLOUT && conn->mask & EPOLLIN)
        receive_from_peer(conn);
    connection_update_mask(conn);
}

/* Assign a number to the channel. Return false if no number is free, or if memory is exhausted. */
bool connection_add_channel(struct connection *conn, struct channel *c)
{
    if (!conn->free_count && conn->used_count == conn->table_size) {
        uint32_t size = conn->table_size ? conn->table_size * 2 : 64;
        struct channel **table = size > MAX_CHANNELS ? NULL : realloc(conn->table, size * sizeof(struct channel *));
        uint32_t *numbers;

        if (!table)
            return false;
        conn->table = table;
        numbers = realloc(conn->free_numbers, size * sizeof *numbers);
        if (!numbers)
            return false;
        conn->free_numbers = numbers;
        conn->table_size = size;
    }
    /* Prefer channel numbers that were never used. A server that still uses a closed channel could confuse this channel with a
     * new channel of the same number. */
    c->number = conn->used_count < conn->table_size ? conn->used_count++ : conn->free_numbers[--conn->free_count];
    conn->table[c->number] = c;
    gauge_set(&conn->gauge->responses, conn->used_count - conn->free_count);
    return true;
}

void connection_remove_channel(struct connection *conn, struct channel *c)
{
    conn->table[c->number] = NULL;
    conn->free_numbers[conn->free_count++] = c->number;
    gauge_set(&conn->gauge->responses, conn->used_count - conn->free_count);
}

struct channel *connection_find_channel(struct connection *conn, uint32_t number)
{
    return number < conn->used_count ? conn->table[number] : NULL;
}
