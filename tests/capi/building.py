"""Builds the clients of include/ as a user would: with the interpreter's
compiler and the directory that pyloop.get_include() names."""

import fcntl
import hashlib
import importlib.util
import os
import shlex
import subprocess
import sys
import sysconfig

import pyloop

HERE = os.path.dirname(os.path.abspath(__file__))
BUILD = os.path.join(os.path.dirname(os.path.dirname(HERE)), "build", "capi")


def compiler(variable="CC"):
    return shlex.split(sysconfig.get_config_var(variable))


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
            done = subprocess.run(
                [*command, "-o", partial],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            if done.returncode != 0:
                raise RuntimeError(f"{shlex.join(command)}\n{done.stdout}")
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
