"""Tests that are not run on pyloop, each with its reason.

All of them look inside an implementation; none is about what a loop does.
"""

EXCLUDED = {
    "test_base_events.BaseEventLoopTests.test_not_implemented": (
        "that BaseEventLoop is abstract"
    ),
    "test_base_events.BaseEventLoopTests"
    ".test__run_once_cancelled_event_cleanup": (
        "counts the cancelled timers that are still in BaseEventLoop's heap"
    ),
    "test_ssl.TestSSL"
    ".test_remote_shutdown_receives_trailing_data_on_slow_socket": (
        "puts a wrapper in the place of the transport's _sock, which"
        " _SelectorSocketTransport calls and a transport in C does not"
    ),
}

# Those of the packages, by node id.
EXCLUDED_OF = {
    "uvicorn": {
        "tests/test_auto_detection.py::test_loop_auto": (
            "that uvicorn takes a class from the module asyncio"
        ),
    },
    "aiohttp": {},
    "hypercorn": {},
}
