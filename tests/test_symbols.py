"""No writable globals: nothing that two interpreters, or two threads of a
free-threaded one, would share.  What the linker keeps in a writable section
may only be a table that CPython's API takes as non-const."""

import re
import shutil
import subprocess
import sys

import pytest

import pyloop._core

# Method tables, specs and the module definition.
ALLOWED = re.compile(r".*_(methods|members|getset|slots|spec|def|module)")
# The compiler's own start-up code and the linker's marks.
TOOLCHAIN = {
    "__bss_start",
    "__dso_handle",
    "__TMC_END__",
    "_DYNAMIC",
    "_edata",
    "_end",
    "completed",
}
SECTIONS = re.compile(r"\.t?(data|bss)(\.(?!rel\.ro).*)?")

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="reads ELF"),
    pytest.mark.skipif(not shutil.which("readelf"), reason="no readelf"),
]


def readelf(option):
    command = ["readelf", "--wide", option, pyloop._core.__file__]
    return subprocess.check_output(command, text=True).splitlines()


def writable_objects():
    """The name of each symbol in .data, .bss or their thread-local twins."""
    sections = {}
    for line in readelf("--section-headers"):
        match = re.match(r"\s*\[\s*(\d+)\]\s+(\S+)", line)
        if match:
            sections[match[1]] = match[2]
    for line in readelf("--symbols"):
        fields = line.split()
        # number: value size type bind visibility section name
        if len(fields) == 8 and fields[3] != "SECTION":
            if SECTIONS.fullmatch(sections.get(fields[6], "")):
                # a suffix after the dot is the compiler's: name.lto_priv.0
                yield fields[7].partition(".")[0]


def test_writable_symbols():
    found = set(writable_objects())
    if any(
        name.startswith(("__asan", "__odr_asan", "__tsan", "__ubsan"))
        for line in readelf("--symbols")
        for name in line.split()[-1:]
    ):
        pytest.skip("a sanitizer's build has data of its own")
    assert found, "stripped: nothing to check"
    wrong = {name for name in found - TOOLCHAIN if not ALLOWED.fullmatch(name)}
    assert not wrong


def test_exports_only_the_module():
    exported = {
        fields[7]
        for fields in map(str.split, readelf("--dyn-syms"))
        if len(fields) == 8
        and fields[4] == "GLOBAL"
        and fields[5] == "DEFAULT"
        and fields[6].isdigit()
    }
    assert exported == {"PyInit__core"}
