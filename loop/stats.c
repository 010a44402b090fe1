/* loop.stats() and the slow-callback hook's registration.

   What is counted all the time costs an addition each (stats.h), and no look
   at the clock that the turn does not take anyway: a turn's length is known
   at its end.  The length of a callback costs one look for each, so it is
   taken only while the hook is set: run.c. */

#include "loop.h"

#include <math.h>

static const PyStructSequence_Field fields[] = {
    {"ready", "callbacks that wait to be run"},
    {"timers", "timers that are set and not cancelled"},
    {"timers_cancelled", "cancelled timers that still take memory"},
    {"transports", "open stream and datagram transports"},
    {"listeners", "sockets that accept connections"},
    {"watched", "descriptors with add_reader() or add_writer() callbacks"},
    {"turns", "turns of the loop"},
    {"polls", "times it asked the kernel for events"},
    {"callbacks", "callbacks that were run, I/O included"},
    {"handoffs", "calls of call_soon_threadsafe() and native posts; on a "
                 "free-threaded build also of call_soon() from outside"},
    {"wakeups", "times a hand-off woke the loop"},
    {"batched_sends", "sends of streams that left with others', by io_uring"},
    {"idle_time", "seconds it slept, waiting for events"},
    {"busy_poll_time", "seconds of it in which it looked for them"},
    {"longest_turn", "seconds of the longest turn without the sleep"},
    {"longest_callback", "seconds of the longest callback while there was a "
                         "slow-callback hook, else 0.0"},
    {NULL, NULL},
};

int
pl_stats_type(PyObject *module, pl_state *st)
{
    PyStructSequence_Desc description = {
        "pyloop.LoopStats",
        "What a loop has to do and has done; see EventLoop.stats().",
        (PyStructSequence_Field *)fields,
        sizeof(fields) / sizeof(*fields) - 1,
    };

    st->StatsType = PyStructSequence_NewType(&description);
    return st->StatsType == NULL
               ? -1
               : PyModule_AddObjectRef(module, "LoopStats",
                                       (PyObject *)st->StatsType);
}

/* In the order of `fields`: -1 and an exception, or 0. */
static int
fill(PlLoop *self, PyObject *stats)
{
    const pl_counters *counters = &self->counters;
    const pl_core *core = self->core;
    uint64_t timers = __atomic_load_n(&self->timers.count, __ATOMIC_RELAXED);
    uint64_t cancelled = pl_counter_read(&self->timers_cancelled);

    if (cancelled > timers) {
        cancelled = timers;    /* between the two looks some were swept */
    }
    const uint64_t counts[] = {
        pl_ring_look(&self->ready),
        timers - cancelled,
        cancelled,
        pl_counter_read(&core->used[PL_SLOT_STREAM]) +
            pl_counter_read(&core->used[PL_SLOT_DATAGRAM]),
        pl_counter_read(&core->used[PL_SLOT_LISTENER]),
        pl_counter_read(&core->used[PL_SLOT_CALLBACKS]),
        pl_counter_read(&counters->turns),
        pl_counter_read(&counters->polls),
        pl_counter_read(&counters->callbacks),
        pl_counter_read(&counters->handoffs),
        pl_counter_read(&core->wakeups),
        pl_counter_read(&counters->batched_sends),
    };
    const uint64_t times[] = {
        pl_counter_read(&counters->idle_ns),
        pl_counter_read(&core->dozed_ns),
        pl_counter_read(&counters->longest_turn_ns),
        pl_counter_read(&counters->longest_callback_ns),
    };
    const size_t n = sizeof(counts) / sizeof(*counts);

    for (size_t i = 0; i < n + sizeof(times) / sizeof(*times); i++) {
        PyObject *value =
            i < n ? PyLong_FromUnsignedLongLong(counts[i])
                  : PyFloat_FromDouble((double)times[i - n] * 1e-9);

        if (value == NULL) {
            return -1;
        }
        PyStructSequence_SetItem(stats, (Py_ssize_t)i, value);
    }
    return 0;
}

PyObject *
loop_stats(PlLoop *self, PyObject *args, PyObject *kwargs)
{
    static const char *const names[] = {"reset", NULL};
    int reset = 0;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|$p:stats", (char **)names,
                                     &reset))
    {
        return NULL;
    }
#if PL_FREE_THREADED
    /* Where call_soon() of a loop that does not run goes. */
    unsigned long running = atomic_load(&self->thread);

    if (running == 0 || running == pl_thread_ident()) {
        Py_BEGIN_CRITICAL_SECTION(self);
        if (!self->closed && pl_inbox_pending(&self->core->inbox)) {
            pl_loop_drain_inbox(self);
        }
        Py_END_CRITICAL_SECTION();
    }
#endif
    PyObject *stats = PyStructSequence_New(self->st->StatsType);

    if (stats == NULL || fill(self, stats) < 0) {
        Py_XDECREF(stats);
        return NULL;
    }
    if (reset) {
        pl_counter_set(&self->counters.longest_turn_ns, 0);
        pl_counter_set(&self->counters.longest_callback_ns, 0);
    }
    return stats;
}

/* -- the slow-callback hook --------------------------------------------- */

void
pl_loop_set_timed(PlLoop *self)
{
    self->timed = self->debug || self->slow_hook != NULL;
    self->timed_ns = 0;
}

PyObject *
loop_set_slow_callback_hook(PlLoop *self, PyObject *args, PyObject *kwargs)
{
    static const char *const names[] = {"threshold", "callback", NULL};
    double threshold;
    PyObject *callback;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "dO:set_slow_callback_hook",
                                     (char **)names, &threshold, &callback))
    {
        return NULL;
    }
    if (callback == Py_None) {
        callback = NULL;
    }
    else if (!PyCallable_Check(callback)) {
        PyErr_Format(PyExc_TypeError,
                     "A callable object or None is expected, got %R",
                     callback);
        return NULL;
    }
    if (!(threshold >= 0.0) || threshold > 9e9) {
        PyErr_SetString(PyExc_ValueError,
                        "threshold must be a number of seconds, 0 or more");
        return NULL;
    }
    if (pl_loop_check_scheduling(self) < 0) {
        return NULL;
    }
    PyObject *old;

    Py_BEGIN_CRITICAL_SECTION(self);
    old = self->slow_hook;
    self->slow_ns = (int64_t)llround(threshold * 1e9);
    self->slow_hook = Py_XNewRef(callback);
    pl_loop_set_timed(self);
    Py_END_CRITICAL_SECTION();
    Py_XDECREF(old);
    Py_RETURN_NONE;
}

PyObject *
loop_get_slow_callback_hook(PlLoop *self, PyObject *Py_UNUSED(unused))
{
    PyObject *hook;
    double threshold;

    Py_BEGIN_CRITICAL_SECTION(self);
    hook = Py_XNewRef(self->slow_hook);
    threshold = (double)self->slow_ns * 1e-9;
    Py_END_CRITICAL_SECTION();
    return hook == NULL ? Py_NewRef(Py_None)
                        : Py_BuildValue("dN", threshold, hook);
}
