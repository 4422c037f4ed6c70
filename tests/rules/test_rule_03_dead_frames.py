"""Rule 3: a source, a `through` generator or a transducer that raises ends the run after all earlier results."""

from __future__ import annotations

import asyncio

import pytest

from overlapped.testing import virtual
from tests.rules.kit import Calls, Pulled, aoutcome, concat, flow, in_lane, merge, outcome, same, zip_

MODES = ("raise", "keep")


@pytest.mark.parametrize("kind", ["iterable", "function"])
@pytest.mark.parametrize("fails_at", [0, 4])
@pytest.mark.parametrize("mode", MODES)
def test_a_failing_source_ends_the_run_after_all_earlier_results(kind, fails_at, mode, way):
    flow_ = flow(Pulled(fails_at=fails_at).of(kind)).map(in_lane("coroutine", same), concurrency=5)
    values, error = outcome(flow_, way, on_failure=mode)
    assert values == list(range(fails_at))
    assert type(error) is KeyError
    assert error.args == (fails_at,)


@pytest.mark.parametrize(("fails_at", "mode"), [(0, "raise"), (1, "keep"), (30, "raise"), (30, "keep")])
def test_a_failing_source_ends_the_run_in_every_lane(source, fails_at, mode, lane, ordered):
    chain = flow(Pulled(fails_at=fails_at).of(source)).map(in_lane(lane, same), on=lane, ordered=ordered, concurrency=5)
    values, error = outcome(chain, on_failure=mode)
    assert sorted(values) == list(range(fails_at))
    assert type(error) is KeyError


@virtual
async def test_calls_that_run_when_the_source_fails_are_finished(ordered, limit):
    calls = Calls(service_s=lambda n: 5.0 - n)
    chain = flow(Pulled(fails_at=4).of("async generator")).map(calls, concurrency=limit, ordered=ordered)
    values, error = await aoutcome(chain)
    assert sorted(values) == [0, 1, 2, 3]
    assert calls.cancelled == []
    assert type(error) is KeyError


@pytest.mark.parametrize("replace", [None, "an item"])
def test_catch_cannot_turn_a_failing_source_into_items(source, way, replace):
    chain = flow(Pulled(fails_at=2).of(source)).map(same).catch(Exception, replace=replace)
    values, error = outcome(chain, way)
    assert values == [0, 1]
    assert type(error) is KeyError


def test_the_note_names_the_source(source):
    _, error = outcome(flow(Pulled(fails_at=2).of(source)))
    assert any("overlapped:" in note for note in error.__notes__)


def test_a_source_without_stages_delivers_what_came_before_its_failure(source, way):
    for mode in MODES:
        values, error = outcome(flow(Pulled(fails_at=3).of(source)), way, on_failure=mode)
        assert (values, type(error)) == ([0, 1, 2], KeyError)


@pytest.mark.parametrize("kind", [StopIteration, StopAsyncIteration, asyncio.CancelledError])
def test_a_source_that_raises_what_means_the_end_elsewhere_is_an_error(kind, way):
    class Odd:
        def __aiter__(self):
            return self

        async def __anext__(self):
            raise kind("odd")

    _, error = outcome(flow(Odd()), way)
    if kind is StopAsyncIteration:  # the ordinary end
        assert error is None
    else:
        assert type(error) is RuntimeError
        assert type(error.__cause__) is kind


@pytest.mark.parametrize("kind", [StopIteration, StopAsyncIteration, asyncio.CancelledError])
@pytest.mark.parametrize("where", ["function", "aiter"])
def test_a_source_that_raises_it_before_its_first_item_does_not_look_empty(where, kind, way):
    class Odd:
        def __aiter__(self):
            raise kind("odd")

    async def fails():
        raise kind("odd")

    _, error = outcome(flow(Odd() if where == "aiter" else fails), way)
    assert type(error) is RuntimeError
    assert type(error.__cause__) is kind


@pytest.mark.parametrize("kind", [StopIteration, StopAsyncIteration, asyncio.CancelledError])
@pytest.mark.parametrize("where", ["close", "aclose", "clean-up"])
def test_what_is_raised_in_closing_does_not_look_like_the_end(where, kind, way):
    class Odd:
        def __iter__(self):
            return self

        def __next__(self):
            return 1

        def close(self):
            raise kind("odd")

    class AsyncOdd:
        def __aiter__(self):
            return self

        async def __anext__(self):
            return 1

        async def aclose(self):
            raise kind("odd")

    def cleans_up():
        try:
            item = yield
            while True:
                item = yield item
        finally:
            raise kind("odd")

    chain = flow([1]).through(cleans_up) if where == "clean-up" else flow({"close": Odd, "aclose": AsyncOdd}[where]())
    values, error = outcome(chain.take(1), way)
    assert values == [1]
    assert type(error) is RuntimeError
    assert type(error.__cause__) is kind


# -- through --------------------------------------------------------------------------------------------------


def producer(items):
    for n in items:
        if n == 3:
            raise KeyError(n)
        yield n


async def async_producer(items):
    async for n in items:
        if n == 3:
            raise KeyError(n)
        yield n


def transducer():
    n = None
    while True:
        n = yield n
        if n == 3:
            raise KeyError(n)


THROUGH = {"generator": producer, "async generator": async_producer, "transducer": transducer}


@pytest.mark.parametrize("kind", THROUGH)
@pytest.mark.parametrize("mode", MODES)
def test_a_failing_through_ends_the_run_after_all_earlier_results(kind, mode, way, ordered):
    fn = in_lane("coroutine", same, lambda n: 0.01)
    chain = flow(range(100)).map(fn, ordered=True).through(THROUGH[kind]).map(fn, ordered=ordered, concurrency=5)
    values, error = outcome(chain, way, on_failure=mode)
    assert sorted(values) == [0, 1, 2]
    assert type(error) is KeyError
    assert error.args == (3,)


@pytest.mark.parametrize("kind", THROUGH)
def test_catch_cannot_turn_a_failing_through_into_items(kind, way):
    values, error = outcome(flow(range(100)).through(THROUGH[kind]).catch(Exception, replace=-1), way)
    assert values == [0, 1, 2]
    assert type(error) is KeyError


def test_a_transducer_that_fails_before_its_first_yield_ends_the_run(way):
    def broken():
        raise KeyError("at once")
        yield  # makes it a generator

    values, error = outcome(flow(range(5)).through(broken), way, on_failure="keep")
    assert values == []
    assert type(error) is KeyError


@pytest.mark.parametrize("several", [merge, concat, zip_])
@pytest.mark.parametrize("mode", MODES)
def test_one_failing_source_of_several_ends_the_run(several, mode, way):
    chain = several(flow(Pulled(fails_at=2).of("generator")), range(1000)).map(same)
    values, error = outcome(chain, way, on_failure=mode)
    assert type(error) is KeyError
    if several is concat:
        assert values == [0, 1]
    if several is zip_:
        assert values == [(0, 0), (1, 1)]
    assert len(values) <= 1002
