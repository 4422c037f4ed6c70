"""What an item costs in this library and in others: the same work, at concurrency 100, in one go.

    python benchmarks/overhead.py              the tables, and the bars (a minute or two)
    python benchmarks/overhead.py --smoke      a few seconds: does everything run?
    python benchmarks/overhead.py --only ours  without the others
    python benchmarks/overhead.py --json FILE  the numbers as well

The function does nothing, or only gives way to the loop, so that all that is measured is what
surrounds it. CPU time counts: on a shared machine wall time is mostly other people's work.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import math
import sys
from typing import TYPE_CHECKING, Any

import peers
from measure import Bar, Row, in_child, judge, machine, measure, peak_rss_mib, table, timed
from peers import CONCURRENCY

from overlapped import flow

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from overlapped import Flow

ONE_MILLION = 1_000_000
OURS = "overlapped"
FLAT_MIB = 2.0  # what memory may grow by between one and ten million items

SAME_US, SORTED_US, SYNC_US = 0.35, 0.45, 0.75  # bars: on top of the bare await, instant function
OWN_SHARE = 1.35  # bar: of what the loop itself costs, a function that gives way
STREAMABLE, GATHER = 10, 20  # bars: what these cost on top of it, in multiples of what we do


# -- the work -------------------------------------------------------------------------------------------------


async def instant(item: int) -> int:
    return item


async def give_way(item: int) -> int:
    await asyncio.sleep(0)
    return item


def plain(item: int) -> int:
    return item


# -- our ways to do it ------------------------------------------------------------------------------------------


async def by_async_for(mapped: Callable[[int], Flow[int]], n: int) -> int:
    count = 0
    async for _ in mapped(n):
        count += 1
    return count


async def by_acollect(mapped: Callable[[int], Flow[int]], n: int) -> int:
    return len(await mapped(n).acollect())


async def by_arun(mapped: Callable[[int], Flow[int]], n: int) -> int:
    return (await mapped(n).arun()).items


def by_for(mapped: Callable[[int], Flow[int]], n: int) -> int:
    count = 0
    for _ in mapped(n):
        count += 1
    return count


def ours(fn: Any) -> list[Row]:
    def mapped(n: int, **options: Any) -> Flow[int]:
        return flow(range(n)).map(fn, **{"concurrency": CONCURRENCY, **options})

    same = functools.partial(mapped, ordered=False)
    auto = functools.partial(mapped, concurrency=_auto())
    return [
        Row("as completed", on_loop(by_async_for, same), OURS),
        Row("ordered", on_loop(by_async_for, mapped), OURS),
        Row("arun, as completed", on_loop(by_arun, same), OURS),
        Row("arun, ordered", on_loop(by_arun, mapped), OURS),
        Row("acollect, ordered", on_loop(by_acollect, mapped), OURS, most=ONE_MILLION),
        Row("sync for, as completed", functools.partial(by_for, same), OURS),
        Row("sync for, ordered", functools.partial(by_for, mapped), OURS),
        Row("no number given (AUTO), ordered", on_loop(by_async_for, auto), OURS),
        Row("as completed, uvloop", on_uvloop(by_async_for, same), OURS),
        Row("ordered, uvloop", on_uvloop(by_async_for, mapped), OURS),
    ]


def ours_plain() -> list[Row]:
    def mapped(n: int, **options: Any) -> Flow[int]:
        return flow(range(n)).map(plain, **{"concurrency": CONCURRENCY, **options})

    some = 10_000  # a hundred threads must be worth their start
    threads = functools.partial(mapped, on="thread")
    unsorted = functools.partial(threads, ordered=False)
    return [
        Row("inline lane", on_loop(by_async_for, functools.partial(mapped, on="inline")), OURS),
        Row("thread lane", on_loop(by_async_for, threads), OURS, least=some),
        Row("thread lane, as completed", on_loop(by_async_for, unsorted), OURS, least=some),
        Row("thread lane, sync for", functools.partial(by_for, threads), OURS, least=some),
        Row("nothing given (AUTO)", on_loop(by_async_for, functools.partial(mapped, concurrency=_auto())), OURS),
    ]


def _auto() -> Any:
    from overlapped import AUTO

    return AUTO


def on_loop(way: Callable[[Any, int], Awaitable[int]], given: Any) -> Callable[[int], int]:
    async def main(n: int) -> int:
        return await way(given, n)

    return lambda n: asyncio.run(main(n))


def on_uvloop(way: Callable[[Any, int], Awaitable[int]], given: Any) -> Callable[[int], int]:
    async def main(n: int) -> int:
        return await way(given, n)

    def run(n: int) -> int:
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(main(n))

    return run


# -- the others -------------------------------------------------------------------------------------------------


def baselines(fn: Any) -> list[Row]:
    return [
        Row("bare await", on_loop(peers.bare_await, fn)),
        Row("the loop's own cost", on_loop(peers.loops_own, fn)),
        Row("bare await, uvloop", on_uvloop(peers.bare_await, fn)),
        Row("the loop's own cost, uvloop", on_uvloop(peers.loops_own, fn)),
    ]


def others(fn: Any) -> list[Row]:
    some = 50_000  # for what holds everything in memory, and costs more the more there is
    return [
        Row("gather + semaphore", on_loop(peers.gather_semaphore, fn), "by hand", least=some, most=some),
        Row("streamable, as completed", on_loop(functools.partial(peers.streamable, as_completed=True), fn), "peer"),
        Row("streamable, ordered", on_loop(peers.streamable, fn), "peer"),
        Row("streamable, sync for", functools.partial(peers.streamable_sync, fn), "peer"),
        Row("aiostream, ordered", on_loop(peers.aiostream, fn), "peer"),
        Row("aiostream, as completed", on_loop(functools.partial(peers.aiostream, ordered=False), fn), "peer"),
        Row("aiometer.amap", on_loop(peers.aiometer, fn), "peer", most=some),
        Row("pypeln.task", never, "peer", least=200, most=some, apart=("overhead.py", "--apart", fn.__name__)),
    ]


def never(n: int) -> int:
    raise AssertionError(f"this runs in a process of its own, not here ({n} items)")


def others_plain() -> list[Row]:
    few, some = 10_000, 50_000
    return [
        Row("ThreadPoolExecutor.map", functools.partial(peers.thread_pool, plain), "by hand", least=few, most=some),
        Row("streamable in threads", functools.partial(peers.streamable_sync, plain), "peer", least=few, most=some),
        Row("gevent Pool.imap", functools.partial(peers.gevent_pool, plain), "peer", most=some),
        Row(
            "gevent Pool.imap_unordered",
            functools.partial(peers.gevent_pool, plain, ordered=False),
            "peer",
            most=some,
        ),
    ]


# -- memory -----------------------------------------------------------------------------------------------------


def numbers(n: int) -> Iterator[int]:
    yield from range(n)


MEMORY: dict[str, Callable[[int], int]] = {
    "overlapped, from a range": lambda n: asyncio.run(by_async_for(lambda m: _instant_flow(range(m)), n)),
    "overlapped, from a generator": lambda n: asyncio.run(by_async_for(lambda m: _instant_flow(numbers(m)), n)),
    "gather + semaphore": lambda n: asyncio.run(peers.gather_semaphore(instant, n)),
}


def _instant_flow(source: Any) -> Flow[int]:
    return flow(source).map(instant, concurrency=CONCURRENCY)


def memory(name: str, n: int) -> float:
    """Peak resident memory of a fresh process that does the work for n items, MiB."""
    return float(in_child("overhead.py", "--memory-of", name, str(n), limit_s=None))


def memory_report(*, smoke: bool, with_others: bool) -> tuple[dict[str, dict[int, float]], list[Bar]]:
    few, many = (2_000, 20_000) if smoke else (ONE_MILLION, 10 * ONE_MILLION)
    found = {name: {n: memory(name, n) for n in (few, many)} for name in MEMORY if name.startswith(OURS)}
    bars = [
        Bar(f"memory from {few:,} to {many:,} items, {name}", abs(rss[many] - rss[few]), FLAT_MIB, " MiB")
        for name, rss in found.items()
    ]
    if with_others:
        found["gather + semaphore"] = {few: memory("gather + semaphore", few)}
    shown = [
        [name, f"{rss[few]:.1f}", f"{rss[many]:.1f}" if many in rss else "not run: all items at once"]
        for name, rss in found.items()
    ]
    print("\n## Peak memory of a fresh process, MiB\n")
    print(table(["", f"{few:,} items", f"{many:,} items"], shown))
    return found, bars


# -- the report ---------------------------------------------------------------------------------------------------


def show(title: str, rows: list[Row], base: str, reference: str) -> dict[str, Row]:
    """Print one table: each row over the baseline of its loop, and how many times as much on top as ours."""
    named = {f"{row.group} {row.name}".strip(): row for row in rows}
    lines = []
    for name, row in named.items():
        if not row.cpu_us:
            lines.append([name, "-", "-", "-", "-", "-", row.why_not])
            continue
        over = "" if row.group == "" else f"{on_top(named, name, base):+.2f}"
        times = "" if row.group in ("", OURS) else f"{ratio(named, name, f'{OURS} {reference}', base):.1f}x"
        lines.append([name, f"{row.cpu:.3f}", over, times, f"{row.wall:.2f}", f"{row.n:,}", row.why_not])
    print(f"\n## {title}\n")
    head = [
        "",
        "CPU us/item",
        f"over {base}",
        f"of ours, {reference}",
        "wall us/item",
        "items",
        "what went wrong",
    ]
    if not any(row.why_not for row in rows):
        head, lines = head[:-1], [line[:-1] for line in lines]
    print(table(head, lines))
    return named


def on_top(rows: dict[str, Row], name: str, base: str) -> float:
    """What a way costs on top of the baseline on the same kind of loop, us/item; NaN if it was not measured."""
    if name not in rows:
        return math.nan
    return rows[name].cpu - rows[base + ", uvloop" * name.endswith(", uvloop")].cpu


def ratio(rows: dict[str, Row], name: str, ours_name: str, base: str) -> float:
    """How many times as much a way costs on top of the baseline as ours does."""
    return on_top(rows, name, base) / max(0.001, on_top(rows, ours_name, base))


def speed_bars(first: dict[str, Row], second: dict[str, Row], slow: float) -> list[Bar]:
    """The bars of docs/design.md, those in us at the speed of a quiet machine; where a peer is not installed, none."""
    base = "bare await"
    bars = [
        Bar(f"instant, {name}, on top of the bare await", on_top(first, f"{OURS} {name}", base) / slow, bar, " us")
        for name, bar in (("as completed", SAME_US), ("ordered", SORTED_US), ("sync for, ordered", SYNC_US))
    ]
    pairs = (("as completed", "as completed"), ("ordered", "ordered"), ("sync for", "sync for, ordered"))
    for theirs, mine in pairs:
        times = ratio(first, f"peer streamable, {theirs}", f"{OURS} {mine}", base)
        bars.append(Bar(f"instant, streamable / ours, {theirs}", times, STREAMABLE, "x", at_least=True))
    times = ratio(first, "by hand gather + semaphore", f"{OURS} acollect, ordered", base)  # both give a sorted list
    bars.append(Bar("instant, gather / ours, acollect", times, GATHER, "x", at_least=True))
    # Nobody takes results one by one from the loop's own tasks, so ours are drained as well.
    own_us = second["the loop's own cost"].cpu
    bars += [
        Bar(f"sleep(0), ours / the loop's own, {kind}", second[f"{OURS} arun, {kind}"].cpu / own_us, OWN_SHARE, "x")
        for kind in ("as completed", "ordered")
    ]
    return [bar for bar in bars if not math.isnan(bar.value)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="few items; fails on no bar")
    parser.add_argument("--json", metavar="FILE", help="write all numbers there as well")
    parser.add_argument("--only", choices=["ours"], help="leave the others out")
    parser.add_argument("--rounds", type=int, default=5, help="how often everything is run (5)")
    parser.add_argument("--memory-of", nargs=2, metavar=("WHAT", "N"), help=argparse.SUPPRESS)
    parser.add_argument("--apart", nargs=2, metavar=("WORK", "N"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.apart:
        fn = {"instant": instant, "give_way": give_way}[args.apart[0]]
        print(*timed(functools.partial(peers.pypeln_task, fn), int(args.apart[1])))
        return 0
    if args.memory_of:
        MEMORY[args.memory_of[0]](int(args.memory_of[1]))
        print(peak_rss_mib())
        return 0
    return report(args)


def report(args: argparse.Namespace) -> int:
    alone = args.only == "ours"
    print(f"# Cost of an item, concurrency {CONCURRENCY}: {machine()}")
    works = {
        "Instant coroutine": (instant, "bare await", "ordered"),
        "A coroutine that gives way: await sleep(0)": (give_way, "the loop's own cost", "ordered"),
        "Instant plain function": (plain, "bare call", "inline lane"),
    }
    found: dict[str, dict[str, Row]] = {}
    slow: list[float] = []  # how much slower than a quiet machine this one was at each of them
    for title, (fn, base, reference) in works.items():
        if fn is plain:
            rows = [Row("bare call", functools.partial(peers.bare_call, plain)), *ours_plain()]
            rows += [] if alone else others_plain()
        else:
            rows = [*baselines(fn), *ours(fn), *([] if alone else others(fn))]
        slow.append(measure(rows, rounds=1 if args.smoke else args.rounds, budget_s=0.25, smoke=args.smoke))
        found[title] = show(title, rows, base, reference)
    rss, memory_bars = memory_report(smoke=args.smoke, with_others=not alone)
    first, second, _ = found.values()
    print(f"\na loop of 0.8 ms took {slow[0]:.1f} times as long meanwhile; bars in us are for a quiet machine")
    bars = [*speed_bars(first, second, slow[0]), *memory_bars]
    if args.json:
        write_json(args.json, found, rss, bars)
    return judge(bars, smoke=args.smoke)


def write_json(path: str, found: dict[str, dict[str, Row]], rss: dict[str, dict[int, float]], bars: list[Bar]) -> None:
    speeds = {
        title: {
            name: {"cpu_us": row.cpu_us, "wall_us": row.wall_us, "items": row.n, "why_not": row.why_not}
            for name, row in rows.items()
        }
        for title, rows in found.items()
    }
    judged = [{"what": bar.what, "value": bar.value, "bar": bar.bar, "reached": bar.is_reached} for bar in bars]
    with open(path, "w") as file:
        json.dump({"machine": machine(), "us_an_item": speeds, "peak_mib": rss, "bars": judged}, file, indent=1)
    print(f"written: {path}")


if __name__ == "__main__":
    sys.exit(main())
