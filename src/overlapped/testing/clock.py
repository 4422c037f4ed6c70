"""A clock that jumps: coroutine tests take no time, and their times can be asserted exactly.

`async_solipsism` gives a loop without an outside world, whose `select` moves a clock instead of
waiting. Ours differs in two ways. Its clock counts nanoseconds in an integer, so that three
`sleep(0.1)` end at exactly 0.3. And a delay above 0 always moves it: with a clock of 1 us steps,
`while (left := until - loop.time()) > 0: await sleep(left)` never ends once `left` is below a step.
"""

from __future__ import annotations

import asyncio
from functools import cache, wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    class VirtualLoop(asyncio.SelectorEventLoop):
        """An event loop with a virtual clock that starts at 0 and only moves while all wait.

        It has no sockets, signals, subprocesses or calls from other threads. When nothing can
        happen any more (or not for a day) it raises `async_solipsism.SleepForeverError`.
        """

        def overlapped_clock(self) -> float:
            """The clock a run of `overlapped` uses on this loop, s."""
            ...


P = ParamSpec("P")
T = TypeVar("T")

TICKS_PER_S = 1_000_000_000


def __getattr__(name: str) -> object:
    if name == "VirtualLoop":
        return _loop_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@cache
def _loop_class() -> type[VirtualLoop]:
    try:
        import async_solipsism  # type: ignore[import-untyped]  # it has no types
    except ImportError as error:
        raise ImportError(
            "overlapped.testing's virtual clock needs a package more: pip install 'overlapped[testing]'"
        ) from error

    class Clock:
        resolution = 1 / TICKS_PER_S
        ticks = 0

        def time(self) -> float:
            return self.ticks / TICKS_PER_S  # one correctly rounded division: 0.3 is the literal 0.3

        def advance(self, delta_s: float) -> None:
            self.ticks += max(1, round(delta_s * TICKS_PER_S))

    class VirtualLoop(async_solipsism.EventLoop):  # type: ignore[misc]  # the package has no types
        def __init__(self) -> None:
            super().__init__()
            self._virtual = self._selector.clock = Clock()
            self._clock_resolution = Clock.resolution

        def time(self) -> float:
            return self._virtual.time()

        def overlapped_clock(self) -> float:
            return self._virtual.time()

        def call_at(self, when: float, *args: Any, **kwargs: Any) -> asyncio.TimerHandle:
            now_s = self._virtual.time()
            if when > now_s:  # a loop runs what is due within one resolution, without moving the clock
                when = max(when, now_s + Clock.resolution)
            handle: asyncio.TimerHandle = super().call_at(when, *args, **kwargs)
            return handle

    VirtualLoop.__module__, VirtualLoop.__qualname__ = __name__, "VirtualLoop"
    return VirtualLoop


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end on a new `VirtualLoop` and return its result.

    Raises:
        AssertionError: it left tasks behind (they are cancelled), or something was reported to
            the loop's exception handler.
        async_solipsism.SleepForeverError: every task waits for something that cannot happen; notes
            say where each of them waits.
        ImportError: async-solipsism is not installed.

    Example:
        >>> async def nap() -> float:
        ...     await asyncio.sleep(3600)
        ...     return asyncio.get_running_loop().time()
        >>> run(nap())
        3600.0
    """
    try:
        loop_factory = _loop_class()
    except ImportError:
        main.close()
        raise
    reported: list[str] = []
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        loop = runner.get_loop()
        loop.set_exception_handler(lambda _, context: reported.append(_told(context)))
        try:
            result = runner.run(main)
        except BaseException as error:
            for task in asyncio.all_tasks(loop):
                error.add_note(f"waiting: {_where(task)}")
            raise
        left = sorted(_where(task) for task in asyncio.all_tasks(loop))
    if left:
        raise AssertionError("tasks were left behind:\n" + "\n".join(left))
    if reported:
        raise AssertionError("the loop's exception handler was called:\n" + "\n".join(reported))
    return result


def virtual(test: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """Make an ordinary test of a coroutine function, run on a new `VirtualLoop` each time.

    Example:
        >>> @virtual
        ... async def test_two_naps_overlap():
        ...     await asyncio.gather(asyncio.sleep(1), asyncio.sleep(2))
        ...     assert asyncio.get_running_loop().time() == 2
        >>> test_two_naps_overlap()
    """

    @wraps(test)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        return run(test(*args, **kwargs))

    return wrapper


def _where(task: asyncio.Task[Any]) -> str:
    frames = task.get_stack(limit=1)
    at = f" at {frames[-1].f_code.co_filename}:{frames[-1].f_lineno}" if frames else ""
    return f"{task.get_name()} ({getattr(task.get_coro(), '__qualname__', '?')}){at}"


def _told(context: dict[str, Any]) -> str:
    error = context.get("exception")
    return f"{context.get('message')}" + (f": {error!r}" if error else "")
