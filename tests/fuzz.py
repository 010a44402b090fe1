"""Random programs: what must hold whatever is called when.

    python tests/fuzz.py [--minutes N] [--seed S] [--loop pyloop|asyncio]

A program is made of a seed: some connections (TCP, Unix, TLS, against raw
sockets that stall, half-close and reset), datagram endpoints, watched
descriptors, timers, handles and tasks, and then a number of calls on them in
random order, from the outside and from inside of every callback, some of
which raise.  What is checked:

- connection_made() comes first, connection_lost() last, each once;
- pause_writing() and resume_writing() alternate; no data comes after EOF,
  close() or abort(), or while reading is paused;
- what is received is a prefix of what was sent, and all of it after an
  orderly close;
- a callback runs once, in order, never early, never after cancel();
- an exception is reported once, or leaves run_forever() once;
- afterwards no descriptor is open and no object is left.

A failure prints the seed; --seed runs that program again.
"""

import argparse
import asyncio
import contextlib
import faulthandler
import gc
import itertools
import logging
import os
import pathlib
import random
import socket
import sys
import tempfile
import threading
import time
import traceback
import warnings
import weakref

import support
from support import pattern, reset, tcp_pair

DATA = pattern(1 << 20)
STEPS = 60  # a program's, on average
PATIENCE = 20  # seconds: nothing takes that long


class Boom(Exception):
    """Reported to the exception handler."""


class Bang(BaseException):
    """So is this."""


class Leave(SystemExit):
    """Leaves run_forever()."""


class Violated(AssertionError):
    pass


def piece(position, size):
    """The bytes at that place of the endless stream everybody sends."""
    start = position % len(DATA)
    part = DATA[start : start + size]
    while len(part) < size:
        part += DATA[: size - len(part)]
    return part


def difference(position, data):
    """What came there instead of what was sent, in words; None: nothing."""
    expected = piece(position, len(data))
    if data == expected:
        return None
    at = next(i for i in range(len(data)) if data[i] != expected[i])
    return (
        f"other data at {position}+{at} of {len(data)}: it belongs to "
        f"{DATA.find(data[at : at + 32])} (modulo {len(DATA)})"
    )


def usable(transport, lost):
    """asyncio's own transports fail in some methods once they are closed."""
    if transport is None:
        return False
    if not type(transport).__module__.startswith("asyncio."):
        return True
    return not (lost or transport.is_closing())


class World:
    """One program: its loop, its things, and what it has seen."""

    def __init__(self, seed, loop_name, debug=False, verbose=False):
        self.rng = random.Random(seed)
        self.loop = support.factory(loop_name)()
        self.oracle = loop_name == "asyncio"
        if debug:
            self.loop.set_debug(True)
            self.loop.slow_callback_duration = 1000
        if not self.oracle and seed % 2:
            with contextlib.suppress(OSError):
                self.loop.io_uring = True
        self.verbose = verbose
        self.history = []
        self.ends = []
        self.datagrams = []
        self.watches = []
        self.wild = []
        self.tasks = []
        self.servers = []
        self.threads = []
        self.handles = {}
        self.due = []  # numbers of call_soon(), in order
        self.numbers = itertools.count()
        self.raised = []
        self.reported = []
        self.left = []
        self.violations = []
        self.weak = []
        self.acting = True
        self.depth = 0
        self.loop.set_exception_handler(self.report)

    # -- book-keeping

    def note(self, *words):
        self.history.append(words)
        if self.verbose:
            print(f"{time.monotonic():.4f}", *words, flush=True)

    def story(self, thing):
        """The last that happened to it."""
        lines = [
            " ".join(map(str, words))
            for words in self.history
            if words[0] is thing
        ]
        return "\n".join(lines[-30:])

    def check(self, truth, *words, exc=None):
        if not truth:
            stack = traceback.extract_stack(limit=6)[:-1]
            if exc is not None:
                words += (repr(exc),)
                stack = traceback.extract_tb(exc.__traceback__)
            where = "".join(traceback.format_list(stack))
            self.note("VIOLATED", *words)
            story = self.story(words[0])
            text = f"{' '.join(map(str, words))}\n{where}{story}"
            if text not in self.violations:
                self.violations.append(text)

    def watch_over(self, thing, label):
        self.weak.append((weakref.ref(thing), label))
        return thing

    def report(self, loop, context):
        exc = context.get("exception")
        self.note("reported", context["message"], repr(exc))
        self.reported.append((context["message"], exc))
        if exc is None:
            self.check(False, "reported", context["message"])
        if self.chance(0.05):
            self.act()

    def chance(self, probability):
        return self.acting and self.rng.random() < probability

    def maybe_raise(self, where, leave=True):
        """In a callback: act, and perhaps fail."""
        if self.chance(0.15):
            self.act()
        if self.chance(0.01):
            kinds = [Boom, Boom, Bang]
            if leave:
                kinds.append(Leave)
            exc = self.rng.choice(kinds)(where, next(self.numbers))
            self.raised.append(exc)
            self.note("raises", repr(exc))
            raise exc

    # -- doing something

    def act(self):
        if self.depth > 3:
            return
        self.depth += 1
        try:
            kind = self.rng.choices(*ACTS)[0]
            kind(self)
        finally:
            self.depth -= 1

    def pick(self, things):
        return self.rng.choice(things) if things else None

    def step(self, left):
        try:
            for _ in range(self.rng.randrange(1, 6)):
                self.act()
        finally:
            self.next_step(left)

    def next_step(self, left):
        if left <= 0:
            self.acting = False
            self.loop.stop()
            return
        way = self.rng.randrange(10)
        if way < 7:
            self.loop.call_soon(self.step, left - 1)
        elif way < 9:
            self.loop.call_later(self.rng.random() / 500, self.step, left - 1)
        else:
            self.loop.call_soon_threadsafe(self.step, left - 1)

    def run_forever(self):
        """Until stop(); what leaves it is noted."""
        try:
            self.loop.run_forever()
        except (Leave, KeyboardInterrupt) as exc:
            self.note("left", repr(exc))
            self.left.append(exc)

    def until(self, predicate, what):
        """Run until it holds."""
        deadline = time.monotonic() + PATIENCE

        def look():
            if predicate() or time.monotonic() > deadline:
                self.loop.stop()
            else:
                self.loop.call_later(0.001, look)

        while not predicate():
            if time.monotonic() > deadline:
                self.check(False, "never:", what() if callable(what) else what)
                return
            self.loop.call_soon(look)
            self.run_forever()

    def settle(self, rounds=5):
        for _ in range(rounds):
            self.loop.call_soon(self.loop.stop)
            self.run_forever()


# -- connections ------------------------------------------------------------


class End:
    """What one end of a connection did and saw, whichever protocol object
    it has at the moment."""

    def __init__(self, world, kind):
        self.world = world
        self.kind = kind
        self.number = next(world.numbers)
        self.transport = None
        self.protocol = None
        self.peer = None  # the End or the Wild on the other side
        self.made = self.lost = self.eof = False
        self.lost_exc = None
        self.paused = False  # by pause_writing()
        self.reading = True
        self.closed = self.aborted = self.dirty = False
        self.ended = False  # write_eof()
        self.in_get_buffer = self.sending = self.writing = False
        self.sent = 0
        self.received = 0
        world.ends.append(self)
        world.watch_over(self, f"end {self.number}")
        self.switch()

    def switch(self):
        make = self.world.rng.choice([Plain, Buffered])
        self.protocol = make(self)
        self.world.watch_over(self.protocol, f"protocol of {self.number}")
        return self.protocol

    def __repr__(self):
        return f"<{self.kind} {self.number}>"

    def usable(self):
        return self.made and usable(self.transport, self.lost)

    def orderly(self, other):
        """Has it ended so that everything must have arrived?"""
        return (
            self.lost
            and self.lost_exc is None
            and not (self.aborted or self.dirty)
            and self.received == other.sent
        )

    # called by the protocols

    def called(self, protocol, name):
        world = self.world
        world.note(self, name)
        world.check(protocol is self.protocol, self, name, "on a former one")
        world.check(not self.lost, self, name, "after connection_lost")
        world.check(
            self.made != (name == "connection_made"), self, name, "order"
        )

    def connection_made(self, protocol, transport):
        self.called(protocol, "connection_made")
        self.made = True
        self.transport = transport
        self.world.watch_over(transport, f"transport of {self.number}")
        self.world.maybe_raise("connection_made", leave=self.kind != "tls")

    def data(self, protocol, data):
        self.called(protocol, f"data {len(data)}")
        world = self.world
        world.check(len(data) > 0, self, "empty data")
        world.check(not self.eof, self, "data after EOF")
        if self.kind != "tls":
            world.check(
                self.reading or self.in_get_buffer, self, "data while paused"
            )
            world.check(
                not (self.closed or self.aborted) or self.in_get_buffer,
                self,
                "data after close",
            )
        wrong = difference(self.received, data)
        if wrong is not None:
            world.check(False, self, wrong, "from:\n", world.story(self.peer))
        self.received += len(data)
        self.in_get_buffer = False
        self.world.maybe_raise("data_received", leave=self.kind != "tls")

    def eof_received(self, protocol):
        self.called(protocol, "eof_received")
        self.world.check(not self.eof or self.again, self, "EOF twice")
        self.eof = True
        self.again = True  # when this fails
        self.world.maybe_raise("eof_received", leave=self.kind != "tls")
        self.again = False
        return self.kind != "tls" and self.world.chance(0.5)

    again = False  # EOF may be told again: reading was resumed

    def pause_writing(self, protocol):
        self.called(protocol, "pause_writing")
        self.world.check(not self.paused, self, "paused twice")
        self.paused = True
        self.world.maybe_raise("pause_writing", leave=not self.world.oracle)

    def resume_writing(self, protocol):
        self.called(protocol, "resume_writing")
        self.world.check(self.paused, self, "resumed twice")
        self.paused = False
        self.world.maybe_raise("resume_writing", leave=not self.world.oracle)

    def connection_lost(self, protocol, exc):
        self.called(protocol, f"connection_lost {exc!r}")
        self.lost = True
        self.lost_exc = exc
        if exc is None:
            self.world.check(
                self.closed or self.aborted or self.eof or self.kind == "tls",
                self,
                "lost without a reason",
            )
        self.world.maybe_raise("connection_lost")

    # what a program may do to it

    def write(self):
        rng, transport = self.world.rng, self.transport
        # Not inside of itself, by pause_writing(): the pieces would mix.
        if not self.usable() or self.ended or self.writing:
            return
        if transport.is_closing():
            self.dirty = True
        self.writing = True
        size = rng.choice([0, 1, 10, 1000, 65536, 200_000])
        data = piece(self.sent, size)
        # asyncio sends what a buffer holds later, and its writelines()
        # stumbles over an empty piece.
        kind = 0 if self.world.oracle else rng.randrange(6)
        self.world.note(self, "write", size, kind)
        try:
            if kind == 0:
                transport.write(data)
            elif kind == 1:
                data = bytearray(data)
                transport.write(data)
                data[:] = bytes(size)
            elif kind == 2:
                transport.write(memoryview(data))
            elif kind == 3:
                third = size // 3
                transport.writelines(
                    [data[:third], bytearray(data[third:]), b""]
                )
            elif kind == 4:
                transport.writelines(
                    data[at : at + 5000] for at in range(0, size, 5000)
                )
            else:
                for at in range(0, min(size, 300), 7):
                    transport.write(data[at : at + 7])
                transport.write(data[(min(size, 300) + 6) // 7 * 7 :])
        except RuntimeError as exc:
            # sendfile() is under way, or part of it was refused
            self.world.check("sendfile" in str(exc), self, "write:", exc)
            self.dirty = True
            self.ended = True
            return
        except Leave:
            # out of pause_writing(), through the caller, as in asyncio; the
            # data is accepted, the rest of it perhaps not
            self.dirty = self.ended = True
            self.sent += size
            raise
        finally:
            self.writing = False
        self.sent += size

    def write_eof(self):
        if not self.usable() or self.kind == "tls" or self.ended:
            return
        if self.transport.is_closing():
            self.dirty = True
        self.ended = True
        self.world.note(self, "write_eof")
        try:
            self.transport.write_eof()
        except OSError:
            pass  # the peer has reset it, which nobody knows yet
        except RuntimeError as exc:
            self.world.check("sendfile" in str(exc), self, "eof:", exc)
            self.dirty = True

    def bad_call(self):
        if not self.usable() or self.kind == "tls":
            return
        transport, loop = self.transport, self.world.loop
        choice = self.world.rng.randrange(6)
        expected = TypeError
        try:
            if choice == 0:
                transport.write("text")
            elif choice == 1:
                transport.write(None)
            elif choice == 2:
                transport.writelines([b"x", 5])
            elif choice == 3:
                expected = ValueError
                transport.set_write_buffer_limits(high=1, low=2)
            elif choice == 4:
                transport.get_extra_info()
            elif not transport.is_closing():
                expected = RuntimeError
                loop.add_reader(transport.get_extra_info("socket"), int)
            else:
                return
        except expected:
            return
        except RuntimeError as exc:
            if self.ended or "sendfile" in str(exc):
                return
            raise
        # asyncio looks at its arguments only while it is open
        self.world.check(
            transport.is_closing() or self.ended, self, "no error", choice
        )

    def pause_reading(self):
        if not self.usable() or self.sending:
            return
        if not self.transport.is_closing():
            self.world.note(self, "pause_reading")
            self.transport.pause_reading()
            self.reading = False

    def resume_reading(self):
        if self.usable() and not self.sending:
            self.world.note(self, "resume_reading")
            self.again = True
            self.transport.resume_reading()
            self.reading = True

    def limits(self):
        if self.usable():
            high = self.world.rng.choice([0, 1, 100, 65536, 1 << 20])
            self.world.note(self, "limits", high)
            self.transport.set_write_buffer_limits(high)

    def set_protocol(self):
        # A read that is under way goes to whoever is there then; so does what
        # comes during asyncio's fallback for sendfile(), which stands in for
        # the protocol meanwhile and puts it back.
        if (
            self.usable()
            and self.kind != "tls"
            and not self.in_get_buffer
            and not self.sending
        ):
            self.world.note(self, "set_protocol")
            self.transport.set_protocol(self.switch())
            self.world.check(
                self.transport.get_protocol() is self.protocol, "protocol"
            )

    def look(self):
        if not self.usable():
            return
        transport = self.transport
        choice = self.world.rng.randrange(6)
        if choice == 0:
            repr(transport)
        elif choice == 1:
            sock = transport.get_extra_info("socket")
            if sock is not None:  # TLS has none after its end
                sock.fileno()
        elif choice == 2:
            transport.get_extra_info("peername")
            transport.get_extra_info("sockname")
        elif choice == 3:
            size = transport.get_write_buffer_size()
            self.world.check(size >= 0, self, "buffer size", size)
        elif choice == 4:
            transport.is_reading()
            transport.can_write_eof()
            transport.get_write_buffer_limits()
        else:
            self.world.check(
                transport.get_extra_info("nothing", self) is self, "default"
            )

    def close(self):
        if self.transport is not None and self.made:
            self.world.note(self, "close")
            self.closed = True
            self.transport.close()

    def abort(self):
        if self.transport is not None and self.made:
            self.world.note(self, "abort")
            self.aborted = True
            self.transport.abort()

    def sendfile(self):
        if (
            not self.usable()
            or self.world.oracle  # asyncio's leaves things behind
            or self.kind == "tls"
            or self.ended
            or self.writing  # what is still to be written would come first
            or self.transport.is_closing()
        ):
            return
        world, size = self.world, self.world.rng.choice([1, 5000, 300_000])
        world.note(self, "sendfile", size)
        position = self.sent
        self.sent += size
        # Nothing else until we know how much has left; it may be cancelled
        # before it starts.
        was_dirty = self.dirty
        self.ended = self.dirty = True
        # It pauses and resumes reading.
        self.again = self.sending = True

        async def send(self=self):
            try:
                with tempfile.TemporaryFile() as file:
                    file.write(piece(position, size))
                    file.seek(0)
                    await world.loop.sendfile(self.transport, file)
            except (OSError, RuntimeError, asyncio.CancelledError):
                pass
            else:
                self.ended = False
                self.dirty = was_dirty
            finally:
                self.sending = False
                self.again = True

        world.start(send())


class Plain(asyncio.Protocol):
    def __init__(self, end):
        self.end = end

    def connection_made(self, transport):
        self.end.connection_made(self, transport)

    def data_received(self, data):
        self.end.data(self, data)

    def eof_received(self):
        return self.end.eof_received(self)

    def pause_writing(self):
        self.end.pause_writing(self)

    def resume_writing(self):
        self.end.resume_writing(self)

    def connection_lost(self, exc):
        self.end.connection_lost(self, exc)


class Buffered(Plain, asyncio.BufferedProtocol):
    def __init__(self, end):
        super().__init__(end)
        self.buffer = None

    def get_buffer(self, sizehint):
        self.end.called(self, "get_buffer")
        # What happens here does not stop the read that is under way.
        self.end.in_get_buffer = True
        self.end.world.maybe_raise("get_buffer", self.end.kind != "tls")
        size = self.end.world.rng.choice([1, 100, 5000, 100_000])
        self.buffer = bytearray(size)
        return memoryview(self.buffer)  # asyncio's TLS needs a view

    def buffer_updated(self, nbytes):
        data, self.buffer = bytes(self.buffer[:nbytes]), None
        self.end.data(self, data)


class Wild:
    """A raw socket at the other side of a connection."""

    def __init__(self, world, sock):
        self.world = world
        self.sock = sock
        self.peer = None
        self.sent = 0
        self.received = 0
        self.eof = False
        self.shut = self.gone = self.rude = False
        world.wild.append(self)

    def act(self):
        choice = self.world.rng.randrange(20)
        sock = self.sock
        if self.gone:
            return
        self.world.note(self.peer, "wild", choice, self.received, self.rude)
        try:
            if choice < 7 and not self.shut:
                size = self.world.rng.choice([1, 1000, 50_000, 500_000])
                self.sent += sock.send(piece(self.sent, size))
            elif choice < 14:
                data = sock.recv(self.world.rng.choice([1, 1000, 1 << 20]))
                self.take(data)
            elif choice == 14:
                sock.shutdown(socket.SHUT_WR)
                self.shut = True
            elif choice == 15:
                self.rude = True
                sock.shutdown(socket.SHUT_RD)
            elif choice == 16 and self.world.rng.random() < 0.3:
                self.gone = self.rude = True
                if sock.family == socket.AF_INET:
                    reset(sock)
                sock.close()
            elif choice == 17 and self.world.rng.random() < 0.3:
                self.gone = self.rude = True
                sock.close()
        except BlockingIOError:
            pass
        except OSError:
            self.rude = True

    def take(self, data):
        self.world.note(self.peer, "wild takes", len(data))
        if not data:
            self.eof = True
        wrong = difference(self.received, data)
        self.world.check(wrong is None, "wild", wrong)
        self.received += len(data)

    def finish(self):
        if self.gone:
            return
        try:
            while not self.eof:
                self.take(self.sock.recv(1 << 20))
        except OSError:
            self.rude = self.rude or not self.eof
        self.sock.close()
        self.gone = True


def small_buffers(rng, pair):
    for sock in pair:
        sock.setblocking(False)
        if rng.random() < 0.5:
            size = rng.choice([2048, 20_000])
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
    return pair


def make_pair(world):
    """Two transports on one connection."""
    kind = world.rng.choice(["tcp", "unix"])
    pair = tcp_pair() if kind == "tcp" else socket.socketpair()
    ends = [End(world, kind), End(world, kind)]
    ends[0].peer, ends[1].peer = ends[1], ends[0]
    for end, sock in zip(ends, small_buffers(world.rng, pair), strict=True):
        world.start(adopt(world, end, sock))


async def adopt(world, end, sock):
    """A cancelled or failed one closes the socket."""
    try:
        await world.loop.create_connection(lambda: end.protocol, sock=sock)
    except asyncio.CancelledError:
        end.closed = True
        if not end.made:
            end.made = end.lost = True
            sock.close()
        raise


def make_wild(world):
    kind = world.rng.choice(["tcp", "unix"])
    pair = tcp_pair() if kind == "tcp" else socket.socketpair()
    near, far = small_buffers(world.rng, pair)
    end, wild = End(world, kind), Wild(world, far)
    end.peer, wild.peer = wild, end
    world.start(adopt(world, end, near))


def make_server(world):
    """A server that takes what connects; sometimes it closes early."""
    tls = world.rng.random() < 0.2 and not world.servers

    async def serve():
        def accept():
            end = End(world, "tls" if tls else "tcp")
            return end.protocol

        server = await world.loop.create_server(
            accept,
            "127.0.0.1",
            0,
            ssl=support.server_tls() if tls else None,
        )
        world.servers.append(server)
        address = server.sockets[0].getsockname()
        for _ in range(world.rng.randrange(1, 4)):
            world.start(connect(world, address, tls))

    world.start(serve())


async def connect(world, address, tls):
    ends = []

    def make():
        ends.append(End(world, "tls" if tls else "tcp"))
        return ends[0].protocol

    options = {"ssl": support.client_tls(), "server_hostname": "localhost"}
    try:
        await world.loop.create_connection(
            make, *address, **(options if tls else {})
        )
    except OSError:
        pass
    except asyncio.CancelledError:
        for end in ends:
            end.closed = True
        raise


def server_act(world):
    server = world.pick(world.servers)
    if server is not None and world.chance(0.1):
        world.note("server.close")
        server.close()


def end_act(world):
    if end := world.pick(world.ends):
        rng = world.rng
        rng.choices(
            [
                end.write,
                end.pause_reading,
                end.resume_reading,
                end.limits,
                end.set_protocol,
                end.look,
                end.bad_call,
                end.write_eof,
                end.close,
                end.abort,
                end.sendfile,
            ],
            [24, 6, 9, 5, 4, 6, 2, 1, 2, 1, 1],
        )[0]()


def wild_act(world):
    if wild := world.pick(world.wild):
        wild.act()


# -- datagrams --------------------------------------------------------------


class Datagrams(asyncio.DatagramProtocol):
    def __init__(self, world, kind):
        self.world = world
        self.kind = kind
        self.transport = None
        self.made = self.lost = self.paused = self.closed = False
        self.received = set()
        world.datagrams.append(self)
        world.watch_over(self, "datagrams")

    def called(self, name):
        world = self.world
        world.note("datagrams", name)
        world.check(not self.lost, "datagrams", name, "after the end")
        world.check(self.made != (name == "connection_made"), name, "order")

    def connection_made(self, transport):
        self.called("connection_made")
        self.made = True
        self.transport = transport
        self.world.watch_over(transport, "datagram transport")
        self.world.maybe_raise("datagram made")

    def datagram_received(self, data, addr):
        self.called("datagram_received")
        self.world.check(not self.closed, "datagram after close")
        number, _, rest = data.partition(b":")
        self.world.check(number not in self.received, "doubled", number)
        self.world.check(
            rest == piece(int(number), len(rest)), "datagram", number
        )
        self.received.add(number)
        self.world.maybe_raise("datagram_received")

    def error_received(self, exc):
        self.called(f"error_received {exc!r}")
        self.world.check(isinstance(exc, OSError), "error", exc)
        self.world.maybe_raise("error_received")

    def pause_writing(self):
        self.called("pause_writing")
        self.world.check(not self.paused, "datagrams", "paused twice")
        self.paused = True

    def resume_writing(self):
        self.called("resume_writing")
        self.world.check(self.paused, "datagrams", "resumed twice")
        self.paused = False

    def connection_lost(self, exc):
        self.called(f"connection_lost {exc!r}")
        self.lost = True
        self.world.maybe_raise("datagrams lost")

    def act(self):
        transport, rng = self.transport, self.world.rng
        if not usable(transport, self.lost):
            return
        choice = rng.randrange(20)
        if choice < 15:
            others = [
                other
                for other in self.world.datagrams
                if other.transport is not None and other.kind == "free"
            ]
            number = next(self.world.numbers)
            size = rng.choice([0, 1, 100, 1400, 60_000])
            data = b"%d:" % number + piece(number, size)
            address = None
            if self.kind == "free":
                if not others:
                    return
                other = rng.choice(others)
                address = other.transport.get_extra_info("sockname")
            for _ in range(rng.choice([1, 1, 30])):
                number = next(self.world.numbers)
                data = b"%d:" % number + piece(number, size)
                transport.sendto(data, address)
        elif choice == 15:
            repr(transport)
            transport.get_write_buffer_size()
        elif choice == 16 and rng.random() < 0.5:
            self.closed = True
            transport.close()
        elif choice == 17 and rng.random() < 0.3:
            self.closed = True
            transport.abort()
        elif choice == 18:
            transport.set_write_buffer_limits(rng.choice([0, 1000, 1 << 20]))


def make_datagrams(world):
    kind = world.rng.choice(["free", "free", "connected"])
    options = {"local_addr": ("127.0.0.1", 0)}
    if kind == "connected":
        others = [
            other
            for other in world.datagrams
            if other.transport is not None and not other.lost
        ]
        if not others:
            return
        address = world.rng.choice(others).transport.get_extra_info("sockname")
        options["remote_addr"] = address

    async def make():
        made = []

        def factory():
            made.append(Datagrams(world, kind))
            return made[0]

        try:
            await world.loop.create_datagram_endpoint(factory, **options)
        except asyncio.CancelledError:
            for one in made:
                one.closed = True
            raise

    world.start(make())


def datagram_act(world):
    if one := world.pick(world.datagrams):
        one.act()


# -- the loop's own methods -------------------------------------------------


def callback(world, number, when):
    world.check(number in world.handles, "ran again or after cancel", number)
    world.handles.pop(number, None)
    if when is None:
        world.check(world.due and world.due[0] == number, "order", number)
        if number in world.due:
            world.due.remove(number)
    else:
        world.check(world.loop.time() >= when, "early by", when)
    world.maybe_raise("callback")


def schedule(world):
    loop, number, rng = world.loop, next(world.numbers), world.rng
    kind = rng.randrange(4)
    if kind < 2:
        method = [loop.call_soon, loop.call_soon_threadsafe][kind]
        world.due.append(number)
        handle = method(callback, world, number, None)
    else:
        delay = rng.choice([0, -1, 1e-6, 0.001, 0.003, 3600])
        when = loop.time() + delay
        handle = loop.call_at(when, callback, world, number, when)
    world.handles[number] = handle
    world.watch_over(handle, f"handle {number}")


def cancel(world):
    if world.handles:
        number = world.rng.choice(list(world.handles))
        handle = world.handles.pop(number)
        if number in world.due:
            world.due.remove(number)
        handle.cancel()
        world.check(handle.cancelled(), "cancelled")
        if world.chance(0.2):
            handle.cancel()
            repr(handle)


def stop(world):
    world.loop.stop()


def collect(world):
    gc.collect(world.rng.randrange(2))


def interrupt(world):
    if world.chance(0.3):
        exc = Leave("callback", next(world.numbers))
        world.raised.append(exc)

        def fail():
            raise exc

        world.loop.call_soon(fail)


class Watch:
    """A socket pair with callbacks of add_reader() and add_writer()."""

    def __init__(self, world):
        self.world = world
        self.pair = socket.socketpair()
        for sock in self.pair:
            sock.setblocking(False)
        self.keys = {}
        world.watches.append(self)

    def ready(self, end, side, key):
        world = self.world
        world.check(self.keys.get((end, side)) == key, "removed one ran")
        if side == "reader":
            with contextlib.suppress(BlockingIOError):
                self.pair[end].recv(world.rng.choice([1, 1000]))
        elif world.rng.random() < 0.7:
            self.remove(end, side)
        world.maybe_raise("watch")

    def add(self, end, side):
        key = next(self.world.numbers)
        self.keys[end, side] = key
        sock = self.pair[end]
        self.world.note("add", sock.fileno(), side)
        getattr(self.world.loop, f"add_{side}")(
            self.world.rng.choice([sock, sock.fileno()]),
            self.ready,
            end,
            side,
            key,
        )

    def remove(self, end, side):
        known = self.keys.pop((end, side), None)
        self.world.note("remove", self.pair[end].fileno(), side)
        removed = getattr(self.world.loop, f"remove_{side}")(self.pair[end])
        self.world.check(removed == (known is not None), "remove", side)

    def act(self):
        if self.pair is None:
            return
        rng = self.world.rng
        end, side = rng.randrange(2), rng.choice(["reader", "writer"])
        choice = rng.randrange(12)
        if choice < 4:
            self.add(end, side)
        elif choice < 7:
            self.remove(end, side)
        elif choice < 10:
            with contextlib.suppress(OSError):
                self.pair[end].send(bytes(rng.choice([1, 3000])))
        elif choice == 10 and rng.random() < 0.3:
            self.close()

    def close(self):
        """Half the time the loop is not told until it is too late."""
        pair, self.pair = self.pair, None
        if pair is None:
            return
        fds = [sock.fileno() for sock in pair]
        self.world.note("close", fds, self.keys)
        first = self.world.rng.random() < 0.5
        if first:
            for sock in pair:
                sock.close()
        for end, side in list(self.keys):
            self.keys.pop((end, side))
            getattr(self.world.loop, f"remove_{side}")(fds[end])
        for sock in pair:
            sock.close()


def make_watch(world):
    Watch(world)


def watch_act(world):
    if watch := world.pick(world.watches):
        watch.act()


def start(world, coro):
    task = world.loop.create_task(coro)
    world.tasks.append(task)
    world.watch_over(task, "task")


World.start = start


def make_task(world):
    """Sleeps, waits with a deadline, and socket calls that are cancelled."""
    rng, loop = world.rng, world.loop

    async def sleep():
        await asyncio.sleep(rng.choice([0, 0.001, 0.01]))
        world.maybe_raise("task", leave=not world.oracle)

    async def deadline():
        try:
            async with asyncio.timeout(0.002):
                await asyncio.sleep(10)
        except TimeoutError:
            pass

    async def sockets():
        near, far = socket.socketpair()
        with near, far:
            near.setblocking(False)
            far.setblocking(False)
            sending = loop.create_task(loop.sock_sendall(near, DATA[:500_000]))
            try:
                total = 0
                while total < 500_000:
                    data = await loop.sock_recv(far, 100_000)
                    wrong = difference(total, data)
                    world.check(wrong is None, "sock_recv", wrong)
                    total += len(data)
            finally:
                sending.cancel()
                await asyncio.wait([sending])

    world.start(rng.choice([sleep, deadline, sockets])())


def cancel_task(world):
    if task := world.pick(world.tasks):
        world.note("cancel", task)
        task.cancel()


def make_thread(world):
    """A thread that hands over numbers; they must come in order, once."""
    if len(world.threads) >= 2:
        return
    seen, count = [], world.rng.choice([1, 100, 2000])

    def post():
        for number in range(count):
            world.loop.call_soon_threadsafe(seen.append, number)

    thread = threading.Thread(target=post)
    world.threads.append((thread, seen, count))
    thread.start()


WEIGHTS = {
    end_act: 40,
    wild_act: 18,
    datagram_act: 6,
    watch_act: 8,
    schedule: 8,
    cancel: 3,
    cancel_task: 0.3,
    make_pair: 0.7,
    make_wild: 0.7,
    make_server: 0.4,
    make_datagrams: 0.6,
    make_watch: 0.6,
    make_task: 0.8,
    make_thread: 0.1,
    server_act: 0.5,
    collect: 0.3,
    stop: 0.3,
    interrupt: 0.2,
}
ACTS = list(WEIGHTS), list(WEIGHTS.values())


# -- the end ----------------------------------------------------------------


def wind_up(world):
    """Everything comes to its end, orderly or not; then what must hold."""
    rng = world.rng
    world.acting = False
    world.until(lambda: all(not t.is_alive() for t, *_ in world.threads), 1)
    for thread, _, _ in world.threads:
        thread.join()
    # While what is closed is flushed the others go on reading.
    for end in world.ends:
        if end.transport is not None and not end.transport.is_closing():
            end.resume_reading()
            if rng.random() < 0.6:
                end.close()
            elif rng.random() < 0.5:
                end.abort()
    for _ in range(10):
        world.settle(2)
        for wild in world.wild:
            if not wild.gone:
                with contextlib.suppress(OSError):
                    wild.take(wild.sock.recv(1 << 20))
    for wild in world.wild:
        wild.finish()
    world.settle()
    for watch in world.watches:
        watch.close()
    for one in world.datagrams:
        if one.transport is not None and not one.lost:
            one.closed = True
            one.transport.abort()
    for task in world.tasks:
        task.cancel()
    world.until(lambda: all(task.done() for task in world.tasks), "tasks")
    for end in world.ends:
        if end.transport is not None and not end.lost:
            if end.kind != "tls" and end.transport.is_closing():
                # The EOF may have come in the last turn above.
                world.until(
                    lambda end=end: (
                        end.lost or end.transport.get_write_buffer_size() > 0
                    ),
                    f"{end} closed, sent and never lost",
                )
            end.abort()
    for server in world.servers:
        server.close()
    for number in list(world.handles):
        if number not in world.due:
            world.handles.pop(number).cancel()

    def not_lost():
        return [
            (one, one.transport)
            for one in world.ends + world.datagrams
            if one.made and not one.lost
        ]

    world.until(lambda: not not_lost(), not_lost)
    world.settle()
    world.loop.run_until_complete(world.loop.shutdown_asyncgens())
    world.loop.run_until_complete(world.loop.shutdown_default_executor())
    world.check(not world.handles, "never ran:", list(world.handles))


def judge(world):
    check = world.check
    for end in world.ends:
        peer = end.peer
        if peer is None:
            continue
        check(
            end.received <= peer.sent,
            end,
            f"received {end.received} of {peer.sent}",
        )
        # The kernel resets what is closed with input unread, and drops what
        # it had to send.
        if isinstance(peer, End):
            if end.eof and not end.dirty and peer.orderly(end):
                check(
                    end.received == peer.sent,
                    end,
                    f"EOF after {end.received} of {peer.sent}",
                )
        elif peer.eof and not peer.rude and end.orderly(peer):
            check(
                peer.received == end.sent,
                end,
                f"raw peer: EOF after {peer.received} of {end.sent}",
            )
    for _, seen, count in world.threads:
        check(seen == list(range(count)), "hand-offs", len(seen), count)
    for task in world.tasks:
        if not task.cancelled() and task.exception() is not None:
            exc = task.exception()
            if isinstance(exc, Boom | Bang):
                world.reported.append(("task", exc))
            elif not isinstance(exc, OSError | Leave):
                check(False, "task failed:", exc=exc)
    told = {id(exc): 0 for exc in world.raised}
    for message, exc in world.reported:
        if id(exc) in told:
            told[id(exc)] += 1
        else:
            check(known_report(world, exc), message, exc=exc)
    for exc in world.left:
        if id(exc) in told:
            told[id(exc)] += 1
    tls = any(end.kind == "tls" for end in world.ends)
    for exc in world.raised:
        times = told[id(exc)]
        check(times == 1 or (tls and times > 1), f"told {times}×:", repr(exc))


def known_report(world, exc):
    """What asyncio's own TLS says of a peer or a server that is gone."""
    return any(end.kind == "tls" for end in world.ends) and isinstance(
        exc, OSError | RuntimeError | AssertionError | Boom | Bang
    )


class Log(logging.Handler):
    def __init__(self):
        super().__init__(logging.ERROR)
        self.texts = []

    def emit(self, record):
        self.texts.append(record.getMessage())


def program(seed, loop_name="pyloop", verbose=False):
    """Run one program; the list of what did not hold."""
    log = Log()
    logging.getLogger("asyncio").addHandler(log)
    unraisable = []
    hook, sys.unraisablehook = sys.unraisablehook, unraisable.append
    before = support.open_fds()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            # asyncio's own words on what a cancelled task leaves behind
            warnings.simplefilter("ignore", ResourceWarning)
            violations, weak = body(seed, loop_name, verbose)
            for _ in range(3):
                gc.collect()
    finally:
        sys.unraisablehook = hook
        logging.getLogger("asyncio").removeHandler(log)
    alive = [label for ref, label in weak if ref() is not None]
    if alive:
        violations.append(f"not collected: {alive[:10]} ({len(alive)})")
    after = support.open_fds()
    leaked = {fd: after[fd] for fd in after.keys() - before.keys()}
    if leaked:
        violations.append(f"open: {leaked}")
    violations += [f"unraisable: {one.exc_value!r}" for one in unraisable]
    violations += [f"logged: {text}" for text in log.texts]
    return violations


def body(seed, loop_name, verbose):
    rng = random.Random(seed)
    world = World(seed, loop_name, rng.random() < 0.1, verbose)
    try:
        for _ in range(rng.randrange(1, 5)):
            rng.choice([make_pair, make_wild, make_server])(world)
        steps = rng.choice([STEPS // 3, STEPS, STEPS * 2])
        world.loop.call_soon(world.step, steps)
        while world.acting:
            world.run_forever()
            if rng.random() < 0.2:
                try:
                    world.act()  # the loop does not run
                except (Leave, Boom, Bang) as exc:
                    # Out of error_received(), say, through sendto().
                    world.left.append(exc)
        wind_up(world)
    finally:
        world.acting = False
        world.loop.close()
    judge(world)
    return world.violations, [
        *world.weak,
        (weakref.ref(world.loop), "the loop"),
    ]


def rounds(loop_name, seeds, seconds=None, verbose=False):
    """(programs run, [(seed, violations)])."""
    failures, count = [], 0
    deadline = None if seconds is None else time.monotonic() + seconds
    for seed in seeds:
        if deadline is not None and time.monotonic() > deadline:
            break
        violations = program(seed, loop_name, verbose)
        count += 1
        if violations:
            failures.append((seed, violations))
    return count, failures


def main():
    parser = argparse.ArgumentParser(
        description="Run random programs; see the file."
    )
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--seed", type=int, help="run this one program")
    parser.add_argument("--first", type=int, help="the first of the seeds")
    parser.add_argument("--loop", default="pyloop")
    parser.add_argument("--verbose", action="store_true")
    args = parser.parse_args()
    faulthandler.enable()
    if args.seed is not None:
        violations = program(args.seed, args.loop, args.verbose)
        print(*violations, f"seed {args.seed}: {len(violations)}", sep="\n")
        return 1 if violations else 0
    first = args.first
    if first is None:
        first = random.SystemRandom().randrange(1 << 30)
    print(f"fuzz: seeds from {first} on {args.loop}", flush=True)
    end = time.monotonic() + args.minutes * 60
    failed = count = 0
    said = time.monotonic()
    for seed in itertools.count(first):
        if time.monotonic() > end:
            break
        # Where it hung, and in which program.
        faulthandler.dump_traceback_later(120, exit=True)
        current.write_text(f"{seed}\n")
        violations = program(seed, args.loop)
        count += 1
        if violations:
            failed += 1
            print(f"seed {seed}:", *violations, sep="\n", flush=True)
        if time.monotonic() - said > 10:
            said = time.monotonic()
            print(f"fuzz: {count} programs, {failed} failed", flush=True)
    faulthandler.cancel_dump_traceback_later()
    print(f"fuzz: {count} programs from seed {first}, {failed} failed")
    return 1 if failed else 0


# A crash leaves its seed here.
current = pathlib.Path(tempfile.gettempdir()) / f"pyloop-fuzz-{os.getpid()}"

if __name__ == "__main__":
    try:
        status = main()
    finally:
        current.unlink(missing_ok=True)
    sys.exit(status)
