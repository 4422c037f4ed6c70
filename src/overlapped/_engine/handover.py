"""What leaves a stage: results in their order, bounded, handed over in chunks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from overlapped._engine.feed import EVERYTHING, Through
from overlapped._engine.lineage import split
from overlapped._engine.trays import DROPPED, Spread, Tray

if TYPE_CHECKING:
    from overlapped._engine.feed import Feed
    from overlapped._engine.job import CrewSpec
    from overlapped._engine.lineage import Mark

MAX_UNTAKEN_BYTES: Final = 64 * 2**20
"""With AUTO, `bytes` and `str` results that nobody has taken stay below this (one is always allowed)."""


_SPECIAL: Final = frozenset({Spread, object})
"""Classes of results that are not one value; `DROPPED` is an object."""


class Handover(Through):
    """The outgoing side of a crew.

    Order: `head` is the index whose result leaves next, `late` holds those that came before their turn.
    `released` counts the items whose results have been taken, one chunk late: what the next stage has in
    hand but has not started is still counted as ahead of it.
    """

    # What the hot loop reads and writes: slots are found faster than the 30th key of an instance's dict.
    __slots__ = ("head", "listening")

    def __init__(self, up: Feed, spec: CrewSpec) -> None:
        super().__init__(up)
        self.spec = spec
        self.out: list[object] = []
        # With lineage: the marks of what has been admitted, by index, and those beside `out`.
        self.marked: dict[int, Mark] = {}
        self.out_marks: list[Mark] = []
        self.marks = None if up.marks is None else []
        self.late: dict[int, object] = {}
        self.head = 0
        self.last = EVERYTHING  # index of the earliest fatal failure: nothing beyond it is delivered
        self.is_complete = False  # nothing will be added to `out` any more
        self.listening = False
        self.released = 0
        self.lent = 0
        self.lent_bytes = 0
        self.handed_on = 0
        self.untaken_bytes = 0
        self.weighed = self.weight = 0  # results so far, and their bytes

    @property
    def cap(self) -> int:
        """Bound of the look-ahead."""
        raise NotImplementedError

    def room_changed(self) -> None:
        """Results have been taken: whoever waits for room may look."""
        raise NotImplementedError

    def open_gate(self) -> None:
        """Something that new starts depend on has changed."""
        raise NotImplementedError

    def take(self, want: int) -> list[object]:
        """Results in their order; the earlier ones no longer count in the look-ahead."""
        if self.lent:
            if not self.spec.many:
                self.released += self.lent
            self.untaken_bytes -= self.lent_bytes
            self.lent = self.lent_bytes = 0
            self.room_changed()
        if want <= 0:
            return []
        out = self.out
        if not out:
            self.listening = True
            return []
        # Half of the bound at most, so that the crew goes on while the next stage works on its chunk.
        chunk = out[: min(want, max(1, self.cap // 2))]
        del out[: len(chunk)]
        if self.marks is not None:
            self.marks = self.out_marks[: len(chunk)]
            del self.out_marks[: len(chunk)]
        self.lent = len(chunk)
        self.handed_on += len(chunk)
        if self.untaken_bytes:
            self.lent_bytes = sum(len(r) for r in chunk if type(r) is bytes or type(r) is str)
        if self.spec.many:
            self.room_changed()
        self.ended = self.is_complete and not out
        return chunk

    def announce(self) -> None:
        """Call the listener, if it waits."""
        if self.listening:
            self.listening = False
            self.notify()

    def settle(self, index: int, result: object) -> None:
        """Put the outcome of item `index` in its place and let go what has its turn."""
        if index > self.last:
            return
        if not self.spec.ordered:
            self.emit(index, result)
        elif index != self.head:
            tray = self.late.get(index)
            if type(tray) is Tray:
                tray.close(result)
            else:
                self.late[index] = result
            return
        else:
            self.emit(index, result)
            self.late.pop(index, None)  # its tray, if it had one
            self.head += 1
            if self.late:
                self.advance()
        self.announce()

    def advance(self) -> None:
        """Let go the results that waited for the one before them."""
        late = self.late
        while self.head in late:
            held = late[self.head]
            if type(held) is Tray:
                self._emit_part(self.head, held.give())
                if not held.is_closed:
                    return  # the head's own results go straight out from now on
                held = held.end
            del late[self.head]
            self.emit(self.head, held)
            self.head += 1

    def emit(self, index: int, result: object) -> None:
        """Let the outcome of item `index` go, whatever its turn."""
        if type(result) not in _SPECIAL and self.marks is None and not self.spec.many:
            self.out.append(result)
            return
        before = len(self.out)
        if type(result) is Spread:
            self.out.extend(result.items)
            if not self.spec.many:
                self.released -= len(result.items)  # each is counted when it is taken; together they are one item
            result = result.end
        if result is not DROPPED:
            self.out.append(result)
        if self.marks is not None:
            mark, count = self.marked.pop(index), len(self.out) - before
            self.out_marks.extend([mark] * count)
            split(mark, into=count)
        if self.spec.many or result is DROPPED:
            self.released += 1
            self.open_gate()

    def emit_part(self, index: int, items: list[object]) -> Tray | None:
        """Some results of a call that goes on. Returns the tray they wait on, if it is not their turn."""
        if index > self.last:
            return None
        if self.spec.ordered and index != self.head:
            tray = self.late.get(index)
            if type(tray) is not Tray:
                tray = self.late[index] = Tray()
            tray.items.extend(items)
            return tray
        self._emit_part(index, items)
        self.announce()
        return None

    def _emit_part(self, index: int, items: list[object]) -> None:
        self.out.extend(items)
        if self.marks is not None:
            mark = self.marked[index]
            self.out_marks.extend([mark] * len(items))
            split(mark, into=len(items) + 1)  # and the call that goes on

    def on_tray(self, index: int) -> int:
        """Partial results of the call for `index` that wait for their turn."""
        tray = self.late.get(index)
        return len(tray.items) if type(tray) is Tray else 0

    def weigh_result(self, result: object) -> None:
        """Count the bytes of a result that nobody has taken yet."""
        self.weighed += 1
        if type(result) is bytes or type(result) is str:
            self.weight += len(result)
            self.untaken_bytes += len(result)
            if self.untaken_bytes >= MAX_UNTAKEN_BYTES:
                self.open_gate()

    def room_for_results(self, unknown: int) -> float:
        """How many more results of the usual weight may come before the bound; `unknown` before the first."""
        if not self.weighed:
            return unknown
        mean = self.weight / self.weighed
        return max(1.0, (MAX_UNTAKEN_BYTES - self.untaken_bytes) / mean) if mean else math.inf
