"""Where a crew's calls run, as the crew sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable


class Shape(Protocol):
    """Where a crew's calls run: in its own workers (direct) or behind a port (threads, processes)."""

    lane: str
    why: str

    def start(self) -> None:
        """Begin to pull."""

    def wake(self) -> None:
        """Something has changed: room, items, a pause's end, a job that is due."""

    @property
    def is_surplus(self) -> bool:
        """True if more places than the limit allows are still to leave."""
        ...

    def busy(self) -> int:
        """Items that are being called, waiting for a retry in their slot included."""
        ...

    def places(self) -> tuple[int, int]:
        """Calls in flight, and items that wait here for a place."""
        ...

    def drop_after(self, index: int) -> None:
        """Cancel every item beyond `index`."""

    def retire(self, then: Callable[[], None]) -> None:
        """Start nothing new, give unstarted jobs back, and call `then()` when nothing runs."""

    def cpu_s(self) -> float | None:
        """CPU time of the calls, s, where it can be told."""


class Unstarted:
    """The shape of a crew that has not started: its resources may not be open yet, so nothing is made."""

    is_surplus = False

    def __init__(self, lane: str = "", why: str = "") -> None:
        self.lane = lane
        self.why = why

    def start(self) -> None:
        """Not yet."""

    def wake(self) -> None:
        """Not yet."""

    def busy(self) -> int:
        """Nothing runs."""
        return 0

    def places(self) -> tuple[int, int]:
        """Nothing runs."""
        return 0, 0

    def drop_after(self, index: int) -> None:
        """Nothing runs."""

    def retire(self, then: Callable[[], None]) -> None:
        """Nothing runs."""
        then()

    def cpu_s(self) -> float | None:
        """Nothing ran."""
        return None
