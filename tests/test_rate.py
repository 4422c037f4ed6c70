"""What a rate promises: starts are evenly spaced, and never more than the budget."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest

from overlapped.errors import UsageError
from overlapped.rate import Bucket, Rate


def starts(bucket: Bucket, requests: Sequence[tuple[float, float]]) -> list[float]:
    return [now + bucket.reserve(now, weight) for now, weight in requests]


def test_reservations_are_spaced_evenly():
    bucket = Rate(100, per_s=1).bucket()
    got = [bucket.reserve(0.0) for _ in range(1000)]
    assert got == pytest.approx([k * 0.01 for k in range(1000)], abs=1e-9)


def test_a_quiet_time_earns_no_more_than_the_burst():
    bucket = Rate(10, burst=3).bucket()
    assert starts(bucket, [(0.0, 1)] * 5) == pytest.approx([0, 0, 0, 0.1, 0.2])
    assert starts(bucket, [(100.0, 1)] * 5) == pytest.approx([100, 100, 100, 100.1, 100.2])


def test_a_slow_caller_never_waits():
    bucket = Rate(10).bucket()
    assert [bucket.reserve(k * 0.1) for k in range(50)] == pytest.approx([0.0] * 50, abs=1e-9)


def test_a_heavy_call_makes_the_next_one_wait():
    bucket = Rate(100).bucket()
    assert starts(bucket, [(0.0, 50), (0.0, 10), (0.0, 1)]) == pytest.approx([0, 0.5, 0.6])


def test_a_weight_within_the_burst_uses_it_up():
    bucket = Rate(1, burst=5).bucket()
    assert starts(bucket, [(0.0, 4), (0.0, 4), (0.0, 4)]) == pytest.approx([0, 3, 7])


@pytest.mark.parametrize("burst", [1, 2, 5])
def test_no_window_ever_holds_more_than_burst_and_rate_allow(burst):
    rng = random.Random(burst)  # noqa: S311 - a repeatable schedule, no secret
    bucket = Rate(7, per_s=2, burst=burst).bucket()
    now, requests = 0.0, []
    for _ in range(300):
        now += rng.choice([0, 0, 0, 0.25, 1, 3])
        requests.append((now, rng.choice([w for w in (1, 2, 5) if w <= burst])))
    times = starts(bucket, requests)
    for i in range(len(times)):
        for j in range(i, min(i + 40, len(times))):
            inside = [w for t, (_, w) in zip(times, requests, strict=True) if times[i] <= t <= times[j]]
            assert sum(inside) <= burst + 3.5 * (times[j] - times[i]) + 1e-6


def test_a_place_given_back_is_given_to_the_next():
    bucket = Rate(10).bucket()
    assert starts(bucket, [(0.0, 1), (0.0, 1)]) == pytest.approx([0, 0.1])
    bucket.give_back()
    assert bucket.reserve(0.0) == pytest.approx(0.1)


def test_nothing_starts_in_a_pause_and_no_burst_follows_it():
    bucket = Rate(10).bucket()
    bucket.pause_until(5.0)
    bucket.pause_until(2.0)  # a shorter pause takes nothing away
    assert starts(bucket, [(1.0, 1), (1.0, 1)]) == pytest.approx([5.0, 5.1])
    assert bucket.reserve(6.0) == 0.0


def test_a_clock_that_starts_below_zero_is_fine():
    assert starts(Rate(10).bucket(), [(-50.0, 1), (-50.0, 1)]) == pytest.approx([-50, -49.9])


def test_two_equal_rates_are_two_budgets():
    first, second = Rate(10), Rate(10)
    assert first != second
    assert len({first, second}) == 2
    with pytest.raises(AttributeError):
        first.amount = 5  # type: ignore[misc]


@pytest.mark.parametrize(
    ("args", "options", "message"),
    [
        ((0,), {}, r"Rate\(amount\): amount must be a number > 0, got 0"),
        ((-1,), {}, "amount"),
        ((math.nan,), {}, "amount"),
        ((math.inf,), {}, "amount"),
        ((True,), {}, "amount"),
        (("10",), {}, "amount must be a number > 0, got '10'"),
        ((10,), {"per_s": 0}, r"Rate\(per_s\): per_s must be a number > 0, got 0"),
        ((10,), {"burst": 0}, r"Rate\(burst\): burst must be a number >= 1, got 0"),
        ((10,), {"weigh": 3}, r"Rate\(weigh\)"),
    ],
)
def test_a_rate_that_cannot_work_is_refused(args, options, message):
    with pytest.raises(UsageError, match=message):
        Rate(*args, **options)


@pytest.mark.parametrize("weight", [-1, math.nan, math.inf])
def test_a_weight_that_cannot_work_is_refused_and_takes_nothing(weight):
    bucket = Rate(10).bucket()
    with pytest.raises(UsageError, match="weigh must return a number >= 0"):
        bucket.reserve(0.0, weight)
    assert bucket.reserve(0.0) == 0.0
