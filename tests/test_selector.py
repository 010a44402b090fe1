"""A selector of the program's, in the place of the core: given to the loop,
put around ours, or by its select() alone; and asyncio's queues."""

import asyncio
import contextlib
import functools
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from unittest import mock

import pytest
from support import DEADLINE, DatagramRecorder

# What asyncio itself may be given.
SELECTORS = [
    selectors.SelectSelector,
    selectors.PollSelector,
    selectors.EpollSelector,
]


@pytest.fixture(params=SELECTORS, ids=lambda kind: kind.__name__)
def own_loop(loop, request):
    """A loop of that kind with a selector of its own."""
    other = type(loop)(request.param())
    yield other
    other.close()


@contextlib.contextmanager
def meanwhile(target):
    thread = threading.Thread(target=target)
    thread.start()
    yield
    thread.join(DEADLINE)
    assert not thread.is_alive()


def within(seconds, awaitable):
    return asyncio.wait_for(awaitable, seconds)


def test_streams(own_loop):
    async def echo(reader, writer):
        while data := await reader.read(1000):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def main():
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        seen = []
        for i in range(20):
            writer.write(b"%d" % i)
            seen.append(int(await reader.read(100)))
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()
        return seen

    assert own_loop.run_until_complete(within(DEADLINE, main())) == list(
        range(20)
    )


def test_datagrams_and_sock_calls(own_loop):
    async def main():
        loop = asyncio.get_running_loop()
        arrived = loop.create_future()
        protocol = DatagramRecorder()
        protocol.datagram_received = lambda data, _: arrived.set_result(data)
        transport, _ = await loop.create_datagram_endpoint(
            lambda: protocol, local_addr=("127.0.0.1", 0)
        )
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            address = transport.get_extra_info("sockname")
            await loop.sock_sendto(sock, b"there", address)
            there = await arrived
            waiting = asyncio.create_task(loop.sock_recv(sock, 100))
            await asyncio.sleep(0)
            transport.sendto(b"back", sock.getsockname())
            back = await waiting
        transport.close()
        await asyncio.sleep(0)
        return there, back

    assert own_loop.run_until_complete(within(DEADLINE, main())) == (
        b"there",
        b"back",
    )


def test_a_sleeping_selector_is_woken(own_loop):
    woken = []

    def call():
        time.sleep(0.02)  # until it sleeps
        own_loop.call_soon_threadsafe(woken.append, 1)
        own_loop.call_soon_threadsafe(own_loop.stop)

    with meanwhile(call):
        own_loop.run_forever()
    assert woken == [1]


def test_timers_are_never_early(own_loop):
    async def main():
        late = []
        for delay in (0, 0.0004, 0.003, 0.011):
            start = time.monotonic()
            await asyncio.sleep(delay)
            late.append(time.monotonic() - start - delay)
        return late

    assert min(own_loop.run_until_complete(main())) >= 0


def test_children_and_names(own_loop):
    async def main():
        loop = asyncio.get_running_loop()
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", "print(6 * 7)", stdout=subprocess.PIPE
        )
        out, _ = await child.communicate()
        found = await loop.getaddrinfo("localhost", 80)
        return out, child.returncode, bool(found)

    assert own_loop.run_until_complete(within(DEADLINE, main())) == (
        b"42\n",
        0,
        True,
    )


def test_ctrl_c_in_a_sleeping_selector(own_loop):
    main = threading.main_thread().ident

    def interrupt():
        time.sleep(0.05)
        signal.pthread_kill(main, signal.SIGINT)

    with meanwhile(interrupt), pytest.raises(KeyboardInterrupt):
        own_loop.run_forever()


class Around:
    """Selects by another selector and notes the timeouts."""

    def __init__(self, inner):
        self.inner = inner
        self.timeouts = []

    def select(self, timeout=None):
        self.timeouts.append(timeout)
        return self.inner.select(timeout)

    def __getattr__(self, name):
        return getattr(self.inner, name)


def test_a_selector_around_ours(loop):
    around = loop._selector = Around(loop._selector)
    a, b = socket.socketpair()
    with a, b:
        a.setblocking(False)

        async def main():
            b.send(b"x")
            await asyncio.sleep(0.01)
            return await loop.sock_recv(a, 10)

        assert loop.run_until_complete(main()) == b"x"
    assert any(t is not None and 0 < t <= 0.01 for t in around.timeouts)
    assert 0 in around.timeouts


@contextlib.contextmanager
def flying(loop, now):
    """Time that is now and passes by the timeouts of select()."""
    real = loop._selector.select

    def select(timeout):
        nonlocal now
        now += timeout
        return real(0)

    with (
        mock.patch.object(loop._selector, "select", new=select),
        mock.patch.object(loop, "time", new=lambda: now),
    ):
        yield


def test_virtual_time(loop):
    """select() and time() replaced, as tests do that let the time fly."""

    async def main():
        loop.call_later(50, seen.append, "50 s")
        await asyncio.sleep(3600)
        return loop.time()

    seen = []
    began = time.monotonic()
    with flying(loop, 0.0):
        assert loop.run_until_complete(main()) == 3600
    assert seen == ["50 s"]
    assert time.monotonic() - began < DEADLINE
    # Both are as before: this waits again.
    began = time.monotonic()
    loop.run_until_complete(asyncio.sleep(0.02))
    assert time.monotonic() - began >= 0.02


def test_the_timeout_that_select_is_given(agree):
    def scenario(loop):
        timeouts = []
        real = loop._selector.select

        def select(timeout):
            timeouts.append(timeout)
            return real(0)

        with (
            mock.patch.object(loop._selector, "select", new=select),
            mock.patch.object(loop, "time", new=lambda: 100.0),
        ):
            loop.call_soon(int)
            loop._run_once()
            gone = loop.call_at(101, int)
            loop.call_at(107, int)
            loop._run_once()
            gone.cancel()
            loop._run_once()
            loop.call_at(99, int)
            loop._run_once()
        return timeouts

    assert agree(scenario) == [0, 1, 7, 0]


def test_virtual_time_is_exact(agree):
    """The timeout is what is missing, to the last bit."""

    def scenario(loop):
        async def main():
            wrong = 0
            for n in range(200):
                due = loop.time() + n * 0.0137
                await asyncio.sleep(n * 0.0137)
                wrong += loop.time() != due
            return wrong

        with flying(loop, 0.1):
            return loop.run_until_complete(main())

    assert agree(scenario) == 0


def test_waiting_in_slices(agree):
    """By who asks again until something is reported, to pump a GUI, say."""

    def scenario(loop):
        real = loop._selector.select

        def select(timeout):
            end = None if timeout is None else time.monotonic() + timeout
            while True:
                events = real(0.001)
                if events or (end is not None and time.monotonic() >= end):
                    return events

        async def main():
            near, far = socket.socketpair()
            with near, far:
                near.setblocking(False)
                loop.call_later(0.01, far.send, b"x")
                return await loop.sock_recv(near, 10)

        with mock.patch.object(loop._selector, "select", new=select):
            return loop.run_until_complete(asyncio.wait_for(main(), DEADLINE))

    assert agree(scenario) == b"x"


@pytest.mark.parametrize("undo", ["delete", "set", "late"])
def test_undoing_a_patch(loop, undo):
    selector = loop._selector
    real = selector.select
    calls = []

    def select(timeout):
        calls.append(timeout)
        return real(timeout)

    selector.select = select
    loop.run_until_complete(asyncio.sleep(0.001))
    assert calls
    calls.clear()
    if undo == "late":
        loop.close()
    if undo == "set":
        selector.select = real
    else:
        del selector.select
    if undo != "late":
        loop.run_until_complete(asyncio.sleep(0.001))
    assert not calls


def test_a_patched_selector_that_is_put_back(agree):
    def scenario(loop):
        selector = loop._selector
        real = selector.select
        calls = []

        def select(timeout):
            calls.append(timeout)
            return real(timeout)

        with mock.patch.object(selector, "select", new=select):
            loop._selector = Around(selector)
            loop._selector = selector
            loop.run_until_complete(asyncio.sleep(0))
        return bool(calls)

    assert agree(scenario)


def test_select_by_another_thread(loop, pyloop_only):
    """It would take the loop's events; asyncio lets it."""
    refused = []

    def call():
        try:
            loop._selector.select(0)
        except RuntimeError as exc:
            refused.append(str(exc))
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=call)
    loop.call_soon(thread.start)
    loop.run_forever()
    thread.join(DEADLINE)
    assert len(refused) == 1 and "Non-thread-safe" in refused[0]


def test_nothing_to_wait_for(agree):
    def scenario(loop):
        timeouts = []

        def select(timeout):
            timeouts.append(timeout)
            loop.stop()
            return []

        with mock.patch.object(loop._selector, "select", new=select):
            loop.run_forever()
        return timeouts

    assert agree(scenario) == [None]


def test_an_error_of_select(agree):
    def scenario(loop):
        fails = mock.Mock(side_effect=OSError(9, "no"))
        with (
            mock.patch.object(loop._selector, "select", new=fails),
            pytest.raises(OSError, match="no"),
        ):
            loop.run_forever()
        return loop.run_until_complete(asyncio.sleep(0, "goes on"))

    assert agree(scenario) == "goes on"


def test_events_that_a_program_reports(agree):
    def scenario(loop):
        seen = []
        event = object()

        def process(events):
            seen.append(events == [event])
            loop.stop()

        with (
            mock.patch.object(loop._selector, "select", new=lambda _: [event]),
            mock.patch.object(loop, "_process_events", new=process),
        ):
            loop.run_forever()
        return seen

    assert agree(scenario) == [True]


def test_a_selector_that_cannot_register(loop, pyloop_only):
    class Refuses(selectors.SelectSelector):
        def register(self, *args, **kwargs):
            raise PermissionError("refused")

    with Refuses() as selector, pytest.raises(PermissionError):
        type(loop)(selector)


def test_handles_of_others(agree):
    """A handle that the loop has not made, where asyncio keeps its own."""

    def scenario(loop):
        seen = []
        soon = asyncio.Handle(seen.append, ("soon",), loop)
        late = asyncio.TimerHandle(loop.time(), seen.append, ("late",), loop)
        never = asyncio.TimerHandle(loop.time(), seen.append, ("no",), loop)
        dropped = asyncio.Handle(seen.append, ("no",), loop)
        loop._ready.append(soon)
        loop._ready.append(dropped)
        loop._scheduled.append(late)
        loop._scheduled.append(never)
        shown = [
            list(loop._ready) == [soon, dropped],
            sorted(map(id, loop._scheduled)) == sorted(map(id, [late, never])),
        ]
        dropped.cancel()
        never.cancel()
        loop.call_later(0.01, loop.stop)
        loop.run_forever()
        return shown, seen

    assert agree(scenario) == ([True, True], ["soon", "late"])


def test_without_a_selector_no_python_runs_in_a_turn(loop, pyloop_only):
    """What is above costs nobody else anything."""
    calls = []
    kind = type(loop)
    with mock.patch.object(
        kind, "_poll_outside", functools.partial(calls.append, 1)
    ):
        loop.run_until_complete(asyncio.sleep(0.001))
    assert calls == []
