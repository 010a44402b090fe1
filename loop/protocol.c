/* The events of a transport as method calls of a Python protocol: what stands
   behind each but the streams of native protocols (native_protocol.c). */

#include "stream.h"

PyObject *
pl_transport_protocol(PlTransport *self)
{
    return Py_NewRef(self->protocol == NULL ? Py_None : self->protocol);
}

static PyObject *
call(PyObject *protocol, PyObject *name, PyObject *arg)
{
    return arg == NULL ? PyObject_CallMethodNoArgs(protocol, name)
                       : PyObject_CallMethodOneArg(protocol, name, arg);
}

PyObject *
pl_transport_call(PlTransport *self, PyObject *name, PyObject *arg)
{
    PyObject *protocol = pl_transport_protocol(self);
    PyObject *result = call(protocol, name, arg);

    Py_DECREF(protocol);
    return result;
}

static int
call_void(PyObject *protocol, PyObject *name, PyObject *arg)
{
    PyObject *result = call(protocol, name, arg);

    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

static int
python_made(PlTransport *self, PyObject *protocol)
{
    return call_void(protocol, self->loop->st->str_connection_made,
                     (PyObject *)self);
}

static int
python_eof(PlTransport *self, PyObject *protocol)
{
    PyObject *keep = call(protocol, self->loop->st->str_eof_received, NULL);
    int keep_open = keep == NULL ? -1 : PyObject_IsTrue(keep);

    Py_XDECREF(keep);
    return keep_open;
}

static int
python_lost(PlTransport *self, PyObject *protocol, PyObject *exc)
{
    return call_void(protocol, self->loop->st->str_connection_lost,
                     exc == NULL ? Py_None : exc);
}

/* In the context of creation, as all of them; in a copy, for it may be entered
   already, or another (pausing happens in write()). */
static int
python_flow(PlTransport *self, PyObject *protocol, int pause)
{
    pl_state *st = self->loop->st;
    PyObject *context = PyContext_Copy(self->context);
    int status = -1;

    if (context != NULL && PyContext_Enter(context) == 0) {
        status = call_void(
            protocol, pause ? st->str_pause_writing : st->str_resume_writing,
            NULL);
        if (PyContext_Exit(context) < 0) {
            status = -1;
        }
    }
    Py_XDECREF(context);
    return status;
}

const pl_protocol_table pl_python_protocol = {
    .read = pl_stream_read_bytes,
    .made = python_made,
    .eof = python_eof,
    .lost = python_lost,
    .flow = python_flow,
};

const pl_protocol_table pl_buffered_protocol = {
    .read = pl_stream_read_buffered,
    .made = python_made,
    .eof = python_eof,
    .lost = python_lost,
    .flow = python_flow,
};

/* asyncio looks the method up when it makes the transport. */
int
pl_protocol_check_made(pl_state *st, PyObject *protocol)
{
    PyObject *made = PyObject_GetAttr(protocol, st->str_connection_made);

    Py_XDECREF(made);
    return made == NULL ? -1 : 0;
}

const pl_protocol_table *
pl_protocol_of(pl_state *st, PyObject *protocol)
{
    if (Py_TYPE(protocol) == st->NativeProtocolType) {
        return &pl_native_protocol;
    }
    int buffered = PyObject_IsInstance(protocol, st->buffered_protocol);

    return buffered < 0 ? NULL
           : buffered   ? &pl_buffered_protocol
                        : &pl_python_protocol;
}
