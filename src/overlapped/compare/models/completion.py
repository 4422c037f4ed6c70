"""Completion: the process hands over the whole operation, buffer included, and is told when it is done.

With io_uring a request to send or receive is written into a ring that the process shares with the kernel; the kernel
works on all of them and writes what is done into a second ring. Nobody asks, nobody waits for one socket, and the
bytes are already there when the news comes: asynchronous and non-blocking. Many containers forbid io_uring.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from overlapped.compare.base import About, NotRunError
from overlapped.compare.wire import Answer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from overlapped.compare.base import Crawl, Files

ABOUT = About(
    cell="asynchronous, non-blocking",
    control="the process; the kernel while nothing at all is done",
    notice="the kernel: what is done, with its result",
    imports=("liburing",),
    has_tls=False,
)
MOST_ENTRIES = 4_096
"""Places in the ring: more than that are submitted in portions."""


def _runs_here(api: Any) -> bool:
    """False if the package is compiled for another CPU (2026.3.30 wants AVX-512): a process of its own finds out."""
    pid = os.fork()
    if not pid:
        api.Ring()
        os._exit(0)
    return os.waitpid(pid, 0)[1] != signal.SIGILL


class Operations:
    """The two rings: what is asked for goes into one, what is done comes out of the other."""

    def __init__(self, entries: int) -> None:
        import liburing

        if not _runs_here(liburing):
            raise NotRunError("liburing is compiled for a CPU with instructions that this one lacks")
        self._api: Any = liburing
        self._ring = liburing.Ring()
        self._done: Any = liburing.Cqe()
        self._under_way = 0
        try:
            liburing.io_uring_queue_init(min(entries, MOST_ENTRIES), self._ring)
        except OSError as error:
            raise NotRunError(f"io_uring_queue_init: {error.strerror}; the kernel or container forbids it") from error

    def send(self, connection: socket.socket, data: bytes, name: int) -> None:
        self._api.io_uring_prep_send(self._place(name), connection.fileno(), data)

    def receive(self, connection: socket.socket, buffer: bytearray, name: int) -> None:
        self._api.io_uring_prep_recv(self._place(name), connection.fileno(), buffer)

    def read(self, descriptor: int, buffer: bytearray, name: int) -> None:
        self._api.io_uring_prep_read(self._place(name), descriptor, buffer)

    def wait(self) -> tuple[int, int]:
        """Name and result of an operation that is done; an operation that failed raises."""
        if not self._api.io_uring_cq_ready(self._ring):
            self._api.io_uring_submit_and_wait(self._ring, 1)
        self._api.io_uring_wait_cqe(self._ring, self._done)
        self._under_way -= 1
        entry = self._done[0]
        try:
            return entry.user_data, entry.res
        finally:
            self._api.io_uring_cqe_seen(self._ring, entry)

    def close(self) -> None:
        """Wait until the kernel is done with every buffer: afterwards it is somebody else's memory."""
        while self._under_way:
            with suppress(OSError):
                self.wait()
        self._api.io_uring_queue_exit(self._ring)

    def _place(self, name: int) -> Any:
        place = self._api.io_uring_get_sqe(self._ring)
        if place is None:
            self._api.io_uring_submit(self._ring)
            place = self._api.io_uring_get_sqe(self._ring)
        place.user_data = name
        self._under_way += 1
        return place


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
