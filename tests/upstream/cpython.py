"""CPython's asyncio tests, from the running interpreter's test package.

Each module runs in a process of its own on pyloop; what did not pass runs
again on asyncio, in the same environment.  A test that is late has its process
killed, and a new one goes on behind it.
"""

import concurrent.futures
import importlib.util
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time

from .common import ROOT, WORK, Verdict, version
from .excluded import EXCLUDED

PACKAGE = "test.test_asyncio"

# About another platform's loop, or about no loop at all.
LEFT_OUT = (
    "test_proactor_events",
    "test_windows_events",
    "test_windows_utils",
    "test_protocols",
    "test_selector_events",
    "test_tools",
    "test_transports",
)
# Started first: what takes long.
LONG = (
    "test_tasks",
    "test_ssl",
    "test_subprocess",
    "test_events",
    "test_sslproto",
    "test_taskgroups",
)


def find():
    """(directory of the suite, None) or (None, why there is none)."""
    try:
        spec = importlib.util.find_spec(PACKAGE)
    except ImportError:
        spec = None
    if spec is None or not spec.submodule_search_locations:
        return None, f"{sys.executable} comes without the package {PACKAGE}"
    return list(spec.submodule_search_locations)[0], None


def modules(directory):
    names = {
        entry[:-3]
        for entry in os.listdir(directory)
        if entry.startswith("test_") and entry.endswith(".py")
    }
    names -= set(LEFT_OUT)
    first = [name for name in LONG if name in names]
    return first + sorted(names - set(first))


class Process:
    """A child that runs tests; its reports, with a limit for each test."""

    def __init__(self, module, loop, names, limit, log):
        self.limit = limit
        self.directory = os.path.join(
            WORK, f"tmp-{version()}-{module}-{os.getpid()}"
        )
        shutil.rmtree(self.directory, ignore_errors=True)
        os.makedirs(self.directory)
        self.reading, writing = os.pipe()
        with open(log, "ab") as output:
            self.child = subprocess.Popen(
                [sys.executable, "-X", "faulthandler", "-m"]
                + ["tests.upstream.child", str(writing), loop]
                + [f"{PACKAGE}.{module}"],
                cwd=self.directory,
                env=dict(os.environ, PYTHONPATH=ROOT, TMPDIR=self.directory),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                pass_fds=[writing],
                start_new_session=True,
            )
        os.close(writing)
        with self.child.stdin as stdin:
            stdin.write("\n".join(names).encode())

    def reports(self):
        """Yields each report; ends with the process, or when it is late."""
        text = b""
        deadline = time.monotonic() + self.limit
        while True:
            left = deadline - time.monotonic()
            if select.select([self.reading], [], [], max(0, min(left, 1)))[0]:
                data = os.read(self.reading, 65536)
                if not data:
                    return
                deadline = time.monotonic() + self.limit
                *lines, text = (text + data).split(b"\n")
                for line in lines:
                    yield json.loads(line)
            elif self.child.poll() is not None:
                # What a test has left alive may hold the pipe open.
                return
            elif left <= 0:
                self.child.send_signal(signal.SIGUSR2)  # where it stands
                time.sleep(0.5)
                yield {"late": True}
                return

    def close(self, late):
        """The exit status; with 10 s for the interpreter to end."""
        try:
            status = self.child.wait(0 if late else 10)
        except subprocess.TimeoutExpired:
            status = None
        try:
            os.killpg(self.child.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.child.wait()
        os.close(self.reading)
        shutil.rmtree(self.directory, ignore_errors=True)
        return status


def run(module, loop, names, limit):
    """{name of test: record}: the named tests of a module, or all."""
    log = os.path.join(WORK, f"{version()}-{module}-{loop}.log")
    if os.path.exists(log):
        os.unlink(log)
    done, order = {}, []
    while True:
        process = Process(module, loop, names, limit, log)
        current = None
        late = False
        for report in process.reports():
            if "tests" in report:
                order = order or report["tests"]
            elif "start" in report:
                current = report["start"]
            elif "late" in report:
                late = True
            else:
                done[report["name"]] = report
                current = None
        status = process.close(late)
        if current is None and not late and status == 0:
            return done
        name = current or f"{PACKAGE}.{module}.(import or exit)"
        done[name] = {
            "name": name,
            "outcome": "failed",
            "loops": 1,
            "seconds": limit if late else 0,
            "text": f"no end after {limit} s; see {log}"
            if late
            else f"the process ended with status {status}; see {log}",
        }
        names = [name for name in order if name not in done]
        if not names or current is None:
            return done


def verdicts(module, limit, pattern):
    """Runs a module on pyloop, and on asyncio what did not pass."""
    excluded = {f"{PACKAGE}.{name}": why for name, why in EXCLUDED.items()}
    # "-" before a name: all but these.
    ours = run(
        module,
        "pyloop",
        [f"-{name}" for name in excluded]
        + ([f"?{pattern}"] if pattern else []),
        limit,
    )
    again = [
        name
        for name, record in ours.items()
        if record["outcome"] in ("failed", "skipped") and "(" not in name
    ]
    theirs = run(module, "asyncio", again, limit) if again else {}
    failed = [
        name
        for name in again
        if ours[name]["outcome"] == "failed"
        and theirs.get(name, {}).get("outcome") == "passed"
    ]
    # CPython's own tests are not free of races with a loaded machine: the
    # second try decides, and says so.
    second = run(module, "pyloop", failed, limit) if failed else {}
    result = []
    for name, record in ours.items():
        here = record["outcome"]
        there = theirs.get(name, {}).get("outcome", "passed")
        if here == "excluded":
            kind = "excluded"
        elif here == "passed":
            kind = "passed"
        elif second.get(name, {}).get("outcome") == "passed":
            kind = "second try"
        elif here == there:
            kind = "skipped" if here == "skipped" else "both"
        else:
            kind = "here"
        short = name.removeprefix(PACKAGE + ".")
        result.append(
            Verdict(short, kind, bool(record["loops"]), record["text"])
        )
    return result


def run_all(names, limit, jobs, pattern, report):
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        futures = {
            pool.submit(verdicts, name, limit, pattern): name for name in names
        }
        for future in concurrent.futures.as_completed(futures):
            report(futures[future], future.result())
