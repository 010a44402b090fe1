"""load.c for machines without a C compiler or epoll: same modes and report.

Slower than a quick loop, so the ratios of I/O rows come out smaller.
"""

from __future__ import annotations

import json
import re
import selectors
import socket
import struct
import sys
import time

RESET = struct.pack("ii", 1, 0)


class Window:
    def __init__(self, warm: str, seconds: str) -> None:
        self.begin = time.perf_counter() + float(warm)
        self.end = self.begin + float(seconds)
        self.latencies: list[float] = []
        self.errors = 0

    def open(self) -> bool:
        return time.perf_counter() < self.end

    def count(self, start: float) -> None:
        now = time.perf_counter()
        if self.begin <= now < self.end:
            self.latencies.append(now - start)

    def report(self) -> None:
        taken = sorted(self.latencies)
        if not taken:
            sys.exit("no answer within the measured time")

        def part(p: float) -> float:
            return round(taken[int(len(taken) * p)] * 1e6, 1)

        print(
            json.dumps(
                {
                    "rate": len(taken) / (self.end - self.begin),
                    "count": len(taken),
                    "errors": self.errors,
                    "p50": part(0.5),
                    "p99": part(0.99),
                    "p999": part(0.999),
                }
            )
        )


def dial(address: tuple[str, int]) -> socket.socket:
    sock = socket.create_connection(address, 5)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


class Client:
    def __init__(self, address, message: bytes, size: int | None) -> None:
        self.address, self.message, self.size = address, message, size
        self.connect()

    def connect(self) -> None:
        self.sock = dial(self.address)
        self.begin()

    def begin(self) -> None:
        self.got, self.head, self.need = 0, b"", self.size
        self.start = time.perf_counter()
        self.sock.sendall(self.message)

    def receive(self) -> bool:
        data = self.sock.recv(262144)
        if not data:
            raise ConnectionResetError
        self.got += len(data)
        if self.need is None:
            self.head += data
            end = self.head.find(b"\r\n\r\n")
            if end >= 0:
                length = re.search(rb"(?i)content-length:\s*(\d+)", self.head)
                self.need = end + 4 + int(length[1])
        return self.need is not None and self.got >= self.need


def many(window, address, connections, message, size) -> None:
    selector = selectors.DefaultSelector()
    for _ in range(connections):
        client = Client(address, message, size)
        selector.register(client.sock, selectors.EVENT_READ, client)
    while window.open():
        ready = selector.select(5)
        if not ready:
            sys.exit("server stalled")
        for key, _ in ready:
            client = key.data
            try:
                if not client.receive():
                    continue
            except ConnectionError:
                window.errors += 1
                selector.unregister(client.sock)
                client.connect()
                selector.register(client.sock, selectors.EVENT_READ, client)
                continue
            if client.head and not client.head.startswith(b"HTTP/1.1 200"):
                window.errors += 1
            window.count(client.start)
            client.begin()


def udp(window, address, under_way, size) -> None:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect(address)
    sock.settimeout(0.2)
    starts = [0.0] * under_way
    misses = -1
    while window.open():
        try:
            data = sock.recv(size) if misses >= 0 else None
        except TimeoutError:
            data = None
        if data:
            i = data[0]
            window.count(starts[i])
            starts[i] = time.perf_counter()
            sock.send(data)
            continue
        misses += 1
        if misses > 10:
            sys.exit("datagrams lost")
        for i in range(under_way):
            starts[i] = time.perf_counter()
            sock.send(bytes([i]) * size)


def accept(host: str) -> None:
    with socket.create_server((host, 0), backlog=1024) as listener:
        print(listener.getsockname()[1], flush=True)
        held: list[socket.socket] = []  # as in load.c
        while True:
            peer = listener.accept()[0]
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            held.append(peer)
            if len(held) > 4:
                held.pop(0).close()


def main() -> None:
    mode, host, *rest = sys.argv[1:]
    if mode == "accept":
        return accept(host)
    address = (host, int(rest[0]))
    window = Window(*rest[-2:])
    if mode == "udp":
        udp(window, address, int(rest[1]), int(rest[2]))
    elif mode == "echo":
        size = int(rest[2])
        many(window, address, int(rest[1]), bytes(size), size)
    else:
        request = (
            f"GET / HTTP/1.1\r\nHost: {host}:{rest[0]}\r\n"
            "User-Agent: load\r\nAccept: */*\r\n\r\n"
        )
        many(window, address, int(rest[1]), request.encode(), None)
    window.report()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
