"""A clock that jumps: coroutine tests take no time, and their times can be asserted exactly.

An event loop waits in one place only: in its selector, for descriptors or for the next timer. Ours has
no descriptors, so there is nothing to wait for: when no callback is ready, the clock is set to the next
timer. Times are whole nanoseconds, so three `sleep(0.1)` end at exactly 0.3; and a delay above 0 always
moves the clock, or `while (left := until - loop.time()) > 0: await sleep(left)` would never end.
"""

from __future__ import annotations

import asyncio
import math
import threading
from functools import wraps
from typing import TYPE_CHECKING, Any, Final, NoReturn, ParamSpec, TypeVar, TypeVarTuple, Unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from contextvars import Context

P = ParamSpec("P")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")

DIGITS: Final = 9
"""Times are rounded to so many decimals: nanoseconds."""

TICK_S: Final = 1e-9

MAX_STEPS: Final = 20
"""Lines that are shown of one waiting task: enough for any stack but a runaway recursion."""


class Deadlock(RuntimeError):
    """On a virtual loop nothing can happen any more. The message says who waits where."""


class _Selector:
    """Where a loop would wait for the outside world: here it lets the clock jump."""

    def __init__(self, jump: Callable[[], None]) -> None:
        self._jump = jump

    def select(self, timeout: float | None) -> list[object]:
        """No event ever; 0 means that there is work to do now."""
        if timeout != 0:
            self._jump()
        return []


class VirtualLoop(asyncio.BaseEventLoop):
    """An event loop with a virtual clock that starts at 0 and only moves while all wait.

    Its thread's CPU time is what `compute` has added up.

    It has no outside world: sockets, pipes, subprocesses, signals and executors are refused
    (`NotImplementedError`), and so are calls from other threads (`RuntimeError`). When no callback
    is ready and no timer is set, it raises `Deadlock`. Timers due at the same nanosecond fire in no
    order that could be relied upon, as on every loop.
    """

    # What the base class keeps and its stubs do not show.
    _scheduled: list[asyncio.TimerHandle]
    _thread_id: int | None

    def __init__(self) -> None:
        super().__init__()
        self._selector = _Selector(self._jump)
        self._set_time(0.0)
        self._cpu_s = 0.0

    def time(self) -> float:
        """The virtual time, s."""
        return self._now_s

    def overlapped_clock(self) -> float:
        """The clock a run of `overlapped` uses on this loop, s."""
        return self._now_s

    def overlapped_cpu_clock(self) -> float:
        """CPU time of the loop's thread, as a run of `overlapped` on this loop reads it, s."""
        return self._cpu_s

    def compute(self, cpu_s: float) -> None:
        """From now on the loop's thread has computed for `cpu_s` more; the time that takes is the caller's to wait."""
        self._cpu_s += cpu_s

    def _set_time(self, now_s: float) -> None:
        self._now_s = now_s
        # The loop runs every timer before now + this: with one unit in the last place, those <= now.
        self._clock_resolution = math.ulp(now_s)

    def _jump(self) -> None:
        """Nothing is ready: on to the next timer."""
        next_s = self._scheduled[0].when() if self._scheduled else math.inf
        if next_s == math.inf:
            raise Deadlock(
                "nothing can happen any more: no callback is ready, no timer is set, and nothing comes "
                "from outside of a virtual loop" + "".join(f"\n  waiting: {who}" for who in _waiting(self))
            )
        self._set_time(next_s)

    def call_at(
        self, when: float, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """As every loop's, at a whole nanosecond, and later than now if `when` is."""
        now_s = self._now_s
        if when > now_s:
            when = round(when, DIGITS)
            if when <= now_s:
                when = round(now_s + TICK_S, DIGITS)
        return super().call_at(when, callback, *args, context=context)

    def call_soon_threadsafe(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """As `call_soon`, in the loop's own thread.

        Raises:
            RuntimeError: called in another thread while the loop runs.
        """
        if self._thread_id not in (None, threading.get_ident()):
            raise RuntimeError(
                f"a virtual loop cannot be called from another thread ({threading.current_thread().name}): "
                f"its time would have jumped on meanwhile; test what uses threads with asyncio.run"
            )
        return super().call_soon_threadsafe(callback, *args, context=context)

    def _write_to_self(self) -> None:
        """Nobody sleeps in `select`, so nobody has to be woken."""

    def _process_events(self, event_list: list[object]) -> None:
        """There are none."""


def _refusal(name: str) -> Callable[..., NoReturn]:
    def refuse(self: VirtualLoop, *args: object, **options: object) -> NoReturn:
        raise NotImplementedError(
            f"{name}() on a virtual loop: sockets, processes, signals and threads take real time, in which "
            f"its clock would jump on; test what uses them with asyncio.run"
        )

    return refuse


for _name in (
    *("run_in_executor", "getaddrinfo", "getnameinfo", "add_signal_handler", "subprocess_exec", "subprocess_shell"),
    *("add_reader", "add_writer", "connect_read_pipe", "connect_write_pipe", "sendfile", "start_tls"),
    *("create_connection", "create_server", "create_datagram_endpoint", "connect_accepted_socket"),
    *("create_unix_connection", "create_unix_server", "sock_accept", "sock_connect", "sock_sendall"),
    *("sock_recv", "sock_recv_into", "sock_recvfrom", "sock_recvfrom_into", "sock_sendto", "sock_sendfile"),
):
    setattr(VirtualLoop, _name, _refusal(_name))


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end on a new `VirtualLoop` and return its result.

    Raises:
        AssertionError: it left tasks behind (they are cancelled), or something was reported to
            the loop's exception handler.
        Deadlock: every task waits for something that cannot happen; it says where each of them waits.

    Example:
        >>> async def nap() -> float:
        ...     await asyncio.sleep(3600)
        ...     return asyncio.get_running_loop().time()
        >>> run(nap())
        3600.0
    """
    reported: list[str] = []
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        loop = runner.get_loop()
        loop.set_exception_handler(lambda _, context: reported.append(_told(context)))
        try:
            result = runner.run(main)
        except Deadlock:
            raise
        except BaseException as error:
            for who in _waiting(loop):
                error.add_note(f"waiting: {who}")
            raise
        left = _waiting(loop)
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


def _waiting(loop: asyncio.AbstractEventLoop) -> list[str]:
    return sorted(_where(task) for task in asyncio.all_tasks(loop))


def _where(task: asyncio.Task[Any]) -> str:
    """A task, and the lines at which it waits, from its own coroutine's to the innermost one's."""
    coroutine: Any = task.get_coro()
    name = getattr(coroutine, "__qualname__", "?")
    steps: list[str] = []
    while coroutine is not None and len(steps) < MAX_STEPS:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
        if frame is None:
            break
        steps.append(f"{frame.f_code.co_filename}:{frame.f_lineno}")
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)
    return f"{task.get_name()} ({name})" + (f" at {' > '.join(steps)}" if steps else "")


def _told(context: dict[str, Any]) -> str:
    error = context.get("exception")
    return f"{context.get('message')}" + (f": {error!r}" if error else "")
