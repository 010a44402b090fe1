"""Tests that are not run on pyloop, each with its reason.

All of them look inside an implementation; none is about what a loop does.
"""

from .common import version

MOCK = "makes a BaseEventLoop, gives it a mock for a selector, and "

EXCLUDED = {
    "test_base_events.BaseEventLoopTests.test_not_implemented": (
        "that BaseEventLoop is abstract"
    ),
    "test_base_events.BaseEventLoopTests.test__add_callback_handle": (
        MOCK + "looks for a Python handle in loop._ready"
    ),
    "test_base_events.BaseEventLoopTests.test__run_once": (
        MOCK + "puts timers into loop._scheduled"
    ),
    "test_base_events.BaseEventLoopTests.test__run_once_schedule_handle": (
        MOCK + "puts a timer into loop._scheduled"
    ),
    "test_base_events.BaseEventLoopTests"
    ".test__run_once_cancelled_event_cleanup": (
        MOCK + "counts the cancelled timers that are still in its heap"
    ),
    "test_base_events.BaseEventLoopTests.test_run_forever_pre_stopped": (
        MOCK + "asks the mock whether it was called"
    ),
    "test_base_events.BaseEventLoopTests"
    ".test_single_selecter_event_callback_after_stopping": (
        MOCK + "reports an event by it"
    ),
    "test_base_events.BaseEventLoopTests"
    ".test_custom_run_forever_integration": (
        MOCK + "has it return at once with nothing to wait for"
    ),
    "test_ssl.TestSSL"
    ".test_remote_shutdown_receives_trailing_data_on_slow_socket": (
        "puts a wrapper in the place of the transport's _sock, which"
        " _SelectorSocketTransport calls and a transport in C does not"
    ),
}

if version().endswith("t"):
    EXCLUDED["test_base_events.BaseEventLoopTests.test_check_thread"] = (
        "calls call_later() from another thread, which is an error in debug"
        " mode; without a GIL it always is on pyloop"
    )

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
