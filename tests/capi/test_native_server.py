"""examples/native_server as a process, in each of its modes, with real HTTP
clients."""

import contextlib
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import threading

import pytest
import support

SERVE = support.ROOT / "examples" / "native_server" / "serve.py"
MODES = ["one-loop", "loop-per-thread", "loop-per-interpreter"]
HOST = "127.0.0.1"


class Server:
    """A running serve.py; leaving the block stops it and looks at its end."""

    def __init__(self, *options):
        self.errors = []  # what standard error may have: patterns
        self.process = subprocess.Popen(
            [sys.executable, "-u", str(SERVE), "--port", "0", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=support.child_env(),
        )
        self.watchdog = threading.Timer(50, self.process.kill)

    def __enter__(self):
        self.watchdog.start()
        line = self.process.stdout.readline()
        found = re.fullmatch(r"serving on http://[\d.]+:(\d+)/\n", line)
        if found is None:
            self.process.kill()
            raise AssertionError((line, self.process.communicate()[1]))
        self.port = int(found[1])
        return self

    def __exit__(self, kind, *exc_info):
        if kind is not None:
            self.process.kill()
        self.stop()

    def stop(self, number=signal.SIGINT):
        """The summary line of an orderly end."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        out, err = self.process.communicate()
        self.watchdog.cancel()
        self.watchdog.join()
        if self.process.returncode == -signal.SIGKILL:
            raise AssertionError(("killed", out, err))
        for pattern in self.errors:
            err, count = re.subn(pattern, "", err, flags=re.DOTALL)
            assert count
        assert (self.process.returncode, err) == (0, "")
        self.stop = lambda number=None: out
        return out

    def connect(self):
        return socket.create_connection((HOST, self.port), support.DEADLINE)

    @contextlib.contextmanager
    def client(self):
        client = http.client.HTTPConnection(
            HOST, self.port, timeout=support.DEADLINE
        )
        with contextlib.closing(client):
            yield client


def get(client, target, method="GET", body=None, headers=()):
    client.request(method, target, body, dict(headers))
    response = client.getresponse()
    return response.status, response.read()


def talk(server, *parts):
    """What the server says to these bytes, to the end of the connection."""
    with server.connect() as sock:
        for part in parts:
            sock.sendall(part)
        with sock.makefile("rb") as file:
            return file.read()


def status_of(answer):
    return int(answer.split(b" ", 2)[1])


@pytest.fixture(params=MODES)
def mode(request):
    if request.param == "loop-per-interpreter" and sys.version_info < (3, 12):
        pytest.skip("own-GIL interpreters: 3.12")
    return request.param


@pytest.mark.parametrize(
    "mode, handler",
    [
        ("one-loop", "sync"),
        ("one-loop", "async"),
        ("loop-per-thread", "async-turn"),
        ("loop-per-interpreter", "async"),
    ],
    indirect=["mode"],
)
def test_serves(mode, handler):
    """Keep-alive, bodies, statuses, and a failing handler's 500, after which
    the connection goes on."""
    with Server("--mode", mode, "--handler", handler) as server:
        server.errors = [
            r"Exception in native work\n.*?ValueError: as asked\n"
        ]
        server.errors += [r"Exception in native work\nTypeError: a [^\n]*\n"]
        with server.client() as client:
            for _ in range(3):
                assert get(client, "/") == (200, b"Hello, World!")
                assert get(client, "/none")[0] == 404
                assert get(client, "/", "HEAD") == (200, b"")
                for body in (b"", b"x", bytes(range(256)) * 1000):
                    assert get(client, "/echo", "POST", body) == (200, body)
            assert get(client, "/error")[0] == 500
            assert get(client, "/nothing")[0] == 500
            assert get(client, "/") == (200, b"Hello, World!")
        summary = server.stop()
    assert re.match(r"21 requests in 21 chains, \d+ wake-ups back\n", summary)


def test_a_hundred_connections(mode):
    with Server("--mode", mode, "--io-threads", "2") as server:
        with contextlib.ExitStack() as stack:
            clients = [
                stack.enter_context(server.client()) for _ in range(100)
            ]
            for target in ("/sleep", "/", "/turn"):
                for client in clients:
                    client.request("GET", target)
                answers = {
                    client.getresponse().read().decode() for client in clients
                }
                assert len(answers) == 1
        assert server.stop().startswith("300 requests")


@pytest.mark.parametrize("mode", MODES[1:], indirect=True)
def test_connections_are_spread_over_the_loops(mode):
    workers = 3
    with Server("--mode", mode, "--workers", str(workers)) as server:
        with contextlib.ExitStack() as stack:
            seen = [
                get(stack.enter_context(server.client()), "/interpreter")[1]
                for _ in range(2 * workers)
            ]
    threads = {words.split()[0] for words in seen}
    interpreters = {words.split()[1] for words in seen}
    assert len(threads) == workers
    isolated = mode == "loop-per-interpreter"
    assert len(interpreters) == (workers if isolated else 1)


@pytest.fixture(scope="module")
def server():
    with Server("--handler", "async") as server:
        yield server


GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
LAST = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: x, Close\r\n\r\n"


def test_pipelined_requests_are_answered_in_order(server):
    sleep = GET.replace(b"/ ", b"/sleep ")
    answer = talk(server, sleep + GET + sleep + LAST)
    bodies = re.findall(rb"\r\n\r\n(slept|Hello, World!)", answer)
    assert bodies == [b"slept", b"Hello, World!"] * 2


def test_a_request_may_come_byte_by_byte(server):
    answer = talk(server, *(LAST[i : i + 1] for i in range(len(LAST))))
    assert answer.endswith(b"\r\n\r\nHello, World!")


def test_close_and_old_versions_end_the_connection(server):
    for request in (LAST, b"GET / HTTP/1.0\r\n\r\n"):
        assert b"\r\nConnection: close\r\n" in talk(server, request)


@pytest.mark.parametrize(
    "status, request_bytes",
    [
        (400, b"\r\n\r\n"),
        (400, b"GET\r\n\r\n"),
        (400, b"GET /\r\n\r\n"),
        (400, b"GET  HTTP/1.1\r\n\r\n"),
        (400, b"G@T / HTTP/1.1\r\n\r\n"),
        (400, b"GET / b HTTP/1.1\r\n\r\n"),
        (400, b"GET / HTTP/1.1\nHost: a\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\nHost : a\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\nHost\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\nA: b\r\n folded\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\nA: \0\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\nContent-Length:\r\n\r\n"),
        (
            400,
            b"GET / HTTP/1.1\r\nContent-Length: 1\r\n"
            b"Content-Length: 2\r\n\r\n",
        ),
        (413, b"POST / HTTP/1.1\r\nContent-Length: 1048577\r\n\r\n"),
        (
            413,
            b"POST / HTTP/1.1\r\nContent-Length: " + b"9" * 99 + b"\r\n\r\n",
        ),
        (417, b"POST / HTTP/1.1\r\nExpect: 100-continue\r\n\r\n"),
        (431, b"GET / HTTP/1.1\r\nA: " + b"a" * 20000),
        (501, b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"),
        (505, b"GET / HTTP/2.0\r\n\r\n"),
        (505, b"GET / HTTP/0.9\r\n\r\n"),
    ],
)
def test_what_is_not_supported_is_refused(server, status, request_bytes):
    answer = talk(server, request_bytes)
    assert status_of(answer) == status
    assert b"\r\nConnection: close\r\n" in answer


def test_large_bodies_wait_for_the_socket(server):
    body = os.urandom(1 << 20)
    with server.client() as client:
        for _ in range(3):
            assert get(client, "/echo", "POST", body) == (200, body)


def test_a_client_that_goes_away_cancels_its_request(server):
    def waiting():
        with server.client() as client:
            return get(client, "/waiting")[1].split()

    before = int(waiting()[1])
    with contextlib.ExitStack() as stack:
        for _ in range(10):
            sock = stack.enter_context(server.connect())
            sock.sendall(GET.replace(b"/ ", b"/wait "))
        support.wait(lambda: waiting()[0] == b"10")
    support.wait(lambda: waiting() == [b"0", b"%d" % (before + 10)])
    for request in (
        GET[:10],
        b"POST /echo HTTP/1.1\r\nContent-Length: 9\r\n\r\n1",
    ):
        with server.connect() as sock:
            sock.sendall(request)
            support.reset(sock)
    assert waiting()[0] == b"0"


@support.no_preload
def test_a_client_that_leaves_with_the_last_byte(faults_library, monkeypatch):
    """The end of its request comes with an event of its socket, and finds the
    peer gone; the system calls are slow enough for that."""
    monkeypatch.setenv("LD_PRELOAD", faults_library)
    monkeypatch.setenv("FAULTS_DELAY", "3000 native_server recv epoll_wait")
    body = bytes(1 << 20)

    def leave(server):
        for _ in range(25):
            with server.connect() as sock:
                sock.sendall(
                    b"POST /echo HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b"
                    % (len(body), body)
                )
                left = len(body)
                while left > 0:
                    data = sock.recv(1 << 20)
                    if not data:
                        return
                    left -= len(data)

    with Server("--handler", "async") as server:
        threads = [
            threading.Thread(target=leave, args=(server,)) for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert server.stop().startswith("75 requests")


@pytest.mark.parametrize(
    "mode, number",
    [(mode, signal.SIGINT) for mode in MODES] + [(MODES[0], signal.SIGTERM)],
    indirect=["mode"],
)
def test_stop_answers_what_is_under_way(mode, number):
    with Server("--mode", mode) as server:
        with server.client() as idle, server.client() as busy:
            assert get(idle, "/")[0] == 200
            busy.request("GET", "/sleep")
            with server.connect() as waits:
                waits.sendall(GET.replace(b"/ ", b"/wait "))
                assert get(idle, "/")[0] == 200  # both have been read
                os.kill(server.process.pid, number)
                response = busy.getresponse()
                assert (response.status, response.read()) == (200, b"slept")
                assert response.headers["connection"] == "close"
                with pytest.raises((http.client.HTTPException, OSError)):
                    get(idle, "/")
                # the second signal does not wait
                os.kill(server.process.pid, number)
                assert waits.recv(1) == b""
        assert server.process.wait(support.DEADLINE) == 0


def test_stop_of_an_idle_server(mode):
    with Server("--mode", mode, "--io-threads", "3") as server:
        with server.connect():
            assert server.stop(signal.SIGTERM).startswith("0 requests")
