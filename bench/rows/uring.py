"""Rows of above with the io_uring that pyloop has when it is asked for.

The other loops do what they do there.
"""

from __future__ import annotations

import os

from ..row import ROWS, Context, Sample, row


def with_io_uring(name: str):
    base = ROWS[name]

    @row(
        f"{base.title}; pyloop by io_uring",
        base.unit,
        cost=base.cost,
        name=f"uring_{name}",
    )
    def measure(ctx: Context) -> Sample:
        os.environ["PYLOOP_IO_URING"] = "1"
        return base.measure(ctx)

    measure.__doc__ = (
        f"{name} with PYLOOP_IO_URING=1: a turn's sends in one call.\n\n"
        "Source: the goals table's optional path."
    )


for name in ("echo50", "uvicorn", "aiohttp", "hypercorn"):
    with_io_uring(name)
