"""Real servers in processes of their own, loaded over plain sockets.

Each server runs by each way in: pyloop's loop by `--loop`, by policy and by
`python -m pyloop`; asyncio is the oracle.
"""

import asyncio
import contextlib
import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from support import LOOPS, ROOT, child_env, pattern, reset, until, wait

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from apps import PIECE, large  # noqa: E402
from http_client import Connection, read_response  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))

# A program that sets the policy, then runs a module as `python -m` would.
BY_POLICY = """
import runpy, sys
sys.path.insert(0, {here!r})
import apps
apps.policy_{loop}()
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def has(module):
    import importlib.util

    return importlib.util.find_spec(module) is not None


def command(server, way, loop_name, port):
    """The command line; None where that way does not exist for the loop."""
    run = [sys.executable, "-m"]
    policy = BY_POLICY.format(here=HERE, loop=loop_name)
    by_policy = [sys.executable, "-c", policy]
    through = {
        "plain": run if loop_name == "asyncio" else None,
        "policy": by_policy,
        "module": [*run, "pyloop", "-m"] if loop_name == "pyloop" else None,
        "factory": run,
    }[way]
    if through is None:
        return None
    name, _, protocol = server.partition("-")
    if name == "uvicorn":
        args = ["uvicorn", "--app-dir", HERE, "apps:asgi"]
        args += ["--port", str(port)]
        args += ["--http", protocol, "--log-level", "warning"]
        args += ["--timeout-graceful-shutdown", "20"]
        if way == "factory":
            where = {
                "pyloop": "pyloop:new_event_loop",
                "asyncio": "asyncio:SelectorEventLoop",
            }[loop_name]
            args += ["--loop", where]
        elif way == "plain":
            args += ["--loop", "asyncio"]
        else:
            args += ["--loop", "none"]
        return [*through, *args]
    if way == "factory" and name == "hypercorn":
        return None
    if name == "hypercorn":
        args = ["hypercorn", "apps:asgi", "--bind", f"127.0.0.1:{port}"]
        args += ["--graceful-timeout", "20", "--workers", "0"]
        args += ["--keep-alive", "2"]
        args += ["--log-level", "warning"]
        return [*through, *args]
    script = os.path.join(HERE, "apps.py")
    if way in ("factory", "plain"):
        which = loop_name if way == "factory" else "default"
        return [sys.executable, script, which, str(port)]
    if way == "module":
        run = [sys.executable, "-m", "pyloop"]
        return [*run, script, "default", str(port)]
    return None


NEEDS = {
    "uvicorn-httptools": ["uvicorn", "httptools"],
    "uvicorn-h11": ["uvicorn", "h11"],
    "hypercorn": ["hypercorn"],
    "aiohttp": ["aiohttp"],
}
WAYS = ["plain", "factory", "policy", "module"]


class Server:
    def __init__(self, server, way, loop_name):
        # Bound but not listening: nobody else gets the port.
        self.reserved = socket.socket()
        self.reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.reserved.bind(("127.0.0.1", 0))
        self.address = self.reserved.getsockname()
        args = command(server, way, loop_name, self.address[1])
        env = child_env(
            PYTHONPATH=os.pathsep.join([HERE, str(ROOT), str(ROOT / "tests")])
        )
        self.process = subprocess.Popen(
            args,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=env,
            cwd=HERE,
        )
        self.out, self.err = [], []
        self.threads = [
            threading.Thread(target=lines.extend, args=[stream])
            for lines, stream in (
                (self.out, self.process.stdout),
                (self.err, self.process.stderr),
            )
        ]
        for thread in self.threads:
            thread.start()
        wait(lambda: self.process.poll() is not None or self.answers())

    def answers(self):
        try:
            socket.create_connection(self.address).close()
            return True
        except (ConnectionRefusedError, ConnectionResetError):
            # Reset: the listener closed with this connection in its queue.
            return False

    def stop(self, number=signal.SIGTERM, timeout=30):
        """Status after a signal; kills what does not end."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.wait(timeout)

    def wait(self, timeout=30):
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return "did not end"
        finally:
            for thread in self.threads:
                thread.join(10)
            self.process.stdout.close()
            self.process.stderr.close()
            self.reserved.close()

    def memory(self):
        with open(f"/proc/{self.process.pid}/status") as file:
            for line in file:
                if line.startswith("VmRSS:"):
                    return int(line.split()[1])

    def fds(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))


@pytest.fixture(params=NEEDS)
def server_name(request):
    for module in NEEDS[request.param]:
        if not has(module):
            pytest.skip(f"{module} is not installed for this interpreter")
    return request.param


@contextlib.contextmanager
def running(server_name, way, loop_name):
    server = Server(server_name, way, loop_name)
    try:
        yield server
    finally:
        server.stop(signal.SIGKILL)


def load(*coroutines):
    """Run a client on plain asyncio, with a deadline."""

    async def main():
        async with asyncio.timeout(40):
            return await asyncio.gather(*coroutines)

    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        return runner.run(main())


async def keep_alive(address, count=30):
    async with Connection(address) as connection:
        for _ in range(count):
            response = await connection.get("/")
            assert (response.status, response.body) == (200, b"hello")


async def bodies(address):
    async with Connection(address) as connection:
        for size in (0, 1, 1000, 65536, 300_000, 5_000_000):
            response = await connection.get(f"/large?{size}")
            assert response.body == large(size)
        for count in (0, 1, 50, 2000):
            response = await connection.get(f"/chunks?{count}")
            assert response.body == PIECE * count


async def uploads(address):
    data = pattern(3_000_000)
    async with Connection(address) as connection:
        for size in (1, 1000, 65536, 200_000, 3_000_000):
            body = data[:size]
            response = await connection.post("/echo", body)
            assert response.headers["x-md5"] == hashlib.md5(body).hexdigest()
            assert response.body == body
        pieces = [data[n : n + 7777] for n in range(0, 1_000_000, 7777)]
        response = await connection.post_chunked("/echo", pieces)
        assert response.body == b"".join(pieces)


async def pipelining(address):
    async with Connection(address) as connection:
        for n in range(20):
            connection.send("GET", f"/large?{n * 100}")
        for n in range(20):
            response = await read_response(connection.reader)
            assert response.body == large(n * 100)


async def aborting(address, rounds=12):
    """Clients that go away at every stage."""
    for n in range(rounds):
        async with Connection(address) as connection:
            if n % 4 == 0:
                connection.writer.write(b"GET / HTTP/1.1\r\nHo")
            elif n % 4 == 1:
                connection.send("GET", "/large?3000000")
                await connection.reader.readexactly(1000)
            elif n % 4 == 2:
                connection.writer.write(
                    b"POST /echo HTTP/1.1\r\nHost: x\r\n"
                    b"Content-Length: 100000\r\n\r\npartial"
                )
                await connection.writer.drain()
            else:
                connection.send("GET", "/chunks?1500")
                await connection.reader.readexactly(1000)
            connection.writer.transport.abort()


async def resetting(address):
    for _ in range(6):
        sock = socket.create_connection(address)
        sock.send(b"GET /chunks?1500 HTTP/1.1\r\nHost: x\r\n\r\n")
        sock.recv(1000)
        reset(sock)


async def slow_reader(address):
    """The server must wait for it, with its memory bounded."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(address)
    reader, writer = await asyncio.open_connection(sock=sock, limit=4096)
    writer.write(b"GET /chunks?3000 HTTP/1.1\r\nHost: x\r\n")
    writer.write(b"Connection: close\r\n\r\n")
    await asyncio.sleep(0.2)
    total = 0
    while data := await reader.read(1 << 16):
        total += len(data)
    assert total > 3000 * 1024
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize(
    "server_name, way, loop_name",
    [
        (server, way, loop)
        for loop in LOOPS
        for server in NEEDS
        for way in WAYS
        if command(server, way, loop, 0)
    ],
    indirect=["server_name", "loop_name"],
)
def test_traffic(server_name, way, loop_name):
    """All kinds at once, then a quiet end."""
    with running(server_name, way, loop_name) as server:

        async def which():
            async with Connection(server.address) as connection:
                return (await connection.get("/loop")).body.decode()

        assert load(which()) == [loop_name]
        address = server.address
        kinds = [bodies(address), uploads(address), slow_reader(address)]
        kinds += [keep_alive(address) for _ in range(20)]
        if server_name != "hypercorn":  # refuses to pipeline
            kinds.append(pipelining(address))
        load(*kinds)
        assert server.err == []
        load(aborting(address), keep_alive(address), bodies(address))
        load(resetting(address))
        load(keep_alive(address))
        assert server.process.poll() is None
        status = server.stop()
        assert status in (0, -signal.SIGTERM), "".join(server.err)
        sober(server)


def sober(server):
    """Servers may complain of clients that went away; the loop may not."""
    words = "Exception in callback", "never retrieved", "Fatal", "unclosed"
    words += "Exception ignored", "pyloop", "never awaited", "destroyed"
    # the checkout's own name may be pyloop
    said = [line.replace(str(ROOT), "") for line in server.err]
    lines = [line for line in said if any(w in line for w in words)]
    assert lines == [], "".join(server.err)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_graceful_shutdown(server_name, loop_name, number, tmp_path):
    """A request in flight is answered, an idle connection is closed."""
    gate = tmp_path / "gate"
    way = "plain" if loop_name == "asyncio" else "module"
    with running(server_name, way, loop_name) as server:

        async def main():
            async with (
                Connection(server.address) as idle,
                Connection(server.address) as busy,
            ):
                await idle.get("/")
                busy.send("GET", "/slow", X_Gate=str(gate))
                await busy.writer.drain()
                while "gate\n" not in server.out:
                    await asyncio.sleep(0.01)
                server.process.send_signal(number)
                # That it shuts down shows in the idle one being closed.
                assert await idle.reader.read() == b""
                wait(lambda: not server.answers())
                gate.touch()
                response = await read_response(busy.reader)
                assert response.body == b"late"

        load(main())
        status = server.wait()
        assert status in (0, -number, 128 + number), "".join(server.err)


@pytest.mark.parametrize("protocol", ["httptools", "h11"])
def test_inherited_listener(loop_name, protocol):
    """uvicorn --fd takes any socket for a Unix one."""
    if not (has("uvicorn") and has(protocol)):
        pytest.skip("uvicorn is not installed for this interpreter")
    listener = socket.create_server(("127.0.0.1", 0))
    way = "plain" if loop_name == "asyncio" else "factory"
    args = command(f"uvicorn-{protocol}", way, loop_name, 0)
    at = args.index("--port")
    args[at : at + 2] = ["--fd", str(listener.fileno())]
    with listener:
        process = subprocess.Popen(
            args,
            pass_fds=[listener.fileno()],
            stderr=subprocess.PIPE,
            env=child_env(),
            cwd=HERE,
        )
        try:
            load(*[keep_alive(listener.getsockname(), 3) for _ in range(5)])
        finally:
            process.terminate()
            _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (-signal.SIGTERM, b"")


def test_shutdown_when_idle(server_name, loop_name):
    """Open keep-alive connections do not hold it up."""
    way = "plain" if loop_name == "asyncio" else "module"
    with running(server_name, way, loop_name) as server:

        async def main():
            async with contextlib.AsyncExitStack() as stack:
                connections = [
                    await stack.enter_async_context(Connection(server.address))
                    for _ in range(10)
                ]
                for connection in connections:
                    await connection.get("/")
                began = time.monotonic()
                server.process.send_signal(signal.SIGTERM)
                for connection in connections:
                    try:
                        await connection.reader.read()
                    except ConnectionResetError:
                        pass
                assert time.monotonic() - began < 15

        load(main())
        assert server.wait() in (0, -signal.SIGTERM)
        assert server.err == []


def test_application_that_fails(server_name, loop_name):
    way = "plain" if loop_name == "asyncio" else "module"
    with running(server_name, way, loop_name) as server:

        async def main():
            async with Connection(server.address) as connection:
                response = await connection.get("/crash")
                assert response.status == 500
            await keep_alive(server.address, 3)

        load(main())
        server.stop()
        assert any("ZeroDivisionError" in line for line in server.err)


def test_nothing_piles_up(server_name, loop_name):
    """Descriptors and memory after many connections are as after few."""
    way = "plain" if loop_name == "asyncio" else "module"
    with running(server_name, way, loop_name) as server:
        address = server.address

        async def burst():
            await asyncio.gather(
                *[keep_alive(address, 2) for _ in range(40)],
                aborting(address, 4),
            )

        async def main():
            for _ in range(2):
                await burst()
            await asyncio.sleep(0.1)
            fds, memory = server.fds(), server.memory()
            for _ in range(5):
                await burst()
            await until(lambda: server.fds() <= fds)
            assert server.memory() < memory + 60_000

        load(main())
        server.stop()
