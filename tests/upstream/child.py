"""One process: tests of one module of CPython's suite on one loop.

    python -m tests.upstream.child FD LOOP MODULE < names of tests

No names: all tests. "-NAME": all but this one, which is reported as excluded.
"?TEXT": only those with this text in their names.
Reports to descriptor FD, a JSON object a line: {"start": name} before a test,
{"name", "outcome", "loops", "seconds", "text"} after it.  `loops` counts the
loops of ours that the test made: a test that made none says nothing about us.
The parent watches the clock; it kills this process when a test is late.
"""

import faulthandler
import json
import os
import signal
import sys
import time
import unittest


class Result(unittest.TestResult):
    """Tells the parent; keeps nothing."""

    def __init__(self, fd, counter):
        super().__init__()
        self.fd = fd
        self.counter = counter
        self.began = 0.0
        self.outcome, self.text = "passed", ""

    def tell(self, **record):
        os.write(self.fd, json.dumps(record).encode() + b"\n")

    def startTest(self, test):
        super().startTest(test)
        self.outcome, self.text = "passed", ""
        self.began = time.monotonic()
        self.tell(start=test.id())

    def stopTest(self, test):
        super().stopTest(test)
        self.finish(test.id(), self.counter())

    def finish(self, name, loops):
        self.tell(
            name=name,
            outcome=self.outcome,
            loops=loops,
            seconds=round(time.monotonic() - self.began, 3),
            text=self.text[-3000:],
        )

    def note(self, test, outcome, text):
        if isinstance(test, unittest.TestCase):
            self.outcome, self.text = outcome, text
        else:
            # A class's or module's own set-up, reported as a test.
            self.outcome, self.text = outcome, text
            self.began = time.monotonic()
            self.finish(test.id(), 0)

    def addError(self, test, err):
        self.note(test, "failed", self._exc_info_to_string(err, test))

    def addFailure(self, test, err):
        self.note(test, "failed", self._exc_info_to_string(err, test))

    def addSubTest(self, test, subtest, err):
        if err is not None:
            self.note(test, "failed", self._exc_info_to_string(err, test))

    def addSkip(self, test, reason):
        if not hasattr(test, "test_case"):  # a skipped subtest skips no test
            self.note(test, "skipped", reason)

    def addUnexpectedSuccess(self, test):
        self.note(test, "failed", "unexpected success")


def flat(suite):
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from flat(test)
        else:
            yield test


def main():
    fd, loop, module = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    names = sys.stdin.read().split()
    excluded = frozenset(name[1:] for name in names if name[0] == "-")
    texts = [name[1:] for name in names if name[0] == "?"]
    wanted = frozenset(name for name in names if name[0] not in "-?")
    os.set_inheritable(fd, False)
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR2, all_threads=True, chain=False)
    # Before a module of the suite is imported: some take the loop's class
    # when their own classes are made.
    if loop == "asyncio":

        def counter():
            return 0

    else:
        from . import swap

        counter = swap.install()
    suite = unittest.defaultTestLoader.loadTestsFromName(module)
    if loop != "asyncio":
        swap.adapt(module)
    result = Result(fd, counter)
    tests = []
    for test in flat(suite):
        name = test.id()
        if (wanted and name not in wanted) or not all(
            text in name for text in texts
        ):
            continue
        if name in excluded:
            result.outcome = "excluded"
            result.finish(name, 0)
        else:
            tests.append(test)
    result.tell(tests=[test.id() for test in tests])
    unittest.TestSuite(tests).run(result)


if __name__ == "__main__":
    main()
