/* create_task and create_future without a Python frame.  The classes are
   looked up where asyncio does it each time: programs put theirs there.

   Only the plain case: with a task factory, in debug mode or with a keyword
   that not every version takes, asyncio's own create_task does it (gather of
   100 tasks 0.86 → 1.0 M tasks/s). */

#include "transport.h"

static PyObject *
create_task_of_asyncio(PlLoop *self, PyObject *const *args, Py_ssize_t nargs,
                       PyObject *kwnames)
{
    PyObject *stack[8];
    Py_ssize_t count =
        nargs + (kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames));

    if (count > 7) {
        PyErr_SetString(PyExc_TypeError, "create_task(): too many arguments");
        return NULL;
    }
    stack[0] = (PyObject *)self;
    for (Py_ssize_t i = 0; i < count; i++) {
        stack[1 + i] = args[i];
    }
    return PyObject_Vectorcall(self->st->create_task, stack, (size_t)nargs + 1,
                               kwnames);
}

/* Are they name, context and, where asyncio hands it on, eager_start, at most?
   Interned, as the compiler makes them; others are asyncio's to look at.
   (aiohttp starts a task with eager_start for each request.) */
static bool
plain_keywords(pl_state *st, PyObject *kwnames)
{
    Py_ssize_t count = kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames);

    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *name = PyTuple_GET_ITEM(kwnames, i);

        if (name != st->str_name && name != st->str_context &&
            !(name == st->str_eager_start && st->create_task_hands_on))
        {
            return false;
        }
    }
    return true;
}

PyObject *
pl_task_new(PlLoop *self, PyObject *const *args, PyObject *kwnames)
{
    Py_ssize_t named = kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames);
    PyObject *stack[1 + 1 + 1 + 3];
    PyObject *names = self->st->loop_kwnames;
    PyObject *type = PyObject_GetAttr(self->st->tasks, self->st->str_Task);

    if (type == NULL) {
        return NULL;
    }
    stack[1] = args[0];
    stack[2] = (PyObject *)self;
    if (named > 0) {
        names = PyTuple_New(1 + named);
        if (names == NULL) {
            Py_DECREF(type);
            return NULL;
        }
        PyTuple_SET_ITEM(names, 0, Py_NewRef(self->st->str_loop));
        for (Py_ssize_t i = 0; i < named; i++) {
            PyTuple_SET_ITEM(names, 1 + i,
                             Py_NewRef(PyTuple_GET_ITEM(kwnames, i)));
            stack[3 + i] = args[1 + i];
        }
    }
    PyObject *task = PyObject_Vectorcall(
        type, stack + 1, 1 | PY_VECTORCALL_ARGUMENTS_OFFSET, names);

    Py_DECREF(type);
    if (named > 0) {
        Py_DECREF(names);
    }
    return task;
}

PyObject *
loop_create_task(PlLoop *self, PyObject *const *args, Py_ssize_t nargs,
                 PyObject *kwnames)
{
    if (self->closed || self->debug || nargs != 1 ||
        !plain_keywords(self->st, kwnames) ||
        (self->task_factory != NULL && self->task_factory != Py_None))
    {
        return create_task_of_asyncio(self, args, nargs, kwnames);
    }
    return pl_task_new(self, args, kwnames);
}

int
pl_future_wake(PlLoop *loop, PyObject *future)
{
    pl_state *st = loop->st;
    PyObject *done =
        PyObject_CallMethodOneArg(future, st->str_set_result, Py_None);

    if (done != NULL) {
        Py_DECREF(done);
        return 0;
    }
    if (PyErr_ExceptionMatches(st->invalid_state)) {
        PyErr_Clear(); /* cancelled */
        return 0;
    }
    return pl_unraisable(future);
}

static PyObject *
new_future(PlLoop *self, PyObject *type)
{
    PyObject *stack[2] = {NULL, (PyObject *)self};

    return PyObject_Vectorcall(type, stack + 1,
                               0 | PY_VECTORCALL_ARGUMENTS_OFFSET,
                               self->st->loop_kwnames);
}

PyObject *
pl_future_new(PlLoop *self)
{
    return self->overrides & PL_OWN_CREATE_FUTURE
               ? PyObject_CallMethodNoArgs((PyObject *)self,
                                           self->st->str_create_future)
               : new_future(self, self->st->future_type);
}

PyObject *
loop_create_future(PlLoop *self, PyObject *Py_UNUSED(unused))
{
    PyObject *type = PyObject_GetAttr(self->st->futures, self->st->str_Future);

    if (type == NULL) {
        return NULL;
    }
    PyObject *future = new_future(self, type);

    Py_DECREF(type);
    return future;
}
