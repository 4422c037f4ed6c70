"""`AUTO`: the value written where a number would go, for "measure it"."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from overlapped.errors import UsageError

if TYPE_CHECKING:
    from overlapped.control.batch_size import BatchSize
    from overlapped.control.concurrency import Concurrency

# START: of the constants tried in simulation this one mattered most: 8 instead of 4 gained 0.015 of the
# best static limit's throughput in the mean (docs/design.md), and 8 calls at once are polite to any service.
START = 8

# Batches begin larger: a batch is what has queued, and holding back a short queue would only make more calls.
BATCH_START = 64


@dataclass(frozen=True, slots=True, repr=False)
class Auto:
    """The number is found while the flow runs. Written as `AUTO`, or `AUTO(max=32)` to bound it.

    Args:
        start: the first limit (of calls in flight: 8 if left out; of items in a batch: 64), >= 1.
        max: the largest limit, >= 1; `math.inf` leaves it to the controller's own bound.

    Raises:
        UsageError: a value breaks its rule.

    Example:
        >>> AUTO(max=32)
        AUTO(max=32)
    """

    start: int | None = None
    max: float = math.inf

    def __post_init__(self) -> None:
        given: list[tuple[str, object]] = [("max", self.max)]
        if self.start is not None:
            given.insert(0, ("start", self.start))
        for name, value in given:
            if isinstance(value, bool) or not (isinstance(value, int) or (name == "max" and value == math.inf)):
                raise UsageError(f"AUTO({name}): {name} must be an int, got {value!r}")
            if value < 1:  # pyright: ignore[reportOperatorIssue]  # a number, by the line above
                raise UsageError(f"AUTO({name}): {name} must be >= 1, got {value}")
        if self.start is not None and self.start > self.max:
            raise UsageError(f"AUTO(start): start must be <= max ({self.max}), got {self.start}")

    def __call__(self, *, max: float | None = None, start: int | None = None) -> Auto:  # noqa: A002 - reads as the rule it is
        """Another `AUTO` with these bounds; what is left out stays as it is."""
        return Auto(self.start if start is None else start, self.max if max is None else max)

    def controller(self) -> Concurrency:
        """A new controller in its first state."""
        from overlapped.control.concurrency import Concurrency

        return Concurrency(start=START if self.start is None else self.start, max_limit=self.max)

    def batch_size(self) -> BatchSize:
        """What finds the size of batches, in its first state."""
        from overlapped.control.batch_size import BatchSize

        return BatchSize(start=BATCH_START if self.start is None else self.start, max_size=self.max)

    def __repr__(self) -> str:
        given = [] if self.start is None else [f"start={self.start}"]
        if self.max != math.inf:
            given.append(f"max={self.max}")
        return f"AUTO({', '.join(given)})" if given else "AUTO"


AUTO = Auto()
