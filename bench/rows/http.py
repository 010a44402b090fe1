"""Real HTTP servers, each the real command line in a process of its own.

The load generator keeps 64 connections busy with small GETs; requests a
second are the row, p50, p99 and p99.9 of the latency go with it.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import tempfile
import time

from ..row import Context, Sample, row

HOST = "127.0.0.1"


def free_port() -> int:
    with socket.create_server((HOST, 0)) as sock:
        return sock.getsockname()[1]


def wait_for(port: int, server: subprocess.Popen) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if server.poll() is not None:
            break
        try:
            socket.create_connection((HOST, port), 1).close()
            return
        except OSError:
            time.sleep(0.01)
    raise RuntimeError("server did not start")


def last_words(log) -> str:
    log.seek(0)
    return log.read().decode(errors="replace").strip().rpartition("\n")[2]


def serve(ctx: Context, server: str, way: str) -> Sample:
    port = free_port()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "bench.serve",
                server,
                way,
                ctx.loop_name,
                str(port),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        try:
            wait_for(port, process)
            warm, seconds = ctx.window if ctx.smoke else ("0.2", "0.9")
            report = ctx.client(
                "http", HOST, port, ctx.size(64, 8), warm, seconds
            )
        except RuntimeError as exc:
            raise RuntimeError(
                f"{exc}; the server's last words: {last_words(log) or 'none'}"
            ) from None
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
    if report["errors"]:
        raise RuntimeError(f"{report['errors']:.0f} bad responses")
    return Sample(report.pop("rate"), report)


@row("uvicorn + httptools, 64 connections", "requests/s", goal=1.05, cost=1.6)
def uvicorn(ctx: Context) -> Sample:
    """uvicorn --loop <loop>:new_event_loop --http httptools, a bare ASGI app.

    Source: the goals table; claim C6 (loop factory).  The main job.
    """
    return serve(ctx, "uvicorn", "factory")


@row("aiohttp server", "requests/s", goal=1.05, cost=1.6)
def aiohttp(ctx: Context) -> Sample:
    """aiohttp.web.run_app with one handler.

    Source: the goals table.
    """
    return serve(ctx, "aiohttp", "factory")


@row("hypercorn h11", "requests/s", goal=1.05, cost=1.6)
def hypercorn(ctx: Context) -> Sample:
    """hypercorn.asyncio.serve in a Runner with the loop's factory, HTTP/1.1.

    Source: the goals table; claim C6 (loop factory).  Python's own parsing
    dominates.
    """
    return serve(ctx, "hypercorn", "factory")


@row("C6: uvicorn by policy", "requests/s", cost=1.6)
def c6_uvicorn_policy(ctx: Context) -> Sample:
    """uvicorn --loop none with the loop's policy installed.

    Source: claim C6.
    """
    return serve(ctx, "uvicorn", "policy")


@row("C6: hypercorn by policy", "requests/s", cost=1.6)
def c6_hypercorn_policy(ctx: Context) -> Sample:
    """hypercorn's command line, --workers 0, with the loop's policy installed.

    Source: claim C6.
    """
    return serve(ctx, "hypercorn", "policy")
