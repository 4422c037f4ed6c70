"""Many waits in the actors of a Ray cluster on this machine: the table "ray" of benchmarks/lanes.py."""

from __future__ import annotations

import asyncio
import functools
import os
import threading
import time
from typing import TYPE_CHECKING, Any

from measure import Bar
from ways import Way, measure

from overlapped import flow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from overlapped import Flow

TWO = 2  # the bar speaks of two actors


def same(n: int) -> int:
    return n


async def asame(n: int) -> int:
    return n


def each_same(numbers: list[int]) -> list[int]:
    return [same(number) for number in numbers]


def batches(n: int) -> Flow[int]:
    return flow(range(n)).batch(1_000).map(each_same, on="ray", concurrency=TWO).flatten()


async def waits_there(n: int) -> tuple[int, int]:
    await asyncio.sleep(0.1)
    return n, os.getpid()


def elsewhere(n: int, on: Any) -> Iterator[int]:
    """1,000 waits at once in two places; the clock starts when both have answered: the first result is theirs."""
    both_are_up = threading.Event()

    def source() -> Iterator[int]:
        while not both_are_up.wait(0.02):
            yield -1
        yield from range(n - 1)

    places: set[int] = set()
    for number, place in flow(source).map(waits_there, on=on, concurrency=1_000, ordered=False):
        places.add(place)
        if number >= 0:
            yield number
        elif len(places) == TWO and not both_are_up.is_set():
            both_are_up.set()
            yield -1


class Pool:
    """Calls of an actor that people write by hand: a chunk is answered when all of it is done."""

    def __init__(self) -> None:
        self.room = asyncio.Semaphore(500)

    async def one(self, n: int) -> tuple[int, int]:
        async with self.room:
            return await waits_there(n)

    async def chunk(self, numbers: list[int]) -> list[tuple[int, int]]:
        return await asyncio.gather(*map(self.one, numbers))


def by_hand(n: int, *, chunk: int) -> Iterator[int]:
    """Two Ray actors, chunks in turn, all sent at once."""
    import ray

    actors = [ray.remote(Pool).remote() for _ in range(TWO)]
    ray.get([actor.chunk.remote([0]) for actor in actors])
    yield -1
    refs = [
        actors[at // chunk % TWO].chunk.remote([*range(at, min(at + chunk, n - 1))]) for at in range(0, n - 1, chunk)
    ]
    while refs:
        done, refs = ray.wait(refs)
        for number, _ in ray.get(done[0]):
            yield number
    for actor in actors:
        ray.kill(actor)


def ray_actors(*, smoke: bool) -> list[Bar]:
    try:
        import ray
    except ImportError:
        print("\nRay is not installed")
        return []
    started = time.perf_counter()
    ray.init(address="local", num_cpus=TWO, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    print(f"\nRay has started in {time.perf_counter() - started:.1f} s")
    small = [
        Way("Ray, batches of 1,000", lambda n: iter(batches(n)), 500_000),
        Way("Ray, item by item", lambda n: iter(flow(range(n)).map(same, on="ray", concurrency=TWO)), 50_000),
        Way("Ray, coroutine function", lambda n: iter(flow(range(n)).map(asame, on="ray", concurrency=200)), 50_000),
    ]
    measure("Small items, two Ray actors, a function that does nothing", small, smoke=smoke)
    ways = [
        Way("overlapped, Ray", lambda n: elsewhere(n, "ray"), 10_001),
        Way("overlapped, processes", lambda n: elsewhere(n, "process"), 10_001),
        Way("overlapped, this loop", lambda n: iter(here(n)), 10_001),
        Way("two Ray actors by hand, chunks of 100", functools.partial(by_hand, chunk=100), 10_001),
        Way("two Ray actors by hand, chunks of 10", functools.partial(by_hand, chunk=10), 10_001),
    ]
    found = measure("100 ms waits, 1,000 at once in two places (10,000/s at most)", ways, smoke=smoke)
    ray.shutdown(wait_for_processes=True)
    took_s = 10_000 / found[ways[0].name].rate
    return [Bar("10,000 x 100 ms, two Ray actors x 500", took_s, 1.25, " s")]


def here(n: int) -> Iterator[int]:
    yield -1
    for number, _ in flow(range(n - 1)).map(waits_there, concurrency=1_000, ordered=False):
        yield number


RAY: dict[str, Callable[..., list[Bar]]] = {"ray": ray_actors}
