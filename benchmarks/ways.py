"""Several ways to do the same work, measured in turn, and their table."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any

from measure import table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROUNDS = 3


class Way:
    """One way to do the work for n items.

    `make(n)` gives an iterator of its results, the first of which starts the clock, or says how many s it took.
    """

    def __init__(self, name: str, make: Callable[[int], Iterator[Any] | float], n: int) -> None:
        self.name = name
        self.make = make
        self.n = n
        self.per_s: list[float] = []
        self.why_not = ""

    def once(self) -> None:
        """Measure; results come in any order, and each must come."""
        results = self.make(self.n)
        if isinstance(results, float):
            self.per_s.append(self.n / results)
            return
        seen = 1
        next(results)
        started = time.perf_counter()
        seen += sum(1 for _ in results)
        elapsed_s = time.perf_counter() - started
        if seen != self.n:
            raise RuntimeError(f"{seen} results for {self.n} items")
        self.per_s.append((self.n - 1) / elapsed_s)

    @property
    def rate(self) -> float:
        """Items a second: the median."""
        return statistics.median(self.per_s) if self.per_s else 0.0


def measure(title: str, ways: list[Way], *, smoke: bool) -> dict[str, Way]:
    """Run all ways in turn and print the table; the first one is what the others are compared with."""
    for _ in range(1 if smoke else ROUNDS):
        for way in ways:
            way.n = min(way.n, 300) if smoke else way.n
            if way.why_not:
                continue
            try:
                way.once()
            except ImportError as error:
                way.why_not = f"not installed: {error.name}"
    lines = [
        [way.name, f"{way.rate:,.0f}", f"{1e6 / way.rate:.2f}", f"{ways[0].rate / way.rate:.2f}x", f"{way.n:,}"]
        if way.per_s
        else [way.name, way.why_not, "", "", ""]
        for way in ways
    ]
    print(f"\n## {title}\n")
    print(table(["", "items/s", "us/item", "time, of the first", "items"], lines))
    return {way.name: way for way in ways}
