"""Readiness: one call waits for many connections at once, and says which of them can be read or written now.

This is `select`, `poll` and `epoll`: the sockets are non-blocking, but the one call that waits for all of them blocks,
so in the 2x2 it stands under asynchronous *blocking*. The kernel tells that I/O is possible, not that it is done: the
process still makes the `recv` itself. Every event loop below - asyncio, uvloop, gevent, Tornado - is built on it.
"""

from __future__ import annotations

import selectors
from typing import TYPE_CHECKING

from overlapped.compare.base import About, NotRunError
from overlapped.compare.wire import visits

if TYPE_CHECKING:
    from overlapped.compare.base import Crawl, Files

ABOUT = About(
    cell="asynchronous, blocking",
    control="the kernel, while nothing at all is ready",
    notice="the kernel: which sockets are ready",
    has_tls=False,
)


def crawl(work: Crawl) -> None:
    """Wait for whichever connection is ready first, and make its next step."""
    with selectors.DefaultSelector() as selector:
        for visit in visits(work):
            selector.register(visit.socket, selectors.EVENT_WRITE, visit)
        while selector.get_map():
            for key, _ in selector.select():  # the process waits here, for all connections
                visit = key.data
                try:
                    is_more = visit.step()
                except BlockingIOError:  # ready is a hint: asked in vain
                    work.vain_asks += 1
                    continue
                wanted = selectors.EVENT_WRITE if visit.wants_to_send else selectors.EVENT_READ
                if not is_more or visit.socket is not key.fileobj:
                    selector.unregister(key.fileobj)
                    if is_more:
                        selector.register(visit.socket, wanted, visit)
                elif wanted != key.events:
                    selector.modify(visit.socket, wanted, visit)


def files(work: Files) -> None:
    """A file is always ready, so waiting for readiness tells nothing: epoll refuses it."""
    with selectors.DefaultSelector() as selector:
        for number, path in enumerate(work.paths):
            work.begin(number)
            with open(path, "rb") as file:
                try:
                    selector.register(file, selectors.EVENT_READ)
                except OSError as error:
                    raise NotRunError(
                        f"{error.strerror}: a file is always ready, so there is nothing to wait for"
                    ) from error
                selector.select()
                work.end(number, file.read())
                selector.unregister(file)
