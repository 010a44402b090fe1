"""loop.io_uring: what a turn writes to many streams leaves by one call."""

import asyncio
import contextlib
import os
import subprocess
import sys
import textwrap
import threading

import pytest
from support import (
    DENY,
    Recorder,
    connected,
    drain,
    fill,
    handler_calls,
    open_fds,
    pattern,
    reset,
    run_script,
    tcp_pair,
    turns,
    wired,
)

pytestmark = pytest.mark.usefixtures("pyloop_only")


@pytest.fixture
def uring(loop):
    """The loop, with one; where the system has none that is said."""
    try:
        loop.io_uring = True
    except OSError as exc:
        pytest.skip(f"no io_uring here: {exc}")
    return loop


@contextlib.asynccontextmanager
async def many(count, make=Recorder):
    async with contextlib.AsyncExitStack() as stack:
        pairs = [
            await stack.enter_async_context(wired(make, tcp_pair()))
            for _ in range(count)
        ]
        yield [near for near, _ in pairs], [far for _, far in pairs]


def received(sock, size):
    sock.setblocking(True)
    sock.settimeout(30)
    data = b""
    while len(data) < size:
        data += sock.recv(1 << 20)
    return data


async def exchange(near, far, word):
    """Each of the near sends the word, and all of the far get it."""
    for protocol in near:
        protocol.transport.write(word)
    await turns(2)
    assert [received(sock, len(word)) for sock in far] == [word] * len(far)


@pytest.mark.parametrize("count", [2, 64, 150])
def test_sends_leave_together(uring, count):
    async def main():
        async with many(count) as (near, far):
            before = uring.stats().batched_sends
            for i, protocol in enumerate(near):
                protocol.transport.write(b"head %d " % i)
                protocol.transport.write(b"body")
            await turns(2)
            left = uring.stats().batched_sends - before
            for i, sock in enumerate(far):
                assert received(sock, 1) == b"head %d body" % i
            return left

    # 64 a call; what is alone takes the ordinary way
    assert uring.run_until_complete(main()) == count - (count % 64 == 1)


def test_one_send_is_an_ordinary_one(uring):
    async def main():
        async with many(1) as ((near,), (far,)):
            near.transport.write(b"alone")
            await turns(2)
            assert received(far, 5) == b"alone"
        return uring.stats().batched_sends

    assert uring.run_until_complete(main()) == 0


def test_answers_of_data_received(uring):
    class Echo(Recorder):
        def data_received(self, data):
            super().data_received(data)
            self.transport.write(data)
            self.transport.writelines([b"-", data])

    async def main():
        async with many(20, Echo) as (near, far):
            for round_ in range(50):
                for i, sock in enumerate(far):
                    sock.setblocking(True)
                    sock.send(b"%d.%d" % (i, round_))
                for protocol in near:
                    await protocol.receive(1)
                    protocol.received.clear()
                await turns(1)
                for i, sock in enumerate(far):
                    text = b"%d.%d" % (i, round_)
                    assert received(sock, 2 * len(text) + 1) == (
                        text + b"-" + text
                    )

    uring.run_until_complete(main())


def test_a_full_socket_among_others(uring):
    """It goes on when there is room, and nothing is lost or sent twice."""
    big = pattern(60_000)

    async def main():
        async with many(8) as (near, far):
            filled = fill(near[3].transport.get_extra_info("socket")._sock)
            for protocol in near:
                protocol.transport.write(big)
                protocol.transport.write(b"end")
            await turns(3)
            for i, sock in enumerate(far):
                expected = big + b"end"
                if i == 3:
                    assert near[3].transport.get_write_buffer_size() > 0
                    got = b""
                    while len(got) < filled + len(expected):
                        got += drain(sock) or b""
                        await turns(1)
                    assert got[filled:] == expected
                else:
                    assert received(sock, len(expected)) == expected
            assert near[3].transport.get_write_buffer_size() == 0

    uring.run_until_complete(main())


def test_flow_control(uring):
    async def main():
        async with many(4) as (near, far):
            for protocol in near:
                protocol.transport.set_write_buffer_limits(100_000)
            for _ in range(200):
                for protocol in near:
                    if "pause" not in protocol.calls:
                        protocol.transport.write(bytes(50_000))
                await turns(1)
            assert all("pause" in protocol.calls for protocol in near)
            while not all("resume" in protocol.calls for protocol in near):
                for sock in far:
                    drain(sock)
                await turns(1)

    uring.run_until_complete(main())


def test_a_reset_among_others(uring):
    async def main():
        async with many(6) as (near, far):
            near[2].transport.pause_reading()
            reset(far[2])
            await turns(5)
            for _ in range(2):
                for protocol in near:
                    protocol.transport.write(b"x")
                await turns(2)
            exc = await near[2].lost
            assert isinstance(exc, ConnectionError)
            for i, sock in enumerate(far):
                if i != 2:
                    assert received(sock, 2) == b"xx"

    calls = handler_calls(uring)
    uring.run_until_complete(main())
    assert not calls


def test_close_and_abort_after_writing(uring):
    async def main():
        async with many(9) as (near, far):
            for i, protocol in enumerate(near):
                protocol.transport.write(b"last")
                if i % 3 == 0:
                    protocol.transport.close()
                elif i % 3 == 1:
                    protocol.transport.write_eof()
            await turns(3)
            for i, sock in enumerate(far):
                assert received(sock, 4) == b"last"
                if i % 3 < 2:
                    assert sock.recv(10) == b""
            await asyncio.gather(*[p.lost for p in near[::3]])

    uring.run_until_complete(main())


def test_code_that_runs_while_a_batch_ends(uring):
    """sendfile() waits for a queue to run empty; what that sets off may write
    to, or abort, others of the same batch."""

    async def main():
        async with many(5) as (near, far):

            def meddle(waiter):
                near[1].transport.write(b" more")
                near[2].transport.abort()
                near[3].transport.write(bytes(200_000))

            waiter = near[0].transport._make_empty_waiter()
            near[0].transport._reset_empty_waiter()
            waiter.add_done_callback(meddle)
            for protocol in near:
                protocol.transport.write(b"first")
            await turns(3)
            assert received(far[1], 10) == b"first more"
            assert received(far[3], 200_005)[:5] == b"first"
            assert received(far[4], 5) == b"first"
            await near[2].lost

    uring.run_until_complete(main())


async def test_tls_and_unix(loop):
    with contextlib.suppress(OSError):
        loop.io_uring = True
    for kind in "tls", "unix":
        async with connected(kind) as one, connected(kind) as two:
            for near, far in (one, two, one):
                near.transport.write(b"there")
                far.transport.write(b"back")
            await one[0].receive(8)
            await one[1].receive(10)
            await two[1].receive(5)
            assert bytes(one[0].received) == b"backback"


def test_on_and_off(uring):
    fds = len(open_fds())
    uring.io_uring = True  # again: nothing changes
    assert uring.io_uring is True and len(open_fds()) == fds
    uring.io_uring = False
    assert uring.io_uring is False and len(open_fds()) == fds - 1
    uring.io_uring = True
    uring.close()
    assert uring.io_uring is False
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        uring.io_uring = True


def test_off_in_the_middle(uring):
    async def main():
        async with many(3) as (near, far):
            for protocol in near:
                protocol.transport.write(b"x")
            uring.io_uring = False
            await turns(2)
            for sock in far:
                assert received(sock, 1) == b"x"

    uring.run_until_complete(main())


@pytest.mark.skipif(
    bool(os.environ.get("PYLOOP_IO_URING")), reason="asked for in this run"
)
def test_off_unless_asked_for(loop):
    assert loop.io_uring is False


def test_only_the_loops_thread_sets_it(loop):
    async def main():
        def work():
            with pytest.raises(RuntimeError, match="io_uring is set by"):
                loop.io_uring = True
            return "refused"

        return await asyncio.to_thread(work)

    assert loop.run_until_complete(main()) == "refused"


@pytest.mark.parametrize(
    "flags, value, expected",
    [
        ((), "1", True),
        ((), "0", False),
        ((), "", False),
        (("-E",), "1", False),
    ],
)
def test_environment(uring, flags, value, expected):
    code = (
        f"import sys; sys.path[:] = {sys.path!r}; import pyloop; "
        "loop = pyloop.new_event_loop(); print(loop.io_uring); loop.close()"
    )
    answer = subprocess.run(
        [sys.executable, *flags, "-c", code],
        env={**os.environ, "PYLOOP_IO_URING": value},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (answer.stdout, answer.stderr) == (f"{expected}\n", "")


def run_denied(loop_name, code, **how):
    """Where a filter forbids io_uring_setup(); the code says False."""
    done = run_script(
        loop_name,
        DENY + "deny(425, errno.EPERM)\n" + textwrap.dedent(code),
        PYLOOP_IO_URING="",
        **how,
    )
    assert done.stdout in ("False\n", "no seccomp here\n")
    return done


def test_not_tried_under_a_seccomp_filter(loop_name):
    """Some filters kill whoever tries."""
    run_denied(
        loop_name,
        """
        loop = new_event_loop()
        try:
            loop.io_uring = True
        except PermissionError:
            say(loop.io_uring)
        loop.close()
        """,
    )


def test_said_when_there_is_none(loop_name):
    done = run_denied(
        loop_name,
        """
        os.environ["PYLOOP_IO_URING"] = "1"
        loop = new_event_loop()
        say(loop.io_uring)
        loop.close()
        """,
        check=False,
    )
    if done.stdout == "False\n":
        assert "no io_uring: [Errno 1]" in done.stderr


def test_a_child_of_fork_closes_it(uring):
    pid = os.fork()
    if pid == 0:
        try:
            uring._close_core()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0

    async def main():
        async with many(2) as (near, far):
            for protocol in near:
                protocol.transport.write(b"x")
            await turns(2)
            return [received(sock, 1) for sock in far]

    assert uring.run_until_complete(main()) == [b"x", b"x"]
    assert uring.stats().batched_sends == 2


def test_both_go_on_after_fork(uring):
    """The child's sends leave in the ordinary way: the ring is shared."""

    async def main():
        async with many(4) as (near, far):
            for n in range(200):
                await exchange(near, far, b"%d %d;" % (os.getpid(), n))

    pid = os.fork()
    if pid == 0:
        try:
            uring.run_until_complete(main())
            os._exit(uring.io_uring)
        finally:
            os._exit(2)
    uring.run_until_complete(main())
    assert os.waitpid(pid, 0)[1] == 0
    assert uring.io_uring and uring.stats().batched_sends == 800


def test_children_leave_the_parents_sends_alone(uring):
    """The entries that it fills in are in memory that they share."""

    async def sends(word):
        async with many(48) as (near, far):
            yield
            while True:
                await exchange(near, far, word)
                yield

    def send(runs):
        uring.run_until_complete(anext(runs))

    parents, childs = sends(b"parent"), sends(b"child")
    send(parents)
    send(childs)
    for _ in range(200):
        pid = os.fork()
        if pid == 0:
            try:
                send(childs)
            finally:
                os._exit(0)
        while not os.waitpid(pid, os.WNOHANG)[0]:
            send(parents)
    for runs in parents, childs:
        uring.run_until_complete(runs.aclose())


def test_set_while_the_loop_begins_to_run(uring):
    ended = False

    def toggle():
        while not ended:
            with contextlib.suppress(RuntimeError):
                uring.io_uring = not uring.io_uring

    async def main():
        async with many(8) as (near, far):
            yield
            while True:
                for protocol in near:
                    protocol.transport.write(b"x")
                await turns(1)
                assert [received(sock, 1) for sock in far] == [b"x"] * 8
                yield

    runs = main()
    uring.run_until_complete(anext(runs))
    thread = threading.Thread(target=toggle)
    thread.start()
    try:
        for _ in range(300):
            uring.run_until_complete(anext(runs))
    finally:
        ended = True
        thread.join()
    uring.run_until_complete(runs.aclose())
