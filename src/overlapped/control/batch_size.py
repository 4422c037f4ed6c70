"""How many items a batch: grows while the fixed cost of a call is worth spreading, then holds and looks again.

A call with b items takes t = a + c * b: a its fixed cost, c the cost of one more item. Both come from a weighted
least squares fit (weight: calls / t^2) over the mean of each octave of sizes (1, 2-3, 4-7, ...). Means of octaves,
and not of the latest calls, keep the fit identified when b stands still. Wanted is

    b* = a / (c * EPS)      the fixed cost is then EPS of what the items cost

in steps of x4 while the fixed cost is most of a call, then x2, x1.4 after a turn: a fit must not be trusted far
beyond what it has seen. Three things overrule it:

- the measured rate: an octave that handles clearly more items per second (5 %, 2.5 standard errors) is better,
  whatever the fit says (a service that collapses above some size is no straight line);
- refusals: a call that was too large, or that ran out of time, is a ceiling, found by bisection, until a call as
  large is fine (the other half of a batch in which one item was huge);
- time: one call may take max(1 s, 25 x the fastest one), so that a batch never holds its items for long.

A batch is what has queued, at most this size, and never waits to fill. So a size that batches do not reach
teaches nothing, and the limit of calls in flight may be tuned meanwhile (`is_settled`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from overlapped.control.base import Sample

MOST = 10_000
"""The bound when the user gives none: a fixed cost worth 10,000 items was not seen in any measured service."""

EPS = 0.04
"""The fixed cost may be 4 % of the items' cost: where more throughput (at most 4 %) is not worth longer calls."""

_FULL = 0.7  # of the size: a batch that says something about the size
_CALLS = 3  # at a size before the next step, and as many as are in flight
_WINDOW = 8  # calls over which an octave's means run
_AGEING = 0.99  # of an octave's weight, per call
_MOSTLY_FIXED = 0.4  # share of the fixed cost from which steps are x4
_BETTER = 0.05  # measured rate by which another octave overrules the fit
_LONGEST_S = 1.0
_LONGEST_TIMES = 25.0
_LOOK_AGAIN_S = 10.0  # after which a size that holds is tried against another one; doubles each time
_LOOK_AGAIN_CALLS = 60
_TRIAL_CALLS = 12  # with each size of such a trial
_PRECISE = 1.04  # bisection ends when refused and good size differ by no more
_PRECISE_TIME = 1.2  # and for time-outs, whose search costs a whole time-out each


class _Octave:
    """Running means over calls of about one size."""

    __slots__ = ("calls", "items", "seconds", "square")

    def __init__(self) -> None:
        self.calls = 0.0
        self.items = self.seconds = self.square = 0.0

    def add(self, items: float, seconds: float) -> None:
        self.calls += 1
        share = 1 / min(self.calls, _WINDOW)
        self.items += (items - self.items) * share
        self.seconds += (seconds - self.seconds) * share
        self.square += (seconds * seconds - self.square) * share

    @property
    def per_s(self) -> float:
        """Items per second of one call."""
        return self.items / self.seconds if self.seconds > 0 else math.inf

    @property
    def cv2(self) -> float:
        """Squared coefficient of variation of a call's time."""
        return max(0.0, self.square / self.seconds**2 - 1) if self.seconds > 0 else 0.0

    def beats(self, other: _Octave) -> bool:
        """True if its measured rate is clearly the better one."""
        if self.calls < 2 or other.calls < 2 or not 0 < self.per_s < math.inf or not other.per_s:
            return False
        cv2 = max(self.cv2, other.cv2)
        se = math.sqrt(cv2 * (1 / min(self.calls, _WINDOW) + 1 / min(other.calls, _WINDOW)))
        return math.log(self.per_s / other.per_s) > max(_BETTER, 2.5 * se)


class BatchSize:
    """The largest size of a stage's batches; fed with the calls that were made with them.

    Args:
        start: the first size, >= 1.
        max_size: the largest one; `math.inf` means `MOST`.

    Attributes:
        limit: most items in the next batch, >= 1.
        reason: name of the rule that chose it.
        evidence: the numbers behind that.
        is_settled: False while a new size is being tried: nothing else should be tuned meanwhile.
    """

    def __init__(self, *, start: int = 8, max_size: float = math.inf) -> None:
        self._max = int(min(max_size, MOST))
        self.limit = min(start, self._max)
        self.reason = "start"
        self.evidence = ""
        self._octaves: dict[int, _Octave] = {}
        self._is_growing = self.limit < self._max
        self._full_share = 1.0
        self._stepped_s = -math.inf
        self._now_s = 0.0
        self._calls_here = 0  # full ones since the last step
        self._in_flight = 1
        self._fastest_s = math.inf
        self._refused: float = math.inf  # the smallest size that was refused
        self._refused_s = math.inf  # when that was
        self._good = 0  # the largest that was not
        self._is_timing_out = False
        self._has_turned = False
        self._look_again_s = math.inf
        self._wait_s = _LOOK_AGAIN_S
        self._calls_held = 0
        self._trial: tuple[int, int] | None = None  # the size that held, the one tried against it
        self._trial_arms = (_Octave(), _Octave())

    @property
    def is_settled(self) -> bool:
        """False while a new size is being tried."""
        return not (self._is_growing or self._trial) or self._full_share < 0.5

    def finished(self, sample: Sample) -> int:
        """Learn from one finished call and return the size that holds from now on."""
        self._now_s = sample.now_s
        if sample.is_too_large or sample.outcome == "drop":
            self._refuse(sample)
        elif sample.outcome == "ok":
            self._learn(sample)
        return self.limit

    def _learn(self, sample: Sample) -> None:
        size, service_s = sample.size, sample.now_s - sample.started_s
        if service_s <= 0:
            return
        is_full = size >= _FULL * self.limit
        if sample.started_s >= self._stepped_s:  # one begun before the step could not know the size
            self._full_share += (is_full - self._full_share) / 8
        self._good = max(self._good, size)
        if sample.started_s >= self._refused_s:
            self._take_back(size)
        self._in_flight = sample.in_flight
        self._fastest_s = min(self._fastest_s, service_s)
        for octave in self._octaves.values():
            octave.calls *= _AGEING
        self._octaves.setdefault(size.bit_length(), _Octave()).add(size, service_s)
        if self._trial is not None:
            self._try(sample, self._trial)
        elif is_full:
            self._calls_here += 1
            if self._is_growing:
                if self._calls_here >= max(_CALLS, min(self._in_flight, 2 * _CALLS)):
                    self._step(sample.now_s)
            else:
                self._calls_held += 1
                if sample.now_s >= self._look_again_s and self._calls_held >= _LOOK_AGAIN_CALLS:
                    self._begin_trial()

    # -- growing -----------------------------------------------------------------------------------

    def _step(self, now_s: float) -> None:
        known = self.limit.bit_length()
        here = self._octaves[min(self._octaves, key=lambda octave: abs(octave - known))]
        allowed = [octave for octave in self._octaves.values() if octave.items < self._refused]
        best = max(allowed, key=lambda octave: octave.per_s if octave.calls >= 2 else 0.0, default=here)
        if best is not here and best.beats(here):
            self.evidence = _rates(best, here)
            if best.items < self.limit:
                self._settle(now_s, best.items, "hold:slower")
            else:  # the limit was cut since
                self._go(min(best.items, self._ceiling()), "grow")
            return
        a_s, c_s = self._fit()
        wanted = a_s / (c_s * EPS) if c_s > 0 else math.inf
        share = a_s / (a_s + c_s * self.limit) if a_s > 0 else 0.0
        longest_s = max(_LONGEST_S, _LONGEST_TIMES * self._fastest_s)
        most = (longest_s - a_s) / c_s if c_s > 0 else math.inf
        self.evidence = f"a call {_seconds(a_s)}, an item {_seconds(c_s)}: {wanted:,.0f} wanted"
        factor = 1.4 if self._has_turned else 4.0 if share > _MOSTLY_FIXED else 2.0
        target = min(wanted, most, self._ceiling())
        if int(target) >= 1.1 * self.limit and self.limit < self._max:
            self._go(min(target, math.ceil(self.limit * factor)), "grow")
            return
        reason = "hold:max" if self.limit >= self._max else "hold:refused" if self._refused <= 1.1 * self.limit else ""
        reason = reason or ("hold:time" if most < wanted else "hold:no-gain")
        self._settle(now_s, self.limit if target >= 0.7 * self.limit else target, reason)

    def _fit(self) -> tuple[float, float]:
        """Fixed cost of a call and cost of an item, s."""
        sw = sx = sy = sxx = sxy = 0.0
        for octave in self._octaves.values():
            if octave.calls < 0.1 or octave.seconds <= 0:
                continue
            w = min(octave.calls, _WINDOW) / octave.seconds**2
            sw += w
            sx += w * octave.items
            sy += w * octave.seconds
            sxx += w * octave.items**2
            sxy += w * octave.items * octave.seconds
        spread = sw * sxx - sx * sx
        if spread <= 1e-9 * sw * sxx:
            return (sy / sw, 0.0) if sw else (0.0, 0.0)  # one size only: the next one will tell
        c_s = (sw * sxy - sx * sy) / spread
        if c_s <= 0:
            return sy / sw, 0.0
        a_s = (sy - c_s * sx) / sw
        return (a_s, c_s) if a_s > 0 else (0.0, sy / sx)

    def _ceiling(self) -> float:
        """The largest size to try: half-way between what was refused and what was not."""
        if self._refused == math.inf:
            return self._max
        precise = _PRECISE_TIME if self._is_timing_out else _PRECISE
        if self._good * precise >= self._refused - 1:
            return max(1, self._good)
        return max(1, (self._good + self._refused) // 2)

    def _go(self, size: float, reason: str) -> None:
        self.limit = max(1, min(self._max, int(size)))
        self.reason = reason
        self._calls_here = 0
        self._stepped_s = self._now_s

    def _settle(self, now_s: float, size: float, reason: str) -> None:
        self._is_growing, self._trial = False, None
        self._go(size, reason)
        self._look_again_s = now_s + self._wait_s
        self._calls_held = 0

    # -- refusals ----------------------------------------------------------------------------------

    def _refuse(self, sample: Sample) -> None:
        """A call was too large, or it ran out of time, which a large one does first."""
        if sample.size <= 1 or (not sample.is_too_large and sample.size < _FULL * self.limit):
            return
        if sample.size >= self._refused:
            return  # begun before the size was cut
        self._refused, self._refused_s = sample.size, sample.now_s
        self._is_timing_out = not sample.is_too_large
        if self._good >= self._refused:
            self._good = 0  # it has become smaller
        self._has_turned = True
        self._trial = None
        self._is_growing = True
        self.evidence = f"{sample.size:,} refused, {self._good:,} not"
        self._go(self._good if self._good > 0.1 * sample.size else sample.size / 2, "cut:too-large")

    def _take_back(self, size: int) -> None:
        """A call begun after a refusal was fine, so it was not the size: the other half of a batch with one huge item."""
        if size >= self._refused:
            self._refused = math.inf
        if self._is_growing and size > self.limit:
            self._go(size, "grow")

    # -- looking again -------------------------------------------------------------------------------

    def _begin_trial(self) -> None:
        """Two sizes in turn, call by call: whatever else changes meanwhile changes for both."""
        a_s, c_s = self._fit()
        has_more = self._max > self.limit and self._ceiling() > 1.1 * self.limit
        is_up = has_more and (a_s > EPS * c_s * self.limit * 0.8 or self.limit == 1)
        other = min(self.limit * 2, self._ceiling()) if is_up else self.limit / 2
        other = max(1, int(other))
        if other == self.limit:
            self._calls_held = 0
            return
        self._trial = (self.limit, other)
        self._trial_arms = (_Octave(), _Octave())
        self._go(other, "probe:up" if is_up else "probe:down")

    def _try(self, sample: Sample, trial: tuple[int, int]) -> None:
        held, other = trial
        nearest = min((0, 1), key=lambda k: abs(math.log(sample.size / trial[k])))
        if 0.8 * trial[nearest] <= sample.size <= 1.25 * trial[nearest]:
            self._trial_arms[nearest].add(sample.size, sample.now_s - sample.started_s)
        one, two = self._trial_arms
        # The size that lags behind is next, so that both go through the same times.
        self._go(held if one.calls <= two.calls else other, self.reason)
        if min(one.calls, two.calls) < _TRIAL_CALLS:
            if self._full_share < 0.5:  # batches do not fill any more: nothing to be learned
                self._settle(sample.now_s, held, "hold:app-limited")
            return
        gain = math.log(two.per_s / one.per_s)
        needed = abs(math.log(other / held)) * EPS * (1.0 if other > held else -1.0)
        self.evidence = _rates(one, two)
        self._octaves = {}  # what they knew is older than this trial
        for arm in self._trial_arms:
            self._octaves[round(arm.items).bit_length()] = arm
        if gain > needed:
            self._wait_s = _LOOK_AGAIN_S
            self._settle(sample.now_s, other, "hold:better")
            self._look_again_s = sample.now_s  # and further that way
        else:
            self._wait_s = min(8 * _LOOK_AGAIN_S, 2 * self._wait_s)
            self._settle(sample.now_s, held, "hold:no-gain")


def _rates(one: _Octave, two: _Octave) -> str:
    return f"{one.items:,.0f} items a call: {one.per_s:,.0f}/s, {two.items:,.0f}: {two.per_s:,.0f}/s"


def _seconds(value: float) -> str:
    return f"{value * 1e6:,.0f} us" if value < 0.001 else f"{value * 1e3:,.3g} ms"
