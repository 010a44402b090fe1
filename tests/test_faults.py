"""What fails beneath the loop: system calls and allocations.

An error is reported to whom it concerns, the loop goes on or ends with an
exception, and nothing is lost without a word.  The faults are made in child
interpreters, by a preloaded library (tests/c/faults.c) and by CPython's own
_testcapi; nothing of pyloop knows of them.
"""

import _socket
import errno
import os
import subprocess
import sys
import textwrap

import pytest
from support import ROOT, child_env, no_preload, run_script

NOMEMORY = os.path.join(ROOT, "tests", "isolated", "nomemory.py")

SCENARIOS = [
    "scheduling",
    "readers",
    "streams",
    "buffered",
    "closing",
    "aborting",
    "opening",
    "accepting",
    "datagrams",
    "names",
    "monitoring",
]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_no_memory(scenario, loop_name, pyloop_only):
    """asyncio and CPython do not always survive it."""
    pytest.importorskip("_testcapi", reason="CPython without its test modules")
    done = subprocess.run(
        [sys.executable, NOMEMORY, scenario, loop_name, "60"],
        capture_output=True,
        text=True,
        timeout=60,
        env=child_env(),
    )
    assert done.returncode == 0, done.stderr[-3000:]


PRELUDE = """
import ctypes, errno, gc
from support import Recorder, handler_calls, open_fds, shut, spin
from support import turns, until, wait, wired
lib = ctypes.CDLL(None)
MODULE = {module!r}
def fault(name, err, count=1):
    lib.fault(name.encode(), err, count, MODULE.encode())
def hits():
    return lib.fault_done()
"""


@pytest.fixture
def run_with_faults(faults_library, loop_name):
    """Whoever makes the calls: the extension, or CPython's own for asyncio."""
    module = "_core"
    if loop_name == "asyncio":
        if not getattr(_socket, "__file__", None):
            pytest.skip("this interpreter has its socket module built in")
        module = "_socket"

    def run(code, *args):
        code = PRELUDE.format(module=module) + textwrap.dedent(code)
        return run_script(
            loop_name, code, *args, LD_PRELOAD=faults_library
        ).stdout

    return run


@no_preload
def test_io_uring_that_fails(run_with_faults, pyloop_only):
    """What it should have sent leaves in the ordinary way."""
    out = run_with_faults(
        """
        async def main():
            loop = asyncio.get_running_loop()
            try:
                loop.io_uring = True
            except OSError:
                return say("no io_uring here")
            async with wired() as (a, one), wired() as (b, two):
                for word in (b"one ", b"two"):
                    fault("io_uring_enter", errno.EBADF)
                    a.transport.write(word)
                    b.transport.write(word)
                    await turns(5)
                    if word == b"one ":
                        say(hits(), loop.io_uring)
                say(one.recv(100), two.recv(100))
        run(main())
        """
    )
    assert out in ("1 False\nb'one two' b'one two'\n", "no io_uring here\n")


WRITE = """
    async def main():
        loop = asyncio.get_running_loop()
        calls = handler_calls(loop)
        async with wired() as (protocol, peer):
            fault("send", int(sys.argv[1]))
            protocol.transport.write(b"data")
            exc = await asyncio.wait_for(protocol.lost, 10)
            say(hits(), exc.errno, protocol.calls, calls)
    run(main())
"""


@no_preload
@pytest.mark.parametrize("err", [errno.EPIPE, errno.ECONNRESET, errno.ENOBUFS])
def test_send_fails(run_with_faults, err):
    assert run_with_faults(WRITE, str(err)) == (
        f"1 {err} ['made', 'lost'] []\n"
    )


READ = """
    async def main():
        loop = asyncio.get_running_loop()
        calls = handler_calls(loop)
        async with wired() as (protocol, peer):
            peer.send(b"x")
            await protocol.receive(1)
            fault("recv", int(sys.argv[1]))
            peer.send(b"data")
            exc = await asyncio.wait_for(protocol.lost, 10)
            say(hits(), exc.errno, protocol.calls, calls)
    run(main())
"""


@no_preload
@pytest.mark.parametrize("err", [errno.ECONNRESET, errno.ENOMEM])
def test_recv_fails(run_with_faults, err):
    assert run_with_faults(READ, str(err)) == (
        f"1 {err} ['made', 'data', 'lost'] []\n"
    )


@no_preload
def test_interrupted(run_with_faults):
    """EINTR is nothing: not a byte is missing."""
    out = run_with_faults(
        """
        async def main():
            loop = asyncio.get_running_loop()
            async with wired() as (protocol, peer):
                for name in ("send", "recv", "sendmsg", "epoll_wait"):
                    fault(name, errno.EINTR, 3)
                    protocol.transport.writelines([b"a", b"b"])
                    protocol.transport.write(b"cd")
                    data = b""
                    while len(data) < 4:
                        data += await loop.sock_recv(peer, 4)
                    assert data == b"abcd"
                    before = len(protocol.received)
                    peer.send(b"ef")
                    await protocol.receive(before + 2)
                    fault("", 0, 0)
                assert protocol.received == b"ef" * 4
                say("ok")
        run(main())
        """
    )
    assert out == "ok\n"


@no_preload
@pytest.mark.parametrize("err", [errno.EMFILE, errno.ENOBUFS])
def test_accept_out_of_resources(run_with_faults, err):
    """Reported once, and the connection is made a second later."""
    out = run_with_faults(
        """
        async def main():
            loop = asyncio.get_running_loop()
            calls = handler_calls(loop)
            made = loop.create_future()
            class Protocol(asyncio.Protocol):
                def connection_made(self, transport):
                    made.set_result(transport)
            server = await loop.create_server(Protocol, "127.0.0.1", 0)
            with socket.socket() as client:
                fault("accept4", int(sys.argv[1]), 1)
                client.setblocking(False)
                client.connect_ex(server.sockets[0].getsockname())
                transport = await made
                transport.abort()
                (context,) = calls
                say(context["message"], context["exception"].errno,
                    sorted(context))
            await shut(server)
        run(main())
        """,
        str(err),
    )
    assert out == (
        f"socket.accept() out of system resource {err} "
        "['exception', 'message', 'socket']\n"
    )


@no_preload
@pytest.mark.parametrize("err", [errno.ECONNABORTED, errno.EINTR])
def test_accept_of_one_that_is_gone(run_with_faults, err):
    out = run_with_faults(
        """
        async def main():
            loop = asyncio.get_running_loop()
            calls = handler_calls(loop)
            made = loop.create_future()
            class Protocol(asyncio.Protocol):
                def connection_made(self, transport):
                    made.set_result(transport)
            server = await loop.create_server(Protocol, "127.0.0.1", 0)
            with socket.socket() as client:
                fault("accept4", int(sys.argv[1]), 1)
                client.setblocking(False)
                client.connect_ex(server.sockets[0].getsockname())
                (await made).abort()
                say(hits(), calls)
            await shut(server)
        run(main())
        """,
        str(err),
    )
    assert out == "1 []\n"


@no_preload
@pytest.mark.parametrize("err", [errno.ENOSPC, errno.ENOMEM])
def test_descriptor_that_cannot_be_watched(run_with_faults, err, pyloop_only):
    """The caller is told, and what was watched before still is."""
    out = run_with_faults(
        """
        async def main():
            loop = asyncio.get_running_loop()
            near, far = socket.socketpair()
            seen = []
            with near, far:
                fault("epoll_ctl", int(sys.argv[1]))
                try:
                    loop.add_reader(near, seen.append, 1)
                except OSError as exc:
                    say(hits(), exc.errno)
                far.send(b"x")
                await turns()
                assert not seen
                loop.add_reader(near, seen.append, 2)
                fault("epoll_ctl", int(sys.argv[1]))
                try:
                    loop.add_writer(near, seen.append, 3)
                except OSError as exc:
                    say(hits(), exc.errno)
                await until(lambda: seen)
                assert set(seen) == {2}
                assert loop.remove_reader(near)
                assert not loop.remove_writer(near)
        run(main())
        """,
        str(err),
    )
    assert out == f"1 {err}\n1 {err}\n"


@no_preload
def test_transport_that_cannot_be_watched(run_with_faults, pyloop_only):
    """It is made, and then lost with the error."""
    out = run_with_faults(
        """
        async def main():
            loop = asyncio.get_running_loop()
            calls = handler_calls(loop)
            near, far = socket.socketpair()
            near.setblocking(False)
            with far:
                fault("epoll_ctl", errno.ENOSPC)
                _, protocol = await loop.create_connection(
                    Recorder, sock=near)
                exc = await protocol.lost
                say(hits(), exc.errno == errno.ENOSPC, protocol.calls, calls)
        run(main())
        """
    )
    assert out == "1 True ['made', 'lost'] []\n"


@no_preload
@pytest.mark.parametrize("count", (1, 100))
def test_wake_up_whose_write_fails(count, run_with_faults, pyloop_only):
    """It is tried another way: the loop wakes all the same."""
    out = run_with_faults(
        f"""
        told = []
        sys.unraisablehook = told.append
        loop = new_event_loop()
        def post():
            while len(hit) < 20:
                ran = threading.Event()
                time.sleep(0.001)
                fault("write", errno.EPERM, {count})
                loop.call_soon_threadsafe(ran.set)
                ran.wait()
                if hits():  # it slept
                    hit.append(hits())
                fault("", 0, 0)
            loop.call_soon_threadsafe(loop.stop)
        hit = []
        thread = threading.Thread(target=post)
        loop.call_soon(thread.start)
        loop.run_forever()
        thread.join()
        say(set(hit), told, loop.stats().wakeups >= 20)
        loop.close()
        """
    )
    assert out == "{1} [] True\n"


@no_preload
def test_wake_up_that_fails(run_with_faults, pyloop_only):
    """Said aloud; the work is queued and runs with the next wake-up."""
    out = run_with_faults(
        """
        told = []
        sys.unraisablehook = lambda args: told.append(args.exc_value.errno)
        loop = new_event_loop()
        seen = []
        def post():
            while not told:
                time.sleep(0.001)
                fault("write epoll_ctl", errno.EIO, 2)
                loop.call_soon_threadsafe(seen.append, 1)
            fault("", 0, 0)
            loop.call_soon_threadsafe(loop.stop)
        def first():
            while not loop.stats().wakeups:
                time.sleep(0.001)
                loop.call_soon_threadsafe(int)
            post()
        thread = threading.Thread(target=first)
        thread.start()
        loop.run_forever()
        thread.join()
        say(len(seen) > 0, set(told) == {errno.EIO})
        loop.close()
        """
    )
    assert out == "True True\n"


@no_preload
def test_wake_up_of_a_native_post_that_fails(run_with_faults, pyloop_only):
    """The poster is told; the next post wakes the loop for both."""
    out = run_with_faults(
        """
        sys.path.insert(0, sys.argv[1])
        import building
        client = building.c_client()
        loop = new_event_loop()
        held = client.hold(loop)
        seen = []
        def last(status):
            seen.append("last")
            loop.stop()
        def post():
            told = None
            while told is None:
                time.sleep(0.001)  # until it sleeps
                del seen[:]
                fault("write epoll_ctl", errno.EIO, 2)
                try:
                    client.post(held, seen.append)
                except OSError as exc:
                    told = exc.errno
            say(hits(), told == errno.EIO)
            say(client.post(held, last))
        thread = threading.Thread(target=post)
        loop.call_soon(thread.start)
        loop.run_forever()
        thread.join()
        say(seen)
        loop.close()
        """,
        os.path.join(ROOT, "tests", "capi"),
    )
    assert out == "2 True\n0\n[0, 'last']\n"


@no_preload
def test_an_awake_loop_is_not_woken(run_with_faults, pyloop_only):
    """Posts to it make no system call."""
    out = run_with_faults(
        """
        loop = new_event_loop()
        ran = []
        def post():
            for n in range(1000):
                loop.call_soon_threadsafe(ran.append, n)
        def busy():
            fault("write", errno.EIO, 1000)
            thread = threading.Thread(target=post)
            thread.start()
            thread.join()
            say(hits(), loop.stats().wakeups)
        loop.call_soon(busy)
        spin(loop)
        spin(loop)
        say(ran == list(range(1000)))
        loop.close()
        """
    )
    assert out == "0 0\nTrue\n"


@no_preload
def test_memory_of_our_own(run_with_faults, pyloop_only):
    """The ready ring, the timer heap, the table of descriptors, a loop."""
    out = run_with_faults(
        """
        loop = new_event_loop()
        ran, failed = [], 0
        loop.call_soon(int)
        spin(loop)
        near, far = socket.socketpair()
        for n in range(300):
            fault("malloc", errno.ENOMEM, 1)
            try:
                loop.call_soon(ran.append, n)
            except MemoryError:
                failed += 1
                fault("", 0, 0)
                loop.call_soon(ran.append, n)
            fault("malloc", errno.ENOMEM, 1)
            try:
                loop.call_later(1000, int)
            except MemoryError:
                failed += 1
        fault("", 0, 0)
        spin(loop)
        assert ran == list(range(300)), ran
        assert failed >= 2, failed
        os.dup2(near.fileno(), 900)
        fault("malloc", errno.ENOMEM, 1)
        try:
            loop.add_reader(900, int)
        except (OSError, MemoryError) as exc:
            say(getattr(exc, "errno", errno.ENOMEM) == errno.ENOMEM)
        fault("", 0, 0)
        loop.add_reader(900, int)
        assert loop.remove_reader(900)
        os.close(900)
        near.close()
        far.close()
        fds = len(open_fds())
        fault("malloc", errno.ENOMEM, 1)
        try:
            new_event_loop()
        except OSError as exc:
            say(exc.errno == errno.ENOMEM)
        fault("", 0, 0)
        gc.collect()
        assert len(open_fds()) == fds
        spin(loop)
        loop.close()
        """
    )
    assert out == "True\nTrue\n"
