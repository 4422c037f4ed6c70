"""The same work done by other means: one function each, which drives `fn` over n items and counts the results."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Async = Callable[[int], Awaitable[int]]
    Plain = Callable[[int], int]

CONCURRENCY = 100


# -- the baselines ----------------------------------------------------------------------------------------


async def bare_await(fn: Async, n: int) -> int:
    count = 0
    for item in range(n):
        await fn(item)
        count += 1
    return count


async def loops_own(fn: Async, n: int) -> int:
    """What the loop itself costs: so many tasks on one iterator, and nothing is done with the results."""
    items = iter(range(n))

    async def worker() -> None:
        for item in items:
            await fn(item)

    await asyncio.gather(*(worker() for _ in range(CONCURRENCY)))
    return n


def bare_call(fn: Plain, n: int) -> int:
    count = 0
    for item in range(n):
        fn(item)
        count += 1
    return count


# -- by hand ------------------------------------------------------------------------------------------------


async def gather_semaphore(fn: Async, n: int) -> int:
    semaphore = asyncio.Semaphore(CONCURRENCY)

    async def one(item: int) -> int:
        async with semaphore:
            return await fn(item)

    return len(await asyncio.gather(*(one(item) for item in range(n))))


def thread_pool(fn: Plain, n: int) -> int:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(CONCURRENCY) as pool:
        return sum(1 for _ in pool.map(fn, range(n)))


# -- libraries ----------------------------------------------------------------------------------------------


async def streamable(fn: Any, n: int, *, as_completed: bool = False) -> int:
    from streamable import stream

    count = 0
    async for _ in stream(range(n)).map(fn, concurrency=CONCURRENCY, as_completed=as_completed):
        count += 1
    return count


def streamable_sync(fn: Any, n: int) -> int:
    """`for` over a stream: of a coroutine function, or of a plain one in threads."""
    from streamable import stream

    return sum(1 for _ in stream(range(n)).map(fn, concurrency=CONCURRENCY))


async def aiostream(fn: Any, n: int, *, ordered: bool = True) -> int:
    from aiostream import stream

    results: Any = stream.map(stream.iterate(range(n)), fn, ordered=ordered, task_limit=CONCURRENCY)
    count = 0
    async with results.stream() as streamer:
        async for _ in streamer:
            count += 1
    return count


def pypeln_task(fn: Async, n: int) -> int:
    import pypeln

    return sum(1 for _ in pypeln.task.map(fn, range(n), workers=CONCURRENCY, maxsize=CONCURRENCY))


async def aiometer(fn: Async, n: int) -> int:
    import aiometer as meter

    count = 0
    async with meter.amap(fn, range(n), max_at_once=CONCURRENCY) as results:
        async for _ in results:
            count += 1
    return count


def gevent_pool(fn: Plain, n: int, *, ordered: bool = True) -> int:
    from gevent.pool import Pool

    pool = Pool(CONCURRENCY)
    imap = pool.imap if ordered else pool.imap_unordered
    return sum(1 for _ in imap(fn, range(n), maxsize=CONCURRENCY))
