/* Scheduling: call_soon, call_later, call_at, call_soon_threadsafe, time,
   and the ways into the ready ring, the timer heap and the inbox. */

#include "args.h"
#include "handle.h"
#include "native.h"

#include <errno.h>
#include <math.h>
#include <string.h>

double
pl_loop_time(PlLoop *loop)
{
    if (!(loop->overrides & PL_OWN_TIME)) {
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
    if (atomic_load_explicit(&self->closed, memory_order_relaxed)) {
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

/* Asked and used within one critical section of the loop: nobody runs it, and
   so its data is whose the section is. */
static inline bool
is_idle(PlLoop *self)
{
    return running_thread(self) == 0 &&
           !atomic_load_explicit(&self->closed, memory_order_relaxed);
}

int
pl_loop_check_thread(PlLoop *self)
{
    return PL_FREE_THREADED ? pl_loop_insist_thread(self) : 0;
}

int
pl_loop_check_scheduling(PlLoop *self)
{
    return self->debug || PL_FREE_THREADED ? pl_loop_insist_thread(self) : 0;
}

int
pl_loop_insist_thread(PlLoop *self)
{
    unsigned long owner = running_thread(self);

    if (owner != 0 && owner != pl_thread_ident()) {
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

static const pl_signature call_soon = {"call_soon", {"callback"}, 1, true};
static const pl_signature call_soon_threadsafe = {
    "call_soon_threadsafe", {"callback"}, 1, true};
static const pl_signature call_at = {"call_at", {"when", "callback"}, 2, true};
static const pl_signature call_later = {
    "call_later", {"delay", "callback"}, 2, true};

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
    if (pl_ring_push(&self->ready, (void *)((uintptr_t)job | PL_JOB_BIT)) < 0)
    {
        PyErr_NoMemory();
        return -1;
    }
    Py_INCREF(job->owner);
    return 0;
}

void *
pl_loop_entry_of_link(pl_link *link)
{
#if PL_FREE_THREADED
    if (link->size == 0) {
        return pl_handle_of_link(link);
    }
#endif
    return (void *)((uintptr_t)link | PL_WORK_BIT);
}

void
pl_loop_drain_inbox(PlLoop *self)
{
    do {
        while (self->taken != NULL) {
            pl_link *link = self->taken;
            void *entry = pl_loop_entry_of_link(link);
            pl_link *next = link->next;

            if (pl_ring_push(&self->ready, entry) < 0) {
                /* Kept, in its place, for the next time. */
                PyErr_NoMemory();
                PyErr_WriteUnraisable((PyObject *)self);
                return;
            }
            pl_counter_add(&self->counters.handoffs, 1);
            self->taken = next;
        }
        self->taken = pl_inbox_take(&self->core->inbox);
    } while (self->taken != NULL);
}

/* Whoever may touch the ring: the loop's thread, or on a build with a GIL its
   holder.  Keeps a reference of the ring's own. */
static int
push_handle(PlLoop *self, PlHandle *handle)
{
    if (pl_inbox_pending(&self->core->inbox)) {
        pl_loop_drain_inbox(self);
    }
    if (pl_loop_push(self, Py_NewRef(handle)) < 0) {
        return -1;
    }
    if (running_thread(self) == 0) {
        PyObject_GC_Track(handle);
    }
    return 0;
}

/* New ref to a handle of the call; its callback is the argument at `place`. */
static inline PlHandle *
handle_of(PlLoop *self, PyTypeObject *type, const pl_call *call, int place)
{
    return pl_handle_new(self, type, call->args[place], call->args + place + 1,
                         call->nargs - place - 1, call->context);
}

/* New ref to the handle, which is in the ring. */
static PlHandle *
push_call(PlLoop *self, PyTypeObject *type, const pl_call *call)
{
    PlHandle *handle = handle_of(self, type, call, 0);

    if (handle != NULL && push_handle(self, handle) < 0) {
        Py_CLEAR(handle);
    }
    return handle;
}

/* The work is queued, but the loop could not be woken for it: say so. */
static void
report_wakeup(PlLoop *self)
{
    PyErr_SetFromErrno(PyExc_OSError);
    PyErr_WriteUnraisable((PyObject *)self);
}

#if PL_FREE_THREADED

/* No lock guards the ring of a loop that runs: every other thread takes the
   inbox.  New ref to the handle. */
static PlHandle *
post_call(PlLoop *self, const pl_call *call, uint32_t flags)
{
    PlHandle *handle =
        handle_of(self, self->st->ThreadSafeHandleType, call, 0);

    if (handle == NULL) {
        return NULL;
    }
    handle->flags |= flags;

    pl_link *link = &((PlHandleX *)Py_NewRef(handle))->link;

    link->size = 0;
    switch (pl_core_post(self->core, link)) {
    case -1:
        Py_DECREF(handle);
        Py_DECREF(handle);
        PyErr_SetString(PyExc_RuntimeError, "Event loop is closed");
        return NULL;
    case 1:
        report_wakeup(self);
        break;
    default:
        break;
    }
    return handle;
}

/* call_soon() of a thread that does not run the loop: most often of the one
   that is about to.  New ref to the handle. */
static PlHandle *
push_idle(PlLoop *self, PyTypeObject *type, const pl_call *call)
{
    if (running_thread(self) != 0) {
        return post_call(self, call, 0);
    }
    PlHandle *handle = handle_of(self, type, call, 0);
    int status = 1;

    if (handle == NULL) {
        return NULL;
    }
    Py_BEGIN_CRITICAL_SECTION(self);
    if (is_idle(self)) {
        status = push_handle(self, handle);
    }
    Py_END_CRITICAL_SECTION();
    if (status == 0) {
        return handle;
    }
    Py_DECREF(handle);
    return status < 0 ? NULL : post_call(self, call, 0);
}

#endif

/* A no-op unless the loop sleeps.  On a build with a GIL the loop announces
   its sleep before it lets go of the GIL, so whoever pushed sees it. */
static void
wake_for(PlLoop *self)
{
    int err = pl_core_wake(self->core);

    if (err < 0) {
        errno = -err;
        report_wakeup(self);
    }
}

PyObject *
loop_call_soon(PlLoop *self, PyObject *const *args, Py_ssize_t nargs,
               PyObject *kwnames)
{
    pl_call call;
    PyTypeObject *type = self->st->HandleType;

    if (pl_call_parse(self->st, &call_soon, args, nargs, kwnames, &call) < 0 ||
        pl_loop_check_closed(self) < 0)
    {
        return NULL;
    }
    if (self->debug) {
        if (pl_loop_insist_thread(self) < 0 ||
            check_callback(self, call.args[0], "call_soon") < 0)
        {
            return NULL;
        }
        type = self->st->DebugHandleType;
    }
#if PL_FREE_THREADED
    if (!pl_loop_runs_here(self)) {
        return (PyObject *)push_idle(self, type, &call);
    }
#endif
    return (PyObject *)push_call(self, type, &call);
}

PyObject *
loop_call_soon_threadsafe(PlLoop *self, PyObject *const *args,
                          Py_ssize_t nargs, PyObject *kwnames)
{
    pl_call call;

    if (pl_call_parse(self->st, &call_soon_threadsafe, args, nargs, kwnames,
                      &call) < 0 ||
        pl_loop_check_closed(self) < 0 ||
        check_callback(self, call.args[0], "call_soon_threadsafe") < 0)
    {
        return NULL;
    }
#if PL_FREE_THREADED
    if (!pl_loop_runs_here(self)) {
        return (PyObject *)post_call(self, &call, PL_THREADSAFE);
    }
#endif
    PlHandle *handle = push_call(
        self, self->debug ? self->st->DebugHandleType : self->st->HandleType,
        &call);

    if (handle == NULL) {
        return NULL;
    }
    (void)pl_handle_set(handle, PL_THREADSAFE);
    pl_counter_add(&self->counters.handoffs, 1);
    wake_for(self);
    return (PyObject *)handle;
}

/* asyncio's _add_callback: a handle of whatever class, unless cancelled. */
PyObject *
loop_add_callback(PlLoop *self, PyObject *handle)
{
    if (pl_handle_check(self->st, handle) && pl_loop_runs_here(self)) {
        if (!(pl_handle_flags((PlHandle *)handle) & PL_CANCELLED) &&
            pl_loop_push(self, Py_NewRef(handle)) < 0)
        {
            return NULL;
        }
        Py_RETURN_NONE;
    }
    return PyObject_CallMethodOneArg((PyObject *)self, self->st->str__adopt,
                                     handle);
}

/* -- timers ------------------------------------------------------------ */

/* Timers of a running loop are reachable, so the collector need not know them:
   CPython 3.14 counts whom it tracks, and 5,000 timers set off four
   collections.  When the loop stops running they are tracked, one by one; with
   more than this in the heap no more are left for that. */
#define UNTRACKED_TIMERS 8192

static int
push_timer_here(PlLoop *self, PlHandle *handle)
{
    double when = ((PlHandleX *)handle)->when;

    /* asyncio's comparisons let a nan through at once. */
    if (pl_heap_push(&self->timers, isnan(when) ? -HUGE_VAL : when, handle) <
        0)
    {
        PyErr_NoMemory();
        return -1;
    }
    Py_INCREF(handle);
    (void)pl_handle_set(handle, PL_IN_HEAP);
    if (self->in_turn && self->timers.count <= UNTRACKED_TIMERS) {
        self->timers_untracked = true;
    }
    else if (!PyObject_GC_IsTracked((PyObject *)handle)) {
        PyObject_GC_Track(handle);
    }
    return 0;
}

/* 0, -1, or 1 when the timer has to go to another thread. */
static int
push_timer(PlLoop *self, PlHandle *handle)
{
    int status = 1;

    if (pl_loop_runs_here(self)) {
        return push_timer_here(self, handle);
    }
    Py_BEGIN_CRITICAL_SECTION(self);
    if (is_idle(self)) {
        status = push_timer_here(self, handle);
    }
    Py_END_CRITICAL_SECTION();
    return status;
}

/* What post_timer has asked for, by the loop's thread. */
PyObject *
loop_start_timer(PlLoop *self, PyObject *handle)
{
    if (Py_TYPE(handle) != self->st->TimerHandleType) {
        PyErr_SetString(PyExc_TypeError, "not a timer of this loop");
        return NULL;
    }
    if (pl_loop_check_thread(self) < 0) {
        return NULL;
    }
    uint32_t flags = pl_handle_flags((PlHandle *)handle);

    if (!(flags & (PL_CANCELLED | PL_IN_HEAP)) &&
        push_timer(self, (PlHandle *)handle) < 0)
    {
        return NULL;
    }
    Py_RETURN_NONE;
}

static int
post_timer(PlLoop *self, PlHandle *timer)
{
    PyObject *start =
        PyObject_GetAttr((PyObject *)self, self->st->str__start_timer);
    PyObject *stack[] = {start, (PyObject *)timer};
    PyObject *posted =
        start == NULL ? NULL : loop_call_soon_threadsafe(self, stack, 2, NULL);

    Py_XDECREF(start);
    Py_XDECREF(posted);
    return posted == NULL ? -1 : 0;
}

static PyObject *
schedule(PlLoop *self, double when, const pl_call *call)
{
    if (pl_loop_check_closed(self) < 0) {
        return NULL;
    }
    if (self->debug && (pl_loop_insist_thread(self) < 0 ||
                        check_callback(self, call->args[1], "call_at") < 0))
    {
        return NULL;
    }
    PlHandle *handle = handle_of(self, self->st->TimerHandleType, call, 1);

    if (handle == NULL) {
        return NULL;
    }
    ((PlHandleX *)handle)->when = when;

    int status = push_timer(self, handle);

    if (status > 0) {
        PyObject_GC_Track(handle);
        status = post_timer(self, handle);
    }
    if (status < 0) {
        Py_DECREF(handle);
        return NULL;
    }
    return (PyObject *)handle;
}

PyObject *
loop_call_at(PlLoop *self, PyObject *const *args, Py_ssize_t nargs,
             PyObject *kwnames)
{
    pl_call call;

    if (pl_call_parse(self->st, &call_at, args, nargs, kwnames, &call) < 0) {
        return NULL;
    }
    if (call.args[0] == Py_None) {
        PyErr_SetString(PyExc_TypeError, "when cannot be None");
        return NULL;
    }
    double when = PyFloat_AsDouble(call.args[0]);

    if (when == -1.0 && PyErr_Occurred()) {
        return NULL;
    }
    bool is_int = PyLong_CheckExact(call.args[0]) && fabs(when) < 9e15;
    PyObject *handle = schedule(self, when, &call);

    if (handle != NULL && is_int) {
        (void)pl_handle_set((PlHandle *)handle, PL_WHEN_INT);
    }
    return handle;
}

/* self.call_at(now + delay, callback, *args, context=context) */
static PyObject *
call_own_call_at(PlLoop *self, double now, const pl_call *call)
{
    PyObject *method =
        PyObject_GetAttr((PyObject *)self, self->st->str_call_at);
    PyObject *start = PyFloat_FromDouble(now);
    PyObject *when = start == NULL ? NULL : PyNumber_Add(start, call->args[0]);
    PyObject *args = PyTuple_New(call->nargs);
    PyObject *kwargs = Py_BuildValue(
        "{s:O}", "context", call->context == NULL ? Py_None : call->context);
    PyObject *timer = NULL;

    for (Py_ssize_t i = 1; args != NULL && i < call->nargs; i++) {
        PyTuple_SET_ITEM(args, i, Py_NewRef(call->args[i]));
    }
    if (method != NULL && when != NULL && args != NULL && kwargs != NULL) {
        PyTuple_SET_ITEM(args, 0, Py_NewRef(when));
        timer = PyObject_Call(method, args, kwargs);
    }
    Py_XDECREF(method);
    Py_XDECREF(start);
    Py_XDECREF(when);
    Py_XDECREF(args);
    Py_XDECREF(kwargs);
    return timer;
}

PyObject *
loop_call_later(PlLoop *self, PyObject *const *args, Py_ssize_t nargs,
                PyObject *kwnames)
{
    pl_call call;

    if (pl_call_parse(self->st, &call_later, args, nargs, kwnames, &call) < 0)
    {
        return NULL;
    }
    if (call.args[0] == Py_None) {
        PyErr_SetString(PyExc_TypeError, "delay must not be None");
        return NULL;
    }
    double now = pl_loop_time(self);

    if (now == -1.0 && PyErr_Occurred()) {
        return NULL;
    }
    double when;

    if (self->overrides & PL_OWN_CALL_AT) {
        return call_own_call_at(self, now, &call);
    }
    if (PyFloat_CheckExact(call.args[0])) {
        when = now + PyFloat_AS_DOUBLE(call.args[0]);
    }
    else {
        /* self.time() + delay, with its errors. */
        PyObject *start = PyFloat_FromDouble(now);
        PyObject *sum =
            start == NULL ? NULL : PyNumber_Add(start, call.args[0]);

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
    return schedule(self, when, &call);
}

static int
keep_timer(void *item)
{
    return !(pl_handle_flags((PlHandle *)item) & PL_CANCELLED);
}

/* Takes the cancelled handles that are to leave now out of the heap: one in
   *single, or *count in a malloc'ed array.  The caller lets go of them. */
static void **
take_cancelled(PlLoop *self, PyObject *handle, PyObject **single,
               size_t *count)
{
    *single = NULL;
    *count = 0;
    if (pl_heap_discard_last(&self->timers, handle)) {
        *single = handle;
        return NULL;
    }
    pl_counter_add(&self->timers_cancelled, 1);
    if (self->timers.count < 64 ||
        self->timers_cancelled * 2 <= self->timers.count)
    {
        return NULL;
    }
    void **dropped = malloc(self->timers.count * sizeof(*dropped));

    if (dropped != NULL) {
        *count = pl_heap_filter(&self->timers, keep_timer, dropped);
        pl_counter_set(&self->timers_cancelled, 0);
    }
    return dropped; /* no memory: next time */
}

/* A cancelled timer leaves at once when it is the last of the heap, else
   when the cancelled ones are the majority: O(1) each, amortised.  One that
   another thread cancels while the loop runs stays until it is due. */
void
pl_loop_timer_cancelled(PlLoop *self, PyObject *handle)
{
    PyObject *single = NULL;
    void **dropped = NULL;
    size_t count = 0;

    if (pl_loop_runs_here(self)) {
        dropped = take_cancelled(self, handle, &single, &count);
    }
    else {
        Py_BEGIN_CRITICAL_SECTION(self);
        if (is_idle(self)) {
            dropped = take_cancelled(self, handle, &single, &count);
        }
        Py_END_CRITICAL_SECTION();
    }
    if (single != NULL) {
        pl_handle_unset((PlHandle *)single, PL_IN_HEAP);
        pl_handle_drop((PlHandle *)single);
    }
    for (size_t i = 0; i < count; i++) {
        pl_handle_unset((PlHandle *)dropped[i], PL_IN_HEAP);
        pl_handle_drop((PlHandle *)dropped[i]);
    }
    free(dropped);
}
