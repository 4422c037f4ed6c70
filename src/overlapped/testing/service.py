"""A service that is not there: known capacity, known failures, so that the right answer can be computed."""

from __future__ import annotations

import asyncio
import math
import random
from collections import deque
from typing import TYPE_CHECKING, Any

from overlapped.errors import Overloaded, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

MAX_STARTED = 100_000
"""How many of the latest calls keep their start time: enough for any test, and a bound."""

MAX_ITEMS = 100_000
"""How many different items have their attempts counted; those beyond it are not."""


class ServiceFailed(Exception):
    """What a `Service` raises for a call that it was told to fail."""


class Service:
    """A service to call from a coroutine stage: `flow(items).map(service)`.

    A call that is let in waits (first come, first served) for one of `workers`, is worked on for
    `service_s`, and returns or fails. A call that is not let in raises `Overloaded` at once. All
    of it follows the running loop's clock, so on the virtual loop it is exact and takes no time.

    Args:
        service_s: how long one call is worked on, s; or a function of the item.
        workers: how many calls are worked on at once.
        max_in_flight: how many calls are let in at once, waiting or worked on.
        rate_per_s: how many calls are let in per second; those beyond it are told `retry_after_s`.
        burst: how many calls of that rate may come at the same moment.
        fails: which calls fail at their end: their numbers (the first call is 1), or a share
            from 0 to 1 drawn with `seed`, or a function of the item that returns an exception or None.
        returns: makes a call's result of its item; the item itself if left out.
        seed: for `fails` as a share; the same seed fails the same call numbers.

    Example:
        >>> from overlapped.testing import run
        >>> service = Service(service_s=0.1, workers=2)
        >>> async def four_calls() -> float:
        ...     await asyncio.gather(*(service(n) for n in range(4)))
        ...     return asyncio.get_running_loop().time()
        >>> run(four_calls()), service.peak_in_flight, service.best_throughput_per_s()
        (0.2, 4, 20.0)
    """

    def __init__(
        self,
        *,
        service_s: float | Callable[[Any], float] = 0.1,
        workers: float = math.inf,
        max_in_flight: float = math.inf,
        rate_per_s: float = math.inf,
        burst: int = 1,
        fails: Collection[int] | float | Callable[[Any], BaseException | None] = (),
        returns: Callable[[Any], object] | None = None,
        seed: int = 0,
    ) -> None:
        for name, value in (("workers", workers), ("max_in_flight", max_in_flight), ("burst", burst)):
            if not value >= 1:
                raise UsageError(f"Service({name}): must be >= 1, got {value!r}")
        if not rate_per_s > 0:
            raise UsageError(f"Service(rate_per_s): must be > 0, got {rate_per_s!r}")
        if isinstance(fails, int | float) and not 0 <= fails <= 1:
            raise UsageError(f"Service(fails): a share must be from 0 to 1, got {fails!r}")
        if not callable(service_s) and not service_s >= 0:
            raise UsageError(f"Service(service_s): must be >= 0, got {service_s!r}")
        self.__name__ = "service"  # what a stage made of it is called
        self._service_s = service_s
        self._workers = workers
        self._max_in_flight = max_in_flight
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._fails = fails
        self._returns = returns
        self._random = random.Random(seed)  # noqa: S311 - a repeatable series is the point
        self._idle = workers
        self._queue: deque[asyncio.Future[None]] = deque()
        self._next_due_s = -math.inf
        self._worked_s = 0.0
        self._attempts: dict[object, int] = {}
        self.calls = 0
        """Calls so far, those not let in included."""
        self.in_flight = 0
        """Calls let in and not ended."""
        self.peak_in_flight = 0
        """The most of them at once."""
        self.ok = 0
        """Calls that returned."""
        self.failed = 0
        """Calls that failed as `fails` asks."""
        self.refused = 0
        """Calls not let in."""
        self.cancelled = 0
        """Calls that their caller gave up."""
        self.started_s: deque[float] = deque(maxlen=MAX_STARTED)
        """When each of the latest calls came, on the loop's clock, s."""

    async def __call__(self, item: Any) -> Any:
        """One call.

        Raises:
            Overloaded: it is not let in.
            ServiceFailed: `fails` asks for it.
        """
        now_s = asyncio.get_running_loop().time()
        self.calls += 1
        self.started_s.append(now_s)
        self._count_attempt(item)
        error = self._failure(self.calls, item)
        self._let_in(now_s)
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
        try:
            await self._work(item)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.in_flight -= 1
        if error is not None:
            self.failed += 1
            raise error
        self.ok += 1
        return item if self._returns is None else self._returns(item)

    def attempts(self, item: object) -> int:
        """How many calls were made with this item."""
        return self._attempts.get(_key(item), 0)

    def mean_service_s(self) -> float:
        """Mean time that a call is worked on, s; over the calls so far if it depends on the item."""
        if not callable(self._service_s):
            return self._service_s
        let_in = self.calls - self.refused
        return self._worked_s / let_in if let_in else math.nan

    def best_throughput_per_s(self) -> float:
        """The most calls per second that any client can get through."""
        slots = min(self._workers, self._max_in_flight)
        mean_s = self.mean_service_s()
        return min(slots / mean_s if mean_s else math.inf, self._rate_per_s)

    def best_in_flight(self) -> float:
        """The fewest calls in flight that reach `best_throughput_per_s`, by Little's law; may be inf."""
        slots = min(self._workers, self._max_in_flight)
        if math.isinf(self._rate_per_s):
            return slots
        # Rounded first, or 100 calls/s of 0.07 s would need 8 for the sake of 7.000000000000001.
        return min(slots, max(1, math.ceil(round(self._rate_per_s * self.mean_service_s(), 9))))

    def _count_attempt(self, item: object) -> None:
        key = _key(item)
        if key in self._attempts or len(self._attempts) < MAX_ITEMS:
            self._attempts[key] = self._attempts.get(key, 0) + 1

    def _failure(self, call: int, item: object) -> BaseException | None:
        fails = self._fails
        if callable(fails):
            return fails(item)
        # Drawn for every call, let in or not: the same seed fails the same call numbers.
        is_failing = self._random.random() < fails if isinstance(fails, int | float) else call in fails
        return ServiceFailed(f"call {call}, item {item!r}") if is_failing else None

    def _let_in(self, now_s: float) -> None:
        if self.in_flight >= self._max_in_flight:
            self.refused += 1
            raise Overloaded(f"{self.in_flight} calls in flight already")
        if math.isinf(self._rate_per_s):
            return
        # GCRA: each call moves the due time by one interval; `burst` calls may run ahead of it.
        interval_s = 1 / self._rate_per_s
        due_s = max(self._next_due_s, now_s)
        early_s = due_s - (self._burst - 1) * interval_s - now_s
        if early_s > 1e-9:  # a nanosecond: the virtual clock's step
            self.refused += 1
            raise Overloaded(f"more than {self._rate_per_s:g} calls per second", retry_after_s=early_s)
        self._next_due_s = due_s + interval_s

    async def _work(self, item: object) -> None:
        service_s = self._service_s(item) if callable(self._service_s) else self._service_s
        self._worked_s += service_s
        await self._take_worker()
        try:
            await asyncio.sleep(service_s)
        finally:
            self._give_worker()

    async def _take_worker(self) -> None:
        if self._idle > 0:
            self._idle -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # the worker was ours already: pass it on
                self._give_worker()
            raise

    def _give_worker(self) -> None:
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._idle += 1


def _key(item: object) -> object:
    try:
        hash(item)
    except TypeError:
        return repr(item)
    return item
