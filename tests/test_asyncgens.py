import asyncio
import gc
import sys

import pytest
from support import handler_calls, turns


async def test_finalised_when_dropped():
    seen = []

    async def numbers():
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(0)
            seen.append("closed")

    async for _ in numbers():
        break
    gc.collect()
    await turns(10)
    assert seen == ["closed"]


def test_shutdown(loop):
    seen = []

    async def numbers():
        try:
            while True:
                yield 1
        finally:
            await asyncio.sleep(0)
            seen.append("closed")

    async def main():
        generators = [numbers() for _ in range(3)]
        for generator in generators:
            await anext(generator)
        return generators

    generators = loop.run_until_complete(main())
    loop.run_until_complete(loop.shutdown_asyncgens())
    assert seen == ["closed"] * 3
    del generators


def test_failure_in_shutdown(loop):
    calls = handler_calls(loop)

    async def numbers():
        try:
            yield 1
        finally:
            raise ZeroDivisionError

    async def main():
        generator = numbers()
        await anext(generator)
        return generator

    generator = loop.run_until_complete(main())
    loop.run_until_complete(loop.shutdown_asyncgens())
    (context,) = calls
    assert context["asyncgen"] is generator
    assert type(context["exception"]) is ZeroDivisionError
    assert (
        "an error occurred during closing of asynchronous"
        in (context["message"])
    )


def test_first_use_after_shutdown_warns(loop):
    async def numbers():
        yield 1

    async def main():
        await loop.shutdown_asyncgens()
        with pytest.warns(ResourceWarning, match="was scheduled after"):
            async for _ in numbers():
                pass

    loop.run_until_complete(main())


def test_hooks_are_put_back(loop):
    def firstiter(generator):
        pass

    def finalizer(generator):
        pass

    before = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(firstiter, finalizer)
    try:
        seen = []
        loop.call_soon(lambda: seen.append(sys.get_asyncgen_hooks()))
        loop.call_soon(loop.stop)
        loop.run_forever()
        assert seen[0].firstiter is not firstiter
        assert tuple(sys.get_asyncgen_hooks()) == (firstiter, finalizer)
    finally:
        sys.set_asyncgen_hooks(*before)


def test_hooks_are_put_back_after_an_interrupt(loop):
    before = sys.get_asyncgen_hooks()

    def interrupt():
        raise KeyboardInterrupt

    loop.call_soon(interrupt)
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    assert sys.get_asyncgen_hooks() == before


def test_dropped_in_another_thread(loop):
    """Its finaliser is handed to the loop."""
    import threading

    seen = []

    def tick():
        """Without a GIL only the thread that made it ends it: not asleep."""
        loop.call_later(0.01, tick)

    async def numbers():
        try:
            yield 1
        finally:
            seen.append(threading.current_thread())
            loop.stop()

    async def main():
        generator = numbers()
        await anext(generator)
        return [generator]

    holder = loop.run_until_complete(main())
    thread = threading.Thread(target=holder.clear)
    loop.call_soon(thread.start)
    loop.call_soon(tick)
    loop.run_forever()
    thread.join()
    assert seen == [threading.current_thread()]
