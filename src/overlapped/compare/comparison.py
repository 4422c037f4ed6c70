"""A comparison that was made: its rows and what they are held against."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from overlapped.compare.picture import picture
from overlapped.compare.section import Section
from overlapped.compare.table import HEAD, cells, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from overlapped.compare.runner import Row


WORDS = ("model", "in the 2x2", "who has control", "who tells")


@dataclass(frozen=True, slots=True)
class Comparison:
    """All models on one workload.

    Attributes:
        workload: its name.
        subject: what was done, in words.
        noun: what a piece of work is called.
        count: pieces of work in all.
        concurrency: in flight, for models that need the number.
        delay_s: how long one piece waits at least, s; nan if nobody knows.
        bound_s: what no model with that number in flight can beat, s; nan if nobody knows.
        rows: one a model.
        notes: sentences for the reader.
        title: what stands above the picture.
    """

    workload: str
    subject: str
    noun: str
    count: int
    concurrency: int
    delay_s: float
    bound_s: float
    rows: Sequence[Row]
    notes: list[str] = field(default_factory=list)
    title: str = ""

    def by_time(self) -> list[Row]:
        """The rows that ran, the fastest first, then those that did not."""
        ran = [row for row in self.rows if row.runs]
        return sorted(ran, key=lambda row: row.estimate_s(self.count)) + [row for row in self.rows if not row.runs]

    def text(self) -> str:
        """For people."""
        return table(self)

    def sections(self) -> list[Section]:
        """For a page."""
        rows = self.by_time()
        abouts = [(row.name, row.model.about) for row in self.rows]
        return [
            Section(
                picture=picture(self),
                head=HEAD,
                rows=[cells(row, self) for row in rows if row.runs],
                not_run=[(row.name, row.reason) for row in rows if not row.runs],
                legend=f"Asked in vain, switches (voluntary + involuntary): a {self.noun}. CPU and memory: of the "
                "model's own process, in the run in the middle. Lines: of code, without imports and docstrings.",
                words=[WORDS, *((name, about.cell, about.control, about.notice) for name, about in abouts)],
            )
        ]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "workload": self.workload,
            "subject": self.subject,
            "requests": self.count,
            "concurrency": self.concurrency,
            "delay_s": None if math.isnan(self.delay_s) else self.delay_s,
            "bound_s": None if math.isnan(self.bound_s) else self.bound_s,
            "models": [row.to_dict() for row in self.rows],
            "notes": self.notes,
        }


@dataclass(frozen=True, slots=True)
class Several:
    """Comparisons that belong together.

    Attributes:
        workload: its name.
        parts: each of them.
    """

    workload: str
    parts: Sequence[Comparison]

    def text(self) -> str:
        """For people."""
        return "\n\n".join(part.text() for part in self.parts)

    def sections(self) -> list[Section]:
        """For a page."""
        return [section for part in self.parts for section in part.sections()]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"workload": self.workload, "comparisons": [part.to_dict() for part in self.parts]}
