import asyncio
import logging
import re
import socket
import subprocess
import sys
import time

import pytest
from support import (
    Recorder,
    Script,
    child_env,
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
        writer.close()
        await writer.wait_closed()
        await shut(server)

    run(main(), debug=True)


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


@pytest.mark.skipif(sys.version_info < (3, 14), reason="added in 3.14")
@pytest.mark.parametrize("command", ["ps", "pstree"])
def test_asyncio_tools_see_the_tasks(loop_name, command):
    """python -m asyncio reads a process from outside: tasks and the running
    loop must be where it looks."""
    code = """
    async def innermost():
        await asyncio.sleep(3600)
    async def outer():
        await asyncio.create_task(innermost(), name="the inner task")
    async def main():
        task = asyncio.create_task(outer(), name="the outer task")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        say("ready")
        await task
    try:
        run(main())
    except KeyboardInterrupt:
        pass
    """
    with Script(loop_name, code) as child:
        child.expect("ready")
        done = subprocess.run(
            [sys.executable, "-m", "asyncio", command]
            + [str(child.process.pid)],
            capture_output=True,
            text=True,
            env=child_env(),
            timeout=60,
        )
        if done.returncode and "ermission" in done.stderr + done.stdout:
            pytest.skip("this machine lets nobody read another process")
        child.signal()
        child.finish()
    assert done.returncode == 0, done
    for word in "the inner task", "the outer task", "innermost":
        assert word in done.stdout
