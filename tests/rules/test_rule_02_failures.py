"""Rule 2: a failure travels in its item's place, and is raised at the end of the flow as itself."""

from __future__ import annotations

import asyncio
import threading

import pytest

from overlapped import Retry
from overlapped.testing import virtual
from tests.rules.kit import Calls, Pulled, aoutcome, cap, fail_at, flow, in_lane, now_s, outcome, same, settle

# -- in its place, as itself ------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [0, 1, 7, 19])
def test_results_before_a_failure_are_delivered_then_it_is_raised(bad, lane, way, limit):
    fn = in_lane(lane, fail_at(bad), lambda n: 0.002 * (3 - n % 4))
    values, error = outcome(flow(range(20)).map(fn, on=lane, concurrency=limit), way)
    assert values == list(range(bad))
    assert type(error) is ValueError
    assert error.args == (bad,)


def test_the_callers_own_exception_object_is_raised(lane, way, ordered):
    class Mine(Exception):
        def __init__(self, a, *, b):
            super().__init__(a)
            self.b = b

    mine = Mine(1, b=2)

    def fn(n):
        raise mine

    _, error = outcome(flow([7]).map(in_lane(lane, fn), on=lane, ordered=ordered), way)
    assert error is mine


def test_notes_say_stage_item_and_attempts(lane, way):
    fn = in_lane(lane, fail_at("page 3"))
    retry = Retry(attempts=3, base_s=0.001)
    _, error = outcome(flow(["page 3"]).map(fn, on=lane, name="fetch", retry=retry), way)
    notes = "\n".join(error.__notes__)
    assert "fetch" in notes
    assert "page 3" in notes
    assert "attempt 3 of 3" in notes


def test_an_item_whose_repr_raises_does_not_hide_the_failure():
    class Shy:
        def __repr__(self):
            raise RuntimeError("no repr")

    def fn(n):
        raise ValueError("x")

    _, error = outcome(flow([Shy()]).map(fn))
    assert type(error) is ValueError
    assert "Shy" in "".join(error.__notes__)


@pytest.mark.parametrize("kind", [StopIteration, StopAsyncIteration, asyncio.CancelledError])
def test_an_exception_that_would_end_a_loop_silently_becomes_a_runtime_error_with_it_as_cause(kind, lane, way):
    def fn(n):
        if n == 2:
            raise kind("end")
        return n

    values, error = outcome(flow(range(5)).map(in_lane(lane, fn), on=lane, concurrency=2), way)
    assert values == [0, 1]
    assert type(error) is RuntimeError
    assert type(error.__cause__) is kind


def test_after_the_failure_the_iterator_has_ended(way):
    flow_ = flow(range(5)).map(fail_at(1))
    if way == "for":
        items = iter(flow_)
        assert next(items) == 0
        with pytest.raises(ValueError, match="1"):
            next(items)
        for _ in range(2):
            with pytest.raises(StopIteration):
                next(items)
        return

    async def main():
        items = aiter(flow_)
        assert await anext(items) == 0
        with pytest.raises(ValueError, match="1"):
            await anext(items)
        for _ in range(2):
            with pytest.raises(StopAsyncIteration):
                await anext(items)

    asyncio.run(main())


def test_collect_run_and_their_async_forms_raise_it_too():
    flow_ = flow(range(5)).map(fail_at(1))
    for call in (flow_.collect, flow_.run):
        with pytest.raises(ValueError, match="1"):
            call()
    for acall in (flow_.acollect, flow_.arun):
        with pytest.raises(ValueError, match="1"):
            asyncio.run(acall())


def test_one_exception_object_raised_by_several_items_has_every_note_once():
    error = ValueError("shared")

    def fn(n):
        raise error

    _, raised = outcome(flow(range(3)).map(fn, concurrency=1), on_failure="raise")
    assert raised is error
    assert len(set(error.__notes__)) == len(error.__notes__)


# -- what is finished, what is cancelled -----------------------------------------------------------------------


@virtual
async def test_items_before_a_failure_are_finished_and_those_after_it_cancelled():
    calls = Calls(service_s=lambda n: [5.0, 1.0, 7.0, 9.0][n], fails=lambda n, _: ValueError(n) if n == 1 else None)
    values, error = await aoutcome(flow(range(4)).map(calls, concurrency=4))
    assert values == [0]
    assert error.args == (1,)
    assert now_s() == 5.0  # item 0 was waited for
    assert sorted(calls.cancelled) == [(2, 1.0), (3, 1.0)]  # at once, since nobody can want them


@virtual
async def test_the_first_failure_in_order_is_raised_even_if_it_comes_later():
    calls = Calls(service_s=lambda n: [5.0, 1.0][n], fails=lambda n, _: ValueError(n))
    values, error = await aoutcome(flow(range(2)).map(calls, concurrency=2))
    assert values == []
    assert error.args == (0,)
    assert {f.item for f in error.report.failures} == {0, 1}


@virtual
async def test_as_completed_what_was_completed_before_the_failure_is_delivered():
    calls = Calls(service_s=lambda n: [5.0, 1.0, 2.0][n], fails=lambda n, _: ValueError(n) if n == 2 else None)
    values, error = await aoutcome(flow(range(3)).map(calls, concurrency=3, ordered=False))
    assert values == [1]
    assert error.args == (2,)
    assert now_s() == 2.0
    assert calls.cancelled == [(0, 2.0)]


@virtual
async def test_nothing_new_starts_once_a_failure_is_known(ordered, limit):
    pulled = Pulled()
    calls = Calls(service_s=lambda n: 10.0 if n == 8 else 1.0, fails=lambda n, _: ValueError(n) if n == 9 else None)
    source = pulled.of("async generator")
    await aoutcome(flow(source).map(calls, concurrency=limit, ordered=ordered))
    (failed_s,) = [at for n, at in calls.ended if n == 9]
    assert max(at for _, at in calls.started) <= failed_s
    assert pulled.count <= 10 + cap(limit)


@virtual
async def test_nothing_new_starts_in_earlier_stages_either(ordered):
    first = Calls(service_s=1.0)
    second = Calls(service_s=1.0, fails=lambda n, _: ValueError(n) if n == 3 else None)
    chain = flow(range(1000)).map(first, concurrency=1, ordered=ordered).map(second, concurrency=1, ordered=ordered)
    await aoutcome(chain)
    (failed_s,) = [at for n, at in second.ended if n == 3]
    assert max(at for _, at in first.started) <= failed_s


def test_nothing_new_starts_in_threads_once_a_failure_is_known():
    begun, failed = [], threading.Event()

    def fn(n):
        begun.append(n)
        if n == 1:
            failed.set()
            raise ValueError(n)
        if n == 0:
            assert failed.wait(5)
        threading.Event().wait(0.05)  # item 1's failure has reached the loop by then
        return n

    values, error = outcome(flow(range(1000)).map(fn, on="thread", concurrency=2))
    assert (values, error.args) == ([0], (1,))
    assert len(begun) <= 3  # thread 2 may have begun one more before the loop heard of the failure


@virtual
async def test_failures_at_the_same_time_are_all_in_the_notes_and_the_report(ordered):
    calls = Calls(service_s=1.0, fails=lambda n, _: ValueError(f"bad {n}") if n in (1, 2, 4) else None)
    values, error = await aoutcome(flow(range(5)).map(calls, concurrency=5, ordered=ordered))
    assert values == ([0] if ordered else values)
    assert error.args == ("bad 1",) or not ordered
    notes = "\n".join(error.__notes__)
    assert all(bad in notes for bad in {"bad 1", "bad 2", "bad 4"} - set(error.args))
    assert sorted(f.item for f in error.report.failures) == [1, 2, 4]
    assert error.report.failed == 3


def test_failures_at_the_same_time_in_threads_are_not_lost():
    together = threading.Barrier(3)

    def fn(n):
        together.wait(5)
        raise ValueError(n)

    _, error = outcome(flow(range(3)).map(fn, on="thread", concurrency=3))
    notes = "\n".join(error.__notes__)
    failed = {f.item for f in error.report.failures}
    assert error.args[0] in failed
    # Those that had been heard of when the first was raised; two of three may still be on their way.
    assert all(f"ValueError({n})" in notes for n in failed if n != error.args[0])


@virtual
async def test_an_error_in_the_clean_up_of_a_cancelled_call_is_not_lost(ordered):
    async def fn(n):
        if n == 0:
            await asyncio.sleep(1)
            raise ValueError("first")
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            raise OSError("clean-up") from None

    _, error = await aoutcome(flow(range(2)).map(fn, concurrency=2, ordered=ordered))
    assert error.args == ("first",)
    everything = [*error.__notes__, *map(str, error.report.record.cleanup_errors)]
    assert any("clean-up" in text for text in everything)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_what_ends_a_program_ends_the_run_and_is_raised(kind, lane, way):
    def fn(n):
        if n == 1:
            raise kind("stop")
        return n

    for mode in ("raise", "keep"):
        with pytest.raises(kind):
            outcome(flow(range(100)).map(in_lane(lane, fn), on=lane, concurrency=1), way, on_failure=mode)


# -- the report -------------------------------------------------------------------------------------------


def test_what_ends_a_program_is_told_without_notes_of_tasks_that_were_cancelled_for_it(lane):
    def fn(n):
        raise SystemExit(n)

    with pytest.raises(SystemExit) as raised:
        flow([3]).map(in_lane(lane, fn), on=lane).collect()
    assert getattr(raised.value, "__notes__", []) == []


def test_the_exception_that_ends_a_run_carries_its_report(lane, way, ordered):
    fn = in_lane(lane, fail_at(3))
    _, error = outcome(flow(range(5)).map(fn, on=lane, name="check", ordered=ordered, concurrency=1), way)
    report = error.report
    assert report.failed == 1
    assert report.record.state == "failed"
    (failure,) = report.failures
    assert (failure.stage, failure.item, failure.error, failure.attempts) == ("check", 3, error, 1)


# -- passing later stages by ----------------------------------------------------------------------------------

PASSING = {
    "map": lambda f, **o: f.map(_touch, **o),
    "filter": lambda f, **o: f.filter(_true, **o),
    "tap": lambda f, **o: f.tap(_touch, **o),
    "skip": lambda f, **o: f.skip(0),
    "take": lambda f, **o: f.take(100),
    "flatten": lambda f, **o: f.map(_list, **o).flatten(),
    "flat_map": lambda f, **o: f.flat_map(_list, **o),
}


async def _touch(n):
    assert isinstance(n, int)
    return n


async def _true(n):
    return True


async def _list(n):
    return [n]


@pytest.mark.parametrize("verb", PASSING)
@virtual
async def test_a_failure_passes_a_stage_by_in_its_place(verb, limit):
    bad = Calls(service_s=0.1, fails=lambda n, _: ValueError(n) if n % 3 == 1 else None)
    chain = PASSING[verb](flow(range(9)).map(bad, concurrency=limit), concurrency=limit)
    values = await chain.catch(ValueError, replace=lambda e: -e.args[0]).acollect()
    assert values == [0, -1, 2, 3, -4, 5, 6, -7, 8]


@pytest.mark.parametrize("verb", PASSING)
@virtual
async def test_as_completed_a_failure_passes_a_stage_by_once(verb, limit):
    bad = Calls(service_s=0.1, fails=lambda n, _: ValueError(n) if n % 3 == 1 else None)
    chain = PASSING[verb](flow(range(9)).map(bad, concurrency=limit, ordered=False), concurrency=limit, ordered=False)
    values = await chain.catch(ValueError, replace=lambda e: -e.args[0]).acollect()
    assert sorted(values) == [-7, -4, -1, 0, 2, 3, 5, 6, 8]


@virtual
async def test_skip_does_not_count_failures(limit):
    bad = Calls(service_s=0.1, fails=lambda n, _: ValueError(n) if n in (0, 2) else None)
    chain = flow(range(6)).map(bad, concurrency=limit).skip(2).catch(ValueError, replace="failed")
    assert await chain.acollect() == ["failed", "failed", 4, 5]  # 1 and 3 were skipped


@virtual
async def test_take_does_not_count_failures(limit):
    bad = Calls(service_s=0.1, fails=lambda n, _: ValueError(n) if n in (0, 2) else None)
    chain = flow(range(100)).map(bad, concurrency=limit).take(3).catch(ValueError, replace="failed")
    assert await chain.acollect() == ["failed", 1, "failed", 3, 4]


def test_failures_pass_stages_by_in_every_lane(lane, way, ordered):
    bad, fine = in_lane(lane, fail_at(2, 5)), in_lane(lane, same)
    options = {"on": lane, "ordered": ordered, "concurrency": 3}
    chain = flow(range(8)).map(bad, **options).filter(in_lane(lane, lambda n: n != 3), **options).map(fine, **options)
    values, error = outcome(chain.catch(ValueError, replace=-1), way)
    assert error is None
    assert (values if ordered else sorted(values)) == ([0, 1, -1, 4, -1, 6, 7] if ordered else [-1, -1, 0, 1, 4, 6, 7])


# -- keep -------------------------------------------------------------------------------------------------


def test_keep_goes_on_and_keeps_failures_for_the_report(lane, way, ordered, limit):
    fn = in_lane(lane, fail_at(0, 4, 9))
    with_name = flow(range(10)).map(fn, on=lane, ordered=ordered, concurrency=limit, name="check")
    values, error = outcome(with_name, way, on_failure="keep")
    assert error is None
    assert sorted(values) == [1, 2, 3, 5, 6, 7, 8]
    report = with_name.run(on_failure="keep")
    assert (report.items, report.failed) == (7, 3)
    assert sorted((f.stage, f.item, f.attempts, str(f.error)) for f in report.failures) == [
        ("check", 0, 1, "0"),
        ("check", 4, 1, "4"),
        ("check", 9, 1, "9"),
    ]
    assert report.record.state == "done"


@virtual
async def test_keep_cancels_nothing(ordered, limit):
    calls = Calls(service_s=lambda n: (n * 7 % 5) / 10, fails=lambda n, _: ValueError(n) if n % 2 else None)
    values, error = await aoutcome(flow(range(20)).map(calls, concurrency=limit, ordered=ordered), on_failure="keep")
    assert error is None
    assert sorted(values) == list(range(0, 20, 2))
    assert calls.cancelled == []
    assert len(calls.started) == 20


@virtual
async def test_keep_counts_all_failures_even_if_no_item_is_left(ordered):
    calls = Calls(service_s=0.0, fails=lambda n, _: ValueError(n))
    report = await flow(range(2000)).map(calls, concurrency=5, ordered=ordered).arun(on_failure="keep")
    assert (report.items, report.failed) == (0, 2000)
    assert 0 < len(report.failures) <= 2000  # counted all, kept the first ones


@virtual
async def test_a_handled_failure_is_not_counted_as_failed(ordered):
    calls = Calls(service_s=0.1, fails=lambda n, _: ValueError(n) if n == 1 else None)
    chain = flow(range(3)).map(calls, ordered=ordered).catch(ValueError)
    report = await chain.arun(on_failure="keep")
    assert (report.items, report.failed, report.failures) == (2, 0, ())


@virtual
async def test_in_raise_mode_a_stage_with_a_later_catch_goes_on(ordered, limit):
    calls = Calls(service_s=0.1, fails=lambda n, _: ValueError(n) if n == 2 else None)
    chain = flow(range(30)).map(calls, concurrency=limit, ordered=ordered).catch(ValueError)
    assert sorted(await chain.acollect()) == [n for n in range(30) if n != 2]
    assert calls.cancelled == []


@virtual
async def test_a_run_that_fails_leaves_nothing_running(ordered):
    calls = Calls(service_s=lambda n: 0.5 if n == 3 else 100.0, fails=lambda n, _: ValueError(n))
    _, error = await aoutcome(flow(range(10)).map(calls, concurrency=5, ordered=False))
    assert error.args == (3,)
    await settle()
    assert calls.in_flight == 0
    assert len(asyncio.all_tasks()) == 1
