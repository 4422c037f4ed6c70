"""A service that counts calls per second (429 with Retry-After) gets calls per second, not fewer at once.

Its true rate is what got through between two bursts of refusals: the calls that succeeded over the time, pauses
included. Starts are spread to 0.98 of that; the first time, when the burst that the service allowed is in the count,
to 0.7. After some seconds without a refusal the pace rises by 1 % a second: a service that allows more is found,
and one that doesn't says so again, which is also the next measurement. Each time that confirms the last rate
makes the next look later.

A long Retry-After is a quota for a window, not a rate: within the window any pace is allowed, so the pause that the
engine keeps is all there is to do. The idea of both signals is botocore's adaptive retry; it starts from nothing
and paces all services alike.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from overlapped.control.base import Sample

_FIRST = 0.7
_BELOW = 0.98
_QUOTA_S = 2.0
_QUIET_S = 5.0
_QUIET_MOST_S = 40.0
_RISE_PER_S = 0.01
_AGREES = 0.05
_LEAST_OKS = 10
_ENOUGH = 50  # calls: a count of so many is worth more than the first guess
_SMALLEST_STEP = 0.004


class Pace:
    """Measures what a rate limiter lets through, and keeps below it.

    Attributes:
        per_s: most calls started per second; infinity: no bound.
        evidence: what it rests on.
    """

    __slots__ = ("_began_s", "_burst_until_s", "_oks", "_quiet_s", "_raised_s", "_rate_per_s", "evidence", "per_s")

    def __init__(self) -> None:
        self.per_s = math.inf
        self.evidence = ""
        self._began_s = math.nan  # of this count
        self._oks = 0
        self._burst_until_s = -math.inf  # refusals until then are one burst
        self._raised_s = math.inf
        self._quiet_s = _QUIET_S
        self._rate_per_s = 0.0

    def finished(self, sample: Sample) -> None:
        """Learn from one finished attempt."""
        if self._began_s != self._began_s:  # the first one
            self._began_s = sample.started_s
        if sample.retry_after_s is not None:
            self._refused(sample, sample.retry_after_s)
        elif sample.outcome == "ok":
            self._oks += sample.started_s >= self._began_s
            if self.per_s < math.inf and sample.now_s > self._raised_s:
                self._rise(sample.now_s)

    def _refused(self, sample: Sample, asked_s: float) -> None:
        now_s = sample.now_s
        is_same_burst = sample.started_s <= self._burst_until_s
        if is_same_burst or asked_s >= _QUOTA_S:
            self._raised_s = max(self._raised_s, now_s + self._quiet_s) if self.per_s < math.inf else math.inf
            return
        self._burst_until_s = now_s + asked_s
        lasted_s = now_s - self._began_s
        if self._oks < _LEAST_OKS or lasted_s <= 0:
            if self.per_s < math.inf:
                self._set(self.per_s * 0.9, now_s)
            return
        rate_per_s = self._oks / lasted_s
        self.evidence = f"{self._oks:,} calls got through in {lasted_s:.3g} s between two refusals"
        is_first = self.per_s == math.inf
        agrees = abs(rate_per_s / self._rate_per_s - 1) < _AGREES if self._rate_per_s else False
        self._quiet_s = min(_QUIET_MOST_S, 1.5 * self._quiet_s) if agrees else _QUIET_S
        self._rate_per_s = rate_per_s
        few = self._oks < _ENOUGH and not is_first
        self._set(rate_per_s * (_FIRST if is_first else 0.9 if few else _BELOW), now_s)
        self._began_s, self._oks = now_s, 0

    def _set(self, per_s: float, now_s: float) -> None:
        self.per_s = per_s
        self._raised_s = now_s + self._quiet_s

    def _rise(self, now_s: float) -> None:
        """In steps that are worth telling the engine; faster while the last word was a guess."""
        since_s = now_s - self._raised_s
        speed = _RISE_PER_S * (5 if self.per_s < 0.9 * self._rate_per_s else 1)
        if since_s * speed >= _SMALLEST_STEP:
            self.per_s *= 1 + min(0.05, since_s * speed)
            self._raised_s = now_s
