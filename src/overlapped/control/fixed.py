"""A limit that never changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from overlapped.control.base import Sample


@dataclass(frozen=True, slots=True)
class Fixed:
    """The number the user gave; it is its own controller, since it has no state."""

    limit: int
    reason: str = "fixed"

    def controller(self) -> Fixed:
        """Itself."""
        return self

    def finished(self, sample: Sample) -> int:
        """The same limit, whatever happened."""
        return self.limit
