"""Several sources as one: as they come, one after the other, or side by side."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Literal

from overlapped._engine.failure import Failure
from overlapped._engine.feed import Feed

if TYPE_CHECKING:
    from collections.abc import Sequence

How = Literal["merge", "concat", "zip_"]


class SeveralFeed(Feed):
    """What the three have in common: several feeds upstream."""

    def __init__(self, ups: Sequence[Feed]) -> None:
        self.ups = list(ups)
        self.ended = not self.ups
        for up in self.ups:
            up.listen(self._heard)

    def _heard(self) -> None:
        self.notify()

    def start(self) -> None:
        """Start all."""
        for up in self.ups:
            up.start()

    def halt(self) -> None:
        """Halt all."""
        self.ended = True
        for up in self.ups:
            up.halt()

    def drain(self) -> None:
        """Drain all."""
        for up in self.ups:
            up.drain()


class MergeFeed(SeveralFeed):
    """Items of all feeds as they come; each gets its turn."""

    def take(self, want: int) -> list[object]:
        """A share from every feed."""
        if want <= 0:
            for up in self.ups:
                up.take(0)
            return []
        result: list[object] = []
        share = max(1, want // max(1, len(self.ups)))
        for _ in range(len(self.ups)):
            if len(result) >= want:
                break
            up = self.ups.pop(0)
            self.ups.append(up)  # who was asked first this time is asked last next time
            chunk = up.take(min(share, want - len(result)))
            result += chunk
            if any(isinstance(item, Failure) and item.dead for item in chunk):
                self.halt()
                return result
        self.ended = not result and all(up.ended for up in self.ups)
        return result


class ConcatFeed(SeveralFeed):
    """All items of the first feed, then all of the second, ..."""

    def start(self) -> None:
        """Start the first; the others when their turn comes."""
        if self.ups:
            self.ups[0].start()

    def take(self, want: int) -> list[object]:
        """Items of the feed whose turn it is."""
        while self.ups:
            chunk = self.ups[0].take(want)
            if chunk or want <= 0 or not self.ups[0].ended:
                return chunk
            self.ups.pop(0).halt()  # it may have ended before what comes before it
            if self.ups:
                self.ups[0].start()
        self.ended = True
        return []

    def drain(self) -> None:
        """Finish the feed whose turn it is."""
        del self.ups[1:]
        super().drain()


class ZipFeed(SeveralFeed):
    """Tuples of one item from each feed; it ends with the shortest, as `zip` does."""

    def __init__(self, ups: Sequence[Feed]) -> None:
        super().__init__(ups)
        self.held: list[deque[object]] = [deque() for _ in self.ups]
        self.owes = [False] * len(self.ups)  # its item of a row that has failed is still to come

    def take(self, want: int) -> list[object]:
        """As many tuples as all feeds have items for; a failure does not wait for the rest of its row."""
        for n, held in enumerate(self.held):
            if want > len(held) and (not self.owes[n] or self._settled(n)):
                held.extend(self.ups[n].take(want - len(held)))
        count = min((len(held) for held in self.held), default=0)
        result: list[object] = []
        for _ in range(min(count, want)):
            row = tuple(held.popleft() for held in self.held)
            # A failure stands for its whole row: the others' items have nobody to go with.
            failures = [item for item in row if isinstance(item, Failure)]
            result.append(max(failures, key=lambda failure: failure.dead, default=row))
        if result or want <= 0:
            return result
        if any(up.ended and not held for up, held in zip(self.ups, self.held, strict=True)):
            self.halt()
            return []
        return self._failed_row()

    def _failed_row(self) -> list[object]:
        """The failure of a row that is not complete, if there is one; no further ahead than one row of the others."""
        failures = [held[0] for held in self.held if held and isinstance(held[0], Failure)]
        failure = max(failures, key=lambda failure: failure.dead, default=None)
        if failure is None or (any(self.owes) and not failure.dead):
            return []
        for n, held in enumerate(self.held):
            if held:
                held.popleft()
            else:
                self.owes[n] = True
        return [failure]

    def _settled(self, n: int) -> bool:
        """Drop the item that this feed owes, if it is there: its row has gone."""
        for item in self.ups[n].take(1):
            self.owes[n] = False
            if isinstance(item, Failure) and item.dead:
                self.held[n].append(item)
        return not self.owes[n]


FEEDS = {"merge": MergeFeed, "concat": ConcatFeed, "zip_": ZipFeed}
