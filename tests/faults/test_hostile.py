"""Parts that the user or the machine provides, misbehaving: the run ends with their error, never hangs."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from typing import Any

from overlapped import Jsonl, Overloaded, Rate, Retry, merge
from overlapped._engine.feed import Feed, Through
from tests.faults.harness import child
from tests.faults.kit import (
    LANES,
    Boom,
    Calls,
    async_numbers,
    flow,
    gather_from,
    in_lane,
    nap,
    numbers,
    took,
    wait_until,
)


class Controller:
    """A user's own, which raises or gives odd limits."""

    reason = "odd"
    limit = 2

    def __init__(self, gives: Any = 2) -> None:
        self.gives = gives
        self.seen = 0

    def finished(self, sample: Any) -> Any:
        self.seen += 1
        if self.gives == "raises" and self.seen == 2:
            raise Boom
        if self.gives == "jumps":
            return self.seen * 7 % 20
        return self.gives if isinstance(self.gives, int) else 2


class Spec:
    """Makes them."""

    def __init__(self, gives: Any) -> None:
        self.gives = gives

    def controller(self) -> Controller:
        return Controller(self.gives)


@child(lane=LANES, gives=["raises", "jumps", 0, -5, 1])
async def test_a_controller_that_raises_ends_the_run_and_odd_limits_do_not(lane: str, gives: Any) -> None:
    fn, options = in_lane(lane, lambda item: item)
    got: list[Any] = []
    stage = flow(range(300)).map(fn, concurrency=Spec(gives), **options)
    error = await asyncio.wait_for(gather_from(stage, got), 3)
    if gives == "raises" and lane != "inline":  # inline, one call is made at a time: nothing to control
        assert isinstance(error, Boom), repr(error)
    else:
        assert error is None
        assert got == list(range(300))


@child(lane=LANES, what=["rate", "key", "neither"])
async def test_a_pause_that_takes_jobs_back_does_not_stop_a_stage(lane: str, what: str) -> None:
    """The limit changes with every call, so jobs are put in the very moment in which a pause begins."""

    class UpAndDown(Controller):
        def finished(self, sample: Any) -> Any:
            self.seen += 1
            return 1 + self.seen % 2

    class Makes:
        def controller(self) -> Controller:
            return UpAndDown()

    def refuses_half(item: int) -> int:
        time.sleep(0.001)
        if item % 2:
            raise Overloaded(retry_after_s=0.003)
        return item

    fn, options = in_lane(lane, refuses_half)
    more: dict[str, Any] = {"rate": {"rate": Rate(20_000, burst=50)}, "key": {"key": str, "per_key": 1}, "neither": {}}
    options |= more[what]
    for _ in range(4):
        stage = flow(range(30)).map(fn, concurrency=Makes(), **options)
        report = await asyncio.wait_for(stage.arun(on_failure="keep"), 2)
        assert (report.items, report.failed) == (15, 15)


@child(lane=LANES, what=["weigh", "key", "where", "do", "replace", "bool"])
async def test_an_error_in_a_users_small_function_is_its_items_failure(lane: str, what: str) -> None:
    def odd(value: Any) -> int:
        if getattr(value, "args", (value,))[0] == 4:
            raise Boom(4)
        return 1

    class OddBool:
        def __init__(self, item: int) -> None:
            self.item = item

        def __bool__(self) -> bool:
            return bool(odd(self.item))

    def fails(item: int) -> int:
        if what in ("where", "do", "replace"):
            raise KeyError(item)
        return item

    fn, options = in_lane(lane, fails)
    chain: Any = {
        "weigh": lambda: flow(range(10)).map(fn, rate=Rate(10_000, weigh=odd), **options),
        "key": lambda: flow(range(10)).map(fn, key=odd, per_key=2, **options),
        "where": lambda: flow(range(10)).map(fn, **options).catch(KeyError, where=odd, replace=1),
        "do": lambda: flow(range(10)).map(fn, **options).catch(KeyError, do=odd, replace=1),
        "replace": lambda: flow(range(10)).map(fn, **options).catch(KeyError, replace=odd),
        "bool": lambda: flow(range(10)).filter(in_lane(lane, OddBool)[0], **options),
    }[what]()
    got: list[Any] = []
    error = await asyncio.wait_for(gather_from(chain, got), 3)
    assert isinstance(error, Boom), repr(error)
    assert len(got) == 4
    report = await asyncio.wait_for(chain.arun(on_failure="keep"), 3)
    assert (report.items, report.failed) == (9, 1)


@child(lane=LANES, what=["weigh", "key", "do", "through"])
async def test_ctrl_c_inside_a_users_small_function_ends_the_run(lane: str, what: str) -> None:
    def odd(value: Any) -> int:
        if getattr(value, "args", (value,))[0] == 4:
            raise KeyboardInterrupt
        return 1

    def fails(item: int) -> int:
        if what == "do":
            raise KeyError(item)
        return item

    def sent() -> Any:
        item = yield
        while True:
            odd(item)
            item = yield item

    fn, options = in_lane(lane, fails)
    chain: Any = {
        "weigh": lambda: flow(numbers()).map(fn, rate=Rate(10_000, weigh=odd), **options),
        "key": lambda: flow(numbers()).map(fn, key=odd, per_key=2, **options),
        "do": lambda: flow(numbers()).map(fn, **options).catch(KeyError, do=odd, replace=1),
        "through": lambda: flow(numbers()).map(fn, **options).through(sent).map(nap),
    }[what]()
    error = await asyncio.wait_for(gather_from(chain, []), 3)
    assert isinstance(error, KeyboardInterrupt), repr(error)


@child(lane=["coroutine", "thread"])
async def test_jobs_dropped_by_a_failure_give_their_key_back(lane: str) -> None:
    """Item 0 is parked and queues again behind 3 of its key; 1 fails for good, and 2 ends, in one moment."""
    calls, go = Calls(), threading.Event()

    def plain(item: int) -> int:
        with calls.one(item):
            if item == 0 and calls.started.count(0) == 1:
                raise Overloaded
            if item in (1, 2):
                go.wait(5)
            if item == 1:
                raise Boom
        return item

    async def awaited(item: int) -> int:
        with calls.one(item):
            if item == 0 and calls.started.count(0) == 1:
                raise Overloaded
            while item in (1, 2) and not go.is_set():
                await asyncio.sleep(0.01)
            if item == 1:
                raise Boom
        return item

    asyncio.get_running_loop().call_later(1.3, go.set)
    keys: dict[str, Any] = {"key": lambda item: item == 1, "per_key": 1}
    retry = Retry(2, exceptions=Overloaded, base_s=1.05, jitter=False)
    got: list[int] = []
    stage = flow(range(10)).map(awaited if lane == "coroutine" else plain, concurrency=3, retry=retry, **keys)
    error = await asyncio.wait_for(gather_from(stage, got), 4)
    assert isinstance(error, Boom)
    assert got == [0]


@child(asked=[1e10, 10**400, float("inf"), -5, float("nan"), "soon", True], lane=LANES)
async def test_an_absurd_retry_after_neither_stalls_nor_crashes(asked: Any, lane: str) -> None:
    error = Overloaded(retry_after_s=asked)

    def refuses(item: int) -> int:
        if item == 3:
            raise error
        return item

    fn, options = in_lane(lane, refuses)
    with took(2):
        report = await flow(range(10)).map(fn, retry=Retry(3, base_s=0.001), **options).arun(on_failure="keep")
    assert (report.items, report.failed) == (9, 1)


@child(lane=LANES, what=["pause", "rate", "parked", "key"])
async def test_nothing_that_waits_holds_up_a_close_or_an_error(lane: str, what: str) -> None:
    def refuses(item: int) -> int:
        if what in ("pause", "parked") and item == 2:
            raise Overloaded(retry_after_s=100 if what == "pause" else None)
        return item

    fn, options = in_lane(lane, refuses)
    retry = Retry(3, base_s=50, jitter=False) if what in ("pause", "parked") else None
    rate = Rate(2, per_s=100, burst=2) if what == "rate" else None
    keys: dict[str, Any] = {"key": lambda item: 0, "per_key": Rate(2, per_s=100, burst=2)} if what == "key" else {}
    with took(3):
        stage = flow(numbers).map(fn, concurrency=4, retry=retry, rate=rate, **keys, **options)
        async with stage.open() as items:
            assert await anext(items) == 0
            assert await anext(items) == 1
            await asyncio.sleep(0.05)
        got: list[Any] = []

        async def consume() -> None:
            async with stage.open() as items:
                await gather_from(items, got)

        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(consume(), 0.3)
    assert got == [0, 1], got


@child
async def test_whoever_cancels_all_tasks_of_a_loop_ends_the_run() -> None:
    calls = Calls()

    async def waits(item: int) -> int:
        with calls.one(item):
            await asyncio.sleep(30 if item else 0)
        return item

    for source in (numbers, async_numbers):
        items = aiter(flow(source).map(waits, concurrency=4))
        await anext(items)
        await wait_until(lambda: calls.now == 4)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        error = await asyncio.wait_for(gather_from(items, []), 3)
        assert error is not None, "an early end must not look like the end"
        assert not isinstance(error, asyncio.CancelledError), "nobody cancelled the consumer"
        assert calls.now == 0


@child
async def test_whoever_cancels_a_single_worker_or_source_task_ends_the_run() -> None:
    async def waits(item: int) -> int:
        await asyncio.sleep(0.01)
        return item

    for name in ("waits", "async_numbers"):
        items = aiter(flow(async_numbers).map(waits, concurrency=3))
        await anext(items)
        victims = [task for task in asyncio.all_tasks() if name in task.get_name()]
        assert victims
        victims[0].cancel()
        error = await asyncio.wait_for(gather_from(items, []), 3)
        assert isinstance(error, Exception), repr(error)


@child(where=["error", "end"])
async def test_a_cancel_while_a_run_closes_by_itself_is_not_swallowed(where: str) -> None:
    closing = asyncio.Event()

    class Slow:
        async def aclose(self) -> None:
            closing.set()
            await asyncio.sleep(0.2)

    async def uses(item: int, session: Slow) -> int:
        if where == "error" and item == 2:
            raise Boom
        return item

    task = asyncio.create_task(flow(range(3)).map(uses).using(session=Slow).acollect())
    await closing.wait()
    task.cancel()
    await asyncio.wait([task], timeout=2)
    assert task.cancelled(), "the cancel was swallowed"


class BrokenFeed(Through):
    """Fails when it has given a few."""

    def __init__(self, up: Feed) -> None:
        super().__init__(up)
        self.left = 4

    def take(self, want: int) -> list[object]:
        """As upstream, up to the fault."""
        chunk = self.up.take(want)
        self.ended = self.up.ended
        self.left -= len(chunk)
        if self.left < 0:
            raise Boom
        return chunk


class Broken:
    """A user's own stage."""

    name = verb = "broken"

    def attach(self, up: Feed, scope: Any, seat: Any) -> Feed:
        return BrokenFeed(up)

    def explain(self) -> str:
        return self.name


def each(items: Any) -> Any:
    """A generator over all items."""
    yield from items


async def each_async(items: Any) -> Any:
    """The same, async."""
    async for item in items:
        yield item


@child(source=["list", "thread", "task"])
async def test_a_users_stage_that_raises_ends_the_run_whatever_comes_after_it(source: str) -> None:
    def broken() -> Any:
        return flow({"list": range(50), "thread": numbers(50), "task": async_numbers(50)}[source]).through(Broken())

    for rest in (
        lambda f: f,
        lambda f: f.map(nap),
        lambda f: f.map(str, on="thread"),
        lambda f: f.map(str, on="inline"),
        lambda f: f.through(each),
        lambda f: f.through(each_async),
        lambda f: f.batch().map(nap),
        lambda f: merge(f, range(3)),
        lambda f: f.to(Jsonl("/dev/null")),
    ):
        got: list[Any] = []
        async with rest(broken()).open() as items:
            assert isinstance(await gather_from(items, got), Boom)
        assert len(asyncio.all_tasks()) == 1
