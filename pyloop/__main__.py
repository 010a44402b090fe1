"""Run any program with pyloop as its event loop, unchanged.

python -m pyloop script.py [args ...]
python -m pyloop -m module [args ...]
python -m pyloop -c code [args ...]
"""

import asyncio
import importlib.machinery
import importlib.util
import io
import os
import runpy
import sys
import types
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


def _run_as_main(code, **attributes):
    """Execute code as the interpreter executes a program: in __main__."""
    module = types.ModuleType("__main__")
    module.__builtins__ = sys.modules["builtins"]
    vars(module).update(attributes)
    sys.modules["__main__"] = module
    exec(code, module.__dict__)


def _fail(message, status):
    print(f"{sys.executable}: {message}", file=sys.stderr)
    return status


def _run_script(path):
    if os.path.isdir(path) or not path.endswith((".py", ".pyw")):
        # A directory, a zip file, compiled code or a script of any name.
        if not os.path.exists(path):
            return _missing_file(path)
        sys.path[0] = os.path.dirname(os.path.realpath(path))
        runpy.run_path(path, run_name="__main__")
        return 0
    path = os.path.abspath(path)  # as __file__ is
    try:
        with io.open_code(path) as file:
            source = file.read()
    except OSError:
        return _missing_file(path)
    sys.path[0] = os.path.dirname(os.path.realpath(path))
    loader = importlib.machinery.SourceFileLoader("__main__", path)
    _run_as_main(
        compile(source, path, "exec", dont_inherit=True),
        __file__=path,
        __loader__=loader,
        __cached__=None,
    )
    return 0


def _missing_file(path):
    try:
        open(path).close()
    except OSError as exc:
        path = os.path.abspath(path)
        return _fail(f"can't open file {path!r}: {exc}", 2)
    return _fail(f"can't open file {path!r}", 2)


def _run_module(name):
    try:
        found = importlib.util.find_spec(name) is not None
    except (ModuleNotFoundError, ValueError):
        found = False
    if not found:
        return _fail(f"No module named {name}", 1)
    runpy.run_module(name, run_name="__main__", alter_sys=True)
    return 0


def main(argv):
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE, file=sys.stdout if argv else sys.stderr)
        return 0 if argv else 2
    if argv[0] in ("-V", "--version"):
        print(f"pyloop {pyloop.__version__}")
        return 0
    if argv[0] in ("-m", "-c") and len(argv) < 2:
        print(f"Argument expected for the {argv[0]} option", file=sys.stderr)
        print(USAGE, file=sys.stderr)
        return 2
    _use_pyloop()
    if argv[0] == "-m":
        sys.argv = argv[1:]
        return _run_module(argv[1])
    if argv[0] == "-c":
        sys.argv = ["-c", *argv[2:]]
        sys.path[0] = ""
        _run_as_main(compile(argv[1], "<string>", "exec", dont_inherit=True))
        return 0
    sys.argv = argv[:]
    return _run_script(argv[0])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
