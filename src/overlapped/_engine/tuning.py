"""Tunes one stage: finished attempts become samples, its controllers' decisions are followed and recorded."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Literal

from overlapped.control.base import Sample
from overlapped.control.fixed import Fixed
from overlapped.errors import Overloaded, TooLarge
from overlapped.record import Decision
from overlapped.retry import retry_after_s

if TYPE_CHECKING:
    from collections.abc import Callable

    from overlapped.control.auto import Auto
    from overlapped.control.base import Controller, ControllerSpec, Outcome
    from overlapped.control.batch_size import BatchSize

MAX_DECISIONS: Final = 1_000
"""Decisions that are kept for the report."""

STEP: Final = 1.5
"""Steps of a limit that follow each other by the same rule are one decision up to this factor."""

PACE_STEP: Final = 1.05
"""Smallest change of the pace that is a decision: its slow way up is none."""

CPU_EVERY_S: Final = 0.002
"""The CPU clock is read so often at most: it is a system call."""

MOST_UNHEARD: Final = 1_000
"""Most items in a batch of AUTO that no stage calls a function with, so that nothing tells its size: at 1,000
the fixed cost of a write is spread thin (evidence: SQLite commits reach 90 % of their best rate there)."""


class Sizing:
    """The size of AUTO's batches in one run; the first later stage that makes calls says what they cost."""

    def __init__(self, spec: Auto) -> None:
        self.spec = spec
        self.controller: BatchSize | None = None

    @property
    def size(self) -> int:
        """Most items that the next batch may hold."""
        if self.controller is None:
            return int(min(MOST_UNHEARD, self.spec.max))
        return self.controller.limit

    def listen(self) -> BatchSize:
        """From now on the size is found by measurement."""
        self.controller = self.spec.batch_size()
        return self.controller


class Tuning:
    """What tunes one stage in one run.

    Batch size and limit take turns: while one of them experiments, the other stands still, since each
    would read the other's steps as news about the service.
    """

    def __init__(
        self, spec: ControllerSpec, sizing: Sizing | None, started_s: float, cpu_clock: Callable[[], float]
    ) -> None:
        self.spec = spec
        self._cpu_clock = cpu_clock
        self._cpu_s = cpu_clock()
        self._cpu_at_s = started_s
        self.started_s = started_s
        self.controller: Controller = spec.controller()
        self.has_fixed_limit = isinstance(self.controller, Fixed)  # nothing to learn
        self.batches = sizing.listen() if sizing is not None else None
        self.learns = not self.has_fixed_limit or self.batches is not None
        self.limit = self.controller.limit
        self.limits = (self.limit, self.limit)
        self.size = self.batches.limit if self.batches is not None else 0
        self.sizes = (self.size, self.size)
        self.pace_per_s = self.told_pace_per_s = math.inf
        self.next_start_s = -math.inf
        self.decisions: deque[Decision] = deque(maxlen=MAX_DECISIONS)

    def finished(  # one attempt, as its worker knows it
        self,
        started_s: float,
        now_s: float,
        in_flight: int,
        item: object,
        error: BaseException | None,
        *,
        binding: bool,
    ) -> bool:
        """Show the controllers a finished attempt; True if the limit or the pace is another one now."""
        size = 1
        if self.batches is not None and isinstance(item, list):
            size = len(item)
        outcome: Outcome = "ok"
        asked_s = None
        if error is not None:
            outcome, asked_s = outcome_of(error), retry_after_s(error)
        if now_s - self._cpu_at_s > CPU_EVERY_S:
            self._cpu_at_s, self._cpu_s = now_s, self._cpu_clock()
        is_too_large = isinstance(error, TooLarge)
        sample = Sample(now_s, started_s, outcome, in_flight, binding, size, asked_s, is_too_large, self._cpu_s)
        batches = self.batches
        if batches is not None:
            size = batches.finished(sample)
            if size != self.size:
                self._decide(now_s, "size", self.size, size, batches)
                self.size = size
                self.sizes = (min(self.sizes[0], size), max(self.sizes[1], size))
            if not batches.is_settled:
                return False
        if self.has_fixed_limit:
            return False
        return self._follow(now_s, max(1, self.controller.finished(sample)))

    def _follow(self, now_s: float, limit: int) -> bool:
        controller = self.controller
        pace = getattr(controller, "pace_per_s", math.inf)
        is_news = pace != self.pace_per_s
        if is_news:
            if not self.told_pace_per_s / PACE_STEP < pace < self.told_pace_per_s * PACE_STEP:
                self._decide(now_s, "pace", self.told_pace_per_s, pace, getattr(controller, "paced_by", controller))
                self.told_pace_per_s = pace
            self.pace_per_s = pace
        if limit != self.limit:
            is_news = True
            self._decide(now_s, "limit", self.limit, limit, controller)
            self.limit = limit
            self.limits = (min(self.limits[0], limit), max(self.limits[1], limit))
        return is_news

    def _decide(
        self,
        now_s: float,
        what: Literal["limit", "pace", "size"],
        old: float,
        new: float,
        by: Controller,
    ) -> None:
        evidence = getattr(by, "evidence", "")
        last = self.decisions[-1] if self.decisions else None
        if last is not None and (last.what, last.reason, last.evidence) == (what, by.reason, evidence):
            # Slots open one by one: a few of them are one decision, or a long run would forget its beginning.
            is_further = old == last.new and (new > old) == (last.new > last.old)
            if is_further and max(new, last.old) < STEP * min(new, last.old):
                self.decisions[-1] = replace(last, new=new)
                return
        self.decisions.append(Decision(now_s - self.started_s, old, new, by.reason, what, evidence))

    def reset(self, now_s: float) -> None:
        """Calls are made elsewhere from now on: what was measured says nothing about them."""
        if not self.has_fixed_limit:
            self.controller = self.spec.controller()
            self._follow(now_s, self.controller.limit)

    # -- pace --------------------------------------------------------------------------------------

    @property
    def is_paced(self) -> bool:
        """True if starts have to keep a distance."""
        return self.pace_per_s != math.inf

    def reserve_s(self, now_s: float) -> float:
        """Take the next start that the pace allows; returns the seconds until then."""
        if self.pace_per_s == math.inf:
            return 0.0
        distance_s = 1 / self.pace_per_s
        # A start that a busy loop made late may be followed early by the next: one distance is forgiven.
        start_s = max(now_s - distance_s, self.next_start_s)
        self.next_start_s = start_s + distance_s
        return max(0.0, start_s - now_s)

    def forget_starts(self, until_s: float) -> None:
        """Nothing starts before `until_s`; those who wait will ask again."""
        self.next_start_s = until_s


def outcome_of(error: BaseException) -> Outcome:
    """What a failure says about load."""
    if retry_after_s(error) is not None:
        return "ignore"  # it names a rate: fewer calls at once would not help
    return "drop" if isinstance(error, (Overloaded, TimeoutError)) else "ignore"
