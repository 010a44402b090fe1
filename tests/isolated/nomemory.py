"""One allocation after another fails, at each place the loop makes one.

python nomemory.py <scenario> <loop> <how many>

Each run of a scenario is one in which the nth allocation of the interpreter,
counted from within the running loop, finds no memory.  It may raise, be
reported to the exception handler or to sys.unraisablehook; what it may not do
is crash, hang, or end otherwise without a word.  All that is called meanwhile
is C, protocols too: CPython's own evaluation and asyncio's tasks do not
survive everything (3.13).
"""

import _testcapi
import asyncio
import collections
import faulthandler
import functools
import gc
import logging
import os
import socket
import sys
import warnings

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import support  # noqa: E402

PATIENCE = 20


class Log(logging.Handler):
    """What asyncio logs when the exception handler fails."""

    def __init__(self, told):
        super().__init__(logging.ERROR)
        self.told = told

    def emit(self, record):
        self.told.append(record.exc_info[1])


class State:
    """A loop, and whatever complains."""

    def __init__(self, factory, start):
        self.loop = factory()
        self.start = start
        self.told = []
        logging.getLogger("asyncio").handlers[:] = [Log(self.told)]
        self.loop.set_exception_handler(self.handle)
        sys.unraisablehook = self.unraisable
        self.turns(2)

    def handle(self, loop, context):
        self.told.append(context.get("exception") or context["message"])

    def unraisable(self, args):
        self.told.append(args.exc_value or args.exc_type)

    def turns(self, count=5):
        for _ in range(count):
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()

    def run(self, *calls):
        """In the loop and without memory: each of (callable, *arguments)."""
        loop = self.loop
        if self.start is not None:
            loop.call_soon(
                functools.partial(
                    _testcapi.set_nomemory, self.start, self.start + 1
                )
            )
        for call in calls:
            loop.call_soon(*call)
        # run_forever()'s own end is asyncio's business.
        loop.call_later(0.002, _testcapi.remove_mem_hooks)
        loop.call_later(0.002, loop.stop)
        try:
            loop.run_forever()
        except MemoryError as exc:
            self.told.append(exc.with_traceback(None))
        finally:
            _testcapi.remove_mem_hooks()
        self.turns()

    def must(self, truth, what):
        """Or somebody was told why not."""
        assert truth or self.told, f"allocation {self.start}: {what}"


class Calls:
    """A protocol of C callables that note their arguments."""

    def __init__(self):
        # These do not allocate for a while.
        self.made, self.lost = collections.deque(), collections.deque()
        self.received = collections.deque()
        self.eofs, self.flow = [], []
        self.connection_made = self.made.append
        self.connection_lost = self.lost.append
        self.data_received = self.received.append
        self.eof_received = self.eofs.clear
        self.pause_writing = self.resume_writing = self.flow.clear

    def size(self):
        return sum(map(len, self.received))


class BufferedCalls(Calls, asyncio.BufferedProtocol):
    connection_made = connection_lost = eof_received = None
    pause_writing = resume_writing = get_buffer = buffer_updated = None

    def __init__(self):
        super().__init__()
        self.get_buffer = [bytearray(5000)].__getitem__  # the hint is -1
        self.buffer_updated = self.received.append

    def size(self):
        return sum(self.received)


def scheduling(state):
    ran, loop = collections.deque(), state.loop
    state.run(
        (loop.call_soon, ran.append, 1),
        (loop.call_soon_threadsafe, ran.append, 2),
        (loop.call_later, 0, ran.append, 3),
        (loop.call_at, 0, ran.append, 4),
        (loop.call_soon, max, 1, 2, 3, 4, 5),
        *[(loop.call_soon, int)] * 70,
        *[(loop.call_later, 1000, int)] * 20,
    )
    missing = 4 - len({1, 2, 3, 4} & set(ran))
    assert missing <= len(state.told), (state.start, ran, state.told)


def readers(state):
    near, far = socket.socketpair()
    with near, far:
        ran, loop = collections.deque(), state.loop
        state.run(
            (loop.add_reader, near, ran.append, "r"),
            (loop.add_writer, near, ran.append, "w"),
            (loop.add_writer, far, ran.append, "f"),
            (far.send, b"x"),
            (loop.add_writer, near, ran.append, "v"),
        )
        state.must({"r", "v", "f"} <= set(ran), set(ran))
        loop.remove_reader(near)
        loop.remove_writer(near)
        loop.remove_writer(far)


def connected(state, make=Calls):
    pair = socket.socketpair()
    protocols = [make(), make()]
    for sock, protocol in zip(pair, protocols, strict=True):
        sock.setblocking(False)
        state.loop.run_until_complete(
            state.loop.create_connection(lambda p=protocol: p, sock=sock)
        )
    return protocols


def ended(state, *protocols):
    """Each is told of its end, once."""
    for protocol in protocols:
        for transport in protocol.made:
            transport.abort()
    state.turns()
    for protocol in protocols:
        assert len(protocol.made) <= 1
        assert len(protocol.lost) == len(protocol.made), "never lost"


def streams(state, make=Calls):
    near, far = connected(state, make)
    one, two = near.made[0], far.made[0]
    state.run(
        (one.write, b"abc"),
        (one.write, bytearray(b"def")),
        (one.writelines, [b"ghi", b"jkl", bytearray(b"mno"), b"p"] * 3),
        (two.pause_reading,),
        (two.resume_reading,),
        (two.get_extra_info, "peername"),
        (two.write, bytes(1000)),
        (one.set_write_buffer_limits, 10),
        (one.write, bytes(1000)),
    )
    sizes = near.size(), far.size()
    state.must(sizes == (1000, 1036), sizes)
    ended(state, near, far)


def buffered(state):
    streams(state, BufferedCalls)


def closing(state):
    near, far = connected(state)
    one, two = near.made[0], far.made[0]
    state.run((one.write, b"abc"), (one.close,), (two.write_eof,))
    state.must(len(near.lost) == 1 and len(far.lost) == 1, "not lost")
    ended(state, near, far)


def aborting(state):
    near, far = connected(state)
    one = near.made[0]
    state.run((one.write, bytes(3_000_000)), (one.abort,))
    state.must(len(near.lost) == 1 and len(far.lost) == 1, "not lost")
    ended(state, near, far)


def opening(state):
    pair = socket.socketpair()
    protocol = Calls()
    for sock in pair:
        sock.setblocking(False)
    state.run((state.loop._make_stream, pair[0], protocol, None, None, None))
    state.must(len(protocol.made) == 1, "not made")
    ended(state, protocol)
    for sock in pair:
        sock.close()


def accepting(state):
    protocols = [Calls() for _ in range(5)]
    server = state.loop.run_until_complete(
        state.loop.create_server(protocols.copy().pop, "127.0.0.1", 0)
    )
    clients = [socket.socket() for _ in range(3)]
    for client in clients:
        client.setblocking(False)
        client.connect_ex(server.sockets[0].getsockname())
    state.run()
    made = sum(len(protocol.made) for protocol in protocols)
    gone = 0
    for client in clients:
        try:
            gone += client.recv(1) == b""
        except ConnectionResetError:
            gone += 1
        except BlockingIOError:
            pass
    # asyncio says nothing out of debug mode; the client is told.
    assert made + gone >= 3 or state.told, (state.start, made, gone)
    if gone:
        state.told.append(MemoryError("told to the client"))
    ended(state, *protocols)
    for client in clients:
        client.close()
    server.close()
    state.turns()


def datagrams(state):
    protocol = Calls()
    protocol.datagram_received = {}.setdefault
    seen = protocol.datagram_received.__self__
    protocol.error_received = state.told.append
    state.loop.run_until_complete(
        state.loop.create_datagram_endpoint(
            lambda: protocol, local_addr=("127.0.0.1", 0)
        )
    )
    transport = protocol.made[0]
    name = transport.get_extra_info("sockname")
    state.run(
        (transport.sendto, b"1", name),
        (transport.sendto, b"2", name),
        (transport.sendto, bytearray(b"3"), name),
        (transport.sendto, bytes(1000), name),
    )
    if type(transport).__module__.startswith("pyloop"):
        state.must(len(seen) == 4 or protocol.lost, sorted(seen))
    ended(state, protocol)


def names(state):
    loop = state.loop
    future = loop.create_future()
    done = []
    future.add_done_callback(done.append)
    if state.start is not None:
        _testcapi.set_nomemory(state.start, state.start + 1)
    try:
        loop._resolve(future, b"localhost", None, 0, 0, 0, 0)
    except MemoryError as exc:
        state.told.append(exc)
    finally:
        _testcapi.remove_mem_hooks()
    if state.told:
        return
    state.start = state.start if state.start is None else state.start // 2
    while not done and not state.told:
        state.run()
    state.must(done, "the future is forgotten")
    if done and future.exception() is not None:
        state.told.append(future.exception())


def monitoring(state):
    seen, loop = {}, state.loop
    state.run(
        (loop.stats,),
        (loop.set_slow_callback_hook, 0, seen.setdefault),
        (int,),
        (int,),
        (loop.set_slow_callback_hook, 0, None),
    )
    assert loop.get_slow_callback_hook() is None or state.told
    loop.set_slow_callback_hook(0, None)
    state.must(len(seen) >= 2, seen)


def attempt(scenario, factory, start):
    """What was told when the allocation number `start` fails."""
    state = State(factory, start)
    try:
        scenario(state)
        assert state.loop.run_until_complete(asyncio.sleep(0, 5)) == 5
    finally:
        state.loop.close()
    return [exc for exc in state.told if isinstance(exc, MemoryError)]


def main(name, loop_name, count):
    warnings.simplefilter("ignore")
    faulthandler.enable()
    logging.getLogger("asyncio").propagate = False
    scenario, factory = globals()[name], support.factory(loop_name)
    for _ in range(3):
        assert not attempt(scenario, factory, None)
    gc.collect()
    fds = support.open_fds().keys()
    told = 0
    for start in range(int(count)):
        faulthandler.dump_traceback_later(PATIENCE, exit=True)
        try:
            told += bool(attempt(scenario, factory, start))
        except BaseException:
            print(f"allocation {start}:", file=sys.stderr)
            raise
    faulthandler.cancel_dump_traceback_later()
    sys.unraisablehook = sys.__unraisablehook__
    gc.collect()
    leaked = support.open_fds().keys() - fds
    assert not leaked, f"open: {leaked}"
    assert told, "nothing has failed"
    print(f"{name}: {told} of {count} were told")


if __name__ == "__main__":
    main(*sys.argv[1:])
