/* What include/pyloop.h promises, behind its table: work items, tasks,
   promises and native protocols.

   Files: capi.c             loops, posting, the table and its capsule
          work.c             running an item, handing it back
          native_task.c      a coroutine with a C callback at its end
          promise.c          an asyncio future that native code completes
          native_protocol.c  C functions behind a stream */

#ifndef PL_NATIVE_H
#define PL_NATIVE_H

#include "loop.h"
#include "pyloop.h"

static inline int
pl_entry_is_work(const void *entry)
{
    return ((uintptr_t)entry & PL_WORK_BIT) != 0;
}

static inline pyloop_work *
pl_entry_work(void *entry)
{
    return (pyloop_work *)((uintptr_t)entry & ~PL_WORK_BIT);
}

/* work.c; all [loop].  0, or -1 with KeyboardInterrupt or SystemExit. */
int pl_work_run(PlLoop *loop, pyloop_work *work);
/* The loop is closed: hands the item back.  Keeps the raised exception. */
void pl_work_discard(pyloop_work *work);
/* Deals with an exception that native code left: as above. */
int pl_native_check(PlLoop *loop);

/* The running loop's own, from a reference that may be to a closed one: NULL
   with RuntimeError set, also on the wrong thread. */
PlLoop *pl_native_loop(pyloop_loop *core);

/* native_task.c */
int pl_native_task_start(pyloop_loop *core, pyloop_task *task,
                         void *awaitable);
int pl_native_task_cancel(pyloop_loop *core, pyloop_task *task);
/* The loop closes: ends what runs. */
void pl_native_tasks_abandon(PlLoop *loop);
int pl_native_tasks_traverse(PlLoop *loop, visitproc visit, void *arg);

/* promise.c */
void *pl_promise_start(pyloop_loop *core, pyloop_promise *promise,
                       void *future);
int pl_promise_complete(pyloop_loop *core, pyloop_promise *promise);
void pl_promises_abandon(PlLoop *loop);
int pl_promises_traverse(PlLoop *loop, visitproc visit, void *arg);

/* native_protocol.c */
void *pl_native_protocol_factory(const pyloop_protocol *table, void *arg);
int pl_native_stream_write(pyloop_stream *stream, const void *bytes,
                           size_t size);
int pl_native_stream_writev(pyloop_stream *stream,
                            const pyloop_buffer *buffers, size_t count);
int pl_native_stream_write_eof(pyloop_stream *stream);
int pl_native_stream_pause_reading(pyloop_stream *stream);
int pl_native_stream_resume_reading(pyloop_stream *stream);
int pl_native_stream_close(pyloop_stream *stream);
int pl_native_stream_abort(pyloop_stream *stream);
size_t pl_native_stream_buffered(pyloop_stream *stream);
void *pl_native_stream_transport(pyloop_stream *stream);
void pl_native_stream_hold(pyloop_stream *stream);
void pl_native_stream_drop(pyloop_stream *stream);
int pl_native_protocol_types(PyObject *module, pl_state *st);

/* The type of the callbacks that tasks and promises leave at futures. */
int pl_watcher_type(PyObject *module, pl_state *st);

/* The capsule _C_API. */
int pl_capi_add(PyObject *module);

/* A callable left with future.add_done_callback(): calls done(subject) once,
   unless subject was taken away before. */
typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    PlLoop *loop;    /* owned */
    int (*done)(PlLoop *loop, void *subject);
    void *subject;   /* loop thread only; NULL: nobody cares any more */
} PlWatcher;

/* Borrowed: future keeps it.  NULL and an exception. */
PlWatcher *pl_watcher_add(PlLoop *loop, PyObject *future,
                          int (*done)(PlLoop *, void *), void *subject);

#endif
