"""How often calls may start: a budget in calls a second, and its arithmetic.

The arithmetic is the generic cell rate algorithm (GCRA, ITU-T I.371 annex A, "virtual
scheduling"): one number, the theoretical arrival time of the next call, stands for the whole
bucket, so a reservation is O(1) and calls are spaced evenly with no timer running.
"""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any

from overlapped.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable


# eq=False: a Rate is a budget, and two budgets of the same size are two. One Rate used in two
# stages of a run is one budget.
@dataclass(frozen=True, slots=True, eq=False)
class Rate:
    """At most `amount` calls start in `per_s` seconds, evenly spaced.

    Args:
        amount: calls (or weight, see `weigh`) for each `per_s`, > 0.
        per_s: seconds that `amount` is for, > 0.
        burst: calls that may start at once after a quiet time, >= 1.
        weigh: what a call counts, as a function of its item; `weigh=len` counts the items of a
            batch. Left out, each call counts 1.

    Raises:
        UsageError: a value breaks its rule.

    Example:
        >>> Rate(100, per_s=1).interval_s
        0.01
    """

    amount: float
    _: KW_ONLY
    per_s: float = 1.0
    burst: float = 1
    weigh: Callable[[Any], float] | None = None

    def __post_init__(self) -> None:
        _check("amount", self.amount, math.isfinite(_number(self.amount)) and self.amount > 0, "> 0")
        _check("per_s", self.per_s, math.isfinite(_number(self.per_s)) and self.per_s > 0, "> 0")
        _check("burst", self.burst, math.isfinite(_number(self.burst)) and self.burst >= 1, ">= 1")
        if self.weigh is not None and not callable(self.weigh):
            raise UsageError(f"Rate(weigh): weigh must be a function of the item, got {self.weigh!r}")

    @property
    def interval_s(self) -> float:
        """Seconds between two calls of weight 1."""
        return self.per_s / self.amount

    def weight_of(self, item: object) -> float:
        """What a call for `item` counts.

        Raises:
            Exception: what the user's `weigh` raised, or UsageError if it gave no number >= 0.
        """
        return 1.0 if self.weigh is None else require_weight(self.weigh(item))

    def bucket(self) -> Bucket:
        """A new, full bucket: the state of this budget in one run."""
        return Bucket(self)


class Bucket:
    """What is left of a `Rate` in one run; times are seconds of the run's clock, passed in."""

    __slots__ = ("_burst", "_interval_s", "_paused_until_s", "_tat_s")

    def __init__(self, rate: Rate) -> None:
        self._burst = rate.burst
        self._interval_s = rate.interval_s
        self._tat_s = -math.inf
        self._paused_until_s = -math.inf

    def reserve(self, now_s: float, weight: float = 1.0) -> float:
        """Take a place for one call and return how long it has to wait, s (0 = start now).

        A weight above `burst` waits for a full bucket; then the next calls wait longer.

        Raises:
            UsageError: `weight` is negative or not finite.
        """
        weight = require_weight(weight)
        begin_s = max(now_s, self._paused_until_s)
        tat_s = max(self._tat_s, begin_s)
        self._tat_s = tat_s + weight * self._interval_s
        early_s = max(0.0, self._burst - weight) * self._interval_s
        return max(begin_s, tat_s - early_s) - now_s

    def delay_s(self, now_s: float) -> float:
        """How long a call of weight 1 would have to wait if it asked now, s."""
        begin_s = max(now_s, self._paused_until_s)
        early_s = max(0.0, self._burst - 1) * self._interval_s
        return max(begin_s, max(self._tat_s, begin_s) - early_s) - now_s

    def is_full(self, now_s: float) -> bool:
        """True if it is as good as new: nothing that was reserved counts any more."""
        return max(self._tat_s, self._paused_until_s) <= now_s

    def give_back(self, weight: float = 1.0) -> None:
        """Undo a reservation whose call never started; those who reserved later keep their times."""
        self._tat_s -= weight * self._interval_s

    def pause_until(self, until_s: float) -> None:
        """No call reserved from now on starts before `until_s`; a pause is only ever made longer."""
        self._paused_until_s = max(self._paused_until_s, until_s)


def require_weight(weight: Any) -> float:
    """`weight` as a float, if it is a number that a call can count.

    Raises:
        UsageError: it is not.
    """
    try:
        if 0 <= weight < math.inf:
            return float(weight)
    except (TypeError, OverflowError):
        pass  # not a number at all, or an int beyond the floats
    raise UsageError(f"Rate(weigh): weigh must return a number >= 0, got {weight!r}")


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        return float(value)
    except OverflowError:  # an int beyond the floats
        return math.inf


def _check(name: str, value: object, is_fine: bool, rule: str) -> None:
    if not is_fine:
        raise UsageError(f"Rate({name}): {name} must be a number {rule}, got {value!r}")
