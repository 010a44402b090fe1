"""First in the path of a suite's processes, and of those that they start.

PYLOOP_UPSTREAM says which loop asyncio's names are to mean there.  pyloop is
imported either way, so that both runs see the same modules.
"""

import asyncio
import os
import warnings
from asyncio import unix_events

import pyloop


def put(loop_class):
    """The class in every place where programs look for asyncio's loop."""
    for owner in asyncio, unix_events:
        for name in "SelectorEventLoop", "EventLoop":
            if hasattr(owner, name):
                setattr(owner, name, loop_class)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        policy = type(asyncio.get_event_loop_policy())
    policy._loop_factory = loop_class


if os.environ.get("PYLOOP_UPSTREAM", "").startswith("pyloop"):
    put(pyloop.EventLoop)
