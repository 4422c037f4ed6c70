"""What a comparison of any kind gives to a file: pictures with the numbers that they show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from overlapped.report.svg import Picture


@dataclass(frozen=True, slots=True)
class Section:
    """One picture with its table.

    Attributes:
        picture: what is shown.
        head: names of the columns.
        rows: a cell a column.
        not_run: name and reason of what could not be measured.
        legend: what the columns mean.
        words: more about the rows, as a second table whose first row is its head; empty if there is none.
    """

    picture: Picture
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    not_run: Sequence[tuple[str, str]] = ()
    legend: str = ""
    words: Sequence[Sequence[str]] = ()


class Result(Protocol):
    """What a workload ends with."""

    @property
    def workload(self) -> str:
        """Its name."""
        ...

    def text(self) -> str:
        """For people on a terminal."""
        ...

    def sections(self) -> list[Section]:
        """For a page."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        ...
