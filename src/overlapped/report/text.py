"""The end summary: a run's record drawn as a few lines of plain ASCII.

Rules, so that nobody is misled: a sentence stands only on evidence in the record, and an estimate
says "about" and what it is made of. Text from user data is always escaped and cut.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

from overlapped.report.plain import cut, escape, plain, plain_error
from overlapped.report.verdict import verdict

if TYPE_CHECKING:
    from collections.abc import Iterable

    from overlapped.record import RunRecord, StageRecord

NAME_CHARS = 24
"""Longest stage name shown: longer ones are cut, so that the columns stay columns."""
KINDS, EXAMPLES = 5, 3
"""Kinds of failure shown, and items shown of each: a screen, not a log."""
STEPS = 8
"""Latest changes of a limit shown on its line."""
STEP = 1.5
"""Smallest change of a limit that is shown: a ramp by ones would fill the line."""
ENOUGH_CALLS = 20
"""Fewest calls from which shares of time are taken as evidence."""


def summary(record: RunRecord) -> str:
    """The end summary of a run, several lines, no line break at the end."""
    blocks = (
        ("", _done(record)),
        ("error", [said] if (said := ended_by(record)) else []),
        ("where", _where(record)),
        ("verdict", _verdict(record)),
        ("faster?", _advice(record)),
        ("tuner", _tuner(record)),
        ("gain", _gain(record)),
        ("switches", _switches(record)),
        ("failed", _failed(record)),
        ("cleanup", [plain_error(error) for error in record.cleanup_errors[:EXAMPLES]]),
    )
    return "\n".join(line for label, lines in blocks for line in _labelled(label, lines))


def ended_by(record: RunRecord) -> str:
    """What a failed run ended with and, if it came from one item, which; else ""."""
    if record.error is None:
        return ""
    said = plain_error(record.error)
    first = record.failures[0] if record.failures else None
    if first is None or plain_error(first.error) != said:
        return said
    return f"{said} ({cut(escape(first.stage), NAME_CHARS)} of {plain(first.item)})"


def calling(record: RunRecord) -> list[StageRecord]:
    """The stages that make calls, in flow order."""
    return [stage for stage in record.stages if stage.lane or stage.calls]


def name_of(stage: StageRecord) -> str:
    """A stage's name, harmless and short."""
    return cut(escape(stage.name), NAME_CHARS)


def seconds(value: float) -> str:
    """A time for people: three digits and its unit."""
    if value < 0.0009995:
        return f"{value * 1e6:.0f} us"
    if value < 0.9995:
        return f"{value * 1e3:.3g} ms"
    return f"{value:.3g} s" if value < 99.95 else f"{value:,.0f} s"


def rate(count: int, elapsed_s: float) -> str:
    """Items per second for people; empty when there was no time to divide by."""
    if elapsed_s <= 0:
        return ""
    per_s = count / elapsed_s
    return f"{per_s:,.0f}/s" if per_s >= 10 else f"{per_s:.2g}/s"


def counted(count: int, noun: str) -> str:
    """The number and the noun: 1 item, 2 items."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def _labelled(label: str, lines: Iterable[str]) -> Iterable[str]:
    for index, line in enumerate(lines):
        yield line if not label else f"{label if index == 0 else '':<8} {line}"


def _done(record: RunRecord) -> list[str]:
    label, start = {
        "done": ("done", ""),
        "running": ("running", ""),
        "stopped": ("stopped", "early, after "),
        "failed": ("ended", "by an error, after "),
        "cancelled": ("ended", "cancelled, after "),
    }[record.state]
    taken = record.stages[0].items_in if record.stages else record.items
    items = counted(taken, "item")
    if taken != record.items:
        items += f" in, {record.items:,} out,"
    done = max(taken, record.items)
    per_s = rate(done, record.elapsed_s)
    line = f"{label:<8} {start}{items} in {seconds(record.elapsed_s)}" + (f" ({per_s})" if per_s else "")
    retried = sum(stage.retries for stage in record.stages)
    extras = [f"failed {record.failed:,}"] if record.failed else []
    extras += [f"retried {retried:,}"] if retried else []
    extras += [f"peak memory {record.peak_rss_bytes / 2**20:,.0f} MiB"] if record.peak_rss_bytes else []
    return ["   ".join([line, *extras])]


def _where(record: RunRecord) -> list[str]:
    """For each stage that made calls: how many were running, and what its slots did otherwise."""
    stages = [stage for stage in calling(record) if stage.calls]
    if not stages or record.elapsed_s <= 0:
        return []
    wide = max(len(name_of(stage)) for stage in stages)
    lines = []
    for stage in stages:
        slots, inside = _slots(stage, record), _inside(stage)
        parts = [f"{stage.service_s / record.elapsed_s:.1f} in flight (mean)", *slots]
        if not slots:
            parts += inside
        lines.append(f"{name_of(stage):<{wide}}  {'; '.join(parts)}")
        if slots:  # beside them the line would be too long for most terminals
            lines += [" " * (wide + 2) + line for line in inside]
    if record.cpu_s > 0:
        share = record.cpu_s / record.elapsed_s
        lines.append(f"this process used {share:.0%} of one core ({seconds(record.cpu_s)} of CPU)")
    return lines


def _slots(stage: StageRecord, record: RunRecord) -> list[str]:
    total = stage.service_s + stage.starved_s + stage.blocked_s
    if total < record.elapsed_s / 2:  # the account covers too little of the run to speak for it
        return []
    shares = (
        (stage.service_s, "in calls"),
        (stage.starved_s, "without items"),
        (stage.blocked_s, "held up"),
    )
    told = [f"{time_s / total:.0%} {what}" for time_s, what in shares if time_s / total >= 0.005]
    return [f"slots {', '.join(told)}"]


def _inside(stage: StageRecord) -> list[str]:
    if stage.cpu_s is None or stage.service_s <= 0:
        return []
    cpu = min(1.0, stage.cpu_s / stage.service_s)
    return [f"calls {1 - cpu:.0%} waiting, {cpu:.0%} CPU"]


def _verdict(record: RunRecord) -> list[str]:
    """What set the pace, and what else the record shows."""
    return [finding.says for finding in verdict(record)]


def _advice(record: RunRecord) -> list[str]:
    """What would help, where the record tells."""
    return [finding.advice for finding in verdict(record) if finding.advice]


def _tuner(record: RunRecord) -> list[str]:
    """For each stage whose limit was found: the limit, the way to it, and the last reason."""
    lines = []
    for stage in calling(record):
        if stage.calls < ENOUGH_CALLS and not stage.decisions:
            continue
        if stage.reason != "fixed":
            lines.append(_found(stage, "limit", stage.limit, stage.limit_range, stage.reason))
        if stage.pace_per_s != math.inf:
            lines.append(f"{name_of(stage)}: at most {stage.pace_per_s:,.3g} calls/s, from what the service refused")
        if stage.batch_size:
            lines.append(_found(stage, "size", stage.batch_size, stage.batch_size_range, stage.batch_size_reason))
    return lines


def _found(stage: StageRecord, what: str, now: int, tried: tuple[int, int], reason: str) -> str:
    """What holds now, the way to it, and why: the last reason with its numbers."""
    decisions = [decision for decision in stage.decisions if decision.what == what]
    way = _way([decision.old for decision in decisions[:1]] + [decision.new for decision in decisions], now, tried)
    evidence = decisions[-1].evidence if decisions else ""
    why = escape(": ".join(text for text in (reason, evidence) if text))
    return (
        f"{name_of(stage)}: {'batches of' if what == 'size' else what} {now}"
        + (f"; tried {way}" if way else "")
        + (f" ({why})" if why else "")
    )


def _way(values: list[float], now: int, tried: tuple[int, int]) -> str:
    """The values tried, without the small steps between; "" if there was one only."""
    low, high = tried
    if not values:
        return f"{low} to {high}" if low != high else ""
    shown = values[:1]
    for value in values:
        if not shown[-1] / STEP < value < shown[-1] * STEP:
            shown.append(value)
    if shown[-1] != now:
        shown.append(now)
    kept = shown[-STEPS:]
    return ("... " if len(kept) < len(shown) else "") + " -> ".join(f"{value:.0f}" for value in kept)


def _gain(record: RunRecord) -> list[str]:
    """The same calls one at a time; not for a run that was broken off, whose calls ended early."""
    alone_s = sum(stage.service_s for stage in record.stages)
    if alone_s <= 0 or record.elapsed_s <= 0 or record.state not in ("done", "stopped"):
        return []
    times = alone_s / record.elapsed_s
    alone = f"about {seconds(alone_s)} one call at a time (estimate: sum of service times)"
    together = f"{alone}, {seconds(record.elapsed_s)} overlapped"
    if times < 1.1:
        return [f"{together}: there was little to overlap"]
    return [f"{together}: about {times:.2g}x" if times < 10 else f"{together}: about {times:,.0f}x"]


def _switches(record: RunRecord) -> list[str]:
    total = record.voluntary_switches + record.involuntary_switches
    if not total:
        return []
    items = max(record.items, record.stages[0].items_in if record.stages else 0)
    each = f" ({total / items:.2g} an item)" if items else ""
    return [f"{record.voluntary_switches:,} voluntary, {record.involuntary_switches:,} involuntary{each}"]


def _failed(record: RunRecord) -> list[str]:
    """Failed items by stage and type, the most frequent first, with a few examples of each."""
    if not record.failed:
        return []
    kinds = Counter((failure.stage, type(failure.error).__name__) for failure in record.failures)
    told = [
        f"{count:,} {cut(escape(kind), NAME_CHARS * 2)} in {cut(escape(stage), NAME_CHARS)}"
        for (stage, kind), count in kinds.most_common(KINDS)
    ]
    if len(kinds) > KINDS:
        told.append(f"{len(kinds) - KINDS} more kinds")
    kept = len(record.failures)
    basis = f" (of the first {kept:,})" if 0 < kept < record.failed else ""
    lines = [counted(record.failed, "item") + (f": {', '.join(told)}{basis}" if told else "")]
    for (stage, kind), _ in kinds.most_common(KINDS):
        same = (f for f in record.failures if (f.stage, type(f.error).__name__) == (stage, kind))
        for failure, _ in zip(same, range(EXAMPLES), strict=False):
            where = f"{cut(escape(stage), NAME_CHARS)} {plain(failure.item)}"
            attempts = f" ({failure.attempts} attempts)" if failure.attempts > 1 else ""
            lines.append(f"{where}: {plain_error(failure.error)}{attempts}")
    return lines
