"""Serves Python handlers from a multi-threaded C server.

    python examples/native_server/serve.py --mode one-loop --handler async

--mode one-loop               a loop in the main thread
       loop-per-thread        --workers loops, each in a thread
       loop-per-interpreter   the same, each in a sub-interpreter with its own
                              GIL (Python 3.12 and later)

Ctrl-C or SIGTERM stops it when the requests under way are answered; once more,
and they are cancelled.
"""

import argparse
import asyncio
import signal
import sys
import threading

import build
import pyloop

# -- the applications


def sync_app(method, target, body):
    if target == "/":
        return b"Hello, World!"
    if target == "/echo" and method == "POST":
        return 200, "application/octet-stream", body
    if target == "/interpreter":
        return f"{threading.get_ident()} {id(sys.modules)}".encode()
    if target == "/error":
        raise ValueError("as asked")
    if target == "/nothing":
        return None  # no response: a mistake of the handler's
    return 404, "text/plain", b"not found\n"


waiting = cancelled = 0


async def async_app(method, target, body):
    global waiting, cancelled
    if target == "/sleep":
        await asyncio.sleep(0.05)
        return b"slept"
    if target == "/turn":
        await asyncio.sleep(0)
        return b"Hello, World!"
    if target == "/wait":  # until the client goes away
        waiting += 1
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled += 1
            raise
        finally:
            waiting -= 1
    if target == "/waiting":
        return f"{waiting} {cancelled}".encode()
    return sync_app(method, target, body)


async def turn_app(method, target, body):
    """Waits a turn of the loop in each request."""
    await asyncio.sleep(0)
    return await async_app(method, target, body)


APPS = {"sync": sync_app, "async": async_app, "async-turn": turn_app}

# -- the modes


async def serve(address, handler):
    """What each loop runs: the server's requests, until it has ended."""
    import native_server

    await native_server.attach(address, APPS[handler])


def serve_in_thread(address, handler):
    pyloop.run(serve(address, handler))


def serve_in_interpreter(address, handler):
    """As serve_in_thread, in an interpreter of its own."""
    try:
        import _interpreters as interpreters
    except ImportError:
        import _xxsubinterpreters as interpreters
    code = f"""if True:
        import sys
        sys.path[:] = {sys.path!r}
        if sys.version_info < (3, 13):
            # Imported here, ssl breaks the end of the process in 3.12.
            sys.modules["ssl"] = sys.modules["_ssl"] = None
        import serve
        serve.serve_in_thread({address}, {handler!r})
    """
    interpreter = interpreters.create()
    try:
        if hasattr(interpreters, "exec"):
            failure = interpreters.exec(interpreter, code)
            if failure is not None:
                print(failure.formatted, file=sys.stderr)
        else:
            interpreters.run_string(interpreter, code)
    finally:
        interpreters.destroy(interpreter)


async def main(options):
    import native_server

    workers = 1 if options.mode == "one-loop" else options.workers
    server = native_server.server(
        options.host, options.port, options.io_threads, workers
    )
    address = native_server.address(server)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, native_server.stop, address)
    port = native_server.port(address)
    print(f"serving on http://{options.host}:{port}/", flush=True)

    threads = []
    if options.mode == "one-loop":
        await serve(address, options.handler)
    else:
        work = serve_in_thread
        if options.mode == "loop-per-interpreter":
            work = serve_in_interpreter
        threads = [
            threading.Thread(target=work, args=(address, options.handler))
            for _ in range(workers)
        ]
        for thread in threads:
            thread.start()
        await native_server.ended(address)
    for thread in threads:
        thread.join()
    requests, chains, wakeups = native_server.counters(address)
    print(f"{requests} requests in {chains} chains, {wakeups} wake-ups back")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    modes = ["one-loop", "loop-per-thread"]
    if sys.version_info >= (3, 12):
        modes.append("loop-per-interpreter")
    parser.add_argument("--mode", choices=modes, default="one-loop")
    parser.add_argument("--handler", choices=list(APPS), default="async")
    parser.add_argument("--host", default="127.0.0.1", help="an IPv4 address")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--io-threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    sys.path.insert(0, build.built())
    pyloop.run(main(arguments()))
