"""Rule 21: where runs live, who may share an iterator, what `break` and a cancelled `anext` do."""

from __future__ import annotations

import asyncio
import gc
import threading
import time

import pytest

from overlapped import UsageError
from overlapped.testing import virtual
from tests.rules.kit import Calls, Pulled, fail_at, flow, in_lane, now_s, outcome, same, settle, wait_until


async def where(n):
    """The thread of the loop."""
    return threading.get_ident()


# -- where a run lives ----------------------------------------------------------------------------------------


def test_collect_and_run_without_a_loop_run_in_the_calling_thread():
    assert flow([1]).map(where).collect() == [threading.get_ident()]
    seen: list[int] = []
    flow([1]).map(where).tap(seen.append, on="inline").run()
    assert seen == [threading.get_ident()]


def test_for_uses_a_daemon_loop_thread_for_each_run():
    chain = flow([1]).map(where)
    with chain.open() as first, chain.open() as second:
        threads = [t for t in threading.enumerate() if t.name == "overlapped:loop"]
        assert len(threads) == 2
        assert all(t.daemon for t in threads)
        (one,), (two,) = list(first), list(second)
    assert one != two
    assert threading.get_ident() not in (one, two)


def test_collect_and_run_under_a_running_loop_use_another_thread():
    """As in a notebook."""

    async def main():
        assert flow([1]).map(where).collect() != [threading.get_ident()]
        assert flow([1, 2]).run().items == 2
        assert list(flow([1, 2])) == [1, 2]
        with pytest.raises(ZeroDivisionError):
            flow([0]).map(lambda n: 1 / n).collect()

    asyncio.run(main())


def test_async_for_runs_on_the_running_loop():
    async def main():
        loop = asyncio.get_running_loop()

        async def fn(n):
            assert asyncio.get_running_loop() is loop
            return n

        assert [n async for n in flow(range(3)).map(fn)] == [0, 1, 2]
        assert await flow(range(3)).map(fn).acollect() == [0, 1, 2]
        assert (await flow(range(3)).map(fn).arun()).items == 3

    asyncio.run(main())


USES = {
    "collect": lambda f: f.collect(),
    "run": lambda f: f.run(),
    "for": list,
    "open": lambda f: f.open().__enter__(),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("how", ["collect", "for"])
def test_sync_use_on_the_loop_of_a_run_is_a_usage_error(use, how):
    async def fn(n):
        return USES[use](flow([1]))

    chain = flow([1]).map(fn)
    with pytest.raises(UsageError, match=r"async for|await"):
        chain.collect() if how == "collect" else list(chain)


def test_sync_use_in_a_thread_of_a_run_is_fine():
    assert flow([1, 2]).map(lambda n: flow(range(n)).collect(), on="thread").collect() == [[0], [0, 1]]
    assert flow([1, 2]).map(lambda n: list(flow(range(n))), on="thread").collect() == [[0], [0, 1]]


def test_async_use_on_the_loop_of_a_run_is_fine(way):
    async def fn(n):
        return [x async for x in flow(range(n))] + await flow(range(n)).acollect()

    assert outcome(flow([1, 2]).map(fn), way) == ([[0, 0], [0, 1, 0, 1]], None)


def test_an_async_iterator_belongs_to_its_loop():
    items = aiter(flow(range(5)).map(in_lane("coroutine", same, 0.001), concurrency=1))

    async def one():
        return await anext(items)

    async def close():
        await items.aclose()

    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(one())
        with pytest.raises(UsageError, match="another event loop"):
            asyncio.run(one())
        loop.run_until_complete(close())
    finally:
        loop.close()


# -- sharing ------------------------------------------------------------------------------------------------


def test_one_iterator_may_be_shared_by_threads(lane):
    got: list[list[int]] = [[] for _ in range(4)]
    errors: list[BaseException] = []
    together = threading.Barrier(4)

    def consume(mine, items):
        together.wait(5)
        try:
            mine.extend(items)
        except BaseException as error:  # noqa: BLE001 - looked at below
            errors.append(error)

    with flow(range(5_000)).map(in_lane(lane, same), on=lane, concurrency=4).open() as items:
        threads = [threading.Thread(target=consume, args=(mine, items)) for mine in got]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
    assert errors == []
    assert sorted(n for mine in got for n in mine) == list(range(5_000))
    assert all(mine == sorted(mine) for mine in got)


def test_of_threads_that_share_an_iterator_one_gets_the_failure_and_all_end():
    outcomes: list[str] = []

    def consume(items):
        try:
            for _ in items:
                pass
            outcomes.append("end")
        except ValueError:
            outcomes.append("failure")

    with flow(range(1000)).map(fail_at(500)).open() as items:
        threads = [threading.Thread(target=consume, args=(items,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
    assert sorted(outcomes) == ["end", "end", "failure"]


@virtual
async def test_one_async_iterator_may_be_shared_by_tasks(ordered):
    calls = Calls(service_s=0.1)
    got: list[int] = []

    async def consume(items):
        async for n in items:
            got.append(n)
            await asyncio.sleep(0.05)

    async with flow(range(100)).map(calls, concurrency=5, ordered=ordered).open() as items:
        await asyncio.gather(*(consume(items) for _ in range(3)))
    assert sorted(got) == list(range(100))


# -- break ----------------------------------------------------------------------------------------------------


def test_break_closes_the_run_without_any_with(way, lane):
    pulled = Pulled()
    chain = flow(pulled.of("generator")).map(in_lane(lane, same), on=lane, concurrency=3)
    if way == "for":
        for _ in chain:
            break
    else:

        async def main():
            async for _ in chain:
                break
            gc.collect()
            deadline = time.monotonic() + 5
            while not pulled.closed and time.monotonic() < deadline:
                await asyncio.sleep(0.001)

        asyncio.run(main())
    gc.collect()
    wait_until(lambda: pulled.closed == 1, "closing")
    wait_until(lambda: not [t for t in threading.enumerate() if t.name.startswith("overlapped")], "the end of threads")


def test_an_iterator_that_is_dropped_in_a_cycle_is_closed_by_the_collector():
    pulled = Pulled()

    class Node:
        pass

    node = Node()
    node.items = iter(flow(pulled.of("generator")))  # type: ignore[attr-defined]
    node.me = node  # type: ignore[attr-defined]
    next(node.items)  # type: ignore[attr-defined]
    del node
    gc.collect()
    wait_until(lambda: pulled.closed == 1, "closing")


def test_open_closes_for_certain_before_its_block_is_left(way, lane):
    pulled = Pulled()
    chain = flow(pulled.of("generator")).map(in_lane(lane, same), on=lane, concurrency=3)
    if way == "for":
        with chain.open() as items:
            kept = items  # a reference that lives on
            next(items)
        assert pulled.closed == 1
        assert list(kept) == []
        return

    async def main():
        async with chain.open() as aitems:
            kept = aitems
            await anext(aitems)
        assert pulled.closed == 1
        assert [n async for n in kept] == []

    asyncio.run(main())


def test_close_may_be_called_again_and_from_another_thread(way):
    chain = flow(Pulled().of("generator")).map(same)
    if way == "for":
        items = iter(chain)
        next(items)
        thread = threading.Thread(target=items.close)
        thread.start()
        thread.join(5)
        assert not thread.is_alive()
        items.close()
        assert list(items) == []
        return

    async def main():
        aitems = aiter(chain)
        await anext(aitems)
        await asyncio.gather(aitems.aclose(), aitems.aclose())
        await aitems.aclose()
        assert [n async for n in aitems] == []

    asyncio.run(main())


def test_close_ends_a_next_that_waits_in_another_thread():
    may_end = threading.Event()
    got: list[object] = []

    def fn(n):
        may_end.wait(5)
        return n

    items = iter(flow([1, 2]).map(fn, on="thread"))

    def consume():
        got.append(next(items, "ended"))

    thread = threading.Thread(target=consume)
    thread.start()
    time.sleep(0.02)
    closer = threading.Thread(target=items.close)
    closer.start()
    time.sleep(0.02)
    may_end.set()
    thread.join(5)
    closer.join(5)
    assert not thread.is_alive()
    assert not closer.is_alive()
    assert got == ["ended"]


# -- a cancelled anext -----------------------------------------------------------------------------------------


@virtual
async def test_a_cancelled_anext_loses_nothing_and_does_not_close(ordered, limit):
    calls = Calls(service_s=lambda n: (n * 7 % 5) / 4 + 0.25)
    values, given_up = [], 0
    async with flow(range(30)).map(calls, concurrency=limit, ordered=ordered).open() as items:
        while True:
            try:
                values.append(await asyncio.wait_for(anext(items), 0.25))
            except TimeoutError:
                given_up += 1
            except StopAsyncIteration:
                break
    assert sorted(values) == list(range(30))
    assert not ordered or values == list(range(30))
    assert given_up > 5
    assert calls.cancelled == []


@virtual
async def test_an_anext_that_is_cancelled_as_its_item_comes_loses_nothing(ordered):
    """Time-outs on the same grid as the calls: cancel and result meet in one turn of the loop."""
    calls = Calls(service_s=1.0)
    values = []
    async with flow(range(20)).map(calls, concurrency=1, ordered=ordered).open() as items:
        for _ in range(200):
            try:
                values.append(await asyncio.wait_for(anext(items), 0.5))
            except TimeoutError:
                continue
            except StopAsyncIteration:
                break
    assert values == list(range(20))


@pytest.mark.parametrize("then", ["anext", "leave"])
@virtual
async def test_an_anext_that_is_cancelled_while_the_run_ends_does_not_lose_the_failure(then, ordered):
    async def fn(n):
        if n == 0:
            await asyncio.sleep(0.25)
            raise ValueError(n)
        try:
            await asyncio.sleep(1e6)
        finally:
            await asyncio.sleep(1)  # so that the end of the run takes a second

    async def consume():
        async with flow(range(2)).map(fn, concurrency=2, ordered=ordered).open() as items:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(items), 0.5)
            if then == "anext":
                await anext(items)

    with pytest.raises(ValueError, match="0"):
        await consume()
    assert now_s() == 1.25


@virtual
async def test_a_cancelled_anext_among_several_passes_its_turn_on():
    calls = Calls(service_s=1.0)
    async with flow(range(3)).map(calls, concurrency=1).open() as items:
        waiting = [asyncio.ensure_future(anext(items)) for _ in range(3)]
        await asyncio.sleep(0.5)
        waiting[0].cancel()
        assert await asyncio.wait_for(waiting[1], 5) in (0, 1)
        assert await asyncio.wait_for(waiting[2], 5) in (0, 1)
        assert await anext(items) == 2


@virtual
async def test_the_run_goes_on_while_nobody_waits():
    calls = Calls(service_s=1.0)
    async with flow(range(10)).map(calls, concurrency=1).open() as items:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(items), 0.5)
        await asyncio.sleep(20)
        before = now_s()
        assert [n async for n in items] == list(range(10))
        assert now_s() == before


@virtual
async def test_an_unused_async_iterator_starts_nothing():
    pulled = Pulled()
    items = aiter(flow(pulled.of("async generator")))
    await settle()
    assert pulled.began == 0
    await items.aclose()
    assert [n async for n in items] == []


def test_many_short_runs_one_after_the_other_stay_quick(way):
    before = time.monotonic()
    for _ in range(30):
        assert outcome(flow([1]), way) == ([1], None)
    assert time.monotonic() - before < 2
