"""What each feature costs an item in this library: the table of docs/design.md, "What each feature costs".

    python benchmarks/features.py [--smoke] [--json FILE] [--rounds N]

Each row changes one thing of a plain flow - a range, a coroutine function that does nothing, 100 calls
at once, as completed, drained by `arun` - and says what that adds. Timed: CPU, median of interleaved rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import os
import sys
import tempfile
from typing import TYPE_CHECKING, Any, NamedTuple

import peers
from measure import Row, machine, measure, table

from overlapped import AUTO, Jsonl, Rate, Retry, flow

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator

    from overlapped import Flow

PLAIN: dict[str, Any] = {"concurrency": peers.CONCURRENCY, "ordered": False}
INLINE: dict[str, Any] = {**PLAIN, "on": "inline"}
THREADS: dict[str, Any] = {**PLAIN, "on": "thread"}
MANY = Rate(1e12)  # never makes anybody wait


async def instant(item: int) -> int:
    return item


async def fails(item: int) -> int:
    raise ValueError(item)


def plain(item: int) -> int:
    return item


def is_natural(item: int) -> bool:
    return item >= 0


async def is_wanted(item: int) -> bool:
    return item >= 0


async def pair(item: int) -> list[int]:
    return [item]


async def pair_by_yield(item: int) -> AsyncIterator[int]:
    yield item


def generated(n: int) -> Iterator[int]:
    yield from range(n)


async def generated_async(n: int) -> AsyncIterator[int]:
    for item in range(n):
        yield item


def last_seen() -> Generator[int, int, None]:
    result = 0
    while True:
        result = yield result


def each(items: Iterator[int]) -> Iterator[int]:
    yield from items


async def each_async(items: AsyncIterator[int]) -> AsyncIterator[int]:
    async for item in items:
        yield item


def mapped(source: Any, **changed: Any) -> Flow[int]:
    return flow(source).map(instant, **{**PLAIN, **changed})


def list_of(n: int) -> list[int]:
    """A list made once: making it is not what is measured."""
    return _listed(n)


@functools.lru_cache(maxsize=2)
def _listed(n: int) -> list[int]:
    return list(range(n))


class Feature(NamedTuple):
    """One row: a flow of n items, and how it is run."""

    name: str
    made: Callable[[int], Flow[Any]]
    run: str = "arun"
    least: int = 1_000
    most: int = 1_000_000


def features() -> list[Feature]:
    return [
        Feature("the plain flow", lambda n: mapped(range(n))),
        # how results are taken
        Feature("`async for`, item by item", lambda n: mapped(range(n)), run="async for"),
        Feature("`for`, item by item", lambda n: mapped(range(n)), run="for"),
        Feature("`acollect()`", lambda n: mapped(range(n)), run="acollect"),
        # options of a call
        Feature("`ordered=True`", lambda n: mapped(range(n), ordered=True)),
        Feature("`concurrency=AUTO`", lambda n: mapped(range(n), concurrency=AUTO)),
        Feature("`concurrency=1`", lambda n: mapped(range(n), concurrency=1)),
        Feature("`concurrency=1000`", lambda n: mapped(range(n), concurrency=1000)),
        Feature("`timeout_s=`", lambda n: mapped(range(n), timeout_s=60)),
        Feature("`retry=`, nothing fails", lambda n: mapped(range(n), retry=Retry())),
        Feature("`rate=`, never reached", lambda n: mapped(range(n), rate=MANY)),
        Feature("`key=`, each its own", lambda n: mapped(range(n), key=plain, per_key=2)),
        Feature("`key=`, 1,000 keys", lambda n: mapped(range(n), key=lambda item: item % 1000, per_key=2)),
        # failures
        Feature("a `.catch` that sees nothing", lambda n: mapped(range(n)).catch(ValueError)),
        Feature('`on_failure="keep"`, nothing fails', lambda n: mapped(range(n)), run="keep"),
        Feature('`on_failure="keep"`, everything fails', lambda n: flow(range(n)).map(fails, **PLAIN), run="keep"),
        Feature("everything fails, `.catch` replaces it", _all_caught),
        # sources
        Feature("source: a list", lambda n: mapped(list_of(n))),
        Feature("source: a generator", lambda n: mapped(generated(n))),
        Feature("source: a function that makes one", lambda n: mapped(functools.partial(generated, n))),
        Feature("source: an async generator", lambda n: mapped(generated_async(n))),
        Feature("source: another flow", lambda n: mapped(flow(range(n)))),
        # stages after it
        Feature("second `.map`", lambda n: mapped(mapped(range(n)))),
        Feature("`.map` of a plain function, inline", lambda n: mapped(range(n)).map(plain, **INLINE)),
        Feature(
            "`.map` of a plain function, in threads", lambda n: mapped(range(n)).map(plain, **THREADS), least=10_000
        ),
        Feature("`.filter`, inline", lambda n: mapped(range(n)).filter(is_natural, **INLINE)),
        Feature("`.filter` of a coroutine function", lambda n: mapped(range(n)).filter(is_wanted, **PLAIN)),
        Feature("`.tap`, inline", lambda n: mapped(range(n)).tap(plain, **INLINE)),
        Feature("`.flat_map` to lists of one", lambda n: mapped(range(n)).flat_map(pair, **PLAIN)),
        Feature("`.flat_map` by async generators of one", lambda n: mapped(range(n)).flat_map(pair_by_yield, **PLAIN)),
        Feature("`.skip(1)`, `.take(n)`", lambda n: mapped(range(n + 1)).skip(1).take(n)),
        Feature("`.batch(100)`, `.flatten()`", lambda n: mapped(range(n)).batch(100).flatten()),
        Feature("`.batch()` of AUTO, `.flatten()`", lambda n: mapped(range(n)).batch().flatten()),
        Feature("`.through(x = yield y)`", lambda n: mapped(range(n)).through(last_seen)),
        Feature("`.through` a generator", lambda n: mapped(range(n)).through(each)),
        Feature("`.through` an async generator", lambda n: mapped(range(n)).through(each_async)),
        Feature("`.to(Jsonl)`", _to_jsonl, most=200_000),
    ]


def _all_caught(n: int) -> Flow[int]:
    return flow(range(n)).map(fails, **PLAIN).catch(ValueError, replace=0)


def _to_jsonl(n: int) -> Flow[int]:
    return mapped(range(n)).to(Jsonl(os.path.join(_FOLDER.name, "items.jsonl"), if_exists="replace"))


_FOLDER = tempfile.TemporaryDirectory(prefix="overlapped-features-")


# -- running them -----------------------------------------------------------------------------------------------


async def _arun(made: Flow[Any]) -> int:
    return (await made.arun()).items


async def _keep(made: Flow[Any]) -> int:
    report = await made.arun(on_failure="keep")
    return report.items + report.failed


async def _async_for(made: Flow[Any]) -> int:
    count = 0
    async for _ in made:
        count += 1
    return count


async def _acollect(made: Flow[Any]) -> int:
    return len(await made.acollect())


def row(feature: Feature) -> Row:
    ways: dict[str, Callable[[Flow[Any]], Awaitable[int]]] = {
        "arun": _arun,
        "keep": _keep,
        "async for": _async_for,
        "acollect": _acollect,
    }

    def run(n: int) -> int:
        if feature.run == "for":
            return sum(1 for _ in feature.made(n))

        async def main() -> int:
            return await ways[feature.run](feature.made(n))

        return asyncio.run(main())

    return Row(feature.name, run, least=feature.least, most=feature.most)


async def timeouts_of_asyncio(n: int) -> int:
    """What `timeout_s` would cost the obvious way."""
    for item in range(n):
        async with asyncio.timeout(60):
            await instant(item)
    return n


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="few items, once")
    parser.add_argument("--json", metavar="FILE", help="write all numbers there as well")
    parser.add_argument("--rounds", type=int, default=5, help="how often everything is run (5)")
    args = parser.parse_args()
    listed = features()
    rows = [
        Row("bare await", lambda n: asyncio.run(peers.bare_await(instant, n))),
        Row("asyncio.timeout", lambda n: asyncio.run(timeouts_of_asyncio(n))),
        *map(row, listed),
    ]
    measure(rows, rounds=1 if args.smoke else args.rounds, budget_s=0.1, smoke=args.smoke)
    named = {one.name: one for one in rows}
    plain_us = named["the plain flow"].cpu
    print(f"# What each feature costs: {machine()}\n")
    print(f"Bare `await`: {named['bare await'].cpu:.2f} us an item. Beside it, `asyncio.timeout` around each call")
    print(f"adds {named['asyncio.timeout'].cpu - named['bare await'].cpu:.2f} us.\n")
    lines = []
    for one in listed:
        us = named[one.name].cpu
        lines.append([one.name, f"{us:.2f}", "" if one.name == listed[0].name else f"{us - plain_us:+.2f}"])
    print(table(["feature", "us an item", "added"], lines))
    for failed in (one for one in rows if one.why_not):
        print(f"\n{failed.name}: {failed.why_not}")
    if args.json:
        found = {one.name: {"cpu_us": one.cpu_us, "items": one.n, "why_not": one.why_not} for one in rows}
        with open(args.json, "w") as file:
            json.dump({"machine": machine(), "us_an_item": found}, file, indent=1)
    return int(any(one.why_not for one in rows))


if __name__ == "__main__":
    sys.exit(main())
