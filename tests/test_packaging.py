"""The sdist holds all that a wheel needs, and the wheel all that a program
needs: both are built without the checkout and used in an empty venv."""

import os
import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import pyloop

ROOT = Path(__file__).resolve().parent.parent
PARTS = "loop include pyloop examples LICENSE README.md CHANGELOG.md".split()
PARTS += "pyproject.toml setup.cfg setup.py MANIFEST.in".split()

pytestmark = [
    pytest.mark.slow,
    pytest.mark.packaging,
    pytest.mark.timeout(300),
]


def run(*command, **options):
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def build(kind, source, target):
    """Runs the build backend's hook in `source`; returns what it built."""
    hook = "import sys; from setuptools import build_meta; " + (
        f"build_meta.build_{kind}(sys.argv[1])"
    )
    environment = {**os.environ, "PYLOOP_LTO": "0"}  # twice as quick
    run(sys.executable, "-c", hook, target, cwd=source, env=environment)
    (built,) = target.iterdir()
    return built


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    source = tmp_path_factory.mktemp("source")
    present = [part for part in PARTS if (ROOT / part).exists()]
    command = ["tar", "-cf", "-", "--exclude=*.so", "--exclude=__pycache__"]
    packed = subprocess.run(
        [*command, *present], cwd=ROOT, capture_output=True
    )
    assert packed.returncode == 0, packed.stderr
    subprocess.run(["tar", "-xf", "-"], cwd=source, input=packed.stdout)
    return build("sdist", source, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory):
    source = tmp_path_factory.mktemp("unpacked")
    run("tar", "-xzf", sdist, "--strip-components=1", cwd=source)
    return build("wheel", source, tmp_path_factory.mktemp("wheel"))


def test_sdist_has_sources(sdist):
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for source in [*ROOT.glob("loop/*.[ch]"), *ROOT.glob("include/*")]:
        assert str(source.relative_to(ROOT)) in names
    assert {"LICENSE", "pyproject.toml", "setup.cfg", "setup.py"} <= names
    assert not [name for name in names if name.endswith(".so")]


def test_wheel_has_types_and_license(wheel):
    assert wheel.name.startswith(f"pyloop-{pyloop.__version__}-")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = next(name for name in names if name.endswith("/METADATA"))
        text = archive.read(metadata).decode()
    assert {"pyloop/py.typed", "pyloop/_core.pyi"} <= set(names)
    headers = {"pyloop.h", "pyloop_import.h", "pyloop.pxd"}
    assert {f"pyloop/include/{name}" for name in headers} <= set(names)
    assert any(name.endswith("/LICENSE") for name in names)
    # Nothing at run time but for the extras.
    required = re.findall("^Requires-Dist: (.*)$", text, re.M)
    assert all("extra ==" in line for line in required)
    assert "Requires-Python: >=3.11" in text


def test_wheel_in_an_empty_venv(wheel, tmp_path):
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install"]
    run(*pip, "--no-index", "--no-deps", "--quiet", wheel)
    program = (
        "import asyncio, os, pyloop\n"
        "async def main():\n"
        "    await asyncio.sleep(0.001)\n"
        "    return type(asyncio.get_running_loop()).__module__\n"
        "print(pyloop.__file__)\n"
        "print(pyloop.run(main()))\n"
        "print(*sorted(os.listdir(pyloop.get_include())))\n"
    )
    out = run(python, "-I", "-W", "error", "-c", program, cwd=tmp_path)
    where, module, *headers = out.split()
    assert {"pyloop.h", "pyloop.pxd", "pyloop_import.h"} <= set(headers)
    assert Path(where).is_relative_to(tmp_path)
    assert module.partition(".")[0] == "pyloop"
