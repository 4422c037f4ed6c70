"""The pictures of a run: who was in a call when, limit and throughput, where the time went, how long calls took."""

from __future__ import annotations

import heapq
import math
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Final

from overlapped.record import Bin
from overlapped.report.plain import cut, escape
from overlapped.report.svg import Picture, Scale, steps, text_width
from overlapped.report.text import counted, seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from overlapped.record import Call, Decision, RunRecord, StageRecord

WIDE: Final = 960.0
LEFT: Final = 64.0
RIGHT: Final = 940.0
MOST_BARS: Final = 4_000
"""Calls drawn in all: at 15 bytes each they are a fifth of what a page may hold."""

BAND_MOST: Final = 260.0
"""Height of one stage's rows: with more slots than that the rows get thinner than a pixel."""

ROW_MOST: Final = 9.0
NAME_CHARS: Final = 32
WHY_CHARS: Final = 120
MOST_BINS: Final = 80
"""Bars of a histogram: thinner ones would be lines."""

MOST_COUNTED: Final = 300
"""Calls up to which those in flight are counted exactly: with more, a line of their steps would be a comb."""

MARK_WIDE: Final = 20
"""px that the name of a percentile takes: one that is closer to another than that goes without."""

MOST_BANDS: Final = 20
"""Stages of which calls are drawn: a page of them."""

STATES: Final = (
    # field of Times, color, words
    ("full_s", "wait", "in calls"),
    ("starved_s", "queue", "no items"),
    ("blocked_s", "hold", "next stage full"),
    ("order_s", "accent", "waits for the order"),
    ("key_s", "accent", "waits for a key"),
    ("rate_s", "probe", "waits for its rate"),
    ("paused_s", "probe", "asked to wait"),
    ("retry_s", "probe", "waits to try again"),
    ("lost_s", "fail", "held by lost calls"),
    ("ended_s", "grid", "last calls, or done"),
)


def name_of(stage: StageRecord) -> str:
    """A stage's name, harmless and short."""
    return cut(escape(stage.name), NAME_CHARS)


def calling(record: RunRecord) -> list[StageRecord]:
    """The stages of which there is something to draw."""
    return [stage for stage in record.stages if stage.calls]


# -- chronology -----------------------------------------------------------------------------------------------


def chronology(record: RunRecord) -> Picture | None:
    """One bar a call, one row a slot, one band a stage; None if there were no calls."""
    stages = [stage for stage in calling(record) if stage.kept_calls][:MOST_BANDS]
    if not stages or record.elapsed_s <= 0:
        return None
    each = max(50, MOST_BARS // len(stages))
    bands = [(stage, *_grouped(stage, each)) for stage in stages]
    heights = [min(BAND_MOST, max(14.0, ROW_MOST * len(rows))) for _, rows, _ in bands]
    high = 34 + sum(height + 30 for height in heights) + 26
    names = [f"{name_of(stage)}: {counted(stage.calls, 'call')}, {words}" for stage, _, words in bands]
    told = "; ".join(names)
    drawn = Picture(WIDE, high, "Chronology: one bar a call, one row a slot", told)
    x = Scale(0, record.elapsed_s, LEFT, RIGHT)
    entries = [("wait", "call")]
    outcomes = {call.outcome for _, rows, _ in bands for row in rows for call in row}
    entries += [("probe", "failed, made again")] if "retried" in outcomes else []
    entries += [("fail", "failed")] if "failed" in outcomes else []
    drawn.legend(LEFT, 16, entries)
    y = 40.0
    for (_, rows, _), name, height in zip(bands, names, heights, strict=True):
        drawn.text(LEFT, y + 8, name, size=12)
        _band(drawn, x, rows, y + 14, height)
        y += height + 30
    drawn.x_axis(x, y - 10, unit=" s")
    return drawn


def _grouped(stage: StageRecord, most: int) -> tuple[list[list[Call]], str]:
    """Rows of calls, and what they are in words. One call in n shown: one row for n slots, as dense."""
    calls = thinned(stage.kept_calls, most)
    rows = packed(calls)
    slots = f"{len(rows):,} slot{'' if len(rows) == 1 else 's'}"
    each = round(stage.calls / len(calls))
    if each < 2:
        return rows, slots
    each = min(each, math.ceil(len(rows) / 4))
    if each > 1:
        rows = [[call for row in rows[at : at + each] for call in row] for at in range(0, len(rows), each)]
    shown = f"1 call in {round(stage.calls / len(calls)):,} shown"
    shown += " and all failures" if any(call.outcome != "ok" for call in calls) else ""
    return rows, f"{slots}; {shown}" + (f", a row for {each:,} slots" if each > 1 else "")


def _band(drawn: Picture, x: Scale, rows: Sequence[Sequence[Call]], top: float, height: float) -> None:
    drawn.rect(x.first, top, x.last - x.first, height, "panel")
    step = height / max(1, len(rows))
    thick = max(0.6, step - (1.5 if step > 4 else 0.4))
    bars: dict[str, list[tuple[float, float, float]]] = {"ok": [], "retried": [], "failed": []}
    for at, row in enumerate(rows):
        middle = top + (at + 0.5) * step
        for call in row:
            wide = x(call.started_s + call.took_s) - x(call.started_s)
            gap = 0.4 if wide > 2 else 0.0  # between two calls of one slot
            bars[call.outcome].append((x(call.started_s), middle, wide - gap))
    for outcome, color in (("ok", "wait"), ("retried", "probe"), ("failed", "fail")):
        drawn.bars(bars[outcome], thick, color)


def thinned(calls: Sequence[Call], most: int) -> list[Call]:
    """At most about `most` of the calls: every failure, the slowest of them, and an even choice of the others."""
    if len(calls) <= most:
        return list(calls)
    kept = {call for call in calls if call.outcome != "ok"}
    if len(kept) > most // 2:
        kept = set(sorted(kept)[:: math.ceil(2 * len(kept) / most)])
    kept.update(heapq.nlargest(max(1, most // 20), calls, key=_took))
    left = [call for call in calls if call not in kept]
    kept.update(left[:: math.ceil(len(left) / max(1, most - len(kept)))] if left else ())
    return sorted(kept, key=_started)


def _took(call: Call) -> float:
    return call.took_s


def _started(call: Call) -> float:
    return call.started_s


def packed(calls: Iterable[Call]) -> list[list[Call]]:
    """Calls by their slots; where these are not known, as few rows as it takes."""
    known: dict[int, list[Call]] = {}
    free: list[tuple[float, int]] = []
    unknown: list[list[Call]] = []
    for call in calls:
        if call.place >= 0:
            known.setdefault(call.place, []).append(call)
        elif free and free[0][0] <= call.started_s:
            _, row = heapq.heappop(free)
            unknown[row].append(call)
            heapq.heappush(free, (call.started_s + call.took_s, row))
        else:
            unknown.append([call])
            heapq.heappush(free, (call.started_s + call.took_s, len(unknown) - 1))
    return [known[place] for place in sorted(known)] + unknown


# -- limit and throughput -----------------------------------------------------------------------------------------


def course(stage: StageRecord, record: RunRecord) -> Picture | None:
    """Limit and calls in flight over time, decisions as dots, and calls a second on an axis of their own."""
    points = stage.points
    if len(points) < 2 or record.elapsed_s <= 0:
        return None
    rates = _rates(stage, record)
    flights = _flights(stage, record)
    decisions = [decision for decision in stage.decisions if decision.what == "limit"]
    pace = [decision for decision in stage.decisions if decision.what == "pace" and decision.new != math.inf]
    drawn = Picture(
        WIDE,
        292,
        f"{name_of(stage)}: limit, calls in flight and calls per second over time",
        f"limit {stage.limit}, tried {stage.limit_range[0]} to {stage.limit_range[1]}; {len(decisions)} decisions",
    )
    x = Scale(0, record.elapsed_s, LEFT, RIGHT)
    top = max(stage.limit_range[1], stage.limit, *(count for _, count in flights))
    y = Scale(0, top * 1.08, 150, 30)
    drawn.panel(x, y, "calls in flight")
    flight = [(x(at_s), y(count)) for at_s, count in flights]
    drawn.area(flight, y(0), "wait")
    drawn.line(flight, "wait", thick=1)
    limits = _limits(stage, record)
    drawn.line(steps((x(at_s), y(limit)) for at_s, limit in limits), "ink", thick=1.4)
    for decision in _spread(decisions, 250):
        title = f"{decision.at_s:.3g} s: {decision.old:.0f} to {decision.new:.0f}, {_why(decision)}"
        drawn.dot(x(decision.at_s), y(decision.new), color_of(decision), r=2.6, title=title)
    end = drawn.legend(260, 20, [("ink", "limit"), ("wait", "in flight")], mark="line")
    if decisions:
        kinds = [("grow", "grow"), ("hold", "hold"), ("probe", "try"), ("cut", "cut")]
        used = {color_of(decision) for decision in decisions}
        drawn.legend(end + 8, 20, [kind for kind in kinds if kind[0] in used], mark="dot")
    below = Scale(0, max([rate for _, rate in rates] + [1e-9]) * 1.1, 260, 190)
    drawn.panel(x, below, "calls per second", x_unit=" s", y_ticks=3)
    drawn.line(steps((x(at_s), below(rate)) for at_s, rate in rates), "rate")
    for decision in _spread(pace, 100):
        if decision.new <= below.high:
            drawn.dot(x(decision.at_s), below(decision.new), "cut", r=2, title=f"pace {decision.new:.3g}/s")
    return drawn


def _flights(stage: StageRecord, record: RunRecord) -> list[tuple[float, float]]:
    """Calls in flight over time: counted where there are few and all are kept, else the means of the series."""
    calls = stage.kept_calls
    if not len(calls) == stage.calls <= MOST_COUNTED:
        return _smoothed([(point.at_s, point.in_flight) for point in stage.points], record.elapsed_s)
    changes = sorted([(call.started_s, 1) for call in calls] + [(call.started_s + call.took_s, -1) for call in calls])
    counts = accumulate(change for _, change in changes)
    return steps([(0.0, 0.0), *((at_s, float(count)) for (at_s, _), count in zip(changes, counts, strict=True))])


def _limits(stage: StageRecord, record: RunRecord) -> list[tuple[float, float]]:
    """The limit over time: from the decisions as far as they are kept, before that from the series."""
    decisions = [decision for decision in stage.decisions if decision.what == "limit"]
    if not decisions:
        return [(0.0, stage.limit), (record.elapsed_s, stage.limit)]
    first_s = decisions[0].at_s
    before: list[tuple[float, float]] = [(point.at_s, point.limit) for point in stage.points if point.at_s < first_s]
    before = before or [(0.0, decisions[0].old)]
    return [*before, *((d.at_s, d.new) for d in decisions), (record.elapsed_s, stage.limit)]


def _rates(stage: StageRecord, record: RunRecord) -> list[tuple[float, float]]:
    """Calls a second between points, in at most 120 steps so that single calls don't make a comb."""
    ends = [(0.0, 0), *((point.at_s, point.calls) for point in stage.points), (record.elapsed_s, stage.calls)]
    least_s = record.elapsed_s / 120
    chosen = ends[:1]
    for end in ends[1:]:
        if end[0] - chosen[-1][0] >= least_s:
            chosen.append(end)
    if len(chosen) > 1 and record.elapsed_s - chosen[-1][0] < least_s:
        chosen.pop()  # a moment, and what ended in it, would be a peak
    if chosen[-1][0] < record.elapsed_s:
        chosen.append(ends[-1])
    rates = [(a_s, (b - a) / (b_s - a_s)) for (a_s, a), (b_s, b) in pairwise(chosen) if b_s > a_s]
    return [*rates, (record.elapsed_s, rates[-1][1])] if rates else [(0.0, 0.0)]


def _smoothed(points: Sequence[tuple[float, float]], elapsed_s: float) -> list[tuple[float, float]]:
    """Means of at most 120 spans of time: points are taken when something happens, and swing with it."""
    found: list[tuple[float, float]] = []
    span: list[tuple[float, float]] = []
    for at_s, value in points:
        if span and at_s - span[0][0] >= elapsed_s / 120:
            found.append((span[0][0], sum(each for _, each in span) / len(span)))
            span = []
        span.append((at_s, value))
    found.append((span[0][0], sum(each for _, each in span) / len(span)))
    return [*found, (points[-1][0], points[-1][1])]


def _spread(decisions: Sequence[Decision], most: int) -> Sequence[Decision]:
    return decisions if len(decisions) <= most else decisions[:: math.ceil(len(decisions) / most)]


def _why(decision: Decision) -> str:
    return cut(escape(": ".join(text for text in (decision.reason, decision.evidence) if text)), WHY_CHARS)


def color_of(decision: Decision) -> str:
    """What kind of decision it is, as a color."""
    kind = decision.reason.partition(":")[0]
    if kind in ("grow", "ramp"):
        return "grow"
    return kind if kind in ("hold", "probe", "cut") else "hold"


# -- where the time went ------------------------------------------------------------------------------------------


def shares(record: RunRecord) -> Picture | None:
    """A bar a stage: in which state it was for how much of the run."""
    stages = calling(record)
    if not stages or record.elapsed_s <= 0:
        return None
    names = max(text_width(name_of(stage), 12) for stage in stages)
    left = max(LEFT, min(260.0, names + 24))
    used = [state for state in STATES if any(getattr(s.times, state[0]) > 0.002 * record.elapsed_s for s in stages)]
    has_cpu = any(_cpu_share(stage) for stage in stages)
    entries = [(color, words) for _, color, words in used]
    if has_cpu:
        entries.insert(1, ("work", "of that: computing"))
    lines = _legend_lines(entries, left)
    top = 14.0 + 18 * len(lines)
    drawn = Picture(WIDE, top + 30 * len(stages) + 30, "Where the time of each stage went", _told(stages, record, used))
    for at, line in enumerate(lines):
        drawn.legend(left, 14 + 18 * at, line)
    x = Scale(0, 100, left, RIGHT)
    for at, stage in enumerate(stages):
        y = top + 30 * at
        drawn.text(left - 10, y + 15, name_of(stage), anchor="end")
        drawn.rect(left, y, RIGHT - left, 20, "panel")
        start = 0.0
        for field, color, words in used:
            share = 100 * getattr(stage.times, field) / record.elapsed_s
            wide = x(start + share) - x(start)
            title = f"{name_of(stage)}: {words} {share:.0f} % of the run"
            drawn.rect(x(start), y, wide, 20, color, title=title)
            if field == "full_s" and (cpu := _cpu_share(stage)):
                drawn.rect(x(start), y, wide * cpu, 20, "work", title=f"{name_of(stage)}: computing {cpu:.0%} of that")
            start += share
    drawn.x_axis(x, top + 30 * len(stages) - 4, unit=" %", most=5)
    return drawn


def _cpu_share(stage: StageRecord) -> float:
    if stage.lane == "inline":
        return 1.0
    return min(1.0, stage.cpu_s / stage.service_s) if stage.cpu_s and stage.service_s else 0.0


def _told(stages: Sequence[StageRecord], record: RunRecord, used: Sequence[tuple[str, str, str]]) -> str:
    return "; ".join(
        f"{name_of(stage)}: "
        + ", ".join(f"{words} {getattr(stage.times, field) / record.elapsed_s:.0%}" for field, _, words in used)
        for stage in stages
    )


def _legend_lines(entries: Sequence[tuple[str, str]], left: float) -> list[list[tuple[str, str]]]:
    lines: list[list[tuple[str, str]]] = [[]]
    at = left
    for entry in entries:
        wide = 30 + text_width(entry[1], 11)
        if at + wide > RIGHT and lines[-1]:
            lines.append([])
            at = left
        lines[-1].append(entry)
        at += wide
    return lines


# -- how long calls took -------------------------------------------------------------------------------------------


def histogram(stage: StageRecord) -> Picture | None:
    """Service times of calls, with three percentiles; the axis is logarithmic if they are far apart."""
    bins = coarser(stage.latencies, MOST_BINS)
    total = sum(bin_.calls for bin_ in bins)
    if total < 2:
        return None
    marks = [(share, stage.took_s(share)) for share in (0.5, 0.9, 0.99)]
    is_log = marks[2][1] > 10 * marks[0][1] or bins[-1].high_s > 30 * marks[0][1]
    told = ", ".join(f"p{share * 100:.0f} {seconds(took_s)}" for share, took_s in marks)
    drawn = Picture(WIDE / 2, 226, f"{name_of(stage)}: service times of {total:,} calls", told)
    low, high = bins[0].low_s, bins[-1].high_s
    left, right = LEFT, WIDE / 2 - 16
    wide = Scale(math.log10(low), math.log10(high), left, right) if is_log else Scale(0, high, left, right)

    def x(value_s: float) -> float:
        return wide(math.log10(max(value_s, low))) if is_log else wide(value_s)

    # An eighth of an octave is not the same width everywhere: what a bar's area says is the number of calls.
    heights = [bin_.calls / max(1e-9, x(bin_.high_s) - x(bin_.low_s)) for bin_ in bins]
    y = Scale(0, max(heights), 176, 56)
    drawn.text(left, 15, name_of(stage), size=12)
    drawn.text(left, 31, told, size=11, color="muted")
    drawn.rect(left, 48, right - left, 128, "panel")
    for bin_, height in zip(bins, heights, strict=True):
        title = f"{seconds(bin_.low_s)} to {seconds(bin_.high_s)}: about {bin_.calls:,} calls"
        begin, end = x(bin_.low_s), x(bin_.high_s)
        drawn.rect(begin, y(height), max(0.8, end - begin - 0.4), y(0) - y(height), "wait", title=title)
    labelled = -math.inf
    for share, took_s in marks:
        drawn.tick(x(took_s), 112, 128, "ink", thick=1, title=seconds(took_s))
        if (middle := min(x(took_s), right - 8)) - labelled >= MARK_WIDE:
            drawn.text(middle, 46, f"p{share * 100:.0f}", size=9, color="muted", anchor="middle")
            labelled = middle
    _times_axis(drawn, x, low, high, is_log=is_log)
    drawn.text(right, 220, "service time" + (", logarithmic" if is_log else ""), size=11, color="muted", anchor="end")
    return drawn


def coarser(bins: Sequence[Bin], most: int) -> tuple[Bin, ...]:
    """At most `most` steps of a histogram: neighbors are joined until it is so."""
    while len(bins) > max(1, most):
        bins = [
            Bin(first.low_s, last.high_s, sum(bin_.calls for bin_ in bins[at : at + 2]))
            for at, first in enumerate(bins)
            if not at % 2
            for last in (bins[min(at + 1, len(bins) - 1)],)
        ]
    return tuple(bins)


def _times_axis(drawn: Picture, x: Callable[[float], float], low: float, high: float, *, is_log: bool) -> None:
    if is_log:
        values = [10.0**power for power in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)]
        if len(values) < 2:
            values = [low, high]
        values = values[:: max(1, len(values) // 6)]
    else:
        values = Scale(0, high, 0, 1).ticks(4)
    last = -math.inf
    for value in values:
        words = seconds(value) if value else "0"
        half = text_width(words, 11) / 2
        middle = min(x(value), drawn.wide - 4 - half)
        if middle - half < last + 6:
            continue
        drawn.tick(x(value), 178, 4, "muted", thick=1)
        drawn.text(middle, 194, words, size=11, color="muted", anchor="middle")
        last = middle + half
