"""loop.sock_* and create_connection(): by one system call where that suffices.

Each method first has the C loop try (loop/sockops.c), which answers with the
result, with a future when the call would block, or with NotImplemented when
asyncio's own method is to do it: in debug mode, for a socket of another class
and for arguments that are wrong.  asyncio's methods remain the reference for
what is checked, and in which words.

The future tells that the socket is ready and no more.  What has arrived stays
in the socket until the coroutine that asked for it runs again, so that a
cancellation loses nothing.
"""

import asyncio
import errno
import os
import socket
import types
from asyncio import Future, base_events, unix_events
from asyncio.exceptions import SendfileNotAvailableError

from pyloop import _facade

_SENDFILE_MAX = 1 << 30  # what fits in a call everywhere
_socket_type = socket.socket

# What asyncio's stream transport and server call.
_CALLED = frozenset(
    "accept getpeername getsockname listen recv recv_into send sendmsg "
    "shutdown".split()
)


def is_plain(sock):
    """Is it the system's socket, with none of its methods overridden?"""
    kind = type(sock)
    return kind is _socket_type or (
        isinstance(sock, _socket_type)
        and all(
            getattr(kind, name, None) is getattr(_socket_type, name)
            for name in _CALLED
        )
        and _CALLED.isdisjoint(getattr(sock, "__dict__", ()))
    )


class SocketCalls(asyncio.SelectorEventLoop):
    """The sock_ methods of pyloop.EventLoop."""

    async def _until_ready(self, sock, waiter):
        try:
            await waiter
        except BaseException:
            self._stop_waiting(sock, waiter)
            raise

    async def sock_recv(self, sock, n):
        """Receive up to n bytes."""
        while type(data := self._try_recv(sock, n)) is Future:
            try:  # _until_ready() without its frame
                await data
            except BaseException:
                self._stop_waiting(sock, data)
                raise
        if data is NotImplemented:
            data = await super().sock_recv(sock, n)
        return data

    async def sock_recv_into(self, sock, buf):
        """Receive into a writable buffer; the number of bytes."""
        while type(count := self._try_recv_into(sock, buf)) is Future:
            await self._until_ready(sock, count)
        if count is NotImplemented:
            count = await super().sock_recv_into(sock, buf)
        return count

    async def sock_recvfrom(self, sock, bufsize):
        """Receive a datagram; (bytes, address)."""
        while type(pair := self._try_recvfrom(sock, bufsize)) is Future:
            await self._until_ready(sock, pair)
        if pair is NotImplemented:
            pair = await super().sock_recvfrom(sock, bufsize)
        return pair

    async def sock_recvfrom_into(self, sock, buf, nbytes=0):
        """Receive a datagram into a buffer; (number of bytes, address)."""
        while (
            type(pair := self._try_recvfrom_into(sock, buf, nbytes)) is Future
        ):
            await self._until_ready(sock, pair)
        if pair is NotImplemented:
            pair = await super().sock_recvfrom_into(sock, buf, nbytes)
        return pair

    async def sock_sendall(self, sock, data):
        """Send all of data."""
        sent = self._try_send(sock, data, 0)
        if sent is None:
            return
        if sent is NotImplemented:
            return await super().sock_sendall(sock, data)
        # What is still to be sent must not change its size meanwhile.
        with memoryview(data) as whole, whole.cast("B") as view:
            while sent is not None:
                await self._until_ready(sock, self._wait_writable(sock))
                start, sent = sent, self._try_send(sock, view, sent)
                if sent is NotImplemented:
                    sent = await super().sock_sendall(sock, view[start:])

    async def sock_accept(self, sock):
        """Accept a connection; (socket, address)."""
        while type(pair := self._try_accept(sock)) is Future:
            await self._until_ready(sock, pair)
        if pair is NotImplemented:
            pair = await super().sock_accept(sock)
        return pair

    async def sock_connect(self, sock, address):
        """Connect to an address."""
        done = self._try_connect(sock, address)
        while type(done) is Future:
            await self._until_ready(sock, done)
            done = self._finish_connect(sock, address)
        if done is NotImplemented:
            await super().sock_connect(sock, address)

    async def _sock_sendfile_native(self, sock, file, offset, count):
        """asyncio's, waiting in the middle instead of starting anew; so the
        file's position is right after a cancellation as well."""
        sendfile = getattr(unix_events.os, "sendfile", None)
        if sendfile is None:
            raise SendfileNotAvailableError("os.sendfile() is not available")
        try:
            fileno = file.fileno()
            size = os.fstat(fileno).st_size
        except (AttributeError, OSError):
            raise SendfileNotAvailableError("not a regular file")
        sent, waited = 0, False
        try:
            while sent < count if count else size:
                try:
                    n = sendfile(
                        sock.fileno(),
                        fileno,
                        offset + sent,
                        min(count - sent if count else size, _SENDFILE_MAX),
                    )
                except (BlockingIOError, InterruptedError):
                    pass
                except OSError as exc:
                    if not sent:
                        raise SendfileNotAvailableError(
                            "os.sendfile call failed"
                        ) from None
                    if waited and exc.errno == errno.ENOTCONN:
                        raise ConnectionError(
                            "socket is not connected", errno.ENOTCONN
                        ) from exc
                    raise
                else:
                    sent += n
                    if not n or sent == count:
                        break
                await self._until_ready(sock, self._wait_writable(sock))
                waited = True
        finally:
            if sent:
                os.lseek(fileno, offset + sent, os.SEEK_SET)
        return sent

    @_facade.known_as(asyncio.SelectorEventLoop.create_connection)
    def create_connection(
        self, protocol_factory, host=None, port=None, **options
    ):
        """Connect to a TCP server; (transport, protocol)."""
        if options:
            return super().create_connection(
                protocol_factory, host, port, **options
            )
        return self._create_connection(protocol_factory, host, port)

    async def _create_connection(self, protocol_factory, host, port):
        made = NotImplemented
        if not (
            # What asyncio would call here may be somebody's own.
            base_events.socket is not socket
            or socket.socket is not _socket_type
            or type(self).sock_connect is not SocketCalls.sock_connect
            or "sock_connect" in self.__dict__
        ):
            made = self._open_stream(protocol_factory, host, port)
        if made is NotImplemented:
            return await super().create_connection(
                protocol_factory, host, port
            )
        if type(made) is not tuple:
            made = await self._connected(made, (host, port), protocol_factory)
        try:
            await _turn()  # behind connection_made() in the ready ring
        except BaseException:
            made[0].close()
            raise
        return made

    async def _connected(self, sock, address, protocol_factory):
        try:
            await self.sock_connect(sock, address)
            protocol = protocol_factory()
            transport = self._make_stream(sock, protocol, None, None, None)
        except BaseException:
            sock.close()
            raise
        return transport, protocol


@types.coroutine
def _turn():
    yield
