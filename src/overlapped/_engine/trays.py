"""Results that are not one value: none, many at once, or bit by bit before their turn has come."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

TRAY_SIZE: Final = 64
"""Outputs that a generator may be ahead of its turn before it is paused (DESIGN.md rule 8)."""


DROPPED: Final = object()
"""In place of a result: there is none (a filter said no, a generator has ended)."""


@final
class Spread:
    """Many results that take one item's place at once, and what comes after them (a failure, or DROPPED)."""

    __slots__ = ("end", "items")

    def __init__(self, items: Sequence[object], end: object) -> None:
        self.items = items
        self.end = end


@final
class Tray:
    """Outputs of a streaming call that wait for their turn."""

    __slots__ = ("end", "is_closed", "items", "on_room")

    def __init__(self) -> None:
        self.items: list[object] = []
        self.is_closed = False
        self.end: object = None
        self.on_room: Callable[[], None] | None = None

    @property
    def is_full(self) -> bool:
        """True if the call must pause."""
        return len(self.items) >= TRAY_SIZE

    async def wait_for_room(self) -> None:
        """Wait until these outputs have been taken (or nobody wants them)."""
        taken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.on_room = lambda: None if taken.done() else taken.set_result(None)
        try:
            await taken
        finally:
            self.on_room = None

    def close(self, end: object) -> None:
        """The call has ended."""
        self.end = end
        self.is_closed = True

    def give(self) -> list[object]:
        """Hand over all outputs; the call may go on."""
        items, self.items = self.items, []
        if self.on_room is not None:
            self.on_room()
        return items

    def abandon(self) -> None:
        """Nobody wants these outputs; let the call go on so that it can be ended."""
        self.items.clear()
        if self.on_room is not None:
            self.on_room()


def spread(value: Any, name: str) -> Spread:
    """What a `flat_map` function returned, as many results.

    Raises:
        TypeError: it is no iterable, or a `str`, `bytes` or mapping, which nobody means to take apart.
    """
    if isinstance(value, (str, bytes, dict)) or not hasattr(value, "__iter__"):
        raise TypeError(
            f"flat_map({name}): {name} must return an iterable of results, got {type(value).__name__}; "
            f"return a list such as [result], or write .map({name})"
        )
    items: list[object] = list(value)
    return Spread(items, DROPPED)
