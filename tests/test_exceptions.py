import asyncio
import contextvars
import socket
import sys

import pytest
from support import error, handler_calls, spin, turns


def fail(exc):
    raise exc


def test_default_handler_logs(loop, errors):
    seen = []
    loop.call_soon(fail, ValueError("no"))
    loop.call_soon(seen.append, 1)
    spin(loop)
    assert seen == [1]
    assert len(errors) == 1
    assert errors[0].startswith("Exception in callback fail(")
    assert "handle: <" in errors[0]
    errors.clear()


@pytest.mark.parametrize("kind", ["soon", "later", "threadsafe", "reader"])
def test_context_of_a_failed_callback(loop, kind):
    calls = handler_calls(loop)
    exc = ValueError("no")
    near, far = socket.socketpair()
    far.send(b"x")
    if kind == "soon":
        handle = loop.call_soon(fail, exc)
    elif kind == "later":
        handle = loop.call_later(0, fail, exc)
    elif kind == "threadsafe":
        handle = loop.call_soon_threadsafe(fail, exc)
    else:
        handle = None
        loop.add_reader(near, fail, exc)
    while not calls:
        spin(loop)
    loop.remove_reader(near)
    near.close()
    far.close()
    context = calls[0]
    assert set(context) == {"message", "exception", "handle"}
    assert context["exception"] is exc
    assert context["message"].startswith("Exception in callback fail(")
    assert isinstance(context["handle"], asyncio.Handle)
    assert handle is None or context["handle"] is handle
    assert exc.__traceback__ is not None


def test_each_exception_is_reported_once_and_the_loop_goes_on(loop):
    calls = handler_calls(loop)
    seen = []
    for n in range(10):
        loop.call_soon(fail, ValueError(n))
        loop.call_soon(seen.append, n)
    spin(loop)
    assert seen == list(range(10))
    assert [context["exception"].args[0] for context in calls] == seen


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("how", ["soon", "later", "threadsafe", "reader"])
def test_interrupts_leave_run_forever(loop, kind, how):
    calls = handler_calls(loop)
    seen = []
    near, far = socket.socketpair()
    with near, far:
        loop.call_soon(seen.append, "before")
        if how == "soon":
            loop.call_soon(fail, kind(3))
        elif how == "later":
            loop.call_later(0, fail, kind(3))
        elif how == "threadsafe":
            loop.call_soon_threadsafe(fail, kind(3))
        else:
            far.send(b"x")
            loop.add_reader(near, fail, kind(3))
        loop.call_soon(seen.append, "after")
        with pytest.raises(kind) as info:
            loop.run_forever()
        assert info.value.args == (3,)
        loop.remove_reader(near)
    assert not loop.is_running()
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()
    spin(loop)
    assert seen == ["before", "after"]
    assert loop.run_until_complete(asyncio.sleep(0.001, 7)) == 7
    assert calls == []


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_callbacks_behind_an_interrupt_are_not_lost(loop, kind):
    seen = []
    for n in range(5):
        loop.call_soon(seen.append, n)
    loop.call_soon(fail, kind())
    for n in range(5, 10):
        loop.call_soon(seen.append, n)
    with pytest.raises(kind):
        loop.run_forever()
    assert seen == [0, 1, 2, 3, 4]
    spin(loop)
    assert seen == list(range(10))


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_interrupts_in_tasks(loop, kind):
    async def main():
        await asyncio.sleep(0)
        raise kind(4)

    with pytest.raises(kind):
        loop.run_until_complete(main())
    assert loop.run_until_complete(asyncio.sleep(0, 1)) == 1


def test_other_base_exceptions_go_to_the_handler(loop):
    class Base(BaseException):
        pass

    calls = handler_calls(loop)
    for exc in (Base(), GeneratorExit(), asyncio.CancelledError()):
        loop.call_soon(fail, exc)
    spin(loop)
    kinds = [type(context["exception"]) for context in calls]
    assert kinds == [Base, GeneratorExit, asyncio.CancelledError]


def test_handler_is_called_with_loop_and_context(loop):
    seen = []
    loop.set_exception_handler(lambda *args: seen.append(args))
    context = {"message": "hello"}
    loop.call_exception_handler(context)
    assert seen == [(loop, context)] and seen[0][1] is context


def test_get_and_set_handler(agree):
    def scenario(loop):
        def handler(loop, context):
            pass

        before = loop.get_exception_handler()
        loop.set_exception_handler(handler)
        same = loop.get_exception_handler() is handler
        wrong = error(loop.set_exception_handler, 5)
        loop.set_exception_handler(None)
        return before, same, wrong, loop.get_exception_handler()

    before, same, wrong, after = agree(scenario)
    assert (before, same, after) == (None, True, None)
    assert wrong[0] is TypeError


def test_handler_that_fails_is_reported(loop, errors):
    def handler(loop, context):
        raise RuntimeError("in the handler")

    loop.set_exception_handler(handler)
    loop.call_soon(fail, ValueError("no"))
    spin(loop)
    assert len(errors) == 1
    assert errors[0].startswith("Unhandled error in exception handler")
    errors.clear()


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_interrupt_in_the_handler_leaves_the_loop(loop, kind):
    def handler(loop, context):
        raise kind

    loop.set_exception_handler(handler)
    loop.call_soon(fail, ValueError("no"))
    with pytest.raises(kind):
        loop.run_forever()
    loop.set_exception_handler(None)
    spin(loop)


def test_handler_runs_in_the_context_of_what_failed(loop):
    variable = contextvars.ContextVar("variable", default="unset")
    seen = []
    context = contextvars.copy_context()
    context.run(variable.set, "callback")
    loop.set_exception_handler(lambda *args: seen.append(variable.get()))
    loop.call_soon(fail, ValueError("no"), context=context)
    spin(loop)
    other = asyncio.SelectorEventLoop()
    oracle = []
    other.set_exception_handler(lambda *args: oracle.append(variable.get()))
    other.call_soon(fail, ValueError("no"), context=context)
    spin(other)
    other.close()
    assert seen == oracle


def fails_in_callbacks(loop):
    loop.call_soon(fail, ValueError("soon"))
    loop.call_later(0, fail, ValueError("later"))
    loop.call_soon_threadsafe(fail, ValueError("threadsafe"))
    near, far = socket.socketpair()
    loop.add_reader(near, lambda: fail(ValueError("reader")))
    far.close()
    return near, lambda: loop.remove_reader(near)


class Failing(asyncio.Protocol):
    """Of a stream transport; each event once."""

    def data_received(self, data):
        fail(ValueError("data"))

    def eof_received(self):
        fail(ValueError("eof"))

    def pause_writing(self):
        fail(ValueError("pause"))

    def connection_lost(self, exc):
        fail(ValueError("lost"))


class Made(Failing):
    def connection_made(self, transport):
        fail(ValueError("made"))


class Unbuffered(asyncio.BufferedProtocol):
    def get_buffer(self, sizehint):
        fail(ValueError("buffer"))


@pytest.mark.parametrize("protocol", [Failing, Made, Unbuffered])
@pytest.mark.parametrize("data", [b"x", b""])
def test_handler_of_a_transport_is_called_as_in_except(agree, protocol, data):
    """sys.exc_info() is what went wrong: loggers and monitors look there."""

    async def scenario(loop):
        seen = []

        def handler(loop, context):
            assert sys.exc_info()[1] is context["exception"]
            seen.append(str(context["exception"]))

        loop.set_exception_handler(handler)
        near, far = socket.socketpair()
        near.setblocking(False)
        transport, _ = await loop.connect_accepted_socket(protocol, near)
        transport.write(bytes(1 << 20))
        seen.append(sys.exc_info())
        far.sendall(data)
        if not data:
            far.shutdown(socket.SHUT_WR)
        await turns(5)
        with far:
            transport.abort()
        await turns()
        return seen

    assert agree(scenario)


def test_handler_of_a_callback_is_called_as_in_except(loop):
    seen = []

    def handler(loop, context):
        assert sys.exc_info()[1] is context["exception"]
        seen.append(str(context["exception"]))

    loop.set_exception_handler(handler)
    near, stop = fails_in_callbacks(loop)
    while len(set(seen)) < 4:
        spin(loop)
    stop()
    near.close()
    assert set(seen) == {"soon", "later", "threadsafe", "reader"}


def test_handler_leaves_what_a_coroutine_handles(loop):
    """A coroutine that writes has it called, in pause_writing()."""
    seen = []
    loop.set_exception_handler(lambda *args: seen.append(sys.exc_info()[1]))
    pairs = [socket.socketpair() for _ in range(2)]

    def write(transport):
        before = sys.exc_info()
        transport.write(bytes(4 << 20))
        assert str(seen.pop()) == "pause"
        assert sys.exc_info() == before

    async def main(goes_on):
        transports = []
        for near, _ in pairs:
            near.setblocking(False)
            transport, _ = await loop.connect_accepted_socket(Failing, near)
            transport.set_write_buffer_limits(0)
            transports.append(transport)
        write(transports[0])
        try:
            fail(KeyError())
        except KeyError as exc:
            write(transports[1])
            assert sys.exc_info()[1] is exc
        await goes_on.wait()
        handled = sys.exc_info()[1]
        for transport in transports:
            transport.abort()
        await turns()
        return handled

    goes_on = asyncio.Event()
    task = loop.create_task(main(goes_on))
    try:
        fail(IndexError())
    except IndexError as exc:
        for _ in range(20):
            spin(loop)
        assert sys.exc_info()[1] is exc
    goes_on.set()
    assert loop.run_until_complete(task) is None
    assert [str(exc) for exc in seen] == ["lost", "lost"]
    for _, far in pairs:
        far.close()


def test_default_handler_words(loop, errors):
    loop.default_exception_handler({})
    loop.default_exception_handler({"message": "words", "extra": 5})
    loop.call_exception_handler({"message": "more words"})
    assert errors == [
        "Unhandled exception in event loop",
        "words\nextra: 5",
        "more words",
    ]
    errors.clear()


def test_default_handler_overridden_in_a_subclass(loop):
    class Sub(type(loop)):
        def default_exception_handler(self, context):
            seen.append(context["message"])

    seen = []
    sub = Sub()
    sub.call_soon(fail, ValueError("no"))
    spin(sub)
    sub.close()
    assert len(seen) == 1


def test_call_exception_handler_replaced_on_the_instance(loop):
    seen = []
    loop.call_exception_handler = seen.append
    loop.call_soon(fail, ValueError("no"))
    spin(loop)
    del loop.call_exception_handler
    assert len(seen) == 1


def test_unretrieved_task_exception_is_reported(loop):
    import gc

    calls = handler_calls(loop)

    async def broken():
        raise ValueError("no")

    task = loop.create_task(broken())
    spin(loop)
    spin(loop)
    del task
    gc.collect()
    assert [context["message"] for context in calls] == [
        "Task exception was never retrieved"
    ]
    calls.clear()


def test_exception_in_a_callback_leaves_no_current_exception(loop):
    seen = []
    handler_calls(loop)
    loop.call_soon(fail, ValueError("no"))
    loop.call_soon(lambda: seen.append(sys.exc_info()[0]))
    spin(loop)
    assert seen == [None]


def test_recursion_error_is_an_exception_like_others(loop):
    calls = handler_calls(loop)

    def recurse():
        recurse()

    loop.call_soon(recurse)
    spin(loop)
    assert isinstance(calls[0]["exception"], RecursionError)
