"""One stage in one run, between a source that misbehaves as far as a feed may and a consumer that looks closely."""

from __future__ import annotations

import asyncio
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from overlapped._engine.failure import Failure
from overlapped._engine.feed import EVERYTHING, Feed, Through
from overlapped._engine.lineage import split
from overlapped.flow import Flow
from overlapped.running import Run, RunOptions
from overlapped.testing.contracts.base import demand

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from overlapped._engine.lineage import Origin
    from overlapped._engine.scope import Scope
    from overlapped.stages.base import Seat, Stage

LONGEST_WAIT_S: Final = 5.0
"""In real time: when a stage that says nothing is given up."""

MOST_TOLD: Final = 100
"""Ticks at which a source says that there is something, before it waits to be asked."""

MOST_IDLE_TAKES: Final = 10_000
"""Calls of the listener in a row for which there is nothing: more than any stage needs to scan its input."""


class Supply(NamedTuple):
    """How a source gives its items.

    Attributes:
        name: for the message.
        chunk: most items of one take.
        every_s: so often `chunk` items become ready; 0 if all are from the start.
        tells_end_late: that was all is news of its own, after the last item.
    """

    name: str
    chunk: int = EVERYTHING
    every_s: float = 0.0
    tells_end_late: bool = False


class Appetite(NamedTuple):
    """How a consumer takes.

    Attributes:
        name: for the message.
        want: of each take.
        rests_s: after every chunk.
        in_listener: takes in the listener's call itself.
        looks: while it waits, makes sure that there is nothing it should have heard of.
    """

    name: str
    want: int = EVERYTHING
    rests_s: float = 0.0
    in_listener: bool = False
    looks: bool = False


class Upstream(Feed):
    """The feed before the stage. It keeps to its contract in its worst way, and keeps the account of the stage."""

    def __init__(self, items: Iterable[object], supply: Supply) -> None:
        self._items = iter(items)
        self._next: list[object] = []
        self._supply = supply
        self._ready = 0 if supply.every_s else EVERYTHING
        self._is_heard = True
        self._most = EVERYTHING
        self.given: list[object] = []
        self.lent = 0
        self._told = 0
        self.starts = self.halts = self.drains = self.late_takes = 0
        self.breaches: list[str] = []
        self._look_ahead()

    def start(self) -> None:
        """Count it; time begins."""
        self.starts += 1
        if self._supply.every_s:
            self._later()

    def take(self, want: int) -> list[object]:
        """What is ready, as little as the supply says."""
        if type(want) is not int or want < 0:
            self.breaches.append(f"it asked for {want!r} items: an int >= 0 is needed")
            return []
        self.lent = 0
        if want and not self.starts:
            self.breaches.append("it took items before start()")
        self.late_takes += bool(want and self.halts)
        if not want or self.ended:
            return []
        if self._told >= MOST_TOLD:
            self._later()
        self._told = 0
        count = min(want, self._supply.chunk, self._ready, self._most - len(self.given))
        chunk = [*self._next, *islice(self._items, max(0, count - 1))] if count > 0 and self._next else []
        if chunk:
            self._look_ahead()
        self._ready -= 0 if self._ready == EVERYTHING else len(chunk)
        self.given += chunk
        self.lent = len(chunk)
        # An end may come with the last item, with the empty take after it, or as news of its own.
        ends_now = chunk if self._supply.chunk == EVERYTHING else not chunk
        if ends_now and not self._next and not self._supply.tells_end_late:
            self.ended = True
        self._is_heard = bool(chunk)
        return chunk

    def demand(self, total: int) -> None:
        """Give no more than that."""
        self._most = total
        self._tell()

    def halt(self) -> None:
        """Count it, and end."""
        self.halts += 1
        self.ended = True

    def drain(self) -> None:
        """Count it; there is nothing more."""
        self.drains += 1
        self._items, self._next, self.ended = iter(()), [], True
        self._tell()

    def _look_ahead(self) -> None:
        """One item more than asked for, to know of the end."""
        self._next = list(islice(self._items, 1))

    def _later(self) -> None:
        asyncio.get_running_loop().call_later(self._supply.every_s, self._tick)

    def _tick(self) -> None:
        if self.ended:
            return
        if self._next:
            self._ready = max(self._ready, 0) + self._supply.chunk
        elif self._supply.tells_end_late or not self._is_heard:
            self.ended = True
        self._told += 1
        self._tell()
        self.notify()  # for nothing, which is allowed
        if not self.ended and self._told < MOST_TOLD:
            self._later()

    def _tell(self) -> None:
        if not self._is_heard:
            self._is_heard = True
            self.notify()


class _Source:
    """Stands where a flow's source stands."""

    name = "check_stage"

    def __init__(self, up: Upstream) -> None:
        self._up = up

    def feed(self, scope: Scope) -> Feed:
        return self._up

    def check_usable(self) -> None:
        """It is."""


class _Watch(Through):
    """The last feed of the run: tells when it is started, and hears the stage."""

    def __init__(self, up: Feed) -> None:
        super().__init__(up)
        self.marks = up.marks
        self.has_started = asyncio.Event()
        self.hears: Callable[[], None] = lambda: None

    def start(self) -> None:
        super().start()
        self.has_started.set()

    def _heard(self) -> None:
        self.hears()


class _Last:
    """The stage of `_Watch`, after the one that is checked."""

    name = verb = "check_stage"

    def attach(self, up: Feed, scope: Scope, seat: Seat) -> Feed:
        return _Watch(up)

    def explain(self) -> str:
        return ""


class Sitting:
    """A stage in a run of its own, as long as `async with` lasts.

    Args:
        stage: what is checked.
        items: what its source gives; a `Failure` among them is one of an earlier stage.
        supply: how it gives them.
        keep: as `run(on_failure="keep")`.
        wants: as if a `take(n)` stood after the stage.
        in_real_time: on a loop that really waits.
        on_done: keep lineage, and tell of each source item of which nothing is on its way any more.
    """

    def __init__(
        self,
        stage: Stage,
        items: Iterable[object],
        supply: Supply,
        *,
        keep: bool = False,
        wants: int | None = None,
        in_real_time: bool = False,
        on_done: Callable[[Origin], None] | None = None,
    ) -> None:
        self.up = Upstream(items, supply)
        source: Any = _Source(self.up)
        options = RunOptions("keep" if keep else "raise", on_done=on_done)
        self.run = Run(Flow(source, (stage, _Last())), options)
        watch: Any = self.run.chain
        self._watch: _Watch = watch
        self.feed = self._watch.up
        self._watch.hears = self._hear
        self.run.listeners.append(self._look_at_run)
        if wants is not None:
            self.feed.demand(wants)
        self.heard = asyncio.Event()
        self.on_heard: Callable[[], None] | None = None
        self._longest_s = LONGEST_WAIT_S if in_real_time else None

    async def __aenter__(self) -> Self:
        """Wait until it has been started."""
        self.run.end.add_done_callback(lambda _: self._watch.has_started.set())
        await self._watch.has_started.wait()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """End the run; nothing may be left of it."""
        self.run.stop()
        await asyncio.wait([self.run.finished, self.run.warden], return_when=asyncio.FIRST_COMPLETED)
        if not self.run.finished.done():
            self.run.warden.result()  # halt() has raised
        if exc_info[1] is None:
            self.look()
            if errors := self.run.cleanup_errors:
                raise AssertionError(f"an error while the run was closed: {errors[0]!r}") from errors[0]
            demand(self.up.halts, "the run was ended, but halt() did not reach upstream")
            demand(self.feed.ended, "the run was ended, but `ended` is False")
            demand(self.up.starts <= 1, f"it started upstream {self.up.starts} times")

    def _hear(self) -> None:
        self.heard.set()
        if self.on_heard is not None:
            self.on_heard()

    def _look_at_run(self) -> None:
        if self.run.error is not None:
            self.heard.set()

    def look(self) -> None:
        """Raise what has been noticed so far."""
        if self.run.error is not None:
            raise AssertionError(f"it ended the run with {self.run.error!r}") from self.run.error
        if self.up.breaches:
            raise AssertionError(self.up.breaches[0])

    def take(self, want: int) -> list[object]:
        """One take, closely looked at."""
        was_ended = self.feed.ended
        taken: Any = self.feed.take(want)
        demand(isinstance(taken, list), f"take({want}) must return a list, got {taken!r}")
        chunk: list[object] = taken
        demand(len(chunk) <= want, f"take({want}) returned {len(chunk)} items")
        demand(not was_ended or not chunk, f"`ended` was True, then take({want}) returned {chunk!r}")
        demand(not was_ended or self.feed.ended, "`ended` was True, now it is False")
        if chunk and (marks := self.feed.marks) is not None:
            demand(len(marks) == len(chunk), f"take({want}) returned {len(chunk)} items with {len(marks)} marks")
            for mark in marks:
                split(mark, into=0)
        self.look()
        return chunk

    async def collect(self, appetite: Appetite, most: int = EVERYTHING) -> list[object]:
        """Take until the end, or `most` items; whatever has been taken, in its order."""
        got: list[object] = []
        idle = 0
        is_eating = False

        def eat() -> None:
            nonlocal is_eating
            while not is_eating and not self.feed.ended and len(got) < most:
                is_eating = True
                chunk = self.take(min(appetite.want, most - len(got)))
                is_eating = False
                got.extend(chunk)
                if not chunk or appetite.rests_s:
                    return

        self.on_heard = eat if appetite.in_listener else None
        while not self.feed.ended and len(got) < most:
            before = len(got)
            self.heard.clear()
            eat()
            idle = 0 if len(got) > before else idle + 1
            demand(idle < MOST_IDLE_TAKES, f"the listener was called {idle} times for nothing")
            if len(got) > before and appetite.rests_s:
                await asyncio.sleep(appetite.rests_s)
            elif not self.feed.ended and len(got) < most:
                await self._wait(looks=appetite.looks)
        self.on_heard = None
        self.look()
        return got

    async def _wait(self, *, looks: bool) -> None:
        """Wait for the listener's call."""
        while looks and not self.heard.is_set():
            await asyncio.sleep(0.375)  # between the ticks of the source
            if not self.heard.is_set():
                found = self.take(1)
                missed = "the end came" if self.feed.ended else f"{found!r} became ready"
                demand(not found and not self.feed.ended, f"{missed}, and the listener was not called")
        try:
            await asyncio.wait_for(self.heard.wait(), self._longest_s)
        except TimeoutError:
            raise AssertionError(f"it gave nothing for {self._longest_s:g} s, and did not end") from None
        self.look()

    def values_given(self) -> list[object]:
        """What the source has given, failures aside."""
        return [item for item in self.up.given if not isinstance(item, Failure)]
