"""Protocols in C behind stream transports."""

import asyncio
import os
import ssl

import pytest
import support


async def serve(client, context=None, **options):
    loop = asyncio.get_running_loop()
    factory, totals = client.echo()
    server = await loop.create_server(
        factory, "127.0.0.1", 0, ssl=context, **options
    )
    return server, server.sockets[0].getsockname()[:2], totals


async def finish(server, client, totals, lost):
    server.close()
    while client.echo_totals(totals)["lost"] < lost:
        await asyncio.sleep(0.001)
    await server.wait_closed()
    return client.echo_totals(totals)


def test_native_protocol_echo(client, loop):
    payload = os.urandom(300000)

    async def main():
        server, address, totals = await serve(client)
        reader, writer = await asyncio.open_connection(*address)
        writer.write(payload)
        assert await reader.readexactly(len(payload)) == payload
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
        return await finish(server, client, totals, 1)

    totals = loop.run_until_complete(main())
    assert totals["made"] == totals["lost"] == totals["eof"] == 1
    assert totals["received"] == len(payload)
    assert totals["errors"] == 0


def test_native_protocol_flow_control(client, loop):
    payload = bytes(1 << 20)

    async def main():
        server, address, totals = await serve(client)
        reader, writer = await asyncio.open_connection(*address, limit=1)
        total = 32
        sending = asyncio.create_task(send(writer, total))
        while client.echo_totals(totals)["paused"] == 0:
            await asyncio.sleep(0.001)
        received = 0
        while received < total << 20:
            received += len(await reader.read(1 << 20))
        await sending
        writer.close()
        await writer.wait_closed()
        return await finish(server, client, totals, 1)

    async def send(writer, total):
        for _ in range(total):
            writer.write(payload)
            await writer.drain()

    totals = loop.run_until_complete(main())
    assert totals["paused"] == totals["resumed"] > 0
    assert totals["received"] == 32 << 20


@pytest.mark.parametrize("tls", [False, True])
def test_native_protocol_close_and_abort(client, loop, tls):
    server_context = support.server_tls() if tls else None
    client_context = support.client_tls() if tls else None

    async def main():
        server, address, totals = await serve(client, server_context)

        async def talk(word):
            reader, writer = await asyncio.open_connection(
                *address, ssl=client_context
            )
            writer.write(word)
            try:
                answer = await reader.read()
            except (ConnectionError, ssl.SSLError):
                answer = b""
            writer.close()
            try:
                await writer.wait_closed()
            except (ConnectionError, ssl.SSLError):
                pass
            return answer

        assert await talk(b"close") == b"bye"
        assert await talk(b"abort") == b""
        return await finish(server, client, totals, 2)

    totals = loop.run_until_complete(main())
    assert totals["made"] == totals["lost"] == 2


def test_native_protocol_exception(client, loop):
    contexts = []
    loop.set_exception_handler(lambda loop, c: contexts.append(c))

    async def main():
        server, address, totals = await serve(client)
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"raise")
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
        return await finish(server, client, totals, 1)

    totals = loop.run_until_complete(main())
    assert totals["errors"] == 1
    (context,) = contexts
    assert context["message"] == (
        "Fatal error: protocol.data_received() call failed."
    )
    assert repr(context["exception"]) == "ValueError('as asked')"


def test_native_protocol_over_a_unix_socket(client, loop, tmp_path):
    path = str(tmp_path / "socket")

    async def main():
        factory, totals = client.echo()
        server = await loop.create_unix_server(factory, path)
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        writer.close()
        await writer.wait_closed()
        return await finish(server, client, totals, 1)

    assert loop.run_until_complete(main())["received"] == 5


def test_native_protocol_replaces_and_is_replaced(client, loop):
    class Once(asyncio.Protocol):
        """Hands the connection to a native protocol after a greeting."""

        def connection_made(self, transport):
            self.transport = transport

        def data_received(self, data):
            native = factory()
            self.transport.set_protocol(native)
            native.connection_made(self.transport)
            self.transport.write(b"native now")

    factory, totals = client.echo()

    async def main():
        server = await loop.create_server(Once, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"hello")
        assert await reader.readexactly(10) == b"native now"
        writer.write(b"echo me")
        assert await reader.readexactly(7) == b"echo me"
        writer.close()
        await writer.wait_closed()
        return await finish(server, client, totals, 1)

    assert loop.run_until_complete(main())["received"] == 7


def test_native_protocol_is_an_asyncio_protocol(client):
    factory, _ = client.echo()
    protocol = factory()
    assert isinstance(protocol, asyncio.Protocol)
    with pytest.raises(TypeError):
        factory(1)
    with pytest.raises(TypeError):
        type(protocol)()
    # Without a transport nothing happens, and nothing breaks.
    protocol.pause_writing()
    protocol.resume_writing()
    protocol.connection_lost(None)
