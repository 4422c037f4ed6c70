"""How many are inside at once: the question behind every test of a limit."""

from __future__ import annotations

import threading
from typing import Self


class Gauge:
    """Counts who is between `with gauge:` and its end; for threads and coroutines alike.

    Example:
        >>> gauge = Gauge()
        >>> with gauge:
        ...     with gauge:
        ...         gauge.now
        2
        >>> gauge.now, gauge.peak, gauge.total
        (0, 2, 2)
    """

    __slots__ = ("_lock", "_now", "_peak", "_total")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = 0
        self._peak = 0
        self._total = 0

    def __enter__(self) -> Self:
        with self._lock:
            self._now += 1
            self._total += 1
            self._peak = max(self._peak, self._now)
        return self

    def __exit__(self, *exc_info: object) -> None:
        with self._lock:
            self._now -= 1

    @property
    def now(self) -> int:
        """How many are inside now."""
        return self._now

    @property
    def peak(self) -> int:
        """The most that were inside at once."""
        return self._peak

    @property
    def total(self) -> int:
        """How many have entered."""
        return self._total

    def __repr__(self) -> str:
        return f"<Gauge now={self._now} peak={self._peak} total={self._total}>"
