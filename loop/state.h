/* What one interpreter's copy of the module holds: its types, the asyncio
   objects it calls, its interned names.  Filled by module.c's exec slot and
   constant afterwards, so it is read without a lock.  Every object of ours
   reaches it through its loop. */

#ifndef PL_STATE_H
#define PL_STATE_H

#include <sys/socket.h>

#include "compat.h"

/* X(name): interned as st->str_<name>. */
#define PL_NAMES(X)                                                           \
    X(Future)                                                                 \
    X(Task)                                                                   \
    X(__self__)                                                               \
    X(_adopt)                                                                 \
    X(_attach)                                                                \
    X(_call_connection_lost)                                                  \
    X(_detach)                                                                \
    X(_poll_outside)                                                          \
    X(_process_self_data)                                                     \
    X(_read_ready)                                                            \
    X(_sendto_ready)                                                          \
    X(_start_serving)                                                         \
    X(_start_timer)                                                           \
    X(_transports)                                                            \
    X(_write_ready)                                                           \
    X(add_done_callback)                                                      \
    X(buffer_updated)                                                         \
    X(call_exception_handler)                                                 \
    X(call_later)                                                             \
    X(callback)                                                               \
    X(cancel)                                                                 \
    X(cancelled)                                                              \
    X(close)                                                                  \
    X(connection_lost)                                                        \
    X(connection_made)                                                        \
    X(context)                                                                \
    X(call_at)                                                                \
    X(create_future)                                                          \
    X(data)                                                                   \
    X(data_received)                                                          \
    X(datagram_received)                                                      \
    X(debug)                                                                  \
    X(detach)                                                                 \
    X(done)                                                                   \
    X(eager_start)                                                            \
    X(eof_received)                                                           \
    X(error_received)                                                         \
    X(exception)                                                              \
    X(family)                                                                 \
    X(fileno)                                                                 \
    X(get_buffer)                                                             \
    X(getpeername)                                                            \
    X(getsockname)                                                            \
    X(handle)                                                                 \
    X(loop)                                                                   \
    X(message)                                                                \
    X(name)                                                                   \
    X(pause_writing)                                                          \
    X(peername)                                                               \
    X(proto)                                                                  \
    X(protocol)                                                               \
    X(result)                                                                 \
    X(resume_writing)                                                         \
    X(run)                                                                    \
    X(set_exception)                                                          \
    X(set_result)                                                             \
    X(setblocking)                                                            \
    X(slow_callback_duration)                                                 \
    X(socket)                                                                 \
    X(sockname)                                                               \
    X(source)                                                                 \
    X(source_traceback)                                                       \
    X(time)                                                                   \
    X(timeout)                                                                \
    X(transport)                                                              \
    X(type)                                                                   \
    X(warning)

/* X(field, module, attribute): imported as st->field. */
#define PL_IMPORTS(X)                                                         \
    X(asyncio_handle, "asyncio.events", "Handle")                             \
    X(asyncio_protocol, "asyncio.protocols", "Protocol")                      \
    X(asyncio_timer_handle, "asyncio.events", "TimerHandle")                  \
    X(asyncio_transport, "asyncio.transports", "Transport")                   \
    X(asyncio_datagram_transport, "asyncio.transports", "DatagramTransport")  \
    X(base_events, "asyncio", "base_events")                                  \
    X(buffered_protocol, "asyncio.protocols", "BufferedProtocol")             \
    X(cancelled_error, "asyncio.exceptions", "CancelledError")                \
    X(ensure_future, "asyncio.tasks", "ensure_future")                        \
    X(extract_stack, "asyncio.format_helpers", "extract_stack")               \
    X(format_callback_source, "asyncio.format_helpers",                       \
      "_format_callback_source")                                              \
    X(invalid_state, "asyncio.exceptions", "InvalidStateError")               \
    X(iscoroutine, "asyncio.coroutines", "iscoroutine")                       \
    X(iscoroutinefunction, "inspect", "iscoroutinefunction")                  \
    X(logger, "asyncio.log", "logger")                                        \
    X(socket_base, "_socket", "socket")                                       \
    X(socket_type, "socket", "socket")                                        \
    X(future_type, "asyncio.futures", "Future")                               \
    X(futures, "asyncio", "futures")                                          \
    X(task_type, "asyncio.tasks", "Task")                                     \
    X(tasks, "asyncio", "tasks")                                              \
    X(gaierror, "socket", "gaierror")                                         \
    X(address_family, "socket", "AddressFamily")                              \
    X(socket_kind, "socket", "SocketKind")                                    \
    X(selector_loop, "asyncio.selector_events", "BaseSelectorEventLoop")      \
    X(selector_transport, "asyncio.selector_events",                          \
      "_SelectorSocketTransport")                                             \
    X(transport_socket, "asyncio.trsock", "TransportSocket")                  \
    X(stream_socket, "pyloop._written", "TransportSocket")                    \
    X(getframe, "sys", "_getframe")

#define PL_FAMILIES (AF_INET6 + 1)
#define PL_KINDS (SOCK_SEQPACKET + 1)

typedef struct {
    /* set once */
    PyTypeObject *LoopType;
    PyTypeObject *HandleType;
    PyTypeObject *DebugHandleType;
    PyTypeObject *TimerHandleType;
    PyTypeObject *ThreadSafeHandleType;
    PyTypeObject *StreamType;
    PyTypeObject *ListenerType;
    PyTypeObject *StatsType;
    PyTypeObject *WatcherType;
    PyTypeObject *NativeProtocolType;
    PyTypeObject *NativeFactoryType;
    PyTypeObject *DatagramType;
    PyObject *asyncio_threadsafe_handle;    /* 3.14+, else Handle */
    PyObject *create_task;                  /* BaseEventLoop's */
    PyObject *ensure_fd_no_transport;       /* BaseSelectorEventLoop's */
    PyObject *loop_kwnames;                 /* ("loop",) */
    PyObject *debug_kwnames;                /* ("debug",) where
                                               _format_callback_source() takes
                                               it, else NULL */
    PyObject *socket_fileno;                /* _socket.socket's method */
    PyObject *no_vars;                      /* an empty context's: context.h;
                                               NULL: layout unknown */
    PyObject *families[PL_FAMILIES];        /* AddressFamily members */
    PyObject *kinds[PL_KINDS];              /* SocketKind members */
    int attach_takes_transport;             /* Server._attach(transport) */
    int create_task_hands_on;               /* any keyword to Task */
    int knows_sockets;                      /* where they keep the number */
#define X(name) PyObject *str_##name;
    PL_NAMES(X)
#undef X
#define X(field, module, attribute) PyObject *field;
    PL_IMPORTS(X)
#undef X
} pl_state;

/* The state behind a class of ours or a subclass of it; NULL with an
   exception set. */
pl_state *pl_state_by_type(PyTypeObject *type);

#endif
