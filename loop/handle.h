/* Handle, TimerHandle and the thread-safe handle: one implementation of
   arguments, running and cancelling behind four types (the fourth is Handle
   in debug mode, which also remembers where it was made).

   Small on purpose: 200,000 queued handles cost as much in fresh memory as
   in calls.  Up to three arguments are held inline and called by vectorcall;
   more are a tuple in args[0].

   While a handle waits in the ready ring or the inbox the garbage collector
   does not track it (the running loop is reachable, so what it holds is
   too); it is tracked from the moment it leaves alive. */

#ifndef PL_HANDLE_H
#define PL_HANDLE_H

#include "compat.h"
#include "inbox.h"
#include "loop.h"

enum pl_handle_flag {
    PL_CANCELLED = 1,
    PL_RUNNING = 2,
    PL_IN_HEAP = 4,      /* asyncio's _scheduled */
    PL_HAS_REPR = 8,     /* cancelled in debug mode: args[0] is the repr */
    PL_PERSISTENT = 16,  /* add_reader's: runs many times */
    PL_THREADSAFE = 32,  /* call_soon_threadsafe's: shown as such */
    PL_SHARED = 64,      /* its context is one that callbacks share … */
    PL_TAKEN = 128,      /* … or was taken for it: context.h */
    PL_WHEN_INT = 256,   /* call_at() was given an int, which is shown */
};

#define PL_INLINE_ARGS 3

typedef struct {
    PyObject_HEAD
    PlLoop *loop;                     /* owned */
    PyObject *callback;               /* NULL once run or cancelled */
    PyObject *context;
    PyObject *args[PL_INLINE_ARGS];
    PyObject *weaklist;
    uint32_t nargs;
    uint32_t flags;        /* by the functions below only */
} PlHandle;

/* TimerHandle, debug Handle, and the handle that goes through the inbox (on
   free-threaded builds: elsewhere the GIL guards the ring). */
typedef struct {
    PlHandle base;
    union {
        double when;      /* TimerHandle: seconds of loop.time() */
#if PL_FREE_THREADED
        pl_link link;     /* thread-safe handle, while in the inbox */
#endif
    };
    PyObject *traceback;    /* asyncio's _source_traceback, or NULL */
} PlHandleX;

/* Other threads cancel: on a free-threaded build the flags are atomic.
   set returns what was there before. */
static inline uint32_t
pl_handle_flags(const PlHandle *handle)
{
#if PL_FREE_THREADED
    return __atomic_load_n(&handle->flags, __ATOMIC_ACQUIRE);
#else
    return handle->flags;
#endif
}

static inline uint32_t
pl_handle_set(PlHandle *handle, uint32_t flags)
{
#if PL_FREE_THREADED
    return __atomic_fetch_or(&handle->flags, flags, __ATOMIC_ACQ_REL);
#else
    uint32_t before = handle->flags;

    handle->flags |= flags;
    return before;
#endif
}

static inline void
pl_handle_unset(PlHandle *handle, uint32_t flags)
{
#if PL_FREE_THREADED
    (void)__atomic_fetch_and(&handle->flags, ~flags, __ATOMIC_ACQ_REL);
#else
    handle->flags &= ~flags;
#endif
}

static inline void
pl_handle_flip(PlHandle *handle, uint32_t flags)
{
#if PL_FREE_THREADED
    (void)__atomic_fetch_xor(&handle->flags, flags, __ATOMIC_ACQ_REL);
#else
    handle->flags ^= flags;
#endif
}

#if PL_FREE_THREADED
static inline PlHandle *
pl_handle_of_link(pl_link *link)
{
    return (PlHandle *)((char *)link - offsetof(PlHandleX, link));
}
#endif

/* New ref; not tracked by the collector.  Copies the current context when
   `context` is NULL or None.  type is one of the state's handle types. */
PlHandle *pl_handle_new(PlLoop *loop, PyTypeObject *type, PyObject *callback,
                        PyObject *const *args, Py_ssize_t nargs,
                        PyObject *context);

/* Loop thread, attached.  Runs the callback in its context and lets go of
   it; steals the reference.  0, or -1 with KeyboardInterrupt or SystemExit
   set; any other exception went to the loop's exception handler. */
int pl_handle_run(PlHandle *handle);

/* The two halves of it: between them the handle still knows what it ran.
   call: as run, or 1: it is cancelled or running.  end takes that and returns
   what run does. */
int pl_handle_call(PlHandle *handle);
int pl_handle_end(PlHandle *handle, int status);

/* Lets go of a reference from the ring or the heap that will not run. */
void pl_handle_drop(PlHandle *handle);

void pl_handle_cancel(PlHandle *handle);

int pl_handle_check(pl_state *st, PyObject *obj);

/* The four types; borrowed by the state. */
int pl_handle_types(PyObject *module, pl_state *st);

/* Gives up to `most` handles' memory back, down to `keep` in each list. */
void pl_handle_freelist_trim(PlLoop *loop, int keep, int most);

#endif
