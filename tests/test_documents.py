"""The programs in docs/monitoring.md run, and print what it says."""

import os
import re

import pytest
from support import ROOT, run_script

PAGE = os.path.join(ROOT, "docs", "monitoring.md")
PROGRAM = re.compile(
    r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```$)?", re.M | re.S
)


def programs():
    with open(PAGE, encoding="utf-8") as file:
        return PROGRAM.findall(file.read())


@pytest.mark.parametrize("index", range(len(programs())))
def test_monitoring(index, loop_name, pyloop_only):
    code, expected = programs()[index]
    if "opentelemetry" in code:
        pytest.importorskip("opentelemetry", reason="it is not installed")
    assert run_script(loop_name, code).stdout == expected
