"""A loop that waits for short times looks for events before it sleeps."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from support import DEADLINE

pytestmark = pytest.mark.usefixtures("pyloop_only")


@pytest.fixture
def echo():
    """A socket whose other end answers at once, from a thread."""
    near, far = socket.socketpair()
    near.setblocking(False)

    def answer():
        while data := far.recv(100):
            far.send(data)

    thread = threading.Thread(target=answer)
    thread.start()
    yield near
    near.close()
    thread.join()
    far.close()


async def talk(sock, rounds):
    loop = asyncio.get_running_loop()
    for _ in range(rounds):
        await loop.sock_sendall(sock, b"ping")
        assert await loop.sock_recv(sock, 100) == b"ping"


async def test_short_waits_are_spent_looking(echo):
    loop = asyncio.get_running_loop()
    loop.busy_poll = 0.001
    deadline = time.monotonic() + DEADLINE
    while not loop.stats().busy_poll_time:
        await talk(echo, 100)
        assert time.monotonic() < deadline, "never looked"
    stats = loop.stats()
    assert stats.busy_poll_time <= stats.idle_time


async def test_switched_off(echo):
    loop = asyncio.get_running_loop()
    loop.busy_poll = 0
    await talk(echo, 2000)
    assert loop.stats().busy_poll_time == 0
    assert loop.stats().idle_time > 0


async def test_an_idle_loop_sleeps(echo):
    loop = asyncio.get_running_loop()
    looked = []
    # A look lasts longer when its thread loses the processor meanwhile: one
    # undisturbed round will do.
    while not looked or looked[-1] > 0.005:
        assert len(looked) < 20, looked
        await talk(echo, 2000)
        before = loop.stats()
        for _ in range(20):
            await asyncio.sleep(0.005)
        after = loop.stats()
        assert after.idle_time - before.idle_time > 0.09
        # at most one look in vain, and that once
        looked.append(after.busy_poll_time - before.busy_poll_time)


async def test_timers_and_posts_while_it_looks(echo):
    """What ends a sleep ends a look: a timer, a post, a reader."""
    loop = asyncio.get_running_loop()
    loop.busy_poll = 0.001
    fired = []
    posted = asyncio.Event()

    def set_timer():
        due = loop.time() + 0.0003
        loop.call_at(due, lambda: fired.append(loop.time() - due))

    for _ in range(50):
        await talk(echo, 20)
        set_timer()
        thread = threading.Thread(
            target=loop.call_soon_threadsafe, args=(posted.set,)
        )
        thread.start()
        await asyncio.wait_for(posted.wait(), DEADLINE)
        thread.join()
        posted.clear()
    await asyncio.sleep(0.001)
    assert len(fired) == 50
    assert min(fired) >= 0


async def test_a_signal_while_it_looks(echo):
    """Python's handler runs at once, though the signal wakes nobody."""
    loop = asyncio.get_running_loop()
    loop.busy_poll = 0.001
    before_fd = signal.set_wakeup_fd(-1)
    before = signal.signal(signal.SIGALRM, lambda *args: seen.append(1))
    try:
        for _ in range(20):
            seen = []
            await talk(echo, 50)
            signal.setitimer(signal.ITIMER_REAL, 0.0004)
            # nothing else ends the wait
            await asyncio.sleep(0.2)
            assert seen
    finally:
        signal.signal(signal.SIGALRM, before)
        signal.set_wakeup_fd(before_fd)


def test_another_thread_may_not_set_it(loop):
    errors = []

    def set_it():
        try:
            loop.busy_poll = 0.001
        except RuntimeError as exc:
            errors.append(str(exc))

    async def main():
        thread = threading.Thread(target=set_it)
        thread.start()
        thread.join()

    loop.run_until_complete(main())
    assert errors == ["busy_poll is set by the thread that runs the loop"]
    set_it()
    assert len(errors) == 1


def test_values(loop):
    single = len(os.sched_getaffinity(0)) == 1
    assert loop.busy_poll == pytest.approx(0 if single else 50e-6)
    loop.busy_poll = 20e-6
    assert loop.busy_poll == pytest.approx(20e-6)
    loop.busy_poll = 0
    assert loop.busy_poll == 0
    for wrong in (-1e-6, 0.0011, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="busy_poll"):
            loop.busy_poll = wrong
    with pytest.raises(TypeError):
        loop.busy_poll = "1"
    with pytest.raises(AttributeError):
        del loop.busy_poll
    assert loop.busy_poll == 0


@pytest.mark.parametrize(
    "flags, value, expected",
    [((), "0", 0), ((), "20", 20), ((), "", None), (("-E",), "20", None)],
)
def test_environment(loop, flags, value, expected):
    code = (
        f"import sys; sys.path[:] = {sys.path!r}; import pyloop; "
        "loop = pyloop.new_event_loop(); "
        "print(round(loop.busy_poll * 1e6)); loop.close()"
    )
    answer = subprocess.run(
        [sys.executable, *flags, "-c", code],
        env={**os.environ, "PYLOOP_BUSY_POLL": value},
        stdout=subprocess.PIPE,
        check=True,
    )
    if expected is None:
        expected = round(loop.busy_poll * 1e6)
    assert int(answer.stdout) == expected
