/* What runs on the loops' threads, attached: requests become calls of the
   Python handler, and what it returns becomes bytes of the connection.  Also
   the Python module, which is the same in every interpreter.

   The handler is called with (method, target, body) and returns the body, or
   (status, content type, body); or a coroutine for one of them, which runs as
   a task with eager start: one that never waits is over when task_start()
   returns. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <pyloop_import.h>

#include "server.h"

static const pyloop_api *api; /* the same in every interpreter */

/* -- requests ----------------------------------------------------------- */

/* Wakes, once a turn, the I/O threads that got responses in it. */
static int
worker_flush(pyloop_work *work, int status)
{
    worker *self = (worker *)((char *)work - offsetof(worker, flush));
    server *all = self->server;
    uint64_t touched = self->touched;

    self->flush_posted = 0;
    self->touched = 0;
    for (int i = 0; i < all->thread_count; i++) {
        if (touched >> i & 1) {
            io_wake(&all->threads[i]);
        }
    }
    server_release(all);
    return 0;
}

/* The request's end: from here on the connection is the I/O thread's. */
static void
request_end(connection *self)
{
    worker *at = self->worker;
    io_thread *io = self->io;
    server *all = io->server;
    int open = 1;

    at->touched |= (uint64_t)1 << io->index;
    if (!at->flush_posted) {
        at->flush_posted = 1;
        atomic_fetch_add_explicit(&all->refs, 1, memory_order_relaxed);
        open = api->post(at->loop, &at->flush) >= 0;
    }
    connection_done(self);
    if (!open) {
        worker_flush(&at->flush, PYLOOP_CLOSED);
    }
}

static void
set_status(connection *self, int status, const char *text)
{
    self->status = status;
    strcpy(self->type, "text/plain");
    self->body_size = strlen(text); /* of ours: there is room for it */
    memcpy(self->out + HTTP_RESPONSE_HEAD_MAX, text, self->body_size);
}

static int
set_body(connection *self, PyObject *body)
{
    Py_ssize_t size;
    char *bytes;

    if (PyBytes_AsStringAndSize(body, &bytes, &size) < 0) {
        return -1;
    }
    if ((size_t)size > self->out_room) {
        char *out = realloc(self->out, HTTP_RESPONSE_HEAD_MAX + (size_t)size);

        if (out == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        self->out = out;
        self->out_room = (size_t)size;
    }
    memcpy(self->out + HTTP_RESPONSE_HEAD_MAX, bytes, (size_t)size);
    self->body_size = (size_t)size;
    return 0;
}

/* -1 and an exception: this is no response. */
static int
set_response(connection *self, PyObject *result)
{
    PyObject *type, *body;
    int status;
    const char *text;
    Py_ssize_t size;

    if (PyBytes_CheckExact(result)) {
        self->status = 200;
        strcpy(self->type, "text/plain");
        return set_body(self, result);
    }
    if (!PyTuple_Check(result)) {
        PyErr_Format(PyExc_TypeError, "a handler returned %s",
                     Py_TYPE(result)->tp_name);
        return -1;
    }
    if (!PyArg_ParseTuple(result, "iUS", &status, &type, &body)) {
        return -1;
    }
    text = PyUnicode_AsUTF8AndSize(type, &size);
    if (text == NULL) {
        return -1;
    }
    if (status < 200 || status > 999 || size >= TYPE_MAX ||
        strpbrk(text, "\r\n") != NULL || strlen(text) != (size_t)size)
    {
        PyErr_SetString(PyExc_ValueError, "wrong status or content type");
        return -1;
    }
    self->status = status;
    memcpy(self->type, text, (size_t)size + 1);
    return set_body(self, body);
}

static int
request_fail(connection *self)
{
    set_status(self, 500, "the handler failed\n");
    request_end(self);
    return -1; /* the exception goes to the loop's handler */
}

static void
task_done(pyloop_task *task, int status, void *value)
{
    connection *self =
        (connection *)((char *)task - offsetof(connection, task));

    self->task_runs = 0;
    if (status == PYLOOP_OK) {
        if (set_response(self, value) == 0) {
            request_end(self);
            return;
        }
        (void)request_fail(self);
    }
    else if (status == PYLOOP_RAISED) {
        PyErr_SetObject((PyObject *)Py_TYPE((PyObject *)value), value);
        (void)request_fail(self);
    }
    else {
        set_status(self, 503, "");
        self->request.keep_alive = status != PYLOOP_CLOSED;
        request_end(self);
    }
}

int
request_run(pyloop_work *work, int status)
{
    connection *self =
        (connection *)((char *)work - offsetof(connection, work));
    worker *at = self->worker;
    http_request *request = &self->request;

    if (status == PYLOOP_CLOSED) {
        set_status(self, 503, "");
        request->keep_alive = 0;
        request_end(self);
        return 0;
    }
    atomic_fetch_add_explicit(&at->server->requests, 1, memory_order_relaxed);

    PyObject *args[4] = {NULL};
    PyObject *result = NULL;

    args[1] =
        request->method_size == 3 && memcmp(request->method, "GET", 3) == 0
            ? Py_NewRef(at->get)
            : PyUnicode_FromStringAndSize(request->method,
                                          (Py_ssize_t)request->method_size);
    args[2] = PyUnicode_DecodeLatin1(request->target,
                                     (Py_ssize_t)request->target_size, NULL);
    args[3] = PyBytes_FromStringAndSize(request->body,
                                        (Py_ssize_t)request->body_size);
    if (args[1] != NULL && args[2] != NULL && args[3] != NULL) {
        result = PyObject_Vectorcall(at->handler, args + 1,
                                     3 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    }
    for (int i = 1; i < 4; i++) {
        Py_XDECREF(args[i]);
    }
    if (result == NULL) {
        return request_fail(self);
    }
    if (!PyCoro_CheckExact(result)) {
        int set = set_response(self, result);

        Py_DECREF(result);
        if (set < 0) {
            return request_fail(self);
        }
        request_end(self);
        return 0;
    }
    pyloop_task_init(&self->task, task_done);
    self->task.flags = PYLOOP_TASK_EAGER;
    self->task_runs = 1; /* before: it may end inside */
    if (api->task_start(at->loop, &self->task, result) < 0) {
        self->task_runs = 0;
        return request_fail(self);
    }
    return 0;
}

/* The peer has gone; from the I/O thread, as only here it is known whether
   the request has come to be a task. */
int
request_cancel(pyloop_work *work, int status)
{
    connection *self =
        (connection *)((char *)work - offsetof(connection, cancel));

    if (status == PYLOOP_OK && self->task_runs) {
        (void)api->task_cancel(self->worker->loop, &self->task);
    }
    connection_release(self);
    return 0;
}

/* -- the module --------------------------------------------------------- */

static void
server_capsule_free(PyObject *capsule)
{
    server_release(PyCapsule_GetPointer(capsule, "server"));
}

/* server(host, port, threads, workers) -> capsule that keeps it */
static PyObject *
module_server(PyObject *module, PyObject *args)
{
    const char *host;
    int port, threads, workers;

    if (!PyArg_ParseTuple(args, "siii", &host, &port, &threads, &workers)) {
        return NULL;
    }
    server *self = server_new(api, host, port, threads, workers);

    if (self == NULL) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    PyObject *capsule = PyCapsule_New(self, "server", server_capsule_free);

    if (capsule == NULL) {
        server_release(self);
    }
    return capsule;
}

/* address(capsule) -> int, by which other interpreters name the server while
   the capsule lives */
static PyObject *
module_address(PyObject *module, PyObject *capsule)
{
    void *self = PyCapsule_GetPointer(capsule, "server");

    return self == NULL ? NULL : PyLong_FromVoidPtr(self);
}

static PyObject *
module_port(PyObject *module, PyObject *address)
{
    server *self = PyLong_AsVoidPtr(address);

    return self == NULL ? NULL : PyLong_FromLong(self->port);
}

static PyObject *
module_stop(PyObject *module, PyObject *address)
{
    server *self = PyLong_AsVoidPtr(address);

    if (self == NULL) {
        return NULL;
    }
    server_stop(self);
    Py_RETURN_NONE;
}

/* counters(address) -> (requests, chains posted, wake-ups of I/O threads) */
static PyObject *
module_counters(PyObject *module, PyObject *address)
{
    server *self = PyLong_AsVoidPtr(address);

    if (self == NULL) {
        return NULL;
    }
    return Py_BuildValue("KKK", atomic_load(&self->requests),
                         atomic_load(&self->chains),
                         atomic_load(&self->wakeups));
}

static void *
waiter_value(pyloop_promise *promise)
{
    return Py_NewRef(Py_None);
}

static void
waiter_released(pyloop_promise *promise, int status)
{
    waiter *self = (waiter *)promise;
    server *all = self->server;

    if (self->worker != NULL) {
        Py_CLEAR(self->worker->handler);
        Py_CLEAR(self->worker->get);
    }
    api->release(self->loop);
    free(self);
    server_release(all);
}

static PyObject *
wait_for_end(server *all, worker *of)
{
    waiter *self = calloc(1, sizeof(*self));

    if (self == NULL) {
        return PyErr_NoMemory();
    }
    self->server = all;
    self->worker = of;
    self->loop = api->loop_running();
    if (self->loop == NULL) {
        free(self);
        return NULL;
    }
    pyloop_promise_init(&self->promise, waiter_value, waiter_released);

    PyObject *future = api->promise_start(self->loop, &self->promise, NULL);

    if (future == NULL) {
        api->release(self->loop);
        free(self);
        return NULL;
    }
    server_add_waiter(all, self);
    return future;
}

/* ended(address) -> future of the running loop: the server has ended */
static PyObject *
module_ended(PyObject *module, PyObject *address)
{
    server *self = PyLong_AsVoidPtr(address);

    return self == NULL ? NULL : wait_for_end(self, NULL);
}

/* attach(address, handler) -> as ended(); the running loop serves */
static PyObject *
module_attach(PyObject *module, PyObject *args)
{
    PyObject *address, *handler;

    if (!PyArg_ParseTuple(args, "OO", &address, &handler)) {
        return NULL;
    }
    server *all = PyLong_AsVoidPtr(address);
    worker *self = all == NULL ? NULL : calloc(1, sizeof(*self));

    if (self == NULL) {
        return PyErr_Occurred() ? NULL : PyErr_NoMemory();
    }
    self->server = all;
    self->loop = api->loop_running();
    self->get = PyUnicode_InternFromString("GET");
    self->handler = Py_NewRef(handler);
    pyloop_work_init(&self->flush, worker_flush);

    int err = self->loop == NULL || self->get == NULL
                  ? -1 /* and an exception */
                  : server_add_worker(all, self);

    if (err == 0) {
        return wait_for_end(all, self);
    }
    if (err <= 0 || err == EALREADY || err == ECANCELED) {
        Py_CLEAR(self->get);
        Py_CLEAR(self->handler);
        if (self->loop != NULL) {
            api->release(self->loop);
        }
        free(self);
    }
    if (err == ECANCELED) { /* there is nothing to serve any more */
        return wait_for_end(all, NULL);
    }
    if (err > 0) {
        errno = err;
        PyErr_SetFromErrno(PyExc_OSError);
    }
    return NULL;
}

static PyMethodDef module_methods[] = {
    {"server", module_server, METH_VARARGS, NULL},
    {"address", module_address, METH_O, NULL},
    {"port", module_port, METH_O, NULL},
    {"attach", module_attach, METH_VARARGS, NULL},
    {"ended", module_ended, METH_O, NULL},
    {"stop", module_stop, METH_O, NULL},
    {"counters", module_counters, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static int
module_exec(PyObject *module)
{
    const pyloop_api *table = pyloop_import();

    if (table == NULL) {
        return -1;
    }
    api = table;
    return 0;
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
#ifdef Py_mod_multiple_interpreters
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#ifdef Py_mod_gil
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef module_def = {
    PyModuleDef_HEAD_INIT,
    .m_name = "native_server",
    .m_methods = module_methods,
    .m_slots = module_slots,
};

PyMODINIT_FUNC
PyInit_native_server(void)
{
    return PyModuleDef_Init(&module_def);
}
