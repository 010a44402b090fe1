"""Work items posted by native threads."""

import asyncio
import contextvars
import gc
import os
import threading

import pytest
import support
from driving import CLOSED, OK, settle

import pyloop

# -- work --------------------------------------------------------------------


@pytest.mark.parametrize("chain", [0, 64])
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_posts_run_once_and_in_order(client, loop, threads, chain):
    count = 20000
    done = 0

    def callback():
        nonlocal done
        done += 1
        if done == count * threads:
            loop.stop()

    burst = client.burst(loop, threads, count, chain, callback)
    loop.run_forever()
    client.join(burst)
    assert done == count * threads
    assert client.counts(burst) == (count * threads, 0, 0, 0)


def test_a_burst_wakes_the_loop_once_or_not_at_all(client, loop):
    count = 50000
    done = 0

    def callback():
        nonlocal done
        done += 1
        if done == 4 * count:
            loop.stop()

    before = loop.stats().wakeups
    burst = client.burst(loop, 4, count, 0, callback)
    loop.run_forever()
    client.join(burst)
    assert loop.stats().wakeups - before <= 4 * count / 1000


def test_posts_to_an_idle_loop_wait_for_it(client, loop):
    burst = client.burst(loop, 2, 100)
    client.join(burst)
    assert client.counts(burst) == (0, 0, 0, 0)
    settle(loop)
    assert client.counts(burst) == (200, 0, 0, 0)


def test_post_keeps_its_place_among_callbacks(client, loop):
    held = client.hold(loop)
    seen = []

    def first():
        assert client.post(held, lambda status: seen.append("native")) == OK
        loop.call_soon_threadsafe(seen.append, "python")

    loop.call_soon(first)
    settle(loop)
    assert seen == ["native", "python"]


def test_post_runs_in_its_context(client, loop):
    held = client.hold(loop)
    var = contextvars.ContextVar("var", default="base")
    context = contextvars.copy_context()
    context.run(var.set, "mine")
    seen = []

    def look(status):
        seen.append(var.get())
        var.set("changed")

    client.post(held, look, context)
    client.post(held, look, context)
    client.post(held, lambda status: seen.append(var.get()))
    settle(loop)
    assert seen == ["mine", "changed", "base"]
    assert context[var] == "changed"


def test_post_in_an_entered_context_is_reported_and_run(client, loop):
    held = client.hold(loop)
    contexts = []
    loop.set_exception_handler(lambda loop, c: contexts.append(c))
    context = contextvars.copy_context()
    seen = []

    async def main():
        await asyncio.sleep(0)

    def inside():
        client.post(held, lambda status: seen.append(status), context)
        loop.run_until_complete(main())

    context.run(inside)
    assert seen == [OK]
    assert isinstance(contexts[0]["exception"], RuntimeError)


def test_exception_of_work_goes_to_the_handler(client, loop):
    held = client.hold(loop)
    contexts = []
    loop.set_exception_handler(lambda loop, c: contexts.append(c))

    def fail(status):
        raise ValueError("from work")

    client.post(held, fail)
    settle(loop)
    assert contexts[0]["message"] == "Exception in native work"
    assert str(contexts[0]["exception"]) == "from work"


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_exits_of_work_leave_the_loop(client, loop, kind):
    held = client.hold(loop)

    def leave(status):
        raise kind

    client.post(held, leave)
    with pytest.raises(kind):
        loop.run_forever()
    settle(loop)


def test_slow_work_is_reported_in_debug_mode(client, loop, errors, caplog):
    held = client.hold(loop)
    loop.set_debug(True)
    loop.slow_callback_duration = 0.0
    client.post(held, lambda status: None)
    settle(loop)
    assert any(
        "<native work at 0x" in record.getMessage()
        for record in caplog.records
    )


# -- life of a loop ----------------------------------------------------------


def test_close_hands_queued_work_back(client):
    loop = pyloop.new_event_loop()
    held = client.hold(loop)
    statuses = []
    client.post(held, statuses.append)
    loop.call_soon(lambda: client.post(held, statuses.append))
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert statuses == [OK]
    assert client.is_alive(held)
    loop.close()
    assert statuses == [OK, CLOSED]
    assert not client.is_alive(held)
    assert client.post(held, statuses.append) == CLOSED
    assert statuses == [OK, CLOSED]


def test_work_may_be_posted_while_it_is_handed_back(client):
    loop = pyloop.new_event_loop()
    held = client.hold(loop)
    statuses = []

    def again(status):
        statuses.append((status, client.post(held, again)))

    client.post(held, again)
    loop.close()
    assert statuses == [(CLOSED, CLOSED)]


def test_posts_race_close(client):
    for _ in range(30):
        loop = pyloop.new_event_loop()
        settle(loop)
        burst = client.burst(loop, 4, 2000)
        settle(loop, 1)
        loop.close()
        client.join(burst)
        run, refused, discarded, disorder = client.counts(burst)
        assert run + refused + discarded == 8000
        assert disorder == 0


def test_dropped_loop_refuses_posts(client):
    loop = pyloop.new_event_loop()
    held = client.hold(loop)
    statuses = []
    client.post(held, statuses.append)
    with pytest.warns(ResourceWarning, match="unclosed event loop"):
        del loop
        gc.collect()
    assert statuses == [CLOSED]
    assert not client.is_alive(held)
    assert client.post(held, statuses.append) == CLOSED


def test_join_of_a_posting_thread_while_attached(client, loop):
    # client.join() does not give the GIL up: posting must not need it.
    burst = client.burst(loop, 4, 20000)
    client.join(burst)
    settle(loop)
    assert client.counts(burst) == (80000, 0, 0, 0)


def test_posts_from_a_signal_handler(client):
    """In a process of its own: while the loop runs and while it sleeps, and
    in the middle of posts of the same thread and of others."""
    support.run_script(
        "pyloop",
        """
        sys.path.insert(0, sys.argv[1])
        import building
        client = building.c_client()
        async def main():
            loop = asyncio.get_running_loop()
            held = client.hold(loop)
            client.alarm(held, 100)
            for threads in 0, 2:
                before = client.alarms()[0]
                while client.alarms()[0] < before + 500:
                    burst = client.burst(loop, threads, 50000)
                    client.join(burst)
                    while client.counts(burst)[0] < 50000 * (threads or 1):
                        await asyncio.sleep(0)
                    assert client.counts(burst)[1:] == (0, 0, 0)
            while client.alarms()[0] < before + 1000:
                await asyncio.sleep(0.001)
            client.alarm(held, 0)
            await support.until(lambda: len(set(client.alarms()[:2])) == 1)
            assert client.alarms()[2] == 0
        run(main())
        """,
        os.path.dirname(__file__),
    )


def test_loop_from_other_objects(client):
    for wrong in (None, 1, object(), asyncio.new_event_loop):
        with pytest.raises(TypeError, match="pyloop.EventLoop is needed"):
            client.hold(wrong)
    other = asyncio.SelectorEventLoop()
    try:
        with pytest.raises(TypeError, match="pyloop.EventLoop is needed"):
            client.hold(other)
    finally:
        other.close()


def test_loop_running(client, loop):
    with pytest.raises(RuntimeError, match="no running event loop"):
        client.hold_running()

    async def main():
        statuses = []
        client.post(client.hold_running(), statuses.append)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return statuses

    assert loop.run_until_complete(main()) == [OK]


def test_loops_in_threads_each_find_their_own(client):
    seen = {}

    async def main(name):
        loop = asyncio.get_running_loop()
        held = client.hold_running()
        done = loop.create_future()
        client.post(
            held,
            lambda status: done.set_result(asyncio.get_running_loop() is loop),
        )
        seen[name] = await done

    threads = [
        threading.Thread(target=pyloop.run, args=(main(i),)) for i in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == dict.fromkeys(range(4), True)
