"""Errors: which one comes out, when, and what is left after it."""

# ruff: noqa: PT017 - the body of a test runs where there is no pytest
from __future__ import annotations

import asyncio
import threading
from typing import Any

from overlapped import Retry
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
    pull_from,
    took,
)


@child(lane=LANES, ordered=[True, False], at=[0, 7, 19])
async def test_an_error_comes_out_as_itself_after_the_results_before_it(lane: str, ordered: bool, at: int) -> None:
    error, calls, got = Boom("mine"), Calls(), list[int]()

    def fails(item: int) -> int:
        with calls.one(item):
            if item == at:
                raise error
            return item

    fn, options = in_lane(lane, fails)
    items = aiter(flow(range(20)).map(fn, concurrency=4, ordered=ordered, **options))
    raised = await gather_from(items, got)
    assert raised is error, repr(raised)
    assert got == list(range(at)) if ordered else set(got) <= set(range(20)) - {at}
    assert len(got) == len(set(got))
    assert calls.now == 0
    assert f"item {at}" in "".join(error.__notes__)
    assert error.report is items.report or error.report.record == items.report.record  # type: ignore[attr-defined]
    assert await gather_from(items, []) is None, "after the error comes the end"
    await items.aclose()


@child(lane=LANES, at=[0, 7, 19])
def test_in_a_plain_loop_an_error_comes_out_as_itself_too(lane: str, at: int) -> None:
    error, got = Boom("mine"), list[int]()

    def fails(item: int) -> int:
        if item == at:
            raise error
        return item

    fn, options = in_lane(lane, fails)
    items = iter(flow(range(20)).map(fn, concurrency=4, **options))
    assert pull_from(items, got) is error
    assert got == list(range(at))
    assert pull_from(items, []) is None
    for how in ("run", "collect"):
        try:
            getattr(flow(range(20)).map(fn, concurrency=4, **options), how)()
        except Boom as raised:
            assert raised is error, repr(raised)


ENDINGS: dict[str, Any] = {
    "StopIteration": StopIteration("x"),
    "StopAsyncIteration": StopAsyncIteration("x"),
    "CancelledError": asyncio.CancelledError("x"),
    "GeneratorExit": GeneratorExit("x"),
}


@child(lane=LANES, ending=list(ENDINGS), verb=["map", "flat_map", "filter"])
async def test_what_ends_a_loop_comes_out_of_a_call_as_a_runtime_error(lane: str, ending: str, verb: str) -> None:
    got: list[Any] = []

    def ends(item: int) -> Any:
        if item == 3:
            raise ENDINGS[ending]
        return [item] if verb == "flat_map" else item + 1

    async def ends_late(item: int) -> Any:
        await asyncio.sleep(0.001)
        if item == 3:
            if ending == "StopIteration":  # a coroutine cannot let it out by itself (PEP 479)
                await _Awaitable(ENDINGS[ending])
            raise ENDINGS[ending]
        return [item] if verb == "flat_map" else item + 1

    fn, options = (ends_late, {}) if lane == "coroutine" else (ends, {"on": lane})
    stage = getattr(flow(range(10)), verb)(fn, concurrency=2, **options)
    error = await gather_from(stage, got)
    assert len(got) == 3, got
    assert isinstance(error, RuntimeError), repr(error)
    cause: BaseException | None = error
    while cause is not None and cause is not ENDINGS[ending]:
        cause = cause.__cause__
    assert cause is ENDINGS[ending], "the cause is told"

    report = await stage.arun(on_failure="keep")
    assert (report.items, report.failed) == (9, 1)


class _Awaitable:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __await__(self) -> Any:
        raise self.error
        yield


@child(lane=LANES, kind=["KeyboardInterrupt", "SystemExit", "own"])
async def test_what_is_no_exception_ends_the_run_in_keep_mode_too(lane: str, kind: str) -> None:
    class Own(BaseException):
        pass

    error: BaseException = {"KeyboardInterrupt": KeyboardInterrupt(), "SystemExit": SystemExit(3), "own": Own()}[kind]
    calls = Calls()

    def ends(item: int) -> int:
        with calls.one(item):
            if item == 5:
                raise error
            return item

    fn, options = in_lane(lane, ends)
    got: list[Any] = []
    items = flow(numbers()).map(fn, concurrency=3, retry=Retry(3), **options).catch(Exception).open(on_failure="keep")
    try:
        async with items as running:
            async for item in running:
                got.append(item)  # noqa: PERF401 - those before the end count
    except BaseException as raised:  # noqa: BLE001 - itself, or in a group
        assert raised is error, repr(raised)
    else:
        raise AssertionError("it was swallowed")
    assert calls.started.count(5) == 1
    assert calls.now == 0


@child
async def test_a_call_that_is_cancelled_from_inside_does_not_hang() -> None:
    async def cancels_itself(item: int) -> int:
        if item == 3:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
        await asyncio.sleep(0.001)
        return item

    async def waits_for_a_cancelled_one(item: int) -> int:
        if item == 3:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_soon(future.cancel)
            await future
        return item

    for fn in (cancels_itself, waits_for_a_cancelled_one):
        got: list[Any] = []
        error = await gather_from(flow(range(10)).map(fn, concurrency=3), got)
        assert isinstance(error, RuntimeError), repr(error)
        assert isinstance(error.__cause__, asyncio.CancelledError)
        assert got == [0, 1, 2]
        report = await flow(range(10)).map(fn, concurrency=3).arun(on_failure="keep")
        assert (report.items, report.failed) == (9, 1)


@child(lane=LANES)
async def test_all_errors_of_one_moment_can_be_reached(lane: str) -> None:
    together, all_wait = threading.Barrier(3), asyncio.Event()

    async def all_at_once(item: int) -> int:
        if item == 2:
            all_wait.set()
        await all_wait.wait()
        await asyncio.sleep(0)
        raise Boom(item)

    def all_at_once_plain(item: int) -> int:
        if lane == "thread":
            together.wait(5)
        raise Boom(item)

    fn, options = (all_at_once, {}) if lane == "coroutine" else (all_at_once_plain, {"on": lane})
    try:
        await flow(range(3)).map(fn, concurrency=3, ordered=False, **options).acollect()
    except Boom as error:
        failures = [failure.error.args[0] for failure in error.report.record.failures]  # type: ignore[attr-defined]
        wanted = [0] if lane == "inline" else [0, 1, 2]  # inline, the first ends it all
        assert sorted(failures) == wanted
        notes = " ".join(error.__notes__)
        assert all(f"item {item}" in notes for item in wanted), notes
    else:
        raise AssertionError("no error")


@child(lane=LANES, ordered=[True, False])
async def test_nothing_new_starts_once_a_failure_is_known(lane: str, ordered: bool) -> None:
    calls = Calls()

    def fails(item: int) -> int:
        with calls.one(item):
            if item == 5:
                raise Boom
            return item

    fn, options = in_lane(lane, fails)
    try:
        await flow(numbers()).map(fn, concurrency=2, ordered=ordered, **options).acollect()
    except Boom:
        pass
    assert max(calls.started) <= 5 + (24 if lane == "thread" else 4), calls.started[-5:]


@child(kind=["generator", "iterator", "async", "function", "iter", "async_iterator"], keep=[True, False])
async def test_a_source_error_comes_after_all_results_and_nothing_turns_it_into_items(  # noqa: C901 - a kind each
    kind: str, keep: bool
) -> None:
    error = Boom("the source's")

    class Broken:
        n = -1

        def __iter__(self) -> Any:
            if kind == "iter":
                raise error
            return self

        def __next__(self) -> int:
            self.n += 1
            if self.n == 30:
                raise error
            return self.n

    class BrokenAsync:
        n = -1

        def __aiter__(self) -> Any:
            return self

        async def __anext__(self) -> int:
            await asyncio.sleep(0)
            self.n += 1
            if self.n == 30:
                raise error
            return self.n

    def generator() -> Any:
        yield from range(30)
        raise error

    async def async_generator() -> Any:
        for n in range(30):
            yield n
        raise error

    def function() -> Any:
        raise error

    source: Any = {
        "generator": generator,
        "iterator": Broken(),
        "async": async_generator,
        "function": function,
        "iter": Broken(),
        "async_iterator": BrokenAsync(),
    }[kind]
    got: list[Any] = []
    stage = flow(source).map(nap, concurrency=4).catch(Exception, replace=-1).map(nap, concurrency=3)
    raised: BaseException | None = None
    async with stage.open(on_failure="keep" if keep else "raise") as items:
        raised = await gather_from(items, got)
    assert raised is error, repr(raised)
    assert got == ([] if kind in ("function", "iter") else list(range(30)))


@child(ending=[*ENDINGS, "KeyboardInterrupt"], kind=["iterator", "async_iterator"])
async def test_a_source_cannot_end_a_run_silently(ending: str, kind: str) -> None:
    error = {**ENDINGS, "KeyboardInterrupt": KeyboardInterrupt()}[ending]

    class Broken:
        n = 0

        def __iter__(self) -> Any:
            return self

        def __aiter__(self) -> Any:
            return self

        def __next__(self) -> int:
            self.n += 1
            if self.n > 5:
                raise error
            return self.n

        async def __anext__(self) -> int:
            return self.__next__()

    class OnlySync:
        def __iter__(self) -> Any:
            return Broken()

    if (kind, ending) in (("iterator", "StopIteration"), ("async_iterator", "StopAsyncIteration")):
        return  # that is how they end
    got: list[Any] = []
    source: Any = Broken() if kind == "async_iterator" else OnlySync()
    with took(5):
        raised = await gather_from(flow(source).map(nap), got)
    if ending == "KeyboardInterrupt":
        assert raised is error, repr(raised)
    else:
        assert isinstance(raised, RuntimeError), repr(raised)
        assert got == [1, 2, 3, 4, 5]


@child(kind=["thread", "async", "send"], keep=[True, False])
async def test_an_error_in_a_through_generator_comes_after_all_results(kind: str, keep: bool) -> None:
    error = Boom("the generator's")

    def over(items: Any) -> Any:
        for item in items:
            if item == 20:
                raise error
            yield item

    async def over_async(items: Any) -> Any:
        async for item in items:
            if item == 20:
                raise error
            yield item

    def send() -> Any:
        item = yield
        while True:
            if item == 20:
                raise error
            item = yield item

    stage: Any = {"thread": over, "async": over_async, "send": send}[kind]
    got: list[Any] = []
    chain = flow(async_numbers()).map(nap, concurrency=3).through(stage).catch(Exception).map(nap, concurrency=3)
    async with chain.open(on_failure="keep" if keep else "raise") as items:
        raised = await gather_from(items, got)
    assert raised is error, repr(raised)
    assert got == list(range(20))


@child(kind=["thread", "async"])
async def test_failures_pass_a_through_generator_by(kind: str) -> None:
    async def fails_at_5(item: int) -> int:
        if item == 5:
            raise Boom
        return item

    def over(items: Any) -> Any:
        for item in items:
            yield item * 10

    async def over_async(items: Any) -> Any:
        async for item in items:
            yield item * 10

    got: list[Any] = []
    chain = flow(range(10)).map(fails_at_5, concurrency=2).through(over if kind == "thread" else over_async)
    error = await gather_from(chain, got)
    assert isinstance(error, Boom)
    assert got == [0, 10, 20, 30, 40]
    kept = await chain.acollect(on_failure="keep")
    assert kept == [n * 10 for n in range(10) if n != 5]
