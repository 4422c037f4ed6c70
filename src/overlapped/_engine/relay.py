"""A host whose calls are made by a port of its own, such as threads."""

from __future__ import annotations

import asyncio
import math
import sys
import time
from typing import TYPE_CHECKING, Any, Final, Protocol

from overlapped._engine.host import END, ERROR, MANY, OK, PART
from overlapped._engine.resources import Opened, open_blocking, open_on_loop
from overlapped._engine.serving import FLUSH_S, LONG_S, Answers, coded, unpack
from overlapped._engine.trays import DROPPED, Spread

if TYPE_CHECKING:
    from collections.abc import Callable

    from overlapped._engine.mailbox import Mailbox
    from overlapped._engine.ports import Outcome, Port
    from overlapped._engine.serving import Task

SWITCH_S: Final = 0.0005
"""How soon the loop gets its turn while a call computes (Python's own: 5 ms)."""

FOREVER_S: Final = 1e6
"""Whoever waits for the end of this host knows how long, and ends its process."""


class MakePort(Protocol):
    """Makes the port of a relay, on its loop."""

    def __call__(
        self,
        bind: Callable[[Opened], Callable[[Any], object]],
        name: str,
        *,
        many: bool,
        on_cleanup_error: Callable[[BaseException], None],
    ) -> Port:
        """A port whose places each call `bind` once, with what holds their own resources."""
        ...


class Relay:
    """Hands jobs on to a port, and its outcomes back.

    Args:
        wire: the way to the run.
        task: what is to be called.
        lane: for messages.
        make_port: makes the port.
    """

    def __init__(self, wire: Mailbox, task: Task, lane: str, make_port: MakePort) -> None:
        self.wire = wire
        self.task = task
        self.lane = lane
        self.make_port = make_port
        self.cpu_s = 0.0
        self.limit = 0
        self.pending: set[int] = set()
        self.told: set[int] = set()
        self.given: dict[str, object] = {}
        self.is_telling = self.is_flushing = False
        self.answers = Answers(wire.send, lambda: self.cpu_s, task.packing)

    async def live(self) -> None:
        """Work until the run says that it is the end."""
        sys.setswitchinterval(SWITCH_S)
        self.loop = asyncio.get_running_loop()
        self.end: asyncio.Future[None] = self.loop.create_future()
        opened = Opened(self._could_not_close)
        task = self.task
        try:
            for name, make in task.factories.items():
                if name not in task.own:
                    self.given[name] = await open_on_loop(make, name, opened)
        except BaseException as error:  # noqa: BLE001 - the run ends with it
            self.wire.send(["broken", task.packed(error)])
        else:
            port = self.make_port(self._bind, task.name, many=task.many, on_cleanup_error=self._could_not_close)
            await self._serve(port)
        await opened.aclose()

    async def _serve(self, port: Port) -> None:
        self.port = port
        port.open(self._deliver)
        self.wire.on_loop(self.loop, self._take, lambda: None)
        self.wire.send(["ready"])
        await self.end
        await port.close(FOREVER_S)
        self.answers.flush()

    def _could_not_close(self, error: BaseException) -> None:
        self.wire.send(["closed", self.task.packed(error)])

    def _bind(self, opened: Opened) -> Callable[[Any], object]:
        """In a place of the port: the function, with the resources of all and those of this place."""
        task, factories = self.task, self.task.factories
        given = {**self.given, **{name: open_blocking(factories[name], name, opened) for name in task.own}}

        def call(item: object) -> object:
            value = task.fn(item, **given)
            return value if task.many else coded(task, value, self.lane)[1]

        return call

    # -- what the run says ------------------------------------------------------------------------------

    def _take(self, about: list[Any], values: memoryview) -> None:
        what = about[0]
        if what == "run":
            self._put(about[1], values)
        elif what == "limit":
            if about[1] < self.limit:
                self._give_back()
            self.limit = about[1]
            self.port.limit(self.limit)
        elif what == "ack":
            self.port.acknowledge(about[1], about[2])
        elif what == "cancel" and self._runs(about[1]):
            self.wire.send(["stopping", about[1]])  # it has been heard; whether it does is the port's affair
            self.port.cancel(about[1])
        elif what in ("back", "cancel"):
            self._give_back()
        elif what == "end":
            self.pending.difference_update(number for number, _ in self.port.withdraw())
            if not self.end.done():
                self.end.set_result(None)

    def _put(self, numbers: list[int], values: memoryview) -> None:
        if jobs := unpack(self.task, numbers, values, self.wire.send):
            self.pending.update(numbers)
            self.port.put(jobs)
            self._will_tell()

    def _runs(self, number: int) -> bool:
        return any(call.number == number for call in self.port.running())

    def _give_back(self) -> None:
        numbers = [number for number, _ in self.port.withdraw()]
        self.pending.difference_update(numbers)
        self.wire.send(["back", numbers])

    # -- what the run is told -----------------------------------------------------------------------------

    def _deliver(self, outcomes: list[Outcome]) -> None:
        for outcome in outcomes:
            number, _, _, started_s, ended_s, cpu_s, in_flight, _ = outcome
            self.cpu_s += cpu_s
            if outcome.kind != "part":
                self.pending.discard(number)
                self.told.discard(number)
            self.answers.add((number, *self._coded(outcome), (started_s, ended_s, in_flight)))
        if not self.pending or self.end.done():
            self.answers.flush()
        elif not self.is_flushing:  # threads end their calls one by one: each would have a frame of its own
            self.is_flushing = True
            self.loop.call_later(FLUSH_S, self._flush)

    def _flush(self) -> None:
        self.is_flushing = False
        self.answers.flush()

    def _coded(self, outcome: Outcome) -> tuple[int, object]:
        value = outcome.value
        if outcome.kind == "part":
            return PART, value
        if outcome.kind == "error":
            return ERROR, self.task.packed(value)
        if not self.task.many:
            return OK, value
        if value is DROPPED:
            return END, None
        if isinstance(value, Spread):
            return MANY, value.items
        try:
            return coded(self.task, value, self.lane)
        except Exception as error:  # noqa: BLE001 - what it returned is of a kind that is refused
            return ERROR, self.task.packed(error)

    def _will_tell(self) -> None:
        if not self.is_telling and len(self.told) < len(self.pending):
            self.is_telling = True
            self.loop.call_later(LONG_S, self._tell)

    def _tell(self) -> None:
        """Tell of calls that have run for long."""
        self.is_telling = False
        before = time.perf_counter() - LONG_S / 2
        # A generator that waits for its consumer has no start just now.
        long = [
            (number, started_s)
            for number, started_s in self.port.running()
            if number not in self.told and started_s <= before and started_s != math.inf
        ]
        if long:
            self.told.update(number for number, _ in long)
            self.wire.send(["started", long])
        self._will_tell()
