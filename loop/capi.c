/* The function table of include/pyloop.h and its capsule.

   The table is constant and the same in every interpreter; what a function
   needs it takes from its arguments.  A pyloop_loop is the core. */

#include "native.h"

static pyloop_loop *
api_loop_from(void *object)
{
    PyObject *op = object;
    pl_state *st = op == NULL ? NULL : pl_state_by_type(Py_TYPE(op));

    PyErr_Clear();
    if (st == NULL || !PyObject_TypeCheck(op, st->LoopType)) {
        PyErr_Format(PyExc_TypeError, "a pyloop.EventLoop is needed, not %s",
                     op == NULL ? "NULL" : Py_TYPE(op)->tp_name);
        return NULL;
    }
    pl_core *core = ((PlLoop *)op)->core;

    pl_core_acquire(core);
    return core;
}

static pyloop_loop *
api_loop_running(void)
{
    PyObject *events = PyImport_ImportModule("asyncio.events");
    PyObject *loop =
        events == NULL ? NULL
                       : PyObject_CallMethod(events, "get_running_loop", NULL);
    pyloop_loop *core = loop == NULL ? NULL : api_loop_from(loop);

    Py_XDECREF(events);
    Py_XDECREF(loop);
    return core;
}

static int
api_is_alive(pyloop_loop *loop)
{
    return atomic_load_explicit(&loop->inbox.head, memory_order_relaxed) !=
           PL_INBOX_CLOSED;
}

static int
api_post(pyloop_loop *loop, pyloop_work *work)
{
    return pl_core_post(loop, (pl_link *)work);
}

static int
api_post_chain(pyloop_loop *loop, pyloop_work *first)
{
    pl_link *oldest = (pl_link *)first;
    pl_link *newest = NULL;

    if (first == NULL) {
        return api_is_alive(loop) ? PYLOOP_OK : PYLOOP_CLOSED;
    }
    newest = pl_inbox_reverse(oldest);

    int status = pl_core_post_chain(loop, newest, oldest);

    if (status == PYLOOP_CLOSED) {
        /* The caller's list again; its end may point into the inbox. */
        oldest->next = NULL;
        (void)pl_inbox_reverse(newest);
    }
    return status;
}

static const pyloop_api api = {
    .size = sizeof(pyloop_api),
    .version = PYLOOP_API_VERSION,
    .loop_from = api_loop_from,
    .loop_running = api_loop_running,
    .acquire = pl_core_acquire,
    .release = pl_core_release,
    .is_alive = api_is_alive,
    .post = api_post,
    .post_chain = api_post_chain,
    .task_start = pl_native_task_start,
    .task_cancel = pl_native_task_cancel,
    .promise_start = pl_promise_start,
    .promise_complete = pl_promise_complete,
    .protocol_factory = pl_native_protocol_factory,
    .stream_write = pl_native_stream_write,
    .stream_writev = pl_native_stream_writev,
    .stream_write_eof = pl_native_stream_write_eof,
    .stream_pause_reading = pl_native_stream_pause_reading,
    .stream_resume_reading = pl_native_stream_resume_reading,
    .stream_close = pl_native_stream_close,
    .stream_abort = pl_native_stream_abort,
    .stream_buffered = pl_native_stream_buffered,
    .stream_transport = pl_native_stream_transport,
    .stream_hold = pl_native_stream_hold,
    .stream_drop = pl_native_stream_drop,
};

int
pl_capi_add(PyObject *module)
{
    PyObject *capsule =
        PyCapsule_New((void *)(uintptr_t)&api, "pyloop._core._C_API", NULL);
    int status = capsule == NULL
                     ? -1
                     : PyModule_AddObjectRef(module, "_C_API", capsule);

    Py_XDECREF(capsule);
    return status;
}
