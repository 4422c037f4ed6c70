"""Rule 4: `catch` handles the failures of the stages before it; `max_failures` counts those of the end."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import Any

import pytest

from overlapped import TooManyFailures, UsageError
from overlapped.testing import virtual
from tests.rules.kit import Calls, Pulled, aoutcome, fail_at, flow, in_lane, now_s, outcome, same


async def odd(n):
    if n % 2:
        raise ValueError(n)
    return n


# -- which failures ---------------------------------------------------------------------------------------


@virtual
async def test_failures_of_stages_before_it_are_caught_wherever_they_come_from():
    async def even_fails(n):
        if n % 2 == 0:
            raise KeyError(n)
        return n

    async def is_bad(n):
        raise OSError(n)

    for stage in (
        flow([2]).map(even_fails),
        flow([2]).filter(even_fails),
        flow([2]).tap(even_fails),
        flow([2]).flat_map(even_fails),
        flow([2]).flatten(),
        flow([2]).map(even_fails).filter(is_bad).tap(is_bad),
    ):
        assert await stage.catch(Exception, replace="caught").acollect() == ["caught"]


@virtual
async def test_failures_of_stages_after_it_are_not_caught(ordered):
    values, error = await aoutcome(flow([0, 1]).catch(ValueError, replace=-1).map(odd, ordered=ordered))
    assert values == [0]
    assert type(error) is ValueError


@pytest.mark.parametrize("types", [KeyError, (KeyError, OSError), TypeError])
@virtual
async def test_failures_of_other_types_pass_on(types):
    values, error = await aoutcome(flow([0, 1, 2]).map(odd).catch(types, replace=-1))
    assert values == [0]
    assert type(error) is ValueError


@pytest.mark.parametrize("types", [ValueError, (KeyError, ValueError), Exception])
@virtual
async def test_a_class_its_base_and_a_tuple_of_classes_catch(types):
    assert await flow([0, 1, 2]).map(odd).catch(types, replace=-1).acollect() == [0, -1, 2]


@pytest.mark.parametrize("types", [BaseException, KeyboardInterrupt, (ValueError, SystemExit)])
def test_a_base_exception_type_is_refused_when_written(types):
    with pytest.raises(UsageError, match=r"write \.catch\(Exception\)"):
        flow([1]).catch(types)


@pytest.mark.parametrize("types", [None, "ValueError", ValueError("x"), (), [ValueError], int])
def test_what_is_no_exception_class_is_refused_when_written(types):
    with pytest.raises(UsageError, match="catch"):
        flow([1]).catch(types)


@pytest.mark.parametrize("option", ["where", "do"])
def test_handlers_that_are_no_plain_functions_are_refused_when_written(option):
    async def handler(error):
        return True

    for value in (1, handler):
        with pytest.raises(UsageError, match=option):
            flow([1]).catch(ValueError, **{option: value})


@pytest.mark.parametrize("option", ["where", "do", "replace"])
def test_a_handler_that_turns_out_to_be_async_is_that_items_failure(option):
    async def handler(error):
        return False

    chain = flow([1]).map(fail_at(1)).catch(ValueError, **{option: lambda error: handler(error)})
    values, error = outcome(chain)
    assert (values, type(error)) == ([], UsageError)
    assert f"catch({option})" in str(error)
    assert "coroutine" in str(error)


def test_catch_works_in_every_lane_and_both_orders(lane, way, ordered, limit):
    fn = in_lane(lane, fail_at(1, 4))
    chain = flow(range(6)).map(fn, on=lane, ordered=ordered, concurrency=limit).catch(ValueError, replace=-1)
    values, error = outcome(chain, way)
    assert error is None
    assert (values if ordered else sorted(values)) == ([0, -1, 2, 3, -1, 5] if ordered else [-1, -1, 0, 2, 3, 5])


# -- what becomes of them ------------------------------------------------------------------------------------


@virtual
async def test_without_replace_the_item_is_dropped():
    assert await flow(range(6)).map(odd).catch(ValueError).acollect() == [0, 2, 4]


@pytest.mark.parametrize(
    ("replace", "expected"), [(None, None), (-1, -1), ([], []), (lambda e: e.args[0] * 10, 10), (repr, "ValueError(1)")]
)
@virtual
async def test_replace_is_a_value_or_a_function_of_the_exception(replace, expected):
    assert await flow([0, 1, 2]).map(odd).catch(ValueError, replace=replace).acollect() == [0, expected, 2]


@virtual
async def test_replace_may_give_an_exception_object_which_is_a_value():
    (value,) = await flow([1]).map(odd).catch(ValueError, replace=lambda e: e).acollect()
    assert type(value) is ValueError


@virtual
async def test_where_chooses_among_failures_of_a_type():
    chain = flow(range(4)).map(odd).catch(ValueError, where=lambda e: e.args[0] == 1, replace=-1)
    values, error = await aoutcome(chain)
    assert values == [0, -1, 2]
    assert error.args == (3,)


@virtual
async def test_do_is_called_with_the_exception_and_changes_nothing_else():
    seen: list[Any] = []
    chain = flow(range(4)).map(odd).catch(ValueError, do=lambda e: seen.append(e.args[0]))
    assert await chain.acollect() == [0, 2]
    assert seen == [1, 3]


@virtual
async def test_stop_ends_the_flow_normally_at_the_first_such_failure(limit):
    pulled = Pulled()
    seen: list[Any] = []
    calls = Calls(service_s=lambda n: 1.0 if n < 3 else 100.0, fails=lambda n, _: ValueError(n) if n == 2 else None)
    chain = flow(pulled.of("async generator")).map(calls, concurrency=limit)
    chain = chain.catch(ValueError, stop=True, do=seen.append)
    values, error = await aoutcome(chain)
    assert (values, error) == ([0, 1], None)
    assert [e.args for e in seen] == [(2,)]
    assert now_s() == (3.0 if limit == 1 else 1.0)
    assert calls.in_flight == 0  # what ran beyond it was cancelled


@virtual
async def test_stop_with_replace_ends_after_what_came_before(ordered):
    chain = flow(range(100)).map(odd, ordered=ordered, concurrency=1).catch(ValueError, stop=True)
    report = await chain.arun()
    assert (report.items, report.failed) == (1, 0)


@pytest.mark.parametrize("option", ["do", "replace", "where"])
@virtual
async def test_an_error_in_a_handler_becomes_the_failure_chained_to_the_first(option):
    def broken(error):
        raise OSError("handler")

    values, error = await aoutcome(flow([0, 1, 2]).map(odd).catch(ValueError, **{option: broken}))
    assert values == [0]
    assert type(error) is OSError
    assert type(error.__cause__ or error.__context__) is ValueError


@virtual
async def test_an_error_in_a_handler_is_caught_by_a_later_catch():
    def broken(error):
        raise OSError("handler")

    chain = flow([0, 1, 2]).map(odd).catch(ValueError, replace=broken).catch(OSError, replace=-1)
    assert await chain.acollect() == [0, -1, 2]


@virtual
async def test_the_first_catch_that_fits_handles_it_and_later_ones_do_not_see_it():
    seen: list[Any] = []
    chain = flow([0, 1]).map(odd).catch(KeyError, replace="key").catch(ValueError, replace="value")
    assert await chain.catch(Exception, do=seen.append).acollect() == [0, "value"]
    assert seen == []


@virtual
async def test_in_keep_mode_what_no_catch_handles_is_kept():
    chain = flow(range(4)).map(odd).catch(KeyError)
    report = await chain.arun(on_failure="keep")
    assert (report.items, report.failed) == (2, 2)


@virtual
async def test_a_failure_between_two_catches_reaches_the_second_only():
    first: list[Any] = []
    second: list[Any] = []
    chain = flow([0, 1]).catch(ValueError, do=first.append).map(odd).catch(ValueError, do=second.append)
    assert await chain.acollect() == [0]
    assert (len(first), len(second)) == (0, 1)


# -- max_failures ------------------------------------------------------------------------------------------


def test_max_failures_implies_keep(way, lane, ordered):
    chain = flow(range(6)).map(in_lane(lane, fail_at(1, 3)), on=lane, ordered=ordered)
    values, error = outcome(chain, way, max_failures=2)
    assert error is None
    assert sorted(values) == [0, 2, 4, 5]


def test_above_max_failures_too_many_failures_carries_the_first_ones_and_the_report(way, lane, ordered):
    chain = flow(range(100)).map(in_lane(lane, fail_at(1, 3, 5)), on=lane, ordered=ordered, concurrency=1)
    values, error = outcome(chain, way, max_failures=2)
    assert isinstance(error, TooManyFailures)
    assert values == [0, 2, 4]
    assert [e.args[0] for e in error.failures] == [1, 3, 5]
    assert error.report.failed == 3
    assert "2" in str(error)


def test_max_failures_0_allows_none(way):
    values, error = outcome(flow(range(5)).map(fail_at(2)), way, max_failures=0)
    assert values == [0, 1]
    assert isinstance(error, TooManyFailures)


@virtual
async def test_max_failures_counts_items_not_attempts():
    from overlapped import Retry

    calls = Calls(service_s=0.0, fails=lambda n, attempt: ValueError(n) if n == 1 else None)
    chain = flow(range(4)).map(calls, retry=Retry(attempts=5, base_s=0.0))
    values, error = await aoutcome(chain, max_failures=1)
    assert (values, error) == ([0, 2, 3], None)


@virtual
async def test_max_failures_does_not_count_what_was_caught():
    chain = flow(range(10)).map(odd).catch(ValueError)
    assert await aoutcome(chain, max_failures=0) == ([0, 2, 4, 6, 8], None)


@virtual
async def test_a_failed_batch_call_counts_all_its_items():
    async def save(batch):
        if 3 in batch:
            raise ValueError(batch)
        return len(batch)

    chain = flow(range(10)).batch(5).map(save)
    report = await chain.arun(max_failures=5)
    assert (report.items, report.failed) == (1, 5)
    _, error = await aoutcome(chain, max_failures=4)
    assert isinstance(error, TooManyFailures)
    assert error.report.failed == 5


@pytest.mark.parametrize("value", [-1, 1.5, "3", True])
def test_a_bad_max_failures_is_refused(value):
    for call in (flow([1]).run, flow([1]).collect, flow([1]).open):
        with pytest.raises(UsageError, match="max_failures"):
            call(max_failures=value)


def test_a_bad_on_failure_is_refused():
    for call in (flow([1]).run, flow([1]).collect, flow([1]).open):
        with pytest.raises(UsageError, match="on_failure"):
            call(on_failure="ignore")
    assert flow([1]).map(same).collect(on_failure="keep") == [1]


# -- copies and odd errors -----------------------------------------------------------------------------------


def refuses_two(n):
    if n == 2:
        raise ValueError(n)
    return n


@pytest.mark.parametrize("twin", [copy.copy, copy.deepcopy, lambda f: pickle.loads(pickle.dumps(f))])  # noqa: S301 - its own
def test_a_copied_or_pickled_flow_drops_what_the_first_one_drops(twin):
    assert twin(flow([1, 2, 3]).map(refuses_two).catch(ValueError)).collect() == [1, 3]


@dataclasses.dataclass(frozen=True)
class FrozenError(Exception):
    n: int


@virtual
async def test_an_error_of_a_handler_that_takes_no_cause_is_the_items_failure_all_the_same():
    def do(error):
        raise FrozenError(1)

    values, error = await aoutcome(flow([1, 2, 3]).map(refuses_two, on="inline").catch(ValueError, do=do))
    assert (values, error) == ([1], FrozenError(1))
