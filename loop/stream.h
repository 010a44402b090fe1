/* The stream transport (TCP and Unix) and the listener that makes it.

   asyncio's _SelectorSocketTransport in behaviour, with one difference in
   time: what is written in a turn leaves in one vectored send at its end.

   Files: stream.c  the type, opening, teardown, methods
          stream_read.c   from readiness to the protocol
          stream_write.c  the queue, sending, flow control
          listener.c      accepting */

#ifndef PL_STREAM_H
#define PL_STREAM_H

#include <netinet/in.h>
#include <sys/socket.h>

#include "loop.h"

enum pl_stream_flag {
    PL_S_CLOSING = 1,            /* close(), abort() or an error */
    PL_S_PAUSED = 2,             /* pause_reading() */
    PL_S_READING = 4,            /* the poller watches for input */
    PL_S_WRITING = 8,            /* … for room to write */
    PL_S_BUFFERED = 16,          /* the protocol is a BufferedProtocol */
    PL_S_EOF = 32,               /* write_eof() */
    PL_S_PROTOCOL_PAUSED = 64,   /* pause_writing() was called */
    PL_S_WRITTEN = 128,          /* in loop->written */
    PL_S_QUEUED = 256,           /* the io job is in the ready ring */
    PL_S_MADE = 4096,            /* connection_made() was called */
    PL_S_STARTED = 512,          /* … and what follows it is done */
    PL_S_SHUT = 1024,            /* the write side is shut down */
    PL_S_LENT = 2048,            /* loop.sendfile() has a duplicate of fd */
};

/* An IPv4 or IPv6 address as the kernel gave it, shown on demand. */
typedef union {
    sa_family_t family;    /* 0: none */
    struct sockaddr_in in;
    struct sockaddr_in6 in6;
} pl_inet;

#define PL_STREAM_CHUNKS 4

struct PlStream {
    PyObject_HEAD
    PyObject *extra;       /* BaseTransport's _extra slot: a dict, or NULL */

    /* set once */
    PlLoop *loop;          /* owned */
    PyObject *context;     /* every protocol method runs in it */
    pl_inet peer;          /* inet only; else peername */
    PyObject *peername;    /* other families: as shown */
    PyObject *given; /* what the maker adds to the extra info, or NULL */

    /* loop thread only */
    PyObject *protocol;
    PyObject *server; /* owned until detached */
    PyObject *sock; /* socket.socket, made on demand when accepted */
    PyObject *sockname; /* noted at the end when nobody had asked */
    PyObject *waiter; /* future to wake after connection_made() */
    PyObject *empty_waiter;
    PyObject *lost_exc;
    PyObject *dict;
    PyObject *weaklist;
    pl_job io; /* connection_made() first, then readiness */
    pl_job lost; /* connection_lost() */
    int fd; /* -1 once closed */
    int shown_fd; /* asyncio's _sock_fd: stays */
    uint32_t flags;
    uint32_t pending; /* PL_READ | PL_WRITE for the io job */
    uint32_t conn_lost; /* as in asyncio: > 0 once the end is scheduled */
    uint32_t read_size; /* of the next read; 0: the loop's buffer */

    /* The write queue: bytes objects, oldest at `first`. */
    PyObject *inline_chunks[PL_STREAM_CHUNKS];
    PyObject **chunks; /* inline_chunks or PyMem memory */
    size_t first;
    size_t count;
    size_t capacity;
    size_t offset; /* bytes of the oldest that are sent */
    size_t buffered; /* bytes waiting: get_write_buffer_size() */
    size_t high;
    size_t low;
};

int pl_stream_type(PyObject *module, pl_state *st);
int pl_listener_type(PyObject *module, pl_state *st);

PyObject *loop_make_stream(PlLoop *self, PyObject *const *args,
                           Py_ssize_t nargs);
PyObject *loop_listen(PlLoop *self, PyObject *const *args, Py_ssize_t nargs);
PyObject *loop_stop_listening(PlLoop *self, PyObject *fd);

/* New ref.  Takes fd over when it succeeds: sock (may be NULL) owns it then,
   else the stream does.  Schedules connection_made(). */
PlStream *pl_stream_new(PlLoop *loop, int fd, PyObject *sock,
                        PyObject *protocol, PyObject *context,
                        PyObject *waiter, PyObject *extra, PyObject *server,
                        const struct sockaddr *peer, socklen_t peer_length);

/* The loop lets go of its watched stream: steals the slot's reference. */
void pl_stream_orphan(PlStream *self);
int pl_stream_on_events(PlStream *self, uint32_t events);
int pl_listener_on_events(void *owner);
/* No more accepting: gives the slot and its reference up. */
void pl_listener_stop(void *owner);

/* The functions below return 0, or -1 with KeyboardInterrupt or SystemExit
   set; every other exception has been dealt with. */

/* The io job has found the socket readable. */
int pl_stream_read(PlStream *self);
/* … writable. */
int pl_stream_write_ready(PlStream *self);
/* End of the turn: sends for all streams in loop->written. */
int pl_loop_flush_written(PlLoop *loop);
/* Sends what is queued now, without calling the protocol. */
int pl_stream_flush(PlStream *self);
void pl_stream_drop_queue(PlStream *self);
/* The end has come: whoever waits for the queue to run empty is told. */
int pl_stream_fail_waiter(PlStream *self);

/* A protocol method or a system call failed with the exception that is
   raised: report it as asyncio's _fatal_error does and end the connection. */
int pl_stream_fatal(PlStream *self, const char *message);
/* Steals exc, which may be NULL. */
int pl_stream_force_close(PlStream *self, PyObject *exc);
/* Calls connection_lost() and closes the socket.  Steals exc. */
int pl_stream_finish(PlStream *self, PyObject *exc);
int pl_stream_close(PlStream *self);

/* Brings the poller in line with PL_S_READING and PL_S_WRITING. */
int pl_stream_watch(PlStream *self, uint32_t set, uint32_t clear);

/* New ref: protocol.name(arg), or protocol.name() when arg is NULL.  Holds
   the protocol meanwhile, which may replace itself. */
PyObject *pl_stream_call(PlStream *self, PyObject *name, PyObject *arg);

/* True when the raised exception must leave the loop. */
int pl_leaves_loop(void);

/* logger.debug(format, self), in debug mode. */
void pl_stream_debug(PlStream *self, const char *format);

/* Methods defined in stream_write.c. */
PyObject *stream_write(PlStream *self, PyObject *const *args, Py_ssize_t nargs,
                       PyObject *kwnames);
PyObject *stream_writelines(PlStream *self, PyObject *const *args,
                            Py_ssize_t nargs, PyObject *kwnames);
PyObject *stream_write_eof(PlStream *self, PyObject *unused);
PyObject *stream_set_write_buffer_limits(PlStream *self, PyObject *args,
                                         PyObject *kwargs);
PyObject *stream_get_write_buffer_limits(PlStream *self, PyObject *unused);
PyObject *stream_get_write_buffer_size(PlStream *self, PyObject *unused);
PyObject *stream_make_empty_waiter(PlStream *self, PyObject *unused);
PyObject *stream_reset_empty_waiter(PlStream *self, PyObject *unused);

#endif
