"""Six ways to hash and to save what was hashed: from one thing at a time to everything overlapped, without a number.

Hashing works, saving waits. Each way is what one would write, as short as it can be.
"""

from __future__ import annotations

import asyncio
import http.client
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING

from overlapped.compare.base import BadAnswerError, Work

if TYPE_CHECKING:
    import aiohttp

BATCH = 100
"""Saves that are sent at once by the way in batches, as in the book."""


class Saving(Work):
    """Passwords to be hashed and saved.

    Attributes:
        cost: bcrypt's difficulty: each step doubles the work.
        port: of the server.
        path: where to POST, a line a hash.
    """

    def __init__(self, count: int, cost: int, port: int, path: str) -> None:
        super().__init__(count, 1)
        self.cost = cost
        self.port = port
        self.path = path
        self.url = f"http://127.0.0.1:{port}{path}"

    def hash(self, number: int) -> bytes:
        """Hash password `number`; always the same salt, so that every way can be held against the others."""
        import bcrypt

        salt = bcrypt.gensalt(self.cost)[:7] + b"0123456789012345678901"
        return bcrypt.hashpw(b"password %d" % number, salt[:28] + b"u")


def _checked(status: int, body: bytes, count: int) -> None:
    if status != 200 or int(body) != count:
        raise BadAnswerError(f"{count} hashes were sent, the server answered {status}: {body!r}")


async def _save(session: aiohttp.ClientSession, work: Saving, hashes: dict[int, bytes]) -> None:
    """One request for one hash or many."""
    lines = b"".join(value + b"\n" for value in hashes.values())
    async with session.post(work.url, data=lines) as answer:
        _checked(answer.status, await answer.read(), len(hashes))
    for number, value in hashes.items():
        work.end(number, value)


def no_io(work: Saving) -> None:
    """Only the hashing: what the others are held against."""
    for number in range(len(work)):
        work.begin(number)
        work.end(number, work.hash(number))


def serial(work: Saving) -> None:
    """Hash, save, and so on."""
    with closing(http.client.HTTPConnection("127.0.0.1", work.port)) as connection:
        for number in range(len(work)):
            work.begin(number)
            value = work.hash(number)
            connection.request("POST", work.path, value + b"\n")
            answer = connection.getresponse()
            _checked(answer.status, answer.read(), 1)
            work.end(number, value)


def batches(work: Saving) -> None:
    """Pipelining by hand: hash a batch, then send its saves all at once, and wait for them."""
    import aiohttp

    async def main() -> None:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            for first in range(0, len(work), BATCH):
                saves = []
                for number in range(first, min(first + BATCH, len(work))):
                    work.begin(number)
                    saves.append(_save(session, work, {number: work.hash(number)}))
                await asyncio.gather(*saves)

    asyncio.run(main())


def fully_async(work: Saving) -> None:
    """Each save is begun at once, and after each hash the loop has a turn."""
    import aiohttp

    async def main() -> None:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session, asyncio.TaskGroup() as saves:
            for number in range(len(work)):
                work.begin(number)
                saves.create_task(_save(session, work, {number: work.hash(number)}))
                await asyncio.sleep(0)

    asyncio.run(main())


def async_threads(work: Saving) -> None:
    """As many hashing threads as CPUs beside the loop: bcrypt lets go of the interpreter while it works."""
    import aiohttp

    async def main() -> None:
        loop, cpus = asyncio.get_running_loop(), os.cpu_count() or 1
        numbers = iter(range(len(work)))
        connector = aiohttp.TCPConnector(limit=0)
        with ThreadPoolExecutor(cpus) as pool:
            async with aiohttp.ClientSession(connector=connector) as session, asyncio.TaskGroup() as saves:

                async def hash_all() -> None:
                    for number in numbers:
                        work.begin(number)
                        value = await loop.run_in_executor(pool, work.hash, number)
                        saves.create_task(_save(session, work, {number: value}))

                for _ in range(cpus + 1):  # one more than threads: the next is there when one ends
                    saves.create_task(hash_all())

    asyncio.run(main())


def overlapped(work: Saving) -> None:
    """The flow: how many threads, how many in a batch, how many saves at once - nobody said."""
    import aiohttp

    from overlapped import flow

    def hash_one(number: int) -> tuple[int, bytes]:
        work.begin(number)
        return number, work.hash(number)

    async def save(hashes: list[tuple[int, bytes]], session: aiohttp.ClientSession) -> None:
        await _save(session, work, dict(hashes))

    def open_session() -> aiohttp.ClientSession:
        return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))

    report = flow(range(len(work))).map(hash_one).batch().map(save).using(session=open_session).run()
    stages = report.record.stages
    hashing, saving, size = stages[0], stages[-1], max(stage.batch_size for stage in stages)
    work.found = hashing.limit
    work.notes.append(
        f"overlapped was given no number: it hashed {hashing.limit} at once, sent {saving.calls} batches "
        f"(size at the end {size}) and ended with a limit of {saving.limit} saves in flight"
    )
