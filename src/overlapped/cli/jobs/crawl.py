"""Fetch every page of a list, count the Python in it, keep the counts in SQLite. No number is given.

overlapped run examples/crawl.py -- urls.txt pages.db
"""

from __future__ import annotations

import ast
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import aiohttp

from overlapped import Flow, flow

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

USAGE = "crawl.py needs a file with one URL a line: overlapped run crawl.py -- urls.txt [pages.db]"


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
    problem: str | None = None


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
    """Works instead of waiting. A file that this Python cannot read is counted by its lines only."""
    lines = page.body.count(b"\n")
    functions = classes = 0
    problem = None
    try:
        for node in ast.walk(ast.parse(page.body)):
            functions += isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            classes += isinstance(node, ast.ClassDef)
    except (SyntaxError, ValueError, RecursionError) as error:
        problem = f"{type(error).__name__}: {error}"
    return Counts(page.url, lines, functions, classes, len(page.body), page.total_bytes, problem)


def save(pages: list[Counts], db: sqlite3.Connection) -> int:
    """A whole batch in one transaction: that is what makes it cheap."""
    with db:
        db.executemany("INSERT OR REPLACE INTO pages VALUES (?, ?, ?, ?, ?, ?, ?)", pages)
    return len(pages)


def make_table(file: str) -> None:
    """The table, if it is not there yet."""
    counts = "lines INT, functions INT, classes INT, bytes INT, total_bytes INT"
    with closing(sqlite3.connect(file)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(f"CREATE TABLE IF NOT EXISTS pages (url TEXT PRIMARY KEY, {counts}, problem TEXT)")


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
    make_table(database)
    return (
        flow(load_urls(urls))
        .map(fetch)
        .through(running_total)
        .map(parse)
        .batch()
        .map(save)
        .using(session=open_session)
        .using(per="worker", db=lambda: closing(sqlite3.connect(database)))
    )
