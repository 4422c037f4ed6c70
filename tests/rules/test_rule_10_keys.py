"""Rule 10: items of one key start in order, at most `per_key` at once; a blocked item lets others go past."""

from __future__ import annotations

import asyncio
import collections
import threading
import time
from typing import Any

import pytest

from overlapped import Overloaded, Rate, Retry, UsageError
from overlapped.testing import virtual
from tests.rules.kit import Calls, Pulled, aoutcome, arriving, cap, flow, in_lane, now_s, outcome, same


def host(item: Any) -> Any:
    """The key: the first letter."""
    return item[0]


@virtual
async def test_at_most_per_key_calls_of_one_key_at_once(ordered):
    calls = Calls(service_s=1.0)
    items = ["a0", "a1", "a2", "b0", "b1", "c0"]
    await flow(items).map(calls, concurrency=6, ordered=ordered, key=host, per_key=1).acollect()
    assert sorted(calls.started) == [("a0", 0), ("a1", 1), ("a2", 2), ("b0", 0), ("b1", 1), ("c0", 0)]


@virtual
async def test_per_key_may_be_more_than_one(ordered):
    calls = Calls(service_s=1.0)
    items = [f"a{n}" for n in range(5)]
    await flow(items).map(calls, concurrency=5, ordered=ordered, key=host, per_key=2).acollect()
    assert [at for _, at in calls.started] == [0, 0, 1, 1, 2]
    assert calls.peak == 2


@virtual
async def test_items_of_one_key_start_in_order(ordered, limit):
    calls = Calls(service_s=lambda item: int(item[1:]) * 7 % 5 / 10)
    items = [f"{'abc'[n % 3]}{n}" for n in range(60)]
    await flow(items).map(calls, concurrency=limit, ordered=ordered, key=host, per_key=1).acollect()
    for letter in "abc":
        mine = [item for item in calls.starts if item[0] == letter]
        assert mine == [item for item in items if item[0] == letter]


@virtual
async def test_a_blocked_item_holds_no_slot_and_others_go_past():
    calls = Calls(service_s=lambda item: 10.0 if item == "a0" else 1.0)
    items = ["a0", "a1", "a2", "b0", "c0", "d0"]
    await flow(items).map(calls, concurrency=2, ordered=False, key=host, per_key=1).acollect()
    assert calls.started[:4] == [("a0", 0), ("b0", 0), ("c0", 1), ("d0", 2)]
    assert calls.started[4:] == [("a1", 10), ("a2", 11)]


@virtual
async def test_ordered_results_stay_in_order():
    calls = Calls(service_s=1.0)
    items = [f"{'aab'[n % 3]}{n}" for n in range(30)]
    assert await flow(items).map(calls, concurrency=5, key=host, per_key=1).acollect() == items


@virtual
async def test_blocked_items_count_in_the_look_ahead(ordered):
    pulled = Pulled()
    calls = Calls(service_s=1000.0)
    chain = flow(pulled.of("async generator")).map(calls, concurrency=2, ordered=ordered, key=lambda n: 0, per_key=1)
    async with chain.open() as items:
        first = asyncio.ensure_future(anext(items))
        await asyncio.sleep(500)
        assert pulled.count == cap(2)
        (stage,) = items.stats().stages
        assert (stage.in_flight, stage.parked) == (1, cap(2) - 1)
        assert await first == 0


@virtual
async def test_one_blocked_key_does_not_hang_the_others_for_ever(ordered):
    """Even if the look-ahead is full of one key, its items go on one by one."""
    calls = Calls(service_s=0.1)
    items = ["a"] * 100 + ["b"] * 3
    values = await flow(items).map(calls, concurrency=5, ordered=ordered, key=host, per_key=1).acollect()
    assert collections.Counter(values) == {"a": 100, "b": 3}


@virtual
async def test_per_key_may_be_a_rate_with_a_budget_for_each_key(ordered):
    calls = Calls(service_s=0.0)
    items = ["a0", "a1", "a2", "b0", "b1"]
    await flow(items).map(calls, concurrency=5, ordered=ordered, key=host, per_key=Rate(1, per_s=2)).acollect()
    assert sorted(calls.started) == [("a0", 0), ("a1", 2), ("a2", 4), ("b0", 0), ("b1", 2)]


@virtual
async def test_a_key_that_was_quiet_is_remembered_for_its_rate():
    calls = Calls(service_s=0.0)
    source = arriving(0, 1, 5, then=lambda n: f"a{n}")
    await flow(source).map(calls, concurrency=5, key=host, per_key=Rate(1, per_s=2)).acollect()
    assert calls.started == [("a0", 0), ("a1", 2), ("a2", 5)]


@virtual
async def test_retries_of_a_key_keep_to_its_rate_and_number():
    calls = Calls(service_s=0.1, fails=lambda item, attempt: ValueError(item) if attempt == 1 else None)
    retry = Retry(attempts=2, base_s=0.0)
    items = ["a0", "a1", "a2"]
    await flow(items).map(calls, concurrency=5, key=host, per_key=1, retry=retry).acollect()
    assert calls.peak == 1


@pytest.mark.parametrize("per_key", [1, 2])
@virtual
async def test_a_pause_is_for_its_key_only(per_key, ordered):
    calls = Calls(
        service_s=0.5,
        fails=lambda item, attempt: Overloaded(retry_after_s=10.0) if item == "a0" and attempt == 1 else None,
    )
    items = ["a0", "b0", "b1", "b2", "a1"]
    chain = flow(items).map(
        calls, concurrency=2, ordered=ordered, key=host, per_key=per_key, retry=Retry(attempts=2, base_s=0.0)
    )
    assert sorted(await chain.acollect()) == sorted(items)
    a_starts = [at for item, at in calls.started if item[0] == "a"]
    assert [at for at in a_starts if 0.5 < at < 10.5] == []
    assert max(at for item, at in calls.started if item[0] == "b") <= 1.5


@virtual
async def test_a_longer_retry_of_one_key_lets_others_go_past(ordered):
    calls = Calls(
        service_s=0.5, fails=lambda item, attempt: ValueError(item) if item == "a0" and attempt == 1 else None
    )
    retry = Retry(attempts=2, base_s=20.0, jitter=False)
    chain = flow(["a0", "b0", "b1", "c0"]).map(calls, concurrency=1, ordered=ordered, key=host, per_key=1, retry=retry)
    await chain.acollect()
    assert calls.starts == ["a0", "b0", "b1", "c0", "a0"]


def test_keys_work_in_every_lane(lane, way, ordered):
    lock = threading.Lock()
    now: collections.Counter[str] = collections.Counter()
    peak: collections.Counter[str] = collections.Counter()

    def begin(item):
        with lock:
            now[item[0]] += 1
            peak[item[0]] = max(peak[item[0]], now[item[0]])

    def end(item):
        with lock:
            now[item[0]] -= 1
        return item

    async def acall(item):
        begin(item)
        await asyncio.sleep(0.001)
        return end(item)

    def call(item):
        begin(item)
        time.sleep(0.001)
        return end(item)

    items = [f"{'abbb'[n % 4]}{n}" for n in range(40)]
    chain = flow(items).map(
        acall if lane == "coroutine" else call, on=lane, ordered=ordered, concurrency=5, key=host, per_key=2
    )
    values, error = outcome(chain, way)
    assert error is None
    assert (values if ordered else sorted(values)) == (items if ordered else sorted(items))
    assert max(peak.values()) <= 2


def test_a_failing_key_function_is_that_items_failure(lane, ordered):
    def key(n):
        if n == 2:
            raise KeyError(n)
        return [] if n == 3 else n  # a list cannot be a key

    chain = flow(range(5)).map(in_lane(lane, same), on=lane, ordered=ordered, key=key, per_key=1)
    report = chain.run(on_failure="keep")
    assert report.items == 3
    assert {f.item: type(f.error) for f in report.failures} == {2: KeyError, 3: TypeError}


@pytest.mark.parametrize("key", [None, 0, "", (), float("nan")])
@virtual
async def test_every_hashable_value_is_a_key(key):
    calls = Calls(service_s=1.0)
    await flow(range(3)).map(calls, concurrency=3, key=lambda n: key, per_key=1).acollect()
    assert calls.peak == 1


class Page:
    """An item that is its own key, and another one after its call."""

    def __init__(self, n):
        self.n = n
        self.state = 0

    def __hash__(self):
        return hash((self.n, self.state))

    def __eq__(self, other):
        return (self.n, self.state) == (other.n, other.state)


@pytest.mark.parametrize("retry", [None, Retry(attempts=2, base_s=0.001)])
def test_a_key_may_change_during_its_call(retry, lane, ordered):
    def visit(page):
        page.state += 1
        if retry is not None and page.state == 1:
            raise Overloaded(retry_after_s=0.01)
        return page.n

    chain = flow([Page(n % 5) for n in range(20)]).map(
        in_lane(lane, visit), on=lane, ordered=ordered, key=same, per_key=1, concurrency=4, retry=retry
    )
    values, error = outcome(chain)
    assert (sorted(values), error) == (sorted([*range(5)] * 4), None)


@virtual
async def test_a_key_that_changes_while_its_item_is_parked_is_left_once():
    async def visit(page):
        page.state += 1
        if page.state < 3:
            raise ValueError(page.state)
        return page.n

    retry = Retry(attempts=3, base_s=5.0, jitter=False)
    async with flow([Page(n % 2) for n in range(6)]).map(visit, key=same, per_key=1, retry=retry).open() as items:
        assert [n async for n in items] == [0, 1] * 3
        assert not items._run.crews[0].keys._keys


@virtual
async def test_a_failure_ends_the_run_with_blocked_items_waiting(ordered):
    calls = Calls(service_s=1.0, fails=lambda n, _: ValueError(n) if n == 1 else None)
    chain = flow(range(50)).map(calls, concurrency=3, ordered=ordered, key=lambda n: 0, per_key=1)
    values, error = await aoutcome(chain)
    assert (values, type(error)) == ([0], ValueError)
    assert calls.starts == [0, 1]


@virtual
async def test_take_ends_the_run_with_blocked_items_waiting(ordered):
    calls = Calls(service_s=1.0)
    chain = flow(range(50)).filter(calls, concurrency=3, ordered=ordered, key=lambda n: 0, per_key=1).take(1)
    assert await chain.acollect() == [1]
    assert now_s() == 2.0


@virtual
async def test_very_many_keys_are_not_kept_for_ever():
    calls = Calls(service_s=0.01)
    async with flow(range(5_000)).map(calls, concurrency=5, key=same, per_key=Rate(1000)).open() as items:
        async for _ in items:
            pass
        crew = items._run.crews[0]
        assert len(crew.keys._keys) < 3_000


@pytest.mark.parametrize("options", [{"key": host}, {"per_key": 1}])
def test_key_and_per_key_belong_together(options):
    with pytest.raises(UsageError, match="belong together"):
        flow([1]).map(same, **options)


@pytest.mark.parametrize("per_key", [0, -1, 1.5, True, "1"])
def test_a_bad_per_key_is_refused_when_written(per_key):
    with pytest.raises(UsageError, match="per_key"):
        flow([1]).map(same, key=host, per_key=per_key)


@pytest.mark.parametrize("kind", [StopIteration, asyncio.CancelledError, GeneratorExit])
@pytest.mark.parametrize("what", ["key", "weigh"])
def test_a_small_function_that_raises_what_means_the_end_elsewhere_fails_its_item(what, kind, lane, way):
    def odd(item):
        if item == 1:
            raise kind("odd")
        return 1

    options = {"key": odd, "per_key": 1} if what == "key" else {"rate": Rate(10_000, weigh=odd)}
    values, error = outcome(flow(range(2)).map(in_lane(lane, same), on=lane, **options), way)
    assert values == [0]
    assert type(error) is RuntimeError
    assert type(error.__cause__) in (kind, RuntimeError)  # one of Python's own round a StopIteration


def test_a_key_that_turns_out_to_be_awaitable_is_that_items_failure(lane):
    async def key(item):
        return item

    chain = flow(["a"]).map(in_lane(lane, same), on=lane, key=lambda item: key(item), per_key=1)
    values, error = outcome(chain)
    assert (values, type(error)) == ([], UsageError)
    assert "coroutine" in str(error)


def test_an_async_key_function_is_refused_when_written():
    async def key(n):
        return n

    for bad in (key, 1, "host"):
        with pytest.raises(UsageError, match="key"):
            flow([1]).map(same, key=bad, per_key=1)
