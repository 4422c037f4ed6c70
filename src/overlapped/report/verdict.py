"""What set the pace of a run, and what would make it faster: every sentence stands on numbers of the record.

The idea is that of a pipe: behind the narrowest part everything waits for items, before it everything waits for room.
So the part whose own slots were taken nearly all the time is the one; a source that let the first stage wait, or a
consumer that kept the results waiting, is one too. Where nothing stands out, that is what is said.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from overlapped.report.plain import cut, escape

if TYPE_CHECKING:
    from collections.abc import Iterator

    from overlapped.record import RunRecord, StageRecord

Kind = Literal[
    "service",  # an AUTO stage: more calls at once did not give more
    "ramp",  # an AUTO stage whose limit was still being found
    "limit",  # a stage whose limit was given
    "sink",
    "source",
    "consumer",
    "between",  # something between two stages that makes no calls of its own: a generator, a batch that waits
    "loop",  # the loop's thread computed all the time
    "stalls",  # single calls kept the loop from turning
    "gil",  # plain functions computed in threads, one at a time
    "cpus",  # all CPUs were busy
    "rate",
    "pace",  # what the service's refusals allow
    "retry-after",
    "retry",
    "key",
    "order",
    "lost",
    "few",  # too few items to keep the slots busy
    "straggler",  # one call took most of the run
    "idle processes",
    "unyielding",  # calls that hold up all others of their process
    "client",  # calls that wait inside of a client that makes few requests at once
    "none",
]

DOMINANT: Final = 0.6
"""Share of the run that a part must have set the pace for, to be named. With a part a third faster than the slowest
one beside it, that one is at 75 %: which is why the largest share is taken, and not the first above a bar."""

TIED: Final = 0.95
"""Two parts this close to each other are named together."""

ENOUGH_CALLS: Final = 20
"""Fewest calls from which shares of time are taken as evidence."""

BUSY_LOOP: Final = 0.8
"""CPU / wall of the loop's thread from which it is the limit; one that is busier than this makes calls wait for it."""

ONE_CORE: Final = (0.8, 1.25)
"""CPU / wall of this process between which it used one core: Python code of threads that take turns."""

ALL_CORES: Final = 0.85
"""CPU / (wall x CPUs) from which the machine is the limit."""

OWN_CPU: Final = 0.5
"""CPU / wall of a stage's plain calls from which they are what computes. Time that threads were ready to run and
had no CPU counts as well: on a machine that others use, they would have computed in it..."""

REAL_CPU: Final = 0.3
"""... but so much must be real."""

IDLE_LOOP: Final = 0.5
"""CPU / wall of this process, time without a CPU included, below which it is not this machine that is waited for."""

STALLED: Final = 0.05
STALLED_MOST: Final = 0.5
"""Share of the run that the loop stood still for, from which the line is named, and from which it is the verdict."""

LATE: Final = 0.4
"""Share of the run in which no item was left to start, from which there were too few of them."""

STRAGGLING: Final = 0.5
"""Share of the run that one call took, from which it is named."""

STARVED: Final = 0.5
"""Share of the run that processes lacked items, from which that is said."""

WORTH: Final = 1.15
"""Smallest factor that is worth a sentence."""

NOT_FOUND: Final = frozenset({"start", "grow", "ramp", "hold:app-limited"})
"""Reasons of a controller that has not yet seen that more calls at once give nothing."""

NAME_CHARS: Final = 40
REMARK_CHARS: Final = 300


class Finding(NamedTuple):
    """One thing that the record shows.

    Attributes:
        kind: which rule found it.
        stage: the stage it is about; "" for the source, the consumer, the run.
        says: what happened, with its numbers.
        advice: what would help, and if it is known by how much; "" if the record does not tell.
        factor: the most that following the advice gives, x; 0 where nothing is promised.
        share: of the run, 0 to 1.
    """

    kind: Kind
    stage: str
    says: str
    advice: str = ""
    factor: float = 0.0
    share: float = 0.0


def verdict(record: RunRecord) -> list[Finding]:
    """What set the pace, first; then whatever else the record shows."""
    stages = [stage for stage in record.stages if stage.calls]
    if not stages or record.elapsed_s <= 0:
        return []
    main = _of_the_cpu(record, stages) or _of_the_pipe(record, stages)
    found = [*main, *_stalls(record), *_idle_processes(record, stages), *_remarks(stages)]
    kinds = [(finding.kind, finding.stage) for finding in found]
    return [finding for at, finding in enumerate(found) if kinds.index((finding.kind, finding.stage)) == at]


# -- the CPU first: where it is short, everything looks busy -------------------------------------------------


def _of_the_cpu(record: RunRecord, stages: list[StageRecord]) -> list[Finding]:
    wall_s = record.elapsed_s
    if sum(stage.calls for stage in stages) < ENOUGH_CALLS:
        return []
    stalled_s = sum(stall.total_s for stall in record.stalls)
    if stalled_s >= STALLED_MOST * wall_s:
        return _stalls(record)
    here = [stage for stage in stages if stage.lane == "thread" and stage.verb != "to" and stage.cpu_s]
    threads_s = sum(stage.cpu_s or 0.0 for stage in here)
    waited_s = sum(stage.cpu_wait_s for stage in here)
    used = record.cpu_s / wall_s
    if threads_s >= REAL_CPU * wall_s and threads_s + waited_s >= OWN_CPU * wall_s:
        worst = max(here, key=lambda stage: stage.cpu_s or 0.0)
        name, share = _name(worst), (worst.cpu_s or 0.0) / wall_s
        if record.cpus > 1 and used >= ALL_CORES * record.cpus:
            says = f"this machine's {record.cpus} CPUs: {used / record.cpus:.0%} busy, {name} alone {share:.1f} of them"
            return [
                Finding("cpus", worst.name, says, "more calls at once would not help; less work or more CPUs would")
            ]
        if used <= ONE_CORE[1] and ONE_CORE[0] <= used + (waited_s + record.loop_wait_s) / wall_s:
            says = f"{name} computes: {share:.0%} of one CPU in threads, which take turns (Python's lock)"
            return [Finding("gil", worst.name, says, _to_processes(worst, record), share=share)]
    return _of_the_loop(record, stages)


def _of_the_loop(record: RunRecord, stages: list[StageRecord]) -> list[Finding]:
    if record.loop_cpu_s is None or record.loop_cpu_s < REAL_CPU * record.elapsed_s:
        return []
    if record.loop_cpu_s + record.loop_wait_s < BUSY_LOOP * record.elapsed_s:
        return []
    share = record.loop_cpu_s / record.elapsed_s
    says = f"the loop's thread: it computed {min(1.0, share):.0%} of the time"
    inline = [stage for stage in stages if stage.lane == "inline"]
    worst = max(inline, key=lambda stage: stage.service_s, default=None)
    if worst is not None and worst.service_s >= OWN_CPU * record.elapsed_s:
        part = worst.service_s / record.elapsed_s
        says += f", {part:.0%} in {_name(worst)}"
        return [Finding("loop", worst.name, says, _to_processes(worst, record), share=share)]
    looks = sum(count for _, count in record.loop_lines)
    if record.loop_lines and record.loop_lines[0][1] >= max(4, looks / 2):
        place, count = record.loop_lines[0]
        says += f", mostly at {escape(place)} ({count} of {looks} looks)"
        advice = 'let a plain def compute it in its own stage: .map(fn, on="process") uses the other CPUs'
        return [Finding("loop", "", says, advice if record.cpus > 1 else "", share=share)]
    calls = sum(stage.calls for stage in stages)
    says += f", {record.loop_cpu_s / calls * 1e6:,.0f} us a call"
    return [
        Finding("loop", "", says, "calls are too short to gain by waiting; larger items or batches would", share=share)
    ]


def _to_processes(stage: StageRecord, record: RunRecord) -> str:
    if record.cpus < 2:
        return "this machine has one CPU for it; less work is what would help"
    return f'.{stage.verb}({_name(stage)}, on="process") would use all {record.cpus} CPUs instead of one'


# -- the pipe -------------------------------------------------------------------------------------------------


def _of_the_pipe(record: RunRecord, stages: list[StageRecord]) -> list[Finding]:
    wall_s = record.elapsed_s
    parts = [*_parts(record, stages)]
    share, kind, stage = max(parts, key=lambda part: part[0])
    enough = stage is None or stage.calls >= ENOUGH_CALLS or kind in ("retry-after", "sink", "lost")
    if share >= DOMINANT and enough:
        near = [part for part in parts if part[0] >= TIED * share and part[2] is not stage and part[2] is not None]
        if near and stage is not None and near[0][2] is not None:
            names = f"{_name(stage)} and {_name(near[0][2])}"
            says = f"{names} alike: each was busy {near[0][0]:.0%} of the time or more"
            return [Finding("none", "", says, "making one of them faster would not be enough", share=share)]
        return [_told(kind, stage, share, record, stages)]
    longest = max(((call.took_s, each.name) for each in stages for call in each.kept_calls), default=(0.0, ""))
    if longest[0] >= STRAGGLING * wall_s and sum(each.calls for each in stages) > 1:
        says = f"one call of {_short(longest[1])} took {_seconds(longest[0])} of the run's {_seconds(wall_s)}"
        return [Finding("straggler", longest[1], says, "start it first, or split it", share=longest[0] / wall_s)]
    late = max(each.times.ended_s for each in stages[-1:]) / wall_s
    if late >= LATE or all(each.calls < ENOUGH_CALLS for each in stages):
        says = "too few items: there was soon nothing left to start, and the last calls were waited for"
        return [Finding("few", "", says, share=late)]
    return [Finding("none", "", "no single part: none was busy most of the time", share=share)]


def _parts(record: RunRecord, stages: list[StageRecord]) -> Iterator[tuple[float, Kind, StageRecord | None]]:
    """Each part of the flow with the share of the run for which it set the pace."""
    wall_s = record.elapsed_s
    yield max(record.source_s, stages[0].times.starved_s) / wall_s, "source", None
    for stage in stages:
        times = stage.times
        own: dict[Kind, float] = {
            _full(stage): times.full_s,
            "rate" if stage.has_rate else "pace": times.rate_s,
            "retry-after": times.paused_s,
            "retry": times.retry_s,
            "key": times.key_s,
            "order": times.order_s,
            "lost": times.lost_s,
        }
        # What starts are held back for and what slots are full of are one thing: the stage. Its largest part names it.
        kind = max(own, key=lambda name: own[name])
        yield sum(own.values()) / wall_s, kind, stage
    for before, after in pairwise(stages):
        # One after the other, one of them can only wait while the other does not, so this is what lies between.
        yield min(before.times.blocked_s, after.times.starved_s) / wall_s, "between", after
    last = stages[-1]
    yield record.consumer_s / wall_s, "consumer", None
    yield (
        (last.times.blocked_s if last.verb != "to" else 0.0) / wall_s * (1 if record.consumer_s else 0),
        "consumer",
        None,
    )


def _full(stage: StageRecord) -> Kind:
    if stage.verb == "to":
        return "sink"
    if stage.reason == "fixed":
        return "limit"
    reasons = {decision.reason for decision in stage.decisions if decision.what == "limit"} | {stage.reason}
    return "ramp" if reasons <= NOT_FOUND else "service"


def _told(kind: Kind, stage: StageRecord | None, share: float, record: RunRecord, stages: list[StageRecord]) -> Finding:
    """The finding about the part that set the pace."""
    if stage is None:
        return _outside(kind, share, record, stages)
    name, times, wall_s = _name(stage), stage.times, record.elapsed_s
    if kind == "order":
        return _ordered(stage, share, record, stages)
    words: dict[str, tuple[str, str]] = {
        "between": (
            f"what lies between the stages before {name} and {name}: it took {share:.0%} of the time",
            "",
        ),
        "sink": (
            f"the sink, {name}: it was writing {times.full_s / wall_s:.0%} of the time",
            "a faster sink; more concurrency before it would not help",
        ),
        "rate": (
            f"the rate that {name} was given: calls waited for it {times.rate_s / wall_s:.0%} of the time",
            "if the service allows more, a higher Rate",
        ),
        "pace": (
            f"the rate that the service of {name} allows: about {stage.pace_per_s:,.3g} calls/s (it refused more)",
            "a higher quota; more concurrency would not help",
        ),
        "retry-after": (
            f"the service of {name} asked to wait (Retry-After): {_seconds(times.paused_s)} of {_seconds(wall_s)}",
            "a Rate a little below what it allows avoids the pauses",
        ),
        "retry": (
            f"{name}: its slots waited for next attempts {times.retry_s / wall_s:.0%} of the time",
            f"see why calls fail ({stage.retries:,} were made again)",
        ),
        "key": (
            f"{name}: items waited for others of their key {times.key_s / wall_s:.0%} of the time, with slots free",
            "a higher per_key, or keys in turn instead of in runs",
        ),
        "lost": (
            f"{name}: calls that timed out and run on held half of its slots {times.lost_s / wall_s:.0%} of the time",
            "give the function a time-out of its own, or make it an async def",
        ),
    }
    if kind not in words:
        return _full_stage(kind, stage, share, record, stages)
    says, advice = words[kind]
    return Finding(kind, stage.name, says, advice, share=share)


def _ordered(stage: StageRecord, share: float, record: RunRecord, stages: list[StageRecord]) -> Finding:
    factor = _unordered(stage, record, stages)
    waited = stage.times.order_s / record.elapsed_s
    says = f"{_name(stage)}: results waited for the one before them {waited:.0%} of the time, with slots free"
    if factor < WORTH:
        return Finding("order", stage.name, says, "ordered=False, if the order does not matter", share=share)
    advice = f"ordered=False, if the order does not matter: about {times(factor)}x as fast, with its slots in use"
    return Finding("order", stage.name, says, advice, factor, share)


def _outside(kind: Kind, share: float, record: RunRecord, stages: list[StageRecord]) -> Finding:
    first = _name(stages[0])
    if kind == "source":
        source = cut(escape(record.source), NAME_CHARS)
        starved = stages[0].times.starved_s / record.elapsed_s
        if record.source_s < DOMINANT * record.elapsed_s:
            says = f"what comes before {first} (from {source}): {first} had no items {starved:.0%} of the time"
        else:
            busy = record.source_s / record.elapsed_s
            says = f"the source, {source}: it was producing {busy:.0%} of the time, {first} had no items {starved:.0%}"
        return Finding(kind, "", says, "a faster source; more concurrency would not help", share=share)
    says = f"whoever takes the results: busy with them {share:.0%} of the time"
    advice = "move that work into a stage of its own"
    factor = _next_limit(None, record, stages)
    if factor >= WORTH:
        advice += f"; at most about {times(factor)}x as fast before a stage is the limit"
    return Finding(kind, "", says, advice, factor if factor >= WORTH else 0.0, share)


def _full_stage(kind: Kind, stage: StageRecord, share: float, record: RunRecord, stages: list[StageRecord]) -> Finding:
    """A stage whose slots were all in calls."""
    name, wall_s = _name(stage), record.elapsed_s
    says = f"{name}: all its slots were in calls {share:.0%} of the time"
    if stage.lane == "process" and stage.cpu_s is not None and stage.cpu_s >= BUSY_LOOP * stage.service_s:
        says = f"{name} computes: its {min(stage.limit, record.cpus)} processes were busy {share:.0%} of the time"
        return Finding("cpus", stage.name, says, "less work in it, or more CPUs", share=share)
    waited_s = record.loop_wait_s + sum(each.cpu_wait_s for each in stages)
    idle = record.loop_cpu_s is not None and record.cpu_s + waited_s < IDLE_LOOP * wall_s
    if kind == "service":
        says += f"; {_held(stage):,.0f} at once, and more did not give more"
        if idle:
            says += ": it is what it waits for, not this machine"
        return Finding(kind, stage.name, says, "a faster service, or fewer or smaller calls (batches)", share=share)
    if kind == "ramp":
        if record.state == "running":
            return Finding(kind, stage.name, f"{says}; its limit is still growing ({stage.limit})", "", share=share)
        says += f"; its limit was still growing ({stage.limit}) when the run ended"
        return Finding(kind, stage.name, says, "a longer run finds it", share=share)
    factor = _next_limit(stage, record, stages)
    advice = (
        f"concurrency={stage.limit} was given: if what it calls takes more, a higher number, or none to have it found"
    )
    if factor >= WORTH:
        advice += f"; at most about {times(factor)}x as fast before another part is the limit"
    elif factor:
        advice += "; it would gain little, the next part is nearly as slow"
    return Finding(kind, stage.name, says, advice, factor if factor >= WORTH else 0.0, share)


def _held(stage: StageRecord) -> float:
    """The limit that was kept; the present one may be a try."""
    held = [d.new for d in stage.decisions if d.what == "limit" and d.reason.startswith("hold")]
    return held[-1] if held and stage.reason.startswith("probe") else stage.limit


# -- factors ------------------------------------------------------------------------------------------------------


def _next_limit(slowest: StageRecord | None, record: RunRecord, stages: list[StageRecord]) -> float:
    """How much faster the run may become if `slowest` took no time: until the next part is full. 0: not known.

    A stage whose limit was given can do limit / service time calls a second, so it had room for
    limit x wall / sum of service times as many. One whose limit is found may grow, and a source may be faster
    than it was asked to be: they set no bound that is known.
    """
    rooms = [
        stage.limit * record.elapsed_s / stage.service_s for stage in stages if stage is not slowest and stage.service_s
    ]
    if slowest is not None and record.consumer_s > 0.01 * record.elapsed_s:
        rooms.append(record.elapsed_s / record.consumer_s)
    known = all(stage.reason == "fixed" and not stage.has_rate for stage in stages if stage is not slowest)
    return min(rooms) if rooms and known else 0.0


def _unordered(stage: StageRecord, record: RunRecord, stages: list[StageRecord]) -> float:
    """How much faster the run is if this stage's slots never wait for the order: all its work, evenly. 0: not known."""
    if stage.reason != "fixed" or not stage.service_s:
        return 0.0
    longest_s = max((call.took_s for call in stage.kept_calls), default=0.0)
    alone_s = max(stage.service_s / stage.limit, longest_s)
    gain = record.elapsed_s / alone_s
    bound = _next_limit(stage, record, stages) if len(stages) > 1 else math.inf
    return min(gain, bound) if bound else 0.0


# -- what else there is ---------------------------------------------------------------------------------------------


def _stalls(record: RunRecord) -> list[Finding]:
    total_s = sum(stall.total_s for stall in record.stalls)
    if total_s < STALLED * record.elapsed_s:
        return []
    worst = record.stalls[0]
    code = f" ({cut(escape(worst.code), 60)})" if worst.code else ""
    says = (
        f"the loop stood still {_seconds(worst.total_s)} in {worst.times} calls, the longest "
        f"{_seconds(worst.longest_s)}, at {cut(escape(worst.where), 100)}{code}: nothing else could go on"
    )
    computes = record.loop_cpu_s is not None and record.loop_cpu_s >= 0.7 * total_s
    if computes:
        advice = 'it computes: in a plain def of its own stage, .map(fn, on="process") keeps it off the loop'
    else:
        advice = "it waits: in a plain def it runs in threads, or await asyncio.to_thread(...)"
    return [Finding("stalls", "", says, advice, share=total_s / record.elapsed_s)]


def _idle_processes(record: RunRecord, stages: list[StageRecord]) -> list[Finding]:
    found = []
    for stage in stages:
        share = stage.times.starved_s / record.elapsed_s
        if stage.lane == "process" and share >= STARVED and stage.calls >= ENOUGH_CALLS:
            says = f"{_name(stage)}: its processes had no items {share:.0%} of the time"
            found.append(Finding("idle processes", stage.name, says, "more of them would not help", share=share))
    return found


def _remarks(stages: list[StageRecord]) -> list[Finding]:
    """What was warned of while the run went on."""
    return [
        Finding(
            remark.kind, stage.name, cut(escape(remark.says), REMARK_CHARS), cut(escape(remark.advice), REMARK_CHARS)
        )
        for stage in stages
        for remark in stage.remarks
    ]


# -- words -----------------------------------------------------------------------------------------------------------


def times(factor: float) -> str:
    """A factor for people: two digits below ten, whole from there on."""
    return f"{factor:.2g}" if factor < 10 else f"{factor:,.0f}"


def _name(stage: StageRecord) -> str:
    return _short(stage.name)


def _short(name: str) -> str:
    return cut(escape(name), NAME_CHARS)


def _seconds(value: float) -> str:
    from overlapped.report.text import seconds

    return seconds(value)
