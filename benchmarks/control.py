"""Self-tuning beside the best static setting and beside other controllers, on services of known capacity.

Each scenario of `overlapped.testing.scenario_list` is run by the real engine on the virtual clock. Cells: worst and
median (of the seeds) of items per second over the best static setting's, found by sweep; median service time over
its; failed calls an item. The others are compact versions of published controllers, with their own constants and
without the largest limit that their makers let users set.

    python benchmarks/control.py [--seeds 3] [--only NAME ...] [--without-others] [--knee] [--smoke]
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from measure import Bar, judge, table

from overlapped.control.auto import AUTO
from overlapped.control.fixed import Fixed
from overlapped.testing.scenario_list import BATCHED, EVERY, HELD_OUT, TUNED, by_name, lognormal
from overlapped.testing.scenarios import Best, FakeServer, Scenario, play, static_best

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from overlapped.control.base import Controller, ControllerSpec, Sample


@dataclass(frozen=True, slots=True)
class Made:
    """A spec of one of the controllers below."""

    make: Callable[[], Controller]

    def controller(self) -> Controller:
        """A new one."""
        return self.make()


class Aimd:
    """One more with each call that succeeds, 0.9 of it when one is dropped (Netflix concurrency-limits)."""

    reason = "aimd"

    def __init__(self) -> None:
        self.limit, self.level = 20, 20.0

    def finished(self, sample: Sample) -> int:
        """One finished call."""
        if sample.outcome == "drop" or sample.retry_after_s is not None:
            self.level *= 0.9
        elif sample.in_flight * 2 >= self.limit:
            self.level += 1
        self.level = max(1.0, min(2_000.0, self.level))
        self.limit = int(self.level)
        return self.limit


class Vegas:
    """Holds log10(limit) to 6 log10(limit) calls in a queue, told by the fastest call (Netflix)."""

    reason = "vegas"

    def __init__(self) -> None:
        self.limit, self.level, self.fastest_s, self.calls = 20, 20.0, math.inf, 0

    def finished(self, sample: Sample) -> int:
        """One finished call."""
        service_s = sample.now_s - sample.started_s
        self.calls += 1
        if self.calls >= 30 * self.limit:
            self.calls, self.fastest_s = 0, service_s
        self.fastest_s = min(self.fastest_s, service_s) or 1e-9
        log = max(1.0, math.log10(self.level))
        queue = math.ceil(self.level * (1 - self.fastest_s / max(service_s, 1e-9)))
        if sample.outcome == "drop" or sample.retry_after_s is not None:
            self.level -= log
        elif sample.in_flight * 2 >= self.limit:
            self.level += 6 * log if queue <= log else log if queue < 3 * log else -log if queue > 6 * log else 0
        self.level = max(1.0, min(2_000.0, self.level))
        self.limit = int(self.level)
        return self.limit


class Gradient2:
    """Mean service time of a window against that of 600 windows (Netflix)."""

    reason = "gradient2"

    def __init__(self) -> None:
        self.limit, self.level, self.long_s = 20, 20.0, 0.0
        self.sum_s, self.calls, self.windows, self.peak = 0.0, 0, 0, 0

    def finished(self, sample: Sample) -> int:
        """One finished call."""
        self.sum_s += sample.now_s - sample.started_s
        self.calls += 1
        self.peak = max(self.peak, sample.in_flight)
        if self.calls < max(10, self.limit):
            return self.limit
        short_s, self.sum_s, self.calls, peak, self.peak = self.sum_s / self.calls, 0.0, 0, self.peak, 0
        self.windows += 1
        self.long_s += (short_s - self.long_s) / min(600, self.windows)
        if self.long_s > 2 * short_s:
            self.long_s *= 0.95
        if peak * 2 >= self.limit:
            gradient = max(0.5, min(1.0, 1.5 * self.long_s / short_s))
            self.level = 0.8 * self.level + 0.2 * (self.level * gradient + 4)
        self.level = max(1.0, min(2_000.0, self.level))
        self.limit = int(self.level)
        return self.limit


OTHERS: dict[str, ControllerSpec] = {
    "AIMD": Made(Aimd),
    "Gradient2": Made(Gradient2),
    "Vegas": Made(Vegas),
    "fixed 100": Fixed(100),
}
OURS = "overlapped"


@dataclass(frozen=True, slots=True)
class Cell:
    """What the seeds of one scenario came to, beside the best static setting."""

    median: float
    worst: float
    p50: float
    failed: float
    found: str

    def __str__(self) -> str:
        failed = f" e{self.failed:.0%}" if self.failed >= 0.005 else ""
        return f"{self.median:.2f} ({self.worst:.2f}) {self.p50:.1f}x{failed}"


def cell(name: str, who: str, best: Best, seeds: Iterable[int]) -> Cell:
    """Play one scenario with one controller."""
    scenario = by_name(name)
    spec: Any = AUTO if who == OURS else OTHERS[who]
    given: dict[str, Any] = {} if scenario.is_batched else {"concurrency": spec}
    played = [play(scenario, seed=seed, **given) for seed in seeds]
    ratios = [p.per_s / best.per_s for p in played]
    stage = played[0].stage
    return Cell(
        statistics.median(ratios),
        min(ratios),
        statistics.median(p.p50_s for p in played) / best.p50_s if best.p50_s else math.nan,
        statistics.median(p.failed for p in played),
        str(stage.batch_size if scenario.is_batched else stage.limit),
    )


def _job(job: tuple[str, list[str], tuple[int, ...]]) -> tuple[str, Best, dict[str, Cell]]:
    name, who, seeds = job
    best = static_best(by_name(name))
    return name, best, {each: cell(name, each, best, seeds) for each in who}


def knee(sigma: float, seed: int) -> tuple[int, int]:
    """The published case of adaptive-concurrency: from 3 to a knee at 6; completed calls, and windows of 20 calls."""

    def server(seed: int) -> FakeServer:
        return FakeServer(lognormal(0.05, sigma), workers=6, seed=seed)

    scenario = Scenario("knee_6", server, lasts_s=60.0)
    played = play(scenario, concurrency=AUTO(start=3), seed=seed)
    reached_s = next((d.at_s for d in played.stage.decisions if d.what == "limit" and d.new >= 6), math.inf)
    calls = sum(at_s <= reached_s for at_s in played.ended_s)
    return calls, math.ceil(calls / 20)


def main() -> int:
    """Print the tables; 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--without-others", action="store_true")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--smoke", action="store_true", help="two scenarios, one seed: does it run?")
    options = parser.parse_args()
    names = options.only or [scenario.name for scenario in EVERY]
    seeds = tuple(range(1, options.seeds + 1))
    if options.smoke:
        names, seeds = ["single_worker_20ms", "max_25"], (1,)
    others = [] if options.without_others else list(OTHERS)
    jobs = [(n, [OURS] if by_name(n).is_batched else [OURS, *others], seeds) for n in names]
    cells: dict[str, tuple[Best, dict[str, Cell]]] = {}
    with ProcessPoolExecutor(options.processes) as pool:
        for name, best, row in pool.map(_job, jobs):
            cells[name] = (best, row)
            print(f"{name}: {row[OURS]}", file=sys.stderr, flush=True)
    for title, scenarios in (("Tuned on", TUNED), ("Held out", HELD_OUT), ("Batches", BATCHED)):
        rows = [s for s in scenarios if s.name in cells]
        if rows:
            who = [OURS] if title == "Batches" else [OURS, *others]
            print(f"\n{title}: ratio to the best static setting, median (worst); p50; failed\n")
            lines = [_line(s, *cells[s.name], who) for s in rows]
            print(table(["scenario", "best", "items/s", "found", *who], lines))
    for sigma in (0.1, 0.5):
        tries = [knee(sigma, seed) for seed in seeds]
        worst = max(tries)
        print(f"\nfrom 3 to a knee at 6, sigma {sigma}: {worst[0]} calls, {worst[1]} windows of 20 (worst seed)")
    return judge(_bars(cells), smoke=options.smoke or bool(options.only))


def _line(scenario: Scenario, best: Best, row: dict[str, Cell], who: list[str]) -> list[str]:
    mark = " (hard)" if scenario.is_hard else ""
    found = row[OURS].found
    return [scenario.name + mark, str(best.setting), f"{best.per_s:,.0f}", found, *(str(row[each]) for each in who)]


def _bars(cells: dict[str, tuple[Best, dict[str, Cell]]]) -> list[Bar]:
    calls = [row[OURS] for name, (_, row) in cells.items() if not (by_name(name).is_hard or by_name(name).is_batched)]
    sizes = [row[OURS] for name, (_, row) in cells.items() if by_name(name).is_batched and not by_name(name).is_hard]
    bars = []
    if calls:
        bars += [
            Bar("share of ordinary scenarios >= 0.95", _share(calls, 0.95), 0.8, at_least=True),
            Bar("least of the medians", min(c.median for c in calls), 0.85, at_least=True),
            Bar("most failed calls", max(c.failed for c in calls), 0.03),
            Bar("longest p50", max(c.p50 for c in calls), 2.5, "x"),
        ]
    if sizes:
        bars += [
            Bar("share of batched scenarios >= 0.95", _share(sizes, 0.95), 0.6, at_least=True),
            Bar("worst of the batched", min(c.worst for c in sizes), 0.75, at_least=True),
        ]
    return bars


def _share(cells: list[Cell], least: float) -> float:
    return sum(c.median >= least for c in cells) / len(cells)


if __name__ == "__main__":
    sys.exit(main())
