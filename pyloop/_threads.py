"""run_coroutine_threadsafe, with asyncio's contract and less in between."""

from __future__ import annotations

from asyncio import coroutines, events
from asyncio.futures import _convert_future_exc  # type: ignore[attr-defined]
from concurrent.futures import Future
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Task
    from collections.abc import Coroutine
    from typing import Any, TypeVar

    _T = TypeVar("_T")


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
