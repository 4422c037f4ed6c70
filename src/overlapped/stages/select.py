"""`take` and `skip`: which of the items, by their number."""

from __future__ import annotations

from typing import TYPE_CHECKING

from overlapped._engine.failure import Failure
from overlapped._engine.feed import SCAN_ROUNDS, Feed, Through
from overlapped._engine.lineage import beside, split
from overlapped.stages.base import require_int

if TYPE_CHECKING:
    from overlapped._engine.lineage import Mark
    from overlapped._engine.scope import Scope
    from overlapped.stages.base import Seat


class TakeFeed(Through):
    """Passes `n` items on, then ends without asking for another."""

    def __init__(self, up: Feed, n: int) -> None:
        super().__init__(up)
        self.gathers, self.sizing = up.gathers, up.sizing
        self.left = n
        self.total = n  # items wanted from upstream, failures included
        self.is_done = self.ended = self.is_empty = n == 0
        self.marks = up.marks
        up.demand(n)

    def start(self) -> None:
        """Start upstream, unless nothing is wanted."""
        if not self.is_done:
            super().start()

    def take(self, want: int) -> list[object]:
        """What upstream has, up to the last item wanted; failures pass by uncounted."""
        if self.ended or want <= 0:
            if not self.is_done:
                self.up.take(0)
            return []
        chunk = self.up.take(min(want, self.left))
        self.marks = self.up.marks
        failures = sum(type(item) is Failure for item in chunk)
        self.left -= len(chunk) - failures
        if failures:
            self.total += failures
            self.up.demand(self.total)
        if self.left == 0:
            self.is_done = True
            self.up.halt()
        self.ended = self.is_done or (not chunk and self.up.ended)
        return chunk

    def demand(self, total: int) -> None:
        """One to one: what is not wanted here is not wanted upstream."""
        self.up.demand(min(total, self.total))


class SkipFeed(Through):
    """Leaves out the first `n` items."""

    def __init__(self, up: Feed, n: int) -> None:
        super().__init__(up)
        self.gathers, self.sizing = up.gathers, up.sizing
        self.left = n
        self.skipped = n
        self.marks = up.marks

    def take(self, want: int) -> list[object]:
        """What comes after the first `n`; failures pass by uncounted."""
        for _ in range(SCAN_ROUNDS):
            chunk = self.up.take(want)
            if not chunk:
                self.ended = self.up.ended
                return []
            self.marks = self.up.marks
            if not self.left:
                return chunk
            kept: list[object] = []
            marks: list[Mark] = []
            for item, mark in beside(self.up, chunk):
                if self.left and type(item) is not Failure:
                    self.left -= 1
                    split(mark, into=0)
                else:
                    kept.append(item)
                    marks.append(mark)
            if kept:
                self.marks = None if self.marks is None else marks
                return kept
        return self.later()

    def demand(self, total: int) -> None:
        """What is skipped is wanted as well."""
        self.up.demand(total + self.skipped)


class Take:
    """The first `n` items."""

    __slots__ = ("n",)
    verb = "take"

    def __init__(self, n: int) -> None:
        self.n = require_int("take", "n", n, 0)

    @property
    def name(self) -> str:
        """`take(n)`."""
        return f"take({self.n})"

    def attach(self, up: Feed, scope: Scope, seat: Seat) -> Feed:
        """A feed of the first `n`."""
        return TakeFeed(up, self.n)

    def explain(self) -> str:
        """What it does."""
        return f"take the first {self.n}; upstream pulls no more than that where stages are one to one"


class Skip:
    """All items but the first `n`."""

    __slots__ = ("n",)
    verb = "skip"

    def __init__(self, n: int) -> None:
        self.n = require_int("skip", "n", n, 0)

    @property
    def name(self) -> str:
        """`skip(n)`."""
        return f"skip({self.n})"

    def attach(self, up: Feed, scope: Scope, seat: Seat) -> Feed:
        """A feed of the rest."""
        return SkipFeed(up, self.n)

    def explain(self) -> str:
        """What it does."""
        return f"skip the first {self.n}"
