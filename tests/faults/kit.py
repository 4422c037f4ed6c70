"""What the bodies of fault tests share: stage functions that count, and ways to look at a run."""

from __future__ import annotations

import asyncio
import importlib
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import overlapped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


flow: Any = overlapped.flow
"""Stage functions are chosen at run time here; what types a flow has is the business of tests/typing_api.py."""

LANES = ["coroutine", "thread", "inline"]


class Boom(Exception):
    """The user's own error."""


class Calls:
    """Counts the calls of a stage function, from whatever thread they come."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.started: list[Any] = []
        self.ended: list[Any] = []
        self.now = 0
        self.most = 0

    @contextmanager
    def one(self, item: Any) -> Iterator[None]:
        """Around one call."""
        with self._lock:
            self.started.append(item)
            self.now += 1
            self.most = max(self.most, self.now)
        try:
            yield
        finally:
            with self._lock:
                self.now -= 1
                self.ended.append(item)


def numbers(stop: int | None = None) -> Iterator[int]:
    """A plain generator source; endless without `stop`."""
    n = 0
    while stop is None or n < stop:
        yield n
        n += 1


async def async_numbers(stop: int | None = None) -> Any:
    """An async generator source; endless without `stop`."""
    n = 0
    while stop is None or n < stop:
        yield n
        n += 1
        await asyncio.sleep(0)


async def nap(item: Any) -> Any:
    """A short wait."""
    await asyncio.sleep(0.001)
    return item


def same(item: Any) -> Any:
    """A plain function that does nothing."""
    return item


def in_lane(lane: str, plain: Any, *, sleep_s: float = 0.0) -> tuple[Any, dict[str, Any]]:
    """`plain` as a function for that lane, and the options that go with it."""
    if lane == "coroutine":

        async def fn(item: Any) -> Any:
            await asyncio.sleep(sleep_s)
            return plain(item)

        return fn, {}
    return plain, {"on": lane}


def waiting(calls: Calls, lane: str, cleanup_s: float = 0.02) -> Any:
    """A function that ends at once for item 0, and waits long for the others."""

    async def waits(item: int) -> int:
        with calls.one(item):
            try:
                await asyncio.sleep(60 if item else 0)
            finally:
                await asyncio.sleep(cleanup_s)
        return item

    def naps(item: int) -> int:
        with calls.one(item):
            time.sleep(0.4 if item else 0)
        return item

    return waits if lane == "coroutine" else naps


async def wait_until(is_so: Callable[[], object], within_s: float = 3.0) -> None:
    """Let the loop turn until `is_so()`; an assertion that it becomes so."""
    deadline = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < deadline, f"not so within {within_s} s"
        await asyncio.sleep(0.002)


def wait_until_blocking(is_so: Callable[[], object], within_s: float = 3.0) -> None:
    """As `wait_until`, for a thread."""
    deadline = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < deadline, f"not so within {within_s} s"
        time.sleep(0.002)


async def gather_from(items: Any, got: list[Any]) -> BaseException | None:
    """Append all items to `got`; returns the exception that ended them, or None."""
    try:
        async for item in items:
            got.append(item)  # noqa: PERF401 - those before an error count
    except BaseException as error:  # noqa: BLE001 - what the caller asserts
        return error
    return None


def pull_from(items: Any, got: list[Any]) -> BaseException | None:
    """As `gather_from`, for a sync iterator."""
    try:
        for item in items:
            got.append(item)  # noqa: PERF402 - those before an error count
    except BaseException as error:  # noqa: BLE001 - what the caller asserts
        return error
    return None


def short_grace(seconds: float = 0.5) -> None:
    """In this process, what cannot be cancelled has so long to end, not 5 s."""
    importlib.import_module("overlapped._engine.scope")  # where others take it from, now or later
    for name, module in list(sys.modules.items()):
        if name.startswith("overlapped") and hasattr(module, "GRACE_S"):
            setattr(module, "GRACE_S", seconds)  # noqa: B010 - a module's constant


@contextmanager
def took(at_most_s: float, at_least_s: float = 0.0) -> Iterator[None]:
    """Assert how long a block takes."""
    started = time.monotonic()
    yield
    seconds = time.monotonic() - started
    assert at_least_s <= seconds <= at_most_s, f"took {seconds:.2f} s, not {at_least_s} to {at_most_s} s"
