import asyncio
import contextvars
import gc
import os
import socket
import sys
import threading
import weakref

import pytest
from support import (
    BufferedRecorder,
    DatagramRecorder,
    Recorder,
    client_tls,
    connected,
    drain,
    server_tls,
    spin,
    tcp_pair,
    turns,
    unix_path,
    until,
    wired,
)

variable = contextvars.ContextVar("variable", default="unset")

another = contextvars.ContextVar("another")


@pytest.fixture(autouse=True, params=["no variables", "others set"])
def surroundings(request):
    """What is scheduled without a variable set takes a way of its own."""
    if request.param == "no variables":
        yield
    else:
        token = another.set("other")
        yield
        another.reset(token)


UNIX_DATAGRAMS = socket.AF_UNIX, socket.SOCK_DGRAM


def context_with(value):
    context = contextvars.copy_context()
    context.run(variable.set, value)
    return context


@pytest.mark.parametrize("method", ["call_soon", "call_later", "threadsafe"])
def test_given_context(loop, method):
    seen = []
    schedule = {
        "call_soon": loop.call_soon,
        "call_later": lambda *a, **k: loop.call_later(0, *a, **k),
        "threadsafe": loop.call_soon_threadsafe,
    }[method]

    def note():
        seen.append(variable.get())
        variable.set("changed")

    context = context_with("given")
    schedule(note, context=context)
    schedule(note, context=None)
    spin(loop)
    spin(loop)
    assert seen == ["given", "unset"]
    assert context[variable] == "changed"
    assert variable.get() == "unset"


def test_current_context_is_captured_when_scheduled(loop):
    seen = []

    def main():
        variable.set("main")
        loop.call_soon(lambda: seen.append(variable.get()))
        loop.call_later(0, lambda: seen.append(variable.get()))
        loop.call_soon_threadsafe(lambda: seen.append(variable.get()))
        variable.set("later")

    loop.call_soon(main)
    for _ in range(3):
        spin(loop)
    assert seen == ["main"] * 3


def test_callbacks_do_not_share_a_copied_context(loop):
    seen = []

    def note():
        seen.append(variable.get())
        variable.set("changed")

    loop.call_soon(note)
    loop.call_soon(note)
    spin(loop)
    assert seen == ["unset", "unset"]


def test_not_a_context(loop, errors):
    """asyncio notices when the handle runs."""
    try:
        loop.call_soon(print, context=5)
    except TypeError:
        return
    spin(loop)
    assert len(errors) == 1
    errors.clear()


def test_entered_context_fails_alone(loop, errors):
    """A context that is entered already cannot be entered again; the other
    callbacks of the turn run, and the failure shows."""
    context = context_with("entered")
    seen = []

    def inside():
        loop.call_soon(seen.append, 1, context=context)
        loop.call_soon(seen.append, 2)
        spin(loop)

    failed = False
    try:
        context.run(inside)
    except RuntimeError as exc:
        assert "cannot enter context" in str(exc)
        failed = True
    spin(loop)
    failed = failed or any("callback" in text for text in errors)
    errors.clear()
    assert failed
    assert seen == [2]


async def test_reader_and_writer():
    loop = asyncio.get_running_loop()
    near, far = socket.socketpair()
    with near, far:
        seen = []

        def note(name):
            seen.append((name, variable.get()))
            loop.remove_reader(near)
            loop.remove_writer(near)

        variable.set("registered")
        loop.add_reader(near, note, "reader")
        variable.set("later")
        far.send(b"x")
        await until(lambda: seen)
        variable.set("registered")
        loop.add_writer(near, note, "writer")
        variable.set("later")
        await until(lambda: len(seen) > 1)
    assert seen == [("reader", "registered"), ("writer", "registered")]


async def test_tasks_and_futures():
    loop = asyncio.get_running_loop()
    seen = []
    future = loop.create_future()
    variable.set("outer")
    future.add_done_callback(lambda _: seen.append(variable.get()))

    async def inner():
        seen.append(variable.get())
        variable.set("inner")
        await asyncio.sleep(0)
        seen.append(variable.get())

    await asyncio.create_task(inner())
    future.set_result(None)
    variable.set("changed")
    await turns()
    assert seen == ["outer", "inner", "outer"]


def contextual(base):
    class Contextual(base):
        def note(self, name):
            self.seen.append((name, variable.get()))
            super().note(name)

        def __init__(self):
            super().__init__()
            self.seen = []

    return Contextual


@pytest.mark.parametrize("base", [Recorder, BufferedRecorder])
@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_protocol_callbacks_run_in_the_context_of_creation(
    base, kind, loop_name
):
    pair = tcp_pair() if kind == "tcp" else socket.socketpair()
    variable.set("creation")
    async with wired(contextual(base), pair) as (protocol, peer):
        variable.set("later")
        transport = protocol.transport
        transport.set_write_buffer_limits(0)
        peer.send(b"x")
        await protocol.receive(1)
        fill_until_paused(protocol)
        while "resume" not in protocol.calls:
            drain(peer)
            await turns(1)
        peer.shutdown(socket.SHUT_WR)
        await protocol.lost
    names = {name for name, _ in protocol.seen}
    assert names == {"made", "data", "pause", "resume", "eof", "lost"}
    assert creation_only(protocol, loop_name)


@pytest.mark.parametrize("base", [Recorder, BufferedRecorder])
async def test_tls_protocol_callbacks(base, loop_name):
    variable.set("creation")
    async with connected("tls", contextual(base), Recorder) as (near, far):
        variable.set("later")
        near.transport.set_write_buffer_limits(10_000)
        far.transport.write(b"x")
        await near.receive(1)
        far.transport.pause_reading()
        fill_until_paused(near)
        far.transport.resume_reading()
        while "resume" not in near.calls:
            await turns(1)
        far.transport.close()
        await near.lost
    names = {name for name, _ in near.seen}
    assert names >= {"made", "data", "pause", "resume", "lost"}
    assert creation_only(near, loop_name)


def creation_only(protocol, loop_name):
    # asyncio calls these in the context of whoever wrote.
    apart = {"pause", "resume"} if loop_name == "asyncio" else set()
    values = {value for name, value in protocol.seen if name not in apart}
    return values == {"creation"}


def fill_until_paused(protocol):
    while "pause" not in protocol.calls:
        protocol.transport.write(bytes(1 << 20))


async def test_accepted_protocols():
    """Those run in the context of create_server()."""
    variable.set("server")
    async with connected("tcp", Recorder, contextual(Recorder)) as pair:
        near, far = pair
        variable.set("later")
        near.transport.write(b"x")
        await far.receive(1)
        near.transport.close()
        await far.lost
    assert {value for _, value in far.seen} == {"server"}


async def test_tls_protocols():
    variable.set("creation")
    make = contextual(Recorder)
    async with connected("tls", make, make) as (near, far):
        variable.set("later")
        near.transport.write(b"x")
        await far.receive(1)
        near.transport.close()
        await far.lost
        await near.lost
    assert {value for _, value in near.seen + far.seen} == {"creation"}


def noted(name):
    def method(self, *args):
        self.seen.append((name, variable.get()))
        getattr(DatagramRecorder, name)(self, *args)

    return method


class ContextualDatagrams(DatagramRecorder):
    def __init__(self):
        super().__init__()
        self.seen = []

    connection_made = noted("connection_made")
    datagram_received = noted("datagram_received")
    pause_writing = noted("pause_writing")
    resume_writing = noted("resume_writing")
    error_received = noted("error_received")
    connection_lost = noted("connection_lost")


async def test_datagram_protocols(loop_name):
    loop = asyncio.get_running_loop()
    variable.set("creation")
    with unix_path() as path, socket.socket(*UNIX_DATAGRAMS) as peer:
        peer.bind(path)
        peer.setblocking(False)
        transport, protocol = await loop.create_datagram_endpoint(
            ContextualDatagrams, f"{path}2", path, family=socket.AF_UNIX
        )
        variable.set("sender")
        transport.sendto(bytes(10_000_000))
        await protocol.until(lambda: protocol.errors)
        variable.set("later")
        peer.sendto(b"x", f"{path}2")
        await protocol.until(lambda: protocol.received)
        transport.set_write_buffer_limits(10_000)
        while "pause" not in protocol.calls:
            transport.sendto(bytes(1000))
        while "resume" not in protocol.calls:
            drain(peer)
            await turns(1)
        context_with("closer").run(transport.abort)
        await protocol.lost
    seen = dict(protocol.seen)
    assert len(seen) == 6
    # Called by sendto() itself, as in asyncio.
    assert seen.pop("error_received") == "sender"
    if loop_name == "asyncio":  # those of whoever wrote and closed
        del seen["pause_writing"], seen["resume_writing"]
        del seen["connection_lost"]
    assert set(seen.values()) == {"creation"}


async def test_child_processes(loop_name):
    """Everything a subprocess protocol is told."""
    loop = asyncio.get_running_loop()
    seen = {}

    def noted(name):
        return lambda *args: seen.setdefault(name, variable.get())

    class Protocol(asyncio.SubprocessProtocol):
        pipe_data_received = noted("data")
        pipe_connection_lost = noted("pipe lost")
        pause_writing = noted("pause")
        resume_writing = noted("resume")
        process_exited = noted("exited")

        def connection_made(self, transport):
            seen["made"] = variable.get()

        def connection_lost(self, exc):
            seen["lost"] = variable.get()
            lost.set_result(None)

    lost = loop.create_future()
    variable.set("creation")
    transport, _ = await loop.subprocess_exec(
        Protocol, "sh", "-c", "sleep 0.05; cat >&2; echo x"
    )
    stdin = transport.get_pipe_transport(0)
    context_with("writer").run(stdin.write, bytes(1 << 20))
    variable.set("later")
    await until(lambda: "resume" in seen)
    context_with("closer").run(stdin.close)
    await lost
    transport.close()
    assert len(seen) == 7
    if loop_name == "asyncio":  # those of whoever wrote and closed
        del seen["pause"], seen["resume"], seen["pipe lost"]
        if sys.version_info < (3, 12):  # those of a waiting thread, or not
            del seen["exited"], seen["lost"]
    assert set(seen.values()) == {"creation"}


async def test_pipes(loop_name):
    loop = asyncio.get_running_loop()
    ends = [open(fd, "rb+", 0) for fd in os.pipe()]
    variable.set("creation")
    _, near = await loop.connect_write_pipe(contextual(Recorder), ends[1])
    _, far = await loop.connect_read_pipe(contextual(Recorder), ends[0])
    for value in "writer", "second":
        await until(far.transport.is_reading)
        context_with("reader").run(far.transport.pause_reading)
        near.calls.clear()
        context_with(value).run(near.transport.write, bytes(1 << 20))
        assert "pause" in near.calls
        context_with("reader").run(far.transport.resume_reading)
        await until(lambda: "resume" in near.calls)
    context_with("closer").run(near.transport.close)
    await near.lost
    await far.lost
    seen = set(near.seen + far.seen)
    assert {name for name, _ in seen} == {
        *("made", "data", "eof", "lost", "pause", "resume")
    }
    if loop_name == "pyloop":
        assert {value for _, value in seen} == {"creation"}


async def test_protocol_after_start_tls(loop_name):
    """Its transport is made by start_tls()."""
    loop = asyncio.get_running_loop()
    made = {}
    near_end, far_end = tcp_pair()

    async def secure(name, end, **options):
        variable.set("plain")
        plain, _ = await loop.create_connection(Recorder, sock=end)
        protocol = contextual(Recorder)()
        protocol.made.set_result(None)
        variable.set(name)
        made[name] = protocol
        protocol.transport = await loop.start_tls(plain, protocol, **options)

    await asyncio.gather(
        secure(
            "near",
            near_end,
            sslcontext=client_tls(),
            server_hostname="localhost",
        ),
        secure("far", far_end, sslcontext=server_tls(), server_side=True),
    )
    variable.set("later")
    near, far = made["near"], made["far"]
    near.transport.set_write_buffer_limits(10_000)
    far.transport.pause_reading()
    fill_until_paused(near)
    far.transport.resume_reading()
    await until(lambda: "resume" in near.calls)
    far.transport.write(b"x")
    await near.receive(1)
    far.transport.close()
    await near.lost
    assert {"data", "lost", "pause", "resume"} <= {*near.calls}
    if loop_name == "asyncio":  # those of whoever wrote
        near.seen = [
            pair for pair in near.seen if pair[0] not in ("pause", "resume")
        ]
    assert {value for _, value in near.seen} == {"near"}
    assert ("data", "far") in far.seen


def test_signal_handler(loop):
    import os
    import signal

    seen = []

    def handler():
        seen.append(variable.get())
        loop.stop()

    context_with("added").run(loop.add_signal_handler, signal.SIGUSR1, handler)
    loop.call_soon(os.kill, os.getpid(), signal.SIGUSR1)
    loop.run_forever()
    loop.remove_signal_handler(signal.SIGUSR1)
    assert seen == ["added"]


class Value:
    """A value of a variable, whose life can be watched."""


@pytest.mark.parametrize("method", ["call_soon", "call_later", "threadsafe"])
async def test_callbacks_scheduled_together_do_not_share(method):
    loop = asyncio.get_running_loop()
    schedule = {
        "call_soon": loop.call_soon,
        "call_later": lambda *a: loop.call_later(0, *a),
        "threadsafe": loop.call_soon_threadsafe,
    }[method]
    seen = []

    def change(n):
        seen.append(variable.get())
        if n % 3:
            variable.set(n)
        # what it schedules has what it has set, and nobody else has
        loop.call_soon(lambda: seen.append((n, variable.get())))

    variable.set("main")
    for n in range(7):
        schedule(change, n)
    variable.set("second")
    for n in range(7, 10):
        schedule(change, n)
    await turns(4)
    assert seen[:10] == ["main"] * 7 + ["second"] * 3
    assert sorted(seen[10:]) == [
        (n, n if n % 3 else "main" if n < 7 else "second") for n in range(10)
    ]
    assert variable.get() == "second"


async def test_each_handle_has_a_context_of_its_own():
    loop = asyncio.get_running_loop()
    handles = [loop.call_soon(lambda: None) for _ in range(3)]
    handles += [loop.call_later(9, lambda: None) for _ in range(3)]
    contexts = [handle._context for handle in handles]
    assert len({id(context) for context in contexts}) == 6
    assert [handle._context for handle in handles] == contexts
    for context in contexts:
        context.run(variable.set, "mine")
    assert variable.get() == "unset"
    for handle in handles:
        handle.cancel()


@pytest.mark.parametrize("value", ["unset", "mine"])
def test_the_context_of_what_another_thread_posts(loop, value):
    seen, contexts = [], []

    def note():
        seen.append(variable.get())
        variable.set("ran")

    def post():
        if value != "unset":
            variable.set(value)
        handles = [loop.call_soon_threadsafe(note) for _ in range(3)]
        contexts.extend(handle._context for handle in handles[1:])
        assert handles[1]._context is contexts[0] is not contexts[1]
        assert contexts[0].get(variable, "unset") == value
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=post)
    thread.start()
    thread.join()
    loop.run_forever()
    assert seen == [value] * 3
    assert [context[variable] for context in contexts] == ["ran"] * 2
    assert variable.get() == "unset"


async def test_the_context_shown_is_the_one_it_runs_in():
    loop = asyncio.get_running_loop()
    shown = []

    def first():
        variable.set("ran")

    handle = loop.call_soon(first)
    shown.append(handle._context)
    inside = loop.call_soon(lambda: shown.append(inside._context))
    after = loop.call_soon(lambda: variable.set("too"))
    await turns(2)
    assert shown[0][variable] == "ran"
    assert variable not in shown[1]
    del after
    with pytest.raises(RuntimeError, match="already entered"):
        current = loop.call_soon(lambda: current._context.run(print))
        caught = loop.create_future()
        loop.set_exception_handler(
            lambda loop, context: caught.set_result(context["exception"])
        )
        raise await caught


async def test_a_token_belongs_to_the_callback_that_made_it():
    loop = asyncio.get_running_loop()
    tokens, errors = [], []

    def make():
        tokens.append(variable.set("made"))

    def use():
        try:
            variable.reset(tokens[0])
        except ValueError as exc:
            errors.append("different Context" in str(exc))

    loop.call_soon(make)
    loop.call_soon(use)
    await turns(2)
    assert errors == [True]


async def test_a_variable_that_was_set_and_reset():
    loop = asyncio.get_running_loop()
    seen = []

    def bracket():
        token = variable.set("inside")
        loop.call_soon(lambda: seen.append(variable.get()))
        variable.reset(token)
        loop.call_soon(lambda: seen.append(variable.get()))

    loop.call_soon(bracket)
    loop.call_soon(bracket)
    await turns(3)
    assert seen == ["inside", "unset"] * 2


async def test_a_callback_run_inside_another():
    loop = asyncio.get_running_loop()
    seen = []

    def inner():
        seen.append(variable.get())
        variable.set("inner")

    def outer():
        variable.set("outer")
        other._run()
        seen.append(variable.get())

    variable.set("main")
    loop.call_soon(outer)
    other = loop.call_soon(inner)
    await turns(2)
    assert seen[:2] == ["main", "outer"]


@pytest.mark.parametrize("way", ["scheduled", "set by the callback"])
def test_values_live_no_longer_than_the_next_sleep(loop, way):
    async def main():
        gone = asyncio.Event()

        def watched():
            value = Value()
            weakref.finalize(value, gone.set)
            return value

        def callback():
            if way != "scheduled":
                variable.set(watched())
                loop.call_soon(lambda: None)

        def schedule():
            if way == "scheduled":
                variable.set(watched())
            for _ in range(3):
                loop.call_soon(callback)

        contextvars.copy_context().run(schedule)
        await asyncio.wait_for(gone.wait(), 5)

    loop.run_until_complete(main())


def test_values_do_not_outlive_the_run(loop):
    def schedule():
        value = Value()
        variable.set(value)
        loop.call_soon(loop.stop)
        return weakref.ref(value)

    async def main():
        for _ in range(3):
            refs.append(contextvars.copy_context().run(schedule))

    refs = []
    loop.run_until_complete(main())
    spin(loop)
    assert [ref() for ref in refs] == [None] * 3


@pytest.mark.usefixtures("pyloop_only")
async def test_contexts_are_not_copied_for_nothing():
    loop = asyncio.get_running_loop()
    many = 2000

    def contexts():
        return sum(type(o) is contextvars.Context for o in gc.get_objects())

    before = contexts()
    for _ in range(many):
        loop.call_soon(lambda: None)
    assert contexts() - before < 10
    await turns(2)
    timers = [loop.call_later(9, lambda: None) for _ in range(many)]
    assert contexts() - before < 10
    for timer in timers:
        timer.cancel()


@pytest.mark.parametrize("what", ["schedules", "runs"])
def test_a_value_whose_end_uses_the_loop(loop, what):
    """Letting go of variables runs code that schedules with others."""
    seen = []
    other = context_with("other")

    class Ending:
        def __del__(self):
            handle = other.run(loop.call_soon, lambda: None)
            if what == "runs":
                handle._run()

    def first():
        variable.set("second")
        loop.call_soon(lambda: seen.append(variable.get()))

    def schedule():
        variable.set(Ending())
        loop.call_later(9, print).cancel()

    async def main():
        contextvars.copy_context().run(schedule)
        loop.call_soon(first, context=contextvars.copy_context())
        await turns(4)

    loop.run_until_complete(main())
    assert seen == ["second"]


@pytest.mark.parametrize("way", ["first", "many", "cycle"])
def test_values_are_gone_after_a_sleep(loop, way):
    """Also when a context, or what runs in it, is part of the value."""

    async def sleep():
        # woken from a context that has nothing to do with it
        future = loop.create_future()
        wake = contextvars.Context().run(
            lambda: threading.Timer(
                0.01,
                loop.call_soon_threadsafe,
                (future.set_result, None),
                {"context": contextvars.Context()},
            )
        )
        wake.start()
        await future
        wake.join()

    def schedule():
        value = Value()
        variable.set(value)
        if way == "cycle":
            value.context = contextvars.copy_context()
            loop.call_soon(lambda: None).cancel()
        else:
            loop.call_soon(lambda: None)
            loop.call_soon(lambda: None)
        return weakref.ref(value)

    async def main():
        ref = contextvars.copy_context().run(schedule)
        await asyncio.sleep(0)
        if way != "many":
            loop.call_soon(lambda: None)
        await sleep()
        await sleep()
        gc.collect()
        assert ref() is None

    loop.run_until_complete(main())


@pytest.mark.usefixtures("pyloop_only")
def test_cancelled_by_the_collector_while_it_starts(loop):
    """On 3.11 an allocation may run finalizers."""
    handles, ran, keep = [], [], []

    class Cycle:
        def __del__(self):
            for handle in handles:
                handle.cancel()

    def collect_from_here_on():
        gc.set_threshold(1)
        gc.enable()

    async def main():
        keep.extend(contextvars.Context() for _ in range(1000))
        gc.disable()
        gc.collect()
        cycle = Cycle()
        cycle.cycle = cycle
        del cycle
        loop.call_soon(collect_from_here_on, context=contextvars.Context())
        handles.extend(loop.call_soon(ran.append, i) for i in range(3))
        keep.extend(contextvars.Context() for _ in range(300))
        await asyncio.sleep(0)

    before = gc.get_threshold()
    try:
        loop.run_until_complete(main())
    finally:
        gc.set_threshold(*before)
        gc.enable()
    assert ran == list(range(len(ran)))
