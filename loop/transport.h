/* What every transport is: a descriptor, a protocol, a life that begins with
   connection_made() and ends with connection_lost(), flow control.

   asyncio's _SelectorTransport and _FlowControlMixin in behaviour.  A struct
   of ours begins with PL_TRANSPORT and fills a pl_transport_ops with what it
   does its own way: stream.h (TCP and Unix), udp.c (datagrams). */

#ifndef PL_TRANSPORT_H
#define PL_TRANSPORT_H

#include "loop.h"

enum pl_transport_flag {
    PL_S_CLOSING = 1,            /* close(), abort() or an error */
    PL_S_PAUSED = 2,             /* pause_reading() */
    PL_S_READING = 4,            /* the poller watches for input */
    PL_S_WRITING = 8,            /* … for room to write */
    PL_S_EOF = 32,               /* write_eof() */
    PL_S_PROTOCOL_PAUSED = 64,   /* pause_writing() was called */
    PL_S_WRITTEN = 128,          /* in loop->written */
    PL_S_QUEUED = 256,           /* the io job is in the ready ring */
    PL_S_MADE = 4096,            /* connection_made() was called */
    PL_S_STARTED = 512,          /* … and what follows it is done */
    PL_S_SHUT = 1024,            /* the write side is shut down */
    PL_S_LENT = 2048,            /* loop.sendfile() has a duplicate of fd */
    PL_S_CONNECTED = 8192,       /* datagrams: the socket has a peer */
    PL_S_NATIVE = 16384,         /* datagrams: our own system calls */
    PL_S_LARGE = 32768,          /* streams: the last read came out large */
    PL_S_HELD = 65536, /* … with PL_S_WRITING: not the socket is full
                                    but the bound of a turn is reached */
};

typedef struct PlTransport PlTransport;

/* 0, or -1 with KeyboardInterrupt or SystemExit set, unless said otherwise;
   every other exception has been dealt with. */
typedef struct {
    enum pl_slot_kind kind;
    int (*read)(PlTransport *self); /* the io job: there is input */
    int (*write)(PlTransport *self); /* … there is room */
    /* Sends what may leave before its turn.  1 when nothing is queued. */
    int (*flush)(PlTransport *self);
    /* Before the queue is dropped; may be NULL. */
    void (*last_try)(PlTransport *self);
    void (*drop_queue)(PlTransport *self);
    /* Before the socket goes; may be NULL. */
    void (*releasing)(PlTransport *self);
    /* After connection_lost(); may be NULL.  -1 with any exception. */
    int (*ended)(PlTransport *self);
} pl_transport_ops;

/* How events reach the protocol: as Python's methods, or as the functions of
   a native protocol.  -1 leaves an exception set, but for read. */
typedef struct {
    /* Streams: one read, as pl_stream_read; 1: there may be more. */
    int (*read)(PlTransport *self);
    int (*made)(PlTransport *self, PyObject *protocol);
    int (*eof)(PlTransport *self, PyObject *protocol); /* 1: stay open */
    int (*lost)(PlTransport *self, PyObject *protocol, PyObject *exc);
    int (*flow)(PlTransport *self, PyObject *protocol, int pause);
} pl_protocol_table;

extern const pl_protocol_table pl_python_protocol;
extern const pl_protocol_table pl_buffered_protocol;
extern const pl_protocol_table pl_native_protocol;

/* What getters of other threads look at, where there is no GIL. */
#if PL_FREE_THREADED
#define PL_SEEN _Atomic
#else
#define PL_SEEN
#endif

#define PL_TRANSPORT_FIELDS                                                   \
    PyObject_HEAD                                                             \
    PyObject *extra; /* BaseTransport's _extra slot: a dict, or NULL */       \
                                                                              \
    /* set once */                                                            \
    const pl_transport_ops *ops;                                              \
    PlLoop *loop; /* owned */                                                 \
                                                                              \
    /* loop thread only */                                                    \
    PyObject *context; /* every protocol method runs in it */                 \
    PyObject *protocol;                                                       \
    const pl_protocol_table *table; /* for the protocol's kind */             \
    PyObject *sock; /* socket.socket; a stream's may be NULL */               \
    const int *number; /* see pl_transport_fd */                              \
    PyObject *waiter; /* future to wake after connection_made() */            \
    PyObject *lost_exc;                                                       \
    PyObject *dict;                                                           \
    PyObject *weaklist;                                                       \
    pl_job io; /* connection_made() first, then readiness */                  \
    pl_job lost; /* connection_lost() */                                      \
    int fd; /* of the slot; -1 once closed */                                 \
    int shown_fd; /* asyncio's _sock_fd: stays */                             \
    PL_SEEN uint32_t flags;                                                   \
    uint32_t pending; /* PL_READ | PL_WRITE for the io job */                 \
    uint32_t conn_lost; /* asyncio's: > 0 once the end is scheduled */        \
    PL_SEEN size_t buffered; /* get_write_buffer_size() */                    \
    PL_SEEN size_t high;                                                      \
    PL_SEEN size_t low;

struct PlTransport {
    PL_TRANSPORT_FIELDS
};

/* At the head of a transport's struct: its fields by their names, and all of
   them as `base`. */
#define PL_TRANSPORT                                                          \
    union {                                                                   \
        PlTransport base;                                                     \
        struct {                                                              \
            PL_TRANSPORT_FIELDS                                               \
        };                                                                    \
    };

#define PL_HIGH_WATER ((size_t)64 * 1024) /* asyncio's default */

/* -- life -------------------------------------------------------------- */

/* A new transport's fields.  It has neither descriptor nor protocol yet. */
int pl_transport_init(PlTransport *self, const pl_transport_ops *ops,
                      PlLoop *loop, PyObject *context);
/* Takes the slot of fd (no other transport's) and schedules
   connection_made().  fd is the transport's when this has succeeded. */
int pl_transport_open(PlTransport *self, int fd);
/* The descriptor of a socket.socket; -1 and an exception. */
int pl_socket_fd(pl_state *st, PyObject *sock);
/* Keeps the socket, whose fileno() is fd, the transport's. */
void pl_transport_set_sock(PlTransport *self, PyObject *sock, int fd);
/* For the module: finds out whether the place is known. */
void pl_socket_probe(pl_state *st);

/* The descriptor for a system call: -1 from the moment on at which the program
   has closed the socket under the transport, for then the number may soon be
   another's. */
static inline int
pl_transport_fd(const PlTransport *self)
{
    return *self->number;
}

static inline int
pl_slot_is_transport(const pl_slot *slot)
{
    return slot->kind == PL_SLOT_STREAM || slot->kind == PL_SLOT_DATAGRAM;
}

/* Brings the poller in line with PL_S_READING and PL_S_WRITING. */
int pl_transport_watch(PlTransport *self, uint32_t set, uint32_t clear);
/* The loop lets go of its watched transport: steals the slot's reference. */
void pl_transport_orphan(PlTransport *self);
/* Its socket was closed under it, and the number is another's by now. */
void pl_transport_evict(PlTransport *self);
int pl_transport_on_events(PlTransport *self, uint32_t events);

int pl_transport_close(PlTransport *self);
/* Steals exc, which may be NULL. */
int pl_transport_force_close(PlTransport *self, PyObject *exc);
/* A protocol method or a system call failed with the exception that is
   raised: report it as asyncio's _fatal_error does and end the connection. */
int pl_transport_fatal(PlTransport *self, const char *message);
/* Calls connection_lost() and closes the socket.  Steals exc. */
int pl_transport_finish(PlTransport *self, PyObject *exc);
/* Closes the socket. */
void pl_transport_release(PlTransport *self);

/* -- the protocol ------------------------------------------------------ */

/* protocol.c.  New ref: the protocol, None when there is none (any more). */
PyObject *pl_transport_protocol(PlTransport *self);
/* New ref: protocol.name(arg), or protocol.name() when arg is NULL.  Holds
   the protocol meanwhile, which may replace itself. */
PyObject *pl_transport_call(PlTransport *self, PyObject *name, PyObject *arg);
/* 0, or -1 and AttributeError: it has no connection_made(). */
int pl_protocol_check_made(pl_state *st, PyObject *protocol);
/* The table for a stream's protocol; NULL with an exception set. */
const pl_protocol_table *pl_protocol_of(pl_state *st, PyObject *protocol);
/* Sets a field that getters of other threads read; steals object, which may
   be NULL. */
void pl_transport_set_object(PlTransport *self, PyObject **field,
                             PyObject *object);
/* Steals protocol, which may be NULL. */
void pl_transport_take_protocol(PlTransport *self, PyObject *protocol);
/* The exception raised came out of owner.name(arg), which asyncio would have
   run as a handle: to the exception handler with it.  arg may be NULL. */
int pl_transport_report(PlTransport *self, PyObject *owner, PyObject *name,
                        PyObject *arg);

int pl_maybe_pause(PlTransport *self);
int pl_maybe_resume(PlTransport *self);

/* logger.debug(format, self), in debug mode.  0, or -1 with any exception. */
int pl_transport_debug(PlTransport *self, const char *format);
/* A write after the end: counts, and warns from the fifth on. */
int pl_transport_write_after_end(PlTransport *self);

/* -- the Python type ---------------------------------------------------- */

int pl_transport_traverse(PlTransport *self, visitproc visit, void *arg);
void pl_transport_clear(PlTransport *self);
/* Dropped without close(): says so and closes, as asyncio's __del__. */
void pl_transport_finalize(PlTransport *self);
void pl_transport_dealloc(PlTransport *self);
PyObject *pl_transport_repr(PlTransport *self);

/* Free-threaded builds: a loop that does not run may be worked on by any
   thread, so each method takes the loop's critical section (which is nothing
   where there is a GIL); then pl_loop_check_thread tells the others off. */
#define PL_LOCKED(linkage, name, parameters, ...)                             \
    linkage PyObject *name##_locked parameters                                \
    {                                                                         \
        PyObject *result;                                                     \
                                                                              \
        Py_BEGIN_CRITICAL_SECTION(self->loop);                                \
        result = name(__VA_ARGS__);                                           \
        Py_END_CRITICAL_SECTION();                                            \
        return result;                                                        \
    }

#define PL_NOARGS(name) (PyCFunction) name, METH_NOARGS
#define PL_FAST_KEYWORDS(name)                                                \
    (PyCFunction)(void (*)(void)) name, METH_FASTCALL | METH_KEYWORDS
#define PL_KEYWORDS(name)                                                     \
    (PyCFunction)(void (*)(void)) name, METH_VARARGS | METH_KEYWORDS
#define PL_FLAG(flag) (void *)(uintptr_t)flag
#define PL_FIELD(type, name) (void *)(uintptr_t)offsetof(type, name)

PyObject *transport_abort_locked(PlTransport *self, PyObject *unused);
PyObject *transport_close_locked(PlTransport *self, PyObject *unused);
PyObject *transport_force_close_locked(PlTransport *self, PyObject *exc);
PyObject *transport_get_protocol(PlTransport *self, PyObject *unused);
PyObject *transport_pause_reading_locked(PlTransport *self, PyObject *unused);
PyObject *transport_resume_reading_locked(PlTransport *self, PyObject *unused);
PyObject *transport_set_write_buffer_limits_locked(PlTransport *self,
                                                   PyObject *args,
                                                   PyObject *kwargs);
PyObject *transport_call_connection_lost(PlTransport *self, PyObject *exc);
PyObject *transport_fatal_error(PlTransport *self, PyObject *args);
PyObject *transport_get_conn_lost(PlTransport *self, void *closure);
PyObject *transport_get_flag(PlTransport *self, void *closure);
/* The object in the field, None for NULL. */
PyObject *transport_get_object(PlTransport *self, void *closure);
PyObject *transport_get_write_buffer_limits(PlTransport *self,
                                            PyObject *unused);
PyObject *transport_get_write_buffer_size(PlTransport *self, PyObject *unused);
PyObject *transport_is_closing(PlTransport *self, PyObject *unused);
PyObject *transport_is_reading(PlTransport *self, PyObject *unused);

#endif
