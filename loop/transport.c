/* The life of a transport, its flow control and its getters; see
   transport.h.  Everything here is asyncio's _SelectorTransport and
   _FlowControlMixin, in their order of calls and with their messages. */

#include "transport.h"
#include "handle.h"

#include <unistd.h>

#define CONN_LOST_WARNING 5    /* LOG_THRESHOLD_FOR_CONNLOST_WRITES */

/* -- the protocol ------------------------------------------------------ */

void
pl_transport_set_object(PlTransport *self, PyObject **field, PyObject *object)
{
    PyObject *old;

    Py_BEGIN_CRITICAL_SECTION(self->loop);
    old = *field;
    *field = object;
    Py_END_CRITICAL_SECTION();
    Py_XDECREF(old);
}

void
pl_transport_take_protocol(PlTransport *self, PyObject *protocol)
{
    pl_transport_set_object(self, &self->protocol, protocol);
}

int
pl_transport_debug(PlTransport *self, const char *format)
{
    if (!self->loop->debug) {
        return 0;
    }
    PyObject *done = PyObject_CallMethod(self->loop->st->logger, "debug", "sO",
                                         format, self);

    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

/* The handle asyncio would have had is made for the report.  In a copy of
   the context: this one is entered, and the exception handler is run in the
   handle's. */
int
pl_transport_report(PlTransport *self, PyObject *owner, PyObject *name,
                    PyObject *arg)
{
    PyObject *exc = PyErr_GetRaisedException();
    PyObject *method = PyObject_GetAttr(owner, name);
    int status = -1;

    if (method == NULL) {
        PyErr_Clear();
        method = Py_NewRef(Py_None);
    }
    PyObject *args = arg == NULL ? PyTuple_New(0) : PyTuple_Pack(1, arg);
    PyObject *context = PyContext_Copy(self->context);
    PlHandle *handle =
        context == NULL ? NULL
                        : pl_handle_new(self->loop, self->loop->st->HandleType,
                                        method, &arg, arg != NULL, context);

    Py_XDECREF(context);
    if (handle != NULL && args != NULL) {
        PyErr_SetRaisedException(exc);
        status = pl_report_callback(self->loop, (PyObject *)handle, method,
                                    args, NULL);
    }
    else {
        Py_DECREF(exc);
    }
    if (handle != NULL) {
        pl_handle_drop(handle);
    }
    Py_XDECREF(args);
    Py_DECREF(method);
    return status;
}

/* -- readiness --------------------------------------------------------- */

/* The slot owns a reference to the transport while the poller watches it. */
int
pl_transport_watch(PlTransport *self, uint32_t set, uint32_t clear)
{
    uint32_t before = self->flags & (PL_S_READING | PL_S_WRITING);
    uint32_t after = (before | set) & ~clear;

    /* A closed loop watches nothing, and has let go of this. */
    if (before == after || self->fd < 0 || self->loop->closed) {
        return 0;
    }
    uint32_t events = (after & PL_S_READING ? PL_READ : 0) |
                      (after & PL_S_WRITING ? PL_WRITE : 0);
    pl_core *core = self->loop->core;
    bool is_ours = pl_core_slot(core, self->fd)->owner == self;
    /* Not to watch is always possible; to watch not where the number may be
       another's by now. */
    int err =
        is_ours && (pl_transport_fd(self) == self->fd || after == 0)
            ? pl_core_watch(core, self->fd, self->ops->kind, self, events)
        : set == 0 ? 0
                   : -EBADF;

    if (err < 0) {
        pl_raise_errno(err);
        return pl_transport_fatal(self, "Fatal error on transport");
    }
    self->flags = (self->flags & ~before) | after;
    if (before == 0) {
        Py_INCREF(self);
    }
    else if (after == 0) {
        Py_DECREF(self);
    }
    return 0;
}

void
pl_transport_orphan(PlTransport *self)
{
    self->flags &= ~(uint32_t)(PL_S_READING | PL_S_WRITING);
    Py_DECREF(self);
}

int
pl_transport_on_events(PlTransport *self, uint32_t events)
{
    self->pending |= events;
    if (self->flags & PL_S_QUEUED) {
        return 0;
    }
    if (pl_loop_push_job(self->loop, &self->io) < 0) {
        return -1;
    }
    self->flags |= PL_S_QUEUED;
    return 0;
}

static int
wake_waiter(PlTransport *self)
{
    PyObject *waiter = self->waiter;

    if (waiter == NULL) {
        return 0;
    }
    self->waiter = NULL;
    int status = pl_future_wake(self->loop, waiter);

    Py_DECREF(waiter);
    return status;
}

static int
report_connection_made(PlTransport *self)
{
    PyObject *protocol = pl_transport_protocol(self);
    int status = pl_transport_report(
        self, protocol, self->loop->st->str_connection_made, (PyObject *)self);

    Py_DECREF(protocol);
    return status;
}

static int
transport_start(PlTransport *self)
{
    if (!(self->flags & PL_S_MADE)) {
        self->flags |= PL_S_MADE;
        PyObject *protocol = pl_transport_protocol(self);
        int made = self->table->made(self, protocol);

        Py_DECREF(protocol);
        if (made < 0 && (pl_leaves_loop() || report_connection_made(self) < 0))
        {
            /* The rest of the start is the next run's. */
            PyObject *exc = PyErr_GetRaisedException();

            if (pl_transport_on_events(self, 0) < 0) {
                PyErr_WriteUnraisable((PyObject *)self);
            }
            PyErr_SetRaisedException(exc);
            return -1;
        }
    }
    self->flags |= PL_S_STARTED;
    if (!(self->flags & (PL_S_CLOSING | PL_S_PAUSED)) &&
        pl_transport_watch(self, PL_S_READING, 0) < 0)
    {
        return -1;
    }
    return wake_waiter(self);
}

static int
leave_context(PlTransport *self, int status)
{
    if (PyContext_Exit(self->context) < 0) {
        return -1;
    }
    return status;
}

static int
transport_io(pl_job *job)
{
    PlTransport *self = (PlTransport *)job->owner;
    uint32_t events = self->pending;
    int status = 0;

    self->pending = 0;
    self->flags &= ~(uint32_t)PL_S_QUEUED;
    if (PyContext_Enter(self->context) < 0) {
        return -1;
    }
    if (!(self->flags & PL_S_STARTED)) {
        status = transport_start(self);
    }
    else {
        if ((events & PL_READ) && (self->flags & PL_S_READING)) {
            status = self->ops->read(self);
        }
        if (status == 0 && (events & PL_WRITE) && (self->flags & PL_S_WRITING))
        {
            status = self->ops->write(self);
        }
    }
    return leave_context(self, status);
}

static int
transport_lost(pl_job *job)
{
    PlTransport *self = (PlTransport *)job->owner;
    PyObject *exc = self->lost_exc;

    self->lost_exc = NULL;
    if (PyContext_Enter(self->context) < 0) {
        Py_XDECREF(exc);
        return -1;
    }
    return leave_context(self, pl_transport_finish(self, exc));
}

/* -- opening ----------------------------------------------------------- */

int
pl_transport_init(PlTransport *self, const pl_transport_ops *ops, PlLoop *loop,
                  PyObject *context)
{
    self->ops = ops;
    self->table = &pl_python_protocol;
    self->loop = (PlLoop *)Py_NewRef((PyObject *)loop);
    self->fd = -1;
    self->io = (pl_job){transport_io, (PyObject *)self};
    self->lost = (pl_job){transport_lost, (PyObject *)self};
    self->high = PL_HIGH_WATER;
    self->low = PL_HIGH_WATER / 4;
    self->number = &self->fd;
    self->context =
        context == NULL ? PyContext_CopyCurrent() : Py_NewRef(context);
    return self->context == NULL ? -1 : 0;
}

/* socket.socket has no public function for it but fileno(), and this is asked
   for each system call.  The first field of _socket.socket, checked here. */
static const int *
socket_number(PyObject *sock)
{
    return (const int *)((const char *)sock + sizeof(PyObject));
}

void
pl_socket_probe(pl_state *st)
{
    PyObject *sock = PyObject_CallNoArgs(st->socket_type);
    PyObject *closed = NULL;

    if (sock != NULL &&
        PyObject_TypeCheck(sock, (PyTypeObject *)st->socket_base))
    {
        int fd = pl_socket_fd(st, sock);
        int known = fd >= 0 && *socket_number(sock) == fd;

        PyErr_Clear();
        closed = PyObject_CallMethodNoArgs(sock, st->str_close);
        st->knows_sockets =
            known && closed != NULL && *socket_number(sock) == -1;
    }
    Py_XDECREF(closed);
    Py_XDECREF(sock);
    PyErr_Clear(); /* no sockets here: then there is nothing to know */
}

void
pl_transport_set_sock(PlTransport *self, PyObject *sock, int fd)
{
    pl_state *st = self->loop->st;

    self->sock = Py_NewRef(sock);
    if (st->knows_sockets &&
        PyObject_TypeCheck(sock, (PyTypeObject *)st->socket_base) &&
        *socket_number(sock) == fd) /* its fileno() may be its own */
    {
        self->number = socket_number(sock);
    }
}

void
pl_transport_evict(PlTransport *self)
{
    static const int none = -1;
    bool watched = self->flags & (PL_S_READING | PL_S_WRITING);

    pl_core_forget(self->loop->core, self->fd);
    self->number = &none;
    if (watched) {
        pl_transport_orphan(self);
    }
}

int
pl_transport_open(PlTransport *self, int fd)
{
    pl_core *core = self->loop->core;

    pl_loop_evict(self->loop, fd);

    int err = pl_core_watch(core, fd, self->ops->kind, self, 0);

    if (err < 0) {
        pl_raise_errno(err);
        return -1;
    }
    if (pl_loop_push_job(self->loop, &self->io) < 0) {
        pl_core_forget(core, fd);
        return -1;
    }
    self->flags |= PL_S_QUEUED;
    self->fd = self->shown_fd = fd;
    return 0;
}

PyObject *
pl_transport_of_fd(PlLoop *loop, int fd)
{
    pl_slot *slot = pl_core_slot(loop->core, fd);

    if (slot == NULL || !pl_slot_is_transport(slot)) {
        return NULL;
    }
    PlTransport *transport = slot->owner;

    return transport->flags & PL_S_CLOSING ? NULL : (PyObject *)transport;
}

int
pl_socket_fd(pl_state *st, PyObject *sock)
{
    PyObject *number = PyObject_CallMethodNoArgs(sock, st->str_fileno);

    if (number == NULL) {
        return -1;
    }
    int fd = PyLong_AsInt(number);

    Py_DECREF(number);
    if (fd < 0 && !PyErr_Occurred()) {
        PyErr_Format(PyExc_ValueError, "Invalid file descriptor: %d", fd);
    }
    return fd;
}

/* -- the end ----------------------------------------------------------- */

static int
schedule_lost(PlTransport *self, PyObject *exc)
{
    if (pl_loop_check_closed(self->loop) < 0 ||
        pl_loop_push_job(self->loop, &self->lost) < 0)
    {
        Py_XDECREF(exc);
        return -1;
    }
    Py_XSETREF(self->lost_exc, exc);
    return 0;
}

int
pl_transport_force_close(PlTransport *self, PyObject *exc)
{
    if (self->conn_lost > 0) {
        Py_XDECREF(exc);
        return 0;
    }
    self->flags |= PL_S_CLOSING;
    self->conn_lost++;
    if (self->ops->last_try != NULL) {
        self->ops->last_try(self);
    }
    self->ops->drop_queue(self);
    (void)pl_transport_watch(self, 0, PL_S_READING | PL_S_WRITING);
    return schedule_lost(self, exc);
}

/* 0, or -1 with any exception: the program's logging may raise. */
static int
debug_fatal(PlTransport *self, PyObject *exc, const char *message)
{
    PyObject *kwargs = Py_BuildValue("{s:O}", "exc_info", exc);
    PyObject *args = Py_BuildValue("(sOs)", "%r: %s", self, message);
    PyObject *log =
        PyObject_GetAttr(self->loop->st->logger, self->loop->st->str_debug);
    PyObject *done = kwargs == NULL || args == NULL || log == NULL
                         ? NULL
                         : PyObject_Call(log, args, kwargs);

    Py_XDECREF(done);
    Py_XDECREF(log);
    Py_XDECREF(args);
    Py_XDECREF(kwargs);
    return done == NULL ? -1 : 0;
}

int
pl_transport_fatal(PlTransport *self, const char *message)
{
    if (pl_leaves_loop()) {
        return -1;
    }
    PyObject *exc = PyErr_GetRaisedException();

    if (PyErr_GivenExceptionMatches(exc, PyExc_OSError)) {
        if (self->loop->debug && debug_fatal(self, exc, message) < 0 &&
            pl_unraisable((PyObject *)self) < 0)
        {
            Py_DECREF(exc);
            return -1;
        }
    }
    else if (pl_report(self->loop, message, Py_NewRef(exc), "transport", self,
                       "protocol", self->protocol, NULL) < 0)
    {
        Py_DECREF(exc);
        return -1;
    }
    return pl_transport_force_close(self, exc);
}

int
pl_transport_close(PlTransport *self)
{
    if (self->flags & PL_S_CLOSING) {
        return 0;
    }
    self->flags |= PL_S_CLOSING;
    if (pl_transport_watch(self, 0, PL_S_READING) < 0) {
        return -1;
    }
    int empty = self->ops->flush(self);

    if (empty < 0) {
        return -1;
    }
    if (!empty || self->conn_lost > 0) {
        return 0;
    }
    self->conn_lost++;
    (void)pl_transport_watch(self, 0, PL_S_WRITING);
    return schedule_lost(self, NULL);
}

void
pl_transport_release(PlTransport *self)
{
    PyObject *sock;
    int fd;

    /* get_extra_info() of another thread finds all of it or nothing. */
    Py_BEGIN_CRITICAL_SECTION(self->loop);
    if (self->fd >= 0 && self->ops->releasing != NULL) {
        self->ops->releasing(self);
    }
    fd = self->fd;
    sock = self->sock;
    self->fd = -1;
    self->sock = NULL;
    if (sock != NULL) {
        self->number = &self->fd;
    }
    Py_END_CRITICAL_SECTION();
    if (fd < 0) {
        Py_XDECREF(sock);
        return;
    }
    if (self->flags & (PL_S_READING | PL_S_WRITING)) {
        self->flags &= ~(uint32_t)(PL_S_READING | PL_S_WRITING);
        Py_DECREF(self); /* the slot's */
    }
    pl_slot *slot = pl_core_slot(self->loop->core, fd);

    if (slot != NULL && slot->kind == self->ops->kind && slot->owner == self) {
        pl_core_forget(self->loop->core, fd);
    }
    if (sock == NULL) {
        if (self->number == &self->fd) {
            close(fd);
        }
        return;
    }
    PyObject *done =
        PyObject_CallMethodNoArgs(sock, self->loop->st->str_close);

    if (done == NULL) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    Py_XDECREF(done);
    Py_DECREF(sock);
}

int
pl_transport_finish(PlTransport *self, PyObject *exc)
{
    PyObject *protocol = Py_XNewRef(self->protocol);
    PyObject *failure = NULL;
    int status = 0;

    if (self->fd < 0 && protocol == NULL) {
        Py_XDECREF(exc);
        return 0;
    }
    Py_INCREF(self);
    (void)pl_transport_watch(self, 0, PL_S_READING | PL_S_WRITING);
    if (protocol != NULL && self->table->lost(self, protocol, exc) < 0) {
        failure = PyErr_GetRaisedException();
    }
    pl_transport_release(self);
    Py_XDECREF(protocol);
    pl_transport_take_protocol(self, NULL);
    if (self->ops->ended != NULL && self->ops->ended(self) < 0) {
        if (failure == NULL) {
            failure = PyErr_GetRaisedException();
        }
        else {
            PyErr_WriteUnraisable((PyObject *)self);
        }
    }
    if (failure != NULL) {
        PyErr_SetRaisedException(failure);
        status = pl_leaves_loop()
                     ? -1
                     : pl_transport_report(
                           self, (PyObject *)self,
                           self->loop->st->str__call_connection_lost,
                           exc == NULL ? Py_None : exc);
    }
    Py_XDECREF(exc);
    Py_DECREF(self);
    return status;
}

/* -- flow control ------------------------------------------------------ */

static int
call_flow(PlTransport *self, int pause, const char *message)
{
    PyObject *protocol = pl_transport_protocol(self);
    int status = self->table->flow(self, protocol, pause);

    Py_DECREF(protocol);
    if (status < 0) {
        if (pl_leaves_loop()) {
            return -1;
        }
        return pl_report(self->loop, message, PyErr_GetRaisedException(),
                         "transport", self, "protocol", self->protocol, NULL);
    }
    return 0;
}

int
pl_maybe_pause(PlTransport *self)
{
    if (self->buffered <= self->high || (self->flags & PL_S_PROTOCOL_PAUSED) ||
        self->protocol == NULL)
    {
        return 0;
    }
    self->flags |= PL_S_PROTOCOL_PAUSED;
    return call_flow(self, 1, "protocol.pause_writing() failed");
}

int
pl_maybe_resume(PlTransport *self)
{
    if (!(self->flags & PL_S_PROTOCOL_PAUSED) || self->buffered > self->low ||
        self->protocol == NULL)
    {
        return 0;
    }
    self->flags &= ~(uint32_t)PL_S_PROTOCOL_PAUSED;
    return call_flow(self, 0, "protocol.resume_writing() failed");
}

int
pl_transport_write_after_end(PlTransport *self)
{
    if (self->conn_lost >= CONN_LOST_WARNING) {
        PyObject *done =
            PyObject_CallMethod(self->loop->st->logger, "warning", "s",
                                "socket.send() raised exception.");

        if (done == NULL) {
            return -1;
        }
        Py_DECREF(done);
    }
    self->conn_lost++;
    return 0;
}

/* A limit in whole bytes: what is above it is above the number, too. */
static int
whole(PyObject *number, size_t *value)
{
    PyObject *bytes =
        PyLong_Check(number) ? Py_NewRef(number) : PyNumber_Long(number);

    if (bytes == NULL && !PyErr_ExceptionMatches(PyExc_OverflowError)) {
        return -1;
    }
    *value = bytes == NULL ? (size_t)-1 : PyLong_AsSize_t(bytes);
    Py_XDECREF(bytes);
    if (*value > PY_SSIZE_T_MAX) { /* or -1: infinite, an overflow */
        PyErr_Clear();
        *value = PY_SSIZE_T_MAX;
    }
    return 0;
}

/* asyncio's arithmetic, on whatever numbers they are; for its errors too. */
static int
limits(PyObject *high, PyObject *low, size_t *high_value, size_t *low_value)
{
    PyObject *four = PyLong_FromLong(4);
    PyObject *zero = PyLong_FromLong(0);
    int holds = -1;

    high = high != Py_None  ? Py_NewRef(high)
           : low != Py_None ? PyNumber_Multiply(four, low)
                            : PyLong_FromSize_t(PL_HIGH_WATER);
    low = high == NULL     ? NULL
          : low != Py_None ? Py_NewRef(low)
                           : PyNumber_FloorDivide(high, four);
    if (low != NULL) {
        holds = PyObject_RichCompareBool(high, low, Py_GE);
        if (holds > 0) {
            holds = PyObject_RichCompareBool(low, zero, Py_GE);
        }
    }
    if (holds == 0) {
        PyErr_Format(PyExc_ValueError,
                     "high (%R) must be >= low (%R) must be >= 0", high, low);
    }
    if (holds > 0 &&
        (whole(high, high_value) < 0 || whole(low, low_value) < 0))
    {
        holds = -1;
    }
    Py_XDECREF(high);
    Py_XDECREF(low);
    Py_XDECREF(four);
    Py_XDECREF(zero);
    return holds > 0 ? 0 : -1;
}

static PyObject *
transport_set_write_buffer_limits(PlTransport *self, PyObject *args,
                                  PyObject *kwargs)
{
    static const char *const names[] = {"high", "low", NULL};
    PyObject *high = Py_None, *low = Py_None;
    size_t high_value, low_value;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs,
                                     "|OO:set_write_buffer_limits",
                                     (char **)names, &high, &low))
    {
        return NULL;
    }
    if (limits(high, low, &high_value, &low_value) < 0 ||
        pl_loop_check_thread(self->loop) < 0)
    {
        return NULL;
    }
    self->high = high_value;
    self->low = low_value;
    if ((self->buffered > self->high && self->ops->flush(self) < 0) ||
        pl_maybe_pause(self) < 0)
    {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyObject *
transport_get_write_buffer_limits(PlTransport *self,
                                  PyObject *Py_UNUSED(unused))
{
    return Py_BuildValue("nn", (Py_ssize_t)self->low, (Py_ssize_t)self->high);
}

PyObject *
transport_get_write_buffer_size(PlTransport *self, PyObject *Py_UNUSED(unused))
{
    return PyLong_FromSize_t(self->buffered);
}

/* -- methods ----------------------------------------------------------- */

static PyObject *
transport_close(PlTransport *self, PyObject *Py_UNUSED(unused))
{
    if (!(self->flags & PL_S_CLOSING) &&
        (pl_loop_check_scheduling(self->loop) < 0 ||
         pl_transport_close(self) < 0))
    {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
transport_abort(PlTransport *self, PyObject *Py_UNUSED(unused))
{
    if (self->conn_lost == 0 && (pl_loop_check_scheduling(self->loop) < 0 ||
                                 pl_transport_force_close(self, NULL) < 0))
    {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
transport_force_close(PlTransport *self, PyObject *exc)
{
    if (pl_loop_check_scheduling(self->loop) < 0 ||
        pl_transport_force_close(self,
                                 exc == Py_None ? NULL : Py_NewRef(exc)) < 0)
    {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
transport_pause_reading(PlTransport *self, PyObject *Py_UNUSED(unused))
{
    if (!(self->flags & (PL_S_CLOSING | PL_S_PAUSED))) {
        if (pl_loop_check_thread(self->loop) < 0) {
            return NULL;
        }
        self->flags |= PL_S_PAUSED;
        if (pl_transport_watch(self, 0, PL_S_READING) < 0 ||
            pl_transport_debug(self, "%r pauses reading") < 0)
        {
            return NULL;
        }
    }
    Py_RETURN_NONE;
}

static PyObject *
transport_resume_reading(PlTransport *self, PyObject *Py_UNUSED(unused))
{
    if ((self->flags & (PL_S_CLOSING | PL_S_PAUSED)) == PL_S_PAUSED) {
        if (pl_loop_check_thread(self->loop) < 0) {
            return NULL;
        }
        self->flags &= ~(uint32_t)PL_S_PAUSED;
        if (pl_loop_check_closed(self->loop) < 0 ||
            ((self->flags & PL_S_STARTED) &&
             pl_transport_watch(self, PL_S_READING, 0) < 0) ||
            pl_transport_debug(self, "%r resumes reading") < 0)
        {
            return NULL;
        }
    }
    Py_RETURN_NONE;
}

PL_LOCKED(extern, transport_close, (PlTransport * self, PyObject *unused),
          self, unused)
PL_LOCKED(extern, transport_abort, (PlTransport * self, PyObject *unused),
          self, unused)
PL_LOCKED(extern, transport_force_close, (PlTransport * self, PyObject *exc),
          self, exc)
PL_LOCKED(extern, transport_pause_reading,
          (PlTransport * self, PyObject *unused), self, unused)
PL_LOCKED(extern, transport_resume_reading,
          (PlTransport * self, PyObject *unused), self, unused)
PL_LOCKED(extern, transport_set_write_buffer_limits,
          (PlTransport * self, PyObject *args, PyObject *kwargs), self, args,
          kwargs)

PyObject *
transport_fatal_error(PlTransport *self, PyObject *args)
{
    PyObject *exc;
    const char *message = "Fatal error on transport";

    if (!PyArg_ParseTuple(args, "O!|s:_fatal_error", PyExc_BaseException, &exc,
                          &message))
    {
        return NULL;
    }
    PyErr_SetObject((PyObject *)Py_TYPE(exc), exc);
    if (pl_transport_fatal(self, message) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyObject *
transport_call_connection_lost(PlTransport *self, PyObject *exc)
{
    if (pl_transport_finish(self, exc == Py_None ? NULL : Py_NewRef(exc)) < 0)
    {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyObject *
transport_is_closing(PlTransport *self, PyObject *Py_UNUSED(unused))
{
    return PyBool_FromLong(self->flags & PL_S_CLOSING);
}

PyObject *
transport_is_reading(PlTransport *self, PyObject *Py_UNUSED(unused))
{
    return PyBool_FromLong(!(self->flags & (PL_S_CLOSING | PL_S_PAUSED)));
}

PyObject *
transport_get_object(PlTransport *self, void *closure)
{
    PyObject *value;

    Py_BEGIN_CRITICAL_SECTION(self->loop);
    value = *(PyObject **)((char *)self + (size_t)(uintptr_t)closure);
    value = Py_NewRef(value == NULL ? Py_None : value);
    Py_END_CRITICAL_SECTION();
    return value;
}

PyObject *
transport_get_protocol(PlTransport *self, PyObject *Py_UNUSED(unused))
{
    return transport_get_object(self, PL_FIELD(PlTransport, protocol));
}

PyObject *
transport_get_flag(PlTransport *self, void *closure)
{
    return PyBool_FromLong(self->flags & (uint32_t)(uintptr_t)closure);
}

PyObject *
transport_get_conn_lost(PlTransport *self, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLong(self->conn_lost);
}

PyObject *
pl_transport_repr(PlTransport *self)
{
    PyObject *name = PyType_GetName(Py_TYPE(self));
    const char *state = self->fd < 0                 ? " closed"
                        : self->flags & PL_S_CLOSING ? " closing"
                                                     : "";
    PyObject *repr;

    if (name == NULL) {
        return NULL;
    }
    if (self->loop->closed || self->fd < 0) {
        repr =
            PyUnicode_FromFormat("<%U%s fd=%d>", name, state, self->shown_fd);
    }
    else {
        repr = PyUnicode_FromFormat(
            "<%U%s fd=%d read=%s write=<%s, bufsize=%zu>>", name, state,
            self->shown_fd, self->flags & PL_S_READING ? "polling" : "idle",
            self->flags & PL_S_WRITING ? "polling" : "idle", self->buffered);
    }
    Py_DECREF(name);
    return repr;
}

/* -- memory ------------------------------------------------------------ */

int
pl_transport_traverse(PlTransport *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->extra);
    Py_VISIT(self->loop);
    Py_VISIT(self->context);
    Py_VISIT(self->protocol);
    Py_VISIT(self->sock);
    Py_VISIT(self->waiter);
    Py_VISIT(self->lost_exc);
    Py_VISIT(self->dict);
    return 0;
}

/* Not loop and context: teardown needs them, and the loop clears itself. */
void
pl_transport_clear(PlTransport *self)
{
    Py_CLEAR(self->extra);
    Py_CLEAR(self->protocol);
    Py_CLEAR(self->waiter);
    Py_CLEAR(self->lost_exc);
    Py_CLEAR(self->dict);
}

void
pl_transport_finalize(PlTransport *self)
{
    if (self->fd < 0) {
        return;
    }
    PyObject *exc = PyErr_GetRaisedException();

    if (PyErr_ResourceWarning((PyObject *)self, 1, "unclosed transport %R",
                              self) < 0)
    {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    pl_transport_release(self);
    if (self->ops->ended != NULL && self->ops->ended(self) < 0) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    PyErr_SetRaisedException(exc);
}

void
pl_transport_dealloc(PlTransport *self)
{
    PyTypeObject *type = Py_TYPE(self);

    if (PyObject_CallFinalizerFromDealloc((PyObject *)self) < 0) {
        return;
    }
    PyObject_GC_UnTrack(self);
    if (self->weaklist != NULL) {
        PyObject_ClearWeakRefs((PyObject *)self);
    }
    if (self->loop != NULL) {
        pl_transport_release(self);
    }
    if (self->ops != NULL) {
        self->ops->drop_queue(self);
    }
    (void)type->tp_clear((PyObject *)self);
    Py_CLEAR(self->sock);
    Py_CLEAR(self->context);
    Py_CLEAR(self->loop);
    type->tp_free(self);
    Py_DECREF(type);
}
