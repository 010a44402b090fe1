import asyncio
import ctypes
import gc
import inspect
import os
import signal
import socket
import ssl
import sys
import threading
import time
import types
import warnings
from random import Random

import pytest
from support import (
    DEADLINE,
    FREE_THREADED,
    Recorder,
    async_error,
    drain,
    fill,
    has_ipv6,
    open_fds,
    pattern,
    refusing_address,
    silent_listener,
    tcp_pair,
    turns,
    until,
    wired,
)


@pytest.fixture(params=["tcp", "unix"])
def pair(request):
    near, far = tcp_pair() if request.param == "tcp" else socket.socketpair()
    near.setblocking(False)
    far.setblocking(False)
    yield near, far
    near.close()
    far.close()


@pytest.fixture
def udp():
    socks = []
    for _ in range(2):
        sock = socket.socket(type=socket.SOCK_DGRAM)
        sock.setblocking(False)
        sock.bind(("127.0.0.1", 0))
        socks.append(sock)
    yield socks
    for sock in socks:
        sock.close()


def task(coroutine):
    return asyncio.ensure_future(coroutine)


async def test_recv(pair):
    loop = asyncio.get_running_loop()
    near, far = pair
    far.send(b"there already")
    assert await loop.sock_recv(near, 100) == b"there already"
    waiting = task(loop.sock_recv(near, 3))
    await turns()
    assert not waiting.done()
    far.send(b"later")
    assert await waiting == b"lat"
    assert await loop.sock_recv(near, 3) == b"er"
    far.close()
    assert await loop.sock_recv(near, 3) == b""


async def test_recv_into(pair):
    loop = asyncio.get_running_loop()
    near, far = pair
    buffer = bytearray(10)
    far.send(b"now")
    assert await loop.sock_recv_into(near, buffer) == 3
    waiting = task(loop.sock_recv_into(near, memoryview(buffer)[3:]))
    await turns()
    far.send(b"later")
    assert await waiting == 5
    assert buffer == b"nowlater\0\0"


async def test_sendall(pair):
    loop = asyncio.get_running_loop()
    near, far = pair
    data = pattern(4_000_000)
    assert await loop.sock_sendall(near, b"") is None
    sending = task(loop.sock_sendall(near, data))
    received = bytearray()
    while len(received) < len(data):
        received += await loop.sock_recv(far, 1 << 16)
    assert await sending is None
    assert received == data


@pytest.mark.parametrize("kind", [bytearray, memoryview])
async def test_sendall_of_buffers(pair, kind):
    loop = asyncio.get_running_loop()
    near, far = pair
    data = pattern(2_000_000)
    sending = task(loop.sock_sendall(near, kind(data)))
    received = bytearray()
    while len(received) < len(data):
        received += await loop.sock_recv(far, 1 << 20)
    await sending
    assert received == data


async def test_both_directions_at_once(pair):
    loop = asyncio.get_running_loop()
    data = pattern(1_000_000)

    async def receive(sock):
        received = bytearray()
        while len(received) < len(data):
            received += await loop.sock_recv(sock, 1 << 16)
        return received

    near, far = pair
    results = await asyncio.gather(
        loop.sock_sendall(near, data),
        loop.sock_sendall(far, data),
        receive(near),
        receive(far),
    )
    assert results[2] == results[3] == data


async def test_connect_and_accept():
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        accepting = task(loop.sock_accept(listener))
        await turns()
        with socket.socket() as client:
            client.setblocking(False)
            await loop.sock_connect(client, listener.getsockname())
            server, address = await accepting
            with server:
                assert server.gettimeout() == 0
                assert address == client.getsockname()
                assert not os.get_inheritable(server.fileno())
                await loop.sock_sendall(server, b"x")
                assert await loop.sock_recv(client, 1) == b"x"


async def test_accept_many():
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        listener.setblocking(False)

        async def client():
            with socket.socket() as sock:
                sock.setblocking(False)
                await loop.sock_connect(sock, listener.getsockname())
                await loop.sock_sendall(sock, b"hello")
                assert await loop.sock_recv(sock, 10) == b"bye"

        async def serve():
            for _ in range(50):
                conn, _ = await loop.sock_accept(listener)
                assert await loop.sock_recv(conn, 10) == b"hello"
                await loop.sock_sendall(conn, b"bye")
                conn.close()

        await asyncio.gather(serve(), *[client() for _ in range(50)])


async def test_connect_by_name():
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with socket.socket() as sock:
            sock.setblocking(False)
            port = listener.getsockname()[1]
            await loop.sock_connect(sock, ("localhost", port))
            assert sock.getpeername() == listener.getsockname()


async def test_connect_unix(tmp_path):
    loop = asyncio.get_running_loop()
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        with socket.socket(socket.AF_UNIX) as sock:
            sock.setblocking(False)
            await loop.sock_connect(sock, path)
            assert sock.getpeername() == path


def test_connect_refused(agree):
    with refusing_address() as address:

        async def scenario(loop):
            with socket.socket() as sock:
                sock.setblocking(False)
                return await async_error(loop.sock_connect(sock, address))

        assert agree(scenario)[0] is ConnectionRefusedError


async def test_datagrams(udp):
    loop = asyncio.get_running_loop()
    near, far = udp
    assert await loop.sock_sendto(near, b"now", far.getsockname()) == 3
    assert await loop.sock_recvfrom(far, 100) == (b"now", near.getsockname())
    waiting = task(loop.sock_recvfrom(far, 100))
    await turns()
    await loop.sock_sendto(near, b"later", far.getsockname())
    assert await waiting == (b"later", near.getsockname())
    buffer = bytearray(8)
    await loop.sock_sendto(near, b"into", far.getsockname())
    result = await loop.sock_recvfrom_into(far, buffer)
    assert result == (4, near.getsockname())
    waiting = task(loop.sock_recvfrom_into(far, buffer, 2))
    await turns()
    await loop.sock_sendto(near, b"XYZ", far.getsockname())
    assert await waiting == (2, near.getsockname())
    assert buffer == b"XYto\0\0\0\0"
    await loop.sock_sendto(near, b"", far.getsockname())
    assert await loop.sock_recvfrom(far, 10) == (b"", near.getsockname())


async def test_reset(pair):
    loop = asyncio.get_running_loop()
    near, far = pair
    far.close()
    fill_error = await async_error(loop.sock_sendall(near, bytes(10_000_000)))
    assert issubclass(fill_error[0], ConnectionError)


# -- cancellation


async def test_cancelled_recv_loses_nothing(pair):
    loop = asyncio.get_running_loop()
    near, far = pair
    for n in range(20):
        waiting = task(loop.sock_recv(near, 100))
        await turns(n % 4)
        if n % 2:
            far.send(b"x")
        waiting.cancel()
        try:
            result = await waiting
        except asyncio.CancelledError:
            if n % 2:
                assert await loop.sock_recv(near, 100) == b"x"
        else:
            assert result == b"x"
        assert loop.remove_reader(near) is False


@pytest.mark.parametrize("seed", range(3))
async def test_no_byte_is_lost(seed, pyloop_only):
    """Whatever is cancelled, and when; asyncio loses what it had received
    for a task that is cancelled before it runs."""
    loop = asyncio.get_running_loop()
    random = Random(seed)
    near, far = socket.socketpair()
    data = pattern(40_000)
    sent, received = 0, bytearray()
    with near, far:
        near.setblocking(False)
        far.setblocking(False)
        while len(received) < len(data):
            if random.random() < 0.7 and sent < len(data):
                piece = data[sent : sent + random.randrange(1, 500)]
                await loop.sock_sendall(far, piece)
                sent += len(piece)
            buffer = bytearray(300)
            call = random.choice(["recv", "into", "from", "fromto"])
            receiving = task(
                {
                    "recv": lambda: loop.sock_recv(near, 300),
                    "into": lambda: loop.sock_recv_into(near, buffer),
                    "from": lambda: loop.sock_recvfrom(near, 300),
                    "fromto": lambda: loop.sock_recvfrom_into(near, buffer),
                }[call]()
            )
            await turns(random.randrange(4))
            if sent < len(data) and random.random() < 0.5:
                far.send(data[sent : sent + 1])
                sent += 1
                await turns(random.randrange(3))
            if sent < len(data) or len(received) < sent - 300:
                receiving.cancel()
            await asyncio.wait([receiving])
            if not receiving.cancelled():
                result = receiving.result()
                received += {
                    "recv": lambda: result,
                    "into": lambda: buffer[:result],
                    "from": lambda: result[0],
                    "fromto": lambda: buffer[: result[0]],
                }[call]()
            assert received == data[: len(received)]


async def test_cancelled_accept_loses_no_connection():
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        before = open_fds().keys()
        for n in range(10):
            accepting = task(loop.sock_accept(listener))
            await turns(2)
            with socket.create_connection(listener.getsockname()):
                # Cancelled before, or well after, the loop has seen it.
                await turns(n % 2 * 20)
                accepting.cancel()
                try:
                    conn, _ = await accepting
                except asyncio.CancelledError:
                    conn, _ = await loop.sock_accept(listener)
                conn.close()
        assert open_fds().keys() == before


async def test_cancelled_sendall(pair):
    loop = asyncio.get_running_loop()
    near, far = pair
    sending = task(loop.sock_sendall(near, bytes(20_000_000)))
    await turns(5)
    assert not sending.done()
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    drain(far)
    await turns()
    drain(far)
    await loop.sock_sendall(near, b"usable")
    received = b""
    while not received.endswith(b"usable"):
        received += await loop.sock_recv(far, 1 << 20)


async def test_cancelled_connect():
    loop = asyncio.get_running_loop()
    with silent_listener() as listener, socket.socket() as sock:
        sock.setblocking(False)
        connecting = task(loop.sock_connect(sock, listener.getsockname()))
        await turns()
        assert not connecting.done()
        connecting.cancel()
        await asyncio.wait([connecting])
        assert connecting.cancelled()
        assert loop.remove_writer(sock) is False


async def test_cancelled_by_timeout(pair):
    loop = asyncio.get_running_loop()
    near, far = pair
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(loop.sock_recv(near, 1), 0.01)
    far.send(b"x")
    assert await loop.sock_recv(near, 1) == b"x"


async def test_result_that_came_with_the_cancellation(pair):
    """The last of both wins, as in asyncio; the data is not dropped."""
    loop = asyncio.get_running_loop()
    near, far = pair
    waiting = task(loop.sock_recv(near, 1))
    await turns()
    far.send(b"x")
    loop.call_soon(waiting.cancel)
    try:
        assert await waiting == b"x"
    except asyncio.CancelledError:
        assert await loop.sock_recv(near, 1) == b"x"


async def test_socket_closed_while_waited_on():
    """Not a crash; the waiter stays until it is cancelled."""
    loop = asyncio.get_running_loop()
    near, far = socket.socketpair()
    near.setblocking(False)
    waiting = task(loop.sock_recv(near, 1))
    await turns()
    near.close()
    far.close()
    await turns(5)
    waiting.cancel()
    kind = await asyncio.wait([waiting], timeout=DEADLINE)
    assert kind[0]
    if not waiting.cancelled():
        waiting.exception()
    # Another socket may get the number.
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        far.send(b"x")
        assert await loop.sock_recv(near, 1) == b"x"


async def test_connecting_socket_closed_while_waited_on():
    loop = asyncio.get_running_loop()
    with silent_listener() as listener:
        sock = socket.socket()
        sock.setblocking(False)
        connecting = task(loop.sock_connect(sock, listener.getsockname()))
        await turns()
        assert not connecting.done()
        sock.close()
        await turns(5)
        connecting.cancel()
        await asyncio.wait([connecting], timeout=DEADLINE)
        if not connecting.cancelled():
            connecting.exception()


def test_pending_connect_and_callbacks_on_its_descriptor(agree):
    """A reader does not disturb it; a writer takes its place, and whoever
    gives up leaves the other's alone."""

    async def scenario(loop):
        seen = []
        for add in loop.add_reader, loop.add_writer:
            with silent_listener() as listener, socket.socket() as sock:
                sock.setblocking(False)
                connecting = task(
                    loop.sock_connect(sock, listener.getsockname())
                )
                await turns()
                add(sock, int)
                await turns()
                seen.append(connecting.done())
                connecting.cancel()
                await asyncio.wait([connecting])
                seen.append(connecting.cancelled())
                seen.append(loop.remove_reader(sock))
                seen.append(loop.remove_writer(sock))
        return seen

    assert agree(scenario) == [
        *(False, True, True, False),
        *(False, True, False, True),
    ]


async def test_pending_connect_completes_beside_a_reader():
    loop = asyncio.get_running_loop()
    accepted = []
    with silent_listener() as listener, socket.socket() as sock:
        sock.setblocking(False)
        listener.setblocking(False)
        connecting = task(loop.sock_connect(sock, listener.getsockname()))
        await turns()
        loop.add_reader(sock, int)
        await turns()
        assert not connecting.done()
        # The queue is let go of, and the kernel asks again.
        loop.add_reader(listener, lambda: accepted.append(listener.accept()))
        await asyncio.wait_for(connecting, DEADLINE)
        loop.remove_reader(listener)
        assert loop.remove_reader(sock)
        assert not loop.remove_writer(sock)
    for conn, _ in accepted:
        conn.close()


async def test_connect_racing_with_add_reader():
    """Another task watches the same descriptor."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        with socket.socket() as sock:
            sock.setblocking(False)
            seen = []
            await loop.sock_connect(sock, listener.getsockname())
            loop.add_reader(sock, lambda: seen.append(sock.recv(10)))
            conn, _ = await loop.sock_accept(listener)
            with conn:
                conn.send(b"x")
                await until(lambda: seen)
            await loop.sock_sendall(sock, b"y")
            assert loop.remove_reader(sock)


async def test_accept_racing_with_add_reader():
    """The last to ask is told; the other may ask again."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        address = listener.getsockname()
        seen = []
        loop.add_reader(listener, seen.append, 1)
        with socket.create_connection(address):
            conn, _ = await loop.sock_accept(listener)
            conn.close()
        accepting = task(loop.sock_accept(listener))
        await turns()
        loop.add_reader(listener, seen.append, 2)
        with socket.create_connection(address):
            await until(lambda: 2 in seen)
            assert not accepting.done()
            loop.remove_reader(listener)
            accepting.cancel()
            await asyncio.wait([accepting])
            conn, _ = await loop.sock_accept(listener)
            conn.close()
        assert loop.remove_reader(listener) is False


async def test_recv_replaces_the_reader_of_another_task(pair):
    """As documented: one reader for each descriptor."""
    loop = asyncio.get_running_loop()
    near, far = pair
    first = task(loop.sock_recv(near, 1))
    await turns()
    second = task(loop.sock_recv(near, 1))
    await turns()
    far.send(b"ab")
    done, _ = await asyncio.wait([second], timeout=DEADLINE)
    assert second in done
    first.cancel()
    await asyncio.wait([first])


# -- bad arguments


def test_blocking_socket_in_debug_mode(agree):
    async def scenario(loop):
        loop.set_debug(True)
        near, far = socket.socketpair()
        with near, far:
            seen = [
                await async_error(call)
                for call in (
                    loop.sock_recv(near, 1),
                    loop.sock_recv_into(near, bytearray(1)),
                    loop.sock_recvfrom(near, 1),
                    loop.sock_recvfrom_into(near, bytearray(1)),
                    loop.sock_sendall(near, b"x"),
                    loop.sock_sendto(near, b"x", None),
                    loop.sock_connect(near, None),
                    loop.sock_accept(near),
                )
            ]
        loop.set_debug(False)
        return seen

    assert (
        agree(scenario)
        == [(ValueError, "the socket must be non-blocking")] * 8
    )


def test_wrong_arguments(agree):
    async def scenario(loop):
        near, far = socket.socketpair()
        near.setblocking(False)
        with near, far:
            seen = []
            for call in (
                lambda: loop.sock_recv(None, 1),
                lambda: loop.sock_recv(near, "1"),
                lambda: loop.sock_recv(near, -1),
                lambda: loop.sock_recv_into(near, b"read-only"),
                lambda: loop.sock_sendall(near, "text"),
                lambda: loop.sock_sendall(near, None),
                lambda: loop.sock_accept(near),
                lambda: loop.sock_connect(near, 5),
            ):
                result = await async_error(call())
                seen.append(result and result[0])
            near.close()
            for call in (
                lambda: loop.sock_recv(near, 1),
                lambda: loop.sock_sendall(near, b"x"),
                lambda: loop.sock_accept(near),
                lambda: loop.sock_connect(near, "/"),
            ):
                result = await async_error(call())
                seen.append(result and result[0])
        return seen

    agree(scenario)


def test_refused_sockets(agree, tmp_path):
    """An SSL socket, and one that a transport has."""

    async def scenario(loop):
        seen = []
        near, far = tcp_pair()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        with (
            far,
            context.wrap_socket(
                near,
                do_handshake_on_connect=False,
                server_hostname="localhost",
            ) as wrapped,
        ):
            wrapped.setblocking(False)
            for call in (
                loop.sock_recv(wrapped, 1),
                loop.sock_recv_into(wrapped, bytearray(1)),
                loop.sock_recvfrom(wrapped, 1),
                loop.sock_recvfrom_into(wrapped, bytearray(1)),
                loop.sock_sendall(wrapped, b"x"),
                loop.sock_sendto(wrapped, b"x", ("127.0.0.1", 9)),
                loop.sock_connect(wrapped, ("127.0.0.1", 9)),
                loop.sock_accept(wrapped),
            ):
                seen.append(await async_error(call))
        pair = tcp_pair()
        async with wired(Recorder, pair) as (protocol, _):
            sock = pair[0]
            for call in (
                loop.sock_recv(sock, 1),
                loop.sock_recv_into(sock, bytearray(1)),
                loop.sock_recvfrom(sock, 1),
                loop.sock_recvfrom_into(sock, bytearray(1)),
            ):
                kind, text = await async_error(call)
                assert repr(protocol.transport)[:-1].split()[0] in text
                seen.append(
                    (kind, text.split("<")[0].replace(str(sock.fileno()), "N"))
                )
        return seen

    agree(scenario)


@pytest.mark.parametrize("into", [False, True])
async def test_datagrams_of_which_nothing_is_asked(into):
    """Waited for, and taken with their sender."""
    loop = asyncio.get_running_loop()
    with socket.socket(type=socket.SOCK_DGRAM) as near:
        near.bind(("127.0.0.1", 0))
        near.setblocking(False)
        with socket.socket(type=socket.SOCK_DGRAM) as far:
            far.bind(("127.0.0.1", 0))

            def receive():
                if into:
                    return loop.sock_recvfrom_into(near, bytearray())
                return loop.sock_recvfrom(near, 0)

            waiting = asyncio.ensure_future(receive())
            await turns()
            assert not waiting.done()
            nothing = 0 if into else b""
            sender = far.getsockname()
            for data in (b"one", b"two", b"three"):
                far.sendto(data, near.getsockname())
            assert await waiting == (nothing, sender)
            assert await receive() == (nothing, sender)
            assert await loop.sock_recvfrom(near, 9) == (b"three", sender)


async def test_future_of_somebody_else(loop_factory):
    """create_future() replaced: what waits waits for one of those."""

    class Mine(asyncio.Future):
        pass

    loop = asyncio.get_running_loop()
    made = []

    def create_future():
        made.append(Mine(loop=loop))
        return made[-1]

    near, far = socket.socketpair()
    near.setblocking(False)
    with near, far:
        loop.create_future = create_future
        try:
            receiving = asyncio.ensure_future(loop.sock_recv(near, 9))
            await asyncio.sleep(0)
            assert made
            assert receiving._fut_waiter is made[0]
            far.send(b"x")
            assert await receiving == b"x"
        finally:
            del loop.create_future


def test_wrong_sizes_and_buffers(agree):
    async def scenario(loop):
        near, far = socket.socketpair()
        near.setblocking(False)
        with near, far:
            calls = [
                lambda: loop.sock_recv(near, 2**80),
                lambda: loop.sock_recv(near, 1.0),
                lambda: loop.sock_recv(near, None),
                lambda: loop.sock_recv(near),
                lambda: loop.sock_recv(near, 0),
                lambda: loop.sock_recv_into(near, bytearray()),
                lambda: loop.sock_recv_into(near, None),
                lambda: loop.sock_recv_into(
                    near, memoryview(bytearray(9))[::2]
                ),
                lambda: loop.sock_recvfrom(near, -1),
                lambda: loop.sock_recvfrom(near, "1"),
                lambda: loop.sock_recvfrom_into(near, b"read-only"),
                lambda: loop.sock_recvfrom_into(near, bytearray(3), 4),
                lambda: loop.sock_recvfrom_into(near, bytearray(3), -1),
                lambda: loop.sock_recvfrom_into(near, bytearray(3), "1"),
                lambda: loop.sock_sendall(near, 5),
                lambda: loop.sock_sendall(near, memoryview(bytes(9))[::2]),
                lambda: loop.sock_sendto(near, "text", "/nowhere"),
                lambda: loop.sock_connect(near, None),
                lambda: loop.sock_connect(None, ("127.0.0.1", 9)),
            ]
            seen = []
            for call in calls:
                try:
                    seen.append(await call())
                except Exception as exc:
                    text = str(exc)
                    for name in ("EventLoop.", "BaseSelector", "SocketCalls."):
                        text = text.replace(name, "")
                    seen.append((type(exc), text))
        return seen

    agree(scenario)


def test_wrong_addresses(agree):
    async def scenario(loop):
        seen = []
        for family in (socket.AF_INET, socket.AF_INET6):
            for address in (
                ("127.0.0.1",),
                ("127.0.0.1", "no-such-service"),
                ("127.0.0.1", -1),
                ("127.0.0.1", 1 << 16),
                ("nul\0inside", 9),
                ["127.0.0.1", None, 5],
                (5, 9),
                "/a/path",
                b"/a/path",
                None,
            ):
                with socket.socket(family) as sock:
                    sock.setblocking(False)
                    result = await async_error(
                        loop.sock_connect(sock, address)
                    )
                    seen.append(result and result[0])
        return seen

    agree(scenario)


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_words_of_a_refused_connection(agree, family):
    if family == "ipv6" and not has_ipv6():
        pytest.skip("this machine has no IPv6")
    kind, host = (
        (socket.AF_INET, "127.0.0.1")
        if family == "ipv4"
        else (socket.AF_INET6, "::1")
    )
    with refusing_address(kind, host) as address:

        async def scenario(loop):
            seen = []
            for form in (address, address[:2], list(address[:2])):
                with socket.socket(kind) as sock:
                    sock.setblocking(False)
                    seen.append(
                        await async_error(loop.sock_connect(sock, form))
                    )
            return seen

        for error in agree(scenario):
            assert error[0] is ConnectionRefusedError


def test_connecting_twice(agree):
    async def scenario(loop):
        with (
            socket.create_server(("127.0.0.1", 0)) as listener,
            socket.socket() as sock,
        ):
            sock.setblocking(False)
            await loop.sock_connect(sock, listener.getsockname())
            return await async_error(
                loop.sock_connect(sock, listener.getsockname())
            )

    assert agree(scenario) is None


# -- coroutines, as asyncio's are


async def test_calls_are_coroutines(pair):
    loop = asyncio.get_running_loop()
    near, far = pair
    calls = (
        loop.sock_recv(near, 1),
        loop.sock_recv_into(near, bytearray(1)),
        loop.sock_recvfrom(near, 1),
        loop.sock_recvfrom_into(near, bytearray(1)),
        loop.sock_sendall(near, b"x"),
        loop.sock_sendto(near, b"x", ("127.0.0.1", 9)),
        loop.sock_connect(near, ("127.0.0.1", 9)),
        loop.sock_accept(near),
    )
    for call in calls:
        assert isinstance(call, types.CoroutineType)
        assert asyncio.iscoroutine(call) and inspect.isawaitable(call)
        assert inspect.iscoroutinefunction(getattr(loop, call.__name__))
        call.close()


async def test_nothing_happens_before_the_first_step(pair):
    loop = asyncio.get_running_loop()
    near, far = pair
    receiving = loop.sock_recv(near, 10)
    sending = loop.sock_sendall(near, b"never")
    far.send(b"x")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        del sending
        gc.collect()
    assert "sock_sendall' was never awaited" in str(seen[0].message)
    assert await receiving == b"x"
    near.shutdown(socket.SHUT_WR)
    assert await loop.sock_recv(far, 10) == b""


async def test_ways_to_run_them(pair):
    loop = asyncio.get_running_loop()
    near, far = pair
    far.send(b"abcdef")
    assert await loop.create_task(loop.sock_recv(near, 1)) == b"a"
    assert await asyncio.ensure_future(loop.sock_recv(near, 1)) == b"b"
    assert await asyncio.wait_for(loop.sock_recv(near, 1), DEADLINE) == b"c"
    assert await asyncio.gather(loop.sock_recv(near, 1)) == [b"d"]
    assert await asyncio.shield(loop.sock_recv(near, 1)) == b"e"
    async with asyncio.TaskGroup() as group:
        last = group.create_task(loop.sock_recv(near, 1))
    assert last.result() == b"f"


async def test_no_turn_when_it_completes_at_once(pair):
    """As in asyncio: neither a future nor a switch."""
    loop = asyncio.get_running_loop()
    near, far = pair
    seen = []
    loop.call_soon(seen.append, 1)
    await loop.sock_sendall(near, b"x")
    await loop.sock_recv_into(far, bytearray(1))
    assert not seen


# -- readiness


@pytest.mark.parametrize("size", [1, 1 << 16, (1 << 16) + 1, 300_000, 1 << 22])
async def test_sizes(pair, size):
    loop = asyncio.get_running_loop()
    near, far = pair
    data = pattern(150_000)
    sending = task(loop.sock_sendall(near, data))
    received = bytearray()
    while len(received) < len(data):
        if size == 1 and received:
            received += await loop.sock_recv(far, 1 << 16)
            continue
        piece = await loop.sock_recv(far, size)
        assert type(piece) is bytes and 0 < len(piece) <= size
        received += piece
    await sending
    assert received == data


async def test_sock_with_methods_of_its_own():
    """A subclass may do things of its own, with whatever it returns."""
    seen = []

    class Noted(socket.socket):
        def recv(self, *args):
            seen.append("recv")
            return super().recv(*args)

        def recv_into(self, *args):
            seen.append("recv_into")
            return super().recv_into(*args)

        def send(self, *args):
            seen.append("send")
            return super().send(*args)

        def accept(self):
            seen.append("accept")
            return super().accept()

        def connect(self, address):
            seen.append("connect")
            return super().connect(address)

    loop = asyncio.get_running_loop()
    with Noted() as listener, Noted() as client:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        client.setblocking(False)
        await loop.sock_connect(client, listener.getsockname())
        conn, _ = await loop.sock_accept(listener)
        with conn:
            await loop.sock_sendall(client, b"xy")
            await loop.sock_sendall(conn, b"xy")
            assert await loop.sock_recv(client, 1) == b"x"
            assert await loop.sock_recv_into(client, bytearray(1)) == 1
    assert set(seen) == {"recv", "recv_into", "send", "accept", "connect"}


async def test_both_sides_of_one_socket(pair):
    loop = asyncio.get_running_loop()
    near, far = pair
    total = fill(near)
    sending = task(loop.sock_sendall(near, b"end"))
    receiving = task(loop.sock_recv(near, 1))
    await turns()
    far.send(b"x")
    assert await receiving == b"x"
    assert not sending.done()
    receiving = task(loop.sock_recv(near, 1))
    await turns()
    received = 0
    while received < total + 3:
        received += len(await loop.sock_recv(far, 1 << 20))
    await sending
    assert not receiving.done()
    far.send(b"y")
    assert await receiving == b"y"


async def test_beside_a_writer_and_a_reader(pair):
    """A callback on the other side goes on as before."""
    loop = asyncio.get_running_loop()
    near, far = pair
    written = []
    loop.add_writer(near, written.append, 1)
    receiving = task(loop.sock_recv(near, 1))
    await until(lambda: len(written) > 2)
    far.send(b"x")
    assert await receiving == b"x"
    count = len(written)
    await until(lambda: len(written) > count + 2)
    assert loop.remove_writer(near)
    seen = []
    loop.add_reader(near, lambda: seen.append(near.recv(1)))
    total = fill(near)
    sending = task(loop.sock_sendall(near, b"end"))
    await turns()
    far.send(b"y")
    await until(lambda: seen)
    received = 0
    while received < total + 3:
        received += len(await loop.sock_recv(far, 1 << 20))
    await sending
    far.send(b"z")
    await until(lambda: len(seen) == 2)
    assert loop.remove_reader(near) and seen == [b"y", b"z"]


async def test_reader_takes_the_place_of_a_call(pair):
    loop = asyncio.get_running_loop()
    near, far = pair
    receiving = task(loop.sock_recv(near, 1))
    await turns()
    seen = []
    loop.add_reader(near, lambda: seen.append(near.recv(1)))
    far.send(b"x")
    await until(lambda: seen)
    assert not receiving.done()
    receiving.cancel()
    await asyncio.wait([receiving])
    far.send(b"y")
    await until(lambda: len(seen) == 2)  # the cancelled call left it alone
    assert loop.remove_reader(near)


async def test_removed_behind_its_back(pair):
    loop = asyncio.get_running_loop()
    near, far = pair
    receiving = task(loop.sock_recv(near, 1))
    await turns()
    assert loop.remove_reader(near) is True
    assert loop.remove_reader(near) is False
    far.send(b"x")
    await turns(5)
    assert not receiving.done()
    receiving.cancel()
    await asyncio.wait([receiving])
    assert await loop.sock_recv(near, 1) == b"x"


async def test_number_used_again():
    """A closed socket's number is another's, whatever waited on it."""
    loop = asyncio.get_running_loop()
    numbers = set()
    for _ in range(5):
        near, far = socket.socketpair()
        with near, far:
            near.setblocking(False)
            numbers.add(near.fileno())
            receiving = task(loop.sock_recv(near, 1))
            await turns()
            far.send(b"x")
            assert await receiving == b"x"
    assert len(numbers) == 1


async def test_number_used_again_by_the_same_object(pair):
    loop = asyncio.get_running_loop()
    near, far = pair
    for _ in range(3):
        receiving = task(loop.sock_recv(near, 1))
        await turns()
        far.send(b"x")
        assert await receiving == b"x"
        other, far2 = socket.socketpair()
        with other:
            other.setblocking(False)
            os.dup2(other.fileno(), near.fileno())
        far.close()
        far = far2
    far.close()


@pytest.mark.parametrize("call", ["sendall", "accept", "sendto"])
async def test_a_cancelled_call_unregisters_at_once(call, tmp_path):
    loop = asyncio.get_running_loop()
    remove = loop.remove_writer
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sent = 0
    if call == "sendall":
        peer.close()
        sock, peer = socket.socketpair()
        sock.setblocking(False)
        waiting = task(loop.sock_sendall(sock, bytes(20_000_000)))
    elif call == "accept":
        remove = loop.remove_reader
        sock = socket.create_server(("127.0.0.1", 0))
        sock.setblocking(False)
        waiting = task(loop.sock_accept(sock))
    else:
        path = str(tmp_path / "s")
        peer.bind(path)
        peer.setblocking(False)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        sock.setblocking(False)
        while True:
            waiting = task(loop.sock_sendto(sock, b"x", path))
            await turns(2)
            if not waiting.done():
                break
            sent += 1
    with sock, peer:
        await turns()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert remove(sock) is False
        if call == "sendto":
            for _ in range(sent):
                assert peer.recv(10) == b"x"
            with pytest.raises(BlockingIOError):
                peer.recv(10)
            assert await loop.sock_sendto(sock, b"y", path) == 1
            assert peer.recv(10) == b"y"


async def test_duplicate_of_a_closed_socket_is_silent(pyloop_only):
    """The kernel watches files, not numbers: no wake-ups for what is closed
    here and lives on elsewhere."""
    loop = asyncio.get_running_loop()
    near, far = socket.socketpair()
    near.setblocking(False)
    receiving = task(loop.sock_recv(near, 1))
    await turns()
    far.send(b"x")
    await receiving
    with near.dup(), far:
        near.close()
        far.send(b"y")
        await turns()
        polls = loop.stats().polls
        await asyncio.sleep(0.02)
        assert loop.stats().polls - polls < 20


async def test_buffers_are_free_between_calls(pair):
    loop = asyncio.get_running_loop()
    near, far = pair
    buffer = bytearray(10)
    receiving = task(loop.sock_recv_into(near, buffer))
    await turns()
    buffer += b"more"
    far.send(pattern(14))
    assert await receiving == 14 and buffer == pattern(14)
    buffer.clear()
    data = bytearray(20_000_000)
    sending = task(loop.sock_sendall(near, data))
    await turns()
    assert not sending.done()
    with pytest.raises(BufferError):
        data.clear()
    received = 0
    while received < 20_000_000:
        received += len(await loop.sock_recv(far, 1 << 20))
    await sending
    data.clear()


async def test_sendall_of_items_that_are_not_bytes(pair, pyloop_only):
    """asyncio counts items where send() counts bytes, and never ends."""
    loop = asyncio.get_running_loop()
    near, far = pair
    data = memoryview(pattern(1_000_000)).cast("I")
    sending = task(loop.sock_sendall(near, data))
    received = bytearray()
    while len(received) < 1_000_000:
        received += await loop.sock_recv(far, 1 << 20)
    await sending
    assert received == pattern(1_000_000)


async def test_debug_mode_switched_on_meanwhile(pair):
    loop = asyncio.get_running_loop()
    near, far = pair
    receiving = task(loop.sock_recv(near, 1))
    sending = task(loop.sock_sendall(near, bytes(20_000_000)))
    await turns()
    loop.set_debug(True)
    far.send(b"x")
    received = 0
    while received < 20_000_000:
        received += len(await loop.sock_recv(far, 1 << 20))
    assert await receiving == b"x"
    await sending
    loop.set_debug(False)


@pytest.mark.skipif(FREE_THREADED, reason="needs a GIL to hold the loop up")
def test_data_that_comes_with_a_signal(loop, pair):
    """The handler's exception leaves run_forever; what the same poll has
    reported is there in the next run."""
    near, far = pair

    class Alarm(Exception):
        pass

    def alarm(number, frame):
        raise Alarm

    def main_thread_sleeps():
        with open(f"/proc/self/task/{os.getpid()}/stat") as file:
            return file.read().rsplit(")")[1][1] == "S"

    def elsewhere():
        seen = 0
        while seen < 3:
            seen = seen + 1 if main_thread_sleeps() else 0
            time.sleep(0.01)
        # Both with the GIL held: the loop, woken, waits for it meanwhile.
        write(far.fileno(), b"x", 1)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)

    async def receive():
        return await loop.sock_recv(near, 10)

    write = ctypes.PyDLL(None).write
    interval = sys.getswitchinterval()
    before = signal.signal(signal.SIGUSR1, alarm)
    sys.setswitchinterval(DEADLINE)
    thread = threading.Thread(target=elsewhere)
    try:
        receiving = loop.create_task(receive())
        thread.start()
        with pytest.raises(Alarm):
            loop.run_until_complete(receiving)
    finally:
        sys.setswitchinterval(interval)
        thread.join()
        signal.signal(signal.SIGUSR1, before)
    assert loop.run_until_complete(receiving) == b"x"


def test_loop_closed_while_waiting(loop, pair):
    near, far = pair

    async def main():
        waiting = task(loop.sock_recv(near, 1))
        await turns()
        return waiting

    waiting = loop.run_until_complete(main())
    waiting._log_destroy_pending = False
    coroutine = waiting.get_coro()
    loop.close()
    del waiting
    gc.collect()
    coroutine.close()


def test_unreferenced_task_waits_on(loop, pair):
    """The loop keeps what waits for a socket."""
    near, far = pair
    received = []

    async def receive():
        received.append(await loop.sock_recv(near, 1))

    async def main():
        loop.create_task(receive())
        await turns()
        gc.collect()
        far.send(b"x")
        await until(lambda: received)

    loop.run_until_complete(main())
    assert received == [b"x"]


@pytest.mark.skipif(not FREE_THREADED, reason="a GIL guards the loop's data")
async def test_other_threads_are_refused(pair, pyloop_only):
    loop = asyncio.get_running_loop()
    near, _ = pair

    def elsewhere():
        coroutine = loop.sock_recv(near, 1)
        try:
            coroutine.send(None)
        finally:
            coroutine.close()

    with pytest.raises(RuntimeError, match="Non-thread-safe operation"):
        await asyncio.to_thread(elsewhere)


async def test_unix_addresses(tmp_path):
    loop = asyncio.get_running_loop()
    for path in (str(tmp_path / "s"), b"\0pyloop-%d" % os.getpid()):
        with socket.socket(socket.AF_UNIX) as listener:
            listener.setblocking(False)
            listener.bind(path)
            listener.listen()
            accepting = task(loop.sock_accept(listener))
            await turns()
            with socket.socket(socket.AF_UNIX) as client:
                client.setblocking(False)
                await loop.sock_connect(client, path)
                server, address = await accepting
                with server:
                    assert address == client.getsockname() == ""
                    assert server.family is socket.AF_UNIX
                    await loop.sock_sendall(server, b"x")
                    assert await loop.sock_recvfrom(client, 1) == (
                        b"x",
                        listener.getsockname(),
                    )


async def test_unix_datagrams(tmp_path):
    loop = asyncio.get_running_loop()
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as near,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as far,
    ):
        near.setblocking(False)
        far.setblocking(False)
        far.bind(str(tmp_path / "far"))
        await loop.sock_sendto(near, b"nameless", far.getsockname())
        assert await loop.sock_recvfrom(far, 99) == (b"nameless", None)
        near.bind(str(tmp_path / "near"))
        await loop.sock_sendto(near, b"named", far.getsockname())
        buffer = bytearray(9)
        assert await loop.sock_recvfrom_into(far, buffer) == (
            5,
            str(tmp_path / "near"),
        )


async def test_ipv6():
    if not has_ipv6():
        pytest.skip("this machine has no IPv6")
    loop = asyncio.get_running_loop()
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        listener.setblocking(False)
        with socket.socket(socket.AF_INET6) as client:
            client.setblocking(False)
            await loop.sock_connect(client, listener.getsockname()[:2])
            server, address = await loop.sock_accept(listener)
            with server:
                assert address == client.getsockname()
                assert server.getpeername() == client.getsockname()
                assert server.type is socket.SOCK_STREAM


async def test_full_pipe_of_sockets(pair):
    loop = asyncio.get_running_loop()
    near, far = pair
    total = fill(near)
    sending = task(loop.sock_sendall(near, b"end"))
    await turns()
    assert not sending.done()
    received = 0
    while received < total + 3:
        received += len(await loop.sock_recv(far, 1 << 20))
    await sending
