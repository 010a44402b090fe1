"""Everything at once, for as long as one likes: nothing may pile up.

    python tests/soak.py [--minutes N] [--loop pyloop|asyncio]

Connections come and go, are aborted, half-closed, timed out and cancelled,
over TCP, Unix sockets and TLS; datagrams, timers, executors, other threads
and child processes beside them.  After a warm-up memory in use and open
descriptors have to stay where they are: both are looked at between rounds,
when all that a round began has ended.  A line each 10 s; status 1 when
something grew or failed.
"""

import argparse
import asyncio
import collections
import gc
import os
import random
import socket
import sys
import threading
import time
import traceback

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import support  # noqa: E402

CLIENTS = 20
ROUND = 0.5  # seconds of work between two looks
WARM_UP = 0.3  # of the whole time, at most two minutes
# What memory may differ by: allocators keep more or less of what is free.
SLACK = 4 << 20
DATA = support.pattern(200_000)

counts = collections.Counter()


class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)

    def eof_received(self):
        return None

    def pause_writing(self):
        self.transport.pause_reading()

    def resume_writing(self):
        self.transport.resume_reading()


class Datagrams(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, address):
        if not data.startswith(b"back"):
            self.transport.sendto(b"back" + data, address)
        else:
            counts["datagrams"] += 1


class Servers:
    async def __aenter__(self):
        loop = asyncio.get_running_loop()
        self.context = support.client_tls()
        self.path = f"\0pyloop-soak-{os.getpid()}"
        self.tcp = await loop.create_server(Echo, "127.0.0.1", 0, backlog=500)
        self.unix = await loop.create_unix_server(Echo, self.path)
        self.tls = await loop.create_server(
            Echo, "127.0.0.1", 0, ssl=support.server_tls()
        )
        return self

    async def __aexit__(self, *exc_info):
        for server in (self.tcp, self.unix, self.tls):
            await support.shut(server)

    async def connect(self, kind):
        if kind == "unix":
            return await asyncio.open_unix_connection(self.path)
        options = {}
        if kind == "tls":
            options = {"ssl": self.context, "server_hostname": "localhost"}
        server = self.tls if kind == "tls" else self.tcp
        return await asyncio.open_connection(
            *server.sockets[0].getsockname(), **options
        )


async def talk(servers, rng):
    """A connection, some echoes, and one of several ends."""
    kind = rng.choice(["tcp", "tcp", "tcp", "unix", "unix", "tls"])
    reader, writer = await servers.connect(kind)
    try:
        for _ in range(rng.randrange(5)):
            size = rng.choice([1, 100, 5000, 200_000])
            writer.write(DATA[:size])
            assert await reader.readexactly(size) == DATA[:size]
            counts[kind] += 1
        end = rng.randrange(5)
        if end == 0:
            writer.write(DATA)
            writer.transport.abort()
        elif end == 1 and kind != "tls":
            writer.write(DATA)
            writer.write_eof()
            assert await reader.read() == DATA
        elif end == 2:
            writer.write(DATA)  # nobody reads the answer
        elif end == 3 and kind == "tcp":
            linger = b"\1\0\0\0\0\0\0\0"
            writer.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, linger
            )
            writer.transport.abort()
        counts[f"end {end}"] += 1
    finally:
        writer.close()
        try:
            await writer.wait_closed()
        except OSError:
            pass


async def time_out(servers, rng):
    """Reads that end by a deadline, a connect that is cancelled."""
    reader, writer = await servers.connect("tcp")
    try:
        async with asyncio.timeout(rng.random() / 200):
            await reader.read(1)
    except TimeoutError:
        counts["timeouts"] += 1
    finally:
        writer.close()
        await writer.wait_closed()
    task = asyncio.ensure_future(servers.connect(rng.choice(["tcp", "tls"])))
    for _ in range(rng.randrange(4)):
        await asyncio.sleep(0)
    task.cancel()
    try:
        _, writer = await task
    except (asyncio.CancelledError, OSError):
        counts["cancelled"] += 1
    else:
        writer.close()
        await writer.wait_closed()


async def refuse(servers, rng):
    with support.refusing_address() as address:
        try:
            await asyncio.open_connection(*address)
        except ConnectionRefusedError:
            counts["refused"] += 1


async def datagrams(servers, rng):
    loop = asyncio.get_running_loop()
    near, _ = await loop.create_datagram_endpoint(
        Datagrams, local_addr=("127.0.0.1", 0)
    )
    far, _ = await loop.create_datagram_endpoint(
        Datagrams, local_addr=("127.0.0.1", 0)
    )
    for _ in range(20):
        near.sendto(
            bytes(rng.choice([1, 1400])), far.get_extra_info("sockname")
        )
        await asyncio.sleep(0)
    near.close()
    far.abort()
    await asyncio.sleep(0)


async def timers(servers, rng):
    loop = asyncio.get_running_loop()
    for n in range(300):
        loop.call_later(n / 1e6, counts.update, ["timers"])
        loop.call_later(3600 + n, int).cancel()
    await asyncio.sleep(0.001)


async def threads(servers, rng):
    loop = asyncio.get_running_loop()
    done = asyncio.Event()

    def post():
        for _ in range(200):
            loop.call_soon_threadsafe(counts.update, ["handoffs"])
        loop.call_soon_threadsafe(done.set)

    thread = threading.Thread(target=post)
    thread.start()
    assert await loop.run_in_executor(None, sum, [1, 2]) == 3
    assert await asyncio.to_thread(max, 1, 2) == 2
    await done.wait()
    thread.join()
    counts["executor"] += 2


async def sockets(servers, rng):
    loop = asyncio.get_running_loop()
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        far.setblocking(False)
        sending = asyncio.ensure_future(loop.sock_sendall(near, DATA))
        received = 0
        while received < len(DATA):
            received += len(await loop.sock_recv(far, 1 << 16))
        await sending
        waiting = asyncio.ensure_future(loop.sock_recv(far, 1))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        counts["sockets"] += 1


async def failures(servers, rng):
    """Exceptions with frames, reported and dropped."""
    loop = asyncio.get_running_loop()

    async def fail():
        raise ValueError(bytes(10_000))

    loop.call_soon(lambda: 1 / 0)
    results = await asyncio.gather(fail(), fail(), return_exceptions=True)
    assert len(results) == 2
    counts["failures"] += 1


async def children(servers, rng):
    child = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
    if rng.random() < 0.3:
        child.kill()
        await child.communicate()
    else:
        out, _ = await child.communicate(DATA)
        assert out == DATA
    counts["children"] += 1


KINDS = {
    talk: 60,
    time_out: 10,
    refuse: 4,
    datagrams: 5,
    timers: 4,
    threads: 3,
    sockets: 5,
    failures: 4,
    children: 1,
}


async def client(servers, rng, end):
    while time.monotonic() < end:
        (kind,) = rng.choices(list(KINDS), list(KINDS.values()))
        await kind(servers, rng)


def in_use():
    """Bytes of memory, without what is only mapped."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def look(before):
    """When all has ended: (bytes, descriptors)."""
    deadline = time.monotonic() + 30
    while True:
        await asyncio.sleep(0.02)
        gc.collect()
        fds = support.open_fds()
        if len(fds) <= before or time.monotonic() > deadline:
            return in_use(), fds


async def soak(seconds, seed):
    loop = asyncio.get_running_loop()
    reported = []
    loop.set_exception_handler(lambda loop, context: reported.append(context))
    start = said = time.monotonic()
    warm = start + min(WARM_UP * seconds, 120)
    base = None
    samples = []
    async with Servers() as servers:
        # What is opened once and kept.
        await talk(servers, random.Random(0))
        await threads(servers, random.Random(0))
        await children(servers, random.Random(0))
        await loop.getaddrinfo("localhost", 80)
        await asyncio.sleep(0.2)
        fds = len(support.open_fds())
        number = seed
        while time.monotonic() - start < seconds:
            end = time.monotonic() + ROUND
            async with asyncio.timeout(120):
                async with asyncio.TaskGroup() as group:
                    for _ in range(CLIENTS):
                        number += 1
                        rng = random.Random(number)
                        group.create_task(client(servers, rng, end))
            size, opened = await look(fds)
            now = time.monotonic()
            if len(opened) > fds:
                raise AssertionError(f"{len(opened) - fds} open: {opened}")
            strange = [
                context
                for context in reported
                if not isinstance(
                    context.get("exception"), ZeroDivisionError | OSError
                )
            ]
            if strange:
                raise AssertionError(f"reported: {strange[:3]}")
            reported.clear()
            if now > warm:
                if base is None:
                    base = size
                samples.append(size)
            if now - said > 10:
                said = now
                grown = "" if base is None else f", {size - base:+,} B"
                print(
                    f"soak: {now - start:.0f} s, {counts.total():,} actions,"
                    f" {size / 2**20:.1f} MiB{grown}, {len(opened)} fds",
                    flush=True,
                )
    return samples


def verdict(samples):
    """Growth: the least of the last third over the most of the first."""
    third = max(len(samples) // 3, 1)
    return min(samples[-third:]) - max(samples[:third])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--loop", default="pyloop")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10**9)
    args = parser.parse_args()
    print(f"soak: {args.minutes:g} min on {args.loop}, seed {args.seed}")
    with asyncio.Runner(loop_factory=support.factory(args.loop)) as runner:
        try:
            samples = runner.run(soak(args.minutes * 60, args.seed))
        except Exception:
            traceback.print_exc()
            print(f"soak: failed, {dict(counts)}")
            return 1
    grown = verdict(samples)
    print(f"soak: {dict(counts)}")
    print(
        f"soak: {counts.total():,} actions; after the warm-up memory "
        f"{grown:+,} B, {min(samples):,} to {max(samples):,}; descriptors flat"
    )
    return 1 if grown > SLACK else 0


if __name__ == "__main__":
    sys.exit(main())
