"""Blocking: a call comes back when its I/O is done, and until then the process stands still.

`recv` hands control to the kernel. If nothing has arrived, the kernel takes the process off the core (a context
switch) and puts it back when bytes are there (another one). The code runs in the order in which it is written, which
is why everybody starts with it - and N answers that come 100 ms late take N times 100 ms, with the core idle.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from overlapped.compare.base import About
from overlapped.compare.wire import Answer

if TYPE_CHECKING:
    from overlapped.compare.base import Crawl, Files

ABOUT = About(
    cell="synchronous, blocking",
    control="the kernel, until the I/O is done",
    notice="nobody has to: the call returns",
    one_at_a_time=True,
)


def crawl(work: Crawl) -> None:
    """One page after another, over one connection."""
    connection = work.connect()
    for number, path in enumerate(work.paths):
        work.begin(number)
        connection.sendall(work.request(number))
        answer = Answer(path)
        while not answer.feed(connection.recv(65_536)):  # the process waits here, and only here
            pass
        work.end(number, answer.body())
        if not answer.keeps:
            connection.close()
            connection = work.connect()
    connection.close()


def files(work: Files) -> None:
    """One file after another: what is not in memory yet, the process waits for."""
    for number, path in enumerate(work.paths):
        work.begin(number)
        with open(path, "rb") as file:
            work.end(number, file.read())
