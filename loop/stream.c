/* The stream transport: opening, jobs, teardown, getters; see stream.h. */

#include "stream.h"
#include "handle.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <structmember.h>
#include <unistd.h>

int
pl_leaves_loop(void)
{
    return PyErr_ExceptionMatches(PyExc_SystemExit) ||
           PyErr_ExceptionMatches(PyExc_KeyboardInterrupt);
}

PyObject *
pl_stream_call(PlStream *self, PyObject *name, PyObject *arg)
{
    PyObject *protocol =
        Py_NewRef(self->protocol == NULL ? Py_None : self->protocol);
    PyObject *result = arg == NULL
                           ? PyObject_CallMethodNoArgs(protocol, name)
                           : PyObject_CallMethodOneArg(protocol, name, arg);

    Py_DECREF(protocol);
    return result;
}

void
pl_stream_debug(PlStream *self, const char *format)
{
    if (!self->loop->debug) {
        return;
    }
    PyObject *done = PyObject_CallMethod(self->loop->st->logger, "debug", "sO",
                                         format, self);

    if (done == NULL) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    Py_XDECREF(done);
}

/* -- readiness --------------------------------------------------------- */

/* The slot owns a reference to the stream while the poller watches it. */
int
pl_stream_watch(PlStream *self, uint32_t set, uint32_t clear)
{
    uint32_t before = self->flags & (PL_S_READING | PL_S_WRITING);
    uint32_t after = (before | set) & ~clear;

    if (before == after || self->fd < 0) {
        return 0;
    }
    uint32_t events = (after & PL_S_READING ? PL_READ : 0) |
                      (after & PL_S_WRITING ? PL_WRITE : 0);
    int err = pl_core_watch(self->loop->core, self->fd, PL_SLOT_STREAM, self,
                            events);

    if (err < 0) {
        pl_raise_errno(err);
        return pl_stream_fatal(self, "Fatal error on transport");
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
pl_stream_orphan(PlStream *self)
{
    self->flags &= ~(uint32_t)(PL_S_READING | PL_S_WRITING);
    Py_DECREF(self);
}

int
pl_stream_on_events(PlStream *self, uint32_t events)
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

/* The handle asyncio would have had.  In a copy of the context: this one is
   entered, and the exception handler is run in the handle's. */
static PlHandle *
report_handle(PlStream *self, PyObject *method, PyObject *arg)
{
    PyObject *context = PyContext_Copy(self->context);
    PlHandle *handle =
        context == NULL ? NULL
                        : pl_handle_new(self->loop, self->loop->st->HandleType,
                                        method, &arg, 1, context);

    Py_XDECREF(context);
    return handle;
}

/* connection_made() raised: as asyncio, whose handle it would have been. */
static int
report_connection_made(PlStream *self)
{
    PyObject *exc = PyErr_GetRaisedException();
    PyObject *method =
        PyObject_GetAttr(self->protocol, self->loop->st->str_connection_made);
    PyObject *arg = (PyObject *)self;
    PlHandle *handle;
    int status;

    if (method == NULL) {
        PyErr_Clear();
        method = Py_NewRef(Py_None);
    }
    handle = report_handle(self, method, arg);
    PyObject *args = PyTuple_Pack(1, arg);

    if (handle == NULL || args == NULL) {
        Py_XDECREF(handle);
        Py_XDECREF(args);
        Py_DECREF(method);
        Py_DECREF(exc);
        return -1;
    }
    PyErr_SetRaisedException(exc);
    status =
        pl_report_callback(self->loop, (PyObject *)handle, method, args, NULL);
    Py_DECREF(method);
    Py_DECREF(args);
    pl_handle_drop(handle);
    return status;
}

static int
wake_waiter(PlStream *self)
{
    PyObject *waiter = self->waiter;
    pl_state *st = self->loop->st;
    int status = 0;

    if (waiter == NULL) {
        return 0;
    }
    self->waiter = NULL;
    PyObject *done = PyObject_CallMethodNoArgs(waiter, st->str_done);

    if (done == Py_False) {
        Py_SETREF(done, PyObject_CallMethodOneArg(waiter, st->str_set_result,
                                                  Py_None));
    }
    if (done == NULL) {
        status = pl_leaves_loop() ? -1 : 0;
        if (status == 0) {
            PyErr_WriteUnraisable((PyObject *)self);
        }
    }
    Py_XDECREF(done);
    Py_DECREF(waiter);
    return status;
}

static int
stream_start(PlStream *self)
{
    if (!(self->flags & PL_S_MADE)) {
        self->flags |= PL_S_MADE;
        PyObject *result = pl_stream_call(
            self, self->loop->st->str_connection_made, (PyObject *)self);

        if (result == NULL &&
            (pl_leaves_loop() || report_connection_made(self) < 0))
        {
            /* The rest of the start is the next run's. */
            PyObject *exc = PyErr_GetRaisedException();

            if (pl_stream_on_events(self, 0) < 0) {
                PyErr_WriteUnraisable((PyObject *)self);
            }
            PyErr_SetRaisedException(exc);
            return -1;
        }
        Py_XDECREF(result);
    }
    self->flags |= PL_S_STARTED;
    if (!(self->flags & (PL_S_CLOSING | PL_S_PAUSED)) &&
        pl_stream_watch(self, PL_S_READING, 0) < 0)
    {
        return -1;
    }
    return wake_waiter(self);
}

static int
leave_context(PlStream *self, int status)
{
    if (PyContext_Exit(self->context) < 0) {
        return -1;
    }
    return status;
}

static int
stream_io(pl_job *job)
{
    PlStream *self = (PlStream *)job->owner;
    uint32_t events = self->pending;
    int status = 0;

    self->pending = 0;
    self->flags &= ~(uint32_t)PL_S_QUEUED;
    if (PyContext_Enter(self->context) < 0) {
        return -1;
    }
    if (!(self->flags & PL_S_STARTED)) {
        status = stream_start(self);
    }
    else {
        if ((events & PL_READ) && (self->flags & PL_S_READING)) {
            status = pl_stream_read(self);
        }
        if (status == 0 && (events & PL_WRITE) && (self->flags & PL_S_WRITING))
        {
            status = pl_stream_write_ready(self);
        }
    }
    return leave_context(self, status);
}

static int
stream_lost(pl_job *job)
{
    PlStream *self = (PlStream *)job->owner;
    PyObject *exc = self->lost_exc;

    self->lost_exc = NULL;
    if (PyContext_Enter(self->context) < 0) {
        Py_XDECREF(exc);
        return -1;
    }
    return leave_context(self, pl_stream_finish(self, exc));
}

/* -- the end ----------------------------------------------------------- */

static int
schedule_lost(PlStream *self, PyObject *exc)
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
pl_stream_force_close(PlStream *self, PyObject *exc)
{
    if (self->conn_lost > 0) {
        Py_XDECREF(exc);
        return 0;
    }
    pl_stream_drop_queue(self);
    self->flags |= PL_S_CLOSING;
    self->conn_lost++;
    (void)pl_stream_watch(self, 0, PL_S_READING | PL_S_WRITING);
    return schedule_lost(self, exc);
}

int
pl_stream_fatal(PlStream *self, const char *message)
{
    if (pl_leaves_loop()) {
        return -1;
    }
    PyObject *exc = PyErr_GetRaisedException();

    if (PyErr_GivenExceptionMatches(exc, PyExc_OSError)) {
        if (self->loop->debug) {
            PyObject *kwargs = Py_BuildValue("{s:O}", "exc_info", exc);
            PyObject *args = Py_BuildValue("(sOs)", "%r: %s", self, message);
            PyObject *log = PyObject_GetAttr(self->loop->st->logger,
                                             self->loop->st->str_debug);
            PyObject *done = kwargs == NULL || args == NULL || log == NULL
                                 ? NULL
                                 : PyObject_Call(log, args, kwargs);

            if (done == NULL) {
                PyErr_WriteUnraisable((PyObject *)self);
            }
            Py_XDECREF(done);
            Py_XDECREF(log);
            Py_XDECREF(args);
            Py_XDECREF(kwargs);
        }
    }
    else if (pl_report(self->loop, message, Py_NewRef(exc), "transport", self,
                       "protocol", self->protocol, NULL) < 0)
    {
        Py_DECREF(exc);
        return -1;
    }
    return pl_stream_force_close(self, exc);
}

int
pl_stream_close(PlStream *self)
{
    if (self->flags & PL_S_CLOSING) {
        return 0;
    }
    self->flags |= PL_S_CLOSING;
    if (pl_stream_watch(self, 0, PL_S_READING) < 0 ||
        pl_stream_flush(self) < 0)
    {
        return -1;
    }
    if (self->count > 0 || self->conn_lost > 0) {
        return 0;
    }
    self->conn_lost++;
    (void)pl_stream_watch(self, 0, PL_S_WRITING);
    return schedule_lost(self, NULL);
}

/* Addresses can be asked for after the end: what only the socket knows is
   noted before it goes. */
static void
release_socket(PlStream *self)
{
    int fd = self->fd;
    PyObject *sock = self->sock;

    if (fd < 0) {
        return;
    }
    if (self->extra == NULL) {
        struct sockaddr_storage name;
        socklen_t length = sizeof(name);
        PyObject *sockname =
            getsockname(fd, (struct sockaddr *)&name, &length) == 0
                ? pl_sockaddr_object((struct sockaddr *)&name, length)
                : Py_NewRef(Py_None);

        self->sockname = sockname;
        if (sockname == NULL) {
            PyErr_Clear();
        }
    }
    if (self->flags & PL_S_LENT) {
        (void)shutdown(fd, SHUT_RDWR);
    }
    self->fd = -1;
    self->sock = NULL;
    if (self->flags & (PL_S_READING | PL_S_WRITING)) {
        self->flags &= ~(uint32_t)(PL_S_READING | PL_S_WRITING);
        Py_DECREF(self);    /* the slot's */
    }
    pl_slot *slot = pl_core_slot(self->loop->core, fd);

    if (slot != NULL && slot->kind == PL_SLOT_STREAM && slot->owner == self) {
        pl_core_forget(self->loop->core, fd);
    }
    if (sock == NULL) {
        close(fd);
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

static int
detach_server(PlStream *self)
{
    PyObject *server = self->server;
    pl_state *st = self->loop->st;

    if (server == NULL) {
        return 0;
    }
    self->server = NULL;
    PyObject *done = st->attach_takes_transport
                         ? PyObject_CallMethodOneArg(server, st->str__detach,
                                                     (PyObject *)self)
                         : PyObject_CallMethodNoArgs(server, st->str__detach);

    Py_DECREF(server);
    if (done == NULL) {
        return -1;
    }
    Py_DECREF(done);
    return 0;
}

/* Steals protocol, which may be NULL. */
static void
take_protocol(PlStream *self, PyObject *protocol)
{
    PyObject *old;

    Py_BEGIN_CRITICAL_SECTION(self->loop);
    old = self->protocol;
    self->protocol = protocol;
    Py_END_CRITICAL_SECTION();
    Py_XDECREF(old);
}

static int
report_lost(PlStream *self, PyObject *exc)
{
    PyObject *raised = PyErr_GetRaisedException();
    PyObject *method = PyObject_GetAttr(
        (PyObject *)self, self->loop->st->str__call_connection_lost);
    PyObject *arg = exc == NULL ? Py_None : exc;
    PyObject *args = PyTuple_Pack(1, arg);
    PlHandle *handle =
        method == NULL ? NULL : report_handle(self, method, arg);
    int status = -1;

    if (handle != NULL && args != NULL) {
        PyErr_SetRaisedException(raised);
        status = pl_report_callback(self->loop, (PyObject *)handle, method,
                                    args, NULL);
    }
    else {
        Py_DECREF(raised);
    }
    if (handle != NULL) {
        pl_handle_drop(handle);
    }
    Py_XDECREF(args);
    Py_XDECREF(method);
    return status;
}

/* The first exception counts; no other is swallowed. */
static void
keep_failure(PlStream *self, PyObject **failure)
{
    if (*failure == NULL) {
        *failure = PyErr_GetRaisedException();
    }
    else {
        PyErr_WriteUnraisable((PyObject *)self);
    }
}

int
pl_stream_finish(PlStream *self, PyObject *exc)
{
    PyObject *protocol = Py_XNewRef(self->protocol);
    PyObject *failure = NULL;
    int status = 0;

    if (self->fd < 0 && protocol == NULL) {
        Py_XDECREF(exc);
        return 0;
    }
    Py_INCREF(self);
    (void)pl_stream_watch(self, 0, PL_S_READING | PL_S_WRITING);
    if (protocol != NULL) {
        PyObject *result = PyObject_CallMethodOneArg(
            protocol, self->loop->st->str_connection_lost,
            exc == NULL ? Py_None : exc);

        Py_XDECREF(result);
        if (result == NULL) {
            failure = PyErr_GetRaisedException();
        }
    }
    release_socket(self);
    Py_XDECREF(protocol);
    take_protocol(self, NULL);
    if (detach_server(self) < 0) {
        keep_failure(self, &failure);
    }
    if (pl_stream_fail_waiter(self) < 0) {
        keep_failure(self, &failure);
    }
    if (failure != NULL) {
        PyErr_SetRaisedException(failure);
        status = pl_leaves_loop() ? -1 : report_lost(self, exc);
    }
    Py_XDECREF(exc);
    Py_DECREF(self);
    return status;
}

/* -- opening ----------------------------------------------------------- */

static void
set_protocol(PlStream *self, PyObject *protocol, int buffered)
{
    if (buffered) {
        self->flags |= PL_S_BUFFERED;
    }
    else {
        self->flags &= ~(uint32_t)PL_S_BUFFERED;
    }
    take_protocol(self, Py_NewRef(protocol));
}

static int
attach_server(PlStream *self, PyObject *server)
{
    pl_state *st = self->loop->st;
    PyObject *done = st->attach_takes_transport
                         ? PyObject_CallMethodOneArg(server, st->str__attach,
                                                     (PyObject *)self)
                         : PyObject_CallMethodNoArgs(server, st->str__attach);

    if (done == NULL) {
        return -1;
    }
    Py_DECREF(done);
    self->server = Py_NewRef(server);
    return 0;
}

PlStream *
pl_stream_new(PlLoop *loop, int fd, PyObject *sock, PyObject *protocol,
              PyObject *context, PyObject *waiter, PyObject *extra,
              PyObject *server, const struct sockaddr *peer,
              socklen_t peer_length)
{
    pl_state *st = loop->st;
    int buffered = PyObject_IsInstance(protocol, st->buffered_protocol);

    if (buffered < 0 || pl_loop_check_closed(loop) < 0) {
        return NULL;
    }
    PlStream *self = (PlStream *)st->StreamType->tp_alloc(st->StreamType, 0);

    if (self == NULL) {
        return NULL;
    }
    self->loop = (PlLoop *)Py_NewRef((PyObject *)loop);
    self->fd = -1;
    self->shown_fd = fd;
    self->io = (pl_job){stream_io, (PyObject *)self};
    self->lost = (pl_job){stream_lost, (PyObject *)self};
    self->chunks = self->inline_chunks;
    self->capacity = PL_STREAM_CHUNKS;
    self->high = 64 * 1024;
    self->low = 16 * 1024;
    self->context =
        context == NULL ? PyContext_CopyCurrent() : Py_NewRef(context);
    if (self->context == NULL) {
        goto error;
    }
    set_protocol(self, protocol, buffered);

    struct sockaddr_storage asked;

    if (peer == NULL) {
        peer_length = sizeof(asked);
        if (getpeername(fd, (struct sockaddr *)&asked, &peer_length) == 0) {
            peer = (struct sockaddr *)&asked;
        }
    }
    if (peer != NULL && peer_length <= sizeof(self->peer) &&
        (peer->sa_family == AF_INET || peer->sa_family == AF_INET6))
    {
        int on = 1;

        memcpy(&self->peer, peer, peer_length);
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    }
    else {
        self->peername = peer == NULL ? Py_NewRef(Py_None)
                                      : pl_sockaddr_object(peer, peer_length);
        if (self->peername == NULL) {
            goto error;
        }
    }
    if (extra != NULL && extra != Py_None) {
        self->given = PyDict_Copy(extra);
        if (self->given == NULL) {
            goto error;
        }
    }
    pl_watch_evict(loop, fd);

    int err = pl_core_watch(loop->core, fd, PL_SLOT_STREAM, self, 0);

    if (err < 0) {
        pl_raise_errno(err);
        goto error;
    }
    if (server != NULL && server != Py_None && attach_server(self, server) < 0)
    {
        pl_core_forget(loop->core, fd);
        goto error;
    }
    if (pl_loop_push_job(loop, &self->io) < 0) {
        pl_core_forget(loop->core, fd);
        goto error;
    }
    self->flags |= PL_S_QUEUED;
    if (waiter != NULL && waiter != Py_None) {
        self->waiter = Py_NewRef(waiter);
    }
    if (sock != NULL) {
        self->sock = Py_NewRef(sock);
    }
    self->fd = fd;
    return self;

error:
    Py_DECREF(self);
    return NULL;
}

/* _make_stream(sock, protocol, waiter, extra, server) */
PyObject *
loop_make_stream(PlLoop *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 5) {
        PyErr_SetString(PyExc_TypeError, "_make_stream takes 5 arguments");
        return NULL;
    }
    PyObject *number =
        PyObject_CallMethodNoArgs(args[0], self->st->str_fileno);

    if (number == NULL) {
        return NULL;
    }
    int fd = PyLong_AsInt(number);

    Py_DECREF(number);
    if (fd < 0) {
        if (!PyErr_Occurred()) {
            PyErr_Format(PyExc_ValueError, "Invalid file descriptor: %d", fd);
        }
        return NULL;
    }
    return (PyObject *)pl_stream_new(self, fd, args[0], args[1], NULL, args[2],
                                     args[3], args[4], NULL, 0);
}

PyObject *
pl_stream_of_fd(PlLoop *loop, int fd)
{
    pl_slot *slot = pl_core_slot(loop->core, fd);

    if (slot == NULL || slot->kind != PL_SLOT_STREAM) {
        return NULL;
    }
    PlStream *stream = slot->owner;

    return stream->flags & PL_S_CLOSING ? NULL : (PyObject *)stream;
}

/* -- extra info -------------------------------------------------------- */

/* Borrowed: the socket.socket, made now if accept left only a number. */
static PyObject *
ensure_sock(PlStream *self)
{
    if (self->sock == NULL && self->fd >= 0) {
        int family = AF_UNSPEC, type = SOCK_STREAM, proto = 0;
        socklen_t size = sizeof(int);

        (void)getsockopt(self->fd, SOL_SOCKET, SO_DOMAIN, &family, &size);
        size = sizeof(int);
        (void)getsockopt(self->fd, SOL_SOCKET, SO_PROTOCOL, &proto, &size);
        PyObject *sock =
            PyObject_CallFunction(self->loop->st->socket_type, "iiii", family,
                                  type, proto, self->fd);

        if (sock == NULL) {
            return NULL;
        }
        if (self->sock != NULL || self->fd < 0) {
            /* Another thread was quicker, or the end came. */
            PyObject *number =
                PyObject_CallMethodNoArgs(sock, self->loop->st->str_detach);

            Py_DECREF(sock);
            Py_XDECREF(number);
            return number == NULL ? NULL : self->sock;
        }
        self->sock = sock;
        PyObject *done = PyObject_CallMethod(sock, "setblocking", "i", 0);

        if (done == NULL) {
            return NULL;
        }
        Py_DECREF(done);
    }
    return self->sock;
}

static PyObject *
stream_sockname(PlStream *self)
{
    struct sockaddr_storage name;
    socklen_t length = sizeof(name);

    if (self->sockname != NULL) {
        return Py_NewRef(self->sockname);
    }
    if (self->fd < 0 ||
        getsockname(self->fd, (struct sockaddr *)&name, &length) < 0)
    {
        Py_RETURN_NONE;
    }
    return pl_sockaddr_object((struct sockaddr *)&name, length);
}

static PyObject *
stream_peername(PlStream *self)
{
    if (self->peername != NULL) {
        return Py_NewRef(self->peername);
    }
    return pl_sockaddr_object((struct sockaddr *)&self->peer,
                              sizeof(self->peer));
}

/* Fills _extra: { socket, sockname, peername } and what the maker gave. */
static int
ensure_extra(PlStream *self)
{
    pl_state *st = self->loop->st;

    if (self->extra != NULL) {
        return 0;
    }
    PyObject *extra = PyDict_New();
    PyObject *sock = NULL, *sockname = NULL, *peername = NULL;
    int status = -1;

    if (extra == NULL) {
        return -1;
    }
    sock = Py_XNewRef(ensure_sock(self));
    if (sock == NULL && !PyErr_Occurred()) {
        /* After the end: a socket that says it is closed. */
        sock = PyObject_CallMethod(st->socket_type, "__new__", "O",
                                   st->socket_type);
    }
    if (sock == NULL) {
        goto done;
    }
    Py_SETREF(sock, PyObject_CallOneArg(st->transport_socket, sock));
    if (sock == NULL) {
        goto done;
    }
    sockname = stream_sockname(self);
    peername = stream_peername(self);
    if (sockname == NULL || peername == NULL ||
        PyDict_SetItem(extra, st->str_socket, sock) < 0 ||
        PyDict_SetItem(extra, st->str_sockname, sockname) < 0 ||
        PyDict_SetItem(extra, st->str_peername, peername) < 0 ||
        (self->given != NULL && PyDict_Update(extra, self->given) < 0))
    {
        goto done;
    }
    self->extra = Py_NewRef(extra);
    status = 0;

done:
    Py_XDECREF(sock);
    Py_XDECREF(sockname);
    Py_XDECREF(peername);
    Py_DECREF(extra);
    return status;
}

static PyObject *
stream_get_extra_info(PlStream *self, PyObject *args, PyObject *kwargs)
{
    static const char *const names[] = {"name", "default", NULL};
    PyObject *name, *missing = Py_None;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|O:get_extra_info",
                                     (char **)names, &name, &missing) ||
        ensure_extra(self) < 0)
    {
        return NULL;
    }
    PyObject *value = PyDict_GetItemWithError(self->extra, name);

    if (value == NULL && PyErr_Occurred()) {
        return NULL;
    }
    return Py_NewRef(value == NULL ? missing : value);
}

/* -- methods ----------------------------------------------------------- */

static PyObject *
stream_close(PlStream *self, PyObject *Py_UNUSED(unused))
{
    if (!(self->flags & PL_S_CLOSING) &&
        (pl_loop_check_thread(self->loop) < 0 || pl_stream_close(self) < 0))
    {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
stream_abort(PlStream *self, PyObject *Py_UNUSED(unused))
{
    if (self->conn_lost == 0 && (pl_loop_check_thread(self->loop) < 0 ||
                                 pl_stream_force_close(self, NULL) < 0))
    {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
stream_force_close(PlStream *self, PyObject *exc)
{
    if (pl_loop_check_thread(self->loop) < 0 ||
        pl_stream_force_close(self, exc == Py_None ? NULL : Py_NewRef(exc)) <
            0)
    {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
stream_fatal_error(PlStream *self, PyObject *args)
{
    PyObject *exc;
    const char *message = "Fatal error on transport";

    if (!PyArg_ParseTuple(args, "O|s:_fatal_error", &exc, &message)) {
        return NULL;
    }
    PyErr_SetObject((PyObject *)Py_TYPE(exc), exc);
    if (pl_stream_fatal(self, message) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
stream_call_connection_lost(PlStream *self, PyObject *exc)
{
    if (pl_stream_finish(self, exc == Py_None ? NULL : Py_NewRef(exc)) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
stream_is_closing(PlStream *self, PyObject *Py_UNUSED(unused))
{
    return PyBool_FromLong(self->flags & PL_S_CLOSING);
}

static PyObject *
stream_is_reading(PlStream *self, PyObject *Py_UNUSED(unused))
{
    return PyBool_FromLong(!(self->flags & (PL_S_CLOSING | PL_S_PAUSED)));
}

static PyObject *
stream_pause_reading(PlStream *self, PyObject *Py_UNUSED(unused))
{
    if (!(self->flags & (PL_S_CLOSING | PL_S_PAUSED))) {
        if (pl_loop_check_thread(self->loop) < 0) {
            return NULL;
        }
        self->flags |= PL_S_PAUSED;
        if (pl_stream_watch(self, 0, PL_S_READING) < 0) {
            return NULL;
        }
        pl_stream_debug(self, "%r pauses reading");
    }
    Py_RETURN_NONE;
}

static PyObject *
stream_resume_reading(PlStream *self, PyObject *Py_UNUSED(unused))
{
    if ((self->flags & (PL_S_CLOSING | PL_S_PAUSED)) == PL_S_PAUSED) {
        if (pl_loop_check_thread(self->loop) < 0 ||
            pl_loop_check_closed(self->loop) < 0)
        {
            return NULL;
        }
        self->flags &= ~(uint32_t)PL_S_PAUSED;
        if ((self->flags & PL_S_STARTED) &&
            pl_stream_watch(self, PL_S_READING, 0) < 0)
        {
            return NULL;
        }
        pl_stream_debug(self, "%r resumes reading");
    }
    Py_RETURN_NONE;
}

/* loop.sendfile() sends by a duplicate of the descriptor and has to hear of
   the end: release_socket(). */
static PyObject *
stream_set_lent(PlStream *self, PyObject *lent)
{
    self->flags &= ~(uint32_t)PL_S_LENT;
    if (lent == Py_True) {
        self->flags |= PL_S_LENT;
    }
    Py_RETURN_NONE;
}

static PyObject *
stream_set_protocol(PlStream *self, PyObject *const *args, Py_ssize_t nargs,
                    PyObject *kwnames)
{
    PyObject *protocol =
        pl_only_argument("set_protocol", "protocol", args, nargs, kwnames);
    int buffered =
        protocol == NULL
            ? -1
            : PyObject_IsInstance(protocol, self->loop->st->buffered_protocol);

    if (buffered < 0 || pl_loop_check_thread(self->loop) < 0) {
        return NULL;
    }
    set_protocol(self, protocol, buffered);
    Py_RETURN_NONE;
}

static PyObject *
stream_get_protocol(PlStream *self, PyObject *Py_UNUSED(unused))
{
    return Py_NewRef(self->protocol == NULL ? Py_None : self->protocol);
}

static PyObject *
stream_can_write_eof(PlStream *Py_UNUSED(self), PyObject *Py_UNUSED(unused))
{
    Py_RETURN_TRUE;
}

static PyObject *
stream_repr(PlStream *self)
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

/* -- attributes that the stdlib and libraries read --------------------- */

static PyObject *
stream_get_flag(PlStream *self, void *closure)
{
    return PyBool_FromLong(self->flags & (uint32_t)(uintptr_t)closure);
}

static PyObject *
stream_get_sock(PlStream *self, void *Py_UNUSED(closure))
{
    PyObject *sock = ensure_sock(self);

    if (sock == NULL && PyErr_Occurred()) {
        return NULL;
    }
    return Py_NewRef(sock == NULL ? Py_None : sock);
}

static PyObject *
stream_get_extra(PlStream *self, void *Py_UNUSED(closure))
{
    return ensure_extra(self) < 0 ? NULL : Py_NewRef(self->extra);
}

static PyObject *
stream_get_conn_lost(PlStream *self, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLong(self->conn_lost);
}

static PyObject *
stream_get_sendfile_mode(PlStream *Py_UNUSED(self), void *Py_UNUSED(closure))
{
    PyObject *constants = PyImport_ImportModule("asyncio.constants");
    PyObject *modes = constants == NULL
                          ? NULL
                          : PyObject_GetAttrString(constants, "_SendfileMode");
    PyObject *mode =
        modes == NULL ? NULL : PyObject_GetAttrString(modes, "TRY_NATIVE");

    Py_XDECREF(constants);
    Py_XDECREF(modes);
    return mode;
}

static PyObject *
stream_get_true(PlStream *Py_UNUSED(self), void *Py_UNUSED(closure))
{
    Py_RETURN_TRUE;
}

/* -- memory ------------------------------------------------------------ */

static int
stream_traverse(PlStream *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->extra);
    Py_VISIT(self->loop);
    Py_VISIT(self->context);
    Py_VISIT(self->peername);
    Py_VISIT(self->sockname);
    Py_VISIT(self->given);
    Py_VISIT(self->protocol);
    Py_VISIT(self->server);
    Py_VISIT(self->sock);
    Py_VISIT(self->waiter);
    Py_VISIT(self->empty_waiter);
    Py_VISIT(self->lost_exc);
    Py_VISIT(self->dict);
    return 0;
}

/* Not loop and context: teardown needs them, and the loop clears itself. */
static int
stream_clear(PlStream *self)
{
    Py_CLEAR(self->extra);
    Py_CLEAR(self->given);
    Py_CLEAR(self->protocol);
    Py_CLEAR(self->server);
    Py_CLEAR(self->waiter);
    Py_CLEAR(self->empty_waiter);
    Py_CLEAR(self->lost_exc);
    Py_CLEAR(self->dict);
    return 0;
}

/* Dropped without close(): say so and close, as asyncio's __del__. */
static void
stream_finalize(PlStream *self)
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
    release_socket(self);
    if (detach_server(self) < 0) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    PyErr_SetRaisedException(exc);
}

static void
stream_dealloc(PlStream *self)
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
        release_socket(self);
    }
    if (self->chunks != NULL) {
        pl_stream_drop_queue(self);
    }
    (void)stream_clear(self);
    Py_CLEAR(self->peername);
    Py_CLEAR(self->sockname);
    Py_CLEAR(self->sock);
    Py_CLEAR(self->context);
    Py_CLEAR(self->loop);
    type->tp_free(self);
    Py_DECREF(type);
}

/* -- the methods, one thread at a time ---------------------------------- */

/* Free-threaded builds: a loop that does not run may be worked on by any
   thread, so each method takes the loop's critical section (which is nothing
   where there is a GIL); then pl_loop_check_thread tells the others off. */
#define LOCKED(name, parameters, ...)                                         \
    static PyObject *name##_locked parameters                                 \
    {                                                                         \
        PyObject *result;                                                     \
                                                                              \
        Py_BEGIN_CRITICAL_SECTION(self->loop);                                \
        result = name(__VA_ARGS__);                                           \
        Py_END_CRITICAL_SECTION();                                            \
        return result;                                                        \
    }

LOCKED(stream_write_eof, (PlStream * self, PyObject *unused), self, unused)
LOCKED(stream_close, (PlStream * self, PyObject *unused), self, unused)
LOCKED(stream_abort, (PlStream * self, PyObject *unused), self, unused)
LOCKED(stream_pause_reading, (PlStream * self, PyObject *unused), self, unused)
LOCKED(stream_resume_reading, (PlStream * self, PyObject *unused), self,
       unused)
LOCKED(stream_get_protocol, (PlStream * self, PyObject *unused), self, unused)
LOCKED(stream_set_lent, (PlStream * self, PyObject *arg), self, arg)
LOCKED(stream_make_empty_waiter, (PlStream * self, PyObject *unused), self,
       unused)
LOCKED(stream_force_close, (PlStream * self, PyObject *arg), self, arg)
LOCKED(stream_get_extra_info,
       (PlStream * self, PyObject *args, PyObject *kwargs), self, args, kwargs)
LOCKED(stream_set_write_buffer_limits,
       (PlStream * self, PyObject *args, PyObject *kwargs), self, args, kwargs)
LOCKED(stream_write,
       (PlStream * self, PyObject *const *args, Py_ssize_t nargs,
        PyObject *kwnames),
       self, args, nargs, kwnames)
LOCKED(stream_writelines,
       (PlStream * self, PyObject *const *args, Py_ssize_t nargs,
        PyObject *kwnames),
       self, args, nargs, kwnames)
LOCKED(stream_set_protocol,
       (PlStream * self, PyObject *const *args, Py_ssize_t nargs,
        PyObject *kwnames),
       self, args, nargs, kwnames)

/* -- type -------------------------------------------------------------- */

#define NOARGS(name) (PyCFunction) name, METH_NOARGS
#define FAST_KEYWORDS(name)                                                   \
    (PyCFunction)(void (*)(void)) name, METH_FASTCALL | METH_KEYWORDS
#define KEYWORDS(name)                                                        \
    (PyCFunction)(void (*)(void)) name, METH_VARARGS | METH_KEYWORDS

static PyMethodDef stream_methods[] = {
    {"write", FAST_KEYWORDS(stream_write_locked),
     "Queue bytes; they leave at the end of the turn."},
    {"writelines", FAST_KEYWORDS(stream_writelines_locked),
     "Queue each of an iterable of bytes."},
    {"write_eof", NOARGS(stream_write_eof_locked),
     "Close the write side when all that was written is sent."},
    {"can_write_eof", NOARGS(stream_can_write_eof), "True."},
    {"close", NOARGS(stream_close_locked),
     "Send what is queued, then close; connection_lost(None) follows."},
    {"abort", NOARGS(stream_abort_locked),
     "Close at once and drop what is queued."},
    {"is_closing", NOARGS(stream_is_closing),
     "True from close(), abort() or an error on."},
    {"is_reading", NOARGS(stream_is_reading),
     "True unless paused or closing."},
    {"pause_reading", NOARGS(stream_pause_reading_locked),
     "No data_received() until resume_reading()."},
    {"resume_reading", NOARGS(stream_resume_reading_locked),
     "Undo pause_reading()."},
    {"set_protocol", FAST_KEYWORDS(stream_set_protocol_locked),
     "Hand all further events to another protocol."},
    {"get_protocol", NOARGS(stream_get_protocol_locked),
     "The current protocol."},
    {"get_extra_info", KEYWORDS(stream_get_extra_info_locked),
     "get_extra_info(name, default=None): 'socket', 'sockname', 'peername'."},
    {"set_write_buffer_limits",
     KEYWORDS(stream_set_write_buffer_limits_locked),
     "set_write_buffer_limits(high=None, low=None), in bytes."},
    {"get_write_buffer_limits", NOARGS(stream_get_write_buffer_limits),
     "(low, high) in bytes."},
    {"get_write_buffer_size", NOARGS(stream_get_write_buffer_size),
     "Bytes queued and not yet sent; O(1)."},
    {"_make_empty_waiter", NOARGS(stream_make_empty_waiter_locked), NULL},
    {"_reset_empty_waiter", NOARGS(stream_reset_empty_waiter), NULL},
    {"_set_lent", (PyCFunction)stream_set_lent_locked, METH_O, NULL},
    {"_force_close", (PyCFunction)stream_force_close_locked, METH_O, NULL},
    {"_fatal_error", (PyCFunction)stream_fatal_error, METH_VARARGS, NULL},
    {"_call_connection_lost", (PyCFunction)stream_call_connection_lost, METH_O,
     NULL},
    {NULL, NULL, 0, NULL},
};

#define FLAG(flag) (void *)(uintptr_t)flag

static PyGetSetDef stream_getset[] = {
    {"_closing", (getter)stream_get_flag, NULL, NULL, FLAG(PL_S_CLOSING)},
    {"_paused", (getter)stream_get_flag, NULL, NULL, FLAG(PL_S_PAUSED)},
    {"_eof", (getter)stream_get_flag, NULL, NULL, FLAG(PL_S_EOF)},
    {"_protocol_paused", (getter)stream_get_flag, NULL, NULL,
     FLAG(PL_S_PROTOCOL_PAUSED)},
    {"_sock", (getter)stream_get_sock, NULL, NULL, NULL},
    {"_extra", (getter)stream_get_extra, NULL, NULL, NULL},
    {"_conn_lost", (getter)stream_get_conn_lost, NULL, NULL, NULL},
    {"_start_tls_compatible", (getter)stream_get_true, NULL, NULL, NULL},
    {"_sendfile_compatible", (getter)stream_get_sendfile_mode, NULL, NULL,
     NULL},
    {"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef stream_members[] = {
    {"__dictoffset__", T_PYSSIZET, offsetof(PlStream, dict), READONLY, NULL},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(PlStream, weaklist), READONLY,
     NULL},
    {"_sock_fd", T_INT, offsetof(PlStream, shown_fd), READONLY, NULL},
    {"_empty_waiter", T_OBJECT, offsetof(PlStream, empty_waiter), READONLY,
     NULL},
    {"_protocol", T_OBJECT, offsetof(PlStream, protocol), READONLY, NULL},
    {"_server", T_OBJECT, offsetof(PlStream, server), READONLY, NULL},
    {"_loop", T_OBJECT, offsetof(PlStream, loop), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot stream_slots[] = {
    {Py_tp_dealloc, stream_dealloc},
    {Py_tp_finalize, stream_finalize},
    {Py_tp_traverse, stream_traverse},
    {Py_tp_clear, stream_clear},
    {Py_tp_repr, stream_repr},
    {Py_tp_methods, stream_methods},
    {Py_tp_getset, stream_getset},
    {Py_tp_members, stream_members},
    {0, NULL},
};

static PyType_Spec stream_spec = {
    "pyloop._core.Stream",
    sizeof(PlStream),
    0,
    /* Not IMMUTABLETYPE: 3.14 refuses that over a mutable base. */
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC |
        Py_TPFLAGS_DISALLOW_INSTANTIATION,
    stream_slots,
};

int
pl_stream_type(PyObject *module, pl_state *st)
{
    PyTypeObject *base = (PyTypeObject *)st->asyncio_transport;

    /* Our struct continues asyncio.Transport's: a head and one slot. */
    if (base->tp_basicsize != offsetof(PlStream, loop)) {
        PyErr_SetString(PyExc_ImportError,
                        "asyncio.Transport has an unexpected layout");
        return -1;
    }
    PyObject *bases = PyTuple_Pack(1, st->asyncio_transport);

    if (bases == NULL) {
        return -1;
    }
    st->StreamType =
        (PyTypeObject *)PyType_FromModuleAndSpec(module, &stream_spec, bases);
    Py_DECREF(bases);
    return st->StreamType == NULL ? -1 : 0;
}
