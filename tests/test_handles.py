import asyncio
import contextvars
import copy
import gc
import pickle
import re
import sys
import weakref

import pytest
from support import spin


def noop(*args):
    pass


@pytest.fixture(params=["call_soon", "call_later", "threadsafe"])
def make(request, loop):
    if request.param == "call_soon":
        return loop.call_soon
    if request.param == "threadsafe":
        return loop.call_soon_threadsafe
    return lambda *args, **kwargs: loop.call_later(0, *args, **kwargs)


def run_all(loop):
    spin(loop)
    spin(loop)


def test_types(loop):
    assert isinstance(loop.call_soon(noop), asyncio.Handle)
    assert isinstance(loop.call_soon_threadsafe(noop), asyncio.Handle)
    assert isinstance(loop.call_later(1, noop), asyncio.TimerHandle)
    assert isinstance(loop.call_at(1, noop), asyncio.TimerHandle)
    assert isinstance(loop.call_at(1, noop), asyncio.Handle)
    assert not isinstance(loop.call_soon(noop), asyncio.TimerHandle)


def test_cancel(loop, make):
    seen = []
    handle = make(seen.append, 1)
    other = make(seen.append, 2)
    assert handle.cancelled() is False
    assert handle.cancel() is None
    assert handle.cancelled() is True
    handle.cancel()
    run_all(loop)
    assert seen == [2]
    assert not other.cancelled()


def test_cancel_by_an_earlier_callback(loop):
    seen = []
    loop.call_soon(lambda: handle.cancel())
    handle = loop.call_soon(seen.append, 1)
    run_all(loop)
    assert seen == []


def test_cancel_itself_while_running(loop, make):
    seen = []

    def callback(arg):
        handle.cancel()
        gc.collect()
        seen.append(arg)

    handle = make(callback, object())
    run_all(loop)
    assert len(seen) == 1 and handle.cancelled()


def test_cancelled_handle_keeps_nothing(loop, make):
    class Token:
        def __call__(self, arg):
            pass

    callback, arg = Token(), Token()
    refs = [weakref.ref(callback), weakref.ref(arg)]
    handle = make(callback, arg)
    del callback, arg
    handle.cancel()
    gc.collect()
    assert [ref() for ref in refs] == [None, None]


def test_run_handle_is_freed(loop, make):
    """Nor does the loop keep it."""

    class Token:
        pass

    arg = Token()
    handle = make(noop, arg)
    refs = [weakref.ref(handle), weakref.ref(arg)]
    del handle, arg
    run_all(loop)
    gc.collect()
    assert [ref() for ref in refs] == [None, None]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="added in 3.12")
def test_get_context(loop, make):
    variable = contextvars.ContextVar("variable")
    context = contextvars.copy_context()
    context.run(variable.set, 5)
    assert make(noop, context=context).get_context() is context
    assert isinstance(make(noop).get_context(), contextvars.Context)


def test_run_by_hand(loop, make):
    """Tools that step a loop call _run()."""
    seen = []
    handle = make(seen.append, 1)
    handle._run()
    assert seen == [1]
    handle.cancel()


def test_private_attributes_tools_read(loop, make):
    handle = make(noop, 1, 2)
    assert handle._callback is noop
    assert tuple(handle._args) == (1, 2)
    assert handle._cancelled is False
    assert handle._loop is loop
    assert handle._source_traceback is None
    handle.cancel()
    assert handle._cancelled is True


def shape(text, kind):
    text = re.sub(r"0x[0-9a-f]+", "ADDRESS", text)
    text = re.sub(r"when=[0-9.]+", "when=TIME", text)
    return text.replace(kind.__name__, "KIND")


@pytest.mark.parametrize("debug", [False, True])
def test_repr(agree, debug):
    def scenario(loop):
        loop.set_debug(debug)
        seen = []
        for handle in (
            loop.call_soon(noop),
            loop.call_soon(noop, 1, "two"),
            loop.call_later(1000, noop, 3),
            loop.call_soon(lambda: None),
            loop.call_soon(__import__("functools").partial(noop, 1), 2),
            loop.call_soon(len, ()),
        ):
            seen.append(shape(repr(handle), type(handle)))
            handle.cancel()
            seen.append(shape(repr(handle), type(handle)))
        loop.set_debug(False)
        return seen

    seen = agree(scenario)
    assert "noop()" in seen[0] and "cancelled" in seen[1]


def test_public_classes_can_be_built_by_hand(loop):
    seen = []
    handle = asyncio.Handle(seen.append, (1,), loop)
    timer = asyncio.TimerHandle(loop.time(), seen.append, (2,), loop)
    handle._run()
    timer._run()
    timer.cancel()
    assert seen == [1, 2]


def test_own_types_are_safe_to_build(loop, pyloop_only):
    """They may refuse; they must not crash."""
    for handle in (loop.call_soon(noop), loop.call_later(1, noop)):
        kind = type(handle)
        for args in (), (1,), (noop, (), loop), (1, noop, (), loop):
            try:
                made = kind(*args)
            except TypeError:
                continue
            repr(made)
            made.cancel()
        try:
            bare = kind.__new__(kind)
        except TypeError:
            continue
        repr(bare)
        bare.cancel()


def test_weak_references(loop, make):
    handle = make(noop)
    assert weakref.ref(handle)() is handle


def test_many_pending_then_dropped(loop, make):
    class Token:
        pass

    token = Token()
    ref = weakref.ref(token)
    for _ in range(10000):
        make(noop, token)
    del token
    loop.close()
    gc.collect()
    assert ref() is None


def test_type_of_the_thread_safe_handle(loop):
    """3.14 has one of its own."""
    kind = getattr(asyncio.events, "_ThreadSafeHandle", asyncio.Handle)
    handle = loop.call_soon_threadsafe(noop)
    assert isinstance(handle, kind)
    handle.cancel()


def test_every_type_of_the_extension_is_safe_to_build(loop, pyloop_only):
    """By a call, by __new__, by copying and pickling: an object that works,
    or an exception."""

    def below(kind):
        for child in type.__subclasses__(kind):
            yield child
            yield from below(child)

    # Most have no name in the module.
    kinds = {
        kind
        for kind in below(object)
        if getattr(kind, "__module__", None) == "pyloop._core"
    }
    kinds.add(type(loop.stats()))
    assert {kind.__name__ for kind in kinds} == {
        *("Loop", "LoopStats", "Handle", "TimerHandle", "Watcher"),
        *("Stream", "Listener", "Datagram"),
        *("NativeProtocol", "NativeProtocolFactory"),
    }
    for kind in kinds:
        makers = [
            lambda: kind.__new__(kind),
            lambda: object.__new__(kind),
            lambda: kind(),
            lambda: kind(None),
            lambda: kind(*[None] * 4),
            lambda: kind(noop, (), loop),
            lambda: kind(loop, noop, (), None),
        ]
        for make_ in makers:
            try:
                made = make_()
            except (TypeError, AttributeError, ValueError, RuntimeError):
                continue
            for use in (repr, hash, copy.copy, pickle.dumps, gc.get_referents):
                try:
                    use(made)
                except Exception:
                    pass
            for name in dir(made):
                if name.startswith("_") or name.startswith("run"):
                    continue
                try:
                    value = getattr(made, name)
                    if callable(value):
                        value()
                except Exception:
                    pass
            del made
    gc.collect()
