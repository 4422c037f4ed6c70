"""A comparison as a picture: a bar a model on a linear axis, a dot a run, the bound, and a small chronology of each.

The axis fits all but the slowest: a bar that would leave no room for the others is cut, and its number says how long
it is. A logarithmic axis would have no zero, and the models that matter could not be told apart on it.
"""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING

from overlapped.report.plain import cut, escape
from overlapped.report.svg import Picture, Scale, text_width
from overlapped.report.text import seconds

if TYPE_CHECKING:
    from overlapped.compare.comparison import Comparison
    from overlapped.compare.runner import Row

WIDE = 1_000.0
ROW_HIGH, BAR_HIGH = 44.0, 16.0
TOP = 78.0
NAMES_AT, BARS_AT, BARS_END = 16.0, 176.0, 548.0
TIME_AT, FLIGHT_AT, CPU_AT = 632.0, 702.0, 772.0
STORY_AT, STORY_END = 806.0, 984.0
NOTE_HIGH = 17.0
NOTE_CHARS = 150
"""Longest line below the picture: what fits into its width."""
CUT_AT = 2.0
"""A bar more than so many times as long as the next shorter one is cut."""
OUTLIER = 1.4
"""A run more than so many times as long as the longest bar does not stretch the axis."""
THIN = 1.2
"""Shortest bar of a chronology, px: what is shorter would not be seen."""
MOST_BARS = 60
"""Requests drawn in a chronology: more would be thinner than a pixel."""


def picture(made: Comparison) -> Picture:
    """The comparison drawn: fastest first, what could not run last with the reason."""
    rows = made.by_time()
    ran = [row for row in rows if row.runs]
    notes = [line for note in made.notes for line in textwrap.wrap(note, NOTE_CHARS)]
    bottom = TOP + ROW_HIGH * len(rows)
    drawn = Picture(
        WIDE,
        bottom + 44 + NOTE_HIGH * len(notes) + 12,
        f"{made.workload}, {len(ran)} ways: {made.subject}",
        "; ".join(f"{row.name} {seconds(row.estimate_s(made.count))}" for row in ran),
    )
    longest = _longest(made)
    x = Scale(0, longest, BARS_AT, BARS_END)
    _head(drawn, made)
    drawn.rect(BARS_AT, TOP, BARS_END - BARS_AT, ROW_HIGH * len(ran), "panel")
    for value in x.ticks(6):
        drawn.line([(x(value), TOP), (x(value), TOP + ROW_HIGH * len(ran))], "grid", thick=1)
        words = seconds(value) if value else "0"
        drawn.text(x(value), TOP + ROW_HIGH * len(ran) + 15, words, size=11, color="muted", anchor="middle")
    for place, row in enumerate(rows):
        y = TOP + ROW_HIGH * place + (0 if row.runs else 20)
        if row.runs:
            _row(drawn, row, made, x, y)
        else:
            _not_run(drawn, row, y)
    if made.bound_s <= longest:
        at = x(made.bound_s)
        drawn.line([(at, TOP - 6), (at, TOP + ROW_HIGH * len(ran))], "ink", dashed=True, title="the bound")
        drawn.text(at, TOP - 10, f"bound {seconds(made.bound_s)}", size=11, color="ink", anchor="middle")
    for number, note in enumerate(notes):
        drawn.text(NAMES_AT, bottom + 44 + NOTE_HIGH * number, escape(note), size=11, color="muted")
    return drawn


def _longest(made: Comparison) -> float:
    """The end of the axis: what all bars but those that are cut need."""
    times = sorted(row.estimate_s(made.count) for row in made.rows if row.runs)
    while len(times) > 1 and times[-1] > CUT_AT * times[-2]:
        times.pop()
    shown = times[-1] if times else 1.0
    scaled = [run.seconds * made.count / row.count for row in made.rows for run in row.runs]
    spread = [value for value in scaled if value <= OUTLIER * shown]
    bound = [made.bound_s] if made.bound_s <= CUT_AT * shown else []
    return max([shown, *spread, *bound]) * 1.02


def _head(drawn: Picture, made: Comparison) -> None:
    drawn.text(NAMES_AT, 26, made.title or f"{made.workload} under every I/O model", size=16, bold=True)
    drawn.text(NAMES_AT, 45, cut(escape(made.subject), NOTE_CHARS), size=12, color="muted")
    for at, words in ((TIME_AT, "time"), (FLIGHT_AT, "in flight"), (CPU_AT, "CPU")):
        drawn.text(at, TOP - 10, words, size=11, color="muted", anchor="end")
    drawn.text(STORY_AT, TOP - 10, f"each {made.noun} over time", size=11, color="muted")


def _row(drawn: Picture, row: Row, made: Comparison, x: Scale, y: float) -> None:
    middle = y + ROW_HIGH / 2 - 2
    total_s = row.estimate_s(made.count)
    is_ours, is_part = not row.model.about.has_number, row.count < made.count
    drawn.text(NAMES_AT, middle - 1, row.name, size=13, bold=is_ours)
    drawn.text(NAMES_AT, middle + 13, row.model.about.cell, size=10, color="muted")
    words = ("about " if is_part else "") + seconds(total_s)
    color = "accent" if is_ours else "wait"
    told = f"{row.name}: {words}, median of {len(row.runs)}; {row.lines} lines of code"
    top = middle - BAR_HIGH / 2
    if total_s > x.high:
        drawn.cut_bar(BARS_AT, top, BARS_END - BARS_AT, BAR_HIGH, color, title=told)
    else:
        drawn.rect(BARS_AT, top, x(total_s) - BARS_AT, BAR_HIGH, color, title=told, faint=True)
        drawn.tick(x(total_s), middle, BAR_HIGH + 4, color, thick=2.5)
        for run in row.runs:
            at = x(run.seconds * made.count / row.count)
            if at <= BARS_END:
                drawn.dot(at, middle, color, r=2.6, title=seconds(run.seconds))
            else:  # beyond the axis: an arrow that tells where
                points = [(BARS_END - 7, middle - 4), (BARS_END - 2, middle), (BARS_END - 7, middle + 4)]
                drawn.line(points, color, thick=2, title=seconds(run.seconds))
    drawn.text(TIME_AT, middle + 4, words, size=12, bold=is_ours, anchor="end")
    run = row.median
    drawn.text(FLIGHT_AT, middle + 4, f"{row.concurrency:,}", size=12, anchor="end")
    if run.found is not None:
        drawn.text(FLIGHT_AT, middle + 16, "found", size=10, color="muted", anchor="end")
    drawn.text(CPU_AT, middle + 4, f"{run.cpu_s / run.seconds:.0%}", size=12, anchor="end")
    if run.vain_asks >= row.count:
        asked = f"{run.vain_asks / row.count:,.0f} vain asks each"
        drawn.text(CPU_AT, middle + 16, asked, size=10, color="muted", anchor="end")
    _story(drawn, row, x.high, y, color)


def _story(drawn: Picture, row: Row, longest: float, y: float, color: str) -> None:
    """When each request of the middle run began and ended, on the time axis of all: a staircase, or blocks."""
    run = row.median
    top, high = y + 4, ROW_HIGH - 10
    drawn.rect(STORY_AT, top, STORY_END - STORY_AT, high, "panel")
    at = Scale(0, longest, STORY_AT, STORY_END)
    begun = sorted((began, ended) for began, ended in zip(run.began_s, run.ended_s, strict=True) if began < longest)
    shown = begun[:: math.ceil(len(begun) / MOST_BARS)]
    step = high / max(1, len(shown))
    bars = [
        (at(began), top + step * (i + 0.5), max(THIN, at(min(ended, longest)) - at(began)))
        for i, (began, ended) in enumerate(shown)
    ]
    drawn.bars(bars, max(0.4, min(3.0, step * 0.7)), color, title=f"{row.name}: {len(begun):,} begun in this time")


def _not_run(drawn: Picture, row: Row, y: float) -> None:
    middle = y + ROW_HIGH / 2 - 2
    drawn.text(NAMES_AT, middle - 1, row.name, size=13, color="muted")
    drawn.text(NAMES_AT, middle + 13, row.model.about.cell, size=10, color="muted")
    most = int((STORY_END - BARS_AT) / text_width("x"))
    drawn.text(BARS_AT, middle + 4, cut(f"not run: {escape(row.reason)}", most), size=12, color="muted")
