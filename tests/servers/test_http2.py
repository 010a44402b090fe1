"""HTTP/2 on hypercorn, spoken by the h2 library over plain streams, with
prior knowledge and over TLS with ALPN."""

import asyncio
import hashlib
import os
import signal
import ssl
import sys

import pytest
from support import certificate, client_tls, pattern

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

pytest.importorskip("hypercorn", reason="hypercorn is not installed")
pytest.importorskip("h2", reason="h2 is not installed")

import test_http1  # noqa: E402
from apps import PIECE, large  # noqa: E402
from h2.config import H2Configuration  # noqa: E402
from h2.connection import H2Connection  # noqa: E402
from h2.events import (  # noqa: E402
    DataReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from test_http1 import load, running, sober  # noqa: E402


class Client:
    def __init__(self, address, tls):
        self.address = address
        self.tls = tls
        self.h2 = H2Connection(H2Configuration(header_encoding="utf-8"))
        self.streams = {}
        self.window = asyncio.Event()

    async def __aenter__(self):
        kwargs = {}
        if self.tls:
            context = client_tls()
            context.set_alpn_protocols(["h2"])
            kwargs = {"ssl": context, "server_hostname": "localhost"}
        self.reader, self.writer = await asyncio.open_connection(
            *self.address, **kwargs
        )
        if self.tls:
            tls = self.writer.get_extra_info("ssl_object")
            assert tls.selected_alpn_protocol() == "h2"
        self.h2.initiate_connection()
        self.flush()
        self.task = asyncio.create_task(self.receive())
        return self

    async def __aexit__(self, *exc_info):
        self.task.cancel()
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except (ConnectionError, ssl.SSLError):
            pass

    def flush(self):
        self.writer.write(self.h2.data_to_send())

    async def receive(self):
        while data := await self.reader.read(1 << 16):
            for event in self.h2.receive_data(data):
                stream = self.streams.get(getattr(event, "stream_id", None))
                if isinstance(event, ResponseReceived):
                    stream["headers"] = dict(event.headers)
                elif isinstance(event, DataReceived):
                    stream["body"] += event.data
                    self.h2.acknowledge_received_data(
                        event.flow_controlled_length, event.stream_id
                    )
                elif isinstance(event, (StreamEnded, StreamReset)):
                    if stream and not stream["done"].done():
                        stream["done"].set_result(type(event))
                elif isinstance(event, WindowUpdated):
                    self.window.set()
            self.flush()
        for stream in self.streams.values():
            if not stream["done"].done():
                stream["done"].set_result(None)

    def start(self, method, path, body=b"", **headers):
        number = self.h2.get_next_available_stream_id()
        self.streams[number] = {
            "headers": {},
            "body": bytearray(),
            "done": asyncio.get_running_loop().create_future(),
        }
        self.h2.send_headers(
            number,
            [
                (":method", method),
                (":path", path),
                (":scheme", "https" if self.tls else "http"),
                (":authority", "localhost"),
                *((k.replace("_", "-"), v) for k, v in headers.items()),
            ],
            end_stream=not body,
        )
        self.flush()
        return number

    async def upload(self, number, body):
        while body:
            window = self.h2.local_flow_control_window(number)
            size = min(window, self.h2.max_outbound_frame_size, len(body))
            if not size:
                self.window.clear()
                await self.window.wait()
                continue
            piece, body = body[:size], body[size:]
            self.h2.send_data(number, piece, end_stream=not body)
            self.flush()
            await self.writer.drain()

    async def request(self, method, path, body=b"", **headers):
        number = self.start(method, path, body, **headers)
        await self.upload(number, body)
        return await self.response(number)

    async def response(self, number):
        stream = self.streams[number]
        assert await stream["done"] is StreamEnded
        assert stream["headers"][":status"] == "200"
        return stream["headers"], bytes(stream["body"])


WAYS = {"asyncio": ["plain", "policy"], "pyloop": ["module", "policy"]}


@pytest.fixture(params=[0, 1])
def way(request, loop_name):
    return WAYS[loop_name][request.param]


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def tls(request, monkeypatch):
    if request.param:
        cert, key = certificate()
        command = test_http1.command

        def with_tls(*args):
            extra = ["--certfile", cert, "--keyfile", key]
            return [*command(*args), *extra]

        monkeypatch.setattr(test_http1, "command", with_tls)
    return request.param


def test_streams_at_once(way, loop_name, tls):
    data = pattern(500_000)
    digest = hashlib.md5(data).hexdigest()

    async def client(address):
        async with Client(address, tls) as h2:
            _, body = await h2.request("GET", "/loop")
            assert body.decode() == loop_name

            async def upload():
                headers, body = await h2.request("POST", "/echo", data)
                assert headers["x-md5"] == digest and body == data

            async def download(path, expected):
                _, body = await h2.request("GET", path)
                assert body == expected

            await asyncio.gather(
                *[download("/", b"hello") for _ in range(50)],
                *[download(f"/large?{n}", large(n)) for n in (1, 10**6)],
                *[download("/chunks?300", PIECE * 300) for _ in range(3)],
                *[upload() for _ in range(3)],
            )

    with running("hypercorn", way, loop_name) as server:
        load(*[client(server.address) for _ in range(4)])
        assert server.err == []
        server.stop()


def test_clients_that_go_away(way, loop_name, tls):
    async def reset_streams(address):
        async with Client(address, tls) as h2:
            for n in range(10):
                number = h2.start("GET", "/chunks?1000")
                while not h2.streams[number]["body"]:
                    await asyncio.sleep(0.001)
                h2.h2.reset_stream(number)
                h2.flush()
            _, body = await h2.request("GET", "/")
            assert body == b"hello"

    async def abort(address):
        for _ in range(5):
            async with Client(address, tls) as h2:
                for _ in range(5):
                    h2.start("GET", "/chunks?1000")
                await asyncio.sleep(0.01)
                h2.writer.transport.abort()

    async def check(address):
        async with Client(address, tls) as h2:
            _, body = await h2.request("GET", "/")
            assert body == b"hello"

    with running("hypercorn", way, loop_name) as server:
        load(reset_streams(server.address), abort(server.address))
        load(check(server.address))
        # hypercorn waits for the streams of clients that are gone.
        server.stop(signal.SIGKILL)
        sober(server)


def test_shutdown_with_a_stream_in_flight(loop_name, tls, tmp_path):
    gate = tmp_path / "gate"

    async def client(server):
        async with Client(server.address, tls) as h2:
            number = h2.start("GET", "/slow", x_gate=str(gate))
            while "gate\n" not in server.out:
                await asyncio.sleep(0.01)
            server.process.send_signal(signal.SIGTERM)
            while server.answers():
                await asyncio.sleep(0.01)
            gate.touch()
            _, body = await h2.response(number)
            assert body == b"late"

    way = WAYS[loop_name][0]
    with running("hypercorn", way, loop_name) as server:
        load(client(server))
        assert server.wait() == 0
