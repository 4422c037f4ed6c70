"""Self-tuning on real services beside the best swept setting of the same run: HTTP, PostgreSQL, a rate limit, hashing.

    python benchmarks/control_real.py [--rounds 3] [--only http_1000 http_10000 postgres rate hash] [--smoke]

The HTTP server is a process of its own. PostgreSQL is looked for at OVERLAPPED_PG, else at 127.0.0.1, database test.
Rounds are interleaved, so that what disturbs the machine disturbs all; judged are ratios of medians.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from measure import Bar, judge

from overlapped import AUTO, Overloaded, Retry, flow

if TYPE_CHECKING:
    from collections.abc import Callable

DELAY_S = 0.1
PG = os.environ.get("OVERLAPPED_PG", "host=127.0.0.1 dbname=test user=postgres")
RATE_PER_S = 100


def serve() -> None:
    """The server: /slow answers after 100 ms, /rate at most 100 times a second. Prints its port."""
    from aiohttp import web

    tokens = {"at_s": time.monotonic(), "left": 5.0}

    async def slow(_: web.Request) -> web.Response:
        await asyncio.sleep(DELAY_S)
        return web.Response(text="x" * 200)

    async def rate(_: web.Request) -> web.Response:
        now_s = time.monotonic()
        tokens["left"] = min(5.0, tokens["left"] + (now_s - tokens["at_s"]) * RATE_PER_S)
        tokens["at_s"] = now_s
        if tokens["left"] < 1:
            return web.Response(status=429, headers={"Retry-After": f"{(1 - tokens['left']) / RATE_PER_S:.4f}"})
        tokens["left"] -= 1
        await asyncio.sleep(0.05)
        return web.Response(text="ok")

    async def main() -> None:
        app = web.Application()
        app.add_routes([web.get("/slow", slow), web.get("/rate", rate)])
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, backlog=4096)
        await site.start()
        assert site._server is not None  # noqa: SLF001 - aiohttp shows the port nowhere else
        print(site._server.sockets[0].getsockname()[1], flush=True)  # type: ignore[attr-defined]  # noqa: SLF001
        await asyncio.Event().wait()

    asyncio.run(main())


async def _get(session: Any, url: str) -> int:
    async with session.get(url) as answer:
        return len(await answer.read())


def bare(url: str, count: int, workers: int) -> float:
    """So many aiohttp workers on one iterator: seconds for all requests."""
    import aiohttp

    async def main() -> float:
        numbers = iter(range(count))
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

            async def work() -> None:
                for _ in numbers:
                    await _get(session, url)

            before = time.perf_counter()
            await asyncio.gather(*(work() for _ in range(workers)))
            return time.perf_counter() - before

    return asyncio.run(main())


def ours(url: str, count: int) -> float:
    """The same without a number."""
    import aiohttp

    async def main() -> float:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

            async def fetch(_: int) -> int:
                return await _get(session, url)

            before = time.perf_counter()
            report = await flow(range(count)).map(fetch, ordered=False).arun()
            took_s = time.perf_counter() - before
            print("   ", *[line for line in str(report).splitlines() if "limit" in line], file=sys.stderr)
            return took_s

    return asyncio.run(main())


def http(url: str, count: int, rounds: int, workers: tuple[int, ...]) -> float:
    """Our time over that of the best bare loop; and the fixed 100 is shown."""
    ways: dict[str, Callable[[], float]] = {f"bare {n}": lambda n=n: bare(url, count, n) for n in workers}  # type: ignore[misc]  # bound per loop
    ways["overlapped"] = lambda: ours(url, count)
    times = rounds_of(ways, rounds)
    best = min((k for k in times if k != "overlapped"), key=lambda k: times[k])
    show(f"http, {count:,} requests of 100 ms", times)
    return times["overlapped"] / times[best]


def rounds_of(ways: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Median of each way, all in turn."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            taken[name].append(way())
    return {name: statistics.median(values) for name, values in taken.items()}


def show(title: str, times: dict[str, float]) -> None:
    """One line."""
    print(f"{title}: " + ", ".join(f"{name} {value:.3g} s" for name, value in times.items()), flush=True)


def postgres(count: int, rounds: int, sizes: tuple[int, ...]) -> float:
    """Our rate over the best swept size's; one connection, one call at a time."""
    import psycopg

    def once(size: Any) -> float:
        with psycopg.connect(PG, autocommit=True) as connection:
            connection.execute("drop table if exists overlapped_bench")
            connection.execute("create table overlapped_bench (id int, name text)")

            def save(rows: list[int]) -> int:
                with connection.cursor() as cursor:
                    values = [value for row in rows for value in (row, f"name {row}")]
                    marks = ", ".join(["(%s, %s)"] * len(rows))
                    cursor.execute(f"insert into overlapped_bench values {marks}", values)  # noqa: S608 - marks only
                return len(rows)

            before = time.perf_counter()
            report = flow(range(count)).batch(size).map(save, concurrency=1).run()
            took_s = time.perf_counter() - before
            stored = connection.execute("select count(*) from overlapped_bench").fetchone()
            if stored != (count,):
                raise RuntimeError(f"{stored} rows of {count}")
            if size is AUTO:
                print("   ", *[line for line in str(report).splitlines() if "batches" in line], file=sys.stderr)
            return took_s

    ways: dict[str, Callable[[], float]] = {f"size {n}": lambda n=n: once(n) for n in sizes}  # type: ignore[misc]  # bound per loop
    ways["overlapped"] = lambda: once(AUTO)
    times = rounds_of(ways, rounds)
    show(f"PostgreSQL, {count:,} rows", times)
    return min(value for name, value in times.items() if name != "overlapped") / times["overlapped"]


def rate_limited(url: str, lasts_s: float) -> tuple[float, float]:
    """Requests per second that got through, and the share refused."""
    import aiohttp

    class Refused(Overloaded):
        """429."""

    counts = {"ok": 0, "refused": 0}

    async def main() -> float:
        async with aiohttp.ClientSession() as session:

            async def fetch(_: int) -> None:
                async with session.get(url) as answer:
                    if answer.status == 429:
                        counts["refused"] += 1
                        raise Refused("429", retry_after_s=float(answer.headers["Retry-After"]))
                    await answer.read()
                    counts["ok"] += 1

            before = time.perf_counter()
            endless = flow(range(10**9)).map(fetch, ordered=False, retry=Retry(attempts=100))
            try:
                async with asyncio.timeout(lasts_s), endless.open() as items:
                    async for _ in items:
                        pass
            except TimeoutError:
                pass
            return time.perf_counter() - before

    took_s = asyncio.run(main())
    return counts["ok"] / took_s, counts["refused"] / (counts["ok"] + counts["refused"])


def hash_and_save(count: int, rounds: int) -> float:
    """Our time over the limit of the cores: bcrypt in threads, then a save of 10 ms."""
    import bcrypt

    def hashed(number: int) -> bytes:
        found: bytes = bcrypt.hashpw(b"%d" % number, bcrypt.gensalt(8))
        return found

    async def save(_: bytes) -> None:
        await asyncio.sleep(0.01)

    def limit() -> float:
        """The same hashes on as many threads as there are cores, nothing else."""
        from concurrent.futures import ThreadPoolExecutor

        cores = len(os.sched_getaffinity(0))
        with ThreadPoolExecutor(cores) as pool:
            before = time.perf_counter()
            list(pool.map(hashed, range(count)))
            return time.perf_counter() - before

    def whole() -> float:
        before = time.perf_counter()
        flow(range(count)).map(hashed, ordered=False).map(save, ordered=False).run()
        return time.perf_counter() - before

    times = rounds_of({"all cores": limit, "overlapped": whole}, rounds)
    show(f"hash and save, {count:,} items", times)
    return times["overlapped"] / times["all cores"]


def main() -> int:
    """Run them all; 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=["http_1000", "http_10000", "postgres", "rate", "hash"])
    parser.add_argument("--smoke", action="store_true", help="little work: does it run?")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve()
        return 0
    rounds, part = (1, 20) if options.smoke else (options.rounds, 1)
    command = [sys.executable, os.path.abspath(__file__), "--serve"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603 - this file
    assert server.stdout is not None
    url = f"http://127.0.0.1:{server.stdout.readline().strip()}"
    bars = []
    try:
        if "http_1000" in options.only:
            ratio = http(f"{url}/slow", 1_000 // part, rounds, (100, 250, 500, 1_000))
            bars.append(Bar("1,000 requests, over the best bare loop", ratio, 1.25, "x"))
        if "http_10000" in options.only:
            ratio = http(f"{url}/slow", 10_000 // part, rounds, (100, 200, 350, 500, 1_000))
            bars.append(Bar("10,000 requests, over the best bare loop", ratio, 1.3, "x"))
        if "postgres" in options.only:
            ratio = postgres(60_000 // part, rounds, (10, 100, 500, 1_000, 2_000, 5_000))
            bars.append(Bar("PostgreSQL, of the best swept size", ratio, 0.9, at_least=True))
        if "rate" in options.only:
            per_s, refused = rate_limited(f"{url}/rate", 60 / part)
            bars += [
                Bar("calls let through, of 100/s", per_s / RATE_PER_S, 0.95, at_least=True),
                Bar("share refused", refused, 0.01),
            ]
        if "hash" in options.only:
            ratio = hash_and_save(800 // part, rounds)
            bars.append(Bar("hash and save, over the limit of the cores", ratio, 1.08, "x"))
    finally:
        server.terminate()
        server.wait()
    return judge(bars, smoke=options.smoke)


if __name__ == "__main__":
    sys.exit(main())
