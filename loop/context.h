/* The context a callback runs in, without a copy where nobody can tell.

   asyncio copies the current context for each callback that is given none: an
   object to make, to trace and to free, a third of a call_soon.  Here callbacks
   that are scheduled while the same variables are current share one copy that
   nothing ever runs in (`pristine`), and what is run borrows a second copy
   (`scratch`), one after another.  Where no variable is set there is nothing to
   share: any thread may schedule so (NULL stands for it), and what is run
   borrows an empty context (`empty`).  A context goes back only if it has come
   out as it went in and nobody else has a reference to it; whoever asks a
   handle for its context gets a copy of its own.

   What is compared is the identity of the immutable mapping inside a context.
   No public call tells it, so its place is known by layout, the same from 3.11
   to 3.14, and checked at import; where the check fails, contexts are copied.

   But for the NULLs: loop thread only (or the GIL's holder), and only while the
   loop runs. */

#ifndef PL_CONTEXT_H
#define PL_CONTEXT_H

#include "loop.h"

/* The head of CPython's struct _pycontextobject (pycore_context.h). */
typedef struct {
    PyObject_HEAD
    PyObject *previous;
    PyObject *vars;
    PyObject *weaklist;
} pl_context_layout;

/* Sets st->no_vars, where the layout holds: 0, or -1 with an exception. */
int pl_context_probe(pl_state *st);

/* What a callback that is scheduled now shares.  1 and a new ref to the loop's
   pristine copy of the current context, or to NULL where that is empty; 0 where
   it has to be copied. */
int pl_context_share(PlLoop *loop, PyObject **shared);

/* New ref to a copy of what is shared. */
PyObject *pl_context_copy(PyObject *shared);

/* New ref to a context with the variables of `shared`, for one callback;
   steals shared, but not on failure (NULL and MemoryError). */
PyObject *pl_context_take(PlLoop *loop, PyObject *shared);

/* Steals a context that was taken, after the callback. */
void pl_context_give(PlLoop *loop, PyObject *context);

/* Before the loop sleeps: lets go of all variables but those of the context it
   is run from, which live anyway. */
void pl_context_rest(PlLoop *loop);

/* The loop no longer runs. */
void pl_context_drop(PlLoop *loop);

#endif
