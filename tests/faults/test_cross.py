"""Every kind of stage before every kind, under every fault, in both orders.

One process runs all pairs of kinds for one fault and order. Each pair: no hang, the right exception as itself,
the results before it (ordered), and afterwards no task, thread or descriptor.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
from typing import Any

from overlapped import RemoteError
from tests.faults.harness import BUSY_KEY, child
from tests.faults.kit import Boom, flow, gather_from, pull_from

KINDS = ["coroutine", "inline", "thread", "flat_map", "async_flat_map", "through", "async_through", "send"]
HOSTED = {
    "process": "process",
    "async_process": "process",
    "flat_process": "process",
    "greenlet": "greenlet",
    "flat_greenlet": "greenlet",
}
"""Kinds whose calls run in other processes, and their lanes; `test_cross_hosts` puts them beside all others."""

ORDERS = {"ordered": [True, False]}
SOME_PAIRS = [(first, KINDS[(at + shift) % 8]) for at, first in enumerate(KINDS) for shift in (0, 3, 5)]
AT = 30  # the item that fails
ENOUGH_S = 4.0 * float(os.environ.get(BUSY_KEY, "1"))


def stage(  # noqa: C901 - one small function a kind
    chain: Any, kind: str, *, ordered: bool, error: BaseException | None = None
) -> Any:
    """`chain` with one more stage of that kind, which passes items on, or fails at one."""

    def check(item: int) -> int:
        if error is not None and item == AT:
            raise error
        return item

    async def awaited(item: int) -> int:
        try:
            await asyncio.sleep(0.001 * (item % 3))
        finally:
            await asyncio.sleep(0)
        return check(item)

    def short(item: int) -> int:
        return check(item)

    def blocks(item: int) -> int:
        time.sleep(0.001 * (item % 3))
        return check(item)

    def parts(item: int) -> Any:
        yield check(item)

    async def async_parts(item: int) -> Any:
        await asyncio.sleep(0)
        yield check(item)

    def over(items: Any) -> Any:
        for item in items:
            yield check(item)

    async def over_async(items: Any) -> Any:
        async for item in items:
            yield check(item)

    def sent() -> Any:
        item = yield
        while True:
            item = yield check(item)

    options: dict[str, Any] = {"concurrency": 3, "ordered": ordered}
    if kind in ("flat_map", "async_flat_map"):
        return chain.flat_map(parts if kind == "flat_map" else async_parts, **options)
    if kind in ("through", "async_through", "send"):
        return chain.through({"through": over, "async_through": over_async, "send": sent}[kind])
    if kind in ("flat_process", "flat_greenlet"):
        return chain.flat_map(parts, on=HOSTED[kind], **options)
    fn: Any = {"coroutine": awaited, "inline": short, "async_process": awaited}.get(kind, blocks)
    return chain.map(fn, on=HOSTED.get(kind, kind), **options)


def source(second: str, stop: int | None = None, error: BaseException | None = None) -> Any:
    """A source whose own kind changes with the second stage's, so that each meets each."""

    def numbers() -> Any:
        n = 0
        while stop is None or n < stop:
            yield n
            n += 1
        if error is not None:
            raise error

    async def async_numbers() -> Any:
        for n in numbers():
            yield n
            await asyncio.sleep(0)

    return async_numbers if [*KINDS, *HOSTED].index(second) % 2 else numbers


def expect(raised: BaseException | None, error: BaseException | None, got: list[int], *, ordered: bool) -> None:
    """The error as itself; in order, all results before it; none twice."""
    assert is_same(raised, error), repr(raised)
    assert len(set(got)) == len(got)
    assert not ordered or got == list(range(AT)), got


def threads_and_processes() -> list[str]:
    """Those of ours, by name."""
    found = [thread.name for thread in threading.enumerate() if thread.name.startswith("overlapped")]
    for task in os.listdir("/proc/self/task") if os.path.isdir("/proc/self/task") else ():
        with contextlib.suppress(OSError), open(f"/proc/self/task/{task}/children", encoding="ascii") as file:
            found += [f"process {pid}" for pid in file.read().split()]
    return found


def is_same(raised: BaseException | None, error: BaseException | None) -> bool:
    """The error itself; from another process, a copy that says so."""
    return raised is error or (type(raised) is type(error) and isinstance(getattr(raised, "__cause__", 0), RemoteError))


async def nothing_is_left(*, soon: bool = False) -> None:
    """No task, no thread and no process of ours: at once, or soon after a bare break."""
    deadline = time.monotonic() + (2 if soon else 0)
    while True:
        left = [*(asyncio.all_tasks() - {asyncio.current_task()}), *threads_and_processes()]
        if not left:
            return
        assert time.monotonic() < deadline, f"left: {left}"
        await asyncio.sleep(0.001)


@child(apart=ORDERS, first=KINDS, second=KINDS)
async def test_an_error_in_the_first_stage(first: str, second: str, ordered: bool) -> None:
    error, got = Boom(), list[int]()
    chain = stage(flow(source(second)), first, ordered=ordered, error=error)
    items = aiter(stage(chain, second, ordered=ordered))
    raised = await asyncio.wait_for(gather_from(items, got), ENOUGH_S)
    expect(raised, error, got, ordered=ordered)
    await nothing_is_left()


@child(apart=ORDERS, first=KINDS, second=KINDS)
async def test_an_error_in_the_last_stage(first: str, second: str, ordered: bool) -> None:
    error, got = Boom(), list[int]()
    chain = stage(flow(source(second)), first, ordered=ordered)
    items = aiter(stage(chain, second, ordered=ordered, error=error))
    raised = await asyncio.wait_for(gather_from(items, got), ENOUGH_S)
    expect(raised, error, got, ordered=ordered)
    await nothing_is_left()


@child(apart=ORDERS, first=KINDS, second=KINDS)
async def test_an_error_in_the_source(first: str, second: str, ordered: bool) -> None:
    error, got = Boom(), list[int]()
    chain = stage(flow(source(second, AT, error)), first, ordered=ordered)
    items = aiter(stage(chain, second, ordered=ordered))
    raised = await asyncio.wait_for(gather_from(items, got), ENOUGH_S)
    assert sorted(got) == list(range(AT)), "all earlier results come first, in both orders"
    expect(raised, error, got, ordered=ordered)
    await nothing_is_left()


@child(apart=ORDERS, first=KINDS, second=KINDS)
async def test_failures_that_are_kept(first: str, second: str, ordered: bool) -> None:
    error, got = Boom(), list[int]()
    chain = stage(flow(source(second, 2 * AT)), first, ordered=ordered, error=error)
    async with stage(chain, second, ordered=ordered).open(on_failure="keep") as items:
        raised = await asyncio.wait_for(gather_from(items, got), ENOUGH_S)
    if first in ("through", "async_through", "send"):  # its frame is dead
        expect(raised, error, got, ordered=ordered)
    else:
        assert raised is None
        assert sorted(got) == [n for n in range(2 * AT) if n != AT]
        assert not ordered or got == sorted(got)
        (failure,) = items.report.record.failures
        assert is_same(failure.error, error), repr(failure)
    await nothing_is_left()


@child(apart=ORDERS, first=KINDS, second=KINDS)
async def test_a_break(first: str, second: str, ordered: bool) -> None:
    chain = stage(stage(flow(source(second)), first, ordered=ordered), second, ordered=ordered)

    async def bare() -> None:
        n = 0
        async for _ in chain:
            n += 1
            if n == 40:
                break

    async def scoped() -> None:
        async with chain.open() as items:
            for _ in range(40):
                await anext(items)

    await asyncio.wait_for(bare(), ENOUGH_S)
    await nothing_is_left(soon=True)
    await asyncio.wait_for(scoped(), ENOUGH_S)
    await nothing_is_left()


@child(apart=ORDERS, first=KINDS, second=KINDS)
async def test_taking_some(first: str, second: str, ordered: bool) -> None:
    chain = stage(stage(flow(source(second)), first, ordered=ordered), second, ordered=ordered)
    got = await asyncio.wait_for(chain.take(AT).acollect(), ENOUGH_S)
    expect(None, None, got, ordered=ordered)
    assert len(got) == AT
    await nothing_is_left()


@child(apart=ORDERS | {"times": [1, 2]}, first=KINDS, second=KINDS)
async def test_a_cancel(first: str, second: str, ordered: bool, times: int) -> None:
    chain = stage(stage(flow(source(second)), first, ordered=ordered), second, ordered=ordered)
    got: list[Any] = []

    async def consume() -> None:
        async with chain.open() as items:
            async for item in items:
                got.append(item)  # noqa: PERF401 - those before the end count

    task = asyncio.create_task(consume())
    deadline = time.monotonic() + ENOUGH_S
    while len(got) < 20 and time.monotonic() < deadline:
        await asyncio.sleep(0.001)
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0)
    await asyncio.wait([task], timeout=ENOUGH_S)
    assert task.cancelled(), f"after {len(got)} items: {task}"
    assert not ordered or got == list(range(len(got)))
    del task
    await nothing_is_left()


@child(apart=ORDERS, pair=SOME_PAIRS)
async def test_a_flow_in_a_flow(  # noqa: C901 - one small function a kind
    pair: tuple[str, str], ordered: bool
) -> None:
    first, second = pair

    def inner() -> Any:
        return stage(flow(range(5)), second, ordered=ordered)

    async def awaited(item: int) -> int:
        return sum(await inner().acollect())

    def blocks(item: int) -> int:
        return sum(inner())

    def parts(item: int) -> Any:
        yield from inner()

    async def async_parts(item: int) -> Any:
        async for part in inner():
            yield part

    def over(items: Any) -> Any:
        for _ in items:
            yield from inner()

    async def over_async(items: Any) -> Any:
        async for _ in items:
            async for part in inner():
                yield part

    def sent() -> Any:
        yield
        while True:
            yield inner().collect()

    options: dict[str, Any] = {"concurrency": 3, "ordered": ordered}
    outer = flow(source(second))
    chain: Any = {
        "coroutine": lambda: outer.map(awaited, **options),
        "inline": lambda: outer.map(blocks, on="inline", **options),
        "thread": lambda: outer.map(blocks, on="thread", **options),
        "flat_map": lambda: outer.flat_map(parts, **options),
        "async_flat_map": lambda: outer.flat_map(async_parts, **options),
        "through": lambda: outer.through(over),
        "async_through": lambda: outer.through(over_async),
        "send": lambda: outer.through(sent),
    }[first]()
    got = await asyncio.wait_for(chain.take(12).acollect(), ENOUGH_S)
    assert len(got) == 12
    await nothing_is_left(soon=True)
    async with chain.open() as items:
        await asyncio.wait_for(anext(items), ENOUGH_S)
    await nothing_is_left(soon=True)


# -- the same with a plain loop ------------------------------------------------------------------------------------


def threads_are_gone(*, soon: bool = False) -> None:
    """No thread of ours, and no process."""
    deadline = time.monotonic() + (2 if soon else 0)
    while names := threads_and_processes():
        assert time.monotonic() < deadline, f"left: {names}"
        time.sleep(0.001)


@child(apart={"where": ["source", "first", "last"]}, pair=SOME_PAIRS, ordered=[True, False])
def test_an_error_in_a_plain_loop(pair: tuple[str, str], ordered: bool, where: str) -> None:
    first, second = pair
    error, got = Boom(), list[int]()
    errors = {where: error}
    of = source(second, AT, error) if where == "source" else source(second)
    chain = stage(flow(of), first, ordered=ordered, error=errors.get("first"))
    items = iter(stage(chain, second, ordered=ordered, error=errors.get("last")))
    expect(pull_from(items, got), error, got, ordered=ordered)
    threads_are_gone()


@child(apart=ORDERS, first=KINDS, second=KINDS)
def test_a_break_in_a_plain_loop(first: str, second: str, ordered: bool) -> None:
    chain = stage(stage(flow(source(second)), first, ordered=ordered), second, ordered=ordered)
    for n, _ in enumerate(chain):
        if n == 40:
            break
    threads_are_gone(soon=True)
    with chain.open() as items:
        for _ in range(40):
            next(items)
    threads_are_gone()


@child(apart={"how": ["for", "as completed", "run", "asyncio.run"]}, first=KINDS, second=KINDS)
def test_ctrl_c(first: str, second: str, how: str) -> None:
    ordered = how != "as completed"
    assert list(flow([1])) == [1]  # imports are done: Python loses a Ctrl-C that hits its import locks
    chain = stage(stage(flow(source(second)), first, ordered=ordered), second, ordered=ordered)
    got: list[Any] = []

    async def consume() -> None:
        async with chain.open() as items:
            async for item in items:
                got.append(item)
                await asyncio.sleep(0)

    main = threading.main_thread().ident
    assert main is not None
    press = threading.Timer(0.015, os.kill, (os.getpid(), signal.SIGINT))
    try:
        with contextlib.ExitStack() as stack:
            stack.callback(press.join)
            press.start()
            if how in ("for", "as completed"):
                with chain.open() as items:
                    got += items
            elif how == "run":
                chain.run()
            else:
                asyncio.run(consume())
    except KeyboardInterrupt:
        pass
    else:
        raise AssertionError("Ctrl-C was swallowed")
    threads_are_gone(soon=True)
