/* Implements the methods of the Python type `Engine` that queue commands for the native engine. */
#include <openssl/crypto.h>

#include "module.h"
#include "pair.h"

/* Queue a command. Return None, or NULL with an exception. */
PyObject *queued(struct engine *e, const struct message_header *header, const void *payload, const void *more,
                 size_t more_size)
{
    if (!queue_command(e, header, payload, more, more_size))
        return PyErr_NoMemory();
    Py_RETURN_NONE;
}

/* Copy a key and its IV into `setup`. If a size is not valid, set an exception, and return false. */
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

PyObject *method_connection(PyObject *self, PyObject *args)
{
    struct engine *e = engine_of(self);
    struct message_header header = {.kind = COMMAND_CONNECTION, .payload = sizeof(struct connection_setup)};
    struct connection_setup setup = {0};
    const char *seal_cipher, *open_cipher;
    Py_buffer seal_key, seal_iv, open_key, open_iv;
    unsigned long long token, rekey, growth, window;
    PyObject *result = NULL;
    int strict;

    if (!e || !PyArg_ParseTuple(args, "Ki(sy*y*I)(sy*y*I)IpKKKI", &token, &setup.fd, &seal_cipher, &seal_key,
                                &seal_iv, &setup.send_seq, &open_cipher, &open_key, &open_iv, &setup.recv_seq,
                                &setup.max_packet_length, &strict, &rekey, &growth, &window, &setup.adjust_bytes))
        return NULL;
    setup.strict = (uint32_t)strict;
    setup.rekey_bytes = rekey;
    setup.growth_bytes = growth;
    setup.max_window = window;
    header.token = token;
    if (fill_key(&setup.seal, seal_cipher, &seal_key, &seal_iv) &&
        fill_key(&setup.open, open_cipher, &open_key, &open_iv))
        result = queued(e, &header, &setup, NULL, 0);
    OPENSSL_cleanse(&setup, sizeof setup);
    PyBuffer_Release(&seal_key);
    PyBuffer_Release(&seal_iv);
    PyBuffer_Release(&open_key);
    PyBuffer_Release(&open_iv);
    return result;
}

PyObject *method_key(PyObject *self, PyObject *args)
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

PyObject *method_send(PyObject *self, PyObject *args)
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

/* Stop a listener from connecting clients: it returns each new client to Python, even before COMMAND_UNLISTEN runs. */
static void withdraw(struct engine *e, uint64_t token)
{
    struct gauge *gauge = slot_find(e, token);

    if (gauge)
        atomic_store(&gauge->held, 1);
    atomic_thread_fence(memory_order_seq_cst); /* Python reads the number of accepted clients only after this fence; see
                                                  `take_client` */
}

PyObject *method_command(PyObject *self, PyObject *args)
{
    struct engine *e = engine_of(self);
    struct message_header header = {0};
    unsigned long long token;
    long long a;
    unsigned int kind;

    if (!e || !PyArg_ParseTuple(args, "IKL", &kind, &token, &a))
        return NULL;
    if (kind != COMMAND_ACCEPTED && kind != COMMAND_ROUND_TRIP && kind != COMMAND_CLOSE && kind != COMMAND_UNTAP &&
        kind != COMMAND_ABORT && kind != COMMAND_CLOSE_HISTOGRAM && kind != COMMAND_PERMIT &&
        kind != COMMAND_UNLISTEN && kind != COMMAND_RECALL) {
        PyErr_Format(PyExc_ValueError, "command %u has other arguments", kind);
        return NULL;
    }
    header.kind = kind;
    header.token = token;
    header.a = a;
    if (kind == COMMAND_UNLISTEN)
        withdraw(e, token);
    return queued(e, &header, NULL, NULL, 0);
}

PyObject *method_channel(PyObject *self, PyObject *args)
{
    struct engine *e = engine_of(self);
    struct message_header header = {.kind = COMMAND_CHANNEL};
    struct channel_setup setup = {0};
    unsigned long long token, connection;
    Py_buffer type, rest;
    struct bytes all = {0};
    PyObject *result = NULL;
    int tap;
    uint8_t *at;

    if (!e || !PyArg_ParseTuple(args, "KKIIiy*y*", &token, &connection, &setup.window, &setup.max_packet, &tap, &type, &rest))
        return NULL;
    setup.tap = (uint32_t)tap;
    setup.type_size = (uint32_t)type.len;
    header.token = token;
    header.a = (int64_t)connection;
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

PyObject *method_attach(PyObject *self, PyObject *args)
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

PyObject *method_pair(PyObject *self, PyObject *args)
{
    struct engine *e = engine_of(self);
    struct message_header header = {.kind = COMMAND_PAIR, .payload = sizeof(struct pair_setup)};
    struct pair_setup setup = {0};
    unsigned long long token;
    int tap, flags;

    if (!e || !PyArg_ParseTuple(args, "KiiIii", &token, &setup.client, &setup.backend, &setup.histogram, &flags, &tap))
        return NULL;
    header.token = token;
    setup.flags = (uint32_t)flags;
    setup.tap = (uint32_t)tap;
    return queued(e, &header, &setup, NULL, 0);
}
