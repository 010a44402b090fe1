import asyncio
import os
import socket

import pytest
from support import (
    DEADLINE,
    async_error,
    drain,
    fill,
    open_fds,
    pattern,
    refusing_address,
    tcp_pair,
    turns,
    until,
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
    with socket.socket() as sock:
        sock.setblocking(False)
        connecting = task(loop.sock_connect(sock, ("192.0.2.1", 9)))
        await turns()
        if not connecting.done():
            connecting.cancel()
        await asyncio.wait([connecting])
        assert connecting.cancelled() or connecting.exception()
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
    sock = socket.socket()
    sock.setblocking(False)
    connecting = task(loop.sock_connect(sock, ("192.0.2.1", 9)))
    await turns()
    sock.close()
    await turns(5)
    connecting.cancel()
    await asyncio.wait([connecting], timeout=DEADLINE)
    if not connecting.cancelled():
        connecting.exception()


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
