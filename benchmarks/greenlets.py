"""The greenlet lane beside threads and gevent's own pool: tables of `lanes.py`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from measure import Bar, slowdown
from ways import Way, measure

from overlapped import flow
from overlapped.compare.server import running_server, urls

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CPUS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
CHUNK = 64
AT_ONCE = 500
DELAY_S = 0.1
QUERIES = 20
PROTOTYPE_S = 0.84  # 1,000 requests.get of 100 ms, 500 at once, in one process of greenlets
THREADS_THERE_S = 1.29  # the same in a ThreadPoolExecutor(500), in the same hour on the same machine


SLOW: list[float] = []  # how much slower this machine was, around each round of the lane alone


def same(n: int) -> int:
    return n


# -- what an item costs --------------------------------------------------------------------------------------------


def through_the_port(n: int) -> float:
    """The lane alone, without the rest of a run: chunks of 64 in, answers out, a thousand on their way."""
    before = slowdown()
    took_s = asyncio.run(_through_the_port(n))
    SLOW.append((before + slowdown()) / 2)
    return took_s


async def _through_the_port(n: int) -> float:
    from overlapped._engine.host import Work
    from overlapped._engine.hosts import HostPort
    from overlapped._engine.parcels import main_origin, pack_function
    from overlapped.lanes import greenlet

    def broken(error: BaseException) -> None:
        raise error

    fn = pack_function(same, "", "same")
    work = Work(fn, (), name="same", verb="map", kind="plain", many=False, main=main_origin(), argv=sys.argv)
    port = HostPort(
        greenlet.launch,
        work,
        clock=time.perf_counter,
        most=1,
        is_single=False,
        on_broken=broken,
        on_cleanup_error=broken,
        on_message=print,
    )
    done = asyncio.get_running_loop().create_future()
    started_s, put, answered = 0.0, 1, 0

    def deliver(outcomes: list[Any]) -> None:
        nonlocal started_s, put, answered
        started_s = started_s or time.perf_counter()
        answered += len(outcomes)
        while put < n and put - answered < 16 * CHUNK:
            port.put([(number, number) for number in range(put, min(n, put + CHUNK))])
            put = min(n, put + CHUNK)
        if answered == n:
            done.set_result(time.perf_counter())

    port.open(deliver)
    port.limit(CHUNK)
    port.put([(0, 0)])
    ended_s = await done
    await port.close(1.0)
    return float(ended_s - started_s)


GEVENT_POOL = """
from gevent import monkey; monkey.patch_all()
import sys, time
from gevent.pool import Pool
n, at_once, urls = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
if urls:
    import requests
    items, call = [urls[0].replace("/page/0", f"/page/{k}") for k in range(n)], lambda url: requests.get(url).content
else:
    items, call = range(n), lambda n: n
pool = Pool(at_once)
list(pool.imap_unordered(call, items[:2]))
started = time.perf_counter()
seen = sum(1 for _ in pool.imap_unordered(call, items))
print(seen, time.perf_counter() - started)
"""


def gevent_pool(n: int, at_once: int, *more: str) -> float:
    """gevent.pool in a patched process of its own, nothing sent to it or back; how long it took, s."""
    import gevent  # noqa: F401 - a peer that is missing is left out

    command = [sys.executable, "-c", GEVENT_POOL, str(n), str(at_once), *more]
    seen, took_s = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()  # noqa: S603 - our own code
    assert int(seen) == n
    return float(took_s)


def items(*, smoke: bool) -> list[Bar]:
    many = 300_000
    ways = [
        Way("overlapped, the lane alone, chunks of 64", through_the_port, many),
        Way("overlapped, in order, 64 at once", mapped, many),
        Way("overlapped, as completed", lambda n: mapped(n, ordered=False), many),
        Way("overlapped, threads", lambda n: iter(flow(range(n)).map(same, on="thread", concurrency=CHUNK)), 100_000),
        Way("gevent.pool.imap_unordered, inside", lambda n: gevent_pool(n, CHUNK), 100_000),
    ]
    found = measure("Small items in greenlets, a function that does nothing", ways, smoke=smoke)
    quiet_us = statistics.median(1e6 / rate / slow for rate, slow in zip(found[ways[0].name].per_s, SLOW, strict=True))
    print(f"\na loop of 0.8 ms took {statistics.median(SLOW):.1f} times as long; the bar is for a quiet machine")
    return [Bar("greenlets, the lane, chunk 64", quiet_us, 2.5, " us/item")]


def mapped(n: int, **options: Any) -> Iterator[int]:
    return iter(flow(range(n)).map(same, on="greenlet", concurrency=CHUNK, **options))


# -- requests ------------------------------------------------------------------------------------------------------


def get(url: str) -> int:
    """One page; without an address, what tells that this process is ready."""
    import requests

    if not url:
        time.sleep(0.001)
        return os.getpid()
    return 0 * len(requests.get(url).content)  # noqa: S113 - as people write it


def fetched(pages: list[str], on: Any, hosts: int) -> float:
    """How long all pages take, from the moment on at which all places are up."""
    are_up = threading.Event()
    began_s: list[float] = []

    def source() -> Iterator[str]:
        while not are_up.is_set():
            time.sleep(0.005)  # else thousands of them would stand before the first page
            yield ""
        began_s.append(time.perf_counter())
        yield from pages

    pids = set()
    for result in flow(source).map(get, on=on, concurrency=AT_ONCE, ordered=False):
        if result:
            pids.add(result)
            if len(pids) >= hosts:
                are_up.set()
    return time.perf_counter() - began_s[0]


def executor(pages: list[str]) -> float:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(get, [""] * AT_ONCE))  # all threads are up
        started_s = time.perf_counter()
        assert len([*pool.map(get, pages)]) == len(pages)
        return time.perf_counter() - started_s


def requests_get(*, smoke: bool) -> list[Bar]:
    n = 1_000
    with running_server() as port:

        def pages(n: int) -> list[str]:
            return urls(port, n, DELAY_S)

        ways = [
            Way("overlapped, greenlets", lambda n: fetched(pages(n), "greenlet", CPUS), n),
            Way("overlapped, threads", lambda n: fetched(pages(n), "thread", 1), n),
            Way("ThreadPoolExecutor", lambda n: executor(pages(n)), n),
            Way("gevent.pool, one process", lambda n: gevent_pool(n, AT_ONCE, pages(1)[0]), n),
        ]
        before = slowdown()
        found = measure("requests.get of 100 ms, 500 at once (at least 0.20 s for 1,000)", ways, smoke=smoke)
        print(f"\na loop of 0.8 ms took {(before + slowdown()) / 2:.1f} times as long")
    took_s = {name: n / way.rate if way.rate else 0.0 for name, way in found.items()}
    print("\nseconds for 1,000: " + ", ".join(f"{name} {s:.2f}" for name, s in took_s.items()))
    of_threads = took_s[ways[0].name] / max(1e-9, took_s[ways[2].name])
    what = "greenlets, 1,000 requests.get, where 500 threads take as long as beside the prototype"
    return [
        Bar(what, of_threads * THREADS_THERE_S, 1.15 * PROTOTYPE_S, " s"),
        Bar("greenlets of 500 threads", of_threads, 1.0, "x"),
    ]


# -- databases -----------------------------------------------------------------------------------------------------


def ask_psycopg2(_: int, connection: Any) -> tuple[float, float]:
    started = time.perf_counter()
    with connection.cursor() as cursor:
        cursor.execute(f"select pg_sleep({DELAY_S})")
    return started, time.perf_counter()


def ask_pg8000(_: int, connection: Any) -> tuple[float, float]:
    started = time.perf_counter()
    connection.run(f"select pg_sleep({DELAY_S})")
    return started, time.perf_counter()


def ask_redis(n: int, connection: Any) -> tuple[float, float]:
    started = time.perf_counter()
    connection.blpop([f"overlapped-bench-{os.getpid()}-{n}"], timeout=DELAY_S)
    return started, time.perf_counter()


def connect_psycopg2() -> Any:
    import psycopg2

    return psycopg2.connect(host="127.0.0.1", dbname="test")


def connect_pg8000() -> Any:
    import getpass

    import pg8000.native

    return pg8000.native.Connection(getpass.getuser(), host="127.0.0.1", database="test")


def connect_redis() -> Any:
    import redis

    return redis.Redis()


CLIENTS: dict[str, tuple[int, Callable[..., Any], Callable[[], Any]]] = {
    "psycopg2": (5432, ask_psycopg2, connect_psycopg2),
    "pg8000": (5432, ask_pg8000, connect_pg8000),
    "redis-py": (6379, ask_redis, connect_redis),
}


def queries(*, smoke: bool) -> list[Bar]:
    """From the start of the first of 20 queries to the end of the last; connections are open before."""
    print(f"\n## {QUERIES} queries of {DELAY_S * 1e3:.0f} ms in greenlets, a connection each\n")
    bars = []
    for name, (port, ask, connect) in CLIENTS.items():
        with contextlib.closing(socket.socket()) as sock:
            if sock.connect_ex(("127.0.0.1", port)):
                print(f"{name:10} no server on port {port}")
                continue
        best = min(_once(ask, connect) for _ in range(1 if smoke else 3))
        print(f"{name:10} {best:.2f} s")
        bars.append(Bar(f"20 queries, {name}", best, 0.5, " s"))
    return bars


def _once(ask: Callable[..., Any], connect: Callable[[], Any]) -> float:
    chain = flow(range(4 * QUERIES)).map(ask, on="greenlet", concurrency=QUERIES, ordered=False)
    spans = sorted(chain.using(per="worker", connection=connect).collect())[-QUERIES:]  # once all are connected
    return float(max(end for _, end in spans) - spans[0][0])


GREENLETS: dict[str, Callable[..., list[Bar]]] = {"greenlets": items, "requests": requests_get, "queries": queries}
