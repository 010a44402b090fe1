"""The test suites of packages that run on asyncio.

Taken from the source package of the version that is installed beside us, and
run with that version in a venv of its own; only the tests are taken from the
sources.  All of it stays in build/.
"""

import importlib.metadata
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile

from .common import ROOT, WORK, Verdict, version
from .excluded import EXCLUDED_OF

HERE = os.path.dirname(os.path.abspath(__file__))


class Suite:
    def __init__(self, name, sources, options=(), without=(), quick=None):
        self.name = name
        self.quick = quick or ["tests"]
        self.sources = sources  # what would hide the installed package
        self.options = options
        self.without = without  # no tests of the package's behaviour
        self.excluded = EXCLUDED_OF[name]


SUITES = {
    suite.name: suite
    for suite in (
        Suite(
            "uvicorn",
            ["uvicorn"],
            without=["tests/benchmarks"],
        ),
        Suite(
            "aiohttp",
            ["aiohttp"],
            ["-m", "not dev_mode and not autobahn and not internal"],
            without=["tests/autobahn", "tests/isolated"],
            # What sends and receives; the rest is parsers, cookies, mocks.
            quick=[
                f"tests/test_{name}.py"
                for name in (
                    "client_functional web_functional client_ws_functional "
                    "web_websocket_functional web_sendfile_functional "
                    "proxy_functional run_app web_server web_runner connector "
                    "resolver loop test_utils client_session base_protocol "
                    "streams flowcontrol_streams tcp_helpers web_protocol"
                ).split()
            ],
        ),
        Suite("hypercorn", ["src"], ["-o", "asyncio_mode=strict"]),
    )
}


class Missing(Exception):
    """The suite cannot be run: why."""


def call(log, what, *command):
    with open(log, "ab") as output:
        try:
            status = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                timeout=900,
            ).returncode
        except subprocess.TimeoutExpired:
            status = "a timeout"
    if status:
        raise Missing(f"{what} failed with {status}; see {log}")


def prepare(suite):
    """(python of the venv, directory of the tests, version)."""
    try:
        number = importlib.metadata.version(suite.name)
    except importlib.metadata.PackageNotFoundError:
        raise Missing(f"{suite.name} is not installed") from None
    wanted = f"{suite.name}=={number}"
    base = os.path.join(WORK, f"{version()}-{suite.name}")
    log = base + "-setup.log"
    sources = os.path.join(WORK, "sdist")
    archive = os.path.join(sources, f"{suite.name}-{number}.tar.gz")
    if not os.path.exists(archive):
        # Only this package from its sources: what builds it may be a wheel.
        call(
            log,
            f"pip download {wanted}",
            sys.executable,
            "-m",
            "pip",
            "download",
            "-q",
            "--no-input",
            "--no-deps",
            "--no-binary",
            suite.name,
            "-d",
            sources,
            wanted,
        )
    if not os.path.exists(archive):
        raise Missing(f"no {archive}")
    directory = base + "-tests"
    shutil.rmtree(directory, ignore_errors=True)
    with tarfile.open(archive) as file:
        file.extractall(directory, filter="data")
    (directory,) = (entry.path for entry in os.scandir(directory))
    for name in suite.sources:
        shutil.rmtree(os.path.join(directory, name))

    requirements = os.path.join(HERE, f"requirements-{suite.name}.txt")
    python = os.path.join(base + "-venv", "bin", "python")
    stamp = os.path.join(base + "-venv", "ready")
    with open(requirements) as file:
        state = wanted + "\n" + file.read()
    try:
        with open(stamp) as file:
            ready = file.read() == state
    except OSError:
        ready = False
    if not ready:
        shutil.rmtree(base + "-venv", ignore_errors=True)
        call(log, "venv", sys.executable, "-m", "venv", base + "-venv")
        call(
            log,
            f"pip install {wanted} and what its tests need",
            python,
            "-m",
            "pip",
            "install",
            "-q",
            "--no-input",
            "--prefer-binary",
            wanted,
            "-r",
            requirements,
        )
        with open(stamp, "w") as file:
            file.write(state)
    return python, directory, number


def run(suite, loop, python, directory, names, options):
    """{name of test: (outcome, runs of a loop of ours, text)}"""
    base = os.path.join(WORK, f"{version()}-{suite.name}-{loop}")
    # pyloop alone of the checkout, whose other directories have names that
    # the suites use too.
    path = os.path.join(WORK, "path")
    os.makedirs(path, exist_ok=True)
    if not os.path.lexists(os.path.join(path, "pyloop")):
        os.symlink(os.path.join(ROOT, "pyloop"), os.path.join(path, "pyloop"))
    report = base + ".json"
    if os.path.exists(report):
        os.unlink(report)
    command = [python, "-m", "pytest", "-p", "pyloop_report", "-q"]
    command += ["-o", "addopts=", "-p", "no:cacheprovider"]
    command += ["-n", str(options.jobs), f"--timeout={options.limit:g}"]
    command += suite.options
    # Benchmarks say nothing about right and wrong.
    command += ["--ignore-glob=*test_benchmarks_*"]
    command += [f"--ignore={name}" for name in suite.without]
    command += [f"--deselect={name}" for name in suite.excluded]
    if names:
        with open(base + ".names", "w") as file:
            file.write("\n".join(names))
        command.append(f"@{base}.names")
    else:
        command += suite.quick if options.quick else ["tests"]
        if options.k:
            command += ["-k", options.k]
    with open(base + ".log", "wb") as output:
        child = subprocess.Popen(
            command,
            cwd=directory,
            env=dict(
                os.environ,
                PYTHONPATH=os.path.join(HERE, "site") + os.pathsep + path,
                PYLOOP_UPSTREAM=loop,
                PYLOOP_REPORT=report,
            ),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            child.wait(2400)
        except subprocess.TimeoutExpired:
            pass
        try:
            os.killpg(child.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        child.wait()
    try:
        with open(report) as file:
            return json.load(file)
    except OSError:
        return {f"(no report; see {base}.log)": ("failed", 0, "")}


def verdicts(suite, options):
    """([verdict …], version of the package)"""
    python, directory, number = prepare(suite)
    how = python, directory
    ours = run(suite, "pyloop", *how, (), options)
    again = [name for name, record in ours.items() if record[0] != "passed"]
    theirs = run(suite, "asyncio", *how, again, options) if again else {}
    failed = [
        name
        for name in again
        if ours[name][0] == "failed"
        and theirs.get(name, ("passed",))[0] == "passed"
    ]
    second = run(suite, "pyloop-2", *how, failed, options) if failed else {}
    result = []
    for name, (here, runs, text) in ours.items():
        there = theirs.get(name, ("passed",))[0]
        if here == "passed":
            kind = "passed"
        elif second.get(name, ("failed",))[0] == "passed":
            kind = "second try"
        elif here == there:
            kind = "skipped" if here == "skipped" else "both"
        else:
            kind = "here"
        result.append(Verdict(name, kind, bool(runs), text))
    result += [Verdict(name, "excluded", False, "") for name in suite.excluded]
    return result, number
