"""pyloop.EventLoop: the C loop over the running version's asyncio loop.

Methods of the C type come first in the method resolution order; what it does
not define is asyncio.SelectorEventLoop's, word for word.  This module holds
what runs once per loop, per server or per outgoing connection.
"""

import os
import selectors
import signal
import socket
import sys
import threading
from asyncio import events, log, transports

from pyloop import _child, _core, _facade, _pipes, _threads, _tls
from pyloop._names import NameCalls
from pyloop._sockets import SocketCalls, is_plain

# The private names of asyncio that pyloop leans on, as (owner, name).  A test
# checks that the running version has each of them.
STDLIB_NAMES = (
    ("asyncio.base_events:BaseEventLoop", "_asyncgen_finalizer_hook"),
    ("asyncio.base_events:BaseEventLoop", "_asyncgen_firstiter_hook"),
    ("asyncio.base_events:BaseEventLoop", "_check_callback"),
    ("asyncio.base_events:BaseEventLoop", "_check_default_executor"),
    ("asyncio.base_events:BaseEventLoop", "_check_running"),
    ("asyncio.base_events:BaseEventLoop", "_set_coroutine_origin_tracking"),
    ("asyncio.base_events:Server", "_attach"),
    ("asyncio.base_events:Server", "_detach"),
    ("asyncio.constants", "_SendfileMode"),
    ("asyncio.events:Handle", "_repr_info"),
    ("asyncio.futures", "_convert_future_exc"),
    ("asyncio.format_helpers", "_format_callback_source"),
    ("asyncio.base_events:BaseEventLoop", "_sendfile_fallback"),
    ("asyncio.selector_events:BaseSelectorEventLoop", "_add_reader"),
    ("asyncio.selector_events:BaseSelectorEventLoop", "_add_writer"),
    ("asyncio.selector_events:BaseSelectorEventLoop", "_close_self_pipe"),
    (
        "asyncio.selector_events:BaseSelectorEventLoop",
        "_ensure_fd_no_transport",
    ),
    ("asyncio.selector_events:BaseSelectorEventLoop", "_make_self_pipe"),
    (
        "asyncio.selector_events:BaseSelectorEventLoop",
        "_make_datagram_transport",
    ),
    (
        "asyncio.selector_events:BaseSelectorEventLoop",
        "_make_socket_transport",
    ),
    ("asyncio.selector_events:BaseSelectorEventLoop", "_make_ssl_transport"),
    ("asyncio.selector_events:BaseSelectorEventLoop", "_process_events"),
    ("asyncio.selector_events:BaseSelectorEventLoop", "_read_from_self"),
    ("asyncio.selector_events:BaseSelectorEventLoop", "_remove_reader"),
    ("asyncio.selector_events:BaseSelectorEventLoop", "_remove_writer"),
    ("asyncio.selector_events:BaseSelectorEventLoop", "_sendfile_native"),
    ("asyncio.selector_events:BaseSelectorEventLoop", "_start_serving"),
    ("asyncio.selector_events:BaseSelectorEventLoop", "_stop_serving"),
    ("asyncio.selector_events:BaseSelectorEventLoop", "_write_to_self"),
    ("asyncio.base_subprocess:BaseSubprocessTransport", "_call"),
    ("asyncio.transports:_FlowControlMixin", "_maybe_pause_protocol"),
    ("asyncio.transports:_FlowControlMixin", "_maybe_resume_protocol"),
    ("asyncio.unix_events:_UnixReadPipeTransport", "_call_connection_lost"),
    ("asyncio.unix_events:_UnixReadPipeTransport", "_read_ready"),
    ("asyncio.unix_events:_UnixWritePipeTransport", "_call_connection_lost"),
    ("asyncio.unix_events:_UnixWritePipeTransport", "_close"),
    (
        "asyncio.unix_events:_UnixSelectorEventLoop",
        "_make_read_pipe_transport",
    ),
    (
        "asyncio.unix_events:_UnixSelectorEventLoop",
        "_make_write_pipe_transport",
    ),
    ("asyncio.sslproto:SSLProtocol", "_control_app_writing"),
    ("asyncio.sslproto:SSLProtocol", "_do_write"),
    ("asyncio.sslproto:SSLProtocol", "_get_write_buffer_size"),
    ("asyncio.sslproto:SSLProtocol", "_process_outgoing"),
    ("asyncio.sslproto", "SSLAgainErrors"),
    ("asyncio.sslproto", "_SSLProtocolTransport"),
    ("asyncio.streams:StreamReaderProtocol", "_stream_reader"),
    ("asyncio.transports", "_FlowControlMixin"),
    (
        "asyncio.unix_events:_UnixSelectorEventLoop",
        "_child_watcher_callback",
    ),
    (
        "asyncio.unix_events:_UnixSelectorEventLoop",
        "_make_subprocess_transport",
    ),
    ("asyncio.unix_events:_UnixSelectorEventLoop", "_process_self_data"),
    ("asyncio.unix_events:_UnixSelectorEventLoop", "_sock_sendfile_native"),
    ("asyncio.unix_events:_UnixSubprocessTransport", "_check_proc"),
    ("asyncio.unix_events:_UnixSubprocessTransport", "_process_exited"),
    ("asyncio.unix_events:_UnixSubprocessTransport", "_wait"),
)


def _put_back(wakeup_fd):
    try:
        signal.set_wakeup_fd(wakeup_fd, warn_on_full_buffer=False)
    except (ValueError, OSError):
        pass  # closed in the meantime


class _SentByHand:
    """A transport for asyncio's sendfile without the system call, which wants
    its own mixin to be a base."""

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return transports._FlowControlMixin

    def __init__(self, stream):
        self._stream = stream

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def is_closing(self):
        # TLS drops what is written after the peer's end, and says it is open.
        tls = getattr(self._stream, "_ssl_protocol", None)
        return self._stream.is_closing() or (
            tls is not None and tls._conn_lost > 0
        )


class EventLoop(_core.Loop, SocketCalls, NameCalls):
    """An asyncio event loop; every method of the running version's loop.

    selector: one that waits in the place of the core, by Python in each turn;
    for what has to see or to change the waiting.
    """

    def __init__(self, selector=None):
        self._ssock = self._csock = None
        self._children = set()
        self._tls_buffer = _tls.make_buffer()
        # super(), for a program may put this class in asyncio's place.
        super().__init__(
            _facade.CoreSelector(self) if selector is None else selector
        )
        if selector is not None:
            try:
                # It returns when the core has something to do.
                selector.register(
                    self._poller_fileno(), selectors.EVENT_READ, (None, None)
                )
            except BaseException:
                self.close()
                raise
        if not sys.flags.ignore_environment:
            microseconds = os.environ.get("PYLOOP_BUSY_POLL")
            if microseconds:
                self.busy_poll = float(microseconds) * 1e-6
            if os.environ.get("PYLOOP_IO_URING", "0") not in ("", "0"):
                try:
                    self.io_uring = True
                except OSError as exc:
                    log.logger.warning("pyloop: no io_uring: %s", exc)

    # -- running -------------------------------------------------------

    def run_forever(self):
        """Run until stop() is called."""
        self._run_forever_setup()
        try:
            self._run()
        finally:
            self._run_forever_cleanup()

    # As in asyncio since 3.13: what a foreign main loop calls around its
    # calls of _run_once().

    def _run_forever_setup(self):
        self._check_closed()
        self._check_running()
        self._enter()
        hooks = sys.get_asyncgen_hooks()
        self._outside = hooks, None
        try:
            self._outside = hooks, self._own_wakeup_fd()
            self._set_coroutine_origin_tracking(self._debug)
            sys.set_asyncgen_hooks(
                firstiter=self._asyncgen_firstiter_hook,
                finalizer=self._asyncgen_finalizer_hook,
            )
            events._set_running_loop(self)
        except BaseException:
            self._run_forever_cleanup()
            raise

    def _run_forever_cleanup(self):
        self._leave()
        events._set_running_loop(None)
        self._set_coroutine_origin_tracking(False)
        hooks, wakeup = self._outside
        sys.set_asyncgen_hooks(*hooks)
        self._return_wakeup_fd(wakeup)

    # -- what asyncio keeps in attributes ------------------------------

    @property
    def _selector(self):
        return self._chosen_selector

    @_selector.setter
    def _selector(self, selector):
        self._chosen_selector = selector
        self._waits_outside = _facade.waits_outside(selector)

    def _poll_outside(self, timeout):
        self._process_events(self._selector.select(timeout))

    def _adopt(self, handle):
        """Schedule a handle that this loop did not make."""
        if not handle._cancelled:
            self.call_soon(_facade.Adopted(handle))

    @property
    def _ready(self):
        return _facade.Ready(self, self._waiting()[0])

    @_ready.setter
    def _ready(self, value):
        """asyncio's __init__ makes its own here."""

    @property
    def _scheduled(self):
        return _facade.Scheduled(self, self._waiting()[1])

    @_scheduled.setter
    def _scheduled(self, value):
        """asyncio's __init__ makes its own here."""

    # -- the end -------------------------------------------------------

    def close(self):
        """Drop all that is scheduled and release every descriptor."""
        if self._closed:
            return
        try:
            super().close()
        finally:
            # Closed as well where another thread's signals are in the way.
            if self._closed:
                for transport in tuple(self._children):
                    transport.forget()
                self._close_core()

    # -- signals: the wake-up descriptor is ours while we run ----------

    def _make_self_pipe(self):
        """asyncio makes its self-pipe here; ours is made when it is needed."""
        self._internal_fds += 1

    def _close_self_pipe(self):
        self._internal_fds -= 1
        ssock, csock = self._ssock, self._csock
        self._ssock = self._csock = None
        if ssock is None:
            return
        try:
            now = signal.set_wakeup_fd(-1)
        except ValueError:
            pass  # not the main thread
        else:
            if now not in (-1, csock.fileno()):
                _put_back(now)
        # Not unregistered: the core closes with us, and a child of fork must
        # not take the registration from its parent.
        ssock.close()
        csock.close()

    def _ensure_self_pipe(self):
        if self._ssock is None:
            self._ssock, self._csock = socket.socketpair()
            self._ssock.setblocking(False)
            self._csock.setblocking(False)
            self._add_reader(self._ssock.fileno(), self._read_from_self)

    def _own_wakeup_fd(self):
        """Signals wake the poll.  What to put back, or None: not ours.

        A program's own descriptor stays: then a signal only interrupts the
        poll, as it does in asyncio.
        """
        if threading.current_thread() is not threading.main_thread():
            return None
        self._ensure_self_pipe()
        ours = self._csock.fileno()
        try:
            before = signal.set_wakeup_fd(ours, warn_on_full_buffer=False)
        except ValueError:
            return None  # not the main interpreter
        if before == ours:
            return -1
        self._look_for_signals = before != -1 and not self._signal_handlers
        if self._look_for_signals:
            _put_back(before)
        return before

    def _return_wakeup_fd(self, before):
        """Put `before` back where ours still is."""
        # add_signal_handler() in the run wants it for good, as in asyncio.
        if before is None or self._signal_handlers:
            return
        now = signal.set_wakeup_fd(-1)
        wanted = before if now == self._csock.fileno() else now
        if wanted != -1:
            _put_back(wanted)

    def add_signal_handler(self, sig, callback, *args):
        """Call callback(*args) in the loop when the signal arrives."""
        if self._csock is None and not self._closed:
            self._ensure_self_pipe()
        try:
            return super().add_signal_handler(sig, callback, *args)
        except BaseException:
            if self.is_running() and not self._signal_handlers:
                self._own_wakeup_fd()  # asyncio has just given it up
            raise

    def remove_signal_handler(self, sig):
        """Undo add_signal_handler(); True if there was one."""
        removed = super().remove_signal_handler(sig)
        if removed and self.is_running() and not self._signal_handlers:
            self._own_wakeup_fd()  # asyncio has just given it up
        return removed

    # -- executors -----------------------------------------------------

    def run_in_executor(self, executor, func, *args):
        """Call func(*args) in the executor, the default one if None."""
        pool = self._default_executor if executor is None else executor
        if pool is None or self._debug:
            return super().run_in_executor(executor, func, *args)
        self._check_closed()
        if executor is None:
            self._check_default_executor()
        return _threads.wrap_future(pool.submit(func, *args), self)

    # -- transports ----------------------------------------------------

    def _make_socket_transport(
        self, sock, protocol, waiter=None, *, extra=None, server=None
    ):
        self._ensure_fd_no_transport(sock)
        if not is_plain(sock):
            # Has methods of its own: asyncio's transport calls them.
            return super()._make_socket_transport(
                sock, protocol, waiter, extra=extra, server=server
            )
        return self._make_stream(sock, protocol, waiter, extra, server)

    def _make_read_pipe_transport(
        self, pipe, protocol, waiter=None, extra=None
    ):
        return _pipes._UnixReadPipeTransport(
            self, pipe, protocol, waiter, extra
        )

    def _make_write_pipe_transport(
        self, pipe, protocol, waiter=None, extra=None
    ):
        return _pipes._UnixWritePipeTransport(
            self, pipe, protocol, waiter, extra
        )

    def _make_datagram_transport(
        self, sock, protocol, address=None, waiter=None, extra=None
    ):
        self._ensure_fd_no_transport(sock)
        return self._make_datagram(sock, protocol, address, waiter, extra)

    def _make_ssl_transport(
        self,
        rawsock,
        protocol,
        sslcontext,
        waiter=None,
        *,
        server_side=False,
        server_hostname=None,
        extra=None,
        server=None,
        **timeouts,
    ):
        ssl_protocol = _tls.SSLProtocol(
            self,
            protocol,
            sslcontext,
            waiter,
            server_side,
            server_hostname,
            **timeouts,
        )
        self._make_socket_transport(
            rawsock, ssl_protocol, extra=extra, server=server
        )
        return ssl_protocol._app_transport

    async def start_tls(
        self,
        transport,
        protocol,
        sslcontext,
        *,
        server_side=False,
        server_hostname=None,
        ssl_handshake_timeout=None,
        ssl_shutdown_timeout=None,
    ):
        """Continue a connection in TLS; the new transport."""
        soon = None
        if not self._closed:  # asyncio has errors that come before that one
            soon = self.call_soon(
                _tls.take_over, transport, protocol, server_side
            )
        try:
            return await super().start_tls(
                transport,
                protocol,
                sslcontext,
                server_side=server_side,
                server_hostname=server_hostname,
                ssl_handshake_timeout=ssl_handshake_timeout,
                ssl_shutdown_timeout=ssl_shutdown_timeout,
            )
        finally:
            if soon is not None:
                soon.cancel()

    def _start_serving(
        self,
        protocol_factory,
        sock,
        sslcontext=None,
        server=None,
        backlog=100,
        *args,
        **kwargs,
    ):
        if sslcontext is None and is_plain(sock):
            self._listen(
                sock.fileno(), sock, protocol_factory, server, backlog
            )
        else:
            super()._start_serving(
                protocol_factory,
                sock,
                sslcontext,
                server,
                min(backlog, 1024),
                *args,
                **kwargs,
            )

    async def _sendfile_native(self, transp, file, offset, count):
        resume_reading = transp.is_reading()
        transp.pause_reading()
        empty = transp._make_empty_waiter()
        try:
            await empty
            if transp._sock is None:
                raise ConnectionError("Connection is closed by peer")
            # By a number of its own, which stays ours when the transport is
            # closed meanwhile; closing it ends the sending with an error.
            with transp._sock.dup() as sock:
                transp._set_lent(True)
                return await self.sock_sendfile(
                    sock, file, offset, count, fallback=False
                )
        finally:
            transp._set_lent(False)
            transp._reset_empty_waiter()
            if resume_reading:
                transp.resume_reading()

    async def _sendfile_fallback(self, transp, file, offset, count):
        return await super()._sendfile_fallback(
            _SentByHand(transp), file, offset, count
        )

    # -- child processes -----------------------------------------------

    async def _make_subprocess_transport(
        self, protocol, args, shell, stdin, stdout, stderr, bufsize, **kwargs
    ):
        how = args, shell, stdin, stdout, stderr, bufsize
        if _child.watcher_was_chosen():
            return await super()._make_subprocess_transport(
                protocol, *how, **kwargs
            )
        waiter = self.create_future()
        transport = _child._UnixSubprocessTransport(
            self, protocol, *how, waiter=waiter, **kwargs
        )
        transport.watch()
        try:
            await waiter
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException:
            transport.close()
            await transport._wait()
            raise
        return transport
