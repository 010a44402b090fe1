"""A pytest plugin: a line of JSON for each test, to PYLOOP_REPORT."""

import json
import os

import pytest

import pyloop

runs = 0
run_forever = pyloop.EventLoop.run_forever


def counted(self):
    global runs
    runs += 1
    return run_forever(self)


pyloop.EventLoop.run_forever = counted

# Of the three phases the worst counts.
ORDER = ("passed", "skipped", "failed")
seen = {}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    global runs
    report = yield
    # xdist hands plain attributes to the process that writes.
    report.pyloop_runs, runs = runs, 0
    return report


def pytest_runtest_logreport(report):
    if hasattr(report, "node") or not os.environ.get("PYTEST_XDIST_WORKER"):
        outcome = report.outcome
        if hasattr(report, "wasxfail"):
            # Failed as expected, or passed against expectation.
            outcome = "passed" if outcome == "skipped" else "failed"
        before = seen.get(report.nodeid, ("passed", 0, ""))
        text = before[2]
        if ORDER.index(outcome) < ORDER.index(before[0]):
            outcome = before[0]
        elif outcome != "passed":
            text = str(report.longrepr)[-3000:]
        runs = before[1] + getattr(report, "pyloop_runs", 0)
        seen[report.nodeid] = (outcome, runs, text)


def pytest_collectreport(report):
    if report.failed:
        seen[report.nodeid] = ("failed", 0, str(report.longrepr)[-3000:])


def pytest_sessionfinish(session):
    if not os.environ.get("PYTEST_XDIST_WORKER"):
        with open(os.environ["PYLOOP_REPORT"], "w") as file:
            json.dump(seen, file)
