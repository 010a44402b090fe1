"""Coroutines that native code starts, cancels and hears the end of."""

import asyncio
import contextvars
import gc
import sys
import weakref

import pytest
from driving import CANCELLED, CLOSED, OK, RAISED, run_until, settle

import pyloop


@pytest.mark.parametrize("eager", [False, True])
def test_coroutine_result(client, loop, eager):
    held = client.hold(loop)
    seen = []

    async def work(waits):
        task = asyncio.current_task()
        assert isinstance(task, asyncio.Task)
        for _ in range(waits):
            await asyncio.sleep(0)
        return waits

    async def main():
        for waits in range(3):
            client.start(
                held, work(waits), lambda *end: seen.append(end), eager
            )
        if eager and sys.version_info >= (3, 12):
            assert seen == [(OK, 0)]
        else:
            assert seen == []
        await asyncio.sleep(0.01)

    loop.run_until_complete(main())
    assert seen == [(OK, 0), (OK, 1), (OK, 2)]


@pytest.mark.parametrize("eager", [False, True])
def test_coroutine_exception(client, loop, eager):
    held = client.hold(loop)
    seen = []

    async def work():
        raise ValueError("from the coroutine")

    async def main():
        client.start(held, work(), lambda *end: seen.append(end), eager)
        await asyncio.sleep(0.01)

    loop.run_until_complete(main())
    ((status, value),) = seen
    assert status == RAISED
    assert repr(value) == "ValueError('from the coroutine')"


def test_coroutine_cancelled_by_itself(client, loop):
    held = client.hold(loop)
    seen = []

    async def work():
        asyncio.current_task().cancel()
        await asyncio.sleep(10)

    client.start(held, work(), lambda *end: seen.append(end))
    run_until(loop, lambda: seen)
    assert seen == [(CANCELLED, None)]


def test_coroutine_that_raises_cancelled_error(client, loop):
    held = client.hold(loop)
    seen = []

    async def work():
        raise asyncio.CancelledError("mine")

    client.start(held, work(), lambda *end: seen.append(end))
    run_until(loop, lambda: seen)
    assert seen == [(CANCELLED, None)]


@pytest.mark.parametrize("delay_us", [0, 200, 3000])
def test_coroutine_cancelled_from_a_thread(client, loop, delay_us):
    held = client.hold(loop)
    ends = []
    handles = []
    caught = []

    async def work():
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            caught.append(1)
            raise

    async def main():
        for _ in range(50):
            handles.append(
                client.start_and_cancel(
                    held, work(), lambda *end: ends.append(end), delay_us
                )
            )
        while len(ends) < 50:
            await asyncio.sleep(0.001)

    loop.run_until_complete(main())
    for handle in handles:
        client.free_run(handle)
    assert ends == [(CANCELLED, None)] * 50
    # Cancelled before its first step, a coroutine sees nothing of it.
    assert len(caught) <= 50


def test_cancel_races_close(client):
    """Each task has one end, whoever is first."""
    for delay_us in range(0, 1000, 50):
        loop = pyloop.new_event_loop()
        loop.set_exception_handler(lambda *args: None)
        settle(loop)
        held = client.hold(loop)
        ends = [[] for _ in range(30)]
        handles = [
            client.start_and_cancel(
                held,
                asyncio.sleep(10),
                lambda *end, seen=seen: seen.append(end),
                delay_us,
            )
            for seen in ends
        ]
        settle(loop)
        loop.close()
        for handle in handles:
            client.free_run(handle)
        for seen in ends:
            assert seen in ([(CANCELLED, None)], [(CLOSED, None)])


def test_cancel_races_the_end(client, loop):
    held = client.hold(loop)
    ends = []
    handles = []

    async def work(turns):
        for _ in range(turns):
            await asyncio.sleep(0)
        return turns

    async def main():
        for i in range(300):
            handles.append(
                client.start_and_cancel(
                    held, work(i % 30), lambda *end: ends.append(end), i % 40
                )
            )
            await asyncio.sleep(0)
        while len(ends) < 300:
            await asyncio.sleep(0.001)

    loop.run_until_complete(main())
    for handle in handles:
        client.free_run(handle)
    assert {status for status, _ in ends} <= {OK, CANCELLED}


def test_coroutine_in_context_and_with_name(client, loop):
    held = client.hold(loop)
    var = contextvars.ContextVar("var")
    context = contextvars.copy_context()
    context.run(var.set, "mine")
    seen = []

    async def work():
        return var.get(), asyncio.current_task().get_name()

    client.start(
        held,
        work(),
        lambda *end: seen.append(end),
        False,
        context,
        "native-task",
    )
    run_until(loop, lambda: seen)
    assert seen == [(OK, ("mine", "native-task"))]


def test_any_awaitable(client, loop):
    held = client.hold(loop)
    seen = []

    class Awaitable:
        def __await__(self):
            yield from asyncio.sleep(0).__await__()
            return "awaited"

    future = loop.create_future()
    client.start(held, future, lambda *end: seen.append(end))
    client.start(held, Awaitable(), lambda *end: seen.append(end))
    loop.call_later(0.01, future.set_result, "future")
    run_until(loop, lambda: len(seen) == 2)
    assert seen == [(OK, "awaited"), (OK, "future")]


def test_start_of_something_else(client, loop):
    held = client.hold(loop)
    seen = []
    with pytest.raises(TypeError):
        client.start(held, 17, lambda *end: seen.append(end))
    settle(loop)
    assert seen == []


def test_task_factory_is_used(client, loop):
    held = client.hold(loop)
    made = []
    seen = []

    def factory(loop, coro, **kwargs):
        made.append(kwargs)
        return asyncio.Task(coro, loop=loop, **kwargs)

    async def work():
        return 5

    loop.set_task_factory(factory)
    client.start(held, work(), lambda *end: seen.append(end), True)
    run_until(loop, lambda: seen)
    assert seen == [(OK, 5)]
    assert len(made) == 2  # run_until's own, too


def test_exception_of_done_goes_to_the_handler(client, loop):
    held = client.hold(loop)
    contexts = []
    loop.set_exception_handler(lambda loop, c: contexts.append(c))

    async def work():
        await asyncio.sleep(0)

    def done(status, value):
        raise ValueError("from done")

    client.start(held, work(), done)
    run_until(loop, lambda: contexts)
    assert str(contexts[0]["exception"]) == "from done"


def test_close_ends_coroutines(client):
    loop = pyloop.new_event_loop()
    held = client.hold(loop)
    seen = []
    contexts = []
    loop.set_exception_handler(lambda loop, c: contexts.append(c["message"]))

    async def work():
        await asyncio.Event().wait()

    client.start(held, work(), lambda *end: seen.append(end))
    settle(loop)
    loop.close()
    assert seen == [(CLOSED, None)]
    gc.collect()
    assert contexts == ["Task was destroyed but it is pending!"]
    coro = work()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        client.start(held, coro, lambda *end: seen.append(end))
    coro.close()


def test_results_are_not_kept(client, loop):
    held = client.hold(loop)
    refs = []

    class Result:
        pass

    async def work():
        result = Result()
        refs.append(weakref.ref(result))
        return result

    client.start(held, work(), lambda status, value: None)
    client.start(held, work(), lambda status, value: None, True)
    run_until(loop, lambda: len(refs) == 2)
    settle(loop)
    gc.collect()
    assert [ref() for ref in refs] == [None, None]


@pytest.mark.parametrize("window", [1, 100])
def test_calls_of_a_thread(client, loop, window):
    async def handler():
        await asyncio.sleep(0)

    async def failing():
        raise ValueError

    async def main(handler, count):
        calls = client.calls(loop, handler, count, window)
        return await loop.run_in_executor(None, client.join_calls, calls)

    assert loop.run_until_complete(main(handler, 1000))[1] == 0
    assert loop.run_until_complete(main(failing, 200))[1] == 200
