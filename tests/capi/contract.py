"""What every client of pyloop.h does, whatever language it is written in.

A test module makes a `client` fixture and derives a class from Contract.
"""

import asyncio

import pytest
from driving import CLOSED, OK, run_until, settle

import pyloop


class Contract:
    @pytest.mark.parametrize("threads", [1, 4])
    def test_posts_run_once_and_in_order(self, client, loop, threads):
        count = 10000
        done = 0

        def callback():
            nonlocal done
            done += 1
            if done == count * threads:
                loop.stop()

        before = loop.stats().wakeups
        burst = client.burst(loop, threads, count, callback)
        loop.run_forever()
        client.join(burst)
        assert done == count * threads
        assert client.counts(burst) == (count * threads, 0, 0, 0)
        assert loop.stats().wakeups - before <= done / 100

    def test_exception_of_work_goes_to_the_handler(self, client, loop):
        contexts = []
        loop.set_exception_handler(lambda loop, c: contexts.append(c))
        burst = client.burst(loop, 1, 2, lambda: 1 / 0)
        client.join(burst)
        settle(loop)
        assert [type(c["exception"]) for c in contexts] == [
            ZeroDivisionError,
            ZeroDivisionError,
        ]
        assert client.counts(burst) == (2, 0, 0, 0)

    def test_coroutines_end_natively(self, client, loop):
        async def handler(number):
            if number % 2:
                await asyncio.sleep(0)
            return number

        calls = client.calls(loop, handler, 1000)
        run_until(loop, lambda: client.calls_left(calls) == 0)
        assert client.calls_outcome(calls) == (499500, 1000, 0, 0, 0)

    def test_exceptions_and_cancellations_end_natively(self, client, loop):
        async def handler(number):
            if number % 3 == 0:
                raise ValueError(number)
            if number % 3 == 1:
                asyncio.current_task().cancel()
                await asyncio.sleep(0)
            return number

        calls = client.calls(loop, handler, 300)
        run_until(loop, lambda: client.calls_left(calls) == 0)
        total = sum(range(2, 300, 3))
        assert client.calls_outcome(calls) == (total, 100, 0, 100, 100)

    def test_close_ends_coroutines(self, client):
        loop = pyloop.new_event_loop()
        started = 0

        async def handler(number):
            nonlocal started
            started += 1
            if started == 10:
                loop.call_soon(loop.stop)
            await asyncio.Event().wait()

        calls = client.calls(loop, handler, 10)
        loop.run_forever()
        tasks = asyncio.all_tasks(loop)
        assert len(tasks) == 10
        for task in tasks:
            task._log_destroy_pending = False  # closed under them on purpose
        loop.close()
        assert client.calls_left(calls) == 0
        assert client.calls_outcome(calls) == (0, 0, 10, 0, 0)

    def test_promises_are_completed_by_threads(self, client, loop):
        async def main():
            futures = [client.doubled(loop, n) for n in range(100)]
            return await asyncio.gather(*futures)

        assert loop.run_until_complete(main()) == list(range(0, 200, 2))

    def test_closed(self, client):
        loop = pyloop.new_event_loop()
        held = client.hold(loop)
        assert client.is_alive(held)
        assert client.post(held) == OK
        loop.close()
        assert not client.is_alive(held)
        assert client.post(held) == CLOSED

    def test_posts_race_close(self, client):
        for _ in range(10):
            loop = pyloop.new_event_loop()
            settle(loop)
            burst = client.burst(loop, 4, 1000, int)
            settle(loop, 1)
            loop.close()
            client.join(burst)
            run, refused, discarded, disorder = client.counts(burst)
            assert run + refused + discarded == 4000
            assert disorder == 0

    def test_other_objects_are_refused(self, client):
        with pytest.raises(TypeError, match="pyloop.EventLoop is needed"):
            client.hold(object())
