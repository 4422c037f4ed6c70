"""Services with a right answer that nobody is told: what controllers are judged on, on the virtual clock.

A `Scenario` names a fake service, for how long (or how many items) it is used, and how items arrive. `play`
runs it with the real engine; `static_best` finds what the best fixed setting would have reached.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import random
import statistics
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from overlapped.control.auto import AUTO
from overlapped.errors import Overloaded, TooLarge
from overlapped.flow import flow
from overlapped.retry import Retry
from overlapped.testing.clock import VirtualLoop, run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator

    from overlapped.control.base import ControllerSpec
    from overlapped.record import StageRecord

    Seconds = Callable[["FakeServer", int], float]

PATIENT = Retry(attempts=1_000, base_s=0.05, cap_s=1.0, jitter=False)
"""Refused calls are made again until they get through: an item is never lost, only late."""

SPLITTING = Retry(attempts=2, base_s=0.05, jitter=False, split=True)
"""A batch that fails twice is halved."""


class FakeServer:
    """A server whose calls are timed when they arrive, so that one costs a single timer.

    Args:
        work_s: how long a worker is busy with a call: `(server, item) -> s`; it may look at the server's
            `now_s`, `in_flight` and `random`.
        workers: how many calls are worked on at once, or a function of the time.
        wait_s: added after the work, however many calls wait at once: the network, another service.
        cpu_s: of the client's one core for each answer.
        refuses_above: calls in flight; more are turned away.
        rate_per_s: calls let in per second; the others are turned away...
        burst: ... unless so many come at once after a rest.
        retry_after: what those are told: "exact" (when one more fits in), "none", or seconds.
        fails: share of the calls that fail at their end.
        time_out_s: calls that take longer run into a time-out then.
        most_items: larger batches are refused.
        seed: of everything random.
    """

    def __init__(
        self,
        work_s: Seconds,
        *,
        workers: float | Callable[[float], float] = math.inf,
        wait_s: Seconds | None = None,
        cpu_s: float = 0.0,
        refuses_above: float | Callable[[float], float] = math.inf,
        rate_per_s: float = math.inf,
        burst: int = 1,
        retry_after: Literal["exact", "none"] | float = "exact",
        fails: float = 0.0,
        time_out_s: float = math.inf,
        most_items: float = math.inf,
        seed: int = 0,
    ) -> None:
        self.__name__ = "server"
        self.work_s, self.wait_s, self.workers = work_s, wait_s, workers
        self.cpu_s, self.refuses_above = cpu_s, refuses_above
        self.rate_per_s, self.burst, self.retry_after = rate_per_s, burst, retry_after
        self.fails, self.time_out_s, self.most_items = fails, time_out_s, most_items
        self.random = random.Random(seed)  # noqa: S311 - a repeatable series is the point
        self.now_s = 0.0
        self.in_flight = 0
        self.calls = self.items = self.failed = 0
        self.took_s = array("d")
        self.ended_s = array("d")
        self._free_s: list[float] = []  # when each worker will be free
        self._cpu_free_s = 0.0
        self._due_s = 0.0

    async def __call__(self, given: Any) -> Any:
        """One call, of an item or of a batch."""
        self.now_s = began_s = asyncio.get_running_loop().time()
        size = len(given) if isinstance(given, list) else 1
        self.calls += 1
        if size > self.most_items:
            await self._fail(0.002, TooLarge(f"{size} items"))
        if self.in_flight >= _at(self.refuses_above, self.now_s):
            await self._fail(0.002, Overloaded("too many calls"))
        if self.rate_per_s < math.inf:
            await self._let_in(size)
        self.in_flight += 1
        try:
            took_s = self._answer_s(size if isinstance(given, list) else given) - self.now_s
            if took_s > self.time_out_s:
                await self._fail(self.time_out_s, TimeoutError())
            await asyncio.sleep(took_s)
            if self.cpu_s:  # answers are handled one after the other, in the order in which they come
                loop = asyncio.get_running_loop()
                ready_s = loop.time()
                self._cpu_free_s = max(ready_s, self._cpu_free_s) + self.cpu_s
                await asyncio.sleep(self._cpu_free_s - ready_s)
                if isinstance(loop, VirtualLoop):
                    loop.compute(self.cpu_s)
            if self.fails and self.random.random() < self.fails:
                await self._fail(0.0, ConnectionError("lost"))
        finally:
            self.in_flight -= 1
        now_s = asyncio.get_running_loop().time()
        self.items += size
        self.took_s.append(now_s - began_s)
        self.ended_s.append(now_s)
        return given

    async def _fail(self, after_s: float, error: Exception) -> None:
        self.failed += 1
        await asyncio.sleep(after_s)
        raise error

    async def _let_in(self, size: int) -> None:
        interval_s = 1 / self.rate_per_s
        due_s = max(self._due_s, self.now_s - self.burst * interval_s)
        if due_s + interval_s > self.now_s + 1e-9:
            wait_s = due_s + interval_s - self.now_s
            told_s = wait_s if self.retry_after == "exact" else None
            if isinstance(self.retry_after, int | float):
                told_s = self.retry_after
            await self._fail(0.002, Overloaded("429", retry_after_s=told_s))
        self._due_s = due_s + interval_s * size

    def _answer_s(self, item: int) -> float:
        """When the call that comes now is answered."""
        work_s = self.work_s(self, item)
        end_s = self._worked_s(work_s) if work_s else self.now_s
        if self.wait_s is not None:
            end_s += self.wait_s(self, item)
        return end_s

    def _worked_s(self, work_s: float) -> float:
        workers = _at(self.workers, self.now_s)
        if workers == math.inf:
            return self.now_s + work_s
        free = self._free_s
        while free and free[0] <= self.now_s:
            heapq.heappop(free)
        begin_s = self.now_s
        while len(free) >= workers:  # first come, first served: wait for the next that gets free
            begin_s = heapq.heappop(free)
        heapq.heappush(free, begin_s + work_s)
        return begin_s + work_s


def _at(value: float | Callable[[float], float], now_s: float) -> float:
    return value(now_s) if callable(value) else value


@dataclass(frozen=True, slots=True)
class Scenario:
    """One service and how it is used.

    Attributes:
        name: for tables and tests.
        server: makes the server of one run from a seed.
        lasts_s: virtual time of one run; or
        items: how many items there are: then what counts is when the last one is done.
        kind: "knee", "rate", "refusal", "change", "spread", "short", "batch": for pictures and tables.
        is_hard: known to be out of reach; listed with its figure, not judged by the common bar.
        is_held_out: no constant was chosen by looking at it.
        arrivals: times at which items come, s; None: there are always more.
        is_batched: items go through `.batch()`.
        grid: settings among which the best static one is sought.
        concurrency: of batched calls: one at a time unless it is AUTO.
    """

    name: str
    server: Callable[[int], FakeServer]
    lasts_s: float = 60.0
    items: int = 0
    kind: str = "knee"
    is_hard: bool = False
    is_held_out: bool = False
    arrivals: Callable[[int], Iterator[float]] | None = None
    is_batched: bool = False
    grid: tuple[int, ...] = ()
    concurrency: Any = 1


@dataclass(frozen=True, slots=True)
class Played:
    """What one run of a scenario came to.

    Attributes:
        per_s: items done per second.
        p50_s: median service time of a call that succeeded, s.
        failed: calls that failed, per item done.
        stage: the stage's record at the end.
        ended_s: when each call ended, s, for pictures.
    """

    per_s: float
    p50_s: float
    failed: float
    stage: StageRecord
    ended_s: array[float]


def play(scenario: Scenario, *, concurrency: int | ControllerSpec = AUTO, size: Any = AUTO, seed: int = 0) -> Played:
    """Run a scenario on the virtual clock.

    Args:
        scenario: which.
        concurrency: as in `Flow.map`; of batched scenarios, the scenario's own.
        size: of batches, as in `Flow.batch`.
        seed: of everything random.

    Example:
        >>> from overlapped.testing.scenario_list import by_name
        >>> played = play(by_name("single_worker_20ms"), concurrency=1)
        >>> round(played.per_s)
        50
    """
    server = scenario.server(seed)

    async def drive() -> Played:
        source: Any = range(scenario.items or 10**12)
        if scenario.arrivals is not None:
            source = _arriving(scenario.arrivals(seed))
        chain: Any = flow(source)
        if scenario.is_batched:
            chain = chain.batch(size)
        limit = scenario.concurrency if scenario.is_batched else concurrency
        retry = SPLITTING if scenario.is_batched else PATIENT
        chain = chain.map(server, concurrency=limit, ordered=False, retry=retry)
        loop = asyncio.get_running_loop()
        async with chain.open() as items:
            ending = asyncio.timeout(None if scenario.items else scenario.lasts_s)
            try:
                async with ending:
                    async for _ in items:
                        pass
            except TimeoutError:
                if not ending.expired():
                    raise
            record = items.stats()
        lasted_s = server.ended_s[-1] if scenario.items else loop.time()
        done = server.items
        return Played(
            done / lasted_s,
            statistics.median(server.took_s) if server.took_s else math.nan,
            server.failed / max(1, server.items),
            record.stages[-1],
            server.ended_s,
        )

    return run(drive())


async def _arriving(times_s: Iterable[float]) -> AsyncIterator[int]:
    loop = asyncio.get_running_loop()
    for number, at_s in enumerate(times_s):
        if at_s > loop.time():
            await asyncio.sleep(at_s - loop.time())
        yield number


GRID = (1, 2, 3, 4, 6, 8, 12, 16, 23, 32, 45, 64, 91, 128, 181, 256, 362, 512, 724, 1024)
SIZES = (1, 2, 4, 8, 16, 25, 32, 64, 90, 128, 200, 256, 362, 500, 724, 1000, 1448, 2000, 2800, 4000, 5600, 8000, 10000)


@dataclass(frozen=True, slots=True)
class Best:
    """The best static setting: the smallest within 1.5 % of the best rate."""

    setting: int
    per_s: float
    p50_s: float


def static_best(scenario: Scenario, *, seeds: Iterable[int] = (0,)) -> Best:
    """Sweep the grid and return what the best fixed setting reaches, mean of `seeds`."""
    found: list[Best] = []
    for setting in scenario.grid or (SIZES if scenario.is_batched else GRID):
        given: dict[str, Any] = {"size": setting} if scenario.is_batched else {"concurrency": setting}
        played = [play(scenario, seed=seed, **given) for seed in seeds]
        per_s = statistics.mean(p.per_s for p in played)
        found.append(Best(setting, per_s, statistics.mean(p.p50_s for p in played)))
        most = max(best.per_s for best in found)
        if per_s < 0.5 * most or (len(found) > 6 and all(best.per_s < 1.01 * found[-6].per_s for best in found[-5:])):
            break  # past any knee
    most = max(best.per_s for best in found)
    chosen = next(best for best in found if best.per_s >= 0.985 * most)
    return Best(chosen.setting, most, chosen.p50_s)
