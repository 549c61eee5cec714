/* Implements the methods `listen` and `listen_and_dial` of the Python type `Engine` (see engine.pyi). */
#include <netinet/in.h>

#include "listener.h"
#include "module.h"

/* Append `size` bytes of `data` to `all`. Return false if memory is exhausted. */
static bool append(struct bytes *all, const void *data, size_t size)
{
    uint8_t *at = bytes_extend(all, size);

    if (at && size)
        memcpy(at, data, size);
    return at != NULL;
}

/* Queue COMMAND_LISTEN. Its payload is `setup`, followed by the contents of `parts`. Release the buffers in `parts`. */
static PyObject *listen_command(struct engine *e, uint64_t token, const struct listener_setup *setup, Py_buffer *parts,
                                size_t count)
{
    struct message_header header = {.kind = COMMAND_LISTEN, .token = token};
    struct bytes all = {0};
    PyObject *result = NULL;
    bool complete = append(&all, setup, sizeof *setup);

    for (size_t at = 0; at < count; at++) {
        complete = complete && append(&all, parts[at].buf, (size_t)parts[at].len);
        PyBuffer_Release(&parts[at]);
    }
    header.payload = (uint32_t)all.size;
    if (!complete)
        PyErr_NoMemory();
    else if (!PyErr_Occurred())
        result = queued(e, &header, all.data, NULL, 0);
    bytes_free(&all);
    return result;
}

PyObject *method_listen(PyObject *self, PyObject *args)
{
    struct engine *e = engine_of(self);
    struct listener_setup setup = {0};
    Py_buffer parts[4]; /* the arguments `connections`, `networks`, `head` and `rest` */
    unsigned long long token, permits;
    int tap;

    if (!e || !PyArg_ParseTuple(args, "KiIIKIIIIpIy*y*y*y*", &token, &setup.fd, &setup.histogram, &setup.open_histogram,
                                &permits, &setup.min_window, &setup.window, &setup.max_packet,
                                &setup.full_load, &tap, &setup.min_responses, &parts[0], &parts[1], &parts[2], &parts[3]))
        return NULL;
    setup.permits = permits;
    setup.tap = (uint32_t)tap;
    setup.connection_count = (uint32_t)((size_t)parts[0].len / sizeof(uint64_t));
    setup.network_count = (uint32_t)((size_t)parts[1].len / sizeof(struct network));
    setup.type_size = (uint32_t)parts[2].len;
    setup.rest_size = (uint32_t)parts[3].len;
    if (setup.window < setup.min_window || setup.type_size + setup.rest_size >= MAX_SEND_PACKET)
        PyErr_SetString(PyExc_ValueError, "the initial window is too small, or the target's name is too long");
    return listen_command(e, token, &setup, parts, 4);
}

/* Set the address of the target: 4 bytes for IPv4, 16 for IPv6. `scope` is the zone of an IPv6 address (RFC 4007). */
static void set_address(struct listener_setup *setup, const Py_buffer *host, unsigned short port, unsigned int scope)
{
    struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons(port), .sin6_scope_id = scope};

    if (host->len == sizeof four.sin_addr) {
        memcpy(&four.sin_addr, host->buf, sizeof four.sin_addr);
        memcpy(&setup->address, &four, sizeof four);
        setup->address_size = sizeof four;
    } else if (host->len == sizeof six.sin6_addr) {
        memcpy(&six.sin6_addr, host->buf, sizeof six.sin6_addr);
        memcpy(&setup->address, &six, sizeof six);
        setup->address_size = sizeof six;
    } else {
        PyErr_SetString(PyExc_ValueError, "the address has neither 4 nor 16 bytes");
    }
}

PyObject *method_listen_and_dial(PyObject *self, PyObject *args)
{
    struct engine *e = engine_of(self);
    struct listener_setup setup = {0};
    Py_buffer parts[2], host; /* parts: the arguments `networks` and `options` */
    unsigned long long token, permits;
    unsigned short port;
    unsigned int scope;
    int tap;

    if (!e || !PyArg_ParseTuple(args, "KiIIKpIy*HIy*y*", &token, &setup.fd, &setup.histogram, &setup.open_histogram,
                                &permits, &tap, &setup.min_responses, &host, &port, &scope, &parts[0],
                                &parts[1]))
        return NULL;
    setup.permits = permits;
    setup.tap = (uint32_t)tap;
    setup.network_count = (uint32_t)((size_t)parts[0].len / sizeof(struct network));
    setup.option_count = (uint32_t)((size_t)parts[1].len / sizeof(struct socket_option));
    set_address(&setup, &host, port, scope);
    PyBuffer_Release(&host);
    return listen_command(e, token, &setup, parts, 2);
}
