import asyncio
import functools
import os
import pathlib
import re
import signal
import subprocess
import sys
import textwrap
import threading
import warnings

import pytest
from support import (
    DEADLINE,
    DENY,
    async_error,
    asyncio_of_3_11_7,
    error,
    finish,
    open_fds,
    pattern,
    run_script,
    turns,
    until,
    wait,
)

PIPE = subprocess.PIPE


async def start(*args, **kwargs):
    return await asyncio.create_subprocess_exec(*args, **kwargs)


async def test_exit_status():
    for status in 0, 1, 7, 255:
        child = await start("sh", "-c", f"exit {status}")
        assert await child.wait() == status
        assert child.returncode == status
        assert await child.wait() == status


async def test_communicate():
    child = await start("cat", stdin=PIPE, stdout=PIPE)
    data = pattern(2_000_000)
    out, err = await child.communicate(data)
    assert out == data and err is None
    assert child.returncode == 0


async def test_output_and_errors():
    child = await start(
        "sh", "-c", "echo out; echo err >&2", stdout=PIPE, stderr=PIPE
    )
    assert await child.communicate() == (b"out\n", b"err\n")


async def test_errors_into_output():
    child = await start(
        "sh",
        "-c",
        "echo out; echo err >&2",
        stdout=PIPE,
        stderr=subprocess.STDOUT,
    )
    assert await child.communicate() == (b"out\nerr\n", None)


async def test_shell():
    child = await asyncio.create_subprocess_shell(
        "echo $((6 * 7)); exit 3", stdout=PIPE
    )
    out, _ = await child.communicate()
    assert out == b"42\n"
    assert child.returncode == 3


async def test_conversation():
    child = await start("cat", stdin=PIPE, stdout=PIPE)
    for n in range(50):
        child.stdin.write(b"line %d\n" % n)
        await child.stdin.drain()
        assert await child.stdout.readline() == b"line %d\n" % n
    child.stdin.close()
    await child.stdin.wait_closed()
    assert await child.stdout.read() == b""
    assert await child.wait() == 0


SIGNALS = {
    "kill": signal.SIGKILL,
    "terminate": signal.SIGTERM,
    "send_signal": signal.SIGUSR1,
}


@pytest.mark.parametrize("method", SIGNALS)
async def test_signals(method):
    child = await start("sleep", "60")
    number = SIGNALS[method]
    if method == "send_signal":
        child.send_signal(number)
    else:
        getattr(child, method)()
    assert await child.wait() == -number


def test_signal_after_exit(agree):
    async def scenario(loop):
        child = await start("true")
        await child.wait()
        seen = []
        for method in child.kill, child.terminate:
            try:
                method()
                seen.append(None)
            except ProcessLookupError:
                seen.append(ProcessLookupError)
        return seen

    agree(scenario)


def exited(pid):
    """Has it ended, whether or not somebody has waited for it?"""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):  # gone, or just going
        return True


def calls_of_kill(function):
    """Who is signalled by number, by os.kill()."""
    seen = []
    watching = True

    def hook(event, args):
        if watching and event == "os.kill":
            seen.append(args)

    sys.addaudithook(hook)
    try:
        function()
    finally:
        watching = False
    return seen


async def child_about_to_end():
    """With 5, once this has returned; (transport, protocol)."""
    loop = asyncio.get_running_loop()
    read, write = os.pipe()
    pair = await loop.subprocess_exec(
        Recorder,
        *("sh", "-c", "read word; exit 5"),
        stdin=read,
        stdout=None,
        stderr=None,
    )
    os.close(read)
    os.close(write)
    return pair


@pytest.mark.parametrize("method", ["kill", "terminate", "close"])
async def test_signal_to_a_child_whose_end_is_not_yet_noticed(
    method, loop_name, errors, caplog
):
    """The loop has not run since the child ended: nobody's signal, and the
    status is not lost."""
    transport, protocol = await child_about_to_end()
    wait(lambda: exited(transport.get_pid()))
    getattr(transport, method)()
    await protocol.lost
    if loop_name == "pyloop":
        assert transport.get_returncode() == 5
        assert caplog.records == []
    transport.close()


async def test_no_signal_to_a_number_that_may_be_anothers(pyloop_only):
    """A grandchild keeps the pipe open, so the transport lives on; the child
    has been waited for, and its number is free. asyncio signals it."""
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.subprocess_exec(
        Recorder,
        *("sh", "-c", "sleep 60 & echo $!"),
        stdin=None,
        stderr=None,
    )
    await protocol.exited
    await until(lambda: protocol.output[1].endswith(b"\n"))
    assert not os.path.exists(f"/proc/{transport.get_pid()}")

    def signals():
        transport.kill()
        transport.terminate()
        transport.send_signal(signal=signal.SIGUSR1)

    assert calls_of_kill(signals) == []
    assert not protocol.lost.done()
    os.kill(int(protocol.output[1]), signal.SIGKILL)
    await protocol.lost
    with pytest.raises(ProcessLookupError):
        transport.kill()
    transport.close()


def test_wrong_signals(agree):
    async def scenario(loop):
        child = await start("cat", stdin=PIPE)
        seen = [error(child.send_signal, number) for number in (-1, 1000, "x")]
        assert error(child.send_signal, 0) is None
        child.kill()
        child.stdin.close()
        await child.wait()
        return [kind for kind, _ in seen]

    assert agree(scenario) == [OSError, OSError, TypeError]


async def test_pid():
    child = await start("sh", "-c", "echo $$", stdout=PIPE)
    out, _ = await child.communicate()
    assert int(out) == child.pid


async def test_no_zombie_is_left():
    child = await start("true")
    await child.wait()
    await turns(5)
    assert not os.path.exists(f"/proc/{child.pid}")


async def test_stdin_is_a_pipe():
    """A child can open /dev/stdin, which a socket does not allow."""
    child = await start("cat", "/dev/stdin", stdin=PIPE, stdout=PIPE)
    assert (await child.communicate(b"through"))[0] == b"through"
    child = await start("sh", "-c", "echo x > /dev/stdout", stdout=PIPE)
    assert (await child.communicate())[0] == b"x\n"


async def test_devnull():
    child = await start(
        "cat", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    assert await child.wait() == 0
    assert child.stdin is None and child.stdout is None


async def test_descriptors_and_files(tmp_path):
    path = tmp_path / "out"
    with open(path, "wb") as file:
        child = await start("echo", "x", stdout=file)
        assert await child.wait() == 0
    assert path.read_bytes() == b"x\n"


async def test_cwd_and_env(tmp_path):
    child = await start(
        "sh",
        "-c",
        "pwd; echo $WORD",
        cwd=tmp_path,
        stdout=PIPE,
        env={"WORD": "value", "PATH": os.environ["PATH"]},
    )
    out, _ = await child.communicate()
    assert out.decode() == f"{os.path.realpath(tmp_path)}\nvalue\n"


async def test_paths():
    child = await start(
        pathlib.Path("/bin/echo"), b"bytes", "text", stdout=PIPE
    )
    assert (await child.communicate())[0] == b"bytes text\n"
    child = await start(
        "name",
        "-c",
        "echo $0",
        executable=pathlib.Path("/bin/sh"),
        stdout=PIPE,
    )
    assert (await child.communicate())[0] == b"name\n"


async def test_other_arguments():
    child = await start(
        "sh",
        "-c",
        "umask; cut -d' ' -f1,6 /proc/self/stat",
        umask=0o027,
        start_new_session=True,
        stdout=PIPE,
    )
    umask, _, session = (await child.communicate())[0].split()
    assert umask == b"0027"
    assert int(session) == child.pid
    if os.getuid() == 0:
        child = await start(
            "sh", "-c", "id -u; id -g", user=1, group=1, stdout=PIPE
        )
        assert (await child.communicate())[0] == b"1\n1\n"


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
async def test_preexec_fn():
    child = await start(
        "sh", "-c", "umask", preexec_fn=lambda: os.umask(0o77), stdout=PIPE
    )
    assert (await child.communicate())[0] == b"0077\n"
    with pytest.raises(subprocess.SubprocessError):
        await start("true", preexec_fn=lambda: 1 / 0)


def test_no_fork_hook_runs(loop_name):
    """But with preexec_fn, which Python code runs."""
    done = run_script(
        loop_name,
        """
        seen = []
        os.register_at_fork(
            before=lambda: seen.append("before"),
            after_in_parent=lambda: seen.append("after"),
            after_in_child=lambda: os.write(1, b"in the child\\n"),
        )
        async def main(**kwargs):
            child = await asyncio.create_subprocess_exec("true", **kwargs)
            assert await child.wait() == 0
            say(seen)
        run(main())
        run(main(preexec_fn=int))
        """,
        warnings="ignore",
    )
    assert done.stdout.splitlines() == [
        "[]",
        "in the child",
        "['before', 'after']",
    ]


async def test_pass_fds_and_close_fds():
    read, write = os.pipe()
    os.set_inheritable(write, True)
    child = await start(
        "sh", "-c", f"echo x > /dev/fd/{write}", stderr=subprocess.DEVNULL
    )
    assert await child.wait() != 0
    for kwargs in {"pass_fds": [write]}, {"close_fds": False}:
        child = await start("sh", "-c", f"echo x > /dev/fd/{write}", **kwargs)
        assert await child.wait() == 0
    os.close(write)
    assert os.read(read, 10) == b"x\nx\n"
    os.close(read)


async def test_no_descriptor_of_the_loop_is_inherited():
    async with asyncio.timeout(DEADLINE):
        child = await start("ls", "/proc/self/fd", stdout=PIPE)
        out, _ = await child.communicate()
    # Its three, and the directory being listed.
    assert len(out.split()) == 4


def test_errors(agree):
    async def scenario(loop):
        seen = []
        for args, kwargs in (
            (["/no/such/program"], {}),
            (["/"], {}),
            (["true"], {"cwd": "/no/such/directory"}),
            (["true"], {"universal_newlines": True}),
            (["true"], {"shell": True}),
            (["true"], {"bufsize": 1}),
            (["true"], {"encoding": "utf-8"}),
            (["true"], {"errors": "strict"}),
            (["true"], {"text": True}),
            (["true"], {"unknown": 1}),
            ([], {}),
            ([5], {}),
            (["nul\0inside"], {}),
        ):
            try:
                result = await async_error(start(*args, **kwargs))
            except BaseException as exc:
                result = type(exc), str(exc)
            seen.append(result[0])
        for command in ([], 5, None):
            result = await async_error(
                asyncio.create_subprocess_shell(command)
            )
            seen.append(result)
        return seen

    assert agree(scenario)[0] is FileNotFoundError


async def test_failed_spawns_leave_no_descriptor():
    before = open_fds().keys()
    for _ in range(3):
        with pytest.raises(FileNotFoundError):
            await start("/no/such", stdin=PIPE, stdout=PIPE, stderr=PIPE)
    assert open_fds().keys() == before


async def test_many_at_once():
    async def one(n):
        child = await start("sh", "-c", f"echo {n}; exit {n}", stdout=PIPE)
        out, _ = await child.communicate()
        return int(out), child.returncode

    results = await asyncio.gather(*[one(n) for n in range(40)])
    assert results == [(n, n) for n in range(40)]


async def test_exits_before_anybody_waits():
    children = [await start("true") for _ in range(10)]
    await asyncio.sleep(0.05)
    for child in children:
        assert await child.wait() == 0


async def test_several_waiters():
    child = await start("sleep", "0.05")
    results = await asyncio.gather(*[child.wait() for _ in range(5)])
    assert results == [0] * 5


async def test_cancelled_wait():
    child = await start("sleep", "60")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(child.wait(), 0.02)
    child.kill()
    assert await child.wait() == -signal.SIGKILL


async def test_cancelled_read():
    child = await start("cat", stdin=PIPE, stdout=PIPE)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(child.stdout.read(), 0.02)
    out, _ = await child.communicate(b"still works")
    assert out == b"still works"


async def test_write_to_a_finished_child():
    child = await start("true", stdin=PIPE)
    await child.wait()

    async def flood():
        while True:
            child.stdin.write(bytes(100_000))
            await child.stdin.drain()
            await asyncio.sleep(0)

    kind, _ = await async_error(flood())
    assert kind in (BrokenPipeError, ConnectionResetError)


@asyncio_of_3_11_7
async def test_input_larger_than_what_is_read():
    child = await start("head", "-c", "10", stdin=PIPE, stdout=PIPE)
    out, _ = await child.communicate(bytes(5_000_000))
    assert len(out) == 10


async def test_output_after_the_child_is_gone():
    """A grandchild holds the pipe: wait() does not wait for it."""
    child = await start(
        "sh", "-c", "(sleep 0.1; echo late) & exit 5", stdout=PIPE
    )
    assert await child.wait() == 5
    assert await child.stdout.read() == b"late\n"


class Recorder(asyncio.SubprocessProtocol):
    def __init__(self):
        loop = asyncio.get_running_loop()
        self.calls = []
        self.output = {1: bytearray(), 2: bytearray()}
        self.exited = loop.create_future()
        self.lost = loop.create_future()

    def connection_made(self, transport):
        self.transport = transport
        self.calls.append("made")

    def pipe_data_received(self, fd, data):
        self.output[fd] += data

    def pipe_connection_lost(self, fd, exc):
        self.calls.append(f"pipe {fd}")

    def process_exited(self):
        self.calls.append("exited")
        self.exited.set_result(None)

    def connection_lost(self, exc):
        self.calls.append("lost")
        self.lost.set_result(exc)


async def test_protocol():
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.subprocess_exec(
        Recorder, "sh", "-c", "echo out; echo err >&2; exit 4"
    )
    assert isinstance(transport, asyncio.SubprocessTransport)
    assert transport.get_pid() > 0
    assert await protocol.lost is None
    assert protocol.calls[0] == "made" and protocol.calls[-1] == "lost"
    assert sorted(protocol.calls[1:-1]) == [
        "exited",
        "pipe 0",
        "pipe 1",
        "pipe 2",
    ]
    assert protocol.output == {1: b"out\n", 2: b"err\n"}
    assert transport.get_returncode() == 4
    transport.close()


async def test_transport():
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.subprocess_shell(Recorder, "cat")
    assert transport.get_returncode() is None
    stdin = transport.get_pipe_transport(0)
    assert isinstance(stdin, asyncio.WriteTransport)
    assert isinstance(transport.get_pipe_transport(1), asyncio.ReadTransport)
    assert transport.get_pipe_transport(5) is None
    stdin.write(b"x")
    stdin.close()
    await protocol.lost
    assert protocol.output[1] == b"x"
    assert isinstance(transport.get_extra_info("subprocess"), subprocess.Popen)
    transport.close()
    assert transport.is_closing()
    shown = repr(transport)
    assert shown.startswith("<_UnixSubprocessTransport closed pid=")
    assert "stdout=<_UnixReadPipeTransport closed" in shown


@pytest.mark.parametrize("how", ["waitpid", "SIG_IGN"])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
async def test_a_child_reaped_by_somebody_else(how, pyloop_only):
    """Its end is told once, with a status that nobody knows. asyncio may not
    find it at all, or its thread waits for it first."""
    before = signal.getsignal(signal.SIGCHLD)
    if how == "SIG_IGN":
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        transport, protocol = await child_about_to_end()
        if how == "waitpid":
            os.waitpid(transport.get_pid(), 0)
        await protocol.lost
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert transport.get_returncode() == 255
    assert protocol.calls == ["made", "exited", "lost"]
    transport.close()


@pytest.mark.parametrize("steps", range(8))
async def test_a_cancelled_start_leaves_nothing(steps, pyloop_only):
    before = open_fds().keys()
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            "sleep", "60", stdin=-1, stdout=-1, stderr=-1
        )
    )
    await turns(steps)
    starting.cancel()
    try:
        child = await starting
    except asyncio.CancelledError:
        pass
    else:
        child.kill()
        await child.wait()
        child._transport.close()
        del child
    path = f"/proc/self/task/{threading.get_native_id()}/children"

    def gone():
        with open(path) as file:
            children = file.read()
        return not children and open_fds().keys() <= before

    await until(gone)


async def test_children_beside_a_handler_of_sigchld():
    loop = asyncio.get_running_loop()
    seen = []
    loop.add_signal_handler(signal.SIGCHLD, seen.append, 1)
    child = await asyncio.create_subprocess_exec("sh", "-c", "exit 5")
    assert await child.wait() == 5
    await until(lambda: seen)
    seen.clear()
    with subprocess.Popen(["true"]) as other:
        await until(lambda: seen)
        assert other.wait() == 0
    assert loop.remove_signal_handler(signal.SIGCHLD) is True


def test_unclosed_child(agree):
    async def scenario(loop):
        child = await asyncio.create_subprocess_exec("sleep", "60", stdin=-1)
        transport = child._transport
        seen = [repr(transport)]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            transport.__del__()
        seen += [str(warning.message) for warning in caught]
        await child.wait()
        seen.append(repr(transport))
        return [re.sub(r"\d+", "N", text) for text in seen]

    assert "unclosed transport" in agree(scenario)[1]


async def test_close_kills():
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.subprocess_exec(Recorder, "sleep", "60")
    pid = transport.get_pid()
    transport.close()
    await protocol.lost
    await until(lambda: not os.path.exists(f"/proc/{pid}"))


async def test_pipes_are_connected_through_the_loop():
    """Tests of others patch connect_read_pipe."""
    loop = asyncio.get_running_loop()
    seen = []
    original = loop.connect_read_pipe

    async def connect_read_pipe(*args):
        seen.append(args)
        return await original(*args)

    loop.connect_read_pipe = connect_read_pipe
    child = await start("echo", "x", stdout=PIPE)
    await child.communicate()
    del loop.connect_read_pipe
    assert len(seen) == 1


def test_in_a_thread(loop_factory):
    """A loop outside the main thread can have children too."""
    results = []

    async def main():
        child = await start("sh", "-c", "echo x; exit 5", stdout=PIPE)
        out, _ = await child.communicate()
        return out, child.returncode

    def run():
        loop = loop_factory()
        try:
            results.append(
                loop.run_until_complete(asyncio.wait_for(main(), DEADLINE))
            )
        finally:
            finish(loop)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert results == [(b"x\n", 5)] * 3


def test_many_threads_and_loops_at_once(loop_factory):
    """Each child's output, status and end reach its own loop, once."""
    threads, children = 6, 12
    ends = []

    async def one(n):
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.subprocess_exec(
            Recorder, "sh", "-c", f"cat /dev/stdin; exit {n % 200}"
        )
        data = b"%d" % n * 1000
        stdin = transport.get_pipe_transport(0)
        stdin.write(data)
        stdin.close()
        await protocol.lost
        assert protocol.output == {1: data, 2: b""}
        assert transport.get_returncode() == n % 200
        transport.close()
        return transport.get_pid(), protocol

    async def main(thread):
        calls = [one(thread * children + n) for n in range(children)]
        async with asyncio.timeout(DEADLINE):
            for pid, protocol in await asyncio.gather(*calls):
                assert not os.path.exists(f"/proc/{pid}")
                ends.append(protocol.calls)

    def work(thread):
        loop = loop_factory()
        try:
            loop.run_until_complete(main(thread))
        finally:
            finish(loop)

    workers = [threading.Thread(target=work, args=[n]) for n in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(DEADLINE)
    assert len(ends) == threads * children
    for calls in ends:
        for name in "made", "exited", "lost":
            assert calls.count(name) == 1


@pytest.mark.parametrize("method", SIGNALS)
def test_loop_closed_under_a_child(loop_factory, loop_name, method):
    """The child lives on, and can be signalled; the loop's descriptor for it
    is gone."""
    before = open_fds()
    loop = loop_factory()
    transport, _ = loop.run_until_complete(
        loop.subprocess_exec(
            Recorder, "sleep", "60", stdin=None, stdout=None, stderr=None
        )
    )
    child = transport.get_extra_info("subprocess")
    loop.close()
    left = open_fds().keys() - before.keys()
    transport._closed = True  # its loop is gone
    for fd in left:  # asyncio's
        os.close(fd)
    args = [SIGNALS[method]] if method == "send_signal" else []
    try:
        assert child.poll() is None
        getattr(transport, method)(*args)
        status = child.wait(DEADLINE)
    finally:
        child.kill()
        child.wait()
    if loop_name == "pyloop":
        assert not left
        # A thread of asyncio's may be the first to wait.
        assert status == -SIGNALS[method]
        again = functools.partial(getattr(transport, method), *args)
        assert calls_of_kill(again) == []


def test_without_pidfd(loop_name):
    """Old kernels and sandboxes: a thread waits for the child."""
    done = run_script(
        loop_name,
        DENY
        + textwrap.dedent("""
        deny(434, errno.ENOSYS)
        try:
            os.pidfd_open(os.getpid())
        except OSError as exc:
            assert exc.errno == errno.ENOSYS
        async def main():
            child = await asyncio.create_subprocess_exec(
                "sh", "-c", "cat; exit 5", stdin=-1, stdout=-1)
            assert (await child.communicate(b"x"))[0] == b"x"
            assert child.returncode == 5
            child = await asyncio.create_subprocess_exec("sleep", "60")
            child.terminate()
            assert await child.wait() == -signal.SIGTERM
            try:
                child.kill()
            except ProcessLookupError:
                say("gone")
        run(main())
        """),
        PYLOOP_IO_URING="",
    )
    if done.stdout == "no seccomp here\n":
        pytest.skip("no seccomp here")
    assert done.stdout == "gone\n"


@pytest.mark.skipif(
    sys.version_info >= (3, 14), reason="3.14 has no child watchers to set"
)
@pytest.mark.parametrize("policy", [False, True])
@pytest.mark.parametrize(
    "watcher",
    [
        "ThreadedChildWatcher",
        "PidfdChildWatcher",
        "MultiLoopChildWatcher",
        "SafeChildWatcher",
        "FastChildWatcher",
    ],
)
def test_child_watchers(loop_name, policy, watcher):
    """The one the program sets is asked, also below pyloop's policy."""
    if policy and loop_name == "asyncio":
        pytest.skip("asyncio has the default policy")
    done = run_script(
        loop_name,
        f"""
        if {policy}:
            import pyloop
            pyloop.install()
        kind = asyncio.{watcher}
        class Watcher(kind):
            def add_child_handler(self, *args):
                say("asked")
                super().add_child_handler(*args)
        watcher = Watcher()
        asyncio.set_child_watcher(watcher)
        loop = asyncio.new_event_loop() if {policy} else new_event_loop()
        asyncio.set_event_loop(loop)
        watcher.attach_loop(loop)
        async def main():
            child = await asyncio.create_subprocess_exec(
                "sh", "-c", "cat; exit 5", stdin=-1, stdout=-1)
            assert (await child.communicate(b"x"))[0] == b"x"
            return child.returncode
        assert loop.run_until_complete(main()) == 5
        watcher.close()
        loop.close()
        """,
        warnings="ignore",
    )
    assert done.stdout == "asked\n"


def test_child_left_behind(loop_name):
    """The loop ends with a child still running, and the program later: no
    complaint but the ResourceWarnings, no hang."""
    run_script(
        loop_name,
        """
        import gc
        async def main():
            return await asyncio.create_subprocess_exec(
                "cat", stdin=stdin, stdout=stdout)
        for _ in range(3):
            (stdin, write), (read, stdout) = os.pipe(), os.pipe()
            child = run(main())
            os.close(stdin)
            os.close(stdout)
            os.write(write, b"x")
            assert os.read(read, 1) == b"x"
            del child
            gc.collect()
        """,
        warnings="ignore",
    )


def test_signals_are_reset_in_the_child(loop):
    """A child of a loop with handlers dies of SIGTERM, SIGPIPE as usual."""
    loop.add_signal_handler(signal.SIGTERM, int)

    async def main():
        child = await start("sleep", "60")
        child.terminate()
        return await child.wait()

    assert loop.run_until_complete(main()) == -signal.SIGTERM
    loop.remove_signal_handler(signal.SIGTERM)
