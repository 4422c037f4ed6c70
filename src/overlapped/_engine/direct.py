"""Calls made by workers on the loop: the shape of the coroutine and the inline lane."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from operator import length_hint
from typing import TYPE_CHECKING, Final

from overlapped._engine.crew import SAMPLED, SHORT_CALL_S
from overlapped._engine.deadline import Deadline
from overlapped._engine.failure import Failure
from overlapped._engine.job import Job
from overlapped._engine.ledger import FULL, RATE, RETRY, Places, why_busy, why_idle
from overlapped._engine.lost import Lost, RunsOn
from overlapped._engine.scope import CLOCK_STEP_S, cancelled_from_outside, running_task
from overlapped._engine.trays import DROPPED

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from typing import Any

    from overlapped._engine.crew import Crew

MOST_AT_GATE: Final = 16
"""Most workers at the gate for which still another one is started: more would only ask a busy loop for their turn."""


class _Slot:
    """One worker: what it is doing now."""

    __slots__ = (
        "at_gate",
        "body",
        "in_flight",
        "index",
        "is_after_failure",
        "is_dropped",
        "is_overdue",
        "place",
        "started_s",
        "task",
    )

    def __init__(self, place: int) -> None:
        self.place = place
        self.body: asyncio.Future[Any] | None = None  # what runs on, though its call's time was up
        self.index = -1
        self.in_flight = 1  # calls in flight when its own started, itself included
        self.at_gate = True  # it makes no call
        self.is_overdue = False  # its call's time was up and it has been cancelled for that
        self.is_dropped = False  # its item is no longer wanted
        self.is_after_failure = False  # and that is because another item has failed
        self.started_s = math.inf  # of the attempt that runs; infinity while there is none
        self.task: asyncio.Task[object] | None = None


class Direct:
    """k workers that pull from one iterator; k is the limit.

    A worker makes call after call until something else must be looked at: no room, no input, something
    due, a limit that has changed, the end of a time slice. All of that, and all waiting, is at its *gate*.
    """

    def __init__(
        self,
        crew: Crew,
        call: Callable[..., Awaitable[object]],
        lane: str,
        why: str,
        *,
        most: int | None = None,
        on_turn: Callable[[float], None] | None = None,
    ) -> None:
        self.crew = crew
        self.call = call
        self.lane = lane
        self.why = why
        self.most = most
        # One worker has nothing to find out, but the size of its batches.
        self.learns = crew.learns and (most is None or crew.tuning.batches is not None)
        self.on_turn = on_turn  # told how long the last call of each turn took
        self.slots: set[_Slot] = set()
        self.numbers = Places()
        self.idle = 0
        self.for_turn = 0  # generators that wait for their turn
        self.sleepers: deque[asyncio.Future[None]] = deque()
        self.emitters: deque[asyncio.Future[None]] = deque()
        self.deadline = Deadline(crew.scope, crew.spec.timeout_s, self._timed, self._expire, self.busy)
        self.retired: Callable[[], None] | None = None
        self.lost: Lost[_Slot] = Lost(crew, lane)
        self.bodies: set[asyncio.Future[Any]] = set()  # of cancelled calls, that run on all the same

    # -- the shape, seen from the crew --------------------------------------------------------------

    def start(self) -> None:
        """Start the first worker; each one that finds work starts more, up to the limit."""
        self._enlist()

    @property
    def target(self) -> int:
        """How many workers there should be."""
        if self.retired is not None:
            return 0
        crew = self.crew
        limit = crew.limit if self.most is None else min(crew.limit, self.most)
        return crew.with_slot_for_head(limit, self.for_turn) if crew.saves_slot else limit

    def wake(self) -> None:
        """Let one worker look at the gate; it wakes others if there is more to do."""
        if self.emitters and len(self.crew.out) < self.crew.cap:
            _wake_one(self.emitters)
        if not _wake_one(self.sleepers) and not self.idle and len(self.slots) < self.target:
            self._enlist()

    @property
    def is_surplus(self) -> bool:
        """True if workers are to leave."""
        return len(self.slots) > self.target

    def busy(self) -> int:
        """Workers that are not at the gate, but for those whose call is lost."""
        return len(self.slots) - self.idle - len(self.lost)

    def places(self) -> tuple[int, int]:
        """Slots whose call runs; nothing waits here."""
        return len(self.slots) - self.idle - self.crew.waiting, 0

    def drop_after(self, index: int) -> None:
        """Cancel the calls of items beyond `index`."""
        for slot in self.slots:
            if slot.index > index and not slot.at_gate and not slot.is_dropped and slot.task is not None:
                slot.is_dropped = True
                slot.is_after_failure = self.crew.scope.is_failing
                slot.task.cancel()

    def retire(self, then: Callable[[], None]) -> None:
        """Let every worker finish its call and leave."""
        self.retired = then
        self.crew.admit_until = -1
        while _wake_one(self.sleepers):
            pass
        if not self.slots:
            self._retire_if_empty()

    def cpu_s(self) -> float | None:
        """Not known: these calls share the loop's thread."""
        return None

    # -- workers ------------------------------------------------------------------------------------

    def _enlist(self) -> None:
        if self.crew.is_complete or self.crew.scope.closing:
            return
        slot = _Slot(self.numbers.take())
        self.slots.add(slot)
        self.idle += 1
        slot.task = self.crew.scope.spawn(self._work(slot), self.crew.spec.name)

    def _retire_if_empty(self) -> None:
        if self.retired is not None and not self.slots:
            then, self.retired = self.retired, None
            then()

    async def _work(self, slot: _Slot) -> None:  # noqa: C901, PLR0912, PLR0915 - a call a line would cost 0.05 us an item
        """The hot loop: what stands in it is paid for by every item (docs/design.md has the prices)."""
        crew, call, ledger = self.crew, self.call, self.crew.ledger
        clock, turn = crew.scope.clock, crew.scope.turn
        late, put, ordered = crew.late, crew.out.append, crew.spec.ordered
        is_marked = crew.marks is not None
        learns, weighs, dropped = self.learns, crew.spec.bounds_bytes, DROPPED
        watches = learns or weighs
        assert slot.task is not None
        has_cancel = slot.task.cancelling
        calls, began, other_s = 0, clock(), 0.0
        must_look = True
        turn.latest = slot
        try:
            while not must_look or await self._gate(slot):
                must_look = False
                turn.latest = slot
                is_plain = crew.is_plain and not crew.tuning.is_paced
                edge_s, stride = ledger.edge_s, ledger.stride
                started = now = began = clock()
                if now >= ledger.next_point_s:
                    crew.look(now)
                for item in crew.input:
                    index = crew.admitted
                    crew.admitted = index + 1
                    if type(item) is Failure:
                        crew.pass_by(index, item)
                        now = started
                    elif is_plain:
                        slot.index = index
                        slot.started_s = started
                        if learns:
                            slot.in_flight = len(self.slots) - self.idle - crew.waiting
                        try:
                            result = await call(item)
                        except BaseException as error:  # noqa: BLE001 - becomes the item's, or is raised again
                            await self._perform(slot, Job(index, item), error)
                            now = clock()
                            other_s += now - started
                        else:
                            now = clock()
                            calls += 1
                            if now - started > edge_s or not index % stride:
                                ledger.note(index, slot.place, started, now)
                                edge_s, stride = ledger.edge_s, ledger.stride
                                crew.calls += calls  # a chunk may last for minutes, and somebody may be looking
                                crew.service_s += now - began - other_s
                                calls, began, other_s = 0, now, 0.0
                                if now >= ledger.next_point_s:
                                    crew.look(now)
                            if has_cancel():
                                await self._absorb(slot)
                            if watches:
                                if learns and (now - started > SHORT_CALL_S or not index % SAMPLED):
                                    self._learn(slot, started, now, item)
                                if weighs and (type(result) is bytes or type(result) is str):
                                    crew.weigh_result(result)
                            if result is dropped or is_marked:
                                crew.settle(index, result)
                            elif not ordered:
                                put(result)
                            elif index != crew.head:
                                late[index] = result
                            else:
                                put(result)
                                crew.head = index + 1
                                if late:
                                    crew.advance()
                            if crew.listening and crew.out:
                                crew.announce()
                    else:
                        await self._perform(slot, Job(index, item), None)
                        now = clock()
                        other_s += now - started
                    if crew.admitted >= crew.admit_until:
                        must_look = True
                        break
                    if now > turn.deadline:
                        if turn.latest is slot:
                            must_look = True
                            break
                        turn.latest = slot  # others ran while this call waited: it takes nobody's time by going on
                    started = now
                else:  # another worker may have brought the next chunk meanwhile
                    must_look = crew.admitted >= crew.admit_until or not length_hint(crew.input)
                crew.calls += calls
                crew.service_s += now - began - other_s  # one call starts when the one before it ends
                calls, other_s = 0, 0.0
                if must_look and self.on_turn is not None:
                    self.on_turn(now - started)
        except asyncio.CancelledError as error:
            if not (slot.is_dropped or crew.scope.closing):
                crew.scope.abort(cancelled_from_outside(crew.spec.name, error))
        finally:
            crew.calls += calls
            self._sign_off(slot)

    def _sign_off(self, slot: _Slot) -> None:
        """Lower the count in the worker's own last step: by a callback, all workers would leave at once."""
        if slot in self.slots:
            self.slots.discard(slot)
            self.idle -= slot.at_gate
        self.numbers.give_back(slot.place)
        self._retire_if_empty()
        if not self.crew.scope.closing:
            self.crew.check_end()
            self.wake()

    async def _gate(self, slot: _Slot) -> bool:
        """Wait until an item of `crew.input` may be called; False if this worker is not needed any more."""
        crew, turn = self.crew, self.crew.scope.turn
        slot.started_s = math.inf
        if not slot.at_gate:
            slot.at_gate = True
            self.idle += 1
        if turn.latest is slot and crew.scope.clock() > turn.deadline:
            if turn.armed:
                while turn.armed:
                    await asyncio.sleep(0)
            else:
                turn.arm()
        while len(self.slots) <= self.target:
            free = self.target - len(self.slots) + self.idle
            only_head = crew.saves_slot and crew.is_for_head(free, self._calling())
            if crew.paused_s_left() > 0:
                await self._sleep()
            elif (job := crew.next_ready(only_head=only_head)) is not None:
                self._go(slot)
                await self._perform(slot, job, None)
                slot.at_gate = True
                self.idle += 1
            elif (not only_head or crew.admitted == crew.head) and crew.refill():
                self._go(slot)
                return True
            else:
                crew.check_end()
                if crew.is_complete:
                    break
                await self._sleep()
        self.slots.discard(slot)
        self.idle -= 1
        return False

    def _calling(self) -> Iterator[int]:
        return (slot.index for slot in self.slots if not slot.at_gate)

    def _go(self, slot: _Slot) -> None:
        """Leave the gate for a call, and see to it that someone else looks for the next item."""
        crew = self.crew
        slot.at_gate = False
        self.idle -= 1
        crew.open_gate()
        self.deadline.watch()
        left = max(1, length_hint(crew.input))
        most_idle = min(MOST_AT_GATE, left, self.busy())  # calls that never wait need no second worker
        for _ in range(2 if left > 1 else 1):  # each of them wakes more: twice as many in each turn of the loop
            if not _wake_one(self.sleepers):
                if self.idle >= most_idle or len(self.slots) >= self.target:
                    break
                self._enlist()
        if not self.sleepers and crew.ledger.state != FULL:
            self._enter()

    def _enter(self) -> None:
        """Note the state in which the stage is now."""
        crew = self.crew
        # As long as nobody sleeps: a worker that is on its way to the gate may find something.
        busy = why_busy(crew, lost=len(self.lost), waiting=crew.waiting)
        crew.ledger.enter(why_idle(crew) if self.sleepers else busy, crew.scope.clock())

    async def _sleep(self) -> None:
        """Wait at the gate."""
        crew = self.crew
        is_blocked = crew.admitted - crew.released >= crew.cap
        before = crew.scope.clock()
        if before >= crew.ledger.next_point_s:
            crew.look(before)
        crew.ledger.enter(why_idle(crew), before)
        await _wait_in(self.sleepers)
        waited = crew.scope.clock() - before
        if is_blocked:
            crew.blocked_s += waited
        else:
            crew.starved_s += waited

    # -- one item, with everything that may happen to it ------------------------------------------------

    async def _perform(self, slot: _Slot, job: Job, error: BaseException | None) -> None:  # noqa: C901, PLR0912 - one story
        """Bring an item to its end: key, pause, rate, attempts, retries. `error`: its first attempt's, if made."""
        crew = self.crew
        slot.index = job.index
        try:
            while True:
                result: object = None
                delay: float | None = None
                if error is None:
                    try:
                        if crew.keys is not None and not crew.keys.enter(job):
                            return  # it waits for its key
                        await self._wait_for_leave(slot, job)
                        if self._is_beyond_limit():
                            crew.enqueue_late(job)
                            return
                        result = await self._attempt(slot, job)
                    except BaseException as raised:  # noqa: BLE001 - becomes the item's, or is raised again
                        error = raised
                if error is not None:
                    error = await self._own(slot, job, error)
                    delay = self._verdict(slot, job, error)
                    if slot.body is not None:
                        await self._outlast(slot, job, error, slot.body)
                        break
                    if delay is None:
                        result = crew.fail(job, error)
                    error = None
                if delay is None:
                    if crew.conclude(job, result):
                        break
                elif delay > crew.patience_s:
                    crew.park(job, delay)
                    return
                else:
                    await self._idle_for(delay)
        except BaseException:
            crew.drop(job)  # it is this worker that is to end
            raise
        finally:
            error = None  # a frame of its traceback must not hold it: that cycle would keep a dropped run alive
        slot.started_s = math.inf

    def _verdict(self, slot: _Slot, job: Job, error: BaseException) -> float | None:
        """Account for a failed attempt; seconds until the next one, or None if that was the last."""
        crew = self.crew
        started, now = slot.started_s, crew.scope.clock()
        if started != math.inf:
            crew.calls += 1
            crew.service_s += now - started
            if self.learns:
                self._learn(slot, started, now, job.item, error)
            slot.started_s = math.inf
        delay: float | None = None
        if slot.body is None:
            delay = crew.judge(job, error)
            if delay is None and crew.splits(job, error):
                delay = 0.0
        if started != math.inf:
            crew.ledger.note_failed(job.index, slot.place, started, now, again=delay is not None)
        return delay

    async def _outlast(self, slot: _Slot, job: Job, error: BaseException, body: asyncio.Future[Any]) -> None:
        """The item fails at once; its call runs on, so there is no retry beside it and the slot stays taken."""
        self.lost.add(slot, error)
        self._enter()
        self.crew.give_up(job, error)
        self.crew.check_end()
        try:
            await asyncio.wait([body])
        finally:
            self.lost.discard(slot)
            slot.body = None
            self.crew.drop(job)

    async def close(self) -> None:
        """Wait for bodies that run on; those that do not end within their grace are abandoned, with a warning."""
        if self.bodies:
            _, left = await asyncio.wait(self.bodies, timeout=self.lost.grace_s)
            self.lost.warn(len(left))

    async def _wait_for_leave(self, slot: _Slot, job: Job) -> None:
        """Wait for the end of a pause and for a rate token; that is queueing, so no time-out runs."""
        crew = self.crew
        slot.started_s = math.inf
        due_s = -math.inf
        while True:  # a pause may begin meanwhile, and a timer may fire early
            wait_s = crew.paused_s_left() or crew.key_paused_s_left(job) or due_s - crew.scope.clock()
            if wait_s <= CLOCK_STEP_S:
                if crew.has_token(job):
                    return
                due_s = crew.scope.clock() + crew.reserve(job)
                continue
            crew.rate_waits += 1
            try:
                await self._idle_for(wait_s)
            finally:
                crew.rate_waits -= 1

    def _is_beyond_limit(self) -> bool:
        """True if one more call would be too many: the limit has been lowered while this worker waited."""
        crew = self.crew
        return not crew.holds_slots and len(self.slots) - self.idle - crew.waiting > self.target

    async def _idle_for(self, seconds: float) -> None:
        """Wait in the slot, making no call."""
        self.crew.waiting += 1
        self._enter()
        try:
            await asyncio.sleep(seconds)
        finally:
            self.crew.waiting -= 1

    async def _attempt(self, slot: _Slot, job: Job) -> object:
        """One call."""
        crew = self.crew
        crew.use_token(job)
        slot.in_flight = self.busy() - crew.waiting
        slot.started_s = started = crew.scope.clock()
        if crew.ledger.state in (RATE, RETRY):
            self._enter()
        self.deadline.watch()
        if job.pending is not None:
            pending, job.pending = job.pending, None
            result = await pending.finish(lambda items: self._emit(slot, job, items))
        elif crew.spec.many:
            result = await self.call(job.item, lambda items: self._emit(slot, job, items))
        else:
            result = await self.call(job.item)
        now = crew.scope.clock()
        crew.calls += 1
        crew.service_s += now - started
        ledger = crew.ledger
        if now - started > ledger.edge_s or not job.index % ledger.stride:
            ledger.note(job.index, slot.place, started, now)
        if slot.task is not None and slot.task.cancelling():
            await self._absorb(slot)
        if crew.spec.bounds_bytes:
            crew.weigh_result(result)
        if self.learns:
            self._learn(slot, started, now, job.item)
        return result

    async def _emit(self, slot: _Slot, job: Job, items: list[object]) -> None:
        """Hand on some results of a call that goes on; wait while there is no room for more."""
        crew = self.crew
        job.has_emitted = True
        tray = crew.emit_part(job.index, items)
        started, slot.started_s = slot.started_s, math.inf
        before = crew.scope.clock()
        if tray is None:
            while len(crew.out) >= crew.cap:
                await _wait_in(self.emitters)
        elif tray.is_full:
            self.for_turn += 1
            self.wake()
            try:
                await tray.wait_for_room()
            finally:
                self.for_turn -= 1
        slot.started_s = started + crew.scope.clock() - before
        self.deadline.watch(slot.started_s)

    async def _own(self, slot: _Slot, job: Job, error: BaseException) -> BaseException:
        """The error as the item's own; raises CancelledError if it is this worker that was to end."""
        crew, scope = self.crew, self.crew.scope
        try:
            if isinstance(error, GeneratorExit) and running_task() is not slot.task:
                raise error  # nobody raised it: this coroutine is being closed, since its loop is gone
            is_cancel = isinstance(error, asyncio.CancelledError)
            if isinstance(error, RunsOn):
                self._keep(error.body)
            if slot.is_dropped or scope.closing or scope.is_ending:
                if is_cancel:
                    raise error
                if slot.is_after_failure:
                    crew.fail(job, crew.own_error(error))
                else:
                    scope.cleanup_errors.append(error)
                raise asyncio.CancelledError
            was_overdue = slot.is_overdue
            if is_cancel or was_overdue:
                await self._absorb(slot)
            if was_overdue and is_cancel:
                late = crew.timed_out()
                late.__cause__ = error
                if isinstance(error, RunsOn):
                    slot.body = error.body
                return late
            if not isinstance(error, (Exception, asyncio.CancelledError, GeneratorExit)):
                scope.abort(error)  # KeyboardInterrupt, SystemExit and their like end the run
                slot.is_dropped = True
                raise asyncio.CancelledError
            return crew.own_error(error)
        finally:
            del error  # as in `_perform`

    def _keep(self, body: asyncio.Future[Any]) -> None:
        if not self.bodies:
            self.crew.scope.closers.append(self.close)
        self.bodies.add(body)
        body.add_done_callback(self.bodies.discard)

    async def _absorb(self, slot: _Slot) -> None:
        """Take a cancel that a call left pending, or it would hit this worker's next item.

        Two ways to it: a time-out fires in the very turn in which the call returns; a call cancels its
        own task and returns. The count of `Task.cancelling` tells; the next await delivers it.
        """
        task, scope = slot.task, self.crew.scope
        assert task is not None
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            pass
        if slot.is_dropped or scope.closing or scope.is_ending:
            raise asyncio.CancelledError
        while task.uncancel() > 0:
            pass
        slot.is_overdue = False

    def _timed(self) -> list[_Slot]:
        return [slot for slot in self.slots if not slot.is_overdue]

    def _expire(self, slot: _Slot) -> None:
        if slot.task is not None:
            slot.is_overdue = True
            slot.task.cancel()

    # -- what the controller sees -----------------------------------------------------------------------

    def _learn(self, slot: _Slot, started: float, now: float, item: object, error: BaseException | None = None) -> None:
        # Who sleeps found nothing to do; a worker that is on its way to the gate may find something.
        self.crew.learn(started, now, slot.in_flight, item, error, binding=not self.sleepers)


def _wake_one(waiters: deque[asyncio.Future[None]]) -> bool:
    while waiters:
        waiter = waiters.popleft()
        if not waiter.done():
            waiter.set_result(None)
            return True
    return False


async def _wait_in(waiters: deque[asyncio.Future[None]]) -> None:
    """Wait to be woken; a waiter that is cancelled after it was woken passes its turn on."""
    waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    waiters.append(waiter)
    try:
        await waiter
    except asyncio.CancelledError:
        if waiter.done() and not waiter.cancelled():
            _wake_one(waiters)
        raise
