"""Rule 24: one clock: `perf_counter` live, the loop's own under test."""

from __future__ import annotations

import asyncio
import time

import pytest

from overlapped.testing import virtual
from tests.rules.kit import Calls, Limits, flow, same


@virtual
async def test_on_a_virtual_loop_all_times_are_virtual_and_exact():
    calls = Calls(service_s=3600.0)
    report = await flow(range(3)).map(calls, concurrency=1).arun()
    assert report.elapsed_s == 3 * 3600.0
    assert report.stages[0].service_s == 3 * 3600.0


def test_live_times_are_those_of_perf_counter_not_of_the_loop():
    """uvloop's time() has steps of 1 ms: 20 calls of 0.3 ms would be 0 or 20 ms."""

    async def fn(n):
        until = time.perf_counter() + 0.0003
        while time.perf_counter() < until:
            pass

    spec = Limits(1)
    report = flow(range(20)).map(fn, concurrency=spec).run()
    assert 20 * 0.0003 <= report.stages[0].service_s < 0.5
    services = [s.now_s - s.started_s for s in spec.made[0].samples]
    assert all(service >= 0.0003 for service in services)
    assert len({round(service, 6) for service in services}) > 1


def test_started_at_is_the_wall_clock():
    before = time.time()
    record = flow([1]).run().record
    assert before <= record.started_at <= time.time()


def test_any_loop_may_bring_a_clock():
    class Loop(asyncio.SelectorEventLoop):
        def overlapped_clock(self):
            return 1000.0

    with asyncio.Runner(loop_factory=Loop) as runner:
        report = runner.run(flow(range(3)).map(same, on="inline").arun())
    assert report.elapsed_s == 0.0


@pytest.mark.parametrize("jump_s", [-3600.0, 3600.0])
def test_a_wall_clock_that_jumps_changes_nothing(jump_s, monkeypatch):
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + jump_s)
    report = flow(range(3)).map(same).run()
    assert 0 <= report.elapsed_s < 5
