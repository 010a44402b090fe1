"""``python -m bench.growth``: how cost grows with size.

Processor time per operation at sizes from 10 to 10^6, the least of three
passes, each loop in a process of its own. A flat line is O(1); a line that
rises by the same step with each tenfold size is O(log n).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from xml.sax.saxutils import escape

from . import loops
from .chart import COLOURS, FONT

Curve = Callable[[asyncio.AbstractEventLoop, int], Awaitable[float]]


def nothing(*args: object) -> None:
    pass


async def call_soon(loop: asyncio.AbstractEventLoop, n: int) -> float:
    """n callbacks queued at once, then run: each."""
    repeat = max(1, 20_000 // n)
    start = time.process_time()
    for _ in range(repeat):
        for _ in range(n):
            loop.call_soon(nothing)
        await asyncio.sleep(0)
    return (time.process_time() - start) / repeat / n


async def timers(loop: asyncio.AbstractEventLoop, n: int) -> float:
    """With n timers pending: one more set, and one set and cancelled."""
    delays = [1000 + random.random() * 1000 for _ in range(n)]
    pending = [loop.call_later(delay, nothing) for delay in delays]
    count = 20_000
    extra = [1000 + random.random() * 1000 for _ in range(count)]
    start = time.process_time()
    more = [loop.call_later(delay, nothing) for delay in extra]
    for delay in extra:
        loop.call_later(delay, nothing).cancel()
    spent = time.process_time() - start
    for handle in pending + more:
        handle.cancel()
    await asyncio.sleep(0)
    return spent / count / 2


class Echo(asyncio.Protocol):
    open = 0

    def connection_made(self, transport):
        self.transport = transport
        Echo.open += 1

    def connection_lost(self, exc):
        Echo.open -= 1

    def data_received(self, data):
        self.transport.write(data)


async def connections(loop: asyncio.AbstractEventLoop, n: int) -> float:
    """A round trip on one of n connections, the others idle."""
    server = await loop.create_server(Echo, "127.0.0.1", 0, backlog=1024)
    address = server.sockets[0].getsockname()
    clients = []
    for _ in range(n):
        clients.append(socket.create_connection(address))
        await asyncio.sleep(0)
    count = 3000
    for sock in clients[:10]:
        sock.setblocking(False)
        await loop.sock_sendall(sock, b"x")
        await loop.sock_recv(sock, 1)
    start = time.process_time()
    for i in range(count):
        sock = clients[i % 10]
        await loop.sock_sendall(sock, b"x")
        await loop.sock_recv(sock, 1)
    spent = time.process_time() - start
    for sock in clients:
        sock.close()
    server.close()
    while Echo.open:
        await asyncio.sleep(0.001)
    return spent / count


async def writes(loop: asyncio.AbstractEventLoop, n: int) -> float:
    """n writes of 10 bytes in one turn: each."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
    repeat = max(3, 10_000 // n)
    spent = 0.0
    for _ in range(repeat):
        start = time.process_time()
        for _ in range(n):
            transport.write(b"0123456789")
        await asyncio.sleep(0)
        spent += time.process_time() - start
        left = n * 10
        while left:
            left -= len(await loop.sock_recv(theirs, 1 << 16))
    transport.abort()
    theirs.close()
    await asyncio.sleep(0)
    return spent / repeat / n


CURVES: dict[str, tuple[Curve, str, list[int]]] = {
    "call_soon": (call_soon, "callbacks queued", [10**k for k in range(1, 7)]),
    "timers": (timers, "timers pending", [10**k for k in range(1, 7)]),
    "connections": (
        connections,
        "connections open",
        [10, 100, 1000, 9900],  # two descriptors each, of often 20,000
    ),
    "writes": (writes, "writes a turn", [10**k for k in range(4)]),
}


def measure(loop_name: str, curve: str) -> dict[int, float]:
    """Seconds of processor time per operation, by size; in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    function, _, sizes = CURVES[curve]
    found = {}
    for size in sizes:
        if curve == "connections" and size * 2 + 100 > hard:
            continue
        best = float("inf")
        for _ in range(3):
            loop = loops.factory(loop_name)()
            try:
                spent = loop.run_until_complete(function(loop, size))
            finally:
                loop.close()
            best = min(best, spent)
        found[size] = best
    return found


def svg(results: dict[str, dict[str, dict[int, float]]]) -> str:
    """Four panels, log over log."""
    import math

    width, height, pad = 330, 230, 52
    out = [
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{2 * width}' "
        f"height='{2 * height + 40}' {FONT} font-size='11' fill='#24292f'>",
        f"<rect width='{2 * width}' height='{2 * height + 40}' fill='#fff'/>",
    ]
    names = list(dict.fromkeys(n for c in results.values() for n in c))
    for i, name in enumerate(names):
        out.append(
            f"<rect x='{20 + 90 * i}' y='12' width='11' height='11' "
            f"fill='{COLOURS.get(name, '#444')}'/>"
            f"<text x='{36 + 90 * i}' y='21'>{escape(name)}</text>"
        )
    for i, (curve, by_loop) in enumerate(results.items()):
        left, top = i % 2 * width + pad, i // 2 * height + 62
        plot_w, plot_h = width - pad - 20, height - 80
        values = [v * 1e6 for s in by_loop.values() for v in s.values()]
        sizes = sorted({n for s in by_loop.values() for n in s})
        low = math.floor(math.log10(min(values)))
        high = math.ceil(math.log10(max(values)))
        first, last = math.log10(sizes[0]), math.log10(sizes[-1])

        def x(n, left=left, plot_w=plot_w, first=first, last=last):
            return left + plot_w * (math.log10(n) - first) / (last - first)

        def y(us, top=top, plot_h=plot_h, low=low, high=high):
            share = (math.log10(us) - low) / (high - low)
            return top + plot_h * (1 - share)

        out.append(
            f"<text x='{left}' y='{top - 14}' font-weight='600'>"
            f"{escape(curve)}: µs each, by {escape(CURVES[curve][1])}</text>"
        )
        for power in range(low, high + 1):
            at = y(10**power)
            out.append(
                f"<line x1='{left}' x2='{left + plot_w}' y1='{at:.1f}' "
                f"y2='{at:.1f}' stroke='#d0d7de' stroke-width='0.7'/>"
                f"<text x='{left - 6}' y='{at + 4:.1f}' text-anchor='end' "
                f"fill='#57606a'>{10**power:g}</text>"
            )
        for size in sizes:
            out.append(
                f"<text x='{x(size):.1f}' y='{top + plot_h + 16}' "
                f"text-anchor='middle' fill='#57606a'>{size:,}</text>"
            )
        for name, found in by_loop.items():
            points = " ".join(
                f"{x(n):.1f},{y(v * 1e6):.1f}" for n, v in found.items()
            )
            strong = 2.4 if name == loops.OURS else 1.3
            out.append(
                f"<polyline points='{points}' fill='none' "
                f"stroke='{COLOURS.get(name, '#444')}' "
                f"stroke-width='{strong}'/>"
            )
    out.append("</svg>\n")
    return "\n".join(out)


def table(results: dict[str, dict[str, dict[int, float]]]) -> str:
    lines = []
    for curve, by_loop in results.items():
        sizes = sorted({n for s in by_loop.values() for n in s})
        lines += [
            f"| {curve}, µs each, by {CURVES[curve][1]} | "
            + " | ".join(f"{n:,}" for n in sizes)
            + " |",
            "| --- |" + " ---: |" * len(sizes),
        ]
        for name, found in by_loop.items():
            cells = " | ".join(
                f"{found[n] * 1e6:.2f}" if n in found else "–" for n in sizes
            )
            lines.append(f"| {name} | {cells} |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.growth", description=__doc__
    )
    parser.add_argument("curves", nargs="*", choices=[[], *CURVES])
    parser.add_argument("--loops", default="asyncio,uvloop,rloop,pyloop")
    parser.add_argument("--chart", type=Path, help="write an SVG here")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        name, curve = options.one.split(":")
        print(json.dumps(measure(name, curve)))
        return
    results: dict[str, dict[str, dict[int, float]]] = {}
    for curve in options.curves or CURVES:
        for name in options.loops.split(","):
            print(f"{curve} on {name} …", file=sys.stderr, flush=True)
            command = [sys.executable, "-m", "bench.growth"]
            done = subprocess.run(
                [*command, "--one", f"{name}:{curve}"],
                stdout=subprocess.PIPE,
                text=True,
            )
            if done.returncode:
                print(f"{curve} on {name}: failed", file=sys.stderr)
                continue
            found = {int(n): v for n, v in json.loads(done.stdout).items()}
            results.setdefault(curve, {})[name] = found
    print(table(results))
    if options.chart:
        options.chart.write_text(svg(results))


if __name__ == "__main__":
    main()
