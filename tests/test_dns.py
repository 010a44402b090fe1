import asyncio
import gc
import logging
import socket

import pytest
from support import FREE_THREADED, async_error, run_script, turns

STREAM, DGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM

QUESTIONS = [
    (("127.0.0.1", 80), {}),
    (("127.0.0.1", 80), {"type": STREAM}),
    (("127.0.0.1", 80), {"type": DGRAM}),
    (("127.0.0.1", 80), {"family": socket.AF_INET, "type": STREAM}),
    (("127.0.0.1", 80), {"family": socket.AF_INET6, "type": STREAM}),
    (("127.0.0.1", 80), {"proto": socket.IPPROTO_TCP}),
    (("127.0.0.1", 80), {"proto": socket.IPPROTO_UDP}),
    (("127.0.0.1", "80"), {"type": STREAM}),
    (("127.0.0.1", b"80"), {"type": STREAM}),
    (("127.0.0.1", "http"), {"type": STREAM}),
    (("127.0.0.1", None), {"type": STREAM}),
    (("127.0.0.1", ""), {"type": STREAM}),
    ((b"127.0.0.1", 80), {"type": STREAM}),
    (("127.1", 80), {"type": STREAM}),
    (("0x7f.1", 80), {"type": STREAM}),
    (("127.0.0.1 ", 80), {"type": STREAM}),
    (("0.0.0.0", 0), {"type": STREAM}),
    (("::1", 80), {}),
    (("::1", 80), {"type": STREAM}),
    (("::1", 80), {"family": socket.AF_INET, "type": STREAM}),
    (("::ffff:127.0.0.1", 80), {"type": STREAM}),
    (("fe80::1%lo", 80), {"type": STREAM}),
    (("fe80::1%nowhere", 80), {"type": STREAM}),
    (("localhost", 80), {}),
    (("localhost", 80), {"type": STREAM}),
    (("localhost", None), {"type": STREAM}),
    (("localhost", 80), {"family": socket.AF_INET, "type": STREAM}),
    ((b"localhost", 80), {"type": STREAM}),
    (("LOCALHOST", 80), {"type": STREAM}),
    (("localhost", 80), {"type": STREAM, "flags": socket.AI_CANONNAME}),
    (("127.0.0.1", 80), {"type": STREAM, "flags": socket.AI_CANONNAME}),
    (("127.0.0.1", 80), {"type": STREAM, "flags": socket.AI_NUMERICHOST}),
    (("localhost", 80), {"type": STREAM, "flags": socket.AI_NUMERICHOST}),
    (("127.0.0.1", "http"), {"flags": socket.AI_NUMERICSERV}),
    ((None, 80), {"type": STREAM}),
    ((None, 80), {"type": STREAM, "flags": socket.AI_PASSIVE}),
    (("", 80), {"type": STREAM}),
    (("", 80), {"type": STREAM, "flags": socket.AI_PASSIVE}),
    ((None, None), {}),
    (("", ""), {}),
    (("no.invalid", 80), {"type": STREAM}),
    (("nul\0inside", 80), {"type": STREAM}),
    (("bücher.invalid", 80), {"type": STREAM}),
    (("x" * 100 + ".invalid", 80), {"type": STREAM}),
    (("\udcff", 80), {"type": STREAM}),
    (("127.0.0.1", "no-such-service"), {"type": STREAM}),
    (("127.0.0.1", 65535), {"type": STREAM}),
    (("127.0.0.1", 65536), {"type": STREAM}),
    (("127.0.0.1", -1), {"type": STREAM}),
    (("127.0.0.1", 2**40), {"type": STREAM}),
    (("127.0.0.1", 2**80), {"type": STREAM}),
    (("127.0.0.1", 80.0), {"type": STREAM}),
    ((5, 80), {"type": STREAM}),
    (([], 80), {"type": STREAM}),
    (("127.0.0.1", 80), {"type": 99}),
    (("127.0.0.1", 80), {"family": 999}),
    (("127.0.0.1", 80), {"flags": 1 << 30}),
    (("127.0.0.1", 80), {"type": STREAM, "proto": socket.IPPROTO_UDP}),
    (("127.0.0.1", 80), {"family": "x"}),
    (("127.0.0.1", 80), {"family": socket.AF_UNIX}),
    (("127.0.0.1", 80), {"family": 2**40}),
    (("127.0.0.1", 80), {"flags": socket.AI_ADDRCONFIG}),
    (("127.0.0.1", 80), {"family": 10, "flags": socket.AI_V4MAPPED}),
    (("127.0.0.1", 80), {"type": socket.SOCK_RAW}),
    (("127.0.0.1", 80), {"type": socket.SOCK_SEQPACKET}),
    (("127.0.0.1", True), {"type": STREAM}),
    (("127.0.0.1", "080"), {"type": STREAM}),
    (("127.0.0.1", " 80"), {"type": STREAM}),
    (("127.0.0.1", "80x"), {"type": STREAM}),
    (("127.0.0.1", "-1"), {"type": STREAM}),
    (("127.0.0.1", "99999"), {"type": STREAM}),
    (("127.0.0.1", b""), {"type": STREAM}),
    (("127.0.0.1", b"8\x000"), {"type": STREAM}),
    (("127.0.0.1", "８０"), {"type": STREAM}),
    (("１２７.0.0.1", 80), {"type": STREAM}),
    (("127。0。0。1", 80), {"type": STREAM}),
    (("127.0.0.1.", 80), {"type": STREAM}),
    (("127.0.0.256", 80), {"type": STREAM}),
    ((bytearray(b"127.0.0.1"), 80), {"type": STREAM}),
    ((b"127.0.0.1\0", 80), {"type": STREAM}),
    ((type("Name", (str,), {})("127.0.0.1"), 80), {"type": STREAM}),
    (("*", 80), {"type": STREAM}),
    ((b"::1", b"80"), {}),
    (("::1", 80), {"type": STREAM, "flags": socket.AI_CANONNAME}),
    (("[::1]", 80), {"type": STREAM}),
    (("fe80::1%1", 80), {"type": STREAM}),
    (("fe80::1%99999", 80), {"type": STREAM}),
    (("fe80::1%", 80), {"type": STREAM}),
    ((b"fe80::1%lo", 80), {"type": DGRAM}),
    ((None, 80), {"family": socket.AF_INET6, "type": STREAM}),
    ((None, "http"), {"type": STREAM}),
    ((None, None), {"flags": socket.AI_NUMERICHOST}),
]


def classes(answer):
    return [tuple(type(part) for part in entry) for entry in answer]


@pytest.mark.parametrize(
    "args, kwargs", QUESTIONS, ids=lambda value: ascii(value)[:60]
)
async def test_same_answer_as_the_socket_module(args, kwargs):
    """In value and type; the same kind of error."""
    loop = asyncio.get_running_loop()
    try:
        expected = await asyncio.to_thread(socket.getaddrinfo, *args, **kwargs)
    except Exception as exc:
        kind, text = await async_error(loop.getaddrinfo(*args, **kwargs))
        assert kind is type(exc)
        if isinstance(exc, socket.gaierror):
            assert text == str(exc)
    else:
        answer = await loop.getaddrinfo(*args, **kwargs)
        assert answer == expected
        assert classes(answer) == classes(expected)
        assert type(answer) is list


async def test_nothing_to_look_up_takes_no_turn(pyloop_only):
    """… and no thread of the executor, as it does in asyncio."""
    loop = asyncio.get_running_loop()
    turned = []
    loop.call_soon(turned.append, 1)
    await loop.getaddrinfo("127.0.0.1", 80)
    await loop.getaddrinfo(b"::1", "80")
    await loop.getaddrinfo(None, 80)
    await loop.getnameinfo(
        ("127.0.0.1", 80), socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
    )
    assert not turned


async def test_unknown_keyword():
    loop = asyncio.get_running_loop()
    with pytest.raises(TypeError):
        await loop.getaddrinfo("localhost", 80, unknown=1)
    with pytest.raises(TypeError):
        await loop.getaddrinfo("localhost", 80, socket.AF_INET)


async def test_many_at_once():
    loop = asyncio.get_running_loop()
    expected = socket.getaddrinfo("localhost", 80)
    answers = await asyncio.gather(
        *[loop.getaddrinfo("localhost", 80) for _ in range(100)]
    )
    assert answers == [expected] * 100


async def test_cancelled():
    loop = asyncio.get_running_loop()
    for steps in range(4):
        task = asyncio.ensure_future(loop.getaddrinfo("no.invalid", 80))
        await turns(steps)
        task.cancel()
        try:
            await task
        except (asyncio.CancelledError, socket.gaierror):
            pass


def test_loop_stopped_with_a_look_up_under_way(loop):
    async def main():
        return asyncio.ensure_future(loop.getaddrinfo("localhost", 80))

    task = loop.run_until_complete(main())
    assert loop.run_until_complete(task)


def test_loop_closed_with_a_look_up_under_way(loop):
    """Neither crash nor hang; the answer has nowhere to go."""

    async def main():
        task = asyncio.ensure_future(loop.getaddrinfo("localhost", 80))
        await turns(2)
        return task

    task = loop.run_until_complete(main())
    task._log_destroy_pending = False
    loop.close()
    try:
        task.get_coro().close()
    except RuntimeError:
        pass


NUMERIC = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV


@pytest.mark.parametrize(
    "flags",
    [
        0,
        NUMERIC,
        socket.NI_NUMERICHOST,
        socket.NI_NUMERICSERV,
        NUMERIC | socket.NI_NAMEREQD,
        NUMERIC | socket.NI_DGRAM,
        1 << 20,
        -1,
        2**80,
        "0",
    ],
    ids=ascii,
)
async def test_getnameinfo(flags):
    loop = asyncio.get_running_loop()
    for address in (
        ("127.0.0.1", 80),
        ("127.0.0.1", 0),
        ("127.0.0.1", 65535),
        ("::1", 80),
        ("::1", 80, 0, 0),
        ("::1", 80, 1, 0),
        ("::1", 80, 1 << 20, 0),
        ("fe80::1", 80, 0, 1),
        ("fe80::1%lo", 80),
        ("127.0.0.1", 80, 0, 0),
        ("localhost", 80),
        ("127.0.0.1",),
        ("127.0.0.1", -1),
        ("127.0.0.1", 1 << 16),
        ("127.0.0.1", 1 << 80),
        ("127.0.0.1", "80"),
        (b"127.0.0.1", 80),
        ("127.0.0.1\0", 80),
        ["127.0.0.1", 80],
        (),
        5,
        None,
    ):
        try:
            expected = await asyncio.to_thread(
                socket.getnameinfo, address, flags
            )
        except Exception as exc:
            kind, text = await async_error(loop.getnameinfo(address, flags))
            assert kind is type(exc)
            assert text == str(exc)
        else:
            assert await loop.getnameinfo(address, flags) == expected


async def test_many_names_at_once():
    loop = asyncio.get_running_loop()
    expected = socket.getnameinfo(("127.0.0.1", 80), 0)
    answers = await asyncio.gather(
        *[loop.getnameinfo(("127.0.0.1", 80)) for _ in range(50)]
    )
    assert answers == [expected] * 50


async def test_cancelled_getnameinfo():
    loop = asyncio.get_running_loop()
    for steps in range(4):
        task = asyncio.ensure_future(loop.getnameinfo(("127.0.0.1", 80)))
        await turns(steps)
        task.cancel()
        await asyncio.wait([task])


def test_loop_closed_with_a_name_under_way(loop):
    async def main():
        task = asyncio.ensure_future(loop.getnameinfo(("127.0.0.1", 80)))
        await turns(2)
        return task

    task = loop.run_until_complete(main())
    task._log_destroy_pending = False
    loop.close()
    try:
        task.get_coro().close()
    except RuntimeError:
        pass


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_debug_mode(loop, caplog, host):
    """Tells of each look-up."""
    loop.set_debug(True)
    with caplog.at_level(logging.DEBUG, "asyncio"):
        answer = loop.run_until_complete(loop.getaddrinfo(host, 80))
    assert answer == socket.getaddrinfo(host, 80)
    told = [record.getMessage() for record in caplog.records]
    assert f"Get address info {host}:80" in told
    assert any(
        text.startswith(f"Getting address info {host}:80 took ")
        for text in told
    )


@pytest.mark.parametrize(
    "name, args",
    [
        ("getaddrinfo", ["127.0.0.1", 80]),
        ("getaddrinfo", ["localhost", 80]),
        ("getnameinfo", [("127.0.0.1", 80), NUMERIC]),
        ("getnameinfo", [("127.0.0.1", 80)]),
    ],
    ids=ascii,
)
def test_closed_loop(loop, name, args):
    loop.close()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        getattr(loop, name)(*args).send(None)


FAILING = {
    "getaddrinfo": ["no.invalid", 80],
    "getnameinfo": [("127.0.0.1", 80), 1 << 20],
    "create_connection": [asyncio.Protocol, "no.invalid", 80],
}


@pytest.mark.parametrize("name", FAILING)
async def test_failure_needs_no_collector(loop_name, name):
    """The error does not refer to itself by its traceback."""
    if loop_name == "asyncio" and FREE_THREADED:
        pytest.skip("asyncio's does where there is no GIL")
    method = getattr(asyncio.get_running_loop(), name)
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        kind, _ = await async_error(method(*FAILING[name]))
        await turns()  # the one that woke this task has the future
        gc.collect()
        left = [type(thing) for thing in gc.garbage]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert kind is socket.gaierror
    assert kind not in left


def test_no_io_uring(loop_name):
    """libuv may switch it on by itself; nothing here asks for it.  From 1.50
    on its loops have one to batch changes to epoll, whatever is asked."""
    run_script(
        loop_name,
        """
        import ctypes
        async def main():
            loop = asyncio.get_running_loop()
            await loop.getaddrinfo("localhost", 80)
            near, far = socket.socketpair()
            with near, far:
                near.setblocking(False)
                far.send(b"x")
                await loop.sock_recv(near, 1)
            child = await asyncio.create_subprocess_exec("true")
            await child.wait()
            names = support.open_fds().values()
            rings = [name for name in names if "io_uring" in name]
            assert len(rings) <= (ctypes.CDLL("libuv.so.1").uv_version()
                                  >= 1 << 16 | 50 << 8), names
        run(main())
        """,
        PYLOOP_IO_URING="",
    )
