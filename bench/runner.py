"""Runs the rows: rounds, fresh processes, progress, and the raw samples."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from .row import Row

HERE = Path(__file__).parent
ROOT = HERE.parent
LIMIT = 60.0  # seconds a sample may take


@dataclass
class Series:
    """All samples of one loop on one row; an error or a skip ends it."""

    values: list[float] = field(default_factory=list)
    extras: list[dict[str, float]] = field(default_factory=list)
    error: str = ""
    skipped: str = ""
    gil: bool = True


def load_command() -> list[str]:
    """The C load generator, compiled if need be; else the Python one."""
    source = HERE / "load.c"
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:12]
    compiler = os.environ.get("CC") or shutil.which("cc") or "gcc"
    for place in (ROOT / "build" / "bench", Path(tempfile.gettempdir())):
        binary = place / f"pyloop-load-{digest}"
        if place != ROOT / "build" / "bench":
            binary = binary.with_name(f"{binary.name}-{os.getuid()}")
        if binary.exists():
            return [str(binary)]
        try:
            place.mkdir(parents=True, exist_ok=True)
            made = f"{binary}.{os.getpid()}"
            subprocess.run(
                [*compiler.split(), "-O2", "-o", made, source],
                check=True,
                capture_output=True,
            )
            os.replace(made, binary)
            return [str(binary)]
        except (OSError, subprocess.CalledProcessError):
            continue
    print(
        "bench: load.c does not compile here; the slower Python client "
        "stands in",
        file=sys.stderr,
    )
    return [sys.executable, str(HERE / "load.py")]


def ask(job: dict, limit: float = LIMIT) -> dict:
    """One job in a fresh process; whatever happens to it is an answer."""
    process = subprocess.Popen(
        [
            sys.executable,
            "-W",
            "ignore",
            "-m",
            "bench.worker",
            json.dumps(job),
        ],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=limit)
    except BaseException as exc:
        if not isinstance(exc, subprocess.TimeoutExpired):
            raise
        return {"error": f"no result after {limit:.0f} s"}
    finally:
        try:  # the worker and what it started
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()
    if process.returncode < 0:
        name = signal.Signals(-process.returncode).name
        return {"error": f"died of {name}: {last_line(err)}".rstrip(": ")}
    if process.returncode:
        return {"error": last_line(err) or f"exit {process.returncode}"}
    return json.loads(last_line(out))


def last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else ""


def probe(names: list[str]) -> dict[str, dict]:
    """Name → {"version": …} or {"error": …}, one process each."""
    with ThreadPoolExecutor(4) as pool:
        answers = pool.map(lambda name: ask({"probe": [name]}), names)
    return {
        name: answer.get(name, answer)
        for name, answer in zip(names, answers, strict=True)
    }


class Progress:
    """One line on standard error, with the time left."""

    def __init__(self, jobs: list[tuple[Row, str, int]]) -> None:
        self.left = [row.cost for row, _, _ in jobs]
        self.total = len(jobs)
        self.expected = self.spent = 0.0
        self.started = time.monotonic()
        self.live = sys.stderr.isatty()
        self.told = 0.0

    def show(self, text: str) -> None:
        pace = self.spent / self.expected if self.expected > 5 else 1.0
        left = round(sum(self.left) * pace)
        done = self.total - len(self.left)
        line = (
            f"[{done}/{self.total}] {left // 60}:{left % 60:02} left · {text}"
        )
        if self.live:
            print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
        elif time.monotonic() - self.told > 10:
            self.told = time.monotonic()
            print(line, file=sys.stderr, flush=True)

    def done(self, row: Row, seconds: float) -> None:
        self.left.pop(0)
        self.expected += row.cost
        self.spent += seconds

    def end(self) -> None:
        took = time.monotonic() - self.started
        print(
            f"{chr(13) + chr(27) + '[K' if self.live else ''}"
            f"{self.total - len(self.left)} samples in "
            f"{took // 60:.0f}:{took % 60:02.0f}",
            file=sys.stderr,
        )


Results = dict[str, dict[str, Series]]


def run(
    rows: list[Row], names: list[str], rounds: int, smoke: bool
) -> tuple[Results, bool]:
    """All samples, and whether the run came to its end.

    The loops take turns, and each round begins with another one.
    """
    load = load_command()
    results: Results = {
        row.name: {name: Series() for name in names} for row in rows
    }
    jobs = [
        (row, names[(i + turn) % len(names)], turn)
        for row in rows
        for turn in range(rounds)
        for i in range(len(names))
    ]
    progress = Progress(jobs)

    def one(job: tuple[Row, str, int]) -> None:
        row, name, turn = job
        series = results[row.name][name]
        progress.show(f"{row.title} · {name} · round {turn + 1}/{rounds}")
        t0 = time.monotonic()
        if not series.error and not series.skipped:
            answer = ask(
                {"row": row.name, "loop": name, "smoke": smoke, "load": load},
                LIMIT / (3 if smoke else 1),
            )
            series.gil = answer.get("gil", True)
            if "error" in answer:
                series.error = answer["error"]
            elif "skipped" in answer:
                series.skipped = answer["skipped"]
            else:
                series.values.append(answer["value"])
                series.extras.append(answer["extra"])
        progress.done(row, time.monotonic() - t0)

    complete = True
    try:
        if smoke:  # nobody looks at the time: two at once
            with ThreadPoolExecutor(2) as pool:
                list(pool.map(one, jobs))
        else:
            for job in jobs:
                one(job)
    except KeyboardInterrupt:
        complete = False
    progress.end()
    return results, complete
