"""Builds native.c for this interpreter, against the installed pyloop.h."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pyloop

from .row import Skip

HERE = Path(__file__).parent
NAME = "pyloop_bench_native"


@functools.cache
def load():
    """The extension module; Skip where it cannot be built."""
    include = Path(pyloop.get_include())
    source = HERE / "native.c"
    command = shlex.split(sysconfig.get_config_var("CC") or "cc")
    if shutil.which(command[0]) is None:
        raise Skip(f"no C compiler ({command[0]})")
    command += ["-O2", "-D_GNU_SOURCE", "-shared", "-fPIC", "-pthread"]
    command += [f"-I{include}", f"-I{sysconfig.get_path('include')}"]
    command += [str(source)]
    digest = hashlib.sha256(repr((command, sys.version)).encode())
    for file in (source, *sorted(include.glob("*.h"))):
        digest.update(file.read_bytes())
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    directory = HERE.parent / "build" / "bench"
    target = directory / f"{NAME}-{digest.hexdigest()[:12]}{suffix}"
    if not target.exists():
        directory.mkdir(parents=True, exist_ok=True)
        made = f"{target}.{os.getpid()}"
        subprocess.run([*command, "-o", made], check=True)
        os.replace(made, target)
    spec = importlib.util.spec_from_file_location(NAME, target)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
