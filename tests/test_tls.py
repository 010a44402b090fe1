import asyncio
import hashlib
import socket
import ssl
import weakref

import pytest
from support import (
    DEADLINE,
    BufferedRecorder,
    Recorder,
    async_error,
    client_tls,
    connected,
    error,
    handler_calls,
    pattern,
    reset,
    server_tls,
    shut,
    tcp_pair,
    turns,
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
            assert type(info("socket")) is asyncio.trsock.TransportSocket
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


async def test_peer_that_just_goes_away():
    """Without close_notify: the end of the stream, not an error."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        asyncio.Protocol, "127.0.0.1", 0, ssl=server_tls()
    )
    name = server.sockets[0].getsockname()
    with socket.create_connection(name) as sock:
        sock.settimeout(10)

        def client():
            context = client_tls()
            tls = context.wrap_socket(sock, server_hostname="localhost")
            tls.send(b"x")
            tls.close()

        await asyncio.to_thread(client)
    await shut(server)


async def test_streams():
    async def serve(reader, writer):
        while line := await reader.readline():
            writer.write(line.upper())
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(
        serve, "127.0.0.1", 0, ssl=server_tls()
    )
    reader, writer = await asyncio.open_connection(
        *server.sockets[0].getsockname(),
        ssl=client_tls(),
        server_hostname="localhost",
    )
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


async def test_shutdown_timeout():
    """A peer that never answers close_notify holds nothing up."""
    loop = asyncio.get_running_loop()
    held = []

    class Stuck(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.pause_reading()
            held.append(self)

    handler_calls(loop)
    server = await loop.create_server(Stuck, "127.0.0.1", 0, ssl=server_tls())
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
    await asyncio.wait_for(protocol.lost, DEADLINE)
    held[0].transport.abort()
    await held[0].lost
    await shut(server)
