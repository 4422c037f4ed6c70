"""What the live view costs a run: the same run with and without the painter, and one snapshot and frame alone.

    python benchmarks/painter.py           a minute
    python benchmarks/painter.py --smoke   a few seconds

CPU time counts, as in overhead.py. The bar: below 2 % at 10,000 items a second.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import statistics
import sys
import time

from overlapped import flow
from overlapped.cli.progress import Block, frame
from overlapped.report.speed import Speed

MOST_SHARE = 0.02
EVERY_S = 0.2


async def work(item: int) -> int:
    await asyncio.sleep(0.01)
    return item


async def cpu_s(items: int, *, paints: bool) -> float:
    """CPU time of a run of two stages at about 10,000 items a second."""
    block = Block("benchmark")
    block._stream = io.StringIO()  # noqa: SLF001 - nobody looks
    chain = flow(range(items)).map(work, concurrency=120).map(work, name="second", concurrency=120)
    before = time.process_time()
    async with chain.open() as results:
        loop, due_s = asyncio.get_running_loop(), 0.0
        async for _ in results:
            if paints and loop.time() >= due_s:
                due_s = loop.time() + EVERY_S
                block.show(results.stats())
    return time.process_time() - before


async def frame_us(items: int) -> float:
    """One snapshot and one frame of a run that has all its lists full, CPU us."""
    speed, took = Speed(), []
    async with flow(range(items)).map(work, concurrency=120).map(work, name="second").open() as results:
        count = 0
        async for _ in results:
            count += 1
            if count > items // 2 and not count % 50:
                before = time.process_time()
                frame(results.stats(), speed, "benchmark", 100)
                took.append(time.process_time() - before)
    return statistics.median(took) * 1e6


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="few items; fails on no bar")
    parser.add_argument("--rounds", type=int, default=5, help="how often (5)")
    args = parser.parse_args()
    items, rounds = (2_000, 1) if args.smoke else (20_000, args.rounds)
    off, on = [], []
    for _ in range(rounds):
        off.append(asyncio.run(cpu_s(items, paints=False)))
        on.append(asyncio.run(cpu_s(items, paints=True)))
    one_us = asyncio.run(frame_us(items))
    share = one_us / 1e6 / EVERY_S
    print(
        f"a run of {items:,} items: {statistics.median(off):.2f} s of CPU without the painter, "
        f"{statistics.median(on):.2f} s with it ({statistics.median(on) / statistics.median(off) - 1:+.1%})"
    )
    print(
        f"a snapshot and its frame: {one_us:,.0f} us, five times a second {share:.2%} of a core (bar {MOST_SHARE:.0%})"
    )
    return 0 if args.smoke or share < MOST_SHARE else 1


if __name__ == "__main__":
    sys.exit(main())
