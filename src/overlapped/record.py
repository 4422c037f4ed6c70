"""What a run measured, as frozen values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

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


class Times(NamedTuple):  # as the others below: a dataclass would cost 1 ms more at import
    """How long a stage, as a whole, was in which state, s; one state at a time, so they sum up to its life.

    Attributes:
        full_s: every slot that the limit allows was in a call: the stage itself set the pace.
        starved_s: a slot was free, and there was no item for it.
        blocked_s: a slot was free, but the look-ahead was full of results that the next stage did not take.
        order_s: the same, while the next stage wanted more: results waited for the one before them.
        key_s: a slot was free, but the items at hand waited for the calls of their key.
        rate_s: calls waited for the rate that was given, or for the pace found from refusals.
        paused_s: no call might start, since the service asked to wait (Retry-After).
        retry_s: slots, or all items at hand, waited for their next attempt.
        lost_s: at least half of the slots were held by calls that timed out and cannot be cancelled.
        ended_s: no item was left to start: the last calls were finishing.
    """

    full_s: float = 0.0
    starved_s: float = 0.0
    blocked_s: float = 0.0
    order_s: float = 0.0
    key_s: float = 0.0
    rate_s: float = 0.0
    paused_s: float = 0.0
    retry_s: float = 0.0
    lost_s: float = 0.0
    ended_s: float = 0.0


NO_TIMES = Times()


class Call(NamedTuple):
    """One call that was kept for the chronology.

    Attributes:
        number: which of the stage's items.
        place: the slot that made it, from 0; -1 where that is not known.
        started_s: s since the start of the run.
        took_s: service time, s.
        outcome: "ok", "retried" (it failed and was made again) or "failed".
    """

    number: int
    place: int
    started_s: float
    took_s: float
    outcome: Literal["ok", "retried", "failed"] = "ok"


class Point(NamedTuple):
    """One stage at one moment.

    Attributes:
        at_s: s since the start of the run.
        limit: most calls allowed in flight.
        in_flight: calls in flight.
        queue: items ready for this stage that have not been started.
        calls: calls ended so far.
        items_out: results handed on so far.
    """

    at_s: float
    limit: int
    in_flight: int
    queue: int
    calls: int
    items_out: int


class Bin(NamedTuple):
    """Calls by their service time: about `calls` of them took from `low_s` to `high_s`."""

    low_s: float
    high_s: float
    calls: int


class Stall(NamedTuple):
    """A line that kept the loop from turning.

    Attributes:
        where: file, line and function, `crawl.py:41 in parse`; the innermost line that is not a library's.
        code: the text of that line, "" if it cannot be read.
        times: how often the loop stood still there for 50 ms and more.
        total_s: how long in all, s.
        longest_s: the longest of them, s.
    """

    where: str
    code: str
    times: int
    total_s: float
    longest_s: float


class Remark(NamedTuple):
    """What the engine has noticed about a stage's function, and said in a warning.

    Attributes:
        kind: "unyielding" (its calls hold up the other greenlets of their process) or "client" (they wait inside of
            a client that makes few requests at once).
        says: what happens, and where.
        advice: the line to write instead.
    """

    kind: Literal["unyielding", "client"]
    says: str
    advice: str


@dataclass(frozen=True, slots=True)
class StageRecord:
    """What one stage has done so far.

    Attributes:
        name: the stage's name, the function's name unless the user gave another.
        verb: the method that wrote it: "map", "flat_map", "batch", ...
        lane: where its calls run now: "coroutine", "inline", "thread", "process", "greenlet", "ray"; "" for a
            stage that makes no calls.
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
        times: how long the stage was in which state.
        latencies: how long calls took (bounded): a histogram with steps of an eighth of an octave.
        kept_calls: single calls for the chronology (bounded; none while the run goes on): all failures up to 1,000,
            the slowest 1 % up to 200, and an even sample of the others.
        points: limit, in flight, queue and progress over time (bounded), oldest first.
        queued_s: sum of the time items were ready for this stage and waited for a slot, s (from `points`).
        has_rate: a `Rate` was given.
        is_ordered: results leave in the order of their items.
        cpu_wait_s: time that the stage's threads were ready to run and had no CPU, s; 0 where the system does not
            tell; those of threads that still run are missing.
        top_key: the key with the most items waiting for its turn, as text, where there are keys; else "".
        remarks: what the engine has noticed about its function, each kind once.
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
    times: Times = NO_TIMES
    latencies: tuple[Bin, ...] = ()
    kept_calls: tuple[Call, ...] = ()
    points: tuple[Point, ...] = ()
    queued_s: float = 0.0
    has_rate: bool = False
    is_ordered: bool = True
    top_key: str = ""
    cpu_wait_s: float = 0.0
    remarks: tuple[Remark, ...] = ()

    def took_s(self, share: float) -> float:
        """The service time that this share of the calls (0.5: half of them) stayed below, s; 0 without calls."""
        total = sum(bin_.calls for bin_ in self.latencies)
        left = share * total
        for bin_ in self.latencies:
            if left <= bin_.calls:
                return bin_.low_s + (bin_.high_s - bin_.low_s) * (left / bin_.calls)
            left -= bin_.calls
        return self.latencies[-1].high_s if self.latencies else 0.0

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
        loop_cpu_s: CPU time of the loop's thread during the run, s; None where it cannot be told.
        loop_wait_s: time that this thread was ready to run and had no CPU, s; 0 where the system does not tell.
        source_items: how many items the source has, where it knows; else None.
        source_s: time that the source was producing items that had been asked for, s; of several, the busiest.
        consumer_s: time that whoever takes the results was busy with them, s.
        cpus: CPUs that this process may use.
        stalls: lines that kept the loop from turning for 50 ms and more, the worst first (bounded).
        loop_lines: where the loop's thread was when it was looked at and did not wait: (file, line and
            function, how often), the most frequent first (bounded).
        made_by: version of this library, Python and system.
        error: the exception that a failed run ended with, else None.
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
    loop_cpu_s: float | None = None
    loop_wait_s: float = 0.0
    source_items: int | None = None
    source_s: float = 0.0
    consumer_s: float = 0.0
    cpus: int = 1
    stalls: tuple[Stall, ...] = ()
    loop_lines: tuple[tuple[str, int], ...] = ()
    made_by: str = ""
    error: BaseException | None = None

    @property
    def overlap(self) -> float:
        """Sum of all service times / wall time; 1 = one at a time."""
        return sum(s.service_s for s in self.stages) / self.elapsed_s if self.elapsed_s else 0.0
