"""What AUTO promises beyond its ramp: numbers in, numbers out; and whole scenarios by the real engine."""

from __future__ import annotations

import asyncio
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overlapped import Retry, TooLarge, flow
from overlapped.control.auto import AUTO
from overlapped.control.base import Outcome, Sample
from overlapped.control.batch_size import MOST, BatchSize
from overlapped.control.concurrency import Concurrency
from overlapped.control.pace import Pace
from overlapped.control.probe import Experiment, Measured, Noise, has_moved
from overlapped.testing import check_controller
from overlapped.testing.clock import run
from overlapped.testing.scenario_list import by_name
from overlapped.testing.scenarios import FakeServer, play

# -- any controller -----------------------------------------------------------------------------------------

STEPS = st.lists(
    st.tuples(
        st.integers(0, 3),  # ticks since the one before
        st.integers(0, 5),  # ticks it took
        st.sampled_from(["ok", "ok", "ok", "ok", "ignore", "drop"]),
        st.booleans(),
        st.sampled_from([None, None, None, 0.1, 3.0]),
    ),
    max_size=300,
)


@given(steps=STEPS, most=st.sampled_from([1, 2, 7, 100]), scale=st.sampled_from([1e-5, 0.01, 3.0]))
@settings(max_examples=100)
def test_the_limit_stays_within_its_bounds_whatever_comes(steps, most, scale):
    controller, now_s = AUTO(max=most).controller(), 0.0
    for ticks, took, outcome, binding, asked_s in steps:
        now_s += ticks * scale
        heard: Outcome = "ignore" if asked_s is not None else outcome
        limit = controller.finished(Sample(now_s, now_s - took * scale, heard, controller.limit, binding, 1, asked_s))
        assert 1 <= limit <= most
        assert limit == controller.limit
        assert controller.pace_per_s > 0
        assert controller.reason


@given(steps=STEPS, seed=st.integers(0, 3))
@settings(max_examples=50)
def test_the_limit_never_changes_while_something_else_holds_calls_back(steps, seed):
    controller, chance, now_s = AUTO.controller(), random.Random(seed), 0.0  # noqa: S311 - repeatable
    for _ in range(400):  # past its start, so that it may be in any phase
        now_s += 0.1 / controller.limit
        controller.finished(Sample(now_s, now_s - 0.1 * chance.uniform(0.5, 1.5), "ok", controller.limit, True))
    before = controller.limit
    for ticks, took, outcome, _, _ in steps:
        now_s += ticks * 0.01
        if outcome == "ok":
            controller.finished(Sample(now_s, now_s - took * 0.01, "ok", 1, False))
            assert controller.limit <= before


@given(steps=STEPS, most=st.sampled_from([1, 2, 50, math.inf]))
@settings(max_examples=100)
def test_the_size_of_batches_stays_within_its_bounds_whatever_comes(steps, most):
    sizes, now_s = BatchSize(max_size=most), 0.0
    for ticks, took, outcome, is_full, _ in steps:
        now_s += ticks * 0.01
        size = sizes.limit if is_full else max(1, sizes.limit // 3)
        sample = Sample(now_s, now_s - took * 0.01, "ok", 1, True, size, None, outcome == "ignore")
        assert 1 <= sizes.finished(sample) <= min(most, MOST)


def test_auto_passes_the_contract_of_controllers():
    check_controller(lambda: AUTO(max=200), most=200)


def test_a_remembered_limit_is_the_start():
    assert Concurrency(remembered=300).limit == 150
    assert Concurrency(remembered=300, max_limit=40).limit == 40
    assert Concurrency(remembered=4).limit == 8


# -- experiments ----------------------------------------------------------------------------------------------


def _experiment(workers, base, candidate):
    """Calls of 50 ms by so many workers, until there is a verdict."""
    experiment = Experiment(0.0, base, candidate, base, 0.05, Noise())
    now_s, verdict, n = 0.0, None, base
    chance = random.Random(1)  # noqa: S311 - repeatable
    for _ in range(100_000):
        n += (experiment.limit > n) - (experiment.limit < n)
        mean_s = 0.05 * max(1.0, n / workers)
        now_s += mean_s / n
        verdict = experiment.add(Sample(now_s, now_s - mean_s * chance.uniform(0.9, 1.1), "ok", n, True))
        if verdict is not None:
            return verdict
    raise AssertionError("no verdict")


@pytest.mark.parametrize(
    ("workers", "base", "candidate", "accepted", "e"),
    [(100, 20, 30, True, 1.0), (20, 20, 30, False, 0.0), (20, 40, 30, True, 0.0), (100, 40, 30, False, 1.0)],
)
def test_an_experiment_measures_the_elasticity(workers, base, candidate, accepted, e):
    verdict = _experiment(workers, base, candidate)
    assert verdict.accepted is accepted
    assert verdict.e == pytest.approx(e, abs=0.1)


def test_a_service_time_that_moved_is_news_only_beyond_chance():
    calm = Measured(10, 0.1, 0.01, 100, 100)
    assert has_moved(calm, calm._replace(mean_s=0.13), 1.0)
    assert not has_moved(calm, calm._replace(mean_s=0.11), 1.0)
    assert not has_moved(calm._replace(cv2=4.0), calm._replace(mean_s=0.13, cv2=4.0), 1.0)


# -- pace -----------------------------------------------------------------------------------------------------


def _paced(rate_per_s, burst, lasts_s):
    """A token bucket, and calls that start as the pace allows."""
    pace, now_s, tokens, refused, ok = Pace(), 0.0, float(burst), 0, 0
    while now_s < lasts_s:
        gap_s = 1 / min(pace.per_s, 10 * rate_per_s)
        now_s += gap_s
        tokens = min(burst, tokens + gap_s * rate_per_s)
        if tokens >= 1:
            tokens -= 1
            ok += 1
            pace.finished(Sample(now_s, now_s - 1e-6, "ok", 1, True))
        else:
            refused += 1
            wait_s = (1 - tokens) / rate_per_s
            pace.finished(Sample(now_s, now_s - 1e-6, "ignore", 1, True, 1, wait_s))
            now_s += wait_s
            tokens += wait_s * rate_per_s
    return pace, ok / lasts_s, refused / ok


@pytest.mark.parametrize("rate_per_s", [20, 100, 1000])
@pytest.mark.parametrize("burst", [1, 20])
def test_the_rate_of_a_limiter_is_found(rate_per_s, burst):
    pace, per_s, refused = _paced(rate_per_s, burst, 120.0)
    assert per_s >= 0.93 * rate_per_s
    assert refused <= 0.02
    assert pace.per_s == pytest.approx(rate_per_s, rel=0.1)


def _let_in(pace: Pace, *, per_s: float, service_s: float, from_s: float, to_s: float) -> None:
    """Calls that all succeed, in the order in which they end."""
    started_s = from_s
    while started_s + service_s <= to_s:
        pace.finished(Sample(started_s + service_s, started_s, "ok", 1, True))
        started_s += 1 / per_s


@pytest.mark.parametrize("service_s", [0.001, 0.05, 0.3])
def test_calls_that_are_on_their_way_are_counted_however_long_they_take(service_s):
    """What has ended in the time between two refusals is less than what was let in."""
    pace = Pace()
    _let_in(pace, per_s=100, service_s=service_s, from_s=0.0, to_s=1.0)
    pace.finished(Sample(1.0, 1.0, "ignore", 1, True, 1, 0.01))
    _let_in(pace, per_s=100, service_s=service_s, from_s=1.01, to_s=2.0)
    pace.finished(Sample(2.0, 2.0, "ignore", 1, True, 1, 0.01))
    assert pace.per_s == pytest.approx(98, abs=2)


def test_a_refusal_that_costs_a_long_pause_is_not_risked_soon_again():
    pace = Pace()
    _let_in(pace, per_s=100, service_s=0.01, from_s=0.0, to_s=1.0)
    pace.finished(Sample(1.0, 1.0, "ignore", 1, True, 1, 1.0))
    guess = pace.per_s
    _let_in(pace, per_s=100, service_s=0.01, from_s=2.0, to_s=4.0)
    risen = pace.per_s
    pace.finished(Sample(4.0, 4.0, "ignore", 1, True, 1, 1.0))
    kept = pace.per_s
    assert guess < kept < 0.96 * risen
    _let_in(pace, per_s=kept, service_s=0.01, from_s=5.0, to_s=8.0)
    assert pace.per_s == kept, "it waits before it asks for more"
    _let_in(pace, per_s=kept, service_s=0.01, from_s=8.0, to_s=15.0)
    assert kept < pace.per_s < 1.05 * kept, "and then goes on slowly"


@pytest.mark.parametrize(("retry_after", "least"), [("exact", 0.95), (1.0, 0.6)])
def test_a_flow_gets_what_a_service_that_counts_per_second_lets_in(retry_after, least):
    server = FakeServer(lambda server, item: 0.05, rate_per_s=100, burst=5, retry_after=retry_after)

    async def main() -> None:
        chain = flow(range(10**9)).map(server, retry=Retry(attempts=100), ordered=False)
        async with chain.open() as items:
            async for _ in items:
                if asyncio.get_running_loop().time() > 60:
                    break

    run(main())
    assert len(server.ended_s) >= least * 60 * 100
    assert server.failed <= 0.012 * server.calls


def test_a_quota_for_a_window_is_no_rate():
    pace = Pace()
    for call in range(200):
        pace.finished(Sample(call * 0.01, call * 0.01, "ok", 1, True))
    pace.finished(Sample(2.0, 2.0, "ignore", 1, True, 1, 10.0))
    assert pace.per_s == math.inf


# -- batches --------------------------------------------------------------------------------------------------


def _sized(a_s, c_s, *, most=math.inf, calls=200, start=8):
    sizes, now_s, refused = BatchSize(start=start), 0.0, 0
    for _ in range(calls):
        size = sizes.limit
        took_s = a_s + c_s * size
        now_s += took_s
        too_large = size > most
        refused += too_large
        sizes.finished(Sample(now_s, now_s - took_s, "ignore" if too_large else "ok", 1, True, size, None, too_large))
    return sizes, refused


@pytest.mark.parametrize(("a_s", "c_s", "wanted"), [(0.005, 50e-6, 2_500), (0.02, 1e-3, 500), (1e-4, 1e-3, 3)])
def test_the_fixed_cost_of_a_call_becomes_small(a_s, c_s, wanted):
    sizes, _ = _sized(a_s, c_s)
    assert 0.6 * wanted <= sizes.limit <= 2.5 * wanted


@pytest.mark.parametrize("most", [7, 25, 500])
def test_a_size_that_is_refused_is_found_with_few_refusals(most):
    sizes, refused = _sized(0.02, 1e-4, most=most)
    assert 0.8 * most <= sizes.limit <= most
    assert refused <= 6


def test_batches_that_began_before_a_refusal_do_not_end_the_run():
    """They are larger than the size that holds by now, of which nothing is known yet."""
    sizes = BatchSize(start=64)
    sizes.finished(Sample(0.1, 0.0, "ignore", 8, True, 64, None, True))
    for ended in range(1, 8):
        sizes.finished(Sample(0.1 + 0.01 * ended, 0.0, "ok", 8, True, 64))
    assert 1 <= sizes.limit <= 64


@pytest.mark.parametrize("start", [1, 2])
def test_the_smallest_sizes_grow_after_a_refusal_too(start):
    sizes, now_s = BatchSize(start=start), 1.0
    sizes.finished(Sample(0.1, 0.0, "ignore", 1, True, 4 * start, None, True))  # so that it grows by small steps
    for _ in range(60):
        now_s += 0.1
        sizes.finished(Sample(now_s, now_s - 0.1, "ok", 1, True, sizes.limit))
    assert sizes.limit >= 3 * start
    assert sizes.is_settled


@pytest.mark.parametrize("start", [2, 5])
def test_a_size_that_cannot_grow_by_one_is_settled(start):
    """Else the limit of calls in flight would never have its turn."""
    sizes, now_s = BatchSize(start=start), 0.0
    for call in range(20):
        size = start // 2 if call < 2 else sizes.limit
        took_s = 0.001 * (1.15 * start * 0.04 + size)  # 1.15 times the start is wanted
        now_s += took_s
        sizes.finished(Sample(now_s, now_s - took_s, "ok", 1, True, size))
    assert sizes.limit == start
    assert sizes.is_settled


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("place", [13, 100_000])
def test_one_huge_item_does_not_keep_batches_small(concurrency, place):
    async def save(numbers: list[int]) -> int:
        if place in numbers and len(numbers) > 1:
            raise TooLarge("a huge item")
        await asyncio.sleep(0.02 + 1e-4 * len(numbers))
        return len(numbers)

    report = run(flow(range(200_000)).batch().map(save, concurrency=concurrency).arun())
    assert report.stages[-1].batch_size >= 2_000
    assert report.stages[-1].calls <= 200


def test_no_call_lasts_longer_than_a_second_for_the_sake_of_its_size():
    sizes, _ = _sized(0.03, 0.001)
    assert 0.03 + 0.001 * sizes.limit <= 1.1


def test_a_size_that_batches_do_not_reach_leaves_the_turn_to_the_limit():
    sizes, now_s = BatchSize(), 0.0
    for _ in range(50):
        now_s += 0.1
        sizes.finished(Sample(now_s, now_s - 0.1, "ok", 1, True, 2))
    assert sizes.is_settled
    assert sizes.limit == 8


# -- whole scenarios: the engine on the virtual clock, so the figures are the same each time --------------------

BEST = {  # name: items/s of the best static setting, from benchmarks/control.py
    "mmc32_50ms": 641.8,
    "single_worker_20ms": 50.0,
    "rate100_429": 99.9,
    "conn_limit_40": 400.0,
    "cliff_60": 749.8,
    "capacity_halves": 725.4,
    "drift_50_250ms": 998.8,
    "starved_then_flood": 248.0,
    "slow_llm_w100": 20.0,
    "db_5ms_50us": 19_733.0,
    "max_500": 7_117.0,
    "db_parallel": 39_200.0,
}


def test_the_ramp_opens_no_more_than_the_loop_can_feed():
    played = play(by_name("short3000_cpu1000"), seed=1)  # 100 ms and 1 ms of CPU: 100 in flight keep it busy
    assert played.stage.limit_range[1] <= 250
    assert played.p50_s <= 0.15


@pytest.mark.slow
@pytest.mark.parametrize("name", BEST)
def test_a_scenario_reaches_the_best_static_setting(name):
    played = play(by_name(name), seed=1)
    assert played.per_s >= 0.92 * BEST[name]
    assert played.failed <= 0.03
    assert all(decision.reason for decision in played.stage.decisions)


def test_the_same_seed_plays_the_same():
    first, second = (play(by_name("knee_6_jitter"), seed=3) for _ in range(2))
    assert (first.per_s, first.stage.decisions) == (second.per_s, second.stage.decisions)


def test_a_users_bound_holds_in_a_run():
    played = play(by_name("mmc32_50ms"), concurrency=AUTO(max=12), seed=1)
    assert played.stage.limit_range[1] <= 12
    assert played.per_s == pytest.approx(240, rel=0.03)
