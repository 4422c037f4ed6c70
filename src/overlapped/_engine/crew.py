"""The calls of one stage: who may start, and what happens to a failure.

Over 400 lines, because all of it is one state: every method reads or closes the same gate.
"""

from __future__ import annotations

import math
from collections import deque
from itertools import islice
from operator import length_hint
from typing import TYPE_CHECKING, Any, Final

from overlapped._engine.callables import close_unstarted
from overlapped._engine.failure import Failure, add_note, as_value, short
from overlapped._engine.feed import EVERYTHING
from overlapped._engine.foreign import explain_nested
from overlapped._engine.handover import MAX_UNTAKEN_BYTES, Handover
from overlapped._engine.job import Job
from overlapped._engine.ledger import ENDED, Ledger, queued
from overlapped._engine.shape import Unstarted
from overlapped._engine.trays import DROPPED, Spread, Tray
from overlapped._engine.tuning import Tuning
from overlapped.errors import CallTimeout, TooLarge
from overlapped.retry import retry_after_s

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable, Iterator

    from overlapped._engine.feed import Feed
    from overlapped._engine.job import CrewSpec
    from overlapped._engine.keys import Keys
    from overlapped._engine.scope import Scope
    from overlapped._engine.shape import Shape
    from overlapped.record import Remark, StageRecord

FREE_CHUNK: Final = 4_096
"""Items taken at once from a feed whose pulling nobody can see (a list): spreads the cost of a refill."""

SHORT_CALL_S: Final = 100e-6
SAMPLED: Final = 16
"""Of calls shorter than 100 us the controller is shown one in 16: it works with means, and a sample costs
more (5 us) than such a call (benchmarks/features.py)."""


class Crew(Handover):
    """Pulls items, has them called by its shape, and hands the outcomes on in their places.

    Look-ahead: items admitted whose results nobody has taken - running, parked, waiting for their
    turn, finished - are at most `4 * limit + 16`, in both orders. For short calls in other processes, 4 to 16 ms of
    work for each process come on top.
    """

    # What the hot loop reads and writes: slots are found faster than the 30th key of an instance's dict.
    __slots__ = ("admit_until", "admitted", "input")

    def __init__(self, up: Feed, scope: Scope, spec: CrewSpec, keys: Keys | None = None) -> None:
        super().__init__(up, spec)
        self.scope = scope
        self.keys = keys
        self.bucket = scope.bucket(spec.rate) if spec.rate is not None else None
        self.tuning = Tuning(spec.concurrency, up.sizing, scope.started_s, scope.cpu_clock)
        self.limit = self.tuning.limit
        self.learns = self.tuning.learns
        self.is_plain = keys is None and self.bucket is None and not spec.many  # a call is all there is to an item
        # Generators that wait for their turn keep their slots, so who gave his back might wait for them for ever.
        self.holds_slots = spec.many and spec.ordered
        self.saves_slot = self.holds_slots and keys is not None  # what waits for its key has no slot
        # The item whose turn it is may start after those behind it: it waited for its key, or is tried again.
        self.head_comes_late = self.holds_slots and (keys is not None or spec.retry is not None or spec.weighs)
        self.waiting = 0  # slots that wait for a retry or for their turn to start: they make no call
        self.rate_waits = 0  # those that wait for their turn: it is not the limit that holds them back
        self.shape: Shape = Unstarted()
        self.make_shape: Callable[[], Shape] = Unstarted
        # what comes in
        self.input: Iterator[Any] = iter(())
        self.admitted = 0
        self.admit_until = -1  # an index, or -1: look at everything before the next pull
        self.wanted = EVERYTHING
        self.lying_ready = 0  # short calls that lie ready in other processes, so that a chunk is worth its way
        self.is_closed = False  # no new item will be admitted: a fatal failure is known
        self.fatal_at = EVERYTHING  # as `last`, known one turn earlier: nothing beyond it starts
        self.ready: deque[Job] = deque()
        self.pauses = 0
        self.tokens = 0.0  # taken from the rate for starts to come
        self.parked: dict[Job, asyncio.TimerHandle | None] = {}
        self.paused_until_s = -math.inf
        self.barrier: list[tuple[int, Failure]] = []
        # the account
        self.calls = self.retries = self.failed = self.failures = self.timeouts = 0
        self.service_s = self.starved_s = self.blocked_s = self.paused_s = 0.0
        self.ledger = Ledger(scope.started_s, scope.clock())
        self.remarks: list[Remark] = []  # what hosts have noticed
        scope.crews.append(self)

    # -- shape ---------------------------------------------------------------------------------

    def install(self, lane: str, why: str, make: Callable[[], Shape]) -> None:
        """Let what `make()` gives make the calls, from the start on."""
        self.shape = Unstarted(lane, why)
        self.make_shape = make

    def switch(self, make: Callable[[], Shape]) -> None:
        """Change the lane: the old one finishes what runs, then the new one goes on."""

        def change() -> None:
            self.tuning.reset(self.scope.clock())
            self.limit = self.tuning.limit
            self.shape = make()
            self.open_gate()
            self.shape.start()

        self.shape.retire(change)

    def is_clean(self) -> bool:
        """True while no failure has passed by or happened here."""
        return not self.failures

    def start(self) -> None:
        """Start upstream, then pull."""
        super().start()
        self.ledger.begin(self.scope.clock())
        self.shape = self.make_shape()
        self.open_gate()
        self.shape.start()

    def _heard(self) -> None:
        self.shape.wake()

    # -- what comes in --------------------------------------------------------------------------

    @property
    def cap(self) -> int:
        """Bound of the look-ahead."""
        return 4 * self.limit + 16 + self.lying_ready

    def room_changed(self) -> None:
        """Results have been taken: whoever waits for room may look."""
        self.open_gate()
        self.shape.wake()

    def open_gate(self) -> None:
        """Recompute up to where items may be pulled without a look at anything else."""
        is_free = not (self.ready or self.is_closed or self.is_held or self.saves_slot)
        if not is_free or self.shape.is_surplus or self.tuning.is_paced:
            self.admit_until = -1
        else:
            self.admit_until = min(self.released + self.cap, self.wanted)

    @property
    def is_held(self) -> bool:
        """True if nothing may start now, however much room there is: a pause, or too many results untaken."""
        return self.paused_s_left() > 0 or self._is_full()

    def _is_full(self) -> bool:
        return (self.untaken_bytes >= MAX_UNTAKEN_BYTES) or (self.spec.many and len(self.out) >= self.cap)

    def refill(self) -> bool:
        """Make sure that `input` holds an item that may be started now; False if none may."""
        if self.is_closed or self._is_full():
            return False
        room = min(self.released + self.cap, self.wanted) - self.admitted
        if length_hint(self.input):
            return room > 0
        if room <= 0:
            self.up.take(0)  # what we had taken has been started: upstream need not count it any more
            return False
        if self.spec.many:  # its items leave the count when they have ended, so that their results have to be in it
            room = min(room, self.cap - len(self.out))
        # Whatever costs nothing to pull is pulled ahead; only its start counts.
        chunk = self.up.take(max(room, FREE_CHUNK) if self.up.is_free else room)
        self.input = iter(chunk)
        if chunk and self.up.marks is not None:
            self.marked.update(enumerate(self.up.marks, self.admitted))
        return bool(chunk)

    def admit(self, most: float) -> list[object]:
        """Many new items at once, if none of them is a failure; they are those from `admitted` on before the call."""
        if not self.refill():
            return []
        room = min(self.released + self.cap, self.wanted) - self.admitted
        items = list(islice(self.input, int(min(room, most))))
        if Failure in map(type, items):
            self.input = iter([*items, *self.input])
            return []
        self.admitted += len(items)
        return items

    def next_job(self) -> Job | None:
        """The next item that may be started, failures upstream put in their places; None if none may."""
        while self.refill():
            item = next(self.input)
            index = self.admitted
            self.admitted += 1
            if type(item) is not Failure:
                return Job(index, item)
            self.pass_by(index, item)
        return None

    def is_for_head(self, free: int, calling: Iterable[int]) -> bool:
        """True if of `free` slots the head alone may have one: it may have been waiting for its key without any.

        To be asked where `saves_slot`: each item would pay for it.

        Args:
            free: slots that make no call.
            calling: indices of the items in the others.
        """
        return free <= 1 and self.head not in calling

    def with_slot_for_head(self, limit: int, for_turn: int) -> int:
        """The limit, or one more than the generators that wait for their turn, which may hold all slots.

        So it is after a cut, and where hosts have given items back. To be asked where `holds_slots`.
        """
        return max(limit, for_turn + 1)

    def next_ready(self, *, only_head: bool = False) -> Job | None:
        """The next job that is due; those beyond a failure that ends the run are dropped."""
        if only_head:
            self.ready = deque(sorted(self.ready, key=lambda job: job.index))
            if self.ready and self.ready[0].index != self.head:
                return None
        while self.ready:
            job = self.ready.popleft()
            if job.index <= self.fatal_at:
                return job
            self.drop(job)
        return None

    def drop(self, job: Job) -> None:
        """Nobody wants this job any more; another one of its key may have its place."""
        if job.pending is not None:
            close_unstarted(job.pending.value)
        if self.keys is not None:
            self.keys.leave(job)

    @property
    def has_no_input(self) -> bool:
        """True if no new item will come. `wanted` is no end: a failure on its way makes it one more."""
        return self.is_closed or (not length_hint(self.input) and self.up.ended)

    def check_end(self) -> None:
        """Tell the next stage if this was all. Called whenever a slot finds nothing to do."""
        if self.ended or not self.has_no_input or self.shape.busy() or self.ready or self.parked:
            return
        if self.keys is not None and self.keys.waiting:
            return
        for index, failure in self.barrier:
            self.emit(index, failure)
        self.barrier.clear()
        self.is_complete = True
        now_s = self.scope.clock()
        self.ledger.enter(ENDED, now_s)
        self.look(now_s)
        self.ended = not self.out
        self.announce()

    def demand(self, total: int) -> None:
        """One to one, so what is not wanted here is not wanted upstream."""
        if self.spec.many or self.spec.verb == "filter":
            return
        self.wanted = total
        self.up.demand(total)
        self.open_gate()
        self.shape.wake()

    def drain(self) -> None:
        """Start nothing of what was pulled ahead only because that costs nothing."""
        if self.up.is_free:
            deque(self.input, maxlen=0)  # in place: workers hold this iterator
        super().drain()

    def halt(self) -> None:
        """Cancel everything: nobody wants a result any more."""
        self._stop_at(-1)
        self.out.clear()
        self.out_marks.clear()
        self.ended = self.is_complete = True

    # -- failures -------------------------------------------------------------------------------

    def pass_by(self, index: int, failure: Failure) -> None:
        """A failure from an earlier stage keeps its place; a fatal one is the last item that is pulled."""
        self.failures += 1
        if not (failure.dead or self.spec.fatal):
            self.settle(index, failure)
        elif self.spec.ordered:
            self.settle(index, failure)
            self._stop_at(index)
        else:  # calls that started before it was known are finished and delivered first
            self.barrier.append((index, failure))
            self.is_closed = True
            self.up.halt()
            self.open_gate()

    def splits(self, job: Job, error: BaseException) -> bool:
        """True if the failed batch was split in two and its halves are to be called: `job` holds the first."""
        batch = job.item
        retry = self.spec.retry
        may_split = isinstance(error, TooLarge) or (retry is not None and retry.split and self._is_retried(error))
        if not may_split or not self.spec.weighs or not isinstance(batch, list) or len(batch) < 2 or self.is_closed:
            return False
        middle = len(batch) // 2
        job.results = job.results or []
        job.parts.append(batch[middle:])
        job.item = batch[:middle]
        job.attempt = 1
        return True

    def conclude(self, job: Job, result: object) -> bool:
        """Settle a job; False if it is a batch that was split and whose next part is to be called."""
        if job.results is not None:
            job.results.append(result)
            if job.parts and not self.is_closed:
                job.item = job.parts.pop()
                job.attempt = 1
                return False
            result = Spread(job.results, DROPPED)
        if self.keys is not None:
            self.keys.leave(job)
        self.settle(job.index, result)
        return True

    def give_up(self, job: Job, error: BaseException) -> None:
        """Settle a job whose call goes on: what is left of its batch fails with it, its key's place stays taken."""
        batch: Any = job.item
        while job.parts:
            job.item = batch = [*batch, *job.parts.pop()]
        failure = self.fail(job, error)
        self.settle(job.index, failure if job.results is None else Spread([*job.results, failure], DROPPED))

    def fail(self, job: Job, error: BaseException) -> Failure:
        """The final failure of an item; nothing new starts if it ends the run."""
        weight = len(job.item) if self.spec.weighs and isinstance(job.item, list) else 1
        failure = Failure(error, self.spec.name, job.item, attempts=job.attempt, weight=weight)
        self.failed += weight
        self.failures += 1
        if self.spec.fatal:
            self.scope.failed_for_good(failure)
            self.scope.is_failing = True
            self.is_closed = True
            self.fatal_at = min(self.fatal_at, job.index) if self.spec.ordered else -1
            self.admit_until = -1
            # One turn later: calls that fail in this same turn are heard, not cancelled.
            self.scope.loop.call_soon(self.scope.guard, self._stop_at, job.index)
        return failure

    def _stop_at(self, index: int) -> None:
        """Nothing beyond `index` is wanted: as completed, nothing but what is out."""
        bound = index if self.spec.ordered else -1
        if bound >= self.last:
            return
        self.last = bound
        self.fatal_at = min(self.fatal_at, bound)
        self.is_closed = True
        self.admit_until = -1
        self.up.halt()
        for job, timer in list(self.parked.items()):
            if job.index > bound:
                self.scope.forget(timer)
                del self.parked[job]
        if self.keys is not None:
            self.keys.drop_after(bound)
        ready, self.ready = self.ready, deque(job for job in self.ready if job.index <= bound)
        for job in ready:
            if job.index > bound:
                self.drop(job)
        for late in [i for i in self.late if i > bound]:
            held = self.late.pop(late)
            if type(held) is Tray:
                held.abandon()
        self.shape.drop_after(bound)
        self.shape.wake()
        self.check_end()

    def judge(self, job: Job, error: BaseException) -> float | None:
        """Seconds until the next attempt of a failed call, or None if this was the last.

        An exception that asks for a pause (`retry_after_s`) stops all new starts of the stage, or of
        the item's key, even if this item is not tried again.
        """
        retry = self.spec.retry
        asked = retry_after_s(error)
        cap = retry.retry_after_cap_s if retry is not None else self.spec.retry_after_cap_s
        if asked is not None and asked > cap:
            add_note(error, f"overlapped: asked to wait {asked:g} s, more than {cap:g} s: not tried again")
            return None
        if asked:
            self.pause(job, asked)
        if retry is None or job.attempt >= retry.attempts or not self._is_retried(error):
            return None
        if job.has_emitted:
            return None  # what it has given cannot be taken back
        if isinstance(error, TooLarge):
            return None  # the same batch would be too large again
        job.attempt += 1
        self.retries += 1
        return max(asked or 0.0, retry.delay_s(job.attempt - 1, self.scope.random.random()))

    def _is_retried(self, error: BaseException) -> bool:
        try:
            return self.spec.retry is not None and self.spec.retry.is_retried(error)
        except Exception as asked:  # noqa: BLE001 - the __instancecheck__ of the user's class; it must not hide `error`
            add_note(error, f"overlapped: not tried again, as Retry(exceptions=...) raised {short(asked)}")
            return False

    def pause(self, job: Job, seconds: float) -> None:
        """No call of this stage (of this key, where there are keys) starts for `seconds`."""
        until = self.scope.clock() + seconds
        if self.keys is not None:
            self.keys.pause(job.key, until)
            return
        self.pauses += 1
        if self.bucket is not None and self.scope.is_one_stages(self.spec.rate):
            self.bucket.give_back(self.tokens)  # those who wait with one will ask again
        self.tokens = 0.0
        self.tuning.forget_starts(until)
        if until > self.paused_until_s:
            self.paused_s += until - max(self.paused_until_s, self.scope.clock())
            self.paused_until_s = until
            self.open_gate()
            self.scope.later(seconds, self._unpaused)

    def paused_s_left(self) -> float:
        """Seconds for which nothing may start, 0 if something may."""
        if self.paused_until_s == -math.inf:
            return 0.0
        left = self.paused_until_s - self.scope.clock()
        if left > 1e-9:  # below the clock's own steps it is over
            return left
        self.paused_until_s = -math.inf
        return 0.0

    def key_paused_s_left(self, job: Job) -> float:
        """Seconds for which no call of the job's key may start."""
        return self.keys.paused_s_left(job.key) if self.keys is not None else 0.0

    def has_token(self, job: Job) -> bool:
        """True if the job's rate token is good: after a pause, all that waited would start at once with theirs."""
        return job.token == self.pauses

    def reserve(self, job: Job) -> float:
        """Take a rate token, and the next start that the pace allows; returns the seconds to wait."""
        delay = self.tuning.reserve_s(self.scope.clock())
        rate = self.spec.rate
        if rate is not None and self.bucket is not None:
            weight = rate.weight_of(job.item)
            delay = max(delay, self.bucket.reserve(self.scope.clock(), weight))
            job.weight = weight
            self.tokens += weight
        job.token = self.pauses
        return delay

    def use_token(self, job: Job) -> None:
        """The job starts."""
        if job.token == self.pauses and self.bucket is not None:
            self.tokens -= job.weight
        job.token = None

    def _unpaused(self) -> None:
        if (left := self.paused_s_left()) > 0:
            self.scope.later(left, self._unpaused)
            return
        self.open_gate()
        self.shape.wake()

    # -- jobs that wait without a slot -------------------------------------------------------------

    @property
    def patience_s(self) -> float:
        """A retry due within this keeps its slot; a longer one is parked."""
        return math.inf if self.holds_slots else max(1.0, 2 * self.service_s / max(1, self.calls))

    def park(self, job: Job, delay_s: float) -> None:
        """Give the slot back; when due, the job runs before any new item."""
        if self.keys is not None:
            self.keys.leave(job)
        self.parked[job] = self.scope.later(delay_s, lambda: self.unpark(job))

    def unpark(self, job: Job) -> None:
        """The job is due."""
        if self.parked.pop(job, self) is not self:  # it may have been dropped meanwhile
            self.enqueue(job)

    def enqueue(self, job: Job) -> None:
        """Run this job before any new item."""
        self.ready.append(job)
        self.open_gate()
        self.shape.wake()

    def enqueue_late(self, job: Job) -> None:
        """As `enqueue`, for a job that may not start when its token says: beside the next one's that would be two."""
        self.use_token(job)
        self.enqueue(job)

    # -- control and account -----------------------------------------------------------------------

    def own_error(self, error: BaseException) -> BaseException:
        """The exception as it may travel."""
        explain_nested(error, self.spec.name, self.scope.loop)
        return as_value(error, self.spec.name)

    def timed_out(self) -> CallTimeout:
        """What a call that took too long failed with."""
        self.timeouts += 1
        return CallTimeout(f"{self.spec.name} took longer than timeout_s={self.spec.timeout_s:g}")

    def learn(
        self,
        started_s: float,
        now_s: float,
        in_flight: int,
        item: object,
        error: BaseException | None = None,
        *,
        binding: bool,
    ) -> None:
        """Show a finished attempt to what tunes this stage, and follow it."""
        binding = binding and self.paused_until_s == -math.inf and not self.rate_waits
        if self.tuning.finished(started_s, now_s, in_flight, item, error, binding=binding):
            self.limit = self.tuning.limit
            self.open_gate()
            self.shape.wake()

    def look(self, now_s: float) -> None:
        """One more point of the stage's series."""
        calling, lying = self.shape.places()
        self.ledger.point(
            now_s,
            limit=self.limit,
            in_flight=calling,
            queue=queued(self) + lying,
            calls=self.calls,
            items_out=self.handed_on,
        )

    def record(self, whole: bool = True) -> StageRecord:
        """The account so far; not `whole`: without the single calls."""
        from overlapped.record import StageRecord

        return StageRecord(
            name=self.spec.name,
            verb=self.spec.verb,
            lane=self.shape.lane,
            why=self.shape.why,
            limit=self.limit,
            limit_range=self.tuning.limits,
            reason=self.tuning.controller.reason,
            in_flight=self.shape.busy(),
            ahead=self.admitted - self.released,
            items_in=self.admitted,
            items_out=max(0, self.handed_on - self.failures),
            calls=self.calls,
            retries=self.retries,
            failed=self.failed,
            timeouts=self.timeouts,
            parked=len(self.parked) + (self.keys.waiting if self.keys is not None else 0),
            service_s=self.service_s,
            cpu_s=self.shape.cpu_s(),
            cpu_wait_s=getattr(getattr(self.shape, "port", None), "cpu_wait_s", 0.0),
            starved_s=self.starved_s,
            blocked_s=self.blocked_s,
            paused_s=self.paused_s,
            decisions=tuple(self.tuning.decisions),
            pace_per_s=self.tuning.pace_per_s,
            batch_size=self.tuning.size,
            batch_size_range=self.tuning.sizes,
            batch_size_reason=self.tuning.batches.reason if self.tuning.batches is not None else "",
            times=self.ledger.times(self.scope.clock()),
            latencies=self.ledger.latencies(),
            kept_calls=self.ledger.kept_calls() if whole else (),
            points=self.ledger.points,
            queued_s=self.ledger.queued_s,
            has_rate=self.spec.rate is not None,
            is_ordered=self.spec.ordered,
            top_key=self.keys.top if self.keys is not None else "",
            remarks=tuple(self.remarks),
        )
