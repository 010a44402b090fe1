"""client.pyx, by way of pyloop.pxd."""

import building
import pytest
from contract import Contract


@pytest.fixture(scope="module")
def client():
    return building.cython_client()


class TestCython(Contract):
    pass
