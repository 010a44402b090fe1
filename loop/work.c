/* Work items of native threads, from the ready ring to their run(), and the
   callback object by which tasks and promises hear of a future's end. */

#include "native.h"

#include <structmember.h>

_Static_assert(offsetof(pyloop_work, next) == offsetof(pl_link, next) &&
                   offsetof(pyloop_work, size) == offsetof(pl_link, size),
               "a work item starts as the inbox's link");

int
pl_native_check(PlLoop *loop)
{
    if (!PyErr_Occurred()) {
        return 0;
    }
    if (pl_leaves_loop()) {
        return -1;
    }
    return pl_report(loop, "Exception in native work",
                     PyErr_GetRaisedException(), NULL);
}

int
pl_work_run(PlLoop *loop, pyloop_work *work)
{
    PyObject *context = work->context;

    if (context == NULL) {
        (void)work->run(work, PYLOOP_OK);
        return pl_native_check(loop);
    }
    Py_INCREF(context);

    int entered = PyContext_Enter(context) == 0;

    if (!entered && pl_native_check(loop) < 0) {
        PyErr_Clear();
    }
    (void)work->run(work, PYLOOP_OK);

    PyObject *exc = PyErr_GetRaisedException();

    if (entered && PyContext_Exit(context) < 0) {
        PyErr_WriteUnraisable((PyObject *)loop);
    }
    Py_DECREF(context);
    PyErr_SetRaisedException(exc);
    return pl_native_check(loop);
}

void
pl_work_discard(pyloop_work *work)
{
    PyObject *exc = PyErr_GetRaisedException();

    (void)work->run(work, PYLOOP_CLOSED);
    if (PyErr_Occurred()) {
        PyErr_WriteUnraisable(NULL);    /* the loop may be in its dealloc */
    }
    PyErr_SetRaisedException(exc);
}

PlLoop *
pl_native_loop(pyloop_loop *core)
{
    PlLoop *loop = core->owner;

    if (loop == NULL || loop->closed) {
        PyErr_SetString(PyExc_RuntimeError, "Event loop is closed");
        return NULL;
    }
    return pl_loop_check_scheduling(loop) < 0 ? NULL : loop;
}

/* -- watching a future -------------------------------------------------- */

static PyObject *
watcher_call(PyObject *op, PyObject *const *Py_UNUSED(args),
             size_t Py_UNUSED(nargsf), PyObject *Py_UNUSED(kwnames))
{
    PlWatcher *self = (PlWatcher *)op;
    void *subject = self->subject;

    self->subject = NULL;
    if (subject != NULL && self->done(self->loop, subject) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PlWatcher *
pl_watcher_add(PlLoop *loop, PyObject *future, int (*done)(PlLoop *, void *),
               void *subject)
{
    PlWatcher *self = PyObject_GC_New(PlWatcher, loop->st->WatcherType);

    if (self == NULL) {
        return NULL;
    }
    self->vectorcall = watcher_call;
    self->loop = (PlLoop *)Py_NewRef((PyObject *)loop);
    self->done = done;
    self->subject = subject;
    PyObject_GC_Track(self);

    PyObject *added = PyObject_CallMethodOneArg(
        future, loop->st->str_add_done_callback, (PyObject *)self);

    if (added == NULL) {
        self->subject = NULL;
    }
    Py_DECREF(self);
    Py_XDECREF(added);
    return added == NULL ? NULL : self;
}

static int
watcher_traverse(PlWatcher *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->loop);
    return 0;
}

static int
watcher_clear(PlWatcher *self)
{
    Py_CLEAR(self->loop);
    return 0;
}

static void
watcher_dealloc(PlWatcher *self)
{
    PyTypeObject *type = Py_TYPE(self);

    PyObject_GC_UnTrack(self);
    (void)watcher_clear(self);
    PyObject_GC_Del(self);
    Py_DECREF(type);
}

static PyMemberDef watcher_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(PlWatcher, vectorcall),
     READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot watcher_slots[] = {
    {Py_tp_dealloc, watcher_dealloc}, {Py_tp_traverse, watcher_traverse},
    {Py_tp_clear, watcher_clear},     {Py_tp_call, PyVectorcall_Call},
    {Py_tp_members, watcher_members}, {0, NULL},
};

static PyType_Spec watcher_spec = {
    "pyloop._core.Watcher",
    sizeof(PlWatcher),
    0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
        Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_HAVE_VECTORCALL,
    watcher_slots,
};

int
pl_watcher_type(PyObject *module, pl_state *st)
{
    st->WatcherType =
        (PyTypeObject *)PyType_FromModuleAndSpec(module, &watcher_spec, NULL);
    return st->WatcherType == NULL ? -1 : 0;
}
