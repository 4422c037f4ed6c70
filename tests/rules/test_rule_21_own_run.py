"""Rule 21: a call that waits for the results of its own run would wait for itself; it is told so."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from overlapped import UsageError
from overlapped.testing import virtual
from tests.rules.kit import LANES, flow, wait_until


def told(error: BaseException) -> bool:
    return isinstance(error, UsageError) and "its own run" in str(error)


@pytest.mark.parametrize("lane", ["thread", "inline"])
@pytest.mark.parametrize("ask", [list, lambda items: items.close(), lambda items: items.__exit__(None, None, None)])
def test_a_plain_call_that_waits_for_its_own_run_fails(lane, ask):
    held: list[Any] = []

    def fn(n):
        if n == 3:
            wait_until(lambda: held)
            ask(held[0])
        return n

    with flow(range(10)).map(fn, on=lane, concurrency=2).open(on_failure="keep") as items:
        held.append(items)
        assert set(items) <= {0, 1, 2, 4, 5, 6, 7, 8, 9}  # what was ready when it asked, it was given
        (failure,) = items.report.failures
    assert (failure.item, told(failure.error)) == (3, True)


@virtual
async def test_a_coroutine_that_waits_for_its_own_run_fails():
    async def close(items):
        await items.aclose()

    async def rest(items):
        return [item async for item in items]

    for ask in (rest, close):
        held: list[Any] = []

        async def fn(n, ask=ask, held=held):
            if n == 3:
                await ask(held[0])
            return n

        async with flow(range(10)).map(fn, concurrency=2).open(on_failure="keep") as items:
            held.append(items)
            assert {item async for item in items} <= {0, 1, 2, 4, 5, 6, 7, 8, 9}
            (failure,) = items.report.failures
        assert failure.item == 3
        assert told(failure.error), repr(failure.error)


def test_a_source_that_waits_for_its_own_run_fails():
    held: list[Any] = []

    def source():
        yield 1
        wait_until(lambda: held)
        yield next(held[0])

    with flow(source).map(lambda n: n, on="thread").open() as items:
        held.append(items)
        assert next(items) == 1
        with pytest.raises(UsageError, match="its own run"):
            next(items)


@pytest.mark.parametrize("lane", LANES)
def test_a_call_may_use_another_run_and_a_run_of_its_own(lane):
    other = iter(flow(range(100)))

    def fn(n):
        return n + next(other) + sum(flow([1, 2]).map(lambda x: x, on="inline").collect())

    async def afn(n):
        return n + next(other) + sum(await flow([1, 2]).map(lambda x: x, on="inline").acollect())

    chain = flow(range(20)).map(afn if lane == "coroutine" else fn, on=lane, concurrency=3)
    if lane == "inline":
        with pytest.raises(UsageError, match="loop of a run"):
            chain.collect()
    else:
        assert sum(chain.collect()) == 2 * sum(range(20)) + 3 * 20
    other.close()


def test_an_inner_flow_that_waits_for_the_run_around_it_fails():
    held: list[Any] = []

    def inner(n):
        wait_until(lambda: held)
        return next(held[0])

    def fn(n):
        return flow([n]).map(inner, on="thread").collect()

    with flow(range(3)).map(fn, on="thread", concurrency=1).open() as items:
        held.append(items)
        with pytest.raises(UsageError, match="its own run"):
            next(items)


@virtual
async def test_drain_and_stats_of_its_own_run_are_fine():
    held: list[Any] = []

    async def fn(n):
        await asyncio.sleep(0)
        if n == 3:
            held[0].drain()
            assert held[0].stats().state == "running"
        return n

    async with flow(range(1000)).map(fn, concurrency=1).open() as items:
        held.append(items)
        assert len([item async for item in items]) < 100
