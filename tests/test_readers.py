import asyncio
import errno
import fcntl
import os
import socket
import sys

import pytest
from support import (
    Recorder,
    error,
    fill,
    handler_calls,
    spin,
    turns,
    until,
    wired,
)


@pytest.fixture
def pair():
    near, far = socket.socketpair()
    near.setblocking(False)
    far.setblocking(False)
    yield near, far
    near.close()
    far.close()


@pytest.fixture
def pipe():
    """Two ends that a test may close itself, and no number closed twice."""
    ends = [
        os.fdopen(fd, "rb" if not i else "wb", 0)
        for i, fd in enumerate(os.pipe())
    ]
    yield ends[0].fileno(), ends[1].fileno()
    for end in ends:
        end.close()


def test_arguments_by_name(loop, pair):
    near, far = pair
    seen = []
    loop.add_reader(near, callback=lambda: seen.append(near.recv(10)))
    loop.add_writer(callback=lambda: seen.append("writable"), fd=near)
    far.send(b"data")
    spin(loop)
    spin(loop)
    assert {b"data", "writable"} <= set(seen)
    assert loop.remove_reader(fd=near)
    assert loop.remove_writer(fd=near)
    for method in loop.add_reader, loop.add_writer:
        for args, names in (
            ((), {"fd": near}),
            ((near,), {"fd": near}),
            ((near, int), {"callback": int}),
            ((near, int), {"other": int}),
        ):
            assert error(method, *args, **names)[0] is TypeError


def close_end(fd):
    """Close the description behind fd and leave the number taken."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, fd)
    os.close(null)


def settle(loop):
    for _ in range(5):
        spin(loop)


def test_reader_runs_while_there_is_data(loop, pair):
    near, far = pair
    seen = []

    def read(*args):
        seen.append((near.recv(1), args))

    loop.add_reader(near, read, 1, "two")
    settle(loop)
    assert seen == []
    far.send(b"ab")
    while len(seen) < 2:
        spin(loop)
    settle(loop)
    assert seen == [(b"a", (1, "two")), (b"b", (1, "two"))]
    assert loop.remove_reader(near)


def test_writer_runs_while_there_is_room(loop, pair):
    near, far = pair
    seen = []
    loop.add_writer(near, seen.append, 1)
    while len(seen) < 3:
        spin(loop)
    fill(near)
    count = len(seen)
    settle(loop)
    assert len(seen) <= count + 1
    assert loop.remove_writer(near)


def test_return_values(agree, pair):
    near, far = pair

    def scenario(loop):
        return [
            loop.remove_reader(near),
            loop.remove_writer(near),
            loop.add_reader(near, print),
            loop.add_writer(near, print),
            loop.remove_reader(near),
            loop.remove_reader(near),
            loop.remove_writer(near),
            loop.remove_writer(near),
            loop.add_reader(near.fileno(), print),
            loop.remove_writer(near),
            loop.remove_reader(near.fileno()),
        ]

    assert agree(scenario) == [
        *(False, False, None, None, True, False, True, False),
        *(None, False, True),
    ]


def test_reader_and_writer_on_one_socket(loop, pair):
    near, far = pair
    seen = set()
    far.send(b"x")
    loop.add_reader(near, seen.add, "reader")
    loop.add_writer(near, seen.add, "writer")
    while len(seen) < 2:
        spin(loop)
    loop.remove_writer(near)
    settle(loop)
    seen.clear()
    settle(loop)
    assert seen == {"reader"}
    loop.add_writer(near, seen.add, "writer")
    loop.remove_reader(near)
    settle(loop)
    seen.clear()
    settle(loop)
    assert seen == {"writer"}
    loop.remove_writer(near)


def test_replaced_reader(loop, pair):
    near, far = pair
    seen = []
    far.send(b"x")
    loop.add_reader(near, seen.append, "old")
    loop.add_reader(near, seen.append, "new")
    settle(loop)
    assert set(seen) == {"new"}
    loop.remove_reader(near)


def test_replaced_writer(loop, pair):
    near, far = pair
    seen = []
    loop.add_writer(near, seen.append, "old")
    loop.add_writer(near, seen.append, "new")
    settle(loop)
    assert set(seen) == {"new"}
    loop.remove_writer(near)


def test_replaced_in_the_turn_it_is_ready(loop, pair):
    """The old one is cancelled even when it is already queued."""
    near, far = pair
    other, peer = socket.socketpair()
    with other, peer:
        seen = []

        def replace(own, sock):
            seen.append("old")
            loop.remove_reader(own)
            loop.add_reader(sock, seen.append, "new")

        far.send(b"x")
        peer.send(b"x")
        loop.add_reader(near, replace, near, other)
        loop.add_reader(other, replace, other, near)
        while "new" not in seen:
            spin(loop)
        settle(loop)
        assert seen[1:] == ["new"] * len(seen[1:])
        loop.remove_reader(near)
        loop.remove_reader(other)


def test_removed_in_the_turn_it_is_ready(loop, pair):
    near, far = pair
    other, peer = socket.socketpair()
    with other, peer:
        seen = []

        def remove(name):
            seen.append(name)
            loop.remove_reader(near)
            loop.remove_reader(other)

        far.send(b"x")
        peer.send(b"x")
        loop.add_reader(near, remove, "near")
        loop.add_reader(other, remove, "other")
        while not seen:
            spin(loop)
        settle(loop)
        assert len(seen) == 1


def test_removed_reader_does_not_run(loop, pair):
    near, far = pair
    far.send(b"x")
    loop.add_reader(near, pytest.fail, "removed reader ran")
    loop.remove_reader(near)
    settle(loop)


def test_reader_that_removes_itself(loop, pair):
    near, far = pair
    seen = []

    def read():
        seen.append(loop.remove_reader(near))

    far.send(b"x")
    loop.add_reader(near, read)
    while not seen:
        spin(loop)
    settle(loop)
    assert seen == [True]


def test_removed_by_a_callback_of_the_same_turn(loop, pair):
    near, far = pair
    far.send(b"x")
    seen = []
    loop.add_reader(near, seen.append, 1)
    loop.call_soon(loop.remove_reader, near)
    settle(loop)
    # Ready in the poll before the removal at most.
    assert seen in ([], [1])
    del seen[:]
    settle(loop)
    assert seen == []


def test_exception_in_a_reader_keeps_it(loop, pair):
    near, far = pair
    calls = handler_calls(loop)

    def read():
        raise ValueError("no")

    far.send(b"x")
    loop.add_reader(near, read)
    while len(calls) < 2:
        spin(loop)
    assert loop.remove_reader(near)
    assert calls[0]["message"].startswith("Exception in callback ")


def test_reused_descriptor_is_a_new_descriptor(loop):
    """Removed before the close, as asyncio demands."""
    for _ in range(20):
        near, far = socket.socketpair()
        seen = []
        number = near.fileno()
        loop.add_reader(near, seen.append, "old")
        loop.add_writer(near, seen.append, "old")
        spin(loop)
        del seen[:]
        loop.remove_reader(near)
        loop.remove_writer(near)
        near.close()
        far.close()
        near, far = socket.socketpair()
        assert number in (near.fileno(), far.fileno())
        with near, far:
            far.send(b"x")
            near.send(b"x")
            loop.add_reader(number, seen.append, "new")
            settle(loop)
            assert set(seen) == {"new"}
            loop.remove_reader(number)


def test_reused_descriptor_that_was_never_removed(loop):
    """A socket closed while watched: a new one with its number works."""
    near, far = socket.socketpair()
    number = near.fileno()
    loop.add_reader(number, pytest.fail, "of the closed socket")
    spin(loop)
    near.close()
    far.close()
    settle(loop)
    near, far = socket.socketpair()
    with near, far:
        sock, peer = (near, far) if near.fileno() == number else (far, near)
        assert sock.fileno() == number
        seen = []
        loop.remove_reader(number)
        loop.add_reader(number, seen.append, "new")
        peer.send(b"x")
        settle(loop)
        assert "new" in seen
        loop.remove_reader(number)


@pytest.mark.parametrize("use", ["add_reader", "transport", "sock_recv"])
async def test_reused_number_watched_without_removal(use, pyloop_only):
    """Whatever is done with the new socket first; asyncio waits for ever."""
    loop = asyncio.get_running_loop()
    near, far = socket.socketpair()
    number = near.fileno()
    loop.add_reader(near, pytest.fail, "of the closed socket")
    await turns()
    near.close()
    far.close()
    near, far = socket.socketpair()
    sock, peer = (near, far) if near.fileno() == number else (far, near)
    assert sock.fileno() == number
    sock.setblocking(False)
    with sock, peer:
        peer.send(b"x")
        if use == "add_reader":
            readable = asyncio.Event()
            loop.add_reader(sock, readable.set)
            await readable.wait()
            loop.remove_reader(sock)
        elif use == "sock_recv":
            assert await loop.sock_recv(sock, 10) == b"x"
            receiving = asyncio.ensure_future(loop.sock_recv(sock, 10))
            await turns()
            peer.send(b"y")
            assert await receiving == b"y"
        else:
            transport, protocol = await loop.create_connection(
                Recorder, sock=sock
            )
            assert await protocol.receive(1) == b"x"
            transport.abort()
            await protocol.lost


def test_dup_after_close_of_the_original(loop, pair):
    """The kernel reports the old number as long as the duplicate lives; the
    loop must neither spin nor call the removed reader."""
    near, far = pair
    loop.add_reader(near, pytest.fail, "removed reader ran")
    spin(loop)
    copy = near.dup()
    with copy:
        loop.remove_reader(near)
        near.close()
        far.send(b"x")
        settle(loop)
        seen = []
        loop.add_reader(copy, seen.append, 1)
        settle(loop)
        assert seen
        loop.remove_reader(copy)


@pytest.mark.parametrize("what", ["reader", "transport"])
@pytest.mark.parametrize("holder", ["duplicate", "child"])
async def test_no_spinning_for_what_was_closed_while_watched(
    what, holder, pyloop_only
):
    """A copy of the descriptor lives on, and the kernel reports it; asyncio
    spins. What is still watched goes on."""
    loop = asyncio.get_running_loop()
    near, far = socket.socketpair()
    near.setblocking(False)
    if what == "reader":
        loop.add_reader(near, pytest.fail, "reader of a closed socket")
    else:
        transport, _ = await loop.create_connection(Recorder, sock=near)
    await turns()
    if holder == "duplicate":
        copy = near.dup()
    else:
        copy = await asyncio.create_subprocess_exec("sleep", "60", stdin=near)
    async with wired() as (protocol, peer):
        near.close()
        if what == "reader":
            assert loop.remove_reader(near) is True
        else:
            transport.abort()
        far.send(b"x")
        peer.send(b"y")
        assert await protocol.receive(1) == b"y"
        polls = loop.stats().polls
        await asyncio.sleep(0.02)
        assert loop.stats().polls - polls < 20
        peer.send(b"z")
        assert await protocol.receive(2) == b"yz"
    far.close()
    if holder == "duplicate":
        copy.close()
    else:
        copy.kill()
        await copy.wait()


def test_two_descriptors_of_one_socket(loop, pair):
    near, far = pair
    copy = near.dup()
    with copy:
        seen = set()
        loop.add_reader(near, seen.add, "near")
        loop.add_reader(copy, seen.add, "copy")
        far.send(b"x")
        while len(seen) < 2:
            spin(loop)
        loop.remove_reader(near)
        seen.clear()
        settle(loop)
        seen.clear()
        settle(loop)
        assert seen == {"copy"}
        loop.remove_reader(copy)


def test_file_objects(loop, pipe):
    class Wrapper:
        def __init__(self, fd):
            self.fd = fd

        def fileno(self):
            return self.fd

    read, write = pipe
    seen = []
    with open(read, "rb", buffering=0, closefd=False) as file:
        loop.add_reader(file, seen.append, "file")
        os.write(write, b"x")
        while not seen:
            spin(loop)
        # The number, the file and any other object for it are the same.
        loop.add_reader(Wrapper(read), seen.append, "wrapper")
        settle(loop)
        assert seen[-1] == "wrapper"
        assert loop.remove_reader(read)
        assert not loop.remove_reader(file)


@pytest.mark.parametrize("side", ["reader", "writer"])
def test_removal_by_the_object_after_its_close(loop, pair, side):
    """fileno() is -1 by then: found by identity."""
    near, far = pair
    if side == "reader":
        loop.add_reader(near, pytest.fail, "reader of a closed socket")
        remove = loop.remove_reader
    else:
        loop.add_writer(near, lambda: None)
        remove = loop.remove_writer
    spin(loop)
    near.close()
    assert near.fileno() == -1
    assert remove(near) is True
    settle(loop)


def test_removal_of_both_sides_after_the_close(loop, loop_name):
    """asyncio forgets the object with the first that fails."""
    near, far = socket.socketpair()
    with far:
        loop.add_reader(near, pytest.fail, "reader of a closed socket")
        loop.add_writer(near, lambda: None)
        spin(loop)
        near.close()
        if loop_name == "pyloop":
            assert loop.remove_reader(near) is True
            assert loop.remove_writer(near) is True
        else:
            assert error(loop.remove_reader, near)[0] is OSError
        assert error(loop.remove_reader, near)[0] is ValueError
        settle(loop)


def test_closed_objects(agree):
    def scenario(loop):
        near, far = socket.socketpair()
        near.close()
        far.close()
        seen = [
            error(loop.add_reader, near, print),
            error(loop.add_writer, near, print),
            error(loop.remove_reader, near),
            error(loop.remove_writer, near),
        ]
        return [result and result[0] for result in seen]

    agree(scenario)


@pytest.mark.parametrize("value", [None, "0", 1.5, object(), -1, -5, []])
def test_bad_arguments(agree, value):
    def scenario(loop):
        seen = [
            error(loop.add_reader, value, print),
            error(loop.add_writer, value, print),
            error(loop.remove_reader, value),
            error(loop.remove_writer, value),
        ]
        return [
            (result[0], result[1].split(":")[0]) if result else None
            for result in seen
        ]

    seen = agree(scenario)
    assert seen[0][0] is ValueError


def test_descriptor_that_is_not_open(agree):
    def scenario(loop):
        fd = os.dup(0)
        os.close(fd)
        seen = [
            error(loop.add_reader, fd, print),
            error(loop.add_writer, fd, print),
            loop.remove_reader(fd),
        ]
        return [
            result and (result[0], result[1].replace(str(fd), "FD"))
            for result in seen
        ]

    seen = agree(scenario)
    assert seen[0] == (OSError, f"[Errno {errno.EBADF}] Bad file descriptor")


def test_huge_descriptor(agree):
    def scenario(loop):
        result = error(loop.add_reader, 10**6, print)
        other = error(loop.add_reader, 1 << 40, print)
        return result, other and other[0]

    agree(scenario)


def test_bad_descriptor_leaves_nothing_behind(loop, pair):
    """After the failure the number can be watched once it is open."""
    near, far = pair
    fd = os.dup(near.fileno())
    os.close(fd)
    assert error(loop.add_reader, fd, print)
    assert loop.remove_reader(fd) is False
    os.dup2(near.fileno(), fd)
    try:
        seen = []
        loop.add_reader(fd, seen.append, 1)
        far.send(b"x")
        while not seen:
            spin(loop)
        loop.remove_reader(fd)
    finally:
        os.close(fd)


def test_regular_file(agree, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x")

    def scenario(loop):
        with open(path, "r+b") as file:
            seen = [
                error(loop.add_reader, file, print),
                error(loop.add_writer, file, print),
                loop.remove_reader(file),
            ]
        spin(loop)
        return seen

    assert agree(scenario)[0][0] is PermissionError


def test_directory_and_dev_null(agree, tmp_path):
    def scenario(loop):
        seen = []
        for path in tmp_path, "/dev/null":
            fd = os.open(path, os.O_RDONLY)
            seen.append(error(loop.add_reader, fd, print))
            seen.append(loop.remove_reader(fd))
            os.close(fd)
        return seen

    agree(scenario)


def test_flags_are_left_as_found(loop, pipe, pair):
    """A shared description (a terminal, stdin) must not turn non-blocking."""
    read, write = pipe
    near, far = pair
    near.setblocking(True)
    fds = [read, write, near.fileno()]
    before = [fcntl.fcntl(fd, fcntl.F_GETFL) for fd in fds]
    assert not any(flags & os.O_NONBLOCK for flags in before)
    loop.add_reader(read, print)
    loop.add_writer(write, int)
    loop.add_reader(near, print)
    during = [fcntl.fcntl(fd, fcntl.F_GETFL) for fd in fds]
    spin(loop)
    loop.remove_reader(read)
    loop.remove_writer(write)
    loop.remove_reader(near)
    spin(loop)
    after = [fcntl.fcntl(fd, fcntl.F_GETFL) for fd in fds]
    assert before == during == after


def test_end_of_pipe_calls_the_reader(loop, pipe):
    read, write = pipe
    seen = []
    loop.add_reader(read, lambda: seen.append(os.read(read, 10)))
    close_end(write)
    while not seen:
        spin(loop)
    assert seen[0] == b""
    loop.remove_reader(read)


def test_broken_pipe_calls_the_writer(loop, pipe):
    read, write = pipe
    os.set_blocking(write, False)
    fill_pipe(write)
    seen = []
    loop.add_writer(write, seen.append, 1)
    settle(loop)
    assert seen == []
    close_end(read)
    while not seen:
        spin(loop)
    loop.remove_writer(write)


def fill_pipe(fd):
    try:
        while True:
            os.write(fd, bytes(4096))
    except BlockingIOError:
        pass


def test_hang_up_calls_reader_and_writer(loop, pair):
    near, far = pair
    fill(near)
    seen = set()
    loop.add_reader(near, seen.add, "reader")
    loop.add_writer(near, seen.add, "writer")
    far.close()
    while len(seen) < 2:
        spin(loop)
    loop.remove_reader(near)
    loop.remove_writer(near)


async def test_descriptor_of_a_transport():
    loop = asyncio.get_running_loop()
    async with wired() as (protocol, peer):
        sock = protocol.transport.get_extra_info("socket")
        fd = sock.fileno()
        for method in (loop.add_reader, loop.add_writer):
            for target in (fd, sock):
                with pytest.raises(RuntimeError) as info:
                    method(target, print)
                assert str(info.value).startswith(
                    f"File descriptor {target!r} is used by transport "
                )
        for method in (loop.remove_reader, loop.remove_writer):
            with pytest.raises(RuntimeError, match="is used by transport"):
                method(fd)
        peer.send(b"still there")
        await protocol.receive(11)


async def test_descriptor_of_a_closed_transport():
    loop = asyncio.get_running_loop()
    async with wired() as (protocol, peer):
        fd = protocol.transport.get_extra_info("socket").fileno()
        protocol.transport.close()
        await protocol.lost
    near, far = socket.socketpair()
    with near, far:
        assert fd in (near.fileno(), far.fileno())
        seen = []
        loop.add_writer(near, seen.append, 1)
        loop.add_writer(far, seen.append, 2)
        await until(lambda: set(seen) == {1, 2})
        loop.remove_writer(near)
        loop.remove_writer(far)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="asyncio 3.12 checks")
def test_second_transport_on_one_descriptor(loop):
    async def main():
        async with wired() as (protocol, peer):
            sock = protocol.transport.get_extra_info("socket")
            copy = socket.socket(fileno=sock.fileno())
            try:
                with pytest.raises(RuntimeError, match="is used by transport"):
                    await loop.create_connection(Recorder, sock=copy)
            finally:
                copy.detach()

    loop.run_until_complete(main())


def test_many_descriptors(loop):
    pairs = [socket.socketpair() for _ in range(200)]
    seen = set()
    for n, (near, far) in enumerate(pairs):
        loop.add_reader(near, lambda n=n, s=near: (s.recv(9), seen.add(n)))
    for near, far in pairs:
        far.send(b"x")
    while len(seen) < 200:
        spin(loop)
    for near, far in pairs:
        assert loop.remove_reader(near)
        near.close()
        far.close()


def test_close_of_the_loop_with_watched_descriptors(loop, pair):
    near, far = pair
    loop.add_reader(near, print)
    loop.add_writer(far, print)
    loop.close()
    assert loop.remove_reader(near) is False
    near.send(b"x")
    assert far.recv(1) == b"x"


def test_close_lets_go_of_callbacks(loop, pair):
    import gc
    import weakref

    class Token:
        def __call__(self):
            pass

    token = Token()
    ref = weakref.ref(token)
    loop.add_reader(pair[0], token)
    del token
    loop.close()
    gc.collect()
    assert ref() is None


def test_private_forms(loop, pair):
    """anyio, tornado and others call _add_reader and get the handle."""
    near, far = pair
    seen = []
    handle = loop._add_reader(near.fileno(), seen.append, 1)
    assert isinstance(handle, asyncio.Handle)
    far.send(b"x")
    while not seen:
        spin(loop)
    assert loop._remove_reader(near.fileno()) is True
    assert handle.cancelled()
    assert isinstance(
        loop._add_writer(near.fileno(), seen.append, 1), asyncio.Handle
    )
    assert loop._remove_writer(near.fileno()) is True


def test_debug_mode(loop, pair):
    near, far = pair
    loop.set_debug(True)
    seen = []
    loop.add_reader(near, seen.append, 1)
    far.send(b"x")
    while not seen:
        spin(loop)
    loop.remove_reader(near)
    loop.set_debug(False)
