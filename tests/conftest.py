"""Every test runs on asyncio, which is the oracle, and on pyloop.

A coroutine test runs inside the loop. Each test must leave no descriptor
open and nothing in asyncio's error log.
"""

import asyncio
import gc
import inspect
import logging
import os
import shlex
import subprocess
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import support  # noqa: E402


@pytest.fixture(params=support.LOOPS)
def loop_name(request):
    return request.param


@pytest.fixture(scope="session")
def faults_library(tmp_path_factory):
    """tests/c/faults.c, to be preloaded."""
    path = tmp_path_factory.mktemp("faults") / "faults.so"
    compiler = shlex.split(os.environ.get("CC", "cc"))
    source = support.ROOT / "tests" / "c" / "faults.c"
    subprocess.run(
        [*compiler, "-shared", "-fPIC", "-O1", source, "-o", path, "-ldl"],
        check=True,
    )
    return str(path)


@pytest.fixture
def loop_factory(loop_name):
    return support.factory(loop_name)


@pytest.fixture
def loop(loop_factory):
    loop = loop_factory()
    yield loop
    assert not loop.is_running()
    support.finish(loop)


@pytest.fixture
def run(loop_factory):
    def run(main, **kwargs):
        return support.run(loop_factory, main, **kwargs)

    return run


@pytest.fixture
def pyloop_only(loop_name):
    """For promises that asyncio does not make: not run on it."""


@pytest.fixture
def agree(loop_factory):
    """Run a scenario on asyncio and on the loop; both must do the same."""

    def agree(scenario):
        expected = support.outcome(asyncio.SelectorEventLoop, scenario)
        actual = support.outcome(loop_factory, scenario)
        assert actual == expected
        if actual[0] == "returned":
            return actual[1]
        return actual[1:]

    return agree


class Records(logging.Handler):
    def __init__(self):
        super().__init__(logging.ERROR)
        self.records = []

    def emit(self, record):
        self.records.append(record.getMessage())


@pytest.fixture(autouse=True)
def errors():
    """asyncio's error log; a test that expects words in it clears them."""
    handler = Records()
    logger = logging.getLogger("asyncio")
    logger.addHandler(handler)
    yield handler.records
    logger.removeHandler(handler)
    assert not handler.records


@pytest.fixture(scope="session", autouse=True)
def warm():
    """Let each loop open what it keeps for the life of the process."""

    async def main():
        await asyncio.get_running_loop().getaddrinfo("localhost", 80)

    for name in support.LOOPS:
        support.run(support.factory(name), main())
    # The collections after each test need not look at pytest.
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def no_running_loop():
    """A loop that believes it runs would fail all later tests too."""
    yield
    left = asyncio._get_running_loop()
    asyncio._set_running_loop(None)
    assert left is None


@pytest.fixture(autouse=True)
def no_leaked_fds(errors, warm):
    before = support.open_fds()
    yield
    gc.collect()
    after = support.open_fds()
    leaked = {fd: after[fd] for fd in after.keys() - before.keys()}
    assert not leaked


def pytest_generate_tests(metafunc):
    names = metafunc.fixturenames
    if inspect.iscoroutinefunction(metafunc.function):
        if "loop_name" not in names:
            names.append("loop_name")
            metafunc.parametrize("loop_name", support.LOOPS, indirect=True)


def pytest_collection_modifyitems(config, items):
    def wanted(item):
        if "pyloop_only" not in getattr(item, "fixturenames", ()):
            return True
        return item.callspec.params["loop_name"] == "pyloop"

    config.hook.pytest_deselected(
        items=[item for item in items if not wanted(item)]
    )
    items[:] = filter(wanted, items)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    kwargs = {name: pyfuncitem.funcargs[name] for name in names}
    loop_factory = support.factory(pyfuncitem.callspec.params["loop_name"])
    support.run(loop_factory, pyfuncitem.obj(**kwargs))
    return True
