"""The C client of include/pyloop.h, and a loop for it; asyncio has nothing of
the kind, so these tests run on pyloop alone."""

import os
import sys

import pytest
import support

import pyloop

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

pytest.register_assert_rewrite("contract")

import building  # noqa: E402


@pytest.fixture(scope="session")
def client():
    return building.c_client()


@pytest.fixture
def loop():
    loop = pyloop.new_event_loop()
    yield loop
    support.finish(loop)
