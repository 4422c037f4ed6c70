"""A host that makes plain calls, one at a time, in its main thread; a second thread keeps in touch with the run."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from overlapped._engine.callables import is_for_loop
from overlapped._engine.host import END, ERROR, MANY, PART
from overlapped._engine.parcels import pack_error
from overlapped._engine.resources import Opened, open_blocking
from overlapped._engine.serving import LONG_S, Answers, coded, leave_soon, unpack
from overlapped._engine.trays import TRAY_SIZE, spread

if TYPE_CHECKING:
    from collections.abc import Iterator

    from overlapped._engine.frames import BlockingWire
    from overlapped._engine.serving import Task

FLUSH_S: Final = 0.008
"""Outcomes of calls that compute wait so long for company, half of the work that lies ready: a frame costs 40-90 us
(prototype), and wakes the run."""

SWITCH_S: Final = 0.0005
"""How soon the thread that listens gets its turn while a call computes (Python's own: 5 ms)."""

LOOK_S: Final = (LONG_S, 0.02)
"""The listening thread looks so often whether a call is long; less often, the second, while all are short: each look
takes the interpreter's lock from the one that computes. Generators are looked at often: somebody waits for results."""

QUIET_LOOKS: Final = 4
"""So often the listening thread sees no call before it believes that there is none."""


class OneByOne:
    """Plain calls, one at a time, in the main thread. A second thread reads, and says how it goes."""

    def __init__(self, wire: BlockingWire, task: Task, lane: str) -> None:
        self.wire = wire
        self.task = task
        self.lane = lane
        self.answers = Answers(wire.send, time.process_time)
        self.jobs: deque[tuple[int, object]] = deque()
        self.wake = threading.Event()
        self.has_ended = False
        self.is_over = False  # all has been said
        self.call: tuple[int, float] | None = None  # the one that runs: number, start
        self.told: int = -1
        self.cancelling = -1
        self.is_sending = False  # inside of a call: a frame cut in two would be the end of the wire
        self.acks: deque[tuple[int, int]] = deque()
        self.acked = threading.Event()

    def serve(self) -> None:
        """Work until the run says that it is the end."""
        sys.setswitchinterval(SWITCH_S)
        signal.signal(signal.SIGUSR1, self._interrupt)
        opened = Opened(lambda error: self.wire.send(["closed", tuple(pack_error(error))]))
        try:
            self._serve(opened)
        finally:
            opened.close()
            self.is_over = True
            leave_soon()

    def _serve(self, opened: Opened) -> None:
        try:
            given = {name: open_blocking(make, name, opened) for name, make in self.task.factories.items()}
        except BaseException as error:  # noqa: BLE001 - the run ends with it
            self.wire.send(["broken", tuple(pack_error(error))])
            return
        main = threading.get_ident()
        threading.Thread(target=self._listen, args=(main,), name="overlapped:listen", daemon=True).start()
        self.wire.send(["ready"])
        self._work(given)
        self.answers.flush()

    # -- in the main thread ---------------------------------------------------------------------------

    def _work(self, given: dict[str, object]) -> None:
        jobs, answers, clock = self.jobs, self.answers, time.perf_counter
        flushed = ended = clock()
        while True:
            try:
                number, item = jobs.popleft()
            except IndexError:
                answers.flush()
                self.wake.clear()
                if not jobs:
                    if self.has_ended:
                        return
                    self.wake.wait()
                flushed = ended = clock()
                continue
            started = ended
            try:
                code, value = self._make((number, started), item, given)
            except BaseException as error:  # noqa: BLE001 - a cancellation that came as the call ended
                self.call = None
                code, value = ERROR, tuple(pack_error(error))
            ended = clock()
            answers.add((number, code, value, (started, ended, 1)))
            del item
            value = None
            if ended - flushed > FLUSH_S:
                answers.flush()
                flushed = ended = clock()

    def _make(self, call: tuple[int, float], item: object, given: dict[str, object]) -> tuple[int, object]:
        try:
            self.acks.clear()  # of calls before, one of which may have been made for the same job
            self.call = call
            value = self.task.fn(item, **given)
            if self.task.many:
                code, value = self._hand_out(call[0], value)
            else:
                code, value = coded(self.task, value, self.lane)
            self.call = None
        except BaseException as error:  # noqa: BLE001 - becomes the item's failure, or ends the run, over there
            self.call = None
            return ERROR, tuple(pack_error(error))
        return code, value

    def _hand_out(self, number: int, value: Any) -> tuple[int, object]:
        """Give a generator's results on as they come, never more than a tray ahead."""
        if is_for_loop(value):
            return coded(self.task, value, self.lane)
        if not hasattr(value, "__next__"):
            return MANY, spread(value, self.task.name).items
        results: Iterator[object] = value
        untaken = 0
        try:
            for result in results:
                now = time.perf_counter()
                self.answers.add((number, PART, [result], (now, now, 1)))
                untaken += 1
                taken = self._acked(number, wait=untaken >= TRAY_SIZE)
                if taken < 0:
                    break
                untaken -= taken
        finally:
            close = getattr(results, "close", None)
            if close is not None:
                close()
        return END, None

    def _acked(self, number: int, *, wait: bool) -> int:
        """How many results have been taken since; -1: nobody wants more."""
        total = 0
        while True:
            while self.acks:
                index, count = self.acks.popleft()
                if index == number:
                    if count < 0:
                        return -1
                    total += count
            if total or not wait:
                return total
            if self.has_ended:
                return -1
            self.is_sending = True
            self.answers.flush()
            self.is_sending = False
            self.acked.clear()
            if not self.acks:
                self.acked.wait()

    def _interrupt(self, signum: int, frame: object) -> None:
        """A call is to stop: unless it has just ended, or sends, and will look at `acks` next."""
        call = self.call
        if call is not None and call[0] == self.cancelling and not self.is_sending:
            self.cancelling = -1
            raise asyncio.CancelledError

    # -- in the thread that listens -------------------------------------------------------------------

    def _listen(self, main: int) -> None:
        quiet, look_s = 0, LOOK_S[0]
        most_s = LOOK_S[0] if self.task.many else LOOK_S[1]
        try:
            for about, values in self.wire.left():
                self._take(about, values, main)
            while True:
                if select.select([self.wire.fileno()], [], [], look_s if quiet < QUIET_LOOKS else None)[0]:
                    for about, values in self.wire.frames():
                        self._take(about, values, main)
                    quiet = 0
                else:
                    quiet = quiet + 1 if self.call is None and not self.jobs else 0
                look_s = LOOK_S[0] if self._tell() else min(2 * look_s, most_s)
        except BaseException as error:  # noqa: BLE001 - a thread's end would go unnoticed, and the run would wait for ever
            if not (self.is_over or isinstance(error, (OSError, EOFError))):
                traceback.print_exc()
        if not self.is_over:
            os._exit(1)  # nobody is there any more who wants an answer

    def _tell(self) -> bool:
        """Say that a call is long, and send what was done before it; True while it goes on."""
        call = self.call
        if call is None or time.perf_counter() - call[1] < LONG_S:
            return False
        if call[0] != self.told:
            self.told = call[0]
            self.answers.flush()
            self.wire.send(["started", [call]])
        return True

    def _take(self, about: list[Any], values: memoryview, main: int) -> None:
        what = about[0]
        if what == "run":
            self.jobs.extend(unpack(self.task, about[1], values, self.wire.send))
            self.wake.set()
        elif what == "ack":
            self.acks.append((about[1], about[2]))
            self.acked.set()
        elif what == "back" or (what == "limit" and not about[1]):
            self.wire.send(["back", self._give_back()])
        elif what == "cancel":
            self._cancel(about[1], main)
        elif what == "end":
            self._give_back()
            self.has_ended = True
            self.wake.set()
            self.acked.set()

    def _give_back(self) -> list[int]:
        """Take all jobs from the queue that have not been started."""
        numbers = []
        while True:
            try:
                numbers.append(self.jobs.popleft()[0])
            except IndexError:
                return numbers

    def _cancel(self, number: int, main: int) -> None:
        call = self.call
        if call is not None and call[0] == number:
            self.cancelling = number
            self.acks.append((number, -1))
            self.acked.set()
            signal.pthread_kill(main, signal.SIGUSR1)
        elif any(job[0] == number for job in list(self.jobs)):  # the main thread takes from it meanwhile
            self.wire.send(["back", self._give_back()])
