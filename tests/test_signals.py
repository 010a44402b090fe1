import asyncio
import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from support import DEADLINE, Script, error, open_fds, run_script, spin


@pytest.fixture
def usr1():
    """SIGUSR1 as it was, whatever the test does."""
    before = signal.getsignal(signal.SIGUSR1)
    yield signal.SIGUSR1
    signal.signal(signal.SIGUSR1, before)


def send(number):
    os.kill(os.getpid(), number)


def test_handler_runs_in_the_loop(loop, usr1):
    seen = []

    def handler(*args):
        seen.append((args, asyncio.get_running_loop() is loop))
        loop.stop()

    loop.add_signal_handler(usr1, handler, 1, "two")
    loop.call_soon(send, usr1)
    loop.run_forever()
    assert seen == [((1, "two"), True)]
    assert loop.remove_signal_handler(usr1) is True
    assert loop.remove_signal_handler(usr1) is False
    assert signal.getsignal(usr1) is signal.SIG_DFL


def test_wakes_an_idle_loop(loop, usr1):
    loop.add_signal_handler(usr1, loop.stop)
    timer = threading.Timer(0.02, send, [usr1])
    timer.start()
    began = time.monotonic()
    loop.call_later(3600, print)
    loop.run_forever()
    assert time.monotonic() - began < 10
    timer.join()
    loop.remove_signal_handler(usr1)


def test_replaced_handler(loop, usr1):
    seen = []
    loop.add_signal_handler(usr1, seen.append, "old")
    loop.add_signal_handler(usr1, lambda: (seen.append("new"), loop.stop()))
    loop.call_soon(send, usr1)
    loop.run_forever()
    assert seen == ["new"]
    loop.remove_signal_handler(usr1)


def test_each_signal_of_a_row(loop, usr1):
    seen = []

    def handler(number):
        seen.append(number)
        if len(seen) == 3:
            loop.stop()

    numbers = [usr1, signal.SIGUSR2, signal.SIGWINCH]
    for number in numbers:
        loop.add_signal_handler(number, handler, number)
    for number in numbers:
        loop.call_soon(send, number)
    loop.run_forever()
    for number in numbers:
        assert loop.remove_signal_handler(number)
    assert sorted(seen) == sorted(numbers)


def test_arriving_while_the_loop_does_not_run(loop, usr1):
    """Delivered at the next run, even an empty one."""
    seen = []
    loop.add_signal_handler(usr1, seen.append, 1)
    send(usr1)
    assert seen == []
    for _ in range(3):
        spin(loop)
    assert seen == [1]
    loop.run_until_complete(asyncio.sleep(0.001))
    send(usr1)
    loop.run_until_complete(asyncio.sleep(0.01))
    assert seen == [1, 1]
    loop.remove_signal_handler(usr1)


def test_handler_of_the_signal_module_runs_while_idle(loop, usr1):
    """As at any other place, though no loop handler is set."""
    seen = []

    def handler(number, frame):
        seen.append(number)
        loop.call_soon_threadsafe(loop.stop)

    signal.signal(usr1, handler)
    timer = threading.Timer(0.02, send, [usr1])
    timer.start()
    loop.run_forever()
    timer.join()
    assert seen == [usr1]


def test_exception_of_such_a_handler_leaves_run_forever(loop, usr1):
    def handler(number, frame):
        raise ZeroDivisionError("from the handler")

    def interrupt():
        running.wait()
        time.sleep(0.05)  # in a callback it would be that one's exception
        send(usr1)

    signal.signal(usr1, handler)
    running = threading.Event()
    thread = threading.Thread(target=interrupt)
    thread.start()
    loop.call_soon(running.set)
    with pytest.raises(ZeroDivisionError, match="from the handler"):
        loop.run_forever()
    thread.join()
    assert not loop.is_running()
    assert loop.run_until_complete(asyncio.sleep(0.001, 5)) == 5


def test_exception_of_such_a_handler_in_a_busy_loop(loop, usr1, pyloop_only):
    """Wherever it comes.  Between two turns it goes past asyncio's `finally`
    (CPython's table of exceptions leaves out the jump), which then believes
    for ever that it runs."""

    def handler(number, frame):
        raise KeyboardInterrupt

    def busy():
        loop.call_soon(busy)

    signal.signal(usr1, handler)
    loop.call_soon(busy)
    for times in range(20):
        timer = threading.Timer(0.002 + times / 10_000, send, [usr1])
        loop.call_soon(timer.start)
        with pytest.raises(KeyboardInterrupt):
            loop.run_forever()
        timer.join()
        assert not loop.is_running()
        assert loop.run_until_complete(asyncio.sleep(0, 5)) == 5


def test_exception_in_a_loop_handler(loop, usr1):
    from support import handler_calls

    calls = handler_calls(loop)
    loop.add_signal_handler(usr1, lambda: 1 / 0)
    loop.call_soon(send, usr1)
    while not calls:
        spin(loop)
    assert type(calls[0]["exception"]) is ZeroDivisionError
    loop.remove_signal_handler(usr1)


def test_errors(agree):
    def scenario(loop):
        async def coroutine():
            pass

        seen = [
            error(loop.add_signal_handler, signal.SIGKILL, print),
            error(loop.add_signal_handler, signal.SIGSTOP, print),
            error(loop.add_signal_handler, 1000, print),
            error(loop.add_signal_handler, -1, print),
            error(loop.add_signal_handler, "SIGINT", print),
            error(loop.add_signal_handler, signal.SIGUSR1, coroutine),
            error(loop.remove_signal_handler, 1000),
            loop.remove_signal_handler(signal.SIGUSR1),
        ]
        return [
            result[0] if isinstance(result, tuple) else result
            for result in seen
        ]

    agree(scenario)


def test_sigchld_is_allowed(loop):
    """tornado and others watch their children themselves."""
    seen = []

    def handler():
        seen.append(child.wait())
        loop.stop()

    loop.add_signal_handler(signal.SIGCHLD, handler)
    child = subprocess.Popen(["true"])
    loop.run_forever()
    loop.remove_signal_handler(signal.SIGCHLD)
    assert seen == [0]


def test_not_in_the_main_thread(agree):
    def scenario(loop):
        seen = []

        def call():
            seen.append(error(loop.add_signal_handler, signal.SIGUSR1, print))

        thread = threading.Thread(target=call)
        thread.start()
        thread.join(DEADLINE)
        return seen[0][0]

    assert agree(scenario) in (RuntimeError, ValueError)


@pytest.fixture
def wakeup():
    """The descriptor that the program itself has set to be told of signals,
    and the socket where it is told."""
    told, ours = socket.socketpair()
    told.setblocking(False)
    ours.setblocking(False)
    with told, ours:
        before = signal.set_wakeup_fd(ours.fileno())
        yield ours.fileno(), told
        signal.set_wakeup_fd(before)


def wakeup_fd():
    fd = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(fd)
    return fd


def test_wakeup_descriptor_is_put_back(loop, usr1, wakeup):
    """The program's after a run; the loop's is not left behind after the
    removal."""
    spin(loop)
    assert wakeup_fd() == wakeup[0]
    loop.add_signal_handler(usr1, print)
    spin(loop)
    assert wakeup_fd() not in (-1, wakeup[0])
    loop.remove_signal_handler(usr1)
    spin(loop)
    assert wakeup_fd() == -1
    loop.close()
    assert wakeup_fd() == -1


def test_program_is_told_of_signals_by_its_own_descriptor(loop, usr1, wakeup):
    """Also while a loop runs that has no handlers."""
    signal.signal(usr1, lambda *args: None)

    async def main():
        send(usr1)
        return await asyncio.wait_for(loop.sock_recv(wakeup[1], 2), DEADLINE)

    assert loop.run_until_complete(main()) == bytes([usr1])


def test_signal_while_no_python_code_runs(loop, usr1, wakeup):
    """Seen before the loop sleeps: it interrupts no poll, which comes later,
    and the descriptor is the program's."""
    seen = []
    signal.signal(usr1, lambda *args: seen.append(1) or loop.stop())
    kill = ctypes.PyDLL(None).kill
    loop.call_soon(kill, os.getpid(), usr1)
    timer = loop.call_later(DEADLINE, loop.stop)
    loop.run_forever()
    timer.cancel()
    assert seen == [1]
    assert loop.time() < timer.when() - 1


def test_handlers_need_the_descriptor(loop, usr1, wakeup, pyloop_only):
    """A loop with handlers has it while it runs, whoever set it last."""
    seen = []
    loop.add_signal_handler(usr1, lambda: (seen.append(1), loop.stop()))
    signal.set_wakeup_fd(wakeup[0])
    loop.call_soon(send, usr1)
    loop.call_later(DEADLINE, loop.stop)
    loop.run_forever()
    loop.remove_signal_handler(usr1)
    assert seen


def test_descriptor_that_the_program_has_closed(loop, pyloop_only):
    """The loop's takes its place, and goes."""
    spin(loop)  # has its own from here on
    near, far = socket.socketpair()
    far.setblocking(False)
    before = signal.set_wakeup_fd(far.fileno())
    near.close()
    far.close()
    spin(loop)
    assert signal.set_wakeup_fd(before) == -1


def test_close_in_another_thread(loop_factory, usr1):
    """It may not undo the handlers; all the same everything is closed."""
    before = open_fds().keys()
    loop = loop_factory()
    loop.add_signal_handler(usr1, print)
    seen = []
    thread = threading.Thread(target=lambda: seen.append(error(loop.close)))
    thread.start()
    thread.join(DEADLINE)
    signal.set_wakeup_fd(-1)
    assert seen[0][0] is ValueError
    assert loop.is_closed()
    assert not open_fds().keys() - before
    assert error(loop.close) is None


def test_close_removes_handlers(loop, usr1):
    loop.add_signal_handler(usr1, print)
    loop.close()
    assert signal.getsignal(usr1) is signal.SIG_DFL


def test_loop_in_another_thread_leaves_signals_alone(loop, usr1):
    seen = []
    signal.signal(usr1, lambda *args: seen.append(1))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    send(usr1)
    deadline = time.monotonic() + DEADLINE
    while not seen and time.monotonic() < deadline:
        time.sleep(0.001)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(DEADLINE)
    assert seen == [1]


def test_signals_among_traffic(loop, usr1):
    """Many signals, none of which may hang or crash the loop."""
    count = 0

    def handler():
        nonlocal count
        count += 1

    loop.add_signal_handler(usr1, handler)
    pid = os.getpid()

    async def main():
        for _ in range(200):
            os.kill(pid, usr1)
            await asyncio.sleep(0)
        while count < 1:
            await asyncio.sleep(0.001)

    loop.run_until_complete(main())
    loop.remove_signal_handler(usr1)
    assert 1 <= count <= 200


# -- Ctrl-C, in processes of their own


@pytest.mark.parametrize("watches", [False, True])
def test_interrupt_of_an_idle_run_forever(loop_name, watches):
    """Also of a program that has itself told of signals by a descriptor."""
    code = f"""
    near, far = socket.socketpair()
    far.setblocking(False)
    if {watches}:
        signal.set_wakeup_fd(far.fileno())
    loop = new_event_loop()
    say("ready")
    for _ in range(2):
        try:
            loop.run_forever()
        except KeyboardInterrupt:
            say("interrupted", loop.is_running())
    loop.run_until_complete(asyncio.sleep(0.001))
    say("usable")
    loop.close()
    signal.set_wakeup_fd(-1)
    near.close()
    far.close()
    """
    with Script(loop_name, code) as child:
        child.expect("ready")
        for _ in range(2):
            child.asleep()
            child.signal()
            child.expect("interrupted False")
        child.expect("usable")
        assert child.finish() == (0, "", "")


RUNS = {
    "idle": "await asyncio.Event().wait()",
    "timers": """
        for n in range(100):
            loop.call_later(3600 + n, print)
        await asyncio.sleep(3600)
    """,
    "server": """
        server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
        async with server:
            await server.serve_forever()
    """,
    "executor": """
        def work():
            say("working")
            time.sleep(0.3)
        await loop.run_in_executor(None, work)
        await loop.run_in_executor(None, time.sleep, 0.2)
        await asyncio.sleep(3600)
    """,
    "client": """
        near, far = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=near)
        try:
            await reader.read()
        finally:
            writer.close()
            far.close()
    """,
}


@pytest.mark.parametrize("what", RUNS)
def test_interrupt_of_run(loop_name, what):
    """The main task is cancelled, cleans up, KeyboardInterrupt follows."""
    body = "\n".join(" " * 8 + line for line in RUNS[what].split("\n"))
    code = f"""
async def main():
    loop = asyncio.get_running_loop()
    say("ready")
    try:
{body}
    except asyncio.CancelledError:
        say("cancelled")
        await asyncio.sleep(0.001)
        say("cleaned up")
        raise
try:
    run(main())
except KeyboardInterrupt:
    say("interrupted")
"""
    with Script(loop_name, code) as child:
        child.expect("ready")
        if what == "executor":
            child.expect("working")
        else:
            child.asleep()
        began = time.monotonic()
        child.signal()
        for word in "cancelled", "cleaned up", "interrupted":
            child.expect(word)
        assert time.monotonic() - began < 10
        assert child.finish() == (0, "", "")


def test_interrupt_that_the_task_swallows(loop_name):
    """The result counts, as in asyncio.run()."""
    code = """
    async def main():
        say("ready")
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            return "result"
    say(run(main()))
    """
    with Script(loop_name, code) as child:
        child.expect("ready")
        child.asleep()
        child.signal()
        child.expect("result")
        assert child.finish() == (0, "", "")


def test_second_interrupt_is_immediate(loop_name):
    code = """
    async def main():
        say("ready")
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            say("stubborn")
            await asyncio.sleep(3600)
    try:
        run(main())
    except KeyboardInterrupt:
        say("interrupted")
    """
    with Script(loop_name, code) as child:
        child.expect("ready")
        child.asleep()
        child.signal()
        child.expect("stubborn")
        child.asleep()
        child.signal()
        child.expect("interrupted")
        assert child.finish() == (0, "", "")


def test_interrupt_of_a_busy_run(loop_name):
    code = """
    async def main():
        say("ready")
        while True:
            await asyncio.sleep(0)
    try:
        run(main())
    except KeyboardInterrupt:
        say("interrupted")
    """
    with Script(loop_name, code) as child:
        child.expect("ready")
        child.signal()
        child.expect("interrupted")
        assert child.finish() == (0, "", "")


def test_interrupts_of_a_blocking_callback(loop_name):
    """The first asks for cancellation, the second breaks in."""
    code = """
    async def main():
        say("ready")
        time.sleep(3600)
    try:
        run(main())
    except KeyboardInterrupt:
        say("interrupted")
    """
    with Script(loop_name, code) as child:
        child.expect("ready")
        child.asleep()
        child.signal()
        child.asleep()
        child.signal()
        child.expect("interrupted")
        assert child.finish() == (0, "", "")


def test_uncaught_interrupt_kills_as_asyncio_does(loop_name):
    code = """
    async def main():
        say("ready")
        await asyncio.sleep(3600)
    run(main())
    """
    with Script(loop_name, code) as child:
        child.expect("ready")
        child.asleep()
        child.signal()
        status, _, err = child.finish()
    assert status == -signal.SIGINT
    assert err.endswith("KeyboardInterrupt\n")


def test_interrupt_before_the_run(loop_name):
    """SIGINT between two runs is Python's own KeyboardInterrupt."""
    run_script(
        loop_name,
        """
        loop = new_event_loop()
        loop.run_until_complete(asyncio.sleep(0))
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
            raise SystemExit("not interrupted")
        except KeyboardInterrupt:
            pass
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        """,
    )


def test_terminate_by_a_loop_handler(loop_name):
    code = """
    async def main():
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in signal.SIGTERM, signal.SIGINT:
            loop.add_signal_handler(number, stop.set)
        say("ready")
        await stop.wait()
        say("stopped")
    run(main())
    """
    for number in signal.SIGTERM, signal.SIGINT:
        with Script(loop_name, code) as child:
            child.expect("ready")
            child.asleep()
            child.signal(number)
            child.expect("stopped")
            assert child.finish() == (0, "", "")


def test_ignored_interrupt(loop_name):
    """SIG_IGN stays ignored."""
    code = """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    async def main():
        loop = asyncio.get_running_loop()
        event = asyncio.Event()
        loop.add_signal_handler(signal.SIGUSR1, event.set)
        say("ready")
        await event.wait()
    run(main())
    say("done")
    """
    with Script(loop_name, code) as child:
        child.expect("ready")
        child.asleep()
        child.signal(signal.SIGINT)
        time.sleep(0.02)
        child.signal(signal.SIGUSR1)
        child.expect("done")
        assert child.finish() == (0, "", "")


def test_suspend_and_continue(loop_name):
    code = """
    async def main():
        say("ready")
        await asyncio.sleep(0.2)
        say("done")
    run(main())
    """
    with Script(loop_name, code) as child:
        child.expect("ready")
        child.signal(signal.SIGSTOP)
        time.sleep(0.02)
        child.signal(signal.SIGCONT)
        child.expect("done")
        assert child.finish() == (0, "", "")
    assert sys.platform == "linux"
