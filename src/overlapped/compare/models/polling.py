"""Non-blocking with polling: a call comes back at once, done or not, and the process asks again and again.

With a non-blocking socket the kernel never keeps control: `recv` either gives bytes or says EAGAIN, "not yet", which
Python raises as BlockingIOError. So many connections can be waited for at once - but nobody tells when one is ready.
The process finds out by asking, and nearly every ask is in vain: it burns a whole core for the whole wait.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from overlapped.compare.base import About
from overlapped.compare.wire import visits

if TYPE_CHECKING:
    from overlapped.compare.base import Crawl, Files

ABOUT = About(
    cell="synchronous, non-blocking",
    control="the process, all the time",
    notice="nobody: the process asks, again and again",
    has_tls=False,
)


def crawl(work: Crawl) -> None:
    """Ask every connection in turn, until all pages are there."""
    going = visits(work)
    while going:
        for visit in list(going):
            try:
                is_more = visit.step()
            except BlockingIOError:  # EAGAIN: asked in vain
                work.vain_asks += 1
                continue
            if not is_more:
                going.remove(visit)


def files(work: Files) -> None:
    """O_NONBLOCK does nothing for files: no read says "not yet", each one keeps the process until it is done."""
    for number, path in enumerate(work.paths):
        work.begin(number)
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        found = bytearray()
        while True:
            try:
                more = os.read(descriptor, 65_536)
            except BlockingIOError:  # never seen
                work.vain_asks += 1
                continue
            if not more:
                break
            found += more
        os.close(descriptor)
        work.end(number, bytes(found))
