"""Rule 13: tasks and descriptors never outlive the run; what cannot be cancelled gets a grace and is named."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import time

import pytest

from overlapped.testing import virtual
from tests.rules.kit import (
    Calls,
    Pulled,
    aoutcome,
    fail_at,
    flow,
    in_lane,
    now_s,
    same,
    settle,
    wait_until,
    warnings_as_they_come,
)

# conftest.py checks every test of this suite for tasks, threads, processes and descriptors left behind;
# these tests end runs in every way there is.


async def _to_the_end(chain):
    async with chain.open() as items:
        async for _ in items:
            pass


async def _close(chain):
    async with chain.open() as items:
        async for _ in items:
            await items.aclose()


async def _break(chain):
    async with chain.open() as items:
        async for _ in items:
            break


async def _error_in_the_loop(chain):
    async with chain.open() as items:
        async for _ in items:
            raise OSError


async def _drop(chain):
    items = aiter(chain)
    await anext(items)
    del items
    gc.collect()
    await settle()


@pytest.mark.parametrize("ending", [_close, _break, _error_in_the_loop, _drop])
@virtual
async def test_however_its_consumer_ends_a_run_no_task_is_left(ending, ordered, limit):
    calls = Calls(service_s=lambda n: 1.0 if n == 0 else 1e6)
    pulled = Pulled()
    chain = flow(pulled.of("async generator")).map(calls, ordered=ordered, concurrency=limit)
    with contextlib.suppress(OSError):
        await ending(chain)
    assert now_s() == 1.0
    assert calls.in_flight == 0
    assert pulled.closed == 1
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.parametrize("where", ["source", "first stage", "last stage"])
@virtual
async def test_wherever_a_run_fails_no_task_is_left(where, ordered, limit):
    calls = Calls(service_s=1.0, fails=lambda n, _: ValueError(n) if where == "first stage" and n == 3 else None)
    pulled = Pulled(fails_at=3 if where == "source" else None)
    chain = flow(pulled.of("async generator")).map(calls, ordered=ordered, concurrency=limit)
    if where == "last stage":
        chain = chain.map(in_lane("coroutine", fail_at(3)), concurrency=limit, ordered=ordered)
    _, error = await aoutcome(chain)
    assert error is not None
    assert calls.in_flight == 0
    assert pulled.closed == 1
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.parametrize("times", [1, 2, 5])
@virtual
async def test_a_cancelled_consumer_leaves_no_task(times, ordered, limit):
    calls = Calls(service_s=lambda n: 1.0 if n == 0 else 1e6)
    pulled = Pulled()
    chain = flow(pulled.of("async generator")).map(calls, ordered=ordered, concurrency=limit)
    task = asyncio.ensure_future(_to_the_end(chain))
    await asyncio.sleep(2)
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0)
    await asyncio.wait([task])
    assert task.cancelled()
    assert now_s() == 2.0
    assert calls.in_flight == 0
    assert pulled.closed == 1
    assert len(asyncio.all_tasks()) == 1


@virtual
async def test_a_coroutine_that_ignores_its_cancel_is_awaited_and_named_after_5_s():
    ended = []

    async def stubborn(n):
        until = now_s() + 12.0
        while now_s() < until:
            try:
                await asyncio.sleep(until - now_s())
            except asyncio.CancelledError:
                pass
        ended.append(now_s())

    async def consume():
        async with flow([1]).map(stubborn).open() as items:
            async for _ in items:
                pass

    task = asyncio.ensure_future(consume())
    await asyncio.sleep(1)
    with warnings_as_they_come() as warned:
        task.cancel()
        await asyncio.sleep(4.9)
        assert warned == []
        await asyncio.sleep(0.2)
        assert len(warned) == 1
        assert "stubborn" in warned[0]
        await asyncio.wait([task])
    assert ended == [12.0]
    assert now_s() == 12.0
    assert task.cancelled()


@virtual
async def test_a_warning_that_is_an_error_does_not_stop_the_taking_down():
    calls = Calls(service_s=1.0)

    async def stubborn(n):
        until = now_s() + 12.0
        while now_s() < until:
            try:
                await asyncio.sleep(until - now_s())
            except asyncio.CancelledError:
                pass

    task = asyncio.ensure_future(_to_the_end(flow([1]).map(calls).map(stubborn)))
    await asyncio.sleep(2)
    task.cancel()
    await asyncio.wait([task], timeout=60)  # with warnings as errors, as in all our tests
    assert task.done()
    assert now_s() == 13.0
    assert len(asyncio.all_tasks()) == 1
    assert task.cancelled() or isinstance(task.exception(), RuntimeWarning)


async def use(n, it):
    return n


@virtual
async def test_a_resource_whose_opening_ignores_its_cancel_is_awaited_and_named_after_5_s():
    class Stubborn:
        async def __aenter__(self):
            while now_s() < 12.0:
                try:
                    await asyncio.sleep(12.0 - now_s())
                except asyncio.CancelledError:
                    pass
            return self

        async def __aexit__(self, *_):
            pass

    task = asyncio.ensure_future(flow([1]).map(use).using(it=Stubborn).acollect())
    await asyncio.sleep(6)
    with warnings_as_they_come() as warned:
        task.cancel()
        await asyncio.sleep(4.9)
        assert warned == []
        await asyncio.sleep(0.2)
        assert len(warned) == 1
        assert "using(it)" in warned[0]
        await asyncio.wait([task])
    assert now_s() == 12.0
    assert task.cancelled()
    assert len(warned) == 1


class Slow:
    """A resource that takes its time to close."""

    def __init__(self, closes_s: float) -> None:
        self.closes_s = closes_s
        self.events: list[tuple[str, float]] = []

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        try:
            await asyncio.sleep(self.closes_s)
        except asyncio.CancelledError:
            self.events.append(("cancelled", now_s()))
            raise
        self.events.append(("closed", now_s()))


@virtual
async def test_a_resource_whose_closing_takes_long_is_awaited_and_named_after_5_s():
    quick, slow = Slow(4.0), Slow(12.0)
    chain = flow([1]).map(use).using(it=lambda: slow, other=lambda: quick)
    task = asyncio.ensure_future(chain.acollect())
    with warnings_as_they_come() as warned:
        await asyncio.sleep(8.9)
        assert warned == []
        await asyncio.sleep(0.2)
        assert len(warned) == 1
        assert "using(it)" in warned[0]
        assert await task == [1]
    assert (quick.events, slow.events) == ([("closed", 4.0)], [("closed", 16.0)])
    assert len(warned) == 1


@pytest.mark.parametrize(("cancelled_s", "ends_s"), [(1.0, 5.0), (7.0, 7.0)])
@virtual
async def test_a_cancel_while_a_resource_closes_ends_that_once_it_has_had_5_s(cancelled_s, ends_s):
    hangs, other = Slow(1e6), Slow(1.0)
    task = asyncio.ensure_future(flow([1]).map(use).using(other=lambda: other, it=lambda: hangs).acollect())
    with warnings_as_they_come():
        await asyncio.sleep(cancelled_s)
        task.cancel()
        await asyncio.wait([task], timeout=100)
    assert hangs.events == [("cancelled", ends_s)]
    assert other.events == [("closed", ends_s + 1.0)]
    assert task.cancelled()


@virtual
async def test_a_cancel_does_not_cut_short_a_closing_that_ends_within_5_s():
    slow = Slow(4.0)
    task = asyncio.ensure_future(flow([1]).map(use).using(it=lambda: slow).acollect())
    await asyncio.sleep(1)
    for _ in range(5):
        task.cancel()
        await asyncio.sleep(0.1)
    await asyncio.wait([task])
    assert slow.events == [("closed", 4.0)]
    assert task.cancelled()


@virtual
async def test_clean_up_in_a_cancelled_call_runs_to_its_end():
    steps = []

    async def fn(n):
        try:
            await asyncio.sleep(1e6)
        finally:
            await asyncio.sleep(3)
            steps.append("closed")

    async with flow([1]).map(fn).open() as items:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(items), 1)
    assert steps == ["closed"]
    assert now_s() == 4.0


@virtual
async def test_closing_goes_on_when_it_is_cancelled_itself():
    steps = []

    async def fn(n):
        try:
            await asyncio.sleep(1e6)
        finally:
            await asyncio.sleep(3)
            steps.append("closed")

    async def consume():
        async with flow([1]).map(fn).open() as items:
            await anext(items)

    task = asyncio.ensure_future(consume())
    await asyncio.sleep(1)
    for _ in range(5):
        task.cancel()
        await asyncio.sleep(0.1)
        assert not task.done()
    await asyncio.wait([task])
    assert steps == ["closed"]
    assert task.cancelled()


def test_a_thread_call_gets_its_grace_then_is_abandoned_with_a_warning(monkeypatch):
    monkeypatch.setattr("overlapped._engine.lost.GRACE_S", 0.05)
    may_end, begun = threading.Event(), threading.Event()

    def blocked_call(n):
        begun.set()
        may_end.wait(5)

    try:
        with warnings_as_they_come() as warned:
            before = time.monotonic()
            with flow([1]).map(blocked_call, on="thread").open():
                assert begun.wait(5)
            assert time.monotonic() - before < 2
        assert len([text for text in warned if "ResourceWarning" in text and "blocked_call" in text]) == 1
    finally:
        may_end.set()


def test_a_thread_call_that_ends_within_its_grace_is_waited_for():
    begun, ended = threading.Event(), []

    def fn(n):
        begun.set()
        time.sleep(0.05)
        ended.append(n)

    with flow([1]).map(fn, on="thread").open():
        assert begun.wait(5)
    assert ended == [1]


def test_a_blocked_source_gets_its_grace_then_is_abandoned_with_a_warning(monkeypatch):
    monkeypatch.setattr("overlapped._engine.pulled.GRACE_S", 0.05)
    may_end = threading.Event()

    def blocked_source():
        yield 1
        may_end.wait(5)

    try:
        with warnings_as_they_come() as warned, flow(blocked_source).open() as items:
            assert next(items) == 1
        assert len([text for text in warned if "ResourceWarning" in text and "blocked_source" in text]) == 1
    finally:
        may_end.set()


def test_a_hundred_runs_that_are_broken_off_leave_nothing(lane, way):
    fn = in_lane(lane, same)
    before = threading.active_count()
    for _ in range(20):
        chain = flow(iter(range(1000))).map(fn, on=lane, concurrency=3)
        if way == "for":
            for _item in chain:
                break
        else:

            async def main(chain=chain):
                async with chain.open() as items:
                    await anext(items)

            asyncio.run(main())
    gc.collect()
    wait_until(lambda: threading.active_count() <= before, "the end of all threads")


@pytest.mark.parametrize("turns", range(16))
@pytest.mark.parametrize("source", ["generator", "async generator"])
def test_a_loop_that_ends_at_any_moment_of_closing_closes_everything(turns, source):
    """`asyncio.run` cancels every task at its end, those that close our things included."""
    pulled = Pulled()
    closed: list[str] = []

    class Resource:
        async def aclose(self):
            closed.append("begun")
            await asyncio.sleep(0)
            closed.append("ended")

    async def fn(n, it):
        return n

    async def main():
        async for _ in flow(pulled.of(source)).map(fn, concurrency=3).using(it=Resource):
            break
        for _ in range(turns):
            await asyncio.sleep(0)

    asyncio.run(main())
    gc.collect()
    assert closed[:1] == ["begun"]
    wait_until(lambda: pulled.closed == pulled.began, "closing")


def test_an_error_while_closing_is_raised_if_nothing_else_was(way):
    def source():
        try:
            yield from range(100)
        finally:
            raise OSError("close")

    if way == "for":
        with pytest.raises(OSError, match="close"), flow(source).open() as items:
            next(items)
        return

    async def main():
        async with flow(source).open() as aitems:
            await anext(aitems)

    with pytest.raises(OSError, match="close"):
        asyncio.run(main())


def test_an_error_while_closing_is_a_note_of_the_one_under_way():
    def source():
        try:
            yield from range(100)
        finally:
            raise OSError("close")

    def use():
        with flow(source).open() as items:
            next(items)
            raise KeyError("mine")

    with pytest.raises(KeyError) as caught:
        use()
    assert any("close" in note for note in caught.value.__notes__)


def test_several_errors_while_closing_are_a_group():
    def source():
        try:
            yield from range(100)
        finally:
            raise OSError("source")

    class Resource:
        def close(self):
            raise KeyError("resource")

    def fn(n, it):
        return n

    def use():
        with flow(source).map(fn).using(it=Resource).open() as items:
            next(items)

    with pytest.raises(BaseExceptionGroup) as caught:
        use()
    assert {type(error) for error in caught.value.exceptions} == {OSError, KeyError}
