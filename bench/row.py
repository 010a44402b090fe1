"""What a row is, and what its function gets to measure with."""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any

MODULES = (
    "scheduling",
    "io",
    "http",
    "uring",
    "memory",
    "claims",
    "native",
    "parallel",
)


class Skip(Exception):
    """This row does not apply, or lacks something it needs: why."""


@dataclass(frozen=True)
class Row:
    name: str  # as given on the command line
    title: str  # as shown in tables
    unit: str
    measure: Callable[[Context], Sample]
    goal: float | None  # wanted ratio to the best peer; None: not in the mean
    lower: bool  # lower is better
    cost: float  # seconds one sample takes, a first guess for the time left
    group: str

    def ratio(self, value: float, base: float) -> float:
        """How many times better value is than base."""
        return base / value if self.lower else value / base


@dataclass
class Sample:
    value: float
    extra: dict[str, float] = field(default_factory=dict)


ROWS: dict[str, Row] = {}


def row(
    title: str,
    unit: str,
    *,
    goal: float | None = None,
    lower: bool = False,
    cost: float = 0.6,
    name: str = "",
):
    """Register a measuring function as a row, under its own name."""

    def register(measure):
        key = name or measure.__name__
        ROWS[key] = Row(
            key,
            title,
            unit,
            measure,
            goal,
            lower,
            cost,
            measure.__module__.rpartition(".")[2],
        )
        return measure

    return register


def load_rows() -> dict[str, Row]:
    for module in MODULES:
        importlib.import_module(f"bench.rows.{module}")
    return ROWS


@dataclass
class Context:
    """One sample: which loop, how large, and the tools to take the time."""

    loop_name: str
    factory: Callable[[], asyncio.AbstractEventLoop]
    smoke: bool
    load: list[str]  # command of the load generator
    budget: float = 0.3  # seconds to spend on repetitions

    def size(self, full: int, tiny: int) -> int:
        return tiny if self.smoke else full

    @property
    def window(self) -> list[str]:
        """Warm-up and measured seconds of the load generator."""
        return ["0.02", "0.05"] if self.smoke else ["0.15", "0.5"]

    def run(self, main: Callable[[Any], Coroutine[Any, Any, Any]]) -> Any:
        with asyncio.Runner(loop_factory=self.factory) as runner:
            return runner.run(main(runner.get_loop()))

    def rate(self, step, n: int) -> Sample:
        """n operations of ``await step(loop, n)``, per second."""

        async def main(loop):
            await step(loop, max(1, n // 4))
            times: list[float] = []
            for start in self.repetitions(times):
                await step(loop, n)
                times.append(time.perf_counter() - start)
            return Sample(n / statistics.median(times))

        return self.run(main)

    def rate_outside(self, step, n: int) -> Sample:
        """As rate, for a plain ``step(loop, n)`` that runs the loop itself."""
        loop = self.factory()
        try:
            step(loop, max(1, n // 4))
            times: list[float] = []
            for start in self.repetitions(times):
                step(loop, n)
                times.append(time.perf_counter() - start)
            return Sample(n / statistics.median(times))
        finally:
            loop.close()

    def repetitions(self, times: list[float]) -> Iterator[float]:
        """Start times, each after a collection, until the budget is spent."""
        end = time.perf_counter() + self.budget
        while len(times) < 2 or time.perf_counter() < end:
            gc.collect()
            yield time.perf_counter()
            if self.smoke:
                return

    def client(self, *args: object) -> dict[str, float]:
        """Run the load generator to its end and return its report."""
        done = subprocess.run(
            [*self.load, *map(str, args)], capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(f"load generator: {done.stderr.strip()}")
        return json.loads(done.stdout)

    async def client_aside(self, loop, *args: object) -> dict[str, float]:
        """client() from a coroutine, asking little of the loop under test."""
        done = loop.create_future()

        def finish(report, error):
            if not done.cancelled():
                if error:
                    done.set_exception(error)
                else:
                    done.set_result(report)

        def work():
            report = error = None
            try:
                report = self.client(*args)
            except Exception as exc:
                error = exc
            loop.call_soon_threadsafe(finish, report, error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        report = await done
        thread.join()
        return report
