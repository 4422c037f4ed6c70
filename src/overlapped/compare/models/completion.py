"""Completion: the process hands over the whole operation, buffer included, and is told when it is done.

With io_uring a request to send or receive is written into a ring that the process shares with the kernel; the kernel
works on all of them and writes what is done into a second ring. Nobody asks, nobody waits for one socket, and the
bytes are already there when the news comes: asynchronous and non-blocking. Many containers forbid io_uring.
"""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

from overlapped.compare.base import About, NotRunError
from overlapped.compare.rings import Operations
from overlapped.compare.wire import Answer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from overlapped.compare.base import Crawl, Files

ABOUT = About(
    cell="asynchronous, non-blocking",
    control="the process; the kernel while nothing at all is done",
    notice="the kernel: what is done, with its result",
    has_tls=False,
)


class Page:
    """One connection with the page that it fetches now."""

    def __init__(self, work: Crawl) -> None:
        self.connection = work.connect()
        self.buffer = bytearray(65_536)

    def next(self, work: Crawl, numbers: Iterator[int]) -> bool:
        for number in numbers:
            work.begin(number)
            self.number, self.unsent, self.answer = number, work.request(number), Answer(work.paths[number])
            return True
        self.connection.close()
        return False

    def hang_up(self) -> None:
        with suppress(OSError):  # it is closed already
            self.connection.shutdown(socket.SHUT_RDWR)


def crawl(work: Crawl) -> None:
    """For each connection one operation is always under way; what is done decides which one comes next."""
    numbers = iter(range(len(work)))
    operations = Operations(work.concurrency)
    pages = [Page(work) for _ in range(min(work.concurrency, len(work)))]
    going = sum(page.next(work, numbers) for page in pages)
    for name, page in enumerate(pages):
        operations.send(page.connection, page.unsent, name)
    try:
        while going:
            name, count = operations.wait()
            page = pages[name]
            if page.unsent:
                page.unsent = page.unsent[count:]
            elif page.answer.feed(page.buffer[:count]):
                work.end(page.number, page.answer.body())
                if not page.answer.keeps:
                    page.connection.close()
                    page.connection = work.connect()
                if not page.next(work, numbers):
                    going -= 1
                    continue
            if page.unsent:
                operations.send(page.connection, page.unsent, name)
            else:
                operations.receive(page.connection, page.buffer, name)
    finally:
        for page in pages:
            page.hang_up()
        operations.close()


def files(work: Files) -> None:
    """The only model that reads files without waiting and without threads."""
    try:
        operations = Operations(work.concurrency)
    except NotRunError:
        files_by_linux_aio(work)
        return
    opened: dict[int, tuple[int, bytearray]] = {}
    todo = iter(range(len(work)))

    def submit() -> None:
        for number in todo:
            work.begin(number)
            descriptor = os.open(work.paths[number], os.O_RDONLY)  # opening still blocks
            opened[number] = descriptor, bytearray(os.fstat(descriptor).st_size)
            operations.read(*opened[number], number)
            return

    for _ in range(work.concurrency):
        submit()
    while opened:
        number, count = operations.wait()
        descriptor, buffer = opened.pop(number)
        os.close(descriptor)
        if count != len(buffer):
            raise OSError(f"{work.paths[number]}: {count} of {len(buffer)} bytes were read")
        work.end(number, bytes(buffer))
        submit()
    operations.close()


def files_by_linux_aio(work: Files) -> None:
    """The older interface, by caio: made for files that bypass the page cache, so that others gain little."""
    try:
        from caio.linux_aio_asyncio import AsyncioContext
    except ImportError as error:
        raise NotRunError(f"neither io_uring nor Linux AIO: {error}") from error

    async def main() -> None:
        todo = iter(range(len(work)))
        async with AsyncioContext(work.concurrency) as context:  # type: ignore[no-untyped-call]  # caio has no types

            async def read() -> None:
                for number in todo:
                    work.begin(number)
                    descriptor = os.open(work.paths[number], os.O_RDONLY)
                    work.end(number, await context.read(os.fstat(descriptor).st_size, descriptor, 0))
                    os.close(descriptor)

            await asyncio.gather(*(read() for _ in range(work.concurrency)))

    asyncio.run(main())
