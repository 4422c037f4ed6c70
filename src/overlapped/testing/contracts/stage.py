"""What every stage must do: whatever comes, however it comes, everything gets through once, and the end ends it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from overlapped._engine.failure import Failure
from overlapped._engine.feed import EVERYTHING
from overlapped.errors import UsageError
from overlapped.stages.base import Stage
from overlapped.testing.clock import Deadlock, run
from overlapped.testing.contracts.base import demand
from overlapped.testing.contracts.feeds import Appetite, Sitting, Supply

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

AT_ONCE: Final = Supply("a source with all at once")
SECONDLY: Final = Supply("a source with one item each second", chunk=1, every_s=1)
SUPPLIES: Final = (
    AT_ONCE,
    Supply("a source that gives one by one", chunk=1),
    SECONDLY,
    Supply("a source with seven each second and a late end", chunk=7, every_s=1, tells_end_late=True),
)

ALL: Final = Appetite("a consumer of everything")
ONE: Final = Appetite("a consumer of one at a time", want=1)
APPETITES: Final = (
    ALL,
    ONE,
    Appetite("a slow consumer", want=3, rests_s=3.5),
    Appetite("a consumer in the listener", want=7, in_listener=True),
    Appetite("a consumer that looks", want=2, looks=True),
)

TAKEN: Final = 3
"""Results taken before something happens: a rest, a halt, a drain."""


class Planted(Exception):
    """The failure that `check_stage` puts among the items."""


def check_stage(
    make_stage: Callable[[], Stage],
    gives: Callable[[list[Any]], Sequence[object]],
    *,
    items: Sequence[object] = tuple(range(40)),
    seen_as: Callable[[list[Any]], Sequence[object]] = list,
    ordered: bool = True,
    pulls: Callable[[int], int] | None = None,
    most_ahead: int = 1_000,
    in_real_time: bool = False,
) -> None:
    """Put a stage through everything a run does with it; raises AssertionError when it falls short.

    It is driven on the virtual loop against the contract of `overlapped._engine.feed.Feed`: between
    sources that give all at once, one by one, or in time, and consumers that take everything, little,
    slowly, or in the listener's call; with failures among the items, demand, rest, halt and drain.

    Args:
        make_stage: makes the stage.
        gives: what a plain loop would give for a list of items: all results in order.
        items: what the source gives, at least ten; equal items must be allowed to come again.
        seen_as: what of a list of results is compared with `gives`, where chunks change the results:
            for `batch(AUTO)` its items.
        ordered: results come in the order of `gives`.
        pulls: most items that it may pull for n results when no more than n are wanted; left out, any.
        most_ahead: most items that it may pull beyond what the results taken need.
        in_real_time: on a real loop, for a stage with threads; up to a second.

    Example:
        >>> from overlapped.stages.select import Skip
        >>> check_stage(lambda: Skip(3), lambda items: items[3:], pulls=lambda n: n + 3)
    """
    demand(len(items) >= 10, f"check_stage(items): ten items are needed, got {len(items)}")
    _Check(
        make_stage,
        gives,
        list(items),
        seen_as,
        ordered=ordered,
        pulls=pulls,
        most_ahead=most_ahead,
        in_real_time=in_real_time,
    ).everything()


@dataclass
class _Check:
    """The scenarios, each a run of its own. The fields are the arguments of `check_stage`."""

    make_stage: Callable[[], Stage]
    gives: Callable[[list[Any]], Sequence[object]]
    items: list[object]
    seen_as: Callable[[list[Any]], Sequence[object]]
    ordered: bool
    pulls: Callable[[int], int] | None
    most_ahead: int
    in_real_time: bool

    def __post_init__(self) -> None:
        self.many = self.items * (1 + 4 * self.most_ahead // len(self.items))  # as good as infinite
        self.available = min(TAKEN, len(self.gives(self.items)))

    def everything(self) -> None:
        """All of it; the same stage serves several runs."""
        stage = self.make_stage()
        self.describes(stage)
        for supply in SUPPLIES:
            for appetite in APPETITES:
                if not (self.in_real_time and appetite.looks):
                    self.scenario(self.delivers(stage, supply, appetite), f"{supply.name}, {appetite.name}")
        for supply in SUPPLIES:
            self.scenario(self.lets_failures_pass(supply), f"{supply.name}, failures, keep mode")
            self.scenario(self.stops_at_a_failure(supply, dead=False), f"{supply.name}, a failure, raise mode")
            self.scenario(self.stops_at_a_failure(supply, dead=True), f"{supply.name} that breaks")
            self.scenario(self.tells_origins(supply), f"{supply.name}, with lineage")
        self.scenario(self.rests(), "a consumer that rests")
        self.scenario(self.obeys_demand(), "a demand")
        self.scenario(self.halts(AT_ONCE, self.available), "halt")
        self.scenario(self.halts(SECONDLY, 0), "halt while it waits")
        self.scenario(self.halts_unstarted(), "halt before start")
        self.scenario(self.drains(AT_ONCE, self.available), "drain")
        self.scenario(self.drains(SECONDLY, 0), "drain while it waits")

    def scenario(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Run one of them; what it raises says which."""
        try:
            asyncio.run(work) if self.in_real_time else run(work)
        except Deadlock as error:
            raise AssertionError(f"{name}: it gave nothing and did not end, or its listener was not called") from error
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error
        except Exception as error:
            error.add_note(f"check_stage: {name}")
            raise

    def sit(self, stage: Stage, items: list[Any], supply: Supply, **options: Any) -> Sitting:
        """The stage in a run."""
        if self.in_real_time and supply.every_s:
            supply = supply._replace(every_s=0.0005)
        return Sitting(stage, items, supply, in_real_time=self.in_real_time, **options)

    def compare(self, got: list[object], want: Sequence[object]) -> None:
        """All there, nothing twice, in order."""
        seen, wanted = list(self.seen_as(got)), list(want)
        if self.ordered:
            same = seen == wanted
        else:
            left = [*wanted]
            same = len(seen) == len(left) and all(_removed(left, one) for one in seen)
        demand(same, f"it must give {_short(wanted)}, got {_short(seen)}")

    async def rest(self) -> None:
        """Long enough for everything that still happens by itself."""
        await asyncio.sleep(0.01 if self.in_real_time else 3600)

    def describes(self, stage: Stage) -> None:
        """What it says of itself."""
        demand(isinstance(stage, Stage), f"{stage!r} has no name, verb, attach() or explain()")
        for name, text in (("name", stage.name), ("verb", stage.verb), ("explain()", stage.explain())):
            demand(text and str(text) == text, f"{name} of {stage!r} must be text, got {text!r}")
            demand("\n" not in text, f"{name} must be one line, got {text!r}")

    async def delivers(self, stage: Stage, supply: Supply, appetite: Appetite) -> None:
        """Everything once, and an end that is final."""
        if self.in_real_time:
            appetite = appetite._replace(rests_s=appetite.rests_s / 1_000)
        async with self.sit(stage, self.items, supply) as sitting:
            self.compare(await sitting.collect(appetite), self.gives(self.items))
            for want in (1, EVERYTHING, 0):
                sitting.take(want)
                await asyncio.sleep(0)
            sitting.take(1)

    async def lets_failures_pass(self, supply: Supply) -> None:
        """Failures neither count nor cost anything."""
        failures = [Failure(Planted(n), "check_stage", n) for n in range(4)]
        items = [*self.items]
        places = (0, 3, 3, len(items))  # by the number of items before it
        for place, failure in reversed([*zip(places, failures, strict=True)]):
            items.insert(place, failure)
        async with self.sit(self.make_stage(), items, supply, keep=True) as sitting:
            got = await sitting.collect(Appetite("two", want=2))
            passed = [item for item in got if isinstance(item, Failure)]
            self.compare([item for item in got if not isinstance(item, Failure)], self.gives(self.items))
            due = [f for n, f in zip(places, failures, strict=True) if self.goes_on_after(self.items[:n])]
            came = [failures.index(one) for one in passed if one in failures]
            demand(len(came) == len(passed), f"{passed!r} holds failures that are not from upstream")
            demand(
                len(due) <= len(came) == len(set(came)), f"of {len(due)} failures from upstream {len(came)} came out"
            )
            demand(not self.ordered or came == sorted(came), "failures from upstream came out in another order")

    async def tells_origins(self, supply: Supply) -> None:
        """With lineage, each source item is done once: when nothing that came of it is on its way. Or it is refused."""
        done: list[int] = []
        items = [*self.items, Failure(Planted("one"), "check_stage")]
        try:
            sitting = self.sit(self.make_stage(), items, supply, keep=True, on_done=lambda o: done.append(o.position))
        except UsageError:
            return  # it has no `marks` beside its chunks, so its flow cannot be resumed
        async with sitting:
            self.compare([i for i in await sitting.collect(ONE) if not isinstance(i, Failure)], self.gives(self.items))
            if sitting.up.starts and not sitting.up.halts:  # else some were not wanted, and are not done
                demand(sorted(done) == [*range(len(items))], f"of {len(items)} source items these are done: {done}")
            demand(len(done) == len(set(done)), f"a source item was done twice: {done}")

    async def stops_at_a_failure(self, supply: Supply, *, dead: bool) -> None:
        """What comes before a failure that ends the run comes out before it."""
        count = len(self.items) // 2 + 1
        failure = Failure(Planted("the end"), "check_stage", dead=dead)
        items = [*self.items[:count], failure, *([] if dead else self.items)]
        async with self.sit(self.make_stage(), items, supply, keep=dead) as sitting:
            got: list[object] = []
            while failure not in got and not sitting.feed.ended:
                got += await sitting.collect(ONE, 1)
            if failure in got:
                del got[got.index(failure) :]
            else:
                demand(not self.goes_on_after(self.items[:count]), "a failure from upstream did not come out")
            self.compare(got, self.gives(self.items[:count]))
            if dead:
                demand(await sitting.collect(ALL) == [], "something came after the failure of a source")

    def goes_on_after(self, items: list[Any]) -> bool:
        """More items would give more, so a failure after these is due."""
        return list(self.gives(items + self.items)) != list(self.gives(items))

    async def rests(self) -> None:
        """A consumer that stops stops the source; when it goes on, so does everything."""
        async with self.sit(self.make_stage(), self.many, AT_ONCE) as sitting:
            got = await sitting.collect(ONE, self.available)
            await self.rest()
            needs = self.needed(len(self.seen_as(got)))
            pulled = len(sitting.up.given)
            demand(
                pulled <= needs + self.most_ahead or pulled == len(self.many) == needs,
                f"for {len(got)} results it pulled {pulled} items, more than {self.most_ahead} ahead",
            )
            demand(sitting.take(0) == [], "take(0) must return []")
            await self.rest()
            got += await sitting.collect(ONE, 30)
            self.compare_first(got, sitting)

    def needed(self, results: int) -> int:
        """How many items it takes for so many results, roughly (up to twice as many)."""
        count = 1
        while count < len(self.many) and len(self.gives(self.many[:count])) < results:
            count *= 2
        return min(count, len(self.many))

    def compare_first(self, got: list[object], sitting: Sitting) -> None:
        """`got` is the beginning of what its source's items give."""
        seen = list(self.seen_as(got))
        wanted = list(self.gives(sitting.values_given()))
        if self.ordered:
            self.compare(got, wanted[: len(seen)])
        else:
            demand(all(_removed(wanted, one) for one in seen), f"{_short(seen)} is not of {_short(wanted)}")

    async def obeys_demand(self) -> None:
        """Of what is not wanted nothing is pulled; what is wanted after all still comes."""
        wants = self.available
        async with self.sit(self.make_stage(), self.many, AT_ONCE, wants=wants) as sitting:
            got = await sitting.collect(ONE, wants)
            await self.rest()
            self.pulled_for(wants, sitting)
            sitting.take(0)
            await self.rest()
            # Where nothing is pulled in advance, all of it has been given on by now: upstream may forget it.
            lent = 0 if self.pulls is None or sitting.up.halts else sitting.up.lent
            demand(not lent, f"take(0) releases what was taken before, but upstream still counts {lent} items")
            if wants < len(self.gives(self.items)):
                sitting.feed.demand(wants + 1)
                got += await sitting.collect(ONE, 1)
                await self.rest()
                self.pulled_for(wants + 1, sitting)
            self.compare_first(got, sitting)

    def pulled_for(self, wants: int, sitting: Sitting) -> None:
        """No more than `pulls` says."""
        pulled = len(sitting.up.given)
        most = EVERYTHING if self.pulls is None else self.pulls(wants)
        demand(pulled <= most, f"demand({wants}): it may pull {most} items, pulled {pulled}")

    async def halts(self, supply: Supply, after: int) -> None:
        """Nothing more is pulled or given; twice does no harm."""
        async with self.sit(self.make_stage(), self.many, supply) as sitting:
            await sitting.collect(ONE, after)
            for _ in range(2):
                sitting.heard.clear()
                sitting.feed.halt()
                demand(not sitting.heard.is_set(), "halt() must not call the listener: it is called from inside a take")
                demand(sitting.feed.ended, "halt() must set `ended`")
                demand(sitting.up.halts, "halt() must reach upstream")
                await self.rest()
                demand(not sitting.up.late_takes, "after halt(), it took items from upstream")
                going_on = [task.get_name() for task in sitting.run.tasks]
                demand(not going_on, f"after halt(), it goes on with {going_on}")
            demand(sitting.take(1) == [], "after halt(), take() must return []")

    async def halts_unstarted(self) -> None:
        """A run may end before it begins."""
        sitting = self.sit(self.make_stage(), self.many, AT_ONCE)
        sitting.run.stop()
        async with sitting:
            pass
        demand(not sitting.up.starts, "it started upstream without having been started")

    async def drains(self, supply: Supply, after: int) -> None:
        """What has been pulled is delivered, then comes the end."""
        async with self.sit(self.make_stage(), self.many, supply) as sitting:
            got = await sitting.collect(ONE, after)
            is_over = sitting.feed.ended
            sitting.feed.drain()
            demand(is_over or sitting.up.drains, "drain() must reach upstream")
            got += await sitting.collect(ONE)
            demand(sitting.feed.ended, "after drain(), it must end")
            self.compare(got, self.gives(sitting.values_given()))


def _removed(from_: list[object], one: object) -> bool:
    try:
        from_.remove(one)
    except ValueError:
        return False
    return True


def _short(values: list[object]) -> str:
    shown = ", ".join(repr(value) for value in values[:12])
    return f"[{shown}{', ...' if len(values) > 12 else ''}] ({len(values)})"
