"""Rates against settings as a picture: a line through the medians, a dot a run, and where `overlapped` ended.

Settings are spread over three powers of ten and more, so their axis is logarithmic; rates start at zero, so theirs is
linear.
"""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING

from overlapped.compare.picture import NOTE_CHARS, NOTE_HIGH, WIDE
from overlapped.report.plain import cut, escape
from overlapped.report.svg import Picture, Scale, number, text_width

if TYPE_CHECKING:
    from overlapped.compare.curve import Curve, Curves, Spot

LEFT, RIGHT, TOP, FOOT = 72.0, 16.0, 66.0, 36.0
HEAD_HIGH = 40.0
"""Above each panel: its name, what is best, what was found."""
GAP = 20.0
LONE_HIGH, PANEL_HIGH = 300.0, 190.0
"""Height of a panel that is alone, and of one among several."""


def picture(made: Curves) -> Picture:
    """A panel a curve: one alone takes the whole width, several stand two in a row."""
    ran, not_run = made.ran, [curve for curve in made.curves if not curve.spots]
    columns = 1 if len(ran) <= 1 else 2
    high = LONE_HIGH if columns == 1 else PANEL_HIGH
    step = HEAD_HIGH + high + FOOT
    lines = [f"{curve.name}  not run: {escape(curve.reason)}" for curve in not_run]
    lines += [line for note in made.notes for line in textwrap.wrap(escape(note), NOTE_CHARS)]
    bottom = TOP + step * math.ceil(len(ran) / columns)
    told = "; ".join(_told(curve) for curve in ran)
    drawn = Picture(WIDE, bottom + NOTE_HIGH * len(lines) + 20, f"{made.workload}: {made.subject}", told)
    drawn.text(16, 26, made.title, size=16, bold=True)
    drawn.text(16, 45, cut(escape(made.subject), NOTE_CHARS), size=12, color="muted")
    wide = (WIDE - GAP * (columns - 1)) / columns
    for place, curve in enumerate(ran):
        left = (place % columns) * (wide + GAP)
        top = TOP + step * (place // columns) + HEAD_HIGH
        _panel(drawn, curve, made, (left + LEFT, left + wide - RIGHT, top, top + high))
    for place, line in enumerate(lines):
        drawn.text(16, bottom + 16 + NOTE_HIGH * place, cut(line, NOTE_CHARS), size=11, color="muted")
    return drawn


def _told(curve: Curve) -> str:
    found = f", found {curve.found.setting} with {curve.found.per_s:,.0f}" if curve.found else ""
    return f"{curve.name}: best {curve.best.setting} with {curve.best.per_s:,.0f} a second{found}"


def _panel(drawn: Picture, curve: Curve, made: Curves, box: tuple[float, float, float, float]) -> None:
    left, right, top, bottom = box
    spots = [*curve.spots, *([curve.found] if curve.found else [])]
    least, most = min(spot.setting for spot in spots), max(spot.setting for spot in spots)
    x = Scale(math.log10(least), math.log10(max(most, least + 1)), left + 10, right - 22)
    y = Scale(0, 1.12 * max(rate for spot in spots for rate in spot.rates), bottom, top)
    drawn.text(left, top - 24, curve.name, size=13, bold=True)
    drawn.text(right, top - 24, f"{made.noun}s a second", size=11, color="muted", anchor="end")
    drawn.text(left, top - 8, _best(curve), size=11, color="muted")
    drawn.rect(left, top, right - left, bottom - top, "panel")
    for value in y.ticks(5):
        drawn.line([(left, y(value)), (right, y(value))], "grid", thick=1)
        drawn.text(left - 6, y(value) + 4, number(value), size=11, color="muted", anchor="end")
    _settings(drawn, curve, x, bottom)
    drawn.text((left + right) / 2, bottom + 31, made.what, size=11, color="muted", anchor="middle")
    _bound(drawn, curve, x, y)
    drawn.line([(x(math.log10(spot.setting)), y(spot.per_s)) for spot in curve.spots], "wait", thick=2)
    for spot in curve.spots:
        _dots(drawn, spot, "wait", x, y)
    if curve.found:
        at = x(math.log10(curve.found.setting))
        drawn.line([(at, top), (at, bottom)], "accent", thick=1.4, dashed=True, title="found without a number")
        _dots(drawn, curve.found, "accent", x, y)


def _best(curve: Curve) -> str:
    best = curve.best
    told = f"best {best.setting:,}: {best.per_s:,.0f}"
    if curve.found is None:
        return told
    return f"{told}; overlapped found {curve.found.setting:,}: {curve.found.per_s:,.0f}"


def _settings(drawn: Picture, curve: Curve, x: Scale, bottom: float) -> None:
    """The numbers below the axis, but for those that would touch the one before them."""
    end = -math.inf
    for spot in curve.spots:
        at, words = x(math.log10(spot.setting)), number(spot.setting)
        drawn.tick(at, bottom + 2, 4, "muted", thick=1)
        half = text_width(words, 11) / 2
        if at - half > end + 3:
            drawn.text(at, bottom + 17, words, size=11, color="muted", anchor="middle")
            end = at + half


def _bound(drawn: Picture, curve: Curve, x: Scale, y: Scale) -> None:
    """The rate that nothing can beat, up to the top of the panel."""
    points = [
        (x(math.log10(spot.setting)), y(rate)) for spot, rate in zip(curve.spots, curve.bound_per_s, strict=False)
    ]
    inside: list[tuple[float, float]] = []
    for point in points:
        if point[1] < y.last:
            if inside:  # where the line leaves the panel
                (x0, y0), (x1, y1) = inside[-1], point
                inside.append((x0 + (x1 - x0) * (y0 - y.last) / (y0 - y1), y.last))
            break
        inside.append(point)
    drawn.line(inside, "ink", thick=1.2, dashed=True, title="the bound")


def _dots(drawn: Picture, spot: Spot, color: str, x: Scale, y: Scale) -> None:
    at, is_found = x(math.log10(spot.setting)), color == "accent"
    for rate in spot.rates:
        drawn.dot(at, y(rate), color, r=3.4 if is_found else 2.8, title=f"{spot.setting:,}: {rate:,.0f} a second")
    if is_found:
        drawn.dot(at, y(spot.per_s), color, r=5, title=f"overlapped, {spot.setting:,}: {spot.per_s:,.0f} a second")
