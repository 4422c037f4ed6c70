"""A service that counts calls per second (429 with Retry-After) gets calls per second, not fewer at once.

Its true rate is what got through before it refused: the calls that succeeded in the last second or two since the
refusal before and the pause after it, over the time in which they started (those on their way are not known to have
succeeded: without that, 5 % are missing at 50 ms a call). Starts are spread to 0.98 of that. The first count is of few
calls and has in it the burst that such a service allows: it is a guess, taken at 0.7, and rises fast (25 % a second,
each refusal makes it 0.4 of that) until the rate is known. Then the pace rises by 1 % a second after some seconds
without a refusal: a service that allows more is found, and one that doesn't says so again, which is also the next
measurement. Each time that confirms the last rate makes the next look later. Above 100 calls a second both go by
calls: 1 % each 100, since where many calls come unevenly some are refused by chance. Where a refusal costs a pause that
is long beside the time of a count, the pace goes to 0.95 and no longer rises fast.

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
_DEAR_S, _BELOW_DEAR = 0.2, 0.95  # a refusal that costs so long a pause
_QUOTA_S = 2.0
_QUIET_S = 5.0
_QUIET_MOST_S = 40.0
_RISE_PER_S = 0.01
_GUESS_QUIET_S, _GUESS_RISE_PER_S = 0.5, 0.25  # the first rate is of few calls: it is soon told better
_CLOSER = 0.4  # each refusal brings the rise so much closer to the slow one
_AGREES = 0.05
_LEAST_OKS = 10
_COUNTED = 50  # calls and
_COUNTED_S = 1.0  # seconds at least in one of the two counts that the rate is taken from
_HASTE_ABOVE_PER_S = 100.0  # from there on what counts is calls: those that come unevenly are refused by chance
_SMALLEST_STEP = 0.004


class _Count:
    """The calls that succeeded, of those that started since a moment."""

    __slots__ = ("oks", "service_s", "since_s")

    def __init__(self, since_s: float) -> None:
        self.since_s = since_s
        self.oks = 0
        self.service_s = 0.0  # all of them together


class Pace:
    """Measures what a rate limiter lets through, and keeps below it.

    Attributes:
        per_s: most calls started per second; infinity: no bound.
        evidence: what it rests on.
    """

    __slots__ = (
        "_burst_until_s",
        "_counts",
        "_quiet_s",
        "_raised_s",
        "_rate_per_s",
        "_rise_per_s",
        "evidence",
        "per_s",
    )

    def __init__(self) -> None:
        self.per_s = math.inf
        self.evidence = ""
        self._counts: list[_Count] = []  # this one, and the one before it if no refusal lies between them
        self._rise_per_s = _GUESS_RISE_PER_S
        self._burst_until_s = -math.inf  # refusals until then are one burst
        self._raised_s = math.inf
        self._quiet_s = _QUIET_S
        self._rate_per_s = 0.0

    def finished(self, sample: Sample) -> None:
        """Learn from one finished attempt."""
        if not self._counts:  # the first one
            self._counts = [_Count(sample.started_s)]
        if sample.retry_after_s is not None:
            self._refused(sample, sample.retry_after_s)
        elif sample.outcome == "ok":
            self._count(sample)
            if self.per_s < math.inf and sample.now_s > self._raised_s:
                self._rise(sample.now_s)

    def _refused(self, sample: Sample, asked_s: float) -> None:
        now_s = sample.now_s
        is_same_burst = sample.started_s <= self._burst_until_s
        if is_same_burst or asked_s >= _QUOTA_S:
            return
        self._burst_until_s = now_s + asked_s
        is_first = self.per_s == math.inf
        oks = sum(count.oks for count in self._counts)
        service_s = sum(count.service_s for count in self._counts)
        # Those on their way are not counted yet. The first count has a burst in it, and shall not look any higher.
        lasted_s = now_s - self._counts[-1].since_s - (0.0 if is_first or not oks else service_s / oks)
        if oks < _LEAST_OKS or lasted_s <= 0:  # too few to tell: the count goes on
            if self.per_s < math.inf:
                self._set(self.per_s * 0.95, now_s)
            return
        self._counts = [_Count(self._burst_until_s)]
        rate_per_s = oks / lasted_s
        self.evidence = f"{oks:,} calls got through in the {lasted_s:.3g} s before a refusal"
        agrees = abs(rate_per_s / self._rate_per_s - 1) < _AGREES if self._rate_per_s else False
        if not agrees:
            self._quiet_s = _QUIET_S
        elif now_s > self._raised_s:  # not by chance, while it kept to what it had been told
            self._quiet_s = min(_QUIET_MOST_S, 1.5 * self._quiet_s)
        self._rate_per_s = rate_per_s
        if is_first:
            self._set(rate_per_s * _FIRST, now_s)
        elif asked_s >= _DEAR_S:
            self._rise_per_s = _RISE_PER_S
            self._set(min(rate_per_s, self.per_s) * _BELOW_DEAR, now_s)
        elif self._is_guess:  # the count is of a time when the pace was still low: it is in between
            self._rise_per_s = max(_RISE_PER_S, _CLOSER * self._rise_per_s)
            self._set(math.sqrt(rate_per_s * max(rate_per_s, self.per_s)) * _BELOW, now_s)
        else:
            self._set(min(rate_per_s, self.per_s) * _BELOW, now_s)

    def _count(self, sample: Sample) -> None:
        if sample.started_s < self._counts[-1].since_s:
            return
        count = self._counts[0]
        count.oks += 1
        count.service_s += sample.now_s - sample.started_s
        if count.oks >= _COUNTED and sample.now_s - count.since_s >= _COUNTED_S:
            self._counts = [_Count(sample.now_s), count]

    def _set(self, per_s: float, now_s: float) -> None:
        self.per_s = per_s
        self._raised_s = now_s + (_GUESS_QUIET_S if self._is_guess else self._quiet_s / self._haste)

    @property
    def _is_guess(self) -> bool:
        """The rate is not known yet."""
        return self._rise_per_s > _RISE_PER_S

    @property
    def _haste(self) -> float:
        """How much sooner than others a service of many calls per second is asked for more, once its rate is known."""
        return 1.0 if self._is_guess else max(1.0, self.per_s / _HASTE_ABOVE_PER_S)

    def _rise(self, now_s: float) -> None:
        """In steps that are worth telling the engine; faster while the last word was a guess."""
        since_s = now_s - self._raised_s
        speed = self._rise_per_s * self._haste
        if since_s * speed >= _SMALLEST_STEP:
            self.per_s *= 1 + min(0.05, since_s * speed)
            self._raised_s = now_s
