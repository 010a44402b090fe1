"""What a stream was given to write waits for the end of the turn; asyncio has
sent it when write() returns.  Whoever could tell has it sent first: who uses
the transport's socket, and os.fork(), after which two would send it.
"""

import asyncio
import os
import weakref
from asyncio import trsock


class TransportSocket(trsock.TransportSocket):
    """transport.get_extra_info("socket") of a stream."""

    __slots__ = ("_transport",)

    def __init__(self, sock, transport):
        super().__init__(sock)
        self._transport = weakref.ref(transport)

    def _send_written(self):
        transport = self._transport()
        if transport is not None:
            transport._send_written()

    def fileno(self):
        self._send_written()
        return super().fileno()

    def dup(self):
        self._send_written()
        return super().dup()

    def shutdown(self, how):
        self._send_written()
        super().shutdown(how)


def _before_fork():
    loop = asyncio._get_running_loop()
    send = getattr(loop, "_send_written", None)
    if send is not None:
        send()


os.register_at_fork(before=_before_fork)
