/* pyloop.h: work for a Python event loop from any thread.

   A native server or driver hands work to a pyloop event loop, and gets
   answers, without the GIL, a lock, an allocation or (while the loop is
   awake) a system call.  Plain C99, usable from C++, Rust's bindgen and
   Cython; it needs neither Python.h nor uv.h.  Nothing is linked: all
   functions are members of one table, pyloop_api, which pyloop_import.h
   fetches from the pyloop package once per process or interpreter.

   Threads.  Each function says which it takes:
     [any]       any thread, with or without the GIL, attached or not.
     [attached]  a thread that holds a Python thread state (the GIL), in the
                 interpreter of the loop.
     [loop]      [attached], on the thread that runs the loop; or on any one
                 thread while nobody runs it.  Callbacks are [loop].
   Elsewhere [loop] functions raise RuntimeError in debug mode and on
   free-threaded builds; with a GIL and without debug mode they corrupt
   nothing but may be late, as call_soon() is in asyncio.

   Python objects appear as void *, each a PyObject *.  "New reference",
   "borrowed" and "stolen" are CPython's words.

   Ownership.  The structs below belong to the caller, who keeps each alive
   and unmoved from the call that starts it to the callback that ends it.
   There is exactly one such callback for each start that succeeded, whatever
   the loop does; when it is entered pyloop has let go of the struct, which
   may be freed or used again inside it.

   Versions.  Tables and structs only grow at the end, and `size` says what
   the other side knows: a client built against an older header keeps
   working.  Fill structs through the initialisers at the end. */

#ifndef PYLOOP_H
#define PYLOOP_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PYLOOP_API_VERSION 1

/* Statuses.  Negative: it was not done. */
enum {
    PYLOOP_OK = 0,
    PYLOOP_UNWOKEN = 1,      /* posted, but waking the sleeping loop failed
                                (errno; the next post tries again) */
    PYLOOP_CLOSED = -1,      /* the loop is closed */
    PYLOOP_CANCELLED = -2,   /* the task or future was cancelled */
    PYLOOP_RAISED = -3       /* a Python exception: set in the thread state,
                                or the value that a callback gets */
};

/* One event loop.  Reference-counted and free of Python: may be held, and
   posted to, long after the loop object is gone; it is closed then. */
typedef struct pyloop_loop pyloop_loop;

/* -- work ---------------------------------------------------------------- */

/* An item to be run by the loop, in the order of each producer, among the
   callbacks of call_soon(). */
typedef struct pyloop_work pyloop_work;

struct pyloop_work {
    pyloop_work *next;    /* the caller's for post_chain(), else pyloop's */
    uint32_t size;        /* sizeof(pyloop_work) */
    uint32_t flags;       /* 0 */

    /* [loop]  status PYLOOP_OK: do the work.  PYLOOP_CLOSED: the loop was
       closed first (by whoever closes it, attached); only clean up.  Must
       not be NULL.  Returns 0, or -1 with a Python exception set, which goes
       where that of a callback goes. */
    int (*run)(pyloop_work *work, int status);

    /* NULL, or a borrowed contextvars.Context to run in. */
    void *context;
};

/* -- coroutines ---------------------------------------------------------- */

enum {
    /* Run up to the first suspension inside task_start(), so that a
       coroutine that never waits is done when it returns (Python 3.12+; no
       effect before, or with a task factory). */
    PYLOOP_TASK_EAGER = 1
};

typedef struct pyloop_task pyloop_task;

struct pyloop_task {
    uint32_t size;        /* sizeof(pyloop_task) */
    uint32_t flags;       /* PYLOOP_TASK_... */

    /* [loop]  The end.  PYLOOP_OK: value is the result; PYLOOP_RAISED: the
       exception; PYLOOP_CANCELLED, PYLOOP_CLOSED (the loop closed with the
       task unfinished): NULL.  value is borrowed.  May run inside
       task_start().  An exception left set goes to the loop's exception
       handler. */
    void (*done)(pyloop_task *task, int status, void *value);

    void *context; /* NULL, or a borrowed contextvars.Context */
    void *name; /* NULL, or a borrowed str */

    /* pyloop's own */
    pyloop_work cancel_work;
    void *object;
    void *runner;
    pyloop_task *previous;
    pyloop_task *next;
    uint32_t state;
    uint32_t reserved;
};

/* -- futures ------------------------------------------------------------- */

/* A native operation that Python code awaits as an asyncio future. */
typedef struct pyloop_promise pyloop_promise;

struct pyloop_promise {
    uint32_t size; /* sizeof(pyloop_promise) */
    uint32_t flags; /* 0 */

    /* [loop]  After promise_complete(), when the future still waits: its
       result as a new reference, or NULL with an exception set, which
       becomes the future's. */
    void *(*value)(pyloop_promise *promise);

    /* [loop]  NULL, or: Python cancelled the future, and promise_complete()
       has not been seen yet.  The operation may be given up, but the promise
       still has to be completed.  Not called after a loop was closed. */
    void (*cancelled)(pyloop_promise *promise);

    /* [loop]  The end, after promise_complete() answered PYLOOP_OK or
       PYLOOP_UNWOKEN.  PYLOOP_OK: the future has the value; PYLOOP_CANCELLED:
       it was cancelled (or otherwise done) before; PYLOOP_CLOSED. */
    void (*released)(pyloop_promise *promise, int status);

    /* pyloop's own */
    pyloop_work work;
    void *loop;
    void *future;
    void *watcher;
    pyloop_promise *previous;
    pyloop_promise *next;
};

/* -- native protocols ---------------------------------------------------- */

/* A stream transport (TCP or Unix) behind a native protocol.  [loop]; valid
   from `made` until `lost` returns, and longer while it is held. */
typedef struct pyloop_stream pyloop_stream;

typedef struct pyloop_buffer {
    const void *data;
    size_t size;
} pyloop_buffer;

/* What asyncio.Protocol is to Python, as C functions.  All are [loop]; the
   table must outlive every connection.  Members may be NULL, but for
   received.  int results: 0 (eof: see there), or -1 with a Python exception
   set, treated as asyncio treats that of the Python method. */
typedef struct pyloop_protocol {
    uint32_t size; /* sizeof(pyloop_protocol) */
    uint32_t flags; /* 0 */

    /* Connected.  arg is the factory's; *data (NULL before) is handed to the
       others. */
    int (*made)(pyloop_stream *stream, void *arg, void **data);

    /* Bytes have come; they are the transport's and change after this. */
    int (*received)(pyloop_stream *stream, void *data, const void *bytes,
                    size_t size);

    /* The peer has closed its side.  1 keeps ours open for writing; 0, and a
       missing function, close the transport. */
    int (*eof)(pyloop_stream *stream, void *data);

    /* The connection is gone, called once and last if made was called.
       exception: NULL after a regular end, else borrowed.  A protocol that
       set_protocol() replaced is told nothing any more, as in asyncio. */
    void (*lost)(pyloop_stream *stream, void *data, void *exception);

    /* More than the high-water mark waits to be sent; at most the low-water
       mark waits again. */
    void (*paused)(pyloop_stream *stream, void *data);
    void (*resumed)(pyloop_stream *stream, void *data);
} pyloop_protocol;

/* -- functions ----------------------------------------------------------- */

typedef struct pyloop_api {
    uint32_t size; /* of this struct in the pyloop that runs */
    uint32_t version; /* PYLOOP_API_VERSION it has */

    /* Loops. */

    /* [attached]  The loop behind a pyloop.EventLoop, with a reference for
       the caller.  NULL and TypeError for anything else. */
    pyloop_loop *(*loop_from)(void *object);

    /* [attached]  That of the loop running in this thread.  NULL and
       RuntimeError when none does, TypeError when it is not pyloop's. */
    pyloop_loop *(*loop_running)(void);

    /* [any]  One more reference; one less.  A reference keeps memory, not
       the loop object. */
    void (*acquire)(pyloop_loop *loop);
    void (*release)(pyloop_loop *loop);

    /* [any]  1 while posts are taken, 0 from close() on.  A snapshot. */
    int (*is_alive)(pyloop_loop *loop);

    /* [any]  Hands an item over.  Async-signal-safe, lock-free, never blocks,
       never allocates; a system call only when the loop sleeps, one for a
       whole burst.  What the caller wrote before happens before run().
       PYLOOP_OK, PYLOOP_UNWOKEN, or PYLOOP_CLOSED: the item is the caller's
       again and run() is not called. */
    int (*post)(pyloop_loop *loop, pyloop_work *work);

    /* [any]  As post(), of a list linked by `next` and ended by NULL, all or
       nothing, as one operation.  They run in the order of the list. */
    int (*post_chain)(pyloop_loop *loop, pyloop_work *first);

    /* Coroutines and futures. */

    /* [loop]  Runs an awaitable (stolen) as an asyncio.Task, which
       current_task(), timeouts and task groups see as any other.  No Future
       and no callback handle stand between it and done().  PYLOOP_OK, or
       PYLOOP_RAISED (done() is not called). */
    int (*task_start)(pyloop_loop *loop, pyloop_task *task, void *awaitable);

    /* [any]  Requests cancellation, as Task.cancel() does; done() tells what
       came of it.  task must be started, and stay the caller's until this
       has returned even if done() comes first.  As post(). */
    int (*task_cancel)(pyloop_loop *loop, pyloop_task *task);

    /* [loop]  Ties a promise to an asyncio.Future of the loop: `future`, or
       a new one when NULL.  A new reference; NULL and an exception. */
    void *(*promise_start)(pyloop_loop *loop, pyloop_promise *promise,
                           void *future);

    /* [any]  The native operation is over: once for each promise started.
       As post(); with PYLOOP_CLOSED released() is not called and the struct
       is the caller's again. */
    int (*promise_complete)(pyloop_loop *loop, pyloop_promise *promise);

    /* Native protocols. */

    /* [attached]  A protocol factory for create_server(),
       create_connection() and their like, as a new reference: each call of
       it makes an asyncio.Protocol that stands for the table.  Behind any
       transport but pyloop's own (TLS, say) it works too, by way of Python
       methods and bytes.  NULL and an exception on failure. */
    void *(*protocol_factory)(const pyloop_protocol *table, void *arg);

    /* [loop]  Queue bytes, copied before this returns; they leave at the end
       of the loop's turn.  After the connection is closing or lost: quietly
       nothing.  PYLOOP_OK or PYLOOP_RAISED. */
    int (*stream_write)(pyloop_stream *stream, const void *bytes, size_t size);
    int (*stream_writev)(pyloop_stream *stream, const pyloop_buffer *buffers,
                         size_t count);

    /* [loop]  As the transport's methods of these names.  PYLOOP_OK or
       PYLOOP_RAISED. */
    int (*stream_write_eof)(pyloop_stream *stream);
    int (*stream_pause_reading)(pyloop_stream *stream);
    int (*stream_resume_reading)(pyloop_stream *stream);
    int (*stream_close)(pyloop_stream *stream);
    int (*stream_abort)(pyloop_stream *stream);

    /* [loop]  Bytes queued and not sent. */
    size_t (*stream_buffered)(pyloop_stream *stream);

    /* [attached]  The transport object, borrowed: for get_extra_info() and
       whatever else Python offers. */
    void *(*stream_transport)(pyloop_stream *stream);

    /* [attached]  Keep a stream valid after `lost`; let it go. */
    void (*stream_hold)(pyloop_stream *stream);
    void (*stream_drop)(pyloop_stream *stream);
} pyloop_api;

/* -- initialisers -------------------------------------------------------- */

static inline void
pyloop_work_init(pyloop_work *work, int (*run)(pyloop_work *, int))
{
    work->next = NULL;
    work->size = (uint32_t)sizeof(*work);
    work->flags = 0;
    work->run = run;
    work->context = NULL;
}

static inline void
pyloop_task_init(pyloop_task *task, void (*done)(pyloop_task *, int, void *))
{
    task->size = (uint32_t)sizeof(*task);
    task->flags = 0;
    task->done = done;
    task->context = NULL;
    task->name = NULL;
}

static inline void
pyloop_promise_init(pyloop_promise *promise, void *(*value)(pyloop_promise *),
                    void (*released)(pyloop_promise *, int))
{
    promise->size = (uint32_t)sizeof(*promise);
    promise->flags = 0;
    promise->value = value;
    promise->cancelled = NULL;
    promise->released = released;
}

#ifdef __cplusplus
}
#endif

#endif
