/* The loop object: what pyloop.EventLoop gets from C.

   The rest of the class is asyncio.SelectorEventLoop of the running version
   (pyloop/_loop.py).  All fields belong to the thread that runs the loop; as
   long as nobody runs it, to whoever holds the GIL or, on a free-threaded
   build, the object's critical section.  Other threads use core->inbox. */

#ifndef PL_LOOP_H
#define PL_LOOP_H

#include <stdatomic.h>
#include <stdbool.h>

#include "compat.h"
#include "core.h"
#include "heap.h"
#include "ring.h"
#include "state.h"

typedef struct PlLoop PlLoop;
typedef struct PlStream PlStream;

/* Work of our own in the ready ring, beside Python's handles: run() in its
   turn, as asyncio would run the handle it has in that place.  Embedded in
   the object that owner points to; the ring holds a reference to it.
   run: 0, or -1 with an exception that leaves run_forever. */
typedef struct pl_job {
    int (*run)(struct pl_job *job);
    PyObject *owner;
} pl_job;

/* An entry of the ready ring is a handle, or with one of these bits set a job
   or a native work item (native.h). */
#define PL_JOB_BIT ((uintptr_t)1)
#define PL_WORK_BIT ((uintptr_t)2)

static inline int
pl_entry_is_handle(const void *entry)
{
    return ((uintptr_t)entry & (PL_JOB_BIT | PL_WORK_BIT)) == 0;
}

static inline int
pl_entry_is_job(const void *entry)
{
    return ((uintptr_t)entry & PL_JOB_BIT) != 0;
}

static inline pl_job *
pl_entry_job(void *entry)
{
    return (pl_job *)((uintptr_t)entry & ~PL_JOB_BIT);
}

#define PL_FREELIST_MAX (1 << 17)    /* handles kept after a burst … */
#define PL_FREELIST_IDLE 1024        /* … and while the loop idles */
#define PL_READ_BUFFER (256 * 1024)

/* Methods that others call, in whose place a subclass or the instance has its
   own. */
enum pl_override {
    PL_OWN_TIME = 1,
    PL_OWN_CALL_AT = 2,
    PL_OWN_CREATE_FUTURE = 4,
};

struct PlLoop {
    PyObject_HEAD

    /* set once */
    pl_state *st;               /* the module's; its types keep it alive */
    pl_core *core;              /* owned; NULL before __init__ */

    /* loop thread only */
    pl_ring ready;              /* PlHandle *; pl_job * with bit 0 set, or
                                   pyloop_work * with bit 1 */
    pl_link *taken;             /* from the inbox, not yet in the ring */
    pl_heap timers;             /* PlHandle * of TimerHandle */
    bool timers_untracked;      /* some of them, by the collector: sched.c */
    PyObject *task_factory;     /* asyncio's _task_factory */
    PyObject *thread_id;        /* int while running, else NULL */
    atomic_ulong thread;        /* pl_thread_ident() then, else 0; other
                                   threads compare it with their own */
    atomic_bool closed;         /* any thread may ask */
    atomic_bool stopping;       /* so may these two be by */
    atomic_bool debug;
    bool timed;                 /* callbacks are: debug mode, slow_hook */
    uint8_t overrides;          /* enum pl_override: of the next two */
    uint8_t class_overrides;
    uint8_t instance_overrides;
    bool outside; /* somebody else's selector waits for events */
    bool look_for_signals;      /* before a sleep: they do not wake the poll,
                                   and no Python code may have run since */
    bool in_turn;
    bool bounded; /* … and a stream sends so much in it */
    PlStream **written; /* streams to flush at the end of the turn */
    size_t written_count; /* each entry owns a reference */
    bool sending; /* they are being flushed */
    size_t written_capacity;
    char *read_buffer; /* PL_READ_BUFFER bytes, made on first use */
    PyObject *spare_bytes; /* as long, to be read into: stream_read.c */
    int64_t polled_ns; /* clock at the end of the last poll */
    int64_t looked_ns; /* … when it was last looked at: run.c */
    int64_t trimmed_ns; /* … when free_handles last gave some back */
    PyObject *pristine; /* contexts to share, or NULL: context.h */
    PyObject *scratch; /* … and to run in */
    PyObject *empty; /* … without variables */
    PyObject *slow_hook; /* set_slow_callback_hook()'s, or NULL */
    int64_t slow_ns; /* its threshold */
    int64_t timed_ns; /* start of what runs, if it is timed, or 0 */
    void *free_handles[2]; /* freelists: handle.c */
    int free_count[2];

    /* loop thread writes, any thread reads */
    pl_counters counters;
    uint64_t timers_cancelled; /* of those in the heap */

    struct pl_resolve *resolving; /* getaddrinfo requests: dns.c */
    struct pyloop_task *native_tasks; /* unfinished: native_task.c */
    struct pyloop_promise *promises; /* not completed: promise.c */
    PyObject *transports; /* asyncio's table of them, once needed */
};

/* May this thread work on the loop's data without a lock?  (With a GIL its
   holder may.) */
static inline bool
pl_loop_runs_here(PlLoop *loop)
{
    return !PL_FREE_THREADED ||
           atomic_load_explicit(&loop->thread, memory_order_relaxed) ==
               pl_thread_ident();
}

int pl_loop_type(PyObject *module, pl_state *st);
/* PL_READ_BUFFER bytes for one read; NULL and MemoryError. */
char *pl_loop_read_buffer(PlLoop *loop);

/* sched.c */
/* loop.time(), through Python when it is overridden; -1.0 and an exception
   set on failure (test PyErr_Occurred). */
double pl_loop_time(PlLoop *loop);
PyObject *loop_call_soon(PlLoop *self, PyObject *const *args, Py_ssize_t nargs,
                         PyObject *kwnames);
PyObject *loop_call_soon_threadsafe(PlLoop *self, PyObject *const *args,
                                    Py_ssize_t nargs, PyObject *kwnames);
PyObject *loop_call_later(PlLoop *self, PyObject *const *args,
                          Py_ssize_t nargs, PyObject *kwnames);
PyObject *loop_call_at(PlLoop *self, PyObject *const *args, Py_ssize_t nargs,
                       PyObject *kwnames);
PyObject *loop_time(PlLoop *self, PyObject *unused);
PyObject *loop_add_callback(PlLoop *self, PyObject *handle);
/* Steals the handle. */
int pl_loop_push(PlLoop *loop, PyObject *handle);
int pl_loop_push_job(PlLoop *loop, pl_job *job);
PyObject *loop_start_timer(PlLoop *self, PyObject *handle);
void pl_loop_timer_cancelled(PlLoop *loop, PyObject *handle);
void pl_loop_drain_inbox(PlLoop *loop);
/* What the ring holds for it. */
void *pl_loop_entry_of_link(pl_link *link);
/* RuntimeError 'Event loop is closed'. */
int pl_loop_check_closed(PlLoop *loop);
/* May this thread touch loop-thread data?  -1 with asyncio's RuntimeError: on
   a free-threaded build, elsewhere the GIL's holder may. */
int pl_loop_check_thread(PlLoop *loop);
/* The same, and in debug mode on any build: for what calls call_soon() in
   asyncio, and for what is pyloop's own. */
int pl_loop_check_scheduling(PlLoop *loop);
/* The same on any build and in any mode. */
int pl_loop_insist_thread(PlLoop *loop);

/* task.c */
/* Task(coroutine, loop=self, **keywords): args are the coroutine and the
   values of at most three keywords. */
PyObject *pl_task_new(PlLoop *self, PyObject *const *args, PyObject *kwnames);
PyObject *loop_create_task(PlLoop *self, PyObject *const *args,
                           Py_ssize_t nargs, PyObject *kwnames);
PyObject *loop_create_future(PlLoop *self, PyObject *unused);
/* For our own use: _asyncio's, whatever stands in asyncio.futures. */
PyObject *pl_future_new(PlLoop *self);
/* set_result(None), unless the future is done: 0, or -1 with an exception
   that leaves the loop. */
int pl_future_wake(PlLoop *loop, PyObject *future);

/* run.c: the loop becomes this thread's, turns until stop() or one turn, and
   is given up again. */
PyObject *loop_enter(PlLoop *self, PyObject *unused);
PyObject *loop_leave(PlLoop *self, PyObject *unused);
PyObject *loop_run(PlLoop *self, PyObject *unused);
PyObject *loop_run_once(PlLoop *self, PyObject *unused);
PyObject *loop_poll(PlLoop *self, PyObject *seconds);

/* stats.c */
int pl_stats_type(PyObject *module, pl_state *st);
PyObject *loop_stats(PlLoop *self, PyObject *args, PyObject *kwargs);
PyObject *loop_set_slow_callback_hook(PlLoop *self, PyObject *args,
                                      PyObject *kwargs);
PyObject *loop_get_slow_callback_hook(PlLoop *self, PyObject *unused);
/* debug or slow_hook has changed. */
void pl_loop_set_timed(PlLoop *self);

/* watch.c */
PyObject *loop_add_reader(PlLoop *self, PyObject *const *args,
                          Py_ssize_t nargs, PyObject *kwnames);
PyObject *loop_add_writer(PlLoop *self, PyObject *const *args,
                          Py_ssize_t nargs, PyObject *kwnames);
PyObject *loop_remove_reader(PlLoop *self, PyObject *const *args,
                             Py_ssize_t nargs, PyObject *kwnames);
PyObject *loop_remove_writer(PlLoop *self, PyObject *const *args,
                             Py_ssize_t nargs, PyObject *kwnames);
PyObject *loop_private_add_reader(PlLoop *self, PyObject *const *args,
                                  Py_ssize_t nargs, PyObject *kwnames);
PyObject *loop_private_add_writer(PlLoop *self, PyObject *const *args,
                                  Py_ssize_t nargs, PyObject *kwnames);
PyObject *loop_private_remove_reader(PlLoop *self, PyObject *fd);
PyObject *loop_private_remove_writer(PlLoop *self, PyObject *fd);
PyObject *loop_ensure_fd_no_transport(PlLoop *self, PyObject *fd);
PyObject *loop_watched(PlLoop *self, PyObject *fd);
/* A future that is woken once, in the place of a handle that was there: new
   ref. */
PyObject *pl_loop_wait(PlLoop *loop, int fd, uint32_t event);
PyObject *loop_wait_writable(PlLoop *self, PyObject *sock);
PyObject *loop_stop_waiting(PlLoop *self, PyObject *const *args,
                            Py_ssize_t nargs);
int pl_watch_on_events(PlLoop *loop, void *owner, uint32_t events);
int pl_watch_traverse(void *owner, visitproc visit, void *arg);
void pl_watch_free(void *owner);
/* Frees the slot of a descriptor that was closed behind our back, when its
   number is to be a transport's or a listener's: nobody hears of it any more. */
void pl_loop_evict(PlLoop *loop, int fd);

/* transport.c: the transport that owns the descriptor and is not closing, or
   NULL; borrowed. */
PyObject *pl_transport_of_fd(PlLoop *loop, int fd);

/* addr.c: what the socket module shows for a socket address; None for a
   family it does not know.  New ref. */
struct sockaddr;
struct sockaddr_storage;
PyObject *pl_sockaddr_object(const struct sockaddr *address, unsigned length);
/* From the socket module's form, when it is a plain tuple with a numeric host
   of that family: its length, or 0 without an exception. */
unsigned pl_sockaddr_numeric(PyObject *address, int family,
                             struct sockaddr_storage *name);
/* The same from the parts: port, flowinfo and scope, which are in range. */
unsigned pl_sockaddr_make(int family, const char *host,
                          const unsigned long numbers[3],
                          struct sockaddr_storage *name);

/* sockops.c: one try each of the sock_ calls */
PyObject *loop_try_read(PlLoop *self, PyObject *number);
PyObject *loop_try_recv(PlLoop *self, PyObject *const *args, Py_ssize_t nargs);
PyObject *loop_try_recv_into(PlLoop *self, PyObject *const *args,
                             Py_ssize_t nargs);
PyObject *loop_try_recvfrom(PlLoop *self, PyObject *const *args,
                            Py_ssize_t nargs);
PyObject *loop_try_recvfrom_into(PlLoop *self, PyObject *const *args,
                                 Py_ssize_t nargs);
PyObject *loop_try_send(PlLoop *self, PyObject *const *args, Py_ssize_t nargs);
PyObject *loop_try_accept(PlLoop *self, PyObject *sock);
PyObject *loop_try_connect(PlLoop *self, PyObject *const *args,
                           Py_ssize_t nargs);
PyObject *loop_finish_connect(PlLoop *self, PyObject *const *args,
                              Py_ssize_t nargs);

/* connect.c */
/* connect(): True, a future while it is under way, or OSError with asyncio's
   text. */
PyObject *pl_connect(PlLoop *loop, int fd, const struct sockaddr *name,
                     unsigned length, bool first);
PyObject *loop_open_stream(PlLoop *self, PyObject *const *args,
                           Py_ssize_t nargs);

/* dns.c */
/* Lets go of the futures of unfinished requests, before the core closes. */
void pl_resolve_abandon(PlLoop *loop);
int pl_resolve_traverse(PlLoop *loop, visitproc visit, void *arg);
PyObject *loop_resolve(PlLoop *self, PyObject *const *args, Py_ssize_t nargs);
PyObject *loop_resolve_address(PlLoop *self, PyObject *const *args,
                               Py_ssize_t nargs);
PyObject *loop_numeric_getaddrinfo(PlLoop *self, PyObject *const *args,
                                   Py_ssize_t nargs);
/* The enum members that state->families and kinds hold. */
int pl_dns_enums(pl_state *st);

/* error.c */
/* True when the raised exception must leave the loop. */
int pl_leaves_loop(void);
/* What is raised has nobody to go to: 0, or -1 when it must leave the loop. */
int pl_unraisable(PyObject *object);
/* Reports the raised exception as asyncio's handle does: 0, or -1 with it
   still set when it is KeyboardInterrupt or SystemExit. */
int pl_report_callback(PlLoop *loop, PyObject *handle, PyObject *callback,
                       PyObject *args, PyObject *traceback);
/* call_exception_handler({message, exception, key: value …}); 0, or -1 with
   KeyboardInterrupt or SystemExit.  Steals exc. */
int pl_report(PlLoop *loop, const char *message, PyObject *exc, ...);
/* What is called between these two is called as in `except`: exc is what it
   finds in sys.exc_info(), and the context of what it raises.  Steals before,
   which enter returned. */
PyObject *pl_except_enter(PyObject *exc);
void pl_except_leave(PyObject *before);
/* Raises OSError (the subclass for it) of a negative errno. */
PyObject *pl_raise_errno(int status);
PyObject *pl_oserror(int status);

#endif
