/* One try each of loop.sock_recv() and its kin.

   The methods are coroutines of pyloop/_sockets.py, so that they are in all
   respects what asyncio's are: lazy, with the warning when nobody awaits
   them, types.CoroutineType.  They call down here first: what completes at
   once costs one Python frame (some 60 ns; an awaitable in C was no cheaper,
   because most versions hand its result over by a StopIteration) and neither
   a future nor, on EAGAIN, an exception.

   Each try returns its result, a future to wait on when it would block, or
   NotImplemented: then asyncio's own method does it, with asyncio's errors.
   That is for all that is not plain: debug mode, a socket that is not exactly
   a socket.socket (its methods may be overridden), arguments of another kind.
   MSG_DONTWAIT: a socket that is left blocking never stops the loop. */

#include "loop.h"

#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

/* Up to here a read goes through the loop's buffer into an exact object. */
#define SMALL_READ (64 * 1024)

#define NOT_PLAIN (-2)

/* The descriptor (-1 of a closed socket, for the kernel to refuse), or
   NOT_PLAIN without an exception.  The callers know a Future by its type. */
static int
plain_socket(PlLoop *self, PyObject *sock)
{
    if (self->debug || self->overrides & PL_OWN_CREATE_FUTURE ||
        (PyObject *)Py_TYPE(sock) != self->st->socket_type)
    {
        return NOT_PLAIN;
    }
    PyObject *number = PyObject_CallOneArg(self->st->socket_fileno, sock);
    int fd = number == NULL ? NOT_PLAIN : PyLong_AsInt(number);

    Py_XDECREF(number);
    if (PyErr_Occurred()) {
        PyErr_Clear();
        return NOT_PLAIN;
    }
    return fd;
}

/* A count of bytes, or -1 without an exception. */
static Py_ssize_t
plain_size(PyObject *number)
{
    Py_ssize_t size =
        PyLong_CheckExact(number) ? PyLong_AsSsize_t(number) : -1;

    if (size < 0) {
        PyErr_Clear();
    }
    return size;
}

/* An int field of _socket.socket, past the enums that socket.socket makes of
   them.  -1 and an exception. */
static int
socket_field(PlLoop *self, PyObject *sock, PyObject *name)
{
    PyObject *field = PyObject_GetAttr(self->st->socket_base, name);
    descrgetfunc get = field == NULL ? NULL : Py_TYPE(field)->tp_descr_get;
    PyObject *number =
        get == NULL ? NULL : get(field, sock, (PyObject *)Py_TYPE(sock));
    int value = number == NULL ? -1 : PyLong_AsInt(number);

    Py_XDECREF(number);
    Py_XDECREF(field);
    return value;
}

/* What a call that failed with errno comes to: a future, or NULL. */
static PyObject *
wait_or_raise(PlLoop *self, int fd, uint32_t event)
{
    if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) {
        return pl_loop_wait(self, fd, event);
    }
    return PyErr_SetFromErrno(PyExc_OSError);
}

typedef struct {
    struct sockaddr_storage name;
    socklen_t length;    /* 0: do not ask */
} peer;

static ssize_t
receive(int fd, void *buffer, size_t size, peer *from)
{
    /* As the socket module: nothing was asked for, so nothing is done. */
    if (size == 0 && from->length == 0) {
        return 0;
    }
    return recvfrom(fd, buffer, size, MSG_DONTWAIT,
                    from->length > 0 ? (struct sockaddr *)&from->name : NULL,
                    from->length > 0 ? &from->length : NULL);
}

/* The loop's buffer, or NULL when it is not this thread's to use. */
static char *
shared_buffer(PlLoop *self)
{
    if (self->closed || !pl_loop_runs_here(self)) {
        return NULL;
    }
    char *buffer = pl_loop_read_buffer(self);

    if (buffer == NULL) {
        PyErr_Clear();    /* the callers have another way */
    }
    return buffer;
}

static PyObject *
receive_bytes(PlLoop *self, int fd, Py_ssize_t size, peer *from)
{
    char *buffer = size <= SMALL_READ ? shared_buffer(self) : NULL;

    if (buffer != NULL) {
        ssize_t n = receive(fd, buffer, (size_t)size, from);

        return n < 0 ? wait_or_raise(self, fd, PL_READ)
                     : PyBytes_FromStringAndSize(buffer, n);
    }
    PyObject *data = PyBytes_FromStringAndSize(NULL, size);

    if (data == NULL) {
        return NULL;
    }
    ssize_t n = receive(fd, PyBytes_AS_STRING(data), (size_t)size, from);

    if (n < 0) {
        Py_DECREF(data);
        return wait_or_raise(self, fd, PL_READ);
    }
    if (n != size) {
        (void)_PyBytes_Resize(&data, n);
    }
    return data;
}

/* _try_read(fd): some bytes of a pipe; None for all that os.read() should
   tell of: nothing there, the end, an error. */
PyObject *
loop_try_read(PlLoop *self, PyObject *number)
{
    char *buffer = shared_buffer(self);
    int fd = PyLong_AsInt(number);
    ssize_t n = buffer == NULL ? -1 : read(fd, buffer, PL_READ_BUFFER);

    PyErr_Clear();
    return n > 0 ? PyBytes_FromStringAndSize(buffer, n) : Py_NewRef(Py_None);
}

/* _try_recv(sock, n) */
PyObject *
loop_try_recv(PlLoop *self, PyObject *const *args, Py_ssize_t nargs)
{
    peer nobody = {.length = 0};
    Py_ssize_t size = nargs == 2 ? plain_size(args[1]) : -1;
    int fd = size < 0 ? NOT_PLAIN : plain_socket(self, args[0]);

    if (fd == NOT_PLAIN) {
        Py_RETURN_NOTIMPLEMENTED;
    }
    return receive_bytes(self, fd, size, &nobody);
}

/* Only families whose addresses we can show: what was received is gone. */
static int
plain_datagrams(PlLoop *self, PyObject *sock)
{
    int fd = plain_socket(self, sock);

    if (fd != NOT_PLAIN) {
        switch (socket_field(self, sock, self->st->str_family)) {
        case AF_INET:
        case AF_INET6:
        case AF_UNIX:
            return fd;
        }
        PyErr_Clear();
    }
    return NOT_PLAIN;
}

/* (value, address); steals value. */
static PyObject *
with_address(PyObject *value, const peer *from)
{
    PyObject *address =
        pl_sockaddr_object((const struct sockaddr *)&from->name, from->length);
    PyObject *pair = address == NULL ? NULL : PyTuple_Pack(2, value, address);

    Py_XDECREF(address);
    Py_DECREF(value);
    return pair;
}

/* _try_recvfrom(sock, n) */
PyObject *
loop_try_recvfrom(PlLoop *self, PyObject *const *args, Py_ssize_t nargs)
{
    peer from = {.length = sizeof(from.name)};
    Py_ssize_t size = nargs == 2 ? plain_size(args[1]) : -1;
    int fd = size < 0 ? NOT_PLAIN : plain_datagrams(self, args[0]);

    if (fd == NOT_PLAIN) {
        Py_RETURN_NOTIMPLEMENTED;
    }
    PyObject *data = receive_bytes(self, fd, size, &from);

    return data != NULL && PyBytes_CheckExact(data) ? with_address(data, &from)
                                                    : data;
}

/* nbytes: at most, or -1. */
static PyObject *
receive_into(PlLoop *self, int fd, PyObject *target, Py_ssize_t nbytes,
             peer *from)
{
    Py_buffer view;

    if (PyObject_GetBuffer(target, &view, PyBUF_WRITABLE) < 0 ||
        nbytes > view.len)
    {
        if (PyErr_Occurred()) {
            PyErr_Clear();
        }
        else {
            PyBuffer_Release(&view);
        }
        Py_RETURN_NOTIMPLEMENTED;
    }
    ssize_t n =
        receive(fd, view.buf, (size_t)(nbytes < 0 ? view.len : nbytes), from);
    int err = errno;

    PyBuffer_Release(&view);
    errno = err;
    return n < 0 ? wait_or_raise(self, fd, PL_READ) : PyLong_FromSsize_t(n);
}

/* _try_recv_into(sock, buffer) */
PyObject *
loop_try_recv_into(PlLoop *self, PyObject *const *args, Py_ssize_t nargs)
{
    peer nobody = {.length = 0};
    int fd = nargs == 2 ? plain_socket(self, args[0]) : NOT_PLAIN;

    if (fd == NOT_PLAIN) {
        Py_RETURN_NOTIMPLEMENTED;
    }
    return receive_into(self, fd, args[1], -1, &nobody);
}

/* _try_recvfrom_into(sock, buffer, nbytes): all of the buffer when that is 0 */
PyObject *
loop_try_recvfrom_into(PlLoop *self, PyObject *const *args, Py_ssize_t nargs)
{
    peer from = {.length = sizeof(from.name)};
    Py_ssize_t size = nargs == 3 ? plain_size(args[2]) : -1;
    int fd = size < 0 ? NOT_PLAIN : plain_datagrams(self, args[0]);

    if (fd == NOT_PLAIN) {
        Py_RETURN_NOTIMPLEMENTED;
    }
    PyObject *count =
        receive_into(self, fd, args[1], size == 0 ? -1 : size, &from);

    return count != NULL && PyLong_CheckExact(count)
               ? with_address(count, &from)
               : count;
}

/* _try_send(sock, data, start) -> bytes sent so far, or None when that is
   all; it does not wait */
PyObject *
loop_try_send(PlLoop *self, PyObject *const *args, Py_ssize_t nargs)
{
    Py_ssize_t start = nargs == 3 ? plain_size(args[2]) : -1;
    int fd = start < 0 ? NOT_PLAIN : plain_socket(self, args[0]);
    Py_buffer view;

    if (fd == NOT_PLAIN) {
        Py_RETURN_NOTIMPLEMENTED;
    }
    if (PyObject_GetBuffer(args[1], &view, PyBUF_SIMPLE) < 0) {
        PyErr_Clear();
        Py_RETURN_NOTIMPLEMENTED;
    }
    Py_ssize_t left = view.len - start;
    ssize_t n = left < 0 ? 0
                         : send(fd, (const char *)view.buf + start,
                                (size_t)left, MSG_DONTWAIT | MSG_NOSIGNAL);
    int err = n < 0 ? errno : 0;

    PyBuffer_Release(&view);
    if (err != 0 && err != EAGAIN && err != EWOULDBLOCK && err != EINTR) {
        return pl_raise_errno(-err);
    }
    if (n >= 0 && n >= left) {
        Py_RETURN_NONE;
    }
    return PyLong_FromSsize_t(n < 0 ? start : start + n);
}

/* -- accept -------------------------------------------------------------- */

/* socket.socket(family, type, proto, fd), not blocking; owns fd. */
static PyObject *
new_connection(PlLoop *self, PyObject *listener, int fd)
{
    pl_state *st = self->st;
    int family = socket_field(self, listener, st->str_family);
    int type = family < 0 ? -1 : socket_field(self, listener, st->str_type);
    int proto = type < 0 ? -1 : socket_field(self, listener, st->str_proto);
    PyObject *sock = PyErr_Occurred()
                         ? NULL
                         : PyObject_CallFunction(st->socket_type, "iiii",
                                                 family, type, proto, fd);

    if (sock == NULL) {
        close(fd);
        return NULL;
    }
    PyObject *done =
        PyObject_CallMethodOneArg(sock, st->str_setblocking, Py_False);

    if (done == NULL) {
        Py_DECREF(sock);
        return NULL;
    }
    Py_DECREF(done);
    return sock;
}

/* Is the socket's timeout 0?  accept() and connect() have no MSG_DONTWAIT. */
static bool
never_blocks(PlLoop *self, PyObject *sock)
{
    PyObject *field =
        PyObject_GetAttr(self->st->socket_base, self->st->str_timeout);
    descrgetfunc get = field == NULL ? NULL : Py_TYPE(field)->tp_descr_get;
    PyObject *timeout =
        get == NULL ? NULL : get(field, sock, (PyObject *)Py_TYPE(sock));
    bool zero = timeout != NULL && PyFloat_CheckExact(timeout) &&
                PyFloat_AS_DOUBLE(timeout) == 0.0;

    PyErr_Clear();
    Py_XDECREF(timeout);
    Py_XDECREF(field);
    return zero;
}

/* _try_accept(sock) -> (connection, address) */
PyObject *
loop_try_accept(PlLoop *self, PyObject *listener)
{
    int fd = plain_datagrams(self, listener);
    peer from = {.length = sizeof(from.name)};

    if (fd == NOT_PLAIN || !never_blocks(self, listener)) {
        Py_RETURN_NOTIMPLEMENTED;
    }
    int accepted = accept4(fd, (struct sockaddr *)&from.name, &from.length,
                           SOCK_NONBLOCK | SOCK_CLOEXEC);

    if (accepted < 0) {
        return wait_or_raise(self, fd, PL_READ);
    }
    PyObject *connection = new_connection(self, listener, accepted);

    return connection == NULL ? NULL : with_address(connection, &from);
}

/* -- connect ------------------------------------------------------------- */

static PyObject *
connect_once(PlLoop *self, PyObject *sock, PyObject *address, bool first)
{
    int fd = plain_socket(self, sock);
    int family = fd == NOT_PLAIN
                     ? AF_UNSPEC
                     : socket_field(self, sock, self->st->str_family);
    struct sockaddr_storage name;
    socklen_t length = pl_sockaddr_numeric(address, family, &name);

    if (length == 0 || !never_blocks(self, sock)) {
        PyErr_Clear();
        Py_RETURN_NOTIMPLEMENTED;
    }
    if (first && PySys_Audit("socket.connect", "OO", sock, address) < 0) {
        return NULL;
    }
    return pl_connect(self, fd, (struct sockaddr *)&name, length, first);
}

/* _try_connect(sock, address) */
PyObject *
loop_try_connect(PlLoop *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 2) {
        Py_RETURN_NOTIMPLEMENTED;
    }
    return connect_once(self, args[0], args[1], true);
}

/* _finish_connect(sock, address) */
PyObject *
loop_finish_connect(PlLoop *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 2) {
        Py_RETURN_NOTIMPLEMENTED;
    }
    return connect_once(self, args[0], args[1], false);
}
