"""Native threads, and Python ones, that hand work to a loop and wait for it.

pyloop gets it through pyloop.h; the other loops by the only way they have:
the thread takes the GIL (PyGILState_Ensure) and calls call_soon_threadsafe or
run_coroutine_threadsafe.  The rows "taking the GIL" do so on pyloop too.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

from .. import loops, native, pyo3_calls
from ..row import Context, Sample, Skip, row


def nothing() -> None:
    pass


async def hello() -> int:
    return 1


async def one_turn() -> int:
    await asyncio.sleep(0)
    return 1


def is_ours(ctx: Context) -> bool:
    return ctx.loop_name == loops.OURS


# -- callbacks


def burst(ctx: Context, threads: int, by_header: bool) -> Sample:
    """Nanoseconds from the start of the threads to the last callback, by the
    number of callbacks."""
    module = native.load()
    each = ctx.size(50_000 if by_header else 20_000, 400) // threads
    wakeups = []

    async def step(loop, n):
        ended = asyncio.Event()
        left = threads

        def finish():
            nonlocal left
            left -= 1
            if left == 0:
                ended.set()

        before = counter(loop)
        start = time.perf_counter()
        job = module.burst(loop, by_header, threads, n, nothing, finish)
        await ended.wait()
        took = time.perf_counter() - start
        module.join(job)
        wakeups.append((counter(loop) - before) * 1000 / (n * threads))
        return took

    def counter(loop):
        return loop.stats().wakeups if is_ours(ctx) else 0

    sample = median_of(ctx, step, each)
    sample.value *= 1e9 / (each * threads)
    sample.extra["cpu_ns"] /= threads
    if is_ours(ctx):
        sample.extra["wakeups_per_thousand"] = statistics.median(wakeups)
    return sample


def median_of(ctx: Context, step, n: int) -> Sample:
    """The median of what ``await step(loop, n)`` returns, and with it the
    processor time of all threads by n."""

    async def main(loop):
        await step(loop, max(1, n // 4))
        times: list[float] = []
        taken = []
        cpu = []
        for start in ctx.repetitions(times):
            cpu_start = time.process_time()
            taken.append(await step(loop, n))
            times.append(time.perf_counter() - start)
            cpu.append((time.process_time() - cpu_start) / n * 1e9)
        return Sample(
            statistics.median(taken), {"cpu_ns": statistics.median(cpu)}
        )

    return ctx.run(main)


@row("1 native thread posts", "ns/callback", lower=True)
def native_post_1(ctx: Context) -> Sample:
    """One native thread hands over callbacks as fast as it can.

    Source: claims C1 and C2; at most 100 ns each.
    """
    return burst(ctx, 1, is_ours(ctx))


@row("2 native threads post", "ns/callback", lower=True)
def native_post_2(ctx: Context) -> Sample:
    """Two native threads hand over callbacks as fast as they can.

    Source: claims C1 and C2; at most 100 ns each.
    """
    return burst(ctx, 2, is_ours(ctx))


@row("4 native threads post", "ns/callback", lower=True)
def native_post_4(ctx: Context) -> Sample:
    """Four native threads hand over callbacks as fast as they can.

    Source: claims C1 and C2; at most 100 ns each.
    """
    return burst(ctx, 4, is_ours(ctx))


@row("1 native thread, taking the GIL", "ns/callback", lower=True)
def native_gil_1(ctx: Context) -> Sample:
    """call_soon_threadsafe by a native thread that takes the GIL for each.

    Source: claim C1, on every loop alike.
    """
    return burst(ctx, 1, False)


@row("4 native threads, taking the GIL", "ns/callback", lower=True)
def native_gil_4(ctx: Context) -> Sample:
    """As above, by four threads at once.

    Source: claim C1, on every loop alike.
    """
    return burst(ctx, 4, False)


def trips(ctx: Context, by_header: bool) -> Sample:
    module = native.load()
    n = ctx.size(2_000, 50)

    async def step(loop, n):
        ended = asyncio.Event()
        job = module.trips(loop, by_header, n, nothing, ended.set)
        await ended.wait()
        return module.join(job)[0] / n * 1e6

    return median_of(ctx, step, n)


@row("native → Python → native, idle", "µs/round trip", lower=True)
def native_trip(ctx: Context) -> Sample:
    """A native thread hands over one callback, waits for it, and again.

    Source: claims C1 and C4; at most 20 µs.
    """
    return trips(ctx, is_ours(ctx))


@row("the same, taking the GIL", "µs/round trip", lower=True)
def native_trip_gil(ctx: Context) -> Sample:
    """native_trip by call_soon_threadsafe on every loop.

    Source: claim C1.
    """
    return trips(ctx, False)


# -- coroutines


def calls(ctx: Context, handler, window: int, eager: bool) -> Sample:
    module = native.load()
    n = ctx.size(20_000 if window > 1 else 2_000, window)

    async def step(loop, n):
        n = max(window, n // window * window)
        ended = asyncio.Event()
        job = module.calls(
            loop,
            is_ours(ctx),
            eager,
            n,
            window,
            handler,
            asyncio.run_coroutine_threadsafe,
            ended.set,
        )
        await ended.wait()
        seconds, failed = module.join(job)
        assert not failed
        return seconds / n * 1e6

    return median_of(ctx, step, n)


@row("coroutines of a native thread, 1,000 at a time", "µs/call", lower=True)
def native_calls(ctx: Context) -> Sample:
    """A native thread has coroutines run and is told of each end.

    Source: claims C4 and C5; at most 2 µs.  The others:
    run_coroutine_threadsafe and a callback at the future it returns.
    """
    return calls(ctx, hello, 1000, False)


@row("the same, eager", "µs/call", lower=True)
def native_calls_eager(ctx: Context) -> Sample:
    """native_calls, on pyloop with PYLOOP_TASK_EAGER (Python 3.12).

    Source: claims C4 and C5.
    """
    return calls(ctx, hello, 1000, True)


@row("the same, eager, each waiting a turn", "µs/call", lower=True)
def native_calls_turn(ctx: Context) -> Sample:
    """native_calls_eager, of coroutines that wait once.

    Source: claims C4 and C5.
    """
    return calls(ctx, one_turn, 1000, True)


@row("coroutine of a native thread, idle", "µs/round trip", lower=True)
def native_call(ctx: Context) -> Sample:
    """One coroutine at a time, its end awaited by the thread.

    Source: claim C4; at most 20 µs.
    """
    return calls(ctx, hello, 1, False)


@row("the same, idle, eager", "µs/round trip", lower=True)
def native_call_eager(ctx: Context) -> Sample:
    """native_call, on pyloop with PYLOOP_TASK_EAGER.

    Source: claim C4.
    """
    return calls(ctx, hello, 1, True)


# -- coroutines of a Rust server


def rust_calls(ctx: Context, window: int) -> Sample:
    module = pyo3_calls.load()
    n = ctx.size(10_000 if window > 1 else 2_000, window)

    async def step(loop, n):
        n = max(window, n // window * window)
        ended = asyncio.Event()
        job = module.calls(loop, n, window, hello, ended.set)
        await ended.wait()
        seconds = job.seconds()
        assert seconds is not None
        return seconds / n * 1e6

    return median_of(ctx, step, n)


@row("pyo3-async-runtimes, 1,000 at a time", "µs/call", lower=True)
def pyo3_calls_bulk(ctx: Context) -> Sample:
    """native_calls as tokio tasks through pyo3-async-runtimes, on each loop.

    Source: claims C1, C4 and C5.  ``python -m bench.pyo3_calls`` builds it;
    compare with pyloop's native_calls.
    """
    return rust_calls(ctx, 1000)


@row("pyo3-async-runtimes, idle", "µs/round trip", lower=True)
def pyo3_call(ctx: Context) -> Sample:
    """native_call as tokio tasks through pyo3-async-runtimes, on each loop.

    Source: claims C1, C4 and C5; compare with pyloop's native_call.
    """
    return rust_calls(ctx, 1)


# -- Python threads


def submitter(ctx: Context):
    if is_ours(ctx):
        import pyloop

        return pyloop.run_coroutine_threadsafe
    return asyncio.run_coroutine_threadsafe


@row("run_coroutine_threadsafe, 1,000 at a time", "calls/s")
def threadsafe_coroutines(ctx: Context) -> Sample:
    """A Python thread submits 1,000 coroutines, waits for all, and again.

    Source: claim C1.  Wanted: 1.2 times the best peer.
    pyloop: pyloop.run_coroutine_threadsafe.
    """
    submit = submitter(ctx)
    window = ctx.size(1000, 20)

    async def step(loop, n):
        ended = asyncio.Event()

        def work():
            for _ in range(n // window):
                futures = [submit(hello(), loop) for _ in range(window)]
                for future in futures:
                    future.result()
            loop.call_soon_threadsafe(ended.set)

        thread = threading.Thread(target=work)
        thread.start()
        await ended.wait()
        thread.join()

    return ctx.rate(step, ctx.size(8_000, 80))


@row("run_coroutine_threadsafe, round trip", "round trips/s")
def threadsafe_coroutine(ctx: Context) -> Sample:
    """A Python thread submits a coroutine, waits for its result, and again.

    Source: claim C4.
    """
    submit = submitter(ctx)

    async def step(loop, n):
        ended = asyncio.Event()

        def work():
            for _ in range(n):
                submit(hello(), loop).result()
            loop.call_soon_threadsafe(ended.set)

        thread = threading.Thread(target=work)
        thread.start()
        await ended.wait()
        thread.join()

    return ctx.rate(step, ctx.size(1_000, 20))


# -- the sample server

HOST = "127.0.0.1"
SERVE = Path(__file__).parents[2] / "examples" / "native_server" / "serve.py"


@contextlib.contextmanager
def sample_server(ctx: Context, handler: str):
    """The port of examples/native_server, one loop and one I/O thread."""
    if not is_ours(ctx):
        raise Skip("it needs pyloop.h")
    native.load()  # or Skip: it compiles as this does
    process = subprocess.Popen(
        [sys.executable, "-u", str(SERVE), "--port=0", f"--handler={handler}"],
        env={**os.environ, "PYTHONPATH": str(SERVE.parents[2])},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        line = process.stdout.readline()
        yield int(line.rstrip("/\n").rpartition(":")[2])
    finally:
        process.kill()
        process.communicate()


def serve(ctx: Context, handler: str) -> Sample:
    with sample_server(ctx, handler) as port:
        report = ctx.client("http", HOST, port, ctx.size(100, 8), *ctx.window)
    if report["errors"]:
        raise RuntimeError(f"{report['errors']:.0f} bad responses")
    return Sample(report.pop("rate"), report)


@row("sample server, sync handler", "requests/s", cost=1.5)
def server_sync(ctx: Context) -> Sample:
    """examples/native_server, 100 connections, a plain function.

    Source: claims C2 and C5.
    """
    return serve(ctx, "sync")


@row("sample server, async handler", "requests/s", cost=1.5)
def server_async(ctx: Context) -> Sample:
    """examples/native_server, 100 connections, a coroutine function.

    Source: claims C2 and C5; at least 20,000.
    """
    return serve(ctx, "async")


@row("sample server, async handler that waits", "requests/s", cost=1.5)
def server_async_turn(ctx: Context) -> Sample:
    """server_async, each handler waiting one turn of the loop.

    Source: claims C2 and C5.
    """
    return serve(ctx, "async-turn")


@row("sample server, async ÷ sync", "×", cost=4)
def server_ratio(ctx: Context) -> Sample:
    """server_async by server_sync, both running, measured in turns.

    Source: claim C5; at least 0.75.
    """
    rates = {"sync": [], "async": []}
    with (
        sample_server(ctx, "sync") as sync_port,
        sample_server(ctx, "async") as async_port,
    ):
        ports = {"sync": sync_port, "async": async_port}
        for _ in range(ctx.size(4, 1)):
            for handler, port in ports.items():
                report = ctx.client("http", HOST, port, 100, *ctx.window)
                rates[handler].append(report["rate"])
    return Sample(
        statistics.median(
            a / s for a, s in zip(rates["async"], rates["sync"], strict=True)
        )
    )
