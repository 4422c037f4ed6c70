"""overlapped: what to do with each page, and no number.

The function is the one that you would write for aiohttp. How many calls are in flight is measured while the flow
runs: more as long as more of them pay, fewer when the server says that it is too much. Results come in the order of
the pages, and the source is asked only as fast as they are taken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from overlapped import flow
from overlapped.compare.base import About, checked

if TYPE_CHECKING:
    import aiohttp

    from overlapped.compare.base import Crawl, Files

ABOUT = About(
    cell="asynchronous, blocking",
    control="the process; the kernel while no callback is left to run",
    notice="the kernel tells the loop, the loop goes on with the coroutine",
    has_number=False,
    imports=("aiohttp",),
    first="from overlapped import flow; flow([0]).map(float).run()",  # no model's imports are in its time: nor are ours
)


def crawl(work: Crawl) -> None:
    """The flow: no semaphore, no pool, no number."""
    import aiohttp

    async def fetch(number: int, session: aiohttp.ClientSession) -> None:
        work.begin(number)
        async with session.get(work.urls[number], headers={"Accept-Encoding": "identity"}) as answer:
            work.end(number, checked(answer.status, work.paths[number], await answer.read()))

    def open_session() -> aiohttp.ClientSession:
        return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))  # the flow limits, not the client

    report = flow(range(len(work))).map(fetch).using(session=open_session).run()
    work.found = report.record.stages[0].limit


def files(work: Files) -> None:
    """A plain function that blocks: the flow gives it threads, as many as pay."""

    def read(number: int) -> None:
        work.begin(number)
        with open(work.paths[number], "rb") as file:
            work.end(number, file.read())

    report = flow(range(len(work))).map(read).run()
    work.found = report.record.stages[0].limit
