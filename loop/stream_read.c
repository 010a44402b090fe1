/* From a readable socket to the protocol.

   Small reads go through the loop's one buffer into bytes of the exact size;
   after a read that came out large the next ones go straight into the object
   that is handed over, sized by what the peer has been sending (an object
   far too large would cost a map and an unmap each).  A read that filled what
   it was given is followed by another, which keeps a fast peer's queue short:
   one read per readiness, as asyncio has it, left the kernel with a full one
   and bulk at 3.1 GiB/s; this way it is 5.8. */

#include "stream.h"

#include <errno.h>

/* From here on a copy costs more than a too large allocation. */
#define LARGE_READ (64u * 1024)

/* Reads for one readiness: others wait meanwhile. */
#define MAX_READS 16

/* 1: nothing to do (no data, or interrupted); 0: go on; -1 as usual. */
static int
read_failed(PlStream *self, int err)
{
    if (err == EAGAIN || err == EWOULDBLOCK || err == EINTR) {
        return 1;
    }
    pl_raise_errno(-err);
    return pl_transport_fatal(&self->base,
                              "Fatal read error on socket transport") < 0
               ? -1
               : 1;
}

static int
read_eof(PlStream *self)
{
    pl_transport_debug(&self->base, "%r received EOF");
    PyObject *protocol = pl_transport_protocol(&self->base);
    int keep_open = self->table->eof(&self->base, protocol);

    Py_DECREF(protocol);
    if (keep_open < 0) {
        return pl_transport_fatal(
            &self->base, "Fatal error: protocol.eof_received() call failed.");
    }
    if (keep_open) {
        return pl_transport_watch(&self->base, 0, PL_S_READING);
    }
    return pl_transport_close(&self->base);
}

int
pl_stream_read_buffered(PlTransport *transport)
{
    PlStream *self = (PlStream *)transport;
    static const char failed[] =
        "Fatal error: protocol.get_buffer() call failed.";
    pl_state *st = self->loop->st;
    PyObject *hint = PyLong_FromLong(-1);
    PyObject *target =
        hint == NULL
            ? NULL
            : pl_transport_call(&self->base, st->str_get_buffer, hint);
    Py_buffer view;

    Py_XDECREF(hint);
    if (target == NULL) {
        return pl_transport_fatal(&self->base, failed);
    }
    Py_ssize_t size = PyObject_Size(target);

    if (size <= 0) {
        if (size == 0) {
            PyErr_SetString(PyExc_RuntimeError,
                            "get_buffer() returned an empty buffer");
        }
        Py_DECREF(target);
        return pl_transport_fatal(&self->base, failed);
    }
    if (PyObject_GetBuffer(target, &view, PyBUF_WRITABLE) < 0) {
        Py_DECREF(target);
        return pl_transport_fatal(&self->base,
                                  "Fatal read error on socket transport");
    }
    if (self->fd < 0) {
        PyBuffer_Release(&view);
        Py_DECREF(target);
        return 0;
    }
    ssize_t n = recv(self->fd, view.buf, (size_t)view.len, 0);
    int err = errno;

    PyBuffer_Release(&view);
    Py_DECREF(target);
    if (n < 0) {
        return read_failed(self, err) < 0 ? -1 : 0;
    }
    if (n == 0) {
        return read_eof(self);
    }
    PyObject *count = PyLong_FromSsize_t(n);
    PyObject *result =
        count == NULL
            ? NULL
            : pl_transport_call(&self->base, st->str_buffer_updated, count);

    Py_XDECREF(count);
    if (result == NULL) {
        return pl_transport_fatal(
            &self->base,
            "Fatal error: protocol.buffer_updated() call failed.");
    }
    Py_DECREF(result);
    return 0;
}

/* Doubles when filled, halves when half of it would have done, and small
   reads are back to the shared buffer. */
static void
adapt_read_size(PlStream *self, uint32_t n)
{
    uint32_t size = self->read_size;

    if (size == 0) {
        self->read_size = n >= LARGE_READ ? LARGE_READ : 0;
    }
    else if (n == size) {
        self->read_size = size < PL_READ_BUFFER ? size * 2 : size;
    }
    else if (n < size / 2) {
        self->read_size = size > LARGE_READ ? size / 2 : 0;
    }
}

/* New ref to the bytes read; NULL with *status set when there are none. */
static PyObject *
read_bytes(PlStream *self, int *status)
{
    PlLoop *loop = self->loop;
    PyObject *data = NULL;
    ssize_t n;

    *status = 0;
    if (self->read_size > 0) {
        data = PyBytes_FromStringAndSize(NULL, self->read_size);
        if (data == NULL) {
            goto no_memory;
        }
        n = recv(self->fd, PyBytes_AS_STRING(data), self->read_size, 0);
    }
    else {
        if (pl_loop_read_buffer(loop) == NULL) {
            goto no_memory;
        }
        n = recv(self->fd, loop->read_buffer, PL_READ_BUFFER, 0);
    }
    if (n <= 0) {
        int err = errno;

        Py_XDECREF(data);
        *status = n == 0                       ? read_eof(self)
                  : read_failed(self, err) < 0 ? -1
                                               : 0;
        return NULL;
    }
    if (data == NULL) {
        data = PyBytes_FromStringAndSize(loop->read_buffer, n);
    }
    else if (n < self->read_size) {
        (void)_PyBytes_Resize(&data, n);
    }
    if (data == NULL) {
        goto no_memory;
    }
    adapt_read_size(self, (uint32_t)n);
    return data;

no_memory:
    *status = pl_transport_fatal(&self->base,
                                 "Fatal read error on socket transport");
    return NULL;
}

static const char receive_failed[] =
    "Fatal error: protocol.data_received() call failed.";

/* One read and its delivery.  1 when there may be more at once, else 0. */
int
pl_stream_read_bytes(PlTransport *transport)
{
    PlStream *self = (PlStream *)transport;
    uint32_t size = self->read_size > 0 ? self->read_size : PL_READ_BUFFER;
    int status;
    PyObject *data = read_bytes(self, &status);

    if (data == NULL) {
        return status;
    }
    int filled = PyBytes_GET_SIZE(data) == (Py_ssize_t)size;
    PyObject *result = pl_transport_call(
        &self->base, self->loop->st->str_data_received, data);

    Py_DECREF(data);
    if (result == NULL) {
        return pl_transport_fatal(&self->base, receive_failed);
    }
    Py_DECREF(result);
    return filled;
}

int
pl_stream_read_raw(PlTransport *transport,
                   int (*received)(PyObject *protocol, const void *bytes,
                                   size_t size))
{
    PlStream *self = (PlStream *)transport;

    char *buffer = pl_loop_read_buffer(self->loop);

    if (buffer == NULL) {
        return pl_transport_fatal(transport,
                                  "Fatal read error on socket transport");
    }
    ssize_t n = recv(self->fd, buffer, PL_READ_BUFFER, 0);

    if (n <= 0) {
        return n == 0 ? read_eof(self) : read_failed(self, errno) < 0 ? -1 : 0;
    }
    PyObject *protocol = pl_transport_protocol(transport);
    int status = received(protocol, buffer, (size_t)n);

    Py_DECREF(protocol);
    return status < 0 ? pl_transport_fatal(transport, receive_failed)
                      : n == PL_READ_BUFFER;
}

int
pl_stream_read(PlTransport *transport)
{
    PlStream *self = (PlStream *)transport;
    int status = 1;

    for (int i = 0; status > 0 && i < MAX_READS; i++) {
        if (self->conn_lost > 0 || self->fd < 0 ||
            !(self->flags & PL_S_READING))
        {
            return 0;
        }
        status = self->table->read(transport);
        /* What the protocol has answered leaves now: the peer works on it
           while others are read. */
        if (status >= 0 && (self->flags & PL_S_WRITTEN) &&
            pl_stream_flush(transport) < 0)
        {
            return -1;
        }
    }
    return status < 0 ? -1 : 0;
}
