"""Runs the chosen models, each time in a fresh process, and holds what they did against each other."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from overlapped.compare.base import ComparisonError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from overlapped.compare.catalog import Model

LIMIT_S = 300.0
"""How much longer than one after another a model may take before it is said to hang, at most."""

MEASURES = (
    "requests",
    "requests_per_s",
    "cpu_s",
    "vain_asks_per_request",
    "voluntary_switches_per_request",
    "involuntary_switches_per_request",
    "peak_rss_bytes",
    "concurrency",
)
"""What a model is measured by, in JSON, beside the seconds of each run."""


@dataclass(frozen=True, slots=True)
class Once:
    """One run of one model.

    Attributes:
        seconds: wall time.
        cpu_s: user and system time, s.
        voluntary: context switches because it waited.
        involuntary: context switches because the kernel took the core away.
        vain_asks: how often it asked for what was not there yet.
        found: the limit that it found by itself, if it did.
        peak_rss_bytes: largest resident memory of its process.
        digests: of each piece's bytes, in order.
        began_s: when each piece began, s since the start.
        ended_s: when each piece ended.
        notes: what else the model says.
        figures: numbers of its own, by name.
    """

    seconds: float
    cpu_s: float
    voluntary: int
    involuntary: int
    vain_asks: int
    found: int | None
    peak_rss_bytes: int
    digests: list[str]
    began_s: list[float]
    ended_s: list[float]
    notes: list[str] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)

    def in_flight(self) -> int:
        """Most pieces at once."""
        marks = sorted([(at, 1) for at in self.began_s] + [(at, -1) for at in self.ended_s])
        most = now = 0
        for _, change in marks:
            now += change
            most = max(most, now)
        return most


@dataclass(slots=True)
class Row:
    """One model with all its runs.

    Attributes:
        model: the model.
        count: pieces in each run.
        lines: lines of code.
        runs: each run.
        status: "ok" or "not run".
        reason: why it did not run.
    """

    model: Model
    count: int
    lines: int
    runs: list[Once] = field(default_factory=list)
    status: Literal["ok", "not run"] = "ok"
    reason: str = ""

    @property
    def name(self) -> str:
        """The model's name."""
        return self.model.name

    @property
    def median_s(self) -> float:
        """Median time of a run."""
        return statistics.median(run.seconds for run in self.runs)

    @property
    def median(self) -> Once:
        """The run in the middle: what else is told about the model is this one's."""
        return sorted(self.runs, key=lambda run: run.seconds)[(len(self.runs) - 1) // 2]

    @property
    def concurrency(self) -> int:
        """Pieces in flight: the number found if the model finds one, else what was really reached."""
        run = self.median
        return run.found if run.found is not None else run.in_flight()

    def estimate_s(self, count: int) -> float:
        """What `count` pieces take at this pace."""
        return self.median_s * count / self.count

    def to_dict(self) -> dict[str, Any]:
        """For JSON; a model that did not run has None where there is nothing to tell."""
        told: dict[str, Any] = {"name": self.name, "status": self.status, "reason": self.reason or None}
        told |= {"cell": self.model.about.cell, "lines": self.lines}
        if not self.runs:
            return told | {"seconds": []} | dict.fromkeys(MEASURES)
        run = self.median
        return told | {
            "requests": self.count,
            "seconds": [once.seconds for once in self.runs],
            "requests_per_s": self.count / self.median_s,
            "cpu_s": run.cpu_s,
            "vain_asks_per_request": run.vain_asks / self.count,
            "voluntary_switches_per_request": run.voluntary / self.count,
            "involuntary_switches_per_request": run.involuntary / self.count,
            "peak_rss_bytes": run.peak_rss_bytes,
            "concurrency": self.concurrency,
        }


def run_models(
    rows: Sequence[Row],
    order: Callable[[Row], dict[str, Any]],
    *,
    repeat: int,
    limit_s: Callable[[Row], float],
    on_run: Callable[[str], None],
    name: Callable[[Row], str] = lambda row: row.name,
) -> None:
    """Run each row `repeat` times, all in turn: what disturbs the machine disturbs all of them.

    `on_run` is told what is run next, by its `name`.

    Raises:
        ComparisonError: a model failed or hangs.
    """
    for number in range(repeat):
        for row in rows:
            if row.status != "ok":
                continue
            on_run(name(row) + (f", run {number + 1} of {repeat}" if repeat > 1 else ""))
            told = run_once(row.model, order(row), limit_s(row))
            if told["status"] == "not run":
                row.status, row.reason = "not run", told["reason"]
            elif told["status"] != "ok":
                raise ComparisonError(f"{row.name}: {told['reason']}")
            else:
                del told["status"]
                row.runs.append(Once(**told))


def run_once(model: Model, order: dict[str, Any], limit_s: float) -> dict[str, Any]:
    """What the model's process tells.

    Raises:
        ComparisonError: it hangs, or ended without a word.
    """
    start = f"{model.about.first or 'pass'}; import sys; from overlapped.compare.child import main; sys.exit(main())"
    order = {"module": model.module.__name__, "imports": model.about.imports} | order
    with subprocess.Popen(
        [sys.executable, "-c", start], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            out, err = process.communicate(json.dumps(order), timeout=limit_s)
        except subprocess.TimeoutExpired:
            process.kill()
            raise ComparisonError(f"{model.name} hangs: no end after {limit_s:.0f} s") from None
        except BaseException:  # Ctrl-C: the child must not outlive it
            process.kill()
            raise
    first = model.about.first.replace(";", " ").split(" ")[1].partition(".")[0] if model.about.first else ""
    if first and f"No module named '{first}'" in err:
        from overlapped.compare.base import INSTALL

        return {"status": "not run", "reason": f"{first} is not installed: {INSTALL}"}
    try:
        told: dict[str, Any] = json.loads(out.splitlines()[-1])
    except (IndexError, ValueError):
        last = err.strip().splitlines()[-1:] or [f"its process ended with {process.returncode}"]
        raise ComparisonError(f"{model.name}: {last[0]}") from None
    return told


def check_same(rows: Sequence[Row], expected: list[str] | None) -> None:
    """Every model must have brought the same bytes, in the same order.

    Raises:
        ComparisonError: one did not.
    """
    first = ""
    for row in rows:
        for run in row.runs:
            if expected is None:
                expected, first = run.digests, row.name
            wrong = [i for i, pair in enumerate(zip(run.digests, expected, strict=False)) if pair[0] != pair[1]]
            if wrong:
                than = f"than {first}" if first else "than the server sent"
                raise ComparisonError(
                    f"{row.name} brought other bytes {than}: {len(wrong)} of {row.count}, first number {wrong[0]}"
                )
