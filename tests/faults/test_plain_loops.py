"""Plain loops in threads: left early, shared, nested, and refused where they would wait for themselves."""

# ruff: noqa: PT017 - the body of a test runs where there is no pytest
from __future__ import annotations

import asyncio
import itertools
import threading
from typing import Any

from overlapped import UsageError
from tests.faults.harness import child
from tests.faults.kit import (
    Boom,
    Calls,
    flow,
    nap,
    numbers,
    pull_from,
    took,
    wait_until_blocking,
    waiting,
)

KEPT: list[Any] = []  # what a module keeps alive until the interpreter ends


@child(lane=["coroutine", "thread"])
def test_a_bare_break_out_of_a_plain_loop_leaves_nothing(lane: str) -> None:
    calls = Calls()
    for _ in flow(numbers).map(waiting(calls, lane), concurrency=4):
        break
    wait_until_blocking(lambda: calls.now == 0)


@child(lane=["coroutine", "thread"])
def test_leaving_a_with_block_waits_until_all_is_down(lane: str) -> None:
    calls = Calls()
    with took(2), flow(numbers).map(waiting(calls, lane), concurrency=4).open() as items:
        next(items)
    assert calls.now == 0
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("overlapped")]
    items.close()
    assert pull_from(items, []) is None


@child
def test_close_from_another_thread_ends_a_next_that_waits() -> None:
    calls = Calls()
    items = iter(flow(numbers).map(waiting(calls, "coroutine"), concurrency=4))
    next(items)
    threading.Timer(0.2, items.close).start()
    with took(2):
        assert pull_from(items, []) is None
    assert calls.now == 0


@child
def test_threads_may_share_an_iterator() -> None:
    items = iter(flow(range(2_000)).map(nap, concurrency=50))
    got: list[list[int]] = [[] for _ in range(4)]
    threads = [threading.Thread(target=pull_from, args=(items, mine)) for mine in got]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(8)
        assert not thread.is_alive(), "it hangs"
    assert sorted(itertools.chain(*got)) == list(range(2_000))
    assert all(mine == sorted(mine) for mine in got)


@child
def test_an_error_is_raised_in_one_thread_and_ends_the_others() -> None:
    async def fails(item: int) -> int:
        await asyncio.sleep(0.001)
        if item == 100:
            raise Boom
        return item

    items = iter(flow(numbers).map(fails, concurrency=5))
    errors: list[BaseException | None] = []
    threads = [threading.Thread(target=lambda: errors.append(pull_from(items, []))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert len(errors) == 3, "one hangs"
    assert sum(isinstance(error, Boom) for error in errors) == 1
    assert errors.count(None) == 2


@child
def test_a_blocking_call_on_a_runs_own_loop_is_refused() -> None:
    async def blocks(item: int) -> Any:
        return flow(range(3)).collect()

    async def iterates(item: int) -> list[int]:
        return list(flow(range(3)))

    for fn in (blocks, iterates):
        with took(2):
            try:
                flow(range(3)).map(fn).run()
            except UsageError as error:
                assert "await" in str(error)
            else:
                raise AssertionError("not refused")


@child
def test_flows_nest_in_threads_without_starving_each_other() -> None:
    def inner(item: int) -> int:
        return sum(flow(range(item)).map(lambda n: n + 0, concurrency=2).map(nap, concurrency=2).collect())

    def outer(item: int) -> int:
        return sum(flow(range(item)).map(inner, concurrency=3, on="thread").collect())

    got = flow(range(6)).map(outer, concurrency=6, on="thread").collect()
    assert got == [sum(sum(range(n)) for n in range(item)) for item in range(6)]


@child
def test_fifty_plain_loops_left_early_leave_nothing() -> None:
    calls = Calls()
    for _ in range(50):
        for item in flow(numbers).map(waiting(calls, "coroutine"), concurrency=3).map(lambda n: n, concurrency=2):
            assert item == 0
            break
    wait_until_blocking(lambda: calls.now == 0)
    wait_until_blocking(lambda: threading.active_count() == 1)
