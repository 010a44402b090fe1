/* Where errors go: an errno becomes OSError, a callback's exception goes to
   the loop's exception handler, KeyboardInterrupt and SystemExit leave
   run_forever. */

#include "handle.h"

#include <errno.h>
#include <stdarg.h>

int
pl_leaves_loop(void)
{
    return PyErr_ExceptionMatches(PyExc_SystemExit) ||
           PyErr_ExceptionMatches(PyExc_KeyboardInterrupt);
}

int
pl_unraisable(PyObject *object)
{
    if (pl_leaves_loop()) {
        return -1;
    }
    PyErr_WriteUnraisable(object);
    return 0;
}

PyObject *
pl_oserror(int status)
{
    pl_raise_errno(status);
    return PyErr_GetRaisedException();
}

PyObject *
pl_raise_errno(int status)
{
    errno = -status;
    return PyErr_SetFromErrno(PyExc_OSError);
}

PyObject *
pl_except_enter(PyObject *exc)
{
    PyObject *before = PyErr_GetHandledException();

    PyErr_SetHandledException(exc);
    return before;
}

void
pl_except_leave(PyObject *before)
{
    PyErr_SetHandledException(NULL);

    /* A coroutine has a place of its own for what it handles, and sees that
       of its caller through an empty one: leave it empty then. */
    PyObject *outer = PyErr_GetHandledException();

    if (outer != before) {
        PyErr_SetHandledException(before);
    }
    Py_XDECREF(outer);
    Py_XDECREF(before);
}

static int
call_exception_handler(PlLoop *loop, PyObject *exc, PyObject *context)
{
    PyObject *before = pl_except_enter(exc);
    PyObject *result = PyObject_CallMethodOneArg(
        (PyObject *)loop, loop->st->str_call_exception_handler, context);

    pl_except_leave(before);
    Py_DECREF(context);
    if (result == NULL) {
        return -1;
    }
    Py_DECREF(result);
    return 0;
}

int
pl_report(PlLoop *loop, const char *message, PyObject *exc, ...)
{
    PyObject *context =
        Py_BuildValue("{s:s,s:N}", "message", message, "exception", exc);
    const char *key;
    va_list more;

    if (context == NULL) {
        return -1;
    }
    va_start(more, exc);
    while ((key = va_arg(more, const char *)) != NULL) {
        PyObject *value = va_arg(more, PyObject *);

        if (PyDict_SetItemString(context, key,
                                 value == NULL ? Py_None : value) < 0)
        {
            va_end(more);
            Py_DECREF(context);
            return -1;
        }
    }
    va_end(more);
    return call_exception_handler(loop, exc, context);
}

/* What the message says of a callback: since 3.13 its arguments only in debug
   mode. */
static PyObject *
callback_source(PlLoop *loop, PyObject *callback, PyObject *args)
{
    PyObject *stack[] = {callback == NULL ? Py_None : callback,
                         args == NULL ? Py_None : args,
                         loop->debug ? Py_True : Py_False};

    return PyObject_Vectorcall(loop->st->format_callback_source, stack, 2,
                               loop->st->debug_kwnames);
}

int
pl_report_callback(PlLoop *loop, PyObject *handle, PyObject *callback,
                   PyObject *args, PyObject *traceback)
{
    PyObject *exc = PyErr_GetRaisedException();
    PyObject *source = callback_source(loop, callback, args);

    if (source == NULL) {
        Py_DECREF(exc);
        return -1;
    }
    PyObject *context =
        Py_BuildValue("{s:N,s:N,s:O}", "message",
                      PyUnicode_FromFormat("Exception in callback %U", source),
                      "exception", exc, "handle", handle);

    Py_DECREF(source);
    if (context == NULL) {
        return -1;
    }
    if (traceback != NULL && traceback != Py_None &&
        PyDict_SetItem(context, loop->st->str_source_traceback, traceback) < 0)
    {
        Py_DECREF(context);
        return -1;
    }
    return call_exception_handler(loop, exc, context);
}
