"""What every moving part of a run shares: its loop, its clock, its tasks, and the way to end it."""

from __future__ import annotations

import asyncio
import contextvars
import random
import time
from typing import TYPE_CHECKING, Any, Final

from overlapped._engine.failure import MAX_RECORDED_FAILURES
from overlapped.rate import Bucket

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from overlapped._engine.crew import Crew
    from overlapped._engine.failure import Failure
    from overlapped._engine.lineage import Origin
    from overlapped._engine.pulled import Buffered
    from overlapped.rate import Rate
    from overlapped.record import StageRecord

SLICE_S: Final = 0.001
"""Longest a worker runs items on end before it makes sure that the loop turns (benchmarks/fairness.py)."""

CLOCK_STEP_S: Final = 1e-6
"""Timers may fire a step of the loop's clock early."""

GRACE_S: Final = 5.0
"""How long a call that cannot be cancelled may go on after its run has ended."""


WITHIN: contextvars.ContextVar[tuple[object, ...]] = contextvars.ContextVar("overlapped_within", default=())
"""The runs whose code looks at it, the outermost first: what waits for one of them would wait for itself."""


def running_task() -> asyncio.Task[Any] | None:
    """The task that runs in this thread; None outside of a loop, where a forgotten coroutine is closed."""
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None


def cancelled_from_outside(name: str, error: BaseException) -> RuntimeError:
    """What a run ends with when a stranger has cancelled one of its tasks.

    Not the CancelledError itself: a consumer that nobody has cancelled must not see one.
    """
    changed = RuntimeError(f"a task of {name} was cancelled from outside")
    changed.__cause__ = error
    return changed


class Turn:
    """Keeps calls that never wait from starving the loop: only one of them runs per turn of the loop.

    A worker that has run for a slice *arms* it: a callback is put at the end of the loop's queue. A worker
    that finds it still armed after another slice yields until the callback has run. One whose call waited goes
    on at once, as any coroutine does: if all those that a busy loop is late for queued here, the loop would
    spend its time asking them.

    Attributes:
        latest: the worker that ran last.
    """

    __slots__ = ("_clock", "_loop", "armed", "deadline", "latest")

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float]) -> None:
        self._loop = loop
        self._clock = clock
        self.armed = False
        self.latest: object = None
        self.deadline = clock() + SLICE_S

    def arm(self) -> None:
        """Start a new slice; `armed` is False again once the loop has turned."""
        self.armed = True
        self.deadline = self._clock() + SLICE_S
        self._loop.call_soon(self._turned)

    def _turned(self) -> None:
        self.armed = False
        self.deadline = self._clock() + SLICE_S


class Scope:
    """The part of a run that its feeds and crews may use."""

    def __init__(self, *, keep: bool, on_done: Callable[[Origin], None] | None = None) -> None:
        self.on_done = on_done  # lineage is kept for it: told of each source item of which nothing is on its way
        self.loop = asyncio.get_running_loop()
        self.token = object()  # stands for the run where the run itself would be kept alive
        self.context = contextvars.copy_context()  # all code of the run sees the variables of its start
        self.context.run(WITHIN.set, (*WITHIN.get(), self.token))
        clock: Callable[[], float] | None = getattr(self.loop, "overlapped_clock", None)
        self.clock: Callable[[], float] = clock or time.perf_counter
        cpu_clock: Callable[[], float] | None = getattr(self.loop, "overlapped_cpu_clock", None)
        self.cpu_clock: Callable[[], float] = cpu_clock or time.thread_time
        self.turn = Turn(self.loop, self.clock)
        self.random = random.Random()  # jitter only  # noqa: S311
        self.keep = keep
        self.started_s = self.clock()
        self.failures: list[Failure] = []
        self.failed = 0
        self.cleanup_errors: list[BaseException] = []
        self.tasks: set[asyncio.Task[object]] = set()
        self.openers: list[Callable[[], Coroutine[object, object, None]]] = []
        self.closers: list[Callable[[], Coroutine[object, object, None]]] = []
        self.crews: list[Crew] = []
        self.pulled: list[Buffered] = []  # what a thread or a task pulls from
        self.source_items: int | None = None  # how many there are, if the source knows
        self.accounts: list[Callable[[bool], StageRecord]] = []  # of what makes calls and is no crew: the sink
        self.closing = False
        self.is_failing = False  # a failure is known that will end the run
        self.resources: dict[str, object] = {}
        self.starters: list[Callable[[], Coroutine[object, object, None]]] = []  # as openers, if any item may come
        self.needed_in_hosts: set[str] = set()  # resources that calls in other processes use: each host has its own
        self.needed_here: set[str] = set()  # and those that other calls use
        self.needed_on_loop: set[str] = set()  # resources per worker that a call on the loop uses: one for all of it
        self.factories: dict[str, Callable[[], object]] = {}
        self._buckets: dict[int, tuple[Rate, Bucket, int]] = {}
        self._timers: set[asyncio.TimerHandle] = set()

    def spawn(self, work: Coroutine[object, object, None], name: str) -> asyncio.Task[object]:
        """The one place where a task of a run is created. It is awaited when the run is taken down.

        The class is called directly: an eager task factory would run one worker inside another.
        """
        task: asyncio.Task[object] = asyncio.Task(
            work, loop=self.loop, name=f"overlapped:{name}", context=self.context.copy()
        )
        self.tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[object]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.abort(error)

    def later(self, delay_s: float, call: Callable[[], None]) -> asyncio.TimerHandle:
        """Call `call()` after `delay_s` seconds, unless the run ends first."""

        def fire() -> None:
            self._timers.discard(handle)
            self.guard(call)

        handle = self.loop.call_later(max(0.0, delay_s), fire)
        self._timers.add(handle)
        return handle

    def guard(self, call: Callable[..., None], *args: object) -> None:
        """Make a call from a loop's callback: an exception there would reach nobody, and the run would hang."""
        try:
            call(*args)
        except BaseException as error:  # noqa: BLE001 - ends the run with it
            self.abort(error)

    def forget(self, timer: asyncio.TimerHandle | None) -> None:
        """Cancel a timer of `later`."""
        if timer is not None:
            timer.cancel()
            self._timers.discard(timer)

    def forget_timers(self) -> None:
        """Cancel every timer that is still pending."""
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()

    def bucket(self, rate: Rate) -> Bucket:
        """The run's one bucket of `rate`: a Rate used in two stages is one shared budget."""
        held = self._buckets.get(id(rate))
        bucket = Bucket(rate) if held is None else held[1]
        stages = 1 if held is None else held[2] + 1
        self._buckets[id(rate)] = (rate, bucket, stages)  # keeps `rate` alive, so its id stays its own
        return bucket

    def is_one_stages(self, rate: Rate | None) -> bool:
        """True if no other stage draws on the budget of `rate`."""
        return rate is not None and self._buckets[id(rate)][2] == 1

    def failed_for_good(self, failure: Failure) -> None:
        """Count a failure that no `.catch` will see, and keep the first ones for the report."""
        if failure.counted:
            return
        failure.counted = True
        self.failed += failure.weight
        if len(self.failures) < MAX_RECORDED_FAILURES:
            self.failures.append(failure)

    def abort(self, error: BaseException) -> None:
        """End the run at once with `error`; what had not been delivered is dropped."""
        raise NotImplementedError

    @property
    def is_ending(self) -> bool:
        """True if the run's own task has been cancelled from outside, as `asyncio.run` does at its end."""
        raise NotImplementedError
