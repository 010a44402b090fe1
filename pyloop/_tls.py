"""TLS connections: asyncio's protocol, less what it keeps while idle.

asyncio's SSLProtocol owns a buffer of 256 KiB, asks OpenSSL for as much at a
time, which never gives more than a record, and encrypts a write as a whole
into a MemoryBIO that stays as large as it ever was.  Here a loop's
connections read into one buffer, emptied before the next read, and records go
to the transport as they are made: 27 KiB for an idle connection, not 289.
"""

import contextvars
from asyncio import sslproto, streams

RECORD = 16 * 1024
READ = 32 * 1024
_BYTES = frozenset((bytes, bytearray, memoryview))


# Programs know a transport of TLS by this name.
class _SSLProtocolTransport(
    sslproto._SSLProtocolTransport  # type: ignore[misc]
):
    _closed_twice = False

    def close(self):
        # The second close() of asyncio's lets go of the connection, and
        # abort() does nothing from then on.
        if not self._closed:
            super().close()
        elif self._ssl_protocol._app_transport is not None:
            self._closed_twice = True
        else:
            self._ssl_protocol._let_go()

    def writelines(self, list_of_data):
        parts = list(list_of_data)
        if not _BYTES.issuperset(map(type, parts)):
            self._ssl_protocol.__class__ = _Unsplit
        super().writelines(parts)


class SSLProtocol(sslproto.SSLProtocol):
    max_size = RECORD

    def __init__(self, loop, *args, **kwargs):
        super().__init__(loop, *args, **kwargs)
        self._settle()

    def _settle(self):
        self._ssl_buffer, self._ssl_buffer_view = self._loop._tls_buffer
        self._context = contextvars.copy_context()
        self._app_transport.__class__ = _SSLProtocolTransport

    def connection_lost(self, exc):
        transport = self._app_transport
        super().connection_lost(exc)
        if transport is not None and transport._closed_twice:
            self._let_go()

    def _let_go(self):
        # Nobody needs these any more; asyncio lets go of all.
        self._sslcontext = self._sslobj = None
        self._extra = {}

    def _control_app_writing(self):
        size = self._get_write_buffer_size()
        if self._app_protocol is not None and (
            size <= self._outgoing_low_water
            if self._app_writing_paused
            else size > self._outgoing_high_water
        ):
            self._context.copy().run(super()._control_app_writing)

    def _do_write(self):
        backlog = self._write_backlog
        try:
            while backlog:
                data = backlog[0]
                size = len(data)
                part = data
                if size > RECORD:
                    part = memoryview(data)
                    # A view may count in larger items than bytes.
                    part = part[:RECORD] if part.nbytes == size else data
                count = min(self._sslobj.write(part), size)
                if count < size:
                    backlog[0] = memoryview(data)[count:]
                else:
                    backlog.popleft()
                self._write_buffer_size -= count
                if (
                    backlog
                    and not self._ssl_writing_paused
                    and not self._transport.is_closing()
                ):
                    self._transport.write(self._outgoing.read())
        except sslproto.SSLAgainErrors:
            pass
        self._process_outgoing()


class _Unsplit(SSLProtocol):
    """For what may be no bytes, which keeps all from being sent."""

    _do_write = sslproto.SSLProtocol._do_write  # type: ignore[attr-defined]


def make_buffer():
    buffer = bytearray(READ)
    return buffer, memoryview(buffer)


def take_over(transport, protocol, server_side):
    """start_tls() has put TLS between the two, and nothing has run yet.

    What a server's reader has buffered was meant for TLS (newer releases of
    CPython see to it too), and who was told to pause will be told to resume.
    """
    tls = transport.get_protocol()
    if type(tls) is not sslproto.SSLProtocol or tls._transport is not None:
        return
    tls.__class__ = SSLProtocol
    tls._settle()
    if take_context := getattr(transport, "_take_context", None):
        take_context()
    if isinstance(protocol, streams.StreamReaderProtocol):
        reader = protocol._stream_reader
        if reader is not None:
            reader._paused = False  # start_tls() resumes
            if server_side and reader._buffer:
                tls._incoming.write(reader._buffer)
                reader._buffer.clear()
    outer = getattr(transport, "_ssl_protocol", None)
    if getattr(transport, "_protocol_paused", False) or (
        outer is not None and outer._app_writing_paused
    ):
        tls._ssl_writing_paused = tls._app_writing_paused = True
