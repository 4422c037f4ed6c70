"""Every kind of code in one flow, each where it belongs, on real services; prints the account.

python examples/glue.py [--items 300] [--dsn postgresql://root@127.0.0.1:5432/test] [--ray]

An aiohttp coroutine and a Tornado coroutine on the loop, a blocking HTTP client in greenlets (in threads where gevent
is not installed), files in threads, computing in processes (with --ray in actors), a generator coroutine, batches into
PostgreSQL (left out, with the reason, where there is none), lines into a file. The HTTP server is started here.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import hashlib
import importlib.util
import json
import subprocess
import sys
import tempfile
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import aiohttp
from tornado import gen
from tornado.httpclient import AsyncHTTPClient

from overlapped import AUTO, Jsonl, flow

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from overlapped import Flow
    from overlapped.report.report import Report

DELAY_S = 0.02  # of every answer of the server
DSN = "postgresql://root@127.0.0.1:5432/test"
TABLE = "CREATE TEMPORARY TABLE glue (number INT PRIMARY KEY, stars INT, owner TEXT, digest TEXT)"


class Page(NamedTuple):
    """What is known about a page: each stage adds something."""

    number: int
    body: str
    stars: int = 0
    owner: str = ""
    kept_in: str = ""
    digest: str = ""
    total_bytes: int = 0


# -- one function for each kind of code ------------------------------------------------------------------------


async def fetch(number: int, session: aiohttp.ClientSession, base: str) -> Page:
    """An aiohttp coroutine: awaited on the loop."""
    async with session.get(f"{base}/page/{number}") as answer:
        return Page(number, await answer.text())


@gen.coroutine
def add_stars(page: Page, client: AsyncHTTPClient, base: str) -> Generator[Any, Any, Page]:
    """A Tornado coroutine of the old kind: on the same loop."""
    answer = yield client.fetch(f"{base}/stars/{page.number}")
    return page._replace(stars=int(answer.body))


def add_owner(page: Page, base: str) -> Page:
    """A blocking client, not a line of it changed: in greenlets it waits with hundreds of others."""
    with urllib.request.urlopen(f"{base}/owner/{page.number}", timeout=10) as answer:  # noqa: S310 - our own server
        return page._replace(owner=answer.read().decode())


def keep(page: Page, folder: Path) -> Page:
    """A file: it blocks, so it goes to a thread."""
    path = folder / f"{page.number}.html"
    path.write_text(page.body, encoding="utf-8")
    return page._replace(kept_in=path.name)


def add_digest(page: Page) -> Page:
    """Some ms of computing that hold the interpreter: every CPU has a process for it."""
    digest = page.body.encode()
    for _ in range(3_000):
        digest = hashlib.sha256(digest).digest()
    return page._replace(digest=digest.hex())


def add_totals() -> Generator[Page, Page, None]:
    """A generator coroutine: it is sent each page and hands it on with the bytes of all so far."""
    total_bytes = 0
    page = Page(-1, "")  # what the first yield gives, before anything was sent; nobody gets it
    while True:
        page = yield page._replace(total_bytes=total_bytes)
        total_bytes += len(page.body)


async def store(pages: list[Page], database: Any) -> list[Page]:
    """A batch in one transaction; how large it should be is found out."""
    async with database.transaction(), database.cursor() as cursor:
        await cursor.executemany(
            "INSERT INTO glue VALUES (%s, %s, %s, %s)", [(p.number, p.stars, p.owner, p.digest) for p in pages]
        )
    return pages


# -- what they need --------------------------------------------------------------------------------------------


def tornado_client() -> AsyncHTTPClient:
    """Its own limit is 10 requests at once: it would be found, and taken for the best."""
    return AsyncHTTPClient(force_instance=True, max_clients=1_000)


async def open_database(dsn: str) -> Any:
    import psycopg

    connection = await psycopg.AsyncConnection.connect(dsn, autocommit=True, connect_timeout=3)
    await connection.execute(TABLE)
    return connection


def why_no_database(dsn: str) -> str:
    """Why PostgreSQL cannot be used; "" if it can."""
    if importlib.util.find_spec("psycopg") is None:
        return "psycopg is not installed"
    import psycopg

    try:
        psycopg.connect(dsn, connect_timeout=3).close()
    except psycopg.Error as error:
        return str(error).strip().splitlines()[0]
    return ""


def as_row(page: Page) -> dict[str, Any]:
    return {key: value for key, value in page._asdict().items() if key != "body"}


# -- the flow ---------------------------------------------------------------------------------------------------


def describe(
    items: int, base: str, folder: Path, *, dsn: str, greenlets: bool, computing: Literal["process", "ray"]
) -> Flow[dict[str, Any]]:
    """All of it; without a `dsn`, what concerns the database is left out."""
    pages = (
        flow(range(items))
        .using(session=aiohttp.ClientSession, client=tornado_client)
        .map(functools.partial(fetch, base=base))
        .map(functools.partial(add_stars, base=base))
        .map(functools.partial(add_owner, base=base), on="greenlet" if greenlets else "thread", concurrency=100)
        .map(functools.partial(keep, folder=folder), on="thread", concurrency=8)
        .map(add_digest, on=computing, concurrency=4)
        .through(add_totals)
    )
    if dsn:
        batches = pages.using(database=functools.partial(open_database, dsn)).batch(size=AUTO)
        pages = batches.map(store, concurrency=1).flatten()
    return pages.map(as_row, on="inline")


def run(options: argparse.Namespace) -> Report:
    missing = why_no_database(options.dsn)
    if missing:
        print(f"PostgreSQL is left out: {missing}")
    greenlets = importlib.util.find_spec("gevent") is not None
    if not greenlets:
        print("greenlets are left out, the blocking client runs in threads: gevent is not installed")
    with tempfile.TemporaryDirectory() as temporary, running_server() as base:
        folder = Path(temporary)
        rows = folder / "pages.jsonl"
        described = describe(
            options.items,
            base,
            folder,
            dsn="" if missing else options.dsn,
            greenlets=greenlets,
            computing="ray" if options.ray else "process",
        )
        report = described.to(Jsonl(rows)).run()
        with rows.open(encoding="utf-8") as lines:
            last = [json.loads(line) for line in lines][-1]
        print(f"{len(list(folder.glob('*.html')))} files, {report.items} rows; the last one: {last}")
    return report


# -- the server --------------------------------------------------------------------------------------------------


async def serve() -> None:
    """Pages, stars and owners, each after 20 ms, until stdin ends."""
    from aiohttp import web

    async def page(request: web.Request) -> web.Response:
        await asyncio.sleep(DELAY_S)
        return web.Response(text=f"<h1>Page {request.match_info['number']}</h1>" + "<p>text</p>" * 100)

    async def stars(request: web.Request) -> web.Response:
        await asyncio.sleep(DELAY_S)
        return web.Response(text=str(int(request.match_info["number"]) % 5))

    async def owner(request: web.Request) -> web.Response:
        await asyncio.sleep(DELAY_S)
        return web.Response(text=f"owner {int(request.match_info['number']) % 7}")

    app = web.Application()
    app.add_routes([web.get("/page/{number}", page), web.get("/stars/{number}", stars)])
    app.add_routes([web.get("/owner/{number}", owner)])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1_024)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.buffer.read)
    await runner.cleanup()


@contextmanager
def running_server() -> Iterator[str]:
    command = [sys.executable, __file__, "--serve"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - this file
        assert process.stdin is not None
        assert process.stdout is not None
        port = int(process.stdout.readline())
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.stdin.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=300)
    parser.add_argument("--dsn", default=DSN, help="of PostgreSQL")
    parser.add_argument("--ray", action="store_true", help="compute in Ray actors instead of processes")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve())
    else:
        print(run(options))


if __name__ == "__main__":
    main()
