"""The event loop policy, for programs that still choose their loop by one."""

import asyncio
import warnings

from pyloop._loop import EventLoop

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        _Base = asyncio.DefaultEventLoopPolicy
except AttributeError:
    raise AttributeError(
        "event loop policies are gone from this Python; use pyloop.run() or "
        "loop_factory=pyloop.new_event_loop"
    ) from None


class EventLoopPolicy(_Base):
    """asyncio's default policy, making pyloop loops."""

    def _loop_factory(self):
        return EventLoop()
