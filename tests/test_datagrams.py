import asyncio
import errno
import gc
import os
import pickle
import random
import re
import socket
import struct
import sys
import tempfile
import weakref

import pytest
from support import (
    FREE_THREADED,
    DatagramRecorder,
    async_error,
    asyncio_of_3_11_7,
    error,
    handler_calls,
    has_ipv6,
    run_script,
    turns,
    until,
)


async def endpoint(**kwargs):
    loop = asyncio.get_running_loop()
    kwargs.setdefault("local_addr", ("127.0.0.1", 0))
    return await loop.create_datagram_endpoint(DatagramRecorder, **kwargs)


async def close(*transports):
    for transport in transports:
        protocol = transport.get_protocol()
        transport.close()
        if protocol is not None:
            await protocol.lost


def name(transport):
    return transport.get_extra_info("sockname")


async def test_both_ways():
    near, near_protocol = await endpoint()
    far, far_protocol = await endpoint()
    near.sendto(b"hello", name(far))
    await far_protocol.until(lambda: far_protocol.received)
    assert far_protocol.received == [(b"hello", name(near))]
    far.sendto(b"bye", name(near))
    await near_protocol.until(lambda: near_protocol.received)
    assert near_protocol.received == [(b"bye", name(far))]
    await close(near, far)


async def test_datagrams_that_wait_are_received_in_one_turn(pyloop_only):
    """Up to 16 of them, for 100 µs. asyncio takes a turn for each."""
    loop = asyncio.get_running_loop()
    received, turns = [], 0

    class Tenth(asyncio.DatagramProtocol):
        def datagram_received(self, data, addr):
            received.append(data)
            if len(received) % 10 == 0:
                all_here.set_result(None)

    transport, _ = await loop.create_datagram_endpoint(
        Tenth, local_addr=("127.0.0.1", 0)
    )
    with socket.socket(type=socket.SOCK_DGRAM) as peer:
        for _ in range(50):
            all_here = loop.create_future()
            for _ in range(10):
                peer.sendto(b"x", name(transport))
            before = loop.stats().turns
            await all_here
            turns += loop.stats().turns - before
    assert len(received) == 500
    assert turns < 50 * 6
    transport.close()


async def test_connected():
    far, far_protocol = await endpoint()
    near, near_protocol = await endpoint(
        local_addr=None, remote_addr=name(far)
    )
    assert near.get_extra_info("peername") == name(far)
    near.sendto(b"one")
    near.sendto(b"two", None)
    near.sendto(b"three", name(far))
    await far_protocol.until(lambda: len(far_protocol.received) == 3)
    assert [data for data, _ in far_protocol.received] == [
        b"one",
        b"two",
        b"three",
    ]
    far.sendto(b"back", far_protocol.received[0][1])
    await near_protocol.until(lambda: near_protocol.received)
    await close(near, far)


def test_connected_to_another_address(agree):
    async def scenario(loop):
        far, _ = await endpoint()
        near, _ = await endpoint(local_addr=None, remote_addr=name(far))
        result = error(near.sendto, b"x", ("127.0.0.1", 1))
        text = result[1].replace(str(name(far)), "ADDRESS")
        await close(near, far)
        return result[0], text

    assert agree(scenario) == (
        ValueError,
        "Invalid address: must be None or ADDRESS",
    )


@pytest.mark.parametrize(
    "value", [b"x", bytearray(b"xy"), memoryview(b"xyz"), bytes(60_000)]
)
async def test_types(value):
    near, _ = await endpoint()
    far, protocol = await endpoint()
    near.sendto(value, name(far))
    await protocol.until(lambda: protocol.received)
    assert protocol.received[0][0] == bytes(value)
    assert type(protocol.received[0][0]) is bytes
    await close(near, far)


@pytest.mark.parametrize("value", ["text", 5, None, [b"x"]])
def test_wrong_types(agree, value):
    async def scenario(loop):
        near, _ = await endpoint()
        result = error(near.sendto, value, ("127.0.0.1", 9))
        await close(near)
        return result

    assert agree(scenario)[0] is TypeError


def test_empty_datagrams(agree):
    """Sent on the versions where asyncio sends them."""

    async def scenario(loop):
        near, _ = await endpoint()
        far, protocol = await endpoint()
        near.sendto(b"", name(far))
        near.sendto(b"end", name(far))
        await protocol.until(
            lambda: protocol.received and protocol.received[-1][0] == b"end"
        )
        await close(near, far)
        return [data for data, _ in protocol.received]

    assert agree(scenario)[-1] == b"end"


async def test_many_in_order():
    near, _ = await endpoint()
    far, protocol = await endpoint()
    for round_ in range(20):
        for n in range(20):
            near.sendto(b"%d" % (round_ * 20 + n), name(far))
        await protocol.until(
            lambda: len(protocol.received) >= (round_ + 1) * 20
        )
    numbers = [int(data) for data, _ in protocol.received]
    assert numbers == list(range(400))
    await close(near, far)


async def test_netlink():
    """Of another family than IP and Unix, by the socket's own methods."""
    loop = asyncio.get_running_loop()
    try:
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 0)
    except OSError as exc:
        pytest.skip(f"no netlink sockets here: {exc}")
    sock.bind((0, 0))
    sock.setblocking(False)
    transport, protocol = await loop.create_datagram_endpoint(
        DatagramRecorder, sock=sock
    )
    # struct nlmsghdr and rtgenmsg of <linux/netlink.h>: what links there are?
    get_link, request_dump = 18, 0x301
    header = struct.pack("=LHHLL", 20, get_link, request_dump, 7, 0)
    transport.sendto(header + bytes(4), (0, 0))
    await protocol.until(lambda: protocol.received or protocol.errors)
    data, address = protocol.received[0]
    assert struct.unpack_from("=LHHL", data)[3] == 7
    assert address == (0, 0)
    assert transport.get_extra_info("sockname") == sock.getsockname()
    transport.close()
    await protocol.lost


async def test_error_received_and_the_endpoint_lives():
    """A send that fails at once, and one refused by the other host."""
    near, protocol = await endpoint()
    far, far_protocol = await endpoint()
    near.sendto(bytes(70_000), name(far))
    await protocol.until(lambda: protocol.errors)
    assert protocol.errors[0].errno == errno.EMSGSIZE
    near.sendto(b"alive", name(far))
    await far_protocol.until(lambda: far_protocol.received)
    await close(near, far)


async def test_refused():
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        address = sock.getsockname()
    near, protocol = await endpoint(local_addr=None, remote_addr=address)
    near.sendto(b"x")
    await protocol.until(lambda: protocol.errors)
    assert type(protocol.errors[0]) is ConnectionRefusedError
    assert not near.is_closing()
    near.sendto(b"x")
    await protocol.until(lambda: len(protocol.errors) > 1)
    await close(near)


def test_close_in_error_received(agree):
    """Each send that fails is told, also after the close."""

    class Closer(DatagramRecorder):
        def error_received(self, exc):
            super().error_received(exc)
            self.transport.close()

    async def scenario(loop):
        transport, protocol = await loop.create_datagram_endpoint(
            Closer, local_addr=("127.0.0.1", 0)
        )
        for _ in range(3):
            transport.sendto(bytes(70_000), ("127.0.0.1", 9))
        assert await protocol.lost is None
        return [exc.errno for exc in protocol.errors]

    assert agree(scenario) == [errno.EMSGSIZE] * 3


async def test_close_and_abort():
    for method in "close", "abort":
        transport, protocol = await endpoint()
        assert not transport.is_closing()
        getattr(transport, method)()
        assert transport.is_closing()
        transport.close()
        transport.abort()
        assert await protocol.lost is None
        transport.close()
        transport.abort()


def test_sendto_after_close(agree):
    async def scenario(loop):
        transport, protocol = await endpoint()
        transport.close()
        seen = [error(transport.sendto, b"x", ("127.0.0.1", 9))]
        await protocol.lost
        await turns()
        return seen

    agree(scenario)


async def test_extra_info():
    transport, protocol = await endpoint()
    if sys.version_info >= (3, 12):
        assert isinstance(transport, asyncio.DatagramTransport)
    sock = transport.get_extra_info("socket")
    assert type(sock) is asyncio.trsock.TransportSocket
    assert sock.type == socket.SOCK_DGRAM
    assert name(transport) == sock.getsockname()
    assert transport.get_extra_info("peername") is None
    assert transport.get_write_buffer_size() == 0
    transport.note = 5
    repr(transport)
    await close(transport)
    assert sock.fileno() == -1


async def test_flow_control(tmp_path):
    """A Unix datagram socket whose peer does not read fills up."""
    loop = asyncio.get_running_loop()
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer:
        peer.bind(path)
        peer.setblocking(False)
        transport, protocol = await loop.create_datagram_endpoint(
            DatagramRecorder, remote_addr=path, family=socket.AF_UNIX
        )
        transport.set_write_buffer_limits(10_000)
        sent = 0
        while not protocol.calls:
            transport.sendto(b"%6d" % sent * 100)
            sent += 1
        assert protocol.calls == ["pause"]
        assert transport.get_write_buffer_size() > 10_000
        received = []

        def read():
            try:
                while True:
                    received.append(int(peer.recv(6)))
            except BlockingIOError:
                return len(received) == sent

        await until(read)
        await protocol.until(lambda: protocol.calls == ["pause", "resume"])
        assert received == list(range(sent))
        await close(transport)


async def test_close_flushes(tmp_path):
    loop = asyncio.get_running_loop()
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer:
        peer.bind(path)
        peer.setblocking(False)
        transport, protocol = await loop.create_datagram_endpoint(
            DatagramRecorder, remote_addr=path, family=socket.AF_UNIX
        )
        sent = 0
        while transport.get_write_buffer_size() < 1000:
            transport.sendto(b"x" * 100)
            sent += 1
        transport.close()
        await turns()
        assert not protocol.lost.done()
        count = 0

        def read():
            nonlocal count
            try:
                while True:
                    peer.recv(200)
                    count += 1
            except BlockingIOError:
                return count == sent

        await until(read)
        await protocol.lost


async def test_unix(tmp_path):
    loop = asyncio.get_running_loop()
    paths = [str(tmp_path / c) for c in "ab"]
    pairs = [
        await loop.create_datagram_endpoint(
            DatagramRecorder, local_addr=path, family=socket.AF_UNIX
        )
        for path in paths
    ]
    (near, _), (far, protocol) = pairs
    near.sendto(b"x", paths[1])
    await protocol.until(lambda: protocol.received)
    assert protocol.received == [(b"x", paths[0])]
    await close(near, far)


async def test_socket_given():
    loop = asyncio.get_running_loop()
    sock = socket.socket(type=socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    transport, protocol = await loop.create_datagram_endpoint(
        DatagramRecorder, sock=sock
    )
    assert sock.gettimeout() == 0
    transport.sendto(b"self", sock.getsockname())
    await protocol.until(lambda: protocol.received)
    await close(transport)
    assert sock.fileno() == -1


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")
async def test_ipv6():
    transport, protocol = await endpoint(local_addr=("::1", 0))
    transport.sendto(b"x", name(transport)[:2])
    await protocol.until(lambda: protocol.received)
    assert protocol.received[0][1][:2] == name(transport)[:2]
    await close(transport)


async def test_broadcast_and_reuse_port():
    first, _ = await endpoint(reuse_port=True, allow_broadcast=True)
    sock = first.get_extra_info("socket")
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST)
    second, _ = await endpoint(local_addr=name(first), reuse_port=True)
    await close(first, second)


def test_bad_arguments(agree):
    async def scenario(loop):
        seen = []
        with socket.socket() as tcp:
            tcp.setblocking(False)
            for kwargs in (
                {},
                {"sock": tcp},
                {"local_addr": ("127.0.0.1",)},
                {"local_addr": 5},
                {"local_addr": ("127.0.0.1", 0), "sock": tcp},
                {"local_addr": ("no.invalid", 0)},
                {"local_addr": ("192.0.2.77", 0)},
                {"local_addr": "/", "family": socket.AF_UNIX},
                {
                    "local_addr": ("127.0.0.1", 0),
                    "remote_addr": ("::1", 1),
                },
            ):
                result = await async_error(
                    loop.create_datagram_endpoint(DatagramRecorder, **kwargs)
                )
                seen.append(result[0])
        return seen

    agree(scenario)


async def test_address_in_use():
    first, _ = await endpoint()
    kind, text = await async_error(endpoint(local_addr=name(first)))
    assert kind is OSError and "in use" in text
    await close(first)


async def test_error_in_datagram_received(errors):
    class Failing(DatagramRecorder):
        def datagram_received(self, data, addr):
            super().datagram_received(data, addr)
            raise ZeroDivisionError

    loop = asyncio.get_running_loop()
    calls = handler_calls(loop)
    transport, protocol = await loop.create_datagram_endpoint(
        Failing, local_addr=("127.0.0.1", 0)
    )
    transport.sendto(b"x", name(transport))
    await until(lambda: calls)
    assert type(calls[0]["exception"]) is ZeroDivisionError
    transport.abort()
    await protocol.lost


async def test_close_in_pause_writing(tmp_path):
    class Closer(DatagramRecorder):
        def pause_writing(self):
            super().pause_writing()
            self.transport.abort()

    loop = asyncio.get_running_loop()
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer:
        peer.bind(path)
        transport, protocol = await loop.create_datagram_endpoint(
            Closer, remote_addr=path, family=socket.AF_UNIX
        )
        transport.set_write_buffer_limits(100)
        while not protocol.calls:
            transport.sendto(bytes(1000))
        assert await protocol.lost is None
    assert protocol.calls == ["pause"]


# -- what one datagram schedules runs before the next is delivered


async def noisy(make, count):
    """An endpoint that has `count` datagrams waiting, none yet delivered."""
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(
        make, local_addr=("127.0.0.1", 0)
    )
    for n in range(count):
        transport.sendto(b"%d" % n, name(transport))
    assert not protocol.received
    return transport, protocol


def test_order(agree):
    async def scenario(loop):
        log = []

        class Logging(DatagramRecorder):
            def datagram_received(self, data, addr):
                super().datagram_received(data, addr)
                log.append(data)
                loop.call_soon(log.append, b"soon " + data)

        transport, protocol = await noisy(Logging, 6)
        await protocol.until(lambda: len(protocol.received) == 6)
        await turns()
        await close(transport)
        return log

    assert agree(scenario) == [
        word for n in range(6) for word in (b"%d" % n, b"soon %d" % n)
    ]


def test_two_endpoints_take_turns(agree):
    async def scenario(loop):
        log = []

        class Logging(DatagramRecorder):
            def datagram_received(self, data, addr):
                super().datagram_received(data, addr)
                log.append(int(data))

        pairs = [await noisy(Logging, 4) for _ in range(2)]
        for transport, protocol in pairs:
            await protocol.until(lambda: len(protocol.received) == 4)
            await close(transport)
        return [log.count(n) for n in range(4)]

    assert agree(scenario) == [2, 2, 2, 2]


async def test_endless_traffic_starves_nobody():
    """An endpoint that answers itself for ever; all else goes on."""

    class Endless(DatagramRecorder):
        wanted = True

        def datagram_received(self, data, addr):
            super().datagram_received(data, addr)
            if self.wanted:
                self.transport.sendto(data, addr)

    loop = asyncio.get_running_loop()
    transport, protocol = await noisy(Endless, 3)
    await protocol.until(lambda: protocol.received)
    await asyncio.sleep(0.001)
    await loop.run_in_executor(None, int)
    other, other_protocol = await endpoint()
    other.sendto(b"x", name(other))
    await other_protocol.until(lambda: other_protocol.received)
    protocol.wanted = False
    await close(transport, other)


@asyncio_of_3_11_7
@pytest.mark.parametrize("method", ["close", "abort", "pause_reading"])
def test_no_more_after(agree, method):
    """Others are waiting when the first says stop."""

    async def scenario(loop):
        class Stopping(DatagramRecorder):
            def datagram_received(self, data, addr):
                super().datagram_received(data, addr)
                if data == b"0":
                    getattr(self.transport, method)()

        transport, protocol = await noisy(Stopping, 5)
        await protocol.until(lambda: protocol.received)
        await turns(10)
        seen = len(protocol.received), transport.is_reading()
        transport.resume_reading()
        if method == "pause_reading":
            await protocol.until(lambda: len(protocol.received) == 5)
        await turns()
        transport.abort()
        await protocol.lost
        return seen, [data for data, _ in protocol.received]

    assert agree(scenario)[0] == (1, False)


def test_set_protocol_between(agree):
    async def scenario(loop):
        second = DatagramRecorder()

        class First(DatagramRecorder):
            def datagram_received(self, data, addr):
                super().datagram_received(data, addr)
                self.transport.set_protocol(second)
                assert self.transport.get_protocol() is second

        transport, first = await noisy(First, 3)
        await second.until(lambda: len(second.received) == 2)
        transport.close()
        await second.lost
        assert transport.get_protocol() is None
        first.lost.cancel()
        return [len(p.received) for p in (first, second)]

    assert agree(scenario) == [1, 2]


def waiting(loop, make, count):
    """As noisy(), with the loop at rest."""
    transport, protocol = loop.run_until_complete(
        loop.create_datagram_endpoint(make, local_addr=("127.0.0.1", 0))
    )
    for n in range(count):
        transport.sendto(b"%d" % n, name(transport))
    return transport, protocol


@pytest.mark.parametrize("leaver", [KeyboardInterrupt, SystemExit])
def test_the_rest_comes_in_the_next_run(loop, leaver):
    class Leaving(DatagramRecorder):
        def datagram_received(self, data, addr):
            super().datagram_received(data, addr)
            if data == b"1":
                raise leaver

    async def rest():
        await protocol.until(lambda: len(protocol.received) == 4)
        await close(transport)

    transport, protocol = waiting(loop, Leaving, 4)
    with pytest.raises(leaver):
        loop.run_forever()
    assert [data for data, _ in protocol.received] == [b"0", b"1"]
    loop.run_until_complete(rest())


def test_stop_between(loop):
    class Stopping(DatagramRecorder):
        def datagram_received(self, data, addr):
            super().datagram_received(data, addr)
            loop.stop()

    transport, protocol = waiting(loop, Stopping, 3)
    for count in range(1, 4):
        loop.run_forever()
        assert len(protocol.received) == count
    loop.run_until_complete(close(transport))


# -- exceptions of the protocol


def reports(loop):
    """What the handler is called with."""
    calls = handler_calls(loop)

    def shown():
        return [
            (
                context["message"].partition(" in callback ")[0],
                type(context["exception"]),
                str(context["exception"]),
                type(context["exception"].__context__),
                sorted(context),
            )
            for context in calls
        ]

    return shown


def test_errors_in_callbacks(agree):
    async def scenario(loop):
        shown = reports(loop)

        class Failing(DatagramRecorder):
            def connection_made(self, transport):
                super().connection_made(transport)
                raise ValueError("made")

            def datagram_received(self, data, addr):
                super().datagram_received(data, addr)
                raise ValueError("received")

            def error_received(self, exc):
                super().error_received(exc)
                raise ValueError("error")

            def connection_lost(self, exc):
                super().connection_lost(exc)
                raise ValueError("lost")

        transport, protocol = await noisy(Failing, 3)
        with pytest.raises(ValueError) as raised:
            transport.sendto(bytes(70_000), name(transport))
        seen = [str(raised.value), raised.value.__context__.errno]
        await protocol.until(lambda: len(protocol.received) == 3)
        seen.append(transport.is_closing())
        transport.close()
        await protocol.lost
        await turns()
        return seen, shown()

    seen, shown = agree(scenario)
    assert seen == ["error", errno.EMSGSIZE, False]
    assert [text for _, _, text, _, _ in shown] == [
        "made",
        "received",
        "received",
        "received",
        "lost",
    ]


def test_error_received_fails_while_reading(agree):
    async def scenario(loop):
        shown = reports(loop)

        class Failing(DatagramRecorder):
            def error_received(self, exc):
                super().error_received(exc)
                raise ValueError("error")

        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", 0))
            address = sock.getsockname()
        transport, protocol = await loop.create_datagram_endpoint(
            Failing, remote_addr=address
        )
        transport.sendto(b"x")
        await protocol.until(lambda: protocol.errors)
        await turns()
        transport.close()
        await protocol.lost
        return type(protocol.errors[0]), shown()

    agree(scenario)


# -- sizes


async def test_no_datagram_is_cut():
    """The largest of UDP among small ones."""
    transport, protocol = await endpoint()
    sock = transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    sizes = [65_507, 1, 65_507, 2, 9_000, 3]
    for size in sizes:
        transport.sendto(b"%d" % (size % 10) * size, name(transport))
        await protocol.until(
            lambda: protocol.received and len(protocol.received[-1][0]) == size
        )
    assert [data for data, _ in protocol.received] == [
        b"%d" % (size % 10) * size for size in sizes
    ]
    await close(transport)


async def test_large_unix_datagrams():
    near, far = socket.socketpair(type=socket.SOCK_DGRAM)
    with far:
        far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        transport, protocol = await endpoint(local_addr=None, sock=near)
        sent = [bytes([size % 251]) * size for size in (150_000, 5, 100_000)]
        for data in sent:
            far.send(data)
            await protocol.until(
                lambda: protocol.received and protocol.received[-1][0] == data
            )
        assert protocol.received == [(data, None) for data in sent]
        await close(transport)


@asyncio_of_3_11_7
async def test_random_traffic():
    """Several peers, all sizes, pauses: each gets its own back, in order."""
    rng = random.Random(7)
    loop = asyncio.get_running_loop()

    class Answering(DatagramRecorder):
        def datagram_received(self, data, addr):
            self.transport.sendto(data, addr)
            if rng.random() < 0.1:
                self.transport.pause_reading()
                loop.call_soon(self.transport.resume_reading)

    server, _ = await loop.create_datagram_endpoint(
        Answering, local_addr=("127.0.0.1", 0)
    )
    peers = [await endpoint() for _ in range(4)]
    for _ in range(60):
        expected = [[] for _ in peers]
        for _ in range(rng.randrange(1, 8)):
            at = rng.randrange(len(peers))
            data = rng.randbytes(rng.choice([1, 2, 100, 1024, 8000]))
            expected[at].append((data, name(server)))
            peers[at][0].sendto(data, name(server))
        for (_, protocol), wanted in zip(peers, expected, strict=True):
            await protocol.until(lambda: len(protocol.received) == len(wanted))
            assert protocol.received == wanted
            protocol.received.clear()
    await close(server, *[transport for transport, _ in peers])


# -- addresses

V4 = "127.0.0.1"
ADDRESSES = [
    None,
    (),
    (V4,),
    (V4, "{port}", 0),
    [V4, 9],
    (V4, "9"),
    (V4, -1),
    (V4, 65_536),
    (V4, 1 << 70),
    (V4, 9.0),
    (V4, None),
    ("127.1", 9),
    (b"127.0.0.1", 9),
    (bytearray(b"127.0.0.1"), 9),
    ("127.0.0.1\0", 9),
    ("\udc80", 9),
    ("", 9),
    ("::1", 9),
    ("<broadcast>", 9),
    (5, 9),
    "path",
    b"path",
    5,
    ("127.0.0.1", True),
]


@pytest.mark.parametrize("address", ADDRESSES, ids=repr)
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_addresses(agree, address, host):
    """Good and bad ones: the same errors, in the same place."""
    if host == "::1" and not has_ipv6():
        pytest.skip("no IPv6 here")

    async def scenario(loop):
        shown = reports(loop)
        transport, protocol = await endpoint(local_addr=(host, 0))
        seen = [error(transport.sendto, b"x", address)]
        seen += [(type(exc), str(exc)) for exc in protocol.errors]
        seen.append(transport.is_closing())
        transport.close()
        lost = await protocol.lost
        return seen, type(lost), str(lost), shown()

    agree(scenario)


class Text(str):
    pass


@pytest.mark.parametrize(
    "form",
    [
        lambda host, port: (host, port),
        lambda host, port: (Text(host), port),
        lambda host, port: (host.encode(), port),
        lambda host, port: ("localhost", port),
    ],
)
async def test_forms_of_an_address(form):
    transport, protocol = await endpoint()
    address = form(*name(transport))
    for count in range(1, 4):
        transport.sendto(b"x", address)
        await protocol.until(lambda: len(protocol.received) == count)
    assert protocol.received == [(b"x", name(transport))] * 3
    await close(transport)


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")
async def test_forms_of_an_ipv6_address():
    transport, protocol = await endpoint(local_addr=("::1", 0))
    port = name(transport)[1]
    for more in (), (0,), (0, 0):
        transport.sendto(b"x", ("::1", port, *more))
    transport.sendto(b"x", ("0:0::1", port))
    await protocol.until(lambda: len(protocol.received) == 4)
    assert protocol.received == [(b"x", ("::1", port, 0, 0))] * 4
    await close(transport)


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")
def test_ipv6_flow_info_out_of_range(agree):
    async def scenario(loop):
        shown = reports(loop)
        transport, protocol = await endpoint(local_addr=("::1", 0))
        transport.sendto(b"x", ("::1", 9, 1 << 20))
        return type(await protocol.lost), shown()

    agree(scenario)


async def test_a_peer_that_changes_its_mind():
    """Sending here and there, and answering, never mixes addresses up."""
    pairs = [await endpoint() for _ in range(3)]
    names = [name(transport) for transport, _ in pairs]
    for source, target in ((0, 1), (0, 2), (1, 2), (0, 1), (2, 1), (0, 2)):
        pairs[source][0].sendto(b"%d" % source, names[target])
        _, protocol = pairs[target]
        await protocol.until(lambda: protocol.received)
        data, address = protocol.received.pop()
        assert (data, address) == (b"%d" % source, names[source])
        pairs[target][0].sendto(b"back", address)
        await pairs[source][1].until(lambda: pairs[source][1].received)
        assert pairs[source][1].received.pop() == (b"back", names[target])
    await close(*[transport for transport, _ in pairs])


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.9.10.99", "127.100.199.254", "127.255.20.5"]
)
async def test_all_digits_of_an_address(host):
    transport, protocol = await endpoint(local_addr=(host, 0))
    assert name(transport)[0] == host
    transport.sendto(b"x", name(transport))
    await protocol.until(lambda: protocol.received)
    assert protocol.received == [(b"x", name(transport))]
    await close(transport)


def test_remote_address_with_broadcast(agree):
    """Such an endpoint has one address, but its socket is not connected."""

    async def scenario(loop):
        far, protocol = await endpoint()
        near, _ = await endpoint(
            local_addr=None, remote_addr=name(far), allow_broadcast=True
        )
        assert near.get_extra_info("peername") is None
        near.sendto(b"one")
        near.sendto(b"two", name(far))
        result = error(near.sendto, b"x", ("127.0.0.1", 1))
        await protocol.until(lambda: len(protocol.received) == 2)
        await close(near, far)
        return result[0], [data for data, _ in protocol.received]

    assert agree(scenario) == (ValueError, [b"one", b"two"])


def test_connected_socket_given(agree):
    """Its peer gets all, whatever address is named."""

    async def scenario(loop):
        far, protocol = await endpoint()
        sock = socket.socket(type=socket.SOCK_DGRAM)
        sock.connect(name(far))
        near, _ = await endpoint(local_addr=None, sock=sock)
        for address in None, ("127.0.0.1", 1), "nonsense":
            near.sendto(b"x", address)
        await protocol.until(lambda: len(protocol.received) == 3)
        await close(near, far)

    agree(scenario)


def test_socket_pair(agree):
    """Both ends are unnamed: asyncio has no address to send to."""

    async def scenario(loop):
        shown = reports(loop)
        near, far = socket.socketpair(type=socket.SOCK_DGRAM)
        with far:
            transport, protocol = await endpoint(local_addr=None, sock=near)
            far.send(b"hello")
            await protocol.until(lambda: protocol.received)
            seen = [protocol.received, transport.get_extra_info("peername")]
            transport.sendto(b"x")
            seen.append((transport.is_closing(), type(await protocol.lost)))
            return seen, shown()

    agree(scenario)


async def test_abstract_unix_names():
    names = [f"\0pyloop-{os.getpid()}-{n}" for n in range(2)]
    pairs = [
        await endpoint(local_addr=path, family=socket.AF_UNIX)
        for path in names
    ]
    (near, near_protocol), (far, far_protocol) = pairs
    for _ in range(2):
        near.sendto(b"x", names[1])
        await far_protocol.until(lambda: far_protocol.received)
        assert far_protocol.received == [(b"x", names[0].encode())]
        far.sendto(b"y", far_protocol.received.pop()[1])
        await near_protocol.until(lambda: near_protocol.received)
        assert near_protocol.received.pop() == (b"y", names[1].encode())
    await close(near, far)


async def test_unix_peer_goes(tmp_path):
    path = str(tmp_path / "s")
    near, protocol = await endpoint(local_addr=None, family=socket.AF_UNIX)
    near.sendto(b"x", path)
    assert type(protocol.errors[0]) is FileNotFoundError
    far, _ = await endpoint(local_addr=path, family=socket.AF_UNIX)
    near.sendto(b"x", path)
    await close(far)
    near.sendto(b"x", path)
    assert type(protocol.errors[1]) is ConnectionRefusedError
    assert not near.is_closing()
    await close(near)


class Counting(socket.socket):
    """A socket of the user's own."""

    calls = ()

    def sendto(self, *args):
        self.calls += ("sendto",)
        return super().sendto(*args)

    def recvfrom(self, *args):
        self.calls += ("recvfrom",)
        return super().recvfrom(*args)


async def test_methods_of_the_socket_are_used():
    sock = Counting(type=socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    transport, protocol = await endpoint(local_addr=None, sock=sock)
    for count in range(1, 3):
        transport.sendto(b"x", name(transport))
        await protocol.until(lambda: len(protocol.received) == count)
    assert protocol.received == [(b"x", name(transport))] * 2
    assert sock.calls.count("sendto") == 2
    assert sock.calls.count("recvfrom") >= 2
    await close(transport)


@pytest.mark.parametrize("method", ["close", "abort"])
async def test_the_socket_ends_the_transport(method, errors, loop_name):
    """Code of the user's socket runs in the middle of a flush."""

    class Full(socket.socket):
        full = True

        def send(self, data):
            if self.full:
                raise BlockingIOError
            getattr(transport, method)()
            return len(data)

    near = Full(type=socket.SOCK_DGRAM)
    with socket.socket(type=socket.SOCK_DGRAM) as far:
        far.bind(("127.0.0.1", 0))
        near.connect(far.getsockname())
        transport, protocol = await endpoint(local_addr=None, sock=near)
        for _ in range(3):
            transport.sendto(b"x")
        assert transport.get_write_buffer_size() >= 3
        near.full = False
        assert await protocol.lost is None
        await turns()
    if loop_name == "asyncio":
        errors.clear()  # it ends what was aborted twice


# -- flow control


class Filled:
    """An endpoint whose peer, a plain Unix socket, does not read."""

    async def __aenter__(self):
        self.dir = tempfile.TemporaryDirectory(prefix="pl")
        path = os.path.join(self.dir.name, "s")
        self.peer = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.peer.bind(path)
        self.peer.setblocking(False)
        self.transport, self.protocol = await endpoint(
            local_addr=None, remote_addr=path, family=socket.AF_UNIX
        )
        while not self.transport.get_write_buffer_size():
            self.transport.sendto(b"fill")
        return self

    async def __aexit__(self, *exc_info):
        if not self.protocol.lost.done():
            self.transport.abort()
            await asyncio.wait([self.protocol.lost])
        self.peer.close()
        self.dir.cleanup()

    async def read(self, enough):
        received = []

        def read():
            try:
                while True:
                    data = self.peer.recv(1 << 20)
                    if data != b"fill":
                        received.append(data)
            except BlockingIOError:
                return enough(received)

        await until(read)
        return received


def test_buffer_size(agree):
    """With the headers that the running version counts."""

    async def scenario(loop):
        async with Filled() as filled:
            transport = filled.transport
            seen = [transport.get_write_buffer_size()]
            for data in b"", b"x", bytearray(10), memoryview(bytes(100)):
                transport.sendto(data)
                seen.append(transport.get_write_buffer_size())
            transport.set_write_buffer_limits(seen[-1])
            seen.append(list(filled.protocol.calls))
            transport.sendto(b"x")
            seen.append(list(filled.protocol.calls))
            seen.append(transport.get_write_buffer_limits())
            seen.append(error(transport.set_write_buffer_limits, 1, 2))
            return seen

    agree(scenario)


async def test_what_is_queued_does_not_change():
    async with Filled() as filled:
        data = bytearray(b"before")
        filled.transport.sendto(data)
        filled.transport.sendto(memoryview(data)[::2])
        data[:] = b"after!"
        assert await filled.read(lambda seen: len(seen) == 2) == [
            b"before",
            b"bfr",
        ]


async def test_errors_in_the_queue():
    """One that is too large is told of; those behind it leave."""
    async with Filled() as filled:
        filled.transport.sendto(b"one")
        filled.transport.sendto(bytes(5_000_000))
        filled.transport.sendto(b"two")
        received = await filled.read(lambda seen: b"two" in seen)
        assert received == [b"one", b"two"]
        assert [exc.errno for exc in filled.protocol.errors] == [
            errno.EMSGSIZE
        ]
        filled.transport.close()
        assert await filled.protocol.lost is None


async def test_each_error_is_told_also_by_a_closing_endpoint():
    class Closing(DatagramRecorder):
        def error_received(self, exc):
            super().error_received(exc)
            filled.transport.close()

    async with Filled() as filled:
        protocol = filled.protocol = Closing()
        filled.transport.set_protocol(protocol)
        filled.transport.sendto(b"one")
        filled.transport.sendto(bytes(5_000_000))
        filled.transport.sendto(bytes(5_000_000))
        filled.transport.sendto(b"two")
        received = await filled.read(lambda seen: b"two" in seen)
        assert received == [b"one", b"two"]
        await protocol.lost
        assert [exc.errno for exc in protocol.errors] == [errno.EMSGSIZE] * 2


async def test_sendto_a_name():
    transport, protocol = await endpoint()
    host, port = name(transport)
    transport.sendto(b"x", ("localhost", port))
    await protocol.until(lambda: protocol.received)
    transport.sendto(b"x", ("no.such.invalid", port))
    await protocol.until(lambda: protocol.errors)
    assert type(protocol.errors[0]) is socket.gaierror
    assert not transport.is_closing()
    await close(transport)


async def test_peer_goes_with_a_queue():
    async with Filled() as filled:
        filled.transport.sendto(b"one")
        filled.peer.close()
        await filled.protocol.until(lambda: filled.protocol.errors)
        assert not filled.transport.is_closing()
        filled.transport.close()
        assert await filled.protocol.lost is None


async def test_abort_drops_the_queue():
    async with Filled() as filled:
        filled.transport.sendto(b"one")
        filled.transport.abort()
        assert await filled.protocol.lost is None
        seen = []
        try:
            while True:
                seen.append(filled.peer.recv(10))
        except BlockingIOError:
            pass
        assert seen and b"one" not in seen


@pytest.mark.parametrize("method", ["sendto", "close", "abort"])
async def test_in_resume_writing(method, errors, loop_name):
    class Resumed(DatagramRecorder):
        def resume_writing(self):
            super().resume_writing()
            if method == "sendto":
                self.transport.sendto(b"more")
            else:
                getattr(self.transport, method)()

    async with Filled() as filled:
        protocol = Resumed()
        protocol.transport = filled.transport
        protocol.lost = filled.protocol.lost
        filled.transport.set_protocol(protocol)
        # 3.13.0 forgets to take headers off again: not 0
        filled.transport.set_write_buffer_limits(60, 50)
        while not protocol.calls:
            filled.transport.sendto(b"fill")
        wanted = {"sendto": [b"more"]}.get(method, [])
        await filled.read(
            lambda seen: seen == wanted and "resume" in protocol.calls
        )
        assert protocol.calls == ["pause", "resume"]
        if method != "sendto":
            assert await protocol.lost is None
            await turns()
    if loop_name == "asyncio":
        errors.clear()  # as above


def test_errors_in_flow_control(agree):
    async def scenario(loop):
        shown = reports(loop)

        class Failing(DatagramRecorder):
            def pause_writing(self):
                super().pause_writing()
                raise ValueError("pause")

            def resume_writing(self):
                super().resume_writing()
                raise ValueError("resume")

        async with Filled() as filled:
            protocol = Failing()
            protocol.transport = filled.transport
            protocol.lost.cancel()
            filled.transport.set_protocol(protocol)
            filled.transport.set_write_buffer_limits(60, 50)
            while not protocol.calls:
                filled.transport.sendto(b"fill")
            await filled.read(lambda seen: "resume" in protocol.calls)
            assert not filled.transport.is_closing()
            filled.transport.set_protocol(filled.protocol)
        return shown()

    agree(scenario)


# -- the object


def test_what_it_is(agree):
    async def scenario(loop):
        transport, _ = await endpoint()
        calls = [
            lambda: transport.write(b"x"),
            lambda: transport.writelines([b"x"]),
            transport.write_eof,
            transport.can_write_eof,
            lambda: transport.sendto(),
            lambda: transport.sendto(b"x", None, 5),
            lambda: transport.sendto(b"x", data=b"x"),
            lambda: transport.sendto(b"x", address=None),
            lambda: pickle.dumps(transport),
        ]
        seen = [error(call)[0] for call in calls]
        seen.append(isinstance(transport, asyncio.Transport))
        weakref.ref(transport)
        await close(transport)
        return seen

    agree(scenario)


async def test_keywords():
    transport, protocol = await endpoint()
    transport.sendto(data=b"1", addr=name(transport))
    transport.sendto(b"2", addr=name(transport))
    await protocol.until(lambda: len(protocol.received) == 2)
    await close(transport)


async def test_methods_can_be_replaced():
    transport, protocol = await endpoint()
    sent = []
    transport.sendto = lambda data, addr=None: sent.append(data)
    transport.sendto(b"x")
    assert sent == [b"x"]
    del transport.sendto
    transport.sendto(b"x", name(transport))
    await protocol.until(lambda: protocol.received)
    await close(transport)


@asyncio_of_3_11_7
def test_repr(agree):
    async def scenario(loop):
        def show(transport):
            assert f"fd={transport._sock_fd}" in repr(transport)
            words = repr(transport).partition(" ")[2]
            return re.sub(r"fd=\d+", "fd", words)

        transport, protocol = await endpoint()
        await turns()
        seen = [show(transport)]
        transport.pause_reading()
        seen.append(show(transport))
        transport.close()
        seen.append(show(transport))
        await protocol.lost
        await turns()
        seen.append(show(transport).partition(" ")[0])
        async with Filled() as filled:
            seen.append(show(filled.transport))
        return seen

    agree(scenario)


def test_unclosed(loop):
    transport, protocol = loop.run_until_complete(endpoint())
    number = transport.get_extra_info("socket").fileno()
    loop.close()
    with pytest.warns(ResourceWarning, match="unclosed transport <"):
        del transport, protocol.transport
        gc.collect()
    with pytest.raises(OSError):
        os.fstat(number)


async def test_garbage():
    """A closed endpoint and its protocol go without the collector's help
    once nobody knows them, and a cycle with it."""
    transport, protocol = await endpoint()
    transport.sendto(b"x", name(transport))
    await protocol.until(lambda: protocol.received)
    transport.note = [transport, protocol]
    alive = weakref.ref(transport)
    await close(transport)
    await turns()
    del transport, protocol
    gc.collect()
    assert alive() is None


def test_sendto_after_the_end(pyloop_only, loop):
    """Of an endpoint without remote address asyncio says AttributeError."""
    transport, protocol = loop.run_until_complete(endpoint())
    loop.run_until_complete(close(transport))
    transport.sendto(b"x", ("127.0.0.1", 9))
    assert transport.get_write_buffer_size() == 0
    assert transport._protocol is None


def test_connected_sendto_after_the_end(agree, caplog):
    async def scenario(loop):
        far, _ = await endpoint()
        near, _ = await endpoint(local_addr=None, remote_addr=name(far))
        await close(near, far)
        caplog.clear()
        for _ in range(7):
            near.sendto(b"x")
        return [record.getMessage() for record in caplog.records]

    assert agree(scenario) == ["socket.send() raised exception."] * 3


def test_the_descriptor_is_the_transports(agree):
    async def scenario(loop):
        transport, _ = await endpoint()
        number = transport.get_extra_info("socket").fileno()
        seen = [
            error(call, number, *more)[0]
            for call, *more in (
                (loop.add_reader, int),
                (loop.add_writer, int),
                (loop.remove_reader,),
                (loop.remove_writer,),
            )
        ]
        await close(transport)
        return seen

    assert agree(scenario) == [RuntimeError] * 4


def test_one_transport_for_a_socket(loop_name, loop):
    async def scenario():
        sock = socket.socket(type=socket.SOCK_DGRAM)
        transport, _ = await endpoint(local_addr=None, sock=sock)
        kind, text = await async_error(endpoint(local_addr=None, sock=sock))
        assert kind is RuntimeError and "is used by transport" in text
        await close(transport)

    if sys.version_info >= (3, 12) or loop_name == "pyloop":
        loop.run_until_complete(scenario())


@pytest.mark.skipif(FREE_THREADED, reason="refused where there is no GIL")
async def test_sendto_from_another_thread():
    """Not promised, but with a GIL asyncio sends, in debug mode as well."""
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    transport, protocol = await endpoint()
    await loop.run_in_executor(None, transport.sendto, b"x", name(transport))
    await protocol.until(lambda: protocol.received)
    await close(transport)


def test_hook_of_a_subclass(pyloop_only):
    import pyloop

    made = []

    class Loop(pyloop.EventLoop):
        def _make_datagram_transport(self, *args, **kwargs):
            made.append(super()._make_datagram_transport(*args, **kwargs))
            return made[-1]

    async def main():
        transport, _ = await endpoint()
        assert made == [transport]
        await close(transport)

    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(main())


def test_audit(loop_name):
    """sendto() is an audited call; a hook may send elsewhere itself."""
    run_script(
        loop_name,
        """
        seen = []
        def hook(event, args):
            if event == "socket.sendto":
                seen.append(args[1])
                if len(seen) == 1:
                    transport.sendto(b"y", ("127.0.0.1", 9))
        async def main():
            global transport
            loop = asyncio.get_running_loop()
            transport, protocol = await loop.create_datagram_endpoint(
                support.DatagramRecorder, local_addr=("127.0.0.1", 0)
            )
            address = transport.get_extra_info("sockname")
            sys.addaudithook(hook)
            transport.sendto(b"x", (address[0], address[1]))
            assert seen == [address, ("127.0.0.1", 9)]
            await protocol.until(lambda: protocol.received)
            assert protocol.received == [(b"x", address)]
            transport.close()
            await asyncio.sleep(0)
        run(main())
        """,
    )
