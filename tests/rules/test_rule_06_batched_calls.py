"""Rule 6: options of a stage fed by `batch` count calls; a failed batch is split only if that was asked for."""

from __future__ import annotations

from overlapped import CallTimeout, Rate, Retry, TooLarge
from overlapped.testing import virtual
from tests.rules.kit import Calls, aoutcome, flow, in_lane, now_s, outcome


@virtual
async def test_concurrency_counts_batches(limit):
    save = Calls(service_s=1.0)
    await flow(range(100)).batch(10).map(save, concurrency=limit).acollect()
    assert save.peak == limit
    assert now_s() == 10 / limit


@virtual
async def test_rate_counts_batches():
    save = Calls(service_s=0.0)
    await flow(range(50)).batch(10).map(save, concurrency=5, rate=Rate(1, per_s=1)).acollect()
    assert [at for _, at in save.started] == [0.0, 1.0, 2.0, 3.0, 4.0]


@virtual
async def test_rate_with_weigh_len_counts_items():
    save = Calls(service_s=0.0)
    await flow(range(25)).batch(10).map(save, concurrency=5, rate=Rate(10, per_s=1, weigh=len)).acollect()
    assert [(len(batch), at) for batch, at in save.started] == [(10, 0.0), (10, 1.0), (5, 2.0)]


@virtual
async def test_timeout_and_retry_are_for_the_whole_batch():
    save = Calls(
        service_s=lambda batch: 5.0 if len(save.started) == 1 else 0.5,
    )
    retry = Retry(attempts=2, base_s=0.25, jitter=False)
    values = await flow(range(4)).batch(4).map(save, timeout_s=1.0, retry=retry).acollect()
    assert values == [[0, 1, 2, 3]]
    assert save.started == [([0, 1, 2, 3], 0.0), ([0, 1, 2, 3], 1.25)]


@virtual
async def test_a_failed_batch_is_not_split_unless_asked(ordered):
    save = Calls(service_s=0.1, fails=lambda batch, _: ValueError("poison") if 5 in batch else None)
    retry = Retry(attempts=3, base_s=0.0)
    chain = flow(range(8)).batch(8).map(save, retry=retry, ordered=ordered)
    values, _ = await aoutcome(chain, on_failure="keep")
    assert values == []
    assert save.starts == [list(range(8))] * 3


@virtual
async def test_split_makes_halves_until_the_bad_item_is_alone(ordered, limit):
    saved: list[int] = []
    seen: list[list[int]] = []

    async def save(batch):
        seen.append(batch)
        if 5 in batch:
            raise ValueError("poison")
        saved.extend(batch)
        return len(batch)

    retry = Retry(attempts=1, split=True, base_s=0.0)
    chain = flow(range(8)).batch(8).map(save, retry=retry, ordered=ordered, concurrency=limit)
    report = await chain.arun(on_failure="keep")
    assert sorted(saved) == [0, 1, 2, 3, 4, 6, 7]
    assert report.failed == 1
    (failure,) = report.failures
    assert failure.item == [5]
    assert sorted(map(len, seen), reverse=True) == [8, 4, 4, 2, 2, 1, 1]


@virtual
async def test_too_large_splits_without_any_retry(ordered, limit):
    seen: list[list[int]] = []

    async def save(batch):
        seen.append(batch)
        if len(batch) > 3:
            raise TooLarge
        return len(batch)

    results = await flow(range(10)).batch(10).map(save, ordered=ordered, concurrency=limit).acollect()
    assert sorted(n for batch in seen if len(batch) <= 3 for n in batch) == list(range(10))
    assert sum(results) == 10


@virtual
async def test_the_parts_of_a_split_batch_leave_in_order():
    async def save(batch):
        if len(batch) > 1:
            raise TooLarge
        await Calls(service_s=lambda b: 4.0 - b[0])(batch)
        return batch

    results = await flow(range(8)).batch(4).map(save, concurrency=5).acollect()
    assert [n for batch in results for n in batch] == list(range(8))


@virtual
async def test_one_item_that_is_too_large_is_a_failure():
    async def save(batch):
        raise TooLarge

    values, error = await aoutcome(flow([7]).batch(4).map(save))
    assert values == []
    assert type(error) is TooLarge


def test_too_large_splits_in_every_lane(lane, way):
    def save(batch):
        if len(batch) > 2:
            raise TooLarge
        return len(batch)

    values, error = outcome(flow(range(8)).batch(8).map(in_lane(lane, save), on=lane), way)
    assert error is None
    assert sum(values) == 8


@virtual
async def test_too_large_of_an_item_that_is_no_batch_is_a_failure():
    async def save(item):
        raise TooLarge

    _, error = await aoutcome(flow([[1, 2, 3]]).map(save))
    assert type(error) is TooLarge


@virtual
async def test_a_timed_out_batch_is_not_split_by_itself():
    save = Calls(service_s=5.0)
    _, error = await aoutcome(flow(range(4)).batch(4).map(save, timeout_s=1.0))
    assert type(error) is CallTimeout
    assert len(save.started) == 1
