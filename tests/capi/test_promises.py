"""asyncio futures that native threads complete."""

import asyncio

import pytest
import support
from driving import CANCELLED, CLOSED, OK, run_until, settle

import pyloop


def test_future_completed_by_a_thread(client, loop):
    held = client.hold(loop)
    log = []

    async def main():
        futures = [client.operation(held, 100 * i, i, log) for i in range(20)]
        assert all(isinstance(f, asyncio.Future) for f in futures)
        return await asyncio.gather(*futures)

    assert loop.run_until_complete(main()) == list(range(20))
    run_until(loop, lambda: len(log) == 20)
    assert log == [("released", OK)] * 20


def test_future_given_by_the_caller(client, loop):
    held = client.hold(loop)
    log = []
    future = loop.create_future()
    assert client.operation(held, 0, "value", log, future) is future
    assert loop.run_until_complete(future) == "value"


def test_future_exception(client, loop):
    held = client.hold(loop)
    log = []
    future = client.operation(held, 0, LookupError("native"), log)
    with pytest.raises(LookupError, match="native"):
        loop.run_until_complete(future)
    assert log == [("released", OK)]


def test_future_cancelled_by_python(client, loop):
    held = client.hold(loop)
    log = []

    async def main():
        future = client.operation(held, 20000, "late", log)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(future, 0.001)
        assert log == [("cancelled", 0)]

    loop.run_until_complete(main())
    run_until(loop, lambda: len(log) == 2)
    assert log == [("cancelled", 0), ("released", CANCELLED)]


def test_close_with_a_promise_pending(client):
    loop = pyloop.new_event_loop()
    held = client.hold(loop)
    log = []
    before = client.completions()
    future = client.operation(held, 50000, "late", log)
    loop.close()
    assert not future.done()
    support.wait(lambda: client.completions() > before)
    assert log == []


def test_close_with_a_completed_promise_queued(client):
    loop = pyloop.new_event_loop()
    held = client.hold(loop)
    log = []
    before = client.completions()
    future = client.operation(held, 0, "value", log)
    # Completed, but the loop has not run since.
    support.wait(lambda: client.completions() > before)
    loop.close()
    assert log == [("released", CLOSED)]
    assert not future.done()


def test_completions_race_close(client):
    """Each is released once, or refused."""
    for turns in [0, 2, 20] * 10:
        loop = pyloop.new_event_loop()
        settle(loop)
        completers = client.complete(loop, 4, 2000)
        for _ in range(turns):
            settle(loop, 1)
        loop.close()
        fulfilled, closed, refused, wrong = client.completed(completers)
        assert fulfilled + closed + refused == 2000
        assert wrong == 0
