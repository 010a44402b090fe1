"""What a loop does by itself, for rows that have two of them do it."""

from __future__ import annotations

import asyncio

from . import loops


def callbacks(name: str, n: int) -> None:
    """n callbacks, a hundred a turn."""
    loop = loops.factory(name)()
    left = n

    def one():
        nonlocal left
        left -= 1
        if left % 100 == 0:
            refill()

    def refill():
        if left <= 0:
            loop.stop()
            return
        for _ in range(100):
            loop.call_soon(one)

    refill()
    loop.run_forever()
    loop.close()


class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)


class Client(Echo):
    def __init__(self, rounds, ended):
        self.left = rounds
        self.ended = ended

    def connection_made(self, transport):
        super().connection_made(transport)
        transport.write(bytes(1024))

    def data_received(self, data):
        self.left -= 1
        if self.left > 0:
            self.transport.write(data)
        else:
            self.transport.close()
            self.ended.set_result(None)


def echo(name: str, n: int) -> None:
    """n round trips of 1 KiB over ten connections of the loop to itself."""

    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        ends = [loop.create_future() for _ in range(10)]
        for end in ends:
            await loop.create_connection(
                lambda end=end: Client(n // 10, end), *address
            )
        await asyncio.gather(*ends)
        server.close()

    with asyncio.Runner(loop_factory=loops.factory(name)) as runner:
        runner.run(main())
