/* Declares the functions and types that the files of the Python module share. */
#ifndef GATEWAY_DATAPLANE_MODULE_H
#define GATEWAY_DATAPLANE_MODULE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "engine.h"

struct object {
    PyObject_HEAD
    struct engine *engine; /* NULL after `close` */
};

/* Return the native engine of a Python object. If the native engine is closed, set an exception, and return NULL. */
struct engine *engine_of(PyObject *self);

/* module_state.c: methods that return records, counters and state, and methods that allocate and release tokens. */
PyObject *method_take(PyObject *self, PyObject *unused);
PyObject *method_token(PyObject *self, PyObject *unused);
PyObject *method_release(PyObject *self, PyObject *token);
PyObject *method_gauge(PyObject *self, PyObject *token);
PyObject *method_inspect(PyObject *self, PyObject *token);
PyObject *method_growth(PyObject *self, PyObject *unused);

/* module_commands.c: methods that queue commands. */
PyObject *method_connection(PyObject *self, PyObject *args);
PyObject *method_key(PyObject *self, PyObject *args);
PyObject *method_send(PyObject *self, PyObject *args);
PyObject *method_command(PyObject *self, PyObject *args);
PyObject *method_channel(PyObject *self, PyObject *args);
PyObject *method_attach(PyObject *self, PyObject *args);
PyObject *method_pair(PyObject *self, PyObject *args);
PyObject *queued(struct engine *, const struct message_header *, const void *payload, const void *more,
                 size_t more_size);

/* module_listener.c: methods that let the native engine accept clients. */
PyObject *method_listen(PyObject *self, PyObject *args);
PyObject *method_listen_and_dial(PyObject *self, PyObject *args);

#endif
