"""Puts pyloop where CPython's tests look for asyncio's loop."""

import asyncio
import selectors
import sys
import types
from asyncio import base_events

import pyloop

from .site.sitecustomize import put

made = 0


class EventLoop(pyloop.EventLoop):
    """pyloop's, counted, with epoll by the core."""

    def __init__(self, selector=None):
        global made
        made += 1
        if isinstance(selector, selectors.EpollSelector):
            selector.close()
            selector = None
        super().__init__(selector)


class TestLoop(EventLoop):
    """Stands for test.test_asyncio.utils.TestLoop: driven time.

    There the time moves on when a turn has ended, by what the test's
    generator answers to each deadline that was set in the turn. Here it is
    asked for when the loop next asks for the time, at the end of the turn.
    """

    def __init__(self, gen=None):
        super().__init__()
        self._check_on_close = gen is not None
        self._gen = gen() if gen else None
        if gen:
            next(self._gen)
        self._time = 0
        self._clock_resolution = 1e-9
        self._timers = []

    def time(self):
        if self._timers and sys._getframe(1).f_code is RUN:
            self._end_turn()
        return self._time

    def run_forever(self):
        try:
            super().run_forever()
        finally:
            self._end_turn()

    def _end_turn(self):
        timers, self._timers = self._timers, []
        for when in timers:
            self.advance_time(self._gen.send(when))

    def advance_time(self, advance):
        if advance:
            self._time += advance

    def call_later(self, delay, callback, *args, context=None):
        return self.call_at(
            self._time + delay, callback, *args, context=context
        )

    def call_at(self, when, callback, *args, context=None):
        self._timers.append(when)
        return super().call_at(when, callback, *args, context=context)

    def close(self):
        super().close()
        if self._check_on_close:
            try:
                self._gen.send(0)
            except StopIteration:
                pass
            else:
                raise AssertionError("Time generator is not finished")


RUN = pyloop.EventLoop.run_forever.__code__


def install():
    """Before the module is imported. Returns how to count loops."""
    put(EventLoop)
    asyncio.BaseEventLoop = EventLoop

    def counter():
        global made
        count, made = made, 0
        return count

    return counter


def adapt(module):
    """After the module is imported: where it goes by another name."""
    short = module.rpartition(".")[2]
    if short in ("test_tasks", "test_futures", "test_eager_task_factory"):
        sys.modules["test.test_asyncio.utils"].TestLoop = TestLoop
    if short == "test_base_events":
        proxy = types.ModuleType("base_events")
        proxy.__dict__.update(base_events.__dict__, BaseEventLoop=EventLoop)
        sys.modules[module].base_events = proxy
