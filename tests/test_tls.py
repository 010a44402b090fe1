import array
import asyncio
import contextlib
import gc
import hashlib
import inspect
import socket
import ssl
import struct
import sys
import weakref

import pytest
from support import (
    DEADLINE,
    BufferedRecorder,
    Recorder,
    async_error,
    asyncio_of_3_11_7,
    client_tls,
    connected,
    error,
    handler_calls,
    may_drop_sockets,
    pattern,
    reset,
    server_tls,
    shut,
    tcp_pair,
    turns,
    unix_path,
    until,
)

protocols = pytest.mark.parametrize("make", [Recorder, BufferedRecorder])


@protocols
async def test_data_both_ways(make):
    async with connected("tls", make, make) as (near, far):
        near.transport.write(b"hello")
        near.transport.writelines([b" ", bytearray(b"world")])
        assert await far.receive(11) == b"hello world"
        far.transport.write(memoryview(b"bye"))
        assert await near.receive(3) == b"bye"
        near.transport.close()
        assert await far.lost is None
        assert await near.lost is None
    for protocol in near, far:
        # The peer's close_notify may come before the connection is gone.
        calls = [name for name in protocol.calls if name != "eof"]
        assert calls == ["made", "data", "lost"]


@protocols
async def test_large_transfers(make):
    data = pattern(5_000_000)

    class Sink(make):
        buffer_size = 1 << 16

    async with connected("tls", Sink, Sink) as (near, far):
        near.transport.write(data)
        far.transport.write(data)
        await asyncio.gather(near.receive(len(data)), far.receive(len(data)))
        digest = hashlib.md5(data).digest()
        assert hashlib.md5(near.received).digest() == digest
        assert hashlib.md5(far.received).digest() == digest


async def test_close_flushes():
    data = pattern(3_000_000)
    async with connected("tls") as (near, far):
        near.transport.write(data)
        near.transport.close()
        assert await far.receive(len(data)) == data
        await far.lost
        await near.lost


@pytest.mark.parametrize("closing", [False, True])
async def test_abort_of_a_stuck_connection(closing):
    """At once, though the peer reads nothing."""
    async with connected("tls") as (near, far):
        far.transport.pause_reading()
        near.transport.write(bytes(20_000_000))
        await turns(5)
        if closing:
            near.transport.close()
            await turns()
        assert not near.lost.done()
        near.transport.abort()
        await turns(10)
        assert near.lost.done()


async def test_abort():
    async with connected("tls") as (near, far):
        near.transport.write(bytes(10_000_000))
        near.transport.abort()
        await asyncio.wait_for(near.lost, DEADLINE)
        await asyncio.wait_for(far.lost, DEADLINE)


async def test_extra_info():
    async with connected("tls") as (near, far):
        for transport in near.transport, far.transport:
            assert isinstance(transport, asyncio.Transport)
            info = transport.get_extra_info
            assert isinstance(info("ssl_object"), ssl.SSLObject)
            assert isinstance(info("sslcontext"), ssl.SSLContext)
            assert info("cipher")
            assert isinstance(info("socket"), asyncio.trsock.TransportSocket)
            assert info("peername")[0] == "127.0.0.1"
        assert near.transport.get_extra_info("peercert")["subject"]


async def test_methods():
    async with connected("tls") as (near, far):
        transport = near.transport
        assert transport.can_write_eof() is False
        assert error(transport.write_eof)[0] is NotImplementedError
        assert error(transport.write, "text")[0] is TypeError
        assert transport.is_reading() and not transport.is_closing()
        assert transport.get_write_buffer_size() == 0
        transport.set_write_buffer_limits(1000, 10)
        assert transport.get_write_buffer_limits() == (10, 1000)
        assert transport.get_protocol() is near
        assert weakref.ref(transport)() is transport
        repr(transport)


@asyncio_of_3_11_7
async def test_quiet_after_the_end():
    async with connected("tls") as (near, far):
        near.transport.close()
        near.transport.write(b"x")
        near.transport.close()
        await near.lost
        await far.lost
        far.transport.write(b"x")
        for transport in near.transport, far.transport:
            transport.close()
            transport.abort()
            assert transport.is_closing()


@asyncio_of_3_11_7
@pytest.mark.parametrize("end", ["close", "abort", "reset", "eof"])
def test_methods_after_the_end(agree, end):
    """Nothing raises, whoever ended it."""

    async def scenario(loop):
        async with connected("tls") as (near, far):
            transport = near.transport
            if end in ("close", "abort"):
                getattr(transport, end)()
            elif end == "reset":
                sock = far.transport.get_extra_info("socket")
                linger = b"\1\0\0\0\0\0\0\0"
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                far.transport.abort()
            else:
                far.transport.close()
            await near.lost
            await turns()
            seen = [
                error(transport.write, b"x"),
                error(transport.writelines, [b"x", b"y"]),
                error(transport.pause_reading),
                error(transport.resume_reading),
                error(transport.set_write_buffer_limits, 10, 1),
                error(transport.get_write_buffer_limits),
                error(transport.get_write_buffer_size),
                error(transport.get_extra_info, "peername"),
                error(transport.get_protocol),
                error(repr, transport),
                transport.is_closing(),
                error(transport.abort),
            ]
            await turns()
        return seen

    assert agree(scenario) == [None] * 10 + [True, None]


async def test_abort_after_close_twice(pyloop_only):
    """With a peer that does not answer, abort() ends it at once."""
    loop = asyncio.get_running_loop()
    async with connected("tls") as (near, far):
        far.transport.pause_reading()
        far.transport.write(bytes(1 << 20))
        await turns(5)
        far.transport.close()
        far.transport.close()
        began = loop.time()
        far.transport.abort()
        await far.lost
        assert loop.time() - began < 5


@pytest.mark.parametrize("when", ["twice before the end", "after the end"])
async def test_what_a_last_close_lets_go_of(when):
    """The transport may be kept; what is large goes."""
    async with connected("tls") as (near, far):
        kept = near.transport
        ref = weakref.ref(kept.get_extra_info("ssl_object"))
        if when == "after the end":
            far.transport.close()
            await near.lost
            await turns(3)
        else:
            kept.close()
        kept.close()
        await near.lost
        await turns(3)
        gc.collect()
        assert ref() is None


async def test_quiet_after_close_twice(pyloop_only):
    async with connected("tls") as (near, far):
        transport = near.transport

        def use():
            transport.close()
            transport.write(b"x")
            transport.writelines([b"x", b"y"])
            transport.pause_reading()
            transport.resume_reading()
            transport.set_write_buffer_limits(10, 1)
            transport.set_write_buffer_limits(0)
            seen = (
                transport.get_write_buffer_size(),
                transport.is_reading(),
                transport.is_closing(),
                transport.get_extra_info("what", "default"),
            )
            transport.abort()
            return seen

        transport.close()
        assert use() == (0, True, True, "default")
        await near.lost
        assert use() == (0, True, True, "default")
        await far.lost


async def test_pause_and_resume_reading():
    async with connected("tls") as (near, far):
        far.transport.pause_reading()
        near.transport.write(b"x" * 1000)
        await turns(10)
        assert far.received == b""
        far.transport.resume_reading()
        await far.receive(1000)


async def test_flow_control():
    async with connected("tls") as (near, far):
        far.transport.pause_reading()
        near.transport.set_write_buffer_limits(100_000)
        total = 0
        while "pause" not in near.calls:
            near.transport.write(bytes(1 << 20))
            total += 1 << 20
            await turns(1)
        far.transport.resume_reading()
        await near.until(lambda: "resume" in near.calls)
        await far.receive(total)


async def test_reset_by_the_peer():
    async with connected("tls") as (near, far):
        sock = far.transport.get_extra_info("socket")
        linger = b"\1\0\0\0\0\0\0\0"
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        far.transport.abort()
        exc = await near.lost
        assert exc is None or isinstance(exc, ConnectionError)


async def streams_to(serve):
    """A server of streams, and a connection to it."""
    server = await asyncio.start_server(
        serve, "127.0.0.1", 0, ssl=server_tls()
    )
    reader, writer = await asyncio.open_connection(
        *server.sockets[0].getsockname(),
        ssl=client_tls(),
        server_hostname="localhost",
    )
    return server, reader, writer


async def test_streams():
    async def serve(reader, writer):
        while line := await reader.readline():
            writer.write(line.upper())
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    server, reader, writer = await streams_to(serve)
    for n in range(50):
        writer.write(b"line %d\n" % n)
        assert await reader.readline() == b"LINE %d\n" % n
    writer.write(b"x" * 60_000 + b"\n")
    assert await reader.readexactly(60_001) == b"X" * 60_000 + b"\n"
    writer.close()
    await writer.wait_closed()
    await shut(server)


async def test_many_connections():
    async def serve(reader, writer):
        writer.write(await reader.readexactly(1000))
        writer.close()
        try:
            await writer.wait_closed()
        except ConnectionError:
            pass

    server = await asyncio.start_server(
        serve, "127.0.0.1", 0, ssl=server_tls()
    )
    context = client_tls()

    async def client():
        reader, writer = await asyncio.open_connection(
            *server.sockets[0].getsockname(),
            ssl=context,
            server_hostname="localhost",
        )
        writer.write(bytes(1000))
        assert await reader.read() == bytes(1000)
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*[client() for _ in range(50)])
    await shut(server)


# -- the end


def tls_peer(sock, work):
    """Handshake on a blocking socket in a thread, then work(tls)."""

    def run():
        sock.setblocking(True)
        sock.settimeout(DEADLINE)
        context = client_tls()
        tls = context.wrap_socket(
            sock,
            server_hostname="localhost",
            do_handshake_on_connect=False,
            suppress_ragged_eofs=False,
        )
        with tls:
            tls.do_handshake()
            return work(tls)

    return asyncio.to_thread(run)


async def test_close_does_not_go_on_downloading():
    """A peer that sends for ever does not keep a closed connection open."""
    loop = asyncio.get_running_loop()

    class Flood(Recorder):
        paused = False
        sent = 0

        def connection_made(self, transport):
            super().connection_made(transport)
            self.more()

        def more(self):
            if not self.paused and not self.lost.done():
                self.transport.write(bytes(65536))
                self.sent += 65536
                loop.call_soon(self.more)

        def pause_writing(self):
            self.paused = True

        def resume_writing(self):
            self.paused = False
            loop.call_soon(self.more)

    async with connected("tls", Recorder, Flood) as (near, far):
        await near.receive(1_000_000)
        before, sent = len(near.received), far.sent
        began = loop.time()
        near.transport.close()
        await near.lost
        # asyncio's patience with a peer that does not answer is 30 s.
        assert loop.time() - began < 15
        # What was in the BIO at the close at most.
        assert len(near.received) - before <= 1 << 20
        await far.lost
        # What fits into the sockets' buffers at most.
        assert far.sent - sent <= 32 << 20


def test_peer_that_just_goes_away(agree):
    """Without close_notify: the end of the stream, not an error."""

    class Greeting(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.write(b"x")
            peers.append(self)

    peers = []

    async def scenario(loop):
        server = await loop.create_server(
            Greeting, "127.0.0.1", 0, ssl=server_tls()
        )
        sock = socket.create_connection(server.sockets[0].getsockname())
        # What a peer leaves unread makes a reset of its close.
        await tls_peer(sock, lambda tls: tls.recv(1))
        peer = peers.pop()
        exc = await peer.lost
        await shut(server)
        return peer.calls, exc

    assert agree(scenario) == (["made", "eof", "lost"], None)


@pytest.mark.parametrize("leaving", ["close", "reset", "half"])
def test_wait_closed_of_a_peer_that_goes_away(agree, leaving):
    """Without close_notify, before we close: an error only if it resets."""

    async def scenario(loop):
        done = loop.create_future()

        async def serve(reader, writer):
            writer.write(await reader.readexactly(1))
            read = await async_error(reader.read())
            writer.close()
            done.set_result((read, await async_error(writer.wait_closed())))

        server = await asyncio.start_server(
            serve, "127.0.0.1", 0, ssl=server_tls()
        )

        def work(tls):
            tls.send(b"x")
            assert tls.recv(1) == b"x"
            if leaving == "reset":
                reset(socket.socket(fileno=tls.detach()))
            elif leaving == "half":
                plain = socket.socket(fileno=tls.detach())
                with plain:
                    plain.settimeout(DEADLINE)
                    plain.shutdown(socket.SHUT_WR)
                    while plain.recv(1000):
                        pass

        sock = socket.create_connection(server.sockets[0].getsockname())
        await tls_peer(sock, work)
        seen = await done
        await shut(server)
        return seen

    kinds = [seen and seen[0] for seen in agree(scenario)]
    assert kinds == [ConnectionResetError if leaving == "reset" else None] * 2


async def test_data_behind_close_notify_is_not_delivered():
    """The end of the TLS stream is the end."""
    loop = asyncio.get_running_loop()
    peers = []
    server = await loop.create_server(
        lambda: peers.append(Recorder()) or peers[-1],
        "127.0.0.1",
        0,
        ssl=server_tls(),
    )

    def work(tls):
        tls.send(b"last words")
        tls.settimeout(0)
        try:
            tls.unwrap()
        except (ssl.SSLWantReadError, ssl.SSLError, OSError):
            pass
        plain = socket.socket(fileno=tls.detach())
        with plain:
            plain.settimeout(DEADLINE)
            try:
                plain.send(b"trailing")
                while plain.recv(1000):
                    pass
            except ConnectionError:
                pass

    sock = socket.create_connection(server.sockets[0].getsockname())
    await tls_peer(sock, work)
    await until(lambda: peers)
    await peers[0].lost
    assert peers[0].received == b"last words"
    assert peers[0].calls == ["made", "data", "eof", "lost"]
    await shut(server)


async def test_close_while_reading_is_paused():
    async with connected("tls") as (near, far):
        far.transport.pause_reading()
        near.transport.write(bytes(1_000_000))
        await turns(20)
        far.transport.close()
        await far.lost
        assert len(far.received) == 0
        await near.lost


async def client_by_hand(sock, ahead=b""):
    """A client whose records go where we want: (its TLS, what it sends), once
    the handshake is done. ahead leaves with the hello."""
    loop = asyncio.get_running_loop()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_tls().wrap_bio(
        incoming, outgoing, server_hostname="localhost"
    )
    sock.setblocking(False)
    while True:
        try:
            client.do_handshake()
            return client, outgoing
        except ssl.SSLWantReadError:
            await loop.sock_sendall(sock, ahead + outgoing.read())
            ahead = b""
            incoming.write(await loop.sock_recv(sock, 65536))


async def test_data_that_comes_with_the_end_of_the_handshake():
    """The client's first record travels with its Finished."""
    loop = asyncio.get_running_loop()
    peers = []
    server = await loop.create_server(
        lambda: peers.append(Recorder()) or peers[-1],
        "127.0.0.1",
        0,
        ssl=server_tls(),
    )
    with socket.create_connection(server.sockets[0].getsockname()) as sock:
        client, outgoing = await client_by_hand(sock)
        client.write(b"early")
        await loop.sock_sendall(sock, outgoing.read())
        await until(lambda: peers)
        assert await peers[0].receive(5) == b"early"
        assert peers[0].calls == ["made", "data"]
        peers[0].transport.abort()
        await peers[0].lost
    await shut(server)


@may_drop_sockets
@pytest.mark.parametrize(
    "way",
    [
        "create_server",
        "create_unix_server",
        "connect_accepted_socket",
        "start_tls",
    ],
)
def test_shutdown_timeout_of_a_server(agree, way):
    async def scenario(loop):
        handler_calls(loop)
        protocol = Recorder()
        given = {"ssl": server_tls(), "ssl_shutdown_timeout": 0.05}
        client = {"ssl": client_tls(), "server_hostname": "localhost"}
        near, far = socket.socketpair()

        async def serve():
            if way == "connect_accepted_socket":
                await loop.connect_accepted_socket(
                    lambda: protocol, far, **given
                )
            else:
                plain, _ = await loop.create_connection(Recorder, sock=far)
                protocol.transport = await loop.start_tls(
                    plain,
                    protocol,
                    given["ssl"],
                    server_side=True,
                    ssl_shutdown_timeout=0.05,
                )

        server = None
        with unix_path() as path:
            if way == "create_server":
                server = await loop.create_server(
                    lambda: protocol, "127.0.0.1", 0, **given
                )
                connecting = loop.create_connection(
                    Recorder, *server.sockets[0].getsockname(), **client
                )
            elif way == "create_unix_server":
                server = await loop.create_unix_server(
                    lambda: protocol, path, **given
                )
                connecting = loop.create_unix_connection(
                    Recorder, path, **client
                )
            else:
                connecting = loop.create_connection(
                    Recorder, sock=near, **client
                )
            if server is not None:
                near.close()
                far.close()
                transport, other = await connecting
                await until(lambda: protocol.transport)
            else:
                _, (transport, other) = await asyncio.gather(
                    serve(), connecting
                )
        transport.pause_reading()
        protocol.transport.write(bytes(20_000_000))
        protocol.transport.close()
        exc = await asyncio.wait_for(protocol.lost, DEADLINE)
        transport.abort()
        await other.lost
        if server is not None:
            await shut(server)
        return repr(exc)

    assert agree(scenario) == "TimeoutError('SSL shutdown timed out')"


@protocols
async def test_greeting_that_comes_with_the_handshake(make):
    class Greeting(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.write(b"welcome")
            transport.close()

    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        Greeting, "127.0.0.1", 0, ssl=server_tls()
    )
    _, protocol = await loop.create_connection(
        make,
        *server.sockets[0].getsockname(),
        ssl=client_tls(),
        server_hostname="localhost",
    )
    assert await protocol.lost is None
    assert protocol.received == b"welcome"
    assert protocol.calls == ["made", "data", "eof", "lost"]
    await shut(server)


@may_drop_sockets
@pytest.mark.parametrize("hostname", [None, ".", "a" * 100, "x\0y", 5])
def test_server_hostname(agree, hostname):
    """What cannot be one is refused in the same words."""

    async def scenario(loop):
        seen = []
        with socket.create_server(("127.0.0.1", 0)) as listener:
            address, port = listener.getsockname()
            for host in ("", None, address)[: 2 if hostname is None else 3]:
                connecting = loop.create_connection(
                    Recorder,
                    host,
                    port,
                    ssl=client_tls(),
                    server_hostname=hostname,
                )
                seen.append(await async_error(connecting))
            if hostname is None:
                return seen
            sock = socket.create_connection(listener.getsockname())
            transport, protocol = await loop.create_connection(
                Recorder, sock=sock
            )
            starting = loop.start_tls(
                transport, protocol, client_tls(), server_hostname=hostname
            )
            seen.append(await async_error(starting))
            seen.append(transport.is_closing())
            transport.abort()
            await turns(5)
            return seen, protocol.calls

    agree(scenario)


async def test_high_limit_zero(pyloop_only):
    """asyncio pauses at once, with nothing written, and every other time."""
    async with connected("tls") as (near, far):
        near.transport.set_write_buffer_limits(0)
        assert "pause" not in near.calls
        for n in range(1, 4):
            near.transport.write(b"x")
            await far.receive(n)
        near.transport.write(bytes(20_000_000))
        assert near.calls[-1] == "pause"
        await far.receive(20_000_003)
        await until(lambda: near.calls[-1] == "resume")
        assert near.calls.count("pause") == near.calls.count("resume")


@pytest.mark.parametrize("end", ["abort", "reset"])
async def test_what_was_not_sent_is_dropped_at_the_end(end):
    async with connected("tls") as (near, far):
        far.transport.pause_reading()
        near.transport.write(bytes(20_000_000))
        await turns(10)
        near.transport.writelines([bytes(3_000_000)] * 3)
        assert near.transport.get_write_buffer_size() >= 9_000_000
        if end == "abort":
            near.transport.abort()
        else:
            far.transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
            far.transport.abort()
        await near.lost
        await turns()
        assert near.transport.get_write_buffer_size() == 0


async def test_start_tls_of_a_reader_that_has_paused(pyloop_only):
    """The flow goes on, and is controlled again. asyncio reads without bound
    until the next read()."""
    loop = asyncio.get_running_loop()
    upgraded = loop.create_future()

    async def serve(reader, writer):
        await until(lambda: reader._paused)
        assert await reader.readline() == b"STARTTLS\n"
        await writer.start_tls(server_tls(), ssl_handshake_timeout=5)
        upgraded.set_result((reader, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=50)
    with socket.create_connection(server.sockets[0].getsockname()) as sock:
        client, outgoing = await client_by_hand(sock, b"STARTTLS\n")
        data = pattern(200_000)
        client.write(data)
        await loop.sock_sendall(sock, outgoing.read())
        reader, writer = await upgraded
        await until(lambda: reader._paused)
        assert await reader.readexactly(len(data)) == data
        writer.transport.abort()
    await shut(server)


async def test_views_of_any_kind_are_written_whole():
    """Also those that count in larger items, and those of many records."""
    words = array.array("I", range(50_000))
    large = bytearray(pattern(300_000))
    async with connected("tls") as (near, far):
        near.transport.write(memoryview(words))
        near.transport.write(large)
        near.transport.write(memoryview(large)[10:])
        expected = words.tobytes() + large + large[10:]
        assert await far.receive(len(expected)) == expected
        assert near.transport.get_write_buffer_size() == 0


@pytest.mark.parametrize(
    "wrong",
    [[1], [None], [b"a", "b"], [bytes(40_000), "b"], ["b"]],
    ids=lambda value: ascii(value)[:20],
)
def test_writelines_of_what_is_not_bytes(agree, wrong):
    """Nothing of it is sent, and the connection is over with the next write
    at the latest."""

    async def scenario(loop):
        calls = handler_calls(loop)
        async with connected("tls") as (near, far):
            seen = [
                error(near.transport.writelines, wrong),
                error(near.transport.write, b"x"),
                repr(await near.lost),
            ]
            await far.lost
        assert not far.received
        return seen, [
            (call["message"], repr(call["exception"])) for call in calls
        ]

    assert "a bytes-like object is required" in agree(scenario)[0][2]


# -- start_tls


async def plain_pair(make):
    loop = asyncio.get_running_loop()
    ours, theirs = tcp_pair()
    near_plain, near = await loop.create_connection(make, sock=ours)
    far_plain, far = await loop.connect_accepted_socket(make, theirs)
    return near_plain, near, far_plain, far


@protocols
async def test_start_tls_on_both_sides(make):
    loop = asyncio.get_running_loop()
    near_plain, near, far_plain, far = await plain_pair(make)
    near_plain.write(b"STARTTLS")
    await far.receive(8)
    near_tls, far_tls = await asyncio.gather(
        loop.start_tls(
            near_plain, near, client_tls(), server_hostname="localhost"
        ),
        loop.start_tls(far_plain, far, server_tls(), server_side=True),
    )
    near.transport, far.transport = near_tls, far_tls
    data = pattern(1_000_000)
    near_tls.write(data)
    far_tls.write(b"answer")
    assert await far.receive(8 + len(data)) == b"STARTTLS" + data
    await near.receive(6)
    near_tls.close()
    await near.lost
    await far.lost
    assert near.calls.count("made") == 1


async def test_start_tls_of_streams():
    async def serve(reader, writer):
        assert await reader.readline() == b"STARTTLS\n"
        writer.write(b"OK\n")
        await writer.drain()
        await writer.start_tls(server_tls())
        writer.write((await reader.readline()).upper())
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(
        *server.sockets[0].getsockname()
    )
    writer.write(b"STARTTLS\n")
    assert await reader.readline() == b"OK\n"
    await writer.start_tls(client_tls(), server_hostname="localhost")
    writer.write(b"secret\n")
    assert await reader.readline() == b"SECRET\n"
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()
    await shut(server)


async def test_start_tls_with_the_hello_already_buffered(pyloop_only):
    """The client's hello came with the plain command. Older releases of
    CPython leave it in the reader, and the handshake times out."""

    async def serve(reader, writer):
        assert await reader.readline() == b"STARTTLS\n"
        # Read with the line, or in a turn after it.
        await asyncio.sleep(0)
        await writer.start_tls(server_tls(), ssl_handshake_timeout=5)
        writer.write((await reader.readline()).upper())
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    loop = asyncio.get_running_loop()
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_tls().wrap_bio(
        incoming, outgoing, server_hostname="localhost"
    )
    with socket.create_connection(server.sockets[0].getsockname()) as sock:
        sock.setblocking(False)

        async def step(call, *args):
            while True:
                try:
                    return call(*args)
                except ssl.SSLWantReadError:
                    if outgoing.pending:
                        await loop.sock_sendall(sock, outgoing.read())
                    data = await loop.sock_recv(sock, 65536)
                    assert data
                    incoming.write(data)

        with pytest.raises(ssl.SSLWantReadError):
            client.do_handshake()
        await loop.sock_sendall(sock, b"STARTTLS\n" + outgoing.read())
        await step(client.do_handshake)
        client.write(b"secret\n")
        await loop.sock_sendall(sock, outgoing.read())
        assert await step(client.read, 100) == b"SECRET\n"
    await shut(server)


async def test_start_tls_while_writing_is_paused(pyloop_only):
    """Who was told to pause is told to resume, once. asyncio fails an
    assertion."""
    loop = asyncio.get_running_loop()
    near_plain, near, far_plain, far = await plain_pair(Recorder)
    far_plain.pause_reading()
    near_plain.set_write_buffer_limits(0)
    total = 0
    while "pause" not in near.calls:
        near_plain.write(bytes(1 << 20))
        total += 1 << 20
        await turns(1)
    upgrade = asyncio.ensure_future(
        loop.start_tls(
            near_plain, near, client_tls(), server_hostname="localhost"
        )
    )
    await turns(5)
    far_plain.resume_reading()
    # Plain until there; the hello follows.
    await far.until(lambda: len(far.received) > total)
    hello = bytes(far.received[total:])
    far_plain.pause_reading()
    tls = asyncio.ensure_future(
        loop.start_tls(far_plain, far, server_tls(), server_side=True)
    )
    await turns(1)
    far_plain.get_protocol()._incoming.write(hello)
    near.transport, far.transport = await asyncio.gather(upgrade, tls)
    near.transport.write(b"secret")
    await far.receive(total + len(hello) + 6)
    assert near.calls.count("pause") == near.calls.count("resume") == 1
    near.transport.close()
    await near.lost
    await far.lost


async def test_start_tls_timeout():
    loop = asyncio.get_running_loop()
    ours, theirs = tcp_pair()
    with theirs:
        transport, protocol = await loop.create_connection(Recorder, sock=ours)
        kind, _ = await async_error(
            loop.start_tls(
                transport,
                protocol,
                client_tls(),
                server_hostname="localhost",
                ssl_handshake_timeout=0.05,
            )
        )
        assert issubclass(kind, ConnectionAbortedError)
        await turns(5)


def test_start_tls_bad_arguments(agree):
    async def scenario(loop):
        seen = []
        ours, theirs = tcp_pair()
        with theirs:
            transport, protocol = await loop.create_connection(
                Recorder, sock=ours
            )
            for args, kwargs in (
                ((transport, protocol, None), {}),
                ((transport, protocol, True), {}),
                ((object(), protocol, client_tls()), {}),
                (
                    (transport, protocol, client_tls()),
                    {"ssl_handshake_timeout": -1},
                ),
            ):
                result = await async_error(loop.start_tls(*args, **kwargs))
                seen.append(result[0])
            transport.abort()
            await protocol.lost
        return seen

    agree(scenario)


def test_start_tls_on_a_closed_loop(agree):
    """Wrong arguments are told first."""

    def scenario(loop):
        loop.close()
        return [
            error(loop.start_tls(None, None, context).send, None)
            for context in (None, client_tls())
        ]

    assert [kind for kind, _ in agree(scenario)] == [TypeError] * 2


@pytest.mark.parametrize("name", ["create_connection", "start_tls"])
def test_signature(agree, name):
    """asyncio's, and what does not fit it is refused at the call."""

    def scenario(loop):
        method = getattr(loop, name)
        told = inspect if sys.version_info >= (3, 12) else asyncio
        assert told.iscoroutinefunction(method)
        return inspect.signature(method), [
            (kind, text.partition("() ")[2])
            for kind, text in (
                error(method),
                error(method, None, None, None, bogus=1),
                error(method, None, None, None, None),
            )
        ]

    assert {kind for kind, _ in agree(scenario)[1]} == {TypeError}


async def test_tls_in_tls():
    """start_tls over a TLS transport."""
    loop = asyncio.get_running_loop()
    async with connected("tls") as (near, far):
        outer_near, outer_far = near.transport, far.transport
        near_tls, far_tls = await asyncio.gather(
            loop.start_tls(
                outer_near, near, client_tls(), server_hostname="localhost"
            ),
            loop.start_tls(outer_far, far, server_tls(), server_side=True),
        )
        near.transport, far.transport = near_tls, far_tls
        near_tls.write(b"twice")
        assert await far.receive(5) == b"twice"
        near_tls.close()
        await near.lost
        await far.lost


# -- errors


@pytest.mark.parametrize("size", [1000, 50_000, 100_000])
async def test_close_before_the_rest_is_read(size):
    """What had come by then is no error of closing."""

    async def answer(reader, writer):
        await reader.read(10)
        writer.write(bytes(size))
        await writer.drain()
        await reader.read()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    server, reader, writer = await streams_to(answer)
    writer.write(b"GET")
    await reader.readexactly(10)
    writer.close()
    await writer.wait_closed()
    await shut(server)


async def test_wrong_hostname():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        asyncio.Protocol, "127.0.0.1", 0, ssl=server_tls()
    )
    name = server.sockets[0].getsockname()
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mism"):
        await loop.create_connection(
            asyncio.Protocol,
            *name,
            ssl=client_tls(),
            server_hostname="wrong.invalid",
        )
    await shut(server)


async def test_connection_lost_during_the_handshake():
    loop = asyncio.get_running_loop()
    calls = handler_calls(loop)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        opening = asyncio.ensure_future(
            loop.create_connection(
                asyncio.Protocol,
                *listener.getsockname(),
                ssl=client_tls(),
                server_hostname="localhost",
            )
        )
        sock, _ = await loop.sock_accept(listener)
        await loop.sock_recv(sock, 10)
        reset(sock)
        kind, _ = await async_error(opening)
        assert issubclass(kind, OSError)
    assert calls == []


async def test_error_in_data_received():
    class Failing(Recorder):
        def data_received(self, data):
            raise ZeroDivisionError

    loop = asyncio.get_running_loop()
    calls = handler_calls(loop)
    async with connected("tls", Recorder, Failing) as (near, far):
        near.transport.write(b"x")
        exc = await far.lost
        assert type(exc) is ZeroDivisionError
    assert len(calls) == 1


def test_shutdown_timeout(agree):
    """A peer that never answers close_notify holds nothing up."""

    class Stuck(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.pause_reading()
            held.append(self)

    held = []

    async def scenario(loop):
        del held[:]
        calls = handler_calls(loop)
        server = await loop.create_server(
            Stuck, "127.0.0.1", 0, ssl=server_tls()
        )
        transport, protocol = await loop.create_connection(
            Recorder,
            *server.sockets[0].getsockname(),
            ssl=client_tls(),
            server_hostname="localhost",
            ssl_shutdown_timeout=0.05,
        )
        await until(lambda: held)
        # What the peer does not read keeps close_notify from leaving.
        transport.write(bytes(20_000_000))
        transport.close()
        exc = await asyncio.wait_for(protocol.lost, DEADLINE)
        held[0].transport.abort()
        await held[0].lost
        await shut(server)
        told = [(call["message"], repr(call["exception"])) for call in calls]
        return repr(exc), told

    assert agree(scenario)[0] == "TimeoutError('SSL shutdown timed out')"


async def test_warnings_about_writes_after_a_loss(caplog):
    """One for each write, whatever the number of its records."""
    async with connected("tls") as (near, far):
        transport = near.transport
        near.transport._ssl_protocol._transport.abort()
        for _ in range(30):
            transport.write(bytes(100_000))
        await near.lost
        await far.lost
    words = [record.getMessage() for record in caplog.records]
    assert 5 < words.count("socket.send() raised exception.") <= 30
