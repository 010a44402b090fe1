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
