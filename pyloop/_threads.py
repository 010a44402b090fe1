"""Futures between threads: run_coroutine_threadsafe and run_in_executor, with
asyncio's contract and less in between."""

from __future__ import annotations

from asyncio import coroutines, events, futures
from asyncio.futures import _convert_future_exc  # type: ignore[attr-defined]
from concurrent.futures import CancelledError, Future
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from asyncio import AbstractEventLoop, Task
    from collections.abc import Coroutine
    from typing import Any, TypeVar

    _T = TypeVar("_T")

# Does asyncio's chain of futures, where the first ends in the loop's own
# thread, end the second at once?  Before 3.14 that took a turn.
_ENDS_AT_ONCE = any(
    "_get_running_loop" in getattr(const, "co_names", ())
    for const in futures._chain_future.__code__.co_consts  # type: ignore[attr-defined]
)


class _Call:
    """One coroutine on its way: the loop's task and the thread's future."""

    __slots__ = ("coro", "future", "loop", "task")

    coro: Coroutine[Any, Any, Any]
    future: Future[Any]
    loop: AbstractEventLoop
    task: Task[Any]

    # In the loop's thread.

    def start(self) -> None:
        try:
            self.task = self.loop.create_task(self.coro)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            if self.future.set_running_or_notify_cancel():
                self.future.set_exception(exc)
            raise
        finally:
            del self.coro
        self.task.add_done_callback(self.finish)
        self.future.add_done_callback(self.cancel)

    def finish(self, task: Task[Any]) -> None:
        future = self.future
        if task.cancelled():
            future.cancel()
        if not future.set_running_or_notify_cancel():
            return
        exc = task.exception()
        if exc is None:
            future.set_result(task.result())
        else:
            future.set_exception(_convert_future_exc(exc))

    # In whatever thread ends the future.

    def cancel(self, future: Future[Any]) -> None:
        if future.cancelled():
            if events._get_running_loop() is self.loop:
                self.task.cancel()
            elif not self.loop.is_closed():
                self.loop.call_soon_threadsafe(self.task.cancel)


def run_coroutine_threadsafe(
    coro: Coroutine[Any, Any, _T], loop: AbstractEventLoop
) -> Future[_T]:
    """asyncio.run_coroutine_threadsafe(), quicker: any thread, any loop."""
    if not coroutines.iscoroutine(coro):
        raise TypeError("A coroutine object is required")
    call = _Call()
    call.coro = coro
    call.loop = loop
    call.future = Future()
    loop.call_soon_threadsafe(call.start)
    return call.future


class _Job:
    """A call in an executor, whose future there (the job) knows this one and
    not the other way round: a cycle would keep the result."""

    __slots__ = ("future", "loop")

    def __init__(self, job: Future[Any], loop: AbstractEventLoop) -> None:
        self.loop = loop
        self.future = loop.create_future()
        self.future.add_done_callback(partial(_cancel, job))
        job.add_done_callback(self.ended)

    # In whatever thread ends the job.

    def ended(self, job: Future[Any]) -> None:
        if _ENDS_AT_ONCE and events._get_running_loop() is self.loop:
            self.copy(job)
        elif not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.copy, job)

    # In the loop's thread.

    def copy(self, job: Future[Any]) -> None:
        future = self.future
        if future.cancelled():
            return
        try:
            exc = job.exception()
        except CancelledError:
            future.cancel()
            return
        if exc is None:
            future.set_result(job.result())
        else:
            future.set_exception(_convert_future_exc(exc))


def _cancel(job: Future[Any], future: asyncio.Future[Any]) -> None:
    if future.cancelled():
        job.cancel()


def wrap_future(
    job: Future[_T] | asyncio.Future[_T], loop: AbstractEventLoop
) -> asyncio.Future[_T]:
    """asyncio.wrap_future(), quicker for what executors of the standard
    library return."""
    if type(job) is Future:
        return _Job(job, loop).future
    return futures.wrap_future(job, loop=loop)
