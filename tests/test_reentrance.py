"""Callbacks that change the very thing that is calling them."""

import asyncio
import gc
import socket

import pytest
from support import (
    BufferedRecorder,
    Recorder,
    drain,
    error,
    handler_calls,
    no_free_fds,
    shut,
    spin,
    tcp_pair,
    turns,
    until,
    wired,
)

ACTIONS = ["close", "abort", "pause_reading", "switch", "drop", "write"]


def do(protocol, action):
    transport = protocol.transport
    if action == "switch":
        transport.set_protocol(Quiet())
    elif action == "drop":
        protocol.transport = None
        gc.collect()
    elif action == "write":
        transport.write(bytes(300_000))
        transport.writelines([b"x", b"y"])
    else:
        getattr(transport, action)()


class Quiet(asyncio.BufferedProtocol):
    def get_buffer(self, sizehint):
        return bytearray(10)


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize(
    "name",
    [
        "connection_made",
        "data_received",
        "get_buffer",
        "buffer_updated",
        "eof_received",
        "pause_writing",
        "resume_writing",
        "connection_lost",
    ],
)
async def test_in_protocol_callbacks(name, action, loop_name):
    buffered = name in ("get_buffer", "buffer_updated")
    base = BufferedRecorder if buffered else Recorder
    loop = asyncio.get_running_loop()
    handler_calls(loop)
    happened = asyncio.Event()

    class Acting(base):
        held = None

    def method(self, *args):
        if name == "connection_made":
            Recorder.connection_made(self, *args)
        self.held = self.transport
        if not happened.is_set():
            happened.set()
            if not (name == "connection_lost" and loop_name == "asyncio"):
                do(self, action)
        if name != "connection_made":
            return getattr(base, name)(self, *args)

    setattr(Acting, name, method)
    ours, peer = tcp_pair()
    with peer:
        transport, protocol = await loop.create_connection(Acting, sock=ours)
        if name in ("pause_writing", "resume_writing"):
            while not protocol.calls[-1:] == ["pause"]:
                if transport.is_closing() or happened.is_set():
                    break
                transport.write(bytes(1 << 20))
            for _ in range(100):
                drain(peer)
                await turns(1)
        elif name == "connection_lost":
            peer.send(b"x")
            transport.abort()
        elif name != "connection_made":
            peer.send(b"some data")
            peer.shutdown(socket.SHUT_WR)
        await asyncio.wait_for(happened.wait(), 10)
        for _ in range(10):
            try:
                drain(peer)
            except ConnectionResetError:
                pass  # what it sent was not read
            await turns(1)
        if not transport.is_closing():
            transport.abort()
        await turns(3)
        del transport, protocol, ours
        gc.collect()
        await turns(3)


class Releasing(bytearray):
    """Does something when the transport lets go of it."""

    action = None

    def __del__(self):
        if self.action:
            self.action()


@pytest.mark.parametrize("method", ["close", "abort", "pause_reading"])
async def test_when_a_buffer_is_released(method):
    async with wired() as (protocol, peer):
        transport = protocol.transport
        for size in (10, 1_000_000):
            data = Releasing(size)
            data.action = getattr(transport, method)
            transport.write(data)
            del data
        for _ in range(50):
            try:
                drain(peer)
            except ConnectionError:
                pass
            await turns(1)


@pytest.mark.parametrize("method", ["close", "abort", "write_eof"])
async def test_in_the_iterable_of_writelines(method, loop_name):
    async with wired() as (protocol, peer):
        transport = protocol.transport

        def lines():
            yield b"one"
            getattr(transport, method)()
            yield b"two"

        result = error(transport.writelines, lines())
        if loop_name == "pyloop":
            assert result is None or result[0] is RuntimeError
        await turns(5)
        drain(peer)


async def test_list_that_changes_under_writelines():
    async with wired() as (protocol, peer):
        lines = [b"x" * 100] * 10

        class Clearing(list):
            def __iter__(self):
                for n in range(10):
                    yield lines[n % len(lines)] if lines else b"end"
                    lines.clear()

        error(protocol.transport.writelines, Clearing([b"x"]))
        await turns(3)
        drain(peer)


async def test_buffer_that_grows_or_goes_while_it_is_read_into():
    class Moving(BufferedRecorder):
        def get_buffer(self, sizehint):
            self.buffer = bytearray(100)
            return self.buffer

        def buffer_updated(self, nbytes):
            part = bytes(self.buffer[:nbytes])
            self.buffer.clear()
            self.buffer.extend(bytes(5000))
            self.buffer = None
            self.received += part
            self.note("data")

    async with wired(Moving) as (protocol, peer):
        peer.send(b"abc" * 1000)
        assert await protocol.receive(3000) == b"abc" * 1000


# asyncio trips over the closed server, and drops what it was making.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("where", ["factory", "connection_made"])
async def test_server_closed_while_it_accepts(where):
    loop = asyncio.get_running_loop()
    handler_calls(loop)
    made = []

    class Protocol(asyncio.Protocol):
        def connection_made(self, transport):
            made.append(transport)
            if where == "connection_made":
                server.close()

    def factory():
        if where == "factory":
            server.close()
        return Protocol()

    server = await loop.create_server(factory, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    clients = [socket.socket() for _ in range(5)]
    for client in clients:
        client.setblocking(False)
        client.connect_ex(address)
    await until(lambda: not server.is_serving())
    await turns(10)
    for client in clients:
        client.close()
    await turns(10)
    for transport in made:
        if not transport.is_closing():
            transport.abort()
    await turns(5)
    gc.collect()


async def test_reader_that_replaces_itself():
    loop = asyncio.get_running_loop()
    near, far = socket.socketpair()
    with near, far:
        seen = []

        def read(n):
            seen.append(n)
            loop.add_reader(near, read, n + 1)
            gc.collect()

        far.send(b"x")
        loop.add_reader(near, read, 0)
        await until(lambda: len(seen) >= 5)
        assert loop.remove_reader(near)
        assert seen == list(range(len(seen)))


async def test_reader_that_closes_its_socket():
    loop = asyncio.get_running_loop()
    for _ in range(10):
        near, far = socket.socketpair()
        with far:
            seen = []

            def read(near=near, seen=seen):
                loop.remove_reader(near)
                near.close()
                other, peer = socket.socketpair()
                with other, peer:
                    peer.send(b"x")
                    loop.add_reader(other, seen.append, "other")
                    loop.remove_reader(other)
                seen.append("read")

            far.send(b"x")
            loop.add_reader(near, read)
            await until(lambda seen=seen: seen)
            await turns(3)
            assert seen == ["read"]


def test_loop_closed_by_a_finaliser(loop_factory):
    """While the queue is being emptied by close()."""
    loop = loop_factory()

    class Closing:
        def __call__(self):
            pass

        def __del__(self):
            loop.close()
            error(loop.call_soon, int)
            error(loop.call_soon_threadsafe, int)

    for _ in range(10):
        loop.call_soon(Closing())
        loop.call_later(1000, Closing())
        loop.call_soon_threadsafe(Closing())
    loop.close()
    gc.collect()
    assert loop.is_closed()


def test_exception_handler_that_schedules_and_stops(loop):
    seen = []

    def handler(loop, context):
        loop.call_soon(seen.append, 1)
        loop.stop()

    loop.set_exception_handler(handler)
    loop.call_soon(lambda: 1 / 0)
    loop.run_forever()
    spin(loop)
    assert seen == [1]


def test_stop_and_run_again_from_outside_many_times(loop):
    for n in range(300):
        loop.call_later(0, loop.stop)
        loop.run_forever()


def test_no_descriptors_for_a_new_loop(loop_factory, pyloop_only):
    """An OSError, nothing half-made, and the next one works."""
    with no_free_fds():
        try:
            loop = loop_factory()
        except OSError:
            pass
        else:
            # What the loop needs it may also open when it runs.
            try:
                loop.run_until_complete(asyncio.sleep(0))
            except OSError:
                pass
            loop.close()
        gc.collect()
    loop = loop_factory()
    assert loop.run_until_complete(asyncio.sleep(0, 5)) == 5
    loop.close()


async def test_no_descriptors_for_a_running_loop():
    loop = asyncio.get_running_loop()
    near, far = socket.socketpair()
    with near, far:
        with no_free_fds():
            seen = []
            with pytest.raises(OSError):
                await loop.create_connection(asyncio.Protocol, "127.0.0.1", 9)
            with pytest.raises(OSError):
                await asyncio.create_subprocess_exec("true")
            loop.add_reader(near, seen.append, 1)
            far.send(b"x")
            await until(lambda: seen)
            loop.remove_reader(near)
            assert await asyncio.sleep(0.001, 5) == 5


async def test_streams_closed_in_their_own_callback():
    closed = []

    async def serve(reader, writer):
        writer.write(b"x")
        writer.close()
        writer.close()
        closed.append(writer.is_closing())
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    name = server.sockets[0].getsockname()
    for _ in range(5):
        reader, writer = await asyncio.open_connection(*name)
        assert await reader.read() == b"x"
        writer.close()
        await writer.wait_closed()
    await shut(server)
    assert closed == [True] * 5


@pytest.mark.parametrize("how", ["close", "write_eof"])
async def test_exit_from_resume_writing(how, loop_name, pyloop_only):
    """What the end of the queue was to bring comes nevertheless; asyncio
    trips over its empty queue."""
    loop = asyncio.get_running_loop()
    left = []

    class Leaving(Recorder):
        def resume_writing(self):
            super().resume_writing()
            left.append(1)
            raise KeyboardInterrupt

    # This loop goes on: the exception has to be caught where it comes out.
    def run():
        inner = type(loop)()
        near, far = socket.socketpair()
        near.setblocking(False)
        far.setblocking(False)

        async def make():
            return await inner.create_connection(Leaving, sock=near)

        transport, protocol = inner.run_until_complete(make())
        transport.write(bytes(3_000_000))
        getattr(transport, how)()
        total, data = 0, None
        while data != b"":
            try:
                spin(inner)
            except KeyboardInterrupt:
                pass
            data = drain(far)
            total += len(data or b"")
        far.close()
        while not protocol.lost.done():
            spin(inner)
        inner.close()
        return total, protocol.calls

    total, calls = await loop.run_in_executor(None, run)
    assert (total, len(left)) == (3_000_000, 1)
    assert calls[-1] == "lost"
