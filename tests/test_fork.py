import pytest
from support import run_script

# os.fork() in a process with threads warns from 3.12 on.
CHILD = """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)

def in_child(work):
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
"""


def fork(loop_name, code):
    import textwrap

    run_script(loop_name, CHILD + textwrap.dedent(code))


def test_child_closes_the_inherited_loop_and_runs_its_own(loop_name):
    fork(
        loop_name,
        """
        loop = new_event_loop()
        loop.run_until_complete(asyncio.sleep(0.001))
        def work():
            loop.close()
            own = new_event_loop()
            assert own.run_until_complete(asyncio.sleep(0.001, 5)) == 5
            own.close()
            run(asyncio.sleep(0))
        in_child(work)
        assert loop.run_until_complete(asyncio.sleep(0.001, 6)) == 6
        loop.close()
        """,
    )


def test_fork_inside_a_running_loop(loop_name):
    """The child may run a loop of its own; the parent's goes on, its
    watched descriptors too."""
    fork(
        loop_name,
        """
        async def main():
            loop = asyncio.get_running_loop()
            near, far = socket.socketpair()
            near.setblocking(False)
            waiting = asyncio.ensure_future(loop.sock_recv(near, 10))
            await asyncio.sleep(0)
            def work():
                asyncio._set_running_loop(None)
                own = new_event_loop()
                assert own.run_until_complete(asyncio.sleep(0.001, 5)) == 5
                own.close()
            in_child(work)
            far.send(b"x")
            assert await waiting == b"x"
            near.close()
            far.close()
        run(main())
        """,
    )


def test_fork_inside_a_callback_and_a_runner(loop_name):
    """Nothing is undone by hand, and the child has children of its own."""
    fork(
        loop_name,
        """
        async def work():
            child = await asyncio.create_subprocess_exec("sh", "-c", "exit 3")
            assert await child.wait() == 3
        def in_callback():
            def child():
                with asyncio.Runner(loop_factory=new_event_loop) as runner:
                    runner.run(work())
            in_child(child)
            done.append(1)
        done = []
        async def main():
            asyncio.get_running_loop().call_soon(in_callback)
            await asyncio.sleep(0.001)
            await work()
        run(main())
        assert done == [1]
        """,
    )


def test_child_that_just_exits(loop_name):
    """With os._exit() nothing of the parent's is touched."""
    fork(
        loop_name,
        """
        async def main():
            loop = asyncio.get_running_loop()
            server = await loop.create_server(
                asyncio.Protocol, "127.0.0.1", 0)
            in_child(lambda: None)
            reader, writer = await asyncio.open_connection(
                *server.sockets[0].getsockname())
            writer.close()
            await writer.wait_closed()
            server.close()
        run(main())
        """,
    )


def test_close_in_the_child_does_not_disturb_the_parent(loop_name):
    """Descriptors watched by the parent stay watched: the epoll instance is
    shared between both."""
    if loop_name == "asyncio":
        pytest.skip("asyncio's child unregisters from the shared epoll")
    fork(
        loop_name,
        """
        loop = new_event_loop()
        near, far = socket.socketpair()
        seen = []
        loop.add_reader(near, lambda: (seen.append(near.recv(1)), loop.stop()))
        loop.call_soon(loop.stop)
        loop.run_forever()
        in_child(loop.close)
        far.send(b"x")
        loop.run_forever()
        assert seen == [b"x"]
        loop.close()
        near.close()
        far.close()
        """,
    )


def test_signal_handlers_after_fork_from_a_thread(loop_name):
    """The forking thread is the child's main thread."""
    fork(
        loop_name,
        """
        def thread():
            def work():
                loop = new_event_loop()
                loop.add_signal_handler(signal.SIGUSR1, loop.stop)
                loop.call_soon(os.kill, os.getpid(), signal.SIGUSR1)
                loop.run_forever()
                loop.remove_signal_handler(signal.SIGUSR1)
                loop.close()
            in_child(work)
        worker = threading.Thread(target=thread)
        worker.start()
        worker.join()
        """,
    )


def test_fork_while_another_thread_runs_a_loop(loop_name):
    fork(
        loop_name,
        """
        loop = new_event_loop()
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        def work():
            run(asyncio.sleep(0.001))
        for _ in range(5):
            in_child(work)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
        """,
    )


def test_multiprocessing_fork(loop_name):
    fork(
        loop_name,
        """
        import multiprocessing
        context = multiprocessing.get_context("fork")
        def work(queue):
            async def main():
                await asyncio.sleep(0.001)
                return 5
            queue.put(run(main()))
        queue = context.Queue()
        process = context.Process(target=work, args=[queue])
        process.start()
        assert queue.get() == 5
        process.join()
        queue.close()
        queue.join_thread()
        """,
    )


def test_fork_in_callbacks_of_every_kind(loop_name):
    """The child leaves the callback it was born in and runs a loop."""
    fork(
        loop_name,
        """
        def work():
            asyncio._set_running_loop(None)
            run(asyncio.sleep(0.001))
        seen = []
        def step(name):
            in_child(work)
            seen.append(name)
        class Protocol(asyncio.Protocol):
            def data_received(self, data):
                step("data")
        async def main():
            loop = asyncio.get_running_loop()
            near, far = socket.socketpair()
            other, peer = socket.socketpair()
            transport, _ = await loop.create_connection(Protocol, sock=near)
            def readable():
                loop.remove_reader(other)
                step("reader")
            loop.add_reader(other, readable)
            loop.call_soon(step, "soon")
            loop.call_later(0.001, step, "timer")
            loop.call_soon_threadsafe(step, "threadsafe")
            loop.add_signal_handler(signal.SIGUSR1, step, "signal")
            os.kill(os.getpid(), signal.SIGUSR1)
            far.send(b"x")
            peer.send(b"x")
            while len(seen) < 6:
                await asyncio.sleep(0.001)
            loop.remove_signal_handler(signal.SIGUSR1)
            transport.close()
            for sock in far, other, peer:
                sock.close()
        run(main())
        assert sorted(seen) == sorted(
            ["data", "reader", "soon", "timer", "threadsafe", "signal"])
        """,
    )


def test_signals_stay_in_their_process(loop_name):
    """The wake-up descriptor is shared until the child takes its own."""
    fork(
        loop_name,
        """
        loop = new_event_loop()
        seen = []
        loop.add_signal_handler(signal.SIGUSR1, seen.append, "parent")
        def work():
            own = new_event_loop()
            own.add_signal_handler(signal.SIGUSR1, seen.append, "child")
            own.call_soon(os.kill, os.getpid(), signal.SIGUSR1)
            own.run_until_complete(asyncio.sleep(0.01))
            assert seen == ["child"], seen
            own.close()
        in_child(work)
        loop.run_until_complete(asyncio.sleep(0.01))
        assert seen == [], seen
        os.kill(os.getpid(), signal.SIGUSR1)
        loop.run_until_complete(asyncio.sleep(0.01))
        assert seen == ["parent"], seen
        loop.remove_signal_handler(signal.SIGUSR1)
        loop.close()
        """,
    )


def test_hand_off_to_a_copy_nobody_runs(loop_name):
    """In the child of a fork the thread that ran the loop is gone."""
    fork(
        loop_name,
        """
        loop = new_event_loop()
        started = threading.Event()
        loop.call_soon(started.set)
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        started.wait()
        time.sleep(0.01)
        def work():
            for _ in range(1000):
                loop.call_soon_threadsafe(int)
            run(asyncio.sleep(0.001))
        in_child(work)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
        """,
    )


def test_popen_of_a_shell_by_c_code(loop_name):
    """system() and popen() fork without Python knowing."""
    fork(
        loop_name,
        """
        async def main():
            loop = asyncio.get_running_loop()
            for _ in range(5):
                assert os.system("true") == 0
                assert await loop.run_in_executor(
                    None, os.system, "true") == 0
        run(main())
        """,
    )


@pytest.mark.parametrize("library", ["CDLL", "PyDLL"])
def test_popen_of_foreign_code(loop_name, library):
    """C code forks without and with the GIL, in any thread, while a loop
    runs and is handed work."""
    fork(
        loop_name,
        f"""
        import ctypes
        libc = ctypes.{library}(None)
        libc.popen.restype = ctypes.c_void_p
        libc.pclose.argtypes = [ctypes.c_void_p]
        def child():
            stream = libc.popen(b"exit 3", b"r")
            assert stream
            return libc.pclose(stream) >> 8
        async def main():
            loop = asyncio.get_running_loop()
            assert child() == 3
            done = threading.Event()
            def post():
                while not done.is_set():
                    loop.call_soon_threadsafe(int)
                    time.sleep(0)
            poster = threading.Thread(target=post)
            poster.start()
            calls = [loop.run_in_executor(None, child) for _ in range(8)]
            assert await asyncio.gather(*calls) == [3] * 8
            done.set()
            poster.join()
        run(main())
        """,
    )


def test_close_in_the_child_leaves_the_parents_children(loop_name):
    """The parent still sees their end."""
    if loop_name == "asyncio":
        pytest.skip("asyncio's child unregisters from the shared epoll")
    fork(
        loop_name,
        """
        loop = new_event_loop()
        start = asyncio.create_subprocess_exec
        async def begin():
            return await start("sh", "-c", "read word; exit 5", stdin=-1)
        child = loop.run_until_complete(begin())
        in_child(loop.close)
        async def end():
            child.stdin.close()
            return await child.wait()
        assert loop.run_until_complete(end()) == 5
        loop.close()
        """,
    )


@pytest.mark.parametrize("ends", ["close", "abort", "nothing"])
def test_what_was_written_is_sent_once(loop_name, ends):
    """Before the fork; the child that ends its copy has nothing to send."""
    fork(
        loop_name,
        f"""
        async def main():
            loop = asyncio.get_running_loop()
            near, far = socket.socketpair()
            near.setblocking(False)
            transport, _ = await loop.create_connection(
                asyncio.Protocol, sock=near
            )
            transport.write(b"once")
            def work():
                if {ends!r} != "nothing":
                    transport.{ends if ends != "nothing" else "is_closing"}()
            in_child(work)
            transport.write(b" more")
            await asyncio.sleep(0.01)
            assert far.recv(100) == b"once more"
            transport.abort()
            far.close()
        run(main())
        """,
    )
