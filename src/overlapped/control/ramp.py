"""The first phase of finding a limit: it grows while growth pays.

From `start` the limit grows with each finished call, x4 a round while small, then x2; x4 up to 512 while
all calls take the same time and no longer than the first ones: there is no queue at all. It grows slowly
once they take 1.7 times as long, or once more than 2.5 times what the calls that end each second need is
open: a loop or a service with nothing left shows at once in what ends, in rounds two rounds later. It never
grows beyond 1.2 times the calls that this loop can feed, r0 / CPU time of the loop's thread per call, and
is left when that has kept a whole round from having more in flight.

A round ends when 90 % of the calls that were in flight at its start are done. Its statistics are the calls that
the round before started (its cohort), those not done yet at 1.5 times their age: fast answers come back
first, so that counting what has come back reads service times too low. Calls that are all alike come back
together, and those that follow them start together: they belong to the round that they began with.

    X = ok share * mean(in flight at start) / mean(service time)       Little's law
    e = log(X2 / X1) / log(n2 / n1)                                    elasticity between two rounds
    se = sqrt(cv2 * (1 / N1 + 1 / N2)) / log(n2 / n1)                  its standard error

e = 1: all extra concurrency pays; 0: it only queues; < 0: it hurts. Counting calls per second instead
misleads: with nearly constant service times calls end in bunches. The ramp is left when e is surely
below 0.4; the limit then is 1.3 * Xmax * r0, or the smallest mean in flight that reached 0.9 * Xmax
if that is more, but at most 2 * Xmax * r0 where calls are alike. r0 is the service time at low load: its mean,
as the minimum is only the luckiest call (where BBR and Vegas fail on spread-out service times).

Steps up are spread over completions, since a burst makes a queue of its own.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from overlapped.control.base import Sample

Reason = Literal["start", "grow", "hold:no-gain", "hold:app-limited", "hold:cpu", "hold:max"]

_FAST_BELOW = 24  # rounds that begin below this limit grow x4 (from 8: the first one only), others x2
_CALM_FACTOR, _CALM_BELOW = 4, 512  # growth while service times tell of no queue at all, and up to which limit
_CALM_SHARE, _CALM_CV2, _CALM_MEAN = 0.75, 0.05, 1.1  # that is: so many of a cohort, all alike, as fast as the first
_COHORT_SHARE = 0.9  # of a cohort must be done for its round to end
_GIVE_UP = 8  # times a cohort's size in later calls ends its round: fewer were in flight than thought
_IMPUTED = 1.5  # times its age so far: the service time assumed for a call that is not done
_UNBOUND_SHARE = 0.3  # of a round's calls may be app-limited
_USED_SHARE = 0.7  # of the limit must be in flight at some time, else it was not used
_GAIN = 0.4  # elasticity below which growing does not pay
_SCALES = 0.7  # elasticity above which there is no queue yet
_SAME = 0.1  # of r0, or two standard errors: a mean service time above it by no more is one at low load
_GROWN = 1.16  # rounds are compared when in flight differs by this factor at least
_QUEUED = 1.7  # times r0: a mean service time that shows a queue; the limit then grows slowly
_HEADROOM = 1.3  # times Xmax * r0 is held after the ramp
_ENOUGH = 0.9  # of the best throughput: r0 of few calls may be too low
_PLENTY, _ALIKE_CV2 = 2.0, 0.5  # times Xmax * r0: no more is held even so where calls are alike, which r0 of few tells
_FED = 1.2  # times r0 / CPU of the loop per call: with more in flight there would be a queue in front of the loop
_OPENED = 0.5  # of a call's CPU is used by opening it, while it is not done
_BURST = 0.15  # of r0 after a round began: calls that start until then began with it, where they are alike
_AHEAD, _TELLS = 2.5, 0.25  # most in flight, times what is needed for the calls finished per second; told by r0 / 4
_ROUNDS = 64  # rounds remembered: growing by a quarter each, 42 lead from 1 to `MOST`


class _Round(NamedTuple):
    """What one cohort measured."""

    n: float  # mean in flight at the calls' start
    mean_s: float  # mean service time
    cv2: float  # squared coefficient of variation of the service time
    calls: int  # in the statistics
    x_per_s: float  # throughput by Little's law
    lasted_s: float
    is_long: bool  # long enough for slow calls to show

    def elasticity_from(self, earlier: _Round) -> tuple[float, float]:
        """Elasticity of throughput between `earlier` and this round, with its standard error."""
        step = math.log(self.n / earlier.n)
        if not self.x_per_s:
            return -1.0, 0.0
        if not earlier.x_per_s:
            return 1.0, 0.0
        cv2 = (self.cv2 + earlier.cv2) / 2
        se = math.sqrt(cv2 * (1 / self.calls + 1 / earlier.calls)) / abs(step)
        return math.log(self.x_per_s / earlier.x_per_s) / step, se


class _Tally:
    """Sums over the calls that started in one round."""

    __slots__ = ("drops", "ignored", "in_flight", "oks", "peak", "service_s", "service_s2", "started_s")

    def __init__(self) -> None:
        self.oks = self.drops = self.ignored = self.peak = self.in_flight = 0
        self.service_s = self.service_s2 = self.started_s = 0.0

    def add(self, sample: Sample, origin_s: float) -> None:
        """Count one finished call; start times are summed from `origin_s`, to keep their digits."""
        self.peak = max(self.peak, sample.in_flight)
        if sample.outcome == "ignore":
            self.ignored += 1
            return
        service_s = sample.now_s - sample.started_s
        self.service_s += service_s
        self.service_s2 += service_s * service_s
        self.started_s += sample.started_s - origin_s
        self.in_flight += sample.in_flight
        if sample.outcome == "ok":
            self.oks += 1
        else:
            self.drops += 1


class _Cohort:
    """One round: waits for the calls in flight when it began, sums over those the round before started.

    Those that round started and also finished belong to the sums: calls found in flight at one
    moment are the long ones (their mean is mean * (1 + cv2)).
    """

    __slots__ = (
        "_began_s",
        "_cpu_s",
        "_earliest_s",
        "_later",
        "_older_s",
        "_origin_s",
        "_taken_until_s",
        "_tally",
        "_young",
        "began_at",
        "done",
        "expected",
        "unbound",
    )

    def __init__(
        self, now_s: float, limit: int, cpu_s: float | None, earlier: _Cohort | None = None, *, burst_s: float = 0.0
    ) -> None:
        self._began_s, self._cpu_s = now_s, cpu_s
        self._taken_until_s = now_s + burst_s  # calls that start later belong to the next round
        self._older_s: float = earlier._taken_until_s if earlier else -math.inf  # noqa: SLF001 - its own kind
        self._origin_s: float = earlier._origin_s if earlier else now_s  # noqa: SLF001
        self._tally: _Tally = earlier._young if earlier else _Tally()  # noqa: SLF001
        self._young: _Tally = _Tally()
        self.began_at = limit
        # In flight now, if the limit is used. The first call started later tells it better.
        self.expected = limit
        self._earliest_s = math.inf
        self.done = self._later = self.unbound = 0

    @property
    def finished(self) -> int:
        """Calls finished since the round began, of the cohort and started later."""
        return self.done + self._later

    @property
    def peak(self) -> int:
        """Most calls in flight that one of the cohort saw."""
        return self._tally.peak

    @property
    def is_mute(self) -> bool:
        """True if its calls were told to wait, or failed, and none of them says anything about load."""
        return bool(self._tally.ignored) and not self._tally.oks + self._tally.drops

    def flow_per_s(self, now_s: float, r0_s: float) -> float:
        """Calls finished per second since the round began; 0 if it is too young to tell."""
        lasted_s = now_s - self._began_s
        return self.finished / lasted_s if lasted_s > _TELLS * r0_s else 0.0

    def call_cpu_s(self, cpu_s: float | None, opened: float) -> float:
        """CPU time of the loop for one call so far, `opened` more than before are in flight; 0 if not known."""
        if cpu_s is None or self._cpu_s is None or not self.finished:
            return 0.0
        return (cpu_s - self._cpu_s) / (self.finished + _OPENED * opened)

    def is_slower_than(self, service_s: float) -> bool:
        """True if the cohort's calls that are done took longer than `service_s` in the mean."""
        tally = self._tally
        return tally.service_s > service_s * (tally.oks + tally.drops)

    def is_calm(self, r0_s: float) -> bool:
        """True if its calls took all the same time so far, and no longer than the first ones."""
        tally = self._tally
        if self.done < _CALM_SHARE * self.expected or tally.drops or tally.service_s <= 0:
            return False
        if r0_s and tally.service_s > _CALM_MEAN * r0_s * tally.oks:
            return False
        return tally.oks * tally.service_s2 / tally.service_s**2 - 1 <= _CALM_CV2

    def add(self, sample: Sample) -> bool:
        """Count one finished call; True when the round is over."""
        if not sample.binding:
            self.unbound += 1
        started_s = sample.started_s
        if started_s > self._taken_until_s:
            self._later += 1
            self._young.add(sample, self._origin_s)
            if started_s < self._earliest_s:
                self._earliest_s = started_s
                self.expected = min(self.expected, max(sample.in_flight, self.done))
        else:
            self.done += 1
            if started_s > self._older_s:
                self._tally.add(sample, self._origin_s)
        # One slow call of 8 must not hold up the round; of fewer calls each one counts.
        share = _COHORT_SHARE * self.expected
        enough = int(share) if self.expected >= 8 else math.ceil(share)
        return self.done >= enough or self._is_given_up()

    def _is_given_up(self) -> bool:
        """True if so many later calls are done that the missing ones stand still, or never were."""
        return self._later >= _GIVE_UP * self.expected

    def result(self, now_s: float) -> _Round | None:
        """The statistics, or None if no call said anything or time stood still."""
        tally = self._tally
        count = tally.oks + tally.drops
        if not count or tally.service_s <= 0:
            return None
        missing = max(0, self.expected - self.done)
        age_s = now_s - self._origin_s - tally.started_s / count
        imputed_s = _IMPUTED * age_s
        mean_s = (tally.service_s + missing * imputed_s) / (count + missing)
        square = (tally.service_s2 + missing * imputed_s**2) / (count + missing)
        cv2 = max(0.0, square / mean_s**2 - 1)
        n = tally.in_flight / count
        x_per_s = tally.oks / count * n / mean_s
        lasted_s = now_s - self._began_s
        # mean * (1 + cv2) is the mean as seen by the slots: long calls hold them longer.
        needed_s = 0.6 * max(mean_s * (1 + cv2), age_s if missing else 0.0)
        is_long = lasted_s >= needed_s or self._is_given_up()
        return _Round(n, mean_s, cv2, count, x_per_s, lasted_s, is_long)


class Ramp:
    """Grows while growth pays. The rules are in this module's docstring.

    Args:
        level: the first limit, >= 1.
        most: the largest one.

    Attributes:
        level: the limit, with its fraction.
        reason: the rule that chose it.
        evidence: the numbers behind it.
        is_over: True once growing does not pay any more; `level` is then what to hold.
        r0_s: mean service time at low load so far.
        has_scaled: throughput once followed the limit; if not, even the start may have been a queue.
    """

    def __init__(self, level: float, most: int) -> None:
        self.level = float(level)
        self.is_over = level >= most
        self.reason: Reason = "hold:max" if self.is_over else "start"
        self.evidence = ""
        self.r0_s = 0.0
        self.has_scaled = False
        self._most = most
        self._may_grow = True
        self._cohort: _Cohort | None = None
        self._used = int(level)  # the limit when the cohort now finishing was being started
        self._last: _Round | None = None
        self._is_weak = False  # the last round did not pay
        self._weak = 0  # rounds in a row that did not pay
        self._rounds: deque[tuple[float, float]] = deque(maxlen=_ROUNDS)  # (in flight, throughput)
        self._r0_count = 0
        self._most_cv2 = 0.0
        self._is_fed_up = False  # in this round the loop's CPU kept the limit from growing
        self._flow_per_s = math.inf  # calls finished per second, lately

    def finished(self, sample: Sample) -> None:
        """Learn from one finished attempt."""
        cohort = self._cohort
        if cohort is None:
            # The first round waits for what began before its first end; calls begun at that very
            # moment (a virtual clock makes such ties) came after it.
            began_s = math.nextafter(sample.now_s, -math.inf)
            cohort = self._cohort = _Cohort(began_s, int(self.level), sample.loop_cpu_s)
        is_round_over = cohort.add(sample)
        if (
            sample.binding
            and sample.outcome == "ok"
            and self._may_grow
            and cohort.unbound <= _UNBOUND_SHARE * cohort.finished
        ):
            self._grow(cohort, sample)
        if is_round_over:
            self._round_over(cohort, sample)

    def _grow(self, cohort: _Cohort, sample: Sample) -> None:
        began_at = cohort.began_at
        step, factor = (3.0, 4) if began_at < _FAST_BELOW else (1.0, 2)
        flow_per_s = max(self._flow_per_s, cohort.flow_per_s(sample.now_s, self.r0_s))
        is_ahead = bool(self.r0_s) and self.level > _AHEAD * self.r0_s * flow_per_s
        if self._is_weak or is_ahead or (self.r0_s and cohort.is_slower_than(_QUEUED * self.r0_s)):
            step = 0.25
        elif began_at < _CALM_BELOW and cohort.is_calm(self.r0_s):
            factor = _CALM_FACTOR  # what the first calls of the round did not open is made up for
            step = min(began_at + (factor - 1.0) * cohort.finished, _CALM_BELOW) - self.level
        level = min(self.level + step, began_at * factor, self._most)
        call_cpu_s = cohort.call_cpu_s(sample.loop_cpu_s, self.level - began_at)
        if call_cpu_s and self.r0_s:
            fed = _FED * self.r0_s / call_cpu_s
            self._is_fed_up = self._is_fed_up or level > fed
            level = min(level, fed)
        if level > self.level:
            self.level, self.reason = level, "grow"

    def _round_over(self, cohort: _Cohort, sample: Sample) -> None:
        now_s = sample.now_s
        used, self._used = self._used, cohort.began_at
        result = cohort.result(now_s)
        self._flow_per_s = cohort.flow_per_s(now_s, self.r0_s) or self._flow_per_s
        if cohort.is_mute:
            pass  # what was known before still holds
        elif result is None:
            # Nothing measurable: calls that take no time. More of them would not help.
            self._may_grow = False
            self.reason = "hold:no-gain"
        elif not _was_used(cohort, result, used):
            self._may_grow = False
            self.reason = "hold:app-limited"
        else:
            self._may_grow = True
            self._learn(result)
        are_alike = result is not None and result.cv2 <= _CALM_CV2
        burst_s = _BURST * self.r0_s if are_alike else 0.0
        self._cohort = _Cohort(now_s, int(self.level), sample.loop_cpu_s, cohort, burst_s=burst_s)

    def _learn(self, result: _Round) -> None:
        was_fed_up, self._is_fed_up = self._is_fed_up, False
        self._rounds.append((result.n, result.x_per_s))
        self._most_cv2 = max(self._most_cv2, result.cv2)
        earlier = self._last
        if earlier is None:
            if result.x_per_s:  # calls that were all refused tell no service time
                self._last = result
                self._pool_r0(result)
            return
        if result.n < _GROWN * earlier.n:
            if int(self.level) >= self._most:
                self.is_over, self.reason = True, "hold:max"
            elif was_fed_up:
                self.level = min(self.level, self._base())
                self.is_over, self.reason = True, "hold:cpu"
            return
        e, se = result.elasticity_from(earlier)
        self.evidence = f"e {e:.2f} +- {se:.2f} from {earlier.n:.0f} to {result.n:.0f} in flight"
        self._last = result
        self._is_weak = e < _GAIN
        if e >= _SCALES:
            self.has_scaled = True
            spread = math.sqrt(result.cv2 * (1 / result.calls + 1 / self._r0_count))
            if result.mean_s <= self.r0_s * (1 + max(_SAME, 2 * spread)):
                self._pool_r0(result)  # no queue yet, so this too is service time at low load
        if not result.is_long or (self._most_cv2 >= _ALIKE_CV2 and earlier.lasted_s < 0.3 * result.lasted_s):
            return
        self._weak = self._weak + 1 if e < _GAIN else 0
        if self._weak and (e + 1.5 * se < _GAIN or (self._weak >= 2 and e + 0.7 * se < _GAIN) or self._weak >= 4):
            self.level = min(self.level, self._base())
            self.is_over, self.reason = True, "hold:no-gain"

    def _base(self) -> float:
        """The limit to hold: what Little's law asks for, or what was seen to be enough if that is more."""
        x_max_per_s = max(x for _, x in self._rounds)
        enough = min(n for n, x in self._rounds if x >= _ENOUGH * x_max_per_s)
        needed = x_max_per_s * self.r0_s
        if self._most_cv2 < _ALIKE_CV2:
            enough = min(enough, _PLENTY * needed)
        return max(1.0, math.ceil(max(_HEADROOM * needed, enough)))

    def _pool_r0(self, result: _Round) -> None:
        self._r0_count += result.calls
        self.r0_s += (result.mean_s - self.r0_s) * result.calls / self._r0_count


def _was_used(cohort: _Cohort, result: _Round, limit: int) -> bool:
    """True if the limit, not the lack of items, decided how many calls were in flight."""
    if cohort.unbound > _UNBOUND_SHARE * cohort.finished or cohort.peak < _USED_SHARE * limit:
        return False
    # Little's law must agree with plain counting, or "in flight" was not: calls that never wait run
    # one after the other, however many slots they have. A factor of 4 leaves room for bunches.
    return not result.is_long or cohort.finished * 4 >= result.x_per_s * result.lasted_s
