"""Draws one picture a kind of scenario for docs/self-tuning.md: limit, throughput and decisions over time.

    python benchmarks/control_picture.py [DIRECTORY]      default: docs/pictures

Plain SVG, drawn in this one file.
"""

from __future__ import annotations

import math
import os
import sys
from typing import TYPE_CHECKING

from overlapped.testing.scenario_list import by_name
from overlapped.testing.scenarios import Played, Scenario, play

if TYPE_CHECKING:
    from collections.abc import Callable

SHOWN = {
    "knee": ("mmc32_50ms", 30.0, "32 workers, 50 ms each"),
    "rate": ("rate100_429", 60.0, "100 calls/s, else 429 with Retry-After"),
    "refusal": ("conn_limit_40", 40.0, "more than 40 at once are turned away"),
    "cliff": ("cliff_60", 40.0, "above 60 in flight everything is 8 times slower"),
    "change": ("cap_64_32_96", 60.0, "64 workers, 32 from 20 s on, 96 from 40 s on"),
    "drift": ("drift_50_250ms", 40.0, "answers slow down, 50 to 250 ms; the client can handle 1,000/s"),
    "spread": ("bimodal_w64", 60.0, "64 workers, 11 % of the calls take 60 times as long"),
    "short": ("short1000_w40", 3.0, "1,000 items, 40 workers"),
    "batch": ("db_5ms_50us", 20.0, "5 ms a call and 50 us an item: size of batches"),
}
WIDE, HIGH, LEFT, GAP, TOP = 720, 130, 56, 26, 44
COLORS = {"grow": "#2a7ab9", "hold": "#8a8f98", "probe": "#c98a1b", "cut": "#c0392b"}
BINS = 60


def picture(scenario: Scenario, lasts_s: float, title: str) -> str:
    """One SVG: above the limit (or size, or pace) with its decisions, below the throughput."""
    played = play(scenario, seed=1)
    what = "size" if scenario.is_batched else "pace" if played.stage.pace_per_s < math.inf else "limit"
    decided = [d for d in played.stage.decisions if d.what == what and d.at_s <= lasts_s]
    lasts_s = min(lasts_s, played.ended_s[-1]) if scenario.items else lasts_s
    points = [(0.0, decided[0].old if decided else played.stage.limit)]
    for d in decided:
        points += [(d.at_s, points[-1][1]), (d.at_s, d.new)]
    points.append((lasts_s, points[-1][1]))
    points = [(t, v) for t, v in points if v < math.inf]
    top = 1.1 * max(v for _, v in points)
    parts = [_text(12, 18, title, 13, "#222"), *_legend()]
    noun = {"limit": "calls in flight", "pace": "pace, calls/s", "size": "items a batch"}[what]
    x = _scale(0, lasts_s, LEFT, WIDE - 12)
    parts += _panel(TOP, noun, top, x, lasts_s, is_last=False)
    y = _scale(0, top, TOP + HIGH, TOP)
    parts.append(_line([(x(t), y(v)) for t, v in points], "#444"))
    dots = [d for d in decided if d.new < math.inf]
    parts += [
        f'<circle cx="{x(d.at_s):.1f}" cy="{y(d.new):.1f}" r="2.6" fill="{COLORS.get(d.reason.split(":")[0], "#888")}">'
        f"<title>{d.at_s:.2f} s: {d.old:.0f} to {d.new:.0f}, {d.reason} {d.evidence}</title></circle>"
        for d in dots[:: max(1, len(dots) // 300)]
    ]
    below = TOP + HIGH + GAP
    rates = _rates(played, lasts_s)
    top = 1.15 * max(v for _, v in rates)
    parts += _panel(below, "items/s" if not scenario.is_batched else "calls/s", top, x, lasts_s, is_last=True)
    y = _scale(0, top, below + HIGH, below)
    parts.append(_line([(x(t), y(v)) for t, v in rates], "#1d8a5f"))
    high = below + HIGH + 30
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDE} {high}" width="{WIDE}" height="{high}" '
        f'font-family="sans-serif"><rect width="{WIDE}" height="{high}" fill="#fff"/>' + "".join(parts) + "</svg>\n"
    )


def _rates(played: Played, lasts_s: float) -> list[tuple[float, float]]:
    width_s = lasts_s / BINS
    counts = [0] * BINS
    for at_s in played.ended_s:
        if at_s < lasts_s:
            counts[int(at_s / width_s)] += 1
    return [((k + 0.5) * width_s, count / width_s) for k, count in enumerate(counts)]


def _scale(low: float, high: float, first: float, last: float) -> Callable[[float], float]:
    return lambda value: first + (value - low) / (high - low) * (last - first)


def _panel(
    top: float, name: str, most: float, x: Callable[[float], float], lasts_s: float, *, is_last: bool
) -> list[str]:
    bottom = top + HIGH
    parts = [f'<rect x="{LEFT}" y="{top}" width="{WIDE - 12 - LEFT}" height="{HIGH}" fill="#f7f8fa"/>']
    y = _scale(0, most, bottom, top)
    for value in _ticks(most, 4):
        parts.append(f'<path d="M{LEFT} {y(value):.1f}H{WIDE - 12}" stroke="#dfe2e7"/>')
        parts.append(_text(LEFT - 6, y(value) + 4, f"{value:,.0f}", 11, "#666", "end"))
    if is_last:
        parts += [_text(x(value), bottom + 16, f"{value:g} s", 11, "#666", "middle") for value in _ticks(lasts_s, 6)]
    parts.append(_text(LEFT, top - 5, name, 11, "#666"))
    return parts


def _ticks(most: float, count: int) -> list[float]:
    step = 10 ** math.floor(math.log10(most / count))
    step *= next(k for k in (1, 2, 5, 10) if most / (k * step) <= count + 1)
    return [k * step for k in range(int(most / step) + 1)]


def _legend() -> list[str]:
    parts, at = [], WIDE - 232
    for name, color in COLORS.items():
        parts.append(f'<circle cx="{at}" cy="14" r="3.5" fill="{color}"/>' + _text(at + 8, 18, name, 11, "#666"))
        at += 56
    return parts


def _line(points: list[tuple[float, float]], color: str) -> str:
    path = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
    return f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.4"/>'


def _text(x: float, y: float, text: str, size: int, color: str, anchor: str = "start") -> str:  # noqa: PLR0917 - SVG's own
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{color}" text-anchor="{anchor}">{text}</text>'


def main() -> None:
    """Write all of them."""
    here = os.path.dirname(os.path.abspath(__file__))
    folder = sys.argv[1] if len(sys.argv) > 1 else os.path.join(here, "..", "docs", "pictures")
    os.makedirs(folder, exist_ok=True)
    for kind, (name, lasts_s, title) in SHOWN.items():
        path = os.path.join(folder, f"tuning-{kind}.svg")
        with open(path, "w", encoding="utf-8") as out:
            out.write(picture(by_name(name), lasts_s, title))
        print(path, os.path.getsize(path), "bytes")


if __name__ == "__main__":
    main()
