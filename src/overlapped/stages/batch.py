"""`batch` and `flatten`: items to lists, and back."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Final

from overlapped._engine.failure import Failure, as_value
from overlapped._engine.feed import EVERYTHING, SCAN_ROUNDS, Feed, Through
from overlapped._engine.lineage import beside, split
from overlapped._engine.tuning import Sizing
from overlapped.control.auto import AUTO, Auto
from overlapped.stages.base import require_int, require_seconds

if TYPE_CHECKING:
    import asyncio

    from overlapped._engine.lineage import Mark, Origin
    from overlapped._engine.scope import Scope
    from overlapped.stages.base import Seat

MOST_BYTES: Final = 16 * 2**20
"""A batch of AUTO is closed by the item of `bytes` or `str` that brings it above this: sixteen of them in
flight are as much as a stage's results may hold."""


AHEAD: Final = 256
"""Items asked for at once when batches are small: a batch of 10 need not cost a pull of its own."""


class BatchFeed(Through):
    """Lists of items. The open batch is this feed's own: it does not count in upstream's look-ahead."""

    def __init__(self, up: Feed, scope: Scope, size: int | Auto, linger_s: float | None, *, is_fatal: bool) -> None:
        super().__init__(up)
        self.scope = scope
        self.size = None if isinstance(size, Auto) else min(size, EVERYTHING)
        self.sizing = Sizing(size) if isinstance(size, Auto) else None
        self.gathers = self.sizing is not None
        self.open_bytes = 0
        self.linger_s = linger_s
        self.is_fatal = is_fatal
        self.open: list[object] = []
        self.due: list[object] = []  # failures and batches that are ready
        self.open_mark: list[Origin] = []
        self.due_marks: list[Mark] = []
        self.marks = None if up.marks is None else []
        self.timer: asyncio.TimerHandle | None = None

    def take(self, want: int) -> list[object]:
        """Full batches; with AUTO whatever has queued, since whoever asks is idle."""
        if want <= 0:
            self.up.take(0)
            return []
        size = self.size if self.sizing is None else self.sizing.size
        assert size is not None
        rounds = 0
        while not self.due:
            chunk = self.up.take(max(size - len(self.open), min(size * want, AHEAD)))
            self._add_all(chunk, size)
            rounds += 1
            if not chunk:
                break
            if rounds >= SCAN_ROUNDS and not self.due:
                return self.later()
        if self.open and (self.up.ended or (self.size is None and not self.due)):
            self._close()
        due = self.due[:want]
        del self.due[: len(due)]
        if self.marks is not None:
            self.marks = self.due_marks[: len(due)]
        del self.due_marks[: len(due)]
        self.ended = self.up.ended and not self.due and not self.open
        if self.open and self.linger_s is not None and self.timer is None:
            self.timer = self.scope.later(self.linger_s, self._lingered)
        return due

    def _add_all(self, chunk: list[object], size: int) -> None:
        apart = (Failure, bytes, str) if self.gathers else Failure
        if self.marks is not None or any(issubclass(kind, apart) for kind in set(map(type, chunk))):
            for item, mark in beside(self.up, chunk):
                self._add(item, mark, size)
            return
        begin = 0
        while begin < len(chunk):  # one by one costs 0.2 us an item more
            end = begin + max(1, size - len(self.open))
            self.open += chunk[begin:end]
            begin = end
            if len(self.open) >= size:
                self._close()

    def _add(self, item: object, mark: Mark, size: int) -> None:
        if type(item) is Failure:
            if (self.is_fatal or item.dead) and self.open:
                self._close()  # results before a failure are delivered before it
            self.due.append(item)
            self.due_marks.append(mark)
            return
        self.open.append(item)
        self.open_mark += mark
        if self.gathers and (type(item) is bytes or type(item) is str):
            self.open_bytes += len(item)
        if len(self.open) >= size or self.open_bytes > MOST_BYTES:
            self._close()

    def _close(self) -> None:
        self.due.append(self.open)
        self.due_marks.append(tuple(self.open_mark))
        self.open = []
        self.open_mark.clear()
        self.open_bytes = 0
        self.scope.forget(self.timer)
        self.timer = None

    def _lingered(self) -> None:
        self.timer = None
        if self.open:
            self._close()
        self.notify()

    def demand(self, total: int) -> None:
        """`total` batches are made of at most so many items."""
        if self.size is not None:
            self.up.demand(total * self.size)


class FlattenFeed(Through):
    """The items of iterables, one iterable after the other, lazily."""

    def __init__(self, up: Feed, scope: Scope, *, is_fatal: bool) -> None:
        super().__init__(up)
        self.scope = scope
        self.is_fatal = is_fatal
        self.outer: Iterator[tuple[object, Mark]] = iter(())
        self.inner: Iterator[object] = iter(())
        self.item: object = None
        self.mark: Mark = ()  # of `item`, as long as there may be more in it
        self.marks = None if up.marks is None else []

    def take(self, want: int) -> list[object]:
        """Up to `want` items."""
        if self.marks is not None:
            self.marks = []
        if want <= 0:
            self.up.take(0)
            return []
        result: list[object] = []
        for _ in range(SCAN_ROUNDS):
            self._fill(result, want)
            if len(result) >= want or self.ended:
                return result
            chunk = self.up.take(want)
            self.outer = iter(beside(self.up, chunk))
            if not chunk:
                self.ended = self.up.ended
                return result
        return result or self.later()

    def _fill(self, result: list[object], want: int) -> None:
        while len(result) < want:
            before = len(result)
            try:
                result.extend(islice(self.inner, want - before))
            except BaseException as error:  # noqa: BLE001 - the iterable's own; it becomes its item's failure
                self._fail(result, error)
            if len(result) == before:
                split(self.mark, into=0)  # there was no more in it
                item, self.mark = next(self.outer, (self, ()))
                if item is self:
                    return
                self._open(item, result)
            if self.marks is not None:
                count = len(result) - before
                self.marks.extend([self.mark] * count)
                split(self.mark, into=count + 1)  # and what there may be left of it

    def _open(self, item: object, result: list[object]) -> None:
        if isinstance(item, Failure):
            result.append(item)
        elif isinstance(item, Iterable) and not isinstance(item, (str, bytes)):
            self.item = item
            try:
                self.inner = iter(item)
            except BaseException as error:  # noqa: BLE001 - as in `_fill`
                self._fail(result, error)
        else:
            self.item = item
            hint = "; use .flat_map for async iterables" if hasattr(item, "__aiter__") else ""
            self._fail(result, TypeError(f"flatten(): an item must be an iterable, got {type(item).__name__}{hint}"))

    def _fail(self, result: list[object], error: BaseException) -> None:
        own = as_value(error, "flatten")
        failure = Failure(own, "flatten", self.item, dead=not isinstance(own, Exception))  # Ctrl-C ends the run
        self.inner = iter(())
        result.append(failure)
        if self.is_fatal or failure.dead:
            self.outer = iter(())
            self.halt()

    def halt(self) -> None:
        """Close the generator that it is in, and halt upstream."""
        inner, self.inner = self.inner, iter(())
        if isinstance(inner, Generator):
            try:
                inner.close()
            except BaseException as error:  # noqa: BLE001 - a clean-up error is never lost
                self.scope.cleanup_errors.append(error)
        super().halt()


class Batch:
    """Items to lists of `size`, or with AUTO to lists of what has queued, up to a size that is found."""

    __slots__ = ("linger_s", "size")
    verb = "batch"

    @property
    def name(self) -> str:
        """`batch(10)`."""
        return f"batch({'' if isinstance(self.size, Auto) else self.size})"

    def __init__(self, size: int | Auto = AUTO, linger_s: float | None = None) -> None:
        if not isinstance(size, Auto):
            require_int("batch", "size", size, 1)
        self.size = size
        self.linger_s = None if linger_s is None else require_seconds("batch", "linger_s", linger_s)

    def attach(self, up: Feed, scope: Scope, seat: Seat) -> Feed:
        """A feed of lists."""
        return BatchFeed(up, scope, self.size, self.linger_s, is_fatal=seat.is_fatal)

    def explain(self) -> str:
        """Its size."""
        size = str(self.size)
        if isinstance(self.size, Auto):
            size += ": what has queued when the next stage asks, up to a size found by measurement"
        return f"batch size {size}" + ("" if self.linger_s is None else f", at the latest after {self.linger_s:g} s")


class Flatten:
    """Lists (any iterables) to their items."""

    __slots__ = ()
    verb = "flatten"
    name = "flatten"

    def attach(self, up: Feed, scope: Scope, seat: Seat) -> Feed:
        """A feed of the items."""
        return FlattenFeed(up, scope, is_fatal=seat.is_fatal)

    def explain(self) -> str:
        """What it does."""
        return "flatten lists to their items"
