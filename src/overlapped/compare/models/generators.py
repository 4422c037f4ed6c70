"""An event loop of our own: a list of functions to run, and coroutines made of generators by `yield from`.

A generator can stop in the middle and go on later, which is all that a coroutine needs. Here `yield` hands a Future
to the loop: "go on with me when this is done"; `yield from` lets a coroutine wait for another one. The loop calls the
functions in its list, and when the list is empty it waits for readiness. `await` is `yield from` with a type check;
asyncio is these 60 lines, made safe and fast.
"""

from __future__ import annotations

import selectors
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

from overlapped.compare.base import About
from overlapped.compare.wire import Answer

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Generator, Iterator

    from overlapped.compare.base import Crawl

    Coroutine = Generator["Future", None, Any]

ABOUT = About(
    cell="asynchronous, blocking",
    control="the process; the kernel while no function is left to run",
    notice="the kernel tells the loop, the loop calls the generator",
    has_tls=False,
)


class Future:
    """Something that will be done: until then, whoever waits for it is put aside."""

    def __init__(self) -> None:
        self.is_done = False
        self.waiting: list[Callable[[], None]] = []

    def __iter__(self) -> Coroutine:
        """Hand the future to the loop; go on when it is done."""
        if not self.is_done:
            yield self


class Loop:
    """The functions to run now, and the sockets that will bring more of them."""

    def __init__(self) -> None:
        self.ready: deque[Callable[[], None]] = deque()
        self.selector = selectors.DefaultSelector()

    def start(self, coroutine: Coroutine) -> None:
        """Run a coroutine beside the others: its first step soon, each next one when what it waits for is done."""
        self.ready.append(partial(self.step, coroutine))

    def step(self, coroutine: Coroutine) -> None:
        """Run a coroutine up to its next `yield`."""
        for future in coroutine:
            future.waiting.append(partial(self.step, coroutine))
            return

    def until(self, connection: socket.socket, event: int) -> Coroutine:
        """A coroutine that ends when `connection` can be read or written."""
        future = Future()
        self.selector.register(connection, event, future)
        yield from future
        self.selector.unregister(connection)

    def run(self) -> None:
        """Run functions until none is left and nothing is waited for."""
        while self.ready or self.selector.get_map():
            while self.ready:
                self.ready.popleft()()
            for key, _ in self.selector.select() if self.selector.get_map() else ():
                key.data.is_done = True
                self.ready.extend(key.data.waiting)
                key.data.waiting.clear()  # level-triggered: it is reported until the coroutine has stepped


def fetch_all(work: Crawl, numbers: Iterator[int], loop: Loop) -> Coroutine:
    """One connection, page after page: written like the blocking one, with `yield from` where it waits."""
    connection = work.connect_soon()
    for number in numbers:
        work.begin(number)
        yield from loop.until(connection, selectors.EVENT_WRITE)
        connection.sendall(work.request(number))
        answer = Answer(work.paths[number])
        while True:
            yield from loop.until(connection, selectors.EVENT_READ)
            if answer.feed(connection.recv(65_536)):
                break
        work.end(number, answer.body())
        if not answer.keeps:
            connection.close()
            connection = work.connect_soon()
    connection.close()


def crawl(work: Crawl) -> None:
    """As many coroutines as connections, and one loop."""
    loop, numbers = Loop(), iter(range(len(work)))
    for _ in range(min(work.concurrency, len(work))):
        loop.start(fetch_all(work, numbers, loop))
    loop.run()
    loop.selector.close()
