/* Manages an SSH connection, called a wire: its setup, socket events, channel numbers, and closing. */
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
void wire_create(struct engine *e, uint64_t token, const struct wire_setup *setup)
{
    struct gauge *gauge = slot_find(e, token);
    struct wire *w = gauge ? calloc(1, sizeof *w) : NULL;
    const int64_t no_memory[4] = {ENOMEM, 0, 0, 0};

    if (!w) {
        close(setup->fd);
        emit(e, RECORD_LOST, token, no_memory, NULL, 0);
        return;
    }
    *w = (struct wire){
        .source.kind = SOURCE_WIRE, .engine = e, .token = token, .gauge = gauge, .fd = setup->fd,
        .strict = setup->strict != 0, .recv_seq = setup->recv_seq, .send_seq = setup->send_seq,
        .max_packet_length = setup->max_packet_length, .rekey_bytes = setup->rekey_bytes,
        .growth_available = setup->growth_bytes, .growth_reserve = setup->growth_bytes / 2, .max_window = setup->max_window,
        .adjust_bytes = setup->adjust_bytes, .batch_limit = BATCH_SIZE, .out_capacity = BATCH_SIZE,
        .next = e->wires,
    };
    if (e->wires)
        e->wires->previous = w;
    e->wires = w;
    gauge->object = w;
    gauge_set(&gauge->last_active, clock_ns());
    w->received = mmap(NULL, RECEIVE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (w->received == MAP_FAILED)
        w->received = NULL;
    w->out = malloc(BATCH_SIZE);
    if (w->received && w->out && set_key(&w->seal, true, &setup->seal) && set_key(&w->open, false, &setup->open))
        wire_update_mask(w);
    else
        wire_break(w, ENOMEM);
}

/* Mark an SSH connection as closed. The loop frees the connection at the end of the iteration. Until then, the callers of this
 * function can still access it. */
void wire_break(struct wire *w, int error)
{
    if (w->closed)
        return;
    w->closed = true;
    w->error = error;
    w->next_broken = w->engine->broken;
    w->engine->broken = w;
}

/* Report that the server has broken the SSH protocol, and stop receiving. Python then sends MSG_DISCONNECT, and closes the
 * connection. */
void wire_violation(struct wire *w, bool bad_tag, const char *format, ...)
{
    char text[160];
    const int64_t arguments[4] = {bad_tag, 0, 0, 0};
    va_list values;
    int size;

    if (w->halted || w->closed)
        return;
    w->halted = true;
    va_start(values, format);
    size = vsnprintf(text, sizeof text, format, values);
    va_end(values);
    emit(w->engine, RECORD_VIOLATION, w->token, arguments, text, size < (int)sizeof text ? (size_t)size : sizeof text);
}

/* If `rekey_bytes` bytes were sent or received with the current keys, report once that a key exchange is due. */
void wire_check_rekey(struct wire *w)
{
    if (!w->due_reported && !w->paused && (w->received_bytes >= w->rekey_bytes || w->sent_bytes >= w->rekey_bytes)) {
        w->due_reported = true;
        emit(w->engine, RECORD_REKEY_DUE, w->token, NULL, NULL, 0);
    }
}

/* Close an SSH connection, end its channels, and emit RECORD_LOST. Called by the loop, or when the engine is closed. */
void wire_free(struct wire *w)
{
    struct engine *e = w->engine;
    const int64_t arguments[4] = {w->error, 0, 0, 0};

    w->closed = true;
    if (w->mask)
        epoll_ctl(e->epoll, EPOLL_CTL_DEL, w->fd, NULL);
    close(w->fd);
    for (uint32_t at = 0; at < w->used_count; at++) {
        struct channel *c = w->table[at];

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
    if (w->previous)
        w->previous->next = w->next;
    else
        e->wires = w->next;
    if (w->next)
        w->next->previous = w->previous;
    cipher_clear(&w->seal);
    cipher_clear(&w->open);
    if (w->received)
        munmap(w->received, RECEIVE_SIZE);
    free(w->out);
    free(w->table);
    free(w->free_numbers);
    bytes_free(&w->deferred);
    w->gauge->object = NULL;
    joined_report_lost(e, w->token);
    emit(e, RECORD_LOST, w->token, arguments, NULL, 0);
    free_later(e, &w->source);
}

/* Set the events that epoll reports for the socket. If the mask is empty, unregister the socket, because epoll reports
 * hang-ups even for an empty mask. */
void wire_update_mask(struct wire *w)
{
    bool paused = w->await_key || w->halted || w->unaccepted > MAX_UNACCEPTED || congested(w) ||
                  w->end - w->start == RECEIVE_SIZE;
    uint32_t mask = (paused ? 0 : EPOLLIN) | (w->blocked ? EPOLLOUT : 0);
    struct epoll_event event = {.events = mask, .data.ptr = &w->source};

    if (mask == w->mask || w->closed)
        return;
    if (epoll_ctl(w->engine->epoll, !mask ? EPOLL_CTL_DEL : w->mask ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, w->fd, &event) < 0)
        wire_break(w, errno);
    else
        w->mask = mask;
}

void wire_event(struct wire *w, uint32_t events)
{
    if (w->closed)
        return;
    if (events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) {
        send_drain(w);
        receive_packets(w); /* handle the packets that stayed in the receive buffer while `congested` was true */
    }
    if (events & ~(uint32_t)EPOLLOUT && w->mask & EPOLLIN)
        receive_from_peer(w);
    wire_update_mask(w);
}

/* Assign a number to the channel. Return false if no number is free, or if memory is exhausted. */
bool wire_add_channel(struct wire *w, struct channel *c)
{
    if (!w->free_count && w->used_count == w->table_size) {
        uint32_t size = w->table_size ? w->table_size * 2 : 64;
        struct channel **table = size > MAX_CHANNELS ? NULL : realloc(w->table, size * sizeof(struct channel *));
        uint32_t *numbers;

        if (!table)
            return false;
        w->table = table;
        numbers = realloc(w->free_numbers, size * sizeof *numbers);
        if (!numbers)
            return false;
        w->free_numbers = numbers;
        w->table_size = size;
    }
    /* Prefer channel numbers that were never used. A server that still uses a closed channel could confuse this channel with a
     * new channel of the same number. */
    c->number = w->used_count < w->table_size ? w->used_count++ : w->free_numbers[--w->free_count];
    w->table[c->number] = c;
    gauge_set(&w->gauge->responses, w->used_count - w->free_count);
    return true;
}

void wire_remove_channel(struct wire *w, struct channel *c)
{
    w->table[c->number] = NULL;
    w->free_numbers[w->free_count++] = c->number;
    gauge_set(&w->gauge->responses, w->used_count - w->free_count);
}

struct channel *wire_find_channel(struct wire *w, uint32_t number)
{
    return number < w->used_count ? w->table[number] : NULL;
}
