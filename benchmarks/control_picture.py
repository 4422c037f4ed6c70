"""Draws one picture a kind of scenario for docs/self-tuning.md: limit, throughput and decisions over time.

python benchmarks/control_picture.py [DIRECTORY]      default: docs/pictures
"""

from __future__ import annotations

import math
import os
import sys

from overlapped.report.svg import COLORS, Picture, Scale, steps
from overlapped.testing.scenario_list import by_name
from overlapped.testing.scenarios import Played, Scenario, play

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
BINS = 60


def picture(scenario: Scenario, lasts_s: float, title: str) -> str:
    """One SVG: above the limit (or size, or pace) with its decisions, below the throughput."""
    played = play(scenario, seed=1)
    what = "size" if scenario.is_batched else "pace" if played.stage.pace_per_s < math.inf else "limit"
    decided = [d for d in played.stage.decisions if d.what == what and d.at_s <= lasts_s]
    lasts_s = min(lasts_s, played.ended_s[-1]) if scenario.items else lasts_s
    points = [(0.0, decided[0].old if decided else played.stage.limit), *((d.at_s, d.new) for d in decided)]
    points.append((lasts_s, points[-1][1]))
    points = [(t, v) for t, v in points if v < math.inf]
    noun = {"limit": "calls in flight", "pace": "pace, calls/s", "size": "items a batch"}[what]
    below = TOP + HIGH + GAP
    drawn = Picture(WIDE, below + HIGH + 30, f"{title}: {noun} and throughput over time")
    drawn.text(12, 18, title, size=13)
    drawn.legend(WIDE - 240, 18, [(name, name) for name in ("grow", "hold", "probe", "cut")], mark="dot")
    x = Scale(0, lasts_s, LEFT, WIDE - 12)
    y = Scale(0, 1.1 * max(v for _, v in points), TOP + HIGH, TOP)
    drawn.panel(x, y, noun)
    drawn.line(steps((x(t), y(v)) for t, v in points), "ink", thick=1.4)
    dots = [d for d in decided if d.new < math.inf]
    for d in dots[:: max(1, len(dots) // 300)]:
        rule = d.reason.split(":")[0]
        told = f"{d.at_s:.2f} s: {d.old:.0f} to {d.new:.0f}, {d.reason} {d.evidence}"
        drawn.dot(x(d.at_s), y(d.new), rule if rule in COLORS else "hold", r=2.6, title=told)
    rates = _rates(played, lasts_s)
    y = Scale(0, 1.15 * max(v for _, v in rates), below + HIGH, below)
    drawn.panel(x, y, "items/s" if not scenario.is_batched else "calls/s", x_unit=" s")
    drawn.line([(x(t), y(v)) for t, v in rates], "rate", thick=1.4)
    return str(drawn)


def _rates(played: Played, lasts_s: float) -> list[tuple[float, float]]:
    width_s = lasts_s / BINS
    counts = [0] * BINS
    for at_s in played.ended_s:
        if at_s < lasts_s:
            counts[int(at_s / width_s)] += 1
    return [((k + 0.5) * width_s, count / width_s) for k, count in enumerate(counts)]


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
