"""Rule 23: `drain`, `stats`, `report` and `explain` always exist and can be used from anywhere."""

from __future__ import annotations

import asyncio
import dataclasses
import signal
import subprocess
import sys
import threading
import time

import pytest

from overlapped import Rate, Report, Retry, RunRecord, StageRecord, UsageError
from overlapped.testing import virtual
from tests.rules.kit import (
    LONG_S,
    Calls,
    Pulled,
    arriving,
    cap,
    concat,
    fail_at,
    flow,
    in_lane,
    merge,
    same,
    settle,
    warnings_as_they_come,
    zip_,
)

# -- drain ----------------------------------------------------------------------------------------------------


@virtual
async def test_drain_stops_pulling_finishes_what_was_pulled_and_ends_normally(ordered, limit):
    pulled = Pulled()
    calls = Calls(service_s=1.0)
    values = []
    async with flow(pulled.of("async generator")).map(calls, concurrency=limit, ordered=ordered).open() as items:
        async for n in items:
            values.append(n)
            if len(values) == 3:
                items.drain()
                await settle()
                stopped_at = pulled.count
    assert pulled.count == stopped_at
    assert sorted(values) == list(range(stopped_at))
    assert calls.cancelled == []
    assert items.report.record.state == "stopped"
    assert pulled.closed == 1


@virtual
async def test_drain_starts_nothing_of_a_list_beyond_the_look_ahead(ordered, limit):
    calls = Calls(service_s=1.0)
    values = []
    async with flow(list(range(5_000))).map(calls, concurrency=limit, ordered=ordered).open() as items:
        async for n in items:
            values.append(n)
            if len(values) == 3:
                items.drain()
    assert len(values) <= 3 + cap(limit)
    assert sorted(values) == sorted(calls.starts) == list(range(len(values)))


def test_drain_gives_threads_nothing_of_a_list_beyond_the_look_ahead():
    values = []
    with flow(list(range(5_000))).map(same, on="thread", concurrency=2).open() as items:
        for n in items:
            values.append(n)
            if len(values) == 3:
                items.drain()
    assert values == list(range(len(values)))
    assert len(values) < 1_000  # threads go on until the loop hears of it, but no further than the look-ahead


@virtual
async def test_drain_flushes_open_batches():
    pulled = Pulled()
    calls = Calls(service_s=1.0)
    batches = []
    async with flow(pulled.of("async generator")).map(calls, concurrency=1).batch(4).map(same_async).open() as items:
        async for batch in items:
            batches.append(batch)
            items.drain()
    assert [n for batch in batches for n in batch] == list(range(pulled.count))


@pytest.mark.parametrize("kind", ["generator", "async generator", "coroutine"])
def test_drain_before_a_source_function_has_returned_pulls_nothing_of_what_it_gives(kind):
    pulled = Pulled(total=100)
    is_called, may_return = threading.Event(), threading.Event()

    def make():
        is_called.set()
        assert may_return.wait(LONG_S)
        return gives() if kind == "coroutine" else pulled.of(kind)

    async def gives():
        return pulled.of("generator")

    async def main():
        async with flow(make).map(same).open() as items:
            assert await asyncio.to_thread(is_called.wait, LONG_S)
            items.drain()
            await settle()  # it comes by way of the loop
            may_return.set()
            assert [n async for n in items] == []
        return items.report.record.state

    assert asyncio.run(main()) == "stopped"
    assert pulled.count == 0


async def same_async(item):
    return item


@virtual
async def test_drain_finishes_parked_items_too():
    calls = Calls(service_s=0.125, fails=lambda n, attempt: ValueError(n) if n == 0 and attempt == 1 else None)
    retry = Retry(attempts=2, base_s=5.0, jitter=False)
    async with flow(range(3)).map(calls, concurrency=1, retry=retry).open() as items:
        await asyncio.sleep(1)
        items.drain()
        assert [n async for n in items] == [0, 1, 2]


@virtual
async def test_drain_before_the_first_item_and_twice_and_after_the_end():
    async with flow(Pulled().of("async generator")).map(Calls(service_s=1.0)).open() as items:
        items.drain()
        items.drain()
        values = [n async for n in items]
        items.drain()
    assert values == list(range(len(values)))
    items.drain()


@virtual
async def test_a_failure_while_draining_is_raised():
    calls = Calls(service_s=1.0, fails=lambda n, _: ValueError(n) if n == 1 else None)

    async def consume():
        async with flow(range(1000)).map(calls, concurrency=2).open() as items:
            await asyncio.sleep(0.5)
            items.drain()
            return [n async for n in items]

    with pytest.raises(ValueError, match="1"):
        await consume()


def test_drain_ends_every_kind_of_source(source, lane, way):
    chain = flow(Pulled().of(source)).map(in_lane(lane, same), on=lane, concurrency=3).batch(5)
    batches = []
    if way == "for":
        with chain.open() as items:
            for batch in items:
                batches.append(batch)
                items.drain()
    else:

        async def main():
            async with chain.open() as aitems:
                async for batch in aitems:
                    batches.append(batch)
                    aitems.drain()

        asyncio.run(main())
    numbers = [n for batch in batches for n in batch]
    assert numbers == list(range(len(numbers)))


@pytest.mark.parametrize("several", [merge, concat, zip_])
def test_drain_ends_several_sources(several, way):
    chain = several(flow(Pulled().of("generator")).map(same), flow(Pulled().of("async generator")).map(same))
    count = 0
    if way == "for":
        with chain.open() as items:
            for _ in items:
                count += 1
                if count == 10:
                    items.drain()
    else:

        async def main():
            nonlocal count
            async with chain.open() as aitems:
                async for _ in aitems:
                    count += 1
                    if count == 10:
                        aitems.drain()

        asyncio.run(main())
    assert 10 <= count < 10_000


def test_drain_ends_a_through_generator_normally(way):
    def each(items):
        yield from items
        yield "the generator saw the end"

    chain = flow(Pulled().of("generator")).map(same).through(each)
    values = []
    with chain.open() as items:
        for value in items:
            values.append(value)
            if len(values) == 5:
                items.drain()
    assert values[-1] == "the generator saw the end"
    assert values[:-1] == list(range(len(values) - 1))


def test_drain_is_safe_from_any_thread():
    with flow(Pulled().of("generator")).map(same).open() as items:
        next(items)
        thread = threading.Thread(target=items.drain)
        thread.start()
        values = list(items)
        thread.join(5)
    assert values == list(range(1, len(values) + 1))


def test_drain_is_safe_in_a_signal_handler():
    items_of: list = []
    before = signal.signal(signal.SIGUSR1, lambda *_: items_of[0].drain())
    try:
        with flow(Pulled().of("generator")).map(same).open() as items:
            items_of.append(items)
            values = [next(items)]
            signal.raise_signal(signal.SIGUSR1)
            values += list(items)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert values == list(range(len(values)))


@pytest.mark.slow
def test_drain_does_not_wait_long_for_a_source_that_blocks(monkeypatch):
    monkeypatch.setattr("overlapped._engine.pulled.GRACE_S", 0.05)
    may_end = threading.Event()

    def source():
        yield 1
        may_end.wait(5)
        yield 2

    try:
        with warnings_as_they_come() as warned, flow(source).map(same).open() as items:
            assert next(items) == 1
            items.drain()
            before = time.monotonic()
            assert list(items) == []
            assert time.monotonic() - before < 2
        assert "source" in "".join(warned)
    finally:
        may_end.set()


# -- Ctrl-C ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("use", ["for n in chain: pass", "chain.run()", "asyncio.run(chain.arun())"])
def test_ctrl_c_cancels_and_raises(use):
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            "-c",
            f"""
import asyncio, os, signal, threading, time
from overlapped import flow
begun = []
def interrupt():
    while len(begun) < 3:
        time.sleep(0.01)
    time.sleep(0.02)
    os.kill(os.getpid(), signal.SIGINT)
def source():
    try:
        n = 0
        while True:
            yield n
            n += 1
    finally:
        print("closed", flush=True)
cancelled = []
async def fn(n):
    begun.append(n)
    try:
        await asyncio.sleep(1000)
    except asyncio.CancelledError:
        cancelled.append(n)
        raise
chain = flow(source).map(fn, concurrency=3)
threading.Thread(target=interrupt, daemon=True).start()
try:
    {use}
except KeyboardInterrupt:
    deadline = time.monotonic() + 5
    while len(cancelled) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    print("interrupted", sorted(cancelled), flush=True)
""",
        ],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(done.stdout.splitlines()) == ["closed", "interrupted [0, 1, 2]"]


# -- stats and report -------------------------------------------------------------------------------------------


@virtual
async def test_stats_is_a_frozen_snapshot_of_the_run_now():
    calls = Calls(service_s=1.0)
    async with flow(range(10)).map(calls, concurrency=2, name="fetch").open() as items:
        await anext(items)
        now = items.stats()
        assert isinstance(now, RunRecord)
        assert (now.state, now.items) in {("running", 1), ("running", 2)}
        assert now.elapsed_s == 1.0
        (stage,) = now.stages
        assert isinstance(stage, StageRecord)
        assert (stage.name, stage.verb, stage.lane, stage.limit) == ("fetch", "map", "coroutine", 2)
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(now, "items", 5)  # noqa: B010 - mypy knows better
        rest_ = [n async for n in items]
        assert (now.state, now.elapsed_s) == ("running", 1.0)
    assert len(rest_) == 9
    final = items.stats()
    assert (final.state, final.items, final.elapsed_s) == ("done", 10, 5.0)
    assert final.stages[0].service_s == pytest.approx(10.0)
    assert final.overlap == pytest.approx(2.0)
    assert final.stages[0].mean_service_s == pytest.approx(1.0)


@virtual
async def test_every_stage_counts_in_and_out_calls_and_failures(ordered):
    fetch = Calls(service_s=0.1, fails=lambda n, _: ValueError(n) if n == 3 else None)

    async def even(n):
        return n % 2 == 0

    chain = flow(range(10)).map(fetch, concurrency=2, ordered=ordered, name="fetch")
    report = await chain.filter(even, ordered=ordered, name="even").batch(2).map(same_async).arun(on_failure="keep")
    first, second, third = report.stages
    assert (first.items_in, first.items_out, first.calls, first.failed) == (10, 9, 10, 1)
    assert (second.items_in, second.items_out, second.calls, second.failed) == (10, 5, 9, 0)
    assert third.calls == 3
    assert (report.items, report.failed) == (3, 1)


@virtual
async def test_starved_and_blocked_time_are_told_apart():
    calls = Calls(service_s=1.0)
    async with flow(arriving(0, 10)).map(calls, concurrency=1).open() as items:
        assert [n async for n in items] == [0, 1]
    (stage,) = items.report.stages
    assert stage.starved_s == pytest.approx(9.0)
    assert stage.blocked_s == 0
    calls = Calls(service_s=1.0)
    async with flow(range(100)).map(calls, concurrency=1).open() as items:
        await anext(items)
        await asyncio.sleep(100)
        await anext(items)
    (stage,) = items.report.stages
    assert stage.blocked_s > 50


@pytest.mark.parametrize(
    ("ending", "state"),
    [
        ("end", "done"),
        ("failure", "failed"),
        ("break", "cancelled"),
        ("drain", "stopped"),
        ("take", "done"),
        ("stop", "done"),
    ],
)
@virtual
async def test_the_final_state_says_how_the_run_ended(ending, state):
    chain = flow(range(5)).map(Calls(service_s=1.0, fails=lambda n, _: ValueError(n) if ending == "failure" else None))
    if ending == "take":
        chain = chain.take(2)
    if ending == "stop":
        chain = chain.map(in_lane("coroutine", fail_at(3))).catch(ValueError, stop=True)
    items_of = []

    async def consume():
        async with chain.open() as items:
            items_of.append(items)
            async for _ in items:
                if ending == "break":
                    break
                if ending == "drain":
                    items.drain()

    if ending == "failure":
        with pytest.raises(ValueError, match="0"):
            await consume()
    else:
        await consume()
    assert items_of[0].report.record.state == state


def test_stats_and_report_exist_from_the_start_to_after_the_end(way):
    chain = flow(range(3)).map(same)
    if way == "for":
        items = iter(chain)
        assert items.stats().items == 0
        assert list(items) == [0, 1, 2]
        assert isinstance(items.report, Report)
        assert items.report.items == 3
        assert items.report.record is items.stats() or items.report.record == items.stats()
        return

    async def main():
        aitems = aiter(chain)
        assert aitems.stats().items == 0
        assert [n async for n in aitems] == [0, 1, 2]
        assert aitems.report.items == 3

    asyncio.run(main())


@virtual
async def test_looking_at_a_run_does_not_begin_it():
    pulled = Pulled()
    items = aiter(flow(pulled.of("async generator")).map(Calls()))
    for state in ("running", "cancelled"):
        assert (items.stats().state, items.report.record.state) == (state, state)
        assert (items.stats().items, items.report.items, str(items.report) != "") == (0, 0, True)
        await settle()
        assert (pulled.began, len(asyncio.all_tasks())) == (0, 1)
        await items.aclose()
    async with items:
        await settle()
    assert [n async for n in items] == []
    assert pulled.began == 0


def test_a_run_that_has_not_begun_can_be_looked_at_without_a_loop():
    items = aiter(flow([1]).map(same))
    assert items.stats().state == items.report.record.state == "running"
    assert len(items.report.html()) > 0


def test_stats_and_report_can_be_read_outside_of_the_loop():
    async def main():
        async with flow(range(3)).map(same).open() as aitems:
            assert await asyncio.to_thread(lambda: aitems.stats().state) == "running"
            assert [n async for n in aitems] == [0, 1, 2]
        return aitems

    items = asyncio.run(main())
    assert items.report.items == 3
    assert items.stats().state == "done"


def test_stats_may_be_asked_for_by_another_thread_meanwhile():
    records = []
    with flow(Pulled(total=3000).of("generator")).map(same, concurrency=3).open() as items:
        stop = threading.Event()

        def watch():
            while not stop.is_set():
                records.append(items.stats())

        thread = threading.Thread(target=watch)
        thread.start()
        count = sum(1 for _ in items)
        stop.set()
        thread.join(5)
    assert count == 3000
    assert [r.items for r in records] == sorted(r.items for r in records)


def test_the_report_is_text_for_people():
    report = flow(range(5)).map(same, name="fetch").run()
    assert "fetch" in str(report)
    assert "5" in str(report)


def test_progress_is_called_with_records_and_once_more_at_the_end():
    async def slow(n):
        await asyncio.sleep(0.01)
        return n

    seen: list[RunRecord] = []
    report = flow(range(30)).map(slow, concurrency=1).run(progress=seen.append)
    assert seen[0].state == "running"
    assert seen[-1].state == "done"
    assert seen[-1] == report.record
    assert [r.items for r in seen] == sorted(r.items for r in seen)


@virtual
async def test_progress_is_called_five_times_a_second():
    seen: list[float] = []
    chain = flow(range(10)).map(Calls(service_s=0.1), concurrency=1)
    await chain.arun(progress=lambda record: seen.append(record.elapsed_s))
    assert seen == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8, 1.0]) or seen == pytest.approx(
        [0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.0]
    )


def test_an_async_progress_function_is_refused_before_anything_runs():
    async def show(record):
        print(record)

    ran: list[int] = []
    with pytest.raises(UsageError, match="progress must be a plain function"):
        flow([1]).map(ran.append).run(progress=show)
    assert ran == []


def test_a_broken_progress_function_loses_no_item():
    def broken(record):
        raise RuntimeError("display")

    seen: list[int] = []
    chain = flow(range(5)).map(same).tap(seen.append)
    with pytest.raises(RuntimeError, match="display"):
        chain.run(progress=broken)
    assert seen == list(range(5))


# -- explain ----------------------------------------------------------------------------------------------------


def test_explain_prints_each_stage_with_its_lane_options_and_why(capsys):
    async def fetch(url, session):
        return url

    def parse(page):
        return [page]

    def total():
        while True:
            yield 1

    chain = (
        flow(["a"])
        .map(fetch, concurrency=7, ordered=False, timeout_s=2.5, rate=Rate(10), retry=Retry(attempts=4))
        .flat_map(parse, on="inline", name="split")
        .filter(bool)
        .take(5)
        .skip(1)
        .batch(10, linger_s=0.5)
        .flatten()
        .through(total)
        .catch(ValueError, replace=0)
        .using(session=lambda: 1)
    )
    text = chain.explain()
    assert capsys.readouterr().out.strip() == text.strip()
    lines = text.splitlines()
    assert len(lines) >= 11
    for words in (
        ["source"],
        ["map fetch", "coroutine", "7", "as completed", "2.5", "10", "attempts=4", "session"],
        ["flat_map", "split", "inline"],
        ["filter", "thread", "may block"],
        ["take", "5"],
        ["skip", "1"],
        ["batch", "10", "0.5"],
        ["flatten"],
        ["through", "total"],
        ["catch", "ValueError"],
        ["using session"],
    ):
        assert any(all(word in line for word in words) for line in lines), words


def test_repr_shows_the_chain_as_it_was_written():
    def fetch(n):
        return n

    assert repr(flow([1]).map(fetch).take(5).batch(2)) == "flow(list).map(fetch).take(5).batch(2)"
