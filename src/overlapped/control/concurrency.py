"""Finds how many calls in flight pay, and keeps looking: ramp, hold, probe.

- *Ramp* (`ramp.py`): from 8 it grows while growth pays.
- *Hold*: 1.2 times what is needed, since too low a limit costs throughput and too high a one only time; without that
  headroom where it was measured to hurt. After some time, or at once when the service time changes, it probes.
- *Probe* (`probe.py`): two limits in turn. Up by half; down when service times tell of a queue (1.25 times those
  at low load), by so much as they tell. What pays is kept and tried further in the same direction. A step up that
  costs throughput is a cliff: the largest limit below it is found by bisection, and the cliff looked at again later.

Three things that look alike are kept apart, as each wants another answer:

- *refusals* at the door, and time-outs, above their usual share: a ceiling on the limit (`refusals.py`);
- a *rate*: 429 with Retry-After: a pace for starts, the limit stays (`pace.py`);
- failures: none. Two calls in a hundred that fail say nothing about load.

Nothing is learned from calls that ran while something else than the limit decided how many were in flight.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from overlapped.control.pace import Pace
from overlapped.control.probe import Arm, Experiment, Measured, Noise, Verdict, has_moved
from overlapped.control.ramp import Ramp
from overlapped.control.refusals import Refusals, Reopening

if TYPE_CHECKING:
    from overlapped.control.base import Sample

# The bound when the user gives none. Each call in flight holds a connection or a thread: one address
# offers 28,000 local ports to one server, and 10,000 calls of 100 ms are 100,000/s, more than one
# Python process can handle.
MOST = 10_000

_HEADROOM = 1.2
_HURTS = 0.06  # of the throughput lost with headroom: it is dropped for good
_UP, _UP_SPREAD, _UP_MOST = 1.5, 2.0, 2.0
_SPREAD_CV2 = 2.5  # from which steps up are larger, to show above the noise
_DOWN, _DOWN_MOST = 1.35, 3.0
_SMALLEST = 1.2  # step of an experiment
_SMALLEST_NEAR_CLIFF = 1.05
_QUEUED = 1.25  # times r0: service times that tell of a queue
_NO_QUEUE = 0.7  # elasticity from which there is none
_FOLLOWS = 0.45  # elasticity of a step down from which a step up may pay, whatever service times tell
_COSTS = 0.1  # elasticity below minus this: more costs throughput
_HOLD_S, _HOLD_MEANS, _HOLD_TIMES = 1.0, 20.0, 3
_NO_UP_FIRST_S, _NO_UP_MOST_S = 20.0, 320.0  # nor up, after a step up that cost throughput; doubles each time
_DOWN_CYCLE = 6  # every so many holds it looks down without a sign of a queue

Phase = Literal["ramp", "hold", "probe"]


class Concurrency:
    """The controller behind `AUTO`. The rules are in this module's docstring.

    Args:
        start: the first limit, >= 1.
        max_limit: the largest limit; `math.inf` means `MOST`.
        remembered: what an earlier run held: it starts from half of that, if that is more than `start`.
    """

    def __init__(self, *, start: int = 8, max_limit: float = math.inf, remembered: float = 0.0) -> None:
        self._max = int(min(max_limit, MOST))
        level = min(max(start, int(remembered / 2)), self._max)
        self.limit = level
        self.reason = "start"
        self.evidence = ""
        self._phase: Phase = "ramp"
        self._ramp = Ramp(level, self._max)
        self._r0_s = 0.0
        self._knows_r0 = True  # False: it may be the service time of a queue
        self._base = float(level)
        self._headroom = _HEADROOM
        self._noise = Noise()
        self._target = float(level)  # the limit moves there one per finished call
        # hold
        self._arm: Arm | None = None
        self._held: Measured | None = None  # the first window of this hold
        self._known: Measured | None = None  # what the last experiment found at the base, until a window is held
        self._until_s = 0.0
        self._quiet = 0  # holds in a row that nothing came of
        self._cycle = 0
        # probe
        self._experiment: Experiment | None = None
        self._is_up = True
        self._step = _UP
        self._down_step = _DOWN
        self._has_looked_down = self._has_looked_up = False
        self._no_up_until_s = -math.inf
        self._no_up_s = _NO_UP_FIRST_S
        self._hurts_at = math.inf  # the smallest limit seen to cost throughput
        # refusals
        self._refusals = Refusals()
        self._reopening: Reopening | None = None
        self._ceiling = float(self._max)
        self._was_ramping = False
        self.paced_by = Pace()

    @property
    def pace_per_s(self) -> float:
        """Most calls started per second."""
        return self.paced_by.per_s

    @property
    def mean_s(self) -> float:
        """Mean service time at low load, as far as it is known, s."""
        return self._r0_s or self._ramp.r0_s

    def finished(self, sample: Sample) -> int:
        """Learn from one finished attempt and return the limit that holds from now on."""
        self.paced_by.finished(sample)
        if sample.outcome == "drop" or self._refusals.is_watching:
            target = self._refusals.cut_to(sample, self.limit, self.mean_s)
            if target is not None:
                self._cut(sample.now_s, target)
                return self.limit
        if self._phase == "ramp":
            self._ramping(sample)
        elif self._phase == "hold":
            self._holding(sample)
        elif self._experiment is not None:
            self._probing(sample, self._experiment)
        if self._target > self.limit and sample.outcome == "ok" and sample.binding:
            self.limit += 1  # one per completion: a burst makes a queue of its own
        return self.limit

    # -- ramp --------------------------------------------------------------------------------------

    def _ramping(self, sample: Sample) -> None:
        ramp = self._ramp
        ramp.finished(sample)
        self.reason = ramp.reason
        if not ramp.is_over:
            level = min(ramp.level, self._ceiling)
            self._target = self.limit = int(level)
            return
        self.evidence = ramp.evidence
        self._r0_s = ramp.r0_s
        self._knows_r0 = ramp.has_scaled
        self._base = max(1.0, min(ramp.level / (1.0 if ramp.level >= self._max else _HEADROOM), self._ceiling))
        self._hold(sample.now_s, ramp.reason, ramp.level)

    # -- hold --------------------------------------------------------------------------------------

    def _bounded(self, level: float) -> float:
        return max(1.0, min(level, self._ceiling, self._max))

    def _aim(self, level: float, reason: str) -> None:
        """Go to a limit: down at once, up one by one."""
        self._target = float(math.ceil(self._bounded(level) - 1e-9))
        if self._target < self.limit:
            self.limit = int(self._target)
        self.reason = reason

    def _hold(self, now_s: float, reason: str, level: float | None = None) -> None:
        self._phase = "hold"
        self._experiment = None
        in_flight = self.limit
        self._aim(self._base * self._headroom if level is None else level, reason)
        mean_s = self._held.mean_s if self._held is not None else self._r0_s
        self._arm = Arm(now_s, int(self._target), in_flight, mean_s)
        self._held = None
        times = 1 + min(self._quiet, _HOLD_TIMES - 1)
        # Where the start may have been a queue already, so long a service time is nothing to wait for.
        self._until_s = now_s + (max(_HOLD_S, _HOLD_MEANS * mean_s) * times if self._knows_r0 else _HOLD_S)

    def _holding(self, sample: Sample) -> None:
        if self._reopening is not None:
            self._reopen(sample, self._reopening)
        arm = self._arm
        if arm is None:
            self._arm = Arm(sample.now_s, int(self._target), self.limit, self._r0_s)
            return
        if not arm.add(sample):
            return
        window = arm.result()
        self._arm = Arm(sample.now_s, int(self._target), self.limit, window.mean_s, is_settled=True)
        held, self._held = self._held, self._held or window
        if not self._r0_s:
            self._r0_s = window.mean_s
        known, self._known = held or self._known, None
        if known is not None and has_moved(known, window, self._noise.value):
            self._look_at_news(sample.now_s, known, window)
        elif sample.now_s >= self._until_s and held is not None:
            self._held = window
            self._cycle += 1
            is_queued = self._is_queued(window.mean_s) or self._cycle % _DOWN_CYCLE == 0
            self._start_probe(sample.now_s, window, is_up=not is_queued)

    def _look_at_news(self, now_s: float, before: Measured, after: Measured) -> None:
        """The service time has changed: if it answers faster, maybe more fits in; if not, maybe it waits elsewhere."""
        self._quiet = 0
        if after.mean_s < before.mean_s:
            self._no_up_until_s = -math.inf
            self._hurts_at = math.inf
        self._start_probe(now_s, after, is_up=True)

    # -- probe -------------------------------------------------------------------------------------

    def _start_probe(self, now_s: float, window: Measured, *, is_up: bool) -> None:
        self._held = window
        self._has_looked_down, self._has_looked_up = not is_up, is_up
        self._step = _UP_SPREAD if window.cv2 > _SPREAD_CV2 else _UP
        if self._base < self._hurts_at < self._base * self._step:
            self._step = self._hurts_at / self._base  # is the cliff still there?
        queue = window.mean_s / self._r0_s / 1.3 if self._r0_s else 1.0
        self._down_step = max(_DOWN, min(_DOWN_MOST, queue))
        self._probe(now_s, window.mean_s, is_up=is_up)

    def _probe(self, now_s: float, mean_s: float, *, is_up: bool) -> None:
        base = int(self._bounded(round(self._base)))
        if is_up:
            candidate = int(self._bounded(math.ceil(base * self._step - 1e-9)))
            is_possible = candidate >= base * _SMALLEST_NEAR_CLIFF and now_s >= self._no_up_until_s
        else:
            candidate = max(1, int(base / self._down_step))
            is_possible = candidate < base
        if not is_possible:
            if is_up and not self._has_looked_down and self._is_queued(mean_s):
                self._has_looked_down = True
                self._probe(now_s, mean_s, is_up=False)
                return
            self._quiet += 1
            self._hold(now_s, _bound_reason(self._base, self._ceiling, self._max))
            return
        self._phase = "probe"
        self._is_up = is_up
        self._has_looked_up |= is_up
        self._arm = None
        self._experiment = Experiment(now_s, base, candidate, self.limit, mean_s, self._noise)
        self._aim(base, "probe:base")

    def _is_queued(self, mean_s: float) -> bool:
        return not self._knows_r0 or (bool(self._r0_s) and mean_s > _QUEUED * self._r0_s)

    def _probing(self, sample: Sample, experiment: Experiment) -> None:
        before = experiment.limit
        verdict = experiment.add(sample)
        if verdict is None:
            if experiment.limit != before:
                is_base = experiment.limit == experiment.base
                self._aim(experiment.limit, "probe:base" if is_base else "probe:up" if self._is_up else "probe:down")
            return
        if verdict.has_moved:
            self._look_at_news(sample.now_s, verdict.base, verdict.candidate)
            return
        self.evidence = str(verdict)
        self._check_headroom(verdict)
        self._learn_r0(verdict)
        self._go_on(sample.now_s, verdict, experiment.candidate)

    def _go_on(self, now_s: float, verdict: Verdict, candidate: int) -> None:
        """What follows from a verdict."""
        if verdict.accepted:
            self._accept(now_s, verdict, candidate)
        elif not self._is_up:
            self._go_on_after_down(now_s, verdict)
        elif not (verdict.e < min(-_COSTS, -3 * verdict.se) and self._back_off(now_s, verdict, candidate)):
            if not self._has_looked_down and self._is_queued(verdict.base.mean_s):
                self._has_looked_down = True
                self._probe(now_s, verdict.base.mean_s, is_up=False)
            else:
                self._end_probe(now_s, verdict)

    def _accept(self, now_s: float, verdict: Verdict, candidate: int) -> None:
        """Hold the candidate from now on, and look further in the same direction."""
        self._quiet = 0
        self._base = float(candidate)
        if not self._is_up or candidate >= self._hurts_at:
            self._hurts_at = math.inf
        if self._hurts_at < math.inf:
            if not self._bisect(now_s, verdict.candidate.mean_s):
                self._end_probe(now_s, verdict)
            return
        if self._is_up:
            self._step = min(_UP_MOST, self._step * 1.4)
        self._probe(now_s, verdict.candidate.mean_s, is_up=self._is_up)

    def _back_off(self, now_s: float, verdict: Verdict, candidate: int) -> bool:
        """A step up cost throughput: try a smaller one. False when there is none: no step up for some time."""
        self._headroom = 1.0  # what is above is no good place to be
        self._hurts_at = float(candidate)
        if self._bisect(now_s, verdict.base.mean_s):
            return True
        self._no_up_until_s = now_s + self._no_up_s
        self._no_up_s = min(_NO_UP_MOST_S, 2 * self._no_up_s)
        return False

    def _bisect(self, now_s: float, mean_s: float) -> bool:
        """Try the limit between the base and the smallest that hurts, if there is one."""
        self._step = math.sqrt(self._hurts_at / self._base)
        if self._hurts_at - self._base < 2 or self._step < _SMALLEST_NEAR_CLIFF:
            return False
        self._probe(now_s, mean_s, is_up=True)
        return True

    def _go_on_after_down(self, now_s: float, verdict: Verdict) -> None:
        self._knows_r0 = True
        self._down_step = math.sqrt(self._down_step)
        if verdict.e >= _FOLLOWS and not self._has_looked_up:
            self._probe(now_s, verdict.base.mean_s, is_up=True)  # throughput follows the limit: so more may pay
        elif self._down_step >= _SMALLEST and self._is_queued(verdict.base.mean_s):
            self._probe(now_s, verdict.base.mean_s, is_up=False)
        else:
            self._end_probe(now_s, verdict)

    def _end_probe(self, now_s: float, verdict: Verdict) -> None:
        self._quiet += 1
        self._known = verdict.base
        self._hold(now_s, "hold:no-gain" if self._is_up else "hold:needed")

    def _learn_r0(self, verdict: Verdict) -> None:
        """Where throughput follows the limit there is no queue: those are service times at low load."""
        if verdict.e >= _NO_QUEUE:
            low, high = (verdict.base, verdict.candidate) if self._is_up else (verdict.candidate, verdict.base)
            self._r0_s = (low.mean_s + high.mean_s) / 2
        elif verdict.candidate.n < verdict.base.n and verdict.candidate.mean_s < self._r0_s:
            self._r0_s = verdict.candidate.mean_s

    def _check_headroom(self, verdict: Verdict) -> None:
        """Above a cliff there is no headroom: was more lost with it than by chance?"""
        held, base = self._held, verdict.base
        if held is None or self._headroom == 1.0 or held.n < 1.05 * base.n or not held.x_per_s:
            return
        cv2 = (held.cv2 + base.cv2) / 2
        se = math.sqrt(self._noise.value * cv2 * (1 / held.calls + 1 / base.calls))
        loss = math.log(base.x_per_s / held.x_per_s)
        if loss > max(_HURTS, 2.5 * se):
            self._headroom = 1.0

    # -- refusals ----------------------------------------------------------------------------------

    def _cut(self, now_s: float, target: float) -> None:
        is_outage = self._refusals.is_outage
        if self._reopening is None:
            self._was_ramping = self._phase == "ramp"
            self._reopening = Reopening(now_s, max(self.limit, self._target), is_outage=is_outage)
        else:
            self._reopening = self._reopening.cut_again(now_s, is_outage=is_outage)
        self._base = self._ceiling = max(1.0, math.floor(min(target, self.limit)))
        self.evidence = self._refusals.evidence
        self._held = None
        self._hold(now_s, "cut:refused")

    def _reopen(self, sample: Sample, reopening: Reopening) -> None:
        level = reopening.level(sample, self._ceiling, self.mean_s, self._refusals.usual_share)
        if level == self._ceiling:
            return
        is_up = level > self._ceiling
        was_bound = self._base >= 0.9 * self._ceiling
        self._ceiling = level
        if not is_up:
            self._refusals.start_anew(sample.now_s + self.mean_s)
        if was_bound or not is_up:
            self._base = level if was_bound else min(self._base, level)
            self._hold(sample.now_s, "grow:reopen" if is_up else "cut:refused")
        if level >= reopening.target:
            self._reopening = None
            self._ceiling = float(self._max)
            if self._was_ramping:
                self._phase = "ramp"
                self._ramp = Ramp(self.limit, self._max)


def _bound_reason(base: float, ceiling: float, most: int) -> str:
    """Why there is no other limit to try."""
    if base >= 0.9 * most:
        return "hold:max"
    return "hold:ceiling" if base >= 0.9 * ceiling else "hold:no-gain"
