"""A program closes the socket it has given to the loop, and the number of its
descriptor becomes another's: nothing may reach that one, or come from it.
"""

import asyncio
import contextlib
import errno
import gc
import os
import socket
import warnings
import weakref

import pytest
from support import (
    DatagramRecorder,
    Recorder,
    async_error,
    connected,
    handler_calls,
    shut,
    spin,
    turns,
    wired,
)


def reused(number, pair=None):
    """A socket of that number, non-blocking, and its peer."""
    near, far = pair or socket.socketpair()
    if near.fileno() != number:
        os.dup2(near.fileno(), number)
        near.close()
        near = socket.socket(fileno=number)
    near.setblocking(False)
    far.setblocking(False)
    return near, far


@contextlib.contextmanager
def closed(sock, pair=None):
    """Closed, and its number a stranger's: the stranger and its peer."""
    number = sock.fileno()
    sock.close()
    stranger, other = reused(number, pair)
    with stranger, other:
        yield stranger, other


def nothing_arrives(sock):
    with pytest.raises(BlockingIOError):
        sock.recv(100)


def act(transport, how):
    """What a program may do with it; "end" ends the connection."""
    if how == "write":
        transport.write(b"secret")
    elif how == "large":
        transport.write(bytes(1 << 20))
    elif how == "mutable":
        transport.write(bytearray(1 << 20))
    elif how == "lines":
        transport.writelines([b"se", b"cret"])
    elif how == "eof":
        try:
            transport.write_eof()
        except OSError as exc:
            assert exc.errno == errno.EBADF
    else:
        getattr(transport, how)()


actions = pytest.mark.parametrize(
    "how",
    ["write", "large", "mutable", "lines", "eof", "close", "abort"],
)


@actions
@pytest.mark.parametrize("reading", [True, False])
async def test_socket_that_was_given(how, reading):
    handler_calls(asyncio.get_running_loop())
    ours, peer = socket.socketpair()
    async with wired(pair=(ours, peer)) as (protocol, peer):
        transport = protocol.transport
        if not reading:
            transport.pause_reading()
        with closed(ours) as (stranger, other):
            act(transport, how)
            await turns()
            nothing_arrives(other)
            other.send(b"for the stranger")
            await turns()
            assert stranger.recv(100) == b"for the stranger"
            if how == "eof":
                transport.abort()
            lost = await protocol.lost
            if how not in ("eof", "close", "abort"):
                assert lost.errno == errno.EBADF
            stranger.send(b"alive")
            assert other.recv(100) == b"alive"
            nothing_arrives(other)
        assert "data" not in protocol.calls


@actions
async def test_socket_that_was_asked_for(how):
    """Of an accepted connection; TransportSocket has no close()."""
    handler_calls(asyncio.get_running_loop())
    async with connected() as (_, protocol):
        transport = protocol.transport
        sock = transport.get_extra_info("socket")._sock
        with closed(sock) as (stranger, other):
            act(transport, how)
            await turns()
            nothing_arrives(other)
            transport.abort()
            await protocol.lost
            stranger.send(b"alive")
            assert other.recv(100) == b"alive"


async def test_resumed_transport(pyloop_only):
    """It ends, for nothing will come; asyncio watches the stranger."""
    ours, peer = socket.socketpair()
    async with wired(pair=(ours, peer)) as (protocol, peer):
        protocol.transport.pause_reading()
        with closed(ours) as (stranger, other):
            protocol.transport.resume_reading()
            assert (await protocol.lost).errno == errno.EBADF
            other.send(b"x")
            assert stranger.recv(10) == b"x"


async def test_what_was_written_in_the_turn(pyloop_only):
    """Not sent any more, and told; asyncio has sent it."""
    ours, peer = socket.socketpair()
    async with wired(pair=(ours, peer)) as (protocol, peer):
        protocol.transport.write(b"in this turn")
        with closed(ours) as (stranger, other):
            assert (await protocol.lost).errno == errno.EBADF
            nothing_arrives(other)


@pytest.mark.parametrize("remote", [True, False])
async def test_datagrams(remote):
    loop = asyncio.get_running_loop()
    with socket.socket(type=socket.SOCK_DGRAM) as target:
        target.bind(("127.0.0.1", 0))
        ours = socket.socket(type=socket.SOCK_DGRAM)
        if remote:
            ours.connect(target.getsockname())
        else:
            ours.bind(("127.0.0.1", 0))
        ours.setblocking(False)
        transport, protocol = await loop.create_datagram_endpoint(
            DatagramRecorder, sock=ours
        )
        stranger = socket.socket(type=socket.SOCK_DGRAM)
        stranger.connect(target.getsockname())
        with closed(ours, (stranger, target)) as (stranger, other):
            transport.sendto(
                b"secret", None if remote else other.getsockname()
            )
            assert [exc.errno for exc in protocol.errors] == [errno.EBADF]
            nothing_arrives(other)
            transport.abort()
            await protocol.lost
            stranger.send(b"alive")
            assert other.recv(10) == b"alive"


async def test_the_number_is_a_new_connections(pyloop_only):
    """The new one works, the old one ends; asyncio makes no new one."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Recorder, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    ours, peer = socket.socketpair()
    async with wired(pair=(ours, peer)) as (old, peer):
        old.transport.pause_reading()
        number = ours.fileno()
        ours.close()
        held = []
        while True:
            _, new = await loop.create_connection(Recorder, host, port)
            held.append(new)
            sock = new.transport.get_extra_info("socket")
            if sock.fileno() == number:
                break
        old.transport.resume_reading()
        old.transport.write(b"of the old one")
        new.transport.write(b"of the new one")
        assert (await old.lost).errno == errno.EBADF
        new.transport.write_eof()
        assert await new.lost is None
        for protocol in held:
            protocol.transport.abort()
    await shut(server)


class Factory:
    def __call__(self):
        return Recorder()


def test_a_listener_is_let_go(loop_factory, pyloop_only):
    """Its number is a transport's by then; asyncio keeps it."""
    loop, factory = loop_factory(), Factory()
    refs = [weakref.ref(loop), weakref.ref(factory)]

    async def main(loop, factory):
        listening = socket.create_server(("127.0.0.1", 0))
        number = listening.fileno()
        server = await loop.create_server(factory, sock=listening)
        listening.close()
        async with wired(pair=reused(number)) as (protocol, peer):
            peer.send(b"x")
            assert await protocol.receive(1) == b"x"
        await async_error(shut(server))  # its socket has no number any more

    loop.run_until_complete(main(loop, factory))
    loop.close()
    del loop, factory
    gc.collect()
    assert [ref() for ref in refs] == [None, None]


@pytest.mark.parametrize("use", ["add_reader", "sock_recv"])
def test_what_watched_is_let_go_for_a_listener(loop_factory, use, pyloop_only):
    loop, kept = loop_factory(), Factory()
    ref = weakref.ref(kept)

    async def main(loop, kept):
        near, far = socket.socketpair()
        near.setblocking(False)
        number = near.fileno()
        if use == "add_reader":
            loop.add_reader(near, kept)
        else:
            task = loop.create_task(loop.sock_recv(near, 1))
            task.kept = kept
            await turns()
        near.close()
        listening, _ = reused(
            number, (socket.create_server(("127.0.0.1", 0)), far)
        )
        far.close()
        server = await loop.create_server(Recorder, sock=listening)
        if use == "sock_recv":
            task.cancel()
            await turns()
        _, protocol = await loop.create_connection(
            Recorder, *listening.getsockname()
        )
        protocol.transport.abort()
        await protocol.lost
        await shut(server)

    loop.run_until_complete(main(loop, kept))
    loop.close()
    del loop, kept
    gc.collect()
    assert ref() is None


@pytest.mark.parametrize("how", ["pause_reading", "abort"])
def test_the_watch_ends_once(loop_factory, how, pyloop_only):
    """Of what a closed socket was watched for the loop holds nothing more."""
    loop = loop_factory()
    near, far = socket.socketpair()
    near.setblocking(False)
    transport, _ = loop.run_until_complete(
        loop.create_connection(asyncio.Protocol, sock=near)
    )
    spin(loop)
    ref = weakref.ref(transport)
    near.close()
    getattr(transport, how)()
    spin(loop)
    spin(loop)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        loop.close()
        gc.collect()
        assert ref() is transport
        assert repr(transport)
        del transport
        gc.collect()
    assert ref() is None
    far.close()


def test_detached_socket_does_not_keep_the_loop_awake(loop, pyloop_only):
    """The number stays open and readable, but is not the transport's."""
    near, far = socket.socketpair()
    near.setblocking(False)
    transport, _ = loop.run_until_complete(
        loop.create_connection(asyncio.Protocol, sock=near)
    )
    spin(loop)
    number = near.detach()
    transport.pause_reading()
    far.send(b"x")
    polls = loop.stats().polls
    loop.run_until_complete(asyncio.sleep(0.05))
    assert loop.stats().polls - polls < 20
    transport.abort()
    spin(loop)
    spin(loop)
    os.close(number)
    far.close()


async def test_the_number_of_a_socket_nobody_asked_for(pyloop_only):
    """Closed by number; then the old transport has no socket to show."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Recorder, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    _, old = await loop.create_connection(Recorder, *address)
    number = old.transport._sock_fd
    old.transport.pause_reading()
    os.close(number)
    held = []
    while True:
        _, new = await loop.create_connection(Recorder, *address)
        held.append(new)
        if new.transport._sock_fd == number:
            break
    assert old.transport.get_extra_info("socket").fileno() == -1
    old.transport.write(b"of the old one")
    assert (await old.lost).errno == errno.EBADF
    new.transport.write_eof()
    assert await new.lost is None
    for protocol in held:
        protocol.transport.abort()
    await shut(server)


class Wrapped(socket.socket):
    """Has no descriptor of its own, and another's methods."""

    def __init__(self, inner):
        self.inner = inner
        self._closed = False
        self._io_refs = 0

    type = property(lambda self: self.inner.type)
    family = property(lambda self: self.inner.family)


for name in (
    *("fileno", "send", "sendmsg", "recv", "recv_into", "close"),
    *("gettimeout", "setblocking", "shutdown", "getsockname"),
    *("getpeername", "getsockopt"),
):
    setattr(
        Wrapped,
        name,
        lambda self, *args, name=name: getattr(self.inner, name)(*args),
    )


async def test_socket_with_a_number_of_its_own():
    inner, peer = socket.socketpair()
    async with wired(pair=(Wrapped(inner), peer)) as (protocol, peer):
        protocol.transport.write(b"x")
        peer.send(b"y")
        assert await protocol.receive(1) == b"y"
        assert peer.recv(10) == b"x"
