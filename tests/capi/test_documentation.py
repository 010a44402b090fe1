"""The examples of docs/capi.md, as they stand there."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig

import building
import pytest

import pyloop

ROOT = os.path.dirname(os.path.dirname(building.HERE))
PAGE = os.path.join(ROOT, "docs", "capi.md")


def blocks(kind):
    with open(PAGE) as file:
        page = file.read()
    return re.findall(rf"^```{kind}\n(.*?)^```$", page, re.S | re.M)


def test_client_in_c(tmp_path):
    (source,) = (b for b in blocks("c") if "PyInit_client" in b)
    (script,) = (b for b in blocks("python") if "import client" in b)
    (tmp_path / "client.c").write_text(source)
    command = [
        *building.compiler(),
        *("-shared", "-fPIC", "-O2", "-pthread", "-Wall", "-Werror"),
        *(str(tmp_path / "client.c"), "-o", str(tmp_path / "client.so")),
        "-I" + pyloop.get_include(),
        "-I" + sysconfig.get_path("include"),
    ]
    subprocess.run(command, check=True)
    done = run(tmp_path, script)
    if not sysconfig.get_config_var("Py_GIL_DISABLED"):
        assert done.stderr == ""  # there: single-phase modules take the GIL


def run(directory, script):
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": f"{directory}:{ROOT}"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.returncode) == ("status 0, result 42\n", 0)
    return done


@pytest.mark.skipif(not shutil.which("rustc"), reason="no rustc")
def test_client_in_rust(tmp_path):
    (source,) = blocks("rust")
    (script,) = (b for b in blocks("python") if "PyDLL" in b)
    (shell,) = (b for b in blocks("sh") if "rustc" in b)
    (tmp_path / "client.rs").write_text(source)
    environment = dict(os.environ)
    environment.pop("LD_PRELOAD", None)  # rustc dies of a sanitizer's library
    subprocess.run(["sh", "-ec", shell], cwd=tmp_path, env=environment)
    assert run(tmp_path, script).stderr == ""
