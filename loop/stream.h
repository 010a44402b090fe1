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

#include "transport.h"

/* An IPv4 or IPv6 address as the kernel gave it, shown on demand. */
typedef union {
    sa_family_t family;    /* 0: none */
    struct sockaddr_in in;
    struct sockaddr_in6 in6;
} pl_inet;

#define PL_STREAM_CHUNKS 4

struct PlStream {
    PL_TRANSPORT

    /* set once */
    pl_inet peer;          /* inet only; else peername */
    PyObject *peername;    /* other families: as shown */
    PyObject *given; /* what the maker adds to the extra info, or NULL */

    /* loop thread only */
    PyObject *server; /* owned until detached */
    PyObject *sockname; /* noted at the end when nobody had asked */
    PyObject *empty_waiter;

    /* The write queue: bytes objects, oldest at `first`. */
    PyObject *inline_chunks[PL_STREAM_CHUNKS];
    PyObject **chunks; /* inline_chunks or PyMem memory */
    size_t first;
    size_t count;
    size_t capacity;
    size_t offset; /* bytes of the oldest that are sent */
    uint64_t sent_turn; /* the turn in which … */
    size_t sent;        /* … so much was sent */
};

int pl_stream_type(PyObject *module, pl_state *st);
int pl_listener_type(PyObject *module, pl_state *st);

PyObject *loop_make_stream(PlLoop *self, PyObject *const *args,
                           Py_ssize_t nargs);
PyObject *loop_listen(PlLoop *self, PyObject *const *args, Py_ssize_t nargs);

/* New ref.  Takes fd over when it succeeds: sock (may be NULL) owns it then,
   else the stream does.  Schedules connection_made(). */
PlStream *pl_stream_new(PlLoop *loop, int fd, PyObject *sock,
                        PyObject *protocol, PyObject *context,
                        PyObject *waiter, PyObject *extra, PyObject *server,
                        const struct sockaddr *peer, socklen_t peer_length);

int pl_listener_on_events(void *owner);
/* No more accepting: gives the slot and its reference up. */
void pl_listener_stop(void *owner);

/* End of the turn: sends for all streams in loop->written.  0, or -1 with
   KeyboardInterrupt or SystemExit set. */
int pl_loop_flush_written(PlLoop *loop);

/* The reads of the protocol tables.  pl_stream_read_raw: into the loop's
   buffer, handed to `received`, which may leave an exception set. */
int pl_stream_read_bytes(PlTransport *self);
int pl_stream_read_buffered(PlTransport *self);
int pl_stream_read_raw(PlTransport *self,
                       int (*received)(PyObject *protocol, const void *bytes,
                                       size_t size));

/* The stream's pl_transport_ops. */
int pl_stream_read(PlTransport *self);
int pl_stream_write_ready(PlTransport *self);
int pl_stream_flush(PlTransport *self);
void pl_stream_drop_queue(PlTransport *self);
void pl_stream_last_try(PlTransport *self);
/* The end has come: whoever waits for the queue to run empty is told. */
int pl_stream_fail_waiter(PlStream *self);

/* Methods defined in stream_write.c. */
PyObject *stream_write(PlStream *self, PyObject *const *args, Py_ssize_t nargs,
                       PyObject *kwnames);
PyObject *stream_writelines(PlStream *self, PyObject *const *args,
                            Py_ssize_t nargs, PyObject *kwnames);
PyObject *stream_write_eof(PlStream *self, PyObject *unused);
PyObject *stream_make_empty_waiter(PlStream *self, PyObject *unused);
PyObject *stream_reset_empty_waiter(PlStream *self, PyObject *unused);
PyObject *stream_send_written(PlStream *self, PyObject *unused);
PyObject *loop_send_written(PlLoop *self, PyObject *unused);

#endif
