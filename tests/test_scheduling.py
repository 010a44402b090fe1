import asyncio
import contextvars
import functools
import gc
import inspect
import socket
import sys
import time
import warnings
import weakref

import pytest
from support import error, spin, turns


def test_order_is_first_in_first_out(loop):
    seen = []
    for n in range(1000):
        loop.call_soon(seen.append, n)
    spin(loop)
    assert seen == list(range(1000))


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 8, 17, 300])
def test_arguments(loop, count):
    seen = []
    loop.call_soon(lambda *args: seen.append(args), *range(count))
    loop.call_later(0, lambda *args: seen.append(args), *range(count))
    loop.call_soon_threadsafe(lambda *args: seen.append(args), *range(count))
    while len(seen) < 3:
        spin(loop)
    assert seen == [tuple(range(count))] * 3


def test_callables_of_every_kind(loop):
    class Callable:
        def __call__(self, arg):
            seen.append(arg)

        @classmethod
        def of_class(cls, arg):
            seen.append(arg)

        @staticmethod
        def static(arg):
            seen.append(arg)

    seen = []
    loop.call_soon(Callable(), 1)
    loop.call_soon(Callable.of_class, 2)
    loop.call_soon(Callable.static, 3)
    loop.call_soon(Callable().of_class, 4)
    loop.call_soon(functools.partial(seen.append, 5))
    loop.call_soon(seen.append, 6)
    loop.call_soon(dict, [])
    spin(loop)
    assert seen == [1, 2, 3, 4, 5, 6]


def test_scheduled_while_running_comes_in_the_next_turn(loop):
    seen = []

    def first():
        seen.append("first")
        loop.call_soon(third)

    def second():
        seen.append("second")

    def third():
        seen.append("third")

    loop.call_soon(first)
    loop.call_soon(second)
    spin(loop)
    assert seen == ["first", "second"]
    spin(loop)
    assert seen == ["first", "second", "third"]


def test_stop_finishes_the_turn(loop):
    seen = []
    loop.call_soon(seen.append, 1)
    loop.call_soon(loop.stop)
    loop.call_soon(seen.append, 2)
    loop.call_soon(lambda: loop.call_soon(seen.append, 3))
    loop.run_forever()
    assert seen == [1, 2]
    spin(loop)
    assert seen == [1, 2, 3]


def test_stop_before_run_runs_one_turn(loop):
    seen = []
    loop.stop()
    loop.call_soon(seen.append, 1)
    loop.run_forever()
    assert seen == [1]
    loop.stop()
    loop.run_forever()
    loop.call_soon(seen.append, 2)
    assert seen == [1]
    spin(loop)
    assert seen == [1, 2]


def test_stop_twice_is_one_stop(loop):
    seen = []
    loop.call_soon(loop.stop)
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.call_soon(seen.append, 1)
    spin(loop)
    assert seen == [1]


def test_stopped_turn_does_not_wait_for_timers(loop):
    loop.call_later(3600, loop.stop)
    loop.stop()
    loop.run_forever()


def test_chain_of_many_turns(loop):
    count = 0

    def step():
        nonlocal count
        count += 1
        if count == 20000:
            loop.stop()
        else:
            loop.call_soon(step)

    loop.call_soon(step)
    loop.run_forever()
    assert count == 20000


def test_chain_does_not_starve_io(loop, tmp_path):
    import os

    read, write = os.pipe()
    turn = 0

    def step():
        nonlocal turn
        turn += 1
        loop.call_soon(step)

    loop.add_reader(read, loop.stop)
    loop.call_soon(step)
    os.write(write, b"x")
    loop.run_forever()
    loop.remove_reader(read)
    os.close(read)
    os.close(write)
    assert turn < 100000


def test_chain_does_not_starve_timers(loop):
    def step():
        loop.call_soon(step)

    loop.call_later(0.01, loop.stop)
    loop.call_soon(step)
    loop.run_forever()


def test_is_running_and_is_closed(loop):
    assert (loop.is_running(), loop.is_closed()) == (False, False)
    seen = []
    loop.call_soon(lambda: seen.append((loop.is_running(), loop.is_closed())))
    spin(loop)
    assert seen == [(True, False)]
    assert not loop.is_running()
    loop.close()
    assert (loop.is_running(), loop.is_closed()) == (False, True)
    loop.close()


def test_running_loop_inside_and_outside(loop):
    seen = []
    loop.call_soon(lambda: seen.append(asyncio.get_running_loop()))
    spin(loop)
    assert seen == [loop]
    with pytest.raises(RuntimeError, match="no running event loop"):
        asyncio.get_running_loop()


def test_nested_runs(agree, loop_factory):
    def scenario(loop):
        other = loop_factory()
        seen = []

        def nested():
            future = loop.create_future()
            seen.append(error(loop.run_until_complete, future))
            seen.append(error(other.run_until_complete, future))
            seen.append(error(loop.close))

        loop.call_soon(nested)
        spin(loop)
        other.close()
        assert not loop.is_closed()
        return seen

    assert agree(scenario) == [
        (RuntimeError, "This event loop is already running"),
        (
            RuntimeError,
            "Cannot run the event loop while another loop is running",
        ),
        (RuntimeError, "Cannot close a running event loop"),
    ]


def test_nested_run_forever(loop, loop_factory, loop_name):
    if loop_name == "asyncio" and sys.version_info[:2] == (3, 13):
        pytest.skip("up to 3.13.2 the refused run cleans up the outer one")
    seen = []

    def nested():
        seen.append(error(loop.run_forever))
        seen.append(error(other.run_forever))
        seen.append(asyncio.get_running_loop() is loop)

    other = loop_factory()
    loop.call_soon(nested)
    spin(loop)
    other.close()
    assert seen == [
        (RuntimeError, "This event loop is already running"),
        (
            RuntimeError,
            "Cannot run the event loop while another loop is running",
        ),
        True,
    ]


def test_nested_run_until_complete_of_a_coroutine(agree):
    """The loop refuses before it makes a task of the coroutine."""

    async def inner():
        pass

    async def scenario(loop):
        coroutine = inner()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            refused = error(loop.run_until_complete, coroutine)
            state = inspect.getcoroutinestate(coroutine)
            del coroutine
            gc.collect()
        return refused, state, [str(w.message) for w in caught]

    refused, state, words = agree(scenario)
    assert refused == (RuntimeError, "This event loop is already running")
    assert state == inspect.CORO_CREATED
    assert len(words) == 1 and words[0].endswith("was never awaited")


@pytest.mark.parametrize("debug", [False, True])
def test_closed_loop_refuses(agree, debug):
    def scenario(loop):
        loop.set_debug(debug)
        loop.close()

        async def coroutine():
            pass

        def create_task():
            waiting = coroutine()
            try:
                loop.create_task(waiting)
            finally:
                waiting.close()

        return [
            error(loop.call_soon, print),
            error(loop.call_later, 1, print),
            error(loop.call_at, 1, print),
            error(loop.call_soon_threadsafe, print),
            error(loop.run_forever),
            error(loop.run_in_executor, None, print),
            error(loop.add_reader, 0, print),
            error(loop.add_writer, 0, print),
            error(create_task),
            loop.remove_reader(0),
            loop.remove_writer(0),
            error(loop.stop),
            loop.is_closed(),
            type(loop.time()),
        ]

    seen = agree(scenario)
    closed = (RuntimeError, "Event loop is closed")
    assert seen[:9] == [closed] * 9


def test_close_drops_what_was_queued(loop):
    class Token:
        def __call__(self):
            raise AssertionError

    soon, later = Token(), Token()
    refs = [weakref.ref(soon), weakref.ref(later)]
    loop.call_soon(soon)
    loop.call_later(1000, later)
    del soon, later
    loop.close()
    gc.collect()
    assert [ref() for ref in refs] == [None, None]


@pytest.mark.parametrize("debug", [False, True])
def test_not_callable(agree, debug):
    def scenario(loop):
        loop.set_debug(debug)

        async def function():
            pass

        coroutine = function()
        if debug:
            methods = {
                "call_soon": loop.call_soon,
                "call_soon_threadsafe": loop.call_soon_threadsafe,
                "call_later": functools.partial(loop.call_later, 1),
                "call_at": functools.partial(loop.call_at, 1),
                "run_in_executor": functools.partial(
                    loop.run_in_executor, None
                ),
            }
            seen = {
                name: [error(method, value) for value in (None, function)]
                for name, method in methods.items()
            }
            seen["coroutine"] = error(loop.call_soon, coroutine)
        else:
            handles = loop.call_soon(function), loop.call_soon(None)
            for handle in handles:
                handle.cancel()
            seen = None
        coroutine.close()
        loop.set_debug(False)
        return seen

    if debug:
        seen = agree(scenario)
        assert seen["call_soon"] == [
            (
                TypeError,
                "a callable object was expected by call_soon(), got None",
            ),
            (TypeError, "coroutines cannot be used with call_soon()"),
        ]
    else:
        # The oracle notices when the callback runs, if at all.
        assert agree(scenario) is None


def test_bad_calls(agree):
    def scenario(loop):
        def kind(function, *args, **kwargs):
            result = error(function, *args, **kwargs)
            return result and result[0]

        return [
            kind(loop.call_soon),
            kind(loop.call_later),
            kind(loop.call_later, 1),
            kind(loop.call_at),
            kind(loop.call_at, 1),
            kind(loop.call_soon_threadsafe),
            kind(loop.call_soon, print, unknown=1),
            kind(loop.call_later, 1, print, unknown=1),
            kind(loop.call_later, "1", print),
            kind(loop.call_later, [], print),
            kind(loop.run_until_complete, 1),
            kind(loop.run_until_complete),
            kind(loop.run_forever, 1),
            kind(loop.stop, 1),
        ]

    assert agree(scenario) == [TypeError] * 14


def test_none_as_time(agree):
    def scenario(loop):
        return [
            error(loop.call_later, None, print),
            error(loop.call_at, None, print),
        ]

    assert agree(scenario) == [
        (TypeError, "delay must not be None"),
        (TypeError, "when cannot be None"),
    ]


def test_callback_keyword(loop):
    """asyncio takes the first parameters by name too."""
    seen = []
    loop.call_soon(callback=lambda: seen.append(1))
    loop.call_later(delay=0, callback=lambda: seen.append(2))
    loop.call_at(when=0, callback=lambda: seen.append(3))
    while len(seen) < 3:
        spin(loop)
    assert sorted(seen) == [1, 2, 3]


def test_run_until_complete_result(loop):
    async def value():
        return 42

    async def fail():
        raise ValueError("no")

    future = loop.create_future()
    loop.call_soon(future.set_result, 7)
    assert loop.run_until_complete(value()) == 42
    assert loop.run_until_complete(future) == 7
    assert loop.run_until_complete(loop.create_task(value())) == 42
    with pytest.raises(ValueError, match="^no$"):
        loop.run_until_complete(fail())


def test_run_until_complete_of_a_done_future(loop):
    future = loop.create_future()
    future.set_result(1)
    assert loop.run_until_complete(future) == 1


def test_run_until_complete_stopped_early(agree):
    def scenario(loop):
        future = loop.create_future()
        loop.call_soon(loop.stop)
        return error(loop.run_until_complete, future)

    assert agree(scenario) == (
        RuntimeError,
        "Event loop stopped before Future completed.",
    )


def test_run_until_complete_of_another_loops_future(loop, loop_factory):
    other = loop_factory()
    future = other.create_future()
    with pytest.raises(ValueError, match="belongs to a different"):
        loop.run_until_complete(future)
    other.close()


def test_interrupt_in_run_until_complete_leaves_no_stop(loop):
    async def interrupt():
        raise KeyboardInterrupt

    seen = []
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(interrupt())

    async def main():
        for n in range(3):
            seen.append(n)
            await asyncio.sleep(0)

    loop.run_until_complete(main())
    assert seen == [0, 1, 2]


def test_interrupt_by_another_callback_leaves_no_stop(loop):
    """The future that was waited for ends in a later run."""
    future = loop.create_future()

    def interrupt():
        raise KeyboardInterrupt

    loop.call_soon(interrupt)
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(future)

    async def main():
        future.set_result(None)
        for _ in range(4):
            await asyncio.sleep(0)
        return "to the end"

    assert loop.run_until_complete(main()) == "to the end"


def test_restart(loop):
    for n in range(5):
        assert loop.run_until_complete(asyncio.sleep(0, n)) == n
        spin(loop)


def test_repr(agree):
    def scenario(loop):
        name = type(loop).__name__
        seen = [repr(loop).replace(name, "")]
        loop.call_soon(lambda: seen.append(repr(loop).replace(name, "")))
        spin(loop)
        loop.close()
        seen.append(repr(loop).replace(name, ""))
        return seen

    # The class names differ, and asyncio's has a module in none of them.
    seen = agree(scenario)
    assert "running=True" in seen[1] and "closed=True" in seen[2]


def test_loop_is_the_public_types(loop):
    assert isinstance(loop, asyncio.AbstractEventLoop)
    assert isinstance(loop, asyncio.BaseEventLoop)


def test_attributes_and_weak_references(loop):
    loop.note = 1
    assert loop.note == 1
    assert weakref.ref(loop)() is loop


def test_methods_replaced_on_the_instance(loop):
    """call_later and tasks go through what the instance says."""
    seen = []
    call_soon = loop.call_soon

    def spy(callback, *args, context=None):
        seen.append(callback)
        return call_soon(callback, *args, context=context)

    loop.call_soon = spy
    loop.run_until_complete(asyncio.sleep(0))
    del loop.call_soon
    assert seen


def test_subclass(loop_factory, loop):
    class Sub(type(loop)):
        def __init__(self):
            super().__init__()
            self.calls = []

        def call_soon(self, callback, *args, context=None):
            self.calls.append(callback)
            return super().call_soon(callback, *args, context=context)

    sub = Sub()
    try:
        assert sub.run_until_complete(asyncio.sleep(0, 5)) == 5
        assert sub.calls
    finally:
        sub.close()


def test_task_factory(agree):
    def scenario(loop):
        seen = []

        def factory(loop, coro, **kwargs):
            seen.append(sorted(kwargs))
            return asyncio.Task(coro, loop=loop, **kwargs)

        async def main():
            await loop.create_task(asyncio.sleep(0), name="x")
            context = __import__("contextvars").copy_context()
            await loop.create_task(asyncio.sleep(0), context=context)

        assert loop.get_task_factory() is None
        loop.set_task_factory(factory)
        assert loop.get_task_factory() is factory
        loop.run_until_complete(main())
        loop.set_task_factory(None)
        return seen, error(loop.set_task_factory, 1)

    agree(scenario)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks: 3.12")
def test_eager_tasks(run):
    async def main():
        loop = asyncio.get_running_loop()
        loop.set_task_factory(asyncio.eager_task_factory)
        seen = []

        async def note():
            seen.append(1)
            return 2

        task = loop.create_task(note())
        assert seen == [1] and task.done() and await task == 2
        assert await asyncio.create_task(note(), name="n") == 2

    run(main())


def test_task_factories_get_what_asyncio_passes(agree):
    """No keyword more: asyncio.eager_task_factory and others refuse them."""

    async def nothing():
        pass

    def scenario(loop):
        seen = []

        def factory(loop, coro, **kwargs):
            seen.append(sorted(kwargs))
            return asyncio.Task(coro, loop=loop, **kwargs)

        async def main():
            task = asyncio.create_task(nothing(), name="named")
            assert task.get_name() == "named"
            await task
            await asyncio.ensure_future(nothing())
            await asyncio.gather(nothing())
            await asyncio.wait_for(nothing(), 1)
            async with asyncio.TaskGroup() as group:
                group.create_task(nothing())
            context = contextvars.copy_context()
            await loop.create_task(nothing(), context=context)

        loop.set_task_factory(factory)
        loop.run_until_complete(main())
        loop.run_until_complete(nothing())
        loop.set_task_factory(None)
        return seen

    assert agree(scenario)


@pytest.mark.parametrize("factory", [False, True])
@pytest.mark.parametrize(
    "kwargs",
    [
        {"eager_start": True},
        {"eager_start": False},
        {"eager_start": None},
        {"name": None},
        {"name": 5},
        {"context": None},
        {"loop": None},
        {"unknown": 1},
        {"name": "n", "context": None, "eager_start": True},
    ],
    ids=str,
)
def test_keywords_of_create_task(agree, factory, kwargs):
    """Those of the running version, and no others."""

    def scenario(loop):
        seen = []

        async def note():
            seen.append(asyncio.current_task().get_name().split("-")[0])

        async def main():
            coro = note()
            try:
                task = loop.create_task(coro, **kwargs)
            except TypeError:
                coro.close()
                return TypeError
            seen.append(task.done())
            await task

        if factory:
            loop.set_task_factory(
                lambda loop, coro, **kw: asyncio.Task(coro, loop=loop, **kw)
            )
        seen.append(loop.run_until_complete(main()))
        return seen

    agree(scenario)


def test_order_of_one_turn(agree):
    """What was scheduled, then I/O, then what is due; what those schedule
    waits for the next turn."""

    def scenario(loop):
        near, far = socket.socketpair()
        with near, far:
            seen = []

            def note(name):
                seen.append(name)
                loop.call_soon(seen.append, f"after {name}")

            def readable():
                loop.remove_reader(near)
                note("reader")

            spin(loop)
            loop.add_reader(near, readable)
            far.send(b"x")
            loop.call_at(loop.time() - 1, note, "timer")
            loop.call_soon(note, "soon")
            loop.call_soon_threadsafe(note, "threadsafe")
            loop.call_soon(note, "last")
            spin(loop)
            seen.append("next turn")
            spin(loop)
        return seen

    names = "soon threadsafe last reader timer".split()
    assert agree(scenario) == [
        *names,
        "next turn",
        *[f"after {name}" for name in names],
    ]


def test_a_ready_descriptor_does_not_wait_for_a_chain(agree):
    """Also when the loop has only just polled."""

    def scenario(loop):
        async def once():
            near, far = socket.socketpair()
            with near, far:
                seen = []
                far.send(b"x")
                await asyncio.sleep(0.001)

                def readable():
                    loop.remove_reader(near)
                    seen.append("reader")

                loop.add_reader(near, readable)
                loop.call_soon(
                    lambda: (
                        seen.append("f"),
                        loop.call_soon(seen.append, "g"),
                    )
                )
                await asyncio.sleep(0.001)
            return seen

        return [loop.run_until_complete(once()) for _ in range(50)]

    assert agree(scenario) == [["f", "reader", "g"]] * 50


@pytest.mark.parametrize("width", [1, 100])
def test_storm_of_callbacks_lets_io_through(loop, width):
    """A chain of turns leaves the poll out for 20 µs at most, so a descriptor
    that gets ready waits for that and a few turns."""
    near, far = socket.socketpair()
    near.setblocking(False)
    turn_times, waits = [], []
    last = sent = None

    def storm():
        if len(waits) < 500:
            loop.call_soon(storm)

    def clock():
        """One of a turn's callbacks takes the time."""
        nonlocal last, sent
        if len(waits) == 500:
            return
        now = time.monotonic()
        if last is not None:
            turn_times.append(now - last)
        last = now
        if sent is None:
            sent = now
            far.send(b"x")
        loop.call_soon(clock)

    def readable():
        nonlocal sent
        near.recv(1)
        waits.append(time.monotonic() - sent)
        sent = None
        if len(waits) == 500:
            loop.stop()

    with near, far:
        loop.add_reader(near, readable)
        for _ in range(width):
            loop.call_soon(storm)
        loop.call_soon(clock)
        loop.run_forever()
        loop.remove_reader(near)
    # Medians: the machine may be busy with other things.
    turn = sorted(turn_times)[len(turn_times) // 2]
    wait = sorted(waits)[len(waits) // 2]
    assert wait < 20e-6 + 10 * turn


def test_attributes_that_others_replace(loop):
    """Tests and tools of others put theirs in the instance's place."""
    seen = []
    for name in (
        *("call_later", "call_at", "create_task", "run_in_executor"),
        *("call_exception_handler", "getaddrinfo", "time", "close"),
        *("_process_events", "_write_to_self", "_make_socket_transport"),
    ):
        original = getattr(loop, name)

        def replaced(*args, name=name, original=original, **kwargs):
            seen.append(name)
            return original(*args, **kwargs)

        setattr(loop, name, replaced)
        assert getattr(loop, name) is replaced

    async def main():
        near, far = socket.socketpair()
        with far:
            transport, _ = await loop.create_connection(
                asyncio.Protocol, sock=near
            )
            transport.abort()
        await asyncio.sleep(0.001)

    loop.run_until_complete(main())
    expected = {"create_task", "time", "call_later", "_make_socket_transport"}
    assert expected <= set(seen)
    for name in list(vars(loop)):
        if callable(vars(loop)[name]):
            delattr(loop, name)
    assert loop._default_executor is None
    assert loop._closed is False
    loop.close()
    assert loop._closed is True


async def test_tasks_interleave():
    seen = []

    async def worker(name):
        for n in range(3):
            seen.append((name, n))
            await asyncio.sleep(0)

    await asyncio.gather(worker("a"), worker("b"))
    assert seen == [(name, n) for n in range(3) for name in "ab"]


async def test_io_after_ready_callbacks_of_the_same_turn():
    """What was ready before the poll runs before what the poll found."""
    import socket

    loop = asyncio.get_running_loop()
    near, far = socket.socketpair()
    with near, far:
        seen = []
        loop.add_reader(near, lambda: (seen.append("io"), near.recv(1)))
        far.send(b"x")
        loop.call_soon(seen.append, "soon")
        await turns(5)
        loop.remove_reader(near)
    assert seen == ["soon", "io"]


def test_reference_counts_of_arguments(loop):
    arg, callback = object(), lambda *args: None
    before = sys.getrefcount(arg), sys.getrefcount(callback)
    for _ in range(100):
        loop.call_soon(callback, arg)
        loop.call_soon(callback, arg, arg, arg, arg, arg)
        loop.call_later(0, callback, arg)
        loop.call_soon_threadsafe(callback, arg)
    spin(loop)
    loop.call_later(0.001, loop.stop)
    loop.run_forever()
    gc.collect()
    assert (sys.getrefcount(arg), sys.getrefcount(callback)) == before
