import asyncio
import hashlib
import io
import os
import socket

import pytest
from support import (
    Recorder,
    async_error,
    connected,
    error,
    pattern,
    tcp_pair,
    turns,
    wired,
)

SIZE = 3_000_000
DATA = pattern(SIZE)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(DATA)
    with open(path, "rb") as file:
        yield file


async def read_all(sock, size):
    loop = asyncio.get_running_loop()
    received = bytearray()
    while len(received) < size:
        received += await loop.sock_recv(sock, 1 << 18)
    return bytes(received)


@pytest.mark.parametrize(
    "offset, count", [(0, None), (1000, None), (1000, 5000), (0, SIZE * 2)]
)
async def test_sock_sendfile(file, offset, count):
    loop = asyncio.get_running_loop()
    near, far = tcp_pair()
    with near, far:
        end = SIZE if count is None else min(SIZE, offset + count)
        expected = DATA[offset:end]
        result, received = await asyncio.gather(
            loop.sock_sendfile(near, file, offset, count),
            read_all(far, len(expected)),
        )
        assert result == len(expected)
        assert received == expected
        assert file.tell() == end


@pytest.mark.parametrize("offset, count", [(0, None), (10, 1000)])
async def test_sock_sendfile_fallback(offset, count):
    """What is no real file is read and sent."""
    loop = asyncio.get_running_loop()
    near, far = tcp_pair()
    with near, far:
        data = DATA[:500_000]
        expected = data[offset : offset + count if count else None]
        file = io.BytesIO(data)
        result, received = await asyncio.gather(
            loop.sock_sendfile(near, file, offset, count),
            read_all(far, len(expected)),
        )
        assert result == len(expected) and received == expected
        assert file.tell() == offset + len(expected)
        kind, _ = await async_error(
            loop.sock_sendfile(near, io.BytesIO(b"x"), fallback=False)
        )
        assert kind is asyncio.SendfileNotAvailableError


async def test_sendfile_is_the_system_call(file, monkeypatch):
    """Of a file on disk, as fallback=False demands."""
    loop = asyncio.get_running_loop()
    sent = []
    sendfile = os.sendfile

    def counted(*args):
        sent.append(sendfile(*args))
        return sent[-1]

    monkeypatch.setattr(os, "sendfile", counted)
    near, far = tcp_pair()
    with near, far:
        await loop.sock_sendfile(near, file, 10, 1000, fallback=False)
        assert await read_all(far, 1000) == DATA[10:1010]
    assert sent == [1000]
    async with connected() as (near, far):
        await loop.sendfile(near.transport, file, 10, 1000, fallback=False)
        assert await far.receive(1000) == DATA[10:1010]
    assert sent == [1000, 1000]


@pytest.mark.parametrize("kind", ["tcp", "unix", "tls"])
async def test_sendfile_in_order_with_writes(file, kind):
    loop = asyncio.get_running_loop()
    async with connected(kind) as (near, far):
        near.transport.write(b"before" * 50_000)
        result = await loop.sendfile(near.transport, file, 100, 1_000_000)
        assert result == 1_000_000
        near.transport.write(b"after")
        expected = b"before" * 50_000 + DATA[100:1_000_100] + b"after"
        received = await far.receive(len(expected))
        assert hashlib.md5(received).digest() == (
            hashlib.md5(expected).digest()
        )
        assert file.tell() == 1_000_100
        far.transport.write(b"still reading")
        await near.receive(13)


@pytest.mark.parametrize("kind", ["tcp", "tls"])
@pytest.mark.parametrize(
    "offset, count", [(10, 1000), (10, None), (600, None)]
)
async def test_position_after_sendfile_by_hand(kind, offset, count):
    loop = asyncio.get_running_loop()
    async with connected(kind) as (near, far):
        file = io.BytesIO(DATA[:600])
        sent = await loop.sendfile(near.transport, file, offset, count)
        assert sent == 600 - offset
        assert file.tell() == 600
        near.transport.write(b"end")
        assert await far.receive(sent + 3) == DATA[offset:600] + b"end"


@pytest.mark.parametrize("kind", ["tcp", "tls"])
async def test_what_comes_during_sendfile_waits(kind):
    loop = asyncio.get_running_loop()
    async with connected(kind) as (near, far):
        far.transport.pause_reading()
        sending = asyncio.ensure_future(
            loop.sendfile(near.transport, io.BytesIO(DATA * 3))
        )
        await turns(5)
        far.transport.write(b"meanwhile")
        await asyncio.sleep(0.02)
        assert not sending.done()
        assert near.received == b""
        assert not near.transport.is_reading()
        far.transport.resume_reading()
        assert await sending == SIZE * 3
        assert await near.receive(9) == b"meanwhile"
        assert near.transport.is_reading()


async def test_sendfile_of_all(file):
    loop = asyncio.get_running_loop()
    async with connected() as (near, far):
        assert await loop.sendfile(near.transport, file) == SIZE
        near.transport.close()
        await far.lost
        assert far.received == DATA


def small_pair():
    """SIZE does not fit."""
    pair = tcp_pair()
    for sock in pair:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 20_000)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 20_000)
    return pair


async def test_writes_during_sendfile_are_refused(file):
    loop = asyncio.get_running_loop()
    async with wired(Recorder, small_pair()) as (protocol, peer):
        # Nobody reads, so it takes a while.
        sending = asyncio.ensure_future(
            loop.sendfile(protocol.transport, file)
        )
        await turns(5)
        assert not sending.done()
        for method, data in ("write", b"x"), ("writelines", [b"x"]):
            kind, text = error(getattr(protocol.transport, method), data)
            assert kind is RuntimeError
            assert text.endswith("; sendfile is in progress")
        await asyncio.gather(sending, read_all(peer, SIZE))
        protocol.transport.write(b"x")
        assert await loop.sock_recv(peer, 1) == b"x"


@pytest.mark.parametrize("kind", ["tcp", "unix", "tls"])
async def test_sendfile_fallback_of_transports(kind):
    """What is no file on disk is read and written by hand."""
    loop = asyncio.get_running_loop()
    async with connected(kind) as (near, far):
        for _ in range(2):
            sent = await loop.sendfile(near.transport, io.BytesIO(DATA))
            assert sent == SIZE
        with pytest.raises(RuntimeError):
            await loop.sendfile(
                near.transport, io.BytesIO(DATA), fallback=False
            )
        near.transport.write(b"end")
        assert await far.receive(2 * SIZE + 3) == DATA + DATA + b"end"
        far.transport.write(b"x")
        assert await near.receive(1) == b"x"


async def test_tls_peer_that_ends_during_sendfile(file, pyloop_only):
    """asyncio says now and then that all was sent."""
    loop = asyncio.get_running_loop()
    for _ in range(5):
        async with connected("tls") as (near, far):
            loop.call_soon(far.transport.abort)
            with pytest.raises(ConnectionError):
                await loop.sendfile(near.transport, file)
            near.transport.abort()


@pytest.mark.parametrize("how", ["close", "abort"])
async def test_transport_closed_during_sendfile(file, how, pyloop_only):
    """asyncio waits for ever."""
    loop = asyncio.get_running_loop()
    async with wired(Recorder, small_pair()) as (protocol, peer):
        sending = asyncio.ensure_future(
            loop.sendfile(protocol.transport, file)
        )
        peer.setblocking(False)
        assert len(await loop.sock_recv(peer, 1)) == 1
        await turns(5)
        assert not sending.done()
        getattr(protocol.transport, how)()
        await protocol.lost
        with pytest.raises(ConnectionError):
            await sending
        # Whoever gets the number is left alone.
        near, far = socket.socketpair()
        with near, far:
            await turns(5)
            near.setblocking(False)
            with pytest.raises(BlockingIOError):
                near.recv(1)


async def test_transport_aborted_before_sendfile_starts(file):
    """… which waits until what was written is sent."""
    loop = asyncio.get_running_loop()
    async with wired(Recorder, tcp_pair()) as (protocol, peer):
        protocol.transport.write(bytes(10_000_000))
        sending = asyncio.ensure_future(
            loop.sendfile(protocol.transport, file)
        )
        await turns(5)
        assert not sending.done()
        protocol.transport.abort()
        assert await async_error(sending) == (
            ConnectionError,
            "Connection is closed by peer",
        )


async def test_sendfile_keeps_reading_paused(file):
    loop = asyncio.get_running_loop()
    async with connected() as (near, far):
        near.transport.pause_reading()
        await loop.sendfile(near.transport, file, 0, 1000)
        assert not near.transport.is_reading()
        near.transport.resume_reading()
        far.transport.write(b"x")
        await near.receive(1)


async def test_peer_gone_during_sendfile(file):
    loop = asyncio.get_running_loop()
    async with wired(Recorder, tcp_pair()) as (protocol, peer):
        sending = asyncio.ensure_future(
            loop.sendfile(protocol.transport, file)
        )
        await turns(5)
        peer.close()
        result = await async_error(sending)
        assert result is None or issubclass(result[0], ConnectionError)
        protocol.transport.abort()
        await protocol.lost


async def test_cancelled_sendfile(file, pyloop_only):
    """asyncio completes a future that is cancelled, and says so."""
    loop = asyncio.get_running_loop()
    async with wired(Recorder, tcp_pair()) as (protocol, peer):
        protocol.transport.write(bytes(10_000_000))
        sending = asyncio.ensure_future(
            loop.sendfile(protocol.transport, file)
        )
        await turns(5)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        await read_all(peer, 10_000_000)


async def test_cancelled_sock_sendfile(file, pyloop_only):
    """The file's position tells what was sent, so one can go on from there;
    asyncio leaves it where it was."""
    loop = asyncio.get_running_loop()
    near, far = small_pair()
    with near, far:
        received, cancelled = bytearray(), 0
        while file.tell() < SIZE and cancelled < 5:
            sending = asyncio.ensure_future(
                loop.sock_sendfile(near, file, file.tell())
            )
            await turns(3)
            if not sending.done():
                assert sending.cancel()
                await asyncio.wait([sending])
                assert loop.remove_writer(near) is False
                cancelled += 1
            while len(received) < file.tell():
                received += await loop.sock_recv(far, 1 << 16)
        assert cancelled
        rest = SIZE - file.tell()
        await asyncio.gather(
            loop.sock_sendfile(near, file, file.tell()),
            receive_more(far, received, rest),
        )
        assert received == DATA


async def receive_more(sock, received, size):
    received += await read_all(sock, size)


async def test_sock_sendfile_in_order(file):
    loop = asyncio.get_running_loop()
    near, far = tcp_pair()
    with near, far:

        async def send():
            await loop.sock_sendall(near, b"before")
            await loop.sock_sendfile(near, file, 10, 1_000_000)
            await loop.sock_sendall(near, b"between")
            await loop.sock_sendfile(near, io.BytesIO(b"fallback"))
            await loop.sock_sendall(near, b"after")

        expected = b"before" + DATA[10:1_000_010] + b"betweenfallbackafter"
        _, received = await asyncio.gather(
            send(), read_all(far, len(expected))
        )
        assert received == expected


async def test_sendfile_from_a_pipe():
    """The system call takes files only; the rest is read and sent."""
    loop = asyncio.get_running_loop()
    near, far = tcp_pair()
    reading, writing = os.pipe()
    with near, far, open(reading, "rb") as file, open(writing, "wb") as end:
        end.write(DATA[:30_000])
        end.flush()
        kind, text = await async_error(
            loop.sock_sendfile(near, file, 0, 30_000, fallback=False)
        )
        assert kind is asyncio.SendfileNotAvailableError
        sent, received = await asyncio.gather(
            loop.sock_sendfile(near, Unseekable(file), 0, 30_000),
            read_all(far, 30_000),
        )
        assert sent == 30_000 and received == DATA[:30_000]


class Unseekable:
    """asyncio asks for seek() only where there is one."""

    def __init__(self, file):
        self.mode = "rb"
        self.fileno = file.fileno
        self.readinto = file.readinto


async def test_file_cut_short_while_it_is_sent(tmp_path):
    loop = asyncio.get_running_loop()
    path = tmp_path / "file"
    path.write_bytes(DATA)
    near, far = small_pair()
    with near, far, open(path, "rb") as file:
        sending = asyncio.ensure_future(loop.sock_sendfile(near, file))
        await turns(5)
        assert not sending.done()
        os.truncate(path, 0)
        far.setblocking(False)
        received = bytearray()
        while not sending.done():
            receiving = asyncio.ensure_future(loop.sock_recv(far, 1 << 16))
            await asyncio.wait(
                [sending, receiving], return_when="FIRST_COMPLETED"
            )
            if receiving.done():
                received += receiving.result()
            else:
                receiving.cancel()
                await asyncio.wait([receiving])
        sent = await sending
        assert 0 < sent < SIZE and file.tell() == sent
        received += await read_all(far, sent - len(received))
        assert len(received) == sent


async def test_peer_gone_during_sock_sendfile(file):
    loop = asyncio.get_running_loop()
    near, far = small_pair()
    with near, far:
        sending = asyncio.ensure_future(loop.sock_sendfile(near, file))
        await turns(5)
        assert not sending.done()
        far.close()
        kind, _ = await async_error(sending)
        assert issubclass(kind, ConnectionError)
        assert 0 < file.tell() < SIZE


def test_bad_arguments(agree, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"data")

    async def scenario(loop):
        seen = []
        near, far = tcp_pair()
        udp = socket.socket(type=socket.SOCK_DGRAM)
        udp.setblocking(False)
        with near, far, udp, open(path) as text, open(path, "rb") as file:
            for args in (
                (near, text),
                (udp, file),
                (near, file, -1),
                (near, file, "1"),
                (near, file, 0, 0),
                (near, file, 0, -1),
                (near, file, 0, "1"),
                (near, file, 0, 1.5),
            ):
                seen.append(await async_error(loop.sock_sendfile(*args)))
        async with wired(Recorder, tcp_pair()) as (protocol, peer):
            with open(path) as text, open(path, "rb") as file:
                transport = protocol.transport
                for args in (
                    (transport, text),
                    (transport, file, -1),
                    (transport, file, 0, 0),
                ):
                    result = await async_error(loop.sendfile(*args))
                    seen.append(result)
                transport.abort()
                await protocol.lost
                result = await async_error(loop.sendfile(transport, file))
                seen.append(result)
        return seen

    agree(scenario)


def test_empty_file(agree, tmp_path):
    path = tmp_path / "empty"
    path.write_bytes(b"")

    async def scenario(loop):
        near, far = tcp_pair()
        with near, far, open(path, "rb") as file:
            return await loop.sock_sendfile(near, file)

    assert agree(scenario) == 0
