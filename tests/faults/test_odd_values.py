"""Odd items, results and exceptions, which answer no question; and parts of a run whose failure is no item's."""

# ruff: noqa: PT017 - the body of a test runs where there is no pytest
from __future__ import annotations

import asyncio
import builtins
import functools
import itertools
import time
from typing import Any

from overlapped import UsageError
from tests.faults.harness import child
from tests.faults.kit import (
    LANES,
    Boom,
    Calls,
    flow,
    gather_from,
    in_lane,
    nap,
    numbers,
    pull_from,
    same,
    took,
)


class Slotted(Exception):
    __slots__ = ()

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(name)


class Hostile(Exception):
    """Every question about it raises."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        raise AssertionError("compared")

    def __bool__(self) -> bool:
        raise AssertionError("asked for truth")

    def __str__(self) -> str:
        raise AssertionError("asked for a str")

    __repr__ = __str__

    def add_note(self, note: str) -> None:
        raise AssertionError("noted")


@child(lane=LANES, kind=["slotted", "hostile", "shared"])
async def test_odd_exceptions_come_out_as_themselves(lane: str, kind: str) -> None:
    error = Slotted("odd") if kind == "slotted" else Hostile("odd") if kind == "hostile" else Boom("shared")

    def fails(item: int) -> int:
        if item >= 3:
            raise error
        return item

    fn, options = in_lane(lane, fails)
    for _ in range(3):
        got: list[Any] = []
        raised = await gather_from(flow(range(10)).map(fn, concurrency=3, **options), got)
        assert raised is error, type(raised)
        assert got == [0, 1, 2]
    report = await flow(range(10)).map(fn, concurrency=3, **options).arun(on_failure="keep")
    assert (report.items, report.failed) == (3, 7)
    assert len(getattr(error, "__notes__", ())) < 40


class Odd:
    """An item of which every question raises."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, n: int) -> None:
        self.n = n

    def __eq__(self, other: object) -> bool:
        raise AssertionError("compared")

    def __bool__(self) -> bool:
        raise AssertionError("asked for truth")

    def __len__(self) -> int:
        raise AssertionError("asked for its length")

    def __repr__(self) -> str:
        raise AssertionError("asked for a repr")

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"asked for {name}")


@child(lane=LANES)
async def test_items_are_not_looked_into(lane: str) -> None:
    fn, options = in_lane(lane, lambda item: item)
    chain = flow([Odd(n) for n in range(50)]).map(fn, **options).tap(fn, **options).skip(0).batch(3).flatten().take(40)
    got = await chain.acollect()
    assert [item.n for item in got] == list(range(40))
    if lane != "coroutine":
        return

    async def fails(item: Odd) -> Odd:
        if item.n == 5:
            raise Boom
        return item

    error = await gather_from(flow([Odd(n) for n in range(50)]).map(fails), [])
    assert isinstance(error, Boom)


class Unbound:
    """As a proxy outside of its context: it does not even say of what class it is."""

    @property  # type: ignore[misc]  # mypy: `object` lets it be set
    def __class__(self) -> Any:
        raise RuntimeError("working outside of its context")


class Text(str):
    __slots__ = ()

    def __len__(self) -> int:
        raise AssertionError("asked for its length")


class Bytes(bytes):
    def __len__(self) -> int:
        raise AssertionError("asked for its length")


@child(lane=LANES, kind=["unbound", "text", "bytes"], ordered=[True, False])
async def test_items_need_not_say_what_they_are(lane: str, kind: str, ordered: bool) -> None:
    odd: Any = {"unbound": Unbound, "text": Text, "bytes": Bytes}[kind]
    fn, on = in_lane(lane, lambda item: item)
    yes, _ = in_lane(lane, lambda item: True)
    options = {"ordered": ordered, **on}
    chain = flow([odd() for _ in range(50)]).map(fn, **options).filter(yes, **options)
    got = await chain.skip(1).catch(Boom).take(45).batch().map(fn, **options).acollect()
    assert [type(item) for batch in got for item in batch] == [odd] * 45


@child(lane=LANES)
async def test_exceptions_that_are_results_are_values(lane: str) -> None:
    values = [Boom(1), StopIteration(2), KeyboardInterrupt(), asyncio.CancelledError(), None, NotImplemented, Ellipsis]
    fn, options = in_lane(lane, lambda item: item)
    got = await flow(values).map(fn, **options).flat_map(lambda item: [item]).acollect()
    assert all(one is other for one, other in zip(got, values, strict=True))


@child
async def test_groups_of_errors_come_out_as_themselves() -> None:
    group = ExceptionGroup("two", [Boom(1), Boom(2)])
    deadly = BaseExceptionGroup("worse", [Boom(1), KeyboardInterrupt()])

    async def fails(item: BaseException) -> None:
        raise item

    assert await gather_from(flow([group]).map(fails), []) is group
    assert await gather_from(flow([deadly]).map(fails), []) is deadly


@child(where=["open", "enter", "close", "aclose"])
async def test_a_resource_that_fails_is_told(where: str) -> None:  # noqa: C901 - a place each
    error, pulled = Boom(where), []

    class Resource:
        async def __aenter__(self) -> Any:
            if where == "enter":
                raise error
            return self

        async def __aexit__(self, *_: object) -> None:
            if where == "aclose":
                raise error

        def close(self) -> None:
            if where == "close":
                raise error

    def make() -> Any:
        if where == "open":
            raise error
        return Resource()

    def source() -> Any:
        for n in range(3):
            pulled.append(n)
            yield n

    async def uses(item: int, session: Any) -> int:
        return item

    got: list[Any] = []
    raised = await gather_from(flow(source).map(uses).using(session=make), got)
    assert raised is error, repr(raised)
    opened = where in ("close", "aclose")
    assert got == ([0, 1, 2] if opened else [])
    assert bool(pulled) == opened


@child(
    where=["open", "enter", "exit", "close"],
    kind=["StopIteration", "StopAsyncIteration", "GeneratorExit", "CancelledError"],
    per=["run", "run, blocking", "worker"],
    how=["async for", "for", "collect"],
)
async def test_what_a_resource_raises_never_looks_like_the_end(where: str, kind: str, per: str, how: str) -> None:  # noqa: C901 - a place each
    error = asyncio.CancelledError() if kind == "CancelledError" else getattr(builtins, kind)()

    def fail(at: str) -> None:
        if at == where:
            raise error

    class Blocking:
        def __init__(self) -> None:
            fail("open")

        def __enter__(self) -> Any:
            fail("enter")
            return self

        def __exit__(self, *_: object) -> None:
            fail("exit")

        def close(self) -> None:
            fail("close")

    class Async(Blocking):
        async def __aenter__(self) -> Any:
            fail("enter")
            return self

        async def __aexit__(self, *_: object) -> None:
            fail("exit")

    def uses(item: int, it: object) -> int:
        return item

    chain = flow(range(3)).map(uses, on="thread", concurrency=1)
    chain = chain.using(per=per.partition(",")[0], it=Async if per == "run" else Blocking)
    got: list[Any] = []
    if how == "for":
        raised: Any = await asyncio.to_thread(lambda: pull_from(iter(chain), got))
    elif how == "async for":
        raised = await gather_from(chain, got)
    else:
        try:
            got = await chain.acollect()
            raised = None
        except BaseException as other:  # noqa: BLE001 - it is what the test looks at
            raised = other
    assert isinstance(raised, RuntimeError), (where, kind, per, how, raised)
    assert kind in str(raised)
    assert raised.__cause__ is error
    if how != "collect":
        assert got == ([] if where in ("open", "enter") else [0, 1, 2])


@child
def test_a_progress_function_that_fails_loses_no_items() -> None:
    def fails(record: Any) -> None:
        raise Boom

    got: list[Any] = []
    try:
        flow(range(50)).tap(got.append, on="inline").run(progress=fails)
    except Boom:
        pass
    assert got == list(range(50))


@child(error=["KeyboardInterrupt", "SystemExit"])
def test_a_progress_function_that_ends_the_program_does_not_hang_the_run(error: str) -> None:
    kind = {"KeyboardInterrupt": KeyboardInterrupt, "SystemExit": SystemExit}[error]

    def ends(record: Any, when: str) -> None:
        if record.state != "running" or when == "first":
            raise kind

    for when in ("first", "last"):
        try:
            flow(range(3)).map(nap).run(progress=functools.partial(ends, when=when))
        except (KeyboardInterrupt, SystemExit) as raised:
            assert type(raised) is kind
        else:
            raise AssertionError("nothing was raised")


@child(lane=LANES)
def test_a_usage_error_of_the_first_call_is_raised_not_hung(lane: str) -> None:
    def gives_a_generator(item: int) -> Any:
        return (n for n in range(item))

    fn, options = in_lane(lane, gives_a_generator)
    if lane == "coroutine":
        return
    with took(3):
        try:
            flow(itertools.count()).map(fn, **options).run()
        except UsageError as error:
            assert "flat_map" in str(error)
        else:
            raise AssertionError("not told")


@child
def test_an_error_while_a_thread_call_runs_waits_for_that_call_but_not_for_the_rest() -> None:
    calls = Calls()

    def slow(item: int) -> int:
        with calls.one(item):
            time.sleep(0.3 if item == 1 else 0.01)
            if item == 2:
                raise Boom
        return item

    with took(1.2):
        got: list[Any] = []
        error = pull_from(iter(flow(numbers()).map(slow, concurrency=3)), got)
    assert isinstance(error, Boom)
    assert got == [0, 1]
    assert calls.now == 0


class CannotBegin:
    """An iterable that cannot be iterated."""

    def __iter__(self) -> Any:
        raise Boom


def breaks(error: type[BaseException]) -> Any:
    """A generator that fails in the middle."""
    yield 2
    raise error


@child
def test_an_item_that_cannot_be_flattened_is_that_items_failure() -> None:
    def through(items: Any) -> Any:
        yield from items

    broken = flow([[1], CannotBegin(), [3]]).flatten()
    assert broken.run(on_failure="keep").items == 2
    assert broken.catch(Boom, replace=0).collect() == [1, 0, 3]
    for rest in (broken, broken.map(same), broken.through(through)):
        got: list[Any] = []
        assert isinstance(pull_from(iter(rest), got), Boom)
        assert got == [1]
    for error, comes in ((KeyboardInterrupt, KeyboardInterrupt), (GeneratorExit, RuntimeError)):
        got = []
        assert isinstance(pull_from(iter(flow([[1], breaks(error), [3]]).flatten()), got), comes)
        assert got == [1, 2]
