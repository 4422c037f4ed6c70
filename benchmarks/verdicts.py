"""How often the verdict is wrong: random flows of which it is known what sets their pace, on the virtual clock.

    python benchmarks/verdicts.py              200 flows (a minute or two)
    python benchmarks/verdicts.py --flows 20   fewer
    python benchmarks/verdicts.py --seed 7     other ones
    python benchmarks/verdicts.py --margin 1.2 the next slowest part is at least so many times as fast (1.5)

A flow has one to four stages; each is given a capacity in items a second, by its slots and service time, by its
service, a rate, a quota or a key; so are the source and the consumer. The smallest is what the verdict must name.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from overlapped import Rate, Retry, flow
from overlapped.report.verdict import verdict
from overlapped.testing import run
from overlapped.testing.scenarios import FakeServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MOST_WRONG = 0.05
LASTS_S = 20.0
FEW = ("few", "straggler")
PARTS = ("limit", "limit", "limit", "service", "rate", "pace", "key")


@dataclass
class Part:
    kind: str
    name: str
    per_s: float
    step: dict[str, Any]
    fn: Any = None


def make_part(kind: str, name: str, per_s: float, chance: random.Random) -> Part:
    """A stage that can do `per_s` items a second."""
    slots = chance.choice([1, 2, 4, 8, 16, 32])
    sigma = chance.choice([0.0, 0.0, 0.2, 0.5])
    service_s = slots / per_s

    def took_s(server: FakeServer, _: Any) -> float:
        return service_s * server.random.lognormvariate(-sigma * sigma / 2, sigma)

    seed = chance.randrange(10**9)
    step: dict[str, Any] = {"ordered": chance.random() < 0.6}
    if kind == "limit":
        fn = FakeServer(took_s, seed=seed)
        step["concurrency"] = slots
    elif kind == "service":
        fn = FakeServer(took_s, workers=slots, seed=seed)
    elif kind == "rate":
        service_s = chance.uniform(0.5, 5) / per_s
        fn = FakeServer(took_s, seed=seed)
        step |= {"concurrency": 32, "rate": Rate(per_s)}
    elif kind == "pace":
        service_s = chance.uniform(0.5, 5) / per_s
        fn = FakeServer(took_s, rate_per_s=per_s, burst=2, seed=seed)
        step["retry"] = Retry(attempts=1_000, base_s=0.05, cap_s=1.0)
    else:  # one key in four is 40 % of the items
        service_s = 1 / per_s / 0.4
        fn = FakeServer(took_s, seed=seed)
        step |= {"concurrency": 16, "key": lambda item: min(item % 10, 6) if item % 10 > 3 else 0, "per_key": 1}
    fn.__name__ = name
    return Part(kind, name, per_s, step, fn)


def make_flow(seed: int, margin: float) -> tuple[list[Part], int, str, str]:
    """Parts, number of items, and what the verdict must say: kind and stage."""
    chance = random.Random(seed)
    names = ["fetch", "parse", "look_up", "save"][: chance.randint(1, 4)]
    slowest = chance.choice([*range(len(names)), *range(len(names)), "source", "consumer"])
    per_s = chance.uniform(10, 100)

    def faster() -> float:
        return per_s * chance.uniform(margin, 5)

    kinds = [chance.choice(PARTS) for _ in names]
    if chance.random() < 0.05:
        parts = [make_part("limit", name, faster(), chance) for name in names]
        return parts, chance.randint(1, 5), "few", ""
    source = Part("source", "", per_s if slowest == "source" else faster(), {})
    consumer = Part("consumer", "", per_s if slowest == "consumer" else faster(), {})
    stages = [
        make_part(kind, name, per_s if at == slowest else faster(), chance)
        for at, (kind, name) in enumerate(zip(kinds, names, strict=True))
    ]
    expected = slowest if isinstance(slowest, str) else stages[slowest].kind
    named = "" if isinstance(slowest, str) else stages[slowest].name
    return [source, *stages, consumer], int(per_s * LASTS_S), str(expected), named


async def drive(parts: list[Part], items: int) -> Any:
    has_ends = parts[0].kind == "source"
    source, stages, consumer = (parts[0], parts[1:-1], parts[-1]) if has_ends else (None, parts, None)

    async def coming() -> AsyncIterator[int]:
        assert source is not None
        for number in range(items):
            await asyncio.sleep(1 / source.per_s)
            yield number

    chain: Any = flow(coming() if source is not None else range(items))
    for part in stages:
        chain = chain.map(part.fn, name=part.name, **part.step)
    async with chain.open() as results:
        async for _ in results:
            if consumer is not None:
                await asyncio.sleep(1 / consumer.per_s)
    return results.report.record


def judge(seed: int, margin: float) -> tuple[bool, str]:
    parts, items, kind, stage = make_flow(seed, margin)
    found = verdict(run(drive(parts, items)))[0]
    same_kind = found.kind == kind or (kind == "few" and found.kind in FEW) or (kind, found.kind) == ("service", "ramp")
    right = same_kind and (found.stage == stage or kind == "few")
    line = f"{seed}: {[(p.kind, round(p.per_s), p.step.get('concurrency')) for p in parts]} x {items}: "
    return right, line + f"wanted {kind} {stage}, got {found.kind} {found.stage}: {found.says}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flows", type=int, default=200, help="how many (200)")
    parser.add_argument("--seed", type=int, default=0, help="of the first")
    parser.add_argument(
        "--margin", type=float, default=1.5, help="the next slowest part is so many times as fast (1.5)"
    )
    parser.add_argument("--smoke", action="store_true", help="10 flows; fails on no bar")
    args = parser.parse_args()
    flows = 10 if args.smoke else args.flows
    wrong = []
    seen: Counter[str] = Counter()
    for seed in range(args.seed, args.seed + flows):
        right, line = judge(seed, args.margin)
        seen[make_flow(seed, args.margin)[2]] += 1
        if not right:
            wrong.append(line)
            print(f"wrong  {line}")
    share = len(wrong) / flows
    print(
        f"{flows} flows ({dict(seen)}), margin {args.margin:g}: {len(wrong)} wrong ({share:.1%}; bar {MOST_WRONG:.0%})"
    )
    return 0 if args.smoke or share <= MOST_WRONG else 1


if __name__ == "__main__":
    sys.exit(main())
