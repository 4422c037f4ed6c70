"""How long the loop is kept from everything else by calls that compute and never wait.

    python benchmarks/fairness.py [--smoke] [--json FILE]

A hundred calls at once, each 0.2 ms of computing without an `await`, beside a heartbeat that wants to
run every millisecond: how late is each beat? Without fairness one worker would run until its input
ends; with "everyone once a turn" a beat waits for a hundred calls. Both are shown, for comparison.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from typing import TYPE_CHECKING

from measure import Bar, judge, machine, table

from overlapped import flow

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

CONCURRENCY = 100
CALL_S = 200e-6
BEAT_S = 1e-3
SHARE, WORST_MS = 0.25, 43.0  # bars: of the lag when each call gives way once; what the prototype reached


def compute(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


async def busy(item: int) -> int:
    compute(CALL_S)
    return item


async def busy_then_waits(item: int) -> int:
    compute(CALL_S)
    await asyncio.sleep(0)
    return item


async def ours(n: int) -> None:
    async for _ in flow(range(n)).map(busy, concurrency=CONCURRENCY):
        pass


async def ours_that_wait(n: int) -> None:
    async for _ in flow(range(n)).map(busy_then_waits, concurrency=CONCURRENCY):
        pass


async def ours_in_threads(n: int) -> None:
    def plain(item: int) -> int:
        compute(CALL_S)
        return item

    async for _ in flow(range(n)).map(plain, concurrency=8, on="thread"):
        pass


async def workers(n: int) -> None:
    """A crew without fairness: nothing else runs until the input ends."""
    items = iter(range(n))

    async def worker() -> None:
        for item in items:
            await busy(item)

    await asyncio.gather(*(worker() for _ in range(CONCURRENCY)))


async def each_once_a_turn(n: int) -> None:
    """A crew in which every worker gives way after each call."""
    items = iter(range(n))

    async def worker() -> None:
        for item in items:
            await busy(item)
            await asyncio.sleep(0)

    await asyncio.gather(*(worker() for _ in range(CONCURRENCY)))


async def lags_ms(work: Coroutine[None, None, None]) -> list[float]:
    """How late each beat was while `work` ran, ms; a beat that never came counts as late as the end."""
    lags: list[float] = []
    has_ended = False

    async def heart() -> None:
        while not has_ended:
            due = time.perf_counter() + BEAT_S
            await asyncio.sleep(BEAT_S)
            lags.append(max(0.0, time.perf_counter() - due) * 1e3)

    beating = asyncio.create_task(heart())
    await asyncio.sleep(0)
    await work
    has_ended = True
    await beating
    return sorted(lags)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="few items; fails on no bar")
    parser.add_argument("--json", metavar="FILE", help="write all numbers there as well")
    args = parser.parse_args()
    n = 300 if args.smoke else 10_000
    ways: dict[str, Callable[[int], Coroutine[None, None, None]]] = {
        "overlapped, calls that never wait": ours,
        "overlapped, calls that compute, then wait": ours_that_wait,
        "overlapped, plain function in 8 threads": ours_in_threads,
        "crew without fairness": workers,
        "crew that gives way after each call": each_once_a_turn,
    }
    print(f"# Lag of a heartbeat beside {CONCURRENCY} calls of {CALL_S * 1e3:g} ms CPU: {machine()}\n")
    found: dict[str, list[float]] = {}
    lines = []
    for name, way in ways.items():
        lags = found[name] = asyncio.run(lags_ms(way(n)))
        p99 = lags[int(len(lags) * 0.99)]
        lines.append([name, f"{statistics.median(lags):.1f}", f"{p99:.1f}", f"{lags[-1]:.0f}", str(len(lags))])
    print(table(["", "median ms", "99 % ms", "worst ms", "beats"], lines))
    mine, once_a_turn = found["overlapped, calls that never wait"], found["crew that gives way after each call"]
    share = statistics.median(mine) / statistics.median(once_a_turn)
    bars = [
        Bar("heartbeat lag, median / when each call gives way", share, SHARE, "x"),
        Bar("heartbeat lag, worst", mine[-1], WORST_MS, " ms"),
    ]
    if args.json:
        with open(args.json, "w") as file:
            json.dump({"machine": machine(), "lag_ms": found}, file)
    return judge(bars, smoke=args.smoke)


if __name__ == "__main__":
    sys.exit(main())
