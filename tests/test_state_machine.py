"""One run under everything that can happen to it, in any order, on the virtual clock (docs/design.md).

Times are small whole numbers, so that events meet in the same turn of the loop. A failing example is printed
as a program of steps. More examples: `pytest tests/test_state_machine.py --hypothesis-profile thorough`.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import overlapped
from overlapped import CallTimeout, Overloaded, Rate, Retry, RunRecord
from overlapped.control.base import Sample
from overlapped.testing import VirtualLoop

CAUGHT = "caught"
PAUSE_S = 2.0
TURNS = 30  # of the loop, after each step: enough for anything that needs no time
FOREVER_S = 100_000.0


@dataclass(frozen=True)
class Attempt:
    """One call: how long it works, how it ends, how long it goes on after it was cancelled."""

    service_s: int
    end: str
    stubborn_s: int = 0


@dataclass(frozen=True)
class Item:
    """What will happen to one item; its last attempt stands for all later ones."""

    n: int
    attempts: tuple[Attempt, ...]
    is_kept: bool
    outputs: int

    def attempt(self, number: int) -> Attempt:
        return self.attempts[min(number, len(self.attempts)) - 1]


@dataclass(frozen=True)
class Setup:
    """The flow and how it is run."""

    verb: str
    is_ordered: bool
    limit: int
    mode: str
    attempts: int
    base_s: float
    timeout_s: float | None
    per_key: int | None
    has_rate: bool
    after: str
    bad: int  # one item in so many may fail; 0: none
    lasts: int  # steps before the run may be ended


ATTEMPTS = st.builds(
    Attempt,
    st.integers(0, 3),
    st.sampled_from(["ok", "ok", "ok", "fail", "overloaded"]),
    st.sampled_from([0, 0, 0, 1, 2]),
)
SETUPS = st.builds(
    Setup,
    verb=st.sampled_from(["map", "map", "filter", "flat_map"]),
    is_ordered=st.booleans(),
    limit=st.integers(1, 3),
    mode=st.sampled_from(["raise", "keep", "catch"]),
    attempts=st.integers(1, 3),
    base_s=st.sampled_from([0.0, 0.5, 3.0]),
    timeout_s=st.sampled_from([None, None, 2.5]),
    per_key=st.sampled_from([None, None, 1]),
    has_rate=st.sampled_from([False, False, True]),
    after=st.sampled_from(["", "", "map", "batch", "take"]),
    bad=st.sampled_from([0, 1, 5, 20]),
    lasts=st.integers(0, 25),
)
DELAYS = st.integers(0, 2)
TAKEN = 4  # what `.take` in a flow takes
MOST_ITEMS = 100


class Dial:
    """A controller whose limit the machine turns; the engine sees it when a call has finished."""

    def __init__(self, limit: int) -> None:
        self.wanted = limit
        self.limit = limit
        self.reason = "set by the machine"
        self.most = limit

    def controller(self) -> Dial:
        return self

    def finished(self, sample: Sample) -> int:
        assert sample.started_s <= sample.now_s
        self.limit = self.wanted
        self.most = max(self.most, self.limit)
        return self.limit


class DialSpec:
    """Makes the run's controller, which the machine keeps."""

    def __init__(self, dial: Dial) -> None:
        self.dial = dial

    def controller(self) -> Dial:
        return self.dial


class OneRun(RuleBasedStateMachine):
    """Source, calls, consumer and dial of one run, all in the machine's hands."""

    @initialize(setup=SETUPS)
    def start(self, setup: Setup) -> None:
        self.setup = setup
        self.loop = VirtualLoop()
        self.dial = Dial(setup.limit)
        self.given: list[Item] = []  # pushed
        self.pulled: list[Item] = []
        self.inbox: asyncio.Queue[Any] = asyncio.Queue()
        self.commands: asyncio.Queue[Any] = asyncio.Queue()
        self.is_source_ended = self.is_source_broken = self.is_source_closed = False
        self.tries: dict[int, int] = {}
        self.in_flight: list[int] = []
        self.second_in_flight = 0
        self.ended_calls: set[int] = set()
        self.finished: list[int] = []  # ended well, in this order
        self.starts: list[tuple[int, float]] = []
        self.fatal: tuple[int, float] | None = None
        self.pauses: list[tuple[int, float]] = []
        self.delivered: list[Any] = []
        self.outcome: Any = None  # "end", "left" (before it), or the exception
        self.is_left = self.is_waiting = False
        self.steps = 0
        self.drained_s = math.inf
        self.items: Any = None
        self.violations: list[str] = []
        self.consumer = self.loop.create_task(self.consume(self.flow()))
        self.run(self.turns())

    # -- the parts in the machine's hands ---------------------------------------------------------------

    def flow(self) -> Any:
        setup = self.setup
        options: dict[str, Any] = {
            "ordered": setup.is_ordered,
            "concurrency": DialSpec(self.dial),
            "retry": Retry(attempts=setup.attempts, base_s=setup.base_s, jitter=False) if setup.attempts > 1 else None,
            "rate": Rate(1, per_s=1) if setup.has_rate else None,
        }
        if setup.verb != "flat_map":
            options["timeout_s"] = setup.timeout_s
        if setup.per_key is not None:
            options |= {"key": lambda item: item.n % 2, "per_key": setup.per_key}
        start: Any = overlapped.flow(self.source)
        flow = getattr(start, setup.verb)(self.generate if setup.verb == "flat_map" else self.call, **options)
        if setup.verb == "filter":
            flow = flow.map(_number)
        if setup.mode == "catch":
            flow = flow.catch(Exception, replace=CAUGHT)
        return {
            "": lambda: flow,
            "map": lambda: flow.map(self.second, concurrency=2, ordered=setup.is_ordered),
            "batch": lambda: flow.batch(2),
            "take": lambda: flow.take(TAKEN),
        }[setup.after]()

    async def source(self) -> Any:
        try:
            while (item := await self.inbox.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                self.pulled.append(item)
                self.demand(self.loop.time() <= self.drained_s, f"item {item.n} was pulled after drain()")
                yield item
        finally:
            self.is_source_closed = True

    async def call(self, item: Item) -> Any:
        number = self.begin(item)
        attempt = item.attempt(number)
        began_s = self.loop.time()
        try:
            await asyncio.sleep(attempt.service_s)
        except asyncio.CancelledError:
            if attempt.stubborn_s == 0:
                timeout_s = self.setup.timeout_s
                if timeout_s is not None and self.loop.time() == began_s + timeout_s:
                    self.note_failure(item, number)
                raise
            await self.ignore_cancel(attempt.stubborn_s)
        finally:
            self.in_flight.remove(item.n)
        self.finish(item, number)
        return item.is_kept if self.setup.verb == "filter" else item.n

    async def ignore_cancel(self, for_s: float) -> None:
        until = self.loop.time() + for_s
        while self.loop.time() < until:
            try:
                await asyncio.sleep(until - self.loop.time())
            except asyncio.CancelledError:
                continue

    async def generate(self, item: Item) -> Any:
        number = self.begin(item)
        attempt = item.attempt(number)
        try:
            await asyncio.sleep(attempt.service_s)
            for i in range(item.outputs):
                yield item.n, i
                await asyncio.sleep(attempt.stubborn_s)  # between outputs: generators obey their cancel
        finally:
            self.in_flight.remove(item.n)
        self.finish(item, number)

    def finish(self, item: Item, number: int) -> None:
        end = item.attempt(number).end
        if end == "ok":
            self.ended_calls.add(item.n)
            self.finished.append(item.n)
            return
        self.note_failure(item, number)
        if end == "overloaded":
            self.pauses.append((item.n, self.loop.time()))
            raise Overloaded(str(item.n), retry_after_s=PAUSE_S)
        raise ValueError(item.n)

    def note_failure(self, item: Item, number: int) -> None:
        """If it is the item's last, nothing new may start from now on in raise mode."""
        is_last = number >= self.setup.attempts or (self.setup.verb == "flat_map" and item.outputs > 0)
        if is_last:
            self.ended_calls.add(item.n)
            if self.setup.mode == "raise" and (self.fatal is None or item.n < self.fatal[0]):
                self.fatal = (item.n, min(self.loop.time(), self.fatal[1] if self.fatal else math.inf))

    async def second(self, value: Any) -> Any:
        self.second_in_flight += 1
        self.demand(self.second_in_flight <= 2, "second stage above its limit")
        try:
            await asyncio.sleep(len(str(value)) % 2)
        finally:
            self.second_in_flight -= 1
        return value

    def begin(self, item: Item) -> int:
        """Everything that must hold when a call starts."""
        now_s = self.loop.time()
        number = self.tries[item.n] = self.tries.get(item.n, 0) + 1
        setup = self.setup
        self.in_flight.append(item.n)
        self.demand(len(self.in_flight) <= self.dial.limit, f"{self.in_flight} in flight, limit {self.dial.limit}")
        self.demand(self.in_flight.count(item.n) == 1, f"item {item.n} is called twice at once")
        self.demand(number <= setup.attempts, f"attempt {number} of item {item.n}")
        if setup.per_key is not None:
            mine = [n for n in self.in_flight if n % 2 == item.n % 2]
            self.demand(len(mine) <= setup.per_key, f"{mine} of one key in flight")
            if number == 1:
                first = [n for n, _ in self.starts if n % 2 == item.n % 2]
                self.demand(all(n < item.n or self.tries[n] > 1 for n in first), f"{item.n} overtaken in its key")
        if setup.has_rate and self.starts:
            self.demand(now_s - self.starts[-1][1] > 1 - 1e-6, f"item {item.n}: two starts within 1 s")
        for n, at_s in self.pauses:
            if setup.per_key is None or n % 2 == item.n % 2:
                self.demand(not at_s < now_s < at_s + PAUSE_S, f"item {item.n} started {now_s - at_s} s into a pause")
        if self.fatal is not None and now_s > self.fatal[1]:
            self.demand(
                setup.is_ordered and item.n < self.fatal[0], f"item {item.n} started after the failure {self.fatal}"
            )
        self.demand(self.outcome is None, f"item {item.n} started after the end")
        self.starts.append((item.n, now_s))
        return number

    async def consume(self, flow: Any) -> None:
        try:
            async with flow.open(on_failure="keep" if self.setup.mode == "keep" else "raise") as items:
                self.items = items
                await self.obey(items)
        except BaseException as error:  # noqa: BLE001 - judged by the invariants
            self.outcome = error
        else:
            self.outcome = self.outcome or "left"

    async def obey(self, items: Any) -> None:
        while (command := await self.commands.get()) is not None:
            count, timeout_s = command
            for _ in range(count):
                self.is_waiting = True
                try:
                    item = await asyncio.wait_for(anext(items), timeout_s)
                except TimeoutError as error:
                    if isinstance(error, CallTimeout):
                        raise
                    continue
                except StopAsyncIteration:
                    self.outcome = "end"
                    return
                finally:
                    self.is_waiting = False
                self.delivered.extend(item if self.setup.after == "batch" else [item])
        self.is_left = True

    # -- driving ----------------------------------------------------------------------------------------

    def demand(self, holds: bool, what: str) -> None:
        if not holds:
            self.violations.append(f"{what} at {self.loop.time()}")

    def run(self, work: Any) -> None:
        self.loop.run_until_complete(work)

    def record(self) -> RunRecord:
        async def read() -> RunRecord:
            record: RunRecord = self.items.stats()
            return record

        return self.loop.run_until_complete(read())

    async def turns(self) -> None:
        for _ in range(TURNS):
            await asyncio.sleep(0)

    def later(self, delay_s: float, call: Any, *args: Any) -> None:
        self.steps += 1
        self.loop.call_later(delay_s, call, *args)
        self.run(self.turns())

    @property
    def is_alive(self) -> bool:
        return not self.consumer.done()

    # -- what may happen -----------------------------------------------------------------------------------

    @precondition(lambda self: not self.is_source_ended and len(self.given) < MOST_ITEMS)
    @rule(
        count=st.integers(1, 20),
        attempts=st.lists(st.lists(ATTEMPTS, min_size=1, max_size=3), min_size=1, max_size=4),
        is_kept=st.booleans(),
        outputs=st.integers(0, 3),
        delay_s=DELAYS,
    )
    def push(self, count: int, attempts: list[list[Attempt]], is_kept: bool, outputs: int, delay_s: int) -> None:
        """`count` items that take turns with these attempts."""

        def do() -> None:
            for i in range(count):
                n = len(self.given)
                some = attempts[i % len(attempts)]
                if self.setup.bad == 0 or n % self.setup.bad != self.setup.bad - 1:
                    some = [replace(attempt, end="ok") for attempt in some]
                item = Item(n, tuple(some), is_kept or i % 2 == 0, (outputs + i) % 4)
                self.given.append(item)
                self.inbox.put_nowait(item)

        self.later(delay_s, do)
        self.wait(delay_s)  # before any other step: the source ends behind what was pushed

    @rule(count=st.integers(1, 8), timeout_s=st.sampled_from([None, None, 0.5, 1.0, 2.0]))
    def take(self, count: int, timeout_s: float | None) -> None:
        self.later(0, self.commands.put_nowait, (count, timeout_s))

    @rule(limit=st.integers(1, 5))
    def turn_dial(self, limit: int) -> None:
        self.dial.wanted = limit

    @rule(time_s=st.integers(1, 4))
    def wait(self, time_s: int) -> None:
        self.run(asyncio.sleep(time_s))
        self.later(0, lambda: None)

    @precondition(lambda self: self.steps >= self.setup.lasts)
    @rule(how=st.sampled_from(["source ends", "source fails", "drain", "cancel", "cancel", "leave"]), delay_s=DELAYS)
    def end(self, how: str, delay_s: int) -> None:
        """One of the ways to end a run; a second cancel hits the closing."""
        ways: dict[str, Any] = {"drain": self.drain, "cancel": self.consumer.cancel, "leave": self.leave}
        self.later(delay_s, ways.get(how) or (lambda: self.end_source(is_broken=how == "source fails")))

    def end_source(self, *, is_broken: bool) -> None:
        if not self.is_source_ended:
            self.is_source_ended = True
            self.is_source_broken = is_broken
            self.inbox.put_nowait(KeyError("source") if is_broken else None)

    def drain(self) -> None:
        self.drained_s = min(self.drained_s, self.loop.time())
        self.items.drain()

    def leave(self) -> None:
        self.commands.put_nowait(None)  # `break`: as soon as the consumer has done what it was told

    # -- what must hold -------------------------------------------------------------------------------------

    def expected(self, item: Item) -> tuple[list[Any], str]:
        """The results of an item, and "ok", "failed" or "unsure" (it ignored the cancel of its time-out)."""
        setup = self.setup
        for number in range(1, setup.attempts + 1):
            attempt = item.attempt(number)
            is_late = setup.verb != "flat_map" and setup.timeout_s is not None and attempt.service_s > setup.timeout_s
            if is_late and attempt.stubborn_s:
                return [], "unsure"
            if setup.verb == "flat_map" and item.outputs:
                made: list[Any] = [(item.n, i) for i in range(item.outputs)]
                return made, "ok" if attempt.end == "ok" else "failed"
            if not is_late and attempt.end == "ok":
                is_dropped = setup.verb == "flat_map" or (setup.verb == "filter" and not item.is_kept)
                return ([] if is_dropped else [item.n]), "ok"
        return [], "failed"

    def results(self) -> list[Any]:
        """All results in order, as far as the first failure in raise mode."""
        results: list[Any] = []
        for item in self.pulled:
            made, end = self.expected(item)
            if end == "unsure":
                made = [item.n] if item.n in self.delivered else []
                end = "ok" if made or self.setup.mode != "catch" else "failed"
            results += made
            if end == "failed" and self.setup.mode == "catch":
                results.append(CAUGHT)
            if end == "failed" and self.setup.mode == "raise":
                break
        return results[:TAKEN] if self.setup.after == "take" else results

    @property
    def is_unsure(self) -> bool:
        return any(self.expected(item)[1] == "unsure" for item in self.pulled)

    @invariant()
    def no_promise_was_broken_meanwhile(self) -> None:
        assert not self.violations, self.violations

    @invariant()
    def every_result_is_delivered_at_most_once_and_in_its_place(self) -> None:
        real = [item for item in self.delivered if item != CAUGHT]
        assert len(set(real)) == len(real)
        if self.is_unsure and self.setup.mode != "keep":
            return
        if self.setup.is_ordered:
            assert self.delivered == self.results()[: len(self.delivered)]
            return
        possible = list(itertools.chain.from_iterable(self.expected(item)[0] for item in self.pulled))
        assert self.is_unsure or set(real) <= set(possible)
        if self.setup.after == "map":
            return
        for n in {item[0] for item in real if isinstance(item, tuple)}:
            mine = [item[1] for item in real if item[0] == n]
            assert mine == list(range(len(mine)))

    @invariant()
    def the_look_ahead_is_bounded(self) -> None:
        if self.setup.after not in {"", "map"}:
            return
        bound = 4 * self.dial.most + 16
        if self.setup.verb == "flat_map":
            bound *= 2  # items, and results that nobody has taken
        if self.setup.verb == "filter":
            bound += 4 * 1_000  # the stage behind it has AUTO
        if self.setup.after == "map":
            bound += 4 * 2 + 16
        taken = {item[0] if isinstance(item, tuple) else item for item in self.delivered}
        gone = {item.n for item in self.pulled if item.n in self.ended_calls and self.expected(item)[0] == []}
        assert len(self.pulled) <= len(taken | gone) + bound

    @invariant()
    def the_account_agrees(self) -> None:
        if self.items is None or self.outcome is not None:
            return
        record = self.record()
        first = record.stages[0]
        assert first.in_flight >= len(self.in_flight) or record.state != "running"
        assert first.items_in <= len(self.pulled) + self.is_source_broken  # its failure takes a place
        assert first.limit == self.dial.limit
        assert 0 <= first.ahead <= first.items_in

    @invariant()
    def no_slot_is_empty_while_items_wait(self) -> None:
        setup = self.setup
        if setup.verb == "flat_map" or setup.per_key or setup.has_rate or setup.after == "take":
            return
        now_s = self.loop.time()
        is_paused = any(now_s <= at_s + PAUSE_S for _, at_s in self.pauses)
        is_over = (
            self.outcome is not None or self.fatal is not None or now_s >= self.drained_s or self.consumer.cancelling()
        )
        if is_paused or is_over or self.is_left or self.inbox.empty() or self.is_source_ended:
            return
        first = self.record().stages[0]
        assert first.in_flight >= first.limit or first.ahead >= 4 * first.limit + 16

    @invariant()
    def what_is_ready_is_delivered_at_once(self) -> None:
        setup = self.setup
        is_plain = setup.verb == "map" and setup.after == "" and not self.is_unsure
        if not (is_plain and self.is_waiting and self.is_alive) or self.consumer.cancelling():
            return
        if setup.is_ordered:
            missing = [n for n in self.results()[len(self.delivered) :][:1] if n != CAUGHT]
            assert not any(self.ended_calls >= set(range(n + 1)) for n in missing)
        elif self.fatal is None:
            assert set(self.finished) <= set(self.delivered)

    @invariant()
    def after_the_end_nothing_is_left(self) -> None:
        if self.is_alive:
            return
        assert self.in_flight == []
        assert self.second_in_flight == 0
        assert self.is_source_closed or not self.pulled
        assert asyncio.all_tasks(self.loop) == set()

    def teardown(self) -> None:
        if not hasattr(self, "loop"):
            return
        try:
            self.finish_run()
        finally:
            self.sweep()

    def sweep(self) -> None:
        """End what a failed example has left, so that it does not disturb the next one."""
        for _ in range(3):
            if tasks := asyncio.all_tasks(self.loop):
                for task in tasks:
                    task.cancel()
                self.run(asyncio.wait(tasks, timeout=FOREVER_S))
        self.loop.close()

    def finish_run(self) -> None:
        if self.violations:
            return  # has been reported
        self.end_source(is_broken=False)
        self.commands.put_nowait((10_000, None))
        self.run(asyncio.wait([self.consumer], timeout=FOREVER_S))
        note(f"ended with {self.outcome!r} at {self.loop.time()}, delivered {self.delivered}")
        assert not self.is_alive, "the run hangs"
        self.no_promise_was_broken_meanwhile()
        self.every_result_is_delivered_at_most_once_and_in_its_place()
        self.after_the_end_nothing_is_left()
        self.judge_the_end()

    def judge_the_end(self) -> None:
        """What was delivered in all, by the way in which the run ended."""
        outcome, setup = self.outcome, self.setup
        is_taken = setup.after == "take" and len(self.delivered) == TAKEN
        if self.is_left or isinstance(outcome, asyncio.CancelledError) or (is_taken and outcome != "end"):
            return  # an error, if any, is that of a call that ignored its cancel
        failed = [item.n for item in self.pulled if self.expected(item)[1] == "failed"]
        if outcome == "end":
            assert setup.mode != "raise" or not failed or setup.after == "take"
            if not self.is_unsure:
                complete = self.results()
                if setup.after == "take" and not setup.is_ordered:
                    assert len(self.delivered) == min(TAKEN, len(complete)) or failed
                elif setup.is_ordered:
                    assert self.delivered == complete
                else:
                    assert sorted(map(str, self.delivered)) == sorted(map(str, complete))
            if setup.mode == "keep" and setup.after != "take" and not self.is_unsure:
                assert self.record().failed == len(failed)
        elif isinstance(outcome, KeyError):
            assert self.is_source_broken
            assert self.is_unsure or setup.mode != "raise" or not failed
            assert self.is_unsure or sorted(map(str, self.delivered)) == sorted(map(str, self.results()))
        else:
            assert isinstance(outcome, (ValueError, Overloaded, CallTimeout))
            assert setup.mode == "raise"
            assert self.is_unsure or failed
            if setup.is_ordered and not self.is_unsure:
                assert self.delivered == self.results()
                if not isinstance(outcome, CallTimeout):
                    assert str(outcome) == str(failed[0])


async def _number(item: Item) -> int:
    return item.n


@pytest.mark.timeout(900)  # the thorough profile takes a minute or two
def test_one_run_under_everything_that_can_happen_to_it():
    run_state_machine_as_test(
        OneRun,
        settings=settings(
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
        ),
    )
