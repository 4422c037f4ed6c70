"""Rule 8: `flat_map` streams generators; every verb takes every kind of function; an exception object is a value."""

from __future__ import annotations

import asyncio
import functools
import itertools
import os
import signal
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from overlapped import AUTO, Rate, Retry, UsageError
from overlapped._engine.hosts import HostPort
from overlapped.testing import virtual
from tests.rules.kit import LONG_S, Limits, fail_at, flow, in_lane, now_s, outcome, rest, same, timed, wait_until

# -- lists and generators ------------------------------------------------------------------------------------


@virtual
async def test_a_returned_list_is_one_result():
    async def fn(n):
        await asyncio.sleep(1.0)
        return [n, n + 0.5]

    assert await timed(flow([1, 2]).flat_map(fn, concurrency=1)) == [(1, 1.0), (1.5, 1.0), (2, 2.0), (2.5, 2.0)]


@pytest.mark.parametrize("result", [[1, 2], (1, 2), {1: 0, 2: 0}.keys(), range(1, 3), frozenset({1, 2})])
def test_every_returned_iterable_is_taken_apart(result, lane):
    assert flow([0]).flat_map(in_lane(lane, lambda n: result), on=lane).collect() == [1, 2]


@pytest.mark.parametrize("result", [None, 1, "text", b"bytes", {"a": 1}])
def test_what_is_not_meant_to_be_taken_apart_is_that_items_failure(result, lane):
    _, error = outcome(flow([0]).flat_map(in_lane(lane, lambda n: result), on=lane))
    assert isinstance(error, TypeError)
    assert "flat_map" in str(error)


def test_an_empty_result_is_no_result(lane, way, ordered):
    chain = flow(range(50)).flat_map(in_lane(lane, lambda n: [n] if n % 7 == 0 else []), on=lane, ordered=ordered)
    values, error = outcome(chain, way)
    assert (sorted(values), error) == ([0, 7, 14, 21, 28, 35, 42, 49], None)


@virtual
async def test_results_of_a_generator_are_streamed(ordered):
    async def fn(n):
        for i in range(3):
            await asyncio.sleep(1.0)
            yield n, i

    chain = flow([7]).flat_map(fn, ordered=ordered)
    assert await timed(chain) == [((7, 0), 1.0), ((7, 1), 2.0), ((7, 2), 3.0)]


def test_results_of_a_generator_in_a_thread_are_streamed(way):
    taken = threading.Event()

    def fn(n):
        yield 1
        assert taken.wait(5), "the first result had to be out before the generator ended"
        yield 2

    chain = flow([7]).flat_map(fn, on="thread")
    if way == "for":
        items = iter(chain)
        assert next(items) == 1
        taken.set()
        assert list(items) == [2]
        return

    async def main():
        async with chain.open() as aitems:
            assert await anext(aitems) == 1
            taken.set()
            assert [n async for n in aitems] == [2]

    asyncio.run(main())


def test_a_returned_generator_is_streamed_too():
    taken = threading.Event()

    def numbers():
        yield 1
        assert taken.wait(5)
        yield 2

    items = iter(flow([7]).flat_map(lambda n: numbers(), on="thread"))
    assert next(items) == 1
    taken.set()
    assert list(items) == [2]


class Async:
    """Results that only a loop can ask for."""

    def __init__(self, n):
        self.n = n

    async def __aiter__(self):
        for i in range(self.n):
            yield i


class Both(Async):
    """Results that a loop and any other place can ask for."""

    def __iter__(self):
        return iter(range(self.n))


ASYNC = {
    "async generator": lambda n: Async(n).__aiter__(),
    "async iterable": Async,
    "iterable both ways": Both,
    "flow": lambda n: flow(range(n)),
}


@pytest.mark.parametrize("made", ASYNC)
@pytest.mark.parametrize("on", [AUTO, "coroutine"])
def test_what_a_plain_function_returns_is_iterated_on_the_loop_if_only_that_can(made, on, way, ordered):
    report = flow(range(5)).flat_map(lambda n: ASYNC[made](n), on=on, ordered=ordered).run()
    assert (report.items, report.failed, report.stages[0].lane) == (10, 0, "coroutine")
    values, error = outcome(flow(range(5)).flat_map(lambda n: ASYNC[made](n), on=on, ordered=ordered), way)
    expected = [i for n in range(5) for i in range(n)]
    assert (values if ordered else sorted(values), error) == (expected if ordered else sorted(expected), None)


def test_an_endless_flow_that_a_plain_function_returns_is_streamed():
    assert flow([1]).flat_map(lambda n: flow(itertools.count())).take(3).collect() == [0, 1, 2]


@pytest.mark.parametrize("made", ["async generator", "async iterable"])
@pytest.mark.parametrize("on", ["thread", "inline"])
def test_what_only_a_loop_can_iterate_fails_elsewhere_with_the_line_to_write(made, on):
    values, error = outcome(flow(range(3)).flat_map(lambda n: ASYNC[made](n), on=on))
    assert (values, type(error)) == ([], UsageError)
    assert f"returned an async iterable in the {on} lane, where nothing can iterate it; write .flat_map(" in str(error)


@pytest.mark.parametrize("on", ["thread", "inline"])
def test_what_can_be_iterated_both_ways_is_iterated_where_it_is(on):
    assert flow(range(3)).flat_map(lambda n: Both(n), on=on).collect() == [0, 0, 1]


def test_results_of_a_function_with_a_resource_per_worker_are_iterated_in_its_thread():
    chain = flow(range(3)).using(per="worker", opened=lambda: 1).flat_map(lambda n, opened: Both(n))
    assert chain.collect() == [0, 0, 1]
    chain = flow(range(3)).using(per="worker", opened=lambda: 1).flat_map(lambda n, opened: Async(n))
    assert type(outcome(chain)[1]) is UsageError


@virtual
async def test_ordered_results_of_one_item_stay_together():
    async def fn(n):
        for i in range(3):
            await asyncio.sleep(3 - n if n < 3 else 1)
            yield n, i

    values = await flow(range(3)).flat_map(fn, concurrency=3).acollect()
    assert values == [(n, i) for n in range(3) for i in range(3)]


@virtual
async def test_as_completed_results_leave_when_they_are_made():
    async def fn(n):
        for i in range(2):
            await asyncio.sleep(1.0 + n * 0.25)
            yield n, i

    results = await timed(flow(range(2)).flat_map(fn, concurrency=2, ordered=False))
    assert results == [((0, 0), 1.0), ((1, 0), 1.25), ((0, 1), 2.0), ((1, 1), 2.5)]


def stream(lane: str, fails_after: int | None = None, count: int = 5) -> Any:
    """A generator function for a lane: (n, 0), (n, 1) ... and perhaps a failure."""
    if lane == "coroutine":

        async def afn(n: int) -> AsyncIterator[tuple[int, int]]:
            for i in range(count):
                if i == fails_after and n == 1:
                    raise ValueError(n)
                await asyncio.sleep(0)
                yield n, i

        return afn

    def fn(n: int) -> Any:
        for i in range(count):
            if i == fails_after and n == 1:
                raise ValueError(n)
            yield n, i

    return fn


@pytest.mark.parametrize("after", [1, 3])
def test_what_a_generator_yielded_stays_and_its_failure_follows(after, lane, way, limit):
    chain = flow(range(3)).flat_map(stream(lane, after), on=lane, concurrency=limit)
    values, error = outcome(chain, way)
    assert values == [(0, i) for i in range(5)] + [(1, i) for i in range(after)]
    assert type(error) is ValueError


@pytest.mark.parametrize("after", [0, 3])
def test_in_keep_mode_later_items_follow_the_failure(after, lane, way, ordered, limit):
    chain = flow(range(3)).flat_map(stream(lane, after), on=lane, ordered=ordered, concurrency=limit)
    values, error = outcome(chain, way, on_failure="keep")
    expected = [(0, i) for i in range(5)] + [(1, i) for i in range(after)] + [(2, i) for i in range(5)]
    assert error is None
    assert (values if ordered else sorted(values)) == expected


def test_a_failure_is_caught_in_its_place_behind_what_was_yielded(lane, way):
    chain = flow(range(2)).flat_map(stream(lane, 2), on=lane, concurrency=2).catch(ValueError, replace="failed")
    values, error = outcome(chain, way)
    assert (values, error) == ([(0, i) for i in range(5)] + [(1, 0), (1, 1), "failed"], None)


@pytest.mark.parametrize("after", [0, 2])
def test_a_generator_is_tried_again_only_if_it_had_yielded_nothing(after, lane, way):
    tries = []
    fails = {"left": 2}

    def begin(n):
        tries.append(n)

    if lane == "coroutine":

        async def fn(n):
            begin(n)
            for i in range(4):
                if i == after and fails["left"]:
                    fails["left"] -= 1
                    raise ValueError(n)
                yield i

    else:

        def fn(n):
            begin(n)
            for i in range(4):
                if i == after and fails["left"]:
                    fails["left"] -= 1
                    raise ValueError(n)
                yield i

    chain = flow([7]).flat_map(fn, on=lane, retry=Retry(attempts=5, base_s=0.001))
    values, error = outcome(chain, way)
    if after == 0:
        assert (values, error, len(tries)) == ([0, 1, 2, 3], None, 3)
    else:
        assert (values, type(error), len(tries)) == ([0, 1], ValueError, 1)


# -- pausing ----------------------------------------------------------------------------------------------------


@virtual
async def test_a_generator_whose_turn_has_not_come_pauses_after_64_outputs_and_keeps_its_slot():
    made = {0: 0, 1: 0, 2: 0}
    may_go_on = asyncio.Event()

    async def fn(n):
        if n == 0:
            await may_go_on.wait()
        for _ in range(200):
            made[n] += 1
            yield n

    async with flow(range(3)).flat_map(fn, concurrency=2).open() as items:
        first = asyncio.ensure_future(anext(items))
        await asyncio.sleep(100)
        assert made == {0: 0, 1: 64, 2: 0}  # item 2 found no slot
        assert items.stats().stages[0].in_flight == 2
        may_go_on.set()
        values = [await first] + [n async for n in items]
    assert values == [0] * 200 + [1] * 200 + [2] * 200


@virtual
async def test_the_head_never_pauses_for_order():
    made = 0

    async def fn(n):
        nonlocal made
        for _ in range(200):
            if n == 0:
                made += 1
            await asyncio.sleep(0.01)
            yield n

    async with flow(range(5)).flat_map(fn, concurrency=5).open() as items:
        got = 0
        async for n in items:
            assert n == 0
            got += 1
            if got == 200:
                break
        assert now_s() == pytest.approx(2.0)  # 200 x 0.01: it was never held up
        assert made == 200


def test_a_generator_in_a_thread_pauses_after_64_outputs_too():
    made = {0: 0, 1: 0}
    may_go_on = threading.Event()

    def fn(n):
        if n == 0:
            assert may_go_on.wait(5)
        for _ in range(200):
            made[n] += 1
            yield n

    with flow(range(2)).flat_map(fn, on="thread", concurrency=2).open() as items:
        wait_until(lambda: made[1] >= 64)
        assert rest(lambda: made[1]) <= 65  # the one it waits to hand over included
        may_go_on.set()
        assert list(items) == [0] * 200 + [1] * 200


@pytest.mark.parametrize("wait_s", [0.5, 50.0])
@pytest.mark.parametrize("kind", ["async", "inline"])
@virtual
async def test_an_item_that_is_tried_again_finds_a_slot_though_generators_behind_it_pause(kind, wait_s, limit):
    failed: list[int] = []

    def fn(n):
        if n == 0 and not failed:
            failed.append(n)
            raise ValueError(n)
        for _ in range(100):
            yield n

    async def async_fn(n):
        for result in fn(n):
            yield result

    retry = Retry(attempts=2, base_s=wait_s, jitter=False)
    options = {"fn": fn, "on": "inline"} if kind == "inline" else {"fn": async_fn}
    chain = flow(range(10)).flat_map(options.pop("fn"), concurrency=limit, retry=retry, **options)
    async with asyncio.timeout(100):
        assert await chain.acollect() == [n for n in range(10) for _ in range(100)]


@pytest.mark.parametrize("lane", ["thread", "process"])
def test_an_item_that_is_tried_again_in_a_port_finds_a_slot_too(lane, limit, tmp_path):
    fn = functools.partial(fails_once, tmp_path / "failed")
    chain = flow(range(10)).flat_map(fn, on=lane, concurrency=limit, retry=Retry(attempts=2, base_s=0.001))

    async def within(seconds):
        async with asyncio.timeout(seconds):
            return await chain.acollect()

    assert asyncio.run(within(LONG_S)) == [n for n in range(10) for _ in range(100)]


def fails_once(mark, n):
    """A hundred results; the first attempt of item 0 fails."""
    if n == 0 and not mark.exists():
        mark.touch()
        raise ValueError(n)
    for _ in range(100):
        yield n


@virtual
async def test_an_item_that_waits_for_its_key_finds_a_slot_though_generators_behind_it_pause(limit):
    async def fn(n):
        for _ in range(100):
            yield n

    chain = flow(range(20)).flat_map(fn, concurrency=limit, key=lambda n: max(n, 5), per_key=Rate(1))
    async with asyncio.timeout(100):
        assert await chain.acollect() == [n for n in range(20) for _ in range(100)]


@virtual
async def test_an_item_that_waits_for_its_key_finds_a_slot_though_the_limit_was_cut():
    async def fn(n):
        await asyncio.sleep(0.01 if n == 0 else 0)  # the limit is cut when the others pause
        for _ in range(100):
            yield n

    chain = flow(range(20)).flat_map(fn, concurrency=Limits(5, 1), key=lambda n: max(n, 5), per_key=Rate(1))
    async with asyncio.timeout(100):
        assert await chain.acollect() == [n for n in range(20) for _ in range(100)]


@pytest.mark.parametrize("concurrency", [1, 5, (5, 1)])
def test_an_item_that_waits_for_its_key_in_threads_finds_a_slot_too(concurrency):
    threads = set()

    def fn(n):
        threads.add(threading.get_ident())
        for _ in range(100):
            yield n

    limit = Limits(*concurrency) if isinstance(concurrency, tuple) else concurrency
    chain = flow(range(20)).flat_map(fn, concurrency=limit, key=lambda n: max(n, 5), per_key=Rate(100))

    async def within(seconds):
        async with asyncio.timeout(seconds):
            return await chain.acollect()

    assert asyncio.run(within(LONG_S)) == [n for n in range(20) for _ in range(100)]
    assert concurrency != 1 or len(threads) == 1


def slow_first(n):
    time.sleep(0.05 if n == 0 else 0)
    yield from range(100)


async def aslow_first(n):
    await asyncio.sleep(0.05 if n == 0 else 0)
    for result in range(100):
        yield result


@pytest.mark.parametrize("limits", [(5, 1), (3, 1, 3), (8, 3, 8, 20, 8), (40,)])
@pytest.mark.parametrize("fn", [slow_first, aslow_first])
def test_an_item_that_waits_for_its_key_in_processes_finds_a_slot_too(fn, limits):
    chain = flow(range(20)).flat_map(
        fn, on="process", concurrency=Limits(*limits), key=lambda n: max(n, 5), per_key=Rate(100)
    )

    async def within(seconds):
        async with asyncio.timeout(seconds):
            return await chain.acollect()

    assert asyncio.run(within(LONG_S)) == [result for _ in range(20) for result in range(100)]


def few_or_many(n):
    yield from [n] * (1 if n % 3 == 1 else 100)


async def afew_or_many(n):
    await asyncio.sleep(0.01 if n % 7 == 0 else 0)
    for result in [n] * (1 if n % 3 == 1 else 100):
        yield result


def few_or_many_slowly(n, every, sleep_s):
    time.sleep(sleep_s if n % every == 0 else 0)
    yield from few_or_many(n)


@pytest.mark.parametrize(("every", "sleep_s"), [(1, 0.001), (16, 0.02), (7, 0.006)])
@pytest.mark.parametrize("late_s", [0.001, 0.02])
def test_what_a_process_gives_back_finds_a_slot_though_generators_behind_it_pause(every, sleep_s, late_s, monkeypatch):
    heard = HostPort._heard_back

    def heard_late(port, host, numbers, values):
        asyncio.get_running_loop().call_later(late_s, heard, port, host, numbers, values[:0])

    monkeypatch.setattr(HostPort, "_heard_back", heard_late)  # what lies behind it has been given out by then
    fn = functools.partial(few_or_many_slowly, every=every, sleep_s=sleep_s)

    async def within(seconds):
        async with asyncio.timeout(seconds):
            return await flow(range(100)).flat_map(fn, on="process").acollect()

    assert asyncio.run(within(LONG_S)) == [n for n in range(100) for _ in range(1 if n % 3 == 1 else 100)]


class Opened:
    """A resource that takes the second process 0.4 s to open."""

    def __init__(self, mark):
        try:
            mark.touch(exist_ok=False)
        except FileExistsError:
            time.sleep(0.4)


async def afew_or_many_with(n, opened):
    async for result in afew_or_many(n):
        yield result


@pytest.mark.parametrize("retry", [None, Retry(attempts=2)])
def test_an_item_that_waits_for_its_key_finds_a_slot_where_a_process_starts_late(retry, tmp_path):
    chain = (
        flow(range(60))
        .using(opened=functools.partial(Opened, tmp_path / "mark"))
        .flat_map(
            afew_or_many_with,
            on="process",
            concurrency=40,
            key=lambda n: max(n, 5),
            per_key=Rate(1_000),
            retry=retry,
        )
    )

    async def within(seconds):
        async with asyncio.timeout(seconds):
            return await chain.acollect()

    assert asyncio.run(within(LONG_S)) == [n for n in range(60) for _ in range(1 if n % 3 == 1 else 100)]


async def ends_its_process(n, marks, doomed):
    mark = marks / str(n)
    if n in doomed and not (mark.exists() and mark.stat().st_size == 2):
        with mark.open("a") as deaths:
            deaths.write("x")
        os.kill(os.getpid(), signal.SIGKILL)  # the second time it is alone, and has failed
    await asyncio.sleep(0.001)
    async for result in afew_or_many(n):
        yield result


@pytest.mark.parametrize("limit", [3, 5, 20])
@pytest.mark.parametrize("retry", [None, Retry(attempts=3, base_s=0.01)])
def test_an_item_that_is_called_again_as_its_process_died_finds_a_slot(retry, limit, tmp_path):
    fn = functools.partial(ends_its_process, marks=tmp_path, doomed=range(10, 60, 11))
    seen: list[int] = []
    chain = flow(range(60)).flat_map(fn, on="process", concurrency=limit, retry=retry).map(seen.append, on="inline")

    async def within(seconds):
        async with asyncio.timeout(seconds):
            return await chain.arun(on_failure="keep")

    report = asyncio.run(within(LONG_S))
    assert seen == sorted(seen)
    assert report.failed <= 5 * limit  # those that had given results when their process died
    assert len(set(seen)) + report.failed >= 60


@virtual
async def test_a_stopped_consumer_stops_generators(ordered, limit):
    made = 0

    async def fn(n):
        nonlocal made
        while True:
            made += 1
            yield n

    async with flow(range(100)).flat_map(fn, concurrency=limit, ordered=ordered).open() as items:
        await anext(items)
        await asyncio.sleep(100)
        stopped_at = made
        await asyncio.sleep(100)
        assert made == stopped_at <= 1000


def test_a_stopped_consumer_stops_generators_in_threads(ordered, limit):
    made = 0

    def fn(n):
        nonlocal made
        while True:
            made += 1
            yield n

    with flow(range(100)).flat_map(fn, on="thread", concurrency=limit, ordered=ordered).open() as items:
        next(items)
        assert rest(lambda: made) <= 1000


def test_generators_are_closed_when_the_run_ends_early(lane, way):
    closed: list[int] = []

    if lane == "coroutine":

        async def fn(n):
            try:
                while True:
                    await asyncio.sleep(0)
                    yield n
            finally:
                closed.append(n)

    else:

        def fn(n):
            try:
                while True:
                    yield n
            finally:
                closed.append(n)

    values, error = outcome(flow([1]).flat_map(fn, on=lane).take(3), way)
    assert (values, error) == ([1, 1, 1], None)
    assert closed == [1]


# -- kinds of functions and options -------------------------------------------------------------------------------


class PlainCallable:
    """An object that can be called."""

    def __init__(self, fn):
        self.fn = fn

    def __call__(self, n):
        return self.fn(n)


class AsyncCallable:
    """An object whose call is awaited."""

    def __init__(self, fn):
        self.fn = fn

    async def __call__(self, n):
        await asyncio.sleep(0)
        return self.fn(n)

    async def method(self, n):
        """As a bound method."""
        return await self(n)


def _kinds(fn: Any) -> dict[str, Any]:
    async def coroutine(n):
        return fn(n)

    def plain(n):
        return fn(n)

    def returns_coroutine(n):
        return coroutine(n)

    def partial_of(_, n):
        return fn(n)

    return {
        "plain": plain,
        "lambda": lambda n: fn(n),
        "coroutine": coroutine,
        "object": PlainCallable(fn),
        "async object": AsyncCallable(fn),
        "bound async method": AsyncCallable(fn).method,
        "partial": functools.partial(partial_of, None),
        "partial of coroutine": functools.partial(coroutine),
        "plain that returns a coroutine": returns_coroutine,
    }


VERBS: dict[str, tuple[Any, list[int]]] = {
    "map": (lambda n: n * 10, [0, 10, 20, 30, 40]),
    "filter": (lambda n: n % 2, [1, 3]),
    "tap": (lambda n: n * 10, [0, 1, 2, 3, 4]),
    "flat_map": (lambda n: [n] * (n % 3), [1, 2, 2, 4]),
}


@pytest.mark.parametrize("kind", _kinds(same))
@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_takes_every_kind_of_function(verb, kind, ordered):
    fn, expected = VERBS[verb]
    values, error = outcome(getattr(flow(range(5)), verb)(_kinds(fn)[kind], ordered=ordered, concurrency=2))
    assert error is None
    assert (values if ordered else sorted(values)) == expected


@pytest.mark.parametrize("kind", ["int", "str", "type"])
def test_classes_and_builtins_are_functions_too(kind):
    chain = {
        "int": lambda: flow(["1", "2"]).map(int),
        "str": lambda: flow([1, 2]).map(str).map(int),
        "type": lambda: flow(["1", "2"]).map(PlainCallable).map(lambda made: int(made.fn)),
    }[kind]()
    assert chain.collect() == [1, 2]


OPTIONS: dict[str, dict[str, Any]] = {
    "concurrency": {"concurrency": 3},
    "auto": {"concurrency": AUTO},
    "as completed": {"ordered": False},
    "retry": {"retry": Retry(attempts=2, base_s=0.0)},
    "timeout": {"timeout_s": 5.0},
    "rate": {"rate": Rate(1000, per_s=0.1, burst=5)},
    "keys": {"key": lambda n: n % 2, "per_key": 1},
    "name": {"name": "mine"},
}


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("kind", ["plain", "coroutine"])
def test_every_verb_takes_all_options(verb, option, kind):
    fn, expected = VERBS[verb]
    chain = getattr(flow(range(5)), verb)(_kinds(fn)[kind], **OPTIONS[option])
    values, error = outcome(chain)
    assert error is None
    assert sorted(values) == expected


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_retries(verb, lane):
    fn, expected = VERBS[verb]
    failed: set[int] = set()

    def flaky(n):
        if n not in failed:
            failed.add(n)
            raise ValueError(n)
        return fn(n)

    chain = getattr(flow(range(5)), verb)(in_lane(lane, flaky), on=lane, retry=Retry(attempts=2, base_s=0.001))
    assert chain.collect() == expected


# -- values ---------------------------------------------------------------------------------------------------


def test_a_result_that_is_an_exception_is_a_value(lane, way, ordered):
    error = ValueError("a value")
    chain = flow(range(3)).map(in_lane(lane, lambda n: error), on=lane, ordered=ordered)
    chain = chain.filter(in_lane(lane, lambda e: True), on=lane).catch(ValueError, replace="caught")
    values, raised = outcome(chain, way)
    assert raised is None
    assert values == [error] * 3


@pytest.mark.parametrize("value", [None, False, 0, "", [], NotImplemented, Ellipsis, StopIteration(), object()])
def test_every_value_is_a_value(value, lane, way):
    items = [value] * 3
    values, error = outcome(
        flow(items).map(in_lane(lane, same), on=lane).filter(in_lane(lane, lambda v: True), on=lane), way
    )
    assert error is None
    assert values == items


def test_filter_keeps_the_item_itself_and_tap_ignores_what_its_function_returns(lane):
    truth = in_lane(lane, lambda n: ["anything true"])
    assert flow([0, 1]).filter(truth, on=lane).tap(in_lane(lane, lambda n: None), on=lane).collect() == [0, 1]


def test_a_failing_filter_or_tap_is_that_items_failure(lane, way):
    for verb in ("filter", "tap"):
        values, error = outcome(getattr(flow(range(5)), verb)(in_lane(lane, fail_at(2)), on=lane), way)
        assert type(error) is ValueError
        assert values == ([1] if verb == "filter" else [0, 1])
