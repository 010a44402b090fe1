/* The only file that asks for the Python version: what differs between 3.11
   and 3.15, under the newest name. */

#ifndef PL_COMPAT_H
#define PL_COMPAT_H

#include "Python.h"

#if PY_VERSION_HEX < 0x030B0000
#error "pyloop needs Python 3.11 or newer"
#endif

#if PY_VERSION_HEX < 0x030C0000
static inline PyObject *
PyErr_GetRaisedException(void)
{
    PyObject *type, *value, *tb;

    PyErr_Fetch(&type, &value, &tb);
    if (type == NULL) {
        return NULL;
    }
    PyErr_NormalizeException(&type, &value, &tb);
    if (tb != NULL) {
        PyException_SetTraceback(value, tb);
        Py_DECREF(tb);
    }
    Py_DECREF(type);
    return value;
}

static inline void
PyErr_SetRaisedException(PyObject *exc)
{
    if (exc == NULL) {
        PyErr_Clear();
        return;
    }
    PyErr_Restore(Py_NewRef(Py_TYPE(exc)), exc, PyException_GetTraceback(exc));
}
#endif

#if PY_VERSION_HEX < 0x030D0000
static inline int
PyLong_AsInt(PyObject *obj)
{
    long value = PyLong_AsLong(obj);

    if (value != (int)value) {
        PyErr_SetString(PyExc_OverflowError,
                        "Python int too large to convert to C int");
        return -1;
    }
    return (int)value;
}

#define Py_BEGIN_CRITICAL_SECTION(op) {
#define Py_END_CRITICAL_SECTION() }
#endif

/* Does nobody else hold a reference? */
#if PY_VERSION_HEX >= 0x030E0000
#define PL_UNIQUE(op) PyUnstable_Object_IsUniquelyReferenced(op)
#else
#define PL_UNIQUE(op) (!PL_FREE_THREADED && Py_REFCNT(op) == 1)
#endif

/* Ours alone: shows the first `size` of the bytes it was made with. */
static inline void
pl_bytes_set_size(PyObject *bytes, Py_ssize_t size)
{
    Py_SET_SIZE(bytes, size);
    ((PyBytesObject *)bytes)->ob_sval[size] = 0;
    _Py_COMP_DIAG_PUSH _Py_COMP_DIAG_IGNORE_DEPR_DECLS((PyBytesObject *)bytes)
        ->ob_shash = -1;
    _Py_COMP_DIAG_POP
}

#define PL_EAGER_TASKS (PY_VERSION_HEX >= 0x030C0000)
/* DatagramTransport.sendto(): empty ones are sent, and each counts in the
   buffer's size with a header, since 3.13. */
#if PY_VERSION_HEX < 0x030D0000
#define PL_DATAGRAM_EMPTY 0
#define PL_DATAGRAM_HEADER 0
#else
#define PL_DATAGRAM_EMPTY 1
#define PL_DATAGRAM_HEADER 8
#endif

/* A number of the calling thread, to be compared with others from here.  The
   interpreter's own, where each reference counted asks for it inline: the
   function took a tenth of a call_soon. */
#ifdef Py_GIL_DISABLED
#define PL_FREE_THREADED 1
static inline unsigned long
pl_thread_ident(void)
{
    return (unsigned long)_Py_ThreadId();
}
#else
#define PL_FREE_THREADED 0
static inline unsigned long
pl_thread_ident(void)
{
    return PyThread_get_thread_ident();
}
#endif

#endif
