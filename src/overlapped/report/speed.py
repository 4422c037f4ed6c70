"""What a run does now: rates over the last seconds, the share that is done, the time that is left."""

from __future__ import annotations

from collections import deque
from itertools import pairwise
from typing import TYPE_CHECKING

from overlapped.report.text import rate

if TYPE_CHECKING:
    from overlapped.record import RunRecord

SPARKS = 20
SPARK_EVERY = 5
"""Each small bar of the rate is five snapshots, so a second; the row is the last twenty of them."""
FINE_SPARKS = "\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"
ASCII_SPARKS = "_.-=#"
SURE_S = 2.0
"""Before that, what sets the pace is not told: the start is no evidence."""


class Speed:
    """Rates over the last seconds instead of since the start: what the run does *now*."""

    def __init__(self) -> None:
        # 10 snapshots are 2 s of a drawn view, 100 s of a plain one
        self._past: deque[tuple[float, int, tuple[int, ...]]] = deque(maxlen=10)
        self._done: deque[tuple[float, int]] = deque([(0.0, 0)], maxlen=SPARKS * SPARK_EVERY + 1)

    def of(self, record: RunRecord) -> tuple[str, list[str]]:
        """Items per second at the end of the flow, and out of each stage."""
        outs = tuple(stage.items_out for stage in record.stages)
        self._done.append((record.elapsed_s, taken(record)))
        self._past.append((record.elapsed_s, record.items, outs))
        since_s, items, before = self._past[0] if len(self._past) > 1 else (0.0, 0, (0,) * len(outs))
        span_s = record.elapsed_s - since_s
        return rate(record.items - items, span_s), [rate(a - b, span_s) for a, b in zip(outs, before, strict=True)]

    def sparks(self, *, ascii_only: bool) -> str:
        """Items taken per second, lately, as a row of small bars; the highest is the best of them."""
        marks = ASCII_SPARKS if ascii_only else FINE_SPARKS
        ends = list(self._done)[::-SPARK_EVERY][::-1]
        rates = [(b - a) / (to_s - from_s) for (from_s, a), (to_s, b) in pairwise(ends) if to_s > from_s]
        most = max(rates, default=0.0)
        return "".join(marks[min(len(marks) - 1, int(each / most * len(marks)))] for each in rates) if most else ""

    def left_s(self, record: RunRecord) -> float | None:
        """About how long it will take, s; None where nobody knows how many items there are."""
        (from_s, before), (to_s, now) = self._done[0], self._done[-1]
        if record.source_items is None or now <= before or to_s <= from_s:
            return None
        return (record.source_items - now) * (to_s - from_s) / (now - before)


def taken(record: RunRecord) -> int:
    """Items of the source that the first stage is done with."""
    first = next((stage for stage in record.stages if stage.calls), None)
    return record.items if first is None else max(0, first.items_in - first.ahead)


def clock(left_s: float) -> str:
    """A time that is left, as a clock shows it."""
    minutes, s = divmod(round(left_s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{s:02}" if hours else f"{minutes}:{s:02}"
