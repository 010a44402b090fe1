"""Other people's tests on pyloop.

The suites are those of CPython's asyncio (from the running interpreter's test
package) and of uvicorn, aiohttp and hypercorn (from the source packages of
the versions installed here).  A test that fails on asyncio too, in the same
environment, does not count.  Exit status 1: one fails only on pyloop.
"""

import argparse
import collections
import os
import platform
import sys
import time

from . import common, cpython, document, packages

SUITES = ("cpython", *packages.SUITES)
summaries = []


def table(rows, title):
    """rows: (name, [verdict …])."""
    kinds = [
        kind
        for kind in common.KINDS
        if kind != "second try"
        or any(v.kind == kind for _, verdicts in rows for v in verdicts)
    ]
    heads = ["tests", "on pyloop"] + [common.KINDS[kind] for kind in kinds]
    lines = [[title] + heads]
    everything = ("sum", [v for _, verdicts in rows for v in verdicts])
    for name, verdicts in rows + [everything]:
        counts = [len(verdicts), sum(v.ours for v in verdicts)] + [
            sum(v.kind == kind for v in verdicts) for kind in kinds
        ]
        lines.append([name] + [str(count) for count in counts])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print(
            line[0].ljust(widths[0]),
            *(
                word.rjust(width)
                for word, width in zip(line[1:], widths[1:], strict=True)
            ),
            sep="  ",
        )
    print()


def summary(name, rows):
    counts = collections.Counter(
        verdict.kind for _, verdicts in rows for verdict in verdicts
    )
    return f"{name}: " + ", ".join(
        f"{counts[kind]} {words}"
        for kind, words in common.KINDS.items()
        if counts[kind] or kind == "here"
    )


def tell(rows):
    """The tests that need a word. True if all is well."""
    well = True
    for _, verdicts in rows:
        for verdict in verdicts:
            if verdict.kind == "second try":
                print(f"passed at the second try: {verdict.name}")
            elif verdict.kind == "here":
                well = False
                print(f"\nfailed only here: {verdict.name}")
                for line in verdict.text.rstrip().split("\n")[-25:]:
                    print("   ", line)
    return well


def run_cpython(options, names):
    directory, reason = cpython.find()
    if directory is None:
        summaries.append(f"CPython left out: {reason}")
        return True
    rows = []

    def report(name, verdicts):
        rows.append((name, verdicts))
        bad = sum(v.kind == "here" for v in verdicts)
        print(
            f"{time.monotonic() - began:4.0f} s  {name}: {len(verdicts)} tests"
            + (f", {bad} failed only here" if bad else ""),
            flush=True,
        )

    began = time.monotonic()
    cpython.run_all(
        names or cpython.modules(directory),
        options.limit,
        options.jobs,
        options.k,
        report,
    )
    print()
    rows.sort()
    name = f"CPython {platform.python_version()}"
    table(rows, name)
    summaries.append(summary(name, rows))
    if not names and not options.k:
        verdicts = [verdict for _, verdicts in rows for verdict in verdicts]
        document.keep("cpython", "CPython", verdicts)
    return tell(rows)


def run_package(options, name):
    suite = packages.SUITES[name]
    began = time.monotonic()
    try:
        verdicts, number = packages.verdicts(suite, options)
    except packages.Missing as why:
        summaries.append(f"{name} left out: {why}")
        return True
    files = collections.defaultdict(list)
    for verdict in verdicts:
        files[verdict.name.partition("::")[0]].append(verdict)
    rows = sorted(files.items())
    title = f"{name} {number}"
    table(rows, title)
    print(f"{time.monotonic() - began:.0f} s")
    summaries.append(summary(title, rows))
    if not options.k:
        if options.quick and suite.quick != ["tests"]:
            title += " (files that do I/O)"
        document.keep(name, title, verdicts)
    return tell(rows)


def main():
    parser = argparse.ArgumentParser(
        prog="python -m tests.upstream",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "what",
        nargs="*",
        help=f"suites ({', '.join(SUITES)}) or modules of CPython's "
        "(test_ssl); all suites by default",
    )
    parser.add_argument("-k", metavar="TEXT", help="tests with this in a name")
    parser.add_argument(
        "--write",
        action="store_true",
        help="put the counts of all whole runs into docs/differences.md",
    )
    parser.add_argument(
        "--limit", type=float, default=60, help="seconds for one test"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="of aiohttp only the files that do input and output",
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    options = parser.parse_args()
    if options.write and not options.what:
        document.write()
        return 0
    names = [name for name in options.what if name.startswith("test_")]
    suites = [name for name in options.what if name not in names]
    for name in suites:
        if name not in SUITES:
            parser.error(f"no suite {name!r}")
    suites = suites or (["cpython"] if names else SUITES)
    os.makedirs(common.WORK, exist_ok=True)
    well = True
    if "cpython" in suites:
        well = run_cpython(options, names) and well
    for name in packages.SUITES:
        if name in suites:
            well = run_package(options, name) and well
    if options.write:
        document.write()
    # The last line is what CI shows.
    print("; ".join(summaries))
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
