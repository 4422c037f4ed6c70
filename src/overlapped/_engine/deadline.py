"""One timer for all calls of a stage: `asyncio.timeout` for each item would cost 3.8 us (benchmarks/features.py)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable

    from overlapped._engine.scope import Scope


class Timed(Protocol):
    """Something that makes one attempt at a time."""

    started_s: float  # infinity while there is none
    is_overdue: bool  # this attempt has been reported already


T = TypeVar("T", bound=Timed)


class Deadline(Generic[T]):
    """Finds attempts that have run for `timeout_s` and reports each once.

    All attempts of a stage have the same time, so the earliest start has the earliest end, and a timer
    for that one is enough. It rests while nothing runs.
    """

    def __init__(
        self,
        scope: Scope,
        timeout_s: float | None,
        running: Callable[[], Iterable[T]],
        expire: Callable[[T], None],
    ) -> None:
        self.scope = scope
        self.timeout_s = math.inf if timeout_s is None else timeout_s
        self.running = running
        self.expire = expire
        self.timer: asyncio.TimerHandle | None = None

    def watch(self) -> None:
        """An attempt is about to start."""
        if self.timer is None and self.timeout_s != math.inf:
            self.timer = self.scope.later(self.timeout_s, self._look)

    def _look(self) -> None:
        self.timer = None
        now = self.scope.clock()
        earliest = math.inf
        for one in list(self.running()):
            if one.is_overdue:
                continue
            if now - one.started_s >= self.timeout_s - 1e-6:  # timers may fire a clock step early
                one.is_overdue = True
                self.expire(one)
            else:
                earliest = min(earliest, one.started_s)
        if earliest != math.inf:
            self.timer = self.scope.later(earliest + self.timeout_s - now, self._look)
