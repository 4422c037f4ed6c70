"""Threads that are switched between any two lines: nothing is lost, given twice, or given to the wrong item."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import sys
import threading
import time
from typing import Any

from overlapped import CallTimeout, Retry
from tests.faults.harness import BUSY_KEY, child
from tests.faults.kit import Boom, flow, gather_from, numbers, pull_from


def hurry() -> None:
    """Let threads be switched as often as it goes."""
    sys.setswitchinterval(1e-6)


@child(ordered=[True, False], limit=[1, 2, 7])
def test_thread_stages_lose_nothing(ordered: bool, limit: int) -> None:
    hurry()
    for _ in range(4):
        chain = flow(numbers(400)).map(lambda n: n, concurrency=limit, ordered=ordered, on="thread")
        chain = chain.map(lambda n: n, concurrency=limit, ordered=ordered, on="thread")
        got = list(chain)
        assert len(got) == 400
        assert sorted(got) == list(range(400))
        assert not ordered or got == sorted(got)


@child(ordered=[True, False])
def test_generators_in_threads_lose_nothing(ordered: bool) -> None:
    hurry()

    def parts(item: int) -> Any:
        for n in range(item % 150):
            yield item, n

    def over(items: Any) -> Any:
        for item in items:
            if item[1] % 2:
                yield item

    whole = [(item, n) for item in range(120) for n in range(item % 150)]
    for _ in range(2):
        got = flow(numbers(120)).flat_map(parts, concurrency=4, ordered=ordered).through(over).collect()
        wanted = [part for part in whole if part[1] % 2]
        assert (got if ordered else sorted(got)) == wanted


@child
def test_a_function_that_changes_its_lane_loses_nothing() -> None:
    """Short calls go inline, one long call sends them back."""
    hurry()

    def sometimes_long(item: int) -> int:
        until = time.perf_counter() + (0.015 if item in (1_500, 3_000) else 20e-6)
        while time.perf_counter() < until:
            pass
        return item

    for limit in (2, 5):
        got = flow(numbers(4_000)).map(sometimes_long, concurrency=limit).collect()
        assert got == list(range(4_000))


@child
def test_a_timeout_never_hits_an_item_whose_call_was_short() -> None:
    """Calls of about `timeout_s` beside calls of nothing: whoever looks at the clock may look at the next item."""
    hurry()
    busy = min(5.0, float(os.environ.get(BUSY_KEY, "1")))  # where a thread waits for a CPU, calls of nothing are long
    timeout_s = 0.003 * busy
    took: dict[int, float] = {}

    def about_as_long(item: int) -> int:
        started = time.perf_counter()
        if item % 3 == 0:
            time.sleep(timeout_s + 0.0001 * busy * (item // 3 % 5 - 2))
        took[item] = time.perf_counter() - started
        return item

    with flow(range(1_500)).map(about_as_long, concurrency=3, timeout_s=timeout_s).open(on_failure="keep") as items:
        got: list[Any] = []
        assert pull_from(items, got) is None
        report = items.report
    failed = {failure.item for failure in report.record.failures}
    assert sorted([*got, *failed]) == list(range(1_500)), "each item once"
    assert all(isinstance(failure.error, CallTimeout) for failure in report.record.failures)
    wrongly = [item for item in failed if item % 3]
    assert not wrongly, f"timed out though they took {[took[item] for item in wrongly]}"


@child(order=["ordered", "as completed"])
async def test_seeded_chains_of_faults_keep_every_item_once(order: str) -> None:
    """delivered + failed = pulled; each at most once; the order kept."""
    hurry()
    for seed in range(12):
        draw = random.Random(seed)  # noqa: S311 - it draws faults, not secrets
        pulled: list[int] = []
        lanes = [draw.choice(["coroutine", "thread", "inline", "flat_map"]) for _ in range(3)]

        def source(pulled: list[int] = pulled) -> Any:
            for n in range(150):
                pulled.append(n)
                yield n

        chain: Any = flow(source)
        for lane in lanes:
            chain = _faulty(chain, lane, draw.randrange(1_000), ordered=order == "ordered", limit=draw.randint(1, 6))
        got: list[Any] = []
        async with chain.open(on_failure="keep") as items:
            assert await asyncio.wait_for(gather_from(items, got), 5) is None, (seed, lanes)
        failed = [failure.error.args[0] for failure in items.report.record.failures]
        assert sorted([*got, *failed]) == pulled == list(range(150)), (seed, lanes)
        assert order != "ordered" or got == sorted(got), (seed, lanes)


def _faulty(chain: Any, lane: str, seed: int, *, ordered: bool, limit: int) -> Any:
    tries: dict[int, int] = {}

    def fate(item: int) -> int:
        """Some items fail once, some for good."""
        tries[item] = tries.get(item, 0) + 1
        drawn = hash((seed, item)) % 100
        if drawn < 5 or (drawn < 25 and tries[item] == 1):
            raise Boom(item)
        return item

    async def awaited(item: int) -> int:
        await asyncio.sleep(0.0005 * (item % 3))
        return fate(item)

    def parts(item: int) -> Any:
        yield fate(item)

    options: dict[str, Any] = {
        "concurrency": limit,
        "ordered": ordered,
        "retry": Retry(2, exceptions=Boom, base_s=0.0005),
        "timeout_s": 5,
    }
    if lane == "inline":
        del options["timeout_s"]
    if lane == "flat_map":
        return chain.flat_map(parts, **options)
    return chain.map(awaited if lane == "coroutine" else fate, on=lane, **options)


@child
def test_iterators_shared_closed_and_drained_by_threads_at_once_never_hang() -> None:
    hurry()
    for n in range(30):
        items = iter(flow(itertools.count()).map(lambda i: i, concurrency=3, on="thread"))
        got: list[list[int]] = [[], []]
        threads = [threading.Thread(target=pull_from, args=(items, mine)) for mine in got]
        threads += [threading.Thread(target=items.close if n % 2 else items.drain) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(5)
            assert not thread.is_alive(), "it hangs"
        assert all(mine == sorted(mine) for mine in got)
        assert not set(got[0]) & set(got[1])


@child
def test_many_short_runs_in_a_row_leave_nothing() -> None:
    hurry()
    before = threading.active_count()
    for n in range(60):
        assert list(flow(numbers(3)).map(lambda i: i)) == [0, 1, 2]
        assert flow(range(n)).map(lambda i: i, on="thread").collect() == list(range(n))
    assert threading.active_count() == before
