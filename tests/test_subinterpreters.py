"""Loops in isolated subinterpreters, each with its own GIL (3.12+)."""

import sys
import textwrap

import pytest
from support import run_script

pytestmark = pytest.mark.skipif(
    sys.version_info < (3, 12), reason="own-GIL interpreters: 3.12"
)

# The means differ from version to version; the child picks what it has.
PRELUDE = """
import os, sys, threading
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters

def in_interpreter(code):
    code = f"import sys; sys.path[:0] = {sys.path!r}\\n" + code
    interpreter = interpreters.create()
    try:
        if hasattr(interpreters, "exec"):
            failure = interpreters.exec(interpreter, code)
            assert failure is None, failure
        else:
            interpreters.run_string(interpreter, code)
    finally:
        interpreters.destroy(interpreter)
"""

BODY = """
import asyncio
{setup}
async def main():
    async def echo(reader, writer):
        writer.write(await reader.readline())
        await writer.drain()
        writer.close()
        await writer.wait_closed()
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server:
        for _ in range(5):
            reader, writer = await asyncio.open_connection(
                *server.sockets[0].getsockname())
            writer.write(b"hello\\n")
            assert await reader.read() == b"hello\\n"
            writer.close()
            await writer.wait_closed()
    loop = asyncio.get_running_loop()
    seen = []
    loop.call_soon_threadsafe(seen.append, 1)
    for n in range(100):
        loop.call_later(n / 100000, seen.append, n)
    await asyncio.sleep(0.01)
    assert len(seen) == 101
with asyncio.Runner(loop_factory=factory) as runner:
    runner.run(main())
"""

SETUP = {
    "asyncio": "factory = asyncio.SelectorEventLoop",
    "pyloop": "import pyloop; factory = pyloop.new_event_loop",
}


def run_in_interpreters(loop_name, code):
    body = BODY.format(setup=SETUP[loop_name])
    if sys.version_info < (3, 13):
        # Importing ssl in one breaks the end of the process in 3.12.
        code = textwrap.dedent(code) + "\nos._exit(0)\n"
    run_script(loop_name, PRELUDE + f"\nBODY = {body!r}\n" + code)


def test_one(loop_name):
    run_in_interpreters(loop_name, "in_interpreter(BODY)")


def test_one_after_another(loop_name):
    run_in_interpreters(loop_name, "for _ in range(5): in_interpreter(BODY)")


def test_beside_a_loop_of_the_main_interpreter(loop_name):
    run_in_interpreters(
        loop_name,
        """
loop = new_event_loop()
thread = threading.Thread(target=loop.run_forever)
thread.start()
in_interpreter(BODY)
loop.call_soon_threadsafe(loop.stop)
thread.join()
loop.run_until_complete(asyncio.sleep(0.001))
loop.close()
""",
    )


def test_several_in_threads(loop_name):
    run_in_interpreters(
        loop_name,
        """
failures = []
def work():
    try:
        in_interpreter(BODY)
    except BaseException as exc:
        failures.append(exc)
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not failures, failures
""",
    )


def test_dropped_without_close(loop_name):
    """The end of its interpreter frees a loop that nobody closed."""
    run_in_interpreters(
        loop_name,
        f"""
import warnings
in_interpreter('''
import asyncio, warnings
warnings.simplefilter("ignore")
{SETUP[loop_name]}
loop = factory()
loop.run_until_complete(asyncio.sleep(0))
loop.call_later(1000, print)
''')
in_interpreter(BODY)
""",
    )


def test_children(loop_name):
    """Spawning while, and after, a subinterpreter has lived."""
    run_in_interpreters(
        loop_name,
        """
async def main():
    child = await asyncio.create_subprocess_exec("true")
    assert await child.wait() == 0
in_interpreter(BODY)
run(main())
interpreter = interpreters.create()
run(main())
interpreters.destroy(interpreter)
""",
    )


@pytest.mark.skipif(
    sys.version_info[:2] == (3, 12),
    reason="3.12 itself frees what it must not, one run in 20, on asyncio too",
)
def test_children_beside_running_interpreters(loop_name):
    """Children of several threads, while interpreters run loops and spawn
    theirs: nobody's hooks run in a child, and each end is noticed."""
    run_in_interpreters(
        loop_name,
        f"""
CHILDREN = '''
import asyncio
{SETUP[loop_name]}
async def one(n):
    child = await asyncio.create_subprocess_exec(
        "sh", "-c", f"cat /dev/stdin; exit {{n}}", stdin=-1, stdout=-1)
    assert (await child.communicate(b"x" * n))[0] == b"x" * n
    assert child.returncode == n
async def many():
    for _ in range(3):
        await asyncio.gather(*[one(n) for n in range(4)])
with asyncio.Runner(loop_factory=factory) as runner:
    runner.run(many())
'''
failures = []
def guarded(function, *args):
    try:
        function(*args)
    except BaseException as exc:
        failures.append(exc)
works = [(in_interpreter, BODY), (in_interpreter, CHILDREN)] * 2
works += [(exec, CHILDREN, {{}})] * 3
threads = [threading.Thread(target=guarded, args=work) for work in works]
for thread in threads:
    thread.start()
exec(CHILDREN, {{}})
for thread in threads:
    thread.join()
assert not failures, failures
""",
    )


@pytest.mark.skipif(
    sys.version_info < (3, 14), reason="concurrent.interpreters: 3.14"
)
def test_concurrent_interpreters(loop_name):
    run_in_interpreters(
        loop_name,
        """
from concurrent import interpreters as public
import concurrent.futures
code = f"import sys; sys.path[:0] = {sys.path!r}\\n" + BODY
interpreter = public.create()
interpreter.exec(code)
interpreter.close()
async def main():
    loop = asyncio.get_running_loop()
    with concurrent.futures.InterpreterPoolExecutor(2) as pool:
        calls = [loop.run_in_executor(pool, pow, 2, n) for n in range(10)]
        assert await asyncio.gather(*calls) == [2**n for n in range(10)]
run(main())
""",
    )
