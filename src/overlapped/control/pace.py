"""A service that counts calls per second (429 with Retry-After) gets calls per second, not fewer at once.

Its true rate is what it let in before it refused: the calls that have ended and those in flight, which were let in
too, in the last second or two since the refusal before and the pause after it. Starts are spread to 0.98 of that.
The first count is of few calls and has in it the burst that such a service allows: it is a guess, taken at 0.7, and
rises fast (200 % a second, each refusal makes it 0.4 of that) until the rate is known; a refusal soon after another
one bounds it from above. Where the pace has risen meanwhile, the rate is taken to be between it and the count.

After some seconds (and 100 calls) without a refusal the pace rises, slowly at first (1 % a second) and ever faster: a
service that allows more is found, and one that doesn't says so again, which is also the next measurement. Each time
that confirms the last rate makes the next look later. Above 100 calls a second all of it goes by calls: 1 % each 100,
since where many calls come unevenly some are refused by chance. Where a refusal costs a pause that is long beside the
time of a count, the pace goes to 0.95 of that and rises neither fast nor faster. It is never more than twice
what was let in lately: then it is not the pace that holds calls back.

A long Retry-After is a quota for a window, not a rate: within the window any pace is allowed, so the pause that the
engine keeps is all there is to do. The idea of both signals is botocore's adaptive retry; it starts from nothing
and paces all services alike.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from overlapped.control.base import Sample

_FIRST = 0.7
_BELOW = 0.98
_DEAR_S, _BELOW_DEAR = 0.2, 0.95  # a refusal that costs so long a pause
_QUOTA_S = 2.0
_QUIET_S, _QUIET_CALLS = 5.0, 100.0
_QUIET_MOST_S = 20.0
_RISE_PER_S = 0.01
_GUESS_QUIET_S, _GUESS_RISE_PER_S = 0.5, 2.0  # the first rate is of few calls: it is soon told better
_CLOSER = 0.4  # each refusal brings the rise so much closer to the slow one
_AGREES = 0.05
_LEAST_LET_IN, _LEAST_FIRST = 10, 3
_FEW = 0.95  # of the pace, when too few were let in to tell; ...
_FEW_PER_S = 1.0  # ... to no less than this: who refuses all tells no rate
_COUNTED, _COUNTED_S = 50, 1.0  # calls and seconds at least that the rate is taken from
_LATELY, _LATELY_S = 10, 0.25  # and what was let in lately
_LEAD = 2.0  # times what was let in lately: a higher pace is not what holds calls back
_HASTE_ABOVE_PER_S = 100.0  # from there on what counts is calls: those that come unevenly are refused by chance
_SMALLEST_STEP, _LARGEST_STEP = 0.004, 0.25


class _Mark(NamedTuple):
    """Where a count begins."""

    at_s: float
    let_in: float  # calls until then
    per_s: float  # the pace then
    paused_s: float = 0.0  # before it


class Pace:
    """Measures what a rate limiter lets through, and keeps below it.

    Attributes:
        per_s: most calls started per second; infinity: no bound.
        reason: name of the rule that chose it.
        evidence: what it rests on.
    """

    __slots__ = (
        "_burst_until_s",
        "_crowd",
        "_crowd_s",
        "_finished",
        "_is_dear",
        "_marks",
        "_quiet_s",
        "_raised_s",
        "_rate_per_s",
        "_rise_per_s",
        "_rises_from_s",
        "evidence",
        "per_s",
        "reason",
    )

    def __init__(self) -> None:
        self.per_s = math.inf
        self.reason = self.evidence = ""
        self._marks: list[_Mark] = []  # since the last refusal: the first counts, the last but one tells of lately
        self._finished = 0  # calls that were let in and have ended
        self._crowd, self._crowd_s = 0, -math.inf  # in flight, when the latest of the calls that have ended began
        self._rise_per_s = _GUESS_RISE_PER_S
        self._burst_until_s = -math.inf  # refusals until then are one burst
        self._raised_s = self._rises_from_s = math.inf
        self._quiet_s = _QUIET_S
        self._rate_per_s = 0.0
        self._is_dear = False  # a refusal costs a long pause

    def finished(self, sample: Sample) -> None:
        """Learn from one finished attempt."""
        if not self._marks:  # the first one
            self._marks = [_Mark(sample.started_s, 0, math.inf)]
        if sample.retry_after_s is not None:
            self._refused(sample, sample.retry_after_s)
            return
        self._count(sample)
        if sample.outcome == "ok" and self.per_s < math.inf and sample.now_s > self._raised_s:
            self._rise(sample.now_s)

    def _refused(self, sample: Sample, asked_s: float) -> None:
        now_s = sample.now_s
        is_same_burst = sample.started_s <= self._burst_until_s
        if is_same_burst:
            self._marks[0] = self._marks[0]._replace(let_in=self._marks[0].let_in - 1)  # it was on its way, not let in
        if is_same_burst or asked_s >= _QUOTA_S:
            return
        self._burst_until_s = now_s + asked_s
        is_first = self.per_s == math.inf
        let_in = self._finished + sample.in_flight - 1
        mark = self._marks[0]
        if is_first and not mark.let_in:
            let_in = self._finished  # who else of those that began together will be refused is not known yet
        counted, lasted_s = let_in - mark.let_in, now_s - mark.at_s
        if counted < (_LEAST_FIRST if is_first else _LEAST_LET_IN) or lasted_s <= 0:  # too few: the count goes on
            if not is_first:
                most_per_s = (counted + 1) / lasted_s if lasted_s > 0 else math.inf  # it was refused before, and now
                few_per_s = min(self.per_s * _FEW, most_per_s)
                self._set(max(min(_FEW_PER_S, self.per_s), few_per_s), "cut:rate")
            if counted <= 0:
                self._marks = [_Mark(self._burst_until_s, let_in, self.per_s, asked_s)]
            return
        self.evidence = f"{counted:,.0f} calls let in in the {lasted_s:.3g} s before a refusal"
        # In the pause before it such a service has saved up something between nothing and all of it.
        rate_per_s = counted / math.sqrt(lasted_s * (lasted_s + mark.paused_s))
        if is_first:
            self._set(rate_per_s * _FIRST, "cut:rate")
        else:
            self._is_dear = asked_s >= _DEAR_S
            if mark.per_s < self.per_s:  # counted while the pace was lower: the rate is in between
                lately_per_s = max(rate_per_s, self._lately_per_s(now_s, let_in))
                between_per_s = math.sqrt(rate_per_s * max(rate_per_s, self.per_s))
                rate_per_s = lately_per_s if self._is_dear else between_per_s
            self._learn(min(rate_per_s, self.per_s), now_s)
        self._marks = [_Mark(self._burst_until_s, self._finished + sample.in_flight - 1, self.per_s, asked_s)]

    def _learn(self, rate_per_s: float, now_s: float) -> None:
        """The rate as measured by one more count."""
        agrees = abs(rate_per_s / self._rate_per_s - 1) < _AGREES if self._rate_per_s else False
        if not agrees:
            self._quiet_s = _QUIET_S
        elif now_s > self._raised_s and not self._is_guess:  # not by chance, while it kept to what it had been told
            self._quiet_s = min(_QUIET_MOST_S, 1.5 * self._quiet_s)
        self._rate_per_s = rate_per_s
        self._rise_per_s = _RISE_PER_S if self._is_dear else max(_RISE_PER_S, _CLOSER * self._rise_per_s)
        self._set(rate_per_s * (_BELOW_DEAR if self._is_dear else _BELOW), "cut:rate")

    def _count(self, sample: Sample) -> None:
        self._finished += 1
        if sample.started_s >= self._crowd_s:
            self._crowd, self._crowd_s = sample.in_flight, sample.started_s
        let_in = self._finished + self._crowd - 1  # this one's place has a new call by now
        last = self._marks[-1]
        if let_in - last.let_in >= _LATELY and sample.now_s - last.at_s >= _LATELY_S:
            self._marks.append(_Mark(sample.now_s, let_in, self.per_s))
            second = self._marks[1]
            if let_in - second.let_in >= _COUNTED and sample.now_s - second.at_s >= _COUNTED_S:
                del self._marks[0]

    def _lately_per_s(self, now_s: float, let_in: float) -> float:
        mark = self._marks[max(0, len(self._marks) - 2)]
        return (let_in - mark.let_in) / (now_s - mark.at_s) if now_s > mark.at_s else 0.0

    def _set(self, per_s: float, reason: str) -> None:
        self.per_s, self.reason = per_s, reason
        of_calls_s = min(_QUIET_MOST_S, _QUIET_CALLS / per_s)
        quiet_s = _GUESS_QUIET_S if self._is_guess else max(self._quiet_s / self._haste, of_calls_s)
        self._raised_s = self._rises_from_s = self._burst_until_s + quiet_s

    @property
    def _is_guess(self) -> bool:
        """The rate is not known yet."""
        return self._rise_per_s > _RISE_PER_S

    @property
    def _haste(self) -> float:
        """How much sooner than others a service of many calls per second is asked for more, once its rate is known."""
        return 1.0 if self._is_guess else max(1.0, self.per_s / _HASTE_ABOVE_PER_S)

    def _rise(self, now_s: float) -> None:
        """In steps that are worth telling the engine; ever faster, since what is not refused is not known any more."""
        if self.per_s > _LEAD * self._lately_per_s(now_s, self._finished + self._crowd - 1):
            self._raised_s = now_s
            return
        since_s = now_s - self._raised_s
        speed = self._rise_per_s * self._haste
        if not (self._is_guess or self._is_dear):
            speed *= 1 + (now_s - self._rises_from_s) * self._haste
        if since_s * speed >= _SMALLEST_STEP:
            self.per_s *= 1 + min(_LARGEST_STEP, since_s * speed)
            self.reason = "grow:rate"
            self._raised_s = now_s
