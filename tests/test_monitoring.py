"""loop.stats() and the slow-callback hook: what asyncio does not have."""

import asyncio
import gc
import socket
import threading
import time
import weakref

import pytest
from support import (
    FREE_THREADED,
    Recorder,
    connected,
    error,
    handler_calls,
    spin,
    turns,
    wired,
)

pytestmark = pytest.mark.usefixtures("pyloop_only")


def slow():
    time.sleep(0.02)


# -- stats


def test_fields(loop):
    import pyloop

    stats = loop.stats()
    assert isinstance(stats, pyloop.LoopStats) and isinstance(stats, tuple)
    assert repr(stats).startswith("pyloop.LoopStats(ready=0, timers=0, ")
    assert all(type(value) in (int, float) for value in stats)
    assert len(stats) == stats.n_fields == 16
    assert error(setattr, stats, "ready", 1)[0] is AttributeError
    assert error(loop.stats, True)[0] is TypeError
    assert error(loop.stats, unknown=True)[0] is TypeError


def test_waiting(loop):
    for _ in range(3):
        loop.call_soon(int)
    timers = [loop.call_later(1000 + n, int) for n in range(10)]
    stats = loop.stats()
    assert (stats.ready, stats.timers, stats.timers_cancelled) == (3, 10, 0)
    timers[0].cancel()  # not the last: it stays for a while
    timers[9].cancel()
    stats = loop.stats()
    assert (stats.timers, stats.timers_cancelled) == (8, 1)
    spin(loop)
    assert loop.stats().ready == 0
    assert loop.stats().timers == 8


def test_ready_survives_growth(loop):
    for count in (10, 64, 65, 1000):
        for _ in range(count):
            loop.call_soon(int)
        assert loop.stats().ready == count
        spin(loop)


async def test_descriptors():
    loop = asyncio.get_running_loop()
    before = loop.stats()
    assert (before.transports, before.listeners) == (0, 0)
    async with connected() as (near, far):
        stats = loop.stats()
        assert (stats.transports, stats.listeners) == (2, 1)
        assert stats.watched == before.watched
    ours, theirs = socket.socketpair()
    with ours, theirs:
        loop.add_reader(ours, int)
        loop.add_writer(ours, int)
        assert loop.stats().watched == before.watched + 1
        loop.remove_reader(ours)
        loop.remove_writer(ours)
    stats = loop.stats()
    assert stats[3:6] == before[3:6]


def test_work_done(loop):
    spin(loop)  # opens what it opens once
    before = loop.stats()
    for _ in range(5):
        loop.call_soon(int)
    spin(loop)
    spin(loop)
    stats = loop.stats()
    assert stats.turns == before.turns + 2
    assert stats.polls == before.polls + 2
    assert stats.callbacks == before.callbacks + 7
    if not FREE_THREADED:  # there it goes by the inbox: nobody runs the loop
        assert stats.handoffs == before.handoffs


def test_handoffs_and_wakeups(loop):
    before = loop.stats()
    posted = []

    def post():
        while loop.stats().wakeups == before.wakeups:
            time.sleep(0.001)  # until it sleeps
            posted.append(loop.call_soon_threadsafe(int))
        for _ in range(100):
            posted.append(loop.call_soon_threadsafe(int))
        posted.append(loop.call_soon_threadsafe(loop.stop))

    thread = threading.Thread(target=post)
    thread.start()
    loop.run_forever()
    thread.join()
    stats = loop.stats()
    assert stats.handoffs == before.handoffs + len(posted)
    assert before.wakeups < stats.wakeups <= before.wakeups + len(posted)


def test_idle_time_and_longest_turn(loop):
    spin(loop)
    loop.stats(reset=True)
    before = loop.stats()
    assert (before.longest_turn, before.longest_callback) == (0.0, 0.0)
    loop.run_until_complete(asyncio.sleep(0.1))
    stats = loop.stats()
    assert 0.09 < stats.idle_time - before.idle_time < 30
    # What it sleeps is no turn's.
    assert 0 < stats.longest_turn < 0.09
    loop.call_soon(slow)
    loop.call_soon(slow)
    spin(loop)
    stats = loop.stats(reset=True)
    assert stats.longest_turn > 0.04
    assert stats.longest_callback == 0.0
    assert loop.stats().longest_turn == 0.0
    assert loop.stats().turns == stats.turns


async def test_turns_that_follow_each_other():
    """Each is measured for itself, also where polls are left out."""
    loop = asyncio.get_running_loop()
    loop.stats(reset=True)
    for _ in range(20):
        time.sleep(0.005)
        await asyncio.sleep(0)
    assert 0.005 < loop.stats().longest_turn < 0.09


def test_from_another_thread(loop):
    seen = []
    running = True

    def read():
        while running:
            seen.append(loop.stats())

    async def work():
        nonlocal running
        thread = threading.Thread(target=read)
        thread.start()
        deadline = time.monotonic() + 20
        while len(seen) < 100 and time.monotonic() < deadline:
            for n in range(200):
                loop.call_soon(int)
                loop.call_later(n % 7 / 1e4, int)
                loop.call_later(1000, int).cancel()
            await asyncio.sleep(0.001)
        running = False
        await loop.run_in_executor(None, thread.join)

    loop.run_until_complete(work())
    assert len(seen) >= 100
    for earlier, later in zip(seen, seen[1:], strict=False):
        assert later.turns >= earlier.turns
        assert later.callbacks >= earlier.callbacks
        assert later.idle_time >= earlier.idle_time
    # What grows meanwhile is seen as it was or as it is.
    assert all(0 <= stats.ready < 1 << 20 for stats in seen)
    assert all(0 <= stats.timers < 1 << 20 for stats in seen)


def test_of_a_closed_loop(loop):
    loop.call_soon(int)
    spin(loop)
    loop.call_soon(int)
    loop.call_later(1000, int)
    loop.close()
    stats = loop.stats()
    assert stats[:6] == (0, 0, 0, 0, 0, 0)
    assert stats.callbacks == 2


# -- the slow-callback hook


@pytest.fixture
def slow_calls(loop):
    """(repr, duration) of what took 10 ms."""
    calls = []
    loop.set_slow_callback_hook(
        0.01, lambda *call: calls.append((repr(call[0]), call[1]))
    )
    yield calls
    if not loop.is_closed():
        loop.set_slow_callback_hook(0, None)


def only(calls):
    ((text, duration),) = calls
    assert 0.02 <= duration < 10
    return text


def test_slow_callback(loop, slow_calls):
    loop.call_soon(int)
    loop.call_soon(slow)
    loop.call_soon(int)
    spin(loop)
    text = only(slow_calls)
    assert text.startswith("<Handle slow() at ") and __file__ in text


def test_slow_timer(loop, slow_calls):
    loop.call_later(0.001, slow)
    loop.call_later(0.002, loop.stop)
    loop.run_forever()
    text = only(slow_calls)
    assert text.startswith("<TimerHandle when=") and "slow()" in text


@pytest.mark.parametrize("when", ["first", "later"])
def test_slow_task(loop, slow_calls, when):
    """By its name, whichever step it was."""

    async def work():
        if when == "later":
            await asyncio.sleep(0.001)
        slow()
        await asyncio.sleep(0.001)

    loop.run_until_complete(loop.create_task(work(), name="the worker"))
    text = only(slow_calls)
    assert text.startswith("<Task pending name='the worker' coro=<")


def test_slow_reader(loop, slow_calls):
    near, far = socket.socketpair()
    with near, far:
        far.send(b"x")

        def read():
            slow()
            loop.stop()

        loop.add_reader(near, read)
        loop.run_forever()
        loop.remove_reader(near)
    assert "read()" in only(slow_calls)


def test_slow_protocol(loop):
    calls = []

    class Slow(Recorder):
        def data_received(self, data):
            super().data_received(data)
            slow()

    async def main():
        async with wired(Slow) as (protocol, peer):
            loop.set_slow_callback_hook(0.01, lambda *c: calls.append(c))
            peer.send(b"x")
            await protocol.receive(1)
            await turns()
            loop.set_slow_callback_hook(0.01, None)
            ((subject, duration),) = calls
            assert subject is protocol.transport
            assert subject.get_protocol() is protocol
            assert 0.02 <= duration < 10

    loop.run_until_complete(main())


def test_hook_on_and_off(loop):
    calls = []
    assert loop.get_slow_callback_hook() is None
    hook = lambda subject, duration: calls.append(duration)  # noqa: E731
    loop.set_slow_callback_hook(threshold=0.01, callback=hook)
    assert loop.get_slow_callback_hook() == (0.01, hook)
    loop.call_soon(slow)
    loop.call_soon(loop.set_slow_callback_hook, 1, None)
    loop.call_soon(slow)
    spin(loop)
    assert len(calls) == 1
    assert loop.get_slow_callback_hook() is None
    # Set within a turn it sees what comes after.
    loop.call_soon(slow)
    loop.call_soon(loop.set_slow_callback_hook, 0.01, hook)
    loop.call_soon(slow)
    spin(loop)
    assert len(calls) == 2


def test_threshold(loop):
    """0 is everything; the time is the callback's own."""
    calls = []

    def hook(subject, duration):
        calls.append((subject, duration))
        slow()

    loop.set_slow_callback_hook(0, hook)
    first = loop.call_soon(slow)
    cancelled = loop.call_soon(int)
    last = loop.call_soon(int)
    cancelled.cancel()
    loop.call_soon(loop.set_slow_callback_hook, 0, None)
    spin(loop)
    assert [subject for subject, _ in calls] == [first, last]
    # The hook is slow too, but that is nobody's callback.
    assert calls[0][1] >= 0.02 > calls[1][1]


@pytest.mark.parametrize(
    "args, expected",
    [
        ((1, 5), "A callable object or None is expected, got 5"),
        (("1", int), "must be real number, not str"),
        ((-1, int), "threshold must be a number of seconds, 0 or more"),
        ((float("nan"), int), "threshold must be a number of seconds, 0 or "),
        ((1,), "required argument 'callback'"),
    ],
)
def test_bad_arguments(loop, args, expected):
    kind, text = error(loop.set_slow_callback_hook, *args)
    assert kind in (TypeError, ValueError) and expected in text
    assert loop.get_slow_callback_hook() is None


def test_exception_in_the_hook(loop):
    """Reported; the callbacks after it run."""
    calls = handler_calls(loop)
    ran = []
    loop.set_slow_callback_hook(0.01, lambda *args: 1 / 0)
    handle = loop.call_soon(slow)
    loop.call_soon(ran.append, 1)
    spin(loop)
    (context,) = calls
    assert context["message"] == "Exception in slow callback hook"
    assert type(context["exception"]) is ZeroDivisionError
    assert context["slow"] is handle
    assert ran == [1]


def test_exit_from_the_hook(loop):
    def leave(*args):
        raise SystemExit(5)

    ran = []
    loop.set_slow_callback_hook(0.01, leave)
    loop.call_soon(slow)
    loop.call_soon(ran.append, 1)
    with pytest.raises(SystemExit):
        loop.run_forever()
    assert ran == []
    spin(loop)
    assert ran == [1]


def test_callback_that_leaves(loop, slow_calls):
    def leave():
        slow()
        raise SystemExit(5)

    loop.call_soon(leave)
    with pytest.raises(SystemExit):
        loop.run_forever()
    assert slow_calls == []


def test_callback_that_fails(loop, slow_calls):
    """It is reported, and it was slow."""
    calls = handler_calls(loop)

    def fail():
        slow()
        raise ValueError

    loop.call_soon(fail)
    spin(loop)
    assert type(calls[0]["exception"]) is ValueError
    assert "fail()" in only(slow_calls)


def test_nothing_is_kept(loop):
    class Argument:
        pass

    argument = Argument()
    ref = weakref.ref(argument)
    kept = []
    loop.set_slow_callback_hook(0.01, lambda *call: kept.append(call))
    loop.call_soon(lambda argument: slow(), argument)
    del argument
    spin(loop)
    assert len(kept) == 1
    assert ref() is None


def test_reader_is_kept(loop):
    """A handle that runs many times keeps what it calls."""
    calls = []
    loop.set_slow_callback_hook(0, lambda *call: calls.append(call))
    near, far = socket.socketpair()
    with near, far:
        seen = []
        far.send(b"x")
        loop.add_reader(near, seen.append, 1)
        for _ in range(3):
            spin(loop)
        loop.remove_reader(near)
    assert len(seen) >= 2 and calls


def test_hook_and_debug_mode(loop, slow_calls, caplog):
    loop.set_debug(True)
    loop.slow_callback_duration = 0.01
    loop.call_soon(slow)
    loop.call_soon(int)
    spin(loop)
    assert "slow()" in only(slow_calls)
    (record,) = [r for r in caplog.records if r.levelname == "WARNING"]
    assert record.getMessage().startswith("Executing <Handle slow()")


def test_wrong_thread(loop):
    loop.set_debug(True)

    async def main():
        return await loop.run_in_executor(
            None, error, loop.set_slow_callback_hook, 1, None
        )

    kind, text = loop.run_until_complete(main())
    assert kind is RuntimeError and text.startswith("Non-thread-safe")


def test_longest_callback(loop, slow_calls):
    loop.stats(reset=True)
    loop.call_soon(slow)
    loop.call_soon(slow)
    spin(loop)
    stats = loop.stats(reset=True)
    assert 0.02 <= stats.longest_callback < stats.longest_turn
    assert stats.longest_turn >= 0.04
    assert loop.stats().longest_callback == 0.0


def test_loop_with_a_hook_is_collected(loop_factory):
    loop = loop_factory()
    loop.set_slow_callback_hook(1, lambda *args, loop=loop: None)
    loop.close()
    ref = weakref.ref(loop)
    del loop
    gc.collect()
    assert ref() is None


async def test_hook_with_everything_running():
    """Transports, executors and children under a hook that sees all."""
    loop = asyncio.get_running_loop()
    calls = []
    loop.set_slow_callback_hook(0, lambda *call: calls.append(call))
    async with connected("tls") as (near, far):
        near.transport.write(b"x" * 100_000)
        await far.receive(100_000)
    await loop.run_in_executor(None, int)
    child = await asyncio.create_subprocess_exec("true")
    await child.wait()
    loop.set_slow_callback_hook(0, None)
    kinds = {type(subject).__name__ for subject, _ in calls}
    assert {"Handle", "Stream", "Task"} <= kinds
    assert all(duration >= 0 for _, duration in calls)
    del calls[:]
