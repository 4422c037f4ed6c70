"""Four services that rows are stored in, batch by batch: by hand with a given size, and by `overlapped` without one.

One call is in flight at a time, so that nothing but the size differs. Each function is what one would write for that
service; `Storing` says when to stop, and what was found.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

from overlapped.compare.base import BadAnswerError, NotRunError, Work

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

ROW: Final = "a row as small as rows often are: some words and a number, "
"""What is stored, with the number behind it."""
CONNECT_S = 3
"""How long a service may take to answer before it counts as not there."""
KEY = "overlapped:compare:"
"""What our keys in Redis begin with."""
KEYS = 10_000
"""Different keys in Redis: the number of those left behind by a run that is killed."""
KEY_LIVES_S = 600
"""And how long they are left behind."""


class Storing(Work):
    """Rows to be stored until the time is over. Its pieces are calls: how many there are is known at the end.

    Args:
        size: rows in a call; None to have it found.
        lasts_s: how long, s.
        most: rows at most.
        at: where the service is.
    """

    def __init__(self, size: int | None, lasts_s: float, most: int, at: str) -> None:
        super().__init__(0, 1)
        self.size = size
        self.lasts_s = lasts_s
        self.most = most
        self.at = at
        self.rows: list[int] = []

    def batches(self, size: int) -> Iterator[Sequence[int]]:
        """Numbers of rows in batches of `size`, until the time is over."""
        end_s = time.perf_counter() + self.lasts_s
        for first in range(0, self.most, size):
            if time.perf_counter() >= end_s:
                return
            yield range(first, min(first + size, self.most))

    def called(self, began_s: float, rows: int, stored: int) -> None:
        """A call is over that was to store `rows` and says that it did `stored`."""
        if rows != stored:
            raise BadAnswerError(f"{rows} rows were sent, {stored} stored")
        self.began_s.append(began_s - self.start_s)
        self.ended_s.append(time.perf_counter() - self.start_s)
        self.results.append(b"")
        self.rows.append(rows)

    def run(self, save: Callable[[Sequence[int]], int]) -> None:
        """Store with a function that blocks, at the given size or at the one that is found."""

        def call(batch: Sequence[int]) -> None:
            began_s = time.perf_counter()
            self.called(began_s, len(batch), save(batch))

        if self.size is None:
            asyncio.run(self._search(call))
        else:
            for batch in self.batches(self.size):
                call(batch)
        self._sum_up()

    async def arun(self, save: Callable[[Sequence[int]], Awaitable[int]]) -> None:
        """The same with a coroutine function."""

        async def call(batch: Sequence[int]) -> None:
            began_s = time.perf_counter()
            self.called(began_s, len(batch), await save(batch))

        if self.size is None:
            await self._search(call)
        else:
            for batch in self.batches(self.size):
                await call(batch)
        self._sum_up()

    async def _search(self, call: Callable[[Sequence[int]], Any]) -> None:
        """The flow: one call at a time, and no size."""
        from overlapped import flow

        end_s = time.perf_counter() + self.lasts_s
        async with flow(range(self.most)).batch().map(call, concurrency=1).open() as calls:
            async for _ in calls:
                if time.perf_counter() >= end_s:
                    calls.drain()
        self.found = max(stage.batch_size for stage in calls.report.record.stages)

    def _sum_up(self) -> None:
        """Rates are those of the second half, once a size is found; of a given size both halves are alike."""
        half_s = (self.began_s[0] + self.ended_s[-1]) / 2 if self.size is None else 0.0
        late = [place for place, began_s in enumerate(self.began_s) if began_s >= half_s] or [len(self.rows) - 1]
        spent_s = self.ended_s[-1] - self.began_s[late[0]]
        self.figures["rows"] = sum(self.rows)
        self.figures["rows_per_s"] = sum(self.rows[place] for place in late) / spent_s
        self.figures["whole_per_s"] = sum(self.rows) / (self.ended_s[-1] - self.began_s[0])
        self.figures["call_s"] = sum(self.ended_s[place] - self.began_s[place] for place in late) / len(late)


def sqlite(work: Storing) -> None:
    """A transaction a batch, in a file: each waits until the disk has it."""
    if os.path.exists(work.at):  # what the run before has stored: to drop it would take longer
        os.remove(work.at)
    with closing(sqlite3.connect(work.at, check_same_thread=False, isolation_level=None)) as database:
        database.execute("create table rows (number integer, words text)")

        def save(batch: Sequence[int]) -> int:
            database.execute("begin")
            cursor = database.executemany("insert into rows values (?, ?)", [(n, f"{ROW}{n}") for n in batch])
            database.execute("commit")
            return cursor.rowcount

        work.run(save)


def postgresql(work: Storing) -> None:
    """A statement a batch, each its own transaction."""
    import psycopg

    try:
        connection = psycopg.connect(work.at, autocommit=True, connect_timeout=CONNECT_S)
    except psycopg.Error as error:
        raise NotRunError(_first_line(error)) from error
    table = f"overlapped_compare_{os.getpid()}"
    insert = f"insert into {table} select * from unnest(%s::int[], %s::text[])"  # noqa: S608 - a name of ours
    with closing(connection):
        connection.execute(f"create table {table} (number int, words text)".encode())

        def save(batch: Sequence[int]) -> int:
            values = (list(batch), [f"{ROW}{number}" for number in batch])
            return connection.execute(insert.encode(), values).rowcount

        try:
            work.run(save)
        finally:
            connection.execute(f"drop table {table}".encode())


def redis(work: Storing) -> None:
    """A pipeline a batch: many commands are sent, then many answers read."""
    from redis.asyncio import Redis
    from redis.exceptions import RedisError

    async def main() -> None:
        client = Redis.from_url(work.at, socket_connect_timeout=CONNECT_S)

        async def save(batch: Sequence[int]) -> int:
            pipe = client.pipeline(transaction=False)
            for number in batch:
                pipe.set(f"{KEY}{number % KEYS}", f"{ROW}{number}", ex=KEY_LIVES_S)
            return sum(map(bool, await pipe.execute()))

        try:
            async with asyncio.timeout(CONNECT_S):
                await client.ping()
        except TimeoutError as error:
            raise NotRunError(f"no answer within {CONNECT_S} s") from error
        except (RedisError, OSError) as error:
            raise NotRunError(_first_line(error)) from error
        try:
            await work.arun(save)
            await client.delete(*(f"{KEY}{number}" for number in range(KEYS)))
        finally:
            await client.aclose()

    asyncio.run(main())


def http(work: Storing) -> None:
    """A request a batch, to the server of all comparisons."""
    import aiohttp

    async def main() -> None:
        async with aiohttp.ClientSession() as session:

            async def save(batch: Sequence[int]) -> int:
                lines = "".join(f"{ROW}{number}\n" for number in batch)
                async with session.post(work.at, data=lines.encode()) as answer:
                    body = await answer.read()
                if answer.status != 200:
                    raise BadAnswerError(f"the server answered {answer.status}")
                return int(body)

            await work.arun(save)

    asyncio.run(main())


def _first_line(error: BaseException) -> str:
    words = str(error).strip().splitlines()
    return words[0] if words else type(error).__name__
