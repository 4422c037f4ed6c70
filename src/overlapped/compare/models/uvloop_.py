"""uvloop: asyncio's event loop written in C on libuv, here with protocols, the callbacks below streams.

Nothing of asyncio is lost: the same coroutines run on it, and only the loop is another one. A protocol is an object
that the loop calls: `data_received` when bytes are there. That is the model without any coroutine: the code runs in
the order of events, not in the order in which it is written.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from overlapped.compare.base import About
from overlapped.compare.wire import Answer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from overlapped.compare.base import Crawl

ABOUT = About(
    cell="asynchronous, blocking",
    control="the process; the kernel while no callback is left to run",
    notice="the kernel tells libuv, libuv calls the protocol",
    imports=("uvloop",),
)


class Fetcher(asyncio.Protocol):
    """One connection: asks for a page when the last one is there."""

    def __init__(self, work: Crawl, numbers: Iterator[int]) -> None:
        self.work = work
        self.numbers = numbers
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:  # libuv's own kind, no asyncio.Transport
        self.transport = transport
        self.ask()

    def ask(self) -> None:
        for number in self.numbers:
            self.work.begin(number)
            self.number, self.answer = number, Answer(self.work.paths[number])
            self.transport.write(self.work.request(number))
            return
        self.transport.close()
        self.done.set_result(False)

    def data_received(self, data: bytes) -> None:
        try:
            if self.answer.feed(data):
                self.work.end(self.number, self.answer.body())
                if self.answer.keeps:
                    self.ask()
                else:
                    self.transport.close()
                    self.done.set_result(True)
        except Exception as error:  # noqa: BLE001 - raised where it is awaited
            self.done.set_exception(error)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            try:
                self.answer.feed(b"")
                self.work.end(self.number, self.answer.body())
                self.done.set_result(True)
            except Exception as ended:  # noqa: BLE001 - raised where it is awaited
                self.done.set_exception(exc or ended)


def crawl(work: Crawl) -> None:
    """As many protocols as connections."""
    import uvloop

    numbers = iter(range(len(work)))

    async def fetch_all() -> None:
        loop, is_more = asyncio.get_running_loop(), True
        while is_more:  # one round, unless the server closes its connections
            make = loop.create_connection(lambda: Fetcher(work, numbers), work.host, work.port, ssl=work.is_tls or None)
            _, fetcher = await make
            is_more = await fetcher.done

    async def main() -> None:
        await asyncio.gather(*(fetch_all() for _ in range(min(work.concurrency, len(work)))))

    uvloop.run(main())
