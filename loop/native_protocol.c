/* Native protocols: a table of C functions where Python has a Protocol.

   The object that create_server() and its like get is an asyncio.Protocol in
   every respect, so it works behind TLS or anybody's transport.  A stream of
   ours knows it by its type and calls the table itself: the bytes read stay
   in the loop's buffer and no Python object is made of them. */

#include "native.h"
#include "stream.h"

#include <structmember.h>

typedef struct pyloop_stream {
    PyObject_HEAD

    /* set once */
    const pyloop_protocol *table;
    void *arg;

    /* loop thread only */
    void *data;
    PyObject *transport;    /* owned from made to lost; Python's or: */
    PlStream *stream;       /* the same, when it is ours */
    int made;               /* native code is told of nothing before it */
} PlNativeProtocol;

typedef struct {
    PyObject_HEAD

    /* set once */
    const pyloop_protocol *table;
    void *arg;
    PyTypeObject *type;    /* owned */
} PlNativeFactory;

/* Clients built with an older header have a shorter table. */
#define HAS(table, member)                                                    \
    ((table)->size >=                                                         \
         offsetof(pyloop_protocol, member) + sizeof((table)->member) &&       \
     (table)->member != NULL)

/* -- events ------------------------------------------------------------- */

/* These return -1 with an exception set when native code left one. */

static int
protocol_made(PlNativeProtocol *self, PyObject *transport, PlStream *stream)
{
    Py_XSETREF(self->transport, Py_NewRef(transport));
    self->stream = stream;
    self->made = 1;
    if (HAS(self->table, made)) {
        (void)self->table->made(self, self->arg, &self->data);
    }
    return PyErr_Occurred() ? -1 : 0;
}

static int
protocol_received(PlNativeProtocol *self, const void *bytes, size_t size)
{
    if (self->made) {
        (void)self->table->received(self, self->data, bytes, size);
    }
    return PyErr_Occurred() ? -1 : 0;
}

static int
protocol_eof(PlNativeProtocol *self)
{
    int keep = self->made && HAS(self->table, eof)
                   ? self->table->eof(self, self->data)
                   : 0;

    return PyErr_Occurred() ? -1 : keep > 0;
}

static int
protocol_lost(PlNativeProtocol *self, PyObject *exc)
{
    int made = self->made;

    self->made = 0;
    if (made && HAS(self->table, lost)) {
        self->table->lost(self, self->data, exc == Py_None ? NULL : exc);
    }

    PyObject *raised = PyErr_GetRaisedException();

    self->stream = NULL;
    Py_CLEAR(self->transport);
    PyErr_SetRaisedException(raised);
    return raised == NULL ? 0 : -1;
}

static int
protocol_flow(PlNativeProtocol *self, int pause)
{
    if (!self->made) {
        return 0;
    }
    if (pause) {
        if (HAS(self->table, paused)) {
            self->table->paused(self, self->data);
        }
    }
    else if (HAS(self->table, resumed)) {
        self->table->resumed(self, self->data);
    }
    return PyErr_Occurred() ? -1 : 0;
}

/* -- behind a stream of ours --------------------------------------------- */

static int
native_made(PlTransport *transport, PyObject *protocol)
{
    return protocol_made((PlNativeProtocol *)protocol, (PyObject *)transport,
                         (PlStream *)transport);
}

static int
native_received(PyObject *protocol, const void *bytes, size_t size)
{
    return protocol_received((PlNativeProtocol *)protocol, bytes, size);
}

static int
native_read(PlTransport *transport)
{
    return pl_stream_read_raw(transport, native_received);
}

static int
native_eof(PlTransport *Py_UNUSED(transport), PyObject *protocol)
{
    return protocol_eof((PlNativeProtocol *)protocol);
}

static int
native_lost(PlTransport *Py_UNUSED(transport), PyObject *protocol,
            PyObject *exc)
{
    return protocol_lost((PlNativeProtocol *)protocol, exc);
}

static int
native_flow(PlTransport *Py_UNUSED(transport), PyObject *protocol, int pause)
{
    return protocol_flow((PlNativeProtocol *)protocol, pause);
}

const pl_protocol_table pl_native_protocol = {
    .read = native_read,
    .made = native_made,
    .eof = native_eof,
    .lost = native_lost,
    .flow = native_flow,
};

/* -- as an asyncio.Protocol ---------------------------------------------- */

static PyObject *
none_or_error(int status)
{
    return status < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *
protocol_connection_made(PlNativeProtocol *self, PyObject *transport)
{
    return none_or_error(protocol_made(self, transport, NULL));
}

static PyObject *
protocol_data_received(PlNativeProtocol *self, PyObject *data)
{
    Py_buffer view;

    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    int status = protocol_received(self, view.buf, (size_t)view.len);

    PyBuffer_Release(&view);
    return none_or_error(status);
}

static PyObject *
protocol_eof_received(PlNativeProtocol *self, PyObject *Py_UNUSED(unused))
{
    int keep = protocol_eof(self);

    return keep < 0 ? NULL : PyBool_FromLong(keep);
}

static PyObject *
protocol_connection_lost(PlNativeProtocol *self, PyObject *exc)
{
    return none_or_error(protocol_lost(self, exc));
}

static PyObject *
protocol_pause_writing(PlNativeProtocol *self, PyObject *Py_UNUSED(unused))
{
    return none_or_error(protocol_flow(self, 1));
}

static PyObject *
protocol_resume_writing(PlNativeProtocol *self, PyObject *Py_UNUSED(unused))
{
    return none_or_error(protocol_flow(self, 0));
}

static int
protocol_traverse(PlNativeProtocol *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->transport);
    return 0;
}

static int
protocol_clear(PlNativeProtocol *self)
{
    self->stream = NULL;
    Py_CLEAR(self->transport);
    return 0;
}

static void
protocol_dealloc(PlNativeProtocol *self)
{
    PyTypeObject *type = Py_TYPE(self);

    PyObject_GC_UnTrack(self);
    (void)protocol_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef protocol_methods[] = {
    {"connection_made", (PyCFunction)protocol_connection_made, METH_O, NULL},
    {"data_received", (PyCFunction)protocol_data_received, METH_O, NULL},
    {"eof_received", (PyCFunction)protocol_eof_received, METH_NOARGS, NULL},
    {"connection_lost", (PyCFunction)protocol_connection_lost, METH_O, NULL},
    {"pause_writing", (PyCFunction)protocol_pause_writing, METH_NOARGS, NULL},
    {"resume_writing", (PyCFunction)protocol_resume_writing, METH_NOARGS,
     NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot protocol_slots[] = {
    {Py_tp_dealloc, protocol_dealloc},
    {Py_tp_traverse, protocol_traverse},
    {Py_tp_clear, protocol_clear},
    {Py_tp_methods, protocol_methods},
    {0, NULL},
};

static PyType_Spec protocol_spec = {
    "pyloop._core.NativeProtocol",
    sizeof(PlNativeProtocol),
    0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC |
        Py_TPFLAGS_DISALLOW_INSTANTIATION,
    protocol_slots,
};

/* -- the factory --------------------------------------------------------- */

static PyObject *
factory_call(PlNativeFactory *self, PyObject *args, PyObject *kwargs)
{
    if (PyTuple_GET_SIZE(args) != 0 ||
        (kwargs != NULL && PyDict_GET_SIZE(kwargs) != 0))
    {
        PyErr_SetString(PyExc_TypeError,
                        "a protocol factory takes no arguments");
        return NULL;
    }
    PlNativeProtocol *protocol =
        (PlNativeProtocol *)self->type->tp_alloc(self->type, 0);

    if (protocol != NULL) {
        protocol->table = self->table;
        protocol->arg = self->arg;
    }
    return (PyObject *)protocol;
}

static int
factory_traverse(PlNativeFactory *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->type);
    return 0;
}

static int
factory_clear(PlNativeFactory *self)
{
    Py_CLEAR(self->type);
    return 0;
}

static void
factory_dealloc(PlNativeFactory *self)
{
    PyTypeObject *type = Py_TYPE(self);

    PyObject_GC_UnTrack(self);
    (void)factory_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyType_Slot factory_slots[] = {
    {Py_tp_dealloc, factory_dealloc},
    {Py_tp_traverse, factory_traverse},
    {Py_tp_clear, factory_clear},
    {Py_tp_call, factory_call},
    {0, NULL},
};

static PyType_Spec factory_spec = {
    "pyloop._core.NativeProtocolFactory",
    sizeof(PlNativeFactory),
    0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
        Py_TPFLAGS_DISALLOW_INSTANTIATION,
    factory_slots,
};

void *
pl_native_protocol_factory(const pyloop_protocol *table, void *arg)
{
    PyObject *module = PyImport_ImportModule("pyloop._core");

    if (module == NULL) {
        return NULL;
    }
    pl_state *st = PyModule_GetState(module);
    PlNativeFactory *self = NULL;

    if (table == NULL || !HAS(table, received)) {
        PyErr_SetString(PyExc_ValueError,
                        "a native protocol needs received()");
    }
    else {
        self = (PlNativeFactory *)st->NativeFactoryType->tp_alloc(
            st->NativeFactoryType, 0);
    }
    if (self != NULL) {
        self->table = table;
        self->arg = arg;
        self->type =
            (PyTypeObject *)Py_NewRef((PyObject *)st->NativeProtocolType);
    }
    Py_DECREF(module);
    return self;
}

int
pl_native_protocol_types(PyObject *module, pl_state *st)
{
    PyTypeObject *base = (PyTypeObject *)st->asyncio_protocol;

    if (base->tp_basicsize != sizeof(PyObject)) {
        PyErr_SetString(PyExc_ImportError,
                        "asyncio.Protocol has an unexpected layout");
        return -1;
    }
    PyObject *bases = PyTuple_Pack(1, st->asyncio_protocol);

    if (bases == NULL) {
        return -1;
    }
    st->NativeProtocolType = (PyTypeObject *)PyType_FromModuleAndSpec(
        module, &protocol_spec, bases);
    Py_DECREF(bases);
    st->NativeFactoryType =
        (PyTypeObject *)PyType_FromModuleAndSpec(module, &factory_spec, NULL);
    return st->NativeProtocolType == NULL || st->NativeFactoryType == NULL ? -1
                                                                           : 0;
}

/* -- what native code does with a stream --------------------------------- */

static int
call_transport(pyloop_stream *self, const char *method, PyObject *arg)
{
    PyObject *name = PyUnicode_InternFromString(method);
    PyObject *done =
        name == NULL  ? NULL
        : arg == NULL ? PyObject_CallMethodNoArgs(self->transport, name)
                      : PyObject_CallMethodOneArg(self->transport, name, arg);

    Py_XDECREF(name);
    Py_XDECREF(done);
    return done == NULL ? PYLOOP_RAISED : PYLOOP_OK;
}

/* A transport's method without arguments, ours or not. */
static int
call_stream(pyloop_stream *self, const char *method)
{
    return self->transport == NULL ? PYLOOP_OK
                                   : call_transport(self, method, NULL);
}

int
pl_native_stream_write(pyloop_stream *self, const void *bytes, size_t size)
{
    pyloop_buffer buffer = {bytes, size};

    return pl_native_stream_writev(self, &buffer, 1);
}

int
pl_native_stream_writev(pyloop_stream *self, const pyloop_buffer *buffers,
                        size_t count)
{
    size_t size = 0;

    for (size_t i = 0; i < count; i++) {
        size += buffers[i].size;
    }
    if (self->transport == NULL || size == 0) {
        return PYLOOP_OK;
    }
    PyObject *copy = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);

    if (copy == NULL) {
        return PYLOOP_RAISED;
    }
    char *end = PyBytes_AS_STRING(copy);

    for (size_t i = 0; i < count; i++) {
        memcpy(end, buffers[i].data, buffers[i].size);
        end += buffers[i].size;
    }
    int status;

    if (self->stream == NULL) {
        status = call_transport(self, "write", copy);
    }
    else {
        PyObject *done = stream_write(self->stream, &copy, 1, NULL);

        Py_XDECREF(done);
        status = done == NULL ? PYLOOP_RAISED : PYLOOP_OK;
    }
    Py_DECREF(copy);
    return status;
}

int
pl_native_stream_write_eof(pyloop_stream *self)
{
    return call_stream(self, "write_eof");
}

int
pl_native_stream_pause_reading(pyloop_stream *self)
{
    return call_stream(self, "pause_reading");
}

int
pl_native_stream_resume_reading(pyloop_stream *self)
{
    return call_stream(self, "resume_reading");
}

int
pl_native_stream_close(pyloop_stream *self)
{
    return call_stream(self, "close");
}

int
pl_native_stream_abort(pyloop_stream *self)
{
    return call_stream(self, "abort");
}

size_t
pl_native_stream_buffered(pyloop_stream *self)
{
    if (self->stream != NULL) {
        return self->stream->buffered;
    }
    if (self->transport == NULL) {
        return 0;
    }
    PyObject *number =
        PyObject_CallMethod(self->transport, "get_write_buffer_size", NULL);
    size_t size = number == NULL ? 0 : PyLong_AsSize_t(number);

    Py_XDECREF(number);
    if (PyErr_Occurred()) {
        PyErr_WriteUnraisable(self->transport);
        return 0;
    }
    return size;
}

void *
pl_native_stream_transport(pyloop_stream *self)
{
    return self->transport;
}

void
pl_native_stream_hold(pyloop_stream *self)
{
    Py_INCREF((PyObject *)self);
}

void
pl_native_stream_drop(pyloop_stream *self)
{
    Py_DECREF((PyObject *)self);
}
