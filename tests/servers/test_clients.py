"""Client libraries on the loop under test: aiohttp against its own server in
another process, websockets against itself."""

import asyncio
import hashlib
import os
import sys

import pytest
from support import client_tls, pattern, server_tls

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from apps import PIECE, large  # noqa: E402
from test_http1 import running, sober  # noqa: E402

# aiohttp's own pools report sockets they leave to the collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")


@pytest.fixture
def aiohttp():
    return pytest.importorskip("aiohttp", reason="aiohttp is not installed")


@pytest.fixture
def server(aiohttp):
    with running("aiohttp", "plain", "asyncio") as server:
        yield server


def test_aiohttp_requests(run, aiohttp, server):
    data = pattern(1_000_000)

    async def pieces():
        for start in range(0, len(data), 10_000):
            yield data[start : start + 10_000]

    async def main():
        base = "http://{}:{}".format(*server.address)
        async with aiohttp.ClientSession(base) as session:

            async def get(path, expected):
                async with session.get(path) as response:
                    assert response.status == 200
                    assert await response.read() == expected

            async def post(body):
                async with session.post("/echo", data=body) as response:
                    digest = hashlib.md5(data).hexdigest()
                    assert response.headers["x-md5"] == digest
                    assert await response.read() == data

            await asyncio.gather(
                *[get("/", b"hello") for _ in range(200)],
                *[get("/large?1000000", large(10**6)) for _ in range(5)],
                *[get("/chunks?1000", PIECE * 1000) for _ in range(5)],
                *[post(data) for _ in range(3)],
                *[post(pieces()) for _ in range(3)],
            )

    run(main())


def test_aiohttp_early_leave(run, aiohttp, server):
    """Timeouts, closed responses and cancelled requests leave nothing."""

    async def main():
        base = "http://{}:{}".format(*server.address)
        async with aiohttp.ClientSession(base) as session:
            async with session.get("/chunks?20000") as response:
                await response.content.read(1000)
            quick = aiohttp.ClientTimeout(total=0.05)
            with pytest.raises(TimeoutError):
                headers = {"x-gate": "/never"}
                await session.get("/slow", headers=headers, timeout=quick)
            task = asyncio.create_task(session.get("/slow", headers=headers))
            await asyncio.sleep(0.02)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            async with session.get("/") as response:
                assert await response.read() == b"hello"

    run(main())


def test_aiohttp_websocket(run, aiohttp, server):
    async def main():
        base = "http://{}:{}".format(*server.address)
        async with aiohttp.ClientSession(base) as session:
            async with session.ws_connect("/ws", max_msg_size=0) as ws:
                for size in (0, 1, 125, 126, 65535, 65536, 1_000_000):
                    await ws.send_bytes(large(size))
                    assert await ws.receive_bytes() == large(size)
                await ws.send_str("text")
                assert await ws.receive_str() == "text"

    run(main())


@pytest.mark.parametrize("way", ["factory", "module"])
def test_aiohttp_websocket_server(loop_name, aiohttp, way):
    if loop_name == "asyncio":
        way = "plain"

    async def main():
        base = "http://{}:{}".format(*server.address)
        async with aiohttp.ClientSession(base) as session:

            async def talk():
                async with session.ws_connect("/ws", max_msg_size=0) as ws:
                    for n in range(50):
                        await ws.send_bytes(large(n * 1000))
                    for n in range(50):
                        assert await ws.receive_bytes() == large(n * 1000)

            await asyncio.gather(*[talk() for _ in range(10)])

    with running("aiohttp", way, loop_name) as server:
        with asyncio.Runner() as runner:
            runner.run(asyncio.wait_for(main(), 40))
        assert server.stop() == 0
        sober(server)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_websockets(run, tls):
    pytest.importorskip("websockets", reason="websockets is not installed")
    from websockets.asyncio.client import connect
    from websockets.asyncio.server import serve

    async def echo(ws):
        async for message in ws:
            await ws.send(message)

    async def main():
        kwargs = {"max_size": None, "compression": None}
        server_kwargs = {"ssl": server_tls()} if tls else {}
        client_kwargs = {"ssl": client_tls()} if tls else {}
        if tls:
            client_kwargs["server_hostname"] = "localhost"
        async with serve(
            echo, "127.0.0.1", 0, **kwargs, **server_kwargs
        ) as server:
            port = server.sockets[0].getsockname()[1]
            uri = f"{'wss' if tls else 'ws'}://127.0.0.1:{port}"

            async def talk():
                async with connect(uri, **kwargs, **client_kwargs) as ws:
                    for n in range(30):
                        await ws.send(large(n * 1000))
                        assert await ws.recv() == large(n * 1000)
                    latency = await (await ws.ping())
                    assert latency > 0

            await asyncio.gather(*[talk() for _ in range(10)])

    run(main())
