/* From a readable socket to the protocol.

   Small reads go through the loop's one buffer into bytes of the exact size.
   After a read that came out large the next ones go straight into the bytes
   that are handed over; when the protocol has kept no reference to them they
   serve again, so that a stream that is consumed as it comes costs neither an
   allocation nor a page fault (bulk 3.2 -> 6.3 GiB/s, where an allocation of
   that size was mapped and unmapped each time).  A read that filled what it
   was given is followed by another, which keeps a fast peer's queue short. */

#include "stream.h"

#include <errno.h>

/* From here on the next read is expected to be large … */
#define LARGE_READ (64 * 1024)
/* … and what is at least this large is handed over without a copy, in bytes
   of at most three times the memory. */
#define KEEP_READ (PL_READ_BUFFER / 3)

/* Reads for one readiness: others wait meanwhile. */
#define MAX_READS 16

static int
read_eof(PlStream *self)
{
    if (pl_transport_debug(&self->base, "%r received EOF") < 0 &&
        pl_unraisable((PyObject *)self) < 0)
    {
        return -1;
    }
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

/* recv() brought n <= 0: the end, nothing (EAGAIN), or an error.  0 or -1. */
static int
read_nothing(PlStream *self, ssize_t n, int err)
{
    if (n == 0) {
        return read_eof(self);
    }
    if (err == EAGAIN || err == EWOULDBLOCK || err == EINTR) {
        return 0;
    }
    pl_raise_errno(-err);
    return pl_transport_fatal(&self->base,
                              "Fatal read error on socket transport");
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
        if (PyErr_ExceptionMatches(PyExc_BufferError) ||
            PyErr_ExceptionMatches(PyExc_TypeError))
        {
            /* In the words of the recv_into() that asyncio calls. */
            PyErr_Format(PyExc_TypeError,
                         "recv_into() argument 1 must be read-write "
                         "bytes-like object, not %.50s",
                         Py_TYPE(target)->tp_name);
        }
        Py_DECREF(target);
        return pl_transport_fatal(&self->base,
                                  "Fatal read error on socket transport");
    }
    if (self->fd < 0) {
        PyBuffer_Release(&view);
        Py_DECREF(target);
        return 0;
    }
    ssize_t n =
        recv(pl_transport_fd(&self->base), view.buf, (size_t)view.len, 0);
    int err = errno;
    bool filled = n == view.len;

    PyBuffer_Release(&view);
    Py_DECREF(target);
    if (n <= 0) {
        return read_nothing(self, n, err);
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
    return filled;
}

/* Bytes of PL_READ_BUFFER to read into: those of the last time, or new. */
static PyObject *
take_spare(PlLoop *loop)
{
    PyObject *spare = loop->spare_bytes;

    loop->spare_bytes = NULL;
    return spare != NULL ? spare
                         : PyBytes_FromStringAndSize(NULL, PL_READ_BUFFER);
}

/* Steals bytes that may be shorter than they were made. */
static void
give_spare(PlLoop *loop, PyObject *bytes)
{
    if (loop->spare_bytes == NULL && !loop->closed && PL_UNIQUE(bytes)) {
        pl_bytes_set_size(bytes, PL_READ_BUFFER);
        loop->spare_bytes = bytes;
    }
    else {
        Py_DECREF(bytes);
    }
}

/* New ref to the bytes read, *spare set when they can serve again; NULL with
   *status set when there are none. */
static PyObject *
read_bytes(PlStream *self, int *status, int *spare)
{
    PlLoop *loop = self->loop;
    PyObject *data = NULL;
    char *buffer;

    *status = 0;
    if (self->flags & PL_S_LARGE) {
        data = take_spare(loop);
        buffer = data == NULL ? NULL : PyBytes_AS_STRING(data);
    }
    else {
        buffer = pl_loop_read_buffer(loop);
    }
    if (buffer == NULL) {
        goto no_memory;
    }
    ssize_t n = recv(pl_transport_fd(&self->base), buffer, PL_READ_BUFFER, 0);
    int err = errno;

    *spare = data != NULL && n >= KEEP_READ;
    if (*spare) {
        pl_bytes_set_size(data, n);
        return data;
    }
    PyObject *copy = n > 0 ? PyBytes_FromStringAndSize(buffer, n) : NULL;

    if (data != NULL) {
        give_spare(loop, data);
    }
    if (n <= 0) {
        *status = read_nothing(self, n, err);
        return NULL;
    }
    if (copy == NULL) {
        goto no_memory;
    }
    if (n >= LARGE_READ) {
        self->flags |= PL_S_LARGE;
    }
    else {
        self->flags &= ~(uint32_t)PL_S_LARGE;
    }
    return copy;

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
    int status, spare;
    PyObject *data = read_bytes(self, &status, &spare);

    if (data == NULL) {
        return status;
    }
    int filled = PyBytes_GET_SIZE(data) == PL_READ_BUFFER;
    PyObject *result = pl_transport_call(
        &self->base, self->loop->st->str_data_received, data);

    if (spare) {
        give_spare(self->loop, data);
    }
    else {
        Py_DECREF(data);
    }
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
    ssize_t n = recv(pl_transport_fd(&self->base), buffer, PL_READ_BUFFER, 0);

    if (n <= 0) {
        return read_nothing(self, n, errno);
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
           while others are read.  (An io_uring gains more by sending the
           answers together.) */
        if (status >= 0 && (self->flags & PL_S_WRITTEN) &&
            self->loop->core->uring == NULL && pl_stream_flush(transport) < 0)
        {
            return -1;
        }
    }
    return status < 0 ? -1 : 0;
}
