"""The account of time: states of a stage, how long calls took, which of them are kept, what held the loop."""

from __future__ import annotations

import asyncio
import itertools
import math
import random
import threading
import time
from typing import Any

import pytest

from overlapped import Jsonl, Overloaded, Rate, Retry, flow
from overlapped._engine.ledger import MOST_FAILED, MOST_KEPT, MOST_POINTS, MOST_SLOW, STRIDES, Ledger, Places
from overlapped.record import Times
from overlapped.testing import run, virtual

SAME = pytest.approx


def sleeper(seconds: Any) -> Any:
    """A coroutine function that waits so long, or as long as `seconds(item)` says."""

    async def work(item: int) -> int:
        await asyncio.sleep(seconds(item) if callable(seconds) else seconds)
        return item

    return work


async def states(flow_: Any, **options: Any) -> list[Times]:
    report = await flow_.arun(**options)
    for stage in report.stages:  # one state at a time, from the start to the end
        assert sum(stage.times) == SAME(report.elapsed_s)
    return [stage.times for stage in report.stages]


# -- states -------------------------------------------------------------------------------------------------


@virtual
async def test_a_slow_stage_is_full_the_one_before_it_blocked_the_one_after_it_starved():
    chain = flow(range(200)).map(sleeper(0.01), concurrency=2).map(sleeper(0.1), concurrency=1)
    first, slow, last = await states(chain.map(sleeper(0.01), concurrency=1))
    assert slow.full_s == SAME(20.0)
    assert first.blocked_s > 15  # its look-ahead is full of results that the slow one does not take
    assert last.starved_s > 17
    assert last.full_s == SAME(2.0)


@virtual
async def test_a_slow_source_starves_the_first_stage():
    async def source():
        for number in range(50):
            await asyncio.sleep(0.1)
            yield number

    (stage,) = await states(flow(source()).map(sleeper(0.02), concurrency=4))
    assert stage.starved_s > 4.5
    assert stage.full_s == 0


@virtual
async def test_a_slow_consumer_blocks_the_last_stage_and_is_told_from_it():
    async with flow(range(60)).map(sleeper(0.001), concurrency=2).open() as items:
        async for _ in items:
            await asyncio.sleep(0.1)
    record = items.report.record
    assert record.consumer_s == SAME(6.0)
    assert record.stages[0].times.blocked_s > 3


@virtual
async def test_results_that_wait_for_the_one_before_them_are_told_from_a_slow_next_stage():
    late = sleeper(lambda item: 5.0 if item == 0 else 0.01)
    (ordered,) = await states(flow(range(300)).map(late, concurrency=4))
    (as_completed,) = await states(flow(range(300)).map(late, concurrency=4, ordered=False))
    assert ordered.order_s == SAME(4.9, abs=0.1)
    assert as_completed.order_s == 0


@virtual
async def test_items_that_wait_for_their_key_leave_slots_free():
    chain = flow(range(100)).map(sleeper(0.1), concurrency=10, key=lambda item: "only", per_key=1)
    (stage,) = await states(chain)
    assert stage.key_s > 9
    report = await chain.arun()
    assert report.stages[0].top_key == ""  # at the end nobody waits


@virtual
async def test_the_key_with_the_most_waiting_items_is_named_while_they_wait():
    chain = flow(range(40)).map(sleeper(0.1), concurrency=5, key=lambda item: "busy" if item else "idle", per_key=1)
    async with chain.open() as items:
        await anext(items)
        assert items.stats().stages[0].top_key == "'busy'"


@virtual
async def test_waiting_for_a_rate_is_no_full_stage():
    (stage,) = await states(flow(range(50)).map(sleeper(0.01), concurrency=5, rate=Rate(10, per_s=1)))
    assert stage.rate_s > 3.5
    assert stage.full_s < 0.5


@virtual
async def test_a_pause_that_the_service_asked_for_has_its_own_state():
    asked: list[int] = []

    async def call(item: int) -> int:
        await asyncio.sleep(0.01)
        if item == 20 and not asked:
            asked.append(item)
            raise Overloaded("429", retry_after_s=7)
        return item

    (stage,) = await states(flow(range(60)).map(call, concurrency=3, retry=Retry(attempts=2)))
    assert stage.paused_s == SAME(7, abs=0.1)


@virtual
async def test_slots_that_wait_for_their_next_attempt_are_not_full():
    async def call(item: int) -> int:
        raise ConnectionError(item)

    retry = Retry(attempts=2, base_s=0.5, jitter=False)
    (stage,) = await states(flow(range(20)).map(call, concurrency=2, retry=retry), on_failure="keep")
    assert stage.retry_s == SAME(5.0)


@virtual
async def test_when_no_item_is_left_the_stage_has_ended_though_calls_run():
    (stage,) = await states(flow(range(4)).map(sleeper(lambda item: 10.0 if item == 3 else 1.0), concurrency=4))
    assert stage.full_s == SAME(1.0)
    assert stage.ended_s == SAME(9.0)


@pytest.mark.slow
def test_calls_that_timed_out_and_run_on_hold_their_slots():
    gate = threading.Event()

    def stuck(item: int) -> int:
        if item < 2:
            gate.wait(5)
        time.sleep(0.01)
        if item == 30:
            gate.set()
        return item

    chain = flow(range(40)).map(stuck, concurrency=3, on="thread", timeout_s=0.05)
    report = chain.run(on_failure="keep")
    assert report.stages[0].times.lost_s > 0.1
    assert report.failed == 2


# -- single calls -------------------------------------------------------------------------------------------


def noted(calls: Any) -> Ledger:
    """A ledger that was shown calls, (start, took) each, as workers show them."""
    ledger = Ledger(0.0, 0.0)
    for number, (start_s, took_s) in enumerate(calls):
        if took_s > ledger.edge_s or not number % ledger.stride:
            ledger.note(number, number % 8, start_s, start_s + took_s)
    return ledger


def test_percentiles_are_right_within_a_step_of_the_histogram_at_any_rate_of_calls():
    chance = random.Random(1)  # noqa: S311 - a repeatable series
    took = [chance.lognormvariate(-4, 1) for _ in range(200_000)]
    for per_s in (100, 100_000):  # every call is noted; one in many
        ledger = noted((number / per_s, took_s) for number, took_s in enumerate(took))
        found = stage_of(ledger)
        took.sort()
        for share in (0.5, 0.9, 0.99):
            assert found.took_s(share) == SAME(took[int(share * len(took))], rel=0.13)
        assert sum(bin_.calls for bin_ in found.latencies) == SAME(len(took), rel=0.05)


def stage_of(ledger: Ledger) -> Any:
    from tests.test_report import make_stage

    return make_stage(latencies=ledger.latencies(), kept_calls=ledger.kept_calls(), points=ledger.points)


def test_a_source_with_a_period_of_sixteen_does_not_hide_its_slow_items():
    ledger = noted((n / 100_000, 0.02 if n % 16 == 0 else 0.01) for n in range(100_000))
    assert ledger.stride in STRIDES
    assert ledger.stride > 16
    slow = sum(bin_.calls for bin_ in ledger.latencies() if bin_.low_s > 0.015)
    assert slow == SAME(100_000 / 16, rel=0.1)


def test_the_slowest_calls_and_the_failures_are_always_kept_and_all_of_it_is_bounded():
    chance = random.Random(2)  # noqa: S311 - a repeatable series
    took = [chance.uniform(0.01, 0.02) + (1.0 if n % 1000 == 7 else 0.0) for n in range(200_000)]
    ledger = noted((n / 50_000, took_s) for n, took_s in enumerate(took))
    for n in range(3_000):
        ledger.note_failed(n, 0, 5.0, 5.1, again=n % 2 == 0)
    for n in range(5_000):
        ledger.point(n * 0.1, limit=1, in_flight=1, queue=0, calls=n, items_out=n)
    kept = ledger.kept_calls()
    assert {n for n, took_s in enumerate(took) if took_s > 1} <= {call.number for call in kept}
    assert sum(call.outcome != "ok" for call in kept) == MOST_FAILED
    assert len(kept) <= MOST_KEPT + MOST_SLOW + MOST_FAILED
    assert len(ledger.points) <= MOST_POINTS
    assert [call.started_s for call in kept] == sorted(call.started_s for call in kept)


def test_a_call_that_takes_no_time_is_counted():
    ledger = noted((0.0, 0.0) for _ in range(10))
    (bin_,) = ledger.latencies()
    assert bin_.calls == 10
    assert bin_.high_s < 1e-8


def test_places_are_the_smallest_free_numbers():
    places = Places()
    assert [places.take() for _ in range(3)] == [0, 1, 2]
    places.give_back(1)
    places.give_back(0)
    assert [places.take() for _ in range(3)] == [0, 1, 3]


@virtual
async def test_each_kept_call_has_the_slot_that_made_it_and_no_slot_makes_two_at_once():
    report = await flow(range(100)).map(sleeper(lambda item: 0.01 * (1 + item % 3)), concurrency=7).arun()
    calls = report.stages[0].kept_calls
    assert len(calls) == 100
    assert {call.place for call in calls} == set(range(7))
    for place in range(7):
        own = [call for call in calls if call.place == place]
        for one, next_ in itertools.pairwise(own):
            assert one.started_s + one.took_s <= next_.started_s + 1e-9


def test_threads_have_their_slots_too():
    def nap(item: int) -> int:
        time.sleep(0.002)
        return item

    (stage,) = flow(range(30)).map(nap, concurrency=3, on="thread").run().stages
    assert {call.place for call in stage.kept_calls} <= {0, 1, 2}
    assert len(stage.kept_calls) == 30


@virtual
async def test_attempts_that_failed_are_kept_with_what_followed():
    async def call(item: int) -> int:
        await asyncio.sleep(0.1)
        raise ConnectionError

    report = await flow([1]).map(call, retry=Retry(attempts=3, jitter=False)).arun(on_failure="keep")
    assert [call.outcome for call in report.stages[0].kept_calls] == ["retried", "retried", "failed"]
    assert [call.took_s for call in report.stages[0].kept_calls] == [SAME(0.1)] * 3


@virtual
async def test_the_series_shows_limit_in_flight_and_queue():
    chain = flow(range(400)).map(sleeper(0.01), concurrency=4).map(sleeper(0.05), concurrency=2)
    report = await chain.arun()
    slow = report.stages[1]
    assert all(point.limit == 2 and point.in_flight <= 2 for point in slow.points)
    assert max(point.queue for point in slow.points) >= 5
    assert [p.at_s for p in slow.points] == sorted(p.at_s for p in slow.points)
    # Little's law: what waited on average, times how long.
    assert slow.queued_s == SAME(10 * 20, rel=0.4)


# -- the sink ----------------------------------------------------------------------------------------------------


@virtual
async def test_whoever_looks_while_it_runs_sees_every_call_that_has_ended_and_a_series_up_to_now():
    async with flow(range(1_000)).map(sleeper(1.0), concurrency=4, ordered=False).open() as items:
        async for item in items:
            if item == 399:
                break
        (stage,) = items.stats().stages
        assert stage.calls == SAME(400, abs=4)
        assert stage.service_s == SAME(400, abs=4)
        assert stage.points[-1].at_s == SAME(100, abs=2)
        assert stage.points[-1].calls == SAME(400, abs=8)


def test_a_sink_has_its_account_as_a_last_stage(tmp_path):
    report = flow(range(3_000)).map(sleeper(0.0)).to(Jsonl(tmp_path / "out.jsonl")).run()
    sink = report.stages[-1]
    assert (sink.verb, sink.lane, sink.items_in, sink.items_out) == ("to", "thread", 3_000, 3_000)
    assert sink.calls >= 3
    assert 0 < sink.service_s < report.elapsed_s
    assert sink.times.full_s > 0


# -- the loop ----------------------------------------------------------------------------------------------------


def hold(item: int) -> int:
    time.sleep(0.2)  # holds the loop
    return item


@pytest.mark.slow
def test_a_call_that_holds_the_loop_is_named_with_its_line():
    async def parse(item: int) -> int:
        await asyncio.sleep(0.02)
        return hold(item) if item % 10 == 9 else item

    record = flow(range(30)).map(parse, concurrency=2).run().record
    worst = record.stalls[0]
    assert worst.where == f"test_ledger.py:{hold.__code__.co_firstlineno + 1} in hold"
    assert worst.code.startswith("time.sleep(0.2)")
    assert 1 <= worst.times <= 3
    assert worst.longest_s > 0.1


@pytest.mark.slow
def test_a_loop_that_waits_is_not_said_to_stand_still():
    record = flow(range(8)).map(sleeper(0.1), concurrency=2).run().record
    assert record.stalls == ()
    assert record.loop_cpu_s is None or record.loop_cpu_s < 0.3


@pytest.mark.slow
def test_a_line_outside_of_the_loop_is_never_blamed_for_what_holds_its_thread():
    def compute(item: int) -> int:
        return sum(range(200_000)) + item

    record = flow(range(60)).map(compute, on="thread", concurrency=3).run().record
    assert not [stall for stall in record.stalls if "never_blamed" in stall.where and "compute" not in stall.where]
    assert not [line for line, _ in record.loop_lines if line.endswith("never_blamed_for_what_holds_its_thread")]


@pytest.mark.slow
def test_code_that_was_made_by_namedtuple_or_dataclass_is_not_blamed_but_the_line_that_calls_it():
    made = eval("lambda sleep: sleep(0.2)", {"__name__": "namedtuple_Row"})  # noqa: S307 - as namedtuple does

    async def work(item: int) -> int:
        await asyncio.sleep(0.01)
        made(time.sleep)
        return item

    (stall, *_) = flow(range(4)).map(work, concurrency=1).run().record.stalls
    assert stall.where.startswith("test_ledger.py:")
    assert stall.code == "made(time.sleep)"


def test_a_short_run_starts_no_watching_thread():
    seen: set[str] = set()

    async def look(item: int) -> int:
        seen.update(thread.name for thread in threading.enumerate())
        return item

    flow(range(100)).map(look).run()
    assert "overlapped:watch" not in seen


def test_the_watching_thread_ends_with_the_run():
    names: list[str] = []

    async def main() -> None:
        async with flow(range(50)).map(sleeper(0.05), concurrency=1).open() as items:
            async for _ in items:
                names[:] = [thread.name for thread in threading.enumerate()]
                if "overlapped:watch" in names:
                    break

    asyncio.run(main())
    assert "overlapped:watch" in names
    assert "overlapped:watch" not in [thread.name for thread in threading.enumerate()]


def test_on_a_virtual_clock_nothing_is_claimed_of_the_loops_cpu():
    async def main() -> Any:
        return await flow(range(10)).map(sleeper(10.0), concurrency=1).arun()

    record = run(main()).record
    assert record.loop_cpu_s is None
    assert record.stalls == ()
    assert math.isclose(record.elapsed_s, 100)


def test_the_loops_cpu_is_part_of_the_process_s():
    record = flow(range(1000)).map(sleeper(0)).run().record
    assert record.loop_cpu_s is None or record.loop_cpu_s <= record.cpu_s
