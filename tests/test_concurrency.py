"""What holding and probing promise: cliffs are found, kept away from, and looked at again."""

from __future__ import annotations

import pytest

from overlapped.control.base import Sample
from overlapped.control.probe import Arm
from overlapped.testing.scenarios import FakeServer, Scenario, play


def _cliff(name, above, **options):
    """Calls of 0.1 s; with more than `above(now_s)` in flight each takes four times its share of the crowd."""

    def work_s(server, _):
        most = above(server.now_s)
        crowd = 4.0 * server.in_flight / most if server.in_flight > most else 1.0
        return 0.1 * crowd * server.random.uniform(0.8, 1.2)

    return Scenario(name, lambda seed: FakeServer(work_s, seed=seed), **options)


def _limits(played):
    return [(decision.at_s, decision.new) for decision in played.stage.decisions if decision.what == "limit"]


@pytest.mark.parametrize("edge", [12, 25, 40])
@pytest.mark.parametrize("seed", [1, 2])
def test_the_last_limit_before_a_cliff_is_found(edge, seed):
    played = play(_cliff("cliff", lambda _: edge, lasts_s=60.0), seed=seed)
    assert edge - 2 <= played.stage.limit <= edge
    late_s = [at_s for at_s in played.ended_s if at_s > 20]
    assert len(late_s) >= 0.9 * 40 * 10 * edge


def test_a_cliff_is_looked_at_again_now_and_then_but_rarely():
    played = play(_cliff("cliff", lambda _: 12, lasts_s=150.0), seed=1)
    over = [at_s for at_s, limit in _limits(played) if at_s > 20 and limit > 12]
    assert 1 <= len(over) <= 10


def test_a_cliff_that_moves_out_is_followed():
    played = play(_cliff("moves out", lambda now_s: 12 if now_s < 60 else 24, lasts_s=120.0), seed=1)
    held = [limit for at_s, limit in _limits(played) if at_s < 110]  # at the very end it may be looking around
    assert held[-1] >= 22


def test_a_cliff_that_moves_in_is_followed():
    played = play(_cliff("moves in", lambda now_s: 24 if now_s < 60 else 12, lasts_s=120.0), seed=1)
    assert 10 <= played.stage.limit <= 12


@pytest.mark.parametrize("times", [1.0, 2.0, 8.0])
def test_an_arm_measures_as_many_times_longer_as_it_is_told(times):
    arm = Arm(0.0, 10, 10, 0.1, is_settled=True, times=times)
    calls = 0
    while True:
        calls += 1
        if arm.add(Sample(calls * 0.01, calls * 0.01 - 0.1, "ok", 10, True)):
            break
        assert calls < 1_000
    begun_before = 9  # calls in flight when the arm began are not its own
    assert calls - begun_before == 20 * times
