"""One timer for all calls of a stage: `asyncio.timeout` for each item would cost 3.8 us (benchmarks/features.py)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from overlapped._engine.scope import CLOCK_STEP_S

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable

    from overlapped._engine.scope import Scope


class Timed(Protocol):
    """Something that makes one attempt at a time."""

    @property
    def started_s(self) -> float:
        """When it started; infinity while its time does not count."""
        ...


T = TypeVar("T", bound=Timed)


class Deadline(Generic[T]):
    """Finds attempts that have run for `timeout_s`.

    All attempts of a stage have the same time, so the earliest start has the earliest end, and a timer
    for that one is enough. It rests while nothing is to be done.

    Args:
        timeout_s: of one attempt; None: this does nothing.
        running: the attempts that have not been reported yet.
        expire: told of one whose time is up; it must not be among the running after that.
        is_busy: True if attempts are under way or to come, even if none is running just now.
    """

    def __init__(
        self,
        scope: Scope,
        timeout_s: float | None,
        running: Callable[[], Iterable[T]],
        expire: Callable[[T], None],
        is_busy: Callable[[], int],
    ) -> None:
        self.scope = scope
        self.timeout_s = math.inf if timeout_s is None else timeout_s
        self.running = running
        self.expire = expire
        self.is_busy = is_busy
        self.timer: asyncio.TimerHandle | None = None
        self.due_s = math.inf

    def watch(self, started_s: float | None = None) -> None:
        """An attempt is about to start, or has gone on that had started at `started_s`."""
        if self.timeout_s == math.inf or (self.timer is not None and started_s is None):
            return
        now = self.scope.clock()
        due = (now if started_s is None else started_s) + self.timeout_s
        if self.timer is None or due < self.due_s:
            self._arm(due, now)

    def _arm(self, due_s: float, now_s: float) -> None:
        self.scope.forget(self.timer)
        self.due_s = due_s
        self.timer = self.scope.later(due_s - now_s, self._look)

    def _look(self) -> None:
        self.timer = None
        now = self.scope.clock()
        earliest = math.inf
        for one in list(self.running()):
            if now - one.started_s >= self.timeout_s - CLOCK_STEP_S:
                self.expire(one)
            else:
                earliest = min(earliest, one.started_s)
        if earliest != math.inf or self.is_busy():
            self._arm(min(earliest, now) + self.timeout_s, now)
