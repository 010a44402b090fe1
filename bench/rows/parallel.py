"""Two loops beside one: in two threads of a free-threaded build, and in two
interpreters with their own GIL.  The value is how much more two get done."""

from __future__ import annotations

import statistics
import sys
import threading
import time

from .. import parallel
from ..row import Context, Sample, Skip, row

# Beside them it must not count how long a thread takes to get a processor.
CALLBACKS = 1_000_000


def duration(works) -> tuple[float, float]:
    """Seconds by the clock, and of processor time."""
    threads = [threading.Thread(target=work) for work in works]
    start, used = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - start, time.process_time() - used


def gain(ctx: Context, works) -> Sample:
    """Of two works at once over one, in turns.  By processor time too: what
    is left of 2 when they slow each other down, on a machine that is too busy
    to run both at once."""
    duration(works)
    ratios = []
    by_cpu = []
    for _ in ctx.repetitions(ratios):
        one, cpu_of_one = duration(works[:1])
        two, cpu_of_two = duration(works)
        ratios.append(2 * one / two)
        by_cpu.append(4 * cpu_of_one / cpu_of_two)
    return Sample(
        statistics.median(ratios), {"by_cpu": statistics.median(by_cpu)}
    )


def in_threads(ctx: Context, what: str, n: int) -> Sample:
    if getattr(sys, "_is_gil_enabled", lambda: True)():
        raise Skip("the GIL is on")
    function = getattr(parallel, what)

    def work():
        function(ctx.loop_name, n)

    ctx.budget = 2
    return gain(ctx, [work, work])


def in_interpreters(ctx: Context, what: str, n: int) -> Sample:
    if sys.version_info < (3, 13):
        raise Skip("own-GIL interpreters: 3.13")
    import _interpreters

    def run(interpreter, code):
        failure = _interpreters.exec(interpreter, code)
        if failure is not None:
            raise RuntimeError(failure.formatted.splitlines()[-1])

    pair = [_interpreters.create() for _ in range(2)]
    try:
        for one in pair:
            run(
                one,
                f"import sys; sys.path[:] = {sys.path!r}\n"
                "from bench import loops, parallel\n"
                f"loops.factory({ctx.loop_name!r})().close()",
            )
        code = f"parallel.{what}({ctx.loop_name!r}, {n})"
        ctx.budget = 2
        return gain(ctx, [lambda one=one: run(one, code) for one in pair])
    finally:
        for one in pair:
            _interpreters.destroy(one)


@row("two threads, callbacks", "× of one", cost=4)
def threads_callbacks(ctx: Context) -> Sample:
    """Callbacks of two loops in two threads, free-threaded builds only.

    Source: claim C1; at least 1.9.
    """
    return in_threads(ctx, "callbacks", ctx.size(CALLBACKS, 1_000))


@row("two threads, echo", "× of one", cost=4)
def threads_echo(ctx: Context) -> Sample:
    """Echo round trips of two loops in two threads, free-threaded builds.

    Source: claim C1; at least 1.8.
    """
    return in_threads(ctx, "echo", ctx.size(10_000, 100))


@row("two interpreters, callbacks", "× of one", cost=4)
def interpreters_callbacks(ctx: Context) -> Sample:
    """Callbacks of two loops in two own-GIL interpreters.

    Source: claim C2; at least 1.8.
    """
    return in_interpreters(ctx, "callbacks", ctx.size(CALLBACKS, 1_000))


@row("two interpreters, echo", "× of one", cost=4)
def interpreters_echo(ctx: Context) -> Sample:
    """Echo round trips of two loops in two own-GIL interpreters.

    Source: claim C2; at least 1.8.
    """
    return in_interpreters(ctx, "echo", ctx.size(10_000, 100))
