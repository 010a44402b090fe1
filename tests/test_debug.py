import asyncio
import gc
import logging
import re
import socket
import subprocess
import sys
import time

import pytest
from support import (
    FREE_THREADED,
    Recorder,
    child_env,
    error,
    finish,
    handler_calls,
    run_script,
    script,
    shut,
    spin,
    turns,
    wired,
)


@pytest.fixture
def debug(loop):
    loop.set_debug(True)
    return loop


@pytest.fixture
def log():
    """What asyncio logs from WARNING up."""
    records = []

    class Handler(logging.Handler):
        def emit(self, record):
            records.append(record.getMessage())

    handler = Handler(logging.WARNING)
    logger = logging.getLogger("asyncio")
    logger.addHandler(handler)
    yield records
    logger.removeHandler(handler)


def test_switch(loop):
    assert loop.get_debug() is False
    loop.set_debug(True)
    assert loop.get_debug() is True
    loop.set_debug(False)
    assert loop.get_debug() is False


def test_environment_is_read_when_a_loop_is_made(loop_factory, monkeypatch):
    def debug():
        loop = loop_factory()
        loop.close()
        return loop.get_debug()

    assert debug() is sys.flags.dev_mode
    monkeypatch.setenv("PYTHONASYNCIODEBUG", "1")
    assert debug() is True
    monkeypatch.setenv("PYTHONASYNCIODEBUG", "")
    assert debug() is sys.flags.dev_mode
    monkeypatch.setattr("asyncio.coroutines._is_debug_mode", lambda: True)
    assert debug() is True


@pytest.mark.parametrize(
    "options, expected",
    [
        ({"PYTHONASYNCIODEBUG": "1"}, True),
        ({"PYTHONASYNCIODEBUG": ""}, False),
        ({"PYTHONDEVMODE": "1"}, True),
        ({}, False),
    ],
)
def test_environment(loop_name, options, expected):
    done = run_script(
        loop_name,
        """
        loop = new_event_loop()
        say(loop.get_debug())
        loop.close()
        """,
        **options,
    )
    assert done.stdout == f"{expected}\n"


def slow():
    time.sleep(0.02)


def naming(word, log):
    """What was logged of it; a busy machine makes anything slow."""
    return [text for text in log if word in text]


def test_slow_callbacks_are_logged(debug, log):
    debug.slow_callback_duration = 0.01
    debug.call_soon(slow)
    debug.call_soon(int)
    spin(debug)
    (text,) = naming("slow()", log)
    pattern = r"Executing <\w*Handle.* took (\d\.\d\d\d) seconds"
    assert re.fullmatch(pattern, text)
    assert __file__ in text


def test_slow_tasks_are_logged(debug, log):
    debug.slow_callback_duration = 0.01

    async def work():
        slow()

    debug.run_until_complete(debug.create_task(work()))
    (text,) = naming("work()", log)
    assert text.startswith("Executing <Task ") and text.endswith(" seconds")


def test_slow_timers_are_logged(debug, log):
    debug.slow_callback_duration = 0.01
    debug.call_later(0.001, slow)
    debug.call_later(0.005, debug.stop)
    debug.run_forever()
    (text,) = naming("slow()", log)
    assert text.startswith("Executing <TimerHandle ")


def test_slow_readers_are_logged(debug, log):
    debug.slow_callback_duration = 0.01
    near, far = socket.socketpair()
    with near, far:
        far.send(b"x")

        def read():
            near.recv(1)
            slow()
            debug.stop()

        debug.add_reader(near, read)
        debug.run_forever()
        debug.remove_reader(near)
    assert len(naming("read()", log)) == 1


def test_nothing_is_logged_without_debug(loop, log):
    loop.slow_callback_duration = 0.01
    loop.call_soon(slow)
    spin(loop)
    assert log == []


def test_duration_is_configurable(debug, log):
    assert debug.slow_callback_duration == 0.1
    debug.slow_callback_duration = 60
    debug.call_soon(slow)
    spin(debug)
    assert log == []


def test_slow_protocol_callbacks_are_logged(debug, log):
    class Slow(Recorder):
        def data_received(self, data):
            super().data_received(data)
            slow()

    async def main():
        async with wired(Slow) as (protocol, peer):
            debug.slow_callback_duration = 0.01
            peer.send(b"x")
            await protocol.receive(1)
            await turns()
            debug.slow_callback_duration = 10

    debug.run_until_complete(main())
    # The transport, or its handle.
    reports = [text for text in log if "<Task" not in text]
    assert len(reports) == 1 and reports[0].startswith("Executing ")


def test_source_tracebacks(debug):
    """Handles, futures and tasks remember where they were made."""
    for handle in (
        debug.call_soon(int),
        debug.call_later(1, int),
        debug.call_at(1, int),
        debug.call_soon_threadsafe(int),
    ):
        frame = handle._source_traceback[-1]
        assert frame.filename == __file__
        assert frame.name == "test_source_tracebacks"
        assert " created at " in repr(handle)
        handle.cancel()
    future = debug.create_future()
    names = [frame.name for frame in future._source_traceback]
    assert "test_source_tracebacks" in names


def test_source_traceback_in_the_handlers_context(debug):
    calls = handler_calls(debug)
    debug.call_soon(lambda: 1 / 0)
    spin(debug)
    (context,) = calls
    assert context["source_traceback"][-1].filename == __file__


def test_source_traceback_in_the_log(debug, errors):
    debug.call_soon(lambda: 1 / 0)
    spin(debug)
    (text,) = errors
    assert "Object created at (most recent call last):" in text
    assert __file__ in text
    errors.clear()


def test_no_source_tracebacks_without_debug(loop):
    handle = loop.call_soon(int)
    assert handle._source_traceback is None


def test_origin_tracking(debug):
    seen = []

    async def main():
        seen.append(sys.get_coroutine_origin_tracking_depth())
        debug.set_debug(False)
        seen.append(sys.get_coroutine_origin_tracking_depth())
        debug.set_debug(True)
        await asyncio.sleep(0)

    before = sys.get_coroutine_origin_tracking_depth()
    debug.run_until_complete(main())
    assert seen[0] > before
    assert sys.get_coroutine_origin_tracking_depth() == before


def test_never_awaited_says_where(loop_name):
    done = subprocess.run(
        [
            *(sys.executable, "-X", "dev", "-c"),
            script(
                loop_name,
                """
                async def forgotten():
                    pass
                async def main():
                    forgotten()
                run(main(), debug=True)
                """,
            ),
        ],
        capture_output=True,
        text=True,
        env=child_env(),
        timeout=60,
    )
    assert "was never awaited" in done.stderr
    assert "Coroutine created at" in done.stderr


def test_debug_of_run(run):
    async def main():
        return asyncio.get_running_loop().get_debug()

    assert run(main(), debug=True) is True
    assert run(main(), debug=False) is False


def test_servers_and_connections(run, caplog):
    """Nothing but log entries more than without."""
    caplog.set_level(logging.DEBUG, "asyncio")

    async def main():
        async def echo(reader, writer):
            writer.write(await reader.read(100))
            writer.write_eof()
            await reader.read()
            writer.close()
            await writer.wait_closed()

        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(
            *server.sockets[0].getsockname()
        )
        writer.write(b"hello")
        assert await reader.read() == b"hello"
        client = writer.get_extra_info("sockname")
        writer.close()
        await writer.wait_closed()
        await shut(server)
        return server, client

    server, client = run(main(), debug=True)
    (accepted,) = [
        record.args
        for record in caplog.records
        if record.msg == "%r got a new connection from %r: %r"
    ]
    assert accepted[:2] == (server, client)
    assert type(accepted[2]) is socket.socket


def test_close_is_logged(loop, caplog):
    caplog.set_level(logging.DEBUG, "asyncio")
    loop.set_debug(True)
    text = repr(loop)
    loop.close()
    assert f"Close {text}" in caplog.text


def test_whole_program_in_development_mode(loop_name):
    """-X dev with warnings as errors: quiet."""
    done = subprocess.run(
        [
            *(sys.executable, "-X", "dev", "-W", "error", "-c"),
            script(
                loop_name,
                """
                async def main():
                    loop = asyncio.get_running_loop()
                    assert loop.get_debug()
                    loop.slow_callback_duration = 60
                    await loop.run_in_executor(None, int)
                    child = await asyncio.create_subprocess_exec("true")
                    await child.wait()
                    near, far = socket.socketpair()
                    reader, writer = await asyncio.open_connection(sock=near)
                    writer.write(b"x")
                    await writer.drain()
                    writer.close()
                    await writer.wait_closed()
                    far.close()
                run(main())
                """,
            ),
        ],
        capture_output=True,
        text=True,
        env=child_env(),
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, ""), done


# -- word for word: what both loops log and raise in debug mode


ANY = [
    (r"0x[0-9a-f]+", "0x…"),
    (r"took \d+\.\d{3} seconds", "took … seconds"),
    (r"when=[\d.]+", "when=…"),
    (r"Task-\d+", "Task-…"),
    (r"fd=\d+", "fd=…"),
    # The kind of the transport is pyloop's own; a listed difference.
    (r"_SelectorSocketTransport|Stream", "<transport>"),
    # A future's own place is the line that made it, not asyncio's.
    (r"(future: .*?|wait_for=.*?) created at [^ >]+", r"\1 created at …"),
    (r"'source_traceback': .*", "'source_traceback': …"),
]


def plain(text):
    for pattern, word in ANY:
        text = re.sub(pattern, word, text)
    # Which of the loop's own frames a traceback shows is no promise.
    return [
        line
        for line in text.splitlines()
        # … nor is where a transport was last told to read, which asyncio's
        # handle knows.
        if not line.startswith((" ", "Traceback", "handle_traceback"))
    ]


@pytest.fixture
def same_words(loop_factory):
    """Run a scenario in debug mode on asyncio and on the loop; what is
    logged from WARNING up and what is answered has to be the same."""

    def words(factory, scenario):
        texts = []

        class Log(logging.Handler):
            def emit(self, record):
                texts.append((record.levelname, plain(record.getMessage())))

        log = Log(logging.WARNING)
        logger = logging.getLogger("asyncio")
        others, logger.handlers[:] = logger.handlers[:], [log]
        propagate, logger.propagate = logger.propagate, False
        loop = factory()
        try:
            loop.set_debug(True)
            loop.slow_callback_duration = 1000
            answer = scenario(loop)
            if asyncio.iscoroutine(answer):
                answer = loop.run_until_complete(answer)
            gc.collect()
        finally:
            finish(loop)
            logger.propagate = propagate
            logger.handlers[:] = others
        return answer, texts

    def same_words(scenario, about=""):
        results = []
        for factory in (asyncio.SelectorEventLoop, loop_factory):
            answer, texts = words(factory, scenario)
            # On a busy machine other things may be slow too.
            results.append((answer, [t for t in texts if about in str(t)]))
        expected, actual = results
        assert actual == expected
        return expected

    return same_words


def named():
    time.sleep(0.02)


@pytest.mark.parametrize("way", ["soon", "later", "threadsafe", "task"])
def test_words_of_slow_callbacks(same_words, way):
    async def work():
        named()

    def scenario(loop):
        loop.slow_callback_duration = 0.02
        if way == "task":
            loop.run_until_complete(loop.create_task(work(), name="worker"))
            return
        if way == "later":
            loop.call_later(0.001, named)
            loop.call_later(0.002, loop.stop)
        elif way == "soon":
            loop.call_soon(named)
            loop.call_soon(loop.stop)
        else:
            loop.call_soon_threadsafe(named)
            loop.call_soon_threadsafe(loop.stop)
        loop.run_forever()

    _, ((level, (text,)),) = same_words(
        scenario, "name='worker'" if way == "task" else " named() at "
    )
    assert level == "WARNING" and text.startswith("Executing <")
    assert text.endswith(" took … seconds")


@pytest.mark.parametrize(
    "method, args",
    [
        ("call_soon", (int,)),
        ("call_later", (1, int)),
        ("call_at", (1, int)),
    ],
)
def test_words_of_calls_from_another_thread(same_words, method, args):
    async def scenario():
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            None, error, getattr(loop, method), *args
        )

    answer, texts = same_words(lambda loop: scenario())
    assert answer == (
        RuntimeError,
        "Non-thread-safe operation invoked on an event loop other than the "
        "current one",
    )
    assert texts == []


@pytest.mark.skipif(
    FREE_THREADED, reason="there another thread is always refused"
)
def test_other_calls_from_another_thread(debug, pyloop_only):
    """Debug mode refuses what goes by call_soon(), no more."""
    near, far = socket.socketpair()
    near.setblocking(False)

    def work(transport):
        debug.add_reader(far, int)
        assert debug.remove_reader(far)
        transport.set_write_buffer_limits(5)
        transport.pause_reading()
        transport.resume_reading()
        transport.write(b"data")
        return error(transport.close)[0]

    async def scenario():
        transport, _ = await debug.create_connection(
            asyncio.Protocol, sock=near
        )
        refused = await debug.run_in_executor(None, work, transport)
        transport.abort()
        return refused

    with far:
        assert debug.run_until_complete(scenario()) is RuntimeError
        assert far.recv(10) == b"data"
    near.close()


async def forgotten():
    pass


@pytest.mark.parametrize("argument", [forgotten, 5, None])
@pytest.mark.parametrize(
    "method, first",
    [("call_soon", ()), ("call_later", (1,)), ("call_soon_threadsafe", ())],
)
def test_words_of_wrong_callbacks(same_words, method, first, argument):
    answer, _ = same_words(
        lambda loop: error(getattr(loop, method), *first, argument)
    )
    assert answer[0] is TypeError


def test_words_of_failing_callbacks(same_words):
    def fail(*args):
        raise ValueError("of a callback")

    def scenario(loop):
        loop.call_soon(fail)
        loop.call_later(0, fail, 1, "two")
        loop.call_soon(loop.call_later, 0.01, loop.stop)
        loop.run_forever()

    _, texts = same_words(scenario)
    assert len(texts) == 2
    for level, lines in texts:
        assert level == "ERROR"
        assert lines[0].startswith("Exception in callback ")
        assert "Object created at (most recent call last):" in lines[2]


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("kind", ["soon", "later", "threadsafe", "reader"])
def test_arguments_in_the_message(agree, debug, kind):
    """Since 3.13 only in debug mode: they may be secrets."""

    def scenario(loop):
        loop.set_debug(debug)
        calls = handler_calls(loop)
        near, far = socket.socketpair()
        if kind == "reader":
            loop.add_reader(near, int, "secret")
            far.send(b"x")
        elif kind == "later":
            loop.call_later(0, int, "secret")
        else:
            name = "call_soon" if kind == "soon" else "call_soon_threadsafe"
            getattr(loop, name)(int, "secret")
        while not calls:
            spin(loop)
        loop.remove_reader(near)
        near.close()
        far.close()
        return calls[0]["message"]

    message = agree(scenario)
    shown = debug or sys.version_info < (3, 13)
    assert ("secret" in message) == shown


@pytest.mark.parametrize(
    "what", ["Executing", "pauses", "resumes", "EOF", "Fatal"]
)
def test_interrupt_while_debug_mode_logs(debug, what, caplog):
    """Ctrl-C in the program's logging leaves the loop as anywhere else."""

    class Interrupt(logging.Handler):
        def emit(self, record):
            if what in record.getMessage():
                raise KeyboardInterrupt

    near, far = socket.socketpair()
    near.setblocking(False)
    transport, _ = debug.run_until_complete(
        debug.create_connection(asyncio.Protocol, sock=near)
    )

    def write():
        near.shutdown(socket.SHUT_WR)
        transport.write(b"x")

    if what == "Executing":
        debug.slow_callback_duration = 0
        debug.call_soon(int)
    elif what == "EOF":
        debug.call_soon(far.close)
    elif what == "Fatal":
        debug.call_soon(write)
    else:
        debug.call_soon(transport.pause_reading)
        debug.call_soon(transport.resume_reading)
    debug.call_later(10, debug.stop)
    logger = logging.getLogger("asyncio")
    handler = Interrupt()
    logger.addHandler(handler)
    try:
        with (
            caplog.at_level(logging.DEBUG, logger="asyncio"),
            pytest.raises(KeyboardInterrupt),
        ):
            debug.run_forever()
    finally:
        logger.removeHandler(handler)
    debug.slow_callback_duration = 10
    transport.abort()
    for _ in range(3):
        spin(debug)
    near.close()
    far.close()


def test_duration_that_is_no_number(debug):
    debug.slow_callback_duration = None
    debug.call_soon(int)
    with pytest.raises(TypeError, match="not supported between"):
        spin(debug)
    debug.slow_callback_duration = 1


def test_words_of_what_is_never_retrieved(same_words):
    async def fail():
        raise ValueError("of a task")

    def scenario(loop):
        task = loop.create_task(fail(), name="failing")
        future = loop.create_future()
        future.set_exception(ValueError("of a future"))
        loop.run_until_complete(asyncio.wait([task]))
        del task, future
        gc.collect()

    _, texts = same_words(scenario)
    firsts = sorted(lines[0] for _, lines in texts)
    assert firsts == [
        "Future exception was never retrieved",
        "Task exception was never retrieved",
    ]
    # debug mode says where they were made
    assert all(
        any(
            line.endswith("created at (most recent call last):")
            for line in lines
        )
        for _, lines in texts
    )


def test_words_of_a_pending_task(same_words):
    async def wait():
        await asyncio.get_running_loop().create_future()

    def scenario(loop):
        task = loop.create_task(wait(), name="waiting")
        spin(loop)
        asyncio.tasks._unregister_task(task)
        del task
        gc.collect()

    _, texts = same_words(scenario)
    assert [lines[0] for _, lines in texts] == [
        "Task was destroyed but it is pending!"
    ]


def test_words_of_a_failing_protocol(same_words):
    class Failing(asyncio.Protocol):
        def data_received(self, data):
            raise ValueError("of a protocol")

        def connection_lost(self, exc):
            self.lost.set_result(None)

    async def scenario():
        loop = asyncio.get_running_loop()
        near, far = socket.socketpair()
        near.setblocking(False)
        with far:
            _, protocol = await loop.create_connection(Failing, sock=near)
            protocol.lost = loop.create_future()
            far.send(b"x")
            await protocol.lost
            await turns()

    _, texts = same_words(lambda loop: scenario())
    ((level, lines),) = texts
    assert level == "ERROR"
    assert lines[0] == ("Fatal error: protocol.data_received() call failed.")


def test_words_of_a_failing_handler(same_words):
    def handler(loop, context):
        raise ValueError("of a handler")

    def scenario(loop):
        loop.set_exception_handler(handler)
        loop.call_soon(lambda: 1 / 0)
        spin(loop)

    _, texts = same_words(scenario)
    assert [lines[0] for _, lines in texts] == [
        "Unhandled error in exception handler"
    ]


def test_origin_tracking_follows_set_debug(same_words):
    """Also from another thread, where it is handed to the loop's."""

    async def scenario():
        loop = asyncio.get_running_loop()
        depth = sys.get_coroutine_origin_tracking_depth
        seen = [depth()]
        loop.set_debug(False)
        await turns()
        seen.append(depth())
        await loop.run_in_executor(None, loop.set_debug, True)
        await turns()
        seen.append(depth())
        coroutine = forgotten()
        seen.append(coroutine.cr_origin[0][2])
        coroutine.close()
        return seen

    answer, _ = same_words(lambda loop: scenario())
    assert answer[0] > 0 and answer[1] == 0 and answer[2] > 0
    assert answer[3] == "scenario"
