"""When refused calls ("drop") cut a limit, and how it comes back.

A cut needs a recent share of drops well above their usual share: isolated failures never cut. Calls
turned away at the door tell where the ceiling is; time-outs that there is too much: x0.7, or down to the smallest
crowd that one began in, but to no less than half. After an overload the limit waits long and comes back in small
steps, the last of which is taken back when it is refused again; after an outage (no call succeeded at all) it comes
back by doubling.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from overlapped.control.base import Sample

_REFUSED_SHARE = 0.1  # of the recent calls, above twice their usual share: overload
_DOOR_SHARE = 0.03  # of the last few hundred calls turned away at the door, above their usual share: so too
_CUT = 0.7
_ALIKE = 4  # calls between the smallest and the third smallest crowd that was turned away: no odd answer, a door
_REOPEN_FIRST_S = 15.0
_REOPEN_MOST_S = 60.0
_REFUSED_STEP = 0.03  # of the calls after a step up, above twice their usual share: the step is taken back


class Refusals:
    """Tells overload from isolated failures by two running shares of dropped calls."""

    __slots__ = (
        "_cut_at_s",
        "_late",
        "_long",
        "_lows",
        "_medium",
        "_oks",
        "_short",
        "evidence",
        "is_outage",
        "is_watching",
    )

    def __init__(self) -> None:
        self._short = self._medium = self._long = 0.0
        self._cut_at_s = -math.inf
        self._lows = [math.inf] * 3  # the smallest crowds that were turned away at the door
        self._late = math.inf  # the smallest crowd that a call which timed out began in
        self._oks = 1
        self.evidence = ""
        self.is_watching = False  # after a drop, until it is forgotten
        self.is_outage = False  # no call at all succeeded between the last two cuts

    @property
    def usual_share(self) -> float:
        """The long-run share of dropped calls."""
        return self._long

    def cut_to(self, sample: Sample, limit: int, mean_s: float) -> float | None:
        """The limit to cut to after this call, or None. At most one cut in a round trip."""
        is_drop = sample.outcome == "drop"
        self._oks += sample.outcome == "ok"
        # A call begun before the last cut, or too soon after it, says nothing about the new limit.
        if sample.outcome == "ignore" or sample.started_s <= self._cut_at_s:
            return None
        self._short += (is_drop - self._short) / max(64, limit)
        self._medium += (is_drop - self._medium) / max(256, 2 * limit)
        self._long += (is_drop - self._long) / 1000
        self.is_watching = self._short > 0.001
        if not is_drop:
            return None
        if sample.now_s - sample.started_s < mean_s / 2:  # turned away at the door, not timed out
            self._lows = sorted([*self._lows, sample.in_flight])[:3]
        elif mean_s:  # else nothing tells the one from the other yet
            self._late = min(self._late, sample.in_flight)
        lowest = self._lows[0]
        is_at_door = lowest < math.inf and self._medium > _DOOR_SHARE + self._long
        if self._short <= _REFUSED_SHARE + 2 * self._long and not is_at_door:
            return None
        if limit < lowest < math.inf:  # they were turned away above what the limit is by now
            self._forget()
            return None
        return self._cut(sample.now_s + mean_s, limit)

    def _cut(self, quiet_until_s: float, limit: int) -> float:
        self.is_outage = not self._oks
        self.evidence = f"{max(self._short, self._medium):.0%} of the recent calls were refused"
        target = min(limit * _CUT, max(self._late - 1, limit / 2))
        lowest, _, third = self._lows
        if lowest <= limit and not self.is_outage:
            # The smallest crowd that was turned away is a ceiling, but one odd answer must not take all.
            target = lowest - 1 if third - lowest <= _ALIKE else max(lowest - 1, limit / 2)
        self.start_anew(quiet_until_s)
        return max(1.0, target)

    def start_anew(self, quiet_until_s: float) -> None:
        """The limit is a smaller one now: what began before, or too soon after, says nothing about it."""
        self._cut_at_s, self._oks = quiet_until_s, 0
        self._forget()

    def _forget(self) -> None:
        self._short = self._medium = 0.0
        self._lows = [math.inf] * 3
        self._late = math.inf


class Reopening:
    """After a cut: wait, then steps back up to where the limit was; small ones after an overload."""

    __slots__ = (
        "_calls",
        "_drops",
        "_next_s",
        "_stepped_from",
        "_wait_s",
        "has_stepped",
        "is_outage",
        "target",
    )

    def __init__(self, now_s: float, target: float, wait_s: float = _REOPEN_FIRST_S, *, is_outage: bool) -> None:
        self.target = target
        self.is_outage = is_outage
        self.has_stepped = False
        self._wait_s = wait_s
        self._next_s = now_s + (1.0 if is_outage else wait_s)
        self._stepped_from = 0.0
        self._calls = self._drops = 0

    def cut_again(self, now_s: float, *, is_outage: bool) -> Reopening:
        """What follows when the limit is cut once more: a longer wait, if a step was to blame."""
        wait_s = self._longer_s() if self.has_stepped else self._wait_s
        return Reopening(now_s, self.target, wait_s, is_outage=is_outage)

    def level(self, sample: Sample, level: float, mean_s: float, usual_share: float) -> float:
        """The level after this call: the same, a step up, or the last step taken back."""
        if self._stepped_from:
            self._calls += 1
            self._drops += sample.outcome == "drop"
            if self._drops > max(1.0, (_REFUSED_STEP + 2 * usual_share) * self._calls):
                back, self._stepped_from = self._stepped_from, 0.0
                self._wait_s = self._longer_s()
                self._next_s = sample.now_s + self._wait_s
                return back
        if sample.now_s < self._next_s or not sample.binding or sample.outcome != "ok":
            return level
        self._next_s = sample.now_s + max(1.0, 20 * mean_s)
        self._stepped_from, self._calls, self._drops, self.has_stepped = level, 0, 0, True
        return min(self.target, level * 2 if self.is_outage else level * 1.1 + 1)

    def _longer_s(self) -> float:
        return min(_REOPEN_MOST_S, 1.5 * self._wait_s)
