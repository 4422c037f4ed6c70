"""A comparison of settings: a rate for each of them, and the setting that `overlapped` found by itself."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from overlapped.compare.curve_picture import picture
from overlapped.compare.section import Section
from overlapped.compare.table import columns
from overlapped.report.plain import escape
from overlapped.report.text import seconds

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Spot:
    """One setting, measured.

    Attributes:
        setting: the number in flight, or in a batch.
        rates: pieces a second, of each run.
        call_s: how long one call took, mean, s.
        cpu_s: user and system time for a piece, s.
        peak_rss_bytes: largest resident memory of the process.
        whole_per_s: pieces a second with the search for the setting included; that of `rates` if nothing was searched.
    """

    setting: int
    rates: Sequence[float]
    call_s: float
    cpu_s: float
    peak_rss_bytes: int
    whole_per_s: float

    @property
    def per_s(self) -> float:
        """Median rate."""
        return statistics.median(self.rates)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "setting": self.setting,
            "per_s": self.per_s,
            "runs_per_s": list(self.rates),
            "whole_per_s": self.whole_per_s,
            "call_s": self.call_s,
            "cpu_s_each": self.cpu_s,
            "peak_rss_bytes": self.peak_rss_bytes,
        }


@dataclass(frozen=True, slots=True)
class Curve:
    """One service, or one client, at every setting.

    Attributes:
        name: what was set, in a word or two.
        spots: each setting, ascending; none if it could not be measured.
        found: where `overlapped` ended without a number.
        reason: why it could not be measured.
        bound_per_s: for each setting the rate that nothing can beat; empty if nobody knows.
    """

    name: str
    spots: Sequence[Spot] = ()
    found: Spot | None = None
    reason: str = ""
    bound_per_s: Sequence[float] = ()

    @property
    def best(self) -> Spot:
        """The setting with the highest rate."""
        return max(self.spots, key=lambda spot: spot.per_s)

    @property
    def share(self) -> float:
        """Our rate over the best one of the settings."""
        return self.found.per_s / self.best.per_s if self.found else 0.0

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "name": self.name,
            "status": "ok" if self.spots else "not run",
            "reason": self.reason or None,
            "spots": [spot.to_dict() for spot in self.spots],
            "best": self.best.to_dict() if self.spots else None,
            "found": self.found.to_dict() if self.found else None,
            "found_of_best": self.share if self.found else None,
        }


@dataclass(frozen=True, slots=True)
class Curves:
    """All curves of one workload.

    Attributes:
        workload: its name.
        title: what stands above the picture.
        subject: what was done, in words.
        what: what was set: "in flight", "in a batch".
        noun: what a piece of work is called.
        who: what a curve belongs to: "client", "service".
        curves: one of each.
        notes: sentences for the reader.
        repeat: runs of each setting.
    """

    workload: str
    title: str
    subject: str
    what: str
    noun: str
    who: str
    curves: Sequence[Curve]
    repeat: int = 1
    notes: list[str] = field(default_factory=list)

    @property
    def ran(self) -> list[Curve]:
        """The curves that could be measured."""
        return [curve for curve in self.curves if curve.spots]

    def head(self) -> tuple[str, ...]:
        """Names of the columns."""
        return (self.who, self.what, f"{self.noun}s per s", "of the best", "a call", f"CPU a {self.noun}", "memory")

    def rows(self) -> list[tuple[str, ...]]:
        """A row a setting; after the settings of a curve, what was found."""
        return [row for curve in self.ran for row in self._rows(curve)]

    def _rows(self, curve: Curve) -> list[tuple[str, ...]]:
        rows = [_cells(curve.name, spot, curve, "") for spot in curve.spots]
        return [*rows, _cells("overlapped", curve.found, curve, " found")] if curve.found else rows

    def text(self) -> str:
        """For people."""
        lines = [f"{self.workload}: {self.subject}", ""]
        if rows := self.rows():
            lines += columns([self.head(), *rows])
        lines += [f"{curve.name}  not run: {escape(curve.reason)}" for curve in self.curves if not curve.spots]
        runs = [f"rates: median of {self.repeat} runs, each in a fresh process"] if self.repeat > 1 else []
        return "\n".join([*lines, "", *runs, *self.notes])

    def sections(self) -> list[Section]:
        """For a page."""
        return [
            Section(
                picture=picture(self),
                head=self.head(),
                rows=self.rows(),
                not_run=[(curve.name, curve.reason) for curve in self.curves if not curve.spots],
                legend=" ".join(f"{note[0].upper()}{note[1:]}." for note in self.notes),
            )
        ]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "workload": self.workload,
            "subject": self.subject,
            "setting": self.what,
            "curves": [curve.to_dict() for curve in self.curves],
            "notes": self.notes,
        }


def _cells(name: str, spot: Spot, curve: Curve, more: str) -> tuple[str, ...]:
    return (
        name,
        f"{spot.setting:,}{more}",
        f"{spot.per_s:,.0f}" if spot.per_s >= 10 else f"{spot.per_s:.2g}",
        f"{spot.per_s / curve.best.per_s:.0%}",
        seconds(spot.call_s),
        seconds(spot.cpu_s) if spot.cpu_s >= 1e-4 else f"{spot.cpu_s * 1e6:.3g} us",
        f"{spot.peak_rss_bytes / 2**20:,.0f} MiB",
    )
