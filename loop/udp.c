/* The datagram transport, for sockets of any address family.

   asyncio's _SelectorDatagramTransport in behaviour: what a datagram has
   scheduled runs before the next one is delivered; an OSError goes to
   error_received() and the endpoint lives; a send is tried at once and waits
   in the queue only when the socket is full.

   IPv4, IPv6 and Unix sockets are read and written by our own system calls.
   What those cannot take over (a name to look up, another address family, a
   subclass of socket.socket) goes through the methods of the Python socket,
   errors included.

   Reading is by recvfrom: for 16 datagrams that wait recvmmsg took 506 ns
   each, recvfrom 478; for a single one 1051 against 651.  What is saved is
   the turn and its poll between two datagrams, while nothing else is ready. */

#include "udp.h"
#include "args.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <structmember.h>
#include <sys/socket.h>

/* Reads for one poll: others wait meanwhile. */
#define MAX_READS 16
#define READ_NS 100000

#define MISSES_MAX 4     /* second reads in vain, then only … */
#define HOPE_EVERY 16    /* … one in so many reads is followed by another */

/* An address in both forms: most datagrams come from or go to the one that
   was met last. */
typedef struct {
    PyObject *object;    /* owned, or NULL: none yet */
    socklen_t length;
    struct sockaddr_storage name;
} pl_peer;

typedef struct {
    PL_TRANSPORT

    /* set once */
    PyObject *address;    /* the only one to send to, or NULL: asyncio's
                             _address where it counts */
    int family;

    /* loop thread only */
    pl_ring queue;        /* not sent yet: bytes, address, bytes, … */
    pl_peer from;         /* of the last datagram received */
    pl_peer to;           /* … sent to an address that had to be parsed */
    uint8_t misses;       /* second reads in vain, in a row */
    uint8_t reads;        /* counts to HOPE_EVERY */
} PlDatagram;

/* -- addresses --------------------------------------------------------- */

/* New ref: the address a datagram came from. */
static PyObject *
address_object(pl_peer *peer, const struct sockaddr_storage *name,
               socklen_t length)
{
    if (peer->object != NULL && peer->length == length &&
        memcmp(&peer->name, name, length) == 0)
    {
        return Py_NewRef(peer->object);
    }
    PyObject *object = pl_sockaddr_object((const void *)name, length);

    /* An unnamed Unix socket's is None, which as an argument is no address. */
    if (object != NULL && object != Py_None) {
        memcpy(&peer->name, name, length);
        peer->length = length;
        Py_XSETREF(peer->object, Py_NewRef(object));
    }
    return object;
}

/* Borrowed: what to send to, or NULL when the socket module must say. */
static const pl_peer *
find_peer(PlDatagram *self, PyObject *address)
{
    if (address == self->from.object) {
        return &self->from;
    }
    if (address != self->to.object) {
        pl_peer peer;

        peer.length = pl_sockaddr_numeric(address, self->family, &peer.name);
        if (peer.length == 0) {
            return NULL;
        }
        memcpy(&self->to.name, &peer.name, peer.length);
        self->to.length = peer.length;
        Py_XSETREF(self->to.object, Py_NewRef(address));
    }
    return &self->to;
}

/* -- errors ------------------------------------------------------------ */

/* A system call failed with the exception that is raised.  0, or -1 with an
   exception: the protocol's own, or the one that leaves the loop. */
static int
failed(PlDatagram *self, const char *message)
{
    if (!PyErr_ExceptionMatches(PyExc_OSError)) {
        return pl_transport_fatal(&self->base, message);
    }
    PyObject *exc = PyErr_GetRaisedException();
    PyObject *before = pl_except_enter(exc);
    PyObject *result = pl_transport_call(
        &self->base, self->loop->st->str_error_received, exc);

    pl_except_leave(before);
    Py_DECREF(exc);
    if (result == NULL) {
        return -1;
    }
    Py_DECREF(result);
    return 0;
}

/* An exception of the protocol, in the io job. */
static int
report(PlDatagram *self, PyObject *method)
{
    return pl_leaves_loop() ? -1
                            : pl_transport_report(
                                  &self->base, (PyObject *)self, method, NULL);
}

/* -- receiving --------------------------------------------------------- */

/* The methods of the Python socket: 1, 0 or -1 as receive(). */
static int
receive_by_socket(PlDatagram *self, PyObject **data, PyObject **address)
{
    PyObject *pair =
        PyObject_CallMethod(self->sock, "recvfrom", "i", PL_READ_BUFFER);

    if (pair == NULL) {
        if (PyErr_ExceptionMatches(PyExc_BlockingIOError) ||
            PyErr_ExceptionMatches(PyExc_InterruptedError))
        {
            PyErr_Clear();
            return 0;
        }
        return -1;
    }
    PyObject *items = PySequence_Tuple(pair);

    Py_DECREF(pair);
    if (items == NULL) {
        return -1;
    }
    if (PyTuple_GET_SIZE(items) != 2) {
        PyErr_SetString(PyExc_ValueError, "recvfrom() must return a pair");
        Py_DECREF(items);
        return -1;
    }
    *data = Py_NewRef(PyTuple_GET_ITEM(items, 0));
    *address = Py_NewRef(PyTuple_GET_ITEM(items, 1));
    Py_DECREF(items);
    return 1;
}

/* 1: a datagram, new refs; 0: there is none; -1: exception. */
static int
receive(PlDatagram *self, PyObject **data, PyObject **address)
{
    struct sockaddr_storage name;
    socklen_t length = sizeof(name);
    char *buffer = pl_loop_read_buffer(self->loop);

    if (!(self->flags & PL_S_NATIVE)) {
        return receive_by_socket(self, data, address);
    }
    if (buffer == NULL) {
        return -1;
    }
    ssize_t n = recvfrom(pl_transport_fd(&self->base), buffer, PL_READ_BUFFER,
                         0, (struct sockaddr *)&name, &length);

    if (n < 0) {
        if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) {
            return 0;
        }
        pl_raise_errno(-errno);
        return -1;
    }
    *data = PyBytes_FromStringAndSize(buffer, n);
    if (*data == NULL) {
        return -1;
    }
    *address = address_object(&self->from, &name, length);
    if (*address == NULL) {
        Py_CLEAR(*data);
        return -1;
    }
    return 1;
}

/* 1: delivered; 0: there was none, or an error that has been dealt with. */
static int
read_one(PlDatagram *self)
{
    pl_state *st = self->loop->st;
    PyObject *data, *address;

    switch (receive(self, &data, &address)) {
    case 0:
        return 0;
    case -1:
        return failed(self, "Fatal read error on datagram transport") < 0
                   ? report(self, st->str__read_ready)
                   : 0;
    }
    PyObject *protocol = pl_transport_protocol(&self->base);
    PyObject *args[] = {protocol, data, address};
    PyObject *result =
        PyObject_VectorcallMethod(st->str_datagram_received, args,
                                  3 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);

    Py_DECREF(protocol);
    Py_DECREF(data);
    Py_DECREF(address);
    if (result == NULL) {
        return report(self, st->str__read_ready) < 0 ? -1 : 1;
    }
    Py_DECREF(result);
    return 1;
}

/* With nothing else ready the next turn would only poll, and come back.  In
   vain a few times, and it is rarely tried, until it works again. */
static bool
may_go_on(PlDatagram *self)
{
    PlLoop *loop = self->loop;

    return pl_ring_count(&loop->ready) == 0 && !loop->debug &&
           !loop->stopping && (self->flags & PL_S_READING) &&
           !pl_inbox_pending(&loop->core->inbox) &&
           (self->misses < MISSES_MAX || ++self->reads % HOPE_EVERY == 0) &&
           pl_now_ns() - loop->polled_ns < READ_NS;
}

static int
datagram_read(PlTransport *transport)
{
    PlDatagram *self = (PlDatagram *)transport;
    int status = read_one(self);

    for (int i = 1; status > 0 && i < MAX_READS && may_go_on(self); i++) {
        status = read_one(self);
        if (status > 0) {
            self->misses = 0;
        }
        else if (i == 1 && self->misses < MISSES_MAX) {
            self->misses++;
        }
    }
    return status < 0 ? -1 : 0;
}

/* -- sending ----------------------------------------------------------- */

static int
send_by_socket(PlDatagram *self, PyObject *data, PyObject *address)
{
    PyObject *sock = Py_NewRef(self->sock);
    PyObject *result =
        self->flags & PL_S_CONNECTED
            ? PyObject_CallMethod(sock, "send", "O", data)
            : PyObject_CallMethod(sock, "sendto", "OO", data, address);

    Py_DECREF(sock);
    if (result == NULL) {
        if (PyErr_ExceptionMatches(PyExc_BlockingIOError) ||
            PyErr_ExceptionMatches(PyExc_InterruptedError))
        {
            PyErr_Clear();
            return 0;
        }
        return -1;
    }
    Py_DECREF(result);
    return 1;
}

static int
send_bytes(PlDatagram *self, const void *bytes, Py_ssize_t size,
           const pl_peer *peer)
{
    ssize_t n;

    do {
        n = peer == NULL
                ? send(pl_transport_fd(&self->base), bytes, (size_t)size,
                       MSG_NOSIGNAL)
                : sendto(pl_transport_fd(&self->base), bytes, (size_t)size,
                         MSG_NOSIGNAL, (const struct sockaddr *)&peer->name,
                         peer->length);
    } while (n < 0 && errno == EINTR);
    if (n < 0) {
        if (errno == EAGAIN || errno == EWOULDBLOCK) {
            return 0;
        }
        pl_raise_errno(-errno);
        return -1;
    }
    return 1;
}

/* 1: sent; 0: the socket is full; -1: exception. */
static int
send_datagram(PlDatagram *self, PyObject *data, PyObject *address)
{
    const pl_peer *peer = NULL;

    if (!(self->flags & PL_S_NATIVE)) {
        return send_by_socket(self, data, address);
    }
    if (!(self->flags & PL_S_CONNECTED)) {
        if (find_peer(self, address) == NULL) {
            return send_by_socket(self, data, address);
        }
        /* As socket.sendto() does.  A hook may send something itself. */
        if (PySys_Audit("socket.sendto", "OO", self->sock, address) < 0) {
            return -1;
        }
        peer = find_peer(self, address);
    }
    if (PyBytes_CheckExact(data)) {
        return send_bytes(self, PyBytes_AS_STRING(data),
                          PyBytes_GET_SIZE(data), peer);
    }
    Py_buffer view;

    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0) {
        return -1;
    }
    int sent = send_bytes(self, view.buf, view.len, peer);

    PyBuffer_Release(&view);
    return sent;
}

static void
queue_pop(PlDatagram *self)
{
    PyObject *data = pl_ring_pop(&self->queue);
    PyObject *address = pl_ring_pop(&self->queue);

    self->buffered -= (size_t)PyBytes_GET_SIZE(data) + PL_DATAGRAM_HEADER;
    Py_DECREF(data);
    Py_DECREF(address);
}

static int
queue_push(PlDatagram *self, PyObject *data, PyObject *address)
{
    PyObject *bytes =
        PyBytes_CheckExact(data) ? Py_NewRef(data) : PyBytes_FromObject(data);

    if (bytes == NULL) {
        return -1;
    }
    if (pl_ring_push(&self->queue, bytes) < 0) {
        Py_DECREF(bytes);
        PyErr_NoMemory();
        return -1;
    }
    if (pl_ring_push(&self->queue, address) < 0) {
        self->queue.tail--;
        Py_DECREF(bytes);
        PyErr_NoMemory();
        return -1;
    }
    Py_INCREF(address);
    self->buffered += (size_t)PyBytes_GET_SIZE(bytes) + PL_DATAGRAM_HEADER;
    return 0;
}

static int
datagram_flush(PlTransport *self)
{
    return pl_ring_count(&((PlDatagram *)self)->queue) == 0;
}

static void
datagram_drop_queue(PlTransport *transport)
{
    PlDatagram *self = (PlDatagram *)transport;

    while (pl_ring_count(&self->queue) > 0) {
        queue_pop(self);
    }
    pl_ring_fini(&self->queue);
}

static int
datagram_write(PlTransport *transport)
{
    PlDatagram *self = (PlDatagram *)transport;

    while (pl_ring_count(&self->queue) > 0 && self->fd >= 0) {
        PyObject *data = Py_NewRef(pl_ring_at(&self->queue, 0));
        PyObject *address = Py_NewRef(pl_ring_at(&self->queue, 1));
        int sent = send_datagram(self, data, address);

        /* A socket of the user's may have aborted us. */
        if (sent != 0 && pl_ring_count(&self->queue) > 0 &&
            pl_ring_at(&self->queue, 0) == data)
        {
            queue_pop(self);
        }
        Py_DECREF(data);
        Py_DECREF(address);
        if (sent == 0) {
            break;
        }
        if (sent < 0) {
            if (failed(self, "Fatal write error on datagram transport") < 0) {
                return report(self, self->loop->st->str__sendto_ready);
            }
            return 0;
        }
    }
    /* resume_writing() may send again, or close. */
    if (pl_maybe_resume(&self->base) < 0) {
        return -1;
    }
    if (pl_ring_count(&self->queue) > 0) {
        return 0;
    }
    if (pl_transport_watch(&self->base, 0, PL_S_WRITING) < 0) {
        return -1;
    }
    if ((self->flags & PL_S_CLOSING) && self->conn_lost == 0) {
        self->conn_lost++;
        return pl_transport_finish(&self->base, NULL);
    }
    return 0;
}

/* The two arguments, borrowed; asyncio's names. */
static int
parse_sendto(PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
             PyObject **data, PyObject **address)
{
    Py_ssize_t named = kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames);
    PyObject *found[2] = {NULL, NULL};

    if (nargs > 2) {
        goto wrong;
    }
    for (Py_ssize_t i = 0; i < nargs; i++) {
        found[i] = args[i];
    }
    for (Py_ssize_t i = 0; i < named; i++) {
        PyObject *name = PyTuple_GET_ITEM(kwnames, i);
        int at = PyUnicode_CompareWithASCIIString(name, "data") == 0   ? 0
                 : PyUnicode_CompareWithASCIIString(name, "addr") == 0 ? 1
                                                                       : 2;

        if (at == 2 || found[at] != NULL) {
            goto wrong;
        }
        found[at] = args[nargs + i];
    }
    if (found[0] == NULL) {
        goto wrong;
    }
    *data = found[0];
    *address = found[1] == NULL ? Py_None : found[1];
    return 0;

wrong:
    PyErr_SetString(PyExc_TypeError, "sendto() takes 'data' and 'addr=None'");
    return -1;
}

static int
check_data(PyObject *data)
{
    if (PyBytes_Check(data) || PyByteArray_Check(data) ||
        PyMemoryView_Check(data))
    {
        return 0;
    }
    PyObject *name = PyType_GetName(Py_TYPE(data));

    if (name != NULL) {
        PyErr_Format(PyExc_TypeError,
                     "data argument must be a bytes-like object, not %R",
                     name);
        Py_DECREF(name);
    }
    return -1;
}

/* None and the endpoint's own address are the same. */
static int
check_address(PlDatagram *self, PyObject *address)
{
    int same = address == Py_None || address == self->address
                   ? 1
                   : PyObject_RichCompareBool(self->address, address, Py_EQ);

    if (same == 0) {
        PyErr_Format(PyExc_ValueError, "Invalid address: must be None or %S",
                     self->address);
    }
    return same == 1 ? 0 : -1;
}

static PyObject *
datagram_sendto(PlDatagram *self, PyObject *const *args, Py_ssize_t nargs,
                PyObject *kwnames)
{
    PyObject *data, *address;
    int sent = 0;

    if (parse_sendto(args, nargs, kwnames, &data, &address) < 0 ||
        check_data(data) < 0)
    {
        return NULL;
    }
    if (!PL_DATAGRAM_EMPTY) {
        int empty = PyObject_Not(data);

        if (empty != 0) {
            return empty < 0 ? NULL : Py_NewRef(Py_None);
        }
    }
    if (self->address != NULL) {
        if (check_address(self, address) < 0) {
            return NULL;
        }
        address = self->address;
    }
    /* In debug mode too asyncio lets another thread send, if it can at once. */
    if (PL_FREE_THREADED && pl_loop_check_thread(self->loop) < 0) {
        return NULL;
    }
    if (self->fd < 0 || (self->conn_lost > 0 && self->address != NULL)) {
        return pl_transport_write_after_end(&self->base) < 0
                   ? NULL
                   : Py_NewRef(Py_None);
    }
    if (pl_ring_count(&self->queue) == 0) {
        sent = send_datagram(self, data, address);
        if (sent < 0 &&
            failed(self, "Fatal write error on datagram transport") < 0)
        {
            return NULL;
        }
        if (sent != 0 || self->fd < 0) {
            Py_RETURN_NONE;
        }
    }
    if (queue_push(self, data, address) < 0 ||
        pl_transport_watch(&self->base, PL_S_WRITING, 0) < 0 ||
        pl_maybe_pause(&self->base) < 0)
    {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* -- opening ----------------------------------------------------------- */

static void
datagram_releasing(PlTransport *self)
{
    datagram_drop_queue(self);
}

static const pl_transport_ops datagram_ops = {
    .kind = PL_SLOT_DATAGRAM,
    .read = datagram_read,
    .write = datagram_write,
    .flush = datagram_flush,
    .drop_queue = datagram_drop_queue,
    .releasing = datagram_releasing,
};

/* New ref: sock.name(), or None when that is an OSError. */
static PyObject *
name_or_none(PyObject *sock, PyObject *name)
{
    PyObject *result = PyObject_CallMethodNoArgs(sock, name);

    if (result == NULL && PyErr_ExceptionMatches(PyExc_OSError)) {
        PyErr_Clear();
        return Py_NewRef(Py_None);
    }
    return result;
}

/* Fills _extra, and PL_S_CONNECTED: asyncio sends without an address when
   there is a peername (which that of a socket pair is not: ''). */
static int
fill_extra(PlDatagram *self, PyObject *extra)
{
    pl_state *st = self->loop->st;
    PyObject *shown = NULL, *sockname = NULL, *peername = NULL;
    int status = -1;

    self->extra = extra == Py_None ? PyDict_New() : Py_NewRef(extra);
    if (self->extra == NULL) {
        return -1;
    }
    shown = PyObject_CallOneArg(st->transport_socket, self->sock);
    sockname =
        shown == NULL ? NULL : name_or_none(self->sock, st->str_getsockname);
    if (sockname == NULL ||
        PyDict_SetItem(self->extra, st->str_socket, shown) < 0 ||
        PyDict_SetItem(self->extra, st->str_sockname, sockname) < 0)
    {
        goto done;
    }
    peername =
        Py_XNewRef(PyDict_GetItemWithError(self->extra, st->str_peername));
    if (peername == NULL) {
        if (PyErr_Occurred()) {
            goto done;
        }
        peername = name_or_none(self->sock, st->str_getpeername);
        if (peername == NULL ||
            PyDict_SetItem(self->extra, st->str_peername, peername) < 0)
        {
            goto done;
        }
    }
    int connected = PyObject_IsTrue(peername);

    if (connected > 0) {
        self->flags |= PL_S_CONNECTED;
    }
    status = connected < 0 ? -1 : 0;

done:
    Py_XDECREF(shown);
    Py_XDECREF(sockname);
    Py_XDECREF(peername);
    return status;
}

/* Our own system calls will do for a plain socket of these families. */
static void
find_family(PlDatagram *self, int fd)
{
    socklen_t size = sizeof(self->family);

    if (Py_TYPE(self->sock) == (PyTypeObject *)self->loop->st->socket_type &&
        getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &self->family, &size) == 0 &&
        (self->family == AF_INET || self->family == AF_INET6 ||
         self->family == AF_UNIX))
    {
        self->flags |= PL_S_NATIVE;
    }
}

/* _make_datagram(sock, protocol, address, waiter, extra) */
PyObject *
loop_make_datagram(PlLoop *loop, PyObject *const *args, Py_ssize_t nargs)
{
    pl_state *st = loop->st;

    if (nargs != 5) {
        PyErr_SetString(PyExc_TypeError, "_make_datagram takes 5 arguments");
        return NULL;
    }
    int bound = PyObject_IsTrue(args[2]);
    int fd = bound < 0 ? -1 : pl_socket_fd(st, args[0]);

    if (fd < 0 || pl_loop_check_closed(loop) < 0 ||
        pl_protocol_check_made(st, args[1]) < 0)
    {
        return NULL;
    }
    PlDatagram *self =
        (PlDatagram *)st->DatagramType->tp_alloc(st->DatagramType, 0);

    if (self == NULL) {
        return NULL;
    }
    if (pl_transport_init(&self->base, &datagram_ops, loop, NULL) < 0) {
        goto error;
    }
    self->protocol = Py_NewRef(args[1]);
    pl_transport_set_sock(&self->base, args[0], fd);
    if (bound) {
        self->address = Py_NewRef(args[2]);
    }
    find_family(self, fd);
    if (fill_extra(self, args[4]) < 0 ||
        pl_transport_open(&self->base, fd) < 0)
    {
        goto error;
    }
    if (args[3] != Py_None) {
        self->waiter = Py_NewRef(args[3]);
    }
    return (PyObject *)self;

error:
    Py_DECREF(self);
    return NULL;
}

/* -- methods ----------------------------------------------------------- */

static PyObject *
datagram_set_protocol(PlDatagram *self, PyObject *const *args,
                      Py_ssize_t nargs, PyObject *kwnames)
{
    PyObject *protocol =
        pl_only_argument("set_protocol", "protocol", args, nargs, kwnames);

    if (protocol == NULL || pl_loop_check_thread(self->loop) < 0) {
        return NULL;
    }
    pl_transport_take_protocol(&self->base, Py_NewRef(protocol));
    Py_RETURN_NONE;
}

static PyObject *
by_hand(PlDatagram *self, int (*work)(PlTransport *))
{
    if (pl_loop_check_thread(self->loop) < 0 ||
        (self->fd >= 0 && self->conn_lost == 0 && work(&self->base) < 0))
    {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* The names asyncio's error reports show. */
static PyObject *
datagram_read_ready(PlDatagram *self, PyObject *Py_UNUSED(unused))
{
    return by_hand(self, datagram_read);
}

static PyObject *
datagram_sendto_ready(PlDatagram *self, PyObject *Py_UNUSED(unused))
{
    return by_hand(self, datagram_write);
}

PL_LOCKED(static, datagram_sendto,
          (PlDatagram * self, PyObject *const *args, Py_ssize_t nargs,
           PyObject *kwnames),
          self, args, nargs, kwnames)
PL_LOCKED(static, datagram_set_protocol,
          (PlDatagram * self, PyObject *const *args, Py_ssize_t nargs,
           PyObject *kwnames),
          self, args, nargs, kwnames)
PL_LOCKED(static, datagram_read_ready, (PlDatagram * self, PyObject *unused),
          self, unused)
PL_LOCKED(static, datagram_sendto_ready, (PlDatagram * self, PyObject *unused),
          self, unused)

/* -- type -------------------------------------------------------------- */

static int
datagram_traverse(PlDatagram *self, visitproc visit, void *arg)
{
    for (size_t i = 0; i < pl_ring_count(&self->queue); i++) {
        Py_VISIT((PyObject *)pl_ring_at(&self->queue, i));
    }
    Py_VISIT(self->address);
    Py_VISIT(self->from.object);
    Py_VISIT(self->to.object);
    return pl_transport_traverse(&self->base, visit, arg);
}

static int
datagram_clear(PlDatagram *self)
{
    datagram_drop_queue(&self->base);
    Py_CLEAR(self->address);
    Py_CLEAR(self->from.object);
    Py_CLEAR(self->to.object);
    pl_transport_clear(&self->base);
    return 0;
}

static PyMethodDef datagram_methods[] = {
    {"sendto", PL_FAST_KEYWORDS(datagram_sendto_locked),
     "sendto(data, addr=None): send at once, or queue when the socket is "
     "full."},
    {"close", PL_NOARGS(transport_close_locked),
     "Send what is queued, then close; connection_lost(None) follows."},
    {"abort", PL_NOARGS(transport_abort_locked),
     "Close at once and drop what is queued."},
    {"is_closing", PL_NOARGS(transport_is_closing),
     "True from close(), abort() or an error on."},
    {"is_reading", PL_NOARGS(transport_is_reading),
     "True unless paused or closing."},
    {"pause_reading", PL_NOARGS(transport_pause_reading_locked),
     "No datagram_received() until resume_reading()."},
    {"resume_reading", PL_NOARGS(transport_resume_reading_locked),
     "Undo pause_reading()."},
    {"set_protocol", PL_FAST_KEYWORDS(datagram_set_protocol_locked),
     "Hand all further events to another protocol."},
    {"get_protocol", PL_NOARGS(transport_get_protocol),
     "The current protocol."},
    {"set_write_buffer_limits",
     PL_KEYWORDS(transport_set_write_buffer_limits_locked),
     "set_write_buffer_limits(high=None, low=None), in bytes."},
    {"get_write_buffer_limits", PL_NOARGS(transport_get_write_buffer_limits),
     "(low, high) in bytes."},
    {"get_write_buffer_size", PL_NOARGS(transport_get_write_buffer_size),
     "What is queued and not yet sent, in bytes."},
    {"_read_ready", PL_NOARGS(datagram_read_ready_locked), NULL},
    {"_sendto_ready", PL_NOARGS(datagram_sendto_ready_locked), NULL},
    {"_force_close", (PyCFunction)transport_force_close_locked, METH_O, NULL},
    {"_fatal_error", (PyCFunction)transport_fatal_error, METH_VARARGS, NULL},
    {"_call_connection_lost", (PyCFunction)transport_call_connection_lost,
     METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef datagram_getset[] = {
    {"_closing", (getter)transport_get_flag, NULL, NULL,
     PL_FLAG(PL_S_CLOSING)},
    {"_paused", (getter)transport_get_flag, NULL, NULL, PL_FLAG(PL_S_PAUSED)},
    {"_protocol_paused", (getter)transport_get_flag, NULL, NULL,
     PL_FLAG(PL_S_PROTOCOL_PAUSED)},
    {"_conn_lost", (getter)transport_get_conn_lost, NULL, NULL, NULL},
    {"_address", (getter)transport_get_object, NULL, NULL,
     PL_FIELD(PlDatagram, address)},
    {"_sock", (getter)transport_get_object, NULL, NULL,
     PL_FIELD(PlDatagram, sock)},
    {"_protocol", (getter)transport_get_object, NULL, NULL,
     PL_FIELD(PlDatagram, protocol)},
    {"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef datagram_members[] = {
    {"__dictoffset__", T_PYSSIZET, offsetof(PlDatagram, dict), READONLY, NULL},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(PlDatagram, weaklist),
     READONLY, NULL},
    {"_sock_fd", T_INT, offsetof(PlDatagram, shown_fd), READONLY, NULL},
    {"_loop", T_OBJECT, offsetof(PlDatagram, loop), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot datagram_slots[] = {
    {Py_tp_dealloc, pl_transport_dealloc},
    {Py_tp_finalize, pl_transport_finalize},
    {Py_tp_traverse, datagram_traverse},
    {Py_tp_clear, datagram_clear},
    {Py_tp_repr, pl_transport_repr},
    {Py_tp_methods, datagram_methods},
    {Py_tp_getset, datagram_getset},
    {Py_tp_members, datagram_members},
    {0, NULL},
};

static PyType_Spec datagram_spec = {
    "pyloop._core.Datagram",
    sizeof(PlDatagram),
    0,
    /* Not IMMUTABLETYPE: 3.14 refuses that over a mutable base. */
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC |
        Py_TPFLAGS_DISALLOW_INSTANTIATION,
    datagram_slots,
};

int
pl_datagram_type(PyObject *module, pl_state *st)
{
    /* asyncio's is both, in this order (3.11: the first only); write() and
       its like are the first's, which raise NotImplementedError. */
    PyObject *bases =
        PyTuple_Pack(2, st->asyncio_transport, st->asyncio_datagram_transport);

    if (bases == NULL) {
        return -1;
    }
    st->DatagramType = (PyTypeObject *)PyType_FromModuleAndSpec(
        module, &datagram_spec, bases);
    Py_DECREF(bases);
    return st->DatagramType == NULL ? -1 : 0;
}
