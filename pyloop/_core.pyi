"""The C half of pyloop; use the package."""

from asyncio import BaseTransport, Future, Handle, Task, TimerHandle
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, Final, TypeAlias, TypeVar, TypeVarTuple, Unpack, final

from _typeshed import FileDescriptorLike, structseq
from typing_extensions import disjoint_base

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

# The Task, Handle or transport that was slow; a str for native work.
_SlowHook: TypeAlias = Callable[
    [Task[Any] | Handle | BaseTransport | str, float], object
]

@final
class LoopStats(
    structseq[float],
    tuple[
        int,
        int,
        int,
        int,
        int,
        int,
        int,
        int,
        int,
        int,
        int,
        float,
        float,
        float,
        float,
    ],
):
    __match_args__: Final = (
        "ready",
        "timers",
        "timers_cancelled",
        "transports",
        "listeners",
        "watched",
        "turns",
        "polls",
        "callbacks",
        "handoffs",
        "wakeups",
        "batched_sends",
        "idle_time",
        "busy_poll_time",
        "longest_turn",
        "longest_callback",
    )
    @property
    def ready(self) -> int: ...
    @property
    def timers(self) -> int: ...
    @property
    def timers_cancelled(self) -> int: ...
    @property
    def transports(self) -> int: ...
    @property
    def listeners(self) -> int: ...
    @property
    def watched(self) -> int: ...
    @property
    def turns(self) -> int: ...
    @property
    def polls(self) -> int: ...
    @property
    def callbacks(self) -> int: ...
    @property
    def handoffs(self) -> int: ...
    @property
    def wakeups(self) -> int: ...
    @property
    def batched_sends(self) -> int: ...
    @property
    def idle_time(self) -> float: ...
    @property
    def busy_poll_time(self) -> float: ...
    @property
    def longest_turn(self) -> float: ...
    @property
    def longest_callback(self) -> float: ...

@disjoint_base
class Loop:
    busy_poll: float
    io_uring: bool
    def __new__(cls, *args: Any, **kwargs: Any) -> Loop: ...
    def call_soon(
        self,
        callback: Callable[[Unpack[_Ts]], object],
        *args: Unpack[_Ts],
        context: Context | None = None,
    ) -> Handle: ...
    def call_soon_threadsafe(
        self,
        callback: Callable[[Unpack[_Ts]], object],
        *args: Unpack[_Ts],
        context: Context | None = None,
    ) -> Handle: ...
    def call_later(
        self,
        delay: float,
        callback: Callable[[Unpack[_Ts]], object],
        *args: Unpack[_Ts],
        context: Context | None = None,
    ) -> TimerHandle: ...
    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[_Ts]], object],
        *args: Unpack[_Ts],
        context: Context | None = None,
    ) -> TimerHandle: ...
    def create_task(
        self, coro: Coroutine[Any, Any, _T], **kwargs: Any
    ) -> Task[_T]: ...
    def create_future(self) -> Future[Any]: ...
    def time(self) -> float: ...
    def stop(self) -> None: ...
    def is_running(self) -> bool: ...
    def is_closed(self) -> bool: ...
    def get_debug(self) -> bool: ...
    def add_reader(
        self,
        fd: FileDescriptorLike,
        callback: Callable[[Unpack[_Ts]], Any],
        *args: Unpack[_Ts],
    ) -> None: ...
    def add_writer(
        self,
        fd: FileDescriptorLike,
        callback: Callable[[Unpack[_Ts]], Any],
        *args: Unpack[_Ts],
    ) -> None: ...
    def remove_reader(self, fd: FileDescriptorLike) -> bool: ...
    def remove_writer(self, fd: FileDescriptorLike) -> bool: ...
    def stats(self, *, reset: bool = False) -> LoopStats: ...
    def set_slow_callback_hook(
        self, threshold: float, callback: _SlowHook | None
    ) -> None: ...
    def get_slow_callback_hook(self) -> tuple[float, _SlowHook] | None: ...
