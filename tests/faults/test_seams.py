"""Where a run meets others: threads, descriptors, sinks, several sources, drains and looks from outside."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import resource
import threading
import time
import warnings
from typing import Any

from overlapped import Overloaded, Retry, concat, merge, zip_
from tests.faults.harness import Result, child, no_complaint
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
    short_grace,
    took,
    wait_until,
)


class Refused(Exception):
    """What a machine says that has no more."""


@child(names=["overlapped:loop", "overlapped:numbers", "overlapped:same", "overlapped:over"])
def test_a_thread_that_cannot_be_started_is_told(names: str) -> None:
    start = threading.Thread.start

    def same(item: int) -> int:
        time.sleep(0.001)
        return item

    def over(items: Any) -> Any:
        yield from items

    def refuses(self: threading.Thread) -> None:
        if self.name == names:
            raise Refused("can't start new thread")
        start(self)

    threading.Thread.start = refuses  # type: ignore[method-assign]
    try:
        with took(3):
            try:
                list(flow(numbers(100)).map(same, concurrency=4).through(over))
            except Refused:
                pass
            else:
                raise AssertionError("nothing was told")
    finally:
        threading.Thread.start = start  # type: ignore[method-assign]
    assert flow(numbers(10)).map(same).through(over).collect() == list(range(10))


@child
def test_a_later_thread_that_cannot_be_started_is_told_or_done_without() -> None:
    start, started = threading.Thread.start, []

    def same(item: int) -> int:
        time.sleep(0.005)
        return item

    def refuses(self: threading.Thread) -> None:
        if self.name == "overlapped:same":
            started.append(self)
            if len(started) > 2:
                raise Refused("can't start new thread")
        start(self)

    threading.Thread.start = refuses  # type: ignore[method-assign]
    got: list[Any] = []
    with took(3):
        error = pull_from(flow(range(100)).map(same, concurrency=4), got)
    threading.Thread.start = start  # type: ignore[method-assign]
    assert isinstance(error, Refused) or got == list(range(100))


def but_for_uvloop(result: Result) -> None:
    """It prints a line for each loop that it could not build."""
    told = result.err.replace("deallocating an open event loop\n", "")
    no_complaint(dataclasses.replace(result, err=told))


@child(judge=but_for_uvloop)
def test_a_process_without_descriptors_is_told() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = []
    flow(range(3)).map(nap).collect()  # what stays open for good is open
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
        with contextlib.suppress(OSError):
            while True:
                held.append(open("/dev/null"))  # noqa: SIM115 - closed below
        for use in (lambda: list(flow(numbers()).map(nap).take(5)), lambda: flow(range(5)).map(nap).collect()):
            with took(2):
                try:
                    use()
                except OSError:
                    continue
                raise AssertionError("nothing was told")
    finally:
        for file in held:
            file.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert flow(range(5)).map(nap).collect() == list(range(5))


class Sink:
    """A sink whose writer blocks or fails where it is told to."""

    def __init__(self, where: str, error: BaseException | None = None) -> None:
        self.where, self.error = where, error
        self.may_end = threading.Event()
        self.rows: list[Any] = []

    def _at(self, where: str) -> None:
        if where == self.where:
            if self.error is not None:
                raise self.error
            self.may_end.wait(30)

    def open(self) -> Any:
        self._at("open")
        return self

    def write(self, rows: Any) -> dict[int, Exception]:
        self._at("write")
        self.rows += rows
        return {}

    def commit(self, *marks: Any) -> None:
        self._at("commit")

    def close(self, ok: bool) -> None:
        self._at("close")

    def describe(self) -> str:
        return "Sink"


@child(where=["open", "write", "close"], base=[False, True])
async def test_a_sink_that_fails_is_told(where: str, base: bool) -> None:
    error = KeyboardInterrupt() if base else Boom(where)
    got: list[Any] = []
    raised = await asyncio.wait_for(gather_from(flow(numbers(20)).map(nap).to(Sink(where, error)), got), 3)
    assert raised is error, repr(raised)
    assert where == "close" or got == []


@child(where=["write", "close", "open"])
async def test_a_sink_that_blocks_is_abandoned_after_its_grace_with_a_warning(where: str) -> None:
    short_grace()
    sink = Sink(where)
    with took(2), warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(flow(range(20)).map(nap).to(sink).arun(), 0.3)
    sink.may_end.set()
    assert any(issubclass(one.category, ResourceWarning) for one in told), told


@child(how=["merge", "concat", "zip_"], fault=["break", "source error", "stage error", "cancel", "take"])
async def test_several_sources_end_as_one(how: str, fault: str) -> None:  # noqa: C901 - a branch a fault
    error, closed, calls = Boom(), [], Calls()

    def source(name: int, stop: int | None = None) -> Any:
        def of() -> Any:
            try:
                for n in itertools.count():
                    if fault == "source error" and name == 0 and n == 20:
                        raise error
                    if n == stop:
                        return
                    yield n
            finally:
                closed.append(name)

        return of

    async def counted(item: int) -> int:
        with calls.one(item):
            await asyncio.sleep(0.001)
            if fault == "stage error" and item == 10:
                raise error
        return item

    parts = [flow(source(n, 30 if how == "concat" else None)).map(counted, concurrency=2) for n in range(3)]
    join: Any = {"merge": merge, "concat": concat, "zip_": zip_}[how]
    chain = join(*parts, async_numbers).map(nap, concurrency=2)
    raised: BaseException | None = None
    if fault == "take":
        assert len(await asyncio.wait_for(chain.take(50).acollect(), 3)) == 50
    elif fault == "cancel":
        task = asyncio.create_task(chain.arun())
        await wait_until(lambda: len(calls.started) > 15)
        task.cancel()
        await asyncio.wait([task], timeout=3)
        assert task.cancelled()
    else:
        async with chain.open() as items:
            if fault == "break":
                for _ in range(20):
                    await anext(items)
            else:
                raised = await asyncio.wait_for(gather_from(items, []), 3)
    assert raised is (error if "error" in fault else None), repr(raised)
    assert calls.now == 0
    wanted = {0, 1, 2} if how != "concat" else {0}
    assert wanted <= set(closed), closed
    assert len(closed) == len(set(closed))


@child
async def test_a_long_chain_needs_no_deep_stack() -> None:
    chain: Any = flow(range(50))
    for _ in range(30):
        chain = chain.skip(0).map(nap, concurrency=2).batch(2).flatten()
        chain = chain.filter(lambda item: True, on="inline").catch(Boom)
    assert await asyncio.wait_for(chain.acollect(), 8) == list(range(50))


@child
async def test_a_run_closed_from_inside_one_of_its_calls_does_not_hang() -> None:
    items: Any = None

    async def closes(item: int) -> int:
        if item == 3:
            await items.aclose()
        return item

    items = aiter(flow(numbers()).map(closes, concurrency=2))
    got: list[Any] = []
    await asyncio.wait_for(gather_from(items, got), 4)
    assert got == list(range(len(got)))


@child(lane=["coroutine", "thread"])
async def test_draining_twice_or_late_or_early_is_fine(lane: str) -> None:
    def plain(item: int) -> int:
        time.sleep(0.001)
        return item

    fn = nap if lane == "coroutine" else plain
    for early in (True, False):
        items = aiter(flow(numbers()).map(fn, concurrency=3).batch(7))
        if early:
            items.drain()
        await anext(items)
        items.drain()
        items.drain()
        got: list[Any] = []
        assert await asyncio.wait_for(gather_from(items, got), 3) is None
        items.drain()
        flat = list(itertools.chain(*got))
        assert flat == list(range(7, 7 + len(flat)))


@child
async def test_drain_finishes_what_is_parked() -> None:
    await asyncio.gather(*map(_drain_with_parked, LANES))


async def _drain_with_parked(lane: str) -> None:
    tries: list[int] = []

    def once_late(item: int) -> int:
        if item == 1:
            tries.append(item)
            if len(tries) == 1:
                raise Overloaded
        return item

    fn, options = in_lane(lane, once_late)
    stage = flow(numbers()).map(fn, concurrency=2, retry=Retry(2, base_s=1.1, jitter=False), **options)
    async with stage.open() as items:
        assert await anext(items) == 0
        await wait_until(lambda: bool(tries))
        items.drain()
        got = [item async for item in items]
    assert got == list(range(1, 1 + len(got)))
    assert len(tries) == 2


@child
def test_stats_may_be_asked_for_at_any_time_from_any_thread() -> None:
    def plain(item: int) -> int:
        if item % 7 == 0:
            raise Boom
        return item

    asked: list[Any] = []
    with flow(range(3_000)).map(plain, on="thread").map(nap).batch(5).open(on_failure="keep") as items:
        is_over = threading.Event()

        def asks() -> None:
            while not is_over.is_set():
                asked.append(items.stats())
                str(items.report)
                time.sleep(0.001)  # else two threads that always compute take the interpreter for themselves

        threads = [threading.Thread(target=asks) for _ in range(2)]
        for thread in threads:
            thread.start()
        assert pull_from(items, []) is None
        is_over.set()
        for thread in threads:
            thread.join()
    assert len(asked) > 5
    assert items.stats().failed == 429
