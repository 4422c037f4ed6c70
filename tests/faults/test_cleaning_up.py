"""What happens while a run is taken down: errors of clean-ups, calls and sources that take their time."""

# ruff: noqa: PT017 - the body of a test runs where there is no pytest
from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
import time
import warnings
from typing import Any

from tests.faults.harness import child
from tests.faults.kit import Boom, Calls, async_numbers, flow, nap, numbers, short_grace, took


@child
async def test_calls_that_ignore_a_cancel_are_waited_for() -> None:
    ended: list[int] = []

    async def stubborn(item: int) -> int:
        for _ in range(3):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.05)
        ended.append(item)
        return item

    async with flow(itertools.count()).map(stubborn, concurrency=4).open() as items:
        await anext(items)
        before = len(ended)
    assert len(ended) >= before + 1
    assert asyncio.all_tasks() == {asyncio.current_task()}


@child
async def test_an_error_in_the_clean_up_of_a_cancelled_call_is_not_lost() -> None:
    error = Boom("while cleaning up")

    async def dirty(item: int) -> int:
        try:
            await asyncio.sleep(0 if item == 0 else 60)
        finally:
            if item:
                raise error
        return item

    items = aiter(flow(range(2)).map(dirty, concurrency=2))
    assert await anext(items) == 0
    await asyncio.sleep(0.01)
    try:
        await items.aclose()
    except BaseException as raised:  # noqa: BLE001 - itself, or in a group
        assert raised is error or error in getattr(raised, "exceptions", ())
    else:
        raise AssertionError("the error vanished")
    assert error in items.report.record.cleanup_errors


@child
async def test_all_errors_of_clean_up_are_raised_together() -> None:
    async def dirty(item: int) -> int:
        try:
            await asyncio.sleep(0 if item == 0 else 60)
        finally:
            if item:
                raise Boom(item)
        return item

    items = aiter(flow(range(4)).map(dirty, concurrency=4))
    await anext(items)
    await asyncio.sleep(0.01)
    try:
        await items.aclose()
    except ExceptionGroup as group:
        assert sorted(error.args[0] for error in group.exceptions) == [1, 2, 3]
    else:
        raise AssertionError("the errors vanished")


@child(kind=["async", "thread"])
async def test_an_error_while_a_source_is_closed_is_raised_by_close(kind: str) -> None:
    error = Boom("while closing")

    async def source() -> Any:
        try:
            async for n in async_numbers():
                yield n
        finally:
            raise error

    def plain_source() -> Any:
        try:
            yield from numbers()
        finally:
            raise error

    items = aiter(flow(source if kind == "async" else plain_source).map(nap, concurrency=2))
    await anext(items)
    try:
        await items.aclose()
    except Boom as raised:
        assert raised is error
    else:
        raise AssertionError("the error vanished")


@child
async def test_a_body_error_is_not_hidden_by_a_clean_up_error() -> None:
    mine = Boom("the body's")

    async def dirty(item: int) -> int:
        try:
            await asyncio.sleep(0 if item == 0 else 60)
        finally:
            if item:
                raise ValueError("while cleaning up")
        return item

    try:
        async with flow(range(2)).map(dirty, concurrency=2).open() as items:
            await anext(items)
            await asyncio.sleep(0.01)
            raise mine
    except Boom as raised:
        assert raised is mine
        assert "while cleaning up" in "".join(raised.__notes__)


@child
async def test_leaving_while_a_thread_call_runs_waits_for_it() -> None:
    calls = Calls()

    def slow(item: int) -> int:
        with calls.one(item):
            time.sleep(0.01 if item == 0 else 0.2)
        return item

    with took(1.5):
        async with flow(numbers()).map(slow, concurrency=3).open() as items:
            await anext(items)
    assert calls.now == 0
    assert not [t for t in threading.enumerate() if t.name.startswith("overlapped")]


@child
async def test_the_grace_of_a_thread_call_is_5_seconds() -> None:
    may_end = threading.Event()

    def blocks(item: int) -> int:
        if item:
            may_end.wait(30)
        return item

    with took(6.5, 4.5), warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        async with flow(range(5)).map(blocks, concurrency=3).open() as items:
            await anext(items)
    may_end.set()


@child(apart={"how": ["scope", "close"]})
async def test_a_thread_call_that_never_ends_is_abandoned_after_its_grace_with_a_warning(how: str) -> None:
    short_grace()
    may_end = threading.Event()

    def blocks(item: int) -> int:
        if item:
            may_end.wait(30)
        return item

    with took(1.5, 0.4), warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        items = aiter(flow(range(5)).map(blocks, concurrency=3))
        async with items if how == "scope" else contextlib.AsyncExitStack():
            await anext(items)
        await items.aclose()
    may_end.set()
    assert any(issubclass(one.category, ResourceWarning) and "blocks" in str(one.message) for one in told), told


@child(apart={"how": ["break", "scope", "cancel"]})
async def test_a_source_that_blocks_in_next_is_abandoned_after_its_grace_with_a_warning(how: str) -> None:
    short_grace()
    may_end = threading.Event()

    def blocks() -> Any:
        yield 0
        may_end.wait(30)

    with took(1.5, 0.4 if how != "break" else 0), warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        if how == "break":
            async for _ in flow(blocks).map(nap):
                break
            may_end.set()
        else:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.2 if how == "cancel" else None), flow(blocks).map(nap).open() as items:
                    async for _ in items:
                        if how == "scope":
                            break
    may_end.set()
    assert how == "break" or any(issubclass(one.category, ResourceWarning) for one in told), told


@child
async def test_a_source_that_is_slow_in_next_is_closed_in_its_own_thread() -> None:
    threads: list[int] = []

    def slow() -> Any:
        try:
            for n in itertools.count():
                threads.append(threading.get_ident())
                yield n
                time.sleep(0.1)
        finally:
            threads.append(threading.get_ident())
            threads.append(-1)

    with took(1.5):
        async with flow(slow).map(nap).open() as items:
            await anext(items)
    assert threads.pop() == -1
    assert len(set(threads)) == 1
