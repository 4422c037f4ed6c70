"""Fetch every page of a list, count the Python in it, keep the counts in SQLite. No number is given.

overlapped run examples/crawl.py -- urls.txt pages.db
"""

from __future__ import annotations

import re
import sqlite3
import sys
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import aiohttp

from overlapped import Flow, flow

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

USAGE = "crawl.py needs a file with one URL a line: overlapped run crawl.py -- urls.txt [pages.db]"

DEFINITION = re.compile(rb"^[ \t]*(?:async[ \t]+)?(def|class)[ \t]+\w", re.MULTILINE)
TABLE = """
    CREATE TABLE IF NOT EXISTS pages (
        url TEXT PRIMARY KEY, lines INT, functions INT, classes INT, bytes INT, total_bytes INT
    )
"""


class Page(NamedTuple):
    """A fetched page, with the bytes of all pages so far."""

    url: str
    body: bytes
    total_bytes: int = 0


class Counts(NamedTuple):
    """What is in a page: one row of the table."""

    url: str
    lines: int
    functions: int
    classes: int
    bytes: int
    total_bytes: int


def load_urls(file: str) -> Iterator[str]:
    """A generator: the list may be longer than memory."""
    with open(file, encoding="utf-8") as lines:
        for line in lines:
            if url := line.strip():
                yield url


async def fetch(url: str, session: aiohttp.ClientSession) -> Page:
    """Waits for the network; many are in flight at once."""
    async with session.get(url) as response:
        response.raise_for_status()
        return Page(url, await response.read())


def running_total() -> Generator[Page, Page, None]:
    """`x = yield y`: a coroutine that is sent each page and hands it on with the bytes of all so far."""
    total = 0
    page = Page("", b"")  # what the first yield gives, before anything was sent; nobody gets it
    while True:
        page = yield page._replace(total_bytes=total)
        total += len(page.body)


def parse(page: Page) -> Counts:
    """Works instead of waiting: counts the lines that begin a function or a class."""
    begun = DEFINITION.findall(page.body)
    functions = begun.count(b"def")
    lines = page.body.count(b"\n")
    return Counts(page.url, lines, functions, len(begun) - functions, len(page.body), page.total_bytes)


def save(database: str, batches: Iterable[list[Counts]]) -> Iterator[int]:
    """A generator of its own thread, since SQLite has one writer: each batch is one transaction."""
    with closing(sqlite3.connect(database)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(TABLE)
        for pages in batches:
            with db:
                db.executemany("INSERT OR REPLACE INTO pages VALUES (?, ?, ?, ?, ?, ?)", pages)
            yield len(pages)


def open_session() -> aiohttp.ClientSession:
    """One session for the run; how many requests are in flight is not its business."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))


def crawl() -> Flow[int]:
    """The flow. Its results are how many pages each batch saved."""
    if len(sys.argv) not in (2, 3):
        sys.exit(USAGE)
    urls, database = sys.argv[1], sys.argv[2] if len(sys.argv) == 3 else "pages.db"
    if not Path(urls).is_file():
        sys.exit(f"{urls}: no such file. {USAGE}")
    return (
        flow(load_urls(urls))
        .map(fetch)
        .through(running_total)
        .map(parse)
        .batch()
        .through(partial(save, database))
        .using(session=open_session)
    )
