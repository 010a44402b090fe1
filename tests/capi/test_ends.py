"""Interpreters that end, one after another or with native threads alive."""

import os
import sys
import sysconfig

import building
import pytest
import support

HERE = os.path.dirname(os.path.abspath(__file__))

INTERPRETER = """
import asyncio
import importlib.util
import pyloop

spec = importlib.util.spec_from_file_location("capi_client", path)
client = importlib.util.module_from_spec(spec)
spec.loader.exec_module(client)

async def work():
    await asyncio.sleep(0)

async def main():
    loop = asyncio.get_running_loop()
    burst = client.burst(loop, 2, 500)
    while client.counts(burst)[0] < 1000:
        await asyncio.sleep(0)
    client.join(burst)
    calls = client.calls(loop, work, 100, 10)
    assert (
        await loop.run_in_executor(None, client.join_calls, calls)
    )[1] == 0
    log = []
    held = client.hold(loop)
    assert await client.operation(held, 0, "value", log) == "value"

pyloop.run(main())
"""

CYCLES = """
import resource, threading
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters

def cycle():
    interpreter = interpreters.create()
    try:
        if hasattr(interpreters, "exec"):
            failure = interpreters.exec(interpreter, code)
            assert failure is None, failure
        else:
            interpreters.run_string(interpreter, code)
    except BaseException as exc:
        failures.append(exc)
    finally:
        interpreters.destroy(interpreter)

def rss():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

failures = []
for n in range(count):
    thread = threading.Thread(target=cycle)
    thread.start()
    thread.join()
    assert not failures, failures
    if n == count // 2:
        before = rss()
assert not measure or rss() - before < 1 << 20, (before, rss())
"""


# 200 for the figure in docs/capi.md.
COUNT = int(os.environ.get("PYLOOP_TEST_INTERPRETERS", "30"))


@pytest.fixture(scope="module", autouse=True)
def path():
    """Built once, before processes and interpreters ask for it."""
    return building.c_client().__file__


@pytest.mark.slow
@pytest.mark.timeout(130)
@pytest.mark.skipif(
    sys.version_info < (3, 12), reason="own-GIL interpreters: 3.12"
)
def test_interpreters_created_used_and_destroyed(path):
    # CPython itself loses some 6 MB with each interpreter before 3.14, and
    # twice that on a free-threaded build.
    free_threaded = sysconfig.get_config_var("Py_GIL_DISABLED")
    measure = sys.version_info >= (3, 14) and not free_threaded
    code = f"import sys\nsys.path[:0] = {sys.path!r}\npath = {path!r}\n"
    end = "" if measure else "\nos._exit(0)\n"  # 3.12: ssl breaks the end
    support.run_script(
        "pyloop",
        f"import os\ncode = {code + INTERPRETER!r}\nmeasure = {measure}\n"
        f"count = {COUNT if measure else 10}\n" + CYCLES + end,
    )


EXIT = """
import ctypes
import os
import sys
import pyloop

sys.path.insert(0, {here!r})
import building

client = building.c_client()
loop = pyloop.new_event_loop()
if {turns}:
    async def main():
        await asyncio.sleep(0)
    loop.run_until_complete(main())
burst = client.burst(loop, 4, 500000)
# Its memory, and what the threads hold of the loop, outlive the interpreter.
ctypes.pythonapi.Py_IncRef(ctypes.py_object(burst))
if {close}:
    loop.close()
else:
    import warnings
    warnings.simplefilter("ignore")
"""


@pytest.mark.parametrize("close", [False, True])
@pytest.mark.parametrize("turns", [0, 1])
def test_exit_with_native_threads_posting(turns, close):
    support.run_script(
        "pyloop", EXIT.format(here=HERE, turns=turns, close=close)
    )


DAEMON = """
import sys
import threading
import pyloop

sys.path.insert(0, {here!r})
import building

client = building.c_client()
started = threading.Event()

def run():
    loop = pyloop.new_event_loop()
    loop.call_soon(started.set)
    held.append(client.hold(loop))
    bursts.append(client.burst(loop, 2, 1000000, 0, int))
    loop.run_forever()

held, bursts = [], []
threading.Thread(target=run, daemon=True).start()
started.wait()
import ctypes
ctypes.pythonapi.Py_IncRef(ctypes.py_object(bursts[0]))
"""


def test_exit_with_a_loop_running_in_a_daemon_thread():
    support.run_script("pyloop", DAEMON.format(here=HERE))
