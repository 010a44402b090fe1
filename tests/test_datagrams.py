import asyncio
import errno
import socket
import sys

import pytest
from support import (
    DatagramRecorder,
    async_error,
    error,
    handler_calls,
    has_ipv6,
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


async def test_close_in_error_received():
    class Closer(DatagramRecorder):
        def error_received(self, exc):
            super().error_received(exc)
            self.transport.close()

    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(
        Closer, local_addr=("127.0.0.1", 0)
    )
    for _ in range(3):
        transport.sendto(bytes(70_000), ("127.0.0.1", 9))
    assert await protocol.lost is None
    assert protocol.errors


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
