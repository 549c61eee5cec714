/* Implements the Python type `Engine`, which controls a native engine: it queues commands and takes records. */
#include "module.h"

#include <errno.h>
#include <malloc.h>
#include <openssl/crypto.h>
#include <stdlib.h>

struct engine *engine_of(PyObject *self)
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
    unsigned int dead_after;
    uint64_t ns[MAX_BOUNDS];
    struct engine *e;
    Py_ssize_t count;

    if (kwargs && PyDict_Size(kwargs)) {
        PyErr_SetString(PyExc_TypeError, "Engine takes no keyword arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "O!KI", &PyTuple_Type, &bounds, &growth, &dead_after))
        return NULL;
    count = PyTuple_Size(bounds);
    if (count < 1 || count > (Py_ssize_t)MAX_BOUNDS) {
        PyErr_Format(PyExc_ValueError, "got %zd bounds, expected 1 to %d", count, MAX_BOUNDS);
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
    e->growth_reserve = growth / 2;
    e->dead_after = dead_after * (SECOND / 1000);
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

    struct engine *e = o->engine;

    o->engine = NULL;
    if (e) {
        Py_BEGIN_ALLOW_THREADS
        engine_clear(e);
        Py_END_ALLOW_THREADS
        free(e);
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
    return e ? PyLong_FromLong(e->has_thread ? e->report : e->epoll) : NULL;
}

static PyObject *none_or_error(int error)
{
    if (!error)
        Py_RETURN_NONE;
    errno = error;
    return PyErr_SetFromErrno(PyExc_OSError);
}

static PyObject *method_start(PyObject *self, PyObject *unused)
{
    struct engine *e = engine_of(self);

    (void)unused;
    if (!e)
        return NULL;
    return none_or_error(e->has_thread ? EALREADY : thread_start(e));
}

static PyObject *method_turn(PyObject *self, PyObject *unused)
{
    struct engine *e = engine_of(self);

    (void)unused;
    if (!e)
        return NULL;
    return none_or_error(e->has_thread ? EBUSY : engine_turn(e, 0));
}

static PyMethodDef methods[] = {
    {"close", method_close, METH_NOARGS, NULL},     {"fileno", method_fileno, METH_NOARGS, NULL},
    {"start", method_start, METH_NOARGS, NULL},     {"turn", method_turn, METH_NOARGS, NULL},
    {"take", method_take, METH_NOARGS, NULL},
    {"token", method_token, METH_NOARGS, NULL},     {"release", method_release, METH_O, NULL},
    {"gauge", method_gauge, METH_O, NULL},          {"connection", method_connection, METH_VARARGS, NULL},
    {"key", method_key, METH_VARARGS, NULL},        {"send", method_send, METH_VARARGS, NULL},
    {"command", method_command, METH_VARARGS, NULL}, {"channel", method_channel, METH_VARARGS, NULL},
    {"attach", method_attach, METH_VARARGS, NULL},  {"listen", method_listen, METH_VARARGS, NULL},
    {"listen_and_dial", method_listen_and_dial, METH_VARARGS, NULL},
    {"pair", method_pair, METH_VARARGS, NULL},
    {"inspect", method_inspect, METH_O, NULL},      {"growth", method_growth, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
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
        {"COMMAND_CLOSE_HISTOGRAM", COMMAND_CLOSE_HISTOGRAM}, {"COMMAND_PERMIT", COMMAND_PERMIT},
        {"COMMAND_UNLISTEN", COMMAND_UNLISTEN}, {"COMMAND_RECALL", COMMAND_RECALL}, {"RECORD_PACKET", RECORD_PACKET},
        {"RECORD_VIOLATION", RECORD_VIOLATION}, {"RECORD_REKEY_DUE", RECORD_REKEY_DUE}, {"RECORD_LOST", RECORD_LOST},
        {"RECORD_OPENED", RECORD_OPENED}, {"RECORD_REFUSED", RECORD_REFUSED}, {"RECORD_TAP", RECORD_TAP},
        {"RECORD_ENDED", RECORD_ENDED}, {"RECORD_HISTOGRAM", RECORD_HISTOGRAM},
        {"RECORD_JOINED", RECORD_JOINED}, {"RECORD_SERVED", RECORD_SERVED},
        {"RECORD_RETURNED", RECORD_RETURNED}, {"RECORD_STOPPED", RECORD_STOPPED},
        {"RECORD_RPC", RECORD_RPC}, {"TAP_NONE", TAP_NONE}, {"TAP_BYTES", TAP_BYTES}, {"TAP_RPC", TAP_RPC},
        {"ATTACH_MEASURE", ATTACH_MEASURE}, {"ATTACH_UNIX", ATTACH_UNIX},
        {"ATTACH_UNIX_BACKEND", ATTACH_UNIX_BACKEND}, {"RECORD_PAIR_ENDED", RECORD_PAIR_ENDED},
    };

    for (size_t at = 0; at < sizeof constants / sizeof *constants; at++)
        if (PyModule_AddIntConstant(module, constants[at].name, constants[at].value) < 0)
            return -1;
    return PyModule_AddStringConstant(module, "OPENSSL_VERSION", OpenSSL_version(OPENSSL_VERSION));
}

/* Make glibc return freed blocks of 1 MiB and more to the kernel, for all code in this process.
 *
 * glibc allocates blocks below a threshold from heaps. It returns larger blocks to the kernel when they are freed. By
 * default, glibc raises the threshold to the size of each larger block that is freed, up to 32 MiB (mallopt(3),
 * M_MMAP_THRESHOLD). glibc then allocates large blocks from the heaps too. These blocks fragment the heaps, and the
 * memory of the process grows for hours. Constant thresholds prevent this.
 *
 * The thresholds are larger than asyncio's receive buffers of 256 KiB. Otherwise, the kernel would map and unmap
 * memory for each buffer, and bulk transfers through asyncssh would take up to twice as long.
 *
 * Other C libraries do not raise the threshold. */
static void limit_fragmentation(void)
{
#ifdef __GLIBC__
    /* getenv(3) and mallopt(3) are thread-safe here: the caller holds the GIL, and mallopt(3) locks the allocator.
     * NOLINTBEGIN(concurrency-mt-unsafe) */
    if (getenv("GLIBC_TUNABLES") || getenv("MALLOC_MMAP_THRESHOLD_") || getenv("MALLOC_TRIM_THRESHOLD_"))
        return; /* keep the operator's settings of the allocator */
    mallopt(M_MMAP_THRESHOLD, 1024 * 1024);
    mallopt(M_TRIM_THRESHOLD, 1024 * 1024);
    /* NOLINTEND(concurrency-mt-unsafe) */
#endif
}

static int module_exec(PyObject *module)
{
    PyObject *type = PyType_FromSpec(&spec);

    limit_fragmentation();
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

PyMODINIT_FUNC PyInit_engine(void); /* Python calls this function when it imports the module */

PyMODINIT_FUNC PyInit_engine(void)
{
    return PyModuleDef_Init(&definition);
}
