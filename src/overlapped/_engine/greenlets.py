"""A host that makes plain calls in greenlets: they look blocking, and a call that waits lets the others go on.

Its process has been patched by gevent before anything else was imported.
"""

from __future__ import annotations

import asyncio
import os
import time
import traceback
from typing import TYPE_CHECKING, Any, Final

from overlapped._engine.callables import PLAIN_TYPES, is_for_loop
from overlapped._engine.failure import set_cause
from overlapped._engine.heartbeat import Heartbeat, Mouth
from overlapped._engine.host import END, ERROR, MANY, OK, PART
from overlapped._engine.resources import Opened, open_blocking
from overlapped._engine.serving import FLUSH_S, LONG_S, Answers, Orders, coded, leave_soon
from overlapped._engine.trays import TRAY_SIZE, spread

if TYPE_CHECKING:
    from collections.abc import Iterator

    from overlapped._engine.frames import BlockingWire
    from overlapped._engine.serving import Task

SLICE_S: Final = 0.001
"""Longest one greenlet makes calls on end before the hub turns."""

MOST_CHAINED: Final = 20
"""Exceptions that are followed back: a chain may be a ring."""

UNYIELDING_S: Final = 0.001
"""A call that takes so long and never waits for the hub holds up the others; a shorter one is not worth a word."""


class Call:
    """One worker: the call that it makes, and the resources that are its own."""

    __slots__ = ("acked", "given", "greenlet", "in_flight", "is_struck", "number", "opened", "started_s", "taken")

    def __init__(self) -> None:
        self.number = -1  # of the job whose function is on its way; -1: nobody may stop it now
        self.started_s = 0.0
        self.in_flight = 0
        self.greenlet: Any = None
        self.is_struck = False
        self.taken = 0  # results of a generator that have been taken, not yet looked at; negative: nobody wants more
        self.acked: Any = None
        self.given: Any = None  # resources, by name, once they are there
        self.opened: Opened | None = None


class Greenlets(Orders):
    """Workers that pull from one queue, each a greenlet; the run sets their number and keeps the queue filled."""

    def __init__(self, wire: BlockingWire, task: Task, lane: str) -> None:
        import gevent
        from gevent.event import Event

        super().__init__(task)
        self.wire = wire
        self.lane = lane
        self.gevent = gevent
        self.event = Event
        self.hub = gevent.get_hub()
        self.mouth = Mouth(wire)
        self.answers = Answers(self.mouth.send, time.process_time)
        self.fn = task.fn
        self.simple = PLAIN_TYPES if task.verb == "map" else frozenset[type]()  # of results that are what they are
        self.loop = self.hub.loop
        self.calls: dict[int, Call] = {}
        self.told: set[int] = set()
        self.workers: set[Any] = set()
        self.shared: dict[str, object] = {}
        self.spare: list[tuple[Any, Opened]] = []  # what workers that have left had opened for themselves
        self.equipped = 0  # workers, here or gone, for whom something is open
        self.closing: set[Any] = set()  # greenlets that close such, for good
        self.end = Event()
        self.due = Event()  # something is to be said
        self.is_coming = False  # a worker has been called and has not yet had its turn
        self.is_flushing = self.is_telling = self.has_long = False
        self.flushed_s = 0.0
        self.begun = 0  # calls
        self.unyielding = 0  # calls that took UNYIELDING_S or more without a turn of the hub
        self.unyielding_s = 0.0

    def serve(self) -> None:
        """Work until the run says that it is the end."""
        beat = Heartbeat(self)
        beat.begin()
        opened = Opened(self._closing_failed)
        try:
            self._serve(opened)
        finally:
            for _, own in self.spare:
                own.close()
            opened.close()
            beat.end()
            leave_soon()

    def _serve(self, opened: Opened) -> None:
        own = self.task.own
        try:
            for name, make in self.task.factories.items():
                if name not in own:
                    self.shared[name] = open_blocking(make, name, opened)
        except BaseException as error:  # noqa: BLE001 - the run ends with it
            self.mouth.send(["broken", self.task.packed(error)])
            return
        helpers = [self.gevent.spawn(self._listen), self.gevent.spawn(self._speak)]
        self.mouth.send(["ready"])
        self.end.wait()
        while at_work := [*self.workers, *self.closing]:
            self.gevent.joinall(at_work)
        self.answers.flush()
        self.gevent.killall(helpers)

    def _closing_failed(self, error: BaseException) -> None:
        self.mouth.send(["closed", self.task.packed(error)])

    # -- what the run says ------------------------------------------------------------------------------

    def _listen(self) -> None:
        try:
            for about, values in self.wire.left():
                self.take(about, values)
            while True:
                for about, values in self.wire.frames():
                    self.take(about, values)
        except (OSError, EOFError):
            pass
        except Exception:  # noqa: BLE001 - a greenlet's end would go unnoticed, and the run would wait for ever
            traceback.print_exc()
        os._exit(1)  # the run is gone: nobody wants an answer

    def say(self, about: list[Any]) -> None:
        """Tell the run."""
        self.mouth.send(about)

    def finish(self) -> None:
        """It is the end."""
        self.end.set()

    def fill(self) -> None:
        """Call a worker, if there is something to do; it calls more. After a cut, nothing stays open for those gone."""
        while self.spare and self.equipped > self.limit and not self.end.is_set():
            _, own = self.spare.pop()
            self.equipped -= 1
            closing = self.gevent.spawn(own.close)
            self.closing.add(closing)
            closing.link(self.closing.discard)
        if self.jobs and not self.is_coming and len(self.workers) < self.limit:
            self._enlist()

    def stop(self, number: int) -> bool:
        """End this job's call where it waits; False if it does not run."""
        call = self.calls.get(number)
        if call is None:
            return False
        self.hub.loop.run_callback(self._strike, call, number)
        return True

    def _strike(self, call: Call, number: int) -> None:
        """In the hub: end a call where it waits.

        Not `Greenlet.kill`: that one throws in a turn to come, when this call may have ended, and the
        worker's next item would be hit.
        """
        if call.number == number:
            call.is_struck = True
            call.greenlet.throw(self.gevent.GreenletExit)

    def acknowledge(self, number: int, count: int) -> None:
        """So many results of a generator have been taken; a negative number: nobody wants more."""
        call = self.calls.get(number)
        if call is None:
            return
        call.taken = -1 if count < 0 or call.taken < 0 else call.taken + count
        if call.acked is not None:
            call.acked.set()

    # -- calls ------------------------------------------------------------------------------------------

    def _enlist(self) -> None:
        """Call one more worker, which calls the next one: where no call waits, the first one makes them all."""
        self.is_coming = True
        call = Call()
        call.greenlet = self.gevent.spawn(self._work, call)
        call.greenlet.name = f"overlapped:{self.task.name}"
        self.workers.add(call.greenlet)

    def _work(self, call: Call) -> None:
        jobs, workers, clock = self.jobs, self.workers, time.perf_counter
        self.is_coming = False
        turned = clock()
        while jobs and len(workers) <= self.limit:
            if not self.is_coming and len(jobs) > 1 and len(workers) < self.limit:
                self._enlist()
            if call.given is None and not self._equip(call):
                break
            try:
                number, item = jobs.popleft()
            except IndexError:  # gone, while this worker opened what it needs, or to another process
                break
            ended = self._call_for(call, number, item)
            del item
            if ended - turned > SLICE_S:
                self.gevent.sleep(0)
                turned = clock()
        workers.discard(call.greenlet)  # now, and not when it has ended: else all would leave at once
        if call.opened is not None:
            if self.equipped <= self.limit:
                self.spare.append((call.given, call.opened))
            else:
                self.equipped -= 1
                call.opened.close()

    def _call_for(self, call: Call, number: int, item: object) -> float:
        """Make one call, and tell of it; returns when it ended."""
        calls, loop = self.calls, self.loop
        calls[number] = call
        self.begun += 1
        call.in_flight = len(calls)
        if not self.is_telling:
            self._will_tell()
        turn = loop.iteration
        call.started_s = started = time.perf_counter()
        call.number = number
        code, value = self._make(call, number, item)
        ended = time.perf_counter()
        if turn == loop.iteration and ended - started >= UNYIELDING_S:
            self.unyielding += 1
            self.unyielding_s += ended - started
        del calls[number]
        if self.told:
            self.told.discard(number)
        self.answers.add((number, code, value, (started, ended, call.in_flight)))
        if call.is_struck:
            self._disarm(call)
        if ended - self.flushed_s > FLUSH_S:
            self.flushed_s = ended
            self.answers.flush()
        elif not self.is_flushing:
            self.is_flushing = True
            self.due.set()
        return ended

    def _make(self, call: Call, number: int, item: object) -> tuple[int, object]:
        try:
            value = self.fn(item, **call.given) if call.given else self.fn(item)
            if type(value) in self.simple:
                code = OK
            elif self.task.many:
                code, value = self._hand_out(call, number, value)
            else:
                code, value = coded(self.task, value, self.lane)
            call.number = -1
            return code, value
        except BaseException as error:  # noqa: BLE001 - becomes the item's failure, or ends the run, over there
            call.number = -1
            if call.is_struck and _comes_of(error, self.gevent.GreenletExit):
                error = self.gevent.GreenletExit()
            return ERROR, self.task.packed(self._as_known(error))

    def _as_known(self, error: BaseException) -> BaseException:
        """Those of gevent that are no `Exception`, as ones that everybody knows."""
        known: BaseException
        if isinstance(error, self.gevent.GreenletExit):
            known = asyncio.CancelledError()
        elif isinstance(error, self.gevent.Timeout):
            known = TimeoutError(str(error))
        else:
            return error
        set_cause(known, error)
        return known

    def _hand_out(self, call: Call, number: int, value: Any) -> tuple[int, object]:
        """Give a generator's results on as they come, never more than a tray ahead."""
        if is_for_loop(value):
            return coded(self.task, value, self.lane)
        if not hasattr(value, "__next__"):
            return MANY, spread(value, self.task.name).items
        results: Iterator[object] = value
        call.taken = untaken = 0
        try:
            for result in results:
                now = time.perf_counter()
                self.answers.add((number, PART, [result], (now, now, 1)))
                self.due.set()  # not sent here: a call that is stopped meanwhile would cut a frame in two
                untaken += 1
                if untaken >= TRAY_SIZE and not call.taken:
                    call.acked = self.event()
                    call.acked.wait()
                if call.taken < 0:
                    break
                untaken -= call.taken
                call.taken = 0
        finally:
            close = getattr(results, "close", None)
            if close is not None:
                close()
        return END, None

    # -- resources of a worker's own ------------------------------------------------------------------------

    def _equip(self, call: Call) -> bool:
        """Give a worker what its calls get; what is to be its own is opened here, or was left by another one."""
        if not self.task.own:
            call.given = self.shared
            return True
        if self.spare:
            call.given, call.opened = self.spare.pop()
            return True
        call.opened = Opened(self._closing_failed)
        self.equipped += 1
        given = dict(self.shared)
        try:
            for name in self.task.own:
                given[name] = open_blocking(self.task.factories[name], name, call.opened)
        except BaseException as error:  # noqa: BLE001 - the run ends with it
            call.opened.close()
            call.opened = None
            self.equipped -= 1
            self.mouth.send(["broken", self.task.packed(self._as_known(error))])
            return False
        call.given = given
        return True

    def _disarm(self, call: Call) -> None:
        """A call that was stopped may leave a connection in the middle of something: the next one gets a new one."""
        call.is_struck = False
        if call.opened is not None:
            call.opened.close(on_error=lambda error: None)  # it may be broken, since its call was stopped
            call.opened = call.given = None
            self.equipped -= 1

    # -- what the run is told -----------------------------------------------------------------------------

    def _speak(self) -> None:
        """In a greenlet of its own, which nobody stops: send whatever has come together in a turn of the hub."""
        while True:
            self.due.wait()
            self.due.clear()
            self.is_flushing = False
            self.flushed_s = time.perf_counter()
            self.answers.flush()
            if self.has_long:
                self.has_long = False
                self._tell()

    def _will_tell(self) -> None:
        self.is_telling = True
        self.hub.loop.timer(LONG_S).start(self._note_long)

    def _note_long(self) -> None:
        self.has_long = True
        self.due.set()

    def _tell(self) -> None:
        """Tell of calls that have run for long."""
        before = time.perf_counter() - LONG_S / 2
        long = [
            (number, call.started_s)
            for number, call in self.calls.items()
            if number not in self.told and call.started_s <= before
        ]
        self.told.update(number for number, _ in long)
        if len(self.told) < len(self.calls):
            self._will_tell()
        else:
            self.is_telling = False
        if long:
            self.mouth.send(["started", long])


def _comes_of(error: BaseException | None, kind: type[BaseException]) -> bool:
    """True if it was raised while one of that kind was handled: a client that was stopped finds itself broken."""
    seen = 0
    while error is not None and seen < MOST_CHAINED:
        if isinstance(error, kind):
            return True
        error, seen = error.__cause__ or error.__context__, seen + 1
    return False
