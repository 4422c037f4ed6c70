"""What the tests of the rules share: counted sources, the same function in every lane, both ways to iterate."""

from __future__ import annotations

import asyncio
import contextlib
import io
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import overlapped
from overlapped import Flow
from overlapped.control.base import Sample

# Untyped on purpose: these tests hand over what only a running program can tell. The types are the
# subject of tests/typing_api.py.
flow: Any = overlapped.flow
merge: Any = overlapped.merge
concat: Any = overlapped.concat
zip_: Any = overlapped.zip_

WAYS: Final = ("for", "async for")
LANES: Final = ("coroutine", "inline", "thread")
SOURCES: Final = ("file", "generator", "async generator")
LONG_S: Final = 5.0
"""How long a real-time test waits for what must happen; far beyond what it takes."""


def cap(limit: int) -> int:
    """Bound of a stage's look-ahead (rule 1)."""
    return 4 * limit + 16


def now_s() -> float:
    """The running loop's clock."""
    return asyncio.get_running_loop().time()


# -- running ------------------------------------------------------------------------------------------


def outcome(flow: Flow[Any], way: str = "async for", **options: Any) -> tuple[list[Any], Any]:
    """What a run in real time delivers, and the exception it ends with."""
    values: list[Any] = []
    try:
        if way == "for":
            with flow.open(**options) as items:
                values.extend(items)
        else:
            asyncio.run(_async_for(flow, values, options))
    except Exception as error:  # noqa: BLE001 - it is what the test looks at
        return values, error
    return values, None


async def aoutcome(flow: Flow[Any], **options: Any) -> tuple[list[Any], Any]:
    """As `outcome`, on the running loop: for the virtual clock."""
    values: list[Any] = []
    try:
        await _async_for(flow, values, options)
    except Exception as error:  # noqa: BLE001 - it is what the test looks at
        return values, error
    return values, None


async def _async_for(flow: Flow[Any], values: list[Any], options: dict[str, Any]) -> None:
    async with flow.open(**options) as items:
        async for item in items:
            values.append(item)  # noqa: PERF401 - the items before an error are wanted


async def timed(flow: Flow[Any], **options: Any) -> list[tuple[Any, float]]:
    """Every result with the time of its delivery."""
    async with flow.open(**options) as items:
        return [(item, now_s()) async for item in items]


async def settle(turns: int = 50) -> None:
    """Let the loop turn until everything that can happen now has happened (no time passes)."""
    for _ in range(turns):
        await asyncio.sleep(0)


def wait_until(condition: Callable[[], object], what: str = "it") -> None:
    """Wait for a condition in real time."""
    deadline = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen in {LONG_S:g} s"
        time.sleep(0.001)


def rest(value: Callable[[], int], quiet_s: float = 0.05) -> int:
    """The number that `value()` stays at for `quiet_s` seconds."""
    seen, since = value(), time.monotonic()
    deadline = since + LONG_S
    while time.monotonic() - since < quiet_s:
        time.sleep(0.001)
        if (now := value()) != seen:
            assert time.monotonic() < deadline, f"it never came to rest: {now}"
            seen, since = now, time.monotonic()
    return seen


# -- functions ------------------------------------------------------------------------------------------


def in_lane(lane: str, fn: Callable[[Any], Any], wait_s: float | Callable[[Any], float] = 0.0) -> Callable[..., Any]:
    """`fn` after a wait, as the kind of function that `lane` runs."""

    def wait_of(item: Any) -> float:
        return wait_s(item) if callable(wait_s) else wait_s

    if lane == "coroutine":

        async def call(item: Any) -> Any:
            await asyncio.sleep(wait_of(item))
            return fn(item)

        return call

    def plain(item: Any) -> Any:
        if (seconds := wait_of(item)) > 0:
            time.sleep(seconds)
        return fn(item)

    return plain


def same(item: Any) -> Any:
    """The item."""
    return item


def fail_at(*bad: Any) -> Callable[[Any], Any]:
    """A function that returns its item, or raises ValueError for the bad ones."""

    def fn(item: Any) -> Any:
        if item in bad:
            raise ValueError(item)
        return item

    return fn


@dataclass
class Calls:
    """A coroutine function that keeps account of its calls on the virtual clock.

    Args:
        service_s: seconds of one call, or a function of the item.
        fails: what a call raises at its end: a function of item and attempt number (1 = the first).
    """

    service_s: float | Callable[[Any], float] = 1.0
    fails: Callable[[Any, int], BaseException | None] = lambda item, attempt: None
    started: list[tuple[Any, float]] = field(default_factory=list)
    ended: list[tuple[Any, float]] = field(default_factory=list)
    cancelled: list[tuple[Any, float]] = field(default_factory=list)
    in_flight: int = 0
    peak: int = 0
    __name__: str = "calls"

    async def __call__(self, item: Any) -> Any:
        """One call."""
        self.started.append((item, now_s()))
        attempt = sum(1 for other, _ in self.started if other == item)
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        try:
            await asyncio.sleep(self.service_s(item) if callable(self.service_s) else self.service_s)
        except asyncio.CancelledError:
            self.cancelled.append((item, now_s()))
            raise
        finally:
            self.in_flight -= 1
        self.ended.append((item, now_s()))
        error = self.fails(item, attempt)
        if error is not None:
            raise error
        return item

    @property
    def starts(self) -> list[Any]:
        """Items in the order in which they were started."""
        return [item for item, _ in self.started]

    def started_s(self, item: Any) -> list[float]:
        """When calls for this item started."""
        return [at for other, at in self.started if other == item]


# -- sources --------------------------------------------------------------------------------------------


class Pulled:
    """Sources that count what has been pulled from them: pull number n gives n, from 0 on.

    Args:
        total: how many items there are.
        fails_at: instead of this item, the source raises KeyError.
    """

    def __init__(self, total: int | None = None, fails_at: int | None = None) -> None:
        self.total = total
        self.fails_at = fails_at
        self.count = 0
        self.began = 0
        self.closed = 0
        self.on_pull: Callable[[int], None] = lambda n: None

    def of(self, kind: str) -> Any:
        """A source of one of the `SOURCES`, or of the kind "iterable" or "function"."""
        makers: dict[str, Callable[[], Any]] = {
            "file": lambda: _File(self),
            "iterable": lambda: _Iterable(self),
            "generator": self.items,
            "async generator": self.async_items,
            "function": lambda: self.items,
        }
        return makers[kind]()

    def items(self) -> Iterator[int]:
        """As a generator."""
        self.began += 1
        try:
            for n in itertools.count() if self.total is None else range(self.total):
                self.pull(n)
                yield n
        finally:
            self.closed += 1

    async def async_items(self) -> AsyncIterator[int]:
        """As an async generator."""
        self.began += 1
        try:
            for n in itertools.count() if self.total is None else range(self.total):
                self.pull(n)
                yield n
        finally:
            self.closed += 1

    def pull(self, n: int) -> None:
        """Count one pull."""
        if n == self.fails_at:
            raise KeyError(n)
        self.count += 1
        self.on_pull(n)


class _Iterable:
    """Any other iterable: it has a thread of its own."""

    def __init__(self, pulled: Pulled) -> None:
        self.pulled = pulled

    def __iter__(self) -> Iterator[int]:
        return self.pulled.items()


class _File(io.StringIO):
    """An open file, as far as a source can tell: pulled on the loop."""

    def __init__(self, pulled: Pulled) -> None:
        self.pulled = pulled
        self.lines = itertools.count() if pulled.total is None else iter(range(pulled.total))

    def __iter__(self) -> Any:
        self.pulled.began += 1
        return self

    def __next__(self) -> Any:
        n = next(self.lines)
        self.pulled.pull(n)
        return n


async def arriving(*at: float, then: Callable[[int], Any] = same) -> AsyncIterator[Any]:
    """Items 0, 1, 2 ... at these times of the loop's clock."""
    for n, when in enumerate(at):
        await asyncio.sleep(max(0.0, when - now_s()))
        yield then(n)


# -- control --------------------------------------------------------------------------------------------


class Limits:
    """A `ControllerSpec` whose limit the test sets; read after every finished call.

    Args:
        *limits: the limit before the first finished call, after the first, after the second, ...; the
            last one stays.
    """

    def __init__(self, *limits: int) -> None:
        self.limits = limits
        self.made: list[_Set] = []

    def controller(self) -> _Set:
        """A new controller in its first state."""
        self.made.append(_Set(self.limits))
        return self.made[-1]


class _Set:
    def __init__(self, limits: tuple[int, ...]) -> None:
        self.limits = limits
        self.samples: list[Sample] = []
        self.reason = "set by the test"

    @property
    def limit(self) -> int:
        return self.limits[min(len(self.samples), len(self.limits) - 1)]

    def finished(self, sample: Sample) -> int:
        self.samples.append(sample)
        return self.limit


@contextlib.contextmanager
def warnings_as_they_come() -> Iterator[list[str]]:
    """The texts of warnings that are given meanwhile, from any thread; none of them is an error."""
    import warnings

    texts: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        before = warnings.showwarning
        warnings.showwarning = lambda message, category, *rest, **more: texts.append(f"{category.__name__}: {message}")
        try:
            yield texts
        finally:
            warnings.showwarning = before
