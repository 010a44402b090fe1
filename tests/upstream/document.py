"""The table of docs/differences.md: one line a suite and interpreter.

Each whole run of a suite leaves its counts in build/upstream/results; --write
puts all that lie there into the document.
"""

import collections
import json
import os
import platform

from .common import KINDS, ROOT, WORK, version

RESULTS = os.path.join(WORK, "results")
DOCUMENT = os.path.join(ROOT, "docs", "differences.md")
BEGIN = "<!-- written by make upstream ARGS=--write -->\n"
END = "<!-- end -->\n"


def keep(suite, title, verdicts):
    os.makedirs(RESULTS, exist_ok=True)
    counts = collections.Counter(verdict.kind for verdict in verdicts)
    # A second try is a pass; the run itself names it.
    counts["passed"] += counts.pop("second try", 0)
    record = {
        "title": title,
        "python": platform.python_version() + version()[4:],
        "tests": len(verdicts),
        "ours": sum(verdict.ours for verdict in verdicts),
        "counts": counts,
    }
    with open(os.path.join(RESULTS, f"{suite}-{version()}"), "w") as file:
        json.dump(record, file)


def table():
    kinds = [kind for kind in KINDS if kind != "second try"]
    yield (
        "| suite | Python | tests | with a loop of pyloop's | "
        + " | ".join(KINDS[kind] for kind in kinds)
        + " |\n"
    )
    yield "| --- | --- |" + " ---: |" * (2 + len(kinds)) + "\n"
    # CPython's first, then by name.
    names = sorted(os.listdir(RESULTS), key=lambda n: (n[:7] != "cpython", n))
    for name in names:
        with open(os.path.join(RESULTS, name)) as file:
            record = json.load(file)
        numbers = [record["tests"], record["ours"]]
        numbers += [record["counts"].get(kind, 0) for kind in kinds]
        cells = [record["title"], record["python"], *map(str, numbers)]
        yield "| " + " | ".join(cells) + " |\n"


def write():
    with open(DOCUMENT, encoding="utf-8") as file:
        text = file.read()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    with open(DOCUMENT, "w", encoding="utf-8") as file:
        file.write(before + BEGIN + "".join(table()) + END + after)
