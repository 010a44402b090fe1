"""Run any program with pyloop as its event loop, unchanged.

python -m pyloop script.py [args…]
python -m pyloop -m module [args…]
python -m pyloop -c code [args…]
"""

import asyncio
import os
import runpy
import sys
import warnings

import pyloop

USAGE = "usage: python -m pyloop (script.py | -m module | -c code) [args ...]"


def _use_pyloop():
    """Every way asyncio makes a loop by itself now makes ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        if hasattr(asyncio, "set_event_loop_policy"):
            pyloop.install()
            return
    asyncio.new_event_loop = asyncio.events.new_event_loop = (
        pyloop.new_event_loop
    )


def main(argv):
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE, file=sys.stderr if not argv else sys.stdout)
        return 0 if argv else 2
    if argv[0] in ("-m", "-c") and len(argv) < 2:
        print(f"Argument expected for the {argv[0]} option", file=sys.stderr)
        print(USAGE, file=sys.stderr)
        return 2
    _use_pyloop()
    kind = argv[0]
    if kind == "-m":
        sys.argv = argv[1:]
        runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.argv = ["-c", *argv[2:]]
        module = type(sys)("__main__")
        module.__builtins__ = __builtins__
        sys.modules["__main__"] = module
        sys.path[0] = ""
        exec(compile(argv[1], "<string>", "exec"), module.__dict__)
    else:
        sys.argv = argv[:]
        sys.path[0] = os.path.dirname(os.path.realpath(kind))
        runpy.run_path(kind, run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
