"""``python -m bench``: see ``--help`` and ``--list``."""

from __future__ import annotations

import argparse
import fnmatch
import inspect
import sys
from pathlib import Path

from . import chart, loops, report, runner
from .row import Row, load_rows


def choose(patterns: list[str]) -> list[Row]:
    """Rows by name, wildcard or group (scheduling, io, http, …)."""
    rows = load_rows()
    if not patterns:
        return list(rows.values())
    for pattern in patterns:
        if not any(match(row, pattern) for row in rows.values()):
            sys.exit(f"bench: no row is called {pattern!r}; see --list")
    return [
        row
        for row in rows.values()
        if any(match(row, pattern) for pattern in patterns)
    ]


def match(row: Row, pattern: str) -> bool:
    return fnmatch.fnmatch(row.name, pattern) or row.group == pattern


def show_list() -> None:
    group = None
    for row in load_rows().values():
        if row.group != group:
            group = row.group
            print(f"\n[{group}]")
        better = "lower" if row.lower else "higher"
        goal = f"; goal {row.goal:g}× the best peer" if row.goal else ""
        print(
            f"\n{row.name}: {row.title}\n  {row.unit}, {better} is better"
            f"{goal}"
        )
        for line in inspect.getdoc(row.measure).splitlines():
            print(f"  {line}".rstrip())


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="pyloop beside the other loops"
    )
    parser.add_argument(
        "rows",
        nargs="*",
        metavar="ROW",
        help="names, wildcards or groups; all by default",
    )
    parser.add_argument(
        "--loops",
        default=",".join(loops.LOOPS),
        help="comma-separated (default: %(default)s)",
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--smoke",
        action="store_true",
        help="tiny sizes, one round: only whether it runs",
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    parser.add_argument("--chart", type=Path, metavar="FILE.svg")
    parser.add_argument(
        "--chart-base",
        default="asyncio",
        choices=("asyncio", "best"),
        help="what 1× is in the chart (default: asyncio)",
    )
    parser.add_argument(
        "--list",
        action="store_true",
        help="say what each row stands for, and end",
    )
    return parser.parse_args()


def main() -> int:
    args = options()
    if args.list:
        show_list()
        return 0
    rows = choose(args.rows)
    asked = args.loops.split(",")
    if wrong := set(asked) - set(loops.LOOPS):
        sys.exit(f"bench: unknown loop {', '.join(sorted(wrong))}")
    found = runner.probe(asked)
    names = [name for name in asked if "version" in found[name]]
    for name in asked:
        if name not in names:
            print(
                f"bench: {name} is left out: {found[name]['error']}",
                file=sys.stderr,
            )
    if not names:
        return 1
    rounds = 1 if args.smoke else max(1, args.rounds)
    facts = report.gather_facts(
        found, rounds, args.smoke, runner.load_command()
    )
    results, facts["complete"] = runner.run(rows, names, rounds, args.smoke)
    report.note_gil(facts, results)
    table = report.lines(rows, results)
    print(report.text(table, names, facts))
    if args.json:
        args.json.write_text(report.as_json(table, facts))
    if args.markdown:
        args.markdown.write_text(report.markdown(table, names, facts))
    if args.chart:
        base = "asyncio" if args.chart_base == "asyncio" else "best peer"
        args.chart.write_text(
            chart.svg(
                table,
                names,
                base,
                " · ".join(
                    (
                        facts["python"],
                        facts["system"],
                        f"{facts['cores']} cores",
                        f"medians of {rounds} rounds, each loop in turn",
                    )
                ),
            )
        )
    failed = any(
        line.series[name].error
        for line in table
        for name in ("asyncio", loops.OURS)
        if name in line.series
    )
    return 1 if failed or not facts["complete"] else 0


if __name__ == "__main__":
    sys.exit(main())
