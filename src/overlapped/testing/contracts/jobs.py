"""A port in use: the jobs it is given, and the account of what came of them."""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, Self

from overlapped.testing.contracts.base import demand

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from overlapped._engine.ports import Outcome, Port

QUIET_S: Final = 10.0
"""When a port from which nothing comes is given up."""

SETTLE_S: Final = 0.008
"""How long something that must not happen is waited for; several times what a hop takes."""

POLL_S: Final = 0.0005


class Ending(BaseException):
    """An exception that is no `Exception`, and that nobody knows."""


ERRORS: Final[dict[str, type[BaseException]]] = {
    kind.__name__: kind
    for kind in (
        *(ValueError, KeyError, StopIteration, StopAsyncIteration, asyncio.CancelledError),
        *(GeneratorExit, KeyboardInterrupt, SystemExit, Ending),
    )
}
"""What calls raise; each must come back as an outcome."""


class Call(NamedTuple):
    """An item of the port: what its call has to do. It says what happens in a file, so it works in any process.

    Attributes:
        folder: where the account and the gates are.
        number: of the job.
        does: "ok", the name of an error to raise, or for many results "yield N", "yield N then ERROR", "list N".
        is_gated: it waits until its gate is open.
    """

    folder: str
    number: int
    does: str = "ok"
    is_gated: bool = False

    def note(self, what: str) -> None:
        """Write a line of the account; appending is atomic."""
        try:
            account = os.open(os.path.join(self.folder, "account"), os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o600)
        except FileNotFoundError:  # the check is over: this call had been abandoned
            return
        try:
            os.write(account, f"{what} {self.number}\n".encode())
        finally:
            os.close(account)

    def wait_at_gate(self) -> None:
        """Wait for this gate or for all."""
        while self.is_shut():
            time.sleep(POLL_S)

    def is_shut(self) -> bool:
        """True if it must wait."""
        gates = [os.path.join(self.folder, name) for name in ("open", f"open-{self.number}")]
        return self.is_gated and os.path.isdir(self.folder) and not any(os.path.exists(gate) for gate in gates)


def call_one(call: Call) -> object:
    """The function of the ports under check."""
    call.note("start")
    try:
        call.wait_at_gate()
        if call.does in ERRORS:
            raise ERRORS[call.does](call.number)
        return call.number * 10
    finally:
        call.note("end")


async def call_one_async(call: Call) -> object:
    """As `call_one`, for ports that await."""
    call.note("start")
    try:
        while call.is_shut():  # noqa: ASYNC110 - whoever opens the gate is in another process
            await asyncio.sleep(POLL_S)
        if call.does in ERRORS:
            raise ERRORS[call.does](call.number)
        return call.number * 10
    finally:
        call.note("end")


async def call_many_async(call: Call) -> object:
    """As `call_many`, for ports that await."""
    how, count, *then = call.does.split()
    return _yield_async(call, int(count), then) if how == "yield" else list(range(int(count)))


async def _yield_async(call: Call, count: int, then: list[str]) -> AsyncIterator[int]:
    call.note("start")
    try:
        for number in range(count):
            yield number
        if then:
            raise ERRORS[then[-1]](call.number)
    finally:
        call.note("end")


def call_many(call: Call) -> object:
    """The function of those whose calls give many results."""
    how, count, *then = call.does.split()
    return _yield(call, int(count), then) if how == "yield" else list(range(int(count)))


def _yield(call: Call, count: int, then: list[str]) -> Iterator[int]:
    call.note("start")
    try:
        yield from range(count)
        if then:
            raise ERRORS[then[-1]](call.number)
    finally:
        call.note("end")


class MakePort(Protocol):
    """Makes a port that calls `fn`; with `many`, what `fn` returns is many results. Called on a running loop."""

    def __call__(self, fn: Callable[[Any], object], *, many: bool) -> Port:
        """A new port."""
        ...


class Use:
    """A port in use, with the account of what came of it."""

    def __init__(self, make_port: MakePort, *, many: bool = False) -> None:
        self._make_port = make_port
        self._many = many
        self._thread = threading.get_ident()
        self._put: set[int] = set()
        self._is_closed = False
        self._heard_s = 0.0
        self._breaches: list[str] = []
        self.before = _alive()
        self.outcomes: dict[int, Outcome] = {}
        self.parts: dict[int, list[object]] = {}

    async def __aenter__(self) -> Self:
        """Make and open the port."""
        self.port = self._make_port(call_many if self._many else call_one, many=self._many)
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)  # a call may write yet
        self.port.open(self._deliver)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Let all calls end and close the port; nothing may be left of it."""
        self.let_go()
        if not self._is_closed:
            await self.port.close(QUIET_S)
            self._is_closed = True
        deadline = time.monotonic() + QUIET_S
        while (left := _alive() - self.before) and time.monotonic() < deadline:  # noqa: ASYNC110 - a thread's end tells nobody
            await asyncio.sleep(POLL_S)
        self._folder.cleanup()
        if exc_info[1] is None:
            demand(not left, f"left after close: {', '.join(sorted(left))}")
            await asyncio.sleep(0)
            self.look()

    def _deliver(self, outcomes: list[Outcome]) -> None:
        if threading.get_ident() != self._thread:
            self._breaches.append("outcomes must be delivered on the loop")
        self._heard_s = time.monotonic()
        for outcome in outcomes:
            number = outcome.number
            if self._is_closed:
                self._breaches.append(f"an outcome of job {number} came after close")
            elif number not in self._put or number in self.outcomes:
                self._breaches.append(f"job {number} came back twice, or was never put: {outcome}")
            elif outcome.kind == "part":
                self.parts.setdefault(number, []).extend(outcome.value)
            elif outcome.kind in ("ok", "error"):
                self.outcomes[number] = outcome
            else:
                self._breaches.append(f"{outcome} is of no known kind")

    def look(self) -> None:
        """Raise what has been noticed so far."""
        demand(not self._breaches, "; ".join(self._breaches[:3]))

    def put(self, *numbers: int, does: str = "ok", is_gated: bool = False) -> None:
        """Put jobs with these numbers."""
        self._put.update(numbers)
        self.port.put([(number, Call(self._folder.name, number, does, is_gated)) for number in numbers])

    def let_go(self, *numbers: int) -> None:
        """Open the gates of these jobs, or all."""
        for name in [f"open-{number}" for number in numbers] or ["open"]:
            os.close(os.open(os.path.join(self._folder.name, name), os.O_CREAT | os.O_WRONLY, 0o600))

    def account(self, what: str) -> list[int]:
        """The jobs that have been started ("start") or left ("end"), in order."""
        return [number for kind, number in self.lines() if kind == what]

    def lines(self) -> list[tuple[str, int]]:
        """The whole account."""
        path = os.path.join(self._folder.name, "account")
        if not os.path.exists(path):
            return []
        with open(path, encoding="ascii") as file:
            return [(kind, int(number)) for kind, number in (line.split() for line in file)]

    def most_at_once(self) -> int:
        """The most calls that ran at the same time."""
        now = most = 0
        for kind, _ in self.lines():
            now += 1 if kind == "start" else -1
            most = max(most, now)
        return most

    def running(self) -> dict[int, float]:
        """What the port says that it is doing: numbers, and when each was started."""
        return {running.number: running.started_s for running in self.port.running()}

    async def until(self, holds: Callable[[], object], says: Callable[[], str]) -> None:
        """Wait for something that must happen."""
        self._heard_s = time.monotonic()
        while not holds():
            self.look()
            demand(time.monotonic() - self._heard_s < QUIET_S, says())
            await asyncio.sleep(POLL_S)

    async def until_started(self, count: int) -> None:
        """Wait until so many have been started, and a bit, in case it becomes more."""
        await self.until(
            lambda: len(self.account("start")) >= count,
            lambda: f"{count} calls should have been started, {len(self.account('start'))} were",
        )
        await self.settle()
        started = self.account("start")
        demand(len(started) == count, f"{count} calls should have been started, these were: {started}")

    async def until_done(self, *numbers: int) -> None:
        """Wait for the outcomes of these jobs."""

        def missing() -> list[int]:
            return [number for number in numbers if number not in self.outcomes]

        await self.until(lambda: not missing(), lambda: f"no outcome of {len(missing())} jobs, of {missing()[:9]}")
        self.look()

    async def settle(self) -> None:
        """Wait for something that must not happen."""
        await asyncio.sleep(SETTLE_S)
        self.look()

    async def close(self, grace_s: float) -> int:
        """Close the port; nothing may come of it afterwards."""
        left = await self.port.close(grace_s)
        self._is_closed = True
        return left


def _alive() -> set[str]:
    """Threads and child processes."""
    found = {f"thread {thread.name} ({thread.ident})" for thread in threading.enumerate()}
    for task in os.listdir("/proc/self/task") if os.path.isdir("/proc/self/task") else ():
        try:
            with open(f"/proc/self/task/{task}/children", encoding="ascii") as file:
                found.update(f"process {pid}" for pid in file.read().split())
        except OSError:  # the thread has ended, or a kernel without this file
            continue
    return found
