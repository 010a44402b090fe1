"""Callbacks, timers, tasks and threads: no I/O but the wake-up."""

from __future__ import annotations

import asyncio
import threading

from ..row import Context, Sample, row


def nothing(*args: object) -> None:
    pass


@row("call_soon 200k, then drain", "callbacks/s", goal=1.25)
def call_soon(ctx: Context) -> Sample:
    """200,000 call_soon from one callback, then the loop runs them all.

    Source: the goals table.  The bare cost of a handle, with so many queued
    that fresh memory counts.
    """

    async def step(loop, n):
        done = loop.create_future()
        soon = loop.call_soon
        for _ in range(n - 1):
            soon(nothing)
        soon(done.set_result, None)
        await done

    return ctx.rate(step, ctx.size(200_000, 1_000))


@row("call_soon 50k with two arguments", "callbacks/s", goal=1.25)
def call_soon_args(ctx: Context) -> Sample:
    """50,000 call_soon(callback, a, b), then the loop runs them all.

    Source: the goals table.  What protocols do: a callback with its state.
    """

    async def step(loop, n):
        done = loop.create_future()
        soon = loop.call_soon
        for i in range(n - 1):
            soon(nothing, loop, i)
        soon(done.set_result, None)
        await done

    return ctx.rate(step, ctx.size(50_000, 1_000))


@row("chain: one callback a turn", "turns/s", goal=1.2)
def chain(ctx: Context) -> Sample:
    """Each callback schedules the next, so each turn runs exactly one.

    Source: the goals table.  The overhead of a turn: clock, timers, poll.
    """

    async def step(loop, n):
        done = loop.create_future()
        soon = loop.call_soon

        def link():
            nonlocal n
            n -= 1
            if n > 0:
                soon(link)
            else:
                done.set_result(None)

        soon(link)
        await done

    return ctx.rate(step, ctx.size(100_000, 500))


@row("await sleep(0)", "awaits/s", goal=1.1)
def sleep0(ctx: Context) -> Sample:
    """One task that yields over and over.

    Source: the goals table.  A task step through call_soon and a turn.
    """

    async def step(loop, n):
        sleep = asyncio.sleep
        for _ in range(n):
            await sleep(0)

    return ctx.rate(step, ctx.size(100_000, 500))


@row("5,000 call_later of 0–9 ms", "timers/s", goal=1.1)
def call_later(ctx: Context) -> Sample:
    """5,000 timers of 0 to 9 ms, until the last has fired.

    Source: the goals table (claim C3 from inside a running loop).  The last
    is due after 9 ms, so 0.555 M/s is the most a correct loop can reach.
    """

    async def step(loop, n):
        done = loop.create_future()
        later = loop.call_later

        def fire():
            nonlocal n
            n -= 1
            if not n:
                done.set_result(None)

        for i in range(n):
            later(i % 10 * 0.001, fire)
        await done

    return ctx.rate(step, ctx.size(5_000, 100))


@row("100k timers scheduled, then cancelled", "timers/s", goal=1.2)
def timers_cancel(ctx: Context) -> Sample:
    """100,000 timers far ahead, all cancelled, then a turn to sweep up.

    Source: the goals table.  Time-outs that never happen, many pending.
    """

    async def step(loop, n):
        later = loop.call_later
        handles = [later(30 + i % 100, nothing) for i in range(n)]
        for handle in handles:
            handle.cancel()
        del handles, handle
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    return ctx.rate(step, ctx.size(100_000, 500))


@row("call_later(30).cancel()", "timers/s", goal=1.2)
def later_cancel(ctx: Context) -> Sample:
    """A timer set and cancelled at once, a turn of the loop every 1,000.

    Source: the goals table.  A time-out around an operation that is quick.
    """

    async def step(loop, n):
        later = loop.call_later
        for _ in range(n // 1000 or 1):
            for _ in range(min(n, 1000)):
                later(30, nothing).cancel()
            await asyncio.sleep(0)

    return ctx.rate(step, ctx.size(100_000, 1_000))


@row("async with timeout(10): sleep(0)", "blocks/s", goal=1.1)
def timeout(ctx: Context) -> Sample:
    """asyncio.timeout() around one yield.

    Source: the goals table.  The same as applications write it.
    """

    async def step(loop, n):
        for _ in range(n):
            async with asyncio.timeout(10):
                await asyncio.sleep(0)

    return ctx.rate(step, ctx.size(20_000, 100))


@row("call_soon_threadsafe burst", "callbacks/s", goal=1.2)
def threadsafe(ctx: Context) -> Sample:
    """Another thread posts 20,000 callbacks to a loop that is idle at first.

    Source: the goals table; claim C1.  Hand-off from worker threads.
    """

    async def step(loop, n):
        done = loop.create_future()

        def post():
            soon = loop.call_soon_threadsafe
            for _ in range(n - 1):
                soon(nothing)
            soon(done.set_result, None)

        thread = threading.Thread(target=post)
        thread.start()
        await done
        thread.join()

    return ctx.rate(step, ctx.size(20_000, 200))


@row("thread ↔ loop ping-pong", "round trips/s", goal=1.1)
def pingpong(ctx: Context) -> Sample:
    """A thread posts, waits for the callback to answer, posts again.

    Source: the goals table.  Wake-up latency; mostly the kernel's.
    """

    async def step(loop, n):
        done = loop.create_future()

        def post():
            gate = threading.Lock()
            gate.acquire()
            for _ in range(n):
                loop.call_soon_threadsafe(gate.release)
                gate.acquire()
            loop.call_soon_threadsafe(done.set_result, None)

        thread = threading.Thread(target=post)
        thread.start()
        await done
        thread.join()

    return ctx.rate(step, ctx.size(2_000, 50))


@row("run_in_executor, 50 at a time", "calls/s", goal=1.1)
def executor(ctx: Context) -> Sample:
    """Batches of 50 empty calls through the default executor.

    Source: the goals table.  Sync handlers in an async server.
    """

    async def step(loop, n):
        call = loop.run_in_executor
        for _ in range(n // 50):
            await asyncio.gather(*[call(None, nothing) for _ in range(50)])

    return ctx.rate(step, ctx.size(4_000, 100))


@row("gather of 100 tasks", "tasks/s", goal=1.1)
def gather(ctx: Context) -> Sample:
    """asyncio.gather of 100 coroutines that return at once.

    Source: the goals table.  Task start and end, and their callbacks.
    """

    async def child():
        pass

    async def step(loop, n):
        for _ in range(n // 100):
            await asyncio.gather(*[child() for _ in range(100)])

    return ctx.rate(step, ctx.size(20_000, 200))
