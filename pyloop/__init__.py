"""pyloop: a fast, exact event loop for asyncio.

pyloop.run(main())                              # as asyncio.run
asyncio.Runner(loop_factory=pyloop.new_event_loop)
uvicorn app:app --loop pyloop:new_event_loop
"""

from __future__ import annotations

import asyncio as _asyncio
import sys as _sys
from typing import TYPE_CHECKING

from pyloop._core import LoopStats
from pyloop._loop import EventLoop
from pyloop._threads import run_coroutine_threadsafe

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any, TypeVar

    from pyloop._policy import EventLoopPolicy

    _T = TypeVar("_T")

__version__ = "0.1.0"
__all__ = (
    "EventLoop",
    "EventLoopPolicy",
    "LoopStats",
    "__version__",
    "get_include",
    "install",
    "new_event_loop",
    "run",
    "run_coroutine_threadsafe",
)


def new_event_loop() -> EventLoop:
    """A new event loop; the factory for `loop_factory` and `--loop`."""
    return EventLoop()


def run(main: Coroutine[Any, Any, _T], *, debug: bool | None = None) -> _T:
    """asyncio.run() on a pyloop loop: same arguments, same errors."""
    if _sys.version_info >= (3, 12):
        return _asyncio.run(main, debug=debug, loop_factory=new_event_loop)
    if _asyncio._get_running_loop() is not None:
        raise RuntimeError(
            "asyncio.run() cannot be called from a running event loop"
        )
    with _asyncio.Runner(debug=debug, loop_factory=new_event_loop) as runner:
        return runner.run(main)


def install() -> None:
    """Make pyloop's policy the process's: every new loop is a pyloop one.

    Policies are deprecated since Python 3.14 and gone in 3.16; there use
    run() or the loop_factory argument of what starts the loop.
    """
    policy = __getattr__("EventLoopPolicy")
    _asyncio.set_event_loop_policy(policy())


def get_include() -> str:
    """The directory of pyloop.h, pyloop_import.h and pyloop.pxd."""
    import os

    here = os.path.dirname(os.path.abspath(__file__))
    installed = os.path.join(here, "include")
    if os.path.isdir(installed):
        return installed
    return os.path.join(os.path.dirname(here), "include")


def __getattr__(name: str) -> Any:
    # Made on first use: from 3.14 on naming asyncio's policy class warns, and
    # importing pyloop must not.
    if name != "EventLoopPolicy":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pyloop._policy import EventLoopPolicy

    globals()[name] = EventLoopPolicy
    return EventLoopPolicy
