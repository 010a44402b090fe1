/* Scheduling: call_soon, call_later, call_at, call_soon_threadsafe, time,
   and the ways into the ready ring, the timer heap and the inbox. */

#include "handle.h"

#include <math.h>
#include <time.h>

int64_t
pl_now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

double
pl_loop_time(PlLoop *loop)
{
    if (!loop->own_time) {
        return (double)pl_now_ns() * 1e-9;
    }
    PyObject *now =
        PyObject_CallMethodNoArgs((PyObject *)loop, loop->st->str_time);

    if (now == NULL) {
        return -1.0;
    }
    double value = PyFloat_AsDouble(now);

    Py_DECREF(now);
    return value;
}

PyObject *
loop_time(PlLoop *self, PyObject *Py_UNUSED(unused))
{
    (void)self;
    return PyFloat_FromDouble((double)pl_now_ns() * 1e-9);
}

/* -- checks ------------------------------------------------------------ */

int
pl_loop_check_closed(PlLoop *self)
{
    if (self->closed) {
        PyErr_SetString(PyExc_RuntimeError, "Event loop is closed");
        return -1;
    }
    return 0;
}

static unsigned long
running_thread(PlLoop *self)
{
    return atomic_load_explicit(&self->thread, memory_order_relaxed);
}

int
pl_loop_check_thread(PlLoop *self)
{
    unsigned long owner = running_thread(self);

    if ((self->debug || PL_FREE_THREADED) && owner != 0 &&
        owner != PyThread_get_thread_ident())
    {
        PyErr_SetString(PyExc_RuntimeError,
                        "Non-thread-safe operation invoked on an event loop "
                        "other than the current one");
        return -1;
    }
    return 0;
}

/* The callback's own fault is an error of the call only in debug mode, as in
   asyncio; otherwise it shows when it runs. */
static int
check_callback(PlLoop *self, PyObject *callback, const char *method)
{
    if (!self->debug) {
        return 0;
    }
    PyObject *result = PyObject_CallMethod((PyObject *)self, "_check_callback",
                                           "Os", callback, method);

    if (result == NULL) {
        return -1;
    }
    Py_DECREF(result);
    return 0;
}

/* `context` is the only keyword; _asyncio passes its interned name. */
static int
parse_context(PlLoop *self, const char *method, PyObject *const *args,
              Py_ssize_t nargs, PyObject *kwnames, PyObject **context)
{
    *context = NULL;
    if (kwnames == NULL) {
        return 0;
    }
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(kwnames); i++) {
        PyObject *name = PyTuple_GET_ITEM(kwnames, i);

        if (name != self->st->str_context &&
            PyUnicode_Compare(name, self->st->str_context) != 0)
        {
            if (!PyErr_Occurred()) {
                PyErr_Format(PyExc_TypeError,
                             "%s() got an unexpected keyword argument '%U'",
                             method, name);
            }
            return -1;
        }
        *context = args[nargs + i];
    }
    return 0;
}

static int
missing_argument(const char *method, const char *name)
{
    PyErr_Format(PyExc_TypeError,
                 "%s() missing 1 required positional argument: '%s'", method,
                 name);
    return -1;
}

/* -- the ready ring ---------------------------------------------------- */

int
pl_loop_push(PlLoop *self, PyObject *handle)
{
    if (pl_ring_push(&self->ready, handle) < 0) {
        Py_DECREF(handle);
        PyErr_NoMemory();
        return -1;
    }
    return 0;
}

int
pl_loop_push_job(PlLoop *self, pl_job *job)
{
    if (pl_ring_push(&self->ready, (void *)((uintptr_t)job | 1)) < 0) {
        PyErr_NoMemory();
        return -1;
    }
    Py_INCREF(job->owner);
    return 0;
}

void
pl_loop_drain_inbox(PlLoop *self)
{
    pl_link *link = pl_inbox_take(&self->core->inbox);

    while (link != NULL) {
        pl_link *next = link->next;

        self->handoffs++;
        if (pl_loop_push(self, (PyObject *)pl_handle_of_link(link)) < 0) {
            PyErr_WriteUnraisable((PyObject *)self);
        }
        link = next;
    }
}

static PyObject *
post_handle(PlLoop *self, PlHandle *handle)
{
    switch (pl_core_post(self->core, &((PlHandleX *)Py_NewRef(handle))->link))
    {
    case -1:
        Py_DECREF(handle);
        Py_DECREF(handle);
        PyErr_SetString(PyExc_RuntimeError, "Event loop is closed");
        return NULL;
    case 1:
        /* Queued, but the loop could not be woken for it: say so. */
        PyErr_SetFromErrno(PyExc_OSError);
        PyErr_WriteUnraisable((PyObject *)self);
        break;
    default:
        break;
    }
    return (PyObject *)handle;
}

PyObject *
loop_call_soon(PlLoop *self, PyObject *const *args, Py_ssize_t nargs,
               PyObject *kwnames)
{
    PyObject *context;
    PyTypeObject *type = self->st->HandleType;

    if (nargs < 1) {
        missing_argument("call_soon", "callback");
        return NULL;
    }
    if (parse_context(self, "call_soon", args, nargs, kwnames, &context) < 0 ||
        pl_loop_check_closed(self) < 0)
    {
        return NULL;
    }
    if (self->debug) {
        if (pl_loop_check_thread(self) < 0 ||
            check_callback(self, args[0], "call_soon") < 0)
        {
            return NULL;
        }
        type = self->st->DebugHandleType;
    }
#if PL_FREE_THREADED
    /* Not the loop's thread: no lock guards the ring, so take the inbox. */
    if (running_thread(self) != PyThread_get_thread_ident()) {
        PlHandle *posted =
            pl_handle_new(self, self->st->ThreadSafeHandleType, args[0],
                          args + 1, nargs - 1, context);

        return posted == NULL ? NULL : post_handle(self, posted);
    }
#endif
    if (pl_inbox_pending(&self->core->inbox)) {
        pl_loop_drain_inbox(self);
    }
    PlHandle *handle =
        pl_handle_new(self, type, args[0], args + 1, nargs - 1, context);

    if (handle == NULL || pl_loop_push(self, Py_NewRef(handle)) < 0) {
        Py_XDECREF(handle);
        return NULL;
    }
    return (PyObject *)handle;
}

PyObject *
loop_call_soon_threadsafe(PlLoop *self, PyObject *const *args,
                          Py_ssize_t nargs, PyObject *kwnames)
{
    PyObject *context;

    if (nargs < 1) {
        missing_argument("call_soon_threadsafe", "callback");
        return NULL;
    }
    if (parse_context(self, "call_soon_threadsafe", args, nargs, kwnames,
                      &context) < 0 ||
        pl_loop_check_closed(self) < 0 ||
        check_callback(self, args[0], "call_soon_threadsafe") < 0)
    {
        return NULL;
    }
    PlHandle *handle =
        pl_handle_new(self, self->st->ThreadSafeHandleType, args[0], args + 1,
                      nargs - 1, context);

    if (handle == NULL) {
        return NULL;
    }
    if (running_thread(self) == PyThread_get_thread_ident()) {
        pl_loop_drain_inbox(self);
        if (pl_loop_push(self, Py_NewRef(handle)) < 0) {
            Py_DECREF(handle);
            return NULL;
        }
        return (PyObject *)handle;
    }
    return post_handle(self, handle);
}

/* asyncio's _add_callback: a handle of whatever class, unless cancelled. */
PyObject *
loop_add_callback(PlLoop *self, PyObject *handle)
{
    if (pl_handle_check(self->st, handle)) {
        if (!(((PlHandle *)handle)->flags & PL_CANCELLED) &&
            pl_loop_push(self, Py_NewRef(handle)) < 0)
        {
            return NULL;
        }
        Py_RETURN_NONE;
    }
    PyObject *run = PyObject_GetAttr(handle, self->st->str__run);

    if (run == NULL) {
        return NULL;
    }
    PyObject *mine = loop_call_soon(self, &run, 1, NULL);

    Py_DECREF(run);
    if (mine == NULL) {
        return NULL;
    }
    Py_DECREF(mine);
    Py_RETURN_NONE;
}

/* -- timers ------------------------------------------------------------ */

static PyObject *
schedule(PlLoop *self, double when, PyObject *const *args, Py_ssize_t nargs,
         PyObject *context)
{
    if (pl_loop_check_closed(self) < 0) {
        return NULL;
    }
    if ((self->debug || PL_FREE_THREADED) &&
        (pl_loop_check_thread(self) < 0 ||
         check_callback(self, args[0], "call_at") < 0))
    {
        return NULL;
    }
    PlHandle *handle = pl_handle_new(self, self->st->TimerHandleType, args[0],
                                     args + 1, nargs - 1, context);

    if (handle == NULL) {
        return NULL;
    }
    ((PlHandleX *)handle)->when = when;
    PyObject_GC_Track(handle);
    /* asyncio's comparisons let a nan through at once. */
    if (pl_heap_push(&self->timers, isnan(when) ? -HUGE_VAL : when,
                     Py_NewRef(handle)) < 0)
    {
        Py_DECREF(handle);
        Py_DECREF(handle);
        return PyErr_NoMemory();
    }
    handle->flags |= PL_IN_HEAP;
    return (PyObject *)handle;
}

PyObject *
loop_call_at(PlLoop *self, PyObject *const *args, Py_ssize_t nargs,
             PyObject *kwnames)
{
    PyObject *context;

    if (nargs < 2) {
        missing_argument("call_at", nargs < 1 ? "when" : "callback");
        return NULL;
    }
    if (parse_context(self, "call_at", args, nargs, kwnames, &context) < 0) {
        return NULL;
    }
    if (args[0] == Py_None) {
        PyErr_SetString(PyExc_TypeError, "when cannot be None");
        return NULL;
    }
    double when = PyFloat_AsDouble(args[0]);

    if (when == -1.0 && PyErr_Occurred()) {
        return NULL;
    }
    return schedule(self, when, args + 1, nargs - 1, context);
}

PyObject *
loop_call_later(PlLoop *self, PyObject *const *args, Py_ssize_t nargs,
                PyObject *kwnames)
{
    PyObject *context;

    if (nargs < 2) {
        missing_argument("call_later", nargs < 1 ? "delay" : "callback");
        return NULL;
    }
    if (parse_context(self, "call_later", args, nargs, kwnames, &context) < 0)
    {
        return NULL;
    }
    if (args[0] == Py_None) {
        PyErr_SetString(PyExc_TypeError, "delay must not be None");
        return NULL;
    }
    double now = pl_loop_time(self);

    if (now == -1.0 && PyErr_Occurred()) {
        return NULL;
    }
    double when;

    if (PyFloat_CheckExact(args[0])) {
        when = now + PyFloat_AS_DOUBLE(args[0]);
    }
    else {
        /* self.time() + delay, with its errors. */
        PyObject *start = PyFloat_FromDouble(now);
        PyObject *sum = start == NULL ? NULL : PyNumber_Add(start, args[0]);

        Py_XDECREF(start);
        if (sum == NULL) {
            return NULL;
        }
        when = PyFloat_AsDouble(sum);
        Py_DECREF(sum);
        if (when == -1.0 && PyErr_Occurred()) {
            return NULL;
        }
    }
    return schedule(self, when, args + 1, nargs - 1, context);
}

static int
keep_timer(void *item)
{
    return !(((PlHandle *)item)->flags & PL_CANCELLED);
}

/* A cancelled timer leaves at once when it is the last of the heap, else
   when the cancelled ones are the majority: O(1) each, amortised. */
void
pl_loop_timer_cancelled(PlLoop *self, PyObject *handle)
{
#if PL_FREE_THREADED
    /* Another thread's cancel: the entry stays until it is due. */
    if (running_thread(self) != 0 &&
        running_thread(self) != PyThread_get_thread_ident())
    {
        return;
    }
#endif
    if (pl_heap_discard_last(&self->timers, handle)) {
        ((PlHandle *)handle)->flags &= ~(uint32_t)PL_IN_HEAP;
        Py_DECREF(handle);
        return;
    }
    self->timers_cancelled++;
    if (self->timers.count < 64 ||
        self->timers_cancelled * 2 <= self->timers.count)
    {
        return;
    }
    void **dropped = malloc(self->timers.count * sizeof(*dropped));

    if (dropped == NULL) {
        return;    /* next time */
    }
    size_t count = pl_heap_filter(&self->timers, keep_timer, dropped);

    self->timers_cancelled = 0;
    for (size_t i = 0; i < count; i++) {
        ((PlHandle *)dropped[i])->flags &= ~(uint32_t)PL_IN_HEAP;
        Py_DECREF(dropped[i]);
    }
    free(dropped);
}
