"""Calls that ran into their time-out and cannot be cancelled: they hold their slots until they end."""

from __future__ import annotations

import asyncio
import math
import warnings
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from overlapped._engine.failure import add_note
from overlapped._engine.scope import CLOCK_STEP_S, GRACE_S
from overlapped.errors import StuckCalls

if TYPE_CHECKING:
    from overlapped._engine.crew import Crew

STUCK_S: Final = 1.0
"""How long all slots must be lost before a run is given up; a call that is merely slow has ended by then."""

T = TypeVar("T")


class RunsOn(asyncio.CancelledError):
    """Its call was cancelled, but what it waited for goes on: a Tornado coroutine knows no cancellation."""

    def __init__(self, body: asyncio.Future[Any]) -> None:
        super().__init__()
        self.body = body


class Lost(Generic[T]):
    """The lost calls of a stage. A run that has lost all slots of one is given up."""

    def __init__(self, crew: Crew, lane: str) -> None:
        self._crew = crew
        self._lane = lane
        self._calls: set[T] = set()
        self._is_given_up = False
        self._all_since_s = math.inf
        self._is_watched = False

    def __contains__(self, call: T) -> bool:
        return call in self._calls

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, call: T, error: BaseException) -> None:
        """Its item has failed with `error`; it runs on."""
        add_note(
            error, f"overlapped: a call in lane {self._lane!r} cannot be cancelled; it still runs, its slot is held"
        )
        self._calls.add(call)
        self._count()
        if not self._is_watched:
            self._is_watched = True
            self._crew.scope.later(STUCK_S, self._look)

    def discard(self, call: T) -> None:
        """It has ended."""
        self._calls.discard(call)
        self._count()

    def _count(self) -> None:
        if not self._calls or len(self._calls) < self._crew.limit:
            self._all_since_s = math.inf
        elif self._all_since_s == math.inf:
            self._all_since_s = self._crew.scope.clock()

    def _look(self) -> None:
        """Again and again while calls are lost: a limit that shrinks may make them all that there are."""
        crew = self._crew
        self._count()
        left_s = self._all_since_s + STUCK_S - crew.scope.clock()
        if crew.is_complete or not self._calls:
            self._is_watched = False
        elif left_s > CLOCK_STEP_S:
            crew.scope.later(min(left_s, STUCK_S), self._look)
        else:
            self._is_given_up = True
            crew.scope.abort(
                StuckCalls(
                    f"{crew.spec.name}: all {crew.limit} slots are held by calls that ran into "
                    f"timeout_s={crew.spec.timeout_s:g} and cannot be cancelled; give the function a "
                    f"time-out of its own, or make it an async def"
                )
            )

    @property
    def grace_s(self) -> float:
        """How long the run's end waits for calls; those of a run that was given up have had their grace."""
        return 0.0 if self._is_given_up else GRACE_S

    def warn(self, count: int) -> None:
        """Say that so many calls were left to themselves."""
        if count:
            warnings.warn(
                f"{self._crew.spec.name}: {count} calls in lane {self._lane!r} did not end and were abandoned",
                ResourceWarning,
                stacklevel=2,
            )
