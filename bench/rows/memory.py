"""What an idle connection costs in memory."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import resource
from functools import partial

from ..row import Context, Sample, row


class Idle(asyncio.Protocol):
    __slots__ = ("transport",)

    def connection_made(self, transport):
        self.transport = transport

    def connection_lost(self, exc):
        self.transport = None


def resident() -> int:
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except AttributeError:  # not glibc
        pass
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@row("memory per idle connection pair", "KiB", goal=1.0, lower=True, cost=0.7)
def idle_memory(ctx: Context) -> Sample:
    """Growth of resident memory by 4,000 idle TCP pairs, per pair.

    Source: the goals table.  Both ends are in the process and on the loop;
    the protocol objects exist beforehand, so what is left is transports,
    their sockets, buffers and registrations.
    """
    pairs, warm = ctx.size(4_000, 40), ctx.size(200, 10)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    need = 2 * (pairs + warm) + 200
    if hard != resource.RLIM_INFINITY and hard < need:
        raise RuntimeError(f"needs {need} descriptors, the limit is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (need, hard))

    async def main(loop):
        protocols = [Idle() for _ in range(2 * (pairs + warm))]
        spare = partial(next, iter(protocols))
        server = await loop.create_server(spare, "127.0.0.1", 0, backlog=128)
        address = server.sockets[0].getsockname()

        async def connect(first, last):
            for _ in range(first, last, 10):
                await asyncio.gather(
                    *[
                        loop.create_connection(spare, *address)
                        for _ in range(10)
                    ]
                )
            while not all(
                hasattr(protocol, "transport")
                for protocol in protocols[: 2 * last]
            ):
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.01)

        await connect(0, warm)
        before = resident()
        await connect(warm, warm + pairs)
        grown = resident() - before
        for protocol in protocols:
            protocol.transport.abort()
        server.close()
        await asyncio.sleep(0.05)
        return Sample(grown / pairs / 1024)

    return ctx.run(main)
