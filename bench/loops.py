"""The loops that are compared: how each is made, by factory and by policy."""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
import warnings
from collections.abc import Callable

LOOPS = ("asyncio", "uvloop", "rloop", "zuvloop", "pyloop")
OURS = "pyloop"


def factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    if name == "asyncio":
        return asyncio.SelectorEventLoop
    return importlib.import_module(name).new_event_loop


def set_policy(name: str) -> None:
    """Make asyncio.new_event_loop() build this loop.

    By the module's own EventLoopPolicy; newer peers have none any more and
    get the plain one with their factory in it.
    """
    if name == "asyncio":
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        own = getattr(importlib.import_module(name), "EventLoopPolicy", None)
        if own is None:

            class own(asyncio.DefaultEventLoopPolicy):
                _loop_factory = staticmethod(factory(name))

        asyncio.set_event_loop_policy(own())


def version(name: str) -> str:
    if name == "asyncio":
        return "stdlib"
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return getattr(importlib.import_module(name), "__version__", "?")
