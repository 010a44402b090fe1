"""Sockets, names and processes.

Where there is a client, the loop under test is the server and the client is
the load generator, a separate process with plain sockets (../load.c); "both
ends on the loop" needs none.
"""

from __future__ import annotations

import asyncio
import contextlib
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


@row("echo 1 KiB, 1 connection", "round trips/s", goal=1.05, cost=0.8)
def echo1(ctx: Context) -> Sample:
    """A Protocol writes back what it gets; one client, one message under way.

    Source: the goals table.  Latency of one read, one write and one poll.
    """
    return echo(ctx, 1, 1024)


@row("echo 1 KiB, 50 connections", "round trips/s", goal=1.1, cost=0.8)
def echo50(ctx: Context) -> Sample:
    """The same with 50 clients, each with one message under way.

    Source: the goals table.  The server is saturated, polls bring many.
    """
    return echo(ctx, ctx.size(50, 5), 1024)


@row("echo 100 KiB", "round trips/s", goal=1.1, cost=0.8)
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


@row("streams echo 1 KiB", "round trips/s", goal=1.1, cost=0.8)
def streams(ctx: Context) -> Sample:
    """asyncio.start_server: read, write, drain; one client.

    Source: the goals table.  The API most applications use.
    """

    async def serve(reader, writer):
        with contextlib.suppress(ConnectionError):  # the client just ends
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


@row("bulk one way", "GiB/s", goal=1.0)
def bulk(ctx: Context) -> Sample:
    """256 KiB pieces over TCP, both ends on the loop, under flow control.

    Source: the goals table.  Uploads and downloads: vectored sends of what
    is written, large reads into what is handed over.
    """
    piece = bytes(256 * 1024)

    class Source(asyncio.Protocol):
        paused = False

        def connection_made(self, transport):
            self.transport = transport

        def send(self, pieces):
            self.left = pieces
            self.resume_writing()

        def pause_writing(self):
            self.paused = True

        def resume_writing(self):
            self.paused = False
            while self.left and not self.paused:
                self.left -= 1
                self.transport.write(piece)

    class Sink(asyncio.Protocol):
        def expect(self, size, done):
            self.left, self.done = size, done

        def data_received(self, data):
            self.left -= len(data)
            if not self.left:
                self.done.set_result(None)

    async def step(loop, n):
        sink, done = Sink(), loop.create_future()
        sink.expect(n * len(piece), done)
        server = await loop.create_server(lambda: sink, HOST, 0)
        address = server.sockets[0].getsockname()
        transport, source = await loop.create_connection(Source, *address)
        source.send(n)
        await done
        transport.abort()
        server.close()

    pieces = ctx.rate(step, ctx.size(1_000, 20))
    return Sample(pieces.value * len(piece) / 2**30)


@row("UDP echo", "round trips/s", goal=1.1, cost=0.8)
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


@row("sock_recv/sock_sendall echo", "round trips/s", goal=1.1)
def sock_echo(ctx: Context) -> Sample:
    """The low-level socket methods, 1 KiB, both ends on the loop.

    Source: the goals table.  What libraries with their own sockets use.
    """

    async def answer(loop, sock):
        while data := await loop.sock_recv(sock, 65536):
            await loop.sock_sendall(sock, data)

    async def step(loop, n):
        near, far = socket.socketpair()
        with near, far:
            near.setblocking(False)
            far.setblocking(False)
            answering = asyncio.ensure_future(answer(loop, far))
            message = bytes(1024)
            for _ in range(n):
                await loop.sock_sendall(near, message)
                if len(await loop.sock_recv(near, 65536)) != 1024:
                    raise RuntimeError("echo differs")
            near.shutdown(socket.SHUT_WR)
            await answering

    return ctx.rate(step, ctx.size(5_000, 50))


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
