/* Simulates the sockets with which the engine connects a listener's clients to the target ("dials"). Each of these
 * sockets becomes the backend's end of a pair, or is closed.
 */
#include "listeners.h"
#include "pairs.h"

#include <errno.h>
#include <netinet/in.h>

enum dial_state { DIAL_NEW, DIAL_CONNECTING, DIAL_CONNECTED }; /* values of `counter` in struct file */

struct pair *__real_pair_create(struct engine *, uint64_t, const struct pair_setup *, const struct pending *);
struct pair *__wrap_pair_create(struct engine *, uint64_t, const struct pair_setup *, const struct pending *);

static void put_port(struct sockaddr_storage *to, uint16_t port)
{
    if (to->ss_family == AF_INET6)
        ((struct sockaddr_in6 *)to)->sin6_port = htons(port);
    else
        ((struct sockaddr_in *)to)->sin_port = htons(port);
}

socklen_t dial_target(const struct far_listener *l, struct sockaddr_storage *to)
{
    memset(to, 0, sizeof *to);
    to->ss_family = l->dials_six ? AF_INET6 : AF_INET;
    put_port(to, TARGET_PORT);
    return l->dials_six ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
}

int fake_socket(int family, int type, int protocol)
{
    struct far_channel *c = accepted_client();
    struct far_listener *l = &listeners[c->listener - 1];
    int fd;

    CHECK(l->dials && family == (l->dials_six ? AF_INET6 : AF_INET), "an unexpected family");
    CHECK(type == (SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC) && !protocol, "an unexpected type of socket");
    CHECK(network_allows(l->networks, c->address) && !c->withdrawn, "a dial for a client that must be returned");
    if (fault(&faults.socket)) {
        l->dial_failed = true;
        errno = EMFILE;
        return -1;
    }
    fd = file_open(FILE_DIAL, c->listener - 1);
    file_of(fd)->plan = l->plan;
    return fd;
}

/* Complete a connection attempt: successfully if `error` is 0, or else with this error. */
void dial_ends(struct file *f, int error)
{
    f->counter = DIAL_CONNECTED;
    f->room = UNLIMITED;
    f->error = error;
    f->dead = error != 0;
    f->reported = 0;
}

bool dial_is_connecting(const struct file *f)
{
    return f->kind == FILE_DIAL && f->counter == DIAL_CONNECTING;
}

static int begin(struct file *f)
{
    CHECK(f->options == DIAL_OPTIONS, "%d options are set before the dial", f->options);
    f->counter = DIAL_CONNECTING;
    if (f->plan == PLAN_UNREACHABLE)
        return ENETUNREACH;
    if (f->plan != PLAN_WAIT)
        dial_ends(f, f->plan == PLAN_REFUSED ? ECONNREFUSED : 0);
    return f->plan == PLAN_AT_ONCE ? 0 : fault(&faults.interrupt) ? EINTR : EINPROGRESS;
}

int fake_connect(int fd, const struct sockaddr *address, socklen_t size)
{
    struct file *f = file_of(fd);
    struct sockaddr_storage target;

    CHECK(f->kind == FILE_DIAL && size == dial_target(&listeners[f->owner], &target) &&
              memcmp(address, &target, size) == 0,
          "a dial to another target");
    errno = f->counter == DIAL_NEW ? begin(f) : f->counter == DIAL_CONNECTING ? EALREADY : f->error;
    if (f->counter == DIAL_CONNECTED && errno != EINPROGRESS && errno != EINTR)
        f->error = 0;
    listeners[f->owner].dial_failed |= errno && errno != EINPROGRESS && errno != EALREADY && errno != EINTR;
    return errno ? -1 : 0;
}

static int put_name(int fd, struct sockaddr *to, socklen_t *size, uint16_t port)
{
    const struct file *f = file_of(fd);
    struct sockaddr_storage name;
    socklen_t length;

    CHECK(f->kind == FILE_DIAL && f->counter == DIAL_CONNECTED && *size >= sizeof name, "a name of no connection");
    length = dial_target(&listeners[f->owner], &name);
    put_port(&name, port);
    memcpy(to, &name, length);
    *size = length;
    return 0;
}

int fake_getsockname(int fd, struct sockaddr *to, socklen_t *size)
{
    bool is_self = file_of(fd)->plan == PLAN_SELF;

    listeners[file_of(fd)->owner].dial_failed |= is_self;
    return put_name(fd, to, size, is_self ? TARGET_PORT : TARGET_PORT + 1);
}

int fake_getpeername(int fd, struct sockaddr *to, socklen_t *size)
{
    return put_name(fd, to, size, TARGET_PORT);
}

/* Check and record a new pair, before the engine copies bytes between the two sockets. */
static void make_pair(uint64_t token, const struct pair_setup *setup)
{
    struct file *client = file_of(setup->client), *backend = file_of(setup->backend);
    struct far_channel *c = &channels[client->owner];
    struct far_listener *l = &listeners[c->listener - 1];
    struct far_pair *p = &pairs[pair_count];

    CHECK(l->dials && backend->kind == FILE_DIAL && backend->owner == c->listener - 1, "a wrong pair");
    CHECK(backend->counter == DIAL_CONNECTED && !backend->dead && backend->plan != PLAN_SELF, "not a connection");
    CHECK(!client->registered && !backend->registered && setup->flags == (ATTACH_MEASURE | ATTACH_DEFERRED) && setup->tap == l->tap,
          "a pair in a wrong state");
    *p = (struct far_pair){.token = token, .tap = l->tap, .listener = c->listener,
                            .accepted_at = c->accepted_at};
    p->sides[0] = (struct far_side){.fd = setup->client, .written = client->available, .failed = c->failed,
                                    .fin = client->ended && !client->dead};
    p->sides[1] = (struct far_side){.fd = setup->backend};
    backend->room = l->dial_room;
    backend->counter = 0;
    client->kind = backend->kind = FILE_SIDE;
    client->owner = 2 * pair_count;
    backend->owner = 2 * pair_count++ + 1;
    c->final = true;
}

struct pair *__wrap_pair_create(struct engine *e, uint64_t token, const struct pair_setup *setup,
                                const struct pending *accepted)
{
    CHECK((file_of(setup->client)->kind == FILE_CLIENT) == (accepted != NULL), "a wrong client");
    if (accepted)
        make_pair(token, setup);
    return __real_pair_create(e, token, setup, accepted);
}

/* Handle RECORD_JOINED. Return false if the record does not concern a pair of this listener. */
bool dial_joined(int listener, const struct message_header *h)
{
    for (int at = 0; at < pair_count; at++) {
        struct far_pair *p = &pairs[at];

        if (p->token != (uint64_t)h->a || p->listener != listener + 1 || p->final)
            continue;
        CHECK(!p->announced && !h->b, "a wrong client");
        p->announced = true;
        return true;
    }
    return false;
}
