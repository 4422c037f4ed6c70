"""asyncio: the standard library's event loop, with coroutines by `async` and `await`, here with its streams.

An `async def` is a coroutine: `await` stops it and hands a future to the loop, as `yield from` does for generators,
but takes nothing that is not awaitable, so a forgotten or misplaced one fails at once. Streams bring back the order
of blocking code: write, then read, with `await` wherever it waits.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from overlapped.compare.base import About
from overlapped.compare.wire import Answer

if TYPE_CHECKING:
    from overlapped.compare.base import Crawl, Files

ABOUT = About(
    cell="asynchronous, blocking",
    control="the process; the kernel while no callback is left to run",
    notice="the kernel tells the loop, the loop goes on with the coroutine",
)


def crawl(work: Crawl) -> None:
    """As many coroutines as connections, each fetching page after page."""
    numbers = iter(range(len(work)))

    async def fetch_all() -> None:
        reader, writer = await asyncio.open_connection(work.host, work.port, ssl=work.is_tls or None)
        for number in numbers:
            work.begin(number)
            writer.write(work.request(number))
            answer = Answer(work.paths[number])
            while not answer.feed(await reader.read(65_536)):
                pass
            work.end(number, answer.body())
            if not answer.keeps:
                writer.close()
                reader, writer = await asyncio.open_connection(work.host, work.port, ssl=work.is_tls or None)
        writer.close()
        await writer.wait_closed()

    async def main() -> None:
        await asyncio.gather(*(fetch_all() for _ in range(min(work.concurrency, len(work)))))

    asyncio.run(main())


CHUNK = 64
"""Files a thread reads before it comes back: a hop to a thread costs more than a file that is in memory."""


def files(work: Files) -> None:
    """An event loop cannot wait for files; threads do, and they are given whole chunks of work."""

    def read(numbers: range) -> None:
        for number in numbers:
            work.begin(number)
            with open(work.paths[number], "rb") as file:
                work.end(number, file.read())

    async def main() -> None:
        chunks = (range(at, min(at + CHUNK, len(work))) for at in range(0, len(work), CHUNK))
        await asyncio.gather(*(asyncio.to_thread(read, chunk) for chunk in chunks))

    asyncio.run(main())
