"""The Rust client on pyo3-async-runtimes, for comparison.

``python -m bench.pyo3_calls`` builds it for this interpreter; that needs cargo
and its crates, so a run of the bench does not do it by itself.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from .row import Skip

HERE = Path(__file__).parent
NAME = "pyo3_calls"
TAG = sysconfig.get_config_var("SOABI")
TARGET = HERE.parent / "build" / "bench" / f"pyo3-{TAG}"
LIBRARY = TARGET / "release" / f"lib{NAME}.so"


@functools.cache
def load():
    if not LIBRARY.exists():
        raise Skip("not built; python -m bench.pyo3_calls does (cargo)")
    spec = importlib.util.spec_from_file_location(NAME, LIBRARY)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build() -> int:
    crate = TARGET / "crate"  # where cargo may write its lock file
    shutil.copytree(HERE / "pyo3", crate, dirs_exist_ok=True)
    command = ["cargo", "build", "--release", "--target-dir", str(TARGET)]
    environment = {
        **os.environ,
        "PYO3_PYTHON": sys.executable,
        "PYO3_BUILD_EXTENSION_MODULE": "1",  # do not link to libpython
    }
    try:
        return subprocess.call(command, cwd=crate, env=environment)
    except OSError as exc:
        print(f"bench.pyo3_calls: cargo: {exc}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(build())
