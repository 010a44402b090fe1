"""Rounds of one kind of work in a process of its own; prints what grew.

python leaks.py <loop> <kind> <rounds>
"""

import asyncio
import gc
import json
import os
import socket
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import support  # noqa: E402


class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)


class BufferedEcho(asyncio.BufferedProtocol):
    def __init__(self):
        self.buffer = bytearray(1000)

    def connection_made(self, transport):
        self.transport = transport

    def get_buffer(self, sizehint):
        return self.buffer

    def buffer_updated(self, nbytes):
        self.transport.write(self.buffer[:nbytes])


async def talk(reader, writer):
    for size in (1, 100, 70_000):
        writer.write(bytes(size))
        await reader.readexactly(size)
    writer.close()
    await writer.wait_closed()


async def tcp(state, make=Echo, **kwargs):
    loop = asyncio.get_running_loop()
    if "server" not in state:
        state["server"] = await loop.create_server(
            make, "127.0.0.1", 0, **kwargs
        )
    address = state["server"].sockets[0].getsockname()
    tls = {}
    if kwargs:
        state.setdefault("context", support.client_tls())
        tls = {"ssl": state["context"], "server_hostname": "localhost"}
    await talk(*await asyncio.open_connection(*address, **tls))


async def buffered(state):
    await tcp(state, BufferedEcho)


async def tls(state):
    if "tls" not in state:
        state["tls"] = support.server_tls()
    await tcp(state, ssl=state["tls"])


async def unix(state):
    loop = asyncio.get_running_loop()
    if "server" not in state:
        state["path"] = f"\0pyloop-leaks-{os.getpid()}"
        state["server"] = await loop.create_unix_server(Echo, state["path"])
    await talk(*await asyncio.open_unix_connection(state["path"]))


async def server(state):
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    await talk(*await asyncio.open_connection(*address))
    server.close()
    await server.wait_closed()


async def abort(state):
    """Aborted with unsent data, by reset and during the connect."""
    loop = asyncio.get_running_loop()
    near, far = support.tcp_pair()
    transport, _ = await loop.create_connection(asyncio.Protocol, sock=near)
    transport.write(bytes(3_000_000))
    transport.abort()
    far.close()
    near, far = support.tcp_pair()
    transport, _ = await loop.create_connection(asyncio.Protocol, sock=near)
    support.reset(far)
    await asyncio.sleep(0)
    transport.write(b"x")
    with support.refusing_address() as address:
        try:
            await loop.create_connection(asyncio.Protocol, *address)
        except ConnectionRefusedError:
            pass
        task = asyncio.ensure_future(
            loop.create_connection(asyncio.Protocol, *address)
        )
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()
    await support.turns(5)


async def timers(state):
    loop = asyncio.get_running_loop()
    for n in range(200):
        loop.call_later(n / 1e6, int, 5)
        loop.call_later(3600 + n, int, 5).cancel()
    await asyncio.sleep(0.001)


async def handles(state):
    loop = asyncio.get_running_loop()
    for n in range(200):
        loop.call_soon(int)
        loop.call_soon(max, 1, 2, 3, 4, 5)
        loop.call_soon(int).cancel()
        loop.call_soon_threadsafe(int)
    await asyncio.sleep(0)


async def failures(state):
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: None)
    for _ in range(50):
        loop.call_soon(lambda: 1 / 0)
        for call in (
            lambda: loop.call_later(None, int),
            lambda: loop.call_soon(),
            lambda: loop.add_reader(-1, int),
            lambda: loop.call_soon(int, unknown=1),
        ):
            support.error(call)
    await asyncio.sleep(0)


async def watchers(state):
    loop = asyncio.get_running_loop()
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        for _ in range(20):
            waiting = asyncio.ensure_future(loop.sock_recv(near, 10))
            await asyncio.sleep(0)
            far.send(b"x")
            await waiting
        loop.add_reader(near, int)
        loop.add_writer(near, int)
        await asyncio.sleep(0)
        loop.remove_reader(near)
        loop.remove_writer(near)


async def names(state):
    loop = asyncio.get_running_loop()
    await loop.getaddrinfo("localhost", 80)
    await loop.getaddrinfo("127.0.0.1", 80)
    try:
        await loop.getaddrinfo("127.0.0.1", "no-such-service")
    except OSError:
        pass


async def datagrams(state):
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(
        support.DatagramRecorder, local_addr=("127.0.0.1", 0)
    )
    for _ in range(10):
        transport.sendto(bytes(100), transport.get_extra_info("sockname"))
    transport.sendto(bytes(70_000), transport.get_extra_info("sockname"))
    await protocol.until(lambda: len(protocol.received) == 10)
    support.error(transport.sendto, "text", None)
    transport.close()
    await protocol.lost


async def datagram_ends(state):
    """Queues dropped, sends that are fatal, endpoints that never start."""
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: None)
    path = f"\0pyloop-leaks-{os.getpid()}"
    for end in "abort", "fatal", "close":
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer:
            peer.bind(path)
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            transport, protocol = await loop.create_datagram_endpoint(
                support.DatagramRecorder, sock=sock
            )
            for _ in range(30):
                transport.sendto(bytearray(100), path)
            assert transport.get_write_buffer_size()
            if end == "abort":
                transport.abort()
            elif end == "fatal":
                transport._fatal_error(ValueError())
            else:
                transport.close()
        await protocol.lost
    transport, protocol = await loop.create_datagram_endpoint(
        support.DatagramRecorder, local_addr=("127.0.0.1", 0)
    )
    transport.sendto(b"x")
    await protocol.lost
    sock = socket.socket(type=socket.SOCK_DGRAM)
    task = asyncio.ensure_future(
        loop.create_datagram_endpoint(asyncio.DatagramProtocol, sock=sock)
    )
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    await support.turns()


async def children(state):
    child = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
    await child.communicate(b"x" * 1000)


def loops(loop_factory):
    for _ in range(5):
        loop = loop_factory()
        loop.call_soon(int)
        loop.call_later(1000, int)
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


def runs(loop):
    """Short ones, with much that was scheduled before them."""
    for _ in range(10):
        for _ in range(50):
            loop.call_soon(int)
            loop.call_later(0, int)
        loop.run_until_complete(asyncio.sleep(0))


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measure():
    for _ in range(3):
        gc.collect()
    return {
        "fds": len(support.open_fds()),
        "objects": len(gc.get_objects()),
        "bytes": resident(),
    }


async def work(kind, state, rounds):
    for _ in range(rounds):
        await globals()[kind](state)
    await support.turns(5)


def main(loop_name, kind, rounds):
    loop_factory = support.factory(loop_name)
    rounds = int(rounds)
    state = {}
    loop = loop_factory()

    def run(count):
        if kind == "loops":
            for _ in range(count):
                loops(loop_factory)
        elif kind == "runs":
            for _ in range(count):
                runs(loop)
        else:
            loop.run_until_complete(work(kind, state, count))

    # The first rounds fill caches and free lists.
    run(rounds)
    run(rounds)
    before = measure()
    run(rounds)
    middle = measure()
    run(rounds)
    after = measure()
    if "server" in state:
        state["server"].close()
    support.finish(loop)
    grown = {
        # What leaks grows in both halves.
        name: min(middle[name] - before[name], after[name] - middle[name])
        for name in before
    }
    print(json.dumps(grown))


if __name__ == "__main__":
    main(*sys.argv[1:])
