"""Starts one of the HTTP servers as a user would.

``python -m bench.serve uvicorn|hypercorn|aiohttp factory|policy LOOP PORT``
"""

from __future__ import annotations

import asyncio
import sys

from . import loops
from .worker import settle_allocator

HOST = "127.0.0.1"
BODY = b"Hello, World!"
HEADERS = [
    (b"content-type", b"text/plain"),
    (b"content-length", str(len(BODY)).encode()),
]


async def app(scope, receive, send):
    """The least an ASGI application can be."""
    assert scope["type"] == "http"
    await receive()
    await send(
        {"type": "http.response.start", "status": 200, "headers": HEADERS}
    )
    await send({"type": "http.response.body", "body": BODY})


def run_uvicorn(way: str, loop: str, port: str) -> None:
    import uvicorn

    if way == "policy" or loop == "asyncio":
        loop_option = "none"
    else:
        loop_option = f"{loop}:new_event_loop"
    uvicorn.main(
        [
            "bench.serve:app",
            "--host",
            HOST,
            "--port",
            port,
            "--http",
            "httptools",
            "--loop",
            loop_option,
            "--lifespan",
            "off",
            "--no-access-log",
            "--log-level",
            "warning",
        ]
    )


def run_hypercorn(way: str, loop: str, port: str) -> None:
    from hypercorn.config import Config

    Config.keep_alive_max_requests = 1 << 60  # connections stay
    if way == "policy":
        from hypercorn.__main__ import main

        main(["bench.serve:app", "--bind", f"{HOST}:{port}", "--workers", "0"])
        return
    from hypercorn.asyncio import serve

    config = Config()
    config.bind = [f"{HOST}:{port}"]
    with asyncio.Runner(loop_factory=loops.factory(loop)) as runner:
        runner.run(serve(app, config))


def run_aiohttp(way: str, loop: str, port: str) -> None:
    from aiohttp import web

    async def hello(request):
        return web.Response(body=BODY, content_type="text/plain")

    application = web.Application()
    application.router.add_get("/", hello)
    made = loops.factory(loop)()
    asyncio.set_event_loop(made)
    web.run_app(
        application,
        host=HOST,
        port=int(port),
        access_log=None,
        print=None,
        loop=made,
    )


def main() -> None:
    server, way, loop, port = sys.argv[1:]
    settle_allocator()
    if way == "policy":
        loops.set_policy(loop)
    globals()[f"run_{server}"](way, loop, port)


if __name__ == "__main__":
    main()
