import asyncio
import concurrent.futures
import sys
import threading
import time

import pytest
from support import DEADLINE, error, spin


def start(*targets):
    threads = [threading.Thread(target=target) for target in targets]
    for thread in threads:
        thread.start()
    return threads


def join(threads):
    for thread in threads:
        thread.join(DEADLINE)
        assert not thread.is_alive()


@pytest.mark.parametrize("producers", [1, 2, 4])
def test_order_of_each_producer_is_kept(loop, producers):
    count = 3000
    seen = []
    total = producers * count

    def note(producer, n):
        seen.append((producer, n))
        if len(seen) == total:
            loop.stop()

    def produce(producer):
        for n in range(count):
            loop.call_soon_threadsafe(note, producer, n)

    threads = start(*[lambda p=p: produce(p) for p in range(producers)])
    loop.run_forever()
    join(threads)
    assert len(seen) == total
    for producer in range(producers):
        assert [n for p, n in seen if p == producer] == list(range(count))


def test_wakes_an_idle_loop(loop):
    """Each time, without waiting for a timer."""
    times = []
    ready = threading.Event()

    def note():
        times.append(time.monotonic())
        if len(times) == 50:
            loop.stop()
        else:
            ready.set()

    def produce():
        for _ in range(50):
            ready.wait(DEADLINE)
            ready.clear()
            time.sleep(0.0005)
            loop.call_soon_threadsafe(note)

    loop.call_soon(ready.set)
    threads = start(produce)
    loop.call_later(3600, print)
    began = time.monotonic()
    loop.run_forever()
    join(threads)
    assert time.monotonic() - began < 10


def test_ping_pong_between_two_loops(loop_factory):
    """Lost wake-ups show as a hang."""
    loops = [loop_factory(), loop_factory()]
    count = 0

    def hit(side):
        nonlocal count
        count += 1
        if count >= 4000:
            for loop in loops:
                loop.call_soon_threadsafe(loop.stop)
        else:
            loops[side].call_soon_threadsafe(hit, 1 - side)

    loops[0].call_soon_threadsafe(hit, 1)
    join(start(loops[0].run_forever, loops[1].run_forever))
    for loop in loops:
        loop.close()
    assert count >= 4000


def test_returned_handle(loop):
    seen = []
    handle = loop.call_soon_threadsafe(seen.append, 1)
    other = loop.call_soon_threadsafe(seen.append, 2)
    assert isinstance(handle, asyncio.Handle)
    handle.cancel()
    assert handle.cancelled() and not other.cancelled()
    spin(loop)
    assert seen == [2]


def test_before_run_forever(loop):
    join(start(lambda: loop.call_soon_threadsafe(loop.stop)))
    loop.run_forever()


def test_from_the_loops_own_thread_in_order_with_call_soon(loop):
    seen = []

    def main():
        for n in range(0, 10, 2):
            loop.call_soon(seen.append, n)
            loop.call_soon_threadsafe(seen.append, n + 1)
        loop.call_soon(loop.stop)

    loop.call_soon(main)
    loop.run_forever()
    spin(loop)
    assert seen == list(range(10))


def test_burst_before_the_run_keeps_its_place(loop):
    seen = []
    loop.call_soon(seen.append, 1)
    loop.call_soon_threadsafe(seen.append, 2)
    loop.call_soon(seen.append, 3)
    spin(loop)
    spin(loop)
    assert seen == [1, 2, 3]


def test_closed_loop_refuses(loop):
    loop.close()
    seen = []
    closed = (RuntimeError, "Event loop is closed")

    def call():
        for _ in range(10):
            seen.append(error(loop.call_soon_threadsafe, print))

    join(start(call))
    assert seen == [closed] * 10


@pytest.mark.parametrize("round_", range(5))
def test_racing_with_close(loop_factory, round_):
    """Either it is taken or it is refused; nothing else."""
    for _ in range(6):
        loop = loop_factory()
        started = threading.Barrier(3)
        unexpected = []

        def produce():
            started.wait()
            try:
                while True:
                    loop.call_soon_threadsafe(int)
            except RuntimeError as exc:
                if str(exc) != "Event loop is closed":
                    unexpected.append(exc)

        threads = start(produce, produce)
        started.wait()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        join(threads)
        assert unexpected == []


def test_arguments_are_freed_on_either_side(loop):
    import gc
    import weakref

    class Token:
        pass

    refs = []

    def produce():
        for _ in range(1000):
            token = Token()
            refs.append(weakref.ref(token))
            loop.call_soon_threadsafe(id, token)
        loop.call_soon_threadsafe(loop.stop)

    threads = start(produce)
    loop.run_forever()
    join(threads)
    spin(loop)
    gc.collect()
    assert not any(ref() for ref in refs)


def test_undelivered_items_are_freed_by_close(loop):
    import gc
    import weakref

    class Token:
        pass

    token = Token()
    ref = weakref.ref(token)
    join(start(lambda: loop.call_soon_threadsafe(id, token)))
    del token
    loop.close()
    gc.collect()
    assert ref() is None


def test_cancel_from_another_thread(loop):
    """A handle cancelled before the loop got to it does not run."""
    seen = []
    held = threading.Event()

    def cancel():
        handle = loop.call_soon_threadsafe(seen.append, 1)
        handle.cancel()
        held.set()
        loop.call_soon_threadsafe(loop.stop)

    threads = []
    loop.call_soon(lambda: (threads.extend(start(cancel)), held.wait(5)))
    loop.run_forever()
    join(threads)
    assert seen == []


def test_run_coroutine_threadsafe(loop):
    results = []

    async def double(n):
        await asyncio.sleep(0)
        return 2 * n

    async def fail():
        raise ValueError("no")

    def call():
        try:
            for n in range(100):
                future = asyncio.run_coroutine_threadsafe(double(n), loop)
                results.append(future.result(DEADLINE))
            future = asyncio.run_coroutine_threadsafe(fail(), loop)
            results.append(error(future.result, DEADLINE))
        finally:
            loop.call_soon_threadsafe(loop.stop)

    threads = start(call)
    loop.run_forever()
    join(threads)
    assert results[:-1] == [2 * n for n in range(100)]
    assert results[-1] == (ValueError, "no")


def test_run_coroutine_threadsafe_cancel(loop):
    cancelled = threading.Event()
    started = threading.Event()

    async def forever():
        started.set()
        try:
            await asyncio.sleep(3600)
        finally:
            cancelled.set()

    def call():
        future = asyncio.run_coroutine_threadsafe(forever(), loop)
        started.wait(DEADLINE)
        future.cancel()
        cancelled.wait(DEADLINE)
        loop.call_soon_threadsafe(loop.stop)

    threads = start(call)
    loop.run_forever()
    join(threads)
    assert cancelled.is_set()


def test_many_waiters_on_one_loop(loop):
    async def value(n):
        await asyncio.sleep(0.001)
        return n

    def call(n):
        future = asyncio.run_coroutine_threadsafe(value(n), loop)
        return future.result(DEADLINE)

    async def main():
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            calls = [loop.run_in_executor(pool, call, n) for n in range(200)]
            return await asyncio.gather(*calls)

    assert loop.run_until_complete(main()) == list(range(200))


def test_debug_wrong_thread(agree):
    def scenario(loop):
        loop.set_debug(True)
        seen = []

        def call():
            for function in (
                lambda: loop.call_soon(print),
                lambda: loop.call_later(1, print),
                lambda: loop.call_at(1, print),
                lambda: loop.call_soon_threadsafe(int).cancel(),
            ):
                seen.append(error(function))
            loop.call_soon_threadsafe(loop.stop)

        threads = []
        loop.call_soon(lambda: threads.extend(start(call)))
        loop.run_forever()
        join(threads)
        # A loop that does not run belongs to nobody.
        threads = start(lambda: seen.append(error(loop.call_soon, int)))
        join(threads)
        spin(loop)
        return seen

    wrong = (
        RuntimeError,
        "Non-thread-safe operation invoked on an event loop other than "
        "the current one",
    )
    assert agree(scenario) == [wrong, wrong, wrong, None, None]


def test_wrong_thread_without_debug_does_not_crash(loop):
    """It may be late; asyncio's promise is no more than that."""
    seen = []

    def call():
        for _ in range(1000):
            try:
                loop.call_soon(seen.append, 1)
            except RuntimeError:
                pass
        loop.call_soon_threadsafe(loop.stop)

    threads = start(call)
    loop.run_forever()
    join(threads)
    spin(loop)
    spin(loop)


def test_loop_run_in_one_thread_then_in_another(loop):
    loop.run_until_complete(asyncio.sleep(0))
    seen = []
    join(start(lambda: seen.append(loop.run_until_complete(value()))))
    assert seen == [5]
    assert loop.run_until_complete(value()) == 5


async def value():
    return await asyncio.sleep(0.001, 5)


def test_stop_from_another_thread_by_threadsafe(loop):
    def call():
        time.sleep(0.01)
        loop.call_soon_threadsafe(loop.stop)

    threads = start(call)
    loop.run_forever()
    join(threads)


def test_busy_loop_takes_hand_offs(loop):
    """A loop that never idles drains the inbox."""
    taken = 0
    threads = []

    def busy():
        if taken < 1000:
            loop.call_soon(busy)
        else:
            loop.stop()

    def take():
        nonlocal taken
        taken += 1

    def produce():
        for _ in range(1000):
            loop.call_soon_threadsafe(take)

    loop.call_soon(busy)
    threads = start(produce)
    loop.run_forever()
    join(threads)
    assert taken == 1000


def test_a_burst_wakes_once(loop, pyloop_only):
    """Or a few times, where the loop is through before its producer."""
    count = 50_000
    left = count

    def note():
        nonlocal left
        left -= 1
        if not left:
            loop.stop()

    def produce():
        for _ in range(count):
            loop.call_soon_threadsafe(note)

    threads = []
    loop.call_soon(lambda: threads.extend(start(produce)))
    before = loop.stats().wakeups
    loop.run_forever()
    join(threads)
    assert loop.stats().wakeups - before <= count / 10


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks: 3.12")
def test_all_tasks_from_another_thread(agree):
    """Eager ones too, where CPython itself does not miss them."""

    async def scenario(loop):
        gate = asyncio.Event()
        loop.set_task_factory(asyncio.eager_task_factory)
        tasks = {asyncio.create_task(gate.wait()) for _ in range(3)}
        loop.set_task_factory(None)
        seen = await loop.run_in_executor(None, asyncio.all_tasks, loop)
        gate.set()
        await asyncio.wait(tasks)
        return len(seen & tasks)

    assert agree(scenario) in (0, 3)


def test_futures_completed_from_threads(loop):
    async def main():
        futures = [loop.create_future() for _ in range(100)]

        def complete():
            for n, future in enumerate(futures):
                loop.call_soon_threadsafe(future.set_result, n)

        threads = start(complete)
        result = await asyncio.gather(*futures)
        join(threads)
        return result

    assert loop.run_until_complete(main()) == list(range(100))
