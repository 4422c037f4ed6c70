"""What a run measured, as frozen values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

RunState = Literal["running", "done", "stopped", "failed", "cancelled"]


@dataclass(frozen=True, slots=True)
class FailureRecord:
    """One item whose call failed for good.

    Attributes:
        stage: name of the stage that failed.
        item: the item, as it entered that stage.
        error: the exception itself.
        attempts: how many times the call was made.
    """

    stage: str
    item: object
    error: BaseException
    attempts: int


@dataclass(frozen=True, slots=True)
class Decision:
    """One change of what was tuned.

    Attributes:
        at_s: when, s since the start.
        old: from.
        new: to.
        reason: name of the rule.
        what: the limit (calls in flight), the pace (calls started per second), or the size of batches.
        evidence: the numbers it rests on, as text; "" if there are none.
    """

    at_s: float
    old: float
    new: float
    reason: str
    what: Literal["limit", "pace", "size"] = "limit"
    evidence: str = ""


@dataclass(frozen=True, slots=True)
class StageRecord:
    """What one stage has done so far.

    Attributes:
        name: the stage's name, the function's name unless the user gave another.
        verb: the method that wrote it: "map", "flat_map", "batch", ...
        lane: where its calls run now: "coroutine", "inline", "thread"; "" for a stage that makes no calls.
        why: why that lane.
        limit: most calls allowed in flight now (0 for a stage that makes no calls).
        limit_range: smallest and largest limit so far.
        reason: the controller's last reason.
        in_flight: calls running now.
        ahead: items taken in whose results the next stage has not taken (running, waiting, parked).
        items_in: items taken in.
        items_out: results handed on, failures not counted.
        calls: attempts started.
        retries: attempts beyond the first.
        failed: items that failed for good here.
        timeouts: attempts that ran into timeout_s.
        parked: items waiting for a retry, a key or a pause, holding no slot.
        service_s: sum of the time calls were running, s.
        cpu_s: CPU time of those calls where the lane can tell it (thread lane), s, else None.
        starved_s: time slots waited for items, s summed over slots.
        blocked_s: time slots waited because the next stage was full, s summed over slots.
        paused_s: time no call could start because of Retry-After, s.
        decisions: the latest changes of limit, pace and batch size, oldest first (bounded).
        pace_per_s: most calls started per second, found from the service's refusals; infinity without any.
        batch_size: most items in a batch, where AUTO finds it; else 0.
        batch_size_range: smallest and largest of them so far.
        batch_size_reason: the last reason of that controller.
    """

    name: str
    verb: str
    lane: str
    why: str
    limit: int
    limit_range: tuple[int, int]
    reason: str
    in_flight: int
    ahead: int
    items_in: int
    items_out: int
    calls: int
    retries: int
    failed: int
    timeouts: int
    parked: int
    service_s: float
    cpu_s: float | None
    starved_s: float
    blocked_s: float
    paused_s: float
    decisions: tuple[Decision, ...]
    pace_per_s: float = math.inf
    batch_size: int = 0
    batch_size_range: tuple[int, int] = (0, 0)
    batch_size_reason: str = ""

    @property
    def mean_service_s(self) -> float:
        """Mean service time of a call, s; 0 before the first call ended."""
        return self.service_s / self.calls if self.calls else 0.0


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A snapshot of a run; the final one when `state` is not "running".

    Attributes:
        source: what the items came from, in words.
        state: "running", "done", "stopped" (drained early), "failed" or "cancelled".
        started_at: wall clock when the run began, s since the epoch.
        elapsed_s: s since then (to the end, once it has ended).
        items: items delivered at the end of the flow.
        failed: items whose failure reached the end of the flow.
        failures: the first of them (bounded at 1,000).
        cleanup_errors: exceptions raised while the run was being closed.
        stages: one record a stage, in flow order.
        cpu_s: CPU time of this process during the run, user + system, s.
        voluntary_switches: context switches because this process waited.
        involuntary_switches: context switches because the kernel took the core away.
        peak_rss_bytes: highest resident memory of this process so far.
    """

    source: str
    state: RunState
    started_at: float
    elapsed_s: float
    items: int
    failed: int
    failures: tuple[FailureRecord, ...]
    cleanup_errors: tuple[BaseException, ...]
    stages: tuple[StageRecord, ...]
    cpu_s: float
    voluntary_switches: int
    involuntary_switches: int
    peak_rss_bytes: int

    @property
    def overlap(self) -> float:
        """Sum of all service times / wall time; 1 = one at a time."""
        return sum(s.service_s for s in self.stages) / self.elapsed_s if self.elapsed_s else 0.0
