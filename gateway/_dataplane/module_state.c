/* Implements the methods of the Python type `Engine` for records, tokens, counters and internal state. */
#include <errno.h>

#include "listener.h"
#include "module.h"
#include "pair.h"

static PyObject *record_tuple(const struct message_header *header, const uint8_t *payload)
{
    return Py_BuildValue("(IK(LLLL)y#)", header->kind, (unsigned long long)header->token, (long long)header->a,
                         (long long)header->b, (long long)header->c, (long long)header->d, (const char *)payload,
                         (Py_ssize_t)header->payload);
}

PyObject *method_take(PyObject *self, PyObject *unused)
{
    struct engine *e = engine_of(self);
    PyObject *list = e ? PyList_New(0) : NULL;
    struct message_header header;
    struct bytes taken;
    int failed;

    (void)unused;
    if (!list)
        return NULL;
    taken = take_records(e, &failed);
    for (size_t at = 0; at < taken.size && list; at += header.size) {
        PyObject *tuple;

        memcpy(&header, taken.data + at, sizeof header);
        tuple = record_tuple(&header, taken.data + at + sizeof header);
        if (!tuple || PyList_Append(list, tuple) < 0)
            Py_CLEAR(list);
        Py_XDECREF(tuple);
    }
    if (failed && list) {
        Py_CLEAR(list);
        errno = failed;
        PyErr_SetFromErrno(PyExc_OSError);
    }
    if (!list) /* Python does not get these records, so close the sockets in them */
        close_reported(&taken);
    bytes_free(&taken);
    return list;
}

PyObject *method_token(PyObject *self, PyObject *unused)
{
    struct engine *e = engine_of(self);
    uint64_t token = e ? slot_allocate(e) : 0;

    (void)unused;
    if (!e)
        return NULL;
    return token ? PyLong_FromUnsignedLongLong(token) : PyErr_NoMemory();
}

PyObject *method_release(PyObject *self, PyObject *token)
{
    struct engine *e = engine_of(self);
    unsigned long long number = e ? PyLong_AsUnsignedLongLong(token) : 0;

    if (!e || PyErr_Occurred())
        return NULL;
    slot_release(e, number);
    Py_RETURN_NONE;
}

static unsigned long long gauge_get(_Atomic uint64_t *field)
{
    return atomic_load_explicit(field, memory_order_relaxed);
}

PyObject *method_gauge(PyObject *self, PyObject *token)
{
    struct engine *e = engine_of(self);
    unsigned long long number = e ? PyLong_AsUnsignedLongLong(token) : 0;
    struct gauge *g;

    if (!e || PyErr_Occurred())
        return NULL;
    g = slot_find(e, number);
    if (!g) {
        PyErr_SetString(PyExc_KeyError, "no object has this token");
        return NULL;
    }
    return Py_BuildValue("(KKKddKN)", gauge_get(&g->to_backend), gauge_get(&g->from_backend),
                         gauge_get(&g->responses), (double)gauge_get(&g->last_active) / (double)SECOND,
                         (double)gauge_get(&g->request_time) / (double)SECOND, gauge_get(&g->held),
                         PyBool_FromLong(atomic_load(&g->eof_delivered) != 0));
}

static PyObject *state_of_pair(const struct pair *p)
{
    return Py_BuildValue("{s:i,s:i,s:n,s:n,s:n,s:n}", "client", p->client.fd, "backend", p->backend.fd, "held",
                         (Py_ssize_t)(p->client.held.size + p->backend.held.size), "piped",
                         (Py_ssize_t)(p->client.pipe.size + p->backend.pipe.size), "pipes",
                         (Py_ssize_t)(p->client.pipe.read_end >= 0) + (p->backend.pipe.read_end >= 0), "moved",
                         (Py_ssize_t)(p->client.tracks_fin || p->backend.tracks_fin));
}

static PyObject *state_of(struct gauge *g)
{
    if (!g || !g->object)
        Py_RETURN_NONE;
    if (((struct source *)g->object)->kind == SOURCE_LISTENER)
        return Py_BuildValue("{s:I}", "pending", ((struct listener *)g->object)->pending);
    if (((struct source *)g->object)->kind == SOURCE_SIDE)
        return state_of_pair(g->object);
    if (((struct source *)g->object)->kind == SOURCE_CONNECTION) {
        const struct connection *conn = g->object;

        return Py_BuildValue("{s:n,s:N,s:N,s:N,s:I}", "waiting", (Py_ssize_t)(conn->out_end - conn->out_start), "blocked",
                             PyBool_FromLong(conn->blocked), "congested", PyBool_FromLong(congested(conn)), "short_turns",
                             PyBool_FromLong(contended(conn)), "queued", conn->queue_size);
    }
    const struct channel *c = g->object;

    return Py_BuildValue("{s:i,s:K,s:L,s:K,s:n,s:n,s:K,s:N,s:N,s:N}", "fd", c->fd, "size",
                         (unsigned long long)c->window_size, "granted", (long long)c->window_remaining, "owed",
                         (unsigned long long)c->consumed, "held", (Py_ssize_t)c->held.size, "memory",
                         (Py_ssize_t)chunks_memory(&c->held), "peer_window", (unsigned long long)c->peer_window,
                         "may_send", PyBool_FromLong(c->peer_window && !c->client_eof && !c->sent_close &&
                                                     !c->channel_unwritable),
                         "backend_eof", PyBool_FromLong(c->backend_eof), "closed", PyBool_FromLong(c->channel_closed));
}

/* Return the internal state of an SSH connection, channel, listener or pair as a dict, for tests. If the thread of
 * the native engine is handling events, wait until the thread has finished. */
PyObject *method_inspect(PyObject *self, PyObject *token)
{
    struct engine *e = engine_of(self);
    unsigned long long number = e ? PyLong_AsUnsignedLongLong(token) : 0;
    PyObject *state;

    if (!e || PyErr_Occurred())
        return NULL;
    pthread_mutex_lock(&e->turn);
    state = state_of(slot_find(e, number));
    pthread_mutex_unlock(&e->turn);
    return state;
}

PyObject *method_growth(PyObject *self, PyObject *unused)
{
    struct engine *e = engine_of(self);
    unsigned long long available;

    (void)unused;
    if (!e)
        return NULL;
    pthread_mutex_lock(&e->turn);
    available = e->growth_available;
    pthread_mutex_unlock(&e->turn);
    return PyLong_FromUnsignedLongLong(available);
}
