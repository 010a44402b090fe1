"""client.cpp, built with the interpreter's C++ compiler."""

import building
import pytest
from contract import Contract


@pytest.fixture(scope="module")
def client():
    return building.cpp_client()


class TestCpp(Contract):
    pass
