"""Lineage: beside every result stands which items of the source it comes from, and each is done once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlapped import Flow, Jsonl, UsageError, flow
from overlapped.items import AsyncItems
from overlapped.running import Run, RunOptions
from overlapped.testing import run as run_virtually

COUNT = 23
"""Items of the source: no multiple of a batch, so that the last one is not full."""

Origins = frozenset[int]
"""An item of these flows: the positions of the source items that it was made of. So it says itself what is due."""


async def together(origins: Any) -> Origins:
    """A batch as one item, an item as itself; some take longer, so that others overtake them."""
    parts: Iterable[Origins] = origins if isinstance(origins, list) else [origins]
    await asyncio.sleep(min((min(part) for part in parts if part), default=0) % 3)
    return frozenset().union(*parts)


async def some(origins: Origins) -> list[Origins]:
    await asyncio.sleep(len(origins) % 2)
    return [origins] * (sum(origins) % 4)


async def bit_by_bit(origins: Origins) -> Any:
    for _ in range(sum(origins) % 3):
        await asyncio.sleep(1)
        yield origins


async def picky(origins: Origins) -> bool:
    await asyncio.sleep(sum(origins) % 2)
    return sum(origins) % 3 > 0


async def fails(origins: Origins) -> Origins:
    await asyncio.sleep(sum(origins) % 2)
    if sum(origins) % 5 == 2:
        raise ValueError(origins)
    return origins


def echo() -> Any:
    item = yield
    while True:
        item = yield item


Step = tuple[str, Any]
STEPS: dict[str, Any] = {
    "map": lambda f, o, n: f.map(together, ordered=o, concurrency=n),
    "flat_map": lambda f, o, n: f.flat_map(some, ordered=o, concurrency=n),
    "flat_map, streamed": lambda f, o, n: f.flat_map(bit_by_bit, ordered=o, concurrency=n),
    "filter": lambda f, o, n: f.filter(picky, ordered=o, concurrency=n),
    "fails": lambda f, o, n: f.map(fails, ordered=o, concurrency=n),
    "caught": lambda f, o, n: f.map(fails, ordered=o, concurrency=n).catch(ValueError),
    "replaced": lambda f, o, n: f.map(fails, ordered=o, concurrency=n).catch(ValueError, replace=lambda e: e.args[0]),
    "batch and map": lambda f, o, n: f.batch(n + 1).map(together, ordered=o),
    "batch of AUTO and map": lambda f, o, n: f.batch().map(together, ordered=o),
    "batch and flatten": lambda f, o, n: f.batch(n + 1).map(same).flatten(),
    "skip": lambda f, o, n: f.skip(n),
    "through": lambda f, o, n: f.through(echo),
}


async def same(batch: list[Origins]) -> list[Origins]:
    return [frozenset().union(*batch)] * len(batch)  # whichever of them it was: it may come from each of the batch


def source() -> Flow[Origins]:
    return flow([frozenset({n}) for n in range(COUNT)])


@given(
    steps=st.lists(st.tuples(st.sampled_from(sorted(STEPS)), st.booleans(), st.integers(1, 6)), min_size=1, max_size=4)
)
def test_marks_name_the_origins_of_every_result_and_each_origin_is_done_once(steps: list[tuple[str, bool, int]]):
    described: Any = source()
    for name, ordered, limit in steps:
        described = STEPS[name](described, ordered, limit)
    done: list[int] = []

    async def main() -> None:
        run = Run(described, RunOptions("keep", on_done=lambda origin: done.append(origin.position)))
        take, chain = run.chain.take, run.chain

        def look(want: int) -> list[object]:
            chunk = take(want)
            marks = chain.marks
            assert marks is not None
            assert not chunk or len(marks) == len(chunk)
            for item, mark in zip(chunk, marks, strict=bool(chunk)):
                if isinstance(item, frozenset):
                    assert {origin.position for origin in mark} == item
                assert not {origin.position for origin in mark} & set(done), "done while a piece was on its way"
            return chunk

        chain.take = look  # type: ignore[method-assign]  # to see chunk and marks side by side
        while not run.is_over:
            if not run.take() and not run.is_over:
                await run.wait()
        run.stop()
        await asyncio.wait([run.finished])
        assert run.outcome() is None

    run_virtually(main())
    assert sorted(done) == list(range(COUNT))


def done_of(described: Flow[Any], **options: Any) -> tuple[list[int], BaseException | None]:
    """The positions that a run says are done, and what it ends with."""
    done: list[int] = []

    async def main() -> BaseException | None:
        items = AsyncItems[Any](described, RunOptions(**options, on_done=lambda origin: done.append(origin.position)))
        try:
            await items.exhaust()
            await items.aclose()
        except Exception as error:  # noqa: BLE001 - it is what the test looks at
            return error
        return None

    return done, asyncio.run(main())


def test_an_item_is_done_when_its_row_has_been_written(tmp_path):
    path = tmp_path / "out.jsonl"
    done, error = done_of(flow(range(COUNT)).flat_map(lambda n: [n] * (n % 3)).to(Jsonl(path)))
    assert error is None
    assert sorted(done) == list(range(COUNT))
    assert len(path.read_text().splitlines()) == sum(n % 3 for n in range(COUNT))


def test_what_a_failure_has_cut_off_is_not_done():
    async def load(n: int) -> int:
        if n == 7:
            raise KeyError(n)
        return n

    done, error = done_of(flow(range(COUNT)).map(load))
    assert isinstance(error, KeyError)
    assert sorted(done) == list(range(7))


def test_a_failure_that_is_kept_is_done():
    async def load(n: int) -> int:
        raise KeyError(n)

    done, error = done_of(flow(range(COUNT)).map(load), on_failure="keep")
    assert error is None
    assert sorted(done) == list(range(COUNT))


def test_what_is_beyond_take_is_not_done():
    done, _ = done_of(flow(range(COUNT)).map(lambda n: n, concurrency=8).take(5))
    assert done == [0, 1, 2, 3, 4]


def test_calls_in_threads_keep_lineage():
    done, error = done_of(flow(range(COUNT)).flat_map(lambda n: iter([n] * (n % 3)), concurrency=4, ordered=False))
    assert error is None
    assert sorted(done) == list(range(COUNT))


def test_a_flow_that_feeds_another_counts_its_results():
    done, _ = done_of(flow(flow(range(COUNT)).filter(lambda n: n % 2 == 0).batch(2)).flatten())
    assert sorted(done) == list(range(COUNT))


def pairs(items: Iterable[int]) -> Iterable[int]:
    for item in items:
        yield item + next(iter(items))


def test_a_generator_over_all_items_is_refused_since_nobody_can_tell_what_its_results_come_from():
    done, error = done_of(flow(range(COUNT)).through(pairs))
    assert isinstance(error, UsageError)
    assert "through(pairs): it gives other items than it gets" in str(error)
    assert not done


def test_without_lineage_there_is_no_second_list():
    async def main() -> None:
        run = Run(source().map(together).batch(3).flatten(), RunOptions())
        assert run.chain.marks is None
        run.stop()
        await asyncio.wait([run.finished])

    asyncio.run(main())


@pytest.mark.parametrize("ordered", [True, False])
def test_a_batch_that_was_split_stands_for_all_of_its_items(ordered: bool):
    from overlapped import Retry

    async def save(rows: list[int]) -> int:
        if len(rows) > 2:
            raise ValueError("too many")
        return sum(rows)

    saving = flow(range(COUNT)).batch(8).map(save, ordered=ordered, retry=Retry(attempts=1, split=True))
    done, error = done_of(saving)
    assert error is None
    assert sorted(done) == list(range(COUNT))
