"""What the tests share: the loops under test, recording protocols, pairs of
connected sockets, certificates, child interpreters."""

import asyncio
import contextlib
import errno
import functools
import os
import pathlib
import select
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import textwrap
import threading
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
LOOPS = os.environ.get("PYLOOP_TEST_LOOPS", "asyncio pyloop")
LOOPS = LOOPS.replace(",", " ").split()

# For what must happen: a machine that is busy with other things may take long.
DEADLINE = 30

# asyncio leaves the socket of some failures to the collector.
may_drop_sockets = pytest.mark.filterwarnings(
    "ignore:unclosed:ResourceWarning"
)

FREE_THREADED = hasattr(sys, "_is_gil_enabled") and not sys._is_gil_enabled()

# Debian 12 has 3.11.2, whose own asyncio cannot pause pipes and datagrams,
# and complains of a child that does not read its input and of a late abort().
asyncio_of_3_11_7 = pytest.mark.skipif(
    sys.version_info < (3, 11, 7), reason="asyncio before 3.11.7 fails"
)


def factory(name):
    if name == "asyncio":
        return asyncio.SelectorEventLoop
    import pyloop

    return pyloop.new_event_loop


def run(loop_factory, main, *, debug=None, timeout=DEADLINE):
    """asyncio.run() on the given loop, with a deadline."""

    async def bounded():
        async with asyncio.timeout(timeout):
            return await main

    with asyncio.Runner(loop_factory=loop_factory, debug=debug) as runner:
        return runner.run(bounded())


def finish(loop):
    """Close a loop as Runner does, whatever the test left in it."""
    if loop.is_closed():
        return
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


def outcome(loop_factory, scenario):
    """What scenario(loop) gave: its value, or its exception as words."""

    async def bounded(result):
        async with asyncio.timeout(DEADLINE):
            return await result

    loop = loop_factory()
    try:
        result = scenario(loop)
        if asyncio.iscoroutine(result):
            result = loop.run_until_complete(bounded(result))
        return "returned", result
    except Exception as exc:
        return "raised", type(exc), str(exc)
    finally:
        finish(loop)


def error(function, *args, **kwargs):
    """The exception a call raises, as (type, text); None if it does not."""
    try:
        function(*args, **kwargs)
    except Exception as exc:
        return type(exc), str(exc)
    return None


async def async_error(awaitable):
    try:
        await awaitable
    except Exception as exc:
        return type(exc), str(exc)
    return None


def handler_calls(loop):
    """Collect the contexts the loop's exception handler is called with."""
    calls = []
    loop.set_exception_handler(lambda loop, context: calls.append(context))
    return calls


def spin(loop):
    """One turn of the loop."""
    loop.call_soon(loop.stop)
    loop.run_forever()


async def turns(count=3):
    for _ in range(count):
        await asyncio.sleep(0)


async def until(predicate, timeout=DEADLINE):
    """For conditions of other processes or the kernel, which send no event."""
    deadline = time.monotonic() + timeout
    while not predicate():
        assert time.monotonic() < deadline, "condition never came true"
        await asyncio.sleep(0.005)


def wait(predicate, timeout=DEADLINE):
    deadline = time.monotonic() + timeout
    while not predicate():
        assert time.monotonic() < deadline, "condition never came true"
        time.sleep(0.005)


async def shut(server):
    """Close a server and see its connections' tasks end (3.11 does not wait
    for them)."""
    server.close()
    await asyncio.wait_for(server.wait_closed(), DEADLINE)
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    if rest:
        await asyncio.wait(rest, timeout=DEADLINE)


# -- protocols


class Recorder(asyncio.Protocol):
    """Notes each call in order; `made`, `eof` and `lost` are futures."""

    keep_open = False

    def __init__(self):
        loop = asyncio.get_running_loop()
        self.transport = None
        self.calls = []
        self.received = bytearray()
        self.made = loop.create_future()
        self.eof = loop.create_future()
        self.lost = loop.create_future()
        self.changed = asyncio.Event()

    def note(self, name):
        self.calls.append(name)
        self.changed.set()

    def connection_made(self, transport):
        self.transport = transport
        self.made.set_result(transport)
        self.note("made")

    def data_received(self, data):
        assert type(data) is bytes and data
        self.received += data
        if self.calls[-1:] == ["data"]:
            self.calls.pop()
        self.note("data")

    def eof_received(self):
        self.eof.set_result(None)
        self.note("eof")
        return self.keep_open

    def connection_lost(self, exc):
        self.lost.set_result(exc)
        self.note("lost")

    def pause_writing(self):
        self.note("pause")

    def resume_writing(self):
        self.note("resume")

    async def until(self, predicate):
        async with asyncio.timeout(DEADLINE):
            while not predicate():
                self.changed.clear()
                await self.changed.wait()

    async def receive(self, size):
        await self.until(lambda: len(self.received) >= size)
        return bytes(self.received)


class BufferedRecorder(Recorder, asyncio.BufferedProtocol):
    data_received = None
    buffer_size = 1000

    def __init__(self):
        super().__init__()
        self.buffer = bytearray(self.buffer_size)

    def get_buffer(self, sizehint):
        return memoryview(self.buffer)

    def buffer_updated(self, nbytes):
        self.received += self.buffer[:nbytes]
        if self.calls[-1:] == ["data"]:
            self.calls.pop()
        self.note("data")


class KeepOpen(Recorder):
    keep_open = True


class DatagramRecorder(asyncio.DatagramProtocol):
    def __init__(self):
        loop = asyncio.get_running_loop()
        self.transport = None
        self.calls = []
        self.received = []
        self.errors = []
        self.lost = loop.create_future()
        self.changed = asyncio.Event()

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, addr):
        self.received.append((data, addr))
        self.changed.set()

    def error_received(self, exc):
        self.errors.append(exc)
        self.changed.set()

    def connection_lost(self, exc):
        self.lost.set_result(exc)
        self.changed.set()

    def pause_writing(self):
        self.calls.append("pause")
        self.changed.set()

    def resume_writing(self):
        self.calls.append("resume")
        self.changed.set()

    until = Recorder.until


async def drop(protocol):
    if not protocol.lost.done():
        protocol.transport.abort()
        await asyncio.wait([protocol.lost], timeout=DEADLINE)


@contextlib.asynccontextmanager
async def connected(kind="tcp", client=Recorder, server=Recorder, **kwargs):
    """A client protocol and its server-side twin, by a real server."""
    loop = asyncio.get_running_loop()
    peers = asyncio.Queue()

    def accept():
        protocol = server()
        peers.put_nowait(protocol)
        return protocol

    with contextlib.ExitStack() as stack:
        if kind == "unix":
            path = stack.enter_context(unix_path())
            listener = await loop.create_unix_server(accept, path)
            _, near = await loop.create_unix_connection(client, path)
        elif kind == "tls":
            listener = await loop.create_server(
                accept, "127.0.0.1", 0, ssl=server_tls(), **kwargs
            )
            _, near = await loop.create_connection(
                client,
                *listener.sockets[0].getsockname(),
                ssl=client_tls(),
                server_hostname="localhost",
                **kwargs,
            )
        else:
            listener = await loop.create_server(accept, "127.0.0.1", 0)
            _, near = await loop.create_connection(
                client, *listener.sockets[0].getsockname()
            )
        far = await peers.get()
        await far.made
        try:
            yield near, far
        finally:
            await drop(near)
            await drop(far)
            listener.close()
            await listener.wait_closed()


@contextlib.asynccontextmanager
async def wired(make=Recorder, pair=None, **kwargs):
    """A protocol on one end of a socket pair, the raw other end."""
    loop = asyncio.get_running_loop()
    ours, theirs = pair or socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    with theirs:
        _, protocol = await loop.create_connection(make, sock=ours, **kwargs)
        try:
            yield protocol, theirs
        finally:
            await drop(protocol)


# -- sockets


def tcp_pair():
    """Two ends of a TCP connection, non-blocking."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    near.setblocking(False)
    far.setblocking(False)
    return near, far


PAIRS = {"tcp": tcp_pair, "unix": socket.socketpair}


def reset(sock):
    """Close so that the peer gets ECONNRESET."""
    linger = b"\1\0\0\0\0\0\0\0"
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    sock.close()


def fill(sock):
    """Write to a non-blocking socket until it takes no more."""
    total = 0
    try:
        while True:
            total += sock.send(bytes(65536))
    except BlockingIOError:
        return total


def drain(sock):
    """Read what is there; None if nothing, b'' at the end of the stream."""
    parts = []
    while True:
        try:
            part = sock.recv(1 << 20)
        except BlockingIOError:
            return b"".join(parts) if parts else None
        parts.append(part)
        if not part:
            return b"".join(parts)


@contextlib.contextmanager
def unix_path():
    """A path short enough for a socket, in a directory that goes away."""
    with tempfile.TemporaryDirectory(prefix="pl") as directory:
        yield os.path.join(directory, "s")


@contextlib.contextmanager
def refusing_address(family=socket.AF_INET, host="127.0.0.1"):
    """An address that is taken, so that nobody else gets it, but refuses."""
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.bind((host, 0))
        yield sock.getsockname()[:2]


@contextlib.contextmanager
def silent_listener():
    """One whose queue is full: connects to it hang."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        while True:
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(listener.getsockname())
            if not select.select([], [sock], [], 0.05)[1]:
                break
        yield listener


no_preload = pytest.mark.skipif(
    "asan" in os.environ.get("LD_PRELOAD", ""),
    reason="the sanitizer has the allocator",
)


@functools.cache
def has_ipv6():
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
            sock.bind(("::1", 0))
        return True
    except OSError:
        return False


def pattern(size):
    """Bytes in which a lost, doubled or moved piece shows."""
    unit = b"".join(n.to_bytes(4, "big") for n in range(4096))
    return (unit * (size // len(unit) + 1))[:size]


def open_fds():
    fds = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            fds[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            pass
    return fds


@contextlib.contextmanager
def no_free_fds():
    """In this block the process can open no descriptor."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = max(open_fds()) + 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    held = []
    try:
        try:
            while True:
                held.append(os.open("/dev/null", os.O_RDONLY))
        except OSError as exc:
            assert exc.errno == errno.EMFILE
        yield
    finally:
        for fd in held:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# -- TLS


@functools.cache
def certificate():
    """A certificate for localhost, self-signed, made once per run."""
    directory = pathlib.Path(tempfile.gettempdir(), f"pl-cert-{os.getpid()}")
    directory.mkdir(exist_ok=True)
    cert, key = directory / "cert.pem", directory / "key.pem"
    subprocess.run(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1"
        " -nodes -days 2 -subj /CN=localhost"
        " -addext subjectAltName=DNS:localhost,IP:127.0.0.1"
        " -addext keyUsage=critical,digitalSignature,keyCertSign".split()
        + ["-keyout", str(key), "-out", str(cert)],
        check=True,
        capture_output=True,
    )
    return str(cert), str(key)


def server_tls():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate())
    return context


def client_tls():
    return ssl.create_default_context(cafile=certificate()[0])


# -- child interpreters


def child_env(**extra):
    env = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONASYNCIODEBUG", "PYTHONWARNINGS")
    }
    paths = [str(ROOT), str(ROOT / "tests")]
    env["PYTHONPATH"] = os.pathsep.join(paths)
    env.update(extra)
    return env


PRELUDE = """
import asyncio, os, signal, socket, sys, threading, time
import support
new_event_loop = support.factory({name!r})
def run(main, **kwargs):
    if {name!r} == 'pyloop':
        import pyloop
        return pyloop.run(main, **kwargs)
    with asyncio.Runner(loop_factory=new_event_loop, **kwargs) as runner:
        return runner.run(main)
def say(*words):
    print(*words, flush=True)
"""


def script(loop_name, code):
    return PRELUDE.format(name=loop_name) + textwrap.dedent(code)


# For a script.
DENY = """
import ctypes, errno, struct

def deny(number, error):
    \"\"\"From here on this system call fails.\"\"\"
    program = b"".join(
        struct.pack("HBBI", *instruction)
        for instruction in (
            (0x20, 0, 0, 0),  # load the number
            (0x15, 0, 1, number),  # is it this one?
            (0x06, 0, 0, 0x00050000 | error),
            (0x06, 0, 0, 0x7FFF0000),  # all others are allowed
        )
    )
    code = ctypes.create_string_buffer(program)
    filter_ = struct.pack("HxxxxxxP", 4, ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0  # no new privileges
    if libc.prctl(22, 2, filter_, 0, 0):  # seccomp by filter
        print("no seccomp here")
        raise SystemExit
"""


def run_script(loop_name, code, *args, check=True, warnings="error", **env):
    """Run code in an interpreter of its own, with `new_event_loop`, `run`
    and `say` at hand; its output must come without a word on stderr."""
    done = subprocess.run(
        [sys.executable, "-W", warnings, "-c", script(loop_name, code), *args],
        capture_output=True,
        text=True,
        timeout=120,
        env=child_env(**env),
    )
    if check and (done.returncode or done.stderr):
        raise AssertionError(
            f"status {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
    return done


class Script:
    """A child interpreter one can talk to while it runs."""

    def __init__(self, loop_name, code, *args, **env):
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-W", "error", "-c"]
            + [script(loop_name, code), *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=child_env(**env),
        )
        self.watchdog = threading.Timer(60, self.process.kill)
        self.watchdog.daemon = True

    def __enter__(self):
        self.watchdog.start()
        return self

    def __exit__(self, *exc_info):
        self.watchdog.cancel()
        self.watchdog.join()
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def line(self):
        return self.process.stdout.readline().strip()

    def expect(self, word):
        line = self.line()
        if line != word:
            self.process.kill()
            raise AssertionError((line, self.process.communicate()[1]))

    def signal(self, number=signal.SIGINT):
        self.process.send_signal(number)

    def asleep(self):
        """Wait until the main thread sleeps in the kernel: the loop idles."""
        path = f"/proc/{self.process.pid}/stat"
        seen = 0
        while seen < 3:
            with open(path) as file:
                seen = seen + 1 if file.read().rsplit(")")[1][1] == "S" else 0
            time.sleep(0.02)

    def finish(self):
        """Exit status, remaining output, stderr."""
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err


def readable(fd, timeout=0):
    return bool(select.select([fd], [], [], timeout)[0])
