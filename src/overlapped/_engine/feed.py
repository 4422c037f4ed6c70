"""The seam between two stages: what is ready is taken, and a listener hears when there may be more."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from overlapped._engine.lineage import Mark
    from overlapped._engine.tuning import Sizing

EVERYTHING: Final = sys.maxsize
"""A `want` or `demand` without bound."""

SCAN_ROUNDS: Final = 64
"""Chunks a stage that may drop everything scans before it lets the loop turn."""


def _nobody() -> None:
    """The listener of a feed that nobody listens to yet."""


class Feed:
    """Items to be pulled. Pulling is synchronous and never waits; waiting is by `listen`.

    So there is nothing to cancel half-way: a consumer that is cancelled while it waits loses nothing.
    Contract, checked by `overlapped.testing.check_stage`:

    - `take(want)` returns at most `want` items that are ready now, `[]` if there are none, and
      releases the items taken before (they no longer count in anyone's look-ahead).
    - After `[]` with `ended` False the listener is called at least once when that changes. It may be
      called for nothing.
    - `ended` True: `take` will return `[]` for ever.
    - `demand(total)`: at most `total` items, failures included, will be taken in all.
    - `halt()`: nothing more will be taken; stop pulling and cancel what runs. May be called twice, and
      calls no listener: it is called from inside a `take`.
    """

    ended: bool = False
    is_empty: bool = False  # known before the start: nothing will ever come, so nothing need be opened
    gathers: bool = False  # the longer nobody takes, the more a chunk holds: ask only when something can start
    is_free: bool = False  # pulling ahead costs nothing and nobody can see it: a list, a range
    marks: list[Mark] | None = None  # beside the last chunk that was not empty, as long as it; None: no lineage
    sizing: Sizing | None = None  # its items are batches, whose size a stage that makes calls tunes
    notify: Callable[[], None] = staticmethod(_nobody)

    def listen(self, listener: Callable[[], None]) -> None:
        """Call `listener()` whenever a `take` that gave nothing may give something."""
        self.notify = listener

    def start(self) -> None:
        """Begin to pull. Called once, upstream first, when the run's resources are open."""

    def take(self, want: int) -> list[object]:
        """Up to `want` items that are ready; releases what was taken before."""
        raise NotImplementedError

    def is_clean(self) -> bool:
        """True only while it is sure that no failure has come out of it."""
        return False

    def demand(self, total: int) -> None:
        """Never more than `total` items will be taken in all."""

    def halt(self) -> None:
        """Nothing more will be taken."""
        self.ended = True

    def drain(self) -> None:
        """Pull nothing new from the source; deliver what has been pulled, then end."""


class Through(Feed):
    """A feed made of another one: what passes everything on unless a subclass says otherwise."""

    def __init__(self, up: Feed) -> None:
        self.up = up
        self.is_empty = up.is_empty
        up.listen(self._heard)

    def _heard(self) -> None:
        self.notify()

    def later(self) -> list[object]:
        """Nothing yet, but there is more to look at: let the loop turn first."""
        asyncio.get_running_loop().call_soon(self._heard)
        return []

    def start(self) -> None:
        """Start upstream."""
        self.up.start()

    def halt(self) -> None:
        """Halt this and upstream."""
        self.ended = True
        self.up.halt()

    def drain(self) -> None:
        """Drain upstream."""
        self.up.drain()
