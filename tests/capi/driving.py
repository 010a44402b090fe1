"""Statuses of pyloop.h, and ways to run a loop until something is so."""

import asyncio
import time

OK, CLOSED, CANCELLED, RAISED = 0, -1, -2, -3


def settle(loop, turns=4):
    async def main():
        for _ in range(turns):
            await asyncio.sleep(0)

    loop.run_until_complete(main())


def run_until(loop, ready, timeout=20):
    """Runs the loop until ready() is true."""
    deadline = time.monotonic() + timeout

    async def main():
        while not ready():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.001)

    loop.run_until_complete(main())
