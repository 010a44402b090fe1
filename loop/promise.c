/* An asyncio future that native code completes from any thread.

   The promise is an item of work: completing posts it, and the loop's thread
   makes the value and sets it.  A watcher left with the future tells native
   code of a cancellation; it is only left when somebody asks to be told. */

#include "native.h"

static pyloop_promise *
promise_of_work(pyloop_work *work)
{
    return (pyloop_promise *)((char *)work - offsetof(pyloop_promise, work));
}

static void
promise_unlink(PlLoop *loop, pyloop_promise *promise)
{
    if (promise->previous != NULL) {
        promise->previous->next = promise->next;
    }
    else {
        loop->promises = promise->next;
    }
    if (promise->next != NULL) {
        promise->next->previous = promise->previous;
    }
    promise->previous = promise->next = NULL;
}

/* Steals what the promise holds: new ref to its future. */
static PyObject *
promise_detach(PlLoop *loop, pyloop_promise *promise)
{
    PyObject *future = promise->future;

    if (future == NULL) {
        return NULL;    /* the loop has been closed */
    }
    promise_unlink(loop, promise);
    promise->future = NULL;
    if (promise->watcher != NULL) {
        ((PlWatcher *)promise->watcher)->subject = NULL;
        Py_CLEAR(promise->watcher);
    }
    return future;
}

/* The future got value()'s result or exception. */
static int
promise_fulfil(PlLoop *loop, pyloop_promise *promise, PyObject *future)
{
    pl_state *st = loop->st;
    PyObject *value =
        promise->value == NULL ? Py_NewRef(Py_None) : promise->value(promise);
    PyObject *name = st->str_set_result;

    if (value == NULL) {
        value = PyErr_GetRaisedException();
        name = st->str_set_exception;
    }
    if (value == NULL) {
        PyErr_SetString(PyExc_SystemError,
                        "value() returned NULL without an exception");
        value = PyErr_GetRaisedException();
    }
    PyObject *done = PyObject_CallMethodOneArg(future, name, value);

    Py_DECREF(value);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

static int
run_promise(pyloop_work *work, int status)
{
    pyloop_promise *promise = promise_of_work(work);
    PlLoop *loop = promise->loop;
    PyObject *future = promise_detach(loop, promise);
    PyObject *exc = NULL;

    if (status == PYLOOP_OK) {
        PyObject *done = PyObject_CallMethodNoArgs(future, loop->st->str_done);

        if (done == Py_True) {
            status = PYLOOP_CANCELLED;
        }
        else if (done == NULL || promise_fulfil(loop, promise, future) < 0) {
            exc = PyErr_GetRaisedException();
        }
        Py_XDECREF(done);
    }
    if (promise->released != NULL) {
        promise->released(promise, status);
    }
    Py_XDECREF(future);
    if (exc != NULL) {
        if (PyErr_Occurred()) {
            PyErr_WriteUnraisable(NULL);
        }
        PyErr_SetRaisedException(exc);
    }
    return PyErr_Occurred() ? -1 : 0;
}

/* The future is done, and not by us. */
static int
future_ended(PlLoop *loop, void *subject)
{
    pyloop_promise *promise = subject;

    promise->cancelled(promise);
    return pl_native_check(loop);
}

void *
pl_promise_start(pyloop_loop *core, pyloop_promise *promise, void *given)
{
    PlLoop *loop = pl_native_loop(core);

    if (loop == NULL) {
        return NULL;
    }
    PyObject *future =
        given != NULL ? Py_NewRef((PyObject *)given)
                      : PyObject_CallMethodNoArgs((PyObject *)loop,
                                                  loop->st->str_create_future);

    if (future == NULL) {
        return NULL;
    }
    promise->work = (pyloop_work){
        .size = sizeof(pyloop_work),
        .run = run_promise,
    };
    promise->watcher = NULL;
    if (promise->cancelled != NULL) {
        PlWatcher *watcher =
            pl_watcher_add(loop, future, future_ended, promise);

        if (watcher == NULL) {
            Py_DECREF(future);
            return NULL;
        }
        promise->watcher = Py_NewRef(watcher);
    }
    promise->loop = loop;
    promise->future = future;
    promise->previous = NULL;
    promise->next = loop->promises;
    if (promise->next != NULL) {
        promise->next->previous = promise;
    }
    loop->promises = promise;
    return Py_NewRef(future);
}

int
pl_promise_complete(pyloop_loop *core, pyloop_promise *promise)
{
    return pl_core_post(core, (pl_link *)&promise->work);
}

void
pl_promises_abandon(PlLoop *loop)
{
    PyObject *exc = PyErr_GetRaisedException();

    while (loop->promises != NULL) {
        PyObject *future = promise_detach(loop, loop->promises);

        Py_DECREF(future);
    }
    PyErr_SetRaisedException(exc);
}

int
pl_promises_traverse(PlLoop *loop, visitproc visit, void *arg)
{
    for (pyloop_promise *promise = loop->promises; promise != NULL;
         promise = promise->next)
    {
        Py_VISIT((PyObject *)promise->future);
        Py_VISIT((PyObject *)promise->watcher);
    }
    return 0;
}
