"""Tornado: a web server and client, with an event loop that once was its own and today is asyncio's.

`AsyncHTTPClient.fetch` returns a future. How many requests are really in flight is the client's business, not the
caller's: `max_clients`, 10 unless it is set, and whoever comes later waits in its queue. It opens a connection for each
request and keeps none.
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
    notice="the kernel tells the loop, the loop resolves the future",
    imports=("tornado.httpclient", "tornado.simple_httpclient"),
)


def crawl(work: Crawl) -> None:
    """As many workers as requests in flight, and a client that lets as many through."""
    from tornado.httpclient import AsyncHTTPClient, HTTPRequest

    numbers = iter(range(len(work)))

    async def fetch_all(client: AsyncHTTPClient) -> None:
        for number in numbers:
            work.begin(number)
            request = HTTPRequest(
                work.urls[number],
                connect_timeout=0,  # 0: none
                request_timeout=0,
                decompress_response=False,
            )
            answer = await client.fetch(request, raise_error=False)
            if answer.code == 599 and answer.error:  # no answer at all
                raise answer.error
            work.end(number, checked(answer.code, work.paths[number], answer.body))

    async def main() -> None:
        client = AsyncHTTPClient(force_instance=True, max_clients=work.concurrency)
        await asyncio.gather(*(fetch_all(client) for _ in range(work.concurrency)))
        client.close()

    asyncio.run(main())
