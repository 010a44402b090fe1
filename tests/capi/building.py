"""Builds the clients of include/ as a user would: with the interpreter's
compiler and the directory that pyloop.get_include() names."""

import ctypes
import fcntl
import hashlib
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig

import pytest

import pyloop

HERE = os.path.dirname(os.path.abspath(__file__))
BUILD = os.path.join(os.path.dirname(os.path.dirname(HERE)), "build", "capi")


def compiler(variable="CC"):
    return shlex.split(sysconfig.get_config_var(variable))


def run(command, **options):
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{shlex.join(command)}\n{done.stdout}")


def built(command, sources, target):
    """The target, made by command unless it is there: its name carries a
    digest of all that goes into it."""
    digest = hashlib.sha256(repr((command, sys.version)).encode())
    for directory, _, files in sorted(os.walk(pyloop.get_include())):
        sources = [*sources, *(os.path.join(directory, f) for f in files)]
    for source in sources:
        with open(source, "rb") as file:
            digest.update(file.read())
    stem, dot, suffix = target.partition(".")
    directory = os.path.join(BUILD, f"{stem}-{digest.hexdigest()[:16]}")
    path = os.path.join(directory, target)
    os.makedirs(directory, exist_ok=True)
    with open(os.path.join(directory, "lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.exists(path):
            partial = path + ".partial"
            run([*command, "-o", partial])
            os.rename(partial, path)
    return path


def extension(name, *files, compiler_variable="CC", flags=(), link=()):
    """The module `name`, compiled from files here against the headers."""
    sources = [os.path.join(HERE, file) for file in files]
    command = [
        *compiler(compiler_variable),
        *("-shared", "-fPIC", "-O2", "-pthread"),
        *flags,
        "-I" + pyloop.get_include(),
        "-I" + sysconfig.get_path("include"),
        *sources,
        *link,
    ]
    sanitizer = os.environ.get("PYLOOP_SANITIZE")
    if sanitizer:
        command += [f"-fsanitize={sanitizer}", "-g"]
    target = name + sysconfig.get_config_var("EXT_SUFFIX")
    return load(name, built(command, sources, target))


def load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def c_client():
    return extension(
        "capi_client",
        "client.c",
        flags=("-std=c99", "-D_GNU_SOURCE", "-Wall", "-Wno-unused-parameter"),
    )


def cpp_client():
    command = compiler("CXX") or ["c++"]
    if shutil.which(command[0]) is None:
        pytest.skip(f"no C++ compiler: {command[0]}")
    return extension(
        "cpp_client",
        "client.cpp",
        compiler_variable="CXX",
        flags=("-std=c++17", "-Wall", "-Wextra"),
    )


def cython_client():
    try:
        import Cython
    except ImportError:
        pytest.skip("no Cython for this interpreter")
    source = os.path.join(HERE, "client.pyx")
    command = [sys.executable, "-m", "cython", "-Werror"]
    command += ["--module-name", "cython_client", "-I", pyloop.get_include()]
    made = built(
        [*command, source], [source, Cython.__file__], "cython_client.c"
    )
    flags = ("-Wall", "-Wno-unused-function")
    return extension("cython_client", made, flags=flags)


RUST_FUNCTIONS = {
    "burst": [ctypes.py_object, ctypes.c_uint32, ctypes.c_uint32]
    + [ctypes.py_object],
    "calls": [ctypes.py_object, ctypes.py_object, ctypes.c_uint32],
    "doubled": [ctypes.py_object, ctypes.c_long],
    "init": [],
    "layout": [],
}


def rust_client():
    """One library for all interpreters; it finds their functions when it is
    loaded. PyDLL calls it attached and raises what it leaves."""
    if shutil.which("cargo") is None:
        pytest.skip("no cargo")
    target = os.path.join(BUILD, "cargo")
    command = ["cargo", "build", "--release", "--offline", "--locked"]
    command += ["--target-dir", target]
    environment = dict(os.environ)
    environment.pop("LD_PRELOAD", None)  # rustc dies of a sanitizer's library
    run(command, cwd=os.path.join(HERE, "rust_client"), env=environment)
    path = os.path.join(target, "release", "librust_client.so")
    library = ctypes.PyDLL(path)
    for name in (
        "burst join counts calls calls_left calls_outcome doubled hold"
        " is_alive post init layout"
    ).split():
        function = getattr(library, name)
        function.restype = ctypes.py_object
        function.argtypes = RUST_FUNCTIONS.get(name, [ctypes.py_object])
    library.init()
    return library
