"""The selector of a loop, and its handles, as asyncio's code looks at them.

The C core waits for events and keeps what is scheduled. A program that puts
a selector of its own in the place of ours, or replaces our select() (to drive
the time in its tests, say), is waited with: by Python, each turn.
"""

import collections
import inspect
import selectors
import sys
from asyncio import coroutines

# For who looks whether select() has anything; asyncio passes it over.
SOMETHING = selectors.SelectorKey(-1, -1, selectors.EVENT_READ, (None, None))


class CoreSelector:
    """Stands where asyncio keeps its selector; the C core does the work."""

    def __init__(self, loop):
        self._loop = loop

    def __setattr__(self, name, value):
        super().__setattr__(name, value)
        self._changed(name)

    def __delattr__(self, name):
        super().__delattr__(name)
        self._changed(name)

    def _changed(self, name):
        loop = self._loop
        if name == "select" and loop is not None and loop._selector is self:
            loop._waits_outside = waits_outside(self)

    def select(self, timeout=None):
        """Wait for events of the core, for at most timeout seconds.

        They are dispatched by the core; what is returned only says whether
        there is something to do.
        """
        return [(SOMETHING, 0)] if self._loop._poll(timeout) else []

    def get_key(self, file):
        fd = file if isinstance(file, int) else file.fileno()
        mask = self._loop._watched(fd)
        if not mask:
            raise KeyError(f"{file!r} is not registered")
        return selectors.SelectorKey(file, fd, mask, None)

    def get_map(self):
        return {}

    def close(self):
        self._loop = None


def waits_outside(selector):
    """Is it to be asked by Python, and not the core at once?"""
    if type(selector) is not CoreSelector:
        return selector is not None
    own = vars(selector).get("select")
    return own is not None and (
        getattr(own, "__func__", None) is not CoreSelector.select
    )


class Adopted:
    """The callback of a handle that the loop did not make."""

    __slots__ = ("handle",)

    def __init__(self, handle):
        self.handle = handle

    def __call__(self):
        if not self.handle._cancelled:
            self.handle._run()

    def __repr__(self):
        return repr(self.handle)


def _shown(handle):
    callback = getattr(handle, "_callback", None)
    return callback.handle if type(callback) is Adopted else handle


class Ready(collections.deque):
    """What is to run in the next turn: a copy, to which more may be added."""

    def __init__(self, loop, entries):
        super().__init__(map(_shown, entries))
        self._loop = loop

    def append(self, handle):
        self._loop._add_callback(handle)
        super().append(handle)


class Scheduled(list):
    """The timers, in no order: a copy, to which more may be added."""

    def __init__(self, loop, timers):
        super().__init__(map(_shown, timers))
        self._loop = loop

    def append(self, handle):
        if not handle._cancelled:
            self._loop.call_at(handle._when, Adopted(handle))
        super().append(handle)


def known_as(method):
    """Decorator of what returns a coroutine in the place of asyncio's method:
    it shows that one's signature, and counts as a coroutine function."""

    def mark(function):
        function.__signature__ = inspect.signature(method)
        if sys.version_info >= (3, 12):
            inspect.markcoroutinefunction(function)
        else:
            function._is_coroutine = coroutines._is_coroutine
        return function

    return mark
