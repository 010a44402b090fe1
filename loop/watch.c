/* add_reader, add_writer and their removal, with the errors and the table
   lookups of asyncio's selector loop.

   A PlWatch is what the descriptor's slot points to: the two handles, which
   run many times, and the object the descriptor was first named by, so that
   a file closed without remove_reader can still be removed by itself. */

#include "handle.h"
#include "stream.h"

typedef struct {
    PlHandle *handles[2];    /* reader, writer; owned, NULL when absent */
    PyObject *file;          /* owned */
} PlWatch;

enum side { READER, WRITER };
static const uint32_t side_event[] = {PL_READ, PL_WRITE};

static uint32_t
watch_events(const PlWatch *watch)
{
    return (watch->handles[READER] != NULL ? PL_READ : 0) |
           (watch->handles[WRITER] != NULL ? PL_WRITE : 0);
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
    }
    Py_DECREF(watch->file);
    PyMem_Free(watch);
}

void
pl_watch_evict(PlLoop *loop, int fd)
{
    pl_slot *slot = pl_core_slot(loop->core, fd);

    if (slot != NULL && slot->kind == PL_SLOT_CALLBACKS) {
        void *stale = slot->owner;

        pl_core_forget(loop->core, fd);
        pl_watch_free(stale);
    }
}

int
pl_watch_traverse(void *owner, visitproc visit, void *arg)
{
    PlWatch *watch = owner;

    Py_VISIT(watch->handles[READER]);
    Py_VISIT(watch->handles[WRITER]);
    Py_VISIT(watch->file);
    return 0;
}

int
pl_watch_on_events(PlLoop *loop, void *owner, uint32_t events)
{
    PlWatch *watch = owner;

    for (int i = 0; i < 2; i++) {
        if ((events & side_event[i]) && watch->handles[i] != NULL &&
            pl_loop_push(loop, Py_NewRef(watch->handles[i])) < 0)
        {
            return -1;
        }
    }
    return 0;
}

/* asyncio's and selectors' conversion and their two errors; -1 in *fd (no
   error) for a file that is closed but was registered: then *slot is its. */
static int
as_fd(PlLoop *self, PyObject *file)
{
    if (PyLong_Check(file)) {
        int fd = PyLong_AsInt(file);

        if (fd == -1 && PyErr_Occurred()) {
            return -1;
        }
        if (fd >= 0) {
            return fd;
        }
        PyErr_Format(PyExc_ValueError, "Invalid file descriptor: %d", fd);
        return -1;
    }
    PyObject *number = PyObject_CallMethodNoArgs(file, self->st->str_fileno);

    if (number != NULL) {
        Py_SETREF(number, PyNumber_Long(number));
    }
    if (number == NULL) {
        if (PyErr_ExceptionMatches(PyExc_AttributeError) ||
            PyErr_ExceptionMatches(PyExc_TypeError) ||
            PyErr_ExceptionMatches(PyExc_ValueError))
        {
            PyErr_Clear();
            PyErr_Format(PyExc_ValueError, "Invalid file object: %R", file);
        }
        return -1;
    }
    int fd = PyLong_AsInt(number);

    Py_DECREF(number);
    if (fd >= 0 || PyErr_Occurred()) {
        return fd;
    }
    for (int i = 0; i < self->core->slot_count; i++) {
        pl_slot *slot = &self->core->slots[i];

        if (slot->kind == PL_SLOT_CALLBACKS &&
            ((PlWatch *)slot->owner)->file == file)
        {
            return i;
        }
    }
    PyErr_Format(PyExc_ValueError, "Invalid file descriptor: %d", fd);
    return -1;
}

static PyObject *
watch_add(PlLoop *self, PyObject *const *args, Py_ssize_t nargs,
          enum side side)
{
    if (nargs < 2) {
        PyErr_Format(PyExc_TypeError,
                     "add_%s() takes a file descriptor and a callback",
                     side == READER ? "reader" : "writer");
        return NULL;
    }
    if (pl_loop_check_closed(self) < 0) {
        return NULL;
    }
    int fd = as_fd(self, args[0]);

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
    if (slot != NULL && slot->kind == PL_SLOT_LISTENER) {
        pl_listener_stop(slot->owner);
    }

    PlWatch *watch =
        slot != NULL && slot->kind == PL_SLOT_CALLBACKS ? slot->owner : NULL;
    int fresh = watch == NULL;

    if (fresh) {
        watch = PyMem_Calloc(1, sizeof(*watch));
        if (watch == NULL) {
            Py_DECREF(handle);
            return PyErr_NoMemory();
        }
        watch->file = Py_NewRef(args[0]);
    }
    int err = pl_core_watch(self->core, fd, PL_SLOT_CALLBACKS, watch,
                            watch_events(watch) | side_event[side]);

    if (err < 0) {
        Py_DECREF(handle);
        if (fresh) {
            pl_watch_free(watch);
        }
        return pl_raise_errno(err);
    }
    PlHandle *old = watch->handles[side];

    watch->handles[side] = (PlHandle *)Py_NewRef(handle);
    if (old != NULL) {
        pl_handle_cancel(old);
        Py_DECREF(old);
    }
    return (PyObject *)handle;
}

static PyObject *
watch_remove(PlLoop *self, PyObject *file, enum side side)
{
    if (self->closed) {
        Py_RETURN_FALSE;
    }
    int fd = as_fd(self, file);

    if (fd < 0) {
        return NULL;
    }
    pl_slot *slot = pl_core_slot(self->core, fd);

    if (slot == NULL || slot->kind != PL_SLOT_CALLBACKS) {
        Py_RETURN_FALSE;
    }
    PlWatch *watch = slot->owner;
    PlHandle *handle = watch->handles[side];

    if (handle == NULL) {
        Py_RETURN_FALSE;
    }
    watch->handles[side] = NULL;
    int last = watch_events(watch) == 0;

    if (last) {
        pl_core_forget(self->core, fd);
    }
    else {
        (void)pl_core_watch(self->core, fd, PL_SLOT_CALLBACKS, watch,
                            watch_events(watch));
    }
    /* From here on user code may run; the watch is ours only when last. */
    pl_handle_cancel(handle);
    Py_DECREF(handle);
    if (last) {
        pl_watch_free(watch);
    }
    Py_RETURN_TRUE;
}

PyObject *
loop_ensure_fd_no_transport(PlLoop *self, PyObject *file)
{
    PyObject *transport = NULL;
    int fd;

    if (PyLong_Check(file)) {
        fd = PyLong_AsInt(file);
        if (fd == -1 && PyErr_Occurred()) {
            return NULL;
        }
    }
    else {
        fd = as_fd(self, file);
        if (fd < 0) {
            if (!PyErr_ExceptionMatches(PyExc_ValueError)) {
                return NULL;
            }
            /* A closed file has no transport; only a non-file is wrong. */
            PyObject *exc = PyErr_GetRaisedException();
            PyObject *number =
                PyObject_CallMethodNoArgs(file, self->st->str_fileno);

            if (number == NULL || !PyLong_Check(number)) {
                Py_XDECREF(number);
                PyErr_Clear();
                PyErr_SetRaisedException(exc);
                return NULL;
            }
            Py_DECREF(number);
            Py_DECREF(exc);
            Py_RETURN_NONE;
        }
    }
    transport = pl_transport_of_fd(self, fd);
    if (transport != NULL) {
        PyErr_Format(PyExc_RuntimeError,
                     "File descriptor %R is used by transport %R", file,
                     transport);
        return NULL;
    }
    /* asyncio's own transports (pipes) are in its table. */
    PyObject *number = PyLong_FromLong(fd);
    PyObject *none =
        number == NULL
            ? NULL
            : PyObject_CallFunctionObjArgs(self->st->ensure_fd_no_transport,
                                           self, number, NULL);

    Py_XDECREF(number);
    return none;
}

static PyObject *
checked_add_locked(PlLoop *self, PyObject *const *args, Py_ssize_t nargs,
                   enum side side)
{
    if (nargs > 0) {
        if (pl_loop_check_thread(self) < 0) {
            return NULL;
        }
        PyObject *none = loop_ensure_fd_no_transport(self, args[0]);

        if (none == NULL) {
            return NULL;
        }
        Py_DECREF(none);
    }
    PyObject *handle = watch_add(self, args, nargs, side);

    if (handle == NULL) {
        return NULL;
    }
    Py_DECREF(handle);
    Py_RETURN_NONE;
}

static PyObject *
checked_add(PlLoop *self, PyObject *const *args, Py_ssize_t nargs,
            enum side side)
{
    PyObject *result;

    Py_BEGIN_CRITICAL_SECTION(self);
    result = checked_add_locked(self, args, nargs, side);
    Py_END_CRITICAL_SECTION();
    return result;
}

static PyObject *
checked_remove_locked(PlLoop *self, PyObject *file, enum side side)
{
    PyObject *none = pl_loop_check_thread(self) < 0
                         ? NULL
                         : loop_ensure_fd_no_transport(self, file);

    if (none == NULL) {
        return NULL;
    }
    Py_DECREF(none);
    return watch_remove(self, file, side);
}

static PyObject *
checked_remove(PlLoop *self, PyObject *file, enum side side)
{
    PyObject *result;

    Py_BEGIN_CRITICAL_SECTION(self);
    result = checked_remove_locked(self, file, side);
    Py_END_CRITICAL_SECTION();
    return result;
}

PyObject *
loop_add_reader(PlLoop *self, PyObject *const *args, Py_ssize_t nargs)
{
    return checked_add(self, args, nargs, READER);
}

PyObject *
loop_add_writer(PlLoop *self, PyObject *const *args, Py_ssize_t nargs)
{
    return checked_add(self, args, nargs, WRITER);
}

PyObject *
loop_remove_reader(PlLoop *self, PyObject *const *args, Py_ssize_t nargs,
                   PyObject *kwnames)
{
    PyObject *file =
        pl_only_argument("remove_reader", "fd", args, nargs, kwnames);

    return file == NULL ? NULL : checked_remove(self, file, READER);
}

PyObject *
loop_remove_writer(PlLoop *self, PyObject *const *args, Py_ssize_t nargs,
                   PyObject *kwnames)
{
    PyObject *file =
        pl_only_argument("remove_writer", "fd", args, nargs, kwnames);

    return file == NULL ? NULL : checked_remove(self, file, WRITER);
}

PyObject *
loop_private_add_reader(PlLoop *self, PyObject *const *args, Py_ssize_t nargs)
{
    return watch_add(self, args, nargs, READER);
}

PyObject *
loop_private_add_writer(PlLoop *self, PyObject *const *args, Py_ssize_t nargs)
{
    return watch_add(self, args, nargs, WRITER);
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

    return PyLong_FromLong(slot == NULL ? 0 : slot->events);
}
