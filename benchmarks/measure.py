"""Measures what an item costs: CPU and wall time of many ways to do the same work, in interleaved rounds."""

from __future__ import annotations

import gc
import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

SMOKE_ITEMS = 400
QUIET_LOOP_S = 0.8e-3  # what `slowdown` times where nothing else runs: the machine that bars in us were set on


@dataclass
class Row:
    """One way to do the work. `run(n)` does it for n items and returns how many results it saw.

    With `apart`, the arguments that make a script run it, it has a process of its own and a time limit,
    and `run` is not used: one peer hangs now and then.
    """

    name: str
    run: Callable[[int], int]
    group: str = ""
    least: int = 1_000  # items; more where many threads are to be started, or where the number matters
    most: int = 2_000_000  # fewer for ways that hold everything in memory
    apart: tuple[str, ...] = ()
    n: int = 0
    why_not: str = ""  # it could not be measured
    cpu_us: list[float] = field(default_factory=list)
    wall_us: list[float] = field(default_factory=list)

    @property
    def cpu(self) -> float:
        """CPU time of an item, us: the median of all rounds."""
        return statistics.median(self.cpu_us) if self.cpu_us else float("nan")

    @property
    def wall(self) -> float:
        """Wall time of an item, us: the median of all rounds."""
        return statistics.median(self.wall_us) if self.wall_us else float("nan")


def timed(run: Callable[[int], int], n: int) -> tuple[float, float, int]:
    """CPU and wall time of one run with n items, s, and how many results it saw."""
    gc.collect()
    cpu, wall = time.process_time(), time.perf_counter()
    seen = run(n)
    return time.process_time() - cpu, time.perf_counter() - wall, seen


def once(row: Row, n: int) -> tuple[float, float]:
    """CPU and wall time of one run with n items, s; every item must have had its result."""
    if row.apart:
        cpu, wall, seen = map(float, in_child(*row.apart, str(n)).split())
    else:
        cpu, wall, seen = timed(row.run, n)
    if seen != n:
        raise RuntimeError(f"{seen:g} results for {n} items")
    return cpu, wall


def size(row: Row, budget_s: float) -> None:
    """Find a number of items that keeps `row` busy for about `budget_s`; note why it cannot run, if so."""
    try:
        row.n = row.least
        once(row, row.n)  # imports, first threads
        while True:
            took = max(once(row, row.n))
            if took >= 0.6 * budget_s or row.n >= row.most:
                break
            # At most 8 times as many: the first items may pay for a start that the others don't.
            row.n = min(row.most, int(row.n * min(8.0, 1.1 * budget_s / took)) + 1)
    except Exception as error:  # noqa: BLE001 - whatever a peer raises is why its row is empty
        row.why_not = _said(error)


def slowdown() -> float:
    """How much longer a loop takes now than on the quiet machine of the bars: others work here too."""
    started_s = time.perf_counter()
    for _ in range(20):
        sum(i * i for i in range(25_000))
    return (time.perf_counter() - started_s) / 20 / QUIET_LOOP_S


def measure(rows: Sequence[Row], *, rounds: int, budget_s: float, smoke: bool) -> float:
    """Run all rows in turn, `rounds` times over: what disturbs the machine disturbs all of them.

    Returns:
        How much slower than a quiet one it was meanwhile.
    """
    slow = [slowdown()]
    for row in rows:
        if smoke:
            row.n = min(row.most, SMOKE_ITEMS)
        elif not row.why_not:
            size(row, budget_s)
    for _ in range(rounds):
        for row in rows:
            if row.why_not:
                continue
            try:
                cpu, wall = once(row, row.n)
            except Exception as error:  # noqa: BLE001 - as in `size`
                row.why_not = _said(error)
                continue
            row.cpu_us.append(cpu / row.n * 1e6)
            row.wall_us.append(wall / row.n * 1e6)
        slow.append(slowdown())
    return statistics.median(slow)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A markdown table, padded so that it can be read as it is."""
    rows = [list(head), *map(list, lines)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]

    def shown(row: Sequence[str]) -> str:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        return f"| {' | '.join(cells)} |"

    rule = "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])])
    return "\n".join([shown(rows[0]), f"|{rule}|", *map(shown, rows[1:])])


def machine() -> dict[str, object]:
    """What the numbers were measured on."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_1m": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def in_child(script: str, *args: str, limit_s: float | None = 10.0) -> str:
    """Run a script of this folder in a fresh Python; returns what it printed."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), script)
    command = [sys.executable, path, *args]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit_s)  # noqa: S603 - our own script
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"hangs: no end after {limit_s:g} s") from None
    if done.returncode:
        raise RuntimeError("".join(done.stderr.strip().splitlines()[-1:]))
    return done.stdout


def peak_rss_mib() -> float:
    """Largest resident memory of this process so far, MiB.

    Not `ru_maxrss` where /proc tells: that one starts with the memory of the process that started this one.
    """
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024
    except (OSError, StopIteration):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (2**20 if sys.platform == "darwin" else 2**10)


@dataclass
class Bar:
    """A number that must be reached."""

    what: str
    value: float
    bar: float
    unit: str = ""
    at_least: bool = False

    @property
    def is_reached(self) -> bool:
        """True if `value` is on the right side of `bar`."""
        return self.value >= self.bar if self.at_least else self.value <= self.bar

    def __str__(self) -> str:
        verdict = "reached" if self.is_reached else "missed "
        sign = ">=" if self.at_least else "<="
        return f"bar {verdict}  {self.what}: {self.value:.2f}{self.unit} ({sign} {self.bar:g}{self.unit})"


def judge(bars: Sequence[Bar], *, smoke: bool) -> int:
    """Print each bar; the exit code is 1 if one is missed and this is no smoke run."""
    print()
    if smoke:
        print(f"everything runs; with so few items the {len(bars)} bars mean nothing and are not judged")
        return 0
    for bar in bars:
        print(bar)
    return int(not all(bar.is_reached for bar in bars))
