"""rust_client, whose bindings are written by hand: a test compares them with
the header."""

import subprocess

import building
import pytest
from contract import Contract

import pyloop


@pytest.fixture(scope="module")
def client():
    return building.rust_client()


class TestRust(Contract):
    pass


def test_bindings_match_the_header(client, tmp_path):
    lines = [line.split() for line in client.layout().splitlines()]
    assert {name for name, _, _ in lines} == {
        "pyloop_work",
        "pyloop_task",
        "pyloop_promise",
        "pyloop_api",
    }
    checks = []
    for name, member, number in lines:
        if member != "-":
            checks.append(f"offsetof({name}, {member}) == {number}")
        elif name == "pyloop_api":  # it declares the first functions only
            checks.append(f"sizeof({name}) >= {number}")
        else:
            checks.append(f"sizeof({name}) == {number}")
    source = tmp_path / "layout.c"
    source.write_text(
        "#include <pyloop.h>\n"
        + "".join(f'_Static_assert({check}, "{check}");\n' for check in checks)
    )
    done = subprocess.run(
        [*building.compiler(), "-std=c11", "-fsyntax-only", str(source)]
        + ["-I", pyloop.get_include()],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
