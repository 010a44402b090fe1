import asyncio
import gc
import os
import socket
import subprocess
import sys
import warnings
import weakref

import pytest
from support import (
    Recorder,
    child_env,
    open_fds,
    script,
    spin,
    turns,
    until,
)


def collect():
    for _ in range(3):
        gc.collect()


def test_closed_loop_is_freed(loop_factory):
    loop = loop_factory()
    ref = weakref.ref(loop)
    loop.call_soon(int)
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    del loop
    collect()
    assert ref() is None


def test_dropped_loop_warns_and_closes(loop_factory):
    before = open_fds().keys()
    loop = loop_factory()
    loop.run_until_complete(asyncio.sleep(0))
    ref = weakref.ref(loop)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del loop
        collect()
    assert ref() is None
    texts = [str(w.message) for w in caught]
    assert sum("unclosed event loop" in text for text in texts) == 1
    assert {w.category for w in caught} == {ResourceWarning}
    assert open_fds().keys() == before


def test_loop_that_never_ran(loop_factory):
    before = open_fds().keys()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loop_factory()
        collect()
    assert any("unclosed event loop" in str(w.message) for w in caught)
    assert open_fds().keys() == before


def test_pending_work_of_a_dropped_loop_is_freed(loop_factory):
    class Token:
        def __call__(self):
            pass

    tokens = [Token() for _ in range(4)]
    refs = [weakref.ref(token) for token in tokens]
    near, far = socket.socketpair()
    with near, far:
        loop = loop_factory()
        loop.call_soon(tokens[0])
        loop.call_later(1000, tokens[1])
        loop.call_soon_threadsafe(tokens[2])
        loop.add_reader(near, tokens[3])
        with warnings.catch_warnings(record=True):
            warnings.simplefilter("always")
            del loop, tokens
            collect()
    assert [ref() for ref in refs] == [None] * 4


def test_cycle_through_a_callback(loop_factory):
    """The loop and what waits in it refer to each other."""
    loop = loop_factory()
    loop.call_later(1000, lambda: loop)
    loop.call_soon(lambda: loop)
    loop.note = loop.call_later(2000, lambda: loop)
    ref = weakref.ref(loop)
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        del loop
        collect()
    assert ref() is None


def test_cycle_through_a_handle(loop):
    class Token:
        pass

    token = Token()
    token.handle = loop.call_later(1000, lambda: token)
    token.handle.cancel()
    ref = weakref.ref(token)
    del token
    spin(loop)
    collect()
    assert ref() is None


async def test_cycle_through_a_closed_transport():
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    with theirs:
        transport, protocol = await loop.create_connection(Recorder, sock=ours)
        transport.note = transport
        protocol.transport = transport
        refs = [weakref.ref(transport), weakref.ref(protocol)]
        transport.close()
        await protocol.lost
        del transport, protocol, ours
        await turns()
        collect()
        assert [ref() for ref in refs] == [None, None]


async def test_suspended_coroutine_nobody_refers_to():
    """Its future is gone, so nothing can wake it: it is collected."""
    seen = []

    async def suspended():
        future = asyncio.get_running_loop().create_future()
        try:
            await future
        finally:
            seen.append("closed")

    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda *args: None)
    task = asyncio.ensure_future(suspended())
    await turns()
    ref = weakref.ref(task)
    del task
    collect()
    assert ref() is None and seen == ["closed"]


async def test_reading_transport_is_kept_alive():
    """The loop owns it, though nobody else does."""
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    seen = []

    class Protocol(asyncio.Protocol):
        def data_received(self, data):
            seen.append(data)

        def connection_lost(self, exc):
            seen.append(None)

    with theirs:
        await loop.create_connection(Protocol, sock=ours)
        del ours
        collect()
        theirs.send(b"x")
        await until(lambda: seen)
    await until(lambda: None in seen)
    assert seen == [b"x", None]


async def test_writing_transport_is_kept_alive():
    """Also while it only flushes."""
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    with theirs:
        transport, _ = await loop.create_connection(
            asyncio.Protocol, sock=ours
        )
        transport.write(bytes(3_000_000))
        transport.close()
        del transport, _, ours
        collect()
        total = 0

        def more():
            nonlocal total
            try:
                part = theirs.recv(1 << 18)
            except BlockingIOError:
                return False
            total += len(part)
            return not part

        await until(more)
        assert total == 3_000_000
        await turns()


def test_gc_during_callbacks(loop):
    """A collection at any time finds consistent structures."""

    class Cycle:
        pass

    def work(n):
        cycle = Cycle()
        cycle.self = cycle
        if n:
            loop.call_soon(work, n - 1)
            loop.call_later(0, int).cancel()
            loop.call_soon_threadsafe(int)
        else:
            loop.stop()

    before = gc.get_threshold()
    gc.set_threshold(1, 1, 1)
    try:
        for _ in range(5):
            loop.call_soon(work, 200)
        loop.run_forever()
    finally:
        gc.set_threshold(*before)


def test_objects_are_visible_to_the_collector(loop):
    """gc.get_referrers() finds the loop or its containers."""

    class Token:
        def __call__(self):
            pass

    token = Token()
    handle = loop.call_later(1000, token)
    assert gc.is_tracked(handle) and gc.is_tracked(loop)
    assert token in gc.get_referents(handle)
    handle.cancel()


def test_interpreter_exit_with_a_loop_left_open(loop_name):
    """No crash; asyncio's warning at most."""
    for ending in (
        "loop = new_event_loop()",
        "loop = new_event_loop(); loop.run_until_complete(asyncio.sleep(0))",
        "import builtins; builtins.loop = new_event_loop()",
        "asyncio.loop = new_event_loop(); asyncio.loop.call_soon(print)",
    ):
        done = subprocess.run(
            [sys.executable, "-c", script(loop_name, ending)],
            capture_output=True,
            text=True,
            env=child_env(),
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (0, ""), done


def test_interpreter_exit_inside_a_running_loop(loop_name):
    code = """
    async def main():
        near, far = socket.socketpair()
        await asyncio.open_connection(sock=near)
        asyncio.get_running_loop().call_later(1000, print)
        raise SystemExit(5)
    loop = new_event_loop()
    loop.run_until_complete(main())
    """
    done = subprocess.run(
        [sys.executable, "-c", script(loop_name, code)],
        capture_output=True,
        text=True,
        env=child_env(),
        timeout=60,
    )
    assert done.returncode == 5
    assert "Fatal Python error" not in done.stderr


def test_daemon_thread_runs_a_loop_at_exit(loop_name):
    code = """
    loop = new_event_loop()
    started = threading.Event()
    def work():
        loop.call_soon(started.set)
        loop.run_forever()
    threading.Thread(target=work, daemon=True).start()
    started.wait()
    """
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", script(loop_name, code)],
            capture_output=True,
            text=True,
            env=child_env(),
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (0, ""), done


def test_many_short_lived_loops(loop_factory, monkeypatch):
    """Each opens and closes what it needs, and looks through nobody's
    tasks."""
    for module in asyncio, asyncio.tasks:
        monkeypatch.delattr(module, "all_tasks")
    before = open_fds().keys()
    for _ in range(200):
        loop = loop_factory()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
    assert open_fds().keys() == before


def test_daemon_threads_post_at_exit(loop_name):
    """Hand-offs while the interpreter ends: to a running loop, to one that
    stopped, to a closed one and to one that is being freed."""
    code = """
    running, stopped, closed = [new_event_loop() for _ in range(3)]
    started = threading.Event()
    def run():
        running.call_soon(started.set)
        running.run_forever()
    def post(loop):
        started.wait()
        while True:
            try:
                for _ in range(20):
                    loop.call_soon_threadsafe(int)
            except RuntimeError:
                pass
            time.sleep(0.0002)
    threading.Thread(target=run, daemon=True).start()
    stopped.run_until_complete(asyncio.sleep(0))
    for loop in running, stopped, closed:
        for _ in range(2):
            threading.Thread(target=post, args=[loop], daemon=True).start()
    started.wait()
    closed.close()
    time.sleep(float(sys.argv[1]))
    del running, stopped, closed, loop
    """
    for pause in "0", "0.005":
        done = subprocess.run(
            [sys.executable, "-c", script(loop_name, code), pause],
            capture_output=True,
            text=True,
            env=child_env(),
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (0, ""), done


def test_executor_threads_post_at_exit(loop_name):
    """Threads that are joined at exit, after the loop was dropped open."""
    code = """
    import warnings
    warnings.simplefilter("ignore")
    from concurrent.futures import ThreadPoolExecutor
    loop = new_event_loop()
    pool = ThreadPoolExecutor(2)
    def post():
        main = threading.main_thread()
        for _ in range(200):
            loop.call_soon_threadsafe(int)
        main.join(0.02)
        for _ in range(200):
            loop.call_soon_threadsafe(int)
    for _ in range(2):
        pool.submit(post)
    loop.run_until_complete(asyncio.sleep(0))
    """
    done = subprocess.run(
        [sys.executable, "-c", script(loop_name, code)],
        capture_output=True,
        text=True,
        env=child_env(),
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, ""), done


def test_dropped_loop_does_not_close_a_number_twice(loop_factory):
    """Descriptors made after its end are nobody's but their own."""
    loop = loop_factory()
    loop.run_until_complete(asyncio.sleep(0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = open_fds().keys()
        loop.close()
        freed = before - open_fds().keys()
        assert freed
        others = []
        while freed - {fd for fd in others}:
            others.append(os.open(os.devnull, os.O_RDONLY))
        loop.close()
        del loop
        collect()
    for fd in others:
        os.close(fd)  # fails if somebody else has


class Holder:
    """In a cycle with a timer, by the handle that it keeps."""

    def __init__(self, loop, delay):
        self.loop = loop
        self.handle = loop.call_later(delay, self.fire)

    def fire(self):
        pass


@pytest.mark.parametrize("end", ["fired", "cancelled", "swept"])
def test_kept_handles_of_timers_that_are_over(loop, end):
    """They were scheduled, and came to their end, while the loop ran."""

    async def main():
        holders = [
            Holder(loop, 0 if end == "fired" else 1000 + n % 7)
            for n in range(200)
        ]
        gone = [weakref.ref(holder) for holder in holders]
        if end != "fired":
            for holder in holders[: 1 if end == "cancelled" else None]:
                holder.handle.cancel()
        await asyncio.sleep(0.001)
        await asyncio.sleep(0)
        if end == "cancelled":
            del gone[1:]
        holders.clear()
        holder = None
        collect()
        return [ref() for ref in gone]

    assert not any(loop.run_until_complete(main()))


@pytest.mark.parametrize("cancel", [False, True])
@pytest.mark.parametrize("count", [1, 100, 10_000])
def test_timers_of_a_loop_that_was_dropped_open(loop_factory, count, cancel):
    """The loop, its timers and who keeps their handles are one cycle."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loop = loop_factory()

        async def main():
            holders = [Holder(loop, 1000 + n) for n in range(count)]
            for holder in holders if cancel else ():
                holder.handle.cancel()
            return holders

        holders = loop.run_until_complete(main())
        loop.holders = holders
        gone = weakref.ref(holders[0]), weakref.ref(holders[-1])
        del loop, holders, main
        collect()
    assert [ref() for ref in gone] == [None, None]


@pytest.mark.skipif(
    bool(os.environ.get("PYLOOP_SANITIZE")), reason="has no freelists"
)
def test_timers_do_not_set_off_the_collector(loop, pyloop_only):
    """Those that are pending in a running loop are not its business."""

    async def main():
        await asyncio.sleep(0)
        for _ in range(2):
            gc.collect()
            before = gc.get_count()[0]
            for _ in range(1000):
                loop.call_later(0, int)
            after = gc.get_count()[0]
            await asyncio.sleep(0.001)
        return after - before

    gc.disable()
    try:
        assert loop.run_until_complete(main()) < 100
    finally:
        gc.enable()
