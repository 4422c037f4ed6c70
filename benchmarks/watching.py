"""What it costs to watch a run: its account, the live view on a terminal, the live page; the same runs in turn.

    python benchmarks/watching.py              two minutes
    python benchmarks/watching.py --smoke      a few seconds
    python benchmarks/watching.py --rounds 9   how often everything is run (5)

The best of all rounds counts: what else the machine does only adds. The browsers are three connections of another
process. The bars: the account below 0.2 us an item; the view below 2 % of a core; the page's thread, serving too, below
3 %.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from contextlib import ExitStack, contextmanager, redirect_stderr
from typing import TYPE_CHECKING, Any, NamedTuple

from measure import Bar, judge, machine, table

from overlapped import flow
from overlapped._engine import crew
from overlapped._engine.ledger import Ledger
from overlapped.cli.progress import Block, frame
from overlapped.report.dashboard import Dashboard
from overlapped.report.live import Live
from overlapped.report.speed import Speed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from overlapped import Flow

NOTHING, ACCOUNT, VIEW, PAGE, BROWSERS = (
    "no account of single calls",
    "the account, as always",
    "and the live view",
    "and the live page, nobody looks",
    "and the live page, 3 browsers look",
)
FAST, WAITING = "instant calls", "two stages of 10 ms, as many as they can"
CASES = (NOTHING, ACCOUNT, VIEW, PAGE, BROWSERS)
VIEW_EVERY_S = 0.2
ACCOUNT_US = 0.2
VIEW_SHARE, PAGE_SHARE = 2.0, 3.0  # % of a core
LOOKERS = """
import selectors, socket, sys
for port in map(int, sys.stdin):
    chosen = selectors.DefaultSelector()
    for _ in range(3):
        sock = socket.create_connection(("127.0.0.1", port))
        sock.sendall(f"GET /events HTTP/1.1\\r\\nHost: localhost:{port}\\r\\n\\r\\n".encode())
        chosen.register(sock, selectors.EVENT_READ)
    size = 0
    while chosen.get_map():
        for key, _ in chosen.select():
            try:
                part = key.fileobj.recv(1 << 20)
            except OSError:
                part = b""
            size += len(part)
            if not part:
                chosen.unregister(key.fileobj)
                key.fileobj.close()
    print(size, flush=True)
"""


class Blind(Ledger):
    """An account that knows states and counts, but no single call and no series."""

    __slots__ = ()

    def __init__(self, started_s: float, now_s: float) -> None:
        super().__init__(started_s, now_s)
        self._see_nothing()

    def begin(self, now_s: float) -> None:
        super().begin(now_s)
        self._see_nothing()

    def _see_nothing(self) -> None:
        self.stride = 1 << 60
        self.next_point_s = float("inf")


async def instant(item: int) -> int:
    return item


async def wait(item: int) -> int:
    await asyncio.sleep(0.01)
    return item


def instants(items: int) -> Flow[int]:
    return flow(range(items)).map(instant, concurrency=100)


def waits(items: int) -> Flow[int]:
    return flow(range(items)).map(wait, concurrency=120).map(wait, name="second", concurrency=120)


class Took(NamedTuple):
    cpu_s: float
    wall_s: float
    page_cpu_s: float  # of the page's thread


async def once(chain: Flow[int], items: int, case: str, lookers: Any) -> Took:
    """One run."""
    block = Block("benchmark")
    block._stream = io.StringIO()  # noqa: SLF001 - nobody looks
    with ExitStack() as stack:
        page = None
        if case in (PAGE, BROWSERS):
            page = stack.enter_context(Dashboard(None, name="page", instead=""))
        if case == NOTHING:
            stack.enter_context(without_account())
        async with chain.open() as results:
            if page is not None:
                with redirect_stderr(io.StringIO()):  # where it says its address
                    page.show(lambda: results.report.record)
            if page is not None and case == BROWSERS:
                lookers.stdin.write(f"{page.port}\n")
                lookers.stdin.flush()
            loop, due_s, count = asyncio.get_running_loop(), 0.0, 0
            page_from_s = 0.0 if page is None else thread_cpu_s(page)
            cpu_s, wall_s = time.process_time(), time.perf_counter()
            async for _ in results:
                count += 1
                if case == VIEW and not count & 15 and loop.time() >= due_s:
                    due_s = loop.time() + VIEW_EVERY_S
                    block.show(results.stats())
            page_s = 0.0 if page is None else thread_cpu_s(page)
            took = Took(time.process_time() - cpu_s, time.perf_counter() - wall_s, page_s - page_from_s)
        assert count == items
        if page is not None:
            page.close()
            assert case != BROWSERS or int(lookers.stdout.readline()) > 1_000  # they have seen something
    return took


def thread_cpu_s(page: Dashboard) -> float:
    """What the page's thread has used, s; 0 where the system does not tell."""
    ident = page._thread.ident  # noqa: SLF001 - nobody else has to know
    assert ident is not None
    return time.clock_gettime(time.pthread_getcpuclockid(ident)) if hasattr(time, "pthread_getcpuclockid") else 0.0


@contextmanager
def without_account() -> Iterator[None]:
    crew.Ledger = Blind  # type: ignore[attr-defined]  # that is what is measured
    try:
        yield
    finally:
        crew.Ledger = Ledger  # type: ignore[attr-defined]  # back again


def frames_ms(items: int) -> tuple[float, float]:
    """One frame of view and page each, of a run whose lists are full, CPU ms."""

    async def main() -> tuple[float, float]:
        speed, drawing = Speed(), Live("run.html")
        took: dict[str, list[float]] = defaultdict(list)
        async with waits(items).open() as results:
            count = 0
            async for _ in results:
                count += 1
                if count > items // 2 and not count % (items // 20):
                    began_s = time.thread_time()
                    frame(results.stats(), speed, "benchmark", 100)
                    between_s = time.thread_time()
                    drawing.frame(results.report.record)
                    took["view"].append(between_s - began_s)
                    took["page"].append(time.thread_time() - between_s)
        return statistics.median(took["view"]) * 1e3, statistics.median(took["page"]) * 1e3

    return asyncio.run(main())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="few items; fails on no bar")
    parser.add_argument("--rounds", type=int, default=5, help="how often (5)")
    args = parser.parse_args()
    works = {
        FAST: (instants, 20_000 if args.smoke else 500_000),
        WAITING: (waits, 3_000 if args.smoke else 20_000),
    }
    print(f"# What it costs to watch a run: {machine()}")
    found: dict[str, dict[str, Took]] = {}
    with subprocess.Popen(  # noqa: S603 - our own lines
        [sys.executable, "-c", LOOKERS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as lookers:
        for work, (chain, items) in works.items():
            took: dict[str, list[Took]] = {case: [] for case in CASES}
            for _ in range(1 + (1 if args.smoke else args.rounds)):  # the first one loads what is loaded once
                for case in CASES:
                    took[case].append(asyncio.run(once(chain(items), items, case, lookers)))
            found[work] = {case: Took(*map(min, zip(*each[1:], strict=True))) for case, each in took.items()}
            show(work, items, found[work])
    view_ms, page_ms = frames_ms(4_000 if args.smoke else 30_000)
    print(f"\na frame of the view: {view_ms:.2f} ms of CPU; of the page, with its snapshot: {page_ms:.1f} ms")
    fast = found[FAST]
    account_us = (fast[ACCOUNT].cpu_s - fast[NOTHING].cpu_s) / works[FAST][1] * 1e6
    found_bars = [
        Bar("account of single calls and series, an instant call", account_us, ACCOUNT_US, " us"),
        Bar("the live view, of a core", 100 * view_ms / 1e3 / VIEW_EVERY_S, VIEW_SHARE, " %"),
    ]
    found_bars += [
        Bar(
            f"the page's thread, {work}",
            100 * each[BROWSERS].page_cpu_s / each[BROWSERS].wall_s,
            PAGE_SHARE,
            " % of a core",
        )
        for work, each in found.items()
    ]
    return judge(found_bars, smoke=args.smoke)


def show(work: str, items: int, found: dict[str, Took]) -> None:
    base = found[ACCOUNT]
    lines = [
        [
            case,
            f"{took.cpu_s / items * 1e6:.3f}",
            f"{took.cpu_s / base.cpu_s - 1:+.1%}",
            f"{took.wall_s / base.wall_s - 1:+.1%}",
            f"{took.page_cpu_s / took.wall_s:.1%}" if case in (PAGE, BROWSERS) else "",
        ]
        for case, took in found.items()
    ]
    print(f"\n## {work}: {items:,} items\n")
    print(table(["", "CPU us/item", "CPU", "wall time", "page's thread, of a core"], lines))


if __name__ == "__main__":
    sys.exit(main())
