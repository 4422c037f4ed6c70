"""What calls cost in the lanes that leave the loop, beside the pools that people use for it: tables of docs/lanes.md.

    python benchmarks/lanes.py [--smoke] [--only WHAT]

Each table is one run, rounds interleaved, medians shown; the start of processes is not counted: the clock runs from
the first result on. A peer that is not installed is left out.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

from greenlets import GREENLETS
from measure import Bar, judge, machine
from ray_actors import RAY
from ways import Way, measure

from overlapped import flow

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from overlapped import Flow

CPUS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
TWO = 2  # the bars speak of two processes


def same(n: int) -> int:
    return n


async def asame(n: int) -> int:
    return n


def compute(n: int) -> int:
    """About 1 ms of CPU."""
    return sum(i * i for i in range(25_000 + n % 2))


async def nap(n: int) -> int:
    await asyncio.sleep(0.001)
    return n


# -- the others ----------------------------------------------------------------------------------------------------


def executor(fn: Any, n: int, *, chunksize: int, items: Any = None) -> Iterator[Any]:
    with ProcessPoolExecutor(TWO, mp_context=get_context("spawn")) as pool:
        yield from pool.map(fn, items or range(n), chunksize=chunksize)


def mp_pool(fn: Any, n: int, *, chunksize: int, items: Any = None) -> Iterator[Any]:
    with get_context("spawn").Pool(TWO) as pool:
        yield from pool.imap(fn, items or range(n), chunksize=chunksize)


def aiomulti(fn: Any, n: int, *, at_once: int) -> Iterator[int]:
    """aiomultiprocess, all results at once (iterated it gives 180 a second); the clock starts with the second half."""
    import aiomultiprocess

    async def main() -> AsyncIterator[int]:
        async with aiomultiprocess.Pool(TWO, childconcurrency=at_once // TWO) as pool:
            await pool.map(fn, range(TWO))  # both are up
            yield -1
            for result in await pool.map(fn, range(n - 1)):
                yield result

    with asyncio.Runner() as runner:
        results = main()
        try:
            while True:
                yield runner.run(anext(results))  # type: ignore[arg-type]  # a coroutine, though typed as an awaitable
        except StopAsyncIteration:
            return


def batches(n: int, size: int, **options: Any) -> Flow[int]:
    return flow(range(n)).batch(size).map(each_same, on="process", **options).flatten()


def each_same(numbers: list[int]) -> list[int]:
    return [same(number) for number in numbers]


def mapped(fn: Any, n: int, **options: Any) -> Iterator[Any]:
    return iter(flow(range(n)).map(fn, on="process", **options))


# -- processes -----------------------------------------------------------------------------------------------------


def small(*, smoke: bool) -> list[Bar]:
    many = 500_000
    ways = [
        Way("overlapped, batches of 1,000", lambda n: iter(batches(n, 1_000, concurrency=TWO)), 2_000_000),
        Way("overlapped, item by item", lambda n: mapped(same, n, concurrency=TWO), many),
        Way("overlapped, as completed", lambda n: mapped(same, n, concurrency=TWO, ordered=False), many),
        Way("overlapped, coroutine function", lambda n: mapped(asame, n, concurrency=200), many),
        Way("mp.Pool.imap, chunksize 1,000", functools.partial(mp_pool, same, chunksize=1_000), 2_000_000),
        Way("mp.Pool.imap, chunksize 1", functools.partial(mp_pool, same, chunksize=1), 40_000),
        Way("ProcessPoolExecutor, chunksize 1,000", functools.partial(executor, same, chunksize=1_000), 2_000_000),
        Way("ProcessPoolExecutor, chunksize 1", functools.partial(executor, same, chunksize=1), 10_000),
        Way("aiomultiprocess", functools.partial(aiomulti, asame, at_once=200), 20_000),
    ]
    found = measure("Small items, two processes, a function that does nothing", ways, smoke=smoke)
    return [Bar("two processes, small items in batches", found[ways[0].name].rate / 1e6, 1.0, " M/s", at_least=True)]


def cpu(*, smoke: bool) -> list[Bar]:
    ways = [
        Way("overlapped, two processes", lambda n: mapped(compute, n, concurrency=TWO), 1_500),
        Way("overlapped, one process", lambda n: mapped(compute, n, concurrency=1), 700),
        Way("mp.Pool(2).imap, chunksize 10", functools.partial(mp_pool, compute, chunksize=10), 1_500),
        Way("ProcessPoolExecutor(2), chunksize 10", functools.partial(executor, compute, chunksize=10), 1_500),
        Way("a plain loop here", lambda n: map(compute, range(n)), 700),
    ]
    found = measure("1 ms of CPU an item", ways, smoke=smoke)
    gain = found[ways[0].name].rate / max(1e-9, found[ways[1].name].rate)
    return [Bar("two processes of one, CPU-bound", gain, 1.8, "x", at_least=True)] if CPUS > 1 else []


def waits(*, smoke: bool) -> list[Bar]:
    ways = [
        Way("overlapped, 200 at once", lambda n: mapped(nap, n, concurrency=200, ordered=False), 100_000),
        Way("overlapped, 400 at once", lambda n: mapped(nap, n, concurrency=400, ordered=False), 100_000),
        Way("overlapped, 400 at once, ordered", lambda n: mapped(nap, n, concurrency=400), 100_000),
        Way("aiomultiprocess, 200 at once", functools.partial(aiomulti, nap, at_once=200), 10_000),
    ]
    found = measure(
        "Coroutine functions in two processes, 1 ms waits (200 at once: at most 200,000/s)", ways, smoke=smoke
    )
    best = max(found[way.name].rate for way in ways[:2])
    return [Bar("two processes, 1 ms waits", best / 1e3, 100.0, " k/s", at_least=True)]


def large(*, smoke: bool) -> list[Bar]:
    ways = [
        Way("overlapped", lambda n: iter(flow(blobs(n)).map(same_bytes, on="process", concurrency=TWO)), 2_000),
        Way("mp.Pool.imap, chunksize 4", lambda n: mp_pool(same_bytes, n, chunksize=4, items=blobs(n)), 2_000),
        Way("ProcessPoolExecutor, chunksize 4", lambda n: executor(same_bytes, n, chunksize=4, items=blobs(n)), 2_000),
    ]
    measure("100 kB there and back", ways, smoke=smoke)
    return []


def blobs(n: int) -> list[bytes]:
    """Different objects: pickle sends one object of a chunk only once."""
    return [bytes(100_000) for _ in range(n)]


def same_bytes(blob: bytes) -> bytes:
    return blob


TABLES: dict[str, Callable[..., list[Bar]]] = {
    "small": small,
    "cpu": cpu,
    "waits": waits,
    "large": large,
    **GREENLETS,
    **RAY,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few items each: does everything run?")
    parser.add_argument("--only", choices=[*TABLES], help="one table")
    options = parser.parse_args()
    print(machine())
    bars: list[Bar] = []
    for name, work in TABLES.items():
        if options.only in (None, name):
            bars += work(smoke=options.smoke)
    return judge(bars, smoke=options.smoke)


if __name__ == "__main__":
    sys.exit(main())
