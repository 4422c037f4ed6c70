"""aiohttp: an HTTP client written for asyncio, with a pool of kept connections.

So many workers share one iterator, which keeps exactly that many requests in flight, with no semaphore and no task
for each request. A session lets 100 connections at most through unless it is told otherwise, so a larger number would
do nothing: `limit` must be set as well.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from overlapped.compare.base import About, checked

if TYPE_CHECKING:
    from overlapped.compare.base import Crawl

ABOUT = About(
    cell="asynchronous, blocking",
    control="the process; the kernel while no callback is left to run",
    notice="the kernel tells the loop, the loop goes on with the coroutine",
    imports=("aiohttp",),
)


def crawl(work: Crawl) -> None:
    """As many workers as requests in flight."""
    import aiohttp

    numbers = iter(range(len(work)))

    async def fetch_all(session: aiohttp.ClientSession) -> None:
        for number in numbers:
            work.begin(number)
            async with session.get(work.urls[number], headers={"Accept-Encoding": "identity"}) as answer:
                work.end(number, checked(answer.status, work.paths[number], await answer.read()))

    async def main() -> None:
        connector = aiohttp.TCPConnector(limit=work.concurrency)
        async with aiohttp.ClientSession(connector=connector) as session:
            await asyncio.gather(*(fetch_all(session) for _ in range(work.concurrency)))

    asyncio.run(main())
