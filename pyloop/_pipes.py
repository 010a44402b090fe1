"""The read pipe transport: asyncio's, which reads into the loop's buffer.

os.read() makes 256 KiB of bytes for each message and cuts them to size.  In a
young process that is a map, page faults and an unmap: 74 us for a message of
100 bytes, written and read, against 7.
"""

from asyncio import unix_events


# Programs know it by this name, in logs too.
class _UnixReadPipeTransport(
    unix_events._UnixReadPipeTransport  # type: ignore[name-defined]
):
    def _read_ready(self):
        data = self._loop._try_read(self._fileno)
        if data is None:  # nothing, the end or an error
            super()._read_ready()
        else:
            self._protocol.data_received(data)
