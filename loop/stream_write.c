/* Writing: the queue, sending, and flow control.

   write() queues; the turn's end sends all that is queued in one sendmsg,
   before the poll (uvicorn writes head and body apart: one call, not two).
   What data_received() wrote leaves when it returns (stream_read.c), but with
   an io_uring it waits for the others of the turn, which leave together.
   What exceeds the high-water mark (up to a bound each turn) or is written
   while the loop does not run goes out at once.  bytes are held, anything
   mutable is copied before write() returns. */

#include "stream.h"
#include "args.h"

#include <errno.h>
#include <limits.h>
#include <sys/uio.h>

#define IOV_BATCH 64

/* A stream that has sent this much in one turn is held: it goes on in the next,
   by way of the poll, or when the loop stops.  Others get their turn, and what
   is under way between two ends on one machine stays in the cache it was
   written to (bulk one way 3.3 -> 6.3 GiB/s). */
#define SEND_A_TURN (512 * 1024)

/* -- the queue --------------------------------------------------------- */

/* Steals bytes; -1 and MemoryError. */
static inline int
queue_push(PlStream *self, PyObject *bytes)
{
    if (self->first + self->count == self->capacity) {
        if (self->first > 0 && self->count <= self->capacity / 2) {
            memmove(self->chunks, self->chunks + self->first,
                    self->count * sizeof(*self->chunks));
        }
        else {
            size_t capacity = self->capacity * 2;
            PyObject **chunks = PyMem_Malloc(capacity * sizeof(*chunks));

            if (chunks == NULL) {
                Py_DECREF(bytes);
                PyErr_NoMemory();
                return -1;
            }
            memcpy(chunks, self->chunks + self->first,
                   self->count * sizeof(*chunks));
            if (self->chunks != self->inline_chunks) {
                PyMem_Free(self->chunks);
            }
            self->chunks = chunks;
            self->capacity = capacity;
        }
        self->first = 0;
    }
    self->chunks[self->first + self->count++] = bytes;
    self->buffered += (size_t)PyBytes_GET_SIZE(bytes);
    return 0;
}

static void
queue_reset(PlStream *self)
{
    if (self->chunks != self->inline_chunks) {
        PyMem_Free(self->chunks);
        self->chunks = self->inline_chunks;
        self->capacity = PL_STREAM_CHUNKS;
    }
    self->first = 0;
    self->offset = 0;
}

void
pl_stream_drop_queue(PlTransport *transport)
{
    PlStream *self = (PlStream *)transport;

    self->buffered = 0;
    while (self->count > 0) {
        PyObject *bytes = self->chunks[self->first++];

        self->count--;
        Py_DECREF(bytes);
    }
    queue_reset(self);
}

static void
queue_consume(PlStream *self, size_t sent)
{
    self->buffered -= sent;
    sent += self->offset;
    while (self->count > 0) {
        PyObject *bytes = self->chunks[self->first];
        size_t size = (size_t)PyBytes_GET_SIZE(bytes);

        if (sent < size) {
            break;
        }
        sent -= size;
        self->first++;
        self->count--;
        Py_DECREF(bytes); /* plain bytes: runs no user code */
    }
    self->offset = sent;
    if (self->count == 0) {
        queue_reset(self);
    }
}

/* May it send any more in this turn? */
static bool
may_send(PlStream *self)
{
    PlLoop *loop = self->loop;

    if (self->sent_turn != loop->counters.turns) {
        self->sent_turn = loop->counters.turns;
        self->sent = 0;
    }
    return self->sent < SEND_A_TURN || !loop->bounded;
}

/* Does it wait for the poll? */
static bool
is_waiting(PlStream *self)
{
    return (self->flags & PL_S_WRITING) &&
           (!(self->flags & PL_S_HELD) || self->loop->bounded);
}

/* The oldest of the queue, in at most `most` buffers: how many, and their
   bytes. */
static size_t
queue_vector(PlStream *self, struct iovec *iov, size_t most, size_t *total)
{
    size_t count = self->count < most ? self->count : most;

    *total = 0;
    for (size_t i = 0; i < count; i++) {
        PyObject *bytes = self->chunks[self->first + i];

        iov[i].iov_base = PyBytes_AS_STRING(bytes);
        iov[i].iov_len = (size_t)PyBytes_GET_SIZE(bytes);
        *total += iov[i].iov_len;
    }
    iov[0].iov_base = (char *)iov[0].iov_base + self->offset;
    iov[0].iov_len -= self->offset;
    *total -= self->offset;
    return count;
}

/* Of a send of `total` bytes that came to n, bytes or a negative errno: 1 when
   all are gone, 0 when the socket is full, or a negative errno. */
static int
queue_sent(PlStream *self, ssize_t n, size_t total)
{
    if (n < 0) {
        return n == -EAGAIN || n == -EWOULDBLOCK || n == -EINTR ? 0 : (int)n;
    }
    self->sent += (size_t)n;
    queue_consume(self, (size_t)n);
    return (size_t)n == total;
}

/* 1 when the queue is empty now, 0 when the socket is full, or a negative
   errno.  0 and PL_S_HELD: the bound of this turn, which does not hold for
   `all`. */
static int
queue_send(PlStream *self, bool all)
{
    int fd = pl_transport_fd(&self->base);

    self->flags &= ~(uint32_t)PL_S_HELD;
    while (self->count > 0) {
        struct iovec iov[IOV_BATCH];
        size_t total;
        ssize_t n;

        if (!all && !may_send(self)) {
            self->flags |= PL_S_HELD;
            return 0;
        }
        size_t count = queue_vector(self, iov, IOV_BATCH, &total);

        struct msghdr message = {.msg_iov = iov, .msg_iovlen = count};

        do {
            n = count == 1
                    ? send(fd, iov[0].iov_base, iov[0].iov_len, MSG_NOSIGNAL)
                    : sendmsg(fd, &message, MSG_NOSIGNAL);
        } while (n < 0 && errno == EINTR);
        int status = queue_sent(self, n < 0 ? -errno : n, total);

        if (status <= 0) {
            return status;
        }
    }
    return 1;
}

/* -- sending ----------------------------------------------------------- */

static int
end_waiter(PlStream *self, PyObject *method, PyObject *value)
{
    PyObject *waiter = self->empty_waiter;
    PyObject *done;

    if (waiter == NULL) {
        return 0;
    }
    Py_INCREF(waiter);
    done = PyObject_CallMethodNoArgs(waiter, self->loop->st->str_done);
    if (done == Py_False) {
        Py_SETREF(done, PyObject_CallMethodOneArg(waiter, method, value));
    }
    Py_DECREF(waiter);
    if (done == NULL) {
        return pl_unraisable((PyObject *)self);
    }
    Py_DECREF(done);
    return 0;
}

int
pl_stream_fail_waiter(PlStream *self)
{
    if (self->empty_waiter == NULL) {
        return 0;
    }
    PyObject *exc = PyObject_CallFunction(PyExc_ConnectionError, "s",
                                          "Connection is closed by peer");

    if (exc == NULL) {
        PyErr_WriteUnraisable((PyObject *)self);
        return 0;
    }
    int status = end_waiter(self, self->loop->st->str_set_exception, exc);

    Py_DECREF(exc);
    return status;
}

static int
send_failed(PlStream *self, int err)
{
    PyObject *exc = pl_oserror(err);
    int status;

    pl_stream_drop_queue(&self->base);
    PyErr_SetRaisedException(Py_NewRef(exc));
    status = pl_transport_fatal(&self->base,
                                "Fatal write error on socket transport");
    if (status == 0) {
        status = end_waiter(self, self->loop->st->str_set_exception, exc);
    }
    Py_DECREF(exc);
    return status;
}

/* The queue has run empty: what waited for that happens now. */
static int
after_drain(PlStream *self, int from_job)
{
    if (end_waiter(self, self->loop->st->str_set_result, Py_None) < 0) {
        return -1;
    }
    if (self->flags & PL_S_CLOSING) {
        if (from_job && self->conn_lost == 0) {
            self->conn_lost++;
            return pl_transport_finish(&self->base, NULL);
        }
        return pl_transport_force_close(&self->base, NULL);
    }
    if ((self->flags & (PL_S_EOF | PL_S_SHUT)) == PL_S_EOF) {
        self->flags |= PL_S_SHUT;
        if (shutdown(pl_transport_fd(&self->base), SHUT_WR) < 0 &&
            errno != ENOTCONN)
        {
            return send_failed(self, -errno);
        }
    }
    return 0;
}

/* Adds it to what is flushed at the end of the turn. */
static int
enlist(PlStream *self)
{
    PlLoop *loop = self->loop;

    if (self->flags & PL_S_WRITTEN) {
        return 0;
    }
    if (loop->written_count == loop->written_capacity) {
        size_t capacity =
            loop->written_capacity == 0 ? 32 : loop->written_capacity * 2;
        PlStream **written =
            PyMem_Realloc(loop->written, capacity * sizeof(*loop->written));

        if (written == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        loop->written = written;
        loop->written_capacity = capacity;
    }
    loop->written[loop->written_count++] =
        (PlStream *)Py_NewRef((PyObject *)self);
    self->flags |= PL_S_WRITTEN;
    return 0;
}

/* What a send has come to, as queue_send says it. */
static int
stream_sent(PlStream *self, int sent, int from_job)
{
    if (sent < 0) {
        return send_failed(self, sent);
    }
    if (sent == 0) {
        if ((self->flags & PL_S_HELD) && enlist(self) < 0) {
            return -1;
        }
        if (pl_transport_watch(&self->base, PL_S_WRITING, 0) < 0) {
            return -1;
        }
        return from_job ? pl_maybe_resume(&self->base) : 0;
    }
    /* A paused protocol is told by the job that the poll brings. */
    bool paused = !from_job && (self->flags & PL_S_PROTOCOL_PAUSED);

    if (paused) {
        self->flags |= PL_S_HELD;
    }
    if (pl_transport_watch(&self->base, paused ? PL_S_WRITING : 0,
                           paused ? 0 : PL_S_WRITING) < 0)
    {
        return -1;
    }
    if (from_job && pl_maybe_resume(&self->base) < 0) {
        /* It leaves the loop; the rest is the next readiness's. */
        PyObject *exc = PyErr_GetRaisedException();

        if (self->conn_lost == 0 &&
            pl_transport_watch(&self->base, PL_S_WRITING, 0) < 0)
        {
            PyErr_WriteUnraisable((PyObject *)self);
        }
        PyErr_SetRaisedException(exc);
        return -1;
    }
    /* resume_writing() may have written again, or closed. */
    return self->count == 0 && self->conn_lost == 0
               ? after_drain(self, from_job)
               : 0;
}

static int
stream_send(PlStream *self, int from_job)
{
    return self->conn_lost > 0 || self->fd < 0
               ? 0
               : stream_sent(self, queue_send(self, false), from_job);
}

int
pl_stream_flush(PlTransport *transport)
{
    PlStream *self = (PlStream *)transport;

    if (self->count > 0 && !is_waiting(self) && stream_send(self, 0) < 0) {
        return -1;
    }
    return self->count == 0;
}

/* What was written in this turn: one try, whose outcome tells nobody. */
void
pl_stream_last_try(PlTransport *transport)
{
    PlStream *self = (PlStream *)transport;

    if (self->count > 0 && self->fd >= 0 &&
        (self->flags & (PL_S_WRITING | PL_S_HELD)) != PL_S_WRITING)
    {
        (void)queue_send(self, true);
    }
}

int
pl_stream_write_ready(PlTransport *self)
{
    return stream_send((PlStream *)self, 1);
}

/* -- the end of the turn ------------------------------------------------ */

/* One of several that may leave together: their sends are one call, so each
   has to be one too. */
static bool
may_join(PlStream *self)
{
    return self->count > 0 && self->count <= PL_URING_IOV &&
           self->conn_lost == 0 && self->fd >= 0 && !is_waiting(self) &&
           may_send(self);
}

/* Sends for `count` streams at once.  New ref: what has to leave the loop. */
static PyObject *
send_together(PlLoop *loop, PlStream **streams, int count)
{
    pl_send *batch = pl_uring_batch(loop->core->uring);
    int results[PL_URING_BATCH];
    PyObject *exc = NULL;

    for (int i = 0; i < count; i++) {
        batch[i].fd = pl_transport_fd(&streams[i]->base);
        batch[i].count = (int)queue_vector(streams[i], batch[i].iov,
                                           PL_URING_IOV, &batch[i].total);
    }
    int status = pl_uring_send(loop->core->uring, count);

    /* All queues first: what follows may run Python code that writes. */
    for (int i = 0; i < count; i++) {
        results[i] = queue_sent(streams[i], batch[i].sent, batch[i].total);
        streams[i]->flags &= ~(uint32_t)PL_S_HELD;
    }
    if (status < 0) {
        pl_uring_free(loop->core->uring);
        loop->core->uring = NULL;
    }
    pl_counter_add(&loop->counters.batched_sends, (uint64_t)count);
    for (int i = 0; i < count; i++) {
        PlStream *stream = streams[i];

        if (stream->conn_lost == 0 && stream->fd >= 0 &&
            stream_sent(stream, results[i], 0) < 0)
        {
            if (exc == NULL) {
                exc = PyErr_GetRaisedException();
            }
            else {
                PyErr_WriteUnraisable((PyObject *)stream);
            }
        }
    }
    return exc;
}

/* By the io_uring, what can be; the rest, and what is left of them, is the
   ordinary pass's.  The list keeps the streams. */
static PyObject *
flush_together(PlLoop *loop)
{
    PyObject *exc = NULL;
    size_t next = 0;

    while (exc == NULL && loop->core->uring != NULL &&
           next < loop->written_count)
    {
        PlStream *streams[PL_URING_BATCH];
        int count = 0;

        while (count < PL_URING_BATCH && next < loop->written_count) {
            PlStream *stream = loop->written[next++];

            if (may_join(stream)) {
                streams[count++] = stream;
            }
        }
        if (count > 1) {
            exc = send_together(loop, streams, count);
        }
    }
    return exc;
}

int
pl_loop_flush_written(PlLoop *loop)
{
    size_t kept = 0;

    loop->sending = true;

    PyObject *exc = loop->core->uring == NULL ? NULL : flush_together(loop);

    /* Sending and letting go may end in Python code that writes again: those
       entries are appended and taken in this same pass.  So is what is held
       from here on, which is then kept. */
    for (size_t i = 0; i < loop->written_count; i++) {
        PlStream *stream = loop->written[i];

        loop->written[i] = NULL;
        stream->flags &= ~(uint32_t)PL_S_WRITTEN;
        if (exc == NULL && pl_stream_flush(&stream->base) < 0) {
            exc = PyErr_GetRaisedException();
        }
        /* Held, or not sent because of the exception: the next flush's. */
        bool keep = stream->count > 0 && stream->conn_lost == 0 &&
                    (stream->flags & PL_S_HELD ||
                     (exc != NULL && !(stream->flags & PL_S_WRITING)));

        if (keep && !(stream->flags & PL_S_WRITTEN)) {
            stream->flags |= PL_S_WRITTEN;
            loop->written[kept++] = stream;
        }
        else {
            Py_DECREF(stream);
        }
    }
    loop->written_count = kept;
    loop->sending = false;
    if (exc != NULL) {
        PyErr_SetRaisedException(exc);
        return -1;
    }
    return 0;
}

/* Sees to it that what is queued will be sent. */
static int
schedule_send(PlStream *self)
{
    PlLoop *loop = self->loop;

    if ((self->flags & PL_S_WRITTEN) || is_waiting(self)) {
        /* on its way */
    }
    else if (atomic_load_explicit(&loop->thread, memory_order_relaxed) !=
                 pl_thread_ident() ||
             self->buffered > self->high || self->buffered >= PL_HIGH_WATER)
    {
        if (stream_send(self, 0) < 0) {
            return -1;
        }
    }
    else {
        return enlist(self);
    }
    if ((self->flags & PL_S_WRITTEN) &&
        (self->buffered > self->high || self->buffered >= PL_HIGH_WATER) &&
        stream_send(self, 0) < 0)
    {
        return -1;
    }
    return pl_maybe_pause(&self->base);
}

/* -- methods ----------------------------------------------------------- */

/* 1: go on; 0: nothing is to be written; -1: exception. */
static int
check_write(PlStream *self, PyObject *data)
{
    if (!PyBytes_Check(data) && !PyByteArray_Check(data) &&
        !PyMemoryView_Check(data))
    {
        /* asyncio's own words, which differ between versions: its method
           looks at the data first and at nothing else. */
        PyObject *none = PyObject_CallMethod(
            self->loop->st->selector_transport, "write", "OO", self, data);

        if (none != NULL) {
            Py_DECREF(none);
            PyErr_SetString(PyExc_TypeError, "a bytes-like object is needed");
        }
        return -1;
    }
    if (self->flags & PL_S_EOF) {
        PyErr_SetString(PyExc_RuntimeError,
                        "Cannot call write() after write_eof()");
        return -1;
    }
    if (self->empty_waiter != NULL) {
        PyErr_SetString(PyExc_RuntimeError,
                        "unable to write; sendfile is in progress");
        return -1;
    }
    return pl_loop_check_thread(self->loop) < 0 ? -1 : 1;
}

/* Large and mutable: send what the socket takes, copy only the rest. */
static PyObject *
copy_unsent(PlStream *self, Py_buffer *view)
{
    size_t sent = 0;

    if (self->count == 0 && (size_t)view->len >= PL_HIGH_WATER &&
        may_send(self))
    {
        ssize_t n = send(pl_transport_fd(&self->base), view->buf,
                         (size_t)view->len, MSG_NOSIGNAL);

        sent = n > 0 ? (size_t)n : 0; /* an error shows at the next send */
        self->sent += sent;
    }
    if (sent == (size_t)view->len) {
        return PyBytes_FromStringAndSize(NULL, 0);
    }
    return PyBytes_FromStringAndSize((char *)view->buf + sent,
                                     view->len - (Py_ssize_t)sent);
}

static int
queue_data(PlStream *self, PyObject *data)
{
    PyObject *bytes;

    if (PyBytes_CheckExact(data)) {
        bytes = Py_NewRef(data);
    }
    else {
        Py_buffer view;

        if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0) {
            /* Not contiguous: for asyncio a failed send. */
            return pl_transport_fatal(&self->base,
                                      "Fatal write error on socket transport");
        }
        bytes = copy_unsent(self, &view);
        PyBuffer_Release(&view);
        if (bytes == NULL) {
            return -1;
        }
    }
    if (PyBytes_GET_SIZE(bytes) == 0) {
        Py_DECREF(bytes);
        return 0;
    }
    return queue_push(self, bytes);
}

static int
is_empty(PyObject *data)
{
    if (PyBytes_Check(data)) {
        return PyBytes_GET_SIZE(data) == 0;
    }
    return PyObject_Not(data);
}

PyObject *
stream_write(PlStream *self, PyObject *const *args, Py_ssize_t nargs,
             PyObject *kwnames)
{
    PyObject *data = pl_only_argument("write", "data", args, nargs, kwnames);

    if (data == NULL || check_write(self, data) < 0) {
        return NULL;
    }
    int empty = is_empty(data);

    if (empty < 0) {
        return NULL;
    }
    if (empty) {
        Py_RETURN_NONE;
    }
    if (self->conn_lost > 0 || self->fd < 0) {
        return pl_transport_write_after_end(&self->base) < 0
                   ? NULL
                   : Py_NewRef(Py_None);
    }
    bool first = self->count == 0;

    if (queue_data(self, data) < 0 ||
        (self->count > 0 && schedule_send(self) < 0))
    {
        return NULL;
    }
    /* asyncio would watch the socket now. */
    if (first && self->count > 0 && pl_loop_check_closed(self->loop) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* New ref: all of `lines` as bytes, before anything is queued. */
static PyObject *
bytes_list(PyObject *lines)
{
    PyObject *list = PySequence_List(lines);

    for (Py_ssize_t i = 0; list != NULL && i < PyList_GET_SIZE(list); i++) {
        PyObject *data = PyList_GET_ITEM(list, i);

        if (PyBytes_CheckExact(data)) {
            continue;
        }
        /* By a memoryview, for its error. */
        PyObject *view = PyMemoryView_FromObject(data);
        PyObject *bytes = view == NULL ? NULL : PyBytes_FromObject(view);

        Py_XDECREF(view);
        if (bytes == NULL || PyList_SetItem(list, i, bytes) < 0) {
            Py_CLEAR(list);
        }
    }
    return list;
}

PyObject *
stream_writelines(PlStream *self, PyObject *const *args, Py_ssize_t nargs,
                  PyObject *kwnames)
{
    PyObject *lines =
        pl_only_argument("writelines", "list_of_data", args, nargs, kwnames);

    if (lines == NULL || pl_loop_check_thread(self->loop) < 0) {
        return NULL;
    }
    if ((self->flags & PL_S_EOF) || self->empty_waiter != NULL) {
        /* asyncio's refusal, in the running version's words. */
        return PyObject_CallMethod(self->loop->st->selector_transport,
                                   "writelines", "OO", self, lines);
    }
#if PY_VERSION_HEX >= 0x030C0000
    int some = PyObject_IsTrue(lines);

    if (some <= 0) {
        return some < 0 ? NULL : Py_NewRef(Py_None);
    }
#endif
    bool lost = self->conn_lost > 0 || self->fd < 0;

    /* Before 3.14 the pieces are looked at even then. */
    PyObject *list = lost && PY_VERSION_HEX >= 0x030E0000 ? Py_NewRef(lines)
                                                          : bytes_list(lines);

    if (list == NULL) {
        return NULL;
    }
    if (lost) {
        int status = PyObject_IsTrue(list);

        if (status > 0) {
            status = pl_transport_write_after_end(&self->base);
        }
        Py_DECREF(list);
        return status < 0 ? NULL : Py_NewRef(Py_None);
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(list); i++) {
        PyObject *bytes = PyList_GET_ITEM(list, i);

        if (PyBytes_GET_SIZE(bytes) > 0 &&
            queue_push(self, Py_NewRef(bytes)) < 0)
        {
            Py_DECREF(list);
            return NULL;
        }
    }
    Py_DECREF(list);
    if (self->count > 0 && schedule_send(self) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyObject *
stream_write_eof(PlStream *self, PyObject *Py_UNUSED(unused))
{
    if ((self->flags & (PL_S_CLOSING | PL_S_EOF)) || self->fd < 0) {
        Py_RETURN_NONE;
    }
    if (pl_loop_check_thread(self->loop) < 0) {
        return NULL;
    }
    /* What was written in this turn may meet the end of the connection: then
       there is no end of the data. */
    if (pl_stream_flush(&self->base) < 0) {
        return NULL;
    }
    if (self->flags & PL_S_CLOSING) {
        Py_RETURN_NONE;
    }
    self->flags |= PL_S_EOF;
    if (self->count == 0) {
        self->flags |= PL_S_SHUT;
        if (shutdown(pl_transport_fd(&self->base), SHUT_WR) < 0) {
            return pl_raise_errno(-errno);
        }
    }
    Py_RETURN_NONE;
}

/* _send_written(): before the turn is over, for whoever may tell
   (_written.py).  Only where the loop's data is this thread's to use. */
PyObject *
stream_send_written(PlStream *self, PyObject *Py_UNUSED(unused))
{
    if (pl_loop_runs_here(self->loop) && (self->flags & PL_S_WRITTEN) &&
        pl_stream_flush(&self->base) < 0)
    {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* The same for all streams. */
PyObject *
loop_send_written(PlLoop *self, PyObject *Py_UNUSED(unused))
{
    if (pl_loop_runs_here(self) && !self->sending &&
        pl_loop_flush_written(self) < 0)
    {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* For loop.sendfile(): a future done when all that was written is sent. */
PyObject *
stream_make_empty_waiter(PlStream *self, PyObject *Py_UNUSED(unused))
{
    if (pl_loop_check_thread(self->loop) < 0) {
        return NULL;
    }
    if (self->empty_waiter != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "Empty waiter is already set");
        return NULL;
    }
    if (pl_stream_flush(&self->base) < 0) {
        return NULL;
    }
    PyObject *waiter =
        PyObject_CallMethod((PyObject *)self->loop, "create_future", NULL);

    if (waiter == NULL) {
        return NULL;
    }
    pl_transport_set_object(&self->base, &self->empty_waiter,
                            Py_NewRef(waiter));
    if (self->count == 0 &&
        end_waiter(self, self->loop->st->str_set_result, Py_None) < 0)
    {
        Py_DECREF(waiter);
        return NULL;
    }
    return waiter;
}

PyObject *
stream_reset_empty_waiter(PlStream *self, PyObject *Py_UNUSED(unused))
{
    pl_transport_set_object(&self->base, &self->empty_waiter, NULL);
    Py_RETURN_NONE;
}
