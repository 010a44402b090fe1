"""Each kind of work, many rounds, in a process of its own: descriptors,
objects and memory must not grow with the rounds."""

import json
import os
import subprocess
import sys

import pytest
from support import child_env

SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "leaks.py")

ROUNDS = {
    "tcp": 200,
    "buffered": 200,
    "unix": 200,
    "tls": 60,
    "server": 100,
    "abort": 60,
    "timers": 100,
    "handles": 100,
    "failures": 50,
    "watchers": 50,
    "names": 100,
    "datagrams": 50,
    "datagram_ends": 20,
    "children": 20,
    "loops": 40,
    "runs": 20,
}

# Memory per round above which growth is no longer the allocator's noise.
NOISE = 512


@pytest.mark.parametrize("kind", ROUNDS)
def test_nothing_grows(loop_name, kind):
    rounds = ROUNDS[kind]
    done = subprocess.run(
        [sys.executable, SCRIPT, loop_name, kind, str(rounds)],
        capture_output=True,
        text=True,
        timeout=60,
        env=child_env(),
    )
    assert done.returncode == 0, done.stderr
    grown = json.loads(done.stdout)
    assert grown["fds"] <= 0
    # A leaked object per round would show; a cache that fills would not.
    assert grown["objects"] < rounds
    assert grown["bytes"] < 300_000 + rounds * NOISE
