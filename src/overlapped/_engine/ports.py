"""Calls made elsewhere: items are put into a port, outcomes come back one by one, as each finishes."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from overlapped._engine.callables import close_unstarted, is_awaitable, is_for_loop, is_generator
from overlapped._engine.crew import SAMPLED, SHORT_CALL_S
from overlapped._engine.deadline import Deadline
from overlapped._engine.job import Job
from overlapped._engine.ledger import why_busy, why_idle
from overlapped._engine.lost import Lost
from overlapped._engine.scope import CLOCK_STEP_S
from overlapped._engine.trays import TRAY_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from overlapped._engine.crew import Crew


class Outcome(NamedTuple):
    """What became of one call, or a part of it.

    Attributes:
        number: which of the stage's items.
        kind: "ok" (value = result), "error" (value = exception), "part" (value = list of results of a
            call that goes on).
        value: see `kind`.
        started_s, ended_s: on the run's clock.
        cpu_s: CPU time of the call, s.
        in_flight: calls in flight when it started, itself included.
        place: the slot that made it, from 0; -1 if that is not known.
    """

    number: int
    kind: Literal["ok", "error", "part"]
    value: Any
    started_s: float = 0.0
    ended_s: float = 0.0
    cpu_s: float = 0.0
    in_flight: int = 1
    place: int = -1


class Running(NamedTuple):
    """A call that a port makes now. A snapshot: its place may be at the next one already.

    A call sent to another process may have begun; until that is known, its start is infinity.
    """

    number: int
    started_s: float


class Port(Protocol):
    """Where calls run that the loop cannot make itself. Checked by `overlapped.testing.check_lane`.

    All methods are called on the loop. `deliver` (given when the port is made) is called on the loop
    with outcomes as they come; a part is followed by its call's end.
    """

    def open(self, deliver: Callable[[list[Outcome]], None]) -> None:
        """Be ready to take jobs."""

    def put(self, jobs: list[tuple[int, object]]) -> None:
        """Call the function for these items, in this order, as places get free."""

    def limit(self, n: int) -> None:
        """Make at most `n` calls at once from now on; what runs goes on."""

    def withdraw(self) -> list[tuple[int, object]]:
        """Take back all jobs that have not been started."""
        ...

    def running(self) -> Iterable[Running]:
        """The calls that run now."""
        ...

    def acknowledge(self, index: int, count: int) -> None:
        """`count` partial results of the call for item `index` have been taken: it may go on."""

    def cancel(self, index: int) -> bool:
        """Cancel the call for item `index`; False if this port cannot."""
        ...

    async def close(self, grace_s: float) -> int:
        """End all places; returns how many had to be abandoned because their call did not end."""
        ...


class Ported:
    """The shape of a port lane: keeps the port filled, brings outcomes to their places.

    A jobs is *pending* from being put until its outcome; it is *held* while it waits for a retry, a rate
    token or a pause in its slot. A call that timed out and cannot be cancelled is *lost*: its item has
    failed, its slot stays taken until it ends.
    """

    def __init__(
        self,
        crew: Crew,
        port: Port,
        lane: str,
        why: str,
        *,
        most: int | None = None,
        on_outcome: Callable[[Outcome], None] | None = None,
        on_awaitable: Callable[[Job, object], BaseException | None] | None = None,
        on_waiting: Callable[[set[int]], None] | None = None,
    ) -> None:
        self.crew = crew
        self.port = port
        self.lane = lane
        self.why = why
        self.most = most  # places that there are at all
        # Where the places are counted there is nothing to find out, but the size of batches.
        self.learns = crew.learns and (most is None or crew.tuning.batches is not None)
        self.on_outcome = on_outcome
        self.on_awaitable = on_awaitable
        self.on_waiting = on_waiting
        self.waiting: set[int] = set()  # generators that wait for their turn, while the item has no results whose it is
        self.pending: dict[int, Job] = {}
        self.held: dict[Job, asyncio.TimerHandle] = {}
        self.lost: dict[int, Job] = {}
        self.overdue: Lost[int] = Lost(crew, lane)  # those of the lost whose time was up
        self.told: set[int] = set()  # those of the lost that were told to stop
        self.unacknowledged: dict[int, int] = {}  # partial results of calls that go on
        self.limit = 0
        self.total_cpu_s = 0.0
        self.backlog: deque[Job] = deque()  # admitted, but taken back from the port: they start first
        self.is_pumping = self.is_woken = False
        self.is_open = False
        self.retired: Callable[[], None] | None = None
        self.deadline = Deadline(crew.scope, crew.spec.timeout_s, self._timed, self._expired, self.busy)
        must_wait = crew.bucket is not None or crew.keys is not None or crew.up.gathers
        self.one_by_one = must_wait or crew.head_comes_late  # to a slot that must not have gone to one put behind it
        self.was_paced = False
        crew.scope.closers.append(self.close)

    # -- the shape, seen from the crew ---------------------------------------------------------------

    def start(self) -> None:
        """Open the port and fill it."""
        self.port.open(self._deliver)
        self.is_open = True
        self.wake()

    def wake(self) -> None:
        """Fill the port with whatever may be called."""
        if not self.is_open or self.crew.scope.closing:
            return
        self.is_woken = True
        if self.is_pumping:  # from inside: what it pulls from has just told it something
            return
        self.is_pumping = True
        try:
            while self.is_woken:
                self.is_woken = False
                self._let_parts_go()
                self._pump()
        except BaseException as error:  # noqa: BLE001 - an earlier stage's own; whoever woke us is not to blame
            self.crew.scope.abort(error)
            return
        finally:
            self.is_pumping = False
        self._enter()
        self.crew.check_end()
        self._retire_if_empty()

    def _enter(self) -> None:
        """Note the state in which the stage is now."""
        crew, now_s = self.crew, self.crew.scope.clock()
        held, lost = len(self.held), len(self.lost)
        if len(self.pending) + held + lost >= self.limit:
            state = why_busy(crew, lost=lost, waiting=held)
        else:
            state = why_idle(crew)
        crew.ledger.enter(state, now_s)
        if now_s >= crew.ledger.next_point_s:
            crew.look(now_s)

    def places(self) -> tuple[int, int]:
        """Calls in flight, about; and what waits in the port or has been taken back from it."""
        put = len(self.pending) + len(self.lost)
        return min(put, self.limit), max(0, put - self.limit) + len(self.backlog)

    @property
    def is_surplus(self) -> bool:
        """Places above the limit leave by themselves."""
        return False

    def busy(self) -> int:
        """Jobs that are pending, held or to be put again."""
        return len(self.pending) + len(self.held) + len(self.backlog)

    def drop_after(self, index: int) -> None:
        """Take back unstarted jobs beyond `index`, and cancel what runs where that is possible."""
        self._without_pumping(self._drop_after, index)

    def _drop_after(self, index: int) -> None:
        kept = []
        for job in self.port.withdraw():
            if job[0] <= index:
                kept.append(job)
            elif (dropped := self.pending.pop(job[0], None)) is not None:
                self.crew.drop(dropped)
        if kept:
            self.port.put(kept)
        backlog, self.backlog = self.backlog, deque(job for job in self.backlog if job.index <= index)
        for job_ in backlog:
            if job_.index > index:
                self.crew.drop(job_)
        for job_ in [j for j in self.held if j.index > index]:
            self.crew.scope.forget(self.held.pop(job_))
            self.crew.drop(job_)
        for running in list(self.port.running()):
            if running.number > index and running.number in self.pending:
                self._stop(running)

    def _stop(self, running: Running) -> None:
        if self.port.cancel(running.number):
            self.told.add(running.number)
        self.port.acknowledge(running.number, -1)
        self._lose(running)

    def _lose(self, running: Running) -> None:
        """Its item needs no answer any more; its slot stays taken until the call ends."""
        crew = self.crew
        self.lost[running.number] = self.pending.pop(running.number)
        self.unacknowledged.pop(running.number, None)
        crew.calls += 1
        if running.started_s != math.inf:
            crew.service_s += crew.scope.clock() - running.started_s

    def retire(self, then: Callable[[], None]) -> None:
        """Give back what has not been started; call `then()` when nothing runs."""
        self.retired = then
        self._take_back()
        self.crew.ready.extendleft(reversed(self.backlog))
        self.backlog.clear()
        self.crew.open_gate()
        self._retire_if_empty()

    def _retire_if_empty(self) -> None:
        if self.retired is not None and not self.busy() and not self.lost:
            then, self.retired = self.retired, None
            self.is_open = False
            self.crew.scope.spawn(self.close(), f"{self.crew.spec.name}:close")
            then()

    def cpu_s(self) -> float | None:
        """CPU time of all calls, s."""
        return self.total_cpu_s

    # -- filling ---------------------------------------------------------------------------------------

    def _pump(self) -> None:
        crew = self.crew
        if self.retired is not None:
            return
        limit = crew.limit if self.most is None else min(crew.limit, self.most)
        waiting: set[int] = set()
        if crew.holds_slots and self.unacknowledged and crew.head not in self.unacknowledged:
            waiting = {index for index, count in self.unacknowledged.items() if count >= TRAY_SIZE}
            limit = crew.with_slot_for_head(limit, len(waiting))
        if limit != self.limit:
            self.limit = limit
            self.port.limit(limit)
        if crew.is_held or (crew.tuning.is_paced and not self.was_paced):
            self._take_back()
        self.was_paced = crew.tuning.is_paced
        jobs: list[tuple[int, object]] = []
        self._admit_many(jobs)
        while not self._is_filled() and (job := self._next_job()) is not None:
            if self._may_start(job):
                self.pending[job.index] = job
                jobs.append((job.index, job.item))
        crew.open_gate()
        if jobs:
            self.port.put(jobs)
            self.deadline.watch()
        if waiting != self.waiting and self.on_waiting is not None:
            self.on_waiting(waiting)
        self.waiting = waiting

    def _admit_many(self, jobs: list[tuple[int, object]]) -> None:
        """Put new items without a look at each, as long as nothing can keep one of them from its start.

        It saves 1 us an item; the first item that may be special is left to `_next_job`.
        """
        crew, pending = self.crew, self.pending
        if self.one_by_one or self.was_paced or self.backlog or crew.ready or crew.is_held:
            return
        while True:
            room = crew.room_for_results(self.limit) - len(pending) if crew.spec.bounds_bytes else math.inf
            if room < 1:
                return
            start = crew.admitted
            items = crew.admit(room)
            if not items:
                return
            made = list(map(Job, range(start, start + len(items)), items))
            pending.update(zip(range(start, start + len(items)), made, strict=True))
            jobs.extend(enumerate(items, start))

    def _next_job(self) -> Job | None:
        """What is due first, then what was taken back, then a new item."""
        crew = self.crew
        if crew.paused_s_left() > 0:
            return None
        free = self.limit - len(self.pending) - len(self.held) - len(self.lost)
        only_head = crew.saves_slot and crew.is_for_head(free, chain(self.pending, (job.index for job in self.held)))
        if (due := crew.next_ready(only_head=only_head)) is not None:
            return due
        if crew.is_held:
            return None
        if only_head:  # it may have been taken back after those behind it
            self.backlog = deque(sorted(self.backlog, key=lambda job: job.index))
        while self.backlog:
            if only_head and self.backlog[0].index != crew.head:
                return None
            job = self.backlog.popleft()
            if job.index <= crew.fatal_at:
                return job
            crew.drop(job)
        return crew.next_job() if not only_head or crew.admitted == crew.head else None

    def _take_back(self) -> None:
        """Nothing may start now: what the port has not started waits here."""
        back = [self.pending.pop(index) for index, _ in self.port.withdraw() if index in self.pending]
        self.backlog.extendleft(reversed(back))

    def _is_filled(self) -> bool:
        """Jobs are put ahead of free slots, as far as the look-ahead goes, unless their start must be timed."""
        if (self.one_by_one or self.was_paced) and len(self.pending) + len(self.held) + len(self.lost) >= self.limit:
            return True
        return self.crew.spec.bounds_bytes and len(self.pending) >= self.crew.room_for_results(self.limit)

    def _may_start(self, job: Job) -> bool:
        """Key and rate; a job that must wait is kept."""
        crew = self.crew
        try:
            if crew.keys is not None and not crew.keys.enter(job):
                return False
            delay = max(crew.key_paused_s_left(job), 0.0 if crew.has_token(job) else crew.reserve(job))
        # The user's key or weigh function; it is the item's failure. KeyboardInterrupt and its like end the run.
        except (Exception, asyncio.CancelledError, GeneratorExit) as error:  # noqa: BLE001 - see above
            self._end(job, crew.fail(job, crew.own_error(error)))
            return False
        if delay <= 0:
            crew.use_token(job)
            return True
        crew.rate_waits += 1
        self._hold(job, delay, is_for_rate=True)
        return False

    def _hold(self, job: Job, delay_s: float, *, is_for_rate: bool = False) -> None:
        clock = self.crew.scope.clock
        due_s = clock() + delay_s

        def due() -> None:
            if (left_s := due_s - clock()) > CLOCK_STEP_S:  # a timer may fire early
                self.held[job] = self.crew.scope.later(left_s, due)
                return
            self.crew.rate_waits -= is_for_rate
            self.held.pop(job, None)
            if self._is_filled():  # the limit has been lowered: beside the next token this one would be too many
                self.crew.use_token(job)
            self.crew.ready.appendleft(job)
            self.crew.open_gate()
            self.wake()

        self.held[job] = self.crew.scope.later(delay_s, due)

    # -- outcomes --------------------------------------------------------------------------------------

    def _deliver(self, outcomes: list[Outcome]) -> None:
        self.crew.scope.guard(self._without_pumping, self._take_outcomes, outcomes)

    def _without_pumping(self, work: Callable[[Any], None], about: Any) -> None:
        """Do something that has several steps; nothing is started, and no end is seen, between them.

        What a controller learns from an outcome wakes this shape while the outcome's own item is neither
        pending nor settled: the stage would look as if it had ended, and that item would be lost.
        """
        was_pumping, self.is_pumping = self.is_pumping, True
        try:
            work(about)
        finally:
            self.is_pumping = was_pumping
        self.wake()

    def _take_outcomes(self, outcomes: list[Outcome]) -> None:
        crew, pending, unacknowledged = self.crew, self.pending, self.unacknowledged
        ledger = crew.ledger
        is_simple = not (self.learns or self.on_outcome or self.on_awaitable or crew.keys)
        for outcome in outcomes:
            number, kind, value, started_s, ended_s, cpu_s, _, place = outcome
            if kind == "part":
                self._take_part(number, value)
                continue
            job = pending.pop(number, None)
            if unacknowledged:
                unacknowledged.pop(number, None)
            self.total_cpu_s += cpu_s
            if job is None:
                self._end_lost(outcome)
                continue
            crew.calls += 1
            crew.service_s += ended_s - started_s
            if kind == "ok" and (ended_s - started_s > ledger.edge_s or not number % ledger.stride):
                ledger.note(number, place, started_s, ended_s)
            if is_simple and kind == "ok" and job.results is None:
                if crew.spec.bounds_bytes:
                    crew.weigh_result(value)
                crew.settle(number, value)
            elif kind == "ok":
                self._succeed(job, outcome)
            else:
                self._fail(job, outcome)

    def _succeed(self, job: Job, outcome: Outcome) -> None:
        crew, value = self.crew, outcome.value
        if self.on_awaitable is not None and (
            is_for_loop(value, loop_first=True) if crew.spec.many else is_awaitable(value) or is_generator(value)
        ):
            error = self.on_awaitable(job, value)
            if error is not None:
                self._end(job, crew.fail(job, error))
            return
        if self.on_outcome is not None:
            self.on_outcome(outcome)
        if crew.spec.bounds_bytes:
            crew.weigh_result(value)
        self._learn(outcome, job.item)
        self._end(job, value)

    def _fail(self, job: Job, outcome: Outcome) -> None:
        crew = self.crew
        error = outcome.value
        assert isinstance(error, BaseException)
        if not isinstance(error, (Exception, asyncio.CancelledError, GeneratorExit)):
            crew.scope.abort(error)  # KeyboardInterrupt, SystemExit and their like end the run
            return
        if job.index > crew.last:  # it had ended when nobody wanted it any more, but that was not known yet
            self.lost[job.index] = job
            self._end_lost(outcome)
            return
        error = crew.own_error(error)
        self._learn(outcome, job.item, error)
        delay = crew.judge(job, error)
        splits = delay is None and crew.splits(job, error)
        crew.ledger.note_failed(
            job.index, outcome.place, outcome.started_s, outcome.ended_s, again=splits or delay is not None
        )
        if splits:
            self.backlog.appendleft(job)
        elif delay is None:
            self._end(job, crew.fail(job, error))
        elif delay > crew.patience_s:
            crew.park(job, delay)
        else:
            self._hold(job, delay)

    def _learn(self, outcome: Outcome, item: object, error: BaseException | None = None) -> None:
        if self.learns and (outcome.ended_s - outcome.started_s > SHORT_CALL_S or not outcome.number % SAMPLED):
            binding = len(self.pending) + len(self.held) >= self.limit
            self.crew.learn(outcome.started_s, outcome.ended_s, outcome.in_flight, item, error, binding=binding)

    def _end(self, job: Job, result: object) -> None:
        if not self.crew.conclude(job, result):
            self.backlog.appendleft(job)

    def _end_lost(self, outcome: Outcome) -> None:
        """A call whose item has been given up has ended: its slot is free again."""
        crew, job = self.crew, self.lost.pop(outcome.number, None)
        was_overdue = outcome.number in self.overdue
        self.overdue.discard(outcome.number)
        close_unstarted(outcome.value)
        if job is None:
            return
        crew.drop(job)
        was_told = outcome.number in self.told
        self.told.discard(outcome.number)
        if outcome.kind != "error" or was_overdue:
            return
        if was_told and isinstance(outcome.value, asyncio.CancelledError):
            return
        # A call that was not told to stop has no clean-up to fail in: either it has failed as well as the item
        # that ends the run, or it is the failure of an item that nobody wants any more.
        if crew.scope.is_failing:
            crew.fail(job, crew.own_error(outcome.value))
        elif was_told:
            crew.scope.cleanup_errors.append(outcome.value)

    # -- results in parts (flat_map over generators) -----------------------------------------------------

    def _take_part(self, index: int, items: list[object]) -> None:
        job = self.pending.get(index)
        if job is None:
            self.port.acknowledge(index, -1)
            return
        job.has_emitted = True
        self.crew.emit_part(index, items)
        self.unacknowledged[index] = self.unacknowledged.get(index, 0) + len(items)

    def _let_parts_go(self) -> None:
        """Acknowledge what has left its tray, as long as the next stage has room."""
        if len(self.crew.out) >= self.crew.cap:
            return
        for index, count in list(self.unacknowledged.items()):
            waiting = self.crew.on_tray(index)
            if count > waiting:
                self.unacknowledged[index] = waiting
                self.port.acknowledge(index, count - waiting)

    # -- time-outs ---------------------------------------------------------------------------------------

    def _timed(self) -> list[Running]:
        return [running for running in self.port.running() if running.number in self.pending]

    def _expired(self, running: Running) -> None:
        self._without_pumping(self._expire, running)

    def _expire(self, running: Running) -> None:
        """The item fails at once and for good: its call may still be at work, so it is not made again."""
        crew = self.crew
        job = self.pending.get(running.number)
        if job is None:
            return
        error = crew.timed_out()
        self._lose(running)
        if not self.port.cancel(running.number):
            self.overdue.add(running.number, error)
        if self.learns:
            crew.learn(running.started_s, crew.scope.clock(), self.limit, job.item, error, binding=True)
        crew.ledger.note_failed(job.index, -1, running.started_s, crew.scope.clock(), again=False)
        crew.give_up(job, error)
        if running.number not in self.overdue:
            crew.drop(self.lost.pop(running.number))

    async def close(self) -> None:
        """End the port; a call that does not end within its grace is abandoned, with a warning."""
        self.overdue.warn(await self.port.close(self.overdue.grace_s))
