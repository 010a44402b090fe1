import asyncio
import errno
import os
import socket
import ssl
import stat
import sys

import pytest
from support import (
    DEADLINE,
    Recorder,
    async_error,
    client_tls,
    error,
    handler_calls,
    has_ipv6,
    may_drop_sockets,
    no_free_fds,
    server_tls,
    shut,
    turns,
    unix_path,
    until,
)

needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")
since_312 = pytest.mark.skipif(
    sys.version_info < (3, 12), reason="Server has no clients before 3.12"
)
since_313 = pytest.mark.skipif(
    sys.version_info < (3, 13), reason="added in 3.13"
)


class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)


async def echo(*address, family=socket.AF_INET):
    """Check that somebody echoes there."""
    loop = asyncio.get_running_loop()
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        target = address[0] if len(address) == 1 else address
        await loop.sock_connect(sock, target)
        await loop.sock_sendall(sock, b"hello")
        data = b""
        while len(data) < 5:
            part = await loop.sock_recv(sock, 100)
            assert part
            data += part
        assert data == b"hello"


def name(server):
    return server.sockets[0].getsockname()


async def test_serves():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    assert isinstance(server, asyncio.AbstractServer)
    assert isinstance(server, asyncio.Server)
    assert server.is_serving() is True
    assert server.get_loop() is loop
    for _ in range(3):
        await echo(*name(server))
    await asyncio.gather(*[echo(*name(server)) for _ in range(50)])
    await shut(server)
    assert server.is_serving() is False


async def test_sockets():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    assert type(server.sockets) is tuple
    (sock,) = server.sockets
    assert type(sock) is asyncio.trsock.TransportSocket
    assert sock.family == socket.AF_INET and sock.fileno() >= 0
    assert sock.gettimeout() == 0
    assert repr(sock) in repr(server) and "Server" in repr(server)
    await shut(server)
    assert server.sockets == ()
    assert sock.fileno() == -1


async def test_many_connections_at_once():
    """More than one batch of accepts."""
    loop = asyncio.get_running_loop()
    made = []

    class Peer(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            made.append(self)

    server = await loop.create_server(Peer, "127.0.0.1", 0, backlog=500)
    socks = []
    for _ in range(300):
        sock = socket.socket()
        sock.setblocking(False)
        assert sock.connect_ex(name(server)) in (0, errno.EINPROGRESS)
        socks.append(sock)
    await until(lambda: len(made) == 300)
    ports = {p.transport.get_extra_info("peername")[1] for p in made}
    assert ports == {sock.getsockname()[1] for sock in socks}
    for sock in socks:
        sock.close()
    await asyncio.gather(*[p.lost for p in made])
    await shut(server)


async def test_accepted_descriptors():
    """Non-blocking and not inherited."""
    import fcntl

    loop = asyncio.get_running_loop()
    peers = []
    server = await loop.create_server(
        lambda: peers.append(Recorder()) or peers[-1], "127.0.0.1", 0
    )
    with socket.create_connection(name(server)) as sock:
        await until(lambda: peers and peers[0].made.done())
        fd = peers[0].transport.get_extra_info("socket").fileno()
        assert fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK
        assert not os.get_inheritable(fd)
        assert peers[0].transport.get_extra_info("sockname") == name(server)
        peername = peers[0].transport.get_extra_info("peername")
        assert peername == sock.getsockname()
        assert type(peername) is tuple and type(peername[1]) is int
    await peers[0].lost
    await shut(server)


@pytest.mark.parametrize("host", [None, "", "localhost", ["127.0.0.1"]])
async def test_hosts(host):
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Echo, host, 0)
    for sock in server.sockets:
        if sock.family == socket.AF_INET:
            await echo("127.0.0.1", sock.getsockname()[1])
        else:
            address = "::1", sock.getsockname()[1]
            await echo(*address, family=socket.AF_INET6)
    await shut(server)


@needs_ipv6
async def test_ipv6():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Echo, "::1", 0)
    sock = server.sockets[0]
    assert sock.family == socket.AF_INET6
    assert len(sock.getsockname()) == 4
    await echo(*sock.getsockname()[:2], family=socket.AF_INET6)
    await shut(server)


@needs_ipv6
async def test_several_hosts():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Echo, ["127.0.0.1", "::1"], 0)
    assert len(server.sockets) == 2
    families = {sock.family for sock in server.sockets}
    assert families == {socket.AF_INET, socket.AF_INET6}
    await shut(server)


async def test_socket_given():
    loop = asyncio.get_running_loop()
    sock = socket.create_server(("127.0.0.1", 0))
    server = await loop.create_server(Echo, sock=sock)
    assert sock.gettimeout() == 0
    await echo(*name(server))
    await shut(server)
    assert sock.fileno() == -1


@may_drop_sockets
def test_bad_arguments(agree):
    async def scenario(loop):
        seen = []
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            with socket.socket() as tcp:
                for kwargs in (
                    {},
                    {"host": "127.0.0.1", "port": 0, "sock": tcp},
                    {"sock": udp},
                    {"host": "127.0.0.1", "port": 0, "ssl": True},
                    {"host": "127.0.0.1", "port": 0, "ssl": 1},
                    {
                        "host": "127.0.0.1",
                        "port": 0,
                        "ssl_handshake_timeout": 1,
                    },
                    {
                        "host": "127.0.0.1",
                        "port": 0,
                        "ssl_shutdown_timeout": 1,
                    },
                    {"host": "127.0.0.1", "port": 70000},
                    {"host": "127.0.0.1", "port": "no-such-service"},
                    {"host": 5, "port": 0},
                    {"host": "127.0.0.1", "port": 0, "family": 999},
                ):
                    result = await async_error(
                        loop.create_server(Echo, **kwargs)
                    )
                    if result and "fd=" in result[1]:
                        result = result[0], result[1].split("<")[0]
                    seen.append(result)
        return seen

    seen = agree(scenario)
    assert seen[0] == (ValueError, "Neither host/port nor sock were specified")


def test_address_in_use(agree):
    with socket.create_server(("127.0.0.1", 0)) as taken:

        async def scenario(loop):
            seen = []
            for reuse in (None, True, False):
                seen.append(
                    await async_error(
                        loop.create_server(
                            Echo, *taken.getsockname(), reuse_address=reuse
                        )
                    )
                )
            return seen

        seen = agree(scenario)
    assert seen[0][0] is OSError
    assert "address already in use" in seen[0][1]


def test_address_that_is_not_ours(agree):
    async def scenario(loop):
        return await async_error(loop.create_server(Echo, "192.0.2.77", 0))

    assert agree(scenario)[0] is OSError


def test_unknown_host(agree):
    async def scenario(loop):
        result = await async_error(loop.create_server(Echo, "no.invalid", 0))
        return result[0]

    assert agree(scenario) is socket.gaierror


async def test_partial_failure_closes_what_was_bound():
    """Of several hosts the second cannot be bound: the first is free."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.2", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match="address already in use"):
            await loop.create_server(Echo, ["127.0.0.1", "127.0.0.2"], port)
        server = await loop.create_server(Echo, "127.0.0.1", port)
        await shut(server)


async def test_reuse_port():
    loop = asyncio.get_running_loop()
    first = await loop.create_server(Echo, "127.0.0.1", 0, reuse_port=True)
    second = await loop.create_server(Echo, *name(first), reuse_port=True)
    await asyncio.gather(*[echo(*name(first)) for _ in range(10)])
    await shut(first)
    await shut(second)


async def test_restart_on_the_same_port():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    address = name(server)
    await echo(*address)
    await shut(server)
    server = await loop.create_server(Echo, *address)
    await echo(*address)
    await shut(server)


@pytest.mark.parametrize("backlog", [1, 100, 5000, 1_000_000, 2**31 - 1])
async def test_backlogs(backlog):
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Echo, "127.0.0.1", 0, backlog=backlog)
    for _ in range(5):
        await echo(*name(server))
    await shut(server)


class Index:
    def __init__(self, value):
        self.value = value

    def __index__(self):
        return self.value


@may_drop_sockets
def test_bad_backlogs(agree):
    async def scenario(loop):
        seen = []
        for backlog in (2**40, "5", None, Index(5), 5.0):
            try:
                server = await loop.create_server(
                    Echo, "127.0.0.1", 0, backlog=backlog
                )
            except (TypeError, OverflowError) as exc:
                seen.append(type(exc))
            else:
                seen.append("served")
                await shut(server)
        return seen

    agree(scenario)


async def test_start_serving_later():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        Echo, "127.0.0.1", 0, start_serving=False
    )
    assert not server.is_serving()
    with pytest.raises(ConnectionRefusedError):
        await echo(*name(server))
    await server.start_serving()
    await server.start_serving()
    assert server.is_serving()
    await echo(*name(server))
    await shut(server)


async def test_never_started():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        Echo, "127.0.0.1", 0, start_serving=False
    )
    await shut(server)
    assert server.sockets == ()


async def test_context_manager():
    loop = asyncio.get_running_loop()
    async with await loop.create_server(Echo, "127.0.0.1", 0) as server:
        await echo(*name(server))
    assert not server.is_serving() and server.sockets == ()


async def test_close_stops_accepting_and_keeps_connections():
    loop = asyncio.get_running_loop()
    peers = []
    server = await loop.create_server(
        lambda: peers.append(Recorder()) or peers[-1], "127.0.0.1", 0
    )
    address = name(server)
    transport, client = await loop.create_connection(Recorder, *address)
    await until(lambda: peers)
    server.close()
    server.close()
    with pytest.raises(ConnectionRefusedError):
        await loop.create_connection(Recorder, *address)
    transport.write(b"still")
    await peers[0].receive(5)
    waiting = asyncio.ensure_future(server.wait_closed())
    await turns(5)
    if sys.version_info >= (3, 12):
        assert not waiting.done()
    transport.close()
    await asyncio.wait_for(waiting, DEADLINE)
    await peers[0].lost
    await server.wait_closed()


async def test_accepting_is_paused_by_remove_reader():
    """The listening descriptor's reader is the server's, as in asyncio."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    sock = server.sockets[0]
    assert loop.remove_writer(sock.fileno()) is False
    assert loop.remove_reader(sock.fileno()) is True
    assert loop.remove_reader(sock.fileno()) is False
    with socket.create_connection(sock.getsockname()) as client:
        client.sendall(b"x")
        client.settimeout(0.05)
        waiting = loop.run_in_executor(None, client.recv, 9)
        with pytest.raises(TimeoutError):
            await waiting
    await shut(server)


async def test_serve_forever_cancelled():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        Echo, "127.0.0.1", 0, start_serving=False
    )
    address = name(server)
    task = asyncio.create_task(server.serve_forever())
    await turns()
    assert server.is_serving()
    await echo(*address)
    with pytest.raises(RuntimeError, match="is already being awaited on"):
        await server.serve_forever()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not server.is_serving() and server.sockets == ()


def test_serve_forever_cancelled_with_a_client(agree):
    """Versions differ: it waits for the client, leaves it or drops it."""

    async def scenario(loop):
        seen = []
        server = await loop.create_server(Echo, "127.0.0.1", 0)
        task = asyncio.ensure_future(server.serve_forever())
        _, client = await loop.create_connection(Recorder, *name(server))
        client.transport.write(b"x")
        await client.receive(1)
        task.cancel()
        await turns(10)
        seen.append(task.done())
        seen.append(server.is_serving())
        if not client.lost.done():
            client.transport.write(b"y")
            try:
                async with asyncio.timeout(DEADLINE):
                    await asyncio.wait(
                        [
                            asyncio.ensure_future(client.receive(2)),
                            client.lost,
                        ],
                        return_when="FIRST_COMPLETED",
                    )
            finally:
                seen.append(bytes(client.received))
        client.transport.abort()
        await asyncio.wait([task], timeout=DEADLINE)
        seen.append(task.cancelled())
        await shut(server)
        return seen

    assert agree(scenario)[-1] is True


async def test_serve_forever_closed():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    task = asyncio.create_task(server.serve_forever())
    await turns()
    server.close()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(RuntimeError, match="is closed$"):
        await server.serve_forever()
    await server.wait_closed()


def test_calls_on_a_closed_server(agree):
    async def scenario(loop):
        server = await loop.create_server(Echo, "127.0.0.1", 0)
        await shut(server)
        results = [
            await async_error(server.start_serving()),
            await async_error(server.wait_closed()),
            error(server.close),
            server.is_serving(),
            server.sockets,
        ]
        return [
            result and result[0] if result else result for result in results
        ]

    agree(scenario)


@since_312
async def test_close_while_a_connection_is_being_accepted():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    with socket.create_connection(name(server)) as sock:
        server.close()
        await turns(5)
        sock.settimeout(10)
        try:
            assert sock.recv(1) == b""
        except ConnectionResetError:
            pass
    await asyncio.wait_for(server.wait_closed(), DEADLINE)


@since_313
@pytest.mark.parametrize("method", ["close_clients", "abort_clients"])
async def test_clients(method):
    loop = asyncio.get_running_loop()
    peers = []
    server = await loop.create_server(
        lambda: peers.append(Recorder()) or peers[-1], "127.0.0.1", 0
    )
    clients = [
        (await loop.create_connection(Recorder, *name(server)))[1]
        for _ in range(3)
    ]
    await until(lambda: len(peers) == 3)
    for peer in peers:
        await peer.made
        peer.transport.write(b"x" * 10)
    server.close()
    getattr(server, method)()
    await asyncio.wait_for(server.wait_closed(), DEADLINE)
    for peer in peers:
        assert await peer.lost is None
    for client in clients:
        await client.lost
        if method == "close_clients":
            assert len(client.received) == 10


@since_313
@pytest.mark.parametrize("kind", ["tcp", "tls"])
@pytest.mark.parametrize("method", ["close_clients", "abort_clients"])
async def test_clients_with_unsent_data(kind, method):
    """close_clients() waits until they have it, abort_clients() does not."""
    loop = asyncio.get_running_loop()
    peers = []
    tls = kind == "tls"
    server = await loop.create_server(
        lambda: peers.append(Recorder()) or peers[-1],
        "127.0.0.1",
        0,
        ssl=server_tls() if tls else None,
    )
    transport, client = await loop.create_connection(
        Recorder,
        *name(server),
        **(
            {"ssl": client_tls(), "server_hostname": "localhost"}
            if tls
            else {}
        ),
    )
    await until(lambda: peers and peers[0].made.done())
    transport.pause_reading()
    peers[0].transport.write(bytes(20_000_000))
    server.close()
    getattr(server, method)()
    waiting = asyncio.ensure_future(server.wait_closed())
    if method == "abort_clients":
        await waiting
        assert await peers[0].lost is None
    else:
        await asyncio.sleep(0.05)
        assert not waiting.done() and not peers[0].lost.done()
        peers[0].transport.abort()
        await waiting
    transport.abort()
    await client.lost
    await turns()


@since_313
async def test_clients_are_held_weakly(monkeypatch):
    """The server must not keep a dropped transport alive."""
    import gc
    import weakref

    loop = asyncio.get_running_loop()
    refs = []

    class Dropped(asyncio.Protocol):
        def connection_made(self, transport):
            transport.pause_reading()
            refs.append(weakref.ref(transport))

    server = await loop.create_server(Dropped, "127.0.0.1", 0)
    # Not catch_warnings: on free-threaded builds that holds for its own
    # context only, and the transport may be dropped in the protocol's.
    shown = []
    monkeypatch.setattr(
        sys, "unraisablehook", lambda args: shown.append(str(args.exc_value))
    )
    with socket.create_connection(name(server)) as sock:
        await until(lambda: refs)
        await turns(5)
        gc.collect()
        gc.collect()
        assert refs[0]() is None
        sock.settimeout(10)
        assert sock.recv(1) == b""
    assert any("unclosed transport" in text for text in shown)
    server.close()


async def test_private_attributes_libraries_read():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    assert server._sockets is not None
    assert server._ssl_context is None
    assert server._loop is loop
    await shut(server)
    assert server._sockets is None


@may_drop_sockets
async def test_protocol_factory_that_fails():
    """The connection is dropped, the server lives. Only debug mode tells."""
    loop = asyncio.get_running_loop()
    failures = 3

    def factory():
        nonlocal failures
        if failures:
            failures -= 1
            raise ZeroDivisionError("in the factory")
        return Echo()

    calls = handler_calls(loop)
    server = await loop.create_server(factory, "127.0.0.1", 0)
    for _ in range(3):
        with socket.create_connection(name(server)) as sock:
            sock.setblocking(False)
            data = await async_error(loop.sock_recv(sock, 1))
            assert data is None or issubclass(data[0], ConnectionError)
    await echo(*name(server))
    assert calls == []
    await shut(server)


@may_drop_sockets
async def test_protocol_factory_that_fails_in_debug_mode():
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    calls = handler_calls(loop)

    def factory():
        raise ZeroDivisionError("in the factory")

    server = await loop.create_server(factory, "127.0.0.1", 0)
    with socket.create_connection(name(server)):
        await until(lambda: calls)
    await shut(server)
    loop.set_debug(False)
    (context,) = calls
    assert context["message"] == (
        "Error on transport creation for incoming connection"
    )
    assert type(context["exception"]) is ZeroDivisionError


@may_drop_sockets
@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_interrupt_in_the_protocol_factory(loop, kind):
    def factory():
        raise kind

    async def serve():
        return await loop.create_server(factory, "127.0.0.1", 0)

    # asyncio's accepting task also complains that nobody asked for it.
    handler_calls(loop)
    server = loop.run_until_complete(serve())
    with socket.create_connection(name(server)):
        with pytest.raises(kind):
            loop.run_forever()
    loop.run_until_complete(shut(server))


@may_drop_sockets
async def test_protocol_factory_that_returns_no_protocol():
    loop = asyncio.get_running_loop()
    protocols = [None, 5, object()]
    handler_calls(loop)
    server = await loop.create_server(
        lambda: protocols.pop() if protocols else Echo(), "127.0.0.1", 0
    )
    for _ in range(3):
        with socket.create_connection(name(server)):
            count = len(protocols)
            await until(lambda: len(protocols) < count)
            await turns(5)
    await echo(*name(server))
    # A transport that never got to its protocol may still count.
    server.close()
    await turns(5)


async def test_out_of_descriptors():
    """asyncio tells the handler, pauses, and accepts again later."""
    loop = asyncio.get_running_loop()
    calls = handler_calls(loop)
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    listening = server.sockets[0].fileno()
    client = socket.socket()
    with client:
        client.setblocking(False)
        with no_free_fds():
            client.connect_ex(name(server))
            await until(lambda: calls)
            # The loop works on meanwhile, and does not spin.
            assert await asyncio.sleep(0.01, "alive") == "alive"
        context = calls[0]
        assert context["message"] == ("socket.accept() out of system resource")
        assert type(context["exception"]) is OSError
        assert context["exception"].errno == errno.EMFILE
        assert type(context["socket"]) is asyncio.trsock.TransportSocket
        assert context["socket"].fileno() == listening
        await loop.sock_sendall(client, b"x")
        assert await loop.sock_recv(client, 1) == b"x"
    await echo(*name(server))
    await shut(server)
    # asyncio reports once for each place in the backlog.
    assert {call["message"] for call in calls} == {context["message"]}


async def test_closed_while_out_of_descriptors():
    """The retry finds the server closed."""
    loop = asyncio.get_running_loop()
    calls = handler_calls(loop)
    server = await loop.create_server(Echo, "127.0.0.1", 0, backlog=1)
    with socket.socket() as client:
        client.setblocking(False)
        with no_free_fds():
            client.connect_ex(name(server))
            await until(lambda: calls)
        await shut(server)
    await asyncio.sleep(1.1)


# -- Unix sockets


async def test_unix():
    loop = asyncio.get_running_loop()
    with unix_path() as path:
        server = await loop.create_unix_server(Echo, path)
        assert stat.S_ISSOCK(os.stat(path).st_mode)
        assert server.sockets[0].family == socket.AF_UNIX
        assert name(server) == path
        await echo(path, family=socket.AF_UNIX)
        await shut(server)


async def test_unix_peer_names():
    loop = asyncio.get_running_loop()
    peers = []
    with unix_path() as path:
        server = await loop.create_unix_server(
            lambda: peers.append(Recorder()) or peers[-1], path
        )
        transport, _ = await loop.create_unix_connection(Recorder, path)
        assert transport.get_extra_info("peername") == path
        assert transport.get_extra_info("sockname") == ""
        await until(lambda: peers and peers[0].transport)
        assert peers[0].transport.get_extra_info("sockname") == path
        assert peers[0].transport.get_extra_info("peername") == ""
        transport.close()
        await peers[0].lost
        await shut(server)


async def test_unix_abstract():
    loop = asyncio.get_running_loop()
    path = f"\0pyloop-test-{os.getpid()}"
    server = await loop.create_unix_server(Echo, path)
    await echo(path, family=socket.AF_UNIX)
    await shut(server)


async def test_unix_path_like(tmp_path):
    loop = asyncio.get_running_loop()
    path = tmp_path / "s"
    server = await loop.create_unix_server(Echo, path)
    await echo(str(path), family=socket.AF_UNIX)
    await shut(server)


def test_unix_path_is_removed_or_stays(agree):
    """3.13 removes it on close."""

    async def scenario(loop):
        with unix_path() as path:
            server = await loop.create_unix_server(Echo, path)
            await shut(server)
            return os.path.exists(path)

    agree(scenario)


@pytest.mark.parametrize(
    "cleanup",
    [
        pytest.param({"cleanup_socket": True}, marks=since_313),
        pytest.param({"cleanup_socket": False}, marks=since_313),
        {},
    ],
    ids=str,
)
@pytest.mark.parametrize("given", [True, False])
def test_unix_cleanup_socket(agree, cleanup, given):
    async def scenario(loop):
        with unix_path() as path:
            if given:
                sock = socket.socket(socket.AF_UNIX)
                sock.bind(path)
                server = await loop.create_unix_server(
                    Echo, sock=sock, **cleanup
                )
            else:
                server = await loop.create_unix_server(Echo, path, **cleanup)
            await shut(server)
            return os.path.exists(path)

    left = agree(scenario)
    if cleanup:
        assert left is not cleanup["cleanup_socket"]


@since_313
async def test_unix_path_of_another_is_not_removed():
    loop = asyncio.get_running_loop()
    with unix_path() as path:
        first = await loop.create_unix_server(Echo, path)
        os.unlink(path)
        second = await loop.create_unix_server(Echo, path)
        await shut(first)
        assert os.path.exists(path)
        await echo(path, family=socket.AF_UNIX)
        await shut(second)


async def test_unix_stale_path_is_replaced():
    loop = asyncio.get_running_loop()
    with unix_path() as path:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(path)
        server = await loop.create_unix_server(Echo, path)
        await echo(path, family=socket.AF_UNIX)
        await shut(server)


def test_unix_errors(agree):
    async def scenario(loop):
        seen = []
        with unix_path() as path:
            with open(path, "w"):
                pass
            seen.append(await async_error(loop.create_unix_server(Echo, path)))
            os.unlink(path)
            missing = os.path.join(path, "missing")
            for kwargs in (
                {"path": missing},
                {},
                {"path": path, "sock": 5},
                {"path": path, "ssl": True},
                {"path": path, "ssl_handshake_timeout": 1},
                {"path": path, "ssl_shutdown_timeout": 1},
                {"path": "x" * 200},
                {"path": 5},
            ):
                result = await async_error(
                    loop.create_unix_server(Echo, **kwargs)
                )
                seen.append(result)
            with socket.socket() as sock:
                result = await async_error(
                    loop.create_unix_server(Echo, sock=sock)
                )
                seen.append(result[0])
        directory = os.path.dirname(path)
        return [
            (result[0], result[1].replace(directory, "DIR"))
            if isinstance(result, tuple)
            else result
            for result in seen
        ]

    seen = agree(scenario)
    assert seen[0][0] is OSError and "already in use" in seen[0][1]


# -- TLS


async def test_tls():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Echo, "127.0.0.1", 0, ssl=server_tls())
    assert isinstance(server._ssl_context, ssl.SSLContext)
    reader, writer = await asyncio.open_connection(
        *name(server), ssl=client_tls(), server_hostname="localhost"
    )
    writer.write(b"hello")
    assert await reader.readexactly(5) == b"hello"
    writer.close()
    await writer.wait_closed()
    await shut(server)


async def test_tls_client_that_speaks_plain():
    """Its failure is not the server's."""
    loop = asyncio.get_running_loop()
    calls = handler_calls(loop)
    server = await loop.create_server(Echo, "127.0.0.1", 0, ssl=server_tls())
    with socket.create_connection(name(server)) as sock:
        sock.setblocking(False)
        await loop.sock_sendall(sock, b"GET / HTTP/1.0\r\n\r\n")
        try:
            while await loop.sock_recv(sock, 1000):
                pass
        except ConnectionResetError:
            pass
    await shut(server)
    assert calls == []


async def test_closing_the_loop_under_a_server(loop_factory):
    """Nothing to be raised; the sockets go with the server."""

    def run():
        loop = loop_factory()
        server = loop.run_until_complete(
            loop.create_server(Echo, "127.0.0.1", 0)
        )
        address = name(server)
        loop.close()
        server._loop = None
        for sock in server._sockets:
            sock.close()
        return address

    import threading

    thread = threading.Thread(target=run)
    thread.start()
    await asyncio.to_thread(thread.join, DEADLINE)


async def test_start_server_callbacks():
    seen = []

    async def serve(reader, writer):
        seen.append(await reader.readline())
        writer.write(b"bye\n")
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*name(server))
    writer.write(b"hello\n")
    assert await reader.read() == b"bye\n"
    writer.close()
    await writer.wait_closed()
    await shut(server)
    assert seen == [b"hello\n"]
