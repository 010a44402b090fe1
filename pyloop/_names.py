"""loop.getaddrinfo() and loop.getnameinfo().

What is numeric is answered at once, the rest on libuv's pool (loop/dns.c).
In debug mode, for arguments that are wrong, and where a program has put a
function of its own into the socket module, asyncio's own methods do it with
that module in the executor.
"""

import asyncio
import socket
import sys
from asyncio import base_events

_getaddrinfo = socket.getaddrinfo
_getnameinfo = socket.getnameinfo
_NUMERIC = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV


class NameCalls(asyncio.SelectorEventLoop):
    """The look-ups of pyloop.EventLoop."""

    async def getaddrinfo(
        self, host, port, *, family=0, type=0, proto=0, flags=0
    ):
        """socket.getaddrinfo() without blocking."""
        self._check_closed()
        request = None
        if not self._debug and base_events.socket.getaddrinfo is _getaddrinfo:
            answer = self._getaddrinfo(host, port, family, type, proto, flags)
            if answer is not None:
                return answer
            request = _encode(host, port)
        if request is None:
            return await super().getaddrinfo(
                host, port, family=family, type=type, proto=proto, flags=flags
            )
        sys.audit("socket.getaddrinfo", host, port, family, type, proto)
        future = self.create_future()
        try:
            self._resolve(future, *request, family, type, proto, flags)
            return await future
        finally:
            del future  # its exception refers to this frame

    async def getnameinfo(self, sockaddr, flags=0):
        """socket.getnameinfo() without blocking."""
        self._check_closed()
        if not self._debug and base_events.socket.getnameinfo is _getnameinfo:
            if isinstance(flags, int) and flags & _NUMERIC == _NUMERIC:
                return socket.getnameinfo(sockaddr, flags)
            future = self.create_future()
            try:
                if self._resolve_address(future, sockaddr, flags):
                    return await future
            finally:
                del future  # its exception refers to this frame
        return await super().getnameinfo(sockaddr, flags)


def _encode(host, port):
    """(host, port) as bytes or None; None for what asyncio should refuse."""
    try:
        if isinstance(host, str):
            host = host.encode("idna")
        if type(port) is int and abs(port) < 2**31:
            port = b"%d" % port
        elif isinstance(port, str):
            port = port.encode()
    except UnicodeError:
        return None
    for text in (host, port):
        if not (text is None or isinstance(text, bytes) and b"\0" not in text):
            return None
    return host, port
