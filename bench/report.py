"""From samples to figures: medians, ratios, table, Markdown, JSON."""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import sysconfig
import time
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from .loops import OURS
from .row import Row
from .runner import Results, Series


@dataclass
class Line:
    """One row of the table."""

    row: Row
    series: dict[str, Series]

    def median(self, name: str) -> float | None:
        series = self.series.get(name)
        if series is None or series.error or not series.values:
            return None
        return statistics.median(series.values)

    @property
    def best_peer(self) -> str | None:
        """The best loop but ours; asyncio counts."""
        peers = {
            name: value
            for name in self.series
            if name != OURS and (value := self.median(name)) is not None
        }
        if not peers:
            return None
        return (min if self.row.lower else max)(peers, key=peers.__getitem__)

    def ratio(self, base: str | None, name: str = OURS) -> float | None:
        """How many times better than base; above 1 is better on any row."""
        value = self.median(name)
        under = self.median(base) if base else None
        if value is None or under is None or not min(value, under) > 0:
            return None
        return self.row.ratio(value, under)


def lines(rows: list[Row], results: Results) -> list[Line]:
    return [Line(row, results[row.name]) for row in rows]


def number(value: float) -> str:
    """Three digits: 1.40 M, 56.1 k, 5.12."""
    suffix = ""
    for factor, letter in ((1e6, " M"), (1e3, " k")):
        if value >= factor * 0.9995:
            value, suffix = value / factor, letter
            break
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{digits}f}{suffix}"


def cell(series: Series | None) -> str:
    if series is None:
        return "–"
    if series.error:
        return "failed"
    return number(statistics.median(series.values)) if series.values else "–"


def spread(series: Series | None) -> str:
    if series is None or series.error or len(series.values) < 2:
        return ""
    low, high = number(min(series.values)), number(max(series.values))
    if low[-2:] == high[-2:] and low[-2] == " ":
        low = low[:-2]
    return f"{low}–{high}"


def times(ratio: float | None) -> str:
    return "–" if ratio is None else f"{ratio:.2f}"


def verdict(line: Line) -> str:
    ratio = line.ratio(line.best_peer)
    if line.row.goal is None:
        return ""
    mark = "" if ratio is None else " ✓" if ratio >= line.row.goal else " ✗"
    return f"{line.row.goal:g}{mark}"


def geometric_mean(ratios: list[float | None]) -> float | None:
    """Over the rows that have the ratio; a row we fail has none."""
    known = [math.log(ratio) for ratio in ratios if ratio]
    return math.exp(sum(known) / len(known)) if known else None


def means(table: list[Line]) -> dict[str, float | None]:
    """Over the rows of the goals table, the claims' repeats left out."""
    goals = [line for line in table if line.row.goal is not None]
    return {
        "best peer of each row": geometric_mean(
            [line.ratio(line.best_peer) for line in goals]
        ),
        **{
            name: geometric_mean([line.ratio(name) for line in goals])
            for name in table[0].series
            if name != OURS
        },
    }


def header(names: list[str]) -> list[str]:
    return ["row", "unit", *names, "÷asyncio", "÷uvloop", "÷best", "goal"]


def cells(line: Line, names: list[str]) -> list[str]:
    best = line.best_peer
    ratio = line.ratio(best)
    return [
        line.row.title,
        line.row.unit + (" ↓" if line.row.lower else ""),
        *(cell(line.series.get(name)) for name in names),
        times(line.ratio("asyncio")),
        times(line.ratio("uvloop")),
        times(ratio) + (f" {best}" if ratio is not None else ""),
        verdict(line),
    ]


def latencies(table: list[Line], names: list[str]) -> list[list[str]]:
    """p50 / p99 / p99.9 in microseconds of the HTTP rows."""
    out = []
    for line in table:
        if line.row.group != "http":
            continue
        row = [line.row.title]
        for name in names:
            series = line.series.get(name)
            if series is None or series.error or not series.extras:
                row.append("–")
                continue
            medians = (
                statistics.median(extra[key] for extra in series.extras)
                for key in ("p50", "p99", "p999")
            )
            row.append(" / ".join(f"{median:,.0f}" for median in medians))
        out.append(row)
    return out


LATENCY = "latency, p50 / p99 / p99.9 in µs"


def grid(head: list[str], body: list[list[str]], left: int = 1) -> str:
    widths = [
        max(len(row[i]) for row in [head, *body]) for i in range(len(head))
    ]

    def join(row: list[str]) -> str:
        return "  ".join(
            text.ljust(width) if i < left else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()

    return "\n".join(
        [join(head), join(["-" * w for w in widths]), *map(join, body)]
    )


def failures(table: list[Line]) -> list[str]:
    return [
        f"{line.row.title}: {name} failed: {series.error}"
        for line in table
        for name, series in line.series.items()
        if series.error
    ]


def skips(table: list[Line]) -> list[str]:
    """One line for each row and reason."""
    names: dict[tuple[str, str], list[str]] = {}
    for line in table:
        for name, series in line.series.items():
            if series.skipped:
                key = (line.row.title, series.skipped)
                names.setdefault(key, []).append(name)
    return [
        f"{title}: {', '.join(who)} skipped: {why}"
        for (title, why), who in names.items()
    ]


def summary(table: list[Line]) -> list[str]:
    if OURS not in table[0].series:
        return []
    said = [
        f"{times(mean)}× {base}"
        for base, mean in means(table).items()
        if mean is not None
    ]
    if not said:
        return []
    goals = [line for line in table if line.row.goal]
    reached = sum(
        (line.ratio(line.best_peer) or 0) >= line.row.goal for line in goals
    )
    return [
        "geometric mean of pyloop over the goal rows: " + ", ".join(said),
        f"goals reached: {reached} of {len(goals)}",
    ]


def text(table: list[Line], names: list[str], facts: dict) -> str:
    body = []
    for line in table:
        body.append(cells(line, names))
        spreads = [spread(line.series.get(name)) for name in names]
        if any(spreads):
            body.append(["", "", *spreads, "", "", "", ""])
    parts = [describe(facts), grid(header(names), body, 2)]
    if http := latencies(table, names):
        parts.append(grid([LATENCY, *names], http))
    parts.append("\n".join(remarks(table, facts)))
    return "\n\n".join(part for part in parts if part)


def markdown(table: list[Line], names: list[str], facts: dict) -> str:
    def rows(head, body, left):
        rule = ["---" if i < left else "---:" for i in range(len(head))]
        return "\n".join(
            "| " + " | ".join(row) + " |" for row in [head, rule, *body]
        )

    body = []
    for line in table:
        row = cells(line, names)
        for i, name in enumerate(names, 2):
            if between := spread(line.series.get(name)):
                row[i] += f"<br><sub>{between}</sub>"
        body.append(row)
    parts = [describe(facts), rows(header(names), body, 2)]
    if http := latencies(table, names):
        parts.append(rows([LATENCY, *names], http, 1))
    parts.append("\n".join(f"- {item}" for item in remarks(table, facts)))
    return "\n\n".join(part for part in parts if part) + "\n"


def remarks(table: list[Line], facts: dict) -> list[str]:
    judged = [] if facts["smoke"] else summary(table)
    return [*judged, *notes(facts), *failures(table), *skips(table)]


def notes(facts: dict) -> list[str]:
    """Loops that are not in the run, or not as their build promises."""
    said = [f"{name} left out: {why}" for name, why in facts["absent"].items()]
    if facts["gil_retaken"]:
        said.append(
            "turned the GIL back on: " + ", ".join(facts["gil_retaken"])
        )
    if facts["load_average"] > 0.5 and not facts["smoke"]:
        said.append(
            f"load average {facts['load_average']} at the start: "
            "other work may have disturbed the run"
        )
    if facts["smoke"]:
        said.append("smoke run: sizes are tiny, the figures mean nothing")
    if not facts["complete"]:
        said.append("interrupted: not all rounds were run")
    return said


def describe(facts: dict) -> str:
    loops = ", ".join(
        f"{name} {version}" for name, version in facts["loops"].items()
    )
    return (
        f"{facts['python']} · {facts['system']} · {facts['cpu']}, "
        f"{facts['cores']} cores · medians of {facts['rounds']} rounds, "
        f"min–max below\n{loops}"
    )


def cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def gather_facts(
    found: dict[str, dict], rounds: int, smoke: bool, load: list[str]
) -> dict:
    free = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
    return {
        "date": time.strftime("%Y-%m-%d"),
        "python": f"CPython {platform.python_version()}"
        + (" free-threaded" if free else ""),
        "system": f"{platform.system()} {platform.release()} "
        f"{platform.machine()}",
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),
        "loops": {
            name: answer["version"]
            for name, answer in found.items()
            if "version" in answer
        },
        "absent": {
            name: answer["error"]
            for name, answer in found.items()
            if "error" in answer
        },
        "servers": {
            name: installed(name)
            for name in ("uvicorn", "httptools", "hypercorn", "h11", "aiohttp")
        },
        "client": "load.c" if len(load) == 1 else "load.py",
        "rounds": rounds,
        "smoke": smoke,
        "gil_retaken": [],
        "complete": True,
    }


def note_gil(facts: dict, results: Results) -> None:
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        facts["gil_retaken"] = sorted(
            {
                name
                for row in results.values()
                for name, series in row.items()
                if series.values and series.gil
            }
        )


def as_json(table: list[Line], facts: dict) -> str:
    data = {
        "machine": facts,
        "rows": [
            {
                "name": line.row.name,
                "title": line.row.title,
                "unit": line.row.unit,
                "lower_is_better": line.row.lower,
                "goal": line.row.goal,
                "best_peer": line.best_peer,
                "medians": {name: line.median(name) for name in line.series},
                "ratios": {
                    "asyncio": line.ratio("asyncio"),
                    "uvloop": line.ratio("uvloop"),
                    "best_peer": line.ratio(line.best_peer),
                },
                "samples": {
                    name: asdict(series)
                    for name, series in line.series.items()
                },
            }
            for line in table
        ],
    }
    if OURS in table[0].series:
        data["geometric_means"] = means(table)
    return json.dumps(data, indent=1, ensure_ascii=False) + "\n"
