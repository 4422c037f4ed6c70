"""What the ramp promises, on simulated services of known capacity."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from overlapped.control.auto import AUTO
from overlapped.control.base import Sample
from overlapped.control.concurrency import MOST, Concurrency
from overlapped.control.refusals import Refusals


@dataclass
class Result:
    limits: list[tuple[float, int, str]]
    ok: int
    dropped: int
    now_s: float

    @property
    def limit(self) -> int:
        return self.limits[-1][1]

    @property
    def reason(self) -> str:
        return self.limits[-1][2]

    def held(self, until_s: float = 1e9) -> tuple[int, str]:
        """The last limit that was held, and why: at any one moment there may be a probe."""
        return [(n, why) for at_s, n, why in self.limits if why.startswith("hold") and at_s < until_s][-1]

    @property
    def most(self) -> int:
        return max(limit for _, limit, _ in self.limits)


def simulate(
    ramp: Concurrency,
    work_s: Callable[[], float],
    *,
    until_s: float,
    servers: float = float("inf"),
    cap: float = float("inf"),
    arrivals_per_s: float = 1e12,
    backlog: int = 1_000_000,
    fails: Callable[[], bool] = lambda: False,
    down: tuple[float, float] = (-1.0, -1.0),
) -> Result:
    """Calls against a first-come-first-served service: a discrete-event simulation, no clock, no loop."""
    order = itertools.count()
    ends: list[tuple[float, int, float, int, str, bool]] = []
    queue: deque[tuple[float, int, str]] = deque()
    now, busy, in_flight, started, ok, dropped = 0.0, 0, 0, 0, 0, 0
    limits = [(0.0, ramp.limit, ramp.reason)]

    def serve() -> None:
        nonlocal busy
        while queue and busy < servers:
            begun, n, outcome = queue.popleft()
            busy += 1
            heapq.heappush(ends, (now + work_s(), next(order), begun, n, outcome, True))

    def start() -> None:
        nonlocal in_flight, started
        while in_flight < ramp.limit and started < backlog + now * arrivals_per_s:
            started += 1
            in_flight += 1
            if in_flight > cap or down[0] <= now < down[1]:
                heapq.heappush(ends, (now + 0.002, next(order), now, in_flight, "drop", False))
            else:
                queue.append((now, in_flight, "drop" if fails() else "ok"))
        serve()

    start()
    while now < until_s:
        if not ends:
            now += 1 / arrivals_per_s
            start()
            continue
        now, _, begun, n, outcome, served = heapq.heappop(ends)
        busy -= served
        binding = started < backlog + now * arrivals_per_s
        in_flight -= 1
        ok += outcome == "ok"
        dropped += outcome == "drop"
        limit = ramp.finished(Sample(now, begun, outcome, n, binding))  # type: ignore[arg-type]  # a str here
        assert 1 <= limit == ramp.limit
        if (limit, ramp.reason) != limits[-1][1:]:
            limits.append((now, limit, ramp.reason))
        serve()
        start()
    return Result(limits, ok, dropped, now)


def test_a_service_with_32_slots_is_found():
    got = simulate(AUTO.controller(), lambda: 0.05, servers=32, until_s=5)
    limit, why = got.held()
    assert 32 <= limit <= 80
    assert why in ("hold:no-gain", "hold:needed")  # the latter after a step down that was worth it
    assert got.most <= 6 * 32  # constant service times: x4 a round while there is no queue
    assert got.ok >= 0.93 * 5 * 640


@pytest.mark.parametrize("seed", range(8))
def test_spread_out_service_times_do_not_hide_the_32_slots(seed):
    rng = random.Random(seed)  # noqa: S311 - a repeatable service, no secret
    got = simulate(AUTO.controller(), lambda: rng.expovariate(20), servers=32, until_s=5)
    assert 20 <= got.limit <= 110  # from the ramp or in the middle of a probe
    assert got.ok >= 0.9 * 5 * 640


@pytest.mark.parametrize("seed", range(4))
def test_rare_very_slow_calls_do_not_stop_the_ramp(seed):
    rng = random.Random(seed)  # noqa: S311 - a repeatable service, no secret
    got = simulate(AUTO.controller(), lambda: 1.0 if rng.random() < 0.1 else 0.05, until_s=1.5)
    assert got.most >= 128


def test_a_service_without_limit_is_used_more_and_more():
    got = simulate(AUTO.controller(), lambda: 0.1, until_s=2)
    assert got.limit >= 64
    assert [limit for at_s, limit, _ in got.limits if at_s <= 0.35][-1] >= 64


def test_answers_that_come_in_one_turn_of_the_loop_make_each_round_four_times_the_last():
    """The calls that follow them start a moment after the round began, and belong to it all the same."""
    ramp = AUTO.controller()
    reached, now = [], 0.0
    for _ in range(4):
        starts = [now + 0.00005 * n for n in range(ramp.limit)]
        for n, start in enumerate(starts, 1):
            now = start + 0.1
            ramp.finished(Sample(now, start, "ok", n, binding=True))
        now += 0.001
        reached.append(ramp.limit)
    assert reached[0] >= 28
    assert reached[1] >= 100
    assert reached[2] >= 350


def test_the_ramp_ends_at_its_own_bound_when_nothing_else_stops_it():
    got = simulate(AUTO.controller(), lambda: 0.1, until_s=1.6)
    assert (got.limit, got.reason) == (MOST, "hold:max")


@pytest.mark.parametrize("work_s", [1e-6, 0.01, 10.0])
def test_a_single_worker_is_left_in_peace(work_s):
    got = simulate(AUTO.controller(), lambda: work_s, servers=1, until_s=1000 * work_s)
    assert got.limit <= 16
    assert got.most <= 100
    assert "hold:no-gain" in {reason for _, _, reason in got.limits}


@pytest.mark.parametrize("in_flight", [1, 8, None])
def test_calls_that_never_wait_do_not_make_the_limit_grow(in_flight):
    ramp, now = AUTO.controller(), 0.0
    for _ in range(100_000):
        ramp.finished(Sample(now + 1e-6, now, "ok", in_flight or ramp.limit, binding=True))
        now += 1e-6
    assert ramp.limit <= 128


def test_calls_that_take_no_time_at_all_do_not_make_the_limit_grow():
    ramp = AUTO.controller()
    for _ in range(10_000):
        ramp.finished(Sample(5.0, 5.0, "ok", ramp.limit, binding=True))
    assert ramp.limit <= 32


@pytest.mark.parametrize("most", [1, 2, 5, 20, 100])
def test_the_limit_never_passes_the_users_bound(most):
    got = simulate(AUTO(max=most).controller(), lambda: 0.05, until_s=5)
    assert got.most <= most
    assert (got.limit, got.reason) == (most, "hold:max")


def test_a_bound_that_is_too_high_does_not_keep_a_queue():
    assert simulate(AUTO(max=64).controller(), lambda: 0.05, servers=4, until_s=20).limit <= 24


def test_too_few_items_teach_nothing():
    got = simulate(AUTO.controller(), lambda: 0.1, arrivals_per_s=30, backlog=1, until_s=20)
    assert got.limit <= 32
    assert got.reason in ("hold:app-limited", "start")


def test_a_flood_after_a_trickle_is_ramped_as_from_the_start():
    ramp = AUTO.controller()
    simulate(ramp, lambda: 0.1, arrivals_per_s=30, backlog=1, until_s=20)
    for sample in range(40):  # calls of the trickle that were still in flight
        ramp.finished(Sample(20 + sample / 1000, 19.9, "ok", 3, binding=False))
    assert simulate(ramp, lambda: 0.1, until_s=2).limit >= 64


def test_samples_that_are_not_binding_never_change_the_limit():
    ramp, rng, now = AUTO.controller(), random.Random(1), 0.0  # noqa: S311 - repeatable, no secret
    for _ in range(5000):
        now += rng.random()
        assert ramp.finished(Sample(now, now - 3 * rng.random(), "ok", rng.randint(1, 8), binding=False)) == 8


def test_a_cap_that_refuses_becomes_the_ceiling():
    got = simulate(AUTO.controller(), lambda: 0.1, cap=20, until_s=60)
    assert 15 <= got.limit <= 24
    assert got.dropped <= 0.03 * got.ok
    assert got.ok >= 0.85 * 60 * 200


@pytest.mark.parametrize("seed", range(5))
def test_isolated_failures_never_cut(seed):
    rng = random.Random(seed)  # noqa: S311 - a repeatable service, no secret
    got = simulate(AUTO.controller(), lambda: 0.05, servers=32, fails=lambda: rng.random() < 0.02, until_s=20)
    assert got.held()[0] >= 32
    assert got.ok + got.dropped >= 0.95 * 20 * 640
    assert "cut:refused" not in {reason for _, _, reason in got.limits}


def test_after_an_outage_the_limit_comes_back():
    got = simulate(AUTO.controller(), lambda: 0.05, servers=32, down=(5.0, 8.0), until_s=90)
    held, _ = got.held(until_s=5)
    assert min(limit for at_s, limit, _ in got.limits if 5 < at_s < 15) <= held / 2
    assert max(limit for at_s, limit, _ in got.limits if at_s > 60) >= 0.9 * held


def test_an_outage_at_the_start_ends_the_ramp_only_for_a_while():
    limit, _ = simulate(AUTO.controller(), lambda: 0.1, servers=64, down=(0.0, 1.0), until_s=20).held()
    assert limit >= 64


def test_a_first_burst_that_was_told_to_wait_does_not_end_the_growth():
    ramp = AUTO.controller()
    for _ in range(8):
        ramp.finished(Sample(0.002, 0.0, "ignore", 8, True, 1, 0.1))
    for call in range(4):
        ramp.finished(Sample(0.3 + 0.01 * call, 0.1, "ok", 8, True))
    assert ramp.limit >= 16


def test_a_service_that_the_first_calls_fill_is_told_soon():
    """Its calls are all alike, so nothing slower is still to be seen: a long second round is a queue."""
    got = simulate(AUTO.controller(), lambda: 1.0, servers=2, until_s=25)
    assert got.held()[0] <= 10


@pytest.mark.parametrize(("crowd", "target"), [(20, 32), (50, 44.8), (40, 39)])
def test_time_outs_cut_to_the_smallest_crowd_that_one_began_in_within_a_half(crowd, target):
    refusals, now_s, cut = Refusals(), 0.0, None
    while cut is None:
        now_s += 0.001
        cut = refusals.cut_to(Sample(now_s, now_s - 1.0, "drop", crowd, True), 64, 0.1)
    assert cut == pytest.approx(target)


def test_refused_calls_are_no_service_time():
    ramp = AUTO.controller()
    for _ in range(7):
        ramp.finished(Sample(0.002, 0.0, "drop", 8, True))
    assert ramp.mean_s == 0


def test_a_cut_happens_once_in_a_round_trip():
    ramp = Concurrency(start=100)
    for k in range(8):  # teaches the mean service time
        ramp.finished(Sample(1.0, 0.0, "ok", k + 1, binding=True))
    before = ramp.limit
    for _ in range(before):
        ramp.finished(Sample(2.0, 1.0, "drop", before, binding=True))
    assert ramp.reason == "cut:refused"
    assert ramp.limit == int(before * 0.7)


def test_any_samples_leave_the_limit_within_its_bounds():
    rng = random.Random(7)  # noqa: S311 - repeatable, no secret
    for _ in range(50):
        most = rng.choice([1, 3, 50, 1000])
        ramp, now = AUTO(max=most).controller(), rng.choice([-1e6, 0.0, 1e9])
        for _ in range(500):
            now += rng.choice([0, 0, 1e-6, 0.1, 30])
            outcome = rng.choice(["ok", "ok", "ok", "ignore", "drop"])
            started = now - rng.choice([0, 1e-6, 0.1, 30])
            sample = Sample(now, started, outcome, rng.randint(1, ramp.limit), rng.random() < 0.8)  # type: ignore[arg-type]  # a str here
            assert 1 <= ramp.finished(sample) <= most
