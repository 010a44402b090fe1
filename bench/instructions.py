"""Instructions per operation, counted by callgrind: ``-m bench.instructions``.

Time wobbles, this does not: each operation runs N times under valgrind in
two sizes, and the difference of the totals over the difference of the sizes
is what one costs, start-up and all else taken out.  Kernel work is not seen,
and the garbage collector is off.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

from . import loops
from .report import grid
from .rows.scheduling import nothing
from .runner import ROOT, last_line, probe


async def call_soon(loop, n: int) -> None:
    """schedule and run one callback, many queued"""
    done = loop.create_future()
    for _ in range(n):
        loop.call_soon(nothing)
    loop.call_soon(done.set_result, None)
    await done


async def hooked(loop, n: int) -> None:
    """call_soon with a slow-callback hook set, on loops that have one"""
    if hasattr(loop, "set_slow_callback_hook"):
        loop.set_slow_callback_hook(60, nothing)
    await call_soon(loop, n)


async def chain(loop, n: int) -> None:
    """one turn of the loop with one callback"""
    done = loop.create_future()

    def link():
        nonlocal n
        n -= 1
        if n:
            loop.call_soon(link)
        else:
            done.set_result(None)

    loop.call_soon(link)
    await done


async def sleep0(loop, n: int) -> None:
    """one task step by sleep(0)"""
    for _ in range(n):
        await asyncio.sleep(0)


async def timer_fire(loop, n: int) -> None:
    """a timer set, due and fired"""
    done = loop.create_future()

    def fire():
        nonlocal n
        n -= 1
        if not n:
            done.set_result(None)

    for i in range(n):
        loop.call_later(0.001 + i % 10 * 1e-5, fire)
    await done


async def timer_cancel(loop, n: int) -> None:
    """a timer set and cancelled"""
    for i in range(n):
        loop.call_later(30, nothing).cancel()
        if not i % 1000:
            await asyncio.sleep(0)


async def echo(loop, n: int) -> None:
    """1 KiB there and back, both ends on the loop: two reads, two writes"""
    done = loop.create_future()

    class Back(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport

        def data_received(self, data):
            self.transport.write(data)

    class Forth(Back):
        left = n

        def data_received(self, data):
            self.left -= 1
            if self.left:
                self.transport.write(data)
            else:
                done.set_result(None)

    server = await loop.create_server(Back, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    transport, _ = await loop.create_connection(Forth, *address)
    transport.get_extra_info("socket").setsockopt(
        socket.IPPROTO_TCP, socket.TCP_NODELAY, 1
    )
    transport.write(bytes(1024))
    await done
    transport.abort()
    server.close()


async def datagram(loop, n: int) -> None:
    """1 KiB by UDP to an endpoint on the loop, received and answered"""
    done = loop.create_future()

    class Answer(asyncio.DatagramProtocol):
        left = n

        def connection_made(self, transport):
            self.transport = transport

        def datagram_received(self, data, addr):
            self.left -= 1
            if self.left > 0:
                self.transport.sendto(data, addr)
            elif not done.done():
                done.set_result(None)

    transport, _ = await loop.create_datagram_endpoint(
        Answer, local_addr=("127.0.0.1", 0)
    )
    for _ in range(16):
        transport.sendto(bytes(1024), transport.get_extra_info("sockname"))
    await done
    transport.close()


KINDS = {  # operation: the two sizes
    call_soon: (2_000, 12_000),
    hooked: (2_000, 12_000),
    chain: (2_000, 12_000),
    sleep0: (2_000, 12_000),
    timer_fire: (2_000, 12_000),
    timer_cancel: (2_000, 12_000),
    echo: (300, 1_500),
    datagram: (300, 1_500),
}


def child(kind: str, loop: str, n: int) -> None:
    gc.collect()
    gc.disable()  # when it runs depends on N, and what it costs on history
    with asyncio.Runner(loop_factory=loops.factory(loop)) as runner:
        runner.run(globals()[kind](runner.get_loop(), n))


def total(kind: str, loop: str, n: int) -> int:
    with tempfile.NamedTemporaryFile(prefix="callgrind-") as out:
        done = subprocess.run(
            [
                "valgrind",
                "--tool=callgrind",
                "--quiet",
                f"--callgrind-out-file={out.name}",
                sys.executable,
                "-W",
                "ignore",
                "-m",
                "bench.instructions",
                "--child",
                kind,
                loop,
                str(n),
            ],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
        )
        if done.returncode:
            raise RuntimeError(
                last_line(done.stderr) or f"exit {done.returncode}"
            )
        counted = re.search(rb"^(?:totals|summary): (\d+)", out.read(), re.M)
        if counted is None:
            raise RuntimeError("callgrind wrote no totals")
        return int(counted[1])


def per_operation(kind: str, loop: str) -> str:
    few, many = next(
        sizes for fn, sizes in KINDS.items() if fn.__name__ == kind
    )
    try:
        ratio = (total(kind, loop, many) - total(kind, loop, few)) / (
            many - few
        )
        return f"{ratio:,.0f}"
    except (RuntimeError, subprocess.TimeoutExpired) as exc:
        print(f"{kind} on {loop} failed: {exc}", file=sys.stderr)
        return "failed"


def main() -> int:
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], sys.argv[3], int(sys.argv[4]))
        return 0
    names = [kind.__name__ for kind in KINDS]
    parser = argparse.ArgumentParser(
        prog="python -m bench.instructions", description=__doc__
    )
    parser.add_argument(
        "kinds", nargs="*", metavar="OPERATION", help=", ".join(names)
    )
    parser.add_argument(
        "--loops",
        default=loops.OURS,
        help="comma-separated (default: %(default)s)",
    )
    args = parser.parse_args()
    if not shutil.which("valgrind"):
        print(
            "bench.instructions needs valgrind, which is not installed "
            "here (on Debian: apt install valgrind); nothing was counted"
        )
        return 1
    kinds = args.kinds or names
    if wrong := set(kinds) - set(names):
        parser.error(f"unknown operation {', '.join(sorted(wrong))}")
    asked = args.loops.split(",")
    if wrong := set(asked) - set(loops.LOOPS):
        parser.error(f"unknown loop {', '.join(sorted(wrong))}")
    found = probe(asked)
    for name in asked:
        if "error" in found[name]:
            print(
                f"{name} is left out: {found[name]['error']}", file=sys.stderr
            )
    chosen = [name for name in asked if "version" in found[name]]
    jobs = [(kind, loop) for kind in kinds for loop in chosen]
    left = len(jobs)
    counts = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        running = pool.map(lambda job: per_operation(*job), jobs)
        for job, count in zip(jobs, running, strict=True):
            counts[job] = count
            left -= 1
            print(
                f"{' '.join(job)}: {count} ({left} to come)", file=sys.stderr
            )
    about = {fn.__name__: fn.__doc__ for fn in KINDS}
    print(
        grid(
            ["instructions per", *chosen, "which is"],
            [
                [kind, *(counts[kind, loop] for loop in chosen), about[kind]]
                for kind in kinds
            ],
        )
    )
    return 1 if not chosen or "failed" in counts.values() else 0


if __name__ == "__main__":
    sys.exit(main())
