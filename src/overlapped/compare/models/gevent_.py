"""gevent: blocking code, made asynchronous from below by replacing the standard library's I/O ("monkey patching").

A greenlet is a coroutine that looks like a thread: it can be put aside in the middle of any function, without `await`.
The patched `recv` of a socket does so and lets the hub, gevent's event loop, run another greenlet until bytes are
there. Nothing in the code says where it waits: that is its charm, and what makes it hard to see.
"""

from __future__ import annotations

import http.client
from typing import TYPE_CHECKING

from overlapped.compare.base import About
from overlapped.compare.wire import get

if TYPE_CHECKING:
    from overlapped.compare.base import Crawl, Files

ABOUT = About(
    cell="asynchronous, blocking",
    control="the process; the kernel while no greenlet can run",
    notice="the kernel tells the hub, the hub switches to the greenlet",
    imports=("gevent",),
    first="import gevent.monkey; gevent.monkey.patch_all()",
)


def crawl(work: Crawl) -> None:
    """As many greenlets as connections; what they run is blocking code, word for word."""
    import gevent

    numbers = iter(range(len(work)))
    kind = http.client.HTTPSConnection if work.is_tls else http.client.HTTPConnection

    def fetch_all() -> None:
        connection = kind(work.host, work.port)
        for number in numbers:
            work.begin(number)
            work.end(number, get(connection, work.paths[number]))
        connection.close()

    greenlets = [gevent.spawn(fetch_all) for _ in range(min(work.concurrency, len(work)))]
    gevent.joinall(greenlets, raise_error=True)


def files(work: Files) -> None:
    """Greenlets cannot wait for a file: gevent hands the reads to real threads, as everybody does."""
    from gevent.threadpool import ThreadPool

    def read(number: int) -> None:
        work.begin(number)
        with open(work.paths[number], "rb") as file:
            work.end(number, file.read())

    pool = ThreadPool(work.concurrency)
    list(pool.map(read, range(len(work))))
    pool.kill()
