"""asyncio's own tools look at a process with a running loop."""

import subprocess
import sys

import pytest
from support import Script, child_env

pytestmark = pytest.mark.skipif(
    sys.version_info < (3, 14), reason="python -m asyncio ps: 3.14"
)

SERVER = """
async def handle(reader, writer):
    await reader.readline()

async def serve_clients():
    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(
        *server.sockets[0].getsockname())
    say("ready")
    await server.serve_forever()

async def main():
    async with asyncio.TaskGroup() as group:
        group.create_task(serve_clients(), name="the server")

run(main())
"""


def look(process, command):
    done = subprocess.run(
        [sys.executable, "-m", "asyncio", command, str(process.pid)],
        capture_output=True,
        text=True,
        timeout=60,
        env=child_env(),
    )
    words = done.stdout + done.stderr
    if "ermission" in words or "not permitted" in words:
        pytest.skip("no permission to trace another process here")
    assert done.returncode == 0, words
    return done.stdout


@pytest.mark.parametrize("command", ["ps", "pstree"])
def test_tasks_are_listed(loop_name, command):
    with Script(loop_name, SERVER) as server:
        server.expect("ready")
        server.asleep()
        text = look(server.process, command)
    # The server's task, awaited by the group's, and the connection's.
    assert "the server" in text
    for name in ("main", "serve_clients", "Server.serve_forever", "handle"):
        assert name in text
    if command == "pstree":
        lines = text.splitlines()
        outer = next(n for n, line in enumerate(lines) if " main " in line)
        inner = next(n for n, line in enumerate(lines) if "the server" in line)
        assert outer < inner
        assert lines[outer].index("main") < lines[inner].index("the server")
