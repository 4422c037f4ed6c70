"""Which items of the source a result comes from: a second list beside each chunk, absent when nobody asks."""

from __future__ import annotations

from itertools import repeat
from typing import TYPE_CHECKING

from overlapped._engine.feed import Through

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from overlapped._engine.feed import Feed


class Origin:
    """One item of the source, until nothing that comes from it is on its way any more: then it is *done*.

    Attributes:
        position: its number in the source, from 0.
        item: the item itself.
        open: pieces of it that are on their way: 1 at first, as many as a `flat_map` made of it, 0 when done.
    """

    __slots__ = ("item", "on_done", "open", "position")

    def __init__(self, position: int, item: object, on_done: Callable[[Origin], None]) -> None:
        self.position = position
        self.item = item
        self.open = 1
        self.on_done = on_done


Mark = tuple[Origin, ...]
"""What stands beside an item: its origins - one, or all those of a batch."""


def split(mark: Mark, into: int) -> None:
    """What was one has become `into`: 0 if it has left the flow, by a filter, at the end, in a sink."""
    for origin in mark:
        origin.open += into - 1
        if not origin.open:
            origin.on_done(origin)


def beside(feed: Feed, chunk: Iterable[object]) -> Iterable[tuple[object, Mark]]:
    """The items of a chunk with their marks, whether there are any or not."""
    return zip(chunk, repeat(()) if feed.marks is None else feed.marks, strict=False)


class Marked(Through):
    """A source whose items are marked: what all other marks come from."""

    def __init__(self, up: Feed, on_done: Callable[[Origin], None]) -> None:
        super().__init__(up)
        self.is_free = up.is_free
        self.marks = []
        self._on_done = on_done
        self._position = 0

    def take(self, want: int) -> list[object]:
        """What the source gives."""
        chunk = self.up.take(want)
        self.ended = self.up.ended
        self.marks = [(Origin(n, item, self._on_done),) for n, item in enumerate(chunk, self._position)]
        self._position += len(chunk)
        return chunk

    def is_clean(self) -> bool:
        """As the source."""
        return self.up.is_clean()

    def demand(self, total: int) -> None:
        """One to one."""
        self.up.demand(total)
