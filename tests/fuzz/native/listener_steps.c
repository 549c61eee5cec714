/* Runs the steps of a script that concern listeners and their clients. */
#include "listeners.h"

#include <errno.h>
#include <netinet/in.h>

#define MANY_CLIENTS 70u /* more clients than a listener permits to wait for the target at the same time */
#define MAX_NETWORKS 2   /* maximum number of permitted networks of a listener */
#define MAX_EARLY 300u   /* maximum number of bytes that a client sends before the engine connects it to the target */

/* Write the networks of a set of permitted networks, and return their number. Set 0 is empty, which permits every
 * address.
 */
static uint32_t put_networks(uint8_t *to, uint8_t set)
{
    static const struct network half = {.size = 4, .prefix = 9, .address = {10, 127}},
                                one = {.size = 4, .prefix = 32, .address = {10, 0, 0, 5}},
                                all_six = {.size = 16, .prefix = 0},
                                half_six = {.size = 16, .prefix = 9, .address = {0xfd}};
    const struct network *const sets[4][MAX_NETWORKS] = {{NULL}, {&half}, {&half_six}, {&one, &all_six}};
    uint32_t count = 0;

    for (; count < MAX_NETWORKS && sets[set][count]; count++)
        memcpy(to + count * sizeof half, sets[set][count], sizeof half);
    return count;
}

/* Return whether a set of permitted networks permits an address. The addresses 0 to 3 are 10.0.0.5, 10.200.0.1,
 * fd00:5:: and fd80:5::.
 */
bool network_allows(uint8_t set, uint8_t address)
{
    static const uint8_t allowed[4] = {0xf, 0x1, 0x4, 0xd};

    return allowed[set] >> address & 1;
}

/* Write the socket options that the engine must set before it connects to a target. The harness only counts the
 * options that the engine sets.
 */
static size_t put_options(uint8_t *to)
{
    static const struct socket_option options[DIAL_OPTIONS] = {{IPPROTO_TCP, 1, 1}, {SOL_SOCKET, 9, 1}};

    memcpy(to, options, sizeof options);
    return sizeof options;
}

/* Create a listener. For each client, the engine connects to the target directly if `dials` is true. Otherwise, the
 * engine opens an SSH channel.
 */
static void listen_step(const struct step *s, bool dials)
{
    struct far_listener *l = &listeners[listener_count];
    uint8_t payload[sizeof(struct listener_setup) + MAX_CONNECTIONS * sizeof(uint64_t) +
                    MAX_NETWORKS * sizeof(struct network) + 32] = {0};
    struct listener_setup setup = {.histogram = s->a >> 4, .open_histogram = OPEN_HISTOGRAM + (uint32_t)listener_count,
                                   .min_window = size_of(s->b % 31), .max_packet = 262144, .type_size = 4,
                                   .rest_size = 4, .tap = tap_of(s->a >> 2), .full_load = s->b & 3, .min_responses = s->which >> 6};
    size_t size = sizeof setup;

    if (listener_count == MAX_LISTENERS)
        return;
    *l = (struct far_listener){.token = slot_allocate(engine), .fd = file_open(FILE_LISTENER, listener_count),
                               .permits = s->which >> 2 & 15, .networks = s->a & 3, .tap = setup.tap,
                               .min_responses = setup.min_responses};
    l->permits = l->permits == 15 ? 100 : l->permits;
    setup.fd = l->fd;
    setup.permits = l->permits;
    setup.min_window += setup.min_window < 4 ? 4 : 0;
    setup.window = setup.min_window + size_of((s->b >> 3) % 31);
    l->min_window = setup.min_window;
    l->window = setup.window;
    l->dials = dials;
    l->dials_six = s->which & 1;
    l->dial_room = UNLIMITED;
    for (int at = 0; at < connection_count && !dials; at++)
        if ((s->which & 3) != at + 1) { /* 1 excludes the first SSH connection, and 2 excludes the second */
            memcpy(payload + size, &connections[at].token, sizeof(uint64_t));
            size += sizeof(uint64_t);
            setup.connection_count++;
        }
    setup.network_count = put_networks(payload + size, l->networks);
    size += setup.network_count * sizeof(struct network);
    if (dials) {
        setup.address_size = dial_target(l, &setup.address);
        setup.option_count = DIAL_OPTIONS;
        size += put_options(payload + size);
    } else {
        put_u32(payload + size + 4, LISTENER_INDEX + (uint32_t)listener_count);
        size += setup.type_size + setup.rest_size;
    }
    listener_count++;
    memcpy(payload, &setup, sizeof setup);
    python_payload(COMMAND_LISTEN, l->token, payload, size);
}

/* Choose the result of the listener's next connections to the target, or complete the oldest connection attempt. */
static void dial_step(struct far_listener *l, const struct step *s)
{
    static const int errors[] = {0, ECONNREFUSED, ECONNRESET};
    uint8_t choice = s->a % (PLANS + 3);

    if (choice < PLANS) {
        l->plan = choice;
        l->dial_room = s->b & 1 ? UNLIMITED : size_of(s->b >> 1);
        return;
    }
    for (int at = 0; at < file_count; at++)
        if (dial_is_connecting(&files[at]) && &listeners[files[at].owner] == l) {
            dial_ends(&files[at], errors[choice - PLANS]);
            return;
        }
}

/* Simulate clients that connect. The clients wait in the queue of the listening socket. */
static void connect_clients(struct far_listener *l, const struct step *s)
{
    uint32_t times = s->b % 8 == 5 ? MANY_CLIENTS : 1;

    for (; times && channel_count < MAX_CHANNELS; times--) {
        struct far_channel *c = &channels[channel_count++];

        *c = (struct far_channel){.fd = -1, .listener = (int)(l - listeners) + 1, .address = s->b >> 6, .tap = l->tap};
        c->written = data_size(s->a, MAX_EARLY);
        c->early_room = size_of(s->b >> 3);
        file_of(l->fd)->available++;
    }
}

/* Make the engine return each client that it accepts from now on to Python. The function `withdraw` in
 * module_commands.c does the same.
 */
void withdraw(struct far_listener *l)
{
    l->withdrawn = true;
    atomic_store(&slot_find(engine, l->token)->held, 1);
}

static void unlisten(struct far_listener *l, uint8_t how)
{
    switch (how % 4) {
    case 2: /* Python sends COMMAND_UNLISTEN later */
        withdraw(l);
        break;
    case 3:
        l->withdraws = true;
        break;
    default:
        withdraw(l);
        l->unlisten_sent = true;
        python_command(COMMAND_UNLISTEN, l->token, 0, 0, 0);
    }
}

static void recall(struct far_listener *l, const struct far_connection *conn, const struct step *s)
{
    bool of_connection = s->a & 1;

    if (of_connection ? conn->final : !l || l->final)
        return;
    for (int at = 0; at < listener_count; at++)
        listeners[at].recalled |= of_connection || l == &listeners[at];
    python_command(COMMAND_RECALL, of_connection ? conn->token : l->token, 0, 0, 0);
}

bool listener_step(const struct step *s)
{
    struct far_listener *l = listener_count ? &listeners[(s->which & 0x3f) % listener_count] : NULL;

    switch (s->kind) {
    case STEP_LISTEN:
    case STEP_LISTEN_DIAL:
        listen_step(s, s->kind == STEP_LISTEN_DIAL);
        return true;
    case STEP_DIAL:
        if (l)
            dial_step(l, s);
        return true;
    case STEP_CONNECT:
        if (l && file_is_open(l->fd))
            connect_clients(l, s);
        return true;
    case STEP_PERMIT:
        if (l && !l->final) {
            l->permits += s->a % 8;
            python_command(COMMAND_PERMIT, l->token, s->a % 8, 0, 0);
        }
        return true;
    case STEP_UNLISTEN:
        if (l && !l->final)
            unlisten(l, s->a);
        return true;
    case STEP_RECALL:
        recall(l, chosen_connection(s), s);
        return true;
    default:
        return false;
    }
}
