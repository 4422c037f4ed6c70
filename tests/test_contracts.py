"""The contracts of stages and lanes: ours keep them, and each planted fault is caught."""

from __future__ import annotations

import asyncio
import contextvars
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import pytest

from overlapped._engine.failure import Failure
from overlapped._engine.feed import EVERYTHING, Feed, Through
from overlapped._engine.lineage import split
from overlapped._engine.ports import Outcome, Running
from overlapped._engine.scope import Scope
from overlapped._engine.trays import DROPPED, TRAY_SIZE, Spread
from overlapped.control.auto import AUTO
from overlapped.lanes.thread import ThreadPort
from overlapped.rate import Rate
from overlapped.retry import Retry
from overlapped.stages.batch import Batch, Flatten
from overlapped.stages.calls import CallStage, Options
from overlapped.stages.catch import Catch
from overlapped.stages.land import Land
from overlapped.stages.select import Skip, Take
from overlapped.stages.transduce import Transduce
from overlapped.testing import check_lane, check_stage
from overlapped.testing.contracts import jobs, lane

# -- our stages ---------------------------------------------------------------------------------------


def batches(size: int):
    return lambda items: [items[i : i + size] for i in range(0, len(items), size)]


def spread(lists) -> list[object]:
    return [item for one in lists for item in one]


def total():
    x = yield
    so_far = 0
    while True:
        so_far += x
        x = yield so_far


def seven():
    x = yield
    for _ in range(7):
        x = yield x


def pairs(items):
    for first in items:
        for second in items:
            yield first, second
            break


async def pairs_async(items):
    async for first in items:
        async for second in items:
            yield first, second
            break


def in_pairs(items) -> list[object]:
    return list(zip(items[::2], items[1::2], strict=False))


class NoSink:
    def describe(self) -> str:
        return "nowhere"

    def open(self) -> NoSink:
        return self

    def write(self, items) -> dict[int, Exception]:
        return {}

    def close(self, ok: bool) -> None:
        pass


STAGES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "take": (lambda: Take(5), lambda items: items[:5], {"pulls": lambda n: min(n, 5)}),
    "take(0)": (lambda: Take(0), lambda items: [], {"pulls": lambda n: 0}),
    "take(1)": (lambda: Take(1), lambda items: items[:1], {"pulls": lambda n: 1}),
    "skip": (lambda: Skip(3), lambda items: items[3:], {"pulls": lambda n: n + 3}),
    "skip all": (lambda: Skip(500), lambda items: items[500:], {"pulls": lambda n: n + 500}),
    "batch": (lambda: Batch(3), batches(3), {"pulls": lambda n: 3 * n}),
    "batch with linger": (lambda: Batch(7, linger_s=100), batches(7), {"pulls": lambda n: 7 * n}),
    "batch(AUTO)": (Batch, list, {"seen_as": spread, "most_ahead": 2_000}),
    "flatten": (Flatten, spread, {"items": [[n] * (n % 4) for n in range(20)]}),
    "catch": (lambda: Catch(KeyError, replace=1), list, {"pulls": lambda n: n}),
    "catch that drops": (lambda: Catch(KeyError), list, {}),
    "transducer": (lambda: Transduce(total), lambda items: list(accumulate(items)), {"pulls": lambda n: n}),
    "transducer that ends": (lambda: Transduce(seven), lambda items: items[:7], {"pulls": lambda n: n}),
    "async generator": (lambda: Transduce(pairs_async), in_pairs, {}),
}


@pytest.mark.parametrize("name", STAGES)
def test_our_stages_keep_the_contract(name):
    make_stage, gives, options = STAGES[name]
    check_stage(make_stage, gives, **options)


@pytest.mark.parametrize(
    ("make_stage", "gives"),
    [(lambda: Transduce(pairs), in_pairs), (lambda: Land(NoSink()), list)],
    ids=["through", "to"],
)
def test_our_stages_with_threads_keep_the_contract(make_stage, gives):
    check_stage(make_stage, gives, items=range(12), most_ahead=3_000, in_real_time=True)


async def double(n: int) -> int:
    await asyncio.sleep(n * 7 % 5 / 4)
    return 2 * n


async def is_odd(n: int) -> bool:
    await asyncio.sleep(n * 7 % 5 / 4)
    return n % 2 == 1


async def repeated(n: int):
    for _ in range(n % 3):
        await asyncio.sleep(n * 7 % 5 / 4)
        yield n


@dataclass
class Flaky:
    """Fails every third call."""

    calls: int = 0

    async def __call__(self, n: int) -> int:
        self.calls += 1
        fails = self.calls % 3 == 0
        await asyncio.sleep(n * 7 % 5 / 4)
        if fails:
            raise KeyError(n)
        return 2 * n


def doubled(items) -> list[int]:
    return [2 * n for n in items]


def _ahead(verb: str, results: int) -> int:
    """Items pulled for so many results: a filter drops every second."""
    return results if verb in ("map", "tap") else 2 * results + 10


@pytest.mark.parametrize("concurrency", [1, 5, AUTO(max=200)], ids=["1", "5", "AUTO"])
@pytest.mark.parametrize(
    ("verb", "fn", "gives", "options"),
    [
        ("map", double, doubled, {}),
        ("map", double, doubled, {"timeout_s": 100}),
        ("map", double, doubled, {"rate": Rate(3)}),
        ("map", double, doubled, {"key": lambda n: n % 3, "per_key": 1}),
        ("map", double, doubled, {"key": lambda n: n % 3, "per_key": Rate(2)}),
        ("map", Flaky(), doubled, {"retry": Retry(50)}),
        ("map", lambda n: 2 * n, doubled, {"on": "inline"}),
        ("tap", double, list, {}),
        ("filter", is_odd, lambda items: [n for n in items if n % 2], {}),
        ("flat_map", repeated, lambda items: [n for n in items for _ in range(n % 3)], {}),
    ],
    ids=["map", "timeout", "rate", "keys", "keyed rate", "retry", "inline", "tap", "filter", "flat_map"],
)
def test_stages_that_call_keep_the_contract(verb, fn, gives, options, concurrency, ordered):  # noqa: PLR0917
    check_stage(
        lambda: CallStage(verb, fn, Options(concurrency=concurrency, ordered=ordered, **options)),
        gives,
        ordered=ordered,
        pulls=None if verb in ("filter", "flat_map") else lambda n: n,
        # Results beyond those taken: what the limit at its largest looks ahead by rule 1; a filter drops every second.
        most_ahead=_ahead(verb, 36 if isinstance(concurrency, int) else 4 * 200 + 100),
    )


@pytest.mark.parametrize(
    ("verb", "fn", "gives"),
    [
        ("map", lambda n: 2 * n, doubled),
        ("filter", lambda n: n % 2, lambda items: [n for n in items if n % 2]),
        ("flat_map", lambda n: iter([n] * (n % 3)), lambda items: [n for n in items for _ in range(n % 3)]),
    ],
)
def test_stages_that_call_in_threads_keep_the_contract(verb, fn, gives, ordered):
    check_stage(
        lambda: CallStage(verb, fn, Options(concurrency=5, ordered=ordered, on="thread")),
        gives,
        items=range(12),
        ordered=ordered,
        in_real_time=True,
    )


# -- stages with a fault ------------------------------------------------------------------------------


class Echo(Through):
    """A feed of one's own, without a fault: passes everything on."""

    scope: Scope
    shared: list[object]

    def take(self, want: int) -> list[object]:
        if self.ended:
            return []
        chunk = self.up.take(want)
        if not chunk and want > 0:
            self.ended = self.up.ended
        return chunk

    def demand(self, total: int) -> None:
        self.up.demand(total)


@dataclass(frozen=True)
class OwnStage:
    feed: Callable[[Any], Any]
    text: str = "a stage of one's own"
    shared: list[object] = field(default_factory=list)
    name = verb = "own"

    def attach(self, up: Feed, scope, seat) -> Any:
        feed = self.feed(up)
        feed.shared = self.shared
        feed.scope = scope
        return feed

    def explain(self) -> str:
        return self.text


def check_own(feed: Callable[[Any], Any], text: str = "a stage of one's own") -> None:
    check_stage(lambda: OwnStage(feed, text), list, pulls=lambda n: n)


def test_check_stage_passes_a_stage_of_ones_own_without_a_fault():
    check_own(Echo)


class GivesMore(Echo):
    def take(self, want):
        return super().take(want and EVERYTHING)


class GivesTuples(Echo):
    def take(self, want):
        return tuple(super().take(want))


class LosesOne(Echo):
    def take(self, want):
        chunk = super().take(want)
        return chunk[1:] if len(chunk) == 7 else chunk


class GivesTwice(Echo):
    last: object = None

    def take(self, want):
        chunk = super().take(want)
        if want > 1 and chunk and self.last is not None:
            chunk = [self.last, *chunk][:want]
        self.last = chunk[-1] if chunk else self.last
        return chunk


class NeverTells(Echo):
    def _heard(self):
        pass


class NeverEnds(Echo):
    def take(self, want):
        chunk = super().take(want)
        self.ended = False
        return chunk


class EndsWithTheLastButOne(Echo):
    def take(self, want):
        chunk = super().take(want)
        self.ended = self.ended or self.up.ended or 39 in chunk
        return chunk[: -1 if 39 in chunk else None]


class TellsEverySecondItem(Through):
    """Takes ahead by itself, and is ready more often than it says."""

    def __init__(self, up):
        super().__init__(up)
        self.held: deque[object] = deque()
        self.told = 0

    def start(self):
        super().start()
        self._heard()

    def _heard(self):
        before = len(self.held)
        while len(self.held) < 30 and (chunk := self.up.take(1)):
            self.held += chunk
        if self.up.ended or (len(self.held) > before and (self.told + len(self.held)) % 2 == 0):
            self.notify()

    def take(self, want):
        chunk = [self.held.popleft() for _ in range(min(want, len(self.held)))]
        self.told += len(chunk)
        if want:
            self.held += self.up.take(1)
        self.ended = self.up.ended and not self.held
        return chunk


class EatsFailures(Echo):
    def take(self, want):
        while True:
            chunk = super().take(want)
            kept = [item for item in chunk if not isinstance(item, Failure)]
            if kept or not chunk:
                return kept


class CopiesFailures(Echo):
    def take(self, want):
        return [Failure(item.error, "own") if isinstance(item, Failure) else item for item in super().take(want)]


class LetsFailuresOvertake(Echo):
    """Holds every item back until the next one has come."""

    def __init__(self, up):
        super().__init__(up)
        self.held: list[object] = []

    def take(self, want):
        while want > 0 and not self.ended:
            chunk = self.up.take(1)
            if not chunk:
                self.ended = self.up.ended
                return self._swap([]) if self.ended else []
            if isinstance(chunk[0], Failure):
                return chunk
            if given := self._swap(chunk):
                return given
        return super().take(want)

    def _swap(self, chunk):
        self.held, chunk = chunk, self.held
        return chunk


class PullsAhead(Echo):
    ahead = 2_000

    def __init__(self, up):
        super().__init__(up)
        self.held: deque[object] = deque()
        self.is_halted = False

    def take(self, want):
        while len(self.held) < self.ahead and not self.is_halted and (chunk := self.up.take(self.ahead)):
            self.held += chunk
        chunk = [self.held.popleft() for _ in range(min(want, len(self.held)))]
        self.ended = not self.held and self.up.ended
        return chunk

    def halt(self):
        self.held.clear()
        self.is_halted = True
        super().halt()

    def demand(self, total):
        pass


class PullsMoreThanWanted(PullsAhead):
    ahead = 8


class LosesWhatItHolds(PullsAhead):
    ahead = 8

    def drain(self):
        self.held.clear()
        super().drain()

    def demand(self, total):
        self.ahead = total
        self.up.demand(total)


class NeverReleases(Echo):
    def take(self, want):
        return super().take(want) if want else []


class DemandsTooLittle(Echo):
    def demand(self, total):
        self.up.demand(total - 1)


class KeepsHaltToItself(Echo):
    def halt(self):
        self.ended = True


class HaltsUpstreamOnly(Echo):
    def halt(self):
        self.up.halt()


class BearsOneHalt(Echo):
    def halt(self):
        assert not self.ended, "halted already"
        super().halt()


class TellsInHalt(Echo):
    def halt(self):
        super().halt()
        self.notify()


class PullsAfterHalt(Echo):
    def halt(self):
        super().halt()
        asyncio.get_running_loop().call_soon(self.up.take, 1)


class LeavesATask(Echo):
    def start(self):
        super().start()
        self.scope.spawn(asyncio.sleep(1e9), "forgotten")


class LeavesATaskOfItsOwn(Echo):
    kept: list[object] = []  # noqa: RUF012 - the fault

    def start(self):
        super().start()
        self.kept.append(asyncio.ensure_future(asyncio.sleep(1e9)))


class RisesFromTheDead(Echo):
    def take(self, want):
        chunk = super().take(want)
        if self.ended and not want:
            self.ended = False
        return chunk


class KeepsDrainToItself(Echo):
    def drain(self):
        pass


class StartsTwice(Echo):
    def start(self):
        super().start()
        super().start()


class StartsNothing(Echo):
    def start(self):
        pass


class PullsBeforeStart(Echo):
    def __init__(self, up):
        super().__init__(up)
        self.early = up.take(1)

    def take(self, want):
        early, self.early = self.early, []
        return early or super().take(want)


class SharesItsState(Echo):
    def take(self, want):
        chunk = [item for item in super().take(want) if isinstance(item, Failure) or item not in self.shared]
        self.shared += chunk
        return chunk


class Aborts(Echo):
    def start(self):
        super().start()
        self.scope.abort(KeyError("own"))


class FailsToClose(Echo):
    def start(self):
        super().start()
        self.scope.closers.append(self.close)

    async def close(self):
        raise OSError("own")


class AsksForNothingSensible(Echo):
    def take(self, want):
        self.up.take(-1)
        return super().take(want)


class Marks(Echo):
    def __init__(self, up):
        super().__init__(up)
        self.marks = up.marks

    def take(self, want):
        chunk = super().take(want)
        self.marks = self.up.marks
        return chunk


class LosesAMark(Marks):
    def take(self, want):
        chunk = super().take(want)
        self.marks = self.marks and self.marks[1:]
        return chunk


class KeepsAPieceOpen(Marks):
    def take(self, want):
        chunk = super().take(want)
        if 5 in chunk and self.marks:
            split(self.marks[chunk.index(5)], into=2)
        return chunk


@pytest.mark.parametrize(
    ("feed", "says"),
    [
        (LosesAMark, "with lineage: .* with 0 marks"),
        (KeepsAPieceOpen, "with lineage: of 41 source items these are done"),
        (GivesMore, r"one at a time: take\(1\) returned 40 items"),
        (GivesTuples, r"must return a list, got \("),
        (LosesOne, r"it must give \[0, 1, .*, got \["),
        (GivesTwice, r"it must give \[0, 1, .*, got \["),
        (NeverTells, "a source with one item each second, .*its listener was not called"),
        (NeverEnds, "it gave nothing and did not end|was called 10000 times for nothing"),
        (EndsWithTheLastButOne, r"it must give \[0, 1, .* \(40\), got .* \(39\)"),
        (TellsEverySecondItem, r"a consumer that looks: \[\d+\] became ready, and the listener was not called"),
        (EatsFailures, "of 4 failures from upstream 0 came out"),
        (CopiesFailures, "holds failures that are not from upstream"),
        (LetsFailuresOvertake, r"a failure, raise mode: it must give .* \(21\), got .* \(20\)"),
        (PullsAhead, r"a consumer that rests: for 3 results it pulled \d+ items, more than 1000 ahead"),
        (PullsMoreThanWanted, r"a demand: demand\(3\): it may pull 3 items, pulled 16"),
        (LosesWhatItHolds, r"drain: it must give .*, got \[0, 1, 2\] \(3\)"),
        (NeverReleases, r"a demand: take\(0\) releases what was taken before, but upstream still counts 1 items"),
        (DemandsTooLittle, "a demand: it gave nothing and did not end"),
        (KeepsHaltToItself, r"halt\(\) .*reach upstream"),
        (HaltsUpstreamOnly, "the run was ended, but `ended` is False"),
        (BearsOneHalt, "halted already"),
        (TellsInHalt, r"halt: halt\(\) must not call the listener"),
        (PullsAfterHalt, r"halt: after halt\(\), it took items from upstream"),
        (LeavesATask, r"halt: after halt\(\), it goes on with \['overlapped:forgotten'\]"),
        (LeavesATaskOfItsOwn, "tasks were left behind:\nTask"),
        (RisesFromTheDead, "`ended` was True, now it is False"),
        (KeepsDrainToItself, r"drain: drain\(\) must reach upstream"),
        (StartsTwice, "it started upstream 2 times"),
        (StartsNothing, r"it took items before start\(\)"),
        (PullsBeforeStart, r"it took items before start\(\)"),
        (SharesItsState, "one at a time: it gave nothing and did not end"),
        (Aborts, "ended the run with KeyError"),
        (FailsToClose, "an error while the run was closed"),
        (AsksForNothingSensible, "it asked for -1 items"),
    ],
)
def test_check_stage_catches(feed, says):
    with pytest.raises(AssertionError, match=says):
        check_own(feed)


def test_check_stage_catches_in_real_time():
    with pytest.raises(AssertionError, match=r"it must give \[0, 1, "):
        check_stage(lambda: OwnStage(LosesOne), list, items=range(21), in_real_time=True)


def test_check_stage_lets_the_stages_own_exception_through_and_says_where():
    class Raises(Echo):
        def take(self, want):
            raise KeyError("own")

    with pytest.raises(KeyError, match="own") as caught:
        check_own(Raises)
    assert caught.value.__notes__[-1] == "check_stage: a source with all at once, a consumer of everything"


def test_check_stage_asks_for_a_description_and_enough_items():
    with pytest.raises(AssertionError, match=r"explain\(\) must be one line"):
        check_own(Echo, "two\nlines")
    with pytest.raises(AssertionError, match=r"explain\(\) of .* must be text, got ''"):
        check_own(Echo, "")
    with pytest.raises(AssertionError, match=r"has no name, verb, attach\(\) or explain\(\)"):
        check_stage(object, list)  # type: ignore[arg-type]  # on purpose
    with pytest.raises(AssertionError, match="ten items are needed, got 3"):
        check_stage(lambda: Take(5), list, items=[1, 2, 3])


def test_check_stage_compares_as_completed_results_without_their_order():
    class Backwards(Echo):
        def take(self, want):
            return super().take(want)[::-1]

    check_stage(lambda: OwnStage(Backwards), list, ordered=False)
    with pytest.raises(AssertionError, match="it must give"):
        check_own(Backwards)


# -- our lanes ----------------------------------------------------------------------------------------


def make_thread_port(fn, *, many: bool) -> ThreadPort:
    return ThreadPort(lambda stack: fn, "check", clock=time.perf_counter, many=many)


def test_our_lanes_keep_the_contract():
    started = time.perf_counter()
    check_lane(make_thread_port)
    assert time.perf_counter() - started < 5  # 0.4 s when nothing else is going on


# -- ports with a fault -------------------------------------------------------------------------------


class Place:
    """One call: a thread of its own."""

    def __init__(self, number: int, in_flight: int) -> None:
        self.number = number
        self.started_s = time.perf_counter()
        self.in_flight = in_flight
        self.room = threading.Semaphore(TRAY_SIZE)
        self.is_unwanted = False


class OwnPort:
    """A port of one's own, without a fault: a thread for each call."""

    def __init__(self, fn, *, many: bool) -> None:
        self.fn = fn
        self.many = many
        self.loop = asyncio.get_running_loop()
        self.jobs: deque[tuple[int, object]] = deque()
        self.places: dict[int, Place] = {}
        self.most = 1
        self.is_closed = False

    def open(self, deliver) -> None:
        self.deliver = deliver

    def put(self, jobs) -> None:
        self.jobs.extend(jobs)
        self.fill()

    def limit(self, n: int) -> None:
        self.most = n
        self.fill()

    def fill(self) -> None:
        while self.jobs and len(self.places) < self.most and not self.is_closed:
            number, item = self.next_job()
            place = self.places[number] = Place(number, len(self.places) + 1)
            context = contextvars.copy_context()
            threading.Thread(target=context.run, args=(self.call, place, item), name="overlapped:own").start()

    def next_job(self):
        return self.jobs.popleft()

    def withdraw(self):
        jobs = list(self.jobs)
        self.jobs.clear()
        return jobs

    def running(self):
        return [Running(place.number, place.started_s) for place in self.places.values()]

    def acknowledge(self, number: int, count: int) -> None:
        if place := self.places.get(number):
            place.is_unwanted = place.is_unwanted or count < 0
            place.room.release(max(1, count))

    def cancel(self, number: int) -> bool:
        return False

    async def close(self, grace_s: float) -> int:
        self.jobs.clear()
        deadline = time.perf_counter() + grace_s
        while self.places and time.perf_counter() < deadline:
            await asyncio.sleep(0.001)
        self.is_closed = True
        return len(self.places)

    def call(self, place: Place, item: object) -> None:
        try:
            value = self.fn(item)
            if self.many:
                value = self.hand_out(place, value)
            outcome = Outcome(place.number, "ok", value)
        except BaseException as error:  # noqa: BLE001 - it is the call's outcome
            outcome = self.failed(place, error)
        self.tell(outcome._replace(started_s=place.started_s, ended_s=time.perf_counter(), in_flight=place.in_flight))

    def failed(self, place: Place, error: BaseException) -> Outcome:
        return Outcome(place.number, "error", error)

    def hand_out(self, place: Place, value):
        if isinstance(value, list):
            return Spread(value, DROPPED)
        for one in value:
            place.room.acquire()
            if place.is_unwanted:
                value.close()
                break
            self.tell(Outcome(place.number, "part", [one]))
        return DROPPED

    def tell(self, outcome: Outcome) -> None:
        self.loop.call_soon_threadsafe(self.told, outcome)

    def told(self, outcome: Outcome) -> None:
        if outcome.kind != "part":
            del self.places[outcome.number]
        if not self.is_closed:
            self.deliver([outcome])
            self.fill()


def test_check_lane_passes_a_port_of_ones_own_without_a_fault():
    check_lane(OwnPort)


class LosesAnOutcome(OwnPort):
    def told(self, outcome):
        if outcome.number == 7:
            del self.places[7]
        else:
            super().told(outcome)


class TellsTwice(OwnPort):
    def told(self, outcome):
        super().told(outcome)
        if outcome.number == 7:
            self.deliver([outcome])


class MixesUpJobs(OwnPort):
    def tell(self, outcome):
        super().tell(outcome._replace(value=0))


class DeliversInItsThread(OwnPort):
    def tell(self, outcome):
        self.told(outcome)


class StartsTheLastFirst(OwnPort):
    def next_job(self):
        return self.jobs.pop()


class CountsTooMuchInFlight(OwnPort):
    def tell(self, outcome):
        super().tell(outcome._replace(in_flight=4))


class EndsBeforeItStarts(OwnPort):
    def tell(self, outcome):
        super().tell(outcome._replace(ended_s=1e-9))


class DiesOfStopIteration(OwnPort):
    def tell(self, outcome):
        if isinstance(outcome.value, StopIteration):
            self.loop.call_soon_threadsafe(self.places.pop, outcome.number)
        else:
            super().tell(outcome)


class WrapsErrors(OwnPort):
    def failed(self, place, error):
        return super().failed(place, RuntimeError(repr(error)))


class IgnoresItsLimit(OwnPort):
    def limit(self, n):
        super().limit(n + 1)


class NeverGrows(OwnPort):
    def limit(self, n):
        self.most = n


class NeverShrinks(OwnPort):
    def limit(self, n):
        super().limit(max(n, self.most))


class GivesBackWhatRuns(OwnPort):
    def withdraw(self):
        return [(number, None) for number in self.places] + super().withdraw()


class GivesNothingBack(OwnPort):
    def withdraw(self):
        super().withdraw()
        return []


class GivesBackACopy(OwnPort):
    def withdraw(self):
        return list(self.jobs)


class ShowsNothing(OwnPort):
    def running(self):
        return []


class ShowsWhatChanges(OwnPort):
    def running(self):
        return list(self.places.values())

    def told(self, outcome):
        self.places[outcome.number].started_s += 1
        super().told(outcome)


class ShowsTheWrongTime(OwnPort):
    def tell(self, outcome):
        super().tell(outcome._replace(started_s=outcome.started_s - 1))


class SaysItCancels(OwnPort):
    def cancel(self, number):
        return True


class ForgetsToPause(OwnPort):
    def hand_out(self, place, value):
        place.room = threading.Semaphore(10**6)
        return super().hand_out(place, value)


class HoldsPartsBack(OwnPort):
    def hand_out(self, place, value):
        return Spread(list(value), DROPPED)


class GoesOnUnwanted(OwnPort):
    def acknowledge(self, number, count):
        super().acknowledge(number, count if count > 0 else 10**6)


class LeavesTheGeneratorOpen(OwnPort):
    kept: list[Any] = []  # noqa: RUF012 - the fault

    def hand_out(self, place, value):
        for one in value:
            place.room.acquire()
            if place.is_unwanted:
                self.kept.append(value)
                break
            self.tell(Outcome(place.number, "part", [one]))
        return DROPPED


class AbandonsInSilence(OwnPort):
    async def close(self, grace_s):
        await super().close(grace_s)
        return 0


class DeliversAfterClose(OwnPort):
    async def close(self, grace_s):
        left = await super().close(grace_s)
        self.is_closed = False
        return left


class StartsWhileItCloses(OwnPort):
    async def close(self, grace_s):
        jobs = list(self.jobs)
        self.most = 100
        self.fill()
        return await super().close(grace_s) if jobs else 0


class LeavesAThread(OwnPort):
    kept: list[threading.Event] = []  # noqa: RUF012 - let go by the test

    def open(self, deliver):
        super().open(deliver)
        self.kept.append(threading.Event())
        threading.Thread(target=self.kept[-1].wait, args=(10,), name="overlapped:left").start()


@pytest.mark.parametrize(
    ("port", "says"),
    [
        (LosesAnOutcome, r"calls: no outcome of 1 jobs, of \[7\]"),
        (TellsTwice, "calls: job 7 came back twice"),
        (MixesUpJobs, r"calls: job \d+ must give \d+0"),
        (DeliversInItsThread, "calls: outcomes must be delivered on the loop"),
        (StartsTheLastFirst, "order of starts: limit 1: jobs start in their order"),
        (CountsTooMuchInFlight, "calls: numbers that cannot be"),
        (EndsBeforeItStarts, "calls: times that cannot be"),
        (DiesOfStopIteration, r"exceptions: no outcome of 1 jobs, of \[2\]"),
        (WrapsErrors, "exceptions: ValueError came back as"),
        (IgnoresItsLimit, "calls: numbers that cannot be"),
        (NeverGrows, "limit up and down: 4 calls should have been started, 2 were"),
        (NeverShrinks, "limit up and down: 4 calls should have been started, these were"),
        (GivesBackWhatRuns, r"withdraw: .* the unstarted jobs 2 to 5, got \[0, 1, 2"),
        (GivesNothingBack, r"withdraw: .* the unstarted jobs 2 to 5, got \[\]"),
        (GivesBackACopy, r"withdraw: a second withdraw\(\) must give nothing"),
        (ShowsNothing, r"running: running\(\) must show the calls of jobs 0 and 1, shows {}"),
        (ShowsWhatChanges, r"running: running\(\) must give snapshots"),
        (ShowsTheWrongTime, r"running: running\(\) said that job 0 started at"),
        (SaysItCancels, r"cancel: no outcome of 1 jobs, of \[0\]"),
        (ForgetsToPause, r"many results: a generator may be 64 results ahead of what was taken, it was \d+"),
        (HoldsPartsBack, "many results: 192 results must come in order, came 0"),
        (GoesOnUnwanted, "many results that nobody wants: 640 results of a generator nobody wants"),
        (LeavesTheGeneratorOpen, "many results that nobody wants: a generator that nobody wants must be closed"),
        (AbandonsInSilence, r"close while a call does not end: .*close\(\) must return 2, got 0"),
        (DeliversAfterClose, r"close while a call does not end: an outcome of job \d came after close"),
        (StartsWhileItCloses, "close while a call runs: the call that ended must come back, and no other"),
        (LeavesAThread, "calls: left after close: thread overlapped:left"),
    ],
)
def test_check_lane_catches(port, says, monkeypatch):
    for module in (jobs, lane):
        monkeypatch.setattr(module, "QUIET_S", 0.5)
    try:
        with pytest.raises(AssertionError, match=says):
            check_lane(port)
    finally:
        for thread in LeavesAThread.kept:
            thread.set()
        for generator in LeavesTheGeneratorOpen.kept:
            generator.close()
        LeavesTheGeneratorOpen.kept.clear()


def test_the_contracts_hold_under_python_without_asserts():
    code = """
from overlapped.stages.select import Skip
from overlapped.testing import check_stage
try:
    check_stage(lambda: Skip(3), list)
except AssertionError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-O", "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert "it must give [0, 1, 2, 3" in done.stdout, done.stderr
