/* The method of `Engine` that lets the engine accept clients. */
#include "listener.h"
#include "module.h"

/* Append the content of a buffer. Return false if memory is exhausted. */
static bool append(struct bytes *all, const void *data, size_t size)
{
    uint8_t *at = bytes_extend(all, size);

    if (at && size)
        memcpy(at, data, size);
    return at != NULL;
}

PyObject *method_listen(PyObject *self, PyObject *args)
{
    struct engine *e = engine_of(self);
    struct message_header header = {.kind = COMMAND_LISTEN};
    struct listener_setup setup = {0};
    Py_buffer parts[4]; /* tokens of wires, networks, channel type, rest of CHANNEL_OPEN */
    unsigned long long token, permits;
    int tap;
    struct bytes all = {0};
    PyObject *result = NULL;
    bool complete;

    if (!e || !PyArg_ParseTuple(args, "KiIKIIIpy*y*y*y*", &token, &setup.fd, &setup.histogram, &permits,
                                &setup.min_window, &setup.window, &setup.max_packet, &tap, &parts[0], &parts[1],
                                &parts[2], &parts[3]))
        return NULL;
    setup.permits = permits;
    setup.tap = (uint32_t)tap;
    setup.wire_count = (uint32_t)((size_t)parts[0].len / sizeof(uint64_t));
    setup.network_count = (uint32_t)((size_t)parts[1].len / sizeof(struct network));
    setup.type_size = (uint32_t)parts[2].len;
    setup.rest_size = (uint32_t)parts[3].len;
    complete = append(&all, &setup, sizeof setup);
    for (size_t at = 0; at < 4; at++) {
        complete = complete && append(&all, parts[at].buf, (size_t)parts[at].len);
        PyBuffer_Release(&parts[at]);
    }
    header.token = token;
    header.payload = (uint32_t)all.size;
    if (!complete)
        PyErr_NoMemory();
    else if (setup.window < setup.min_window || setup.type_size + setup.rest_size >= MAX_SEND_PACKET)
        PyErr_SetString(PyExc_ValueError, "the initial window is too small, or the target's name is too long");
    else
        result = queued(e, &header, all.data, NULL, 0);
    bytes_free(&all);
    return result;
}
