"""OpenTelemetry metrics of a loop: pip install 'pyloop[opentelemetry]'.

stop = pyloop.opentelemetry.instrument(loop)

Counters and gauges come from loop.stats() when a reader collects, so they
cost nothing between; a histogram of slow callbacks comes from the
slow-callback hook.  docs/monitoring.md lists them.
"""

from __future__ import annotations

import functools
import weakref
from typing import TYPE_CHECKING, Any

try:
    from opentelemetry import metrics
except ImportError as exc:
    raise ImportError(
        "pyloop.opentelemetry needs the OpenTelemetry API: "
        "pip install 'pyloop[opentelemetry]'"
    ) from exc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from pyloop import EventLoop

__all__ = ("instrument",)

# Field of stats(), unit, description.
COUNTERS = (
    ("turns", "{turn}", "Turns of the loop."),
    ("polls", "{poll}", "Times the kernel was asked for events."),
    ("callbacks", "{callback}", "Callbacks that were run, I/O included."),
    ("handoffs", "{handoff}", "Callbacks handed over by other threads."),
    ("wakeups", "{wakeup}", "Times a hand-off woke the loop."),
    ("batched_sends", "{send}", "Sends that left with others'."),
    ("idle_time", "s", "Time spent waiting for events."),
    ("busy_poll_time", "s", "Of it, time spent looking and not asleep."),
)
GAUGES = (
    ("ready", "{callback}", "Callbacks that wait to be run."),
    ("timers", "{timer}", "Timers that are set."),
    ("transports", "{transport}", "Open stream and datagram transports."),
    ("listeners", "{socket}", "Sockets that accept connections."),
    ("watched", "{descriptor}", "Descriptors with readers or writers."),
    ("longest_turn", "s", "The longest turn without the sleep."),
)


def instrument(
    loop: EventLoop,
    *,
    meter_provider: metrics.MeterProvider | None = None,
    attributes: Mapping[str, Any] | None = None,
    slow_threshold: float | None = 0.1,
) -> Callable[[], None]:
    """Publish what loop.stats() says; returns what ends it.

    attributes tell several loops of a process apart. Callbacks that take
    slow_threshold seconds or more go to the histogram
    pyloop.slow_callback.duration, by the kind of what was slow; None leaves
    the loop's hook alone, else a hook that was set before goes on working.
    Call it, and what it returns, from the loop's own thread or while the
    loop does not run. The loop is not kept alive.
    """
    meter = metrics.get_meter("pyloop", meter_provider=meter_provider)
    labels = dict(attributes or {})
    watched = weakref.ref(loop)
    before = loop.get_slow_callback_hook()
    stopped = False

    def observe(field: str, _options: Any) -> Iterable[metrics.Observation]:
        found = watched()
        if stopped or found is None or found.is_closed():
            return ()
        return (metrics.Observation(getattr(found.stats(), field), labels),)

    def stop() -> None:
        nonlocal stopped
        stopped = True
        found = watched()
        now = found.get_slow_callback_hook() if found is not None else None
        if found is not None and now is not None and now[1] is slow:
            found.set_slow_callback_hook(*(before or (0, None)))

    for field, unit, text in COUNTERS:
        meter.create_observable_counter(
            f"pyloop.{field}", [functools.partial(observe, field)], unit, text
        )
    for field, unit, text in GAUGES:
        meter.create_observable_gauge(
            f"pyloop.{field}", [functools.partial(observe, field)], unit, text
        )
    durations = meter.create_histogram(
        "pyloop.slow_callback.duration",
        "s",
        "Callbacks that took long.",
    )

    def slow(subject: Any, duration: float) -> None:
        if slow_threshold is not None and duration >= slow_threshold:
            kind = type(subject).__name__
            durations.record(duration, {**labels, "pyloop.kind": kind})
        if before is not None and duration >= before[0]:
            before[1](subject, duration)

    if slow_threshold is not None:
        lowest = slow_threshold if before is None else before[0]
        loop.set_slow_callback_hook(min(lowest, slow_threshold), slow)
    return stop
