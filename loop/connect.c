/* Connecting: what sock_connect() and create_connection() share, and the
   whole of create_connection() where nothing has to be waited for.

   To a numeric address, without keywords, the socket is a bare descriptor
   until somebody asks the transport for it, as with accepted ones.  Within
   the machine the handshake is over when connect() is called once more, so
   neither poll nor writer is needed.  All else is asyncio's own
   create_connection(). */

#include "stream.h"

#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

/* Called once more, connect() tells how it went.  0: connected; EINPROGRESS:
   under way; or another errno. */
static int
connect_again(int fd, const struct sockaddr *name, socklen_t length)
{
    int err = connect(fd, name, length) == 0 ? 0 : errno;

    switch (err) {
    case EISCONN:
        return 0;
    case EALREADY:
    case EINTR:
        return EINPROGRESS;
    default:
        return err;
    }
}

/* OSError in asyncio's words; NULL. */
static PyObject *
raise_refused(int err, const struct sockaddr *name, socklen_t length)
{
    PyObject *address = pl_sockaddr_object(name, length);
    PyObject *text =
        address == NULL
            ? NULL
            : PyUnicode_FromFormat("Connect call failed %R", address);
    PyObject *exc =
        text == NULL ? NULL
                     : PyObject_CallFunction(PyExc_OSError, "iO", err, text);

    if (exc != NULL) {
        PyErr_SetObject((PyObject *)Py_TYPE(exc), exc);
    }
    Py_XDECREF(exc);
    Py_XDECREF(text);
    Py_XDECREF(address);
    return NULL;
}

/* As connect_again, or -1 and an exception. */
static int
connect_first(int fd, const struct sockaddr *name, socklen_t length)
{
    int err = connect(fd, name, length) == 0 ? 0 : errno;

    switch (err) {
    case 0:
    case EISCONN:    /* asyncio, which does not ask twice, gets 0 here */
        return 0;
    case EINPROGRESS:
    case EALREADY:
    case EINTR:
        err = connect_again(fd, name, length);
        break;
    default:
        pl_raise_errno(-err);    /* in the socket module's words */
        return -1;
    }
    if (err != 0 && err != EINPROGRESS) {
        raise_refused(err, name, length);
        return -1;
    }
    return err;
}

PyObject *
pl_connect(PlLoop *loop, int fd, const struct sockaddr *name, unsigned length,
           bool first)
{
    int err = first ? connect_first(fd, name, length)
                    : connect_again(fd, name, length);

    switch (err) {
    case -1:
        return NULL;
    case 0:
        Py_RETURN_TRUE;
    case EINPROGRESS:
        return pl_loop_wait(loop, fd, PL_WRITE);
    default:
        return raise_refused(err, name, length);
    }
}

/* (transport, protocol), with connection_made() in the ready ring.  Takes fd
   over. */
static PyObject *
connected(PlLoop *self, int fd, PyObject *protocol_factory,
          const struct sockaddr *name, socklen_t length)
{
    PyObject *protocol = PyObject_CallNoArgs(protocol_factory);
    PyObject *stream =
        protocol == NULL
            ? NULL
            : (PyObject *)pl_stream_new(self, fd, NULL, protocol, NULL, NULL,
                                        NULL, NULL, name, length);
    PyObject *made = NULL;

    if (stream == NULL) {
        close(fd);
    }
    else {
        made = PyTuple_Pack(2, stream, protocol);
    }
    Py_XDECREF(stream);
    Py_XDECREF(protocol);
    return made;
}

/* A socket.socket to go on with.  Takes fd over. */
static PyObject *
connecting(PlLoop *self, int fd, int family)
{
    PyObject *sock = PyObject_CallFunction(
        self->st->socket_type, "iiii", family, SOCK_STREAM, IPPROTO_TCP, fd);

    if (sock == NULL) {
        close(fd);
        return NULL;
    }
    PyObject *done =
        PyObject_CallMethodOneArg(sock, self->st->str_setblocking, Py_False);

    Py_XDECREF(done);
    if (done == NULL) {
        Py_CLEAR(sock);
    }
    return sock;
}

/* To the address that is asked for, or to whichever the kernel chooses? */
static bool
is_the_peer(const struct sockaddr_storage *name)
{
    return name->ss_family == AF_INET &&
           ((const struct sockaddr_in *)name)->sin_addr.s_addr !=
               htonl(INADDR_ANY);
}

static PyObject *
open_stream(PlLoop *self, PyObject *protocol_factory, PyObject *host,
            PyObject *port)
{
    struct sockaddr_storage name;
    unsigned length = 0;

    if (!self->debug) {
        PyObject *address = PyTuple_Pack(2, host, port);

        if (address == NULL) {
            return NULL;
        }
        length = pl_sockaddr_numeric(address, AF_INET, &name);
        if (length == 0) {
            length = pl_sockaddr_numeric(address, AF_INET6, &name);
        }
        Py_DECREF(address);
    }
    if (length == 0) {
        Py_RETURN_NOTIMPLEMENTED;
    }
    /* There is no socket object to show. */
    if (pl_loop_check_thread(self) < 0 ||
        PySys_Audit("socket.connect", "O(OO)", Py_None, host, port) < 0)
    {
        return NULL;
    }
    int family = name.ss_family;
    int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC,
                    IPPROTO_TCP);

    if (fd < 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    int err = connect_first(fd, (struct sockaddr *)&name, length);

    if (err < 0) {
        close(fd);
        return NULL;
    }
    return err == 0 ? connected(self, fd, protocol_factory,
                                is_the_peer(&name) ? (struct sockaddr *)&name
                                                   : NULL,
                                length)
                    : connecting(self, fd, family);
}

/* _open_stream(protocol_factory, host, port) -> (transport, protocol), or
   a socket.socket that is connecting, or NotImplemented */
PyObject *
loop_open_stream(PlLoop *self, PyObject *const *args, Py_ssize_t nargs)
{
    PyObject *made;

    if (nargs != 3) {
        Py_RETURN_NOTIMPLEMENTED;
    }
    Py_BEGIN_CRITICAL_SECTION(self);
    made = open_stream(self, args[0], args[1], args[2]);
    Py_END_CRITICAL_SECTION();
    return made;
}
