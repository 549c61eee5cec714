/* The Python type `Engine`. Its methods append commands and take records; `turn` runs the loop without the GIL. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <openssl/crypto.h>
#include <unistd.h>

#include "engine.h"

struct object {
    PyObject_HEAD
    struct engine *engine; /* NULL after `close` */
};

static struct engine *engine_of(PyObject *self)
{
    struct engine *e = ((struct object *)(void *)self)->engine;

    if (!e)
        PyErr_SetString(PyExc_ValueError, "the engine is closed");
    return e;
}

static PyObject *engine_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *bounds, *self;
    unsigned long long growth;
    unsigned int user_timeout;
    uint64_t ns[MAX_BOUNDS];
    struct engine *e;
    Py_ssize_t count;

    if (kwargs && PyDict_Size(kwargs)) {
        PyErr_SetString(PyExc_TypeError, "Engine takes no keyword arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "O!KI", &PyTuple_Type, &bounds, &growth, &user_timeout))
        return NULL;
    count = PyTuple_Size(bounds);
    if (count < 1 || count > (Py_ssize_t)MAX_BOUNDS) {
        PyErr_Format(PyExc_ValueError, "%zd bounds, not 1 to %d", count, MAX_BOUNDS);
        return NULL;
    }
    for (Py_ssize_t at = 0; at < count; at++) {
        double bound = PyFloat_AsDouble(PyTuple_GetItem(bounds, at));

        if (PyErr_Occurred())
            return NULL;
        ns[at] = (uint64_t)(bound * (double)SECOND);
    }
    self = ((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
    if (!self)
        return NULL;
    e = calloc(1, sizeof *e);
    if (!e) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    e->growth_available = growth;
    e->user_timeout = user_timeout;
    if (!engine_init(e, ns, (uint32_t)count)) {
        PyErr_SetFromErrno(PyExc_OSError);
        engine_clear(e);
        free(e);
        Py_DECREF(self);
        return NULL;
    }
    ((struct object *)(void *)self)->engine = e;
    return self;
}

static void close_engine(PyObject *self)
{
    struct object *o = (struct object *)(void *)self;

    if (o->engine) {
        engine_clear(o->engine);
        free(o->engine);
        o->engine = NULL;
    }
}

static void engine_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);

    close_engine(self);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static PyObject *method_close(PyObject *self, PyObject *unused)
{
    (void)unused;
    close_engine(self);
    Py_RETURN_NONE;
}

static PyObject *method_fileno(PyObject *self, PyObject *unused)
{
    struct engine *e = engine_of(self);

    (void)unused;
    return e ? PyLong_FromLong(e->epoll) : NULL;
}

static PyObject *method_turn(PyObject *self, PyObject *timeout)
{
    struct engine *e = engine_of(self);
    long milliseconds = e ? PyLong_AsLong(timeout) : 0;
    bool records;

    if (!e || PyErr_Occurred())
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    records = engine_turn(e, (int)milliseconds);
    Py_END_ALLOW_THREADS
    return PyBool_FromLong(records);
}

static PyObject *record_tuple(const struct message_header *header, const uint8_t *payload)
{
    return Py_BuildValue("(IK(LLLL)y#)", header->kind, (unsigned long long)header->token, (long long)header->a,
                         (long long)header->b, (long long)header->c, (long long)header->d, (const char *)payload,
                         (Py_ssize_t)header->payload);
}

static PyObject *method_take(PyObject *self, PyObject *unused)
{
    struct engine *e = engine_of(self);
    PyObject *list = e ? PyList_New(0) : NULL;
    struct message_header header;
    struct bytes taken;
    bool lost;

    (void)unused;
    if (!list)
        return NULL;
    pthread_mutex_lock(&e->lock);
    taken = e->records;
    e->records = (struct bytes){0};
    lost = e->records_lost;
    pthread_mutex_unlock(&e->lock);
    for (size_t at = 0; at < taken.size && list; at += header.size) {
        PyObject *tuple;

        memcpy(&header, taken.data + at, sizeof header);
        tuple = record_tuple(&header, taken.data + at + sizeof header);
        if (!tuple || PyList_Append(list, tuple) < 0)
            Py_CLEAR(list);
        Py_XDECREF(tuple);
    }
    bytes_free(&taken);
    if (lost && list) {
        Py_CLEAR(list);
        PyErr_NoMemory();
    }
    return list;
}

static PyObject *method_token(PyObject *self, PyObject *unused)
{
    struct engine *e = engine_of(self);
    uint64_t token = e ? slot_allocate(e) : 0;

    (void)unused;
    if (!e)
        return NULL;
    return token ? PyLong_FromUnsignedLongLong(token) : PyErr_NoMemory();
}

static PyObject *method_release(PyObject *self, PyObject *token)
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

static PyObject *method_gauge(PyObject *self, PyObject *token)
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
    return Py_BuildValue("(KKKddK)", gauge_get(&g->to_backend), gauge_get(&g->from_backend),
                         gauge_get(&g->responses), (double)gauge_get(&g->last_active) / (double)SECOND,
                         (double)gauge_get(&g->request_time) / (double)SECOND, gauge_get(&g->held));
}

/* Return the state of a wire or channel as a dict. For tests: the loop must not run in another thread. */
static PyObject *method_inspect(PyObject *self, PyObject *token)
{
    struct engine *e = engine_of(self);
    unsigned long long number = e ? PyLong_AsUnsignedLongLong(token) : 0;
    struct gauge *g = e && !PyErr_Occurred() ? slot_find(e, number) : NULL;

    if (!e || PyErr_Occurred())
        return NULL;
    if (!g || !g->object)
        Py_RETURN_NONE;
    if (((struct source *)g->object)->kind == SOURCE_WIRE) {
        const struct wire *w = g->object;

        return Py_BuildValue("{s:n,s:N,s:N,s:N,s:I}", "waiting", (Py_ssize_t)(w->out_end - w->out_start), "blocked",
                             PyBool_FromLong(w->blocked), "congested", PyBool_FromLong(congested(w)), "short_turns",
                             PyBool_FromLong(contended(w)), "queued", w->queue_size);
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

static PyObject *method_growth(PyObject *self, PyObject *unused)
{
    struct engine *e = engine_of(self);

    (void)unused;
    return e ? PyLong_FromUnsignedLongLong(e->growth_available) : NULL;
}

static PyObject *queued(struct engine *e, const struct message_header *header, const void *payload, const void *more,
                        size_t more_size)
{
    if (!queue_command(e, header, payload, more, more_size))
        return PyErr_NoMemory();
    Py_RETURN_NONE;
}

/* Copy a key. Return false, with an exception, if its size cannot be right. */
static bool fill_key(struct key_setup *setup, const char *cipher, const Py_buffer *key, const Py_buffer *iv)
{
    const struct cipher_type *type = cipher_type_named(cipher);

    if (!type || type->key_size != (size_t)key->len || type->iv_size != (size_t)iv->len) {
        PyErr_Format(PyExc_ValueError, "%s does not have a key of %zd and an IV of %zd bytes", cipher, key->len,
                     iv->len);
        return false;
    }
    strncpy(setup->cipher, cipher, sizeof setup->cipher - 1);
    setup->key_size = (uint32_t)key->len;
    setup->iv_size = (uint32_t)iv->len;
    memcpy(setup->key, key->buf, (size_t)key->len);
    if (iv->len)
        memcpy(setup->iv, iv->buf, (size_t)iv->len);
    return true;
}

static PyObject *method_wire(PyObject *self, PyObject *args)
{
    struct engine *e = engine_of(self);
    struct message_header header = {.kind = COMMAND_WIRE};
    struct wire_setup setup = {0};
    const char *seal_cipher, *open_cipher;
    Py_buffer seal_key, seal_iv, open_key, open_iv, received;
    unsigned long long token, rekey, growth, window;
    PyObject *result = NULL;
    int strict;

    if (!e || !PyArg_ParseTuple(args, "Ki(sy*y*I)(sy*y*I)IpKKKIy*", &token, &setup.fd, &seal_cipher, &seal_key,
                                &seal_iv, &setup.send_seq, &open_cipher, &open_key, &open_iv, &setup.recv_seq,
                                &setup.max_packet_length, &strict, &rekey, &growth, &window, &setup.adjust_bytes,
                                &received))
        return NULL;
    setup.strict = (uint32_t)strict;
    setup.rekey_bytes = rekey;
    setup.growth_bytes = growth;
    setup.max_window = window;
    setup.received = (uint32_t)received.len;
    header.token = token;
    header.payload = (uint32_t)(sizeof setup + (size_t)received.len);
    if (received.len > (Py_ssize_t)RECEIVE_SIZE)
        PyErr_SetString(PyExc_ValueError, "more received data than the engine can hold");
    else if (fill_key(&setup.seal, seal_cipher, &seal_key, &seal_iv) &&
             fill_key(&setup.open, open_cipher, &open_key, &open_iv))
        result = queued(e, &header, &setup, received.buf, (size_t)received.len);
    OPENSSL_cleanse(&setup, sizeof setup);
    PyBuffer_Release(&seal_key);
    PyBuffer_Release(&seal_iv);
    PyBuffer_Release(&open_key);
    PyBuffer_Release(&open_iv);
    PyBuffer_Release(&received);
    return result;
}

static PyObject *method_key(PyObject *self, PyObject *args)
{
    struct engine *e = engine_of(self);
    struct message_header header = {.payload = sizeof(struct key_setup)};
    struct key_setup setup = {0};
    const char *cipher;
    Py_buffer key, iv;
    unsigned long long token;
    PyObject *result = NULL;
    int sealing;

    if (!e || !PyArg_ParseTuple(args, "Kpsy*y*", &token, &sealing, &cipher, &key, &iv))
        return NULL;
    header.kind = sealing ? COMMAND_SEAL_KEY : COMMAND_OPEN_KEY;
    header.token = token;
    if (fill_key(&setup, cipher, &key, &iv))
        result = queued(e, &header, &setup, NULL, 0);
    OPENSSL_cleanse(&setup, sizeof setup);
    PyBuffer_Release(&key);
    PyBuffer_Release(&iv);
    return result;
}

static PyObject *method_send(PyObject *self, PyObject *args)
{
    struct engine *e = engine_of(self);
    struct message_header header = {.kind = COMMAND_SEND};
    unsigned long long token;
    Py_buffer packet;
    PyObject *result;

    if (!e || !PyArg_ParseTuple(args, "Ky*", &token, &packet))
        return NULL;
    header.token = token;
    header.payload = (uint32_t)packet.len;
    result = queued(e, &header, packet.buf, NULL, 0);
    PyBuffer_Release(&packet);
    return result;
}

static PyObject *method_command(PyObject *self, PyObject *args)
{
    struct engine *e = engine_of(self);
    struct message_header header = {0};
    unsigned long long token;
    long long a;
    unsigned int kind;

    if (!e || !PyArg_ParseTuple(args, "IKL", &kind, &token, &a))
        return NULL;
    if (kind != COMMAND_ACCEPTED && kind != COMMAND_ROUND_TRIP && kind != COMMAND_CLOSE && kind != COMMAND_UNTAP &&
        kind != COMMAND_ABORT && kind != COMMAND_CLOSE_HISTOGRAM) {
        PyErr_Format(PyExc_ValueError, "command %u has other arguments", kind);
        return NULL;
    }
    header.kind = kind;
    header.token = token;
    header.a = a;
    return queued(e, &header, NULL, NULL, 0);
}

static PyObject *method_channel(PyObject *self, PyObject *args)
{
    struct engine *e = engine_of(self);
    struct message_header header = {.kind = COMMAND_CHANNEL};
    struct channel_setup setup = {0};
    unsigned long long token, wire;
    Py_buffer type, rest;
    struct bytes all = {0};
    PyObject *result = NULL;
    int tap;
    uint8_t *at;

    if (!e || !PyArg_ParseTuple(args, "KKIIpy*y*", &token, &wire, &setup.window, &setup.max_packet, &tap, &type, &rest))
        return NULL;
    setup.tap = (uint32_t)tap;
    setup.type_size = (uint32_t)type.len;
    header.token = token;
    header.a = (int64_t)wire;
    at = bytes_extend(&all, sizeof setup + (size_t)type.len);
    if (at && type.len + rest.len < (Py_ssize_t)MAX_SEND_PACKET) {
        memcpy(at, &setup, sizeof setup);
        memcpy(at + sizeof setup, type.buf, (size_t)type.len);
        header.payload = (uint32_t)(all.size + (size_t)rest.len);
        result = queued(e, &header, all.data, rest.buf, (size_t)rest.len);
    } else {
        PyErr_SetString(PyExc_ValueError, "the target's name is too long");
    }
    bytes_free(&all);
    PyBuffer_Release(&type);
    PyBuffer_Release(&rest);
    return result;
}

static PyObject *method_attach(PyObject *self, PyObject *args)
{
    struct engine *e = engine_of(self);
    struct message_header header = {.kind = COMMAND_ATTACH};
    unsigned long long token;
    unsigned int histogram;
    int fd, flags;

    if (!e || !PyArg_ParseTuple(args, "KiIi", &token, &fd, &histogram, &flags))
        return NULL;
    header.token = token;
    header.a = fd;
    header.b = histogram;
    header.c = flags;
    return queued(e, &header, NULL, NULL, 0);
}

static PyMethodDef methods[] = {
    {"close", method_close, METH_NOARGS, NULL},     {"fileno", method_fileno, METH_NOARGS, NULL},
    {"turn", method_turn, METH_O, NULL},            {"take", method_take, METH_NOARGS, NULL},
    {"token", method_token, METH_NOARGS, NULL},     {"release", method_release, METH_O, NULL},
    {"gauge", method_gauge, METH_O, NULL},          {"wire", method_wire, METH_VARARGS, NULL},
    {"key", method_key, METH_VARARGS, NULL},        {"send", method_send, METH_VARARGS, NULL},
    {"command", method_command, METH_VARARGS, NULL}, {"channel", method_channel, METH_VARARGS, NULL},
    {"attach", method_attach, METH_VARARGS, NULL},  {"inspect", method_inspect, METH_O, NULL},
    {"growth", method_growth, METH_NOARGS, NULL},   {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_new, (void *)engine_new},
    {Py_tp_dealloc, (void *)engine_dealloc},
    {Py_tp_methods, methods},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "gateway._dataplane.engine.Engine",
    .basicsize = sizeof(struct object),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = slots,
};

static int add_constants(PyObject *module)
{
    static const struct {
        const char *name;
        int value;
    } constants[] = {
        {"COMMAND_ACCEPTED", COMMAND_ACCEPTED}, {"COMMAND_ROUND_TRIP", COMMAND_ROUND_TRIP},
        {"COMMAND_CLOSE", COMMAND_CLOSE}, {"COMMAND_UNTAP", COMMAND_UNTAP}, {"COMMAND_ABORT", COMMAND_ABORT},
        {"COMMAND_CLOSE_HISTOGRAM", COMMAND_CLOSE_HISTOGRAM}, {"RECORD_PACKET", RECORD_PACKET},
        {"RECORD_VIOLATION", RECORD_VIOLATION}, {"RECORD_REKEY_DUE", RECORD_REKEY_DUE}, {"RECORD_LOST", RECORD_LOST},
        {"RECORD_OPENED", RECORD_OPENED}, {"RECORD_REFUSED", RECORD_REFUSED}, {"RECORD_TAP", RECORD_TAP},
        {"RECORD_ENDED", RECORD_ENDED}, {"RECORD_HISTOGRAM", RECORD_HISTOGRAM},
        {"ATTACH_MEASURE", ATTACH_MEASURE}, {"ATTACH_UNIX", ATTACH_UNIX},
    };

    for (size_t at = 0; at < sizeof constants / sizeof *constants; at++)
        if (PyModule_AddIntConstant(module, constants[at].name, constants[at].value) < 0)
            return -1;
    return PyModule_AddStringConstant(module, "OPENSSL_VERSION", OpenSSL_version(OPENSSL_VERSION));
}

static int module_exec(PyObject *module)
{
    PyObject *type = PyType_FromSpec(&spec);

    if (!type || PyModule_AddObjectRef(module, "Engine", type) < 0) {
        Py_XDECREF(type);
        return -1;
    }
    Py_DECREF(type);
    return add_constants(module);
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, (void *)module_exec},
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "engine", .m_size = 0, .m_slots = module_slots,
};

PyMODINIT_FUNC PyInit_engine(void); /* Python calls it */

PyMODINIT_FUNC PyInit_engine(void)
{
    return PyModuleDef_Init(&definition);
}
