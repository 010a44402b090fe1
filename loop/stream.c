/* The stream transport: opening, extra info, the type; see stream.h. */

#include "stream.h"
#include "args.h"
#include "handle.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <structmember.h>
#include <unistd.h>

/* Addresses can be asked for after the end: what only the socket knows is
   noted before it goes. */
static void
stream_releasing(PlTransport *transport)
{
    PlStream *self = (PlStream *)transport;

    if (self->extra == NULL) {
        struct sockaddr_storage name;
        socklen_t length = sizeof(name);
        PyObject *sockname =
            getsockname(pl_transport_fd(transport), (struct sockaddr *)&name,
                        &length) == 0
                ? pl_sockaddr_object((struct sockaddr *)&name, length)
                : Py_NewRef(Py_None);

        self->sockname = sockname;
        if (sockname == NULL) {
            PyErr_Clear();
        }
    }
    if (self->flags & PL_S_LENT) {
        (void)shutdown(pl_transport_fd(transport), SHUT_RDWR);
    }
}

static int
detach_server(PlStream *self)
{
    PyObject *server = Py_XNewRef(self->server);
    pl_state *st = self->loop->st;

    if (server == NULL) {
        return 0;
    }
    pl_transport_set_object(&self->base, &self->server, NULL);
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

/* -- opening ----------------------------------------------------------- */

static void
set_protocol(PlStream *self, PyObject *protocol,
             const pl_protocol_table *table)
{
    self->table = table;
    pl_transport_take_protocol(&self->base, Py_NewRef(protocol));
}

static int
stream_ended(PlTransport *self)
{
    PyObject *exc = NULL;

    if (detach_server((PlStream *)self) < 0) {
        exc = PyErr_GetRaisedException();
    }
    if (pl_stream_fail_waiter((PlStream *)self) < 0) {
        if (exc != NULL) {
            PyErr_WriteUnraisable((PyObject *)self);
        }
        else {
            exc = PyErr_GetRaisedException();
        }
    }
    PyErr_SetRaisedException(exc);
    return exc == NULL ? 0 : -1;
}

static const pl_transport_ops stream_ops = {
    .kind = PL_SLOT_STREAM,
    .read = pl_stream_read,
    .write = pl_stream_write_ready,
    .flush = pl_stream_flush,
    .last_try = pl_stream_last_try,
    .drop_queue = pl_stream_drop_queue,
    .releasing = stream_releasing,
    .ended = stream_ended,
};

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
    const pl_protocol_table *table = pl_protocol_of(st, protocol);

    if (table == NULL || pl_loop_check_closed(loop) < 0 ||
        pl_protocol_check_made(st, protocol) < 0)
    {
        return NULL;
    }
    PlStream *self = (PlStream *)st->StreamType->tp_alloc(st->StreamType, 0);

    if (self == NULL) {
        return NULL;
    }
    self->chunks = self->inline_chunks;
    self->capacity = PL_STREAM_CHUNKS;
    if (pl_transport_init(&self->base, &stream_ops, loop, context) < 0) {
        goto error;
    }
    set_protocol(self, protocol, table);

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
    if (server != NULL && server != Py_None && attach_server(self, server) < 0)
    {
        goto error;
    }
    if (sock != NULL) {
        pl_transport_set_sock(&self->base, sock, fd);
    }
    if (pl_transport_open(&self->base, fd) < 0) {
        PyObject *exc = PyErr_GetRaisedException();

        if (detach_server(self) < 0) {
            PyErr_WriteUnraisable((PyObject *)self);
        }
        PyErr_SetRaisedException(exc);
        goto error;
    }
    if (waiter != NULL && waiter != Py_None) {
        self->waiter = Py_NewRef(waiter);
    }
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
    int fd = pl_socket_fd(self->st, args[0]);

    if (fd < 0) {
        return NULL;
    }
    return (PyObject *)pl_stream_new(self, fd, args[0], args[1], NULL, args[2],
                                     args[3], args[4], NULL, 0);
}

/* -- extra info -------------------------------------------------------- */

/* Borrowed: the socket.socket, made now if accept left only a number. */
static PyObject *
ensure_sock(PlStream *self)
{
    int fd = pl_transport_fd(&self->base);

    if (self->sock == NULL && fd >= 0) {
        int family = AF_UNSPEC, type = SOCK_STREAM, proto = 0;
        socklen_t size = sizeof(int);

        (void)getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &size);
        size = sizeof(int);
        (void)getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &proto, &size);
        PyObject *sock = PyObject_CallFunction(
            self->loop->st->socket_type, "iiii", family, type, proto, fd);

        if (sock == NULL) {
            if (self->fd >= 0 || !PyErr_ExceptionMatches(PyExc_Exception)) {
                return NULL;
            }
            PyErr_Clear(); /* the end came meanwhile */
            return self->sock;
        }
        if (self->sock != NULL || self->fd < 0) {
            /* Another thread was quicker, or the end came. */
            PyObject *number =
                PyObject_CallMethodNoArgs(sock, self->loop->st->str_detach);

            Py_DECREF(sock);
            Py_XDECREF(number);
            return number == NULL ? NULL : self->sock;
        }
        pl_transport_set_sock(&self->base, sock, fd);
        Py_DECREF(sock);
        PyObject *done = PyObject_CallMethod(sock, "setblocking", "i", 0);

        if (done == NULL) {
            if (self->fd >= 0 || !PyErr_ExceptionMatches(PyExc_OSError)) {
                return NULL;
            }
            PyErr_Clear(); /* the end came meanwhile, and closed it */
        }
        Py_XDECREF(done);
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
    if (self->fd < 0 || getsockname(pl_transport_fd(&self->base),
                                    (struct sockaddr *)&name, &length) < 0)
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
    Py_SETREF(sock, PyObject_CallFunctionObjArgs(st->stream_socket, sock, self,
                                                 NULL));
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

/* loop.sendfile() sends by a duplicate of the descriptor and has to hear of
   the end: stream_releasing(). */
static PyObject *
stream_set_lent(PlStream *self, PyObject *lent)
{
    self->flags &= ~(uint32_t)PL_S_LENT;
    if (lent == Py_True) {
        self->flags |= PL_S_LENT;
    }
    Py_RETURN_NONE;
}

/* start_tls(): the transport of TLS is made here and now, and its protocol is
   called by this one's.  No callback of ours is running. */
static PyObject *
stream_take_context(PlStream *self, PyObject *Py_UNUSED(unused))
{
    PyObject *context = PyContext_CopyCurrent();

    if (context == NULL) {
        return NULL;
    }
    Py_SETREF(self->context, context);
    Py_RETURN_NONE;
}

static PyObject *
stream_set_protocol(PlStream *self, PyObject *const *args, Py_ssize_t nargs,
                    PyObject *kwnames)
{
    PyObject *protocol =
        pl_only_argument("set_protocol", "protocol", args, nargs, kwnames);
    const pl_protocol_table *table =
        protocol == NULL ? NULL : pl_protocol_of(self->loop->st, protocol);

    if (table == NULL || pl_loop_check_thread(self->loop) < 0) {
        return NULL;
    }
    set_protocol(self, protocol, table);
    Py_RETURN_NONE;
}

static PyObject *
stream_can_write_eof(PlStream *Py_UNUSED(self), PyObject *Py_UNUSED(unused))
{
    Py_RETURN_TRUE;
}

/* -- attributes that the stdlib and libraries read --------------------- */

static PyObject *
stream_get_sock(PlStream *self, void *Py_UNUSED(closure))
{
    PyObject *sock;

    Py_BEGIN_CRITICAL_SECTION(self->loop);
    sock = Py_XNewRef(ensure_sock(self));
    Py_END_CRITICAL_SECTION();
    if (sock == NULL && !PyErr_Occurred()) {
        Py_RETURN_NONE;
    }
    return sock;
}

static PyObject *
stream_get_extra(PlStream *self, void *Py_UNUSED(closure))
{
    PyObject *extra;

    Py_BEGIN_CRITICAL_SECTION(self->loop);
    extra = ensure_extra(self) < 0 ? NULL : Py_NewRef(self->extra);
    Py_END_CRITICAL_SECTION();
    return extra;
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
    Py_VISIT(self->peername);
    Py_VISIT(self->sockname);
    Py_VISIT(self->given);
    Py_VISIT(self->server);
    Py_VISIT(self->empty_waiter);
    return pl_transport_traverse(&self->base, visit, arg);
}

static int
stream_clear(PlStream *self)
{
    Py_CLEAR(self->peername);
    Py_CLEAR(self->sockname);
    Py_CLEAR(self->given);
    Py_CLEAR(self->server);
    Py_CLEAR(self->empty_waiter);
    pl_transport_clear(&self->base);
    return 0;
}

/* -- the methods, one thread at a time ---------------------------------- */

PL_LOCKED(static, stream_write_eof, (PlStream * self, PyObject *unused), self,
          unused)
PL_LOCKED(static, stream_set_lent, (PlStream * self, PyObject *arg), self, arg)
PL_LOCKED(static, stream_make_empty_waiter,
          (PlStream * self, PyObject *unused), self, unused)
PL_LOCKED(static, stream_get_extra_info,
          (PlStream * self, PyObject *args, PyObject *kwargs), self, args,
          kwargs)
PL_LOCKED(static, stream_write,
          (PlStream * self, PyObject *const *args, Py_ssize_t nargs,
           PyObject *kwnames),
          self, args, nargs, kwnames)
PL_LOCKED(static, stream_writelines,
          (PlStream * self, PyObject *const *args, Py_ssize_t nargs,
           PyObject *kwnames),
          self, args, nargs, kwnames)
PL_LOCKED(static, stream_set_protocol,
          (PlStream * self, PyObject *const *args, Py_ssize_t nargs,
           PyObject *kwnames),
          self, args, nargs, kwnames)

/* -- type -------------------------------------------------------------- */

static PyMethodDef stream_methods[] = {
    {"write", PL_FAST_KEYWORDS(stream_write_locked),
     "Queue bytes; they leave at the end of the turn. bytes are held until "
     "then, what may change is copied at once."},
    {"writelines", PL_FAST_KEYWORDS(stream_writelines_locked),
     "Queue each of an iterable of bytes."},
    {"write_eof", PL_NOARGS(stream_write_eof_locked),
     "Close the write side when all that was written is sent."},
    {"can_write_eof", PL_NOARGS(stream_can_write_eof), "True."},
    {"close", PL_NOARGS(transport_close_locked),
     "Send what is queued, then close; connection_lost(None) follows."},
    {"abort", PL_NOARGS(transport_abort_locked),
     "Close at once and drop what is queued."},
    {"is_closing", PL_NOARGS(transport_is_closing),
     "True from close(), abort() or an error on."},
    {"is_reading", PL_NOARGS(transport_is_reading),
     "True unless paused or closing."},
    {"pause_reading", PL_NOARGS(transport_pause_reading_locked),
     "No data_received() until resume_reading()."},
    {"resume_reading", PL_NOARGS(transport_resume_reading_locked),
     "Undo pause_reading()."},
    {"set_protocol", PL_FAST_KEYWORDS(stream_set_protocol_locked),
     "Hand all further events to another protocol."},
    {"get_protocol", PL_NOARGS(transport_get_protocol),
     "The current protocol."},
    {"get_extra_info", PL_KEYWORDS(stream_get_extra_info_locked),
     "get_extra_info(name, default=None): 'socket', 'sockname', "
     "'peername'."},
    {"set_write_buffer_limits",
     PL_KEYWORDS(transport_set_write_buffer_limits_locked),
     "set_write_buffer_limits(high=None, low=None), in bytes."},
    {"get_write_buffer_limits", PL_NOARGS(transport_get_write_buffer_limits),
     "(low, high) in bytes."},
    {"get_write_buffer_size", PL_NOARGS(transport_get_write_buffer_size),
     "Bytes queued and not yet sent; O(1)."},
    {"_make_empty_waiter", PL_NOARGS(stream_make_empty_waiter_locked), NULL},
    {"_reset_empty_waiter", PL_NOARGS(stream_reset_empty_waiter), NULL},
    {"_send_written", PL_NOARGS(stream_send_written), NULL},
    {"_take_context", PL_NOARGS(stream_take_context), NULL},
    {"_set_lent", (PyCFunction)stream_set_lent_locked, METH_O, NULL},
    {"_force_close", (PyCFunction)transport_force_close_locked, METH_O, NULL},
    {"_fatal_error", (PyCFunction)transport_fatal_error, METH_VARARGS, NULL},
    {"_call_connection_lost", (PyCFunction)transport_call_connection_lost,
     METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef stream_getset[] = {
    {"_closing", (getter)transport_get_flag, NULL, NULL,
     PL_FLAG(PL_S_CLOSING)},
    {"_paused", (getter)transport_get_flag, NULL, NULL, PL_FLAG(PL_S_PAUSED)},
    {"_eof", (getter)transport_get_flag, NULL, NULL, PL_FLAG(PL_S_EOF)},
    {"_protocol_paused", (getter)transport_get_flag, NULL, NULL,
     PL_FLAG(PL_S_PROTOCOL_PAUSED)},
    {"_sock", (getter)stream_get_sock, NULL, NULL, NULL},
    {"_extra", (getter)stream_get_extra, NULL, NULL, NULL},
    {"_protocol", (getter)transport_get_object, NULL, NULL,
     PL_FIELD(PlStream, protocol)},
    {"_server", (getter)transport_get_object, NULL, NULL,
     PL_FIELD(PlStream, server)},
    {"_empty_waiter", (getter)transport_get_object, NULL, NULL,
     PL_FIELD(PlStream, empty_waiter)},
    {"_conn_lost", (getter)transport_get_conn_lost, NULL, NULL, NULL},
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
    {"_loop", T_OBJECT, offsetof(PlStream, loop), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot stream_slots[] = {
    {Py_tp_dealloc, pl_transport_dealloc},
    {Py_tp_finalize, pl_transport_finalize},
    {Py_tp_traverse, stream_traverse},
    {Py_tp_clear, stream_clear},
    {Py_tp_repr, pl_transport_repr},
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
    if (base->tp_basicsize != offsetof(PlStream, ops)) {
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
