"""Pictures of report and live page in a real browser: six kinds of runs, light and dark, to be looked at.

    python benchmarks/screenshots.py FOLDER              all of them (four minutes)
    python benchmarks/screenshots.py FOLDER --only fetch one run
    python benchmarks/screenshots.py --docs              the two of the documentation, into docs/pictures

Needs Chromium, and --docs Pillow, for small files.
Everything runs on this machine: the pages that are fetched come from a server of this script.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.tab import Browser, browser  # noqa: E402

from overlapped import Retry, Sqlite, flow  # noqa: E402 - after the line above
from overlapped.report.dashboard import Dashboard  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from overlapped import Flow

    Job = Callable[[str, Path], Flow[Any]]


async def serve(delay_s: float, most: int) -> None:
    """Pages that come late, at most so many at once; one in a thousand is not there. Ends with its stdin."""
    from aiohttp import web

    room = asyncio.Semaphore(most)

    async def answer(request: web.Request) -> web.Response:
        async with room:
            await asyncio.sleep(delay_s)
        if request.match_info["number"].endswith("999"):
            raise web.HTTPNotFound
        return web.Response(text=f"page {request.match_info['number']}" * 20)

    app = web.Application()
    app.router.add_get("/{number}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.to_thread(sys.stdin.read)


@contextlib.asynccontextmanager
async def site() -> AsyncIterator[str]:
    """The server, in a process of its own."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, __file__, "--serve", stdin=pipe, stdout=pipe)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(await process.stdout.readline())}/"
    finally:
        process.stdin.close()
        await process.wait()


# -- the runs -------------------------------------------------------------------------------------------------


def fetching(address: str, _: Path) -> Flow[Any]:
    import aiohttp

    async def fetch(number: int, session: aiohttp.ClientSession) -> str:
        async with session.get(f"{address}{number}") as answer:
            answer.raise_for_status()
            return await answer.text()

    def session() -> aiohttp.ClientSession:
        return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))

    return flow(range(20_000)).map(fetch, retry=Retry(attempts=2, base_s=0.1)).map(len).using(session=session)


def computing(_: str, __: Path) -> Flow[Any]:
    async def fetch(number: int) -> int:
        await asyncio.sleep(0.02)
        return number

    def primes(number: int) -> int:
        return sum(all(n % d for d in range(2, int(n**0.5) + 1)) for n in range(2, 1_500 + number % 500))

    return flow(range(800)).map(fetch, concurrency=20).map(primes, on="thread")


def slow_sink(_: str, folder: Path) -> Flow[Any]:
    async def fetch(number: int) -> int:
        await asyncio.sleep(0.03 + number % 7 / 500)
        return number

    async def look_up(number: int) -> dict[str, int]:
        await asyncio.sleep(0.01)
        return {"id": number, "square": number * number}

    async def save(rows: list[dict[str, int]]) -> list[dict[str, int]]:
        await asyncio.sleep(0.25 + len(rows) / 400)  # a database that is far away
        return rows

    saved = flow(range(6_000)).map(fetch, concurrency=64).map(look_up, concurrency=16).batch(100)
    return saved.map(save, concurrency=2).flatten().to(Sqlite(str(folder / "rows.db"), table="rows"))


def five(_: str, __: Path) -> Flow[Any]:
    async def fetch(number: int) -> int:
        await asyncio.sleep(0.4 + number / 5)
        return number

    return flow(range(5)).map(fetch)


def failing(_: str, __: Path) -> Flow[Any]:
    async def fetch(number: int) -> int:
        await asyncio.sleep(0.05)
        if number % 40 == 17:
            raise TimeoutError(f"https://example.com/items/{number}?page=<{number}> took too long")
        if number == 900:
            raise ConnectionResetError("the server has closed the connection, and does not answer any more")
        return number

    def parse(number: int) -> int:
        if number % 300 == 299:
            raise ValueError(f"line {number}: no such field: 'größe' \u202e\x1b[31m")
        return number

    chain = flow(range(2_000)).map(fetch, concurrency=16, retry=Retry(attempts=2, base_s=0.2)).map(parse, on="inline")
    return chain.catch((TimeoutError, ValueError))


def empty(_: str, __: Path) -> Flow[Any]:
    async def wait_for_items() -> AsyncIterator[int]:
        await asyncio.sleep(2)
        for number in range(0):
            yield number

    async def fetch(number: int) -> int:
        return number

    return flow(wait_for_items).map(fetch)


JOBS: dict[str, tuple[Job, float]] = {  # and when the live page is looked at, s
    "fetch": (fetching, 25.0),
    "cpu": (computing, 4.0),
    "slow-sink": (slow_sink, 6.0),
    "five": (five, 0.9),
    "failed": (failing, 2.5),
    "empty": (empty, 0.7),
}


DOCS_HIGH = 1_260
"""Of a picture of the documentation, px: down to the first charts of limit and throughput."""


# -- the pictures ---------------------------------------------------------------------------------------------


async def take(chromium: Browser, name: str, folder: Path, high: float | None = None) -> None:
    """One run: its live page while it goes on, and its report."""
    make, looked_at_s = JOBS[name]
    for old in folder.glob("rows.db*"):
        old.unlink()
    page = folder / f"{name}.html"
    how: Literal["raise", "keep"] = "raise" if name == "failed" else "keep"
    async with site() as address, make(address, folder).open(on_failure=how) as items:
        with Dashboard(None, name="page", instead="") as board:
            board.show(lambda: items.report.record)
            running = asyncio.create_task(_exhaust(items))
            async with chromium.tab(board.address) as light, chromium.tab(board.address, dark=True) as dark:
                await asyncio.sleep(looked_at_s)
                await light.shot(folder / f"{name}-live.png", high=high)
                await dark.shot(folder / f"{name}-live-dark.png", high=high)
                await running
                await board.finish()
                await light.until("document.getElementById('o-save').hidden === false")
                await light.shot(folder / f"{name}-end.png", high=high)
    items.report.save(page)
    for dark_ in (False, True):
        async with chromium.tab(page.as_uri(), dark=dark_) as tab:
            await tab.shot(folder / f"{name}-report{'-dark' * dark_}.png", high=high)
    print(f"{name}: {items.report.record.state}, {page.stat().st_size:,} bytes")


async def _exhaust(items: Any) -> None:
    with contextlib.suppress(ConnectionResetError):  # the failed run
        async for _ in items:
            pass


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="where the pictures go")
    parser.add_argument("--only", choices=[*JOBS], help="one run")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--docs", action="store_true", help="make those of the documentation")
    args = parser.parse_args()
    if args.serve:
        await serve(0.2, 60)
        return
    if bool(args.docs) == bool(args.folder):
        parser.error("give a folder, or --docs")
    folder: Path = args.folder or ROOT / "build" / "pictures"
    os.makedirs(folder, exist_ok=True)
    async with browser() as chromium:
        for name in ["fetch"] if args.docs else [args.only] if args.only else JOBS:
            await take(chromium, name, folder, high=DOCS_HIGH if args.docs else None)
    if args.docs:
        for taken, shown in (("fetch-live", "live"), ("fetch-report", "report")):
            shrink(folder / f"{taken}.png", ROOT / "docs" / "pictures" / f"{shown}.png")


def shrink(taken: Path, shown: Path) -> None:
    """The picture with its 256 most frequent colors, a third of its size; the others become the nearest of them."""
    import PIL.Image

    with PIL.Image.open(taken) as file:
        picture = file.convert("RGB")
    counted: Any = picture.getcolors(1 << 24)
    colors = [color for _, color in sorted(counted, reverse=True)]
    kept = colors[:256]
    places = {color: min(range(len(kept)), key=lambda at: math.dist(kept[at], color)) for color in colors}
    small = PIL.Image.new("P", picture.size)
    small.putpalette([value for color in kept for value in color])
    pixels: Any = picture.getdata()
    small.putdata([places[color] for color in pixels])
    small.save(shown, optimize=True)


if __name__ == "__main__":
    asyncio.run(main())
