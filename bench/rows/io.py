"""Sockets, names and processes.

The loop under test is the server; the client is the load generator, a
separate process with plain sockets (../load.c).
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess

from ..row import Context, Sample, row

HOST = "127.0.0.1"


class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)


def echo(ctx: Context, connections: int, size: int) -> Sample:
    async def main(loop):
        server = await loop.create_server(Echo, HOST, 0)
        port = server.sockets[0].getsockname()[1]
        report = await ctx.client_aside(
            loop, "echo", HOST, port, connections, size, *ctx.window
        )
        server.close()
        return report

    report = ctx.run(main)
    return Sample(report.pop("rate"), report)


@row("echo 1 KiB, 1 connection", "round trips/s", goal=1.05, cost=1)
def echo1(ctx: Context) -> Sample:
    """A Protocol writes back what it gets; one client, one message under way.

    Source: the goals table.  Latency of one read, one write and one poll.
    """
    return echo(ctx, 1, 1024)


@row("echo 1 KiB, 50 connections", "round trips/s", goal=1.1, cost=1)
def echo50(ctx: Context) -> Sample:
    """The same with 50 clients, each with one message under way.

    Source: the goals table.  The server is saturated, polls bring many.
    """
    return echo(ctx, ctx.size(50, 5), 1024)


@row("echo 100 KiB", "round trips/s", goal=1.1, cost=1)
def echo100k(ctx: Context) -> Sample:
    """One client, messages of 100 KiB.

    Source: the goals table.  Read sizes, copies, partial writes.
    """
    return echo(ctx, 1, 100 * 1024)


@row("connect + abort", "connections/s", goal=1.3)
def connect_abort(ctx: Context) -> Sample:
    """create_connection to a numeric address, then transport.abort().

    Source: the goals table.  The loop is the client; the other side is a
    plain accept-and-close process.
    """
    listener = subprocess.Popen(
        [*ctx.load, "accept", HOST], stdout=subprocess.PIPE, text=True
    )
    try:
        port = int(listener.stdout.readline())

        async def step(loop, n):
            for _ in range(n):
                transport, _ = await loop.create_connection(
                    asyncio.Protocol, HOST, port
                )
                transport.abort()

        return ctx.rate(step, ctx.size(1_000, 20))
    finally:
        listener.kill()
        listener.communicate()


@row("streams echo 1 KiB", "round trips/s", goal=1.1, cost=1)
def streams(ctx: Context) -> Sample:
    """asyncio.start_server: read, write, drain; one client.

    Source: the goals table.  The API most applications use.
    """

    async def serve(reader, writer):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def main(loop):
        server = await asyncio.start_server(serve, HOST, 0)
        port = server.sockets[0].getsockname()[1]
        report = await ctx.client_aside(
            loop, "echo", HOST, port, 1, 1024, *ctx.window
        )
        server.close()
        await asyncio.sleep(0.01)
        return report

    report = ctx.run(main)
    return Sample(report.pop("rate"), report)


@row("bulk one way, receiving", "GiB/s", goal=1.0, cost=1)
def bulk(ctx: Context) -> Sample:
    """A client sends as fast as it can; a Protocol counts the bytes.

    Source: the goals table.  Uploads.  Large reads into what is handed over.
    """

    class Sink(asyncio.Protocol):
        seen = 0

        def data_received(self, data):
            Sink.seen += len(data)

    async def main(loop):
        server = await loop.create_server(Sink, HOST, 0)
        port = server.sockets[0].getsockname()[1]
        report = await ctx.client_aside(loop, "flood", HOST, port, *ctx.window)
        server.close()
        if not Sink.seen:
            raise RuntimeError("nothing received")
        return report

    return Sample(ctx.run(main)["rate"] / 2**30)


@row("bulk one way, sending", "GiB/s", cost=1)
def bulk_send(ctx: Context) -> Sample:
    """A Protocol writes 256 KiB pieces under flow control; a client reads.

    Source: ours, the other direction of the row above.  Downloads.
    """
    piece = bytes(256 * 1024)

    class Source(asyncio.Protocol):
        paused = False

        def connection_made(self, transport):
            self.transport = transport
            self.loop = asyncio.get_running_loop()
            self.more()

        def more(self):
            for _ in range(8):
                if self.paused or self.transport.is_closing():
                    return
                self.transport.write(piece)
            self.loop.call_soon(self.more)

        def pause_writing(self):
            self.paused = True

        def resume_writing(self):
            self.paused = False
            self.more()

    async def main(loop):
        server = await loop.create_server(Source, HOST, 0)
        port = server.sockets[0].getsockname()[1]
        report = await ctx.client_aside(loop, "drain", HOST, port, *ctx.window)
        server.close()
        await asyncio.sleep(0.01)
        return report

    return Sample(ctx.run(main)["rate"] / 2**30)


@row("UDP echo", "round trips/s", goal=1.1, cost=1)
def udp(ctx: Context) -> Sample:
    """A DatagramProtocol answers each datagram; 1 KiB, 16 under way.

    Source: the goals table.  recvfrom, sendto and addresses.
    """

    class Answer(asyncio.DatagramProtocol):
        def connection_made(self, transport):
            self.transport = transport

        def datagram_received(self, data, addr):
            self.transport.sendto(data, addr)

    async def main(loop):
        transport, _ = await loop.create_datagram_endpoint(
            Answer, local_addr=(HOST, 0)
        )
        port = transport.get_extra_info("sockname")[1]
        report = await ctx.client_aside(
            loop, "udp", HOST, port, 16, 1024, *ctx.window
        )
        transport.close()
        return report

    report = ctx.run(main)
    return Sample(report.pop("rate"), report)


@row("sock_recv/sock_sendall echo", "round trips/s", goal=1.1, cost=1)
def sock_echo(ctx: Context) -> Sample:
    """The low-level socket methods, 1 KiB, one client.

    Source: the goals table.  What libraries with their own sockets use.
    """

    async def main(loop):
        with socket.create_server((HOST, 0)) as listener:
            listener.setblocking(False)
            port = listener.getsockname()[1]
            running = asyncio.ensure_future(
                ctx.client_aside(
                    loop, "echo", HOST, port, 1, 1024, *ctx.window
                )
            )
            peer, _ = await loop.sock_accept(listener)
            with peer:
                peer.setblocking(False)
                peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                recv, sendall = loop.sock_recv, loop.sock_sendall
                while data := await recv(peer, 65536):
                    await sendall(peer, data)
            return await running

    report = ctx.run(main)
    return Sample(report.pop("rate"), report)


@row("numeric getaddrinfo", "calls/s", goal=1.1)
def getaddrinfo(ctx: Context) -> Sample:
    """loop.getaddrinfo("127.0.0.1", 80): nothing to look up.

    Source: the goals table.  On the way of every outgoing connection.
    """

    async def step(loop, n):
        for _ in range(n):
            await loop.getaddrinfo(HOST, 80)

    return ctx.rate(step, ctx.size(2_000, 50))


@row("spawn and wait /bin/true", "processes/s", goal=1.0)
def spawn(ctx: Context) -> Sample:
    """asyncio.create_subprocess_exec and wait(), one after another.

    Source: the goals table.  Spawning from a small parent, no pipes.
    """
    true = next(
        path for path in ("/bin/true", "/usr/bin/true") if os.path.exists(path)
    )

    async def step(loop, n):
        for _ in range(n):
            process = await asyncio.create_subprocess_exec(true)
            if await process.wait():
                raise RuntimeError("true was false")

    return ctx.rate(step, ctx.size(50, 2))
