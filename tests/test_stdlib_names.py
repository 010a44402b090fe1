"""The private names of asyncio that pyloop leans on exist in the running
version: a new Python fails here, loudly, and not somewhere else."""

import importlib

import pytest
from support import LOOPS

if "pyloop" not in LOOPS:
    pytest.skip("pyloop is not under test", allow_module_level=True)

from pyloop import _loop  # noqa: E402


def resolve(owner):
    module, _, name = owner.partition(":")
    found = importlib.import_module(module)
    return getattr(found, name) if name else found


@pytest.mark.parametrize("owner, name", _loop.STDLIB_NAMES)
def test_exists(owner, name):
    assert hasattr(resolve(owner), name)


def test_named_once():
    assert len(set(_loop.STDLIB_NAMES)) == len(_loop.STDLIB_NAMES)
