/* add_reader, add_writer and their removal, with the errors and the table
   lookups of asyncio's selector loop; and the futures of the sock_ calls.

   A PlWatch is what the descriptor's slot points to: for each side a handle,
   which runs many times, or a waiter, a future that is woken once; and the
   object the descriptor was first named by, so that a file closed without
   remove_reader can still be removed by itself.

   A waiter is asked for over and over, so where there is no handle it is
   registered for one report (EPOLLONESHOT) and left with the kernel after it:
   a wait costs one epoll_ctl of 0.3 µs instead of two that cost 1.6.  What is
   left is silent, a duplicate of a closed descriptor included, and goes with
   the descriptor. */

#include "args.h"
#include "handle.h"
#include "stream.h"

#include <limits.h>

typedef struct {
    PlHandle *handles[2];    /* reader, writer; owned, NULL when absent */
    PyObject *waiters[2]; /* futures; owned, NULL when there is a handle */
    PyObject *file; /* owned; NULL when waiters made the watch */
    int fd;
} PlWatch;

enum side { READER, WRITER };
static const uint32_t side_event[] = {PL_READ, PL_WRITE};

static uint32_t
watch_events(const PlWatch *watch)
{
    uint32_t handles = 0, waiters = 0;

    for (int i = 0; i < 2; i++) {
        handles |= watch->handles[i] != NULL ? side_event[i] : 0;
        waiters |= watch->waiters[i] != NULL ? side_event[i] : 0;
    }
    return handles | waiters | (handles == 0 && waiters != 0 ? PL_ONCE : 0);
}

static PlWatch *
watch_of(PlLoop *loop, int fd)
{
    pl_slot *slot = pl_core_slot(loop->core, fd);

    return slot != NULL && slot->kind == PL_SLOT_CALLBACKS ? slot->owner
                                                           : NULL;
}

static PlWatch *
watch_new(int fd, PyObject *file)
{
    PlWatch *watch = PyMem_Calloc(1, sizeof(*watch));

    if (watch == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    watch->fd = fd;
    watch->file = Py_XNewRef(file);
    return watch;
}

void
pl_watch_free(void *owner)
{
    PlWatch *watch = owner;

    for (int i = 0; i < 2; i++) {
        if (watch->handles[i] != NULL) {
            pl_handle_cancel(watch->handles[i]);
            Py_DECREF(watch->handles[i]);
        }
        Py_XDECREF(watch->waiters[i]);
    }
    Py_XDECREF(watch->file);
    PyMem_Free(watch);
}

/* What is left to watch for after a removal or a report: true when that is
   nothing, and the watch the caller's to free. */
static bool
watch_settle(PlLoop *loop, PlWatch *watch)
{
    uint32_t events = watch_events(watch);

    if (events != 0) {
        (void)pl_core_watch(loop->core, watch->fd, PL_SLOT_CALLBACKS, watch,
                            events);
        return false;
    }
    pl_slot *slot = pl_core_slot(loop->core, watch->fd);

    if (slot->events == PL_PARKED) {
        pl_core_park(slot);
    }
    else {
        pl_core_forget(loop->core, watch->fd);
    }
    return true;
}

void
pl_loop_evict(PlLoop *loop, int fd)
{
    pl_slot *slot = pl_core_slot(loop->core, fd);
    void *stale = slot == NULL ? NULL : slot->owner;

    if (stale == NULL) {
        return;
    }
    switch ((enum pl_slot_kind)slot->kind) {
    case PL_SLOT_CALLBACKS:
        pl_core_forget(loop->core, fd);
        pl_watch_free(stale);
        break;
    case PL_SLOT_STREAM:
    case PL_SLOT_DATAGRAM:
        pl_transport_evict(stale);
        break;
    case PL_SLOT_LISTENER:
        pl_listener_stop(stale);
        break;
    case PL_SLOT_FREE:
    case PL_SLOT_WAKEUP:
    case PL_SLOT_UV:
        break;
    }
}

int
pl_watch_traverse(void *owner, visitproc visit, void *arg)
{
    PlWatch *watch = owner;

    Py_VISIT(watch->handles[READER]);
    Py_VISIT(watch->handles[WRITER]);
    Py_VISIT(watch->waiters[READER]);
    Py_VISIT(watch->waiters[WRITER]);
    Py_VISIT(watch->file);
    return 0;
}

int
pl_watch_on_events(PlLoop *loop, void *owner, uint32_t events)
{
    PlWatch *watch = owner;
    PyObject *woken[2] = {NULL, NULL};
    pl_slot *slot = pl_core_slot(loop->core, watch->fd);
    int status = 0;

    if (slot->events & PL_ONCE) {
        slot->events = PL_PARKED;
    }
    for (int i = 0; i < 2; i++) {
        if (!(events & side_event[i])) {
            continue;
        }
        if (watch->handles[i] != NULL &&
            pl_loop_push(loop, Py_NewRef(watch->handles[i])) < 0)
        {
            status = -1;
        }
        woken[i] = watch->waiters[i];
        watch->waiters[i] = NULL;
    }
    if ((woken[READER] != NULL || woken[WRITER] != NULL) &&
        watch_settle(loop, watch))
    {
        pl_watch_free(watch);
    }
    /* The future schedules its callbacks, which puts a task that waits into
       the place of the handle that asyncio would have run now. */
    for (int i = 0; i < 2; i++) {
        if (woken[i] != NULL) {
            if (status == 0 && pl_future_wake(loop, woken[i]) < 0) {
                status = -1;
            }
            Py_DECREF(woken[i]);
        }
    }
    return status;
}

enum {
    NO_FILE = -1, /* with asyncio's ValueError, or what fileno() raised */
    BELOW_ZERO = -2, /* as that of a closed file */
    TOO_LARGE = -3, /* for a descriptor */
};

/* The number of a file, or one of these.  *number is a new reference. */
static int
number_of(PlLoop *self, PyObject *file, PyObject **number)
{
    *number = PyLong_Check(file)
                  ? Py_NewRef(file)
                  : PyObject_CallMethodNoArgs(file, self->st->str_fileno);
    if (*number != NULL && *number != file) {
        Py_SETREF(*number, PyNumber_Long(*number));
    }
    if (*number == NULL) {
        if (PyErr_ExceptionMatches(PyExc_AttributeError) ||
            PyErr_ExceptionMatches(PyExc_TypeError) ||
            PyErr_ExceptionMatches(PyExc_ValueError))
        {
            PyErr_Clear();
            PyErr_Format(PyExc_ValueError, "Invalid file object: %R", file);
        }
        return NO_FILE;
    }
    int overflow;
    long value = PyLong_AsLongAndOverflow(*number, &overflow);

    return overflow > 0 || value > INT_MAX ? TOO_LARGE
           : value < 0                     ? BELOW_ZERO
                                           : (int)value;
}

/* As selectors do it, with their error for a number below zero; but a file
   that is closed and was registered is found by itself.  The number, NO_FILE
   or TOO_LARGE. */
static int
as_fd(PlLoop *self, PyObject *file)
{
    PyObject *number;
    int fd = number_of(self, file, &number);

    for (int i = 0;
         fd == BELOW_ZERO && number != file && i < self->core->slot_count; i++)
    {
        pl_slot *slot = &self->core->slots[i];

        if (slot->kind == PL_SLOT_CALLBACKS &&
            ((PlWatch *)slot->owner)->file == file)
        {
            fd = i;
        }
    }
    if (fd == BELOW_ZERO) {
        PyErr_Format(PyExc_ValueError, "Invalid file descriptor: %S", number);
        fd = NO_FILE;
    }
    Py_XDECREF(number);
    return fd;
}

static bool
stop_listening(PlLoop *self, int fd)
{
    pl_slot *slot = pl_core_slot(self->core, fd);

    if (slot == NULL || slot->kind != PL_SLOT_LISTENER) {
        return false;
    }
    pl_listener_stop(slot->owner);
    return true;
}

static PyObject *
watch_add(PlLoop *self, PyObject *const *args, Py_ssize_t nargs,
          enum side side)
{
    if (pl_loop_check_closed(self) < 0) {
        return NULL;
    }
    int fd = as_fd(self, args[0]);

    if (fd == TOO_LARGE) {
        PyErr_SetString(PyExc_OverflowError,
                        "Python int too large to convert to C int");
    }
    if (fd < 0) {
        return NULL;
    }
    PyTypeObject *type =
        self->debug ? self->st->DebugHandleType : self->st->HandleType;
    PlHandle *handle =
        pl_handle_new(self, type, args[1], args + 2, nargs - 2, NULL);

    if (handle == NULL) {
        return NULL;
    }
    (void)pl_handle_set(handle, PL_PERSISTENT);
    PyObject_GC_Track(handle);

    pl_slot *slot = pl_core_slot(self->core, fd);

    if (slot != NULL && pl_slot_is_transport(slot)) {
        /* asyncio lets this pass while the transport is closing; it still
           needs the descriptor to send what is queued. */
        PyErr_Format(PyExc_RuntimeError,
                     "File descriptor %R is used by transport %R", args[0],
                     slot->owner);
        Py_DECREF(handle);
        return NULL;
    }
    (void)stop_listening(self, fd);

    PlWatch *watch = watch_of(self, fd);
    int fresh = watch == NULL;

    if (fresh) {
        watch = watch_new(fd, args[0]);
        if (watch == NULL) {
            Py_DECREF(handle);
            return NULL;
        }
    }
    else {
        if (watch->file == NULL) {
            watch->file = Py_NewRef(args[0]);
        }
        /* What was watched may be closed, and the number another's: have the
           kernel look again. */
        slot->events |= PL_PARKED;
    }
    int err =
        pl_core_watch(self->core, fd, PL_SLOT_CALLBACKS, watch,
                      (watch_events(watch) | side_event[side]) & ~PL_ONCE);

    if (err < 0) {
        Py_DECREF(handle);
        if (fresh) {
            pl_watch_free(watch);
        }
        return pl_raise_errno(err);
    }
    PlHandle *old = watch->handles[side];
    PyObject *waiter = watch->waiters[side];

    watch->handles[side] = (PlHandle *)Py_NewRef(handle);
    watch->waiters[side] = NULL;
    if (old != NULL) {
        pl_handle_cancel(old);
        Py_DECREF(old);
    }
    Py_XDECREF(waiter);
    return (PyObject *)handle;
}

static PyObject *
watch_remove(PlLoop *self, PyObject *file, enum side side)
{
    if (self->closed) {
        Py_RETURN_FALSE;
    }
    int fd = as_fd(self, file);

    if (fd == NO_FILE) {
        return NULL;
    }
    PlWatch *watch = watch_of(self, fd);

    if (watch == NULL ||
        (watch->handles[side] == NULL && watch->waiters[side] == NULL))
    {
        /* That of a listening socket is asyncio's too. */
        return PyBool_FromLong(side == READER && stop_listening(self, fd));
    }
    PlHandle *handle = watch->handles[side];
    PyObject *waiter = watch->waiters[side];

    watch->handles[side] = NULL;
    watch->waiters[side] = NULL;
    bool last = watch_settle(self, watch);

    /* From here on user code may run; the watch is ours only when last. */
    if (handle != NULL) {
        pl_handle_cancel(handle);
        Py_DECREF(handle);
    }
    Py_XDECREF(waiter);
    if (last) {
        pl_watch_free(watch);
    }
    Py_RETURN_TRUE;
}

/* Is asyncio's table of transports, a WeakValueDictionary, empty? */
static bool
asyncio_has_none(PlLoop *self)
{
    if (self->transports == NULL) {
        PyObject *table =
            PyObject_GetAttr((PyObject *)self, self->st->str__transports);

        if (table != NULL) {
            self->transports = PyObject_GetAttr(table, self->st->str_data);
            Py_DECREF(table);
        }
        PyErr_Clear(); /* then asyncio's own method says what is wrong */
    }
    return self->transports != NULL && PyDict_CheckExact(self->transports) &&
           PyDict_Size(self->transports) == 0;
}

static PyObject *
ensure_fd_no_transport(PlLoop *self, PyObject *file)
{
    PyObject *number;
    int fd = number_of(self, file, &number);

    if (fd == NO_FILE) {
        return NULL;
    }
    PyObject *transport = pl_transport_of_fd(self, fd);

    if (transport != NULL) {
        PyErr_Format(PyExc_RuntimeError,
                     "File descriptor %R is used by transport %R", file,
                     transport);
        Py_DECREF(number);
        return NULL;
    }
    /* asyncio's own transports (pipes) are in its table. */
    PyObject *none =
        asyncio_has_none(self)
            ? Py_NewRef(Py_None)
            : PyObject_CallFunctionObjArgs(self->st->ensure_fd_no_transport,
                                           self, number, NULL);

    Py_DECREF(number);
    return none;
}

PyObject *
loop_ensure_fd_no_transport(PlLoop *self, PyObject *file)
{
    PyObject *none;

    Py_BEGIN_CRITICAL_SECTION(self);
    none = ensure_fd_no_transport(self, file);
    Py_END_CRITICAL_SECTION();
    return none;
}

/* What add_reader() asks and _add_reader() does not: the thread, and that no
   transport has the file. */
static int
check_file(PlLoop *self, PyObject *file)
{
    PyObject *none = pl_loop_check_thread(self) < 0
                         ? NULL
                         : ensure_fd_no_transport(self, file);

    Py_XDECREF(none);
    return none == NULL ? -1 : 0;
}

static const pl_signature add_signature[2] = {
    [READER] = {"add_reader", {"fd", "callback"}, 2, false},
    [WRITER] = {"add_writer", {"fd", "callback"}, 2, false},
};

/* The handle, or NULL. */
static PyObject *
add(PlLoop *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
    enum side side, bool check)
{
    pl_call call;
    PyObject *handle = NULL;

    if (pl_call_parse(self->st, &add_signature[side], args, nargs, kwnames,
                      &call) < 0)
    {
        return NULL;
    }
    Py_BEGIN_CRITICAL_SECTION(self);
    if (!check || check_file(self, call.args[0]) == 0) {
        handle = watch_add(self, call.args, call.nargs, side);
    }
    Py_END_CRITICAL_SECTION();
    return handle;
}

static PyObject *
checked_add(PlLoop *self, PyObject *const *args, Py_ssize_t nargs,
            PyObject *kwnames, enum side side)
{
    PyObject *handle = add(self, args, nargs, kwnames, side, true);

    if (handle == NULL) {
        return NULL;
    }
    Py_DECREF(handle);
    Py_RETURN_NONE;
}

static PyObject *
checked_remove(PlLoop *self, PyObject *const *args, Py_ssize_t nargs,
               PyObject *kwnames, enum side side)
{
    static const char *const method[] = {"remove_reader", "remove_writer"};
    PyObject *file =
        pl_only_argument(method[side], "fd", args, nargs, kwnames);
    PyObject *result = NULL;

    if (file == NULL) {
        return NULL;
    }
    Py_BEGIN_CRITICAL_SECTION(self);
    if (check_file(self, file) == 0) {
        result = watch_remove(self, file, side);
    }
    Py_END_CRITICAL_SECTION();
    return result;
}

PyObject *
loop_add_reader(PlLoop *self, PyObject *const *args, Py_ssize_t nargs,
                PyObject *kwnames)
{
    return checked_add(self, args, nargs, kwnames, READER);
}

PyObject *
loop_add_writer(PlLoop *self, PyObject *const *args, Py_ssize_t nargs,
                PyObject *kwnames)
{
    return checked_add(self, args, nargs, kwnames, WRITER);
}

PyObject *
loop_remove_reader(PlLoop *self, PyObject *const *args, Py_ssize_t nargs,
                   PyObject *kwnames)
{
    return checked_remove(self, args, nargs, kwnames, READER);
}

PyObject *
loop_remove_writer(PlLoop *self, PyObject *const *args, Py_ssize_t nargs,
                   PyObject *kwnames)
{
    return checked_remove(self, args, nargs, kwnames, WRITER);
}

PyObject *
loop_private_add_reader(PlLoop *self, PyObject *const *args, Py_ssize_t nargs,
                        PyObject *kwnames)
{
    return add(self, args, nargs, kwnames, READER, false);
}

PyObject *
loop_private_add_writer(PlLoop *self, PyObject *const *args, Py_ssize_t nargs,
                        PyObject *kwnames)
{
    return add(self, args, nargs, kwnames, WRITER, false);
}

PyObject *
loop_private_remove_reader(PlLoop *self, PyObject *file)
{
    return watch_remove(self, file, READER);
}

PyObject *
loop_private_remove_writer(PlLoop *self, PyObject *file)
{
    return watch_remove(self, file, WRITER);
}

/* -- waiters ------------------------------------------------------------- */

/* Neither our transports nor asyncio's have it. */
static int
check_no_transport(PlLoop *self, int fd)
{
    pl_slot *slot = pl_core_slot(self->core, fd);

    if (asyncio_has_none(self) &&
        (slot == NULL || !pl_slot_is_transport(slot)))
    {
        return 0;
    }
    PyObject *number = PyLong_FromLong(fd);
    PyObject *none =
        number == NULL ? NULL : ensure_fd_no_transport(self, number);

    Py_XDECREF(number);
    if (none == NULL) {
        return -1;
    }
    Py_DECREF(none);
    slot = pl_core_slot(self->core, fd);
    if (slot != NULL && pl_slot_is_transport(slot)) {
        PyErr_Format(PyExc_RuntimeError,
                     "File descriptor %d is used by transport %R", fd,
                     slot->owner);
        return -1;
    }
    return 0;
}

static PyObject *
wait_locked(PlLoop *self, int fd, enum side side)
{
    if (pl_loop_check_thread(self) < 0 || pl_loop_check_closed(self) < 0 ||
        check_no_transport(self, fd) < 0)
    {
        return NULL;
    }
    PyObject *waiter = pl_future_new(self);

    if (waiter == NULL) {
        return NULL;
    }
    (void)stop_listening(self, fd);

    pl_slot *slot = pl_core_slot(self->core, fd);
    PlWatch *watch = watch_of(self, fd);
    PlWatch *fresh = NULL;

    if (watch == NULL) {
        watch = fresh = watch_new(fd, NULL);
        if (watch == NULL) {
            Py_DECREF(waiter);
            return NULL;
        }
    }
    else if (watch->waiters[side] != NULL) {
        /* Whoever waits there may have waited for a descriptor that is
           closed by now: have the kernel look again. */
        slot->events |= PL_PARKED;
    }
    PlHandle *handle = watch->handles[side];
    PyObject *old = watch->waiters[side];

    watch->handles[side] = NULL;
    watch->waiters[side] = waiter;
    int err = pl_core_watch(self->core, fd, PL_SLOT_CALLBACKS, watch,
                            watch_events(watch));

    if (err < 0) {
        watch->handles[side] = handle;
        watch->waiters[side] = old;
        Py_DECREF(waiter);
        if (fresh != NULL) {
            pl_watch_free(fresh);
        }
        return pl_raise_errno(err);
    }
    Py_INCREF(waiter);
    if (handle != NULL) {
        pl_handle_cancel(handle);
        Py_DECREF(handle);
    }
    Py_XDECREF(old);
    return waiter;
}

PyObject *
pl_loop_wait(PlLoop *self, int fd, uint32_t event)
{
    PyObject *waiter;

    Py_BEGIN_CRITICAL_SECTION(self);
    waiter = wait_locked(self, fd, event == PL_READ ? READER : WRITER);
    Py_END_CRITICAL_SECTION();
    return waiter;
}

/* _wait_writable(sock) -> future */
PyObject *
loop_wait_writable(PlLoop *self, PyObject *sock)
{
    int fd = PyObject_AsFileDescriptor(sock);

    return fd < 0 ? NULL : pl_loop_wait(self, fd, PL_WRITE);
}

static bool
drop_waiter(PlLoop *self, int fd, PyObject *waiter)
{
    PlWatch *watch = watch_of(self, fd);

    for (int i = 0; watch != NULL && i < 2; i++) {
        if (watch->waiters[i] == waiter) {
            watch->waiters[i] = NULL;
            if (watch_settle(self, watch)) {
                pl_watch_free(watch);
            }
            Py_DECREF(waiter);
            return true;
        }
    }
    return false;
}

/* _stop_waiting(sock, waiter): cancelled; does nothing for a waiter that has
   been woken or replaced. */
PyObject *
loop_stop_waiting(PlLoop *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 2) {
        PyErr_SetString(PyExc_TypeError, "_stop_waiting takes 2 arguments");
        return NULL;
    }
    if (pl_loop_check_thread(self) < 0) {
        return NULL;
    }
    int fd = PyObject_AsFileDescriptor(args[0]);

    PyErr_Clear(); /* closed, but its number is still in the table */
    Py_BEGIN_CRITICAL_SECTION(self);
    if (!self->closed && !drop_waiter(self, fd, args[1])) {
        for (int i = 0; i < self->core->slot_count; i++) {
            if (drop_waiter(self, i, args[1])) {
                break;
            }
        }
    }
    Py_END_CRITICAL_SECTION();
    Py_RETURN_NONE;
}

/* The events a descriptor is watched for, for representations: a bit mask
   as in selectors (1 read, 2 write). */
PyObject *
loop_watched(PlLoop *self, PyObject *file)
{
    int fd = PyLong_AsInt(file);

    if (fd == -1 && PyErr_Occurred()) {
        return NULL;
    }
    pl_slot *slot = pl_core_slot(self->core, fd);

    return PyLong_FromLong(slot == NULL ? 0
                                        : slot->events & (PL_READ | PL_WRITE));
}
