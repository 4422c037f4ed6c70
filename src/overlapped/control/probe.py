"""Would another limit be better? Two of them in turn, until the answer is sure enough.

An *arm* is a time at one limit: first it settles (90 % of the calls that were in flight when the limit changed are
done, or two service times), then it measures. An *experiment* takes arms base, candidate, base, candidate, ...: so
whatever else changes with time changes for both. Judged is the elasticity of throughput

    e = log(X_candidate / X_base) / log(n_candidate / n_base)          X by Little's law, as in `ramp.py`
    se = sqrt(noise * cv2 * (1 / N_base + 1 / N_candidate)) / |log(n_candidate / n_base)|

against WORTH = 0.1: doubling the limit must buy 7 % more throughput. `noise` is how much more than their own spread
tells the base arms differ among each other: it makes the test stricter by itself where items come in cheap and
expensive blocks, or the machine is busy with other things.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from overlapped.control.base import Sample

WORTH = 0.10
"""Elasticity that is worth the longer service times."""

_SURE = 2.0  # standard errors at which an experiment ends
_VERY_SURE = 4.0  # and before the second base arm, which takes a drift out
_SETTLED_SHARE = 0.9  # of the calls begun at the old limit
_SETTLED_TIMES = 2.0  # service times, in case some of them never end
_LEAST_CALLS = 20
_ROUNDS = 2.0  # calls per slot in an arm
_LONGER, _LONGER_MOST = (
    1.4,
    8.0,
)  # each next arm is longer than the one before: what is in doubt needs more, not more often
_UNBOUND_SHARE = 0.1  # of an arm's calls may be app-limited
_LONGEST_S, _LONGEST_MEANS, _LONGEST_TAUS = 4.0, 40.0, 12.0  # after which an experiment gives up
_MOVED = 0.2  # of the service time: news about the service
_HURTS = 0.5  # elasticity below minus this ends a step up at once
_UP_IN_DOUBT, _DOWN_IN_DOUBT = 0.3, 0.8  # se: too low a limit costs throughput, too high a one only time


class Measured(NamedTuple):
    """What one arm measured."""

    n: float
    mean_s: float
    cv2: float
    calls: int
    x_per_s: float


class Arm:
    """A time at one limit."""

    __slots__ = (
        "_began_s", "_calls", "_earlier", "_in_flight", "_measures_s", "_oks", "_origin", "_reached",
        "_s", "_s2", "_seen", "_settling_s", "_times", "_unbound", "limit",
    )  # fmt: skip

    def __init__(
        self, now_s: float, limit: int, in_flight: int, mean_s: float, *, is_settled: bool = False, times: float = 1.0
    ) -> None:
        self.limit = limit
        self._times = times  # as long as an arm must be at least
        self._began_s = now_s
        self._earlier = in_flight  # calls that began before
        self._settling_s = _SETTLED_TIMES * mean_s
        self._measures_s = now_s if is_settled else math.inf
        self._reached = is_settled
        self._clear()

    def _clear(self) -> None:
        self._calls = self._oks = self._in_flight = self._unbound = self._seen = 0
        self._s = self._s2 = 0.0

    @property
    def calls(self) -> int:
        """Calls measured so far."""
        return self._calls

    @property
    def mean_s(self) -> float:
        """Mean service time so far."""
        return self._s / self._calls if self._calls else 0.0

    @property
    def tau_s(self) -> float:
        """Mean service time as the slots see it: long calls hold them longer."""
        return self._s2 / self._s if self._s else 0.0

    def add(self, sample: Sample) -> bool:
        """Count one finished call; True when the arm has measured enough."""
        if self._measures_s == math.inf:
            self._settle(sample)
            return False
        if sample.started_s < self._began_s:
            return False  # begun at another limit, maybe in a crowd that is gone
        self._seen += 1
        self._unbound += not sample.binding
        if self._unbound > max(2.0, _UNBOUND_SHARE * self._seen) and self._seen >= _LEAST_CALLS:
            self._clear()
            self._measures_s = sample.now_s
            return False
        if sample.outcome == "ignore":
            return False
        service_s = sample.now_s - sample.started_s
        self._calls += 1
        self._oks += sample.outcome == "ok"
        self._in_flight += sample.in_flight
        self._s += service_s
        self._s2 += service_s * service_s
        return self._is_enough(sample.now_s)

    def _settle(self, sample: Sample) -> None:
        if not self._reached:
            # Slots open one by one, and close as calls end: the clock starts when that is done.
            self._reached = sample.in_flight >= 0.95 * self.limit and sample.started_s >= self._began_s
            self._earlier -= sample.started_s < self._began_s
            if sample.now_s - self._began_s < 2 * self._settling_s:
                return
        self._earlier -= sample.started_s < self._began_s
        if self._earlier <= (1 - _SETTLED_SHARE) * self.limit or (
            sample.now_s - self._began_s >= self._settling_s + 1e-12
        ):
            self._measures_s = sample.now_s

    def _is_enough(self, now_s: float) -> bool:
        calls = self._calls
        if calls < self._times * max(_LEAST_CALLS, _ROUNDS * self.limit) or self._s <= 0:
            return False
        cv2 = max(0.0, calls * self._s2 / self._s**2 - 1)
        lasted_s = now_s - self._measures_s
        return calls >= _LEAST_CALLS * cv2 and lasted_s >= self._times * max(1.2 * self.mean_s, 0.8 * self.tau_s)

    def result(self) -> Measured:
        """What it measured."""
        mean_s = self.mean_s
        cv2 = max(0.0, self._calls * self._s2 / self._s**2 - 1)
        n = self._in_flight / self._calls
        return Measured(n, mean_s, cv2, self._calls, self._oks / self._calls * n / mean_s)


class Noise:
    """How much more arms at one limit differ than the spread of their calls explains."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 1.0

    def learn(self, one: Measured, two: Measured) -> None:
        """Two arms at the same limit, the one soon after the other."""
        if not one.x_per_s or not two.x_per_s:
            return
        expected = (one.cv2 + two.cv2) / 2 * (1 / one.calls + 1 / two.calls) + 1e-5
        seen = math.log(two.x_per_s / one.x_per_s) ** 2
        self.value = max(1.0, self.value + (min(seen / expected, 50.0) - self.value) / 8)


class Verdict(NamedTuple):
    """How an experiment ended."""

    accepted: bool
    e: float
    se: float
    base: Measured
    candidate: Measured
    has_moved: bool = False  # the service is another one than when it began: base and candidate are both at the base

    def __str__(self) -> str:
        return (
            f"e {self.e:.2f} +- {self.se:.2f}: {self.base.x_per_s:,.3g}/s with {self.base.n:.0f} in flight, "
            f"{self.candidate.x_per_s:,.3g}/s with {self.candidate.n:.0f}"
        )


def has_moved(one: Measured, two: Measured, noise: float) -> bool:
    """True if the service time is clearly another one, at about the same limit: beyond what a queue makes of that."""
    se = math.sqrt(noise * (one.cv2 / one.calls + two.cv2 / two.calls))
    moved, queued = math.log(two.mean_s / one.mean_s), math.log(two.n / one.n)
    explained = max(min(0.0, queued), min(moved, max(0.0, queued)))
    return abs(moved - explained) > max(_MOVED, 3 * se) and 0.8 < two.n / one.n < 1.25


class Experiment:
    """Base and candidate in turn.

    Args:
        now_s: when it begins.
        base, candidate: the limits.
        in_flight: calls in flight now.
        mean_s: their service time, about.
        noise: of earlier experiments; it learns.

    Attributes:
        limit: the limit of the arm that runs.
    """

    def __init__(self, now_s: float, base: int, candidate: int, in_flight: int, mean_s: float, noise: Noise) -> None:  # noqa: PLR0917 - all of it is what it starts from
        self.base, self.candidate = base, candidate
        self.limit = base
        self._began_s = now_s
        self._mean_s = mean_s
        self._noise = noise
        self._arm = Arm(now_s, base, in_flight, mean_s, is_settled=in_flight == base)
        self._bases: list[Measured] = []
        self._candidates: list[Measured] = []
        self._tau_s = mean_s

    def add(self, sample: Sample) -> Verdict | None:
        """Count one finished call; the verdict when there is one."""
        if not self._arm.add(sample):
            return self._abandoned() if self.candidate > self.base and self.limit == self.candidate else None
        result = self._arm.result()
        self._tau_s = max(self._tau_s, self._arm.tau_s)
        is_base = self.limit == self.base
        if is_base:
            if self._bases:
                self._noise.learn(self._bases[-1], result)
                if has_moved(self._bases[-1], result, self._noise.value):
                    base = self._bases[-1]
                    return Verdict(False, 0.0, math.inf, base, result, has_moved=True)
            self._bases.append(result)
        else:
            self._candidates.append(result)
        if self._candidates and (verdict := self._judge(sample.now_s)) is not None:
            return verdict
        self.limit = self.candidate if is_base else self.base
        times = min(_LONGER_MOST, _LONGER ** (len(self._bases) + len(self._candidates) - 1))
        in_flight = self.base if is_base else self.candidate
        self._arm = Arm(sample.now_s, self.limit, in_flight, result.mean_s, times=times)
        return None

    def _abandoned(self) -> Verdict | None:
        """A step up that clearly hurts need not be measured to its end: service times would have to halve again."""
        arm = self._arm
        if arm.calls < _LEAST_CALLS // 2 or not self._bases:
            return None
        base, so_far = _pooled(self._bases), arm.result()
        if so_far.n <= 1.02 * base.n or not base.x_per_s:
            return None
        step = math.log(so_far.n / base.n)
        cv2 = (base.cv2 + so_far.cv2) / 2 + 1e-4
        se = math.sqrt(self._noise.value * cv2 * (1 / base.calls + 1 / so_far.calls)) / step
        e = math.log(max(so_far.x_per_s, 1e-9) / base.x_per_s) / step
        return Verdict(False, e, se, base, so_far) if e + _VERY_SURE * se < -_HURTS else None

    def _judge(self, now_s: float) -> Verdict | None:
        base, candidate = _pooled(self._bases), _pooled(self._candidates)
        step = math.log(candidate.n / base.n) if candidate.n != base.n else 0.0
        is_up = self.candidate > self.base
        if step * (1 if is_up else -1) <= 0.02:
            return Verdict(False, 0.0, math.inf, base, candidate)  # the limit was not what changed the number in flight
        if not candidate.x_per_s or not base.x_per_s:
            return Verdict(candidate.x_per_s > base.x_per_s, -1.0, 0.0, base, candidate)
        cv2 = (base.cv2 + candidate.cv2) / 2 + 1e-4
        se = math.sqrt(self._noise.value * cv2 * (1 / base.calls + 1 / candidate.calls)) / abs(step)
        e = math.log(candidate.x_per_s / base.x_per_s) / step
        pairs = min(len(self._bases), len(self._candidates))
        sure = _SURE if len(self._bases) > 1 else _VERY_SURE
        if self._noise.value > 2.5 and pairs < 3:
            sure = 5.0
        for_candidate = (e - WORTH) if is_up else (WORTH - e)
        if abs(e - WORTH) > sure * se:
            return Verdict(for_candidate > 0, e, se, base, candidate)
        mean_s = min(base.mean_s, candidate.mean_s)  # the longer one may be a queue's
        longest_s = max(_LONGEST_S, _LONGEST_MEANS * mean_s, _LONGEST_TAUS * self._tau_s)
        if now_s - self._began_s > longest_s and len(self._bases) > 1:
            return Verdict(for_candidate > (_UP_IN_DOUBT if is_up else _DOWN_IN_DOUBT) * se, e, se, base, candidate)
        return None


def _pooled(arms: list[Measured]) -> Measured:
    calls = sum(arm.calls for arm in arms)

    def mean(value: int) -> float:
        return sum(arm.calls * arm[value] for arm in arms) / calls

    return Measured(mean(0), mean(1), mean(2), calls, mean(4))
