"""Ctrl-C, SIGTERM and SIGHUP of one command: drain first, then cancel, then leave at once."""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING, Any, Protocol, Self

from overlapped.cli.say import Problem, say

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from types import FrameType

_ENDS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""What asks a command to end: Ctrl-C, `kill`, a terminal that closes (Windows has none that says so)."""

GRACE_S = 10.0
"""How long SIGTERM lets calls in flight finish: what container managers give before SIGKILL."""


class Drainable(Protocol):
    """What the signals need of a running flow."""

    def drain(self) -> None:
        """Take no more items, finish those in flight, end normally; safe in a signal handler."""
        ...


class Signals:
    """Handlers for SIGINT, SIGTERM and SIGHUP while a command runs; a scope that puts the old ones back.

    Until `attach`, a signal raises `KeyboardInterrupt`, so that `with` blocks clean up; it leaves the scope as a
    `Problem`. While a flow is attached the first signal drains it (others than SIGINT: for at most `GRACE_S`), the
    second cancels it, the third ends the process.

    Args:
        moment: when a signal comes, as the message says it.

    Attributes:
        moment: the same; it may change.
        code: exit code of the first signal that came (130, 143, 129), or 0.
        cancelled: True from the moment the run was cancelled by a second signal or the grace's end.
    """

    def __init__(self, moment: str = "before anything was started") -> None:
        self.moment = moment
        self.code = 0
        self.cancelled = False
        self.last_act: Callable[[], object] = lambda: None
        self._count = 0
        self._run: tuple[asyncio.AbstractEventLoop, asyncio.Task[Any], Drainable] | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _ENDS:
                if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, a shell's background
                    # not loop.add_signal_handler: the third signal must end a loop that never turns
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self.code and isinstance(error, KeyboardInterrupt):
            how = "interrupted" if self.code == 128 + signal.SIGINT else "terminated"
            raise Problem(f"{how} {self.moment}", self.code) from error

    def attach(self, loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any], items: Drainable) -> None:
        """From now on signals drain `items`, then cancel `task`."""
        self._run = (loop, task, items)

    def detach(self) -> None:
        """The run has ended: signals raise again."""
        self._run = None

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        self.code = self.code or 128 + number
        self._count += 1
        if self._count >= 3:
            self.last_act()
            os._exit(self.code)
        if self._run is None:
            raise KeyboardInterrupt
        loop, _, items = self._run
        if self._count == 1:
            items.drain()
            # said on the loop: a handler that prints can interrupt a print
            loop.call_soon_threadsafe(self._draining, number)
        else:
            loop.call_soon_threadsafe(self._cancel, "cancelling; once more leaves at once")

    def _draining(self, number: int) -> None:
        if self._run is None:
            return
        if number == signal.SIGINT:
            say("stopping: no new items, finishing what is in flight; Ctrl-C again cancels it")
        else:
            say(f"terminated: no new items, finishing what is in flight for at most {GRACE_S:g} s")
            self._run[0].call_later(GRACE_S, self._cancel, f"{GRACE_S:g} s are over, cancelling")

    def _cancel(self, why: str) -> None:
        if self._run is not None and not self.cancelled:
            self.cancelled = True
            say(why)
            self._run[1].cancel()
