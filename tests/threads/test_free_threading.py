"""Loops in several threads at once, above all without a GIL."""

import asyncio
import collections
import gc
import socket
import sysconfig
import threading
import time

import pytest
from support import (
    DEADLINE,
    FREE_THREADED,
    connected,
    error,
    finish,
    run_script,
    until,
)

FREE_THREADED_BUILD = sysconfig.get_config_var("Py_GIL_DISABLED")


def in_threads(*targets):
    failures = []

    def guarded(target):
        try:
            target()
        except BaseException as exc:
            failures.append(exc)

    threads = [
        threading.Thread(target=guarded, args=[target]) for target in targets
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
        assert not thread.is_alive()
    if failures:
        raise failures[0]


@pytest.mark.skipif(not FREE_THREADED_BUILD, reason="this build has a GIL")
def test_gil_stays_off(pyloop_only):
    run_script(
        "pyloop",
        """
        import pyloop, warnings
        assert not sys._is_gil_enabled()
        run(asyncio.sleep(0))
        assert not sys._is_gil_enabled()
        """,
    )


def test_a_loop_in_each_thread(loop_factory):
    """Servers, timers and tasks, none of another's."""

    async def main():
        loop = asyncio.get_running_loop()

        async def echo(reader, writer):
            assert asyncio.get_running_loop() is loop
            writer.write(await reader.readline())
            await writer.drain()
            writer.close()
            await writer.wait_closed()

        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        async with server:
            for _ in range(20):
                reader, writer = await asyncio.open_connection(
                    *server.sockets[0].getsockname()
                )
                writer.write(b"hello\n")
                assert await reader.read() == b"hello\n"
                writer.close()
                await writer.wait_closed()
                await asyncio.sleep(0.0001)

    def work():
        loop = loop_factory()
        try:
            loop.run_until_complete(asyncio.wait_for(main(), DEADLINE))
        finally:
            finish(loop)

    in_threads(*[work] * 4)


def test_many_short_lived_loops(loop_factory):
    def work():
        for _ in range(50):
            loop = loop_factory()
            loop.call_soon(int)
            loop.run_until_complete(asyncio.sleep(0))
            loop.close()

    in_threads(*[work] * 4)


def test_all_threads_post_to_all_loops(loop_factory):
    """No lost, doubled or reordered call."""
    count, size = 1000, 3
    loops = [loop_factory() for _ in range(size)]
    seen = [[] for _ in range(size)]
    done = threading.Barrier(size)

    def note(target, source, n):
        seen[target].append((source, n))
        if len(seen[target]) == size * count:
            loops[target].stop()

    def work(source):
        loop = loops[source]

        def produce():
            for n in range(count):
                for target in range(size):
                    loops[target].call_soon_threadsafe(note, target, source, n)

        producer = threading.Thread(target=produce)
        loop.call_soon(producer.start)
        loop.run_forever()
        producer.join(DEADLINE)
        done.wait(DEADLINE)
        loop.close()

    in_threads(*[lambda n=n: work(n) for n in range(size)])
    for calls in seen:
        assert len(calls) == size * count
        for source in range(size):
            numbers = [n for s, n in calls if s == source]
            assert numbers == list(range(count))


def test_coroutines_between_loops(loop_factory):
    loops = [loop_factory() for _ in range(2)]
    started = threading.Barrier(3)

    async def value(n):
        await asyncio.sleep(0)
        return n

    def serve(loop):
        loop.call_soon(started.wait, DEADLINE)
        loop.run_forever()
        finish(loop)

    def call():
        started.wait(DEADLINE)
        try:
            for n in range(200):
                for loop in loops:
                    future = asyncio.run_coroutine_threadsafe(value(n), loop)
                    assert future.result(DEADLINE) == n
        finally:
            for loop in loops:
                loop.call_soon_threadsafe(loop.stop)

    in_threads(*[lambda at=at: serve(at) for at in loops], call)


def test_handles_cancelled_by_other_threads(loop_factory):
    """A cancelled call runs or not, but once at most, and nothing breaks."""
    loop = loop_factory()
    ran = []

    def work():
        for n in range(2000):
            handle = loop.call_soon_threadsafe(ran.append, (id(ran), n))
            if n % 2:
                handle.cancel()
                handle.cancelled()
                repr(handle)

    def produce():
        in_threads(work, work)
        loop.call_soon_threadsafe(loop.stop)

    in_threads(produce, loop.run_forever)
    loop.close()
    assert 2000 <= len(ran) <= 4000


def looked_at(loop, main, look):
    """Run main() while two other threads call look() over and over."""
    running = True

    def work():
        nonlocal running
        try:
            loop.run_until_complete(asyncio.wait_for(main(), DEADLINE))
        finally:
            running = False
            finish(loop)

    def watch():
        while running:
            look()

    in_threads(work, watch, watch)


def test_getters_read_by_other_threads(loop_factory):
    loop = loop_factory()
    peers = []

    async def main():
        server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
        for _ in range(20):
            transport, _ = await loop.create_connection(
                asyncio.Protocol, *server.sockets[0].getsockname()
            )
            peers[:] = [transport]
            transport.write(b"x")
            transport.close()
            await asyncio.sleep(0)
        server.close()

    def look():
        loop.is_running(), loop.is_closed(), loop.time(), repr(loop)
        loop.get_debug()
        for transport in list(peers):
            transport.is_closing()
            transport.get_extra_info("peername")
            transport.get_write_buffer_size()

    looked_at(loop, main, look)


def test_attributes_read_by_other_threads(loop_factory):
    """What the loop's thread replaces meanwhile, and lets go of."""
    loop = loop_factory()
    shown = []

    async def main():
        server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
        endpoint, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
        )
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            transport, _ = await loop.create_connection(
                asyncio.Protocol, *server.sockets[0].getsockname()
            )
            shown[:] = [transport, endpoint]
            for _ in range(200):
                transport.set_protocol(asyncio.Protocol())
                transport._make_empty_waiter()
                transport._reset_empty_waiter()
                endpoint.set_protocol(asyncio.DatagramProtocol())
            transport.abort()
            await asyncio.sleep(0)
        endpoint.abort()
        server.close()

    def look():
        names = ("_protocol", "_sock", "_extra", "_server", "_empty_waiter")
        for transport in list(shown):
            for name in names:
                repr(getattr(transport, name, None))
            repr(transport.get_protocol())

    looked_at(loop, main, look)


def test_threads_schedule_on_a_loop_that_is_about_to_run(loop_factory):
    """Started by one thread and set up by another: nobody's order is lost."""
    size, count = 3, 500
    for _ in range(5):
        loop = loop_factory()
        calls = []
        ready = threading.Barrier(size + 1)

        def schedule(source):
            ready.wait(DEADLINE)
            for n in range(count):
                loop.call_soon(calls.append, (source, n))

        def run():
            ready.wait(DEADLINE)
            loop.run_until_complete(until(lambda: len(calls) == size * count))
            loop.close()

        in_threads(run, *[lambda n=n: schedule(n) for n in range(size)])
        for source in range(size):
            assert [n for s, n in calls if s == source] == list(range(count))


@pytest.mark.parametrize("method", ["call_soon", "call_soon_threadsafe"])
def test_closing_while_others_post(loop_factory, method):
    for _ in range(30):
        loop = loop_factory()
        ready = threading.Barrier(4)
        texts = set()

        def post():
            ready.wait(DEADLINE)
            while True:
                result = error(getattr(loop, method), int)
                if result:
                    texts.add(result)
                    return

        def run():
            ready.wait(DEADLINE)
            loop.run_until_complete(asyncio.sleep(0))
            loop.close()

        in_threads(post, post, post, run)
        assert texts == {(RuntimeError, "Event loop is closed")}


def test_collector_runs_while_loops_run(loop_factory):
    ended = threading.Event()

    def work():
        loop = loop_factory()

        def step(n):
            if n:
                loop.call_soon(step, n - 1)
                loop.call_later(0, int).cancel()
            else:
                loop.stop()

        loop.call_soon(step, 500)
        loop.run_forever()
        loop.close()

    def collect():
        # Without a GIL a collection stops all threads; the loops need the
        # time between two.
        while not ended.wait(0.005):
            gc.collect()

    def both():
        try:
            in_threads(work, work)
        finally:
            ended.set()

    in_threads(both, collect)


def test_endpoints_in_each_thread(loop_factory):
    """Datagrams between the threads; each keeps to its own endpoint."""
    count, size = 100, 3
    names = [None] * size
    ready = threading.Barrier(size)
    done = threading.Barrier(size)

    def work(at):
        class Recorder(asyncio.DatagramProtocol):
            received = 0

            def connection_made(self, transport):
                self.transport = transport

            def datagram_received(self, data, addr):
                assert names[data[0]] == addr
                self.received += 1
                if len(data) == 1:
                    self.transport.sendto(bytes([at, 1]), addr)

        async def main():
            loop = asyncio.get_running_loop()
            transport, protocol = await loop.create_datagram_endpoint(
                Recorder, local_addr=("127.0.0.1", 0)
            )
            names[at] = transport.get_extra_info("sockname")
            ready.wait(DEADLINE)
            for n in range(count):
                transport.sendto(bytes([at]), names[(at + 1) % size])
                while protocol.received < n:
                    await asyncio.sleep(0)
            while protocol.received < 2 * count:
                await asyncio.sleep(0)
            # Who leaves early would leave the others without an answer.
            await asyncio.to_thread(done.wait, DEADLINE)
            transport.close()
            await asyncio.sleep(0)

        loop = loop_factory()
        try:
            loop.run_until_complete(asyncio.wait_for(main(), DEADLINE))
        finally:
            finish(loop)

    in_threads(*[lambda at=at: work(at) for at in range(size)])


def test_an_endpoint_in_the_wrong_thread(pyloop_only, loop_factory):
    """Without a GIL every call that could touch the loop's data is refused;
    with one nothing is promised but that it does not crash."""
    loop = loop_factory()
    ends = []

    async def main():
        transport, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
        )
        address = transport.get_extra_info("sockname")
        stop = loop.create_future()

        def misuse():
            calls = [
                lambda: transport.sendto(b"x", address),
                lambda: transport.pause_reading(),
                lambda: transport.resume_reading(),
                lambda: transport.set_protocol(asyncio.DatagramProtocol()),
                lambda: transport.set_write_buffer_limits(10),
            ]
            for _ in range(200):
                for call in calls:
                    result = error(call)
                    if FREE_THREADED:
                        # (nothing to resume: nothing was paused)
                        assert result is None or result[0] is RuntimeError
                        assert result or call is calls[2]
                repr(transport), transport.is_closing()
                transport.get_write_buffer_size()
                transport.get_extra_info("socket")
                transport.get_protocol()
            ends.append("misuse")
            loop.call_soon_threadsafe(stop.set_result, None)

        thread = threading.Thread(target=misuse)
        thread.start()
        while not stop.done():
            transport.sendto(b"x", address)
            await asyncio.sleep(0)
        thread.join(DEADLINE)
        transport.close()
        await asyncio.sleep(0)

    try:
        loop.run_until_complete(asyncio.wait_for(main(), DEADLINE))
    finally:
        finish(loop)
    assert ends == ["misuse"]


def test_a_stream_in_the_wrong_thread(pyloop_only, loop):
    """As an endpoint; and its loop's readers and writers."""
    seen = {}

    async def main():
        stop = loop.create_future()
        watched, peer = socket.socketpair()
        with watched, peer:
            async with connected() as (near, far):
                transport = near.transport
                calls = {
                    transport.write: [b"x"],
                    transport.writelines: [[b"x", b"y"]],
                    transport.pause_reading: [],
                    transport.set_protocol: [near],
                    transport.set_write_buffer_limits: [10],
                    transport.close: [],
                    transport.abort: [],
                    loop.add_reader: [watched, int],
                    loop.remove_reader: [watched],
                    loop.add_writer: [watched, int],
                    loop.remove_writer: [watched],
                }
                if not FREE_THREADED:
                    del calls[transport.close], calls[transport.abort]

                def misuse():
                    for _ in range(200):
                        for call, args in calls.items():
                            result = error(call, *args)
                            kind = result and result[0]
                            seen.setdefault(call.__name__, set()).add(kind)
                        repr(transport), transport.is_reading()
                        transport.get_write_buffer_size()
                    loop.call_soon_threadsafe(stop.set_result, None)

                thread = threading.Thread(target=misuse)
                thread.start()
                while not stop.done():
                    transport.write(b"y")
                    loop.add_reader(watched, int)
                    loop.remove_reader(watched)
                    await asyncio.sleep(0)
                thread.join(DEADLINE)
                loop.remove_reader(watched)
                loop.remove_writer(watched)

    loop.run_until_complete(asyncio.wait_for(main(), DEADLINE))
    if FREE_THREADED:
        assert all(kinds == {RuntimeError} for kinds in seen.values()), seen


def test_wrong_thread_calls_do_not_crash(loop, pyloop_only):
    """Not promised to work, but never to corrupt memory.

    asyncio's heap is not made for it: run_forever() raises RuntimeError
    where one of these comes between its steps.
    """
    stop = threading.Event()

    def misuse():
        for _ in range(3000):
            for call in (
                lambda: loop.call_soon(int),
                lambda: loop.call_later(0, int),
                lambda: loop.call_later(0, int).cancel(),
            ):
                error(call)
        stop.set()

    def run():
        def check():
            if stop.is_set():
                loop.stop()
            else:
                loop.call_later(0.001, check)

        loop.call_soon(check)
        loop.run_forever()

    in_threads(run, misuse)


def test_timers_from_another_thread(loop):
    """Outside of debug mode they are taken, as call_soon()'s are."""
    fired = []

    def schedule():
        due = loop.time() + 0.002
        loop.call_at(due, lambda: fired.append(loop.time() >= due))
        for _ in range(100):
            loop.call_later(0.001, fired.append, True)
            loop.call_later(0.001, fired.append, False).cancel()
        loop.call_soon_threadsafe(loop.call_later, 0.01, loop.stop)

    in_threads(
        lambda: (loop.call_soon(in_threads, schedule), loop.run_forever())
    )
    assert fired == [True] * 101


def test_handles_run_by_other_threads(loop):
    """Handle._run() is nobody's business but must do no harm."""
    queue = collections.deque()
    stop = threading.Event()
    reported = []
    loop.set_exception_handler(lambda loop, context: reported.append(context))

    def work():
        while not stop.is_set():
            try:
                queue.popleft()._run()
            except IndexError:
                time.sleep(0)

    async def main():
        for _ in range(200):
            for _ in range(50):
                queue.append(loop.call_later(100, int))
                loop.call_soon(int)
            await asyncio.sleep(0)
        while queue:
            await asyncio.sleep(0)
        stop.set()

    in_threads(work, work, lambda: loop.run_until_complete(main()))
    assert not reported
