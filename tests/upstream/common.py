"""What both halves share."""

import os
import sys
import sysconfig
from typing import NamedTuple

ROOT = os.path.dirname(
    os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
)
WORK = os.path.join(ROOT, "build", "upstream")

# What can become of a test, in the order of the table's columns.
KINDS = {
    "passed": "passed",
    "second try": "passed at the second try",
    "skipped": "skipped on both",
    "both": "failed on both",
    "excluded": "excluded",
    "here": "failed only here",
}


class Verdict(NamedTuple):
    name: str
    kind: str
    ours: bool  # it made a loop of ours
    text: str


def version():
    """3.13, 3.14t, …"""
    free = sysconfig.get_config_var("Py_GIL_DISABLED")
    return "{}.{}{}".format(*sys.version_info[:2], "t" if free else "")
