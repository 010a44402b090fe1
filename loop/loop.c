/* The Loop type: life cycle, attributes, method table. */

#include "context.h"
#include "handle.h"
#include "native.h"
#include "stream.h"
#include "udp.h"

#include <math.h>
#include <structmember.h>

#define MAX_BUSY_POLL_S 0.001

/* -- life cycle -------------------------------------------------------- */

/* Of name, which may be any object; 0: of no method that we call. */
static enum pl_override
override_of(pl_state *st, PyObject *name)
{
    if (!PyUnicode_Check(name)) {
        return 0;
    }
    return PyUnicode_Compare(name, st->str_time) == 0      ? PL_OWN_TIME
           : PyUnicode_Compare(name, st->str_call_at) == 0 ? PL_OWN_CALL_AT
           : PyUnicode_Compare(name, st->str_create_future) == 0
               ? PL_OWN_CREATE_FUTURE
               : 0;
}

/* Which of the methods that we call has the loop's class from somebody else?
   0, or -1 with an exception. */
static int
look_at_class(PlLoop *self)
{
    pl_state *st = self->st;
    PyObject *names[] = {st->str_time, st->str_call_at, st->str_create_future};

    self->class_overrides = 0;
    for (int i = 0; i < 3; i++) {
        PyObject *mine = PyObject_GetAttr((PyObject *)st->LoopType, names[i]);
        PyObject *its = PyObject_GetAttr((PyObject *)Py_TYPE(self), names[i]);
        int status = mine == NULL || its == NULL ? -1 : 0;

        if (mine != its) {
            self->class_overrides |= override_of(st, names[i]);
        }
        Py_XDECREF(mine);
        Py_XDECREF(its);
        if (status < 0) {
            return -1;
        }
    }
    self->overrides = self->class_overrides | self->instance_overrides;
    return 0;
}

static PyObject *
loop_new(PyTypeObject *type, PyObject *Py_UNUSED(args),
         PyObject *Py_UNUSED(kwargs))
{
    pl_state *st = pl_state_by_type(type);

    if (st == NULL) {
        return NULL;
    }
    PlLoop *self = (PlLoop *)type->tp_alloc(type, 0);
    int err;

    if (self == NULL) {
        return NULL;
    }
    self->st = st;
    atomic_init(&self->thread, 0);
    pl_ring_init(&self->ready);
    pl_heap_init(&self->timers);
    self->core = pl_core_new(&err);
    if (self->core == NULL) {
        self->closed = true;
        Py_DECREF(self);
        return pl_raise_errno(err);
    }
    self->core->owner = self;
    if (look_at_class(self) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

/* A handle in the ring, the inbox or the heap that is ours alone may not be
   tracked: stand in for it. */
static int
visit_waiting(PlHandle *handle, visitproc visit, void *arg)
{
    Py_VISIT(handle);
    return !PyObject_GC_IsTracked((PyObject *)handle) && Py_REFCNT(handle) == 1
               ? Py_TYPE(handle)->tp_traverse((PyObject *)handle, visit, arg)
               : 0;
}

static int
visit_entry(void *entry, visitproc visit, void *arg)
{
    if (pl_entry_is_work(entry)) {
        return 0;    /* native: holds nothing we could know of */
    }
    if (pl_entry_is_job(entry)) {
        Py_VISIT(pl_entry_job(entry)->owner);
        return 0;
    }
    return visit_waiting(entry, visit, arg);
}

#if PL_FREE_THREADED

/* Native threads push at any time, others not while the world is stopped;
   native work holds no object, so only a build that sends handles through
   the inbox looks. */
static int
visit_links(pl_link *link, visitproc visit, void *arg)
{
    while (link != NULL && link != PL_INBOX_CLOSED) {
        int status = visit_entry(pl_loop_entry_of_link(link), visit, arg);

        if (status != 0) {
            return status;
        }
        link = link->next;
    }
    return 0;
}

#endif

static int
visit_inbox(PlLoop *self, visitproc visit, void *arg)
{
#if PL_FREE_THREADED
    pl_link *head =
        atomic_load_explicit(&self->core->inbox.head, memory_order_acquire);
    int status = visit_links(head, visit, arg);

    if (status == 0) {
        status = visit_links(self->taken, visit, arg);
    }
    if (status != 0) {
        return status;
    }
#endif
    return 0;
}

static int
loop_traverse(PlLoop *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->task_factory);
    Py_VISIT(self->transports);
    Py_VISIT(self->slow_hook);
    Py_VISIT(self->pristine);
    Py_VISIT(self->scratch);
    Py_VISIT(self->empty);
    Py_VISIT(self->thread_id);
    for (size_t i = 0; i < pl_ring_count(&self->ready); i++) {
        int status = visit_entry(pl_ring_at(&self->ready, i), visit, arg);

        if (status != 0) {
            return status;
        }
    }
    if (self->core != NULL) {
        int status = visit_inbox(self, visit, arg);

        if (status == 0) {
            status = pl_resolve_traverse(self, visit, arg);
        }
        if (status == 0) {
            status = pl_native_tasks_traverse(self, visit, arg);
        }
        if (status == 0) {
            status = pl_promises_traverse(self, visit, arg);
        }
        if (status != 0) {
            return status;
        }
    }
    for (size_t i = 0; i < self->timers.count; i++) {
        int status = visit_waiting(self->timers.entries[i].item, visit, arg);

        if (status != 0) {
            return status;
        }
    }
    for (size_t i = 0; i < self->written_count; i++) {
        Py_VISIT((PyObject *)self->written[i]);
    }
    for (int i = 0; self->core != NULL && i < self->core->slot_count; i++) {
        pl_slot *slot = &self->core->slots[i];

        if (slot->kind == PL_SLOT_CALLBACKS) {
            int status = pl_watch_traverse(slot->owner, visit, arg);

            if (status != 0) {
                return status;
            }
        }
        else if (slot->kind == PL_SLOT_LISTENER ||
                 (pl_slot_is_transport(slot) && slot->events != 0))
        {
            Py_VISIT((PyObject *)slot->owner);
        }
    }
    return 0;
}

static void
drop_entry(void *entry)
{
    if (pl_entry_is_work(entry)) {
        pl_work_discard(pl_entry_work(entry));
    }
    else if (pl_entry_is_job(entry)) {
        Py_DECREF(pl_entry_job(entry)->owner);
    }
    else {
        pl_handle_drop(entry);
    }
}

static void
drop_links(pl_link *link)
{
    while (link != NULL) {
        pl_link *next = link->next;

        drop_entry(pl_loop_entry_of_link(link));
        link = next;
    }
}

/* Everything the loop holds, each piece taken out before it is let go. */
static int
loop_clear(PlLoop *self)
{
    Py_CLEAR(self->task_factory);
    Py_CLEAR(self->transports);
    Py_CLEAR(self->slow_hook);
    pl_context_drop(self);
    pl_resolve_abandon(self);
    if (self->core != NULL && !self->closed) {
        pl_loop_drain_inbox(self);
    }
    while (pl_ring_count(&self->ready) > 0) {
        drop_entry(pl_ring_pop(&self->ready));
    }
    pl_native_tasks_abandon(self);
    pl_promises_abandon(self);
    while (self->timers.count > 0) {
        PlHandle *handle = self->timers.entries[--self->timers.count].item;

        pl_handle_unset(handle, PL_IN_HEAP);
        pl_handle_drop(handle);
    }
    pl_counter_set(&self->timers_cancelled, 0);
    while (self->written_count > 0) {
        Py_XDECREF(self->written[--self->written_count]);
    }
    for (int i = 0; self->core != NULL && i < self->core->slot_count; i++) {
        pl_slot *slot = &self->core->slots[i];
        void *owner = slot->owner;
        int kind = slot->kind;

        int transport = pl_slot_is_transport(slot);

        if (kind != PL_SLOT_CALLBACKS && kind != PL_SLOT_LISTENER &&
            !transport)
        {
            continue;
        }
        int owned = !transport || slot->events != 0;

        pl_core_forget(self->core, i);
        if (kind == PL_SLOT_CALLBACKS) {
            pl_watch_free(owner);
        }
        else if (transport) {
            if (owned) {
                pl_transport_orphan(owner);
            }
        }
        else {
            Py_DECREF((PyObject *)owner);
        }
    }
    return 0;
}

/* Refuses everything from now on; what was queued is dropped, as asyncio's
   close() drops it. */
static void
close_core(PlLoop *self)
{
    /* Whoever works on the idle loop in another thread is waited for. */
    Py_BEGIN_CRITICAL_SECTION(self);
    self->closed = true;
    Py_END_CRITICAL_SECTION();
    if (self->core == NULL) {
        return;
    }
    pl_link *link;

    pl_resolve_abandon(self);
    /* Before posts are refused: a promise is its owner's from then on. */
    pl_promises_abandon(self);
    Py_BEGIN_ALLOW_THREADS
    link = pl_core_close(self->core);
    Py_END_ALLOW_THREADS

    pl_link *taken = self->taken;

    self->taken = NULL;
    drop_links(taken);
    drop_links(link);
    (void)loop_clear(self);
    self->core->owner = NULL;
    pl_handle_freelist_trim(self, 0, PL_FREELIST_MAX);
    pl_ring_fini(&self->ready);
    pl_heap_fini(&self->timers);
    PyMem_Free(self->read_buffer);
    self->read_buffer = NULL;
    Py_CLEAR(self->spare_bytes);
    PyMem_Free(self->written);
    self->written = NULL;
    self->written_capacity = 0;
}

static PyObject *
loop_close_core(PlLoop *self, PyObject *Py_UNUSED(unused))
{
    close_core(self);
    Py_RETURN_NONE;
}

static void
loop_dealloc(PlLoop *self)
{
    PyTypeObject *type = Py_TYPE(self);

    PyObject_GC_UnTrack(self);
    close_core(self);
    if (self->core != NULL) {
        pl_core_release(self->core);
    }
    Py_CLEAR(self->thread_id);
    type->tp_free(self);
    Py_DECREF(type);
}

char *
pl_loop_read_buffer(PlLoop *loop)
{
    if (loop->read_buffer == NULL) {
        loop->read_buffer = PyMem_Malloc(PL_READ_BUFFER);
        if (loop->read_buffer == NULL) {
            PyErr_NoMemory();
        }
    }
    return loop->read_buffer;
}

/* -- attributes -------------------------------------------------------- */

/* Methods replaced on the instance are called too: time() drives the timers. */
static int
loop_setattro(PyObject *op, PyObject *name, PyObject *value)
{
    PlLoop *self = (PlLoop *)op;
    enum pl_override method = override_of(self->st, name);

    if (PyObject_GenericSetAttr(op, name, value) < 0) {
        return -1;
    }
    if (method != 0 && value != NULL) {
        self->instance_overrides |= method;
    }
    else {
        self->instance_overrides &= ~(uint8_t)method;
    }
    self->overrides = self->class_overrides | self->instance_overrides;
    return PyUnicode_Check(name) &&
                   PyUnicode_CompareWithASCIIString(name, "__class__") == 0
               ? look_at_class(self)
               : 0;
}

static PyObject *
loop_stop(PlLoop *self, PyObject *Py_UNUSED(unused))
{
    self->stopping = true;
    Py_RETURN_NONE;
}

static PyObject *
loop_is_running(PlLoop *self, PyObject *Py_UNUSED(unused))
{
    return PyBool_FromLong(atomic_load(&self->thread) != 0);
}

static PyObject *
loop_is_closed(PlLoop *self, PyObject *Py_UNUSED(unused))
{
    return PyBool_FromLong(self->closed);
}

static PyObject *
loop_get_debug(PlLoop *self, PyObject *Py_UNUSED(unused))
{
    return PyBool_FromLong(self->debug);
}

/* Wakes a sleeping loop without giving it work; any thread and from signal
   handlers. */
static PyObject *
loop_write_to_self(PlLoop *self, PyObject *Py_UNUSED(unused))
{
    int err = self->core == NULL ? 0 : pl_core_wake(self->core);

    return err < 0 ? pl_raise_errno(err) : Py_NewRef(Py_None);
}

static PyObject *
loop_get_thread_id(PlLoop *self, void *Py_UNUSED(closure))
{
    PyObject *value;

    Py_BEGIN_CRITICAL_SECTION(self);
    value = Py_NewRef(self->thread_id == NULL ? Py_None : self->thread_id);
    Py_END_CRITICAL_SECTION();
    return value;
}

/* asyncio's plain attributes: what is written is taken for its truth. */
static int
loop_set_bool(PyObject *value, atomic_bool *field)
{
    int truth = value == NULL ? 0 : PyObject_IsTrue(value);

    if (truth < 0) {
        return -1;
    }
    *field = truth;
    return 0;
}

static PyObject *
loop_get_closed(PlLoop *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(self->closed);
}

static int
loop_set_closed(PlLoop *self, PyObject *value, void *Py_UNUSED(closure))
{
    return loop_set_bool(value, &self->closed);
}

static PyObject *
loop_get_stopping(PlLoop *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(self->stopping);
}

static int
loop_set_stopping(PlLoop *self, PyObject *value, void *Py_UNUSED(closure))
{
    return loop_set_bool(value, &self->stopping);
}

static PyObject *
loop_get_debug_flag(PlLoop *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(self->debug);
}

static int
loop_set_debug_flag(PlLoop *self, PyObject *value, void *Py_UNUSED(closure))
{
    int status = loop_set_bool(value, &self->debug);

    pl_loop_set_timed(self);
    return status;
}

/* BaseEventLoop.__init__ writes None; only running sets it. */
static int
loop_set_thread_id(PlLoop *Py_UNUSED(self), PyObject *Py_UNUSED(value),
                   void *Py_UNUSED(closure))
{
    return 0;
}

/* Appending makes nothing that the collector counts: no code of others runs
   and changes ring or heap meanwhile. */
static PyObject *
waiting(PlLoop *self)
{
    PyObject *ready = PyList_New(0);
    PyObject *timers = PyList_New(0);
    int status = ready == NULL || timers == NULL ? -1 : 0;

    if (!self->closed) {
        pl_loop_drain_inbox(self);
    }
    for (size_t i = 0; status == 0 && i < pl_ring_count(&self->ready); i++) {
        void *entry = pl_ring_at(&self->ready, i);

        if (pl_entry_is_work(entry)) {
            entry = Py_None;
        }
        else if (pl_entry_is_job(entry)) {
            entry = pl_entry_job(entry)->owner;
        }
        status = PyList_Append(ready, entry);
    }
    for (size_t i = 0; status == 0 && i < self->timers.count; i++) {
        status = PyList_Append(timers, self->timers.entries[i].item);
    }
    PyObject *both = status < 0 ? NULL : PyTuple_Pack(2, ready, timers);

    Py_XDECREF(ready);
    Py_XDECREF(timers);
    return both;
}

/* ([handle, transport with an event, or None for native work …],
    [timer handle …]) */
static PyObject *
loop_waiting(PlLoop *self, PyObject *Py_UNUSED(unused))
{
    PyObject *both = NULL;

    Py_BEGIN_CRITICAL_SECTION(self);
    if (pl_loop_check_thread(self) == 0) {
        both = waiting(self);
    }
    Py_END_CRITICAL_SECTION();
    return both;
}

/* Readable when the core has something to do: for a selector of the
   program's. */
static PyObject *
loop_poller_fileno(PlLoop *self, PyObject *Py_UNUSED(unused))
{
    return PyLong_FromLong(self->core->poller.fd);
}

/* -- type -------------------------------------------------------------- */

#define FAST(name) (PyCFunction)(void (*)(void)) name, METH_FASTCALL
#define FAST_KEYWORDS(name)                                                   \
    (PyCFunction)(void (*)(void)) name, METH_FASTCALL | METH_KEYWORDS

static PyMethodDef loop_methods[] = {
    {"call_soon", FAST_KEYWORDS(loop_call_soon),
     "call_soon($self, callback, *args, context=None)\n--\n\n"
     "Arrange for callback(*args) to be called in the next turn, after what "
     "was\nscheduled before it. Only from the loop's own thread."},
    {"call_soon_threadsafe", FAST_KEYWORDS(loop_call_soon_threadsafe),
     "call_soon_threadsafe($self, callback, *args, context=None)\n--\n\n"
     "Like call_soon(), from any thread; wakes the loop if it sleeps. "
     "RuntimeError\nonce the loop is closed."},
    {"call_later", FAST_KEYWORDS(loop_call_later),
     "call_later($self, delay, callback, *args, context=None)\n--\n\n"
     "Arrange for callback(*args) to be called after delay seconds, never "
     "earlier."},
    {"call_at", FAST_KEYWORDS(loop_call_at),
     "call_at($self, when, callback, *args, context=None)\n--\n\n"
     "Like call_later() with an absolute time in seconds of loop.time()."},
    {"create_task", FAST_KEYWORDS(loop_create_task),
     "create_task($self, coro, **kwargs)\n--\n\n"
     "Schedule a coroutine; keywords as the running version's Task takes."},
    {"create_future", (PyCFunction)loop_create_future, METH_NOARGS,
     "create_future($self, /)\n--\n\n"
     "A new asyncio.Future of this loop."},
    {"time", (PyCFunction)loop_time, METH_NOARGS,
     "time($self, /)\n--\n\n"
     "Seconds of the monotonic clock; a subclass or an instance that "
     "replaces it\ndrives the timers."},
    {"stop", (PyCFunction)loop_stop, METH_NOARGS,
     "stop($self, /)\n--\n\n"
     "Leave run_forever() at the end of the current turn."},
    {"is_running", (PyCFunction)loop_is_running, METH_NOARGS,
     "is_running($self, /)\n--\n\n"
     "True while run_forever() runs."},
    {"is_closed", (PyCFunction)loop_is_closed, METH_NOARGS,
     "is_closed($self, /)\n--\n\n"
     "True after close()."},
    {"get_debug", (PyCFunction)loop_get_debug, METH_NOARGS,
     "get_debug($self, /)\n--\n\n"
     "True in debug mode."},
    {"add_reader", FAST_KEYWORDS(loop_add_reader),
     "add_reader($self, fd, callback, *args)\n--\n\n"
     "Call callback(*args) whenever fd is readable."},
    {"add_writer", FAST_KEYWORDS(loop_add_writer),
     "add_writer($self, fd, callback, *args)\n--\n\n"
     "Call callback(*args) whenever fd is writable."},
    {"remove_reader", FAST_KEYWORDS(loop_remove_reader),
     "remove_reader($self, fd)\n--\n\n"
     "Stop watching fd for reading; True if it was watched."},
    {"remove_writer", FAST_KEYWORDS(loop_remove_writer),
     "remove_writer($self, fd)\n--\n\n"
     "Stop watching fd for writing; True if it was watched."},
    {"_add_reader", FAST_KEYWORDS(loop_private_add_reader),
     "_add_reader($self, fd, callback, *args)\n--\n\n"},
    {"_add_writer", FAST_KEYWORDS(loop_private_add_writer),
     "_add_writer($self, fd, callback, *args)\n--\n\n"},
    {"_remove_reader", (PyCFunction)loop_private_remove_reader, METH_O, NULL},
    {"_remove_writer", (PyCFunction)loop_private_remove_writer, METH_O, NULL},
    {"_ensure_fd_no_transport", (PyCFunction)loop_ensure_fd_no_transport,
     METH_O, NULL},
    {"_add_callback", (PyCFunction)loop_add_callback, METH_O, NULL},
    {"_write_to_self", (PyCFunction)loop_write_to_self, METH_NOARGS, NULL},
    {"_watched", (PyCFunction)loop_watched, METH_O, NULL},
    {"_wait_writable", (PyCFunction)loop_wait_writable, METH_O, NULL},
    {"_stop_waiting", FAST(loop_stop_waiting), NULL},
    {"_try_read", (PyCFunction)loop_try_read, METH_O, NULL},
    {"_try_recv", FAST(loop_try_recv), NULL},
    {"_try_recv_into", FAST(loop_try_recv_into), NULL},
    {"_try_recvfrom", FAST(loop_try_recvfrom), NULL},
    {"_try_recvfrom_into", FAST(loop_try_recvfrom_into), NULL},
    {"_try_send", FAST(loop_try_send), NULL},
    {"_try_accept", (PyCFunction)loop_try_accept, METH_O, NULL},
    {"_try_connect", FAST(loop_try_connect), NULL},
    {"_finish_connect", FAST(loop_finish_connect), NULL},
    {"_enter", (PyCFunction)loop_enter, METH_NOARGS, NULL},
    {"_leave", (PyCFunction)loop_leave, METH_NOARGS, NULL},
    {"_run", (PyCFunction)loop_run, METH_NOARGS, NULL},
    {"_run_once", (PyCFunction)loop_run_once, METH_NOARGS, NULL},
    {"_poll", (PyCFunction)loop_poll, METH_O, NULL},
    {"_poller_fileno", (PyCFunction)loop_poller_fileno, METH_NOARGS, NULL},
    {"_start_timer", (PyCFunction)loop_start_timer, METH_O, NULL},
    {"_waiting", (PyCFunction)loop_waiting, METH_NOARGS, NULL},
    {"_send_written", (PyCFunction)loop_send_written, METH_NOARGS, NULL},
    {"_close_core", (PyCFunction)loop_close_core, METH_NOARGS, NULL},
    {"stats", (PyCFunction)(void (*)(void))loop_stats,
     METH_VARARGS | METH_KEYWORDS,
     "stats(*, reset=False) -> LoopStats\n\n"
     "What the loop has to do and has done, from any thread. reset=True "
     "starts\nlongest_turn and longest_callback anew."},
    {"set_slow_callback_hook",
     (PyCFunction)(void (*)(void))loop_set_slow_callback_hook,
     METH_VARARGS | METH_KEYWORDS,
     "set_slow_callback_hook(threshold, callback)\n\n"
     "callback(subject, duration) is called in the loop after each callback "
     "that took\nthreshold seconds or more; subject is the Task, Handle or "
     "transport. None for\ncallback removes the hook."},
    {"get_slow_callback_hook", (PyCFunction)loop_get_slow_callback_hook,
     METH_NOARGS,
     "get_slow_callback_hook() -> (threshold, callback), or None."},
    {"_resolve", FAST(loop_resolve), NULL},
    {"_resolve_address", FAST(loop_resolve_address), NULL},
    {"_getaddrinfo", FAST(loop_numeric_getaddrinfo), NULL},
    {"_open_stream", FAST(loop_open_stream), NULL},
    {"_make_stream", FAST(loop_make_stream), NULL},
    {"_make_datagram", FAST(loop_make_datagram), NULL},
    {"_listen", FAST(loop_listen), NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef loop_members[] = {
    {"_task_factory", T_OBJECT, offsetof(PlLoop, task_factory), 0, NULL},
    {"_waits_outside", T_BOOL, offsetof(PlLoop, outside), 0, NULL},
    {"_look_for_signals", T_BOOL, offsetof(PlLoop, look_for_signals), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyObject *
loop_get_busy_poll(PlLoop *self, void *Py_UNUSED(closure))
{
    int64_t limit =
        __atomic_load_n(&self->core->doze_limit_ns, __ATOMIC_RELAXED);

    return PyFloat_FromDouble((double)limit * 1e-9);
}

/* For what only the thread that runs the loop may set.  Under the loop's
   critical section, in which a thread also takes the loop. */
static int
check_owner(PlLoop *self, const char *name)
{
    unsigned long owner = atomic_load(&self->thread);

    if (owner != 0 && owner != pl_thread_ident()) {
        PyErr_Format(PyExc_RuntimeError,
                     "%s is set by the thread that runs the loop", name);
        return -1;
    }
    return 0;
}

static int
loop_set_busy_poll(PlLoop *self, PyObject *value, void *Py_UNUSED(closure))
{
    if (value == NULL) {
        PyErr_SetString(PyExc_AttributeError, "cannot delete busy_poll");
        return -1;
    }
    double seconds = PyFloat_AsDouble(value);

    if (seconds == -1.0 && PyErr_Occurred()) {
        return -1;
    }
    if (!(seconds >= 0.0 && seconds <= MAX_BUSY_POLL_S)) {
        PyErr_SetString(PyExc_ValueError,
                        "busy_poll is a number of seconds, 0 to 0.001");
        return -1;
    }
    int status;

    Py_BEGIN_CRITICAL_SECTION(self);
    status = check_owner(self, "busy_poll");
    if (status == 0) {
        pl_core_set_doze(self->core, (int64_t)llround(seconds * 1e9));
    }
    Py_END_CRITICAL_SECTION();
    return status;
}

static PyObject *
loop_get_io_uring(PlLoop *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(self->core->uring != NULL);
}

static int
loop_set_io_uring(PlLoop *self, PyObject *value, void *Py_UNUSED(closure))
{
    int wanted = value == NULL ? 0 : PyObject_IsTrue(value);
    pl_core *core = self->core;
    int status, err = 0;

    if (wanted < 0) {
        return -1;
    }
    Py_BEGIN_CRITICAL_SECTION(self);
    status =
        pl_loop_check_closed(self) < 0 ? -1 : check_owner(self, "io_uring");
    if (status < 0) {
        /* neither */
    }
    else if (wanted && core->uring == NULL) {
        core->uring = pl_uring_new(&err);
    }
    else if (!wanted && core->uring != NULL) {
        pl_uring_free(core->uring);
        core->uring = NULL;
    }
    Py_END_CRITICAL_SECTION();
    if (err < 0) {
        pl_raise_errno(err);
        return -1;
    }
    return status;
}

static PyGetSetDef loop_getset[] = {
    {"_closed", (getter)loop_get_closed, (setter)loop_set_closed, NULL, NULL},
    {"_stopping", (getter)loop_get_stopping, (setter)loop_set_stopping, NULL,
     NULL},
    {"_debug", (getter)loop_get_debug_flag, (setter)loop_set_debug_flag, NULL,
     NULL},
    {"_thread_id", (getter)loop_get_thread_id, (setter)loop_set_thread_id,
     NULL, NULL},
    {"busy_poll", (getter)loop_get_busy_poll, (setter)loop_set_busy_poll,
     "Seconds a busy loop looks for events before it sleeps; 0: none.", NULL},
    {"io_uring", (getter)loop_get_io_uring, (setter)loop_set_io_uring,
     "True when the sends of a turn leave together, by an io_uring.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot loop_slots[] = {
    {Py_tp_new, loop_new},
    {Py_tp_dealloc, loop_dealloc},
    {Py_tp_traverse, loop_traverse},
    {Py_tp_clear, loop_clear},
    {Py_tp_setattro, loop_setattro},
    {Py_tp_methods, loop_methods},
    {Py_tp_members, loop_members},
    {Py_tp_getset, loop_getset},
    {0, NULL},
};

static PyType_Spec loop_spec = {
    "pyloop._core.Loop",
    sizeof(PlLoop),
    0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE |
        Py_TPFLAGS_IMMUTABLETYPE,
    loop_slots,
};

int
pl_loop_type(PyObject *module, pl_state *st)
{
    st->LoopType =
        (PyTypeObject *)PyType_FromModuleAndSpec(module, &loop_spec, NULL);
    return st->LoopType == NULL
               ? -1
               : PyModule_AddObjectRef(module, "Loop",
                                       (PyObject *)st->LoopType);
}
