"""Threads: the blocking model many times over, each copy in a thread that the kernel puts aside while it waits.

Code stays as simple as blocking code, and every blocking library works. The price is one stack and one kernel thread
for each request in flight, a context switch for each wait, and in Python one lock (the GIL) that the threads pass
around whenever one of them wakes up.
"""

from __future__ import annotations

import http.client
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from overlapped.compare.base import About
from overlapped.compare.wire import get

if TYPE_CHECKING:
    from overlapped.compare.base import Crawl, Files

ABOUT = About(
    cell="synchronous, blocking",
    control="the kernel, for each thread until its I/O is done",
    notice="the kernel wakes the thread",
)


def crawl(work: Crawl) -> None:
    """A pool of threads, each with a connection of its own."""
    own = threading.local()
    kind = http.client.HTTPSConnection if work.is_tls else http.client.HTTPConnection
    opened: list[http.client.HTTPConnection] = []

    def fetch(number: int) -> None:
        if not hasattr(own, "connection"):
            own.connection = kind(work.host, work.port)
            opened.append(own.connection)
        work.begin(number)
        work.end(number, get(own.connection, work.paths[number]))

    with ThreadPoolExecutor(min(work.concurrency, len(work))) as pool:
        for _ in pool.map(fetch, range(len(work))):  # raises what a call raised
            pass
    for connection in opened:
        connection.close()


def files(work: Files) -> None:
    """The same reads, so many at once: while one thread waits for the disk, others read or wait beside it."""

    def read(number: int) -> None:
        work.begin(number)
        with open(work.paths[number], "rb") as file:
            work.end(number, file.read())

    with ThreadPoolExecutor(work.concurrency) as pool:
        for _ in pool.map(read, range(len(work))):
            pass
