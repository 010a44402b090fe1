"""Whatever a method is given, the loop answers with an exception and lives.

What each method says of each mistake is in the file of its subject; here is
every method with values nobody should pass.
"""

import asyncio
import gc
import inspect
import itertools

import pytest
from support import error, spin, turns, wired

VALUES = [None, -1, 0, 2**31, 2**64, 1.5, float("nan"), float("inf")]
VALUES += ["text", b"bytes", [], {}, object(), int, Ellipsis]

# These would wait for ever, or stop what runs the test.
SKIPPED = {"run_forever", "run_until_complete", "close", "stop"}


def methods_of(thing):
    return [
        name
        for name in dir(type(thing))
        if not name.startswith("_")
        and callable(getattr(thing, name))
        and name not in SKIPPED
    ]


def combinations():
    yield ()
    for value in VALUES:
        yield (value,)
    for pair in itertools.islice(
        itertools.product(VALUES, repeat=2), 0, None, 7
    ):
        yield pair
    for three in itertools.islice(
        itertools.product(VALUES, repeat=3), 0, None, 211
    ):
        yield three


def call(method, args):
    """Call, and close what it returns; any Exception will do."""
    try:
        result = method(*args)
    except Exception:
        return None
    if inspect.iscoroutine(result):
        result.close()
        return None
    return result


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("debug", [False, True])
def test_methods_of_the_loop(loop, loop_name, closed, debug, errors):
    loop.set_debug(debug)
    loop.set_exception_handler(lambda *args: None)
    if closed:
        loop.close()
    unsafe = {
        "default_exception_handler",
        "add_signal_handler",
        "remove_signal_handler",
        "add_reader",
        "add_writer",
        "remove_reader",
        "remove_writer",
        "run_in_executor",
        "set_default_executor",
        "create_task",
        "shutdown_default_executor",
    }
    if loop_name == "asyncio":
        unsafe.add("call_at")  # takes anything, and trips over it later
    for name in methods_of(loop):
        if name in unsafe:
            continue
        for args in combinations():
            if name in ("set_exception_handler", "set_task_factory") and (
                args and callable(args[0])
            ):
                continue
            if name == "call_exception_handler" and args in ((), ({},)):
                continue
            result = call(getattr(loop, name), args)
            if isinstance(result, asyncio.Handle):
                result.cancel()
            if isinstance(result, asyncio.Future):
                result.cancel()
        if not loop.is_closed():
            loop.set_debug(debug)
    if not closed:
        loop.set_exception_handler(None)
        loop.set_debug(False)
        spin(loop)
        assert loop.run_until_complete(asyncio.sleep(0.001, 5)) == 5
    errors.clear()


class Numbered:
    def __init__(self, number):
        self.number = number

    def __repr__(self):
        return f"Numbered({self.number!r})"

    def fileno(self):
        return self.number


def test_watching_nonsense(agree):
    numbers = [*VALUES, -2, -(2**64), 2**31 - 1, -2.5, 2.0**40]
    numbers = [number for number in numbers if number not in (0, 1.5)]

    async def scenario(loop):
        seen = []
        for file in (*numbers, *map(Numbered, numbers)):
            for name in ("add_reader", "add_writer"):
                seen.append(error(getattr(loop, name), file, int))
            for name in ("remove_reader", "remove_writer"):
                failed = error(getattr(loop, name), file)
                seen.append(failed or getattr(loop, name)(file))
        return seen

    assert None not in agree(scenario)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("state", ["open", "closing", "lost"])
async def test_methods_of_a_stream_transport(state):
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda *args: None)
    async with wired() as (protocol, peer):
        transport = protocol.transport
        if state != "open":
            transport.close()
        if state == "lost":
            await protocol.lost
            await turns()
        for name in methods_of(transport):
            if name in ("abort", "set_protocol", "write_eof"):
                continue
            if name == "writelines" and state != "open":
                continue
            for args in combinations():
                call(getattr(transport, name), args)
        await turns()


def test_attributes(loop):
    """Read-only ones stay as they are."""
    for name in ("run_forever", "call_soon", "time"):
        setattr(loop, name, getattr(loop, name))
        delattr(loop, name)
    loop.anything = 1
    del loop.anything
    with pytest.raises(AttributeError):
        loop.no_such_attribute


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_init_again(loop):
    """A second __init__() may fail or not, but must not crash."""
    try:
        type(loop).__init__(loop)
    except Exception:
        pass
    gc.collect()


def test_init_never_called(loop):
    """A subclass that forgets super().__init__()."""

    class Forgetful(type(loop)):
        def __init__(self):
            pass

        def __del__(self):
            pass

    broken = Forgetful()
    for name in (
        "time is_running is_closed get_debug stop close run_forever"
    ).split():
        try:
            getattr(broken, name)()
        except (AttributeError, RuntimeError, TypeError):
            pass
    for call_ in (
        lambda: broken.call_soon(int),
        lambda: broken.call_later(1, int),
        lambda: broken.call_soon_threadsafe(int),
        lambda: broken.add_reader(0, int),
        lambda: broken.remove_reader(0),
        lambda: repr(broken),
    ):
        try:
            call_()
        except (AttributeError, RuntimeError, TypeError, OSError):
            pass


def test_callbacks_that_meddle(loop):
    """Callbacks that change what the loop is about to do."""
    handles = []

    def meddle():
        for handle in handles:
            handle.cancel()
        handles.extend(loop.call_soon(int) for _ in range(100))
        handles.extend(loop.call_later(0, meddle_less) for _ in range(100))

    def meddle_less():
        for handle in handles[::2]:
            handle.cancel()

    for _ in range(50):
        handles.append(loop.call_soon(meddle))
        handles.append(loop.call_later(0, meddle))
        spin(loop)
    for handle in handles:
        handle.cancel()
    spin(loop)


def test_destructors_that_call_back(loop):
    """Objects whose __del__ schedules, cancels and closes."""

    class Nasty:
        def __init__(self):
            self.handle = loop.call_later(1000, int)

        def __call__(self, *args):
            pass

        def __del__(self):
            self.handle.cancel()
            if not loop.is_closed():
                loop.call_soon(int)
                loop.call_later(0, int)

    for n in range(200):
        nasty = Nasty()
        handle = loop.call_soon(nasty, Nasty())
        timer = loop.call_later(0, nasty, Nasty())
        if n % 3 == 0:
            handle.cancel()
            timer.cancel()
        if n % 10 == 0:
            spin(loop)
    del nasty
    loop.call_soon(Nasty())
    loop.call_later(1000, Nasty())
    loop.close()
