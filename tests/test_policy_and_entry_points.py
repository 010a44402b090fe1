import asyncio
import subprocess
import sys
import warnings

import pytest
from support import ROOT, child_env, run_script

pytestmark = pytest.mark.usefixtures("pyloop_only")


@pytest.fixture
def pyloop():
    import pyloop

    return pyloop


def python(*args, cwd=None, stdin=None, status=0, errors=""):
    done = subprocess.run(
        [sys.executable, "-W", "error", *map(str, args)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=cwd,
        input=stdin,
        env=child_env(PYTHONPATH=str(ROOT)),
    )
    assert (done.returncode, done.stderr) == (status, errors), done
    return done.stdout


SHOW = """
import asyncio, sys
async def main():
    loop = asyncio.get_running_loop()
    print(type(loop).__module__.partition(".")[0])
    print(sys.argv[1:])
asyncio.run(main())
"""


# -- functions


def test_public_names(pyloop):
    assert isinstance(pyloop.__version__, str) and pyloop.__version__
    for name in "new_event_loop run install EventLoopPolicy EventLoop".split():
        assert name in pyloop.__all__
        assert getattr(pyloop, name)


def test_new_event_loop(pyloop):
    loop = pyloop.new_event_loop()
    assert isinstance(loop, pyloop.EventLoop)
    assert isinstance(loop, asyncio.AbstractEventLoop)
    assert type(loop).__module__.startswith("pyloop")
    other = pyloop.new_event_loop()
    assert other is not loop
    loop.close()
    other.close()


def test_loop_class(pyloop):
    class Sub(pyloop.EventLoop):
        pass

    for kind in pyloop.EventLoop, Sub:
        loop = kind()
        assert type(loop) is kind
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


def test_run(pyloop):
    async def main():
        loop = asyncio.get_running_loop()
        assert isinstance(loop, pyloop.EventLoop)
        return loop.get_debug()

    assert pyloop.run(main()) is False
    assert pyloop.run(main(), debug=True) is True
    assert pyloop.run(main(), debug=False) is False


def test_run_raises_what_main_raises(pyloop):
    async def main():
        raise LookupError("no")

    with pytest.raises(LookupError, match="^no$"):
        pyloop.run(main())


def test_run_cleans_up(pyloop):
    seen = []

    async def background():
        try:
            await asyncio.sleep(3600)
        finally:
            seen.append("task")

    async def numbers():
        try:
            yield 1
        finally:
            seen.append("generator")

    async def main():
        seen.append(asyncio.get_running_loop())
        main.task = asyncio.create_task(background())
        main.generator = numbers()
        await anext(main.generator)
        await asyncio.get_running_loop().run_in_executor(None, int)

    pyloop.run(main())
    loop = seen.pop(0)
    assert loop.is_closed()
    assert seen == ["task", "generator"]


def test_run_refuses_as_asyncio(pyloop):
    async def inner():
        coroutine = asyncio.sleep(0)
        try:
            with pytest.raises(RuntimeError, match="running event loop"):
                pyloop.run(coroutine)
        finally:
            coroutine.close()

    pyloop.run(inner())
    for wrong in (5, None, inner):
        with pytest.raises((TypeError, ValueError)):
            pyloop.run(wrong)


def test_run_leaves_no_loop_behind(pyloop):
    async def main():
        pass

    pyloop.run(main())
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()


def test_loop_factory_of_the_stdlib(pyloop):
    async def main():
        return type(asyncio.get_running_loop())

    with asyncio.Runner(loop_factory=pyloop.new_event_loop) as runner:
        assert runner.run(main()) is pyloop.EventLoop
    if sys.version_info >= (3, 12):
        result = asyncio.run(main(), loop_factory=pyloop.new_event_loop)
        assert result is pyloop.EventLoop


# -- policy


def test_no_warning_on_import():
    python("-c", "import pyloop")


def test_import_does_not_touch_the_policy(loop_name):
    run_script(
        loop_name,
        """
        import pyloop
        async def main():
            assert not isinstance(
                asyncio.get_running_loop(), pyloop.EventLoop)
        asyncio.run(main())
        """,
    )


def test_policy(loop_name):
    run_script(
        loop_name,
        """
        import warnings
        import pyloop
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            policy = pyloop.EventLoopPolicy()
            assert isinstance(policy, asyncio.AbstractEventLoopPolicy)
            asyncio.set_event_loop_policy(policy)
            assert asyncio.get_event_loop_policy() is policy
        async def main():
            assert isinstance(asyncio.get_running_loop(), pyloop.EventLoop)
            child = await asyncio.create_subprocess_exec("true")
            assert await child.wait() == 0
        asyncio.run(main())
        loop = asyncio.new_event_loop()
        assert isinstance(loop, pyloop.EventLoop)
        asyncio.set_event_loop(loop)
        assert asyncio.get_event_loop() is loop
        loop.close()
        """,
    )


def test_install(loop_name):
    run_script(
        loop_name,
        """
        import warnings
        import pyloop
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            assert pyloop.install() is None
            pyloop.install()
        async def main():
            assert isinstance(asyncio.get_running_loop(), pyloop.EventLoop)
        asyncio.run(main())
        with asyncio.Runner() as runner:
            runner.run(main())
        """,
    )


def test_policy_warns_only_as_asyncio(pyloop):
    """Policies are deprecated from 3.14 on, not before."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pyloop.EventLoopPolicy()
    if sys.version_info < (3, 14):
        assert not caught
    assert {w.category for w in caught} <= {DeprecationWarning}


# -- python -m pyloop


def test_command(tmp_path):
    assert python("-m", "pyloop", "-c", SHOW, "a", "-b", "--c") == (
        "pyloop\n['a', '-b', '--c']\n"
    )


def test_command_sees_the_interpreters_view():
    code = "import sys; print(sys.argv, __name__, sys.path[0] == '')"
    ours = python("-m", "pyloop", "-c", code, "x")
    assert ours == python("-c", code, "x")


def test_script(tmp_path):
    path = tmp_path / "script.py"
    path.write_text(SHOW)
    assert python("-m", "pyloop", path, "a", "-m", "-c") == (
        "pyloop\n['a', '-m', '-c']\n"
    )


def test_script_sees_the_interpreters_view(tmp_path):
    path = tmp_path / "script.py"
    (tmp_path / "neighbour.py").write_text("value = 5\n")
    path.write_text(
        "import sys, neighbour\n"
        "print(sys.argv, sys.path[0], __name__, __file__)\n"
        "print(sys.modules['__main__'].__dict__ is globals())\n"
        "print(neighbour.value, __spec__, __package__)\n"
    )
    assert python("-m", "pyloop", path, "x") == python(path, "x")
    relative = python("-m", "pyloop", "script.py", cwd=tmp_path)
    assert relative == python("script.py", cwd=tmp_path)


def test_module(tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text(SHOW)
    (package / "inner.py").write_text(SHOW)
    for name in "package", "package.inner":
        out = python("-m", "pyloop", "-m", name, "a", "-x", cwd=tmp_path)
        assert out == "pyloop\n['a', '-x']\n"


def test_module_sees_the_interpreters_view(tmp_path):
    (tmp_path / "module.py").write_text(
        "import sys\n"
        "print(sys.argv, sys.path[0], __name__, __file__)\n"
        "print(sys.modules['__main__'].__dict__ is globals())\n"
        "print(__spec__.name, __package__)\n"
    )
    ours = python("-m", "pyloop", "-m", "module", "x", cwd=tmp_path)
    assert ours == python("-m", "module", "x", cwd=tmp_path)


def test_directory_and_zip(tmp_path):
    import zipfile

    directory = tmp_path / "app"
    directory.mkdir()
    (directory / "__main__.py").write_text(SHOW)
    archive = tmp_path / "app.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("__main__.py", SHOW)
    for path in directory, archive:
        assert python("-m", "pyloop", path, "a") == "pyloop\n['a']\n"


@pytest.mark.parametrize(
    "code, status",
    [
        ("raise SystemExit(3)", 3),
        ("import sys; sys.exit()", 0),
        ("import os; os._exit(7)", 7),
        ("pass", 0),
    ],
)
def test_exit_status(code, status, tmp_path):
    python("-m", "pyloop", "-c", code, status=status)
    path = tmp_path / "script.py"
    path.write_text(code)
    python("-m", "pyloop", path, status=status)


def test_exit_message():
    python(
        *("-m", "pyloop", "-c", "raise SystemExit('words')"),
        status=1,
        errors="words\n",
    )


def test_traceback(tmp_path):
    path = tmp_path / "script.py"
    path.write_text("def f():\n    1 / 0\nf()\n")
    done = subprocess.run(
        [sys.executable, "-m", "pyloop", str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        env=child_env(PYTHONPATH=str(ROOT)),
    )
    assert done.returncode == 1
    assert done.stderr.endswith("ZeroDivisionError: division by zero\n")
    assert f'File "{path}", line 2, in f' in done.stderr


@pytest.mark.parametrize(
    "args, words",
    [
        (["/no/such/script.py"], "/no/such/script.py"),
        (["-m", "no_such_module"], "no_such_module"),
        (["-m"], "-m"),
        (["-c"], "-c"),
    ],
)
def test_bad_commands(args, words):
    done = subprocess.run(
        [sys.executable, "-m", "pyloop", *args],
        capture_output=True,
        text=True,
        timeout=60,
        env=child_env(PYTHONPATH=str(ROOT)),
    )
    assert done.returncode != 0
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_help_and_version(pyloop):
    assert "script" in python("-m", "pyloop", "--help").lower()
    assert pyloop.__version__ in python("-m", "pyloop", "--version")


def test_no_arguments():
    done = subprocess.run(
        [sys.executable, "-m", "pyloop"],
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
        env=child_env(PYTHONPATH=str(ROOT)),
    )
    assert "usage" in (done.stdout + done.stderr).lower()


def test_new_event_loop_and_runner_inside():
    code = """
import asyncio
print(type(asyncio.new_event_loop()).__name__)
async def main():
    return type(asyncio.get_running_loop()).__name__
with asyncio.Runner() as runner:
    print(runner.run(main()))
loop = asyncio.new_event_loop()
print(loop.run_until_complete(main()))
loop.close()
"""
    done = subprocess.run(
        [sys.executable, "-m", "pyloop", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        env=child_env(PYTHONPATH=str(ROOT)),
    )
    assert done.stdout.split() == ["EventLoop"] * 3, done


def test_own_loop_factory_wins():
    """A program that names its loop gets it."""
    code = """
import asyncio
async def main():
    print(type(asyncio.get_running_loop()).__name__)
with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
    runner.run(main())
"""
    assert python("-m", "pyloop", "-c", code) == (
        asyncio.SelectorEventLoop.__name__ + "\n"
    )


def test_stdin_reaches_the_program():
    code = "import sys; print(sys.stdin.read())"
    assert python("-m", "pyloop", "-c", code, stdin="hello") == "hello\n"


def test_package_works_from_another_directory(tmp_path):
    code = "import pyloop; print(pyloop.new_event_loop().close())"
    assert python("-c", code, cwd=tmp_path) == "None\n"
