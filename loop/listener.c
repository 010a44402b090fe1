/* The listener: a listening socket's readiness becomes stream transports,
   a batch of accept4 per readiness, without a task or a socket object per
   connection.  Errors as in asyncio's _accept_connection. */

#include "handle.h"
#include "stream.h"

#include <errno.h>
#include <unistd.h>

#define ACCEPT_MAX 1024          /* a huge backlog is not a huge batch */
#define ACCEPT_RETRY_DELAY 1.0   /* seconds; asyncio.constants */

typedef struct {
    PyObject_HEAD

    /* set once */
    PlLoop *loop;                 /* owned */
    PyObject *protocol_factory;
    PyObject *sock;
    PyObject *server;
    PyObject *context;            /* each connection gets a copy */
    int fd;
    int backlog;

    /* loop thread only */
    pl_job job;
    int queued;
    int stopped;
} PlListener;

static int
report_creation(PlListener *self, PyObject *protocol)
{
    if (pl_leaves_loop()) {
        return -1;
    }
    PyObject *exc = PyErr_GetRaisedException();

    if (!self->loop->debug) {
        Py_DECREF(exc);
        return 0;
    }
    static const char message[] =
        "Error on transport creation for incoming connection";

    return protocol == NULL ? pl_report(self->loop, message, exc, NULL)
                            : pl_report(self->loop, message, exc, "protocol",
                                        protocol, NULL);
}

/* In asyncio's words.  0, or -1 with any exception. */
static int
debug_accepted(PlListener *self, PyObject *stream, const struct sockaddr *peer,
               socklen_t peer_length)
{
    PyObject *address = pl_sockaddr_object(peer, peer_length);
    PyObject *sock = PyObject_GetAttrString(stream, "_sock");
    PyObject *done =
        address == NULL || sock == NULL
            ? NULL
            : PyObject_CallMethod(self->loop->st->logger, "debug", "sOOO",
                                  "%r got a new connection from %r: %r",
                                  self->server, address, sock);

    Py_XDECREF(address);
    Py_XDECREF(sock);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

/* Takes fd over. */
static int
accepted(PlListener *self, int fd, const struct sockaddr *peer,
         socklen_t peer_length)
{
    PyObject *context = PyContext_Copy(self->context);
    PyObject *protocol = NULL;
    PlStream *stream = NULL;
    int status = 0;
    int taken = 0;

    if (context == NULL || PyContext_Enter(context) < 0) {
        close(fd);
        Py_XDECREF(context);
        return report_creation(self, NULL);
    }
    protocol = PyObject_CallNoArgs(self->protocol_factory);
    if (protocol != NULL) {
        stream = pl_stream_new(self->loop, fd, NULL, protocol, context, NULL,
                               NULL, self->server, peer, peer_length);
    }
    taken = stream != NULL;
    if (PyContext_Exit(context) < 0) {
        Py_CLEAR(stream);
    }
    if (stream == NULL) {
        if (!taken) {
            close(fd);
        }
        status = report_creation(self, protocol);
    }
    else if (self->loop->debug &&
             debug_accepted(self, (PyObject *)stream, peer, peer_length) < 0)
    {
        status = pl_unraisable((PyObject *)self);
    }
    Py_XDECREF(stream);
    Py_XDECREF(protocol);
    Py_DECREF(context);
    return status;
}

static int
watch_listener(PlListener *self)
{
    int err = pl_core_watch(self->loop->core, self->fd, PL_SLOT_LISTENER, self,
                            PL_READ);

    if (err < 0) {
        pl_raise_errno(err);
        return -1;
    }
    Py_INCREF(self);
    return 0;
}

static void
unwatch_listener(PlListener *self)
{
    pl_slot *slot = pl_core_slot(self->loop->core, self->fd);

    if (slot != NULL && slot->kind == PL_SLOT_LISTENER && slot->owner == self)
    {
        pl_core_forget(self->loop->core, self->fd);
        Py_DECREF(self);
    }
}

/* Out of descriptors or memory: the socket would stay readable, so look away
   for a while. */
static int
out_of_resource(PlListener *self, int err)
{
    pl_state *st = self->loop->st;
    PyObject *sock = PyObject_CallOneArg(st->transport_socket, self->sock);

    if (sock == NULL) {
        return -1;
    }
    int status =
        pl_report(self->loop, "socket.accept() out of system resource",
                  pl_oserror(-err), "socket", sock, NULL);

    Py_DECREF(sock);
    Py_INCREF(self);
    unwatch_listener(self);
    if (status == 0) {
        PyObject *resume = PyObject_GetAttrString((PyObject *)self, "_resume");
        PyObject *timer =
            resume == NULL
                ? NULL
                : PyObject_CallMethod((PyObject *)self->loop, "call_later",
                                      "dO", ACCEPT_RETRY_DELAY, resume);

        status = timer == NULL ? -1 : 0;
        Py_XDECREF(timer);
        Py_XDECREF(resume);
    }
    Py_DECREF(self);
    return status;
}

static int
accept_failed(PlListener *self, int err)
{
    switch (err) {
    case EAGAIN:
    case EINTR:
    case ECONNABORTED:
        return 0;
    case EMFILE:
    case ENFILE:
    case ENOBUFS:
    case ENOMEM:
        return out_of_resource(self, err);
    default:
        return pl_report(
            self->loop,
            "Exception in callback BaseSelectorEventLoop._accept_connection",
            pl_oserror(-err), NULL);
    }
}

static int
listener_accept(pl_job *job)
{
    PlListener *self = (PlListener *)job->owner;

    self->queued = 0;
    for (int i = 0; i < self->backlog && !self->stopped; i++) {
        struct sockaddr_storage peer;
        socklen_t length = sizeof(peer);
        int fd = accept4(self->fd, (struct sockaddr *)&peer, &length,
                         SOCK_NONBLOCK | SOCK_CLOEXEC);

        if (fd < 0) {
            return accept_failed(self, errno);
        }
        if (accepted(self, fd, (struct sockaddr *)&peer, length) < 0) {
            return -1;
        }
    }
    return 0;
}

int
pl_listener_on_events(void *owner)
{
    PlListener *self = owner;

    if (!self->queued) {
        if (pl_loop_push_job(self->loop, &self->job) < 0) {
            return -1;
        }
        self->queued = 1;
    }
    return 0;
}

/* _listen(fd, sock, protocol_factory, server, backlog) */
PyObject *
loop_listen(PlLoop *loop, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 5) {
        PyErr_SetString(PyExc_TypeError, "_listen takes 5 arguments");
        return NULL;
    }
    int fd = PyLong_AsInt(args[0]);
    Py_ssize_t backlog = PyNumber_AsSsize_t(args[4], NULL);

    if (PyErr_Occurred() || pl_loop_check_closed(loop) < 0) {
        return NULL;
    }
    PlListener *self = (PlListener *)loop->st->ListenerType->tp_alloc(
        loop->st->ListenerType, 0);

    if (self == NULL) {
        return NULL;
    }
    self->loop = (PlLoop *)Py_NewRef((PyObject *)loop);
    self->fd = fd;
    self->sock = Py_NewRef(args[1]);
    self->protocol_factory = Py_NewRef(args[2]);
    self->server = Py_NewRef(args[3]);
    self->backlog = (int)(backlog < 1            ? 1
                          : backlog > ACCEPT_MAX ? ACCEPT_MAX
                                                 : backlog);
    self->job = (pl_job){listener_accept, (PyObject *)self};
    self->context = PyContext_CopyCurrent();
    pl_loop_evict(loop, fd);
    if (self->context == NULL || watch_listener(self) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    Py_DECREF(self);
    Py_RETURN_NONE;
}

void
pl_listener_stop(void *owner)
{
    PlListener *self = owner;

    self->stopped = 1;
    unwatch_listener(self);
}

static PyObject *
listener_resume(PlListener *self, PyObject *Py_UNUSED(unused))
{
    PyObject *number =
        PyObject_CallMethodNoArgs(self->sock, self->loop->st->str_fileno);

    if (number == NULL) {
        return NULL;
    }
    int fd = PyLong_AsInt(number);

    Py_DECREF(number);
    /* The server may have been closed in the meantime. */
    if (fd == self->fd && !self->stopped && watch_listener(self) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static int
listener_traverse(PlListener *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->loop);
    Py_VISIT(self->protocol_factory);
    Py_VISIT(self->sock);
    Py_VISIT(self->server);
    Py_VISIT(self->context);
    return 0;
}

static int
listener_clear(PlListener *self)
{
    Py_CLEAR(self->protocol_factory);
    Py_CLEAR(self->sock);
    Py_CLEAR(self->server);
    Py_CLEAR(self->context);
    return 0;
}

static void
listener_dealloc(PlListener *self)
{
    PyTypeObject *type = Py_TYPE(self);

    PyObject_GC_UnTrack(self);
    (void)listener_clear(self);
    Py_CLEAR(self->loop);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef listener_methods[] = {
    {"_resume", (PyCFunction)listener_resume, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot listener_slots[] = {
    {Py_tp_dealloc, listener_dealloc},
    {Py_tp_traverse, listener_traverse},
    {Py_tp_clear, listener_clear},
    {Py_tp_methods, listener_methods},
    {0, NULL},
};

static PyType_Spec listener_spec = {
    "pyloop._core.Listener",
    sizeof(PlListener),
    0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
        Py_TPFLAGS_DISALLOW_INSTANTIATION,
    listener_slots,
};

int
pl_listener_type(PyObject *module, pl_state *st)
{
    st->ListenerType =
        (PyTypeObject *)PyType_FromModuleAndSpec(module, &listener_spec, NULL);
    return st->ListenerType == NULL ? -1 : 0;
}
