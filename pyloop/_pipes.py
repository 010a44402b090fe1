"""The pipe transports: asyncio's, whose protocol is called in the context in
which the transport was made, and which read into the loop's buffer.

os.read() makes 256 KiB of bytes for each message and cuts them to size.  In a
young process that is a map, page faults and an unmap: 74 us for a message of
100 bytes, written and read, against 7.
"""

import contextvars
from asyncio import unix_events


class InContext:
    """A transport that keeps the context in which it was made."""

    def __init__(self, *args, **kwargs):
        self._context = contextvars.copy_context()
        super().__init__(*args, **kwargs)


# Programs know these by their names, in logs too.
class _UnixReadPipeTransport(
    InContext,
    unix_events._UnixReadPipeTransport,  # type: ignore[name-defined]
):
    def resume_reading(self):
        self._context.run(super().resume_reading)

    def _read_ready(self):
        data = self._loop._try_read(self._fileno)
        if data is None:  # nothing, the end or an error
            super()._read_ready()
        else:
            self._protocol.data_received(data)

    def _call_connection_lost(self, exc):
        self._context.copy().run(super()._call_connection_lost, exc)


class _UnixWritePipeTransport(
    InContext,
    unix_events._UnixWritePipeTransport,  # type: ignore[name-defined]
):
    def _maybe_pause_protocol(self):
        self._context.copy().run(super()._maybe_pause_protocol)

    def _maybe_resume_protocol(self):
        self._context.copy().run(super()._maybe_resume_protocol)

    # abort() after close(): the end comes once, and after it there is nothing
    # to close.

    def _close(self, exc=None):
        if self._loop is not None:
            super()._close(exc)

    def _call_connection_lost(self, exc):
        if self._loop is not None:
            self._context.copy().run(super()._call_connection_lost, exc)
