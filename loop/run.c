/* The turn, and run_forever's body around it: enter, turns, leave.

   One turn, in asyncio's order: poll; hand-offs and readiness go to the
   ready ring, then the timers that are due; run exactly what the ring held;
   send what was written.  The only wait is in poll_step, and the thread
   state is given up around nothing else. */

#include "context.h"
#include "handle.h"
#include "native.h"
#include "stream.h"

#include <math.h>

/* Under load a poll may be left out this long after the last one, so that
   chained callbacks do not pay a system call a turn: 1.8 → 4.6 M turns a
   second.  The bound within which I/O is seen; not after a descriptor was
   registered, which is looked at in the next turn. */
#define POLL_SKIP_NS 20000

/* Handles given back before a sleep: some 10 us.  Not more often, or a loop
   that sleeps between the timers of a burst makes them anew for the next, and
   sets off the collector (5,000 timers within 9 ms: 425 -> 470 k/s). */
#define TRIM_PER_SLEEP 512
#define TRIM_EVERY_NS 10000000
#define MAX_WAIT_S 86400.0    /* asyncio's MAXIMUM_SELECT_TIMEOUT */

/* The clock is looked at after each turn, before a poll: what lies between
   two looks is a turn's work, but for the sleep, which sets looked_ns too. */
static int64_t
look(PlLoop *self)
{
    int64_t now = pl_now_ns();

    pl_counter_max(&self->counters.longest_turn_ns, now - self->looked_ns);
    self->looked_ns = now;
    return now;
}

/* A cancelled timer at the top of the heap would only make the poll wake. */
static void
drop_cancelled(PlLoop *self)
{
    pl_heap *timers = &self->timers;

    while (
        timers->count > 0 &&
        (pl_handle_flags((PlHandle *)timers->entries[0].item) & PL_CANCELLED))
    {
        PlHandle *handle = pl_heap_pop(timers);

        pl_handle_unset(handle, PL_IN_HEAP);
        if (self->timers_cancelled > 0) {
            pl_counter_add(&self->timers_cancelled, (uint64_t)-1);
        }
        pl_handle_drop(handle);
    }
}

/* How long the poll may block, in seconds; < 0 for ever.  0, or -1 with an
   exception when time() fails. */
static int
poll_timeout(PlLoop *self, double *seconds)
{
    int64_t now_ns = look(self);

    drop_cancelled(self);
    if (self->timers.count == 0) {
        *seconds = -1.0;
        return 0;
    }
    double now = self->overrides & PL_OWN_TIME ? pl_loop_time(self)
                                               : (double)now_ns * 1e-9;

    if (now == -1.0 && PyErr_Occurred()) {
        return -1;
    }
    double wait = self->timers.entries[0].when - now;

    *seconds = !(wait > 0.0) ? 0.0 : wait < MAX_WAIT_S ? wait : MAX_WAIT_S;
    return 0;
}

/* Rounded up, or a timer would find itself early and wait again. */
static int64_t
as_ns(double seconds)
{
    return seconds < 0.0 ? -1 : (int64_t)ceil(fmin(seconds, MAX_WAIT_S) * 1e9);
}

static void
trim_freelist(PlLoop *self, int64_t now_ns)
{
    if (now_ns - self->trimmed_ns >= TRIM_EVERY_NS) {
        self->trimmed_ns = now_ns;
        pl_handle_freelist_trim(self, PL_FREELIST_IDLE, TRIM_PER_SLEEP);
    }
}

/* All of them, whatever happens: what is reported once is not reported
   again. */
static int
dispatch_events(PlLoop *self)
{
    pl_core *core = self->core;
    pl_poller *poller = &core->poller;
    PyObject *raised = NULL;
    bool stray = false;

    for (int i = 0; i < poller->count; i++) {
        pl_event *event = &poller->batch[i];
        pl_slot *slot = pl_core_slot(core, event->fd);
        int status = 0;

        if (slot == NULL || slot->generation != event->generation) {
            stray = true;
            continue;
        }
        switch ((enum pl_slot_kind)slot->kind) {
        case PL_SLOT_FREE:
            stray = true;
            break;
        case PL_SLOT_WAKEUP:
            pl_wakeup_clear(&core->wakeup);
            pl_counter_add(&core->wakeups, 1);
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
        if (status < 0 && raised == NULL) {
            raised = PyErr_GetRaisedException();
        }
        else if (status < 0) {
            PyErr_WriteUnraisable((PyObject *)self);
        }
    }
    /* Who waits in our place has the poller in a poller of its own. */
    if (!self->outside) {
        pl_core_note_stray(core, stray);
    }
    if (raised != NULL) {
        PyErr_SetRaisedException(raised);
        return -1;
    }
    return 0;
}

/* Waits for at most timeout (< 0 for ever) and dispatches what came. */
static int
poll_core(PlLoop *self, int64_t timeout)
{
    pl_core *core = self->core;
    PyObject *raised = NULL;    /* by a signal's handler */
    int n;

    pl_counter_add(&self->counters.polls, 1);
    /* The sleep is announced attached: who pushes to the ring under the GIL
       from here on sees it and wakes the poll. */
    if (timeout != 0 &&
        (!pl_core_lie_down(core) || pl_ring_count(&self->ready) > 0))
    {
        timeout = 0;
    }
    if (timeout == 0) {
        n = pl_poller_wait(&core->poller, 0);
        pl_inbox_wake(&core->inbox);
    }
    else {
        int64_t start = self->looked_ns;

        trim_freelist(self, start);
        Py_BEGIN_ALLOW_THREADS
        /* looked_ns is set before it waits for a GIL */
        n = pl_core_wait(core, timeout, &self->looked_ns);
        Py_END_ALLOW_THREADS
        pl_counter_add(&self->counters.idle_ns,
                       (uint64_t)(self->looked_ns - start));
        if (PyErr_CheckSignals() < 0) {
            raised = PyErr_GetRaisedException();
        }
    }
    if (pl_inbox_pending(&core->inbox)) {
        pl_loop_drain_inbox(self);
    }
    if (n < 0) {
        pl_raise_errno(n);
    }
    if (n < 0 || dispatch_events(self) < 0) {
        if (raised == NULL) {
            return -1;
        }
        PyErr_WriteUnraisable((PyObject *)self);
    }
    if (raised != NULL) {
        PyErr_SetRaisedException(raised);
        return -1;
    }
    return 0;
}

/* Where the program has put a selector of its own in the place of ours, that
   one waits, and the core is looked at when it returns.  (It may have called
   ours in its turn: loop_poll.) */
static int
poll_outside(PlLoop *self, double wait)
{
    pl_core *core = self->core;
    int64_t start = look(self);

    if (wait != 0.0 &&
        (!pl_inbox_sleep(&core->inbox) || pl_ring_count(&self->ready) > 0))
    {
        wait = 0.0;
    }
    if (wait != 0.0) {
        trim_freelist(self, start);
    }
    PyObject *seconds =
        wait < 0.0 ? Py_NewRef(Py_None) : PyFloat_FromDouble(wait);
    PyObject *done =
        seconds == NULL
            ? NULL
            : PyObject_CallMethodOneArg((PyObject *)self,
                                        self->st->str__poll_outside, seconds);

    pl_inbox_wake(&core->inbox);
    Py_XDECREF(seconds);
    if (done == NULL) {
        return -1;
    }
    Py_DECREF(done);
    if (wait != 0.0) {
        self->looked_ns = pl_now_ns();
        pl_counter_add(&self->counters.idle_ns,
                       (uint64_t)(self->looked_ns - start));
    }
    /* It may have closed the loop, which is an error, but not of ours. */
    return pl_loop_check_closed(self) < 0 ? -1 : poll_core(self, 0);
}

static int
poll_step(PlLoop *self, bool first)
{
    double wait = 0.0;

    if (pl_inbox_pending(&self->core->inbox)) {
        pl_loop_drain_inbox(self);
    }
    if (pl_ring_count(&self->ready) > 0 || self->stopping) {
        if (!first && !self->stopping && !self->debug && !self->outside &&
            !self->core->poller.changed &&
            look(self) - self->polled_ns < POLL_SKIP_NS)
        {
            return 0;
        }
    }
    else {
        if (self->look_for_signals && PyErr_CheckSignals() < 0) {
            return -1;
        }
        if (pl_ring_count(&self->ready) == 0 && !self->stopping) {
            pl_context_rest(self);
            if (poll_timeout(self, &wait) < 0) {
                return -1;
            }
        }
    }
    if ((self->outside ? poll_outside(self, wait)
                       : poll_core(self, as_ns(wait))) < 0)
    {
        return -1;
    }
    if (pl_ring_count(&self->ready) > 0) {
        self->polled_ns = look(self);
    }
    return 0;
}

/* What is due until then runs now.  Of a time() of somebody else's asyncio's
   _clock_resolution more, or a clock that does not get quite there would stand
   still.  -1.0 and an exception. */
static double
due_until(PlLoop *self)
{
    double now = pl_loop_time(self);

    if (!(self->overrides & PL_OWN_TIME) || (now == -1.0 && PyErr_Occurred()))
    {
        return now;
    }
    PyObject *attribute =
        PyObject_GetAttrString((PyObject *)self, "_clock_resolution");
    double resolution = attribute == NULL ? -1.0 : PyFloat_AsDouble(attribute);

    Py_XDECREF(attribute);
    /* Until, and not at. */
    return PyErr_Occurred() ? -1.0 : nextafter(now + resolution, -HUGE_VAL);
}

static int
expire_timers(PlLoop *self)
{
    pl_heap *timers = &self->timers;

    if (timers->count == 0) {
        return 0;
    }
    double until = due_until(self);

    if (until == -1.0 && PyErr_Occurred()) {
        return -1;
    }
    while (timers->count > 0 && timers->entries[0].when <= until) {
        PlHandle *handle = pl_heap_pop(timers);

        pl_handle_unset(handle, PL_IN_HEAP);
        if (pl_handle_flags(handle) & PL_CANCELLED) {
            if (self->timers_cancelled > 0) {
                pl_counter_add(&self->timers_cancelled, (uint64_t)-1);
            }
            pl_handle_drop(handle);
        }
        else if (pl_loop_push(self, (PyObject *)handle) < 0) {
            return -1;
        }
    }
    return 0;
}

static int
run_entry(PlLoop *self, void *entry)
{
    if (pl_entry_is_handle(entry)) {
        return pl_handle_run(entry);
    }
    if (pl_entry_is_work(entry)) {
        return pl_work_run(self, pl_entry_work(entry));
    }
    pl_job *job = pl_entry_job(entry);
    PyObject *owner = job->owner;
    int status = job->run(job);

    Py_DECREF(owner);
    return status;
}

/* -- callbacks that are timed ------------------------------------------- */

/* New ref: what a report shows for the entry that has run.  Of a step of a
   task the task, as asyncio does. */
static PyObject *
entry_subject(PlLoop *self, void *entry, PyObject *owner)
{
    if (pl_entry_is_work(entry)) {
        return PyUnicode_FromFormat("<native work at %p>",
                                    (void *)pl_entry_work(entry));
    }
    if (owner != NULL) {
        return Py_NewRef(owner);
    }
    PyObject *callback = ((PlHandle *)entry)->callback;
    PyObject *task = callback == NULL
                         ? NULL
                         : PyObject_GetAttr(callback, self->st->str___self__);

    if (task == NULL) {
        if (callback != NULL && !PyErr_ExceptionMatches(PyExc_AttributeError))
        {
            return NULL;
        }
        PyErr_Clear();
    }
    else {
        int is_task = PyObject_IsInstance(task, self->st->task_type);

        if (is_task > 0) {
            return task;
        }
        Py_DECREF(task);
        if (is_task < 0) {
            return NULL;
        }
    }
    return Py_NewRef((PyObject *)entry);
}

/* 0, or -1 with what has to leave the loop. */
static int
call_slow_hook(PlLoop *self, PyObject *subject, int64_t took)
{
    PyObject *hook = Py_NewRef(self->slow_hook);
    PyObject *duration = PyFloat_FromDouble((double)took * 1e-9);
    PyObject *done =
        duration == NULL
            ? NULL
            : PyObject_CallFunctionObjArgs(hook, subject, duration, NULL);
    int status = 0;

    if (done == NULL) {
        status =
            pl_leaves_loop()
                ? -1
                : pl_report(self, "Exception in slow callback hook",
                            PyErr_GetRaisedException(), "slow", subject, NULL);
    }
    Py_XDECREF(done);
    Py_XDECREF(duration);
    Py_DECREF(hook);
    return status;
}

/* Debug mode's report, in asyncio's words.  0, or -1 with any exception. */
static int
log_slow(PlLoop *self, PyObject *subject, int64_t took)
{
    /* Looked up where asyncio does, for those who put their own there. */
    PyObject *logger = PyObject_GetAttrString(self->st->base_events, "logger");
    PyObject *text = logger == NULL             ? NULL
                     : PyUnicode_Check(subject) ? Py_NewRef(subject)
                                                : PyObject_Repr(subject);
    PyObject *done =
        text == NULL ? NULL
                     : PyObject_CallMethod(logger, "warning", "sOd",
                                           "Executing %s took %.3f seconds",
                                           text, (double)took * 1e-9);

    Py_XDECREF(done);
    Py_XDECREF(logger);
    Py_XDECREF(text);
    return done == NULL ? -1 : 0;
}

/* 1, 0, or -1 with an exception: the attribute is whatever was set. */
static int
is_slow(PlLoop *self, int64_t took)
{
    PyObject *limit = PyObject_GetAttr((PyObject *)self,
                                       self->st->str_slow_callback_duration);
    PyObject *seconds = PyFloat_FromDouble((double)took * 1e-9);
    int slow = limit == NULL || seconds == NULL
                   ? -1
                   : PyObject_RichCompareBool(seconds, limit, Py_GE);

    Py_XDECREF(limit);
    Py_XDECREF(seconds);
    return slow;
}

static void
set_current_handle(PlLoop *self, PyObject *handle)
{
    if (PyObject_SetAttrString((PyObject *)self, "_current_handle", handle) <
        0)
    {
        PyErr_Clear();
    }
}

/* It was slow for debug mode, for the hook, or for both. */
static int
report_slow(PlLoop *self, void *entry, PyObject *owner, int64_t took)
{
    int logs = self->debug ? is_slow(self, took) : 0;
    int hooks = self->slow_hook != NULL && took >= self->slow_ns;

    if (logs < 0) {
        return -1;
    }
    if (!logs && !hooks) {
        return 0;
    }
    PyObject *subject = entry_subject(self, entry, owner);

    if (subject == NULL) {
        return -1;
    }
    int status = logs ? log_slow(self, subject, took) : 0;

    if (status == 0 && hooks) {
        status = call_slow_hook(self, subject, took);
    }

    Py_DECREF(subject);
    return status;
}

/* With the hook or in debug mode: one look at the clock for each callback,
   whose end is the start of the next. */
static int
run_entry_timed(PlLoop *self, void *entry)
{
    PyObject *owner = NULL;
    int is_handle = pl_entry_is_handle(entry);
    int debug = self->debug;
    int64_t start = self->timed_ns == 0 ? pl_now_ns() : self->timed_ns;
    int status;

    if (is_handle) {
        if (debug) {
            set_current_handle(self, entry);
        }
        status = pl_handle_call(entry);
    }
    else if (pl_entry_is_work(entry)) {
        status = pl_work_run(self, pl_entry_work(entry));
    }
    else {
        pl_job *job = pl_entry_job(entry);

        owner = job->owner;
        status = job->run(job);
    }
    int64_t end = pl_now_ns();
    int64_t took = end - start;

    self->timed_ns = end;
    pl_counter_max(&self->counters.longest_callback_ns, took);
    if (status == 0 && (debug || took >= self->slow_ns)) {
        if (report_slow(self, entry, owner, took) < 0) {
            status = -1;
        }
        self->timed_ns = 0;
    }

    PyObject *exc = status < 0 ? PyErr_GetRaisedException() : NULL;

    if (debug) {
        set_current_handle(self, Py_None);
    }
    if (exc != NULL) {
        PyErr_SetRaisedException(exc);
    }
    if (is_handle) {
        return pl_handle_end(entry, status);
    }
    Py_XDECREF(owner);
    return status;
}

static int
run_ready(PlLoop *self)
{
    size_t todo = pl_ring_count(&self->ready);

    pl_counter_add(&self->counters.callbacks, todo);
    self->timed_ns = 0;
    while (todo-- > 0) {
        void *entry = pl_ring_pop(&self->ready);
        int status = self->timed ? run_entry_timed(self, entry)
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
    pl_counter_add(&self->counters.turns, 1);
    if (poll_step(self, first) < 0 || expire_timers(self) < 0 ||
        run_ready(self) < 0)
    {
        return -1;
    }
    return self->written_count > 0 ? pl_loop_flush_written(self) : 0;
}

/* Turns until stop(), or one.  The loop is this thread's. */
static int
run_turns(PlLoop *self, bool once)
{
    bool first = true;
    int status;

    if (self->in_turn) {
        PyErr_SetString(PyExc_RuntimeError,
                        "This event loop is already running");
        return -1;
    }
    self->in_turn = self->bounded = true;
    self->looked_ns = pl_now_ns();
    do {
        status = turn(self, first);
        first = false;
    } while (status == 0 && !once && !self->stopping);

    PyObject *exc = status < 0 ? PyErr_GetRaisedException() : NULL;

    self->bounded = false;
    if (self->written_count > 0 && pl_loop_flush_written(self) < 0) {
        if (exc == NULL) {
            exc = PyErr_GetRaisedException();
        }
        else {
            PyErr_WriteUnraisable((PyObject *)self);
        }
    }
    (void)look(self);
    self->in_turn = false;
    if (exc != NULL) {
        PyErr_SetRaisedException(exc);
        return -1;
    }
    return 0;
}

/* Handles that somebody else holds are the collector's business once the
   loop no longer runs. */
static void
track_waiting(PlLoop *self)
{
    for (size_t i = 0; i < pl_ring_count(&self->ready); i++) {
        void *entry = pl_ring_at(&self->ready, i);

        if (pl_entry_is_handle(entry) && Py_REFCNT((PyObject *)entry) > 1 &&
            !PyObject_GC_IsTracked(entry))
        {
            PyObject_GC_Track(entry);
        }
    }
    if (!self->timers_untracked) {
        return;
    }
    self->timers_untracked = false;
    for (size_t i = 0; i < self->timers.count; i++) {
        PyObject *timer = self->timers.entries[i].item;

        if (!PyObject_GC_IsTracked(timer)) {
            PyObject_GC_Track(timer);
        }
    }
}

/* From here on the loop's data is this thread's.  Under the section, so that
   whoever found the loop idle and works on it is waited for. */
static int
take_loop(PlLoop *self)
{
    unsigned long me = pl_thread_ident();
    unsigned long none = 0;
    PyObject *id = PyLong_FromUnsignedLong(PyThread_get_thread_ident());
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

    track_waiting(self);
    pl_context_drop(self);
    self->stopping = false;
#if PL_FREE_THREADED
    /* What is scheduled before a run is made anew, and given back in it. */
    pl_handle_freelist_trim(self, PL_FREELIST_IDLE, PL_FREELIST_MAX);
#endif
    Py_BEGIN_CRITICAL_SECTION(self);
    id = self->thread_id;
    self->thread_id = NULL;
    atomic_store(&self->thread, 0);
    Py_END_CRITICAL_SECTION();
    Py_XDECREF(id);
}

static bool
is_ours(PlLoop *self)
{
    return atomic_load(&self->thread) == pl_thread_ident();
}

PyObject *
loop_enter(PlLoop *self, PyObject *Py_UNUSED(unused))
{
    if (pl_loop_check_closed(self) < 0 || take_loop(self) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyObject *
loop_leave(PlLoop *self, PyObject *Py_UNUSED(unused))
{
    if (is_ours(self)) {
        leave_loop(self);
    }
    Py_RETURN_NONE;
}

PyObject *
loop_run(PlLoop *self, PyObject *Py_UNUSED(unused))
{
    if (!is_ours(self)) {
        PyErr_SetString(PyExc_RuntimeError, "This event loop is not entered");
        return NULL;
    }
    return run_turns(self, false) < 0 ? NULL : Py_NewRef(Py_None);
}

/* select(seconds) of the selector that stands for the core, None for ever: has
   something come? */
PyObject *
loop_poll(PlLoop *self, PyObject *seconds)
{
    double wait = seconds == Py_None ? -1.0 : PyFloat_AsDouble(seconds);

    if (PyErr_Occurred() || pl_loop_check_closed(self) < 0 ||
        pl_loop_insist_thread(self) < 0)
    {
        return NULL;
    }
    if (seconds != Py_None && !(wait > 0.0)) {
        wait = 0.0;
    }
    pl_inbox_wake(&self->core->inbox);
    (void)look(self);
    return poll_core(self, as_ns(wait)) < 0
               ? NULL
               : PyBool_FromLong(pl_ring_count(&self->ready) > 0);
}

PyObject *
loop_run_once(PlLoop *self, PyObject *Py_UNUSED(unused))
{
    bool entered = is_ours(self);
    int status;

    if (pl_loop_check_closed(self) < 0 || (!entered && take_loop(self) < 0)) {
        return NULL;
    }
    status = run_turns(self, true);
    if (!entered) {
        leave_loop(self);
    }
    return status < 0 ? NULL : Py_NewRef(Py_None);
}
