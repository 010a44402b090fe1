/* The turn, and run_forever's body around it.

   One turn, in asyncio's order: poll; hand-offs and readiness go to the
   ready ring, then the timers that are due; run exactly what the ring held;
   send what was written.  The only wait is in poll_step, and the thread
   state is given up around nothing else. */

#include "handle.h"
#include "native.h"
#include "stream.h"

#include <math.h>

/* Under load a poll may be left out this long after the last one, so that
   chained callbacks do not pay a system call a turn: 1.8 → 4.6 M turns a
   second.  The bound within which I/O is seen. */
#define POLL_SKIP_NS 20000

#define TRIM_PER_SLEEP 512    /* handles: some 10 µs */
#define MAX_WAIT_S 86400.0    /* asyncio's MAXIMUM_SELECT_TIMEOUT */

/* How long the poll may block, in ns; < 0 for ever.  -2 and an exception
   set when time() fails. */
static int64_t
poll_timeout(PlLoop *self)
{
    if (self->timers.count == 0) {
        return -1;
    }
    double now = pl_loop_time(self);

    if (now == -1.0 && PyErr_Occurred()) {
        return -2;
    }
    double wait = self->timers.entries[0].when - now;

    if (!(wait > 0.0)) {
        return 0;
    }
    return (int64_t)ceil((wait < MAX_WAIT_S ? wait : MAX_WAIT_S) * 1e9);
}

static int
dispatch_events(PlLoop *self)
{
    pl_core *core = self->core;
    pl_poller *poller = &core->poller;

    for (int i = 0; i < poller->count; i++) {
        pl_event *event = &poller->batch[i];
        pl_slot *slot = pl_core_slot(core, event->fd);
        int status = 0;

        if (slot == NULL || slot->generation != event->generation) {
            continue;
        }
        switch ((enum pl_slot_kind)slot->kind) {
        case PL_SLOT_FREE:
            break;
        case PL_SLOT_WAKEUP:
            pl_wakeup_clear(&core->wakeup);
            core->wakeups++;
            break;
        case PL_SLOT_UV:
            (void)uv_run(&core->uv, UV_RUN_NOWAIT);
            break;
        case PL_SLOT_CALLBACKS:
            status = pl_watch_on_events(self, slot->owner, event->events);
            break;
        case PL_SLOT_STREAM:
        case PL_SLOT_DATAGRAM:
            status = pl_transport_on_events(slot->owner, event->events);
            break;
        case PL_SLOT_LISTENER:
            status = pl_listener_on_events(slot->owner);
            break;
        }
        if (status < 0) {
            return -1;
        }
    }
    return 0;
}

static int
poll_step(PlLoop *self, bool first)
{
    pl_core *core = self->core;
    int64_t timeout = 0;
    int n;

    if (pl_inbox_pending(&core->inbox)) {
        pl_loop_drain_inbox(self);
    }
    if (pl_ring_count(&self->ready) > 0 || self->stopping) {
        if (!first && !self->stopping && !self->debug &&
            pl_now_ns() - self->polled_ns < POLL_SKIP_NS)
        {
            return 0;
        }
    }
    else {
        timeout = poll_timeout(self);
        if (timeout == -2) {
            return -1;
        }
    }
    self->polls++;
    /* The sleep is announced attached: who pushes to the ring under the GIL
       from here on sees it and wakes the poll. */
    if (timeout != 0 &&
        (!pl_inbox_sleep(&core->inbox) || pl_ring_count(&self->ready) > 0))
    {
        timeout = 0;
    }
    if (timeout == 0) {
        n = pl_poller_wait(&core->poller, 0);
        pl_inbox_wake(&core->inbox);
    }
    else {
        int64_t start = pl_now_ns();

        pl_handle_freelist_trim(self, PL_FREELIST_IDLE, TRIM_PER_SLEEP);
        Py_BEGIN_ALLOW_THREADS
        n = pl_poller_wait(&core->poller, timeout);
        pl_inbox_wake(&core->inbox);
        Py_END_ALLOW_THREADS
        self->idle_ns += (uint64_t)(pl_now_ns() - start);
        if (PyErr_CheckSignals() < 0) {
            return -1;
        }
    }
    if (n < 0) {
        pl_raise_errno(n);
        return -1;
    }
    if (pl_inbox_pending(&core->inbox)) {
        pl_loop_drain_inbox(self);
    }
    if (n > 0 && dispatch_events(self) < 0) {
        return -1;
    }
    if (pl_ring_count(&self->ready) > 0) {
        self->polled_ns = pl_now_ns();
    }
    return 0;
}

static int
expire_timers(PlLoop *self)
{
    pl_heap *timers = &self->timers;

    if (timers->count == 0) {
        return 0;
    }
    double now = pl_loop_time(self);

    if (now == -1.0 && PyErr_Occurred()) {
        return -1;
    }
    while (timers->count > 0 && timers->entries[0].when <= now) {
        PlHandle *handle = pl_heap_pop(timers);

        pl_handle_unset(handle, PL_IN_HEAP);
        if (pl_handle_flags(handle) & PL_CANCELLED) {
            if (self->timers_cancelled > 0) {
                self->timers_cancelled--;
            }
            Py_DECREF(handle);
        }
        else if (pl_loop_push(self, (PyObject *)handle) < 0) {
            return -1;
        }
    }
    /* Cancelled ones at the top would only make the poll wake for them. */
    while (
        timers->count > 0 &&
        (pl_handle_flags((PlHandle *)timers->entries[0].item) & PL_CANCELLED))
    {
        PlHandle *handle = pl_heap_pop(timers);

        pl_handle_unset(handle, PL_IN_HEAP);
        if (self->timers_cancelled > 0) {
            self->timers_cancelled--;
        }
        Py_DECREF(handle);
    }
    return 0;
}

static int
run_entry(PlLoop *self, void *entry)
{
    if (!((uintptr_t)entry & 3)) {
        return pl_handle_run(entry);
    }
    if (pl_entry_is_work(entry)) {
        return pl_work_run(self, pl_entry_work(entry));
    }
    pl_job *job = (pl_job *)((uintptr_t)entry & ~(uintptr_t)1);
    PyObject *owner = job->owner;
    int status = job->run(job);

    Py_DECREF(owner);
    return status;
}

/* Debug mode: time each callback and report the slow ones. */
static int
run_entry_timed(PlLoop *self, void *entry)
{
    PyObject *loop = (PyObject *)self;
    int is_job = ((uintptr_t)entry & 3) != 0;
    PyObject *subject = Py_NewRef(
        pl_entry_is_work(entry) ? loop
        : is_job ? ((pl_job *)((uintptr_t)entry & ~(uintptr_t)1))->owner
                 : (PyObject *)entry);
    double start = (double)pl_now_ns() * 1e-9;
    double limit = 0.1;
    int status;

    if (!is_job &&
        PyObject_SetAttrString(loop, "_current_handle", subject) < 0)
    {
        PyErr_Clear();
    }
    status = run_entry(self, entry);

    PyObject *exc = status < 0 ? PyErr_GetRaisedException() : NULL;
    double took = (double)pl_now_ns() * 1e-9 - start;
    PyObject *duration =
        PyObject_GetAttr(loop, self->st->str_slow_callback_duration);

    if (duration != NULL) {
        limit = PyFloat_AsDouble(duration);
        Py_DECREF(duration);
    }
    PyErr_Clear();
    if (took >= limit && exc == NULL) {
        PyObject *name =
            pl_entry_is_work(entry)
                ? PyUnicode_FromFormat("<native work at %p>",
                                       (void *)pl_entry_work(entry))
            : is_job ? PyObject_Repr(subject)
                     : PyObject_CallOneArg(self->st->format_handle, subject);
        PyObject *done =
            name == NULL
                ? NULL
                : PyObject_CallMethod(self->st->logger, "warning", "sOd",
                                      "Executing %s took %.3f seconds", name,
                                      took);

        if (done == NULL) {
            PyErr_WriteUnraisable(loop);
        }
        Py_XDECREF(done);
        Py_XDECREF(name);
    }
    if (PyObject_SetAttrString(loop, "_current_handle", Py_None) < 0) {
        PyErr_Clear();
    }
    Py_DECREF(subject);
    if (exc != NULL) {
        PyErr_SetRaisedException(exc);
    }
    return status;
}

static int
run_ready(PlLoop *self)
{
    size_t todo = pl_ring_count(&self->ready);

    self->callbacks += todo;
    while (todo-- > 0) {
        void *entry = pl_ring_pop(&self->ready);
        int status = self->debug ? run_entry_timed(self, entry)
                                 : run_entry(self, entry);

        if (status < 0) {
            return -1;
        }
    }
    return 0;
}

static int
turn(PlLoop *self, bool first)
{
    self->turns++;
    if (poll_step(self, first) < 0 || expire_timers(self) < 0 ||
        run_ready(self) < 0)
    {
        return -1;
    }
    return self->written_count > 0 ? pl_loop_flush_written(self) : 0;
}

/* Handles that somebody else holds are the collector's business once the
   loop no longer runs. */
static void
track_waiting(PlLoop *self)
{
    for (size_t i = 0; i < pl_ring_count(&self->ready); i++) {
        void *entry = pl_ring_at(&self->ready, i);

        if (!((uintptr_t)entry & 3) && Py_REFCNT((PyObject *)entry) > 1 &&
            !PyObject_GC_IsTracked(entry))
        {
            PyObject_GC_Track(entry);
        }
    }
}

/* From here on the loop's data is this thread's.  Under the section, so that
   whoever found the loop idle and works on it is waited for. */
static int
take_loop(PlLoop *self)
{
    unsigned long me = PyThread_get_thread_ident();
    unsigned long none = 0;
    PyObject *id = PyLong_FromUnsignedLong(me);
    int taken;

    if (id == NULL) {
        return -1;
    }
    Py_BEGIN_CRITICAL_SECTION(self);
    taken = atomic_compare_exchange_strong(&self->thread, &none, me);
    if (taken) {
        self->thread_id = id;
    }
    Py_END_CRITICAL_SECTION();
    if (!taken) {
        Py_DECREF(id);
        PyErr_SetString(PyExc_RuntimeError,
                        "This event loop is already running");
        return -1;
    }
    return 0;
}

static void
leave_loop(PlLoop *self)
{
    PyObject *id;

    Py_BEGIN_CRITICAL_SECTION(self);
    id = self->thread_id;
    self->thread_id = NULL;
    atomic_store(&self->thread, 0);
    Py_END_CRITICAL_SECTION();
    Py_XDECREF(id);
}

PyObject *
loop_run(PlLoop *self, PyObject *Py_UNUSED(unused))
{
    bool first = true;
    int status;

    if (pl_loop_check_closed(self) < 0) {
        return NULL;
    }
    if (take_loop(self) < 0) {
        return NULL;
    }
    do {
        status = turn(self, first);
        first = false;
    } while (status == 0 && !self->stopping);

    PyObject *exc = status < 0 ? PyErr_GetRaisedException() : NULL;

    if (self->written_count > 0 && pl_loop_flush_written(self) < 0) {
        if (exc == NULL) {
            exc = PyErr_GetRaisedException();
        }
        else {
            PyErr_WriteUnraisable((PyObject *)self);
        }
    }
    track_waiting(self);
    self->stopping = false;
    leave_loop(self);
    if (exc != NULL) {
        PyErr_SetRaisedException(exc);
        return NULL;
    }
    Py_RETURN_NONE;
}
