/* Handles; see handle.h. */

#include "handle.h"
#include "context.h"

#include <stddef.h>
#include <structmember.h>
#include <unistd.h>

/* -- memory ------------------------------------------------------------ */

/* The freelists hold cleared, untracked memory that keeps its reference to the
   type (a count that threads share where there is no GIL), chained by the
   callback field; [1] is for the larger PlHandleX.  Only the
   loop's own thread uses them (or the GIL's holder).  They may grow large,
   since fresh memory, and the collections that allocating it sets off, cost
   more than the calls: a burst of 200,000 4.2 → 7.5 M/s; what a burst left is
   given back a little with each sleep. */

#ifndef PL_SANITIZE

static int
freelist_index(PyTypeObject *type)
{
    return type->tp_basicsize != sizeof(PlHandle);
}

/* Memory of the thread that posted it: kept here it would keep that thread's
   heap from being given back, and each new thread looks through such heaps. */
static bool
is_posted(PlLoop *loop, PyTypeObject *type)
{
    return PL_FREE_THREADED && type == loop->st->ThreadSafeHandleType;
}

#endif

static PlHandle *
handle_alloc(PlLoop *loop, PyTypeObject *type)
{
#ifndef PL_SANITIZE
    int list = freelist_index(type);
    PlHandle *self = pl_loop_runs_here(loop) ? loop->free_handles[list] : NULL;

    if (self != NULL) {
        loop->free_handles[list] = self->callback;
        loop->free_count[list]--;
        if (Py_TYPE(self) == type) {
            _Py_NewReference((PyObject *)self);
        }
        else {
            PyTypeObject *before = Py_TYPE(self);

            (void)PyObject_Init((PyObject *)self, type);
            Py_DECREF(before);
        }
        return self;
    }
#endif
    return PyObject_GC_New(PlHandle, type);
}

/* Takes the reference to the type too. */
static void
handle_free(PlLoop *loop, PyTypeObject *type, PlHandle *self)
{
#ifndef PL_SANITIZE
    int list = freelist_index(type);

    if (loop != NULL && !loop->closed && pl_loop_runs_here(loop) &&
        !is_posted(loop, type) && loop->free_count[list] < PL_FREELIST_MAX)
    {
        self->callback = loop->free_handles[list];
        loop->free_handles[list] = self;
        loop->free_count[list]++;
        return;
    }
#endif
    PyObject_GC_Del(self);
    Py_DECREF(type);
}

void
pl_handle_freelist_trim(PlLoop *loop, int keep, int most)
{
    for (int list = 0; list < 2; list++) {
        for (int i = 0; i < most && loop->free_count[list] > keep; i++) {
            PlHandle *self = loop->free_handles[list];

            loop->free_handles[list] = self->callback;
            PyTypeObject *type = Py_TYPE(self);

            loop->free_count[list]--;
            PyObject_GC_Del(self);
            Py_DECREF(type);
        }
    }
}

PlHandle *
pl_handle_new(PlLoop *loop, PyTypeObject *type, PyObject *callback,
              PyObject *const *args, Py_ssize_t nargs, PyObject *context)
{
    PlHandle *self = handle_alloc(loop, type);

    if (self == NULL) {
        return NULL;
    }
    self->loop = (PlLoop *)Py_NewRef(loop);
    self->callback = Py_NewRef(callback);
    self->weaklist = NULL;
    self->nargs = 0;
    self->flags = 0;
    self->args[0] = NULL;
    self->args[1] = NULL;
    self->args[2] = NULL;
    if (type != loop->st->HandleType) {
        ((PlHandleX *)self)->when = 0.0;
        ((PlHandleX *)self)->traceback = NULL;
    }
    if (context == NULL || context == Py_None) {
        if (pl_context_share(loop, &self->context)) {
            self->flags = PL_SHARED;
        }
        else if ((self->context = PyContext_CopyCurrent()) == NULL) {
            goto error;
        }
    }
    else {
        self->context = Py_NewRef(context);
    }
    if (nargs <= PL_INLINE_ARGS) {
        for (Py_ssize_t i = 0; i < nargs; i++) {
            self->args[i] = Py_NewRef(args[i]);
        }
    }
    else {
        self->args[0] = PyTuple_New(nargs);
        if (self->args[0] == NULL) {
            goto error;
        }
        for (Py_ssize_t i = 0; i < nargs; i++) {
            PyTuple_SET_ITEM(self->args[0], i, Py_NewRef(args[i]));
        }
    }
    self->nargs = (uint32_t)nargs;
    if (loop->debug && type != loop->st->HandleType) {
        PyObject *frame = PyObject_CallFunction(loop->st->getframe, NULL);

        if (frame != NULL) {
            ((PlHandleX *)self)->traceback =
                PyObject_CallOneArg(loop->st->extract_stack, frame);
            Py_DECREF(frame);
        }
        if (((PlHandleX *)self)->traceback == NULL) {
            goto error;
        }
    }
    return self;

error:
    Py_DECREF(self);
    return NULL;
}

/* Its context from here on is its own: to be shown.  (On 3.11 the collector
   may run in an allocation, and anything with it.) */
static int
own_context(PlHandle *self)
{
    if (!(pl_handle_flags(self) & PL_SHARED)) {
        return 0;
    }
    PyObject *shared = Py_XNewRef(self->context);
    PyObject *copy = pl_context_copy(shared);

    if (copy != NULL && (pl_handle_flags(self) & PL_SHARED)) {
        self->context = copy;
        pl_handle_unset(self, PL_SHARED);
        Py_XDECREF(shared); /* the handle's */
    }
    else {
        Py_XDECREF(copy);
    }
    Py_XDECREF(shared);
    return copy == NULL ? -1 : 0;
}

/* It runs from here on, which keeps cancel() from its contents, in a context of
   its own.  The caller guards it. */
static inline int
begin_run(PlHandle *self, uint32_t flags)
{
    (void)pl_handle_set(self, PL_RUNNING);
    if (flags & PL_SHARED) {
        PyObject *taken = pl_context_take(self->loop, self->context);

        if (taken == NULL) {
            return -1;
        }
        self->context = taken;
        pl_handle_flip(self, PL_SHARED | PL_TAKEN);
    }
    return 0;
}

/* Detach, then release: any decref may run user code. */
typedef struct {
    PyObject *objects[1 + PL_INLINE_ARGS];
    PyObject *context;
    bool taken;
} contents;

static contents
detach_contents(PlHandle *self)
{
    contents gone = {
        {self->callback, self->args[0], self->args[1], self->args[2]},
        self->context,
        (pl_handle_flags(self) & PL_TAKEN) != 0,
    };

    self->callback = NULL;
    self->context = NULL;
    self->args[0] = self->args[1] = self->args[2] = NULL;
    self->nargs = 0;
    pl_handle_unset(self, PL_HAS_REPR | PL_SHARED | PL_TAKEN);
    return gone;
}

static void
release_contents(PlLoop *loop, contents *gone)
{
    if (gone->taken) {
        pl_context_give(loop, gone->context);
    }
    else {
        Py_XDECREF(gone->context);
    }
    for (int i = 0; i < 1 + PL_INLINE_ARGS; i++) {
        Py_XDECREF(gone->objects[i]);
    }
}

/* For a handle that other threads may hold: the lock guards the fields and is
   not held while user code may run. */
static void
handle_clear_contents(PlHandle *self)
{
    contents gone;

    Py_BEGIN_CRITICAL_SECTION(self);
    gone = detach_contents(self);
    Py_END_CRITICAL_SECTION();
    release_contents(self->loop, &gone);
}

static int
handle_is_large(PlHandle *self)
{
    return Py_TYPE(self)->tp_basicsize == sizeof(PlHandleX);
}

static int
handle_traverse(PlHandle *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->loop);
    Py_VISIT(self->callback);
    Py_VISIT(self->context);
    for (int i = 0; i < PL_INLINE_ARGS; i++) {
        Py_VISIT(self->args[i]);
    }
    if (handle_is_large(self)) {
        Py_VISIT(((PlHandleX *)self)->traceback);
    }
    return 0;
}

static void
clear_all(PlHandle *self, bool give_context_back)
{
    contents gone = detach_contents(self);

    gone.taken = gone.taken && give_context_back;
    release_contents(self->loop, &gone);
    if (handle_is_large(self)) {
        Py_CLEAR(((PlHandleX *)self)->traceback);
    }
}

/* self->loop stays: whatever cycle it is in, the loop breaks.  The context the
   collector may be about to clear too. */
static int
handle_clear(PlHandle *self)
{
    clear_all(self, false);
    return 0;
}

static void
handle_dealloc(PlHandle *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PlLoop *loop = self->loop;

    PyObject_GC_UnTrack(self);
    if (self->weaklist != NULL) {
        PyObject_ClearWeakRefs((PyObject *)self);
    }
    clear_all(self, true);
    handle_free(loop, type, self);
    Py_XDECREF(loop);
}

/* -- run and cancel ---------------------------------------------------- */

static PyObject *
call_in_context(PlHandle *self)
{
    PyObject *stack[1 + PL_INLINE_ARGS];
    uint32_t nargs = self->nargs;
    PyObject *result;

    if (PyContext_Enter(self->context) < 0) {
        return NULL;
    }
    if (nargs <= PL_INLINE_ARGS) {
        /* Not in place: a vectorcall may scribble on the slot before its
           arguments while the collector looks at the handle. */
        stack[1] = self->args[0];
        stack[2] = self->args[1];
        stack[3] = self->args[2];
        result =
            PyObject_Vectorcall(self->callback, stack + 1,
                                nargs | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    }
    else {
        result = PyObject_CallObject(self->callback, self->args[0]);
    }
    if (PyContext_Exit(self->context) < 0) {
        Py_CLEAR(result);
    }
    return result;
}

/* A context that is not contextvars.Context but has its run(). */
static PyObject *
call_by_run(PlHandle *self, PyObject *args)
{
    PyObject *run = PyObject_GetAttr(self->context, self->loop->st->str_run);
    PyObject *result = NULL;

    if (run != NULL) {
        Py_ssize_t nargs = PyTuple_GET_SIZE(args);
        PyObject *all = PyTuple_New(nargs + 1);

        if (all != NULL) {
            PyTuple_SET_ITEM(all, 0, Py_NewRef(self->callback));
            for (Py_ssize_t i = 0; i < nargs; i++) {
                PyTuple_SET_ITEM(all, i + 1,
                                 Py_NewRef(PyTuple_GET_ITEM(args, i)));
            }
            result = PyObject_Call(run, all, NULL);
            Py_DECREF(all);
        }
        Py_DECREF(run);
    }
    return result;
}

/* New ref: the arguments as a tuple. */
static PyObject *
handle_args(PlHandle *self)
{
    if (self->nargs > PL_INLINE_ARGS) {
        return Py_NewRef(self->args[0]);
    }
    PyObject *args = PyTuple_New((Py_ssize_t)self->nargs);

    for (uint32_t i = 0; args != NULL && i < self->nargs; i++) {
        PyTuple_SET_ITEM(args, (Py_ssize_t)i, Py_NewRef(self->args[i]));
    }
    return args;
}

static int
handle_failed(PlHandle *self)
{
    if (pl_leaves_loop()) {
        return -1;
    }
    PyObject *exc = PyErr_GetRaisedException();
    PyObject *args = handle_args(self);
    int status = -1;

    if (args == NULL) {
        PyErr_Clear();
    }
    PyErr_SetRaisedException(exc);
    status = pl_report_callback(
        self->loop, (PyObject *)self, self->callback, args,
        handle_is_large(self) ? ((PlHandleX *)self)->traceback : NULL);
    Py_XDECREF(args);
    return status;
}

/* Inlined into the three: a call each is 20 instructions a callback. */
static inline Py_ALWAYS_INLINE int
call_handle(PlHandle *self)
{
    int status = 1;

    Py_BEGIN_CRITICAL_SECTION(self);
    uint32_t flags = pl_handle_flags(self);

    if (!(flags & (PL_CANCELLED | PL_RUNNING)) && self->callback != NULL) {
        status = begin_run(self, flags);
    }
    Py_END_CRITICAL_SECTION();
    if (status > 0) {
        return 1;
    }

    PyObject *result = NULL;

    if (status < 0) {
        /* no memory for a context */
    }
    else if (PyContext_CheckExact(self->context)) {
        result = call_in_context(self);
    }
    else {
        PyObject *args = handle_args(self);

        result = args == NULL ? NULL : call_by_run(self, args);
        Py_XDECREF(args);
    }
    if (result != NULL) {
        Py_DECREF(result);
        return 0;
    }
    return handle_failed(self);
}

static inline Py_ALWAYS_INLINE int
end_handle(PlHandle *self, int status)
{
    if (status > 0) {
        pl_handle_drop(self);
        return 0;
    }

    PyObject *exc = status < 0 ? PyErr_GetRaisedException() : NULL;
    uint32_t flags;

    Py_BEGIN_CRITICAL_SECTION(self);
    pl_handle_unset(self, PL_RUNNING);
    flags = pl_handle_flags(self);
    Py_END_CRITICAL_SECTION();
    if ((flags & PL_CANCELLED) ||
        (Py_REFCNT(self) > 1 && !(flags & PL_PERSISTENT) &&
         !self->loop->debug))
    {
        handle_clear_contents(self);
    }
    pl_handle_drop(self);
    if (exc != NULL) {
        PyErr_SetRaisedException(exc);
    }
    return status;
}

int
pl_handle_run(PlHandle *self)
{
    return end_handle(self, call_handle(self));
}

int
pl_handle_call(PlHandle *self)
{
    return call_handle(self);
}

int
pl_handle_end(PlHandle *self, int status)
{
    return end_handle(self, status);
}

void
pl_handle_drop(PlHandle *self)
{
    if (Py_REFCNT(self) > 1 && !PyObject_GC_IsTracked((PyObject *)self)) {
        PyObject_GC_Track(self);
    }
    Py_DECREF(self);
}

void
pl_handle_cancel(PlHandle *self)
{
    PyObject *repr = NULL;
    uint32_t before;

    Py_BEGIN_CRITICAL_SECTION(self);
    before = pl_handle_set(self, PL_CANCELLED);
    Py_END_CRITICAL_SECTION();
    if (before & PL_CANCELLED) {
        return;
    }
    if (self->loop->debug) {
        /* asyncio keeps the representation for its reports. */
        repr = PyObject_Repr((PyObject *)self);
        if (repr == NULL) {
            PyErr_Clear();
        }
    }
    if (!(before & PL_RUNNING)) {
        handle_clear_contents(self);
        if (repr != NULL) {
            Py_BEGIN_CRITICAL_SECTION(self);
            self->args[0] = Py_NewRef(repr);
            (void)pl_handle_set(self, PL_HAS_REPR);
            Py_END_CRITICAL_SECTION();
        }
    }
    Py_XDECREF(repr);
    if (pl_handle_flags(self) & PL_IN_HEAP) {
        pl_loop_timer_cancelled(self->loop, (PyObject *)self);
    }
}

/* -- as Python sees it ------------------------------------------------- */

/* asyncio's _ThreadSafeHandle holds a lock while it runs: another thread that
   cancels it, or asks, gets its answer when the callback has ended.  Looked
   for, up to 1 ms late, so that the thread that runs it pays nothing.  -1
   when a signal handler raised. */
static int
wait_for_callback(PlHandle *self)
{
    pl_state *st = self->loop->st;
    useconds_t pause = 20;

    while ((pl_handle_flags(self) & (PL_THREADSAFE | PL_RUNNING)) ==
               (PL_THREADSAFE | PL_RUNNING) &&
           st->asyncio_threadsafe_handle != st->asyncio_handle &&
           atomic_load(&self->loop->thread) != pl_thread_ident())
    {
        Py_BEGIN_ALLOW_THREADS
        usleep(pause);
        Py_END_ALLOW_THREADS
        pause = pause < 500 ? pause * 2 : 1000;
        if (PyErr_CheckSignals() < 0) {
            return -1;
        }
    }
    return 0;
}

static PyObject *
handle_cancel(PlHandle *self, PyObject *Py_UNUSED(unused))
{
    if (wait_for_callback(self) < 0) {
        return NULL;
    }
    pl_handle_cancel(self);
    Py_RETURN_NONE;
}

static PyObject *
handle_cancelled(PlHandle *self, PyObject *Py_UNUSED(unused))
{
    if (wait_for_callback(self) < 0) {
        return NULL;
    }
    return PyBool_FromLong(pl_handle_flags(self) & PL_CANCELLED);
}

static PyObject *
show_context(PlHandle *self)
{
    PyObject *context = NULL;

    Py_BEGIN_CRITICAL_SECTION(self);
    if (own_context(self) == 0) {
        context = Py_NewRef(self->context == NULL ? Py_None : self->context);
    }
    Py_END_CRITICAL_SECTION();
    return context;
}

static PyObject *
handle_get_context(PlHandle *self, PyObject *Py_UNUSED(unused))
{
    return show_context(self);
}

static PyObject *
handle_get_private_context(PlHandle *self, void *Py_UNUSED(closure))
{
    return show_context(self);
}

static PyObject *
handle_run(PlHandle *self, PyObject *Py_UNUSED(unused))
{
    if (pl_handle_run((PlHandle *)Py_NewRef(self)) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
handle_class(PlHandle *self)
{
    pl_state *st = self->loop->st;

    return Py_TYPE(self) == st->TimerHandleType ? st->asyncio_timer_handle
           : pl_handle_flags(self) & PL_THREADSAFE
               ? st->asyncio_threadsafe_handle
               : st->asyncio_handle;
}

/* asyncio's own methods work on ours: they only read attributes. */
static PyObject *
call_asyncio(PlHandle *self, const char *name, PyObject *arg)
{
    PyObject *method = PyObject_GetAttrString(handle_class(self), name);
    PyObject *result = NULL;

    if (method != NULL) {
        result = PyObject_CallFunctionObjArgs(method, self, arg, NULL);
        Py_DECREF(method);
    }
    return result;
}

static PyObject *
handle_repr(PlHandle *self)
{
    return call_asyncio(self, "__repr__", NULL);
}

static PyObject *
handle_repr_info(PlHandle *self, PyObject *Py_UNUSED(unused))
{
    return call_asyncio(self, "_repr_info", NULL);
}

static PyObject *
handle_get_class(PlHandle *self, void *Py_UNUSED(closure))
{
    return Py_NewRef(handle_class(self));
}

static PyObject *
handle_get_object(PlHandle *self, void *closure)
{
    PyObject *value;

    Py_BEGIN_CRITICAL_SECTION(self);
    value = *(PyObject **)((char *)self + (size_t)(uintptr_t)closure);
    value = Py_NewRef(value == NULL ? Py_None : value);
    Py_END_CRITICAL_SECTION();
    return value;
}

static PyObject *
handle_get_args(PlHandle *self, void *Py_UNUSED(closure))
{
    PyObject *args = NULL;

    Py_BEGIN_CRITICAL_SECTION(self);
    args = self->callback == NULL ? Py_NewRef(Py_None) : handle_args(self);
    Py_END_CRITICAL_SECTION();
    return args;
}

static PyObject *
handle_get_cancelled(PlHandle *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(pl_handle_flags(self) & PL_CANCELLED);
}

static PyObject *
handle_get_repr_slot(PlHandle *self, void *Py_UNUSED(closure))
{
    return Py_NewRef(pl_handle_flags(self) & PL_HAS_REPR ? self->args[0]
                                                         : Py_None);
}

static PyObject *
handle_get_traceback(PlHandle *self, void *Py_UNUSED(closure))
{
    PyObject *traceback =
        handle_is_large(self) ? ((PlHandleX *)self)->traceback : NULL;

    return Py_NewRef(traceback == NULL ? Py_None : traceback);
}

static PyObject *
timer_when(PlHandleX *self, PyObject *Py_UNUSED(unused))
{
    return pl_handle_flags(&self->base) & PL_WHEN_INT
               ? PyLong_FromDouble(self->when)
               : PyFloat_FromDouble(self->when);
}

static PyObject *
timer_get_when(PlHandleX *self, void *Py_UNUSED(closure))
{
    return timer_when(self, NULL);
}

static PyObject *
timer_get_scheduled(PlHandleX *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(pl_handle_flags(&self->base) & PL_IN_HEAP);
}

static PyObject *
timer_richcompare(PlHandle *self, PyObject *other, int op)
{
    static const char *const names[] = {
        [Py_LT] = "__lt__", [Py_LE] = "__le__", [Py_EQ] = "__eq__",
        [Py_GT] = "__gt__", [Py_GE] = "__ge__",
    };

    if (op == Py_NE) {
        PyObject *equal = timer_richcompare(self, other, Py_EQ);

        if (equal == NULL || equal == Py_NotImplemented) {
            return equal;
        }
        Py_SETREF(equal, PyBool_FromLong(equal == Py_False));
        return equal;
    }
    return call_asyncio(self, names[op], other);
}

static Py_hash_t
timer_hash(PlHandleX *self)
{
    PyObject *when = PyFloat_FromDouble(self->when);
    Py_hash_t hash = when == NULL ? -1 : PyObject_Hash(when);

    Py_XDECREF(when);
    return hash;
}

/* -- types ------------------------------------------------------------- */

static PyMethodDef handle_methods[] = {
    {"cancel", (PyCFunction)handle_cancel, METH_NOARGS,
     "Cancel the callback; nothing happens when it has run."},
    {"cancelled", (PyCFunction)handle_cancelled, METH_NOARGS,
     "True when the callback was cancelled."},
    {"get_context", (PyCFunction)handle_get_context, METH_NOARGS,
     "The contextvars.Context the callback runs in."},
    {"_run", (PyCFunction)handle_run, METH_NOARGS, NULL},
    {"_repr_info", (PyCFunction)handle_repr_info, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

#define FIELD(name) (void *)(uintptr_t)offsetof(PlHandle, name)

static PyGetSetDef handle_getset[] = {
    {"__class__", (getter)handle_get_class, NULL, NULL, NULL},
    {"_callback", (getter)handle_get_object, NULL, NULL, FIELD(callback)},
    {"_args", (getter)handle_get_args, NULL, NULL, NULL},
    {"_context", (getter)handle_get_private_context, NULL, NULL, NULL},
    {"_loop", (getter)handle_get_object, NULL, NULL, FIELD(loop)},
    {"_cancelled", (getter)handle_get_cancelled, NULL, NULL, NULL},
    {"_repr", (getter)handle_get_repr_slot, NULL, NULL, NULL},
    {"_source_traceback", (getter)handle_get_traceback, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef handle_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(PlHandle, weaklist), READONLY,
     NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef timer_methods[] = {
    {"cancel", (PyCFunction)handle_cancel, METH_NOARGS,
     "Cancel the callback; nothing happens when it has run."},
    {"cancelled", (PyCFunction)handle_cancelled, METH_NOARGS,
     "True when the callback was cancelled."},
    {"get_context", (PyCFunction)handle_get_context, METH_NOARGS,
     "The contextvars.Context the callback runs in."},
    {"when", (PyCFunction)timer_when, METH_NOARGS,
     "The scheduled time, in seconds of loop.time()."},
    {"_run", (PyCFunction)handle_run, METH_NOARGS, NULL},
    {"_repr_info", (PyCFunction)handle_repr_info, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef timer_getset[] = {
    {"__class__", (getter)handle_get_class, NULL, NULL, NULL},
    {"_callback", (getter)handle_get_object, NULL, NULL, FIELD(callback)},
    {"_args", (getter)handle_get_args, NULL, NULL, NULL},
    {"_context", (getter)handle_get_private_context, NULL, NULL, NULL},
    {"_loop", (getter)handle_get_object, NULL, NULL, FIELD(loop)},
    {"_cancelled", (getter)handle_get_cancelled, NULL, NULL, NULL},
    {"_repr", (getter)handle_get_repr_slot, NULL, NULL, NULL},
    {"_source_traceback", (getter)handle_get_traceback, NULL, NULL, NULL},
    {"_when", (getter)timer_get_when, NULL, NULL, NULL},
    {"_scheduled", (getter)timer_get_scheduled, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

#define COMMON_SLOTS                                                          \
    {Py_tp_dealloc, handle_dealloc}, {Py_tp_traverse, handle_traverse},       \
        {Py_tp_clear, handle_clear}, {Py_tp_repr, handle_repr},               \
    {                                                                         \
        Py_tp_members, handle_members                                         \
    }

static PyType_Slot handle_slots[] = {
    COMMON_SLOTS,
    {Py_tp_methods, handle_methods},
    {Py_tp_getset, handle_getset},
    {0, NULL},
};

static PyType_Slot timer_slots[] = {
    COMMON_SLOTS,
    {Py_tp_methods, timer_methods},
    {Py_tp_getset, timer_getset},
    {Py_tp_richcompare, timer_richcompare},
    {Py_tp_hash, timer_hash},
    {0, NULL},
};

#define HANDLE_FLAGS                                                          \
    (Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |     \
     Py_TPFLAGS_DISALLOW_INSTANTIATION)

static PyType_Spec handle_spec = {
    "pyloop._core.Handle", sizeof(PlHandle), 0, HANDLE_FLAGS, handle_slots,
};
static PyType_Spec debug_handle_spec = {
    "pyloop._core.Handle", sizeof(PlHandleX), 0, HANDLE_FLAGS, handle_slots,
};
static PyType_Spec timer_spec = {
    "pyloop._core.TimerHandle",
    sizeof(PlHandleX),
    0,
    HANDLE_FLAGS,
    timer_slots,
};
static PyType_Spec threadsafe_spec = {
    "pyloop._core.Handle", sizeof(PlHandleX), 0, HANDLE_FLAGS, handle_slots,
};

int
pl_handle_check(pl_state *st, PyObject *obj)
{
    PyTypeObject *type = Py_TYPE(obj);

    return type == st->HandleType || type == st->TimerHandleType ||
           type == st->ThreadSafeHandleType || type == st->DebugHandleType;
}

int
pl_handle_types(PyObject *module, pl_state *st)
{
#define ADD(field, spec)                                                      \
    st->field =                                                               \
        (PyTypeObject *)PyType_FromModuleAndSpec(module, &spec, NULL);        \
    if (st->field == NULL) {                                                  \
        return -1;                                                            \
    }
    ADD(HandleType, handle_spec)
    ADD(DebugHandleType, debug_handle_spec)
    ADD(TimerHandleType, timer_spec)
    ADD(ThreadSafeHandleType, threadsafe_spec)
#undef ADD
    return 0;
}
