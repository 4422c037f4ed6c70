"""Whose turn it is on a busy loop: calls that never wait let others run, calls that waited go on at once."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

from overlapped import flow
from overlapped.testing import virtual


def _works(seconds: float) -> None:
    """The loop's own time passes."""
    loop: Any = asyncio.get_running_loop()
    loop._set_time(loop.time() + seconds)


@pytest.mark.parametrize("in_flight", [200, 600, 1_000])
@virtual
async def test_a_busy_loop_starts_the_next_call_as_soon_as_one_has_ended(in_flight):
    async def fetch(number):
        _works(0.0001)
        await asyncio.sleep(0.1)
        _works(0.0001)
        return number

    loop: Any = asyncio.get_running_loop()
    callbacks, before = [], loop.call_soon

    def counted(callback, *args, **options):
        callbacks.append(callback)
        return before(callback, *args, **options)

    loop.call_soon = counted
    got = await flow(range(5_000)).map(fetch, concurrency=in_flight, ordered=False).acollect()
    assert sorted(got) == list(range(5_000))
    least_s = max(5_000 * 0.0002 + 0.1, 5_000 / in_flight * 0.1)
    assert loop.time() <= 1.15 * least_s
    assert len(callbacks) <= 1.05 * (2 * 5_000 + 2 * in_flight)  # a call is woken, the consumer is told: nobody queues


@virtual
async def test_calls_that_never_wait_let_the_loop_turn():
    turns = []

    async def beside():
        while True:
            turns.append(asyncio.get_running_loop().time())
            await asyncio.sleep(0)

    async def never_waits(number):
        _works(0.0002)
        return number

    task = asyncio.create_task(beside())
    await flow(range(5_000)).map(never_waits, concurrency=10).acollect()
    task.cancel()
    assert max(after - before for before, after in itertools.pairwise(turns)) <= 0.005
