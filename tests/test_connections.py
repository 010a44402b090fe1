import asyncio
import contextlib
import errno
import gc
import os
import socket
import ssl
import sys
import weakref

import pytest
from support import (
    DEADLINE,
    Recorder,
    async_error,
    client_tls,
    handler_calls,
    has_ipv6,
    may_drop_sockets,
    no_free_fds,
    open_fds,
    refusing_address,
    run_script,
    server_tls,
    silent_listener,
    turns,
    unix_path,
    until,
    wired,
)

needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")


@pytest.fixture
def listening():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock.getsockname()


class Unmade:
    """What every protocol has, but for connection_made()."""

    def connection_lost(self, exc):
        pass


@may_drop_sockets
async def test_protocol_without_connection_made(listening):
    loop = asyncio.get_running_loop()
    near, far = socket.socketpair()
    near.setblocking(False)
    with near, far:
        for attempt in (
            loop.create_connection(Unmade, sock=near),
            loop.create_connection(Unmade, *listening),
            loop.create_connection(Unmade, "localhost", listening[1]),
            loop.create_datagram_endpoint(Unmade, ("127.0.0.1", 0)),
        ):
            assert await async_error(attempt) == (
                AttributeError,
                "'Unmade' object has no attribute 'connection_made'",
            )
    gc.collect()


@may_drop_sockets
async def test_server_of_protocols_without_connection_made():
    """Such a connection is dropped, and reported in debug mode."""
    loop = asyncio.get_running_loop()
    calls = handler_calls(loop)
    loop.set_debug(True)
    server = await loop.create_server(Unmade, "127.0.0.1", 0)
    with socket.create_connection(
        server.sockets[0].getsockname(), DEADLINE
    ) as peer:
        await until(lambda: calls)
        assert type(calls[0].pop("exception")) is AttributeError
        gc.collect()
        assert peer.recv(1) == b""
    server.close()  # asyncio's counts the connection for ever
    assert calls[0]["message"] == (
        "Error on transport creation for incoming connection"
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", b"127.0.0.1"])
async def test_hosts(listening, host):
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_connection(
        Recorder, host, listening[1]
    )
    assert transport.get_extra_info("peername") == listening
    assert protocol.transport is transport
    transport.close()
    await protocol.lost


async def test_port_as_text(listening):
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_connection(
        Recorder, "127.0.0.1", str(listening[1])
    )
    transport.close()
    await protocol.lost


@needs_ipv6
async def test_ipv6():
    loop = asyncio.get_running_loop()
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as sock:
        port = sock.getsockname()[1]
        transport, protocol = await loop.create_connection(
            Recorder, "::1", port
        )
        assert transport.get_extra_info("peername") == ("::1", port, 0, 0)
        transport.close()
        await protocol.lost


async def test_family(listening):
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_connection(
        Recorder, "localhost", listening[1], family=socket.AF_INET
    )
    transport.close()
    await protocol.lost


async def test_local_addr(listening):
    loop = asyncio.get_running_loop()
    with socket.socket() as free:
        free.bind(("127.0.0.2", 0))
        local = free.getsockname()
    transport, protocol = await loop.create_connection(
        Recorder, *listening, local_addr=local
    )
    assert transport.get_extra_info("sockname") == local
    transport.abort()
    await protocol.lost


def test_local_addr_errors(agree, listening):
    with socket.create_server(("127.0.0.1", 0)) as taken:

        async def scenario(loop):
            return [
                await async_error(
                    loop.create_connection(
                        asyncio.Protocol, *listening, local_addr=local
                    )
                )
                for local in (
                    taken.getsockname(),
                    ("192.0.2.77", 0),
                    ("127.0.0.1", 70000),
                )
            ]

        seen = agree(scenario)
    assert seen[0][0] is OSError


def test_refused(agree):
    with refusing_address() as address:

        async def scenario(loop):
            return await async_error(
                loop.create_connection(asyncio.Protocol, *address)
            )

        seen = agree(scenario)
    assert seen[0] is ConnectionRefusedError
    assert "Connect call failed" in seen[1]


def test_refused_by_all_of_a_name(agree):
    with refusing_address() as (_, port):

        async def scenario(loop):
            result = await async_error(
                loop.create_connection(asyncio.Protocol, "localhost", port)
            )
            return result

        seen = agree(scenario)
    assert issubclass(seen[0], OSError)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="added in 3.12")
def test_all_errors(agree):
    with refusing_address() as (host, port):

        async def scenario(loop):
            try:
                await loop.create_connection(
                    asyncio.Protocol, host, port, all_errors=True
                )
            except ExceptionGroup as group:
                return str(group), [type(exc) for exc in group.exceptions]

        seen = agree(scenario)
    assert seen[1] == [ConnectionRefusedError]


@pytest.mark.parametrize("delay", [0.01, 0.25, 10])
@pytest.mark.parametrize("interleave", [None, 1, 2])
async def test_happy_eyeballs(listening, delay, interleave):
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_connection(
        Recorder,
        "localhost",
        listening[1],
        happy_eyeballs_delay=delay,
        interleave=interleave,
    )
    assert transport.get_extra_info("peername")[1] == listening[1]
    transport.close()
    await protocol.lost
    await turns()


@pytest.mark.parametrize(
    "options, expected",
    [
        ({}, [1, 2, 3, 4, 5]),
        ({"happy_eyeballs_delay": 0.001}, [1, 4, 2, 5, 3]),
        ({"happy_eyeballs_delay": 0.001, "interleave": 0}, [1, 2, 3, 4, 5]),
        ({"interleave": 1}, [1, 4, 2, 5, 3]),
        ({"interleave": 2}, [1, 2, 4, 3, 5]),
    ],
)
async def test_order_of_the_addresses(options, expected):
    loop = asyncio.get_running_loop()
    tried = []

    async def getaddrinfo(*args, **kwargs):
        return [
            *(
                (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", n, 0, 0))
                for n in (1, 2, 3)
            ),
            *(
                (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", n))
                for n in (4, 5)
            ),
        ]

    async def sock_connect(sock, address):
        tried.append(address[1])
        raise OSError("refused")

    loop.getaddrinfo = getaddrinfo
    loop.sock_connect = sock_connect
    try:
        with pytest.raises(OSError):
            await loop.create_connection(
                asyncio.Protocol, "name.invalid", 80, **options
            )
    finally:
        del loop.getaddrinfo, loop.sock_connect
    assert tried == expected


async def test_happy_eyeballs_takes_the_address_that_answers(listening):
    """The first address never answers, the second is right."""
    loop = asyncio.get_running_loop()
    with silent_listener() as silent:
        addresses = silent.getsockname(), listening

        async def getaddrinfo(host, port, **kwargs):
            return [
                (socket.AF_INET, socket.SOCK_STREAM, 6, "", address)
                for address in addresses
            ]

        loop.getaddrinfo = getaddrinfo
        transport, protocol = await loop.create_connection(
            Recorder, "name.invalid", 80, happy_eyeballs_delay=0.02
        )
        del loop.getaddrinfo
    assert transport.get_extra_info("peername") == listening
    transport.close()
    await protocol.lost


async def test_falls_back_to_the_next_address(listening):
    loop = asyncio.get_running_loop()
    with refusing_address() as (_, dead):

        async def getaddrinfo(host, port, **kwargs):
            return [
                (socket.AF_INET, socket.SOCK_STREAM, 6, "", address)
                for address in (("127.0.0.1", dead), listening)
            ]

        loop.getaddrinfo = getaddrinfo
        transport, protocol = await loop.create_connection(
            Recorder, "name.invalid", 80
        )
        del loop.getaddrinfo
    assert transport.get_extra_info("peername") == listening
    transport.close()
    await protocol.lost


def test_unknown_name(agree):
    async def scenario(loop):
        result = await async_error(
            loop.create_connection(asyncio.Protocol, "no.invalid", 80)
        )
        return result[0]

    assert agree(scenario) is socket.gaierror


@may_drop_sockets
def test_bad_arguments(agree, listening):
    async def scenario(loop):
        seen = []
        with (
            socket.socket() as tcp,
            socket.socket(type=socket.SOCK_DGRAM) as udp,
        ):
            for kwargs in (
                {},
                {"host": "127.0.0.1", "port": 1, "sock": tcp},
                {"sock": udp},
                {"host": "127.0.0.1", "port": 1, "server_hostname": "x"},
                {"sock": tcp, "ssl": True},
                {
                    "host": "127.0.0.1",
                    "port": 1,
                    "ssl_handshake_timeout": 1,
                },
                {"host": "127.0.0.1", "port": 1, "ssl_shutdown_timeout": 1},
                {
                    "host": "127.0.0.1",
                    "port": listening[1],
                    "ssl": True,
                    "ssl_handshake_timeout": -1,
                },
                {"sock": tcp},
                {"host": "127.0.0.1", "port": 70000},
                {"host": "127.0.0.1", "port": "none"},
                {"host": 5, "port": 5},
                {"host": "127.0.0.1", "port": 1, "family": 999},
                {
                    "host": "127.0.0.1",
                    "port": 1,
                    "local_addr": ("127.0.0.1",),
                },
            ):
                result = await async_error(
                    loop.create_connection(asyncio.Protocol, **kwargs)
                )
                if result and "<socket" in result[1]:
                    result = result[0], result[1].split("<socket")[0]
                seen.append(result)
        return seen

    seen = agree(scenario)
    assert seen[0][0] is ValueError


async def test_socket_given():
    async with wired() as (protocol, peer):
        peer.send(b"x")
        await protocol.receive(1)


async def test_connect_accepted_socket():
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with socket.create_connection(listener.getsockname()) as client:
            sock, _ = listener.accept()
            transport, protocol = await loop.connect_accepted_socket(
                Recorder, sock
            )
            assert sock.gettimeout() == 0
            client.send(b"hello")
            await protocol.receive(5)
            transport.write(b"bye")
            transport.close()  # pyloop sends at the end of the turn, or now
            client.settimeout(10)
            assert client.recv(3) == b"bye"
            await protocol.lost


async def test_connect_accepted_socket_with_tls():
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        opening = asyncio.ensure_future(
            asyncio.open_connection(
                *listener.getsockname(),
                ssl=client_tls(),
                server_hostname="localhost",
            )
        )
        listener.setblocking(False)
        sock, _ = await loop.sock_accept(listener)
        transport, protocol = await loop.connect_accepted_socket(
            Recorder, sock, ssl=server_tls()
        )
        reader, writer = await opening
        writer.write(b"hello")
        await protocol.receive(5)
        writer.close()
        await writer.wait_closed()
        await protocol.lost


async def test_unix():
    loop = asyncio.get_running_loop()
    with unix_path() as path, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        transport, protocol = await loop.create_unix_connection(Recorder, path)
        peer, _ = listener.accept()
        with peer:
            peer.send(b"x")
            await protocol.receive(1)
            transport.close()
            await protocol.lost


def test_unix_errors(agree):
    async def scenario(loop):
        seen = []
        with unix_path() as path:
            with socket.socket() as tcp:
                for kwargs in (
                    {"path": path},
                    {},
                    {"path": path, "sock": tcp},
                    {"sock": tcp},
                    {"path": path, "ssl": True},
                    {"path": path, "server_hostname": "x"},
                    {"path": "x" * 200},
                    {"path": 5},
                ):
                    result = await async_error(
                        loop.create_unix_connection(asyncio.Protocol, **kwargs)
                    )
                    if result and "<socket" in result[1]:
                        result = result[0], result[1].split("<socket")[0]
                    seen.append(result)
        return seen

    seen = agree(scenario)
    assert seen[0][0] is FileNotFoundError


async def test_tls_over_unix():
    loop = asyncio.get_running_loop()
    peers = []
    with unix_path() as path:
        server = await loop.create_unix_server(
            lambda: peers.append(Recorder()) or peers[-1],
            path,
            ssl=server_tls(),
        )
        transport, protocol = await loop.create_unix_connection(
            Recorder, path, ssl=client_tls(), server_hostname="localhost"
        )
        transport.write(b"x")
        await until(lambda: peers)
        await peers[0].receive(1)
        transport.close()
        await peers[0].lost
        await protocol.lost
        server.close()
        await server.wait_closed()


async def test_tls_refused_certificate():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        asyncio.Protocol, "127.0.0.1", 0, ssl=server_tls()
    )
    before = open_fds()
    for _ in range(3):
        with pytest.raises(ssl.SSLCertVerificationError):
            await loop.create_connection(
                asyncio.Protocol,
                *server.sockets[0].getsockname(),
                ssl=ssl.create_default_context(),
                server_hostname="localhost",
            )
    await until(lambda: open_fds().keys() <= before.keys())
    server.close()
    await server.wait_closed()


async def test_tls_handshake_timeout():
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        kind, text = await async_error(
            loop.create_connection(
                asyncio.Protocol,
                *listener.getsockname(),
                ssl=client_tls(),
                server_hostname="localhost",
                ssl_handshake_timeout=0.05,
            )
        )
    assert issubclass(kind, ConnectionAbortedError)
    assert "SSL handshake is taking longer than 0.05 seconds" in text


# -- cancellation and failures leave nothing


async def test_cancel_during_connect():
    loop = asyncio.get_running_loop()
    with silent_listener() as listener:
        before = open_fds()
        for _ in range(3):
            task = asyncio.ensure_future(
                loop.create_connection(Recorder, *listener.getsockname())
            )
            await turns(10)
            assert not task.done()
            assert len(open_fds()) == len(before) + 1
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await turns()
            assert open_fds().keys() == before.keys()


async def test_timeout_during_connect():
    loop = asyncio.get_running_loop()
    with silent_listener() as listener:
        before = open_fds()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await loop.create_connection(Recorder, *listener.getsockname())
        assert open_fds().keys() == before.keys()


async def test_cancel_at_each_step(listening):
    """Cancelled after any number of turns, a connect leaves no descriptor
    once its transport, if there is one, is closed."""
    loop = asyncio.get_running_loop()
    before = open_fds()
    for steps in range(12):
        made = []

        class Peer(asyncio.Protocol):
            def connection_made(self, transport):
                made.append(transport)

        task = asyncio.ensure_future(loop.create_connection(Peer, *listening))
        await turns(steps)
        task.cancel()
        try:
            transport, _ = await task
        except asyncio.CancelledError:
            pass
        else:
            transport.close()
        await turns(5)
        for transport in made:
            assert transport.is_closing()
        assert open_fds().keys() == before.keys()


async def test_cancel_at_each_step_of_tls():
    """Also in the middle of a handshake: no descriptor, no report, and the
    server's side ends too."""
    loop = asyncio.get_running_loop()
    peers = []

    def accept():
        peers.append(Recorder())
        return peers[-1]

    server = await loop.create_server(accept, "127.0.0.1", 0, ssl=server_tls())
    address = server.sockets[0].getsockname()
    before = open_fds().keys()
    context = client_tls()
    for steps in range(0, 40, 3):
        task = asyncio.ensure_future(
            loop.create_connection(
                Recorder, *address, ssl=context, server_hostname="localhost"
            )
        )
        await turns(steps)
        task.cancel()
        try:
            transport, _ = await task
        except asyncio.CancelledError:
            pass
        else:
            transport.abort()
        del task
        await until(lambda: open_fds().keys() <= before)
    server.close()
    await server.wait_closed()


@contextlib.contextmanager
def no_collector():
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.mark.parametrize("all_errors", [False, True])
def test_failure_leaves_no_cycle(run, all_errors):
    """No frame, and so no factory, outlives the exception."""
    if sys.version_info < (3, 12) and all_errors:
        pytest.skip("added in 3.12")

    class Factory:
        def __call__(self):
            raise AssertionError

    async def main():
        loop = asyncio.get_running_loop()
        factory = Factory()
        ref = weakref.ref(factory)
        kwargs = {"all_errors": True} if all_errors else {}
        with refusing_address() as address:
            try:
                await loop.create_connection(factory, *address, **kwargs)
            except (OSError, ExceptionGroup):
                pass
        del factory
        await turns(1)
        assert ref() is None

    with no_collector():
        run(main())


@may_drop_sockets
async def test_protocol_factory_that_fails(listening):
    loop = asyncio.get_running_loop()
    before = open_fds()

    def factory():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await loop.create_connection(factory, *listening)
    gc.collect()
    assert open_fds().keys() == before.keys()


async def test_connection_that_takes_a_while():
    """Longer than the handshake within a machine: it is waited for."""
    loop = asyncio.get_running_loop()
    accepted = []
    with silent_listener() as listener:
        task = asyncio.ensure_future(
            loop.create_connection(Recorder, *listener.getsockname())
        )
        await turns(10)
        assert not task.done()
        listener.setblocking(False)
        # The queue is let go of, and the kernel asks again.
        while not task.done():
            accepting = asyncio.ensure_future(loop.sock_accept(listener))
            await asyncio.wait(
                [accepting, task], return_when="FIRST_COMPLETED"
            )
            if accepting.done():
                accepted.append(accepting.result()[0])
            else:
                accepting.cancel()
                await asyncio.wait([accepting])
        transport, protocol = await task
        name = listener.getsockname()
        assert transport.get_extra_info("peername") == name
        transport.abort()
        await protocol.lost
    for sock in accepted:
        sock.close()


@pytest.mark.parametrize(
    "family, host, connected_to",
    [
        (socket.AF_INET, "127.0.0.1", "127.0.0.1"),
        (socket.AF_INET, "0.0.0.0", "127.0.0.1"),
        pytest.param(socket.AF_INET6, "::1", "::1", marks=needs_ipv6),
        pytest.param(socket.AF_INET6, "::", "::1", marks=needs_ipv6),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else "",
)
async def test_what_the_transport_shows(family, host, connected_to):
    loop = asyncio.get_running_loop()
    with socket.create_server((connected_to, 0), family=family) as listener:
        transport, protocol = await loop.create_connection(
            Recorder, host, listener.getsockname()[1]
        )
        peer, name = listener.accept()
        peer.close()
        assert transport.get_extra_info("peername") == listener.getsockname()
        assert transport.get_extra_info("sockname") == name
        sock = transport.get_extra_info("socket")
        assert sock.family is family and sock.type is socket.SOCK_STREAM
        assert sock.proto == socket.IPPROTO_TCP and sock.gettimeout() == 0
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert not os.get_inheritable(sock.fileno())
        transport.abort()
        await protocol.lost
        assert transport.get_extra_info("sockname") == name


async def test_made_before_it_is_returned(listening):
    loop = asyncio.get_running_loop()
    order = []

    class Peer(asyncio.Protocol):
        def connection_made(self, transport):
            order.append("made")

        def data_received(self, data):
            order.append("data")
            transport.close()

        def connection_lost(self, exc):
            lost.set_result(None)

    lost = loop.create_future()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)

        async def greet():
            conn, _ = await loop.sock_accept(listener)
            with conn:
                await loop.sock_sendall(conn, b"hello")

        greeting = asyncio.ensure_future(greet())
        loop.call_soon(order.append, "scheduled before")
        transport, _ = await loop.create_connection(
            Peer, *listener.getsockname()
        )
        order.append("returned")
        await greeting
        await lost
    assert order == ["scheduled before", "made", "returned", "data"]


def test_connection_made_that_fails(agree, listening):
    """The loop's exception handler has it, and the connection stands."""

    class Peer(asyncio.Protocol):
        def connection_made(self, transport):
            raise ZeroDivisionError

    async def scenario(loop):
        calls = handler_calls(loop)
        transport, _ = await loop.create_connection(Peer, *listening)
        seen = [
            (sorted(call), type(call["exception"]), call["message"][:21])
            for call in calls
        ]
        transport.abort()
        await turns(3)
        return seen, transport.is_closing()

    assert agree(scenario)[0]


def test_no_descriptor_left_to_connect_with(agree, listening):
    async def scenario(loop):
        with no_free_fds():
            return await async_error(
                loop.create_connection(asyncio.Protocol, *listening)
            )

    assert agree(scenario) == (OSError, "[Errno 24] Too many open files")


@pytest.mark.parametrize(
    "host, port",
    [
        ("127.0.0.1", 1 << 16),
        ("127.0.0.1", -1),
        ("127.0.0.1", "no-such-service"),
        ("127.0.0.1", 9.5),
        ("127.0.0.1", None),
        ("127.0.0.1\0", 9),
        ("fe80::1%nowhere", 9),
        (None, None),
        (5, 9),
        ("255.255.255.255", 9),
    ],
    ids=ascii,
)
def test_addresses_that_cannot_be(agree, host, port):
    async def scenario(loop):
        return await async_error(
            loop.create_connection(asyncio.Protocol, host, port)
        )

    agree(scenario)


def test_connecting_in_debug_mode(loop, listening):
    loop.set_debug(True)

    async def main():
        transport, protocol = await loop.create_connection(
            Recorder, *listening
        )
        transport.close()
        await protocol.lost

    loop.run_until_complete(main())
    loop.set_debug(False)


def test_audit_hooks_see_it(loop_name):
    code = """
    import asyncio, socket, sys
    seen = []
    def hook(event, args):
        if event in ("socket.connect", "socket.getaddrinfo"):
            seen.append((event, args[1]))
    sys.addaudithook(hook)
    async def main():
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            address = listener.getsockname()
            transport, _ = await loop.create_connection(
                asyncio.Protocol, *address)
            transport.abort()
            with socket.socket() as sock:
                sock.setblocking(False)
                await loop.sock_connect(sock, address)
        await loop.getaddrinfo("127.0.0.1", 80)
        assert seen == [("socket.connect", address)] * 2 + [
            ("socket.getaddrinfo", 80)], seen
    run(main())
    """
    run_script(loop_name, code)


@pytest.mark.parametrize(
    "case",
    ["name", "path", "local address", "timeout", "server"],
)
def test_other_failures_leave_no_cycle(run, case):
    class Factory:
        def __call__(self):
            raise AssertionError

    async def attempt(factory):
        loop = asyncio.get_running_loop()
        nowhere = "192.0.2.77", 0
        if case == "path":
            await loop.create_unix_connection(factory, "/no/such/path")
        elif case == "server":
            await loop.create_server(factory, *nowhere)
        elif case == "timeout":
            with silent_listener() as silent:
                await asyncio.wait_for(
                    loop.create_connection(factory, *silent.getsockname()),
                    0.01,
                )
        else:
            with refusing_address() as (host, port):
                if case == "name":
                    await loop.create_connection(factory, "localhost", port)
                else:
                    await loop.create_connection(
                        factory, host, port, local_addr=nowhere
                    )

    async def main():
        factory = Factory()
        ref = weakref.ref(factory)
        assert await async_error(attempt(factory))
        del factory
        await turns(5)
        assert ref() is None

    with no_collector():
        run(main())


async def test_loop_turns_between_connections(listening):
    """However quick they are, connecting over and over starves nobody, and
    what was closed is closed."""
    loop = asyncio.get_running_loop()
    turned = []
    before = len(open_fds())
    for n in range(50):
        loop.call_soon(turned.append, n)
        transport, _ = await loop.create_connection(
            asyncio.Protocol, *listening
        )
        transport.abort()
        assert len(turned) == n + 1
        assert len(open_fds()) < before + 5


async def test_many_connections_at_once(listening):
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0), backlog=500) as listener:
        pairs = await asyncio.gather(
            *[
                loop.create_connection(Recorder, *listener.getsockname())
                for _ in range(200)
            ]
        )
        for transport, protocol in pairs:
            transport.close()
        await asyncio.gather(*[protocol.lost for _, protocol in pairs])


async def test_connecting_to_a_port_of_ones_own():
    """Not refused by chance: the text names the address."""
    loop = asyncio.get_running_loop()
    with refusing_address() as address:
        with pytest.raises(ConnectionRefusedError) as info:
            await asyncio.wait_for(
                loop.create_connection(Recorder, *address), DEADLINE
            )
    assert info.value.errno == errno.ECONNREFUSED
    assert str(address) in str(info.value)
