import asyncio
import concurrent.futures
import contextvars
import gc
import sys
import threading
import time
import weakref

import pytest
from support import DEADLINE, error, run_script


async def test_result_and_exception():
    loop = asyncio.get_running_loop()
    assert await loop.run_in_executor(None, pow, 2, 10) == 1024
    with pytest.raises(ZeroDivisionError):
        await loop.run_in_executor(None, lambda: 1 / 0)
    name = await loop.run_in_executor(
        None, lambda: threading.current_thread().name
    )
    assert name.startswith("asyncio_")


async def test_many():
    loop = asyncio.get_running_loop()
    calls = [loop.run_in_executor(None, abs, -n) for n in range(1000)]
    assert await asyncio.gather(*calls) == list(range(1000))


async def test_loop_works_meanwhile():
    loop = asyncio.get_running_loop()
    go = threading.Event()
    waiting = loop.run_in_executor(None, go.wait, DEADLINE)
    for _ in range(10):
        await asyncio.sleep(0.001)
    assert not waiting.done()
    go.set()
    assert await waiting


async def test_busy_threads_do_not_starve_the_loop():
    """Threads that hold the GIL much of the time."""
    loop = asyncio.get_running_loop()
    stop = threading.Event()

    def busy():
        while not stop.is_set():
            sum(range(1000))

    threads = [loop.run_in_executor(None, busy) for _ in range(2)]
    for _ in range(20):
        await asyncio.sleep(0.001)
    stop.set()
    await asyncio.gather(*threads)


async def test_own_executor():
    loop = asyncio.get_running_loop()
    with concurrent.futures.ThreadPoolExecutor(1, "own") as pool:
        name = await loop.run_in_executor(
            pool, lambda: threading.current_thread().name
        )
    assert name.startswith("own")


def test_set_default_executor(agree):
    def scenario(loop):
        with concurrent.futures.ThreadPoolExecutor(1, "own") as pool:
            loop.set_default_executor(pool)
            name = loop.run_until_complete(
                loop.run_in_executor(
                    None, lambda: threading.current_thread().name
                )
            )
        return name.startswith("own"), error(loop.set_default_executor, 5)

    assert agree(scenario)[0] is True


def test_shutdown(agree):
    def scenario(loop):
        done = []

        async def main():
            loop.run_in_executor(
                None, lambda: (time.sleep(0.02), done.append(1))
            )
            await loop.shutdown_default_executor()
            assert done == [1]
            return error(loop.run_in_executor, None, print)

        return loop.run_until_complete(main())

    assert agree(scenario) == (
        RuntimeError,
        "Executor shutdown has been called",
    )


def test_shutdown_without_an_executor(loop):
    loop.run_until_complete(loop.shutdown_default_executor())


@pytest.mark.skipif(
    sys.version_info < (3, 13), reason="3.12's blocks the loop meanwhile"
)
def test_shutdown_timeout(loop):
    go = threading.Event()

    async def main():
        future = loop.run_in_executor(None, go.wait, DEADLINE)
        with pytest.warns(RuntimeWarning, match="did not finishing joining"):
            await loop.shutdown_default_executor(timeout=0.02)
        go.set()
        await future

    loop.run_until_complete(main())


def test_close_does_not_wait(loop):
    go = threading.Event()
    loop.run_in_executor(None, go.wait, DEADLINE)
    executor = loop._default_executor
    began = time.monotonic()
    loop.close()
    assert time.monotonic() - began < 5
    go.set()
    executor.shutdown()


async def test_to_thread():
    variable = contextvars.ContextVar("variable")
    variable.set("kept")
    assert await asyncio.to_thread(variable.get) == "kept"


async def test_cancelled():
    loop = asyncio.get_running_loop()
    go = threading.Event()
    future = loop.run_in_executor(None, go.wait, DEADLINE)
    future.cancel()
    with pytest.raises(asyncio.CancelledError):
        await future
    go.set()


async def test_loop_called_back_from_the_thread():
    loop = asyncio.get_running_loop()

    async def double(n):
        await asyncio.sleep(0)
        return 2 * n

    def work(n):
        future = asyncio.run_coroutine_threadsafe(double(n), loop)
        return future.result(DEADLINE)

    results = await asyncio.gather(
        *[loop.run_in_executor(None, work, n) for n in range(100)]
    )
    assert results == [2 * n for n in range(100)]


def test_processes(loop_name):
    """A pool of processes on the loop."""
    run_script(
        loop_name,
        """
        import concurrent.futures, multiprocessing
        async def main():
            loop = asyncio.get_running_loop()
            context = multiprocessing.get_context("spawn")
            with concurrent.futures.ProcessPoolExecutor(
                1, mp_context=context) as pool:
                assert await loop.run_in_executor(pool, pow, 2, 10) == 1024
        if __name__ == "__main__":
            run(main())
        """,
    )


def test_how_a_call_can_end(agree):
    """By a value, an exception of any kind, or the executor's own cancel."""

    def scenario(loop):
        async def main():
            seen = []
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                go = threading.Event()
                first = loop.run_in_executor(pool, go.wait, DEADLINE)
                never = loop.run_in_executor(pool, print, "never")
                pool.shutdown(wait=False, cancel_futures=True)
                go.set()
                seen.append(await first)
                with pytest.raises(asyncio.CancelledError):
                    await never
                seen.append(never.cancelled())
            for exc in (
                ValueError("own"),
                KeyboardInterrupt("own"),
                concurrent.futures.CancelledError("own"),
                concurrent.futures.TimeoutError("own"),
                asyncio.CancelledError("own"),
            ):

                def fail(exc=exc):
                    raise exc

                future = loop.run_in_executor(None, fail)
                await asyncio.wait([future])
                seen.append(
                    "cancelled"
                    if future.cancelled()
                    else (type(future.exception()), str(future.exception()))
                )
            return seen

        return loop.run_until_complete(main())

    assert agree(scenario)[:2] == [True, True]


async def test_cancelled_before_it_runs():
    loop = asyncio.get_running_loop()
    ran = []
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        go = threading.Event()
        first = loop.run_in_executor(pool, go.wait, DEADLINE)
        second = loop.run_in_executor(pool, ran.append, 2)
        second.cancel()
        await asyncio.sleep(0)  # its callback cancels the executor's future
        go.set()
        await first
    assert second.cancelled()
    assert ran == []


async def test_executors_of_other_kinds():
    """One that runs at once; one whose futures are asyncio's own."""
    loop = asyncio.get_running_loop()

    class Inline(concurrent.futures.Executor):
        def submit(self, func, *args):
            future = concurrent.futures.Future()
            future.set_result(func(*args))
            return future

    class Asynchronous(concurrent.futures.Executor):
        def submit(self, func, *args):
            future = loop.create_future()
            loop.call_soon(lambda: future.set_result(func(*args)))
            return future

    class Odd(concurrent.futures.Executor):
        def submit(self, func, *args):
            return func(*args)

    assert await loop.run_in_executor(Inline(), abs, -1) == 1
    assert await loop.run_in_executor(Asynchronous(), abs, -2) == 2
    with pytest.raises((TypeError, AssertionError)):
        await loop.run_in_executor(Odd(), abs, -3)


def test_a_call_that_ends_within_submit(agree):
    """asyncio before 3.14 takes a turn to hear of it."""

    class Inline(concurrent.futures.Executor):
        def submit(self, func, *args):
            future = concurrent.futures.Future()
            future.set_result(func(*args))
            return future

    def scenario(loop):
        async def main():
            kept = loop.run_in_executor(Inline(), abs, -1)
            dropped = loop.run_in_executor(Inline(), abs, -2)
            seen = [kept.done(), dropped.cancel()]
            await asyncio.sleep(0)
            return [*seen, kept.done(), dropped.cancelled(), await kept]

        return loop.run_until_complete(main())

    agree(scenario)


def test_the_loop_is_closed_before_the_call_ends(loop):
    go = threading.Event()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        future = loop.run_in_executor(pool, go.wait, DEADLINE)
        loop.close()
        go.set()
    assert not future.done()


def test_errors_of_the_call(agree):
    def scenario(loop):
        async def main():
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                pass
            return [
                error(loop.run_in_executor, pool, print),
                error(loop.run_in_executor, 5, print),
            ]

        seen = loop.run_until_complete(main())
        loop.close()
        return seen + [error(loop.run_in_executor, None, print)]

    agree(scenario)


async def test_a_result_is_freed_without_the_collector():
    loop = asyncio.get_running_loop()

    class Result:
        pass

    gc.disable()
    try:
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            result = weakref.ref(await loop.run_in_executor(pool, Result))
            # The thread has a last look at what it has run; without a GIL it
            # is also the one to free what it made, once it is up.
            while result() is not None:
                await loop.run_in_executor(pool, int)
    finally:
        gc.enable()
