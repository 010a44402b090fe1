"""Insides of asyncio's loop that other code reaches for, and replaces."""

import asyncio
import logging
import socket
import sys
import threading
from asyncio import base_events, events, futures, tasks

import pytest

import pyloop

# -- a main loop of somebody else's (a GUI's) ----------------------------


def test_a_foreign_main_loop_drives_the_turns(loop):
    if not hasattr(loop, "_run_forever_setup"):
        pytest.skip("asyncio has _run_forever_setup() since 3.13")
    seen = []

    async def count():
        for number in range(3):
            seen.append((number, asyncio.get_running_loop() is loop))
            await asyncio.sleep(0)

    hooks = sys.get_asyncgen_hooks()
    loop._run_forever_setup()
    try:
        assert loop.is_running()
        task = loop.create_task(count())
        turns = 0
        while not task.done():
            loop._run_once()
            turns += 1
    finally:
        loop._run_forever_cleanup()
    assert turns == 4
    assert seen == [(0, True), (1, True), (2, True)]
    assert not loop.is_running()
    assert asyncio._get_running_loop() is None
    assert sys.get_asyncgen_hooks() == hooks


def test_one_turn_of_a_loop_that_does_not_run(loop):
    seen = []
    loop.call_soon(lambda: loop.call_soon(seen.append, "second"))
    loop.call_soon(seen.append, "first")
    loop._run_once()
    assert seen == ["first"]
    loop._run_once()
    assert seen == ["first", "second"]
    assert not loop.is_running()


def test_a_turn_inside_a_turn_is_refused(loop, pyloop_only):
    errors = []

    def nested():
        for again in loop._run_once, loop._run, loop._run_forever_setup:
            with pytest.raises(RuntimeError) as info:
                again()
            errors.append(str(info.value))
        loop.stop()

    loop.call_soon(nested)
    loop.run_forever()
    assert errors == ["This event loop is already running"] * 3


def test_a_failed_start_leaves_the_loop_usable(loop, monkeypatch):
    class Refused(Exception):
        pass

    def refuse(*args):
        raise Refused

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_set_coroutine_origin_tracking", refuse)
        with pytest.raises(Refused):
            loop.run_forever()
        patch.undo()
    if loop.is_running():
        # asyncio itself is left running by that.
        loop._thread_id = None
        assert not isinstance(loop, pyloop.EventLoop)
    assert loop.run_until_complete(asyncio.sleep(0, "fine")) == "fine"


# -- what waits ----------------------------------------------------------


def test_what_waits_is_shown(loop):
    assert not loop._ready and not loop._scheduled
    soon = loop.call_soon(print)
    later = loop.call_later(1000, print)
    assert list(loop._ready) == [soon]
    assert list(loop._scheduled) == [later]
    soon.cancel()
    later.cancel()


def test_a_transport_with_work_to_do_waits_too(loop):
    waiting = []
    left, right = socket.socketpair()
    reader, writer = loop.run_until_complete(
        asyncio.open_connection(sock=left)
    )
    with right:
        right.send(b"x")
        loop.call_soon(lambda: waiting.append(len(loop._ready)))
        loop._run_once()
        assert waiting == [1]
        assert loop.run_until_complete(reader.readexactly(1)) == b"x"
        writer.close()
        loop.run_until_complete(writer.wait_closed())


def test_the_selector_knows_files_and_numbers(loop):
    left, right = socket.socketpair()
    with left, right:
        with pytest.raises(KeyError, match="is not registered"):
            loop._selector.get_key(left)
        loop.add_reader(left, print)
        for name in left, left.fileno():
            key = loop._selector.get_key(name)
            assert (key.fd, key.events) == (left.fileno(), 1)
        loop.remove_reader(left)


# -- what is replaced ----------------------------------------------------


def test_the_class_can_stand_in_asyncio_s_place(monkeypatch):
    monkeypatch.setattr(asyncio, "SelectorEventLoop", pyloop.EventLoop)
    loop = asyncio.SelectorEventLoop()
    assert loop.run_until_complete(asyncio.sleep(0, "ran")) == "ran"
    loop.close()


def test_tasks_and_futures_of_another_class(run, monkeypatch):
    class Task(tasks._PyTask):
        pass

    class Future(futures._PyFuture):
        pass

    async def main():
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(tasks, "Task", Task)
        monkeypatch.setattr(futures, "Future", Future)
        try:
            task = loop.create_task(asyncio.sleep(0, "done"), name="mine")
            future = loop.create_future()
        finally:
            monkeypatch.undo()
        future.cancel()
        return type(task), task.get_name(), await task, type(future)

    assert run(main()) == (Task, "mine", "done", Future)


def test_sockets_wait_while_futures_are_of_another_class(run, monkeypatch):
    async def main():
        loop = asyncio.get_running_loop()
        left, right = socket.socketpair()
        with left, right:
            left.setblocking(False)
            monkeypatch.setattr(futures, "Future", futures._PyFuture)
            try:
                waiting = loop.create_task(loop.sock_recv(left, 10))
                await asyncio.sleep(0)
                right.send(b"late")
                return await waiting
            finally:
                monkeypatch.undo()

    assert run(main()) == b"late"


def test_the_log_of_slow_callbacks(loop, monkeypatch):
    lines = []
    logger = logging.Logger("of-somebody")
    logger.warning = lambda text, *args: lines.append(text % args)
    monkeypatch.setattr(base_events, "logger", logger)
    loop.set_debug(True)
    loop.slow_callback_duration = 0
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert len(lines) == 1
    assert lines[0].startswith("Executing <Handle")


def test_a_program_s_own_getaddrinfo(run, monkeypatch):
    asked = []

    def elsewhere(host, port, *args, **kwargs):
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("::moved", 1))]

    async def main():
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(socket, "getaddrinfo", elsewhere)
        try:
            return [
                await loop.getaddrinfo(host, 1)
                for host in ("localhost", "127.0.0.1")
            ]
        finally:
            monkeypatch.undo()

    answers = run(main())
    assert asked == ["localhost", "127.0.0.1"]
    assert [answer[0][4] for answer in answers] == [("::moved", 1)] * 2


@pytest.mark.parametrize("where", ["class", "instance"])
def test_a_program_s_own_sock_connect(loop, where):
    class Refused(Exception):
        pass

    async def sock_connect(*args):
        raise Refused(args[-1])

    if where == "class":
        loop = type("Own", (type(loop),), {"sock_connect": sock_connect})()
    else:
        loop.sock_connect = sock_connect
    try:
        with pytest.raises(Refused) as info:
            loop.run_until_complete(
                loop.create_connection(asyncio.Protocol, "127.0.0.1", 1)
            )
        assert info.value.args == (("127.0.0.1", 1),)
    finally:
        loop.close()


def test_a_program_s_own_socket_class(run, monkeypatch):
    class Refused(Exception):
        pass

    class Guard(socket.socket):
        def __new__(cls, *args, **kwargs):
            raise Refused

    async def main():
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(socket, "socket", Guard)
        try:
            await loop.create_connection(asyncio.Protocol, "127.0.0.1", 1)
        finally:
            monkeypatch.undo()

    with pytest.raises(Refused):
        run(main())


class Watched(socket.socket):
    """Notes which of its methods are called."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.calls = set()

    def recv(self, *args):
        self.calls.add("recv")
        return super().recv(*args)

    def recv_into(self, *args):
        self.calls.add("recv_into")
        return super().recv_into(*args)

    def send(self, *args):
        self.calls.add("send")
        return super().send(*args)

    def accept(self):
        self.calls.add("accept")
        return super().accept()


def test_overridden_methods_of_a_socket_are_called(agree):
    def scenario(loop):
        async def answer(reader, writer):
            writer.write(await reader.readexactly(5))
            writer.close()

        async def main():
            listener = Watched()
            listener.bind(("127.0.0.1", 0))
            server = await asyncio.start_server(answer, sock=listener)
            sock = Watched()
            sock.connect(listener.getsockname())
            reader, writer = await asyncio.open_connection(sock=sock)
            writer.write(b"hello")
            got = await reader.read()
            writer.close()
            await writer.wait_closed()
            server.close()
            await server.wait_closed()
            return got, sorted(sock.calls), sorted(listener.calls)

        return loop.run_until_complete(main())

    got, called, of_listener = agree(scenario)
    assert got == b"hello"
    assert called == ["recv", "send"]
    assert of_listener == ["accept"]


def test_methods_put_into_a_socket_are_called(run):
    class Open(socket.socket):
        """With a __dict__, which socket.socket has not."""

    async def main():
        left, right = socket.socketpair()
        sent = []

        def send(data):
            sent.append(bytes(data))
            return socket.socket.send(sock, data)

        with right:
            sock = Open(fileno=left.detach())
            sock.send = send
            _, writer = await asyncio.open_connection(sock=sock)
            writer.write(b"x")
            writer.close()
            await writer.wait_closed()
            assert right.recv(9) == b"x"
        assert sent == [b"x"]

    run(main())


class Wrapped:
    """A socket by its methods only."""

    def __init__(self, sock):
        self._sock = sock
        self.calls = set()

    def __getattr__(self, name):
        self.calls.add(name)
        return getattr(self._sock, name)


def test_what_is_no_socket_is_used_by_its_methods(run):
    async def main():
        left, right = socket.socketpair()
        wrapped = Wrapped(left)
        reader, writer = await asyncio.open_connection(sock=wrapped)
        right.send(b"ping")
        assert await reader.readexactly(4) == b"ping"
        writer.write(b"pong")
        await writer.drain()
        right.setblocking(True)
        assert right.recv(10) == b"pong"
        writer.close()
        await writer.wait_closed()
        right.close()
        return {"send", "recv", "close"} - wrapped.calls

    assert run(main()) == set()


# -- handles of call_soon_threadsafe -------------------------------------


@pytest.mark.parametrize("question", ["cancel", "cancelled"])
def test_another_thread_is_answered_when_the_callback_has_ended(
    loop, question
):
    if not hasattr(events, "_ThreadSafeHandle"):
        pytest.skip("asyncio's handles have a lock since 3.14")
    began, asking, ended = (threading.Event() for _ in range(3))
    order = []

    def callback():
        began.set()
        asking.wait()
        # The other thread is about to ask, or has asked and waits.
        for _ in range(1000):
            order.append("running")
        ended.set()

    def ask():
        handle = loop.call_soon_threadsafe(callback)
        began.wait()
        asking.set()
        getattr(handle, question)()
        order.append(ended.is_set())
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=ask)
    thread.start()
    loop.run_forever()
    thread.join()
    assert order[-1] is True


def test_a_callback_may_cancel_its_own_handle(loop):
    def callback():
        handle.cancel()
        seen.append(handle.cancelled())
        loop.stop()

    seen = []
    handle = loop.call_soon_threadsafe(callback)
    loop.run_forever()
    assert seen == [True]


def test_a_cancelled_handle_of_asyncio_s_class_is_not_run(loop):
    ran = []
    for cancel in True, False:
        handle = asyncio.Handle(ran.append, (cancel,), loop)
        if cancel:
            handle.cancel()
        loop._add_callback(handle)
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert ran == [False]
