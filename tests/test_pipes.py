import asyncio
import gc
import os
import re
import socket
import subprocess
import sys
import tty
import warnings

import pytest
from support import (
    async_error,
    asyncio_of_3_11_7,
    handler_calls,
    open_fds,
    pattern,
    turns,
    until,
)


class Reader(asyncio.Protocol):
    def __init__(self):
        loop = asyncio.get_running_loop()
        self.calls = []
        self.received = bytearray()
        self.lost = loop.create_future()
        self.changed = asyncio.Event()

    def connection_made(self, transport):
        self.transport = transport
        self.calls.append("made")

    def data_received(self, data):
        self.received += data
        self.changed.set()

    def eof_received(self):
        self.calls.append("eof")

    def connection_lost(self, exc):
        self.calls.append("lost")
        self.lost.set_result(exc)
        self.changed.set()

    def pause_writing(self):
        self.calls.append("pause")

    def resume_writing(self):
        self.calls.append("resume")
        self.changed.set()

    async def until(self, predicate):
        while not predicate():
            self.changed.clear()
            await self.changed.wait()


async def read_pipe(fd):
    loop = asyncio.get_running_loop()
    return await loop.connect_read_pipe(Reader, os.fdopen(fd, "rb", 0))


async def write_pipe(fd):
    loop = asyncio.get_running_loop()
    return await loop.connect_write_pipe(Reader, os.fdopen(fd, "wb", 0))


@asyncio_of_3_11_7
async def test_read():
    read, write = os.pipe()
    transport, protocol = await read_pipe(read)
    assert isinstance(transport, asyncio.ReadTransport)
    assert transport.get_extra_info("pipe").fileno() == read
    os.write(write, b"one")
    await protocol.until(lambda: protocol.received == b"one")
    transport.pause_reading()
    assert not transport.is_reading()
    os.write(write, b"two")
    await turns(5)
    assert protocol.received == b"one"
    transport.resume_reading()
    await protocol.until(lambda: protocol.received == b"onetwo")
    os.close(write)
    assert await protocol.lost is None
    assert protocol.calls == ["made", "eof", "lost"]


async def test_write():
    read, write = os.pipe()
    os.set_blocking(read, False)
    transport, protocol = await write_pipe(write)
    assert isinstance(transport, asyncio.WriteTransport)
    assert transport.get_write_buffer_size() == 0
    data = pattern(1_000_000)
    transport.write(data)
    assert transport.get_write_buffer_size() > 0
    assert protocol.calls == ["made", "pause"]
    received = bytearray()

    def more():
        try:
            received.extend(os.read(read, 1 << 16))
        except BlockingIOError:
            pass
        return len(received) >= len(data)

    await until(more)
    assert received == data
    await protocol.until(lambda: "resume" in protocol.calls)
    transport.close()
    assert await protocol.lost is None
    assert os.read(read, 1) == b""
    os.close(read)


async def test_close_flushes():
    read, write = os.pipe()
    os.set_blocking(read, False)
    transport, protocol = await write_pipe(write)
    data = pattern(300_000)
    transport.write(data)
    transport.close()
    received = bytearray()

    def more():
        try:
            part = os.read(read, 1 << 16)
        except BlockingIOError:
            return False
        received.extend(part)
        return not part

    await until(more)
    assert received == data
    await protocol.lost
    os.close(read)


async def test_abort():
    read, write = os.pipe()
    transport, protocol = await write_pipe(write)
    transport.write(bytes(1_000_000))
    transport.abort()
    assert await protocol.lost is None
    os.close(read)


async def test_reader_gone():
    read, write = os.pipe()
    transport, protocol = await write_pipe(write)
    os.close(read)
    exc = await protocol.lost
    assert exc is None or type(exc) is BrokenPipeError
    transport.write(b"x")
    transport.close()


async def test_write_eof():
    read, write = os.pipe()
    transport, protocol = await write_pipe(write)
    assert transport.can_write_eof()
    transport.write(b"x")
    transport.write_eof()
    await protocol.lost
    assert os.read(read, 10) == b"x"
    assert os.read(read, 10) == b""
    os.close(read)


async def test_socket_as_pipe():
    loop = asyncio.get_running_loop()
    near, far = socket.socketpair()
    with far:
        transport, protocol = await loop.connect_read_pipe(Reader, near)
        far.send(b"x")
        await protocol.until(lambda: protocol.received)
        transport.close()
        await protocol.lost
        assert near.fileno() == -1


async def test_terminal():
    """A pseudo terminal can be read and written."""
    import pty

    loop = asyncio.get_running_loop()
    master, slave = pty.openpty()
    import tty

    tty.setraw(slave)
    reading, reader = await read_pipe(master)
    writing, writer = await loop.connect_write_pipe(
        Reader, os.fdopen(slave, "wb", 0)
    )
    writing.write(b"hello")
    await reader.until(lambda: reader.received == b"hello")
    writing.close()
    await writer.lost
    reading.close()
    await reader.lost


def test_terminal_hangup(agree):
    """A read error: EIO of a terminal whose other end is gone."""
    import pty

    async def scenario(loop):
        master, slave = pty.openpty()
        os.write(slave, b"last words\n")
        transport, protocol = await read_pipe(master)
        os.close(slave)
        lost = await protocol.lost
        return type(lost), str(lost), protocol.calls, protocol.received

    assert agree(scenario)[0] is OSError


async def test_messages_of_all_sizes():
    """Each comes whole, whatever is in the pipe beside it."""
    read, write = os.pipe()
    transport, protocol = await read_pipe(read)
    os.set_blocking(write, False)
    data = pattern(300_000)
    sent = 0
    for size in (1, 2, 4_095, 4_096, 65_536, 7):
        sent += os.write(write, data[sent : sent + size])
        await protocol.until(lambda: len(protocol.received) == sent)
    assert protocol.received == data[:sent]
    os.close(write)
    assert await protocol.lost is None


def test_regular_file(agree, tmp_path):
    """Refused with words, not by a crash; the file stays the caller's."""
    path = tmp_path / "file"
    path.write_bytes(b"x")

    async def scenario(loop):
        seen = []
        with open(path, "rb") as file:
            seen.append(
                await async_error(loop.connect_read_pipe(Reader, file))
            )
        with open(path, "wb") as file:
            seen.append(
                await async_error(loop.connect_write_pipe(Reader, file))
            )
        return seen

    seen = agree(scenario)
    assert seen[0] == (
        ValueError,
        "Pipe transport is for pipes/sockets only.",
    )


async def test_quiet_after_the_end(loop_name):
    """asyncio calls connection_lost() twice after close() and abort()."""
    loop = asyncio.get_running_loop()
    calls = handler_calls(loop)
    read, write = (open(fd, "rb+", 0) for fd in os.pipe())
    near, writer = await loop.connect_write_pipe(Reader, write)
    far, reader = await loop.connect_read_pipe(Reader, read)
    near.close()
    if loop_name == "pyloop":
        near.abort()
    await writer.lost
    await reader.lost
    for call in (
        *(near.close, near.write_eof, near.is_closing, near.get_protocol),
        *(far.close, far.pause_reading, far.resume_reading, far.is_reading),
        *([near.abort] if loop_name == "pyloop" else []),
    ):
        call()
    near.write(b"x")
    await turns(5)
    assert calls == []


async def test_one_terminal_both_ways():
    """As a program has it for stdin and stdout."""
    loop = asyncio.get_running_loop()
    calls = handler_calls(loop)
    master, slave = os.openpty()
    tty.setraw(slave)
    os.set_blocking(master, False)
    file = open(slave, "rb+", 0)
    reading, reader = await loop.connect_read_pipe(Reader, file)
    writing, writer = await loop.connect_write_pipe(Reader, file)
    seen = bytearray()

    def drained(size):
        try:
            seen.extend(os.read(master, 65536))
        except BlockingIOError:
            pass
        return len(seen) == size

    writing.write(b"out")
    await until(lambda: drained(3))
    os.write(master, b"in")
    await until(lambda: reader.received == b"in")
    writing.write(bytes(200_000))
    await until(lambda: drained(200_003))
    os.write(master, b"more")
    await until(lambda: reader.received == b"inmore")
    reading.close()
    await reader.lost
    writing.close()
    await writer.lost
    os.close(master)
    assert calls == []


def test_dev_null(agree):
    """No regular file, and yet none that epoll takes."""

    async def scenario(loop):
        calls = handler_calls(loop)
        with open("/dev/null", "wb", 0) as file:
            transport, protocol = await loop.connect_write_pipe(Reader, file)
            transport.write(bytes(100_000))
            seen = [transport.get_write_buffer_size()]
            transport.close()
            seen.append(await protocol.lost)
        with open("/dev/null", "rb", 0) as file:
            transport, _ = await loop.connect_read_pipe(Reader, file)
            await turns(5)
            transport.close()
            await turns(5)
        for call in calls:
            callback, _, _ = call["message"].partition("(")
            seen.append((callback, repr(call["exception"])))
        return seen

    seen = agree(scenario)
    assert seen[:2] == [0, None]
    assert "PermissionError" in seen[2][1]


def test_shown_states(agree):
    """Word for word: what logs show of pipes."""

    async def scenario(loop):
        seen = []

        def show(transport):
            seen.append(re.sub(r"\d+", "N", repr(transport)))

        for kind in "read", "write":
            read, write = (open(fd, "rb+", 0) for fd in os.pipe())
            with read, write:
                if kind == "read":
                    transport, protocol = await loop.connect_read_pipe(
                        Reader, read
                    )
                else:
                    transport, protocol = await loop.connect_write_pipe(
                        Reader, write
                    )
                await turns()
                show(transport)
                if kind == "read":
                    transport.pause_reading()
                else:
                    transport.write(bytes(200_000))
                show(transport)
                if kind == "read":
                    transport.close()
                else:
                    transport.abort()
                show(transport)
                await protocol.lost
                show(transport)
        return seen

    assert len(agree(scenario)) == 8


def test_unclosed_transports(agree):
    async def scenario(loop):
        seen = []
        for kind in "read", "write":
            read, write = (open(fd, "rb+", 0) for fd in os.pipe())
            with read, write:
                if kind == "read":
                    transport, _ = await loop.connect_read_pipe(Reader, read)
                else:
                    transport, _ = await loop.connect_write_pipe(Reader, write)
                await turns()
                # What the loop holds would keep it from being dropped.
                number = (read if kind == "read" else write).fileno()
                loop._remove_reader(number)
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    transport.__del__()
                transport._pipe = None  # said once is enough
                for warning in caught:
                    text = re.sub(r"\d+", "N", str(warning.message))
                    seen.append((warning.category, text))
        return seen

    seen = agree(scenario)
    assert [category for category, _ in seen] == [ResourceWarning] * 2


# asyncio's half-made transports fail once more when they are collected.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_bad_arguments(agree):
    async def scenario(loop):
        seen = []
        for value in (None, 5, "pipe"):
            for method in loop.connect_read_pipe, loop.connect_write_pipe:
                result = await async_error(method(Reader, value))
                seen.append(result[0])
        return seen

    agree(scenario)


async def test_descriptor_is_closed_once():
    """An unrelated file that gets the number stays open."""
    read, write = os.pipe()
    transport, protocol = await read_pipe(read)
    transport.close()
    await protocol.lost
    other = os.open("/dev/null", os.O_RDONLY)
    assert other == read
    del transport, protocol
    await turns(5)
    import gc

    gc.collect()
    os.fstat(other)
    os.close(other)
    os.close(write)


# asyncio's half-made transport fails once more when it is collected.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_second_transport_on_one_pipe(agree):
    """The same file again, before and after the first one's end."""

    async def scenario(loop):
        seen = []
        read, write = os.pipe()
        with os.fdopen(write, "wb", 0) as out:
            file = os.fdopen(read, "rb", 0)
            first, protocol = await loop.connect_read_pipe(Reader, file)
            other = os.fdopen(os.dup(read), "rb", 0)
            # Another descriptor of the same pipe is another pipe.
            second, reader = await loop.connect_read_pipe(Reader, other)
            second.close()
            await reader.lost
            out.write(b"x")
            await protocol.until(lambda: protocol.received)
            seen.append(bytes(protocol.received))
            first.close()
            await protocol.lost
            seen.append(
                (await async_error(loop.connect_read_pipe(Reader, file)))[0]
            )
            await turns()
        return seen

    agree(scenario)


def test_two_transports_on_one_descriptor(agree):
    """The second has what comes, and takes the watch with it."""

    async def scenario(loop):
        read, write = os.pipe()
        file = os.fdopen(read, "rb", 0)
        again = os.fdopen(read, "rb", 0, closefd=False)
        with os.fdopen(write, "wb", 0) as out:
            first, protocol = await loop.connect_read_pipe(Reader, file)
            second, reader = await loop.connect_read_pipe(Reader, again)
            out.write(b"x")
            await reader.until(lambda: reader.received)
            second.close()
            await reader.lost
            out.write(b"y")
            await turns(10)
            seen = bytes(protocol.received), bytes(reader.received)
            first.close()
            await protocol.lost
        return seen

    assert agree(scenario) == (b"", b"x")


def test_terminal_behind_a_pipe_transport(agree):
    """It cannot block meanwhile, and is left so."""

    async def scenario(loop):
        master, slave = os.openpty()
        file = os.fdopen(slave, "rb", 0)
        transport, protocol = await loop.connect_read_pipe(Reader, file)
        copy = os.dup(slave)
        seen = [os.get_blocking(copy)]
        os.write(master, b"a line\n")
        await protocol.until(lambda: protocol.received)
        transport.close()
        await protocol.lost
        seen += [bytes(protocol.received), os.get_blocking(copy)]
        os.close(copy)
        os.close(master)
        return seen

    assert agree(scenario) == [False, b"a line\n", False]


def test_stdin_is_left_as_it_was_found(loop_name):
    """A terminal shared with others stays blocking: add_reader() never
    touches it."""
    from support import run_script

    run_script(
        loop_name,
        """
        import pty, tty
        master, slave = pty.openpty()
        tty.setraw(slave)
        async def main():
            loop = asyncio.get_running_loop()
            event = asyncio.Event()
            loop.add_reader(slave, event.set)
            os.write(master, b"x")
            await event.wait()
            loop.remove_reader(slave)
            assert os.get_blocking(slave)
            assert os.read(slave, 10) == b"x"
            os.write(slave, b"x" * 100)
        run(main())
        assert os.get_blocking(slave)
        """,
    )


async def test_write_pipe_is_closed_once():
    """As the read pipe: an unrelated file that gets the number stays open."""
    read, write = os.pipe()
    transport, protocol = await write_pipe(write)
    transport.write(b"x")
    transport.close()
    await protocol.lost
    other = os.open("/dev/null", os.O_RDONLY)
    assert other == write
    del transport, protocol
    await turns(5)
    gc.collect()
    os.fstat(other)
    os.close(other)
    os.close(read)


async def test_failing_factory_leaves_the_pipe_alone():
    loop = asyncio.get_running_loop()
    read, write = os.pipe()
    before = open_fds().keys()

    def factory():
        raise ZeroDivisionError

    with os.fdopen(read, "rb", 0) as file, os.fdopen(write, "wb", 0) as out:
        assert (await async_error(loop.connect_read_pipe(factory, file)))[
            0
        ] is ZeroDivisionError
        assert (await async_error(loop.connect_write_pipe(factory, out)))[
            0
        ] is ZeroDivisionError
        assert open_fds().keys() == before
        out.write(b"x")
        assert file.read(1) == b"x"


async def test_stream_over_pipes():
    loop = asyncio.get_running_loop()
    read, write = os.pipe()
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    transport, _ = await loop.connect_read_pipe(
        lambda: protocol, os.fdopen(read, "rb", 0)
    )
    os.write(write, b"a line\nrest")
    os.close(write)
    assert await reader.readline() == b"a line\n"
    assert await reader.read() == b"rest"
    transport.close()
    await turns()


def test_stdin_and_stdout_of_a_process(loop_name):
    """Both as pipe transports; the same pipe again after the close fails
    with words."""
    from support import child_env, script

    code = script(
        loop_name,
        """
        async def main():
            loop = asyncio.get_running_loop()
            reader = asyncio.StreamReader()
            transport, _ = await loop.connect_read_pipe(
                lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
            data = await reader.read()
            transport.close()
            out, _ = await loop.connect_write_pipe(
                asyncio.BaseProtocol, sys.stdout)
            out.write(data.upper())
            out.close()
            await asyncio.sleep(0.01)
        run(main())
        """,
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        input=b"hello",
        capture_output=True,
        timeout=60,
        env=child_env(),
    )
    assert done.stdout == b"HELLO", done
