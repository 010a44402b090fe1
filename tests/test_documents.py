"""What the documents show runs as it stands there.

Every block of README.md is run; one that no test here knows fails, so that
what is added gets its test. Python in docs/ must at least be Python.
"""

import ast
import json
import re
import shlex
import signal
import socket
import subprocess
import sys
import sysconfig
import textwrap
import urllib.request

import pytest
from support import LOOPS, ROOT, child_env, wait

if "pyloop" not in LOOPS:
    pytest.skip("pyloop is not under test", allow_module_level=True)

import pyloop  # noqa: E402

pytestmark = pytest.mark.usefixtures("pyloop_only")


def blocks(path):
    found = re.findall(
        r"^```(\w*)\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE
    )
    return [(language, text) for language, text in found if language]


README = blocks(ROOT / "README.md")
PROGRAM = next(text for language, text in README if "pyloop.run(main" in text)


def python(*args, cwd, warnings="error"):
    done = subprocess.run(
        [sys.executable, "-W", warnings, *map(str, args)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=cwd,
        env=child_env(PYTHONPATH=str(ROOT)),
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()[1]


def served(port, path, command, **options):
    """What a server answers to one request, before it is interrupted."""
    server = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )

    def up():
        assert server.poll() is None, server.stdout.read()
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            return False
        return True

    try:
        wait(up)
        url = f"http://127.0.0.1:{port}{path}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            return answer.read().decode()
    finally:
        server.send_signal(signal.SIGINT)
        output = server.communicate(timeout=30)[0]
        assert "Traceback" not in output, output


def run_program(text, tmp_path):
    """A whole program; its sleep is not what it shows."""
    python("-c", text.replace("sleep(1)", "sleep(0.01)"), cwd=tmp_path)


def run_fragment(text, tmp_path):
    """Lines for a program that has a main()."""
    if "loop_factory" in text and sys.version_info < (3, 12):
        pytest.skip("asyncio.run(loop_factory=) is of 3.12")
    main = """
    import asyncio, pyloop
    async def main():
        loop = asyncio.get_running_loop()
        assert isinstance(loop, pyloop.EventLoop), loop
        print("ran")
    """
    policies = "install" in text and sys.version_info >= (3, 14)
    out = python(
        *("-c", textwrap.dedent(main) + text),
        cwd=tmp_path,
        warnings="ignore::DeprecationWarning" if policies else "error",
    )
    assert out == "ran\n"


def run_aiohttp(text, tmp_path):
    pytest.importorskip("aiohttp")
    port = free_port()
    where = f"run_app(app, host='127.0.0.1', port={port}, "
    program = """
    import asyncio, pyloop, aiohttp.web
    async def show(request):
        kind = type(asyncio.get_running_loop())
        return aiohttp.web.Response(text=kind.__module__)
    app = aiohttp.web.Application()
    app.router.add_get("/", show)
    """
    program = textwrap.dedent(program) + text.replace("run_app(app, ", where)
    answer = served(
        *(port, "/", [sys.executable, "-c", program]),
        cwd=tmp_path,
        env=child_env(PYTHONPATH=str(ROOT)),
    )
    assert answer.startswith("pyloop")


def run_server(text, tmp_path):
    """uvicorn and hypercorn with the example application."""
    words = text.partition("#")[0].split()
    name = "hypercorn" if "hypercorn" in words else "uvicorn"
    pytest.importorskip(name)
    port = free_port()
    command = [sys.executable]
    if words[0] == "python":
        command += words[1:]
    else:
        command += ["-m", *words]
    if name == "uvicorn":
        command += ["--port", str(port)]
    else:
        command += ["--bind", f"127.0.0.1:{port}"]
    answer = served(
        *(port, "/json", command),
        cwd=ROOT / "examples",
        env=child_env(PYTHONPATH=str(ROOT)),
    )
    assert json.loads(answer)["loop"].startswith("pyloop")


def run_commands(text, tmp_path):
    """python -m pyloop, with a program in the place of the names."""
    program = textwrap.dedent("""
    import asyncio, sys
    async def main():
        print(type(asyncio.get_running_loop()).__module__, sys.argv[1:])
    asyncio.run(main())
    """)
    (tmp_path / "script.py").write_text(program)
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "module.py").write_text(program)
    seen = []
    for line in text.splitlines():
        words = line.split()
        assert words[0] == "python"
        args = [program if word == "'code'" else word for word in words[1:]]
        seen.append(python(*args, cwd=tmp_path))
    expected = "pyloop._loop ['arguments', '…']\n"
    assert seen == [expected, expected, "pyloop._loop []\n"]


def run_make(text, tmp_path):
    """The targets exist; what they do is what runs these tests."""
    targets = (ROOT / "Makefile").read_text()
    for line in text.splitlines():
        assert re.search(rf"^{line.split()[1]}:", targets, re.MULTILINE)


def run_install(text, tmp_path):
    """test_packaging.py builds and installs the wheel."""


def run_c(text, tmp_path):
    """A function, and statements behind it, compile against the header."""
    function, _, statements = text.partition("\n}\n")
    source = tmp_path / "fragment.c"
    source.write_text(f"""
#include "pyloop.h"
int call_python(pyloop_work *), give_up(pyloop_work *);
struct request {{ pyloop_work work; }};
{function}
}}
void
fragment(const pyloop_api *api, pyloop_loop *loop, struct request *request)
{{
{statements}
}}
""")
    compiler = shlex.split(sysconfig.get_config_var("CC"))
    done = subprocess.run(
        [*compiler, "-fsyntax-only", "-Wall", "-Wextra", "-Werror", source]
        + ["-I", pyloop.get_include()],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


WAYS = (
    (r"^#include|^pyloop_work", run_c),
    (r"pyloop\.run\(main\(\)\)", run_program),
    (r"^asyncio\.run\(|^pyloop\.install\(", run_fragment),
    (r"^aiohttp\.web\.run_app\(", run_aiohttp),
    (r"^uvicorn |^python -m pyloop -m hypercorn", run_server),
    (r"^python -m pyloop script", run_commands),
    (r"^make ", run_make),
    (r"^pip install", run_install),
)


@pytest.mark.parametrize(
    "text",
    [text for _, text in README],
    ids=[text.split("\n")[0][:40].strip() for _, text in README],
)
def test_readme(text, tmp_path):
    for pattern, run in WAYS:
        if re.search(pattern, text, re.MULTILINE):
            run(text, tmp_path)
            return
    pytest.fail("no test runs this block")


@pytest.mark.parametrize(
    "path", sorted((ROOT / "docs").glob("*.md")), ids=lambda path: path.name
)
def test_python_in_the_other_documents(path):
    for language, text in blocks(path):
        if language == "python":
            ast.parse(text)
