"""A host that awaits many calls at once, on a loop of its own: many cores, and many waits on each."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING, Any, Final

from overlapped._engine.host import END, ERROR, MANY, OK, PART
from overlapped._engine.loop import new_loop
from overlapped._engine.resources import Opened, open_on_loop
from overlapped._engine.serving import LONG_S, Answers, Orders, leave_soon
from overlapped._engine.trays import TRAY_SIZE, spread

if TYPE_CHECKING:
    from overlapped._engine.frames import BlockingWire
    from overlapped._engine.mailbox import Mailbox
    from overlapped._engine.serving import Task

SLICE_S: Final = 0.001
"""Longest one worker makes calls on end before the loop turns."""


class _Call:
    """One worker: the call that it makes."""

    __slots__ = ("acked", "in_flight", "number", "started_s", "taken", "task")

    def __init__(self) -> None:
        self.number = -1
        self.started_s = 0.0
        self.in_flight = 0
        self.task: asyncio.Task[None] | None = None
        self.taken = 0  # results of a generator that have been taken, not yet looked at; negative: nobody wants more
        self.acked: asyncio.Future[None] | None = None


class Together(Orders):
    """Workers that pull from one queue, as a crew's do; the run sets their number and keeps the queue filled."""

    def __init__(self, wire: BlockingWire | Mailbox, task: Task) -> None:
        super().__init__(task)
        self.blocking = wire
        self.calls: dict[int, _Call] = {}
        self.told: set[int] = set()
        self.workers: set[asyncio.Task[None]] = set()
        self.given: dict[str, object] = {}
        self.is_flushing = self.is_telling = self.has_ended = False

    def serve(self) -> None:
        """Work until the run says that it is the end."""
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(self.live())
            leave_soon()

    async def live(self) -> None:
        """As `serve`, on the loop that runs."""
        self.loop = asyncio.get_running_loop()
        self.end: asyncio.Future[None] = self.loop.create_future()
        self.wire = self.blocking.on_loop(self.loop, self.take, self._hung_up)
        self.answers = Answers(self.wire.send, time.process_time, self.task.packing)
        opened = Opened(lambda error: self.wire.send(["closed", self.task.packed(error)]))
        try:
            for name, make in self.task.factories.items():
                self.given[name] = await open_on_loop(make, name, opened)
        except BaseException as error:  # noqa: BLE001 - the run ends with it
            self.wire.send(["broken", self.task.packed(error)])
        else:
            self.wire.send(["ready"])
            await self.end
            while self.workers:
                await asyncio.wait(self.workers)
        self._flush()
        await opened.aclose()
        await self.wire.drained()

    def _hung_up(self) -> None:
        os._exit(1)  # the run is gone: nobody wants an answer

    # -- what the run says ------------------------------------------------------------------------------

    def say(self, about: list[Any]) -> None:
        """Tell the run."""
        self.wire.send(about)

    def finish(self) -> None:
        """It is the end."""
        if not self.end.done():
            self.end.set_result(None)

    def fill(self) -> None:
        """A worker for each job, up to the limit."""
        while len(self.workers) < min(self.limit, len(self.calls) + len(self.jobs)):
            self._enlist()

    def stop(self, number: int) -> bool:
        """Cancel this job's call; False if it does not run."""
        call = self.calls.get(number)
        if call is None or call.task is None:
            return False
        call.task.cancel()
        return True

    def acknowledge(self, number: int, count: int) -> None:
        """So many results of a generator have been taken; a negative number: nobody wants more."""
        call = self.calls.get(number)
        if call is None:
            return
        call.taken = -1 if count < 0 or call.taken < 0 else call.taken + count
        if call.acked is not None and not call.acked.done():
            call.acked.set_result(None)

    # -- calls ------------------------------------------------------------------------------------------

    def _enlist(self) -> None:
        call = _Call()
        call.task = self.loop.create_task(self._work(call), name=f"overlapped:{self.task.name}")
        self.workers.add(call.task)

    async def _work(self, call: _Call) -> None:
        assert call.task is not None
        jobs, calls, clock, add = self.jobs, self.calls, time.perf_counter, self.answers.add
        fn, given, many = self.task.fn, self.given, self.task.many
        cancelling = call.task.cancelling
        turned = clock()
        while jobs and len(self.workers) <= self.limit:
            number, item = jobs.popleft()
            call.number = number
            calls[number] = call
            call.in_flight = len(calls)
            call.started_s = started = clock()
            self._will_tell()
            code, value = OK, None
            try:
                if many:
                    code, value = await self._hand_out(call, fn(item, **given))
                else:
                    value = self._coded(await fn(item, **given))
            except BaseException as error:  # noqa: BLE001 - becomes the item's failure, or ends the run, over there
                code, value = ERROR, self.task.packed(error)
            if cancelling():
                await _absorb(call.task)
            del calls[number]
            self.told.discard(number)
            ended = clock()
            add((number, code, value, (started, ended, call.in_flight)))
            self._will_flush()
            del item
            if ended - turned > SLICE_S:
                await asyncio.sleep(0)
                turned = clock()
        self.workers.discard(call.task)  # now, and not when the task is done: else all would leave at once

    def _coded(self, value: object) -> object:
        if self.task.verb == "tap":
            return None
        return bool(value) if self.task.verb == "filter" else value

    async def _hand_out(self, call: _Call, value: Any) -> tuple[int, object]:
        """Give results on as they come, never more than a tray ahead."""
        if not hasattr(value, "__aiter__"):
            value = await value
        if not hasattr(value, "__aiter__"):
            return MANY, spread(value, self.task.name).items
        iterator = value.__aiter__()
        call.taken = untaken = 0
        try:
            async for result in iterator:
                now = time.perf_counter()
                self.answers.add((call.number, PART, [result], (now, now, 1)))
                self._will_flush()
                untaken += 1
                if untaken >= TRAY_SIZE and not call.taken:
                    call.acked = self.loop.create_future()
                    await call.acked
                if call.taken < 0:
                    break
                untaken -= call.taken
                call.taken = 0
        finally:
            close = getattr(iterator, "aclose", None)
            if close is not None:
                await close()
        return END, None

    # -- what the run is told -----------------------------------------------------------------------------

    def _will_flush(self) -> None:
        """Send at the end of this turn of the loop: whatever ends in it goes together."""
        if not self.is_flushing:
            self.is_flushing = True
            self.loop.call_soon(self._flush)

    def _flush(self) -> None:
        self.is_flushing = False
        self.answers.flush()

    def _will_tell(self) -> None:
        if not self.is_telling:
            self.is_telling = True
            self.loop.call_later(LONG_S, self._tell)

    def _tell(self) -> None:
        """Tell of calls that have run for long."""
        before = time.perf_counter() - LONG_S / 2
        long = [call for number, call in self.calls.items() if number not in self.told and call.started_s <= before]
        if long:
            self.told.update(call.number for call in long)
            self.wire.send(["started", [(call.number, call.started_s) for call in long]])
        self.is_telling = len(self.told) < len(self.calls)
        if self.is_telling:
            self.loop.call_later(LONG_S, self._tell)


async def _absorb(task: asyncio.Task[None]) -> None:
    """Take a cancel that came as the call ended, or it would hit this worker's next call."""
    try:
        await asyncio.sleep(0)
    except asyncio.CancelledError:
        pass
    while task.uncancel() > 0:
        pass
