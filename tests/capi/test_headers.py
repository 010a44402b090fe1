"""The installed headers, by themselves."""

import os
import re
import shutil
import subprocess

import pytest

import pyloop


def test_get_include_names_the_headers():
    names = set(os.listdir(pyloop.get_include()))
    assert {"pyloop.h", "pyloop_import.h", "pyloop.pxd"} <= names


def test_pxd_has_all_of_the_header():
    def words(name):
        with open(os.path.join(pyloop.get_include(), name)) as file:
            text = re.sub(r"/\*.*?\*/", "", file.read(), flags=re.DOTALL)
        return set(
            re.findall(r"\b(?:pyloop|PYLOOP)_\w+|\(\*\w+\)(?=\()", text)
        )

    assert words("pyloop.h") - words("pyloop.pxd") <= {"PYLOOP_H"}


@pytest.mark.parametrize(
    "command",
    [
        ["cc", "-std=c99", "-pedantic", "-x", "c"],
        ["cc", "-std=c11", "-pedantic", "-Wstrict-prototypes", "-x", "c"],
        ["c++", "-std=c++11", "-pedantic", "-x", "c++"],
    ],
    ids=["c99", "c11", "c++11"],
)
def test_header_compiles_alone(command, tmp_path):
    if shutil.which(command[0]) is None:
        pytest.skip(f"no {command[0]}")
    source = tmp_path / "alone.c"
    source.write_text("#include <pyloop.h>\nint main(void) { return 0; }\n")
    command += ["-Wall", "-Wextra", "-Werror", str(source)]
    command += ["-I", pyloop.get_include(), "-o", str(tmp_path / "alone")]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, done.stdout
