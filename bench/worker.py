"""Takes one sample in this process: ``python -m bench.worker JSON``.

The answer is the last line of standard output.
"""

from __future__ import annotations

import dataclasses
import json
import sys

from . import loops, row


def settle_allocator() -> None:
    """Free one large block, as any process that has lived a while has.

    glibc then takes blocks of that size from its heap and not by mmap.
    asyncio and others receive into 256 KiB that they cut to size, and in a
    newborn process pay a map, a page fault and an unmap for each small
    message: half their speed, by an accident of the process's age.
    """
    bytes(1 << 20)


def probe(names: list[str]) -> dict[str, dict[str, str]]:
    """Which of the loops import here, make a loop, and in what version."""
    found = {}
    for name in names:
        try:
            loops.factory(name)().close()
            found[name] = {"version": loops.version(name)}
        except BaseException as exc:
            found[name] = {"error": f"{type(exc).__name__}: {exc}"}
    return found


def sample(job: dict) -> dict:
    settle_allocator()
    ctx = row.Context(
        job["loop"], loops.factory(job["loop"]), job["smoke"], job["load"]
    )
    return dataclasses.asdict(row.load_rows()[job["row"]].measure(ctx))


def main() -> int:
    job = json.loads(sys.argv[1])
    try:
        answer = probe(job["probe"]) if "probe" in job else sample(job)
    except row.Skip as exc:
        answer = {"skipped": str(exc)}
    except Exception as exc:
        answer = {"error": f"{type(exc).__name__}: {exc}"}
    gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    print("\n" + json.dumps({"gil": gil, **answer}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
