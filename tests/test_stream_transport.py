import array
import asyncio
import contextlib
import gc
import hashlib
import os
import socket
import sys
import time
import warnings
import weakref

import pytest
from support import (
    DEADLINE,
    PAIRS,
    BufferedRecorder,
    KeepOpen,
    Recorder,
    async_error,
    asyncio_of_3_11_7,
    client_tls,
    connected,
    drain,
    error,
    fill,
    handler_calls,
    pattern,
    reset,
    server_tls,
    shut,
    spin,
    tcp_pair,
    turns,
    until,
    wired,
)

kinds = pytest.mark.parametrize("kind", ["tcp", "unix"])
protocols = pytest.mark.parametrize("make", [Recorder, BufferedRecorder])


async def drain_until(peer, size):
    """Read that many bytes from a raw non-blocking socket."""
    data = bytearray()

    def more():
        part = drain(peer)
        data.extend(part or b"")
        return len(data) >= size

    await until(more)
    return bytes(data)


async def clog(protocol, limit=64 << 20):
    """Write until the kernel takes no more; how much was written."""
    transport, total = protocol.transport, 0
    while not transport.get_write_buffer_size():
        transport.write(bytes(65536))
        total += 65536
        await turns(1)
        assert total < limit
    return total


# -- life


@kinds
@protocols
async def test_order_of_calls(kind, make):
    async with connected(kind, make, make) as (near, far):
        near.transport.write(b"hello")
        await far.receive(5)
        far.transport.write(b"world!")
        await near.receive(6)
        near.transport.close()
        assert await near.lost is None
        assert await far.lost is None
    assert bytes(far.received) == b"hello"
    assert bytes(near.received) == b"world!"
    assert near.calls == ["made", "data", "lost"]
    assert far.calls == ["made", "data", "eof", "lost"]


async def test_connection_made_comes_before_data():
    """Even when the data is there already."""
    ours, theirs = socket.socketpair()
    theirs.send(b"early")
    theirs.shutdown(socket.SHUT_WR)
    async with wired(pair=(ours, theirs)) as (protocol, _):
        await protocol.lost
    assert protocol.calls == ["made", "data", "eof", "lost"]
    assert protocol.received == b"early"


async def test_create_connection_returns_after_connection_made():
    async with wired() as (protocol, peer):
        assert protocol.calls[0] == "made"
        assert protocol.transport is not None


@kinds
async def test_close_flushes(kind):
    data = pattern(1_000_000)
    async with wired(Recorder, PAIRS[kind]()) as (protocol, peer):
        total = await clog(protocol)
        protocol.transport.write(data)
        protocol.transport.close()
        protocol.transport.close()
        assert protocol.transport.is_closing()
        await turns()
        assert not protocol.lost.done()
        received = await drain_until(peer, total + len(data))
        assert received[total:] == data
        assert await protocol.lost is None
        await until(lambda: drain(peer) == b"")
    assert protocol.calls.count("lost") == 1


@kinds
async def test_small_write_then_close(kind):
    async with wired(Recorder, PAIRS[kind]()) as (protocol, peer):
        protocol.transport.write(b"bye")
        protocol.transport.close()
        assert await protocol.lost is None
        assert await drain_until(peer, 3) == b"bye"
        assert peer.recv(1) == b""


async def test_abort_drops_what_is_buffered():
    async with wired() as (protocol, peer):
        await clog(protocol)
        protocol.transport.abort()
        assert protocol.transport.is_closing()
        assert protocol.transport.get_write_buffer_size() == 0
        assert not protocol.lost.done()
        assert await protocol.lost is None
    assert protocol.calls.count("lost") == 1


@pytest.mark.parametrize("end", ["abort", "error"])
async def test_what_was_written_just_before_the_end_is_sent(end, errors):
    """asyncio's write() has sent it by then."""

    async with wired() as (protocol, peer):

        def say_and_end():
            protocol.transport.write(b"last ")
            protocol.transport.writelines([b"words"])
            if end == "abort":
                protocol.transport.abort()
            else:
                protocol.transport._fatal_error(ValueError("in the protocol"))

        asyncio.get_running_loop().call_soon(say_and_end)
        lost = await protocol.lost
        assert (lost is None) == (end == "abort")
        assert await drain_until(peer, 10) == b"last words"
        assert peer.recv(1) == b""
    errors.clear()


@pytest.mark.parametrize("end", ["abort", "reset"])
async def test_end_of_the_connection_lets_go_of_what_was_written(end):
    """All buffers at once, though somebody keeps the transport."""

    async with wired(Recorder, tcp_pair()) as (protocol, peer):
        await clog(protocol)
        data = pattern(100_000)
        before = sys.getrefcount(data)
        protocol.transport.write(data)
        protocol.transport.writelines([data, data])
        if end == "abort":
            protocol.transport.abort()
        else:
            reset(peer)
        await protocol.lost
        await turns()
        assert sys.getrefcount(data) == before
        assert protocol.transport.get_write_buffer_size() == 0


async def test_write_buffer_size_does_not_walk_the_buffer(pyloop_only):
    """As quick with 20,000 pieces as with one. asyncio adds them up."""

    def seconds():
        best = 1
        for _ in range(20):
            start = time.perf_counter()
            for _ in range(200):
                protocol.transport.get_write_buffer_size()
            best = min(best, time.perf_counter() - start)
        return best

    async with wired() as (protocol, peer):
        await clog(protocol)
        one = seconds()
        for _ in range(20_000):
            protocol.transport.write(b"piece")
        assert protocol.transport.get_write_buffer_size() >= 100_000
        assert seconds() < 10 * one


async def test_abort_after_close_while_flushing():
    async with wired() as (protocol, peer):
        await clog(protocol)
        protocol.transport.close()
        await turns()
        assert not protocol.lost.done()
        protocol.transport.abort()
        assert await protocol.lost is None
    assert protocol.calls.count("lost") == 1


async def test_nothing_is_received_after_close():
    async with wired() as (protocol, peer):
        await clog(protocol)
        protocol.transport.close()
        peer.send(b"too late")
        await turns(5)
        protocol.transport.abort()
        await protocol.lost
    assert "data" not in protocol.calls and "eof" not in protocol.calls


async def test_close_in_data_received_ends_reading():
    class Closer(Recorder):
        def data_received(self, data):
            super().data_received(data)
            self.transport.close()

    ours, theirs = socket.socketpair()
    async with wired(Closer, (ours, theirs)) as (protocol, peer):
        peer.send(b"one")
        await protocol.lost
    assert protocol.calls == ["made", "data", "lost"]


async def test_close_in_connection_made():
    class Closer(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.write(b"bye")
            transport.close()

    async with wired(Closer) as (protocol, peer):
        assert await protocol.lost is None
        assert await drain_until(peer, 3) == b"bye"
    assert protocol.calls == ["made", "lost"]


async def test_abort_in_connection_made():
    class Aborter(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.abort()

    ours, theirs = socket.socketpair()
    theirs.send(b"unread")
    async with wired(Aborter, (ours, theirs)) as (protocol, peer):
        assert await protocol.lost is None
    assert protocol.calls == ["made", "lost"]


async def test_connection_lost_is_not_called_from_close():
    async with wired() as (protocol, peer):
        protocol.transport.close()
        assert "lost" not in protocol.calls
        await protocol.lost


@kinds
@protocols
async def test_reset_by_the_peer(kind, make):
    if kind == "unix":
        pytest.skip("unix sockets have no reset")
    async with wired(make, tcp_pair()) as (protocol, peer):
        peer.send(b"x")
        await protocol.receive(1)
        reset(peer)
        exc = await protocol.lost
        assert type(exc) is ConnectionResetError
        assert protocol.transport.is_closing()
    assert protocol.calls == ["made", "data", "lost"]


@kinds
async def test_peer_gone_while_writing(kind):
    async with wired(KeepOpen, PAIRS[kind]()) as (protocol, peer):
        await clog(protocol)
        peer.close()
        exc = await protocol.lost
        assert isinstance(exc, (BrokenPipeError, ConnectionResetError))
        assert protocol.transport.get_write_buffer_size() == 0
    assert protocol.calls.count("lost") == 1


async def test_write_to_a_peer_that_is_gone():
    async with wired(KeepOpen) as (protocol, peer):
        peer.close()
        await protocol.eof
        for _ in range(3):
            protocol.transport.write(b"x")
        exc = await protocol.lost
        assert type(exc) is BrokenPipeError
    assert protocol.calls == ["made", "eof", "lost"]


# -- half close


@kinds
@protocols
async def test_eof_closes(kind, make):
    async with wired(make, PAIRS[kind]()) as (protocol, peer):
        peer.send(b"last")
        peer.shutdown(socket.SHUT_WR)
        assert await protocol.lost is None
    assert protocol.calls == ["made", "data", "eof", "lost"]
    assert protocol.received == b"last"


@kinds
async def test_eof_closes_after_flushing(kind):
    data = pattern(2_000_000)
    async with wired(Recorder, PAIRS[kind]()) as (protocol, peer):
        protocol.transport.write(data)
        peer.shutdown(socket.SHUT_WR)
        await protocol.eof
        assert await drain_until(peer, len(data)) == data
        assert await protocol.lost is None


@kinds
async def test_write_after_eof_of_the_peer(kind):
    async with wired(KeepOpen, PAIRS[kind]()) as (protocol, peer):
        peer.send(b"question")
        peer.shutdown(socket.SHUT_WR)
        await protocol.eof
        await turns(5)
        assert not protocol.lost.done()
        assert not protocol.transport.is_closing()
        protocol.transport.write(b"answer")
        protocol.transport.write_eof()
        assert await drain_until(peer, 6) == b"answer"
        await until(lambda: drain(peer) == b"")
        protocol.transport.close()
        assert await protocol.lost is None
    assert protocol.calls == ["made", "data", "eof", "lost"]


@kinds
async def test_write_eof(kind):
    """Sent behind what is buffered; the other direction stays open."""
    data = pattern(3_000_000)
    async with wired(Recorder, PAIRS[kind]()) as (protocol, peer):
        transport = protocol.transport
        assert transport.can_write_eof() is True
        transport.write(data)
        transport.write_eof()
        transport.write_eof()
        assert not transport.is_closing()
        assert error(transport.write, b"x") == (
            RuntimeError,
            "Cannot call write() after write_eof()",
        )
        assert error(transport.writelines, [b"x"])[0] is RuntimeError
        assert await drain_until(peer, len(data)) == data
        await until(lambda: drain(peer) == b"")
        peer.send(b"still open")
        await protocol.receive(10)
        peer.close()
        assert await protocol.lost is None


async def test_write_eof_with_nothing_written():
    async with wired() as (protocol, peer):
        protocol.transport.write_eof()
        await until(lambda: drain(peer) == b"")
        peer.send(b"x")
        await protocol.receive(1)


async def test_write_eof_then_close():
    async with wired() as (protocol, peer):
        protocol.transport.write(b"x")
        protocol.transport.write_eof()
        protocol.transport.close()
        protocol.transport.write_eof()
        assert await protocol.lost is None
        assert drain(peer) == b"x"


async def test_both_sides_half_close():
    async with connected("tcp", KeepOpen, KeepOpen) as (near, far):
        near.transport.write(b"from near")
        near.transport.write_eof()
        await far.eof
        far.transport.write(b"from far")
        far.transport.write_eof()
        await near.eof
        assert bytes(near.received) == b"from far"
        assert bytes(far.received) == b"from near"
        assert not near.lost.done() and not far.lost.done()
        near.transport.close()
        far.transport.close()
        await near.lost
        await far.lost
    assert near.calls == far.calls == ["made", "data", "eof", "lost"]


@kinds
@protocols
async def test_no_data_lost_before_eof(kind, make):
    """Much data, then the end at once, the reader being slow."""
    data = pattern(5_000_000)
    async with connected(kind, make, make) as (near, far):
        near.transport.write(data)
        near.transport.close()
        await far.lost
    assert hashlib.md5(far.received).digest() == hashlib.md5(data).digest()


# -- what can be written


@pytest.mark.parametrize(
    "value",
    [
        b"bytes",
        bytearray(b"bytearray"),
        memoryview(b"memoryview"),
        memoryview(bytearray(b"slice of a view"))[3:-2],
        memoryview(array.array("I", [1, 2, 3])),
        memoryview(b"").cast("B"),
        b"",
        bytearray(),
    ],
    ids=repr,
)
async def test_types(value, loop_name):
    expected = bytes(value)
    async with wired() as (protocol, peer):
        protocol.transport.write(value)
        if loop_name == "asyncio" and len(value) != len(expected):
            # It counts items where the system counts bytes.
            assert await drain_until(peer, len(expected)) == expected
            return
        protocol.transport.write(b"|")
        protocol.transport.writelines([value, b"|", value])
        data = expected + b"|" + expected + b"|" + expected
        assert await drain_until(peer, len(data)) == data


@pytest.mark.parametrize("value", ["text", 5, None, [b"x"], object(), 1.5])
def test_wrong_types(agree, value):
    async def scenario(loop):
        async with wired() as (protocol, peer):
            result = error(protocol.transport.write, value)
            protocol.transport.write(b"fine")
            assert await drain_until(peer, 4) == b"fine"
            return result

    seen = agree(scenario)
    assert seen[0] is TypeError


def test_array_is_not_taken(agree):
    async def scenario(loop):
        async with wired() as (protocol, peer):
            return error(protocol.transport.write, array.array("B", b"x"))

    agree(scenario)


@pytest.mark.parametrize("value", [[], (), [b""], [b"a", bytearray(b"b")]])
async def test_writelines(value):
    async with wired() as (protocol, peer):
        protocol.transport.writelines(value)
        protocol.transport.write(b"|")
        expected = b"".join(value) + b"|"
        assert await drain_until(peer, len(expected)) == expected


async def test_writelines_takes_any_iterable():
    async with wired() as (protocol, peer):
        protocol.transport.writelines(c for c in (b"a", b"b", b"c"))
        protocol.transport.writelines({b"d": 1})
        assert await drain_until(peer, 4) == b"abcd"


def test_writelines_wrong_types(agree):
    async def scenario(loop):
        async with wired() as (protocol, peer):
            seen = [
                error(protocol.transport.writelines, value)
                for value in ([1], ["text"], 5)
            ]
            return [result and result[0] for result in seen]

    assert agree(scenario) == [TypeError] * 3


async def test_writelines_many():
    lines = [b"line %d\n" % n for n in range(5000)]
    async with wired() as (protocol, peer):
        protocol.transport.writelines(lines)
        expected = b"".join(lines)
        assert await drain_until(peer, len(expected)) == expected


async def test_view_that_is_not_contiguous():
    """asyncio takes it for a failed send."""
    loop = asyncio.get_running_loop()
    calls = handler_calls(loop)
    async with wired() as (protocol, peer):
        view = memoryview(b"0123456789")[::2]
        result = error(protocol.transport.write, view)
        if result is None:
            exc = await protocol.lost
            assert type(exc) is BufferError
            assert calls[0]["exception"] is exc
        else:
            assert result[0] is BufferError


async def test_caller_may_change_a_buffer_after_write():
    async with wired() as (protocol, peer):
        data = bytearray(b"before")
        protocol.transport.write(data)
        data[:] = b"after!"
        data.clear()
        assert await drain_until(peer, 6) == b"before"


async def test_caller_may_change_a_buffer_that_waits(pyloop_only):
    """asyncio keeps a view on it from 3.12 on."""
    async with wired() as (protocol, peer):
        total = await clog(protocol)
        data = bytearray(pattern(500_000))
        protocol.transport.write(data)
        protocol.transport.writelines([data, memoryview(data)])
        expected = bytes(data) * 3
        data[:] = bytes(len(data))
        data.clear()
        received = await drain_until(peer, total + len(expected))
        assert received[total:] == expected


@kinds
async def test_bytes_are_held_until_sent(kind):
    """Not copied, and let go of."""
    pair = tcp_pair() if kind == "tcp" else socket.socketpair()
    async with wired(Recorder, pair) as (protocol, peer):
        total = await clog(protocol)
        data = pattern(500_000)
        count = sys.getrefcount(data)
        protocol.transport.write(data)
        protocol.transport.writelines([data, data])
        await drain_until(peer, total + 3 * len(data))
        await until(lambda: sys.getrefcount(data) == count)


# -- much data


@kinds
@protocols
async def test_large_transfers_both_ways(kind, make):
    size, piece = 20_000_000, 1 << 17
    data = pattern(size)
    digest = hashlib.md5(data).digest()

    class Sender(make):
        def __init__(self):
            super().__init__()
            self.position = 0
            self.may_write = asyncio.Event()
            self.may_write.set()
            self.digest = hashlib.md5()
            self.count = 0

        def data_received(self, data):
            self.digest.update(data)
            self.count += len(data)
            self.changed.set()

        def buffer_updated(self, nbytes):
            self.data_received(memoryview(self.buffer)[:nbytes])

        def pause_writing(self):
            self.may_write.clear()

        def resume_writing(self):
            self.may_write.set()

        async def send(self):
            for start in range(0, size, piece):
                await self.may_write.wait()
                self.transport.write(data[start : start + piece])
            await self.until(lambda: self.count >= size)

    if make is BufferedRecorder:
        Sender.buffer_size = 1 << 16
        Sender.data_received, Sender.buffer_updated = (
            None,
            lambda self, nbytes: (
                self.digest.update(self.buffer[:nbytes]),
                setattr(self, "count", self.count + nbytes),
                self.changed.set(),
            ),
        )
    async with connected(kind, Sender, Sender) as (near, far):
        await asyncio.gather(near.send(), far.send())
        assert near.digest.digest() == far.digest.digest() == digest


async def test_fifty_megabytes_in_one_write():
    data = pattern(50_000_000)
    digest = hashlib.md5()
    done = asyncio.get_running_loop().create_future()

    class Reader(Recorder):
        def data_received(self, data):
            digest.update(data)

        def connection_lost(self, exc):
            super().connection_lost(exc)
            done.set_result(None)

    async with connected("tcp", Recorder, Reader) as (near, far):
        near.transport.write(data)
        near.transport.close()
        await done
    assert digest.digest() == hashlib.md5(data).digest()


@kinds
async def test_many_small_writes_keep_their_order(kind):
    pieces = [b"%d," % n for n in range(5000)]
    expected = b"".join(pieces)
    async with connected(kind) as (near, far):
        for piece in pieces:
            near.transport.write(piece)
        assert await far.receive(len(expected)) == expected


async def test_writes_over_many_turns():
    async with connected() as (near, far):
        expected = bytearray()
        for n in range(500):
            for k in range(n % 7):
                near.transport.write(b"%d-%d;" % (n, k))
                expected += b"%d-%d;" % (n, k)
            await asyncio.sleep(0)
        assert await far.receive(len(expected)) == expected


async def test_mixed_sizes():
    import random

    rng = random.Random(3)
    async with connected() as (near, far):
        expected = bytearray()
        while len(expected) < 8_000_000:
            size = rng.choice([0, 1, 10, 1000, 70_000, 300_000])
            piece = rng.randbytes(size)
            kind = rng.choice([bytes, bytearray, memoryview])
            if rng.random() < 0.3:
                near.transport.writelines([kind(piece), b"x", kind(piece)])
                expected += piece + b"x" + piece
            else:
                near.transport.write(kind(piece))
                expected += piece
            if rng.random() < 0.2:
                await asyncio.sleep(0)
        assert await far.receive(len(expected)) == expected


async def test_write_reaches_the_peer_without_another_turn_of_work():
    """A deferred write leaves before the loop sleeps."""
    async with wired() as (protocol, peer):
        protocol.transport.write(b"x")
        loop = asyncio.get_running_loop()
        assert await asyncio.wait_for(loop.sock_recv(peer, 1), 10) == b"x"


def test_write_from_outside_a_running_loop(loop):
    async def open_it():
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        _, protocol = await loop.create_connection(Recorder, sock=ours)
        return protocol, theirs

    protocol, peer = loop.run_until_complete(open_it())
    protocol.transport.write(b"between runs")
    loop.run_until_complete(turns())
    assert peer.recv(100) == b"between runs"
    protocol.transport.write(b"and close")
    protocol.transport.close()
    loop.run_until_complete(protocol.lost)
    assert peer.recv(100) == b"and close"
    peer.close()


# -- flow control


@kinds
async def test_pause_and_resume_writing_come_in_pairs(kind):
    data = pattern(1_000_000)
    async with wired(Recorder, PAIRS[kind]()) as (protocol, peer):
        transport = protocol.transport
        transport.set_write_buffer_limits(100_000, 1000)
        for round_ in range(5):
            total = 0
            while protocol.calls[-1] != "pause":
                transport.write(data)
                total += len(data)
            assert transport.get_write_buffer_size() > 100_000
            transport.write(b"more")
            assert await drain_until(peer, total + 4) is not None
            await protocol.until(lambda: protocol.calls[-1] == "resume")
            assert transport.get_write_buffer_size() == 0
        assert protocol.calls == ["made"] + ["pause", "resume"] * 5


async def test_resume_at_the_low_mark():
    async with wired() as (protocol, peer):
        transport = protocol.transport
        sizes = []
        protocol.resume_writing = lambda: sizes.append(
            transport.get_write_buffer_size()
        )
        transport.set_write_buffer_limits(high=2_000_000, low=1_000_000)
        transport.write(bytes(6_000_000))
        assert "pause" in protocol.calls
        while not sizes:
            drain(peer)
            await turns(1)
        assert 0 < sizes[0] <= 1_000_000


async def test_high_limit_zero():
    async with wired() as (protocol, peer):
        transport = protocol.transport
        transport.set_write_buffer_limits(0)
        assert transport.get_write_buffer_limits() == (0, 0)
        total = fill_through(protocol)
        await drain_until(peer, total)
        await protocol.until(lambda: protocol.calls[-1] == "resume")
        total = fill_through(protocol)
        await drain_until(peer, total)
        await protocol.until(lambda: protocol.calls[-1] == "resume")
        flow = [name for name in protocol.calls if name != "made"]
        assert flow == ["pause", "resume"] * (len(flow) // 2)


def fill_through(protocol):
    total = 0
    while protocol.calls[-1] != "pause":
        protocol.transport.write(bytes(1 << 20))
        total += 1 << 20
    return total


async def test_not_paused_at_the_limit_but_above():
    async with wired() as (protocol, peer):
        transport = protocol.transport
        await clog(protocol)
        size = transport.get_write_buffer_size()
        transport.set_write_buffer_limits(high=size + 10)
        del protocol.calls[:]
        transport.write(bytes(10))
        assert transport.get_write_buffer_size() == size + 10
        assert protocol.calls == []
        transport.write(b"x")
        assert protocol.calls == ["pause"]


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("how", ["shutdown", "dup", "fileno"])
async def test_socket_is_used_after_a_write(early, how):
    """What was written before is sent before."""
    async with wired() as (protocol, peer):
        transport = protocol.transport
        sock = transport.get_extra_info("socket") if early else None
        transport.write(b"first ")
        transport.write(b"second ")
        sock = sock or transport.get_extra_info("socket")
        if how == "shutdown":
            sock.shutdown(socket.SHUT_WR)
            assert peer.recv(100) == b"first second "
            assert peer.recv(100) == b""
        elif how == "dup":
            with sock.dup() as other:
                other.send(b"third")
        else:
            os.write(sock.fileno(), b"third")
        if how != "shutdown":
            transport.write(b", fourth")
            await turns()
            assert peer.recv(100) == b"first second third, fourth"
        assert not transport.is_closing()


async def test_socket_outlives_its_transport():
    async with wired() as (protocol, peer):
        sock = protocol.transport.get_extra_info("socket")
        protocol.transport.abort()
        await protocol.lost
        protocol.transport = None
        await turns()
        assert sock.fileno() == -1
        assert error(sock.shutdown, socket.SHUT_WR)[0] is OSError


def test_calls_on_a_full_transport_of_a_closed_loop(agree):
    """Nothing is sent any more, and nobody is told so."""

    def scenario(loop):
        near, far = socket.socketpair()
        near.setblocking(False)

        async def clogged():
            transport, _ = await loop.create_connection(
                asyncio.Protocol, sock=near
            )
            while not transport.get_write_buffer_size():
                transport.write(bytes(1 << 20))
            return transport

        transport = loop.run_until_complete(clogged())
        loop.close()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            seen = [
                error(transport.write, b"x"),
                error(transport.set_write_buffer_limits, 1),
                error(transport.pause_reading),
                error(transport.resume_reading),
                transport.is_reading(),
                error(transport.write_eof),
                error(transport.close),
                error(transport.close),
                error(transport.abort),
            ]
            transport = None
            gc.collect()
        far.close()
        near.close()
        return seen

    assert agree(scenario)[0] is None


def test_write_to_a_closed_loop_says_so(agree):
    """When it cannot be sent at once."""

    def scenario(loop):
        near, far = socket.socketpair()
        near.setblocking(False)
        transport, _ = loop.run_until_complete(
            loop.create_connection(asyncio.Protocol, sock=near)
        )
        loop.close()
        seen = [
            error(transport.write, b"x"),
            error(transport.write, bytes(16 << 20)),
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            transport = None
            gc.collect()
        far.close()
        near.close()
        return seen

    assert agree(scenario)[1] == (RuntimeError, "Event loop is closed")


def test_write_eof_meets_the_end(agree):
    """There was no end of data then, and writing goes on to be quiet."""

    async def scenario(loop):
        near, far = tcp_pair()
        async with wired(pair=(near, far)) as (protocol, peer):
            transport = protocol.transport
            transport.pause_reading()
            reset(far)
            await asyncio.sleep(0.01)
            transport.write(b"x")
            transport.write_eof()
            seen = [type(await protocol.lost)]
            seen += [error(transport.write, b"y") for _ in range(2)]
            seen.append(error(transport.write_eof))
            return seen

    assert agree(scenario)[1:] == [None, None, None]


@pytest.mark.skipif(
    sys.version_info < (3, 12), reason="asyncio 3.11 joins the lines"
)
@pytest.mark.parametrize("lines", [None, 0, False, "", ()])
def test_no_lines(agree, lines):
    async def scenario(loop):
        async with wired() as (protocol, peer):
            return error(protocol.transport.writelines, lines)

    assert agree(scenario) is None


def test_write_buffer_limits(agree):
    async def scenario(loop):
        async with wired() as (protocol, peer):
            transport = protocol.transport
            seen = [transport.get_write_buffer_limits()]
            for args in (
                {},
                {"high": 1000},
                {"low": 1000},
                {"high": 1000, "low": 10},
                {"high": 0},
                {"high": 10, "low": 20},
                {"high": -1},
                {"low": -1},
                {"high": None, "low": None},
                {"high": 1 << 40},
                {"high": 4e6, "low": 1e6},
                {"high": "x"},
                {"low": "x"},
                {"high": float("nan")},
                {"high": float("inf")},
                {"high": 1 << 100, "low": -1},
            ):
                seen.append(error(transport.set_write_buffer_limits, **args))
                seen.append(transport.get_write_buffer_limits())
            seen.append(error(transport.set_write_buffer_limits, 100, 20))
            seen.append(transport.get_write_buffer_limits())
            return seen

    seen = agree(scenario)
    assert seen[0] == (16384, 65536)


async def test_write_buffer_limits_above_all_sizes():
    """And fractions, which are rounded down: no size is between."""
    async with wired() as (protocol, peer):
        transport = protocol.transport
        transport.set_write_buffer_limits(1 << 100)
        transport.write(bytes(1 << 20))
        transport.set_write_buffer_limits(float("inf"), 0)
        assert "pause" not in protocol.calls
        transport.set_write_buffer_limits(1.5, 0.5)
        assert protocol.calls[-1] == "pause"
        while transport.get_write_buffer_size():
            with contextlib.suppress(BlockingIOError):
                peer.recv(1 << 20)
            await asyncio.sleep(0)
        await until(lambda: protocol.calls[-1] == "resume")


async def test_limits_lowered_below_what_is_buffered():
    """asyncio pauses the protocol at once."""
    async with wired() as (protocol, peer):
        protocol.transport.set_write_buffer_limits(1 << 30)
        await clog(protocol)
        assert "pause" not in protocol.calls
        protocol.transport.set_write_buffer_limits(0)
        assert protocol.calls[-1] == "pause"


async def test_write_buffer_size():
    async with wired() as (protocol, peer):
        transport = protocol.transport
        assert transport.get_write_buffer_size() == 0
        total = await clog(protocol)
        size = transport.get_write_buffer_size()
        transport.write(b"12345")
        assert transport.get_write_buffer_size() == size + 5
        transport.writelines([b"123", b"", b"45"])
        assert transport.get_write_buffer_size() == size + 10
        await drain_until(peer, total + 10)
        await until(lambda: transport.get_write_buffer_size() == 0)


async def test_write_in_resume_writing():
    class Writer(Recorder):
        rounds = 0

        def resume_writing(self):
            super().resume_writing()
            self.rounds += 1
            if self.rounds < 5:
                self.transport.write(bytes(1 << 20))

    async with wired(Writer) as (protocol, peer):
        protocol.transport.set_write_buffer_limits(0)
        total = fill_through(protocol)
        await drain_until(peer, total + 4 * (1 << 20))
        await protocol.until(lambda: protocol.rounds == 5)
        flow = protocol.calls[1:]
        assert flow == ["pause", "resume"] * 5


async def test_close_in_pause_writing():
    class Closer(Recorder):
        def pause_writing(self):
            super().pause_writing()
            self.transport.close()

    async with wired(Closer) as (protocol, peer):
        total = fill_through(protocol)
        assert len(await drain_until(peer, total)) == total
        await protocol.lost


async def test_abort_in_pause_writing():
    class Aborter(Recorder):
        def pause_writing(self):
            super().pause_writing()
            self.transport.abort()

    async with wired(Aborter) as (protocol, peer):
        fill_through(protocol)
        assert await protocol.lost is None
    assert protocol.calls == ["made", "pause", "lost"]


# -- reading


@protocols
async def test_pause_and_resume_reading(make):
    async with wired(make) as (protocol, peer):
        transport = protocol.transport
        assert transport.is_reading() is True
        transport.pause_reading()
        transport.pause_reading()
        assert transport.is_reading() is False
        peer.send(b"one")
        await turns(5)
        assert protocol.received == b""
        transport.resume_reading()
        transport.resume_reading()
        assert transport.is_reading() is True
        await protocol.receive(3)
        peer.send(b"two")
        assert await protocol.receive(6) == b"onetwo"


@asyncio_of_3_11_7
async def test_pause_in_connection_made():
    class Paused(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.pause_reading()

    ours, theirs = socket.socketpair()
    theirs.send(b"early")
    async with wired(Paused, (ours, theirs)) as (protocol, peer):
        await turns(5)
        assert protocol.calls == ["made"]
        protocol.transport.resume_reading()
        await protocol.receive(5)


@protocols
async def test_pause_while_receiving(make):
    """One call at most after each resume."""

    class Stepper(make):
        count = 0

        def note(self, name):
            super().note(name)
            if name == "data":
                self.count += 1
                self.transport.pause_reading()

    async with wired(Stepper, tcp_pair()) as (protocol, peer):
        sent = fill(peer)
        while len(protocol.received) < sent:
            count = protocol.count
            protocol.transport.resume_reading()
            await protocol.until(lambda: protocol.count > count)
            await turns(2)
            assert protocol.count == count + 1
        assert len(protocol.received) == sent


async def test_eof_waits_while_reading_is_paused():
    async with wired() as (protocol, peer):
        protocol.transport.pause_reading()
        peer.send(b"x")
        peer.close()
        await turns(5)
        assert protocol.calls == ["made"]
        protocol.transport.resume_reading()
        assert await protocol.lost is None
    assert protocol.calls == ["made", "data", "eof", "lost"]


async def test_close_while_reading_is_paused():
    async with wired() as (protocol, peer):
        protocol.transport.pause_reading()
        protocol.transport.close()
        assert not protocol.transport.is_reading()
        await protocol.lost


async def test_paused_transport_still_writes():
    async with wired() as (protocol, peer):
        protocol.transport.pause_reading()
        protocol.transport.write(b"x")
        assert await drain_until(peer, 1) == b"x"


@pytest.mark.parametrize("size", [1, 10, 4096, 1 << 18, 1 << 20])
async def test_sizes_of_the_protocols_buffer(size):
    class Sized(BufferedRecorder):
        buffer_size = size

    total = 3000 if size < 100 else 1_000_000
    data = pattern(total)
    async with connected("tcp", Recorder, Sized) as (near, far):
        near.transport.write(data)
        assert await far.receive(total) == data


async def test_new_buffer_each_time():
    class Fresh(BufferedRecorder):
        def get_buffer(self, sizehint):
            assert type(sizehint) is int
            self.buffer = memoryview(bytearray(5000))[1000:3000]
            return self.buffer

    data = pattern(100_000)
    async with connected("tcp", Recorder, Fresh) as (near, far):
        near.transport.write(data)
        assert await far.receive(len(data)) == data


async def test_buffer_is_not_held_between_reads():
    async with wired(BufferedRecorder) as (protocol, peer):
        peer.send(b"x")
        await protocol.receive(1)
        await turns()
        protocol.buffer.extend(b"resized")
        peer.send(b"y")
        await protocol.receive(2)


@pytest.mark.parametrize("kind", [bytearray, memoryview, "array", "mmap"])
async def test_kinds_of_buffers(kind):
    import mmap

    make = {
        "array": lambda size: array.array("B", bytes(size)),
        "mmap": lambda size: mmap.mmap(-1, size),
        memoryview: lambda size: memoryview(bytearray(size)),
    }.get(kind, bytearray)

    class Kind(BufferedRecorder):
        def get_buffer(self, sizehint):
            self.buffer = make(100)
            return self.buffer

    async with connected("tcp", Recorder, Kind) as (near, far):
        near.transport.write(pattern(1000))
        assert await far.receive(1000) == pattern(1000)


@pytest.mark.parametrize(
    "bad",
    [
        b"read-only",
        memoryview(bytearray(10))[::2],
        b"",
        bytearray(),
        None,
        5,
    ],
)
async def test_bad_buffers(bad):
    class Bad(BufferedRecorder):
        def get_buffer(self, sizehint):
            return bad

    calls = handler_calls(asyncio.get_running_loop())
    async with wired(Bad) as (protocol, peer):
        peer.send(b"x")
        exc = await protocol.lost
    assert isinstance(exc, Exception)
    assert len(calls) == 1
    assert calls[0]["exception"] is exc
    assert calls[0]["message"].startswith("Fatal ")
    if bad is None or bad == 5:
        return
    if len(bad):
        assert type(exc) is TypeError
        assert str(exc) == (
            "recv_into() argument 1 must be read-write bytes-like object, "
            f"not {type(bad).__name__}"
        )
    else:
        assert str(exc) == "get_buffer() returned an empty buffer"


async def test_switch_to_a_buffered_protocol_and_back():
    async with wired() as (first, peer):
        transport = first.transport
        assert transport.get_protocol() is first
        second, third = BufferedRecorder(), Recorder()
        peer.send(b"one")
        await first.receive(3)
        transport.set_protocol(second)
        assert transport.get_protocol() is second
        peer.send(b"two")
        await second.receive(3)
        transport.set_protocol(third)
        peer.send(b"three")
        await third.receive(5)
        first.transport = third.transport = transport
        transport.close()
        await third.lost
        first.lost.set_result(None)
    assert (first.received, second.received) == (b"one", b"two")
    assert "lost" not in second.calls


async def test_switch_in_data_received():
    loop = asyncio.get_running_loop()
    second = BufferedRecorder()

    class Switcher(Recorder):
        def data_received(self, data):
            super().data_received(data)
            self.transport.set_protocol(second)
            self.lost.set_result(None)
            loop.call_soon(self.changed.set)

    async with wired(Switcher) as (first, peer):
        peer.send(b"one")
        await first.receive(3)
        peer.send(b"two")
        await second.receive(3)


# -- failing protocols


def failing(name, base=Recorder):
    def method(self, *args):
        raise ZeroDivisionError(name)

    return type("Failing", (base,), {name: method})


@pytest.mark.parametrize(
    "name, base, message",
    [
        (
            "data_received",
            Recorder,
            "Fatal error: protocol.data_received() call failed.",
        ),
        (
            "eof_received",
            Recorder,
            "Fatal error: protocol.eof_received() call failed.",
        ),
        (
            "get_buffer",
            BufferedRecorder,
            "Fatal error: protocol.get_buffer() call failed.",
        ),
        (
            "buffer_updated",
            BufferedRecorder,
            "Fatal error: protocol.buffer_updated() call failed.",
        ),
    ],
)
async def test_fatal_errors_of_protocols(name, base, message):
    calls = handler_calls(asyncio.get_running_loop())
    async with wired(failing(name, base)) as (protocol, peer):
        transport = protocol.transport
        peer.send(b"x")
        peer.shutdown(socket.SHUT_WR)
        exc = await protocol.lost
    assert type(exc) is ZeroDivisionError
    (context,) = calls
    assert context["message"] == message
    assert context["exception"] is exc
    assert context["transport"] is transport
    assert context["protocol"] is protocol
    assert protocol.calls.count("lost") == 1


@pytest.mark.parametrize("name", ["pause_writing", "resume_writing"])
async def test_errors_in_flow_control(name):
    """Reported; the connection lives on."""
    calls = handler_calls(asyncio.get_running_loop())
    async with wired(failing(name)) as (protocol, peer):
        transport = protocol.transport
        transport.set_write_buffer_limits(0)
        total = await clog(protocol)
        await drain_until(peer, total)
        await until(lambda: calls)
        (context,) = calls
        assert context["message"] == f"protocol.{name}() failed"
        assert type(context["exception"]) is ZeroDivisionError
        assert context["transport"] is transport
        assert context["protocol"] is protocol
        assert not transport.is_closing()
        peer.send(b"alive")
        await protocol.receive(5)


async def test_error_in_connection_made():
    """An exception of a callback like any other."""

    class Failing(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            raise ZeroDivisionError

    calls = handler_calls(asyncio.get_running_loop())
    async with wired(Failing) as (protocol, peer):
        peer.send(b"goes on")
        await protocol.receive(7)
    (context,) = calls
    assert context["message"].startswith("Exception in callback ")
    assert "connection_made(" in context["message"]
    assert type(context["exception"]) is ZeroDivisionError


async def test_error_in_connection_lost():
    class Failing(Recorder):
        def connection_lost(self, exc):
            super().connection_lost(exc)
            raise ZeroDivisionError

    calls = handler_calls(asyncio.get_running_loop())
    async with wired(Failing) as (protocol, peer):
        sock = protocol.transport.get_extra_info("socket")
        protocol.transport.close()
        await protocol.lost
        await turns()
        assert sock.fileno() == -1
    (context,) = calls
    assert context["message"].startswith("Exception in callback ")
    assert type(context["exception"]) is ZeroDivisionError


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize(
    "name",
    "connection_made data_received eof_received connection_lost".split(),
)
def test_interrupts_in_protocols_leave_the_loop(loop, kind, name):
    class Interrupter(Recorder):
        interrupted = False

    def method(self, *args):
        # The end of the stream may be reported again.
        first, self.interrupted = not self.interrupted, True
        if first or name != "eof_received":
            getattr(Recorder, name)(self, *args)
        if first:
            raise kind

    setattr(Interrupter, name, method)
    calls = handler_calls(loop)

    async def open_it():
        ours, theirs = socket.socketpair()
        theirs.send(b"x")
        theirs.shutdown(socket.SHUT_WR)
        theirs.close()
        protocol = Interrupter()
        task = asyncio.ensure_future(
            loop.create_connection(lambda: protocol, sock=ours)
        )
        return protocol, task

    protocol, task = loop.run_until_complete(open_it())
    with pytest.raises(kind):
        loop.run_forever()
    loop.run_until_complete(task)
    if protocol.transport:
        protocol.transport.abort()
    loop.run_until_complete(asyncio.wait_for(protocol.lost, DEADLINE))
    loop.run_until_complete(turns())
    assert calls == []


async def test_protocol_without_methods():
    """A class that defines next to nothing fails only where it is called."""

    class Bare:
        def connection_made(self, transport):
            self.transport = transport

        def connection_lost(self, exc):
            lost.set_result(exc)

    loop = asyncio.get_running_loop()
    calls = handler_calls(loop)
    lost = loop.create_future()
    ours, theirs = socket.socketpair()
    with theirs:
        transport, _ = await loop.create_connection(Bare, sock=ours)
        theirs.send(b"x")
        exc = await lost
    assert type(exc) is AttributeError
    assert len(calls) == 1


async def test_methods_of_asyncio_protocol_suffice():
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    with theirs:
        transport, protocol = await loop.create_connection(
            asyncio.Protocol, sock=ours
        )
        theirs.send(b"x")
        theirs.shutdown(socket.SHUT_WR)
        await until(lambda: transport.is_closing())
        await turns()


async def test_protocol_methods_replaced_on_the_instance():
    async with wired() as (protocol, peer):
        seen = []
        protocol.data_received = seen.append
        peer.send(b"x")
        await until(lambda: seen)
        assert seen == [b"x"]


# -- after the end


def use(transport, *, writelines=True):
    """Call everything; none of it may raise or do anything."""
    transport.write(b"x")
    if writelines:
        transport.writelines([b"x", b"y"])
    transport.write(b"")
    transport.pause_reading()
    transport.resume_reading()
    transport.is_reading()
    transport.write_eof()
    transport.set_write_buffer_limits(100)
    transport.set_write_buffer_limits()
    assert transport.get_write_buffer_size() == 0
    transport.get_write_buffer_limits()
    transport.close()
    transport.abort()
    transport.abort()
    assert transport.is_closing() is True
    assert transport.can_write_eof() is True
    transport.get_extra_info("socket")
    repr(transport)
    str(transport)


@kinds
@pytest.mark.parametrize("end", ["close", "abort", "reset", "eof"])
async def test_quiet_after_the_end(kind, end, loop_name):
    async with wired(Recorder, PAIRS[kind]()) as (protocol, peer):
        transport = protocol.transport
        if end == "reset":
            reset(peer)
        elif end == "eof":
            peer.close()
        else:
            getattr(transport, end)()
            # In the same turn, the end being only scheduled.
            for _ in range(8):
                transport.write(b"x")
            transport.pause_reading()
            transport.resume_reading()
            transport.close()
            transport.abort()
        await protocol.lost
        await turns()
        # asyncio's writelines() fails on a closed transport since 3.12.
        use(transport, writelines=loop_name == "pyloop")
        await turns()
        use(transport, writelines=loop_name == "pyloop")
    assert protocol.calls.count("lost") == 1
    assert protocol.calls[-1] == "lost"


async def test_quiet_after_a_close_that_flushed(pyloop_only):
    """asyncio's abort() and write() fail then."""
    async with wired() as (protocol, peer):
        await clog(protocol)
        protocol.transport.close()
        while not protocol.lost.done():
            drain(peer)
            await turns(1)
        use(protocol.transport)
        await turns()
    assert protocol.calls.count("lost") == 1


async def test_set_protocol_after_close():
    async with wired() as (protocol, peer):
        transport = protocol.transport
        transport.close()
        await protocol.lost
        await turns()
        transport.set_protocol(Recorder())
        transport.get_protocol()


async def test_write_and_close_in_connection_lost():
    class Writer(Recorder):
        def connection_lost(self, exc):
            use(self.transport, writelines=False)
            super().connection_lost(exc)

    async with wired(Writer) as (protocol, peer):
        peer.close()
        await protocol.lost
    assert protocol.calls == ["made", "eof", "lost"]


async def test_warning_about_writes_after_the_loss(caplog):
    """From the fifth on, in the words of asyncio."""
    async with wired() as (protocol, peer):
        protocol.transport.abort()
        for _ in range(20):
            protocol.transport.write(b"x")
        await protocol.lost
    words = [record.getMessage() for record in caplog.records]
    assert words.count("socket.send() raised exception.") > 5


async def test_writelines_after_the_loss(pyloop_only):
    """As asyncio since 3.14, which does not look at the pieces any more; what
    it did before stumbled over what it had let go of."""
    async with wired() as (protocol, peer):
        transport = protocol.transport
        transport.abort()
        await protocol.lost
        seen = [
            error(transport.writelines, lines)
            for lines in ([], [b"x"], [5], 5)
        ]
    assert seen[:2] == [None, None]
    if sys.version_info >= (3, 14):
        assert seen[2:] == [None, None]
    else:
        assert [kind for kind, _ in seen[2:]] == [TypeError, TypeError]


# -- what shows


@kinds
async def test_extra_info(kind):
    async with connected(kind) as (near, far):
        for transport in near.transport, far.transport:
            sock = transport.get_extra_info("socket")
            assert isinstance(sock, asyncio.trsock.TransportSocket)
            assert sock is transport.get_extra_info("socket")
            assert sock.type == socket.SOCK_STREAM
            assert transport.get_extra_info("sockname") == sock.getsockname()
            assert transport.get_extra_info("peername") == sock.getpeername()
            assert transport.get_extra_info("nothing") is None
            assert transport.get_extra_info("nothing", 5) == 5
            assert sock.fileno() >= 0
            assert sock.gettimeout() == 0
        if kind == "tcp":
            name = near.transport.get_extra_info("sockname")
            assert name == far.transport.get_extra_info("peername")
            nodelay = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert nodelay == 1


@kinds
async def test_extra_info_after_close(kind):
    async with connected(kind) as (near, far):
        transport = near.transport
        names = [
            transport.get_extra_info("sockname"),
            transport.get_extra_info("peername"),
        ]
        sock = transport.get_extra_info("socket")
        transport.close()
        await near.lost
        await turns()
        assert names == [
            transport.get_extra_info("sockname"),
            transport.get_extra_info("peername"),
        ]
        assert transport.get_extra_info("socket") is sock
        assert sock.fileno() == -1


async def test_transport_socket_options():
    async with wired(pair=tcp_pair()) as (protocol, peer):
        sock = protocol.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        copy = sock.dup()
        copy.close()
        with pytest.raises(ValueError):
            sock.settimeout(1)
        sock.settimeout(0)
        sock.shutdown(socket.SHUT_WR)
        await until(lambda: drain(peer) == b"")


async def test_types_of_transports():
    async with wired() as (protocol, peer):
        transport = protocol.transport
        assert isinstance(transport, asyncio.Transport)
        assert isinstance(transport, asyncio.ReadTransport)
        assert isinstance(transport, asyncio.WriteTransport)
        assert isinstance(transport, asyncio.BaseTransport)
        assert not isinstance(transport, asyncio.DatagramTransport)
        assert weakref.ref(transport)() is transport
        hash(transport)


async def test_attributes_and_replaced_methods():
    async with wired() as (protocol, peer):
        transport = protocol.transport
        transport.note = 5
        assert transport.note == 5
        seen = []
        transport.write = seen.append
        protocol.transport.write(b"x")
        assert seen == [b"x"]
        del transport.write
        transport.write(b"y")
        assert await drain_until(peer, 1) == b"y"


async def test_private_attributes_libraries_read():
    """aiohttp, uvicorn and others look at these."""
    async with wired() as (protocol, peer):
        transport = protocol.transport
        assert transport._paused is False
        transport.pause_reading()
        assert transport._paused is True
        transport.resume_reading()
        assert transport._closing is False
        assert transport._loop is asyncio.get_running_loop()
        assert transport._sock_fd == peer.fileno() or transport._sock_fd >= 0
        transport.close()
        assert transport._closing is True


async def test_repr():
    async with wired() as (protocol, peer):
        transport = protocol.transport
        text = repr(transport)
        fd = transport.get_extra_info("socket").fileno()
        assert f"fd={fd}" in text and text.startswith("<")
        assert "read=polling" in text and "write=<idle, bufsize=0>" in text
        transport.pause_reading()
        assert "read=idle" in repr(transport)
        await clog(protocol)
        size = transport.get_write_buffer_size()
        assert f"write=<polling, bufsize={size}>" in repr(transport)
        transport.close()
        assert "closing" in repr(transport)
        transport.abort()
        await protocol.lost
        await turns()
        assert "closed" in repr(transport)


@pytest.mark.parametrize("how", ["sock", "connected", "accepted"])
async def test_resource_warning_when_dropped(how, loop_name):
    """At once; asyncio's waits for the collector."""
    loop = asyncio.get_running_loop()
    made = []

    class Paused(asyncio.Protocol):
        def connection_made(self, transport):
            # asyncio of 3.11.2 forgets one that comes at once
            loop.call_soon(transport.pause_reading)
            made.append(transport)

    server = await loop.create_server(Paused, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    if how == "sock":
        ours, theirs = socket.socketpair()
        await loop.create_connection(Paused, sock=ours)
        del ours
    elif how == "connected":
        with socket.create_server(("127.0.0.1", 0)) as listener:
            await loop.create_connection(Paused, *listener.getsockname())
            theirs, _ = listener.accept()
    else:
        theirs = socket.create_connection(address)
        await until(lambda: made)
    server.close()
    await turns()
    with theirs:
        gc.disable()
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                del made[:]
                if loop_name == "asyncio":
                    gc.collect()
        finally:
            gc.enable()
        texts = [
            str(w.message) for w in caught if w.category is ResourceWarning
        ]
        # asyncio's socket has a warning of its own.
        assert 1 <= len(texts) <= 2
        assert sum(t.startswith("unclosed transport <") for t in texts) == 1
        del caught  # the transport is in it
        theirs.setblocking(False)
        assert theirs.recv(1) == b""


async def test_no_warning_when_closed():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        async with wired() as (protocol, peer):
            protocol.transport.close()
            await protocol.lost
        del protocol
        gc.collect()


async def test_transport_and_protocol_are_freed():
    async with connected() as (near, far):
        refs = [weakref.ref(near), weakref.ref(near.transport)]
        near.transport.write(b"x" * 100_000)
        await far.receive(100_000)
        near.transport.close()
        await near.lost
        await far.lost
    del near, far
    await turns()
    gc.collect()
    assert [ref() for ref in refs] == [None, None]


async def test_transports_cannot_be_made_wrong(pyloop_only):
    async with wired() as (protocol, peer):
        kind = type(protocol.transport)
        for args in (), (1,), (1, 2, 3):
            try:
                made = kind(*args)
            except (TypeError, ValueError, AttributeError):
                continue
            repr(made)
        try:
            bare = kind.__new__(kind)
        except TypeError:
            return
        for name in "close abort is_closing is_reading".split():
            try:
                getattr(bare, name)()
            except (RuntimeError, AttributeError, ValueError):
                pass
        repr(bare)


async def test_calls_with_wrong_arguments():
    async with wired() as (protocol, peer):
        transport = protocol.transport
        for call in (
            lambda: transport.write(),
            lambda: transport.write(b"x", b"y"),
            lambda: transport.close(1),
            lambda: transport.pause_reading(1),
            lambda: transport.set_write_buffer_limits(1, 2, 3),
            lambda: transport.get_extra_info(),
            lambda: transport.writelines(),
        ):
            assert error(call)[0] is TypeError
        transport.write(data=b"x")
        transport.writelines(list_of_data=[b"y"])
        assert await drain_until(peer, 2) == b"xy"


# -- streams


@kinds
async def test_streams_echo(kind, tmp_path):
    async def serve(reader, writer):
        while line := await reader.readline():
            writer.write(line)
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    if kind == "tcp":
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        name = server.sockets[0].getsockname()
        reader, writer = await asyncio.open_connection(*name)
    else:
        path = str(tmp_path / "s")
        server = await asyncio.start_unix_server(serve, path)
        reader, writer = await asyncio.open_unix_connection(path)
    for n in range(100):
        writer.write(b"line %d\n" % n)
        assert await reader.readline() == b"line %d\n" % n
    writer.write(b"x" * 50_000 + b"\n")
    assert len(await reader.readexactly(50_001)) == 50_001
    writer.write_eof()
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()
    await shut(server)


async def test_stream_drain_under_load():
    received = hashlib.md5()
    done = asyncio.get_running_loop().create_future()

    async def serve(reader, writer):
        while data := await reader.read(100_000):
            received.update(data)
        writer.close()
        done.set_result(None)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    name = server.sockets[0].getsockname()
    reader, writer = await asyncio.open_connection(*name)
    data = pattern(10_000_000)
    for start in range(0, len(data), 50_000):
        writer.write(data[start : start + 50_000])
        await writer.drain()
    writer.close()
    await writer.wait_closed()
    await done
    await shut(server)
    assert received.digest() == hashlib.md5(data).digest()


async def test_stream_drain_after_the_peer_is_gone():
    async def serve(reader, writer):
        writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    name = server.sockets[0].getsockname()
    reader, writer = await asyncio.open_connection(*name)
    await reader.read()

    async def flood():
        while True:
            writer.write(bytes(100_000))
            await writer.drain()

    kind, _ = await async_error(flood())
    assert issubclass(kind, ConnectionError)
    writer.close()
    await async_error(writer.wait_closed())
    await shut(server)


async def test_stream_write_after_close():
    ours, theirs = socket.socketpair()
    with theirs:
        reader, writer = await asyncio.open_connection(sock=ours)
        writer.close()
        await writer.wait_closed()
        writer.write(b"x")
        with pytest.raises(ConnectionResetError):
            await writer.drain()


@pytest.mark.parametrize("kind", ["plain", "tls", "child"])
def test_drain_after_close(agree, kind):
    """Before and after the connection is lost."""

    async def scenario(loop):
        async def echo(reader, writer):
            await reader.read()
            writer.close()

        tls = kind == "tls"
        server = await asyncio.start_server(
            echo, "127.0.0.1", 0, ssl=server_tls() if tls else None
        )
        child = None
        if kind == "child":
            child = await asyncio.create_subprocess_exec("cat", stdin=-1)
            writer = child.stdin
        else:
            options = {"ssl": client_tls(), "server_hostname": "localhost"}
            _, writer = await asyncio.open_connection(
                *server.sockets[0].getsockname(), **(options if tls else {})
            )
        seen = []
        writer.close()
        for _ in range(2):
            writer.write(b"x")
            result = await async_error(writer.drain())
            seen.append(result and result[0])
            await writer.wait_closed()
        if child is not None:
            await child.wait()
        await shut(server)
        return seen

    assert agree(scenario)[1] is ConnectionResetError


async def test_stream_reader_feeds_back_pressure():
    """The transport is paused while nobody reads."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    with theirs:
        reader, writer = await asyncio.open_connection(sock=ours, limit=1000)
        sent = fill(theirs)
        await turns(10)
        assert not writer.transport.is_reading()
        total = 0
        while total < sent:
            total += len(await reader.read(5000))
        writer.close()
        await writer.wait_closed()
        await turns()
        assert total == sent


@pytest.mark.parametrize("keep", ["all", "some", "hashes"])
def test_large_reads_are_the_protocol_s_to_keep(run, keep):
    """Bytes that somebody holds are never read into again."""
    sent = pattern(6 << 20)

    class Sink(asyncio.Protocol):
        def __init__(self, done):
            self.kept, self.pieces, self.left = [], [], len(sent)
            self.done = done

        def data_received(self, data):
            self.left -= len(data)
            self.pieces.append(hashlib.sha256(data).digest())
            if keep == "all" or (keep == "some" and len(self.pieces) % 3 == 0):
                self.kept.append((len(self.pieces) - 1, data))
            elif keep == "hashes":
                assert hash(data) == hash(bytes(bytearray(data)))
            if not self.left:
                self.done.set_result(None)

    async def main():
        loop = asyncio.get_running_loop()
        ours, theirs = tcp_pair()
        theirs.setblocking(False)
        done = loop.create_future()
        transport, sink = await loop.create_connection(
            lambda: Sink(done), sock=ours
        )
        await loop.sock_sendall(theirs, sent)
        await done
        transport.abort()
        theirs.close()
        return sink

    sink = run(main())
    kept = dict(sink.kept)
    for number, data in kept.items():
        assert hashlib.sha256(data).digest() == sink.pieces[number]
    if keep == "all":
        assert b"".join(kept.values()) == sent


@pytest.mark.parametrize("kind", [bytes, bytearray])
async def test_a_flood_from_one_turn(kind):
    """What is written without a pause arrives whole and in order."""
    piece = kind(range(256)) * 1024
    async with connected("tcp") as (near, far):
        for _ in range(40):
            near.transport.write(piece)
        near.transport.close()
        await far.until(lambda: far.lost.done())
        assert far.received == piece * 40
        assert near.calls.count("pause") == near.calls.count("resume")


@pytest.mark.usefixtures("pyloop_only")
async def test_one_stream_does_not_keep_the_turn():
    """A protocol that writes until it is paused lets others in between."""
    piece = bytes(256 * 1024)
    loop = asyncio.get_running_loop()
    in_a_turn = [0]

    class Flood(Recorder):
        left = 100

        def pause_writing(self):
            self.paused = True

        def resume_writing(self):
            self.paused = False
            while self.left and not self.paused:
                self.left -= 1
                in_a_turn[-1] += 1
                self.transport.write(piece)

    async with connected("tcp", Flood) as (near, far):
        near.resume_writing()
        while near.left:
            in_a_turn.append(0)
            turn = loop.create_future()
            loop.call_soon(turn.set_result, None)
            await turn
        await far.until(lambda: len(far.received) == 100 * len(piece))
    assert max(in_a_turn) <= 4


@pytest.mark.parametrize("end", ["abort", "stop", "write", "write_eof"])
def test_a_flood_and_the_end_of_the_run(loop, end):
    """What the socket takes has left when the loop stops, or with abort()."""
    near, far = tcp_pair()
    far.settimeout(DEADLINE)
    piece = bytes(100_000)
    count = 8  # fits in a socket's buffers, and in no bound of a turn

    def flood():
        for _ in range(count):
            transport.write(piece)
        if end == "abort":
            transport.abort()
        loop.stop()

    with far:
        transport, _ = loop.run_until_complete(
            loop.create_connection(asyncio.Protocol, sock=near)
        )
        loop.call_soon(flood)
        loop.run_forever()
        if end == "abort":
            spin(loop)
        expected = count * len(piece)
        if end == "write":
            transport.write(b"more")
            expected += 4
        elif end == "write_eof":
            transport.write_eof()
        received = 0
        while received < expected:
            data = far.recv(1 << 20)
            assert data
            received += len(data)
        if end in ("abort", "write_eof"):
            assert far.recv(1) == b""
        transport.abort()
        spin(loop)
        spin(loop)


async def test_a_flood_pauses_and_resumes():
    """In pairs, also when the rest leaves by another way than the poll."""
    near, far = tcp_pair()
    loop = asyncio.get_running_loop()
    with far:
        transport, protocol = await loop.create_connection(Recorder, sock=near)
        for _ in range(8):
            transport.write(bytes(100_000))
        await protocol.until(
            lambda: (
                protocol.calls.count("pause") == protocol.calls.count("resume")
            )
        )
        assert transport.get_write_buffer_size() == 0
        transport.abort()
        await protocol.lost
