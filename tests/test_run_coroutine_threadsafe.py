"""asyncio.run_coroutine_threadsafe() and pyloop's, which promises the same."""

import asyncio
import concurrent.futures
import contextvars
import gc
import threading
import weakref

import pytest
from support import DEADLINE, finish

import pyloop


@pytest.fixture(params=["asyncio's", "pyloop's"])
def submit(request):
    if request.param == "pyloop's":
        return pyloop.run_coroutine_threadsafe
    return asyncio.run_coroutine_threadsafe


@pytest.fixture
def running(loop_factory):
    """A loop that runs in another thread."""
    loop = loop_factory()
    contexts = []
    loop.set_exception_handler(lambda loop, context: contexts.append(context))
    loop.contexts = contexts
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join(DEADLINE)
    assert not thread.is_alive()
    finish(loop)


def test_result(submit, running):
    async def work(value):
        await asyncio.sleep(0)
        assert asyncio.get_running_loop() is running
        return value

    futures = [submit(work(i), running) for i in range(100)]
    assert all(isinstance(f, concurrent.futures.Future) for f in futures)
    assert [f.result(DEADLINE) for f in futures] == list(range(100))


def test_exception(submit, running):
    async def work():
        raise ValueError("from the coroutine")

    future = submit(work(), running)
    with pytest.raises(ValueError, match="from the coroutine"):
        future.result(DEADLINE)
    assert running.contexts == []


@pytest.mark.parametrize(
    "raised, seen",
    [
        (asyncio.CancelledError, concurrent.futures.CancelledError),
        (asyncio.TimeoutError, TimeoutError),
    ],
)
def test_exceptions_of_asyncio_are_converted(submit, running, raised, seen):
    async def work():
        raise raised("words")

    with pytest.raises(seen):
        submit(work(), running).result(DEADLINE)


def test_timeout_of_result_leaves_the_task(submit, running):
    release = threading.Event()
    gate = asyncio.Event()

    async def work():
        await gate.wait()
        return "later"

    future = submit(work(), running)
    with pytest.raises(concurrent.futures.TimeoutError):
        future.result(0.01)
    running.call_soon_threadsafe(gate.set)
    assert future.result(DEADLINE) == "later"
    release.set()


def test_cancel_reaches_the_task(submit, running):
    started = threading.Event()
    cancelled = threading.Event()

    async def work():
        try:
            started.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    future = submit(work(), running)
    assert started.wait(DEADLINE)
    assert future.cancel()
    assert cancelled.wait(DEADLINE)
    with pytest.raises(concurrent.futures.CancelledError):
        future.result(DEADLINE)


def test_cancel_before_the_start(submit, loop):
    ran = []

    async def work():
        await asyncio.sleep(0)  # up to here asyncio's runs before 3.14
        ran.append(1)

    future = submit(work(), loop)
    assert future.cancel()
    for _ in range(4):
        loop.run_until_complete(asyncio.sleep(0))
    assert ran == []


def test_cancel_from_the_loop_s_own_thread(submit, loop):
    caught = []

    async def work():
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            caught.append(1)
            raise

    async def main():
        future = submit(work(), loop)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert future.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    loop.run_until_complete(main())
    assert caught == [1]


def test_cancel_after_the_loop_is_closed(loop_factory):
    # asyncio's own logs the RuntimeError of its call_soon_threadsafe().
    submit = pyloop.run_coroutine_threadsafe
    loop = loop_factory()
    messages = []
    loop.set_exception_handler(lambda loop, c: messages.append(c["message"]))
    gate = asyncio.Event()

    async def work():
        await gate.wait()

    future = submit(work(), loop)
    loop.run_until_complete(asyncio.sleep(0))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    assert future.cancel()
    del future, gate
    gc.collect()
    assert messages == ["Task was destroyed but it is pending!"]


def test_task_that_is_cancelled_cancels_the_future(submit, running):
    async def work():
        asyncio.current_task().cancel()
        await asyncio.sleep(10)

    future = submit(work(), running)
    with pytest.raises(concurrent.futures.CancelledError):
        future.result(DEADLINE)
    assert future.cancelled()


@pytest.mark.parametrize("wrong", [None, 1, asyncio.sleep])
def test_something_else_than_a_coroutine(submit, loop, wrong):
    with pytest.raises(TypeError, match="^A coroutine object is required$"):
        submit(wrong, loop)


def test_closed_loop(submit, loop_factory):
    loop = loop_factory()
    loop.close()

    async def work():
        pass

    coro = work()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        submit(coro, loop)
    coro.close()


def test_submissions_race_close(submit, loop_factory):
    """Each is taken, or refused with asyncio's words."""

    async def work():
        pass

    for _ in range(20):
        loop = loop_factory()
        loop.set_exception_handler(lambda *args: None)
        coros, unexpected = [], []
        started = threading.Barrier(3)

        def produce():
            started.wait(DEADLINE)
            try:
                for _ in range(500):
                    coros.append(work())
                    submit(coros[-1], loop)
            except RuntimeError as exc:
                if str(exc) != "Event loop is closed":
                    unexpected.append(exc)

        threads = [threading.Thread(target=produce) for _ in range(2)]
        for thread in threads:
            thread.start()
        started.wait(DEADLINE)
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        for thread in threads:
            thread.join(DEADLINE)
            assert not thread.is_alive()
        assert unexpected == []
        for coro in coros:
            coro.close()


def note_tasks(loop):
    """The coroutines of the tasks that are made from here on."""
    made = []

    def factory(loop, coro, **kwargs):
        made.append(coro)
        return asyncio.Task(coro, loop=loop, **kwargs)

    loop.set_task_factory(factory)
    return made


def test_one_hand_off_for_a_call(running, pyloop_only):
    """And one task."""

    async def work():
        return 1

    made = note_tasks(running)
    before = running.stats().handoffs
    for _ in range(100):
        future = pyloop.run_coroutine_threadsafe(work(), running)
        assert future.result(DEADLINE) == 1
    assert running.stats().handoffs == before + 100
    assert len(made) == 100


def test_task_factory(submit, running):
    async def work():
        return 1

    made = note_tasks(running)
    coro = work()
    assert submit(coro, running).result(DEADLINE) == 1
    assert made == [coro]


def test_task_factory_that_fails(submit, running):
    def factory(loop, coro, **kwargs):
        coro.close()
        raise LookupError("no task")

    async def work():
        pass

    running.set_task_factory(factory)
    future = submit(work(), running)
    with pytest.raises(LookupError, match="no task"):
        future.result(DEADLINE)
    running.set_task_factory(None)
    submit(work(), running).result(DEADLINE)
    (context,) = running.contexts
    assert isinstance(context["exception"], LookupError)


def test_context_of_the_caller(submit, running):
    var = contextvars.ContextVar("var")
    var.set("caller's")

    async def work():
        return var.get()

    assert submit(work(), running).result(DEADLINE) == "caller's"


def test_a_done_callback_runs_in_the_loop_s_thread(submit, running):
    seen = []
    done = threading.Event()

    async def work():
        await asyncio.sleep(0.01)

    def callback(future):
        seen.append(threading.get_ident())
        done.set()

    submit(work(), running).add_done_callback(callback)
    assert done.wait(DEADLINE)
    assert seen != [threading.get_ident()]


def test_nothing_is_kept(submit, running):
    class Result:
        pass

    async def work():
        return Result()

    future = submit(work(), running)
    result = weakref.ref(future.result(DEADLINE))
    asyncio.run_coroutine_threadsafe(asyncio.sleep(0), running).result()
    del future
    gc.collect()
    assert result() is None
